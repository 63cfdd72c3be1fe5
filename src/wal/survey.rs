//! Which WAL the archive holds: timelines, their histories, and the segments of each. Listings and history files alone, no
//! segment is read.
//!
//! Long listings are asked for in several stretches at once where the store gains from it, and their pages are counted as
//! they come: a million segments take no more memory than ten, unless there are holes between them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::archive::Archive;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::{self, Key};
use crate::pipeline;
use crate::postgres::control::SystemId;
use crate::storage::{ListQuery, ObjectInfo, Page, list_all};
use crate::wal::chain::Inventory;
use crate::wal::runs::Runs;
use crate::wal::segment::{SegmentName, SegmentSize, WalFile};
use crate::wal::split::{Split, Stretch};
use crate::wal::timeline::{History, Timeline};
use crate::wal::tree::Tree;

/// History files that are read at the same time.
const READS_AT_ONCE: usize = 16;

/// Timelines that are listed at the same time; their requests share one bound.
const TIMELINES_AT_ONCE: usize = 8;

/// What lies at the top of a cluster's WAL.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    /// Timelines with segments, or other files but their history.
    pub timelines: BTreeSet<Timeline>,
    /// Timelines with a history file.
    pub histories: BTreeSet<Timeline>,
    /// When each of these files was stored, by the store's clock: soon after its timeline began.
    pub promoted: BTreeMap<Timeline, Timestamp>,
}

/// Lists the timelines of a cluster.
pub async fn outline(archive: &Archive, system: SystemId) -> Result<Outline> {
    let prefix = layout::wal_prefix(system);
    let query = ListQuery { prefix: prefix.clone(), fold: true, ..ListQuery::default() };
    let mut outline = Outline::default();
    list_all(&**archive.store(), query, |page| {
        let folders = page.prefixes.iter().filter_map(|folded| folded.strip_prefix(&prefix)?.strip_suffix('/'));
        outline.timelines.extend(folders.filter_map(Timeline::parse));
        outline.promoted.extend(page.objects.iter().filter_map(|object| match Key::parse(&object.key) {
            Some(Key::Wal(_, WalFile::History(timeline))) => Some((timeline, object.modified)),
            _ => None,
        }));
    })
    .await?;
    outline.histories = outline.promoted.keys().copied().collect();
    Ok(outline)
}

/// The history of one timeline.
///
/// # Errors
/// [`Kind::Incomplete`] if its file is not in the archive: nothing can be said about a timeline of unknown descent.
pub async fn history(archive: &Archive, system: SystemId, timeline: Timeline) -> Result<History> {
    if timeline == Timeline(1) {
        return Ok(History::root(timeline));
    }
    let key = Key::Wal(system, WalFile::History(timeline));
    match archive.get_file(&key, Vec::new()).await {
        Ok((_, content)) => {
            let text = String::from_utf8(content).map_err(|error| {
                Error::new(Kind::Corrupt, format!("{} is not text", archive.url(&key))).detail(error.to_string())
            })?;
            History::parse(timeline, &text).during(|| format!("could not read {}", archive.url(&key)))
        }
        Err(error) if error.kind() == Kind::NotFound => {
            Err(Error::new(Kind::Incomplete, format!("the history of timeline {timeline} is not in the archive"))
                .detail(format!("{} does not exist", archive.url(&key)))
                .hint("Run walden wal-backfill PGDATA on a server that has been on that timeline."))
        }
        Err(error) => Err(error),
    }
}

/// The tree of a cluster's timelines; `others` are known by something else than their WAL. History files that are damaged
/// come back as errors beside it, and are missing in it.
pub async fn tree(
    archive: &Archive,
    system: SystemId,
    outline: &Outline,
    others: impl IntoIterator<Item = Timeline>,
) -> Result<(Tree, Vec<(Timeline, Error)>)> {
    let work = {
        let archive = archive.clone();
        move |timeline| {
            let archive = archive.clone();
            async move {
                match history(&archive, system, timeline).await {
                    Err(error) if error.kind() == Kind::Corrupt => Ok((timeline, Err(error))),
                    result => Ok((timeline, Ok(result?))),
                }
            }
        }
    };
    let read = pipeline::run(jobs(outline.histories.iter().copied()), READS_AT_ONCE, work).await?;
    let (mut histories, mut damaged) = (Vec::new(), Vec::new());
    for (timeline, result) in read {
        match result {
            Ok(history) => histories.push(history),
            Err(error) => damaged.push((timeline, error)),
        }
    }
    damaged.sort_by_key(|(timeline, _)| *timeline);
    let known = outline.timelines.iter().chain(&outline.histories).copied().chain(others);
    Ok((Tree::new(histories, known), damaged))
}

