//! What a verification has found, and what follows from it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;

use crate::backup::manifest::Backup;
use crate::error::{Error, Kind, Result};
use crate::layout::BackupId;
use crate::observe::counted;
use crate::postgres::control::SystemId;
use crate::wal::chain::{Coverage, Gap, Inventory, Leg, Window, legs, union};
use crate::wal::runs::Runs;
use crate::wal::segment::{SegmentName, SegmentSize, WalFile};
use crate::wal::survey::{Holdings, Outline};
use crate::wal::timeline::{History, Switch, Timeline};
use crate::wal::tree::Tree;

/// What was found of one cluster.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which cluster.
    pub system_id: SystemId,
    /// The complete backups, oldest first.
    pub backups: Vec<VerifiedBackup>,
    /// Backups without a short manifest: being taken, or the remains of failed ones.
    pub incomplete_backups: Vec<BackupId>,
    /// The newest timeline that has WAL.
    pub newest_timeline: Option<Timeline>,
    /// Every timeline that the archive knows of, in the order of their numbers.
    pub timelines: Vec<SeenTimeline>,
    /// Timelines without their history file, which a recovery would need.
    pub missing_histories: Vec<Timeline>,
    /// Everything that is damaged, in the order of the names.
    pub damaged: Vec<Damage>,
    /// What reading the segments has come to; `None` if they were not read.
    pub deep: Option<DeepRead>,
    /// What was not looked at, a sentence each.
    pub skipped: Vec<String>,
}

/// What the listings tell of a timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenTimeline {
    /// The timeline.
    pub timeline: Timeline,
    /// Which one it left, where, and why; `None` for one without ancestors, or without a history file.
    pub parent: Option<Switch>,
    /// When its history file was stored, by the store's clock. A copied archive has the times of its copying.
    pub promoted: Option<Timestamp>,
    /// How many of its segments are there, of those that the backups can need.
    pub segments: u64,
    /// Stored bytes of its WAL files, as far as the backups can need them.
    pub stored_size: u64,
}

/// A complete backup.
#[derive(Clone, Debug)]
pub struct VerifiedBackup {
    /// Its short manifest.
    pub backup: Backup,
    /// Each way that a recovery from it can take; at least one.
    pub ways: Vec<Way>,
}

/// One way of a recovery: along a timeline to the newest segment.
#[derive(Clone, Debug)]
pub struct Way {
    /// The timelines that it passes through.
    pub history: History,
    /// A recovery goes this way unless it is told otherwise.
    pub latest: bool,
    /// Which of its segments are there.
    pub coverage: Coverage,
    /// Where it can stop; `None` if the backup cannot even become consistent.
    pub window: Option<Window>,
    /// Its damaged segments.
    pub damaged: Vec<SegmentName>,
}

/// Where recoveries along one timeline can stop, from whichever backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recoverable {
    /// The timeline, with those that it passes through.
    pub timeline: Timeline,
    /// A recovery from one of the backups goes this way unless it is told otherwise.
    pub latest: bool,
    /// From where to where; several if there are gaps.
    pub windows: Vec<Window>,
    /// What is missing.
    pub gaps: Vec<Gap>,
}

impl fmt::Display for Recoverable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let windows: Vec<String> = self.windows.iter().map(Window::to_string).collect();
        write!(f, "along timeline {} {}", self.timeline.0, windows.join(" and "))
    }
}

/// An object that is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file's name, or the object's key.
    pub name: String,
    /// Whether it can be read by a newer version of Walden: then it is not damaged, but nothing was seen of it.
    pub newer: bool,
    /// What is wrong with it.
    pub detail: String,
}

impl Damage {
    /// Of an object that could not be read for this reason.
    pub(super) fn of(name: String, error: &Error) -> Damage {
        Damage { name, newer: error.kind() == Kind::Refused, detail: error.to_string() }
    }

    pub(super) fn is_of(&self, file: WalFile) -> bool {
        self.name == file.to_string()
    }
}

/// What reading segments has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeepRead {
    /// Segments that were read now and are sound.
    pub sound: u64,
    /// Segments that an earlier run, which was interrupted, had read and found sound.
    pub sound_before: u64,
    /// Segments with damage; those in [`Report::damaged`] among them.
    pub damaged: u64,
    /// Segments that had been listed and were gone when they were read.
    pub vanished: Vec<SegmentName>,
    /// The first of the damaged ones.
    pub(super) damage: BTreeMap<SegmentName, Damage>,
}

