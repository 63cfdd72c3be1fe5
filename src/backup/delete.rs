//! `delete garbage`: what failed backups left, found and deleted.
//!
//! Deletes nothing that a short manifest belongs to, nothing that is not Walden's, and nothing that is not in a plan.

pub mod expire;
pub mod expiry;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::catalogue;
use super::garbage::{self, Of, Plan, Remains};
use crate::archive::Archive;
use crate::durable;
use crate::error::{Error, Kind, Result};
use crate::layout::{self, BackupId, Key};
use crate::observe::{Event, Observer};
use crate::postgres::control::SystemId;
use crate::storage::ListQuery;

/// Finds what is left of these clusters' failed backups, of tests of the store, and of killed writers. Changes nothing.
///
/// # Errors
/// Those of the store.
pub async fn find_garbage(archive: &Archive, systems: &[SystemId], older_than: Duration) -> Result<Plan> {
    let store = archive.store();
    let (now, mut found) = (store.now().await?, Vec::new());
    for &system in systems {
        for (id, contents) in catalogue::incomplete(archive, system).await? {
            let catalogue::Contents { objects, bytes, newest, .. } = contents;
            found.push(Remains { of: Of::Backup(system, id), objects, bytes, newest });
        }
    }
    for key in [Key::Probe, Key::Doctor] {
        match store.head(&key.to_string()).await {
            Ok(object) => {
                let of = Of::Probe(key);
                found.push(Remains { of, objects: 1, bytes: object.size, newest: object.modified });
            }
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let left = store.leftovers(stale(now)).await?;
    found.push(Remains { of: Of::Writers, objects: left.count, bytes: left.bytes, newest: Timestamp::UNIX_EPOCH });
    let older_than = SignedDuration::try_from(older_than).unwrap_or(SignedDuration::MAX);
    Ok(garbage::plan(found, now, older_than))
}

/// Whoever writes a file into a directory writes to it more often than that.
fn stale(now: Timestamp) -> Timestamp {
    now - SignedDuration::try_from(durable::STALE_AFTER).unwrap_or(SignedDuration::MAX)
}

/// What came of a plan.
#[derive(Debug)]
pub struct Swept {
    /// What has been deleted.
    pub deleted: Vec<Remains>,
    /// The store's first refusal, with how much was deleted nevertheless.
    pub refused: Option<Error>,
}

/// Deletes what goes by the plan; what is refused keeps nothing else from being deleted. Can be run again after whatever
/// ended it.
///
/// # Errors
/// Those of the store that concern more than single objects.
pub async fn delete_garbage(archive: &Archive, plan: &Plan, observer: &dyn Observer) -> Result<Swept> {
    let (mut deleted, mut refused): (_, Option<Error>) = (Vec::new(), None);
    for remains in &plan.goes {
        let outcome = match &remains.of {
            Of::Backup(system, id) => delete_backup(archive, *system, *id, remains, observer).await,
            Of::Probe(key) => archive.store().delete(&[key.to_string()]).await.map(|()| Some(remains.clone())),
            Of::Writers => archive
                .store()
                .remove_leftovers(stale(plan.now))
                .await
                .map(|left| Some(Remains { objects: left.count, bytes: left.bytes, ..remains.clone() })),
        };
        match outcome {
            Ok(done) => deleted.extend(done),
            Err(error) if matches!(error.kind(), Kind::Denied | Kind::Refused) => {
                refused.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    let (objects, _) = garbage::sum(&deleted);
    let refused = refused.map(|error| error.detail(format!("of everything else {objects} objects have been deleted")));
    Ok(Swept { deleted, refused })
}

/// Deletes what is left of a backup; `None` if it has come to life since the plan was made.
async fn delete_backup(
    archive: &Archive,
    system: SystemId,
    id: BackupId,
    planned: &Remains,
    observer: &dyn Observer,
) -> Result<Option<Remains>> {
    let again = catalogue::contents(archive, system, id).await?;
    if again.complete || again.newest > planned.newest {
        let what = format!("backup {id} is not deleted: something has been stored of it meanwhile");
        observer.notice(Event::Warning(what));
        return Ok(None);
    }
    // The list first: parts without it are of no use to anybody, and a list without its parts would look like more.
    archive.store().delete(&[Key::Files(system, id).to_string()]).await?;
    let mut query = ListQuery { prefix: layout::backup_prefix(system, id), ..ListQuery::default() };
    loop {
        let page = archive.store().list(&query).await?;
        require_incomplete(archive, system, id).await?;
        let ours = page.objects.into_iter().map(|object| object.key).filter(|key| is_part(key, system, id));
        let keys: Vec<String> = ours.collect();
        if !keys.is_empty() {
            archive.store().delete(&keys).await?;
        }
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => break,
        }
    }
    require_incomplete(archive, system, id).await?;
    Ok(Some(planned.clone()))
}

fn is_part(key: &str, system: SystemId, id: BackupId) -> bool {
    matches!(Key::parse(key), Some(Key::Part(of, backup, _)) if (of, backup) == (system, id))
}

/// A backup can wait for its WAL for longer than anything was stored of it, and be completed at this very moment.
async fn require_incomplete(archive: &Archive, system: SystemId, id: BackupId) -> Result<()> {
    let key = Key::Backup(system, id);
    match archive.store().head(&key.to_string()).await {
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(Error::new(Kind::Refused, format!("backup {id} was completed while it was being deleted"))
            .detail(format!("some of its objects are gone, and {} says that it exists", archive.url(&key)))
            .hint("Take another with walden backup-push, and use a longer --older-than than a backup takes.")),
    }
}
