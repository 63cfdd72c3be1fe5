//! One role assumed from another identity, and what it means when the token service says no.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::{Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_sts::Client;
use aws_sdk_sts::config::Builder;
use aws_sdk_sts::config::timeout::TimeoutConfig;
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::operation::RequestId;
use aws_sdk_sts::operation::assume_role::AssumeRoleOutput;
use aws_sdk_sts::types::Tag;

use super::Taken;
use crate::config::role::AssumedRole;
use crate::storage::s3::causes::causes;

/// How long the token service may take for one answer. It is asked again within the budget of the request that needs the
/// session.
const PATIENCE: Duration = Duration::from_secs(10);

/// A role that was not given; the clones that many requests are told of are one.
#[derive(Clone, Debug)]
pub(in crate::storage::s3) struct RoleError(Arc<Refusal>);

#[derive(Debug)]
struct Refusal {
    role: String,
    /// Whether an external id was named.
    external_id: bool,
    /// As whom we asked.
    caller: String,
    server: String,
    /// What the service said: its code, and its words.
    answer: Option<(String, String)>,
    cause: String,
    definite: bool,
}

impl RoleError {
    /// Whether asking again would not help.
    pub fn is_definite(&self) -> bool {
        self.0.definite
    }

    /// What the user can do.
    pub fn hint(&self) -> String {
        let Refusal { role, external_id, caller, answer, .. } = &*self.0;
        let Some((code, message)) = answer else {
            return "Check AWS_ENDPOINT_URL_STS, AWS_REGION and the network.".to_owned();
        };
        let named = match external_id {
            true => "the external id that was sent may not be the owner's: check WALDEN_EXTERNAL_ID",
            false => "if that asks for an external id, set WALDEN_EXTERNAL_ID to it",
        };
        // The service knows the ARN where we know a key.
        let told = message.strip_prefix("User: ").and_then(|rest| rest.split_once(" is not authorized"));
        let caller = told.map_or(caller.as_str(), |(arn, _)| arn);
        match code.as_str() {
            "AccessDenied" | "AccessDeniedException" => format!(
                "Allow {caller} sts:AssumeRole on {role} in its own policies, and name it in the role's trust policy; {named}."
            ),
            "InvalidClientTokenId" | "UnrecognizedClientException" => {
                "Check AWS_ACCESS_KEY_ID or AWS_PROFILE: the token service does not know this key.".to_owned()
            }
            "SignatureDoesNotMatch" if message.contains("expired") || message.contains("not yet current") => {
                "Set this machine's clock.".to_owned()
            }
            "SignatureDoesNotMatch" => "Check AWS_SECRET_ACCESS_KEY.".to_owned(),
            "ExpiredToken" | "ExpiredTokenException" => {
                "Renew the session that the chain of roles begins with: AWS_SESSION_TOKEN is no longer valid."
                    .to_owned()
            }
            "RegionDisabledException" => {
                format!("Name the region of another token service: WALDEN_ASSUME_ROLE='{role};region=REGION'.")
            }
            "ValidationError" if message.contains("DurationSeconds") => format!(
                "Write a shorter duration, WALDEN_ASSUME_ROLE='{role};duration=1h', or raise the role's maximum; a role that \
                 was assumed by a role has an hour at most."
            ),
            _ => "Check WALDEN_ASSUME_ROLE.".to_owned(),
        }
    }
}

impl fmt::Display for RoleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { role, caller, server, cause, .. } = &*self.0;
        write!(f, "could not assume the role {role} as {caller} at {server}: {cause}")
    }
}

impl std::error::Error for RoleError {}