/// What the archive holds of one timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// The segments.
    pub segments: Runs,
    /// Stored bytes of all files.
    pub stored_size: u64,
    /// Partial segments: the last one of a timeline that ended in a promotion.
    pub partial: u64,
    /// Backup history files.
    pub backup_histories: u64,
    /// Objects that are no WAL files, or segments of another size.
    pub foreign: u64,
    /// The greatest number that a segment, a partial segment or a backup history file has.
    pub last: Option<u64>,
    /// When the oldest and the newest of all files were stored, by the store's clock.
    pub stored: Option<(Timestamp, Timestamp)>,
}

impl Holdings {
    fn note(&mut self, object: &ObjectInfo, size: SegmentSize) {
        let file = match Key::parse(&object.key) {
            Some(Key::Wal(_, file)) => file,
            _ => return self.foreign += 1,
        };
        match file {
            WalFile::Segment(name) => match name.number(size) {
                Some(number) => self.segments.insert(number),
                None => return self.foreign += 1,
            },
            WalFile::Partial(_) => self.partial += 1,
            WalFile::BackupHistory(..) => self.backup_histories += 1,
            WalFile::History(_) => return self.foreign += 1,
        }
        self.last = self.last.max(file.segment().and_then(|name| name.number(size)));
        self.span(Some((object.modified, object.modified)));
        self.stored_size += object.size;
    }

    fn span(&mut self, more: Option<(Timestamp, Timestamp)>) {
        let Some((first, last)) = more else { return };
        self.stored = Some(self.stored.map_or((first, last), |known| (known.0.min(first), known.1.max(last))));
    }

    /// How many files there are, foreign ones not counted.
    pub fn files(&self) -> u64 {
        self.segments.count() + self.partial + self.backup_histories
    }

    fn merge(&mut self, other: Holdings) {
        self.segments.merge(other.segments);
        self.stored_size += other.stored_size;
        self.partial += other.partial;
        self.backup_histories += other.backup_histories;
        self.foreign += other.foreign;
        self.last = self.last.max(other.last);
        self.span(other.stored);
    }
}

/// All numbers that segments of this size can have, and one more: so that what sorts behind them is seen, too.
pub fn all_numbers(size: SegmentSize) -> RangeInclusive<u64> {
    0..=last_number(size) + 1
}

fn last_number(size: SegmentSize) -> u64 {
    u64::MAX / size.bytes()
}

/// What the archive holds of these timelines, each within its numbers of segments.
pub async fn holdings(
    archive: &Archive,
    system: SystemId,
    size: SegmentSize,
    wanted: impl IntoIterator<Item = (Timeline, RangeInclusive<u64>)>,
) -> Result<BTreeMap<Timeline, Holdings>> {
    let permits = Arc::new(Semaphore::new(archive.store().pages_at_once()));
    let work = |(timeline, numbers)| {
        let listing = Listing { archive: archive.clone(), permits: permits.clone(), system, timeline, size };
        async move { Ok((timeline, listing.run(numbers).await?)) }
    };
    Ok(pipeline::run(jobs(wanted), TIMELINES_AT_ONCE, work).await?.into_iter().collect())
}

/// The segments that the archive has of these timelines, each within its numbers.
pub async fn inventory(
    archive: &Archive,
    system: SystemId,
    size: SegmentSize,
    wanted: impl IntoIterator<Item = (Timeline, RangeInclusive<u64>)>,
) -> Result<Inventory> {
    let mut inventory = Inventory::new(size);
    for (timeline, holdings) in holdings(archive, system, size, wanted).await? {
        inventory.add(timeline, holdings.segments);
    }
    Ok(inventory)
}

/// The last segment of a timeline and when it was stored, by the store's clock. `after` is one that is known to lie before
/// it: only what comes behind that is listed.
pub async fn last_segment(
    archive: &Archive,
    system: SystemId,
    timeline: Timeline,
    after: Option<SegmentName>,
) -> Result<Option<(SegmentName, Timestamp)>> {
    let after = after.map(|name| Key::Wal(system, WalFile::Segment(name)).to_string());
    let query = ListQuery { prefix: layout::timeline_prefix(system, timeline), after, ..ListQuery::default() };
    let mut last = None;
    list_all(&**archive.store(), query, |page| {
        let mut segments = page.objects.iter().filter_map(|object| match Key::parse(&object.key) {
            Some(Key::Wal(_, WalFile::Segment(name))) => Some((name, object.modified)),
            _ => None,
        });
        last = segments.next_back().or(last);
    })
    .await?;
    Ok(last)
}

