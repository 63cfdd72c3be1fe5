//! Whether a recovery gets to its goal with the WAL that the archive holds. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::base::Base;
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
pub(super) fn way(backup: &Base, history: History, coverage: Coverage, stored: Option<Timestamp>) -> Result<Way> {
    match coverage.window(backup.stop, backup.finished, stored) {
        Some(window) => Ok(Way { history, coverage, window, last_commit: None }),
        None => Err(Error::new(
            Kind::Incomplete,
            format!("backup {} lacks WAL that it needs up to {}", backup.name, backup.stop),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::manifest::Backup;
    use crate::config::target::Action;
    use crate::postgres::control::SystemId;
    use crate::wal::chain::Inventory;
    use crate::wal::segment::SegmentSize;
    use crate::wal::timeline::Timeline;

    const SIZE: u64 = 16 << 20;

    fn time(text: &str) -> Timestamp {
        format!("2026-11-25T{text}Z").parse().unwrap()
    }

    /// A backup in segment 2 that ended at noon, and these segments; the last one was stored at one.
    fn made(segments: &[u64]) -> Result<Way> {
        let start = Lsn(2 * SIZE + 40);
        let stop = Lsn(2 * SIZE + 1000);
        let history = History::root(Timeline(1));
        let mut inventory = Inventory::new(SegmentSize::new(SIZE).unwrap());
        inventory.add(Timeline(1), segments.iter().copied().collect());
        let coverage = inventory.coverage(start, stop, &history);
        let backup = Backup { start, stop, finished: time("12:00:00"), ..backup() };
        way(&Base::of(&backup)?, history, coverage, Some(time("13:00:00")))
    }

    fn backup() -> Backup {
        Backup { segment_size: SIZE, system_id: SystemId(1), ..crate::backup::manifest::tests::backup() }
    }

    fn target(point: Point, exclusive: bool) -> Goal {
        Goal::Target(Target { point, exclusive, action: Action::Pause })
    }

    fn at(text: &str) -> Goal {
        target(Point::Time(time(text)), false)
    }

    #[test]
    fn without_its_own_wal_a_backup_leads_nowhere() {
        let error = made(&[3, 4]).unwrap_err();
        assert_eq!(error.kind(), Kind::Incomplete);
        assert!(error.what().contains("lacks WAL"), "{error:?}");
    }

    #[test]
    fn a_gap_stops_what_must_go_to_the_end_and_warns_what_may_stop_before() {
        let whole = made(&[2, 3, 4]).unwrap();
        let holed = made(&[2, 4]).unwrap();
        for goal in [Goal::EndOfArchive, Goal::Standby] {
            assert_eq!(check(&goal, &whole).unwrap().len(), 0);
            assert_eq!(check(&goal, &holed).unwrap_err().kind(), Kind::Incomplete);
        }
        assert_eq!(check(&target(Point::Immediate, false), &holed).unwrap().len(), 0);
        assert_eq!(check(&target(Point::Xid(7), false), &whole).unwrap().len(), 0);
        assert_eq!(check(&target(Point::Xid(7), false), &holed).unwrap().len(), 1);
        for (lsn, reached) in [(3 * SIZE - 1, true), (3 * SIZE, false)] {
            assert_eq!(check(&target(Point::Lsn(Lsn(lsn)), false), &holed).is_ok(), reached, "{lsn}");
        }
    }

    #[test]
    fn a_time_is_reached_if_a_transaction_ended_later_or_then_if_it_is_exclusive() {
        let way = Way { last_commit: Some(time("12:30:00")), ..made(&[2, 3]).unwrap() };
        assert_eq!(check(&at("12:29:59.999999"), &way).unwrap().len(), 0);
        assert_eq!(check(&target(Point::Time(time("12:30:00")), true), &way).unwrap().len(), 0);
        for goal in [at("12:30:00"), target(Point::Time(time("12:30:00.000001")), true)] {
            let error = check(&goal, &way).unwrap_err();
            assert_eq!(error.kind(), Kind::Incomplete);
            let detail = error.cause().unwrap();
            for part in ["from 2026-11-25T12:00:00Z", "to 2026-11-25T13:00:00Z", "ended at 2026-11-25T12:30:00Z"] {
                assert!(detail.contains(part), "{detail}");
            }
        }
    }

    #[test]
    fn where_no_transaction_is_seen_only_what_is_certainly_later_is_refused() {
        let way = made(&[2, 3]).unwrap();
        assert_eq!(check(&at("12:59:00"), &way).unwrap().len(), 1);
        assert_eq!(check(&at("13:15:00"), &way).unwrap().len(), 1);
        assert_eq!(check(&at("13:15:01"), &way).unwrap_err().kind(), Kind::Incomplete);
        let unknown = Way { window: Window { end_time: None, ..way.window }, ..way };
        assert_eq!(check(&at("23:00:00"), &unknown).unwrap().len(), 1);
    }
}
