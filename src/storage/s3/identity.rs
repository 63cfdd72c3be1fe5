//! Who asks: credentials as every AWS tool finds them, kept while they are good, also from one process to the next.
//!
//! The SDK's chain finds them: environment, profiles, web identity, containers, instance metadata. Here is only when it is
//! asked, and for how long its answer is used. What has no end is never written anywhere. A chain of roles of Walden's
//! own would begin here, with what [`Identity::find`] returns.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use aws_config::Region;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::{Mutex, OnceCell};

use super::connect::variable;
use super::http::Http;
use crate::storage::memory::Memory;

/// A session that another process got is used while this much of it is left, or a sixth of its life if that is more: its
/// user may need it for as long as a command runs that takes its time.
const SHARED_MARGIN: Duration = Duration::from_secs(300);

/// A session of this process is renewed when a sixth of its life is left, or this much if that is less.
const OWN_MARGIN: Duration = Duration::from_secs(300);

/// When a renewal has failed and the old session is still good, the next attempt comes so much later.
const RENEWAL_PAUSE: Duration = Duration::from_secs(10);

/// The identity of one store; clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Identity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    region: Option<Region>,
    http: Http,
    /// Built when it is first needed: most calls find what they need in the environment or in the memory.
    chain: OnceCell<DefaultCredentialsChain>,
    memory: Memory,
    /// Locked while credentials are being found, so that of many requests at once one asks for them.
    kept: Mutex<Option<Kept>>,
}

/// Credentials in use.
#[derive(Clone, Debug)]
struct Kept {
    credentials: Credentials,
    /// Others are looked for from here on; never, for those without an end.
    renew: Option<SystemTime>,
    /// When they were asked for; `None` if another process did.
    asked: Option<Instant>,
}

impl Identity {
    /// Of this environment; nothing is asked yet.
    pub fn of_environment(region: Option<Region>, http: Http, memory: Memory) -> Identity {
        let (chain, kept) = (OnceCell::new(), Mutex::default());
        Identity(Arc::new(Inner { region, http, chain, memory, kept }))
    }

    /// Credentials that are good now.
    pub async fn credentials(&self) -> Result<Credentials, CredentialsError> {
        let mut kept = self.0.kept.lock().await;
        let now = SystemTime::now();
        if let Some(kept) = kept.as_ref().filter(|kept| kept.renew.is_none_or(|renew| now < renew)) {
            return Ok(kept.credentials.clone());
        }
        match (self.find(kept.is_none()).await, kept.as_mut()) {
            (Ok(found), _) => Ok(kept.insert(found).credentials.clone()),
            (Err(error), Some(old)) if old.credentials.expiry().is_some_and(|end| now + RENEWAL_PAUSE < end) => {
                tracing::warn!("could not renew the session, which is still good for a while: {error}");
                old.renew = Some(now + RENEWAL_PAUSE);
                Ok(old.credentials.clone())
            }
            (Err(error), _) => Err(error),
        }
    }

    /// The store has refused credentials, in a request that began at `began`, as no longer valid. Returns whether there
    /// are others: renewed meanwhile, or to be had.
    pub async fn discard(&self, began: Instant) -> bool {
        let mut kept = self.0.kept.lock().await;
        match kept.as_ref() {
            Some(Kept { renew: None, .. }) => false,
            Some(Kept { asked: Some(asked), .. }) if *asked > began => true,
            _ => {
                *kept = None;
                self.0.memory.forget(&fingerprint());
                true
            }
        }
    }

    /// From the environment, else from the memory if it may be asked, else from the SDK's chain.
    async fn find(&self, remembered: bool) -> Result<Kept, CredentialsError> {
        let asked = Some(Instant::now());
        if variable("AWS_ACCESS_KEY_ID").is_some() && variable("AWS_SECRET_ACCESS_KEY").is_some() {
            let credentials = EnvironmentVariableCredentialsProvider::new().provide_credentials().await?;
            return Ok(Kept { credentials, renew: None, asked });
        }
        let key = fingerprint();
        if remembered && let Some((credentials, renew)) = recall(&self.0.memory, &key) {
            return Ok(Kept { credentials, renew: Some(renew), asked: None });
        }
        let credentials = self.chain().await.provide_credentials().await?;
        let now = SystemTime::now();
        let renew = credentials.expiry().map(|end| {
            let life = end.duration_since(now).unwrap_or_default();
            remember(&self.0.memory, &key, &credentials, life);
            end.checked_sub(OWN_MARGIN.min(life / 6)).unwrap_or(now)
        });
        Ok(Kept { credentials, renew, asked })
    }

