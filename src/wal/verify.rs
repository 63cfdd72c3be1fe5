//! Is the WAL that a recovery needs in the archive? Reads listings and history files, never segments.

use crate::archive::Archive;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::{self, Key};
use crate::postgres::control::SystemId;
use crate::postgres::lsn::Lsn;
use crate::storage::{ListQuery, list_all};
use crate::wal::chain::{Inventory, segments_between};
use crate::wal::segment::{SegmentName, SegmentSize, WalFile};
use crate::wal::timeline::{History, Timeline};

/// The segments that hold the WAL from `start` to `stop` on one timeline and are not in the archive.
pub async fn missing(
    archive: &Archive,
    system: SystemId,
    timeline: Timeline,
    (start, stop): (Lsn, Lsn),
    size: SegmentSize,
) -> Result<Vec<SegmentName>> {
    let mut needed = segments_between(timeline, start, stop, size);
    let last = needed.last().map(|&name| Key::Wal(system, WalFile::Segment(name)).to_string());
    let mut query = listing(system, timeline, start, size);
    loop {
        let page = archive.store().list(&query).await?;
        let there: Vec<SegmentName> = page.objects.iter().filter_map(|object| segment(&object.key)).collect();
        needed.retain(|name| there.binary_search(name).is_err());
        let past_the_last = page.objects.last().map(|object| &object.key) >= last.as_ref();
        match page.next {
            Some(next) if !past_the_last && !needed.is_empty() => query.cursor = Some(next),
            _ => return Ok(needed),
        }
    }
}

/// The segments of the timelines of `history` in the archive, from `start` on.
pub async fn inventory(
    archive: &Archive,
    system: SystemId,
    history: &History,
    start: Lsn,
    size: SegmentSize,
) -> Result<Inventory> {
    let mut inventory = Inventory::new(size);
    let timelines = history.ancestors.iter().map(|switch| switch.timeline).chain([history.timeline]);
    for timeline in timelines {
        list_all(&**archive.store(), listing(system, timeline, start, size), |page| {
            page.objects.iter().filter_map(|object| segment(&object.key)).for_each(|name| inventory.add(name));
        })
        .await?;
    }
    Ok(inventory)
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
                .detail(format!("{} does not exist", archive.url(&key))))
        }
        Err(error) => Err(error),
    }
}

/// The history of the newest timeline that descends from `timeline` as it was at `lsn`: what `recovery_target_timeline =
/// 'latest'` chooses, which probes upwards to the first number without a history file (`findNewestTimeLine` in
/// src/backend/access/transam/timeline.c).
///
/// # Errors
/// [`Kind::Refused`] if the newest timeline does not descend from there, as PostgreSQL would refuse it after the restore.
pub async fn latest_history(archive: &Archive, system: SystemId, timeline: Timeline, lsn: Lsn) -> Result<History> {
    let mut known = Vec::new();
    let query = ListQuery { prefix: layout::wal_prefix(system), fold: true, ..ListQuery::default() };
    list_all(&**archive.store(), query, |page| {
        known.extend(page.objects.iter().filter_map(|object| match Key::parse(&object.key) {
            Some(Key::Wal(_, WalFile::History(timeline))) => Some(timeline),
            _ => None,
        }));
    })
    .await?;
    let newest = (timeline.0..)
        .map_while(|number| number.checked_add(1))
        .map(Timeline)
        .take_while(|next| known.contains(next))
        .last();
    let history = history(archive, system, newest.unwrap_or(timeline)).await?;
    check_descent(&history, timeline, lsn)?;
    Ok(history)
}

/// Does this history pass through `timeline` at `lsn`?
///
/// # Errors
/// [`Kind::Refused`] if not.
pub fn check_descent(history: &History, timeline: Timeline, lsn: Lsn) -> Result<()> {
    match history.end_of(timeline) {
        Some(end) if end.is_none_or(|end| lsn <= end) => Ok(()),
        _ => Err(Error::new(Kind::Refused, format!("timeline {} does not pass through the backup", history.timeline))
            .detail(format!(
                "the backup ends at {lsn} on timeline {timeline}, where the other's history has already branched off"
            ))
            .hint("Choose an older backup, or stay on the backup's own timeline with --target-timeline current.")),
    }
}

fn listing(system: SystemId, timeline: Timeline, start: Lsn, size: SegmentSize) -> ListQuery {
    let first = SegmentName::containing(timeline, start, size);
    let before = first.number(size).and_then(|number| SegmentName::new(timeline, number.checked_sub(1)?, size));
    ListQuery {
        prefix: layout::timeline_prefix(system, timeline),
        // What follows the name of the segment before, such as its backup history file, is passed over by the readers.
        after: before.map(|name| Key::Wal(system, WalFile::Segment(name)).to_string()),
        ..ListQuery::default()
    }
}

fn segment(key: &str) -> Option<SegmentName> {
    match Key::parse(key)? {
        Key::Wal(_, WalFile::Segment(name)) => Some(name),
        _ => None,
    }
}
