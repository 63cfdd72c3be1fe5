//! A service that says no: which of Walden's kinds that is, and whether another try may help; `hint` has what the user can
//! do.
//!
//! Pure: an answer becomes a [`Refusal`], and that a kind and a hint. The codes are those of the Amazon S3 API Reference,
//! "Error responses", unless another source is named. Never asks anybody anything.

mod hint;

use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use jiff::{SignedDuration, Timestamp};

pub(super) use self::hint::TOO_MANY;
use super::failure::Action;
use super::watch::is_whole;
use crate::error::Kind;

/// What is read of an answer's body, and what is told of a message or a title: no store says more that matters.
const LONGEST_BODY: usize = 16 << 10;
const LONGEST_MESSAGE: usize = 500;

/// What a service said.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusal {
    status: u16,
    /// S3's code and message; a reply to HEAD has neither.
    code: Option<String>,
    message: Option<String>,
    request_id: Option<String>,
    /// Where the answer says that the bucket lies.
    region: Option<String>,
    /// How far the store's clock is ahead of ours.
    ahead: Option<SignedDuration>,
    /// When it wants to be asked again.
    after: Option<Duration>,
    body: Body,
}

/// What an answer consists of, where that is not an error of S3.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Body {
    #[default]
    Nothing,
    /// XML that ends early.
    Cut,
    /// HTML, with its title: that of a web server, a proxy or a load balancer.
    Page(String),
    Other,
}

