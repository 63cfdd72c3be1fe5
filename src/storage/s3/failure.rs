//! What an S3 failure means: whether another try may help, which of Walden's kinds it is, and what the user can do.

use std::error::Error as StdError;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use jiff::Timestamp;

use super::dial::{DialError, Step};
use super::identity::roles::RoleError;
use crate::error::{Error, Kind};
use crate::storage::retry::Failure;

/// What was being done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Put,
    Get,
    Head,
    List,
    Delete,
}

impl Action {
    /// For [`crate::storage::progress`].
    pub fn doing(self, url: &str) -> String {
        match self {
            Action::Put => format!("storing {url}"),
            Action::Get | Action::Head => format!("reading {url}"),
            Action::List => format!("listing {url}"),
            Action::Delete => format!("deleting {url}"),
        }
    }

    fn failed(self, url: &str) -> String {
        match self {
            Action::Put => format!("could not store {url}"),
            Action::Get | Action::Head => format!("could not read {url}"),
            Action::List => format!("could not list {url}"),
            Action::Delete => format!("could not delete {url}"),
        }
    }

    /// The IAM action that it needs (Service Authorization Reference, "Actions for Amazon S3").
    fn permission(self) -> &'static str {
        match self {
            Action::Put => "s3:PutObject",
            Action::Get | Action::Head => "s3:GetObject",
            Action::List => "s3:ListBucket",
            Action::Delete => "s3:DeleteObject",
        }
    }
}

/// A try was given up; `why` says for what reason.
pub(super) fn given_up(action: Action, url: &str, why: impl Into<String>) -> Error {
    Error::new(Kind::Unreachable, action.failed(url)).detail(why)
}

/// Can a request that ended so have been carried out? Not if the service refused it, or it never left.
pub(super) fn may_have_arrived<E: StdError + 'static>(error: &SdkError<E>) -> bool {
    match error {
        SdkError::ServiceError(service) => {
            let status = service.raw().status().as_u16();
            status >= 500 && status != 501 && status != 503
        }
        SdkError::ConstructionFailure(_) => false,
        _ => find::<DialError>(error).is_none() && find::<CredentialsError>(error).is_none(),
    }
}

/// Has the session ended that the request was signed with (Amazon S3 API Reference, "Error responses")?
pub(super) fn is_stale_session<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    let SdkError::ServiceError(service) = error else { return false };
    let codes = ["ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "TokenRefreshRequired"];
    service.err().code().is_some_and(|code| codes.contains(&code))
}

/// A service's refusal: its code and message with our kind and hint.
pub(super) fn refused(action: Action, url: &str, code: Option<&str>, message: Option<&str>) -> Error {
    let code = code.unwrap_or("no error code");
    let (kind, hint) = meaning(action, code);
    let error = Error::new(kind, action.failed(url));
    let error = match message {
        Some(message) => error.detail(format!("{code}: {message}")),
        None => error.detail(code),
    };
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Sorts an SDK error into final and transient ones and gives it Walden's form.
pub(super) fn classify<E>(action: Action, url: &str, error: SdkError<E>) -> Failure
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    match &error {
        SdkError::ServiceError(service) => {
            let status = service.raw().status().as_u16();
            let (code, message) = (service.err().code(), service.err().message());
            let known = code.unwrap_or(by_status(status));
            let error = refused(action, url, Some(known), message).detail(origin(service.raw()));
            match (is_transient(status, known), retry_after(service.raw(), Timestamp::now())) {
                (false, _) => Failure::Final(error),
                (true, None) => Failure::Transient(error),
                (true, Some(asked)) => Failure::Busy(error, asked),
            }
        }
        SdkError::ResponseError(response) => {
            let why = format!("the answer cannot be understood: {}", causes(&error));
            let error = Error::new(Kind::Unreachable, action.failed(url)).detail(why);
            Failure::Transient(error.detail(origin(response.raw())))
        }
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) => undelivered(action, url, &error),
        _ => match find::<CredentialsError>(&error) {
            Some(_) => undelivered(action, url, &error),
            None => Failure::Final(Error::new(Kind::Bug, action.failed(url)).detail(causes(&error))),
        },
    }
}

