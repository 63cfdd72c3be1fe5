//! Which base backups exist.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use super::manifest::{Backup, Files, FilesReader};
use super::retention::record::LastRun;
use crate::archive::Archive;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::{self, BackupId, Key};
use crate::pipeline;
use crate::postgres::control::SystemId;
use crate::storage::{ListQuery, list_all};
use crate::wal::segment::SegmentName;

/// Short manifests that are read at the same time.
const READS_AT_ONCE: usize = 16;

/// No short manifest is longer.
const SHORT_LIMIT: usize = 16 << 20;

/// What is found below the id of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A complete backup.
    Complete(Box<Backup>),
    /// Parts without a short manifest: a backup that is being taken, or the remains of one that failed.
    Incomplete(SystemId, BackupId),
}

impl Found {
    /// The backup's id.
    pub fn id(&self) -> BackupId {
        match self {
            Found::Complete(backup) => backup.id,
            Found::Incomplete(_, id) => *id,
        }
    }
}

/// Everything below the backups of a cluster, oldest first.
///
/// # Errors
/// [`Kind::Corrupt`] if a short manifest is damaged: a list that passes over it would lie.
pub async fn list(archive: &Archive, system: SystemId) -> Result<Vec<Found>> {
    look(archive, system).await?.into_iter().map(|(_, found)| found).collect()
}

/// The same for whoever wants to see all damage: each id with what is found there, or why its short manifest cannot be
/// read ([`Kind::Corrupt`] or [`Kind::Refused`]).
pub async fn look(archive: &Archive, system: SystemId) -> Result<Vec<(BackupId, Result<Found>)>> {
    let ids = ids(archive, system).await?;
    let (sender, receiver) = mpsc::channel(ids.len().max(1));
    for id in ids {
        // The channel has room for all of them.
        let _ = sender.try_send(id);
    }
    drop(sender);
    let archive = Arc::new(archive.clone());
    let mut found = pipeline::run(receiver, READS_AT_ONCE, move |id| {
        let archive = archive.clone();
        async move {
            match read(&archive, system, id).await {
                Ok(backup) => Ok((id, Ok(Found::Complete(Box::new(backup))))),
                Err(error) => match error.kind() {
                    Kind::NotFound => Ok((id, Ok(Found::Incomplete(system, id)))),
                    Kind::Corrupt | Kind::Refused => Ok((id, Err(error))),
                    _ => Err(error),
                },
            }
        }
    })
    .await?;
    // A backup that was resumed has an early id, and is as new as its end.
    found.sort_by_key(|(id, found)| match found {
        Ok(Found::Complete(backup)) => (backup.finished, *id),
        _ => (id.started(), *id),
    });
    Ok(found)
}

async fn ids(archive: &Archive, system: SystemId) -> Result<Vec<BackupId>> {
    let mut ids = Vec::new();
    let prefix = layout::backups_prefix(system);
    let query = ListQuery { prefix: prefix.clone(), fold: true, ..ListQuery::default() };
    list_all(&**archive.store(), query, |page| {
        let names = page.prefixes.iter().filter_map(|folded| folded.strip_prefix(&prefix)?.strip_suffix('/'));
        ids.extend(names.filter_map(BackupId::parse));
    })
    .await?;
    Ok(ids)
}

/// Backups older than this are not looked through for whether they are being taken: it bounds the listings.
const LONGEST_BACKUP: SignedDuration = SignedDuration::from_hours(48);

/// The incomplete backups that something was stored of within `recent` before `now`, with when that was.
pub async fn underway(
    archive: &Archive,
    system: SystemId,
    now: Timestamp,
    recent: SignedDuration,
) -> Result<Vec<(BackupId, Timestamp)>> {
    let mut underway = Vec::new();
    for id in ids(archive, system).await? {
        if now.duration_since(id.started()) > LONGEST_BACKUP {
            continue;
        }
        let Contents { complete, newest, .. } = contents(archive, system, id).await?;
        if !complete && now.duration_since(newest) <= recent {
            underway.push((id, newest));
        }
    }
    Ok(underway)
}

/// What lies below an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Is there a short manifest, of whatever content?
    pub complete: bool,
    /// How many objects of the backup there are.
    pub objects: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// When the newest object below the id was stored, by the store's clock.
    pub newest: Timestamp,
}

/// Lists what lies below an id.
///
/// # Errors
/// Those of the store.
pub async fn contents(archive: &Archive, system: SystemId, id: BackupId) -> Result<Contents> {
    let mut contents = Contents { complete: false, objects: 0, bytes: 0, newest: Timestamp::MIN };
    let query = ListQuery { prefix: layout::backup_prefix(system, id), ..ListQuery::default() };
    list_all(&**archive.store(), query, |page| {
        for object in page.objects {
            contents.newest = contents.newest.max(object.modified);
            // What others have put there is not the backup's.
            let Some(key) = Key::parse(&object.key) else { continue };
            contents.complete |= key == Key::Backup(system, id);
            contents.objects += 1;
            contents.bytes += object.size;
        }
    })
    .await?;
    Ok(contents)
}

/// An id for a backup that began then, in a second that no other one has: ids have whole seconds, and a backup of a standby
/// can begin in the same one as its primary's, in the same segment. Whoever may not list gets the first.
///
/// # Errors
/// Those of the store.
pub async fn free_id(
    archive: &Archive,
    system: SystemId,
    started: Timestamp,
    segment: SegmentName,
) -> Result<BackupId> {
    let mut second = started;
    loop {
        let id = BackupId::new(second, segment);
        match contents(archive, system, id).await {
            Ok(Contents { objects: 0, .. }) => return Ok(id),
            Ok(_) => second = second.saturating_add(SignedDuration::from_secs(1)).unwrap_or(second),
            Err(error) if error.kind() == Kind::Denied => return Ok(id),
            Err(error) => return Err(error.during("could not look whether the backup's id is free")),
        }
    }
}

