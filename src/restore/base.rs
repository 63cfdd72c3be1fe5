//! The backup that a restore begins with, as far as it matters to the recovery: one of ours, or one that WAL-E or WAL-G
//! wrote. Pure.

use jiff::Timestamp;

use crate::backup::manifest::Backup;
use crate::error::Result;
use crate::layout::basebackups::Writer;
use crate::postgres::control::SystemId;
use crate::postgres::entry::Tablespace;
use crate::postgres::lsn::Lsn;
use crate::wal::segment::SegmentSize;
use crate::wal::timeline::Timeline;

/// What is known of a backup before it is restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Its id, or its name.
    pub name: String,
    /// Who wrote it, if not Walden.
    pub writer: Option<Writer>,
    /// Whose backup it is.
    pub system_id: SystemId,
    /// The major version of PostgreSQL.
    pub postgres: u16,
    /// When the copying began; only some say it.
    pub started: Option<Timestamp>,
    /// When it ended: recovery can stop at this time and later.
    pub finished: Timestamp,
    /// Is that its own word? Otherwise it is when its sentinel was stored, which in a copied archive is any time later.
    pub finish_is_said: bool,
    /// The timeline of its WAL.
    pub timeline: Timeline,
    /// Where replay begins.
    pub start: Lsn,
    /// Up to where replay must get before the copy is consistent.
    pub stop: Lsn,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
    /// Number of files, where it is said.
    pub files: Option<u64>,
    /// Bytes of all files, where it is said.
    pub plain_size: Option<u64>,
    /// Bytes that are fetched.
    pub stored_size: u64,
    /// Tablespaces other than the two in the data directory.
    pub tablespaces: Vec<Tablespace>,
}

impl Base {
    /// One of ours.
    ///
    /// # Errors
    /// [`crate::error::Kind::Corrupt`] if it has a segment size that PostgreSQL does not know.
    pub fn of(backup: &Backup) -> Result<Base> {
        Ok(Base {
            name: backup.id.to_string(),
            writer: None,
            system_id: backup.system_id,
            postgres: backup.postgres,
            started: Some(backup.started),
            finished: backup.finished,
            finish_is_said: true,
            timeline: backup.timeline,
            start: backup.start,
            stop: backup.stop,
            segment_size: backup.segment_size()?,
            files: Some(backup.files),
            plain_size: Some(backup.plain_size),
            stored_size: backup.stored_size,
            tablespaces: backup.tablespaces.clone(),
        })
    }
}
