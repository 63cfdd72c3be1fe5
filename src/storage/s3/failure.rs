//! Why a request failed: whether another try may help, which of Walden's kinds it is, and what the user can do.
//!
//! Of what a service says, `refusal` makes sense; here is what keeps a request from reaching it, and the form of all
//! messages: what was tried on which bucket and key, as whom, and what came of it.

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::SdkError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use jiff::Timestamp;

use super::causes::{causes, find};
use super::dial::{DialError, Step};
use super::identity::roles::RoleError;
use super::refusal::Refusal;
use crate::error::{Error, Kind};
use crate::storage::retry::Failure;

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Put,
    Get,
    Head,
    List,
    Delete,
}

impl Action {
    /// The IAM action that it needs (Service Authorization Reference, "Actions for Amazon S3").
    pub fn permission(self) -> &'static str {
        match self {
            Action::Put => "s3:PutObject",
            Action::Get | Action::Head => "s3:GetObject",
            Action::List => "s3:ListBucket",
            Action::Delete => "s3:DeleteObject",
        }
    }
}

/// Where to look when nothing that makes sense comes back.
pub(super) const UNREACHABLE: &str = "Check AWS_ENDPOINT_URL, AWS_REGION and the network.";

/// A request as messages tell of it.
#[derive(Clone, Debug)]
pub(super) struct Attempt<'a> {
    pub action: Action,
    /// The bucket's name, or the ARN of an access point.
    pub bucket: &'a str,
    /// What all keys of the store begin with; empty, or ends in `/`.
    pub prefix: &'a str,
    /// The whole key, of a listing the prefix of the keys.
    pub key: String,
    /// Who is asked, without a slash at the end.
    pub endpoint: String,
}

