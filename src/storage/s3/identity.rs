//! Who asks: credentials as every AWS tool finds them, and the roles that are assumed with them, one from the other; kept
//! while they are good, also from one process to the next.
//!
//! The SDK's chain finds the source: environment, profiles, web identity, containers, instance metadata. A role that a
//! source has by itself (`AWS_ROLE_ARN` of a web identity, `role_arn` of a profile) is part of it; our own chain of roles
//! begins with what comes out. Here is when all this is asked, and for how long its answer is used. What has no end is
//! never written anywhere.

pub(super) mod roles;
mod session;
pub(super) mod trace;

use std::time::{Duration, Instant, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::{Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::credential_feature::AwsCredentialFeature;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use jiff::Timestamp;
use std::sync::Arc;
use tokio::sync::{Mutex, OnceCell};

use self::roles::RoleError;
use super::causes::{causes, find};
use super::connect::Options;
use super::environment::variable;
use super::http::Http;
use crate::config::role::AssumedRole;
use crate::observe::repeats::REPEATED;
use crate::storage::Signer;
use crate::storage::memory::Memory;

/// A session of this process is renewed when a sixth of its life is left, or this much if that is less.
const OWN_MARGIN: Duration = Duration::from_secs(300);

/// When a renewal has failed and the old session is still good, the next attempt comes so much later, or when half of what
/// is left is gone.
const RENEWAL_PAUSE: Duration = Duration::from_secs(10);

/// With less than this left, a session is not begun a request with.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// For so long a refusal is the answer to everybody: the many requests of a backup are not each to be refused.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// The identity of one store; clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Identity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    base: SdkConfig,
    http: Http,
    roles: Vec<AssumedRole>,
    /// For roles that have none of their own.
    session_name: String,
    /// Built when it is first needed: most calls find what they need in the environment or in the memory.
    chain: OnceCell<DefaultCredentialsChain>,
    memory: Memory,
    /// Locked while credentials are being found, so that of many requests at once one asks for them.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: Option<Kept>,
    refused: Option<(Instant, RoleError)>,
}

/// Credentials, and whose they are: an ARN where it is known, else what tells them from others.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub credentials: Credentials,
    pub who: String,
}

/// Credentials in use.
#[derive(Clone, Debug)]
struct Kept {
    taken: Taken,
    /// Others are looked for from here on; never, for those without an end.
    renew: Option<SystemTime>,
    /// When they were asked for; `None` if another process did.
    asked: Option<Instant>,
}

impl Identity {
    /// Of this environment, with these roles after it; nothing is asked yet. `base` is how the token service is reached.
    pub fn of_environment(base: SdkConfig, http: Http, options: &Options) -> Identity {
        let Options { roles, session_name, memory, .. } = options.clone();
        let (chain, state) = (OnceCell::new(), Mutex::default());
        Identity(Arc::new(Inner { base, http, roles, session_name, chain, memory, state }))
    }

    /// Credentials that are good now.
    pub async fn credentials(&self) -> Result<Credentials, CredentialsError> {
        let mut state = self.0.state.lock().await;
        let now = SystemTime::now();
        if let Some(kept) = state.kept.as_ref().filter(|kept| kept.renew.is_none_or(|renew| now < renew)) {
            return Ok(kept.taken.credentials.clone());
        }
        if let Some((since, refusal)) = state.refused.as_ref().filter(|(since, _)| since.elapsed() < REFUSED_FOR) {
            tracing::debug!(target: REPEATED, "not asked again, {} ms after it was refused", since.elapsed().as_millis());
            return Err(CredentialsError::provider_error(refusal.clone()));
        }
        let error = match self.find(state.kept.is_none()).await {
            Ok(found) => return Ok(state.kept.insert(found).taken.credentials.clone()),
            Err(error) => error,
        };
        let now = SystemTime::now();
        if let Some(old) = state.kept.as_mut()
            && let Some(left) = old.taken.credentials.expiry().and_then(|end| end.duration_since(now).ok())
            && left > LAST_MOMENT
        {
            tracing::warn!(target: REPEATED, "could not renew the session, which is still good for a while: {}", causes(&error));
            old.renew = Some(now + RENEWAL_PAUSE.min(left / 2));
            return Ok(old.taken.credentials.clone());
        }
        state.refused = refusal(&error).map(|refusal| (Instant::now(), refusal));
        Err(error)
    }

    /// The store has refused credentials, in a request that began at `began`, as no longer valid. Returns whether there
    /// are others: renewed meanwhile, or to be had.
    pub async fn discard(&self, began: Instant) -> bool {
        let mut state = self.0.state.lock().await;
        match state.kept.as_ref() {
            Some(Kept { renew: None, .. }) => false,
            Some(Kept { asked: Some(asked), .. }) if *asked > began => true,
            _ => {
                state.kept = None;
                self.0.memory.forget(&self.fingerprint());
                true
            }
        }
    }