impl Refusal {
    /// Of an answer that came at `now`, with what the SDK understood of it.
    pub fn read(response: &HttpResponse, now: Timestamp) -> Refusal {
        let header = |name: &str| response.headers().get(name);
        let bytes = response.body().bytes().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST_BODY)]);
        let body = Body::of(header("content-type").unwrap_or_default(), &text, is_whole(bytes));
        let message = element(&text, "Message").map(|message| tidy(&unescaped(message)));
        let named =
            |region: &&str| !region.is_empty() && region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let region = header("x-amz-bucket-region").or_else(|| element(&text, "Region"));
        let region = region.or_else(|| message.as_deref()?.split("expecting '").nth(1)?.split('\'').next());
        Refusal {
            status: response.status().as_u16(),
            // Half a document may be half of another answer.
            code: element(&text, "Code").map(tidy).filter(|_| body != Body::Cut),
            request_id: header("x-amz-request-id").or_else(|| element(&text, "RequestId")).map(tidy),
            region: region.filter(named).map(str::to_owned),
            ahead: header("date").and_then(date).map(|theirs| theirs.duration_since(now)),
            after: header("retry-after").and_then(|text| retry_after(text, now)),
            body,
            message,
        }
    }

    /// Of one key among many, inside an answer that is none as a whole.
    pub fn of_key(code: Option<&str>, message: Option<&str>) -> Refusal {
        Refusal { code: code.map(tidy), message: message.map(tidy), ..Refusal::default() }
    }

    /// The code, or what stands for it where an answer has none.
    fn code(&self, action: Action) -> &str {
        match (&self.code, self.status) {
            (Some(code), _) => code,
            // Without a body nobody but the store can be expected to have said it.
            (None, 404) if action == Action::Head => "NotFound",
            (None, 301 | 307 | 308) => "PermanentRedirect",
            (None, 401 | 403) => "Forbidden",
            (None, 409) => "ConditionalRequestConflict",
            (None, 412) => "PreconditionFailed",
            (None, 429) => "TooManyRequests",
            _ => "no error code",
        }
    }

    /// Does somebody answer who is no S3 store? Only a store can say that an object is absent: a page that was not found
    /// is none, and would end a recovery.
    pub fn is_foreign(&self, action: Action) -> bool {
        let silent = self.code.is_none() && self.body != Body::Cut;
        let page = silent && matches!(self.body, Body::Page(_));
        (page || (silent && matches!(self.status, 404 | 405) && action != Action::Head)) && !self.is_transient(action)
    }

    /// May another try help? Every server error may pass, and what AWS documents as such.
    pub fn is_transient(&self, action: Action) -> bool {
        let code_says = matches!(
            self.code(action),
            "RequestTimeout" | "ConditionalRequestConflict" | "OperationAborted" | "KMS.ThrottlingException"
                // What arrived is not what was sent.
                | "BadDigest" | "IncompleteBody" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch"
        );
        let cut = self.code.is_none() && self.body == Body::Cut;
        code_says || cut || self.is_throttling() || (self.status >= 500 && !matches!(self.status, 501 | 505))
    }

    /// Does the store, or what stands before it, ask for fewer requests ("Best practices design patterns: optimizing Amazon
    /// S3 performance"; RFC 6585, 4)?
    pub fn is_throttling(&self) -> bool {
        let codes = ["SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "TooManyRequests"];
        let code_says = self.code.as_deref().is_some_and(|code| codes.contains(&code));
        code_says || matches!(self.status, 429 | 503)
    }

    /// When the service asks to come again (RFC 9110, 10.2.3).
    pub fn after(&self) -> Option<Duration> {
        self.after
    }

    /// May a header that the store does not know be why it refuses? Backblaze says InvalidArgument, R2 NotImplemented,
    /// others InvalidRequest.
    pub fn may_mean_a_header(&self) -> bool {
        let codes = ["InvalidRequest", "InvalidArgument", "NotImplemented", "UnsupportedArgument"];
        matches!(self.status, 400 | 501) && self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    /// Has the session ended that the request was signed with?
    pub fn is_stale_session(&self) -> bool {
        let codes = ["ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "TokenRefreshRequired"];
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    /// What the service said, and the clocks where they matter.
    pub fn words(&self, action: Action) -> String {
        let mut text = match (&self.body, &self.code, &self.message) {
            (_, Some(code), Some(message)) => format!("{code}: {message}"),
            (_, Some(code), None) => code.clone(),
            (Body::Page(title), None, _) if title.is_empty() => "the answer is a page of HTML".to_owned(),
            (Body::Page(title), None, _) => format!("the answer is a page of HTML, \"{title}\""),
            (Body::Cut, None, _) => "the answer was cut".to_owned(),
            (Body::Nothing | Body::Other, None, _) => self.code(action).to_owned(),
        };
        if let Some(clocks) = self.clocks() {
            text = format!("{text}; {clocks}");
        }
        text
    }

    /// Where the words came from.
    pub fn origin(&self) -> String {
        match &self.request_id {
            Some(id) => format!("HTTP status {}, request id {id}", self.status),
            None => format!("HTTP status {}", self.status),
        }
    }

    fn clocks(&self) -> Option<String> {
        let skewed = matches!(self.code.as_deref(), Some("RequestTimeTooSkewed" | "RequestExpired"));
        let ahead = self.ahead.filter(|_| skewed)?;
        let minutes = (ahead.unsigned_abs().as_secs() + 30) / 60;
        let way = if ahead.is_negative() { "ahead of" } else { "behind" };
        Some(format!("this machine's clock is {minutes} min {way} the store's"))
    }

    /// What the user can do about it.
    pub fn kind(&self, action: Action) -> Kind {
        if self.is_foreign(action) {
            return Kind::Config;
        }
        match self.code(action) {
            "NoSuchKey" | "NotFound" => Kind::NotFound,
            // Of a put it means that the name is taken, of a resumed download that the object is another one by now.
            "PreconditionFailed" if action == Action::Put => Kind::AlreadyExists,
            "PreconditionFailed" => Kind::Conflict,
            "MethodNotAllowed" => Kind::Refused,
            "NoSuchBucket"
            | "NoSuchAccessPoint"
            | "InvalidBucketName"
            | "PermanentRedirect"
            | "TemporaryRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException"
            | "InvalidRequest"
            | "InvalidArgument"
            | "NotImplemented"
            | "UnsupportedArgument"
            | "EntityTooLarge"
            | "InvalidStorageClass"
            | "AccessControlListNotSupported"
            | "MissingContentLength" => Kind::Config,
            "AccessDenied"
            | "Forbidden"
            | "AllAccessDisabled"
            | "AccountProblem"
            | "NotSignedUp"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "RequestTimeTooSkewed"
            | "RequestExpired"
            | "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "InvalidObjectState" => Kind::Denied,
            code if code.starts_with("KMS.") && !self.is_transient(action) => Kind::Denied,
            code if is_full(code) => Kind::Denied,
            _ if self.region.is_some() && self.status == 400 => Kind::Config,
            _ => Kind::Unreachable,
        }
    }
}

impl Body {
    fn of(kind: &str, text: &str, whole: bool) -> Body {
        let start = text.trim_start().get(..14).unwrap_or(text.trim_start()).to_ascii_lowercase();
        if is_page(kind) || start.starts_with("<!doctype html") || start.starts_with("<html") {
            return Body::Page(element(text, "title").map(|title| tidy(&unescaped(title))).unwrap_or_default());
        }
        match start.chars().next() {
            None => Body::Nothing,
            Some('<') if !whole => Body::Cut,
            Some(_) => Body::Other,
        }
    }
}

/// Is a body of this type meant for a browser? No store sends one, and no object of ours has it.
pub(super) fn is_page(content_type: &str) -> bool {
    content_type.trim_start().to_ascii_lowercase().starts_with("text/html")
}

/// There is no room. The codes are of Ceph and of MinIO: Amazon S3 is never full.
fn is_full(code: &str) -> bool {
    code.contains("QuotaExceeded") || code == "XMinioStorageFull"
}

/// The text of the first element of this name that has no attributes.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(content, _)| content)
}

fn unescaped(text: &str) -> String {
    let plain = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
    plain.replace("&#39;", "'").replace("&#34;", "\"").replace("&amp;", "&")
}

/// One line of bounded length: what others sent goes into logs.
fn tidy(text: &str) -> String {
    let line = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = line.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.trim_end_matches('.').to_owned(),
    }
}

/// Seconds, or a date.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    match text.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Duration::try_from(date(text.trim())?.duration_since(now)).ok(),
    }
}