/// The ids of a cluster without a short manifest, oldest first, with what lies below them.
///
/// # Errors
/// Those of the store.
pub async fn incomplete(archive: &Archive, system: SystemId) -> Result<Vec<(BackupId, Contents)>> {
    let mut incomplete = Vec::new();
    for id in ids(archive, system).await? {
        // Of complete ones, which can have very many objects, nothing is listed.
        match archive.store().head(&Key::Backup(system, id).to_string()).await {
            Ok(_) => continue,
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
        let contents = contents(archive, system, id).await?;
        if !contents.complete {
            incomplete.push((id, contents));
        }
    }
    Ok(incomplete)
}

/// The complete backups of a cluster, oldest first.
pub async fn complete(archive: &Archive, system: SystemId) -> Result<Vec<Backup>> {
    let found = list(archive, system).await?.into_iter();
    Ok(found
        .filter_map(|found| match found {
            Found::Complete(backup) => Some(*backup),
            Found::Incomplete(..) => None,
        })
        .collect())
}

/// One backup.
///
/// # Errors
/// [`Kind::NotFound`] if there is no complete backup of this id.
pub async fn read(archive: &Archive, system: SystemId, id: BackupId) -> Result<Backup> {
    read_with_content(archive, system, id).await.map(|(backup, _)| backup)
}

/// The same, with the very bytes of its short manifest.
///
/// # Errors
/// As [`read`].
pub async fn read_with_content(archive: &Archive, system: SystemId, id: BackupId) -> Result<(Backup, Vec<u8>)> {
    let key = Key::Backup(system, id);
    let content = archive.store().get(&key.to_string(), None).await?.read_all(SHORT_LIMIT).await?;
    let backup = Backup::from_json(&content).during(|| format!("could not read {}", archive.url(&key)))?;
    if backup.id != id || backup.system_id != system {
        return Err(Error::new(Kind::Corrupt, format!("{} is that of another backup", archive.url(&key)))
            .detail(format!("it is that of {} of system identifier {}", backup.id, backup.system_id)));
    }
    Ok((backup, content))
}

/// The newest complete backup.
///
/// # Errors
/// [`Kind::NotFound`] if there is none.
pub async fn latest(archive: &Archive, system: SystemId) -> Result<Backup> {
    complete(archive, system).await?.pop().ok_or_else(|| none_complete(archive))
}

/// Says that there is no complete backup.
pub fn none_complete(archive: &Archive) -> Error {
    Error::new(Kind::NotFound, format!("the archive {} has no complete backup", archive.store().url("")))
        .hint("Take one with walden backup-push.")
}

/// What the last deletion by retention has done in a cluster's archive; `None` if there was none.
///
/// # Errors
/// [`Kind::Corrupt`] if what it left is damaged, [`Kind::Refused`] if a newer version has written it.
pub async fn last_retention(archive: &Archive, system: SystemId) -> Result<Option<LastRun>> {
    let key = Key::Retention(system);
    let content = match archive.store().get(&key.to_string(), None).await {
        Ok(download) => download.read_all(SHORT_LIMIT).await?,
        Err(error) if error.kind() == Kind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    LastRun::from_json(&content).during(|| format!("could not read {}", archive.url(&key))).map(Some)
}

/// The list of files of a backup.
///
/// # Errors
/// [`Kind::Corrupt`] if it is damaged or not the one that the short manifest knows.
pub async fn files(archive: &Archive, backup: &Backup) -> Result<Files> {
    let key = Key::Files(backup.system_id, backup.id);
    let (header, reader) = archive.get_file(&key, FilesReader::new(backup.id)).await?;
    if header.plain_blake3.to_string() != backup.files_blake3 {
        return Err(Error::new(Kind::Corrupt, format!("{} is not the list of files of its backup", archive.url(&key)))
            .detail(format!("its digest is {}, not {}", header.plain_blake3, backup.files_blake3)));
    }
    reader.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::PartName;
    use crate::storage::PutMode;
    use crate::storage::local::LocalStore;

    #[tokio::test]
    async fn an_id_that_is_taken_is_not_given_again() {
        let directory = tempfile::tempdir().unwrap();
        let archive = Archive::new(Arc::new(LocalStore::new(directory.path().join("archive"))), 1);
        let (system, segment) = (SystemId(7), SegmentName::parse("000000010000000000000002").unwrap());
        let started: Timestamp = "2026-11-26T21:56:59.8Z".parse().unwrap();
        for (second, key) in [
            ("20261126T215659Z", Key::Part as fn(_, _, _) -> _),
            ("20261126T215700Z", |system, id, _| Key::Backup(system, id)),
            ("20261126T215701Z", |system, id, _| Key::Files(system, id)),
        ] {
            let id = free_id(&archive, system, started, segment).await.unwrap();
            assert_eq!(id.to_string(), format!("{second}-{segment}"));
            let key = key(system, id, PartName { volume: 0, part: 0 }).to_string();
            archive.store().put(&key, b"x".to_vec().into(), PutMode::New).await.unwrap();
        }
        // Another segment is another id.
        let other = SegmentName::parse("000000010000000000000003").unwrap();
        let id = free_id(&archive, system, started, other).await.unwrap();
        assert_eq!(id.to_string(), format!("20261126T215659Z-{other}"));
    }
}
