//! What a refused delete says: which objects are locked, and until when.
//!
//! Looks, and never changes a lock or goes around one.

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{Error as Refused, ObjectLockLegalHoldStatus};

use super::failure::Action;
use super::refusal::Refusal;
use super::{S3Store, timestamp};
use crate::error::{Error, Kind, Result};
use crate::storage::Store;

/// How many of the refused objects are looked at: enough to see what they have in common, and few enough to be read.
const LOOKED_AT: usize = 10;

/// `Ok` if no key was refused.
///
/// # Errors
/// The first refusal, with the locks that are the reason, if they are.
pub(super) async fn judge(store: &S3Store, refused: &[Refused]) -> Result<()> {
    let Some(first) = refused.first() else { return Ok(()) };
    let key = store.relative(first.key().unwrap_or_default());
    let (url, attempt) = (store.url(key), store.attempt(Action::Delete, key));
    let mut locks = Vec::new();
    let denied = refused.iter().filter(|refused| refused.code() == Some("AccessDenied"));
    for key in denied.filter_map(Refused::key).take(LOOKED_AT) {
        let key = store.relative(key);
        locks.extend(lock(store, key).await.map(|lock| format!("{key} {lock}")));
    }
    if locks.is_empty() {
        let refusal = Refusal::of_key(first.code(), first.message());
        return Err(attempt.refused(&refusal, store.identity.describe().as_deref()));
    }
    let more = if refused.len() > LOOKED_AT { ", and perhaps more" } else { "" };
    Err(Error::new(Kind::Denied, format!("could not delete {url}"))
        .detail(format!("{}: {}", first.code().unwrap_or_default(), first.message().unwrap_or_default()))
        .detail(format!("locked are {}{more}", locks.join(", ")))
        .hint(
            "Wait until then. A lock in governance mode yields to aws s3api delete-object --bypass-governance-retention, \
             with the right s3:BypassGovernanceRetention.",
        ))
}

/// Until when the object is locked; `None` if it is not, or if we may not know.
pub(super) async fn lock(store: &S3Store, key: &str) -> Option<String> {
    reason(&store.look(key, None).await.ok()?)
}

fn reason(object: &HeadObjectOutput) -> Option<String> {
    let held = object.object_lock_legal_hold_status() == Some(&ObjectLockLegalHoldStatus::On);
    let mode = object.object_lock_mode().map(|mode| format!(" ({mode})")).unwrap_or_default();
    match (object.object_lock_retain_until_date().copied(), held) {
        (Some(until), held) => {
            let hold = if held { ", and by a legal hold" } else { "" };
            Some(format!("until {}{mode}{hold}", timestamp(Some(until))))
        }
        (None, true) => Some("by a legal hold".to_owned()),
        (None, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_s3::primitives::DateTime;
    use aws_sdk_s3::types::ObjectLockMode;

    #[test]
    fn locks_and_legal_holds_are_different_reasons() {
        let head = HeadObjectOutput::builder;
        let locked = || {
            let until = DateTime::from_secs(1_800_000_000);
            head().object_lock_mode(ObjectLockMode::Governance).object_lock_retain_until_date(until)
        };
        let on = ObjectLockLegalHoldStatus::On;
        let reason = |object: HeadObjectOutput| reason(&object);
        assert_eq!(reason(head().build()), None);
        assert_eq!(reason(head().object_lock_legal_hold_status(ObjectLockLegalHoldStatus::Off).build()), None);
        assert_eq!(reason(locked().build()).as_deref(), Some("until 2027-01-15T08:00:00Z (GOVERNANCE)"));
        let both = "until 2027-01-15T08:00:00Z (GOVERNANCE), and by a legal hold";
        assert_eq!(reason(locked().object_lock_legal_hold_status(on.clone()).build()).as_deref(), Some(both));
        assert_eq!(reason(head().object_lock_legal_hold_status(on).build()).as_deref(), Some("by a legal hold"));
    }
}
