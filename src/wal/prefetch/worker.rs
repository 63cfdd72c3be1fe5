//! The process that fetches ahead: what it fetches, what it clears away, and when it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use tokio::task::{AbortHandle, JoinSet};

use super::{Ahead, PART};
use crate::durable::Staged;
use crate::error::{Context, Recovery, Result};
use crate::observe::repeats::REPEATED;
use crate::postgres::datadir;
use crate::wal::receive::{self, Sources};
use crate::wal::segment::{SegmentName, WalFile};
use crate::wal::timeline::Timeline;

/// Segments that are kept ahead at first. The number doubles whenever replay has been faster.
const FIRST_WINDOW: u64 = 2;

/// Downloads at once.
const AT_ONCE: usize = 8;

/// Between two looks at what is wanted.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Between two looks at whether the recovery goes on.
const CHECK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// With nothing to keep, or no server that could ask for it, the process stays for so long: the archive may have ended for
/// the moment only.
const IDLE: Duration = Duration::from_secs(10);

/// What a server does not ask for in so long (replay may have been paused) is given up.
const ABANDONED: Duration = Duration::from_secs(600);

/// Part of the file system that is left free, as one in so many.
const FREE_SHARE: u64 = 20;

/// Bytes that are left free at most: a twentieth of a big disk is more than PostgreSQL needs for a few minutes of WAL, and
/// whoever fills such a disk to 95 % on purpose must not lose the download ahead for it.
const FREE_ENOUGH: u64 = 4 << 30;

/// Keeps the segments that follow the one handed over last in the spool, until the recovery or its server ends, or nobody
/// asks any more; then removes all that was fetched ahead. Returns at once if another process does it already.
///
/// # Errors
/// If the spool cannot be used. What cannot be fetched is not an error: who asks for it is told.
pub async fn run(sources: &Sources, ahead: &Ahead) -> Result<()> {
    // Signals to the process group of a server, and to a terminal, are not for us. Fails only for a group's first process.
    let _ = rustix::process::setsid();
    let Some(lock) = lock(ahead)? else { return Ok(()) };
    sweep_others(ahead);
    let mut downloads = JoinSet::new();
    serve(sources, ahead, &mut downloads).await;
    // One that still ran would write into the directory that is being removed.
    downloads.shutdown().await;
    ahead.spool.remove_fetched();
    drop(lock);
    Ok(())
}

fn lock(ahead: &Ahead) -> Result<Option<File>> {
    let what = || format!("could not use the spool \"{}\"", ahead.directory.display());
    fs::create_dir_all(&ahead.directory).during(what)?;
    let lock = File::create(ahead.lock()).during(what)?;
    Ok(rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(lock))
}

/// Removes what other processes, boots and archives have left.
fn sweep_others(ahead: &Ahead) {
    let entries = fs::read_dir(ahead.spool.fetched()).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| *path != ahead.directory) {
        // Best effort, and fails for the lock, as it should.
        let _ = fs::remove_dir_all(path);
    }
    for (name, path) in files(&ahead.directory) {
        if name.ends_with(PART) {
            let _ = fs::remove_file(path);
        }
    }
}

fn files(directory: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
}

/// The segment that was handed over last, or is being fetched by whoever was asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    segment: SegmentName,
    /// Replay had to wait for it.
    slow: bool,
}

fn wanted(ahead: &Ahead) -> Option<Wanted> {
    let text = fs::read_to_string(ahead.wanted()).ok()?;
    let (name, slow) = text.trim_end().split_once(' ')?;
    Some(Wanted { segment: SegmentName::parse(name)?, slow: slow == "1" })
}

/// What the process knows.
struct State {
    wanted: Option<Wanted>,
    window: u64,
    running: BTreeMap<u64, AbortHandle>,
    /// Segments that were fetched. One of them that is gone has just been taken, and `wanted` will say so.
    done: BTreeSet<u64>,
    /// The first segment that was not there when it was asked for, or could not be had; and whether it may be asked for
    /// again, because another one has been handed over since.
    not_there: Option<(u64, bool)>,
    last_change: Instant,
}

