//! What a refused delete says: which objects are locked, and until when.
//!
//! Looks, and never changes a lock or goes around one.

use aws_sdk_s3::types::{Error as Refused, ObjectLockLegalHoldStatus};

use super::failure::{self, Action};
use super::{S3Store, timestamp};
use crate::error::{Error, Kind, Result};
use crate::storage::Store;

/// How many of the refused objects are looked at: enough to see what they have in common, and few enough to be read.
const LOOKED_AT: usize = 10;

/// `Ok` if no key was refused.
///
/// # Errors
/// The first refusal and their number, with the locks that are the reason, if they are.
pub(super) async fn judge(store: &S3Store, refused: &[Refused]) -> Result<()> {
    let Some(first) = refused.first() else { return Ok(()) };
    let url = store.url(store.relative(first.key().unwrap_or_default()));
    let count = format!("{} objects could not be deleted", refused.len());
    let mut locks = Vec::new();
    let denied = refused.iter().filter(|refused| refused.code() == Some("AccessDenied"));
    for key in denied.filter_map(Refused::key).take(LOOKED_AT) {
        locks.extend(lock(store, store.relative(key)).await);
    }
    if locks.is_empty() {
        return Err(failure::refused(Action::Delete, &url, first.code(), first.message()).detail(count));
    }
    let more = if refused.len() > LOOKED_AT { ", and perhaps more" } else { "" };
    Err(Error::new(Kind::Denied, format!("could not delete {url}"))
        .detail(format!("{}: {}", first.code().unwrap_or_default(), first.message().unwrap_or_default()))
        .detail(format!("{count}; locked are {}{more}", locks.join(", ")))
        .hint(
            "Wait until then. A lock in governance mode yields to aws s3api delete-object --bypass-governance-retention, \
             with the right s3:BypassGovernanceRetention.",
        ))
}

/// Until when the object is locked; `None` if it is not, or if we may not know.
async fn lock(store: &S3Store, key: &str) -> Option<String> {
    let object = store.look(key).await.ok()?;
    let held = object.object_lock_legal_hold_status() == Some(&ObjectLockLegalHoldStatus::On);
    let mode = object.object_lock_mode().map(|mode| mode.as_str().to_owned()).unwrap_or_default();
    let until = object.object_lock_retain_until_date().copied();
    match (until.map(|until| timestamp(Some(until))), held) {
        (Some(until), false) => Some(format!("{key} until {until} ({mode})")),
        (Some(until), true) => Some(format!("{key} until {until} ({mode}), and by a legal hold")),
        (None, true) => Some(format!("{key} by a legal hold")),
        (None, false) => None,
    }
}