impl Attempt<'_> {
    /// For [`crate::storage::progress`].
    pub fn doing(&self) -> String {
        let url = self.url();
        match self.action {
            Action::Put => format!("storing {url}"),
            Action::Get | Action::Head => format!("reading {url}"),
            Action::List => format!("listing {url}"),
            Action::Delete => format!("deleting {url}"),
        }
    }

    fn failed(&self) -> String {
        let url = self.url();
        match self.action {
            Action::Put => format!("could not store {url}"),
            Action::Get | Action::Head => format!("could not read {url}"),
            Action::List => format!("could not list {url}"),
            Action::Delete => format!("could not delete {url}"),
        }
    }

    fn url(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.key)
    }

    /// What the right to do it has to be given on, as an ARN.
    pub fn resource(&self) -> String {
        match self.action {
            Action::List => self.bucket_resource(),
            _ if self.bucket.starts_with("arn:") => format!("{}/object/{}*", self.bucket, self.prefix),
            _ => format!("{}/{}*", self.bucket_resource(), self.prefix),
        }
    }

    /// The bucket, or access point, as an ARN.
    pub fn bucket_resource(&self) -> String {
        let partition = match &self.endpoint {
            host if host.ends_with(".amazonaws.com.cn") => "aws-cn",
            host if host.contains(".us-gov-") => "aws-us-gov",
            _ => "aws",
        };
        match self.bucket.starts_with("arn:") {
            true => self.bucket.to_owned(),
            false => format!("arn:{partition}:s3:::{}", self.bucket),
        }
    }

    /// A try was given up; `why` says for what reason.
    pub fn given_up(&self, why: impl Into<String>) -> Error {
        Error::new(Kind::Unreachable, self.failed()).detail(why)
    }

    /// A service's refusal, of a request that `who` has signed.
    pub fn refused(&self, refusal: &Refusal, who: Option<&str>) -> Error {
        let error = Error::new(refusal.kind(self.action), self.failed()).detail(refusal.words(self.action));
        let error = match who {
            Some(who) => error.detail(format!("asked as {who}")),
            None => error,
        };
        match refusal.hint(self) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// What the service said, if it has refused the request.
pub(super) fn refusal<E>(error: &SdkError<E>) -> Option<Refusal> {
    match error {
        SdkError::ServiceError(service) => Some(Refusal::read(service.raw(), Timestamp::now())),
        _ => None,
    }
}

/// What becomes of a request that the service refused, and that `who` has signed.
pub(super) fn refused(attempt: &Attempt<'_>, refusal: &Refusal, who: Option<&str>) -> Failure {
    let error = attempt.refused(refusal, who).detail(refusal.origin());
    match (refusal.is_transient(attempt.action), refusal.after()) {
        (false, _) => Failure::Final(error),
        (true, None) => Failure::Transient(error),
        (true, Some(asked)) => Failure::Busy(error, asked),
    }
}

/// What becomes of a request that was not refused, and failed all the same.
pub(super) fn unanswered<E>(attempt: &Attempt<'_>, error: &SdkError<E>) -> Failure
where
    E: StdError + Send + Sync + 'static,
{
    match error {
        SdkError::ResponseError(response) => not_understood(attempt, &causes(error), response.raw()),
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) => undelivered(attempt, error),
        _ => match find::<CredentialsError>(error) {
            Some(_) => undelivered(attempt, error),
            None => Failure::Final(Error::new(Kind::Bug, attempt.failed()).detail(causes(error))),
        },
    }
}

/// An answer that praises the request, and is not that of a store, or not all of it.
fn not_understood(attempt: &Attempt<'_>, causes: &str, response: &HttpResponse) -> Failure {
    let refusal = Refusal::read(response, Timestamp::now());
    if refusal.is_foreign(attempt.action) {
        return Failure::Final(attempt.refused(&refusal, None).detail(refusal.origin()));
    }
    let why = format!("the answer cannot be understood: {causes}");
    Failure::Transient(attempt.given_up(why).detail(refusal.origin()))
}

/// The request did not reach the service, or its answer did not reach us.
fn undelivered(attempt: &Attempt<'_>, error: &(dyn StdError + 'static)) -> Failure {
    if let Some(credentials) = find::<CredentialsError>(error) {
        return nobody(credentials, attempt.failed());
    }
    // What lies around the connection's error says no more than its kind.
    let dial = find::<DialError>(error);
    let http = find::<hyper::Error>(error).map(|http| http as &(dyn StdError + 'static));
    let causes = causes(dial.map(|dial| dial as _).or(http).unwrap_or(error));
    // The bundle of certificates is ours, and so is the error of reading it.
    if let Some(own) = find::<Error>(error) {
        let error = Error::new(own.kind(), own.what()).detail(own.cause().unwrap_or_default());
        return Failure::Final(error.hint(own.advice().unwrap_or_default()).during(attempt.failed()));
    }
    let untrusted = matches!(find::<rustls::Error>(error), Some(rustls::Error::InvalidCertificate(_)));
    let error = Error::new(Kind::Unreachable, attempt.failed()).detail(causes);
    if untrusted {
        return Failure::Final(
            error.hint("Set AWS_CA_BUNDLE to a PEM file with the certificate authority of the endpoint."),
        );
    }
    Failure::Transient(match dial.map(|dial| &dial.step) {
        Some(Step::Proxy(_)) => error.hint("Check HTTPS_PROXY and NO_PROXY: the proxy must let this address through."),
        Some(Step::Tls) => error.hint("Check that AWS_ENDPOINT_URL names a port that speaks TLS, or write http://."),
        _ => error.hint(UNREACHABLE),
    })
}

/// Why there is nobody to ask as, for whoever wanted to know just that.
pub(super) fn unidentified(credentials: &CredentialsError, doing: &str) -> Error {
    match nobody(credentials, format!("could not {doing}")) {
        Failure::Final(error) | Failure::Transient(error) | Failure::Busy(error, _) | Failure::OutOfTime(error) => {
            error
        }
    }
}

/// Nobody says who we are. A token service that refuses is not asked again: it knows us, and says no.
pub(super) fn nobody(credentials: &CredentialsError, what: String) -> Failure {
    if let Some(refusal) = find::<RoleError>(credentials) {
        let kind = if refusal.is_definite() { Kind::Denied } else { Kind::Unreachable };
        let error = Error::new(kind, what).detail(refusal.to_string()).hint(refusal.hint());
        return if refusal.is_definite() { Failure::Final(error) } else { Failure::Transient(error) };
    }
    // Each source that has nothing says this, around what it says for itself.
    let unused = "the credential provider was not enabled";
    let causes = causes(credentials).replace(&format!("{unused}: "), "").replace(&format!(": {unused}"), "");
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

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(action: Action, bucket: &'static str, endpoint: &str) -> Attempt<'static> {
        Attempt { action, bucket, prefix: "p/", key: "p/k".to_owned(), endpoint: endpoint.to_owned() }
    }

    #[test]
    fn a_right_is_asked_for_on_the_resource_that_policies_name() {
        let resource = |action, bucket, endpoint| attempt(action, bucket, endpoint).resource();
        let europe = "https://b.s3.eu-central-1.amazonaws.com";
        assert_eq!(resource(Action::Put, "b", europe), "arn:aws:s3:::b/p/*");
        assert_eq!(resource(Action::List, "b", europe), "arn:aws:s3:::b");
        assert_eq!(resource(Action::Get, "b", "https://s3.cn-north-1.amazonaws.com.cn"), "arn:aws-cn:s3:::b/p/*");
        assert_eq!(resource(Action::Get, "b", "https://s3.us-gov-west-1.amazonaws.com"), "arn:aws-us-gov:s3:::b/p/*");
        let point = "arn:aws:s3:eu-central-1:111111111111:accesspoint/wal";
        assert_eq!(resource(Action::Put, point, europe), format!("{point}/object/p/*"));
        assert_eq!(resource(Action::List, point, europe), point);
    }

    #[test]
    fn a_refusal_says_what_was_tried_and_as_whom() {
        let refusal = Refusal::of_key(Some("AccessDenied"), Some("no"));
        let error = attempt(Action::Delete, "b", "http://127.0.0.1:1").refused(&refusal, Some("the access key AKIA"));
        assert_eq!(error.what(), "could not delete s3://b/p/k");
        assert_eq!(error.cause(), Some("AccessDenied: no; asked as the access key AKIA"));
        assert!(error.advice().unwrap().contains("s3:DeleteObject on arn:aws:s3:::b/p/*"));
    }
}