async fn serve(sources: &Sources, ahead: &Ahead, downloads: &mut JoinSet<(u64, Result<()>)>) {
    let mut state = State {
        wanted: None,
        window: FIRST_WINDOW.min(ahead.window),
        running: BTreeMap::new(),
        done: BTreeSet::new(),
        not_there: None,
        last_change: Instant::now(),
    };
    let server = datadir::running_server(&ahead.data_directory).ok().flatten();
    let mut checked = Instant::now();
    loop {
        // That the same one is asked for again changes nothing: a standby does so at the end of the archive.
        if let Some(wanted) =
            wanted(ahead).filter(|wanted| state.wanted.map(|last| last.segment) != Some(wanted.segment))
        {
            state.take_notice(wanted, ahead);
        }
        let present = state.tidy(ahead);
        state.start_downloads(sources, ahead, &present, downloads);
        let quiet_for = state.last_change.elapsed();
        let nothing_kept = present.is_empty() && downloads.is_empty();
        if quiet_for > ABANDONED || (quiet_for > IDLE && (nothing_kept || server.is_none())) {
            return;
        }
        if checked.elapsed() > CHECK_AGAIN_AFTER {
            checked = Instant::now();
            if !goes_on(ahead, server) {
                return;
            }
        }
        tokio::select! {
            Some(ended) = downloads.join_next() => state.end_download(ended),
            () = tokio::time::sleep(LOOK_AGAIN_AFTER) => {}
        }
    }
}

/// Whether the recovery, and the server that did it when we began, are still there.
fn goes_on(ahead: &Ahead, server: Option<u32>) -> bool {
    let same_server = server.is_none() || datadir::running_server(&ahead.data_directory).ok().flatten() == server;
    same_server && datadir::recovery_mode(&ahead.data_directory) != Recovery::None
}

type Ended = Result<(u64, Result<()>), tokio::task::JoinError>;

impl State {
    fn take_notice(&mut self, wanted: Wanted, ahead: &Ahead) {
        if wanted.slow && self.wanted.is_some() {
            self.window = (self.window * 2).min(ahead.window);
        }
        let before = self.last(ahead);
        self.wanted = Some(wanted);
        match (before, self.last(ahead)) {
            (Some((timeline, last)), Some(now)) if now.0 == timeline && now.1 >= last => {
                self.done.retain(|number| *number > now.1);
                self.not_there = self.not_there.filter(|(first, _)| *first > now.1).map(|(first, _)| (first, true));
            }
            // The recovery has begun anew, or has gone over to another timeline.
            _ => {
                self.done.clear();
                self.not_there = None;
            }
        }
        self.last_change = Instant::now();
    }

    /// Removes, and stops fetching, what is not among the next segments; returns the numbers of those that are there.
    fn tidy(&mut self, ahead: &Ahead) -> BTreeSet<u64> {
        let Some((timeline, last)) = self.last(ahead) else { return BTreeSet::new() };
        let next = last + 1..=last + self.window;
        self.running.retain(|number, download| {
            let needed = next.contains(number);
            if !needed {
                download.abort();
            }
            needed
        });
        let mut present = BTreeSet::new();
        for (name, path) in files(&ahead.directory) {
            let Some(segment) = SegmentName::parse(&name) else { continue };
            match segment.number(ahead.control.segment_size).filter(|_| segment.timeline == timeline) {
                Some(number) if next.contains(&number) => drop(present.insert(number)),
                // Best effort: the next round finds it again.
                _ => drop(fs::remove_file(path)),
            }
        }
        present
    }

    /// Timeline and number of the segment that was handed over last.
    fn last(&self, ahead: &Ahead) -> Option<(Timeline, u64)> {
        let segment = self.wanted?.segment;
        Some((segment.timeline, segment.number(ahead.control.segment_size)?))
    }

    fn start_downloads(
        &mut self,
        sources: &Sources,
        ahead: &Ahead,
        present: &BTreeSet<u64>,
        downloads: &mut JoinSet<(u64, Result<()>)>,
    ) {
        let Some((timeline, last)) = self.last(ahead) else { return };
        let there = present.union(&self.done).copied().collect();
        let running = self.running.keys().copied().collect();
        for number in next(last, self.window, &there, &running, self.not_there) {
            if let Some((first, again)) = &mut self.not_there {
                *again &= *first != number;
            }
            let name = SegmentName::new(timeline, number, ahead.control.segment_size);
            let (Some(name), true) = (name, has_room(ahead, self.running.len() as u64 + 1)) else { return };
            let (sources, ahead) = (sources.clone(), ahead.clone());
            let download = async move { (number, download(&sources, &ahead, name).await) };
            self.running.insert(number, downloads.spawn(download));
        }
    }

