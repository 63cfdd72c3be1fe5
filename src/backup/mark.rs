//! `backup-mark`: changes what users have written on a backup.
//!
//! Puts another short manifest in the place of the old one, the only object of an archive that is ever replaced. Never
//! changes what says where the data lies.

use super::catalogue;
use super::manifest::{Backup, MarkChange};
use crate::archive::Archive;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::{BackupId, Key};
use crate::postgres::control::SystemId;
use crate::storage::PutMode;

/// Changes the marks of a complete backup, and returns it as it is then. Of two changes at the same moment the later one
/// wins.
///
/// # Errors
/// [`Kind::NotFound`] if there is no complete backup of this id; [`Kind::Refused`] if a newer version has written what
/// would be lost.
pub async fn mark(archive: &Archive, system: SystemId, id: BackupId, change: MarkChange) -> Result<Backup> {
    let (backup, content) = catalogue::read_with_content(archive, system, id).await?;
    let mut marked = backup.clone();
    marked.marks.change(change);
    if marked == backup {
        return Ok(backup);
    }
    if !backup.is_all_of(&content) {
        return Err(Error::new(Kind::Refused, format!("could not mark backup {id}"))
            .detail("a newer version of walden has written into its manifest what this one does not know")
            .hint("Use the version of walden that took the backup, or a newer one."));
    }
    let key = Key::Backup(system, id).to_string();
    let put = archive.store().put(&key, marked.to_json()?.into(), PutMode::Replace).await;
    put.during(|| format!("could not mark backup {id}"))?;
    Ok(marked)
}
