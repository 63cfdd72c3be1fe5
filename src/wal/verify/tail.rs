//! When the last transactions of the WAL ended: read from the segments themselves, newest first.

use jiff::Timestamp;

use crate::archive::Archive;
use crate::error::Result;
use crate::layout::Key;
use crate::postgres::control::SystemId;
use crate::postgres::lsn::Lsn;
use crate::wal::chain::{Coverage, legs};
use crate::wal::commits::Commits;
use crate::wal::segment::{SegmentName, SegmentSize, WalFile};
use crate::wal::timeline::History;

/// So much WAL is read at most, but one segment in any case: enough to get past idle segments, and past a clock that was
/// set back.
const READ_AT_MOST: u64 = 128 << 20;

/// The latest end of a transaction in the WAL that lies before the first gap of a way; `None` if there was none in what
/// was read. The work ends with the first segment, from the newest on, in which `suffices` holds of it.
///
/// # Errors
/// Those of a fetch: a segment that is damaged or gone is no end of the WAL.
pub async fn last_commit(
    archive: &Archive,
    system: SystemId,
    history: &History,
    coverage: &Coverage,
    size: SegmentSize,
    suffices: impl Fn(Timestamp) -> bool,
) -> Result<Option<Timestamp>> {
    let mut latest = None;
    for name in newest_first(history, coverage, size).take((READ_AT_MOST / size.bytes()).max(1) as usize) {
        let key = Key::Wal(system, WalFile::Segment(name));
        let (_, commits) = archive.get_file(&key, Commits::default()).await?;
        latest = latest.max(commits.latest());
        // What goes on behind the last segment cannot be replayed.
        if coverage.last != Some(name) {
            latest = latest.max(commits.unfinished());
        }
        if latest.is_some_and(&suffices) {
            break;
        }
    }
    Ok(latest)
}

/// The segments before the first gap of a way.
pub fn newest_first(history: &History, coverage: &Coverage, size: SegmentSize) -> impl Iterator<Item = SegmentName> {
    let start = coverage.first;
    let end = coverage.end.0 / size.bytes();
    let legs = legs(Lsn(start * size.bytes()), history, size);
    (start..end).rev().filter_map(move |number| {
        let leg = legs.iter().rev().find(|leg| leg.first <= number)?;
        SegmentName::new(leg.timeline, number, size)
    })
}