    fn end_download(&mut self, ended: Ended) {
        // One that was stopped has been forgotten already.
        let Ok((number, outcome)) = ended else { return };
        self.running.remove(&number);
        match outcome {
            Ok(()) => {
                self.done.insert(number);
                self.not_there = self.not_there.filter(|(first, _)| *first != number);
            }
            Err(error) => {
                tracing::debug!(target: REPEATED, "did not fetch ahead: {error}");
                let first = self.not_there.map_or(number, |(first, _)| first.min(number));
                self.not_there = Some((first, false));
            }
        }
    }
}

/// The segments to begin with, in order: the next ones that are neither there nor on their way. Behind one that is not in
/// the archive there is nothing to be had; it alone is asked for again.
fn next(
    last: u64,
    window: u64,
    there: &BTreeSet<u64>,
    running: &BTreeSet<u64>,
    not_there: Option<(u64, bool)>,
) -> Vec<u64> {
    (last + 1..=last + window)
        .take_while(|number| not_there.is_none_or(|(first, again)| *number < first + u64::from(again)))
        .filter(|number| !there.contains(number) && !running.contains(number))
        .take(AT_ONCE.saturating_sub(running.len()))
        .collect()
}

/// Whether so many segments more leave enough of the file system free.
fn has_room(ahead: &Ahead, segments: u64) -> bool {
    let Ok(status) = rustix::fs::statvfs(&ahead.directory) else { return false };
    let left = reserve(status.f_blocks * status.f_frsize);
    status.f_bavail * status.f_frsize >= left + segments * ahead.control.segment_size.bytes()
}

/// Bytes that are left free of a file system of so many bytes.
fn reserve(size: u64) -> u64 {
    (size / FREE_SHARE).min(FREE_ENOUGH)
}

/// Fetches a segment under its name. Not synced: see the head of `wal::prefetch`.
async fn download(sources: &Sources, ahead: &Ahead, name: SegmentName) -> Result<()> {
    let what = || format!("could not write to the spool \"{}\"", ahead.directory.display());
    let staged = Staged::at(&ahead.part(name), &ahead.segment(name)).during(what)?;
    let file = WalFile::Segment(name);
    let control = &ahead.control;
    receive::receive(sources, control.system_id, file, Some(control), staged).await?.rename()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set() -> impl Strategy<Value = BTreeSet<u64>> {
        prop::collection::btree_set(0u64..100, 0..12)
    }

    #[test]
    fn a_small_disk_keeps_its_share_free_and_a_big_one_no_more_than_is_needed() {
        assert_eq!(reserve(10 << 30), 512 << 20);
        assert_eq!(reserve(250 << 30), 4 << 30);
        assert_eq!(reserve(16 << 40), 4 << 30);
    }

    proptest! {
        #[test]
        fn only_what_is_next_and_missing_is_begun(last in 0u64..90, window in 1u64..20, there in set(), running in set(), not_there in prop::option::of((0u64..100, any::<bool>()))) {
            let begun = next(last, window, &there, &running, not_there);
            prop_assert!(begun.len() + running.len() <= AT_ONCE.max(running.len()));
            prop_assert!(begun.is_sorted());
            for number in begun {
                prop_assert!(number > last && number <= last + window);
                prop_assert!(!there.contains(&number) && !running.contains(&number));
                prop_assert!(not_there.is_none_or(|(first, again)| number < first || (again && number == first)));
            }
        }
    }

    #[test]
    fn behind_the_end_of_the_archive_nothing_is_asked_for() {
        let none = BTreeSet::new();
        assert_eq!(next(5, 4, &none, &none, None), [6, 7, 8, 9]);
        assert_eq!(next(5, 4, &none, &none, Some((8, false))), [6, 7]);
        assert_eq!(next(5, 4, &none, &none, Some((8, true))), [6, 7, 8]);
        assert!(next(5, 4, &none, &none, Some((6, false))).is_empty());
    }
}