impl Report {
    pub(super) fn of(system_id: SystemId) -> Report {
        Report {
            system_id,
            backups: Vec::new(),
            incomplete_backups: Vec::new(),
            newest_timeline: None,
            timelines: Vec::new(),
            missing_histories: Vec::new(),
            damaged: Vec::new(),
            deep: None,
            skipped: Vec::new(),
        }
    }

    /// Adds what was listed of the segments of one size.
    pub(super) fn note_holdings(&mut self, holdings: &BTreeMap<Timeline, Holdings>) {
        for seen in &mut self.timelines {
            if let Some(holdings) = holdings.get(&seen.timeline) {
                seen.segments += holdings.segments.count();
                seen.stored_size += holdings.stored_size;
            }
        }
    }

    /// Adds what reading the segments of this size has come to.
    pub(super) fn take(&mut self, mut read: DeepRead, size: SegmentSize) {
        for VerifiedBackup { backup, ways } in &mut self.backups {
            if backup.segment_size != size.bytes() {
                continue;
            }
            for way in ways {
                let legs = legs(backup.start, &way.history, size);
                let on_the_way = |name: &&SegmentName| legs.iter().any(|leg| holds(leg, **name, size));
                way.damaged = read.damage.keys().filter(on_the_way).copied().collect();
            }
        }
        self.damaged.extend(std::mem::take(&mut read.damage).into_values());
        let sum = self.deep.get_or_insert_default();
        sum.sound += read.sound;
        sum.sound_before += read.sound_before;
        sum.damaged += read.damaged;
        sum.vanished.extend(read.vanished);
    }

    /// Where recoveries can stop, timeline by timeline. A timeline on which no backup becomes consistent is there with its
    /// gaps and without a window.
    pub fn recoverable(&self) -> Vec<Recoverable> {
        let mut found: BTreeMap<Timeline, Recoverable> = BTreeMap::new();
        for way in self.backups.iter().flat_map(|verified| &verified.ways) {
            let timeline = way.history.timeline;
            let one = found.entry(timeline).or_insert(Recoverable {
                timeline,
                latest: false,
                windows: Vec::new(),
                gaps: Vec::new(),
            });
            one.latest |= way.latest;
            one.windows.extend(way.window);
            // Backups of one timeline share their gaps.
            let known: BTreeSet<Gap> = one.gaps.iter().copied().collect();
            one.gaps.extend(way.coverage.gaps.iter().filter(|gap| !known.contains(gap)));
        }
        let joined = |one: Recoverable| Recoverable { windows: union(one.windows), ..one };
        found.into_values().map(joined).collect()
    }

    /// Says what nobody has looked at.
    pub(super) fn note_the_unseen(&mut self, outline: &Outline, tree: &Tree) {
        if self.deep.is_none() {
            self.skipped.push("the content of the segments: walden wal-verify --deep reads it".to_owned());
        }
        if !self.incomplete_backups.is_empty() {
            let backups = counted(self.incomplete_backups.len() as u64, "incomplete backup");
            self.skipped.push(format!("{backups}, of which nothing can be restored"));
        }
        let ways = || self.backups.iter().flat_map(|verified| &verified.ways);
        let on_a_way = |timeline: Timeline| ways().any(|way| way.history.end_of(timeline).is_some());
        let aside: Vec<String> = outline
            .timelines
            .iter()
            .filter(|&&timeline| !on_a_way(timeline))
            .map(|timeline| timeline.0.to_string())
            .collect();
        if !aside.is_empty() {
            self.skipped.push(format!("the WAL of timelines that no backup leads to: {}", aside.join(", ")));
        }
        for VerifiedBackup { backup, ways } in self.backups.iter().filter(|one| !one.ways.iter().any(|way| way.latest))
        {
            let latest = tree.latest(backup.timeline).0;
            let own: Vec<String> = ways.iter().map(|way| way.history.timeline.0.to_string()).collect();
            self.skipped.push(format!(
                "the way from backup {} to the latest timeline, {latest}, which does not pass through it; it leads to {}",
                backup.id,
                own.join(", ")
            ));
        }
    }