/// Takes the role on; `session_name` is for a role that has none of its own.
pub(super) async fn assume(
    base: &SdkConfig,
    role: &AssumedRole,
    session_name: &str,
    from: &Taken,
) -> Result<Taken, RoleError> {
    let server = Arc::new(Mutex::new(String::from("the token service")));
    let answer = {
        let server = server.clone();
        let request = client(base, role, &from.credentials)
            .assume_role()
            .role_arn(&role.arn)
            .role_session_name(role.session_name.as_deref().unwrap_or(session_name))
            .set_external_id(role.external_id.as_ref().map(|id| id.as_str().to_owned()))
            .set_duration_seconds(role.duration.and_then(|duration| duration.as_secs().try_into().ok()))
            .set_tags((!role.tags.is_empty()).then(|| role.tags.iter().filter_map(tag).collect()));
        // The address is the SDK's to find; it is known when the request goes out.
        request.customize().map_request(move |request| {
            if let Some(host) = request.uri().split('/').nth(2) {
                host.clone_into(&mut server.lock().unwrap_or_else(PoisonError::into_inner));
            }
            Ok::<_, std::convert::Infallible>(request)
        })
    };
    let outcome = answer.send().await;
    let server = server.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let refusal = |answer: Option<(String, String)>, cause: String, definite: bool| {
        RoleError(Arc::new(Refusal {
            role: role.arn.clone(),
            external_id: role.external_id.is_some(),
            caller: from.who.clone(),
            server: server.clone(),
            answer,
            cause,
            definite,
        }))
    };
    match outcome {
        Ok(output) => taken(&output).ok_or_else(|| refusal(None, "the answer holds no session".to_owned(), false)),
        Err(SdkError::ServiceError(service)) => {
            let status = service.raw().status().as_u16();
            let code = service.err().code().unwrap_or("no error code").to_owned();
            let message = service.err().message().unwrap_or_default().to_owned();
            let id = service.err().request_id().map_or(String::new(), |id| format!(", request id {id}"));
            let cause = format!("{code}: {message}; HTTP status {status}{id}");
            let definite = (400..500).contains(&status) && status != 429 && !code.starts_with("Throttling");
            Err(refusal(Some((code, message)), cause, definite))
        }
        Err(error) => Err(refusal(None, causes(&error), false)),
    }
}

/// Who these credentials belong to, as the token service sees it: an ARN.
pub(super) async fn caller(base: &SdkConfig, credentials: &Credentials) -> Result<String, String> {
    let config = config(base, credentials);
    match Client::from_conf(config.build()).get_caller_identity().send().await {
        Ok(output) => output.arn.ok_or_else(|| "the answer names nobody".to_owned()),
        Err(SdkError::ServiceError(service)) => Err(match service.err().code() {
            Some(code) => format!("{code}: {}", service.err().message().unwrap_or_default()),
            None => format!("HTTP status {}", service.raw().status().as_u16()),
        }),
        Err(error) => Err(causes(&error)),
    }
}

/// How the token service is asked with these credentials.
fn config(base: &SdkConfig, from: &Credentials) -> Builder {
    let timeouts = TimeoutConfig::builder().operation_timeout(PATIENCE).build();
    let provider = SharedCredentialsProvider::new(from.clone());
    Builder::from(base).credentials_provider(provider).timeout_config(timeouts)
}

fn client(base: &SdkConfig, role: &AssumedRole, from: &Credentials) -> Client {
    let mut config = config(base, from);
    if let Some(region) = &role.region {
        config.set_region(Some(Region::new(region.clone())));
    }
    if let Some(endpoint) = &role.endpoint {
        config.set_endpoint_url(Some(endpoint.clone()));
    }
    Client::from_conf(config.build())
}

fn tag((key, value): &(String, String)) -> Option<Tag> {
    Tag::builder().key(key).value(value).build().ok()
}

fn taken(output: &AssumeRoleOutput) -> Option<Taken> {
    let session = output.credentials()?;
    let mut credentials = Credentials::builder()
        .access_key_id(session.access_key_id())
        .secret_access_key(session.secret_access_key())
        .session_token(session.session_token())
        .provider_name("AssumeRole");
    credentials.set_expiry((*session.expiration()).try_into().ok());
    let who = output.assumed_role_user().map(|user| user.arn().to_owned())?;
    Some(Taken { credentials: credentials.build(), who })
}
