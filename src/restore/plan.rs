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

/// Everything that is to be written.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// Directories, those above first, with their permission bits.
    pub(super) directories: Vec<(PathBuf, u32)>,
    /// Files without content.
    pub(super) empty: Vec<Target>,
    /// What to write from each part.
    pub(super) parts: Vec<PartPlan>,
}

/// A file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Where.
    pub(super) path: PathBuf,
    /// Permission bits.
    pub(super) mode: u32,
}

/// What to write from one part.
#[derive(Clone, Debug)]
pub(super) struct PartPlan {
    /// Which part.
    pub(super) name: PartName,
    /// Its frames in order, each with what is to be written from it.
    pub(super) frames: Vec<(Frame, Vec<Write>)>,
    /// The files that it writes to.
    pub(super) files: Vec<Target>,
}

/// Bytes of a frame that go into a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// Index in [`PartPlan::files`].
    pub(super) file: usize,
    /// Where in the file.
    pub(super) file_offset: u64,
    /// Where in the plain frame.
    pub(super) frame_offset: usize,
    /// How many bytes.
    pub(super) length: usize,
}

/// Plans the restore of these files, whose manifest has been checked.
pub(super) fn plan(files: &Files, destination: &Destination) -> Result<Plan> {
    let target = |path: &str, mode: u32| Target { path: destination.resolve(path), mode };
    let mut plan = Plan {
        directories: files.directories.iter().map(|dir| (destination.resolve(&dir.path), dir.mode)).collect(),
        ..Plan::default()
    };
    let mut runs: BTreeMap<u32, Vec<Run>> = BTreeMap::new();
    for (index, file) in files.files.iter().enumerate() {
        if file.size == 0 {
            plan.empty.push(target(&file.path, file.mode));
        }
        let mut file_offset = 0;
        for extent in &file.at {
            let run = Run { offset: extent.offset, length: extent.length, file: index, file_offset };
            runs.entry(extent.volume).or_default().push(run);
            file_offset += extent.length;
        }
    }
    runs.values_mut().for_each(|runs| runs.sort_unstable_by_key(|run| run.offset));
    let mut position = (0, 0);
    for part in &files.parts {
        if part.volume != position.0 {
            position = (part.volume, 0);
        }
        let mut part_plan = PartPlan { name: part.name(), frames: Vec::new(), files: Vec::new() };
        let mut indexes: Vec<usize> = Vec::new();
        for frame in &part.frames {
            let end = position.1 + u64::from(frame.plain);
            let runs = runs.get(&part.volume).map_or(&[][..], Vec::as_slice);
            let mut writes = Vec::new();
            for run in overlapping(runs, position.1, end) {
                let file = indexes.iter().rposition(|&known| known == run.file).unwrap_or_else(|| {
                    indexes.push(run.file);
                    part_plan.files.push(target(&files.files[run.file].path, files.files[run.file].mode));
                    indexes.len() - 1
                });
                let (from, to) = (run.offset.max(position.1), run.end().min(end));
                writes.push(Write {
                    file,
                    file_offset: run.file_offset + (from - run.offset),
                    frame_offset: (from - position.1) as usize,
                    length: (to - from) as usize,
                });
            }
            part_plan.frames.push((*frame, writes));
            position.1 = end;
        }
        plan.parts.push(part_plan);
    }
    Ok(plan)
}

/// An extent of a file in a volume.
struct Run {
    offset: u64,
    length: u64,
    file: usize,
    file_offset: u64,
}

impl Run {
    fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// Those of the sorted, disjoint `runs` that have bytes in `start..end`.
fn overlapping(runs: &[Run], start: u64, end: u64) -> &[Run] {
    let from = runs.partition_point(|run| run.end() <= start);
    let to = runs.partition_point(|run| run.offset < end);
    &runs[from..to.max(from)]
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
