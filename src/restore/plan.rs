//! What a restore writes where. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::backup::manifest::{Backup, Files, Frame};
use crate::config::target::{Goal, Point, TablespaceMapping};
use crate::error::{Error, Kind, Result};
use crate::layout::PartName;
use crate::postgres::control::CONTROL_FILE;
use crate::postgres::entry::Tablespace;
use crate::wal::chain::Coverage;
use crate::wal::timeline::History;

/// Under this name `global/pg_control` waits until everything else is on disk.
const WAITING_CONTROL_FILE: &str = "global/pg_control.walden-restore";

/// Where the parts of a cluster go.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    root: PathBuf,
    tablespaces: BTreeMap<u32, PathBuf>,
    mapped: bool,
}

impl Destination {
    /// The cluster below `root`, its tablespaces where they were unless `mappings` say otherwise.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a mapping of a place where the backup has no tablespace, and for two tablespaces in one place.
    pub(super) fn new(root: &Path, tablespaces: &[Tablespace], mappings: &[TablespaceMapping]) -> Result<Destination> {
        if let Some(mapping) =
            mappings.iter().find(|mapping| !tablespaces.iter().any(|space| space.location == mapping.source))
        {
            let known: Vec<String> =
                tablespaces.iter().map(|space| format!("\"{}\"", space.location.display())).collect();
            return Err(Error::new(
                Kind::Usage,
                format!("the backup has no tablespace in \"{}\"", mapping.source.display()),
            )
            .detail(if known.is_empty() { "it has none at all".into() } else { format!("it has {}", known.join(", ")) })
            .hint("walden backup-show prints the tablespaces of a backup."));
        }
        let place = |space: &Tablespace| {
            let mapping = mappings.iter().find(|mapping| mapping.source == space.location);
            (space.oid, mapping.map_or(&space.location, |mapping| &mapping.target).clone())
        };
        let tablespaces: BTreeMap<u32, PathBuf> = tablespaces.iter().map(place).collect();
        let mut places: Vec<&PathBuf> = tablespaces.values().collect();
        places.sort();
        if let Some(pair) = places.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::new(
                Kind::Usage,
                format!("two tablespaces cannot both lie in \"{}\"", pair[0].display()),
            )
            .hint("Give each --tablespace-mapping OLD=NEW a directory of its own."));
        }
        Ok(Destination { root: root.to_path_buf(), tablespaces, mapped: !mappings.is_empty() })
    }

    /// The data directory.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The tablespaces outside the data directory.
    pub(super) fn tablespaces(&self) -> &BTreeMap<u32, PathBuf> {
        &self.tablespaces
    }

    /// Does a tablespace lie elsewhere than in the backup?
    pub(super) fn is_mapped(&self) -> bool {
        self.mapped
    }

    /// The data directory and the tablespaces.
    pub(super) fn directories(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.root()).chain(self.tablespaces.values().map(PathBuf::as_path))
    }

    /// Where a path of the backup is written to.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        if path == CONTROL_FILE {
            return self.root.join(WAITING_CONTROL_FILE);
        }
        let in_tablespace = path.strip_prefix("pg_tblspc/").and_then(|rest| {
            let (oid, rest) = rest.split_once('/')?;
            Some(self.tablespaces.get(&oid.parse().ok()?)?.join(rest))
        });
        in_tablespace.unwrap_or_else(|| self.root.join(path))
    }
}

/// Everything that is to be written. What belongs to one part is worked out when its turn comes: all of it at once would be
/// larger than the manifest.
#[derive(Debug)]
pub(super) struct Plan {
    files: Files,
    destination: Destination,
    /// The numbers of all extents by their place in the volumes.
    order: Vec<u32>,
    /// Where each part begins in its volume.
    starts: Vec<u64>,
}

/// A file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Where.
    pub(super) path: PathBuf,
    /// Permission bits.
    pub(super) mode: u32,
    /// Bytes.
    pub(super) size: u64,
}

/// What to write from one part.
#[derive(Clone, Debug)]
pub(super) struct PartPlan {
    /// Which part.
    pub(super) name: PartName,
    /// Its frames, in order.
    pub(super) frames: Vec<Frame>,
    /// What is written from them, in their order.
    pub(super) writes: Vec<Write>,
    /// The files that it writes to.
    pub(super) files: Vec<Target>,
}

/// Bytes of a frame that go into a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// Index in [`PartPlan::frames`].
    pub(super) frame: usize,
    /// Index in [`PartPlan::files`].
    pub(super) file: usize,
    /// Where in the file.
    pub(super) file_offset: u64,
    /// Where in the plain frame.
    pub(super) frame_offset: usize,
    /// How many bytes.
    pub(super) length: usize,
}

impl Plan {
    /// Plans the restore of these files, whose manifest has been checked.
    pub(super) fn new(files: Files, destination: Destination) -> Plan {
        let extents = files.extents();
        let mut order: Vec<u32> = (0..extents.len() as u32).filter(|&at| extents[at as usize].length > 0).collect();
        order.sort_unstable_by_key(|&at| (extents[at as usize].volume, extents[at as usize].offset));
        let mut starts = Vec::with_capacity(files.parts().len());
        let mut position = (0, 0);
        for part in files.parts() {
            if part.volume != position.0 {
                position = (part.volume, 0);
            }
            starts.push(position.1);
            position.1 += part.plain_size();
        }
        Plan { files, destination, order, starts }
    }