/// A date as HTTP writes it (RFC 9110, 5.6.7).
fn date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

#[cfg(test)]
mod tests {
    use super::super::failure::Attempt;
    use super::*;
    use aws_smithy_types::body::SdkBody;
    use proptest::prelude::*;

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Refusal {
        let mut response = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
        for (name, value) in headers {
            response.headers_mut().insert(*name, (*value).to_owned());
        }
        Refusal::read(&response, Timestamp::UNIX_EPOCH)
    }

    fn attempt(action: Action) -> Attempt<'static> {
        Attempt { action, bucket: "b", prefix: "p/", key: "p/k".to_owned(), endpoint: "http://h".to_owned() }
    }

    fn xml(code: &str) -> String {
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>")
    }

    proptest! {
        #[test]
        fn nothing_is_absent_that_a_store_did_not_call_so(
            status in 100u16..600,
            kind in "(text/html|text/plain|application/xml)?",
            body in "(<\\?xml|<!DOCTYPE html>|<html>)?[<>/a-zA-Z é.]{0,60}",
        ) {
            let refusal = answer(status, &[("content-type", &kind)], &body);
            for action in [Action::Get, Action::Put, Action::List, Action::Delete] {
                prop_assert_ne!(refusal.kind(action), Kind::NotFound);
                let _ = (refusal.words(action), refusal.hint(&attempt(action)), refusal.origin());
            }
        }

        #[test]
        fn no_beginning_of_a_document_means_what_the_whole_would(end in 0..xml("NoSuchKey").len()) {
            let whole = xml("NoSuchKey");
            prop_assert_eq!(answer(404, &[], &whole).kind(Action::Get), Kind::NotFound);
            prop_assert_ne!(answer(404, &[], &whole[..end]).kind(Action::Get), Kind::NotFound);
        }

        #[test]
        fn what_others_sent_is_told_in_one_line_of_bounded_length(message in "[^<>&]{0,2000}") {
            let words = answer(500, &[], &xml("X").replace(">m<", &format!(">{message}<"))).words(Action::Get);
            prop_assert!(words.chars().count() <= LONGEST_MESSAGE + 10 && !words.contains('\n'), "{words}");
        }
    }

    #[test]
    fn absent_denied_unreachable_and_taken_are_different_answers() {
        let kind = |action, status, code| answer(status, &[], &xml(code)).kind(action);
        assert_eq!(kind(Action::Get, 404, "NoSuchBucket"), Kind::Config);
        assert_eq!(kind(Action::Get, 403, "AccessDenied"), Kind::Denied);
        assert_eq!(kind(Action::Put, 412, "PreconditionFailed"), Kind::AlreadyExists);
        assert_eq!(kind(Action::Get, 500, "InternalError"), Kind::Unreachable);
        assert_eq!(answer(404, &[], "").kind(Action::Head), Kind::NotFound);
        assert_eq!(answer(404, &[("content-type", "text/html")], "").kind(Action::Head), Kind::Config);
    }

    #[test]
    fn server_errors_throttling_and_damage_are_tried_again_refusals_are_not() {
        let transient = |status, code| answer(status, &[], &xml(code)).is_transient(Action::Put);
        for (status, code) in [
            (503, "SlowDown"),
            (500, "InternalError"),
            (429, "x"),
            (409, "ConditionalRequestConflict"),
            (400, "RequestTimeout"),
            (400, "BadDigest"),
        ] {
            assert!(transient(status, code), "{status} {code}");
        }
        for (status, code) in
            [(403, "AccessDenied"), (404, "NoSuchKey"), (501, "NotImplemented"), (400, "ExpiredToken")]
        {
            assert!(!transient(status, code), "{status} {code}");
        }
    }

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_until_a_date() {
        let after = |text: &str| answer(503, &[("retry-after", text)], "").after();
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Thu, 01 Jan 1970 00:01:00 GMT"), Some(Duration::from_secs(60)));
        assert_eq!((after("soon"), after("Wed, 31 Dec 1969 00:00:00 GMT"), after("-1")), (None, None, None));
    }
}
