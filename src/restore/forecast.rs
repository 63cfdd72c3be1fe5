//! What a restore is going to do, said before it does anything. Pure.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::base::Base;
use super::destination::Destination;
use super::reach::Way;
use crate::config::target::{Goal, OwnerName, Point};
use crate::postgres::entry::{Database, Tablespace};
use crate::postgres::lsn::Lsn;
use crate::wal::chain::Window;
use crate::wal::timeline::Timeline;

/// What a restore is going to do.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// Which backup it takes.
    pub backup: Base,
    /// The data directory that it makes.
    pub directory: PathBuf,
    /// The tablespaces, and where they will lie.
    pub tablespaces: Vec<(Tablespace, PathBuf)>,
    /// Where the WAL will lie, if not in the data directory.
    pub wal_directory: Option<PathBuf>,
    /// Whom everything will belong to, if not whoever restores it.
    pub owner: Option<OwnerName>,
    /// How the cluster is to recover.
    pub goal: Goal,
    /// Along which timeline.
    pub timeline: Timeline,
    /// The WAL that it replays.
    pub wal: Replay,
    /// Where a recovery from this backup along this timeline can stop.
    pub window: Window,
    /// The latest end of a transaction in the WAL of the archive, by the primary's clock, where somebody has looked.
    pub last_commit: Option<Timestamp>,
    /// About how long the files take: as long as the backup took for the same bytes, where that is known. The replay of the
    /// WAL comes on top.
    pub copying: Option<Duration>,
    /// What lies outside the data directory and is in no backup.
    pub configuration: Configuration,
    /// Databases that are there as zeros only, and are to be dropped.
    pub left_out: Vec<Database>,
    /// What cannot be known beforehand.
    pub unknown: Vec<String>,
    /// What the user should know all the same.
    pub warnings: Vec<String>,
}

/// The WAL that a recovery replays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// From the beginning of this segment on.
    pub from: Lsn,
    /// Up to here, not included.
    pub to: Lsn,
    /// Does it certainly end there, or there at the latest?
    pub exact: bool,
    /// How many segments that is.
    pub segments: u64,
    /// How many bytes, as the server reads them.
    pub bytes: u64,
}

/// Whether the backup brings its configuration along.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Files that the server cannot do without and the backup has not: they lay elsewhere, or were symbolic links.
    pub missing: Vec<&'static str>,
}

/// The files that a server cannot start without (`config_file`, `hba_file`; `ident_file` may be missing).
pub(super) const CONFIGURATION_FILES: [&str; 2] = ["postgresql.conf", "pg_hba.conf"];

impl Configuration {
    /// Does `postgresql.conf` lie elsewhere, as on Debian and its relatives?
    pub fn is_elsewhere(&self) -> bool {
        self.missing.contains(&CONFIGURATION_FILES[0])
    }
}

/// What is known before the first byte is written.
pub(super) struct Known<'a> {
    pub(super) backup: &'a Base,
    pub(super) goal: &'a Goal,
    pub(super) owner: Option<&'a OwnerName>,
    pub(super) destination: &'a Destination,
    pub(super) way: &'a Way,
    pub(super) configuration: Configuration,
    pub(super) left_out: Vec<Database>,
    pub(super) warnings: Vec<String>,
}

/// Puts it into words and figures.
pub(super) fn forecast(known: Known<'_>) -> Forecast {
    let Known { backup, goal, owner, destination, way, configuration, left_out, warnings } = known;
    let size = backup.segment_size.bytes();
    let tablespaces = backup
        .tablespaces
        .iter()
        .filter_map(|tablespace| Some((tablespace.clone(), destination.tablespaces().get(&tablespace.oid)?.clone())));
    Forecast {
        backup: backup.clone(),
        directory: destination.root().to_owned(),
        tablespaces: tablespaces.collect(),
        wal_directory: destination.wal().map(PathBuf::from),
        owner: owner.cloned(),
        goal: goal.clone(),
        timeline: way.history.timeline,
        wal: replay(backup, goal, way, size),
        window: way.window,
        last_commit: way.last_commit,
        copying: backup.started.map(|started| backup.finished.duration_since(started).unsigned_abs()),
        configuration,
        left_out,
        unknown: unknown(goal),
        warnings,
    }
}

/// From the segment in which the backup starts to the one in which the target lies, or to the last one.
fn replay(backup: &Base, goal: &Goal, way: &Way, size: u64) -> Replay {
    let first = backup.start.0 / size;
    let (to, exact) = match goal {
        Goal::Target(target) => match target.point {
            Point::Lsn(lsn) => (lsn.min(way.window.end), true),
            Point::Immediate => (backup.stop, true),
            Point::Time(_) | Point::Xid(_) | Point::Name(_) => (way.window.end, false),
        },
        Goal::EndOfArchive => (way.window.end, true),
        // It goes on for ever.
        Goal::Standby => (way.window.end, true),
    };
    let segments = to.0.saturating_sub(1) / size + 1 - first;
    Replay { from: Lsn(first * size), to, exact, segments, bytes: segments * size }
}

fn unknown(goal: &Goal) -> Vec<String> {
    let Goal::Target(target) = goal else { return Vec::new() };
    let what = match &target.point {
        Point::Xid(xid) => format!("transaction {xid}"),
        Point::Name(name) => format!("the restore point \"{}\"", name.as_str()),
        Point::Time(_) | Point::Lsn(_) | Point::Immediate => return Vec::new(),
    };
    vec![format!("whether the WAL holds {what}, and holds it after the end of the backup: if not, the recovery fails")]
}
