//! `status`: how a cluster's archive stands, from the store alone.
//!
//! Puts together what others find; judges nothing, and lists no WAL twice but the newest.

use std::sync::Arc;

use jiff::Timestamp;

use crate::archive::Archive;
use crate::backup::manifest::Backup;
use crate::error::Result;
use crate::observe::{Event, Observer};
use crate::postgres::control::SystemId;
use crate::wal::segment::SegmentName;
use crate::wal::survey;
use crate::wal::verify::{self, Report};

/// How the archive of a cluster stands.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its backups, and how far they lead.
    pub report: Report,
    /// The last segment of the newest timeline, and when it was stored, by the store's clock.
    pub last_segment: Option<(SegmentName, Timestamp)>,
}

impl Status {
    /// The newest complete backup.
    pub fn last_backup(&self) -> Option<&Backup> {
        self.report.backups.last().map(|verified| &verified.backup)
    }
}

/// Finds it out.
///
/// # Errors
/// Those of the store: what cannot be seen is never taken for missing.
pub async fn status(archive: &Archive, system: SystemId, observer: &Arc<dyn Observer>) -> Result<Status> {
    let report = verify::verify(archive, system, None, observer).await?;
    let last_segment = match report.newest_timeline {
        Some(timeline) => {
            // The newest backup's id names the segment in which it began.
            let on_it = report.backups.iter().rev().map(|verified| &verified.backup);
            let after = on_it.filter(|backup| backup.timeline == timeline).find_map(before);
            survey::last_segment(archive, system, timeline, after).await?
        }
        None => None,
    };
    observer.notice(Event::Done(format!("the archive of cluster {system} has been looked at")));
    Ok(Status { report, last_segment })
}

/// The segment before the one in which a backup began.
fn before(backup: &Backup) -> Option<SegmentName> {
    let size = backup.segment_size().ok()?;
    let first = SegmentName::containing(backup.timeline, backup.start, size).number(size)?;
    SegmentName::new(backup.timeline, first.checked_sub(1)?, size)
}
