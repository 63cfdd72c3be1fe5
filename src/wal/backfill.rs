//! `wal-backfill`: what a server's `pg_wal` has and the archive has not.
//!
//! After a failover, segments that the old primary had not archived are in nobody's queue: a standby with `archive_mode =
//! on` marks what it receives as done (`XLogWalRcvFlush` and `XLogWalRcvClose` in src/backend/replication/walreceiver.c).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::archive::Archive;
use crate::error::{Context, Kind, Recovery, Result};
use crate::layout::{self, Key};
use crate::observe::{Event, Observer};
use crate::postgres::control::SystemId;
use crate::postgres::datadir;
use crate::storage::{ListQuery, list_all};
use crate::wal::push::send::{self, Batch};
use crate::wal::segment::{SegmentName, SegmentSize, WalFile};
use crate::wal::timeline::{History, Timeline};

/// What was found and done.
#[derive(Debug, Default)]
pub struct Backfilled {
    /// Files that were archived now.
    pub archived: Vec<WalFile>,
    /// How many complete files were in the archive already.
    pub already: usize,
    /// Segments of which the server does not say that they are complete; one of them is being written.
    pub passed_over: Vec<WalFile>,
}

/// Archives every complete WAL file of the data directory that is not in the archive under its name. Histories go first.
///
/// A file that fails does not keep the others back. What is in the archive already is not compared.
///
/// # Errors
/// [`Kind::Refused`] if this is no data directory; otherwise that of the first file that failed, with the number of those
/// that did.
pub async fn backfill(archive: &Archive, data_directory: &Path, observer: &Arc<dyn Observer>) -> Result<Backfilled> {
    let what = || format!("could not archive what \"{}\" has", data_directory.display());
    let control = datadir::read_control(data_directory).during(what)?.0;
    let system = control.system_id;
    let directory = data_directory.join("pg_wal");
    let wal = names(&directory)?;
    let left = ancestry(data_directory, &wal).during(what)?;
    let is_left =
        |segment| left.as_ref().is_some_and(|history| lies_before_the_switch(segment, history, control.segment_size));
    let Sorted { complete, mut passed_over } = sort(&wal, &names(&directory.join("archive_status"))?, is_left);
    passed_over.sort();
    let there = there(archive, system, &complete, observer).await.during(what)?;
    let missing: Vec<WalFile> = complete.iter().filter(|file| !there.contains(file)).copied().collect();
    let already = complete.len() - missing.len();

    observer.notice(Event::Phase { name: format!("archiving {} files", missing.len()), bytes: None });
    let (histories, others): (Vec<_>, Vec<_>) =
        missing.into_iter().partition(|file| matches!(file, WalFile::History(_)));
    let mut archived = Vec::new();
    for files in [histories, others] {
        archived.extend(push(archive, system, &directory, files).await.during(what)?);
    }
    observer.notice(Event::Done(format!("{} files archived, {already} were there", archived.len())));
    Ok(Backfilled { archived, already, passed_over })
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let what = || format!("could not read \"{}\"", directory.display());
    let entries = std::fs::read_dir(directory).during(what)?.collect::<std::io::Result<Vec<_>>>().during(what)?;
    Ok(entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

struct Sorted {
    complete: BTreeSet<WalFile>,
    passed_over: Vec<WalFile>,
}

/// The timelines that the server has left, and where; `None` if there are none, and in a recovery, which may not have come
/// to the end of the older ones.
fn ancestry(data_directory: &Path, wal: &[String]) -> Result<Option<History>> {
    let newest = wal.iter().filter_map(|name| match WalFile::parse(name)? {
        WalFile::History(timeline) => Some(timeline),
        _ => None,
    });
    let Some(newest) = newest.max().filter(|_| datadir::recovery_mode(data_directory) == Recovery::None) else {
        return Ok(None);
    };
    let path = data_directory.join("pg_wal").join(WalFile::History(newest).to_string());
    let text = std::fs::read_to_string(&path).during(|| format!("could not read \"{}\"", path.display()))?;
    History::parse(newest, &text).map(Some)
}

/// Whether all of the segment lies on a timeline that was left behind it.
fn lies_before_the_switch(segment: SegmentName, history: &History, size: SegmentSize) -> bool {
    let Some(Some(end)) = history.end_of(segment.timeline) else { return false };
    segment.start(size).is_some_and(|start| start.0 + size.bytes() <= end.0)
}

/// Which files are complete: histories, partial segments and backup histories are written at once, and of a segment the
/// server says so by a status, whichever it is (`XLogArchiveNotify`, `XLogArchiveForceDone` in
/// src/backend/access/transam/xlogarchive.c). Segments kept for later use have no status. Neither has the last one of a
/// timeline that was left exactly at its end: the receiver of WAL would have given it one with the next segment, and the
/// promotion makes a partial one only of what is not full (`CleanupAfterArchiveRecovery` in xlog.c).
fn sort(wal: &[String], status: &[String], is_left: impl Fn(SegmentName) -> bool) -> Sorted {
    let told: BTreeSet<&str> =
        status.iter().filter_map(|name| name.strip_suffix(".ready").or(name.strip_suffix(".done"))).collect();
    let (complete, passed_over): (Vec<WalFile>, Vec<WalFile>) =
        wal.iter().filter_map(|name| WalFile::parse(name)).partition(|file| match file {
            WalFile::Segment(segment) => told.contains(file.to_string().as_str()) || is_left(*segment),
            _ => true,
        });
    Sorted { complete: complete.into_iter().collect(), passed_over }
}

/// Those of the files that are in the archive. Whoever may not list it is told that they all are not: then each is
/// offered, and the store says which it has.
async fn there(
    archive: &Archive,
    system: SystemId,
    complete: &BTreeSet<WalFile>,
    observer: &Arc<dyn Observer>,
) -> Result<BTreeSet<WalFile>> {
    let mut least: BTreeMap<Timeline, String> = BTreeMap::new();
    for file in complete.iter().filter(|file| !matches!(file, WalFile::History(_))) {
        let key = Key::Wal(system, *file).to_string();
        let least = least.entry(file.timeline()).or_insert_with(|| key.clone());
        *least = key.min(std::mem::take(least));
    }
    let histories = ListQuery { prefix: layout::wal_prefix(system), fold: true, ..ListQuery::default() };
    let timelines = least.into_iter().map(|(timeline, mut least)| {
        // What comes after a key without its last digit begins before the key itself.
        least.pop();
        ListQuery { prefix: layout::timeline_prefix(system, timeline), after: Some(least), ..ListQuery::default() }
    });
    let mut there = BTreeSet::new();
    for query in [histories].into_iter().chain(timelines) {
        let listed = list_all(&**archive.store(), query, |page| {
            there.extend(page.objects.iter().filter_map(|object| match Key::parse(&object.key) {
                Some(Key::Wal(_, file)) if complete.contains(&file) => Some(file),
                _ => None,
            }));
        });
        match listed.await {
            Err(error) if error.kind() == Kind::Denied => {
                observer.notice(Event::Warning(format!("every file is offered to the archive: {error}")));
                return Ok(BTreeSet::new());
            }
            outcome => outcome?,
        }
    }
    Ok(there)
}

async fn push(archive: &Archive, system: SystemId, directory: &Path, files: Vec<WalFile>) -> Result<Vec<WalFile>> {
    let batch =
        Batch { directory: PathBuf::from(directory), cluster: Some(system), address: archive.store().url(""), files };
    let ended = Arc::new(Mutex::new((Vec::new(), Vec::new())));
    let each = {
        let ended = ended.clone();
        move |outcome: send::Outcome| {
            let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome.stored {
                Ok(_) => ended.0.push(outcome.file),
                Err(error) => ended.1.push(error.during(format!("could not archive \"{}\"", outcome.file))),
            }
            Ok(())
        }
    };
    send::all(archive, batch, each).await?;
    let (archived, failed) = std::mem::take(&mut *ended.lock().unwrap_or_else(PoisonError::into_inner));
    let count = failed.len();
    match failed.into_iter().next() {
        None => Ok(archived),
        Some(first) if count == 1 => Err(first),
        Some(first) => Err(first.detail(format!("{count} files failed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_complete_when_the_server_says_so_and_other_files_are_always() {
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
        let wal = [
            "000000010000000000000001",
            "000000010000000000000002",
            "000000010000000000000003",
            "000000010000000000000003.partial",
            "000000010000000000000002.00000028.backup",
            "00000002.history",
            "RECOVERYXLOG",
            "archive_status",
            ".walden",
        ];
        let status = ["000000010000000000000001.done", "000000010000000000000002.ready", "00000002.history.ready"];
        let sorted = sort(&strings(&wal), &strings(&status), |_| false);
        let parsed = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<BTreeSet<WalFile>>();
        assert_eq!(sorted.complete, parsed(&[wal[0], wal[1], wal[3], wal[4], wal[5]]));
        assert_eq!(sorted.passed_over, ["000000010000000000000003".parse().unwrap()]);
    }

    #[test]
    fn a_segment_without_a_status_is_complete_if_its_timeline_was_left_behind_it() {
        let history = History::parse(Timeline(3), "1\t0/3000000\tx\n2\t0/3800000\tx\n").unwrap();
        let is_left =
            |name: &str| lies_before_the_switch(SegmentName::parse(name).unwrap(), &history, SegmentSize::DEFAULT);
        assert!(is_left("000000010000000000000002"), "it ends where timeline 1 was left");
        assert!(!is_left("000000010000000000000003"));
        assert!(!is_left("000000020000000000000003"), "timeline 2 was left in the midst of it");
        assert!(!is_left("000000030000000000000002"), "the server is there");
        assert!(!is_left("000000040000000000000002"), "the server was never there");
    }
}