/// A channel that holds all of these.
fn jobs<T>(all: impl IntoIterator<Item = T>) -> mpsc::Receiver<T> {
    let all: Vec<T> = all.into_iter().collect();
    let (sender, receiver) = mpsc::channel(all.len().max(1));
    for job in all {
        // The channel has room for all of them.
        let _ = sender.try_send(job);
    }
    receiver
}

/// The listing of one timeline.
#[derive(Clone, Debug)]
struct Listing {
    archive: Archive,
    permits: Arc<Semaphore>,
    system: SystemId,
    timeline: Timeline,
    size: SegmentSize,
}

impl Listing {
    /// Lists what has these numbers: the first page alone, for it tells where the timeline begins, then stretches.
    async fn run(&self, numbers: RangeInclusive<u64>) -> Result<Holdings> {
        let mut holdings = Holdings::default();
        let (first, last) = numbers.into_inner();
        let mut query = self.query(first.checked_sub(1));
        let at_once = self.archive.store().pages_at_once();
        let after = loop {
            let page = self.page(&query).await?;
            let known = page.objects.iter().rev().find_map(|object| self.number(&object.key));
            match known.filter(|_| at_once > 1 && page.next.is_some()) {
                // Both sides must agree on what is on which: what comes behind this segment is listed again.
                Some(number) => {
                    self.note(&page, number.min(last), &mut holdings);
                    break number;
                }
                None => {
                    let beyond = self.note(&page, last, &mut holdings);
                    match page.next.filter(|_| beyond.is_none()) {
                        Some(next) => query.cursor = Some(next),
                        None => return Ok(holdings),
                    }
                }
            }
        };
        self.split(Split::new(after, last, at_once), &mut holdings).await?;
        Ok(holdings)
    }

    async fn split(&self, mut split: Split, holdings: &mut Holdings) -> Result<()> {
        let mut running = JoinSet::new();
        loop {
            while running.len() < split.width() {
                let Some(stretch) = split.take() else { break };
                let listing = self.clone();
                running.spawn(async move { listing.stretch(stretch).await });
            }
            let Some(ended) = running.join_next().await else { return Ok(()) };
            let (found, beyond) = pipeline::joined(ended)?;
            holdings.merge(found);
            split.learn(beyond);
        }
    }

    async fn stretch(&self, stretch: Stretch) -> Result<(Holdings, Option<u64>)> {
        let mut holdings = Holdings::default();
        let mut query = self.query(Some(stretch.after));
        loop {
            let page = self.page(&query).await?;
            let beyond = self.note(&page, stretch.until, &mut holdings);
            match page.next.filter(|_| beyond.is_none()) {
                Some(next) => query.cursor = Some(next),
                None => return Ok((holdings, beyond)),
            }
        }
    }

    async fn page(&self, query: &ListQuery) -> Result<Page> {
        let _permit = self.permits.acquire().await;
        self.archive.store().list(query).await
    }

    /// Notes the objects up to the segment `until`. If there are more: the segment behind which the next one lies.
    fn note(&self, page: &Page, until: u64, holdings: &mut Holdings) -> Option<u64> {
        let last = self.key(until);
        for object in &page.objects {
            if last.as_ref().is_some_and(|last| object.key > *last) {
                return Some(self.before(&object.key, until));
            }
            holdings.note(object, self.size);
        }
        None
    }