    /// The manifest.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Where everything goes.
    pub(super) fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Directories, those above first, with their permission bits.
    pub(super) fn directories(&self) -> impl Iterator<Item = (PathBuf, u32)> {
        self.files.directories().iter().map(|dir| (self.destination.resolve(&dir.path), dir.mode))
    }

    /// Files without content.
    pub(super) fn empty(&self) -> impl Iterator<Item = Target> {
        (0..self.files.len()).filter(|&number| self.files.size(number) == 0).map(|number| self.target(number))
    }

    fn target(&self, number: usize) -> Target {
        let path = self.destination.resolve(&self.files.path(number));
        Target { path, mode: self.files.mode(number), size: self.files.size(number) }
    }

    /// What to write from the part of this number, which is below the number of [`Files::parts`].
    pub(super) fn part(&self, number: usize) -> PartPlan {
        let part = &self.files.parts()[number];
        let mut plan =
            PartPlan { name: part.name(), frames: part.frames.clone(), writes: Vec::new(), files: Vec::new() };
        // The files of a part follow each other, so the last one is the one that is looked for.
        let mut last = None;
        let mut start = self.starts[number];
        let mut extents = self.overlapping(part.volume, start, start + part.plain_size());
        for (frame, facts) in part.frames.iter().enumerate() {
            let end = start + u64::from(facts.plain);
            while let Some((&first, rest)) = extents.split_first() {
                let extent = self.files.extents()[first as usize];
                if extent.offset >= end {
                    break;
                }
                let file = self.files.file_of(first as usize);
                if last.replace(file) != Some(file) {
                    plan.files.push(self.target(file));
                }
                let before = self.files.extents_of(file).take_while(|&other| other < first as usize);
                let file_start: u64 = before.map(|other| self.files.extents()[other].length).sum();
                let extent_end = extent.offset + extent.length;
                let (from, to) = (extent.offset.max(start), extent_end.min(end));
                plan.writes.push(Write {
                    frame,
                    file: plan.files.len() - 1,
                    file_offset: file_start + (from - extent.offset),
                    frame_offset: (from - start) as usize,
                    length: (to - from) as usize,
                });
                if extent_end > end {
                    break;
                }
                extents = rest;
            }
            start = end;
        }
        plan
    }

    /// The numbers of the extents that have bytes in `start..end` of a volume, in their order. They are disjoint.
    fn overlapping(&self, volume: u32, start: u64, end: u64) -> &[u32] {
        let extent = |&at: &u32| self.files.extents()[at as usize];
        let from = self.order.partition_point(|at| {
            let extent = extent(at);
            (extent.volume, extent.offset + extent.length) <= (volume, start)
        });
        let to = self.order.partition_point(|at| (extent(at).volume, extent(at).offset) < (volume, end));
        &self.order[from..to.max(from)]
    }
}

/// Does the archive hold the WAL that the recovery needs? Returns what the user should know all the same.
///
/// A gap before the end of the archive ends a recovery without a target silently, with rows missing, and stops a standby
/// for good: it is refused. A recovery with a target fails by itself if it does not get there (PostgreSQL 13 and later,
/// `PerformWalRecovery` in src/backend/access/transam/xlogrecovery.c), and the target may well lie before the gap.
///
/// # Errors
/// [`Kind::Incomplete`], with the first gap.
pub(super) fn check_coverage(
    backup: &Backup,
    goal: &Goal,
    history: &History,
    coverage: &Coverage,
) -> Result<Option<String>> {
    let incomplete = |what: String| {
        let gap =
            coverage.gaps.first().map_or("nothing newer is there".to_owned(), |gap| format!("the first gap is {gap}"));
        Error::new(Kind::Incomplete, what).detail(format!(
            "on the way to timeline {} the archive holds the WAL up to {}, {gap}",
            history.timeline.0, coverage.end
        ))
    };
    if coverage.end < backup.stop {
        return Err(incomplete(format!("backup {} lacks WAL that it needs up to {}", backup.id, backup.stop))
            .hint("Choose another backup: walden backup-list prints them."));
    }
    let point = match goal {
        Goal::Target(target) => Some(&target.point),
        Goal::EndOfArchive | Goal::Standby => None,
    };
    match point {
        Some(Point::Immediate) => Ok(None),
        Some(Point::Lsn(lsn)) if *lsn >= coverage.end => {
            Err(incomplete(format!("the archive does not reach the target {lsn}"))
                .hint("Choose an earlier target, or another way with --target-timeline, or store the missing segments with walden wal-backfill PGDATA, if a server still has them."))
        }
        Some(Point::Lsn(_)) => Ok(None),
        Some(_) if coverage.gaps.is_empty() => Ok(None),
        Some(_) => Ok(Some(format!(
            "the archive has a gap ({}): the recovery fails if its target lies behind {}",
            coverage.gaps[0], coverage.end
        ))),
        None if coverage.gaps.is_empty() => Ok(None),
        None => Err(incomplete("the archive has a gap after the backup".to_owned()).hint(format!(
            "If a server still has the missing segments, store them with walden wal-backfill PGDATA; or stop before the gap with --target-lsn {}.",
            crate::postgres::lsn::Lsn(coverage.end.0 - 1)
        ))),
    }
}
