//! Sessions as one process leaves them for the next.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Taken;
use crate::config::role::AssumedRole;
use crate::storage::memory::Memory;
use crate::storage::s3::environment::variable;

/// A session that another process got is used while this much of it is left, or a sixth of its life if that is more: its
/// user may need it for as long as a command runs that takes its time.
const MARGIN: Duration = Duration::from_secs(300);

/// A session as the memory holds it.
#[derive(Deserialize, Serialize)]
struct Session {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    who: String,
    /// When it ends, and until when another process may begin to use it.
    end: Timestamp,
    renew: Timestamp,
}

/// Keeps a session that lives for so long from now on; what has no end is never kept.
pub(super) fn remember(memory: &Memory, key: &str, taken: &Taken, life: Duration) {
    let Some(usable) = life.checked_sub(margin(life)).filter(|usable| !usable.is_zero()) else { return };
    let credentials = &taken.credentials;
    let end = credentials.expiry().and_then(|end| Timestamp::try_from(end).ok());
    let renew = Timestamp::try_from(SystemTime::now() + usable).ok();
    let (Some(end), Some(renew)) = (end, renew) else { return };
    let session = Session {
        access_key_id: credentials.access_key_id().to_owned(),
        secret_access_key: credentials.secret_access_key().to_owned(),
        session_token: credentials.session_token().map(str::to_owned),
        who: taken.who.clone(),
        end,
        renew,
    };
    if let Ok(text) = serde_json::to_string(&session) {
        memory.remember(key, &text, usable);
    }
}

fn margin(life: Duration) -> Duration {
    MARGIN.max(life / 6)
}

/// A session that may still be begun with, and until when it may be used here before it is renewed.
pub(super) fn recall(memory: &Memory, key: &str) -> Option<(Taken, SystemTime)> {
    let session: Session = serde_json::from_str(&memory.recall(key)?).ok()?;
    let mut credentials = Credentials::builder()
        .access_key_id(session.access_key_id)
        .secret_access_key(session.secret_access_key)
        .expiry(session.end.into())
        .provider_name("the memory of walden");
    credentials.set_session_token(session.session_token);
    Some((Taken { credentials: credentials.build(), who: session.who }, session.renew.into()))
}

/// Everything that decides who is found, as one text, of which the memory keeps a digest: all AWS variables, with the
/// role, the token service and the token's file among them, the state of the profile files, and our own chain of roles.
pub(super) fn fingerprint(roles: &[AssumedRole], session_name: &str) -> String {
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let mut variables: Vec<_> = variables.filter(|(name, _)| name.starts_with("AWS_") || name == "HOME").collect();
    variables.sort();
    let home = variable("HOME").map(PathBuf::from).unwrap_or_default();
    let file = |name: &str, usual: &str| variable(name).map_or_else(|| home.join(usual), PathBuf::from);
    let files = [file("AWS_CONFIG_FILE", ".aws/config"), file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials")];
    let states = files.map(|path| (state(&path), path));
    format!("session\n{variables:?}\n{states:?}\n{session_name}\n{roles:?}")
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

    fn session(life: Duration) -> Taken {
        let end = SystemTime::now() + life;
        let credentials = Credentials::new("id", "secret", Some("token".into()), Some(end), "a test");
        Taken { credentials, who: "arn:somebody".into() }
    }

    proptest! {
        #[test]
        fn what_is_remembered_may_be_begun_with_only_while_enough_of_it_is_left(seconds in 0u64..200_000) {
            let scratch = tempfile::tempdir().unwrap();
            let memory = Memory::at(Some(scratch.path().join("memory")));
            let life = Duration::from_secs(seconds);
            remember(&memory, "key", &session(life), life);
            match recall(&memory, "key") {
                Some((taken, renew)) => {
                    let left = taken.credentials.expiry().unwrap().duration_since(renew).unwrap();
                    // The clock went on between the two.
                    prop_assert!(left + Duration::from_secs(1) >= margin(life) && life > margin(life), "{left:?}");
                    prop_assert_eq!(taken.credentials.session_token(), Some("token"));
                    prop_assert_eq!(taken.who, "arn:somebody");
                }
                None => prop_assert!(life <= margin(life) + Duration::from_secs(1)),
            }
        }
    }
}