/// The request did not reach the service, or its answer did not reach us.
fn undelivered(action: Action, url: &str, error: &(dyn StdError + 'static)) -> Failure {
    if let Some(credentials) = find::<CredentialsError>(error) {
        return no_credentials(action, url, credentials);
    }
    // What lies around the connection's error says no more than its kind.
    let dial = find::<DialError>(error);
    let causes = causes(dial.map_or(error, |dial| dial));
    // The bundle of certificates is ours, and so is the error of reading it.
    if let Some(own) = find::<Error>(error) {
        let error = Error::new(own.kind(), own.what()).detail(own.cause().unwrap_or_default());
        return Failure::Final(error.hint(own.advice().unwrap_or_default()).during(action.failed(url)));
    }
    let untrusted = matches!(find::<rustls::Error>(error), Some(rustls::Error::InvalidCertificate(_)));
    let error = Error::new(Kind::Unreachable, action.failed(url)).detail(causes);
    if untrusted {
        return Failure::Final(
            error.hint("Set AWS_CA_BUNDLE to a PEM file with the certificate authority of the endpoint."),
        );
    }
    Failure::Transient(match dial.map(|dial| &dial.step) {
        Some(Step::Proxy(_)) => error.hint("Check HTTPS_PROXY and NO_PROXY: the proxy must let this address through."),
        Some(Step::Tls) => error.hint("Check that AWS_ENDPOINT_URL names a port that speaks TLS, or write http://."),
        _ => error.hint("Check AWS_ENDPOINT_URL, AWS_REGION and the network."),
    })
}

/// Nobody says who we are. A token service that refuses is not asked again: it knows us, and says no.
fn no_credentials(action: Action, url: &str, credentials: &CredentialsError) -> Failure {
    nobody(credentials, action.failed(url))
}

/// Why there is nobody to ask as, for whoever wanted to know just that.
pub(super) fn unidentified(credentials: &CredentialsError, doing: &str) -> Error {
    match nobody(credentials, format!("could not {doing}")) {
        Failure::Final(error) | Failure::Transient(error) | Failure::Busy(error, _) => error,
    }
}

fn nobody(credentials: &CredentialsError, what: String) -> Failure {
    if let Some(refusal) = find::<RoleError>(credentials) {
        let kind = if refusal.is_definite() { Kind::Denied } else { Kind::Unreachable };
        let error = Error::new(kind, what).detail(refusal.to_string()).hint(refusal.hint());
        return if refusal.is_definite() { Failure::Final(error) } else { Failure::Transient(error) };
    }
    let causes = causes(credentials);
    let refused = TOKEN_REFUSALS.iter().any(|code| causes.contains(code));
    let shut_out = CONTAINER_REFUSALS.iter().any(|status| causes.contains(status));
    let error = |kind| Error::new(kind, what).detail(causes);
    match credentials {
        CredentialsError::CredentialsNotLoaded(_) => Failure::Final(error(Kind::Denied).hint(
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, in the environment of this command (for archive_command: of the server).",
        )),
        CredentialsError::InvalidConfiguration(_) => {
            Failure::Final(error(Kind::Denied).hint("Check ~/.aws/config and the variables that begin with AWS_."))
        }
        _ if shut_out => Failure::Final(
            error(Kind::Denied).hint(
                "Check the role of the pod's service account or of the task, and AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE.",
            ),
        ),
        _ if refused => Failure::Final(
            error(Kind::Denied).hint("Check the role in AWS_ROLE_ARN or AWS_PROFILE, and whom its trust policy allows to assume it."),
        ),
        _ => Failure::Transient(error(Kind::Unreachable)),
    }
}

/// What a token service says when it means no (AWS STS API Reference, "Common errors" and those of AssumeRole and
/// AssumeRoleWithWebIdentity). The SDK hides its type, and words it with the code.
const TOKEN_REFUSALS: [&str; 10] = [
    "AccessDenied",
    "ExpiredToken",
    "IDPRejectedClaim",
    "InvalidClientTokenId",
    "InvalidIdentityToken",
    "MalformedPolicyDocument",
    "NotAuthorized",
    "RegionDisabled",
    "SignatureDoesNotMatch",
    "ValidationError",
];

/// How the SDK words it that a container's endpoint knows who asks, and says no.
const CONTAINER_REFUSALS: [&str; 2] =
    ["HTTP credential provider: StatusCode(401)", "HTTP credential provider: StatusCode(403)"];

/// When the service asks to come again: seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(response: &HttpResponse, now: Timestamp) -> Option<Duration> {
    let text = response.headers().get("retry-after")?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Duration::try_from(date.duration_since(now)).ok()
}

