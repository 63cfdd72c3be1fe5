//! `retention.json`: what the last deletion in a cluster's archive has done, or was doing when it was interrupted
//! (docs/format.md, "retention.json"). Pure: the form.
//!
//! Nothing hangs on it but the end of an interrupted deletion, and what is told of the last one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::layout::{self, BackupId, sealed};
use crate::postgres::control::SystemId;

/// The last deletion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// The format version.
    pub format: u32,
    /// The version of Walden that wrote it.
    pub walden: String,
    /// Whose archive it is.
    pub system_id: SystemId,
    /// What was asked for, in the words of the command line: `retain 7`, `policy`.
    pub command: String,
    /// When it began, by the store's clock.
    pub begun: Timestamp,
    /// When it ended; none while it runs, or if it was interrupted.
    pub finished: Option<Timestamp>,
    /// The backups that it was to delete, as long as they are not wholly gone.
    pub deleting: Vec<BackupId>,
    /// The backups that it has deleted.
    pub deleted: Vec<BackupId>,
    /// How many objects of backups it has deleted, those of earlier deletions that were interrupted among them.
    pub backup_objects: u64,
    /// How many WAL files.
    pub wal_files: u64,
    /// The bytes of all that.
    pub bytes: u64,
    /// How many objects could not be deleted.
    pub refused: u64,
    /// How many are only marked as deleted, in a bucket that keeps versions.
    pub marked: u64,
    /// The first failure, in words.
    pub failure: Option<String>,
    /// How many backups stay.
    pub kept: u64,
    /// When the oldest of them that leads further than to its own end had ended.
    pub oldest: Option<Timestamp>,
}

impl LastRun {
    /// Of a run that has done nothing yet.
    pub fn begin(system_id: SystemId, command: &str, begun: Timestamp, deleting: Vec<BackupId>) -> LastRun {
        LastRun {
            format: layout::CLEAR,
            walden: env!("CARGO_PKG_VERSION").to_owned(),
            system_id,
            command: command.to_owned(),
            begun,
            finished: None,
            deleting,
            deleted: Vec::new(),
            backup_objects: 0,
            wal_files: 0,
            bytes: 0,
            refused: 0,
            marked: 0,
            failure: None,
            kept: 0,
            oldest: None,
        }
    }

    /// The content of `retention.json`.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        sealed::to_json("retention.json", self)
    }

    /// Reads `retention.json`.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](crate::error::Kind::Corrupt) if it is damaged, [`Kind::Refused`](crate::error::Kind::Refused) for a
    /// newer format.
    pub fn from_json(content: &[u8]) -> Result<LastRun> {
        sealed::from_json("retention.json", content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn it_is_read_as_it_was_written_and_damage_is_noticed() {
        let id: BackupId = "20261121T013005Z-0000000100000000000000AB".parse().unwrap();
        let run = LastRun::begin(SystemId(7), "retain 2", Timestamp::from_second(1_800_000_000).unwrap(), vec![id]);
        let mut json = run.to_json().unwrap();
        assert_eq!(LastRun::from_json(&json).unwrap(), run);
        json[40] ^= 1;
        assert_eq!(LastRun::from_json(&json).unwrap_err().kind(), Kind::Corrupt);
    }
}