    /// The greatest number from `from` on whose key comes before this one, which need not be a segment's.
    fn before(&self, key: &str, from: u64) -> u64 {
        let (mut low, mut high) = (from, last_number(self.size) + 1);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            match self.key(middle).is_some_and(|name| *name < *key) {
                true => low = middle,
                false => high = middle,
            }
        }
        low
    }

    fn query(&self, after: Option<u64>) -> ListQuery {
        ListQuery {
            prefix: layout::timeline_prefix(self.system, self.timeline),
            after: after.and_then(|number| self.key(number)),
            ..ListQuery::default()
        }
    }

    /// The key of the segment with this number.
    fn key(&self, number: u64) -> Option<String> {
        let name = SegmentName::new(self.timeline, number, self.size)?;
        Some(Key::Wal(self.system, WalFile::Segment(name)).to_string())
    }

    /// The number of the segment with this key.
    fn number(&self, key: &str) -> Option<u64> {
        match Key::parse(key)? {
            Key::Wal(_, WalFile::Segment(name)) => name.number(self.size),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::examination::Finding;
    use crate::storage::{Body, Cursor, Download, PAGE_SIZE, PutMode, Removed, Store};
    use proptest::prelude::*;
    use std::ops::{Bound, Range};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A store that can be listed, from several places at once or from one.
    #[derive(Debug)]
    struct Listed {
        keys: BTreeSet<String>,
        at_once: usize,
        requests: AtomicUsize,
    }

    #[async_trait::async_trait]
    impl Store for Listed {
        fn url(&self, key: &str) -> String {
            key.to_owned()
        }

        async fn examine(&self, _: &mut Vec<Finding>) {}

        async fn put(&self, _: &str, _: Body, _: PutMode) -> Result<()> {
            Err(Error::new(Kind::Bug, "nothing is put"))
        }

        async fn get(&self, _: &str, _: Option<Range<u64>>) -> Result<Download> {
            Err(Error::new(Kind::Bug, "nothing is read"))
        }

        async fn head(&self, _: &str) -> Result<ObjectInfo> {
            Err(Error::new(Kind::Bug, "nothing is looked at"))
        }

        async fn list(&self, query: &ListQuery) -> Result<Page> {
            self.requests.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            let cursor = query.cursor.as_ref().map(Cursor::text);
            let after = cursor.or(query.after.clone()).unwrap_or_default();
            let rest = self.keys.range::<str, _>((Bound::Excluded(after.as_str()), Bound::Unbounded));
            let mut rest = rest.filter(|key| key.starts_with(&query.prefix));
            let object =
                |key: &String| ObjectInfo { key: key.clone(), size: 10, modified: jiff::Timestamp::UNIX_EPOCH };
            let objects: Vec<ObjectInfo> = rest.by_ref().take(PAGE_SIZE).map(object).collect();
            let next = rest.next().and(objects.last()).map(|last| Cursor::of(&last.key));
            Ok(Page { objects, prefixes: Vec::new(), next })
        }

        fn pages_at_once(&self) -> usize {
            self.at_once
        }

        async fn remove(&self, _: &[String]) -> Result<Removed> {
            Err(Error::new(Kind::Bug, "nothing is deleted"))
        }

        async fn now(&self) -> Result<jiff::Timestamp> {
            Err(Error::new(Kind::Bug, "nobody asks for the time"))
        }
    }

    const SYSTEM: SystemId = SystemId(7);
    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn key(number: u64, ending: &str) -> String {
        format!("7/wal/00000001/{}{ending}", SegmentName::new(Timeline(1), number, SIZE).unwrap())
    }

    fn list(keys: &BTreeSet<String>, at_once: usize, numbers: RangeInclusive<u64>) -> (Holdings, usize) {
        let store = Arc::new(Listed { keys: keys.clone(), at_once, requests: AtomicUsize::new(0) });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let archive = Archive::new(store.clone(), 1);
        let found = runtime.block_on(holdings(&archive, SYSTEM, SIZE, [(Timeline(1), numbers)])).unwrap();
        (found[&Timeline(1)].clone(), store.requests.load(Ordering::Relaxed))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn a_listing_in_stretches_finds_what_one_from_end_to_end_finds(
            parts in prop::collection::vec((0u64..60_000, 1u64..9000, 1usize..4), 0..4), far in prop::option::of(0u64..1 << 39),
            others in prop::collection::vec((0u64..60_000, prop::sample::select(vec![".partial", ".00000028.backup", ".tmp", "0"])), 0..5),
            foreign in prop::sample::select(vec!["0", "zzz", "00000001FFFFFFFF"]), last in prop::option::of(0u64..70_000)
        ) {
            let numbers = parts.iter().flat_map(|&(first, count, step)| (first..first + count).step_by(step)).chain(far);
            let mut keys: BTreeSet<String> = numbers.map(|number| key(number, "")).collect();
            keys.extend(others.iter().map(|(number, ending)| key(*number, ending)));
            keys.insert(format!("7/wal/00000001/{foreign}"));
            let range = 0..=last.unwrap_or(*all_numbers(SIZE).end());
            let (end_to_end, pages) = list(&keys, 1, range.clone());
            let (in_stretches, requests) = list(&keys, 8, range.clone());
            prop_assert_eq!(&in_stretches, &end_to_end);
            prop_assert!(requests <= 2 * pages + 16, "{} requests for {} pages", requests, pages);
            let there = |number: &u64| keys.contains(&key(*number, ""));
            prop_assert_eq!(in_stretches.segments.count(), range.take(70_000).filter(there).count() as u64
                + far.filter(|&far| last.is_none() && far >= 70_000).map_or(0, |_| 1));
            if last.is_none() {
                prop_assert_eq!(in_stretches.stored_size + 10 * in_stretches.foreign, 10 * keys.len() as u64);
            }
        }
    }
}