    /// Is everything that was looked at complete and sound?
    ///
    /// # Errors
    /// The gravest finding: [`Kind::Corrupt`] before [`Kind::Incomplete`] before [`Kind::Refused`] (an object of a newer
    /// version) before [`Kind::NotFound`] (no backup at all).
    pub fn verdict(&self) -> Result<()> {
        let system = self.system_id;
        if let Some(first) = self.damaged.iter().find(|damage| !damage.newer) {
            let count = self.damaged.len() as u64;
            let count = count.max(self.deep.as_ref().map_or(0, |deep| deep.damaged));
            return Err(Error::new(
                Kind::Corrupt,
                format!("the archive of cluster {system} is damaged: {}", counted(count, "object")),
            )
            .detail(format!("{}: {}", first.name, first.detail))
            .hint("Take a new base backup with walden backup-push: recoveries from it need none of the older WAL."));
        }
        if let Some(gap) = self.first_gap() {
            return Err(Error::new(Kind::Incomplete, format!("the WAL of cluster {system} has gaps"))
                .detail(gap)
                .hint(
                    "Run walden wal-backfill PGDATA on a server that still has this WAL; if there is none, take a new \
                     base backup with walden backup-push.",
                ));
        }
        if let Some(first) = self.damaged.first() {
            return Err(Error::new(Kind::Refused, format!("not all of the archive of cluster {system} could be read"))
                .detail(format!("{}: {}", first.name, first.detail))
                .hint("Use the version of walden that wrote it, or a newer one."));
        }
        if self.backups.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("cluster {system} has no complete backup"))
                .detail("without one its WAL restores nothing")
                .hint("Take one with walden backup-push."));
        }
        Ok(())
    }

    /// What is missing first, in words.
    fn first_gap(&self) -> Option<String> {
        if let Some(timeline) = self.missing_histories.first() {
            let file = WalFile::History(*timeline);
            return Some(format!("{file} is missing: without it, recoveries stop before timeline {}", timeline.0));
        }
        if let Some(name) = self.deep.as_ref().and_then(|deep| deep.vanished.first()) {
            return Some(format!("{name} was listed and is gone"));
        }
        // The newest backup is the one that matters most.
        self.backups.iter().rev().find_map(|VerifiedBackup { backup, ways }| {
            let (way, gap) = ways.iter().find_map(|way| Some((way, way.coverage.gaps.first()?)))?;
            let missing = counted(way.coverage.missing, "segment");
            let timeline = way.history.timeline.0;
            Some(format!(
                "on the way from backup {} along timeline {timeline}, {missing} missing, the first: {gap}",
                backup.id
            ))
        })
    }
}

/// The timelines, before their segments are listed.
pub(super) fn seen(outline: &Outline, tree: &Tree) -> Vec<SeenTimeline> {
    let seen = tree.timelines().map(|timeline| SeenTimeline {
        timeline,
        parent: tree.parent(timeline).cloned(),
        promoted: outline.promoted.get(&timeline).copied(),
        segments: 0,
        stored_size: 0,
    });
    seen.collect()
}

fn holds(leg: &Leg, name: SegmentName, size: SegmentSize) -> bool {
    let number = name.number(size);
    name.timeline == leg.timeline && number.is_some_and(|n| n >= leg.first && leg.last.is_none_or(|last| n <= last))
}

/// The gravest verdict of several clusters.
///
/// # Errors
/// See [`Report::verdict`]; [`Kind::NotFound`] if there is no cluster.
pub fn judge(reports: &[Report]) -> Result<()> {
    let grave = [Kind::Corrupt, Kind::Incomplete, Kind::Refused, Kind::NotFound];
    let rank = |error: &Error| grave.iter().position(|&kind| kind == error.kind());
    let worst = reports.iter().filter_map(|report| report.verdict().err()).min_by_key(rank);
    match worst {
        Some(error) => Err(error),
        None if reports.is_empty() => Err(Error::new(Kind::NotFound, "the archive is empty")
            .hint("Archive WAL with walden wal-push, and take a base backup with walden backup-push.")),
        None => Ok(()),
    }
}

/// The segments that recoveries from these backups read and that are there.
pub(super) fn needed(backups: &[VerifiedBackup], inventory: &Inventory) -> BTreeMap<Timeline, Runs> {
    let mut needed: BTreeMap<Timeline, Runs> = BTreeMap::new();
    for VerifiedBackup { backup, ways } in backups {
        for leg in ways.iter().flat_map(|way| legs(backup.start, &way.history, inventory.segment_size())) {
            let runs = needed.entry(leg.timeline).or_default();
            leg.within(inventory.runs(leg.timeline)).for_each(|run| runs.add(run));
        }
    }
    needed
}
