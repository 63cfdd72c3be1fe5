//! Whether a recovery gets to its goal with the WAL that the archive holds. Pure.

use std::time::Duration;

use jiff::Timestamp;

use crate::backup::manifest::Backup;
use crate::config::target::{Goal, Point, Target};
use crate::error::{Error, Kind, Result};
use crate::postgres::lsn::Lsn;
use crate::wal::chain::{Coverage, Window};
use crate::wal::timeline::History;

/// What the archive holds on the way of a recovery.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// The timelines that it passes through.
    pub(super) history: History,
    /// Which segments are there.
    pub(super) coverage: Coverage,
    /// Where it can stop.
    pub(super) window: Window,
    /// The latest commit or abort in the last WAL before the first gap, by the primary's clock; `None` if that holds none,
    /// or nobody has looked.
    pub(super) last_commit: Option<Timestamp>,
}

/// What the segments of a way are, as far as the backup can be recovered at all. `stored` is when the last one before the
/// first gap was stored.
///
/// # Errors
/// [`Kind::Incomplete`] if WAL is missing without which the backup does not become consistent.
pub(super) fn way(backup: &Backup, history: History, coverage: Coverage, stored: Option<Timestamp>) -> Result<Way> {
    match coverage.window(backup.stop, backup.finished, stored) {
        Some(window) => Ok(Way { history, coverage, window, last_commit: None }),
        None => Err(Error::new(
            Kind::Incomplete,
            format!("backup {} lacks WAL that it needs up to {}", backup.id, backup.stop),
        )
        .detail(held(&history, &coverage))
        .hint("Choose another backup: walden backup-list prints them.")),
    }
}

/// Does the archive hold the WAL that the recovery needs? Returns what the user should know all the same.
///
/// A gap before the end of the archive ends a recovery without a target silently, with rows missing, and stops a standby
/// for good: it is refused. A recovery with a target fails by itself if it does not get there (PostgreSQL 13 and later,
/// `PerformWalRecovery` in src/backend/access/transam/xlogrecovery.c), but only when it has replayed everything: what
/// certainly lies behind the WAL that is there is refused as well.
///
/// # Errors
/// [`Kind::Incomplete`], with what the archive holds.
pub(super) fn check(goal: &Goal, way: &Way) -> Result<Vec<String>> {
    let Way { history, coverage, window, .. } = way;
    let target = match goal {
        Goal::Target(target) => target,
        Goal::EndOfArchive | Goal::Standby if coverage.gaps.is_empty() => return Ok(Vec::new()),
        Goal::EndOfArchive | Goal::Standby => {
            return Err(Error::new(Kind::Incomplete, "the archive has a gap after the backup")
                .detail(held(history, coverage))
                .hint(format!(
                    "If a server still has the missing segments, store them with walden wal-backfill PGDATA; or stop \
                     before the gap with --target-lsn {}.",
                    Lsn(coverage.end.0 - 1)
                )));
        }
    };
    let mut warnings = Vec::new();
    match target.point {
        Point::Immediate => return Ok(warnings),
        Point::Lsn(lsn) if lsn >= window.end => return Err(beyond(target, &lsn.to_string(), way)),
        Point::Lsn(_) => return Ok(warnings),
        Point::Time(time) => warnings.extend(check_time(target, time, way)?),
        Point::Xid(_) | Point::Name(_) => {}
    }
    if let Some(gap) = coverage.gaps.first() {
        warnings.push(format!(
            "the archive has a gap ({gap}): the recovery fails if its target lies behind {}",
            coverage.end
        ));
    }
    Ok(warnings)
}

/// How far the store's clock and the primary's may be apart: S3 refuses requests that are further off
/// (`RequestTimeTooSkewed`; Amazon S3 API Reference, "Error responses").
const CLOCKS_APART: Duration = Duration::from_secs(15 * 60);

/// Recovery stops before the first commit that is later than the target, or not earlier, if it is exclusive
/// (`recoveryStopsBefore` in src/backend/access/transam/xlogrecovery.c). Without such a one it fails.
fn check_time(target: &Target, time: Timestamp, way: &Way) -> Result<Option<String>> {
    let reaches = |commit: Timestamp| if target.exclusive { commit >= time } else { commit > time };
    match (way.last_commit, way.window.end_time) {
        (Some(commit), _) if reaches(commit) => Ok(None),
        (Some(commit), _) => Err(beyond(target, &time.to_string(), way).detail(format!(
            "the last transaction there ended at {commit}, and recovery stops at one that ended later"
        ))),
        (None, Some(stored)) if time > stored.saturating_add(CLOCKS_APART).unwrap_or(Timestamp::MAX) => {
            Err(beyond(target, &time.to_string(), way))
        }
        (None, _) => Ok(Some(format!(
            "the newest WAL of the archive holds no transaction: the recovery fails if none ended later than {time}"
        ))),
    }
}

fn beyond(target: &Target, place: &str, way: &Way) -> Error {
    let before = if target.exclusive { "before " } else { "" };
    Error::new(Kind::Incomplete, format!("the archive does not reach the target {before}{place}"))
        .detail(held(&way.history, &way.coverage))
        .detail(format!("a recovery can stop {}", way.window))
        .hint(
            "Choose an earlier target, or another way with --target-timeline; if the primary still writes, run SELECT \
             pg_switch_wal() there and try again; or store missing segments with walden wal-backfill PGDATA, if a server \
             still has them.",
        )
}

fn held(history: &History, coverage: &Coverage) -> String {
    let gap =
        coverage.gaps.first().map_or("nothing newer is there".to_owned(), |gap| format!("the first gap is {gap}"));
    format!("on the way to timeline {} the archive holds the WAL up to {}, {gap}", history.timeline.0, coverage.end)
}