    /// As whom requests are signed now, for messages; `None` while nobody has been found, or is being looked for.
    pub fn describe(&self) -> Option<String> {
        Some(self.0.state.try_lock().ok()?.kept.as_ref()?.taken.who.clone())
    }

    /// The same with its end.
    pub fn signer(&self) -> Option<Signer> {
        let state = self.0.state.try_lock().ok()?;
        let Taken { credentials, who } = &state.kept.as_ref()?.taken;
        let expires = credentials.expiry().and_then(|end| Timestamp::try_from(end).ok());
        Some(Signer { who: who.clone(), expires })
    }

    /// From the environment, else from the memory if it may be asked, else from the SDK's chain and the token service.
    async fn find(&self, remembered: bool) -> Result<Kept, CredentialsError> {
        let Inner { base, roles, session_name, memory, .. } = &*self.0;
        let asked = Some(Instant::now());
        let lasting = has_lasting_key();
        if lasting && roles.is_empty() {
            return Ok(Kept { taken: self.source().await?, renew: None, asked });
        }
        let key = self.fingerprint();
        if remembered && let Some((taken, renew)) = session::recall(memory, &key) {
            return Ok(Kept { taken, renew: Some(renew), asked: None });
        }
        let mut taken = self.source().await?;
        for role in roles {
            taken = roles::assume(base, role, session_name, &taken).await.map_err(CredentialsError::provider_error)?;
        }
        let now = SystemTime::now();
        let renew = taken.credentials.expiry().map(|end| {
            let life = end.duration_since(now).unwrap_or_default();
            session::remember(memory, &key, &taken, life);
            end.checked_sub(OWN_MARGIN.min(life / 6)).unwrap_or(now)
        });
        Ok(Kept { taken, renew, asked })
    }

    fn fingerprint(&self) -> String {
        session::fingerprint(&self.0.roles, &self.0.session_name)
    }

    /// What the SDK finds in this environment.
    async fn source(&self) -> Result<Taken, CredentialsError> {
        let credentials = match has_lasting_key() {
            true => EnvironmentVariableCredentialsProvider::new().provide_credentials().await?,
            false => self.chain().await.provide_credentials().await?,
        };
        let who = format!("access key {} ({})", credentials.access_key_id(), origin(&credentials));
        Ok(Taken { credentials, who })
    }

    async fn chain(&self) -> &DefaultCredentialsChain {
        let Inner { base, http, chain, .. } = &*self.0;
        chain
            .get_or_init(|| async {
                let region: Option<Region> = base.region().cloned();
                let config = ProviderConfig::without_region().with_region(region.clone());
                let config = config.with_http_client(http.clone()).with_retry_config(RetryConfig::disabled());
                let mut builder = DefaultCredentialsChain::builder().configure(config);
                builder.set_region(region);
                builder.build().await
            })
            .await
    }
}

impl ProvideCredentials for Identity {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}

/// Are there keys in the environment itself, which every AWS tool takes first?
fn has_lasting_key() -> bool {
    variable("AWS_ACCESS_KEY_ID").is_some() && variable("AWS_SECRET_ACCESS_KEY").is_some()
}

/// The role that was refused for good, if that is what it is.
fn refusal(error: &CredentialsError) -> Option<RoleError> {
    find::<RoleError>(error).filter(|refusal| refusal.is_definite()).cloned()
}

/// Where the SDK found them.
fn origin(credentials: &Credentials) -> &'static str {
    use AwsCredentialFeature as From;
    let marks = credentials.get_property::<Vec<From>>().map(Vec::as_slice).unwrap_or_default();
    // A profile leaves its own mark beside that of what it leads to.
    let words = marks.iter().map(|mark| match mark {
        From::CredentialsEnvVars => "the environment",
        From::CredentialsEnvVarsStsWebIdToken | From::CredentialsStsAssumeRoleWebId => "a web identity",
        From::CredentialsProfileStsWebIdToken => "a web identity of a profile",
        From::CredentialsProfileSso | From::CredentialsSso => "SSO",
        From::CredentialsProfileProcess | From::CredentialsProcess => "a process",
        From::CredentialsStsAssumeRole | From::CredentialsProfileSourceProfile => "a role of a profile",
        From::CredentialsHttp => "the container's endpoint",
        From::CredentialsImds => "the instance's metadata",
        From::CredentialsProfile | From::CredentialsProfileNamedProvider => "a profile",
        _ => "the AWS SDK",
    });
    words
        .reduce(|best, word| if best == "a profile" || best == "the AWS SDK" { word } else { best })
        .unwrap_or("the AWS SDK")
}