    async fn chain(&self) -> &DefaultCredentialsChain {
        let Inner { region, http, chain, .. } = &*self.0;
        chain
            .get_or_init(|| async {
                let config = ProviderConfig::without_region().with_region(region.clone());
                let config = config.with_http_client(http.clone()).with_retry_config(RetryConfig::disabled());
                let mut builder = DefaultCredentialsChain::builder().configure(config);
                builder.set_region(region.clone());
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

/// A session as the memory holds it.
#[derive(Deserialize, Serialize)]
struct Session {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    /// When it ends, and until when another process may begin to use it.
    end: Timestamp,
    renew: Timestamp,
}

fn remember(memory: &Memory, key: &str, credentials: &Credentials, life: Duration) {
    let margin = SHARED_MARGIN.max(life / 6);
    let Some(usable) = life.checked_sub(margin).filter(|usable| !usable.is_zero()) else { return };
    let end = credentials.expiry().and_then(|end| Timestamp::try_from(end).ok());
    let renew = Timestamp::try_from(SystemTime::now() + usable).ok();
    let (Some(end), Some(renew)) = (end, renew) else { return };
    let session = Session {
        access_key_id: credentials.access_key_id().to_owned(),
        secret_access_key: credentials.secret_access_key().to_owned(),
        session_token: credentials.session_token().map(str::to_owned),
        end,
        renew,
    };
    if let Ok(text) = serde_json::to_string(&session) {
        memory.remember(key, &text, usable);
    }
}

/// A session that may still be begun with, and until when it may be used here before it is renewed.
fn recall(memory: &Memory, key: &str) -> Option<(Credentials, SystemTime)> {
    let session: Session = serde_json::from_str(&memory.recall(key)?).ok()?;
    let mut credentials = Credentials::builder()
        .access_key_id(session.access_key_id)
        .secret_access_key(session.secret_access_key)
        .expiry(session.end.into())
        .provider_name("the memory of walden");
    credentials.set_session_token(session.session_token);
    Some((credentials.build(), session.renew.into()))
}

/// Everything that decides who is found, as one text, of which the memory keeps a digest: all AWS variables, with the
/// role, the token service and the token's file among them, and the state of the profile files.
fn fingerprint() -> String {
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let mut variables: Vec<_> = variables.filter(|(name, _)| name.starts_with("AWS_") || name == "HOME").collect();
    variables.sort();
    let home = variable("HOME").map(PathBuf::from).unwrap_or_default();
    let file = |name: &str, usual: &str| variable(name).map_or_else(|| home.join(usual), PathBuf::from);
    let files = [file("AWS_CONFIG_FILE", ".aws/config"), file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials")];
    let states = files.map(|path| (state(&path), path));
    format!("session\n{variables:?}\n{states:?}")
}

/// When a file was last changed, and its size; `None` if it is not there.
fn state(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = path.metadata().ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn session(life: Duration) -> Credentials {
        let end = SystemTime::now() + life;
        Credentials::new("id", "secret", Some("token".into()), Some(end), "a test")
    }

    proptest! {
        #[test]
        fn what_is_remembered_may_be_begun_with_only_while_enough_of_it_is_left(seconds in 0u64..200_000) {
            let scratch = tempfile::tempdir().unwrap();
            let memory = Memory::at(Some(scratch.path().join("memory")));
            let life = Duration::from_secs(seconds);
            remember(&memory, "key", &session(life), life);
            let margin = SHARED_MARGIN.max(life / 6);
            match recall(&memory, "key") {
                Some((credentials, renew)) => {
                    let left = credentials.expiry().unwrap().duration_since(renew).unwrap();
                    // The clock went on between the two.
                    prop_assert!(left + Duration::from_secs(1) >= margin && life > margin, "{left:?}");
                    prop_assert_eq!(credentials.session_token(), Some("token"));
                }
                None => prop_assert!(life <= margin + Duration::from_secs(1)),
            }
        }
    }
}