/// Codes that AWS documents as worth another try, and every server error
/// (Amazon S3 API Reference, "Error responses").
fn is_transient(status: u16, code: &str) -> bool {
    let code_says = matches!(
        code,
        "RequestTimeout"
            | "ConditionalRequestConflict"
            | "OperationAborted"
            | "Throttling"
            | "SlowDown"
            | "TooManyRequests"
    );
    code_says || status == 429 || (status >= 500 && status != 501)
}

fn meaning(action: Action, code: &str) -> (Kind, Option<String>) {
    let config = |hint: &str| (Kind::Config, Some(hint.to_owned()));
    let denied = |hint: &str| (Kind::Denied, Some(hint.to_owned()));
    match code {
        "NoSuchKey" | "NotFound" => (Kind::NotFound, None),
        "PreconditionFailed" => match action {
            Action::Put => (Kind::AlreadyExists, None),
            // A resumed download that insists on the object it began with.
            _ => (Kind::Conflict, None),
        },
        "NoSuchBucket" => config("Create the bucket, or correct --prefix or WALDEN_PREFIX."),
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => config("Set AWS_REGION to the region of the bucket."),
        "InvalidRequest" | "NotImplemented" | "InvalidArgument" | "BadDigest" => {
            config("If the store does not know checksum headers, set WALDEN_S3_CHECKSUM=off.")
        }
        "InvalidAccessKeyId" => denied("Check AWS_ACCESS_KEY_ID or AWS_PROFILE."),
        "SignatureDoesNotMatch" => {
            denied("Check AWS_SECRET_ACCESS_KEY and that nothing between here and the store changes requests.")
        }
        "RequestTimeTooSkewed" => denied("Set this machine's clock."),
        "ExpiredToken" | "InvalidToken" => denied("Renew the session: AWS_SESSION_TOKEN is no longer valid."),
        "AccessDenied" | "Forbidden" | "AllAccessDisabled" => (
            Kind::Denied,
            Some(format!(
                "Allow {} on this address in the policies of the identity and of the bucket.",
                action.permission()
            )),
        ),
        "MethodNotAllowed" => (Kind::Refused, None),
        _ => (Kind::Unreachable, None),
    }
}

/// Replies without a body, such as those to HEAD, have no code.
fn by_status(status: u16) -> &'static str {
    match status {
        301 | 307 => "PermanentRedirect",
        401 | 403 => "Forbidden",
        404 => "NotFound",
        409 => "ConditionalRequestConflict",
        412 => "PreconditionFailed",
        429 => "TooManyRequests",
        _ => "no error code",
    }
}

fn origin(response: &HttpResponse) -> String {
    let status = response.status().as_u16();
    match response.request_id() {
        Some(id) => format!("HTTP status {status}, request id {id}"),
        None => format!("HTTP status {status}"),
    }
}

/// The messages of an error and of what caused it, without repetitions.
pub(super) fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for error in chain(error) {
        let message = error.to_string();
        if !text.contains(&message) {
            text = if text.is_empty() { message } else { format!("{text}: {message}") };
        }
    }
    text
}

pub(super) fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    chain(error).find_map(|error| error.downcast_ref::<T>())
}

/// An error and what caused it. `io::Error::source` passes over the error that it wraps.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<std::io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
        None => error.source(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_denied_unreachable_and_taken_are_different_answers() {
        let kind = |code| meaning(Action::Get, code).0;
        assert_eq!(kind("NoSuchKey"), Kind::NotFound);
        assert_eq!(kind("NoSuchBucket"), Kind::Config);
        assert_eq!(kind("AccessDenied"), Kind::Denied);
        assert_eq!(meaning(Action::Put, "PreconditionFailed").0, Kind::AlreadyExists);
        assert_eq!(kind("InternalError"), Kind::Unreachable);
    }

    #[test]
    fn server_errors_and_throttling_are_tried_again_refusals_are_not() {
        assert!(is_transient(503, "SlowDown") && is_transient(500, "InternalError") && is_transient(429, "x"));
        assert!(is_transient(409, "ConditionalRequestConflict"));
        assert!(
            !is_transient(403, "AccessDenied")
                && !is_transient(404, "NoSuchKey")
                && !is_transient(501, "NotImplemented")
        );
    }

    #[test]
    fn a_refusal_names_the_missing_permission() {
        let error = refused(Action::List, "s3://b/p/", Some("AccessDenied"), Some("no"));
        assert_eq!(error.what(), "could not list s3://b/p/");
        assert!(error.advice().unwrap().contains("s3:ListBucket"));
    }
}
