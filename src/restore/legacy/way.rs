//! The WAL that the recovery of a backup of WAL-E or WAL-G needs: some of it in their archive, the rest in ours.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::config::target::{Goal, Point, TargetTimeline};
use crate::durable::Staged;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::{Key, legacy as keys};
use crate::legacy::codec::Codec;
use crate::postgres::control::SystemId;
use crate::restore::base::Base;
use crate::restore::reach::{self, Way};
use crate::storage::{ListQuery, list_all};
use crate::wal::chain::{Inventory, legs};
use crate::wal::commits::Commits;
use crate::wal::receive::{self, Sources};
use crate::wal::runs::Runs;
use crate::wal::segment::{SegmentName, WalFile};
use crate::wal::survey;
use crate::wal::timeline::{History, Timeline};
use crate::wal::tree;
use crate::wal::verify;

/// History files that are asked for one above the other; no cluster has failed over so often.
const MOST_TIMELINES: u32 = 10_000;

/// No history file is longer.
const LONGEST_HISTORY: u64 = 1 << 20;

/// The history that the recovery follows.
///
/// # Errors
/// [`Kind::Refused`] if the timeline does not pass through the backup; [`Kind::Incomplete`] if its history is not there.
pub(in crate::restore) async fn history(sources: &Sources, base: &Base, timeline: TargetTimeline) -> Result<History> {
    let wanted = match timeline {
        TargetTimeline::Current => base.timeline,
        TargetTimeline::Number(number) => number,
        TargetTimeline::Latest => newest(sources, base).await?,
    };
    let history = read_history(sources, base.system_id, wanted).await?;
    verify::check_descent(&history, base.timeline, base.stop)?;
    Ok(history)
}

/// What `recovery_target_timeline = 'latest'` chooses: PostgreSQL asks for one history after the other.
async fn newest(sources: &Sources, base: &Base) -> Result<Timeline> {
    let mut known = survey::outline(&sources.archive, base.system_id).await?.histories;
    for number in (base.timeline.0..=u32::MAX).skip(1).take(MOST_TIMELINES as usize) {
        let timeline = Timeline(number);
        if !known.contains(&timeline) {
            match sources.legacy.find(WalFile::History(timeline)).await? {
                Some(_) => drop(known.insert(timeline)),
                None => break,
            }
        }
    }
    Ok(tree::latest(base.timeline, |next| known.contains(&next)))
}

async fn read_history(sources: &Sources, system: SystemId, timeline: Timeline) -> Result<History> {
    let own = survey::history(&sources.archive, system, timeline).await;
    let absent = match own {
        Err(error) if error.kind() == Kind::Incomplete => error,
        own => return own,
    };
    let Some(stored) = sources.legacy.find(WalFile::History(timeline)).await? else { return Err(absent) };
    let content = sources.legacy.read_all(&stored.key, stored.codec, LONGEST_HISTORY).await?;
    let what = || format!("could not read {}", sources.legacy.store().url(&stored.key));
    let text = String::from_utf8(content)
        .map_err(|error| Error::new(Kind::Corrupt, "it is not text").detail(error.to_string()))
        .during(what)?;
    History::parse(timeline, &text).during(what)
}

/// The WAL that the recovery will ask for, as far as it is in one of the two archives.
///
/// # Errors
/// [`Kind::Incomplete`] if WAL is missing without which the backup does not become consistent.
pub(super) async fn way(sources: &Sources, base: &Base, history: History, goal: &Goal) -> Result<Way> {
    let (system, size) = (base.system_id, base.segment_size);
    let mut inventory = verify::inventory(&sources.archive, system, &history, base.start, size).await?;
    let stored = add_theirs(sources, base, &history, &mut inventory).await?;
    let coverage = inventory.coverage(base.start, base.stop, &history);
    let archived = match coverage.last {
        Some(last) => match stored.get(&last) {
            Some(time) => Some(*time),
            None => verify::stored_at(&sources.archive, system, last).await?,
        },
        None => None,
    };
    let mut way = reach::way(base, history, coverage, archived)?;
    if let Goal::Target(target) = goal
        && let Point::Time(time) = target.point
    {
        way.last_commit = last_commit(sources, base, &way, |commit| commit > time).await?;
    }
    Ok(way)
}

/// So many of the newest segments of their archive are remembered with when they were stored: the last one before a gap is
/// among them where there is no gap.
const REMEMBERED: usize = 1000;

/// Notes the segments of their archive, and returns when the newest ones of each timeline were stored.
async fn add_theirs(
    sources: &Sources,
    base: &Base,
    history: &History,
    inventory: &mut Inventory,
) -> Result<BTreeMap<SegmentName, Timestamp>> {
    let (size, mut stored) = (base.segment_size, BTreeMap::new());
    for leg in legs(base.start, history, size) {
        let mut runs = Runs::default();
        let query = ListQuery {
            prefix: format!("{}{}", keys::WAL, leg.timeline),
            // One that is not compressed is called just that, and only what sorts behind is listed.
            after: leg.first.checked_sub(1).and_then(|before| {
                let before = SegmentName::new(leg.timeline, before, size)?;
                Some(keys::wal_stem(WalFile::Segment(before)))
            }),
            ..ListQuery::default()
        };
        list_all(&**sources.legacy.store(), query, |page| {
            for object in page.objects {
                let name = object.key.strip_prefix(keys::WAL).map(|name| Codec::split(name).0);
                let Some(name) = name.and_then(SegmentName::parse) else { continue };
                let Some(number) = name.number(size).filter(|number| *number >= leg.first) else { continue };
                if leg.last.is_none_or(|last| number <= last) {
                    runs.insert(number);
                    stored.insert(name, object.modified);
                    if stored.len() > REMEMBERED {
                        stored.pop_first();
                    }
                }
            }
        })
        .await?;
        inventory.add(leg.timeline, runs);
    }
    Ok(stored)
}

/// So much WAL is read at most to find the end of a transaction, but one segment in any case.
const READ_AT_MOST: u64 = 128 << 20;

/// The latest end of a transaction in the newest WAL before the first gap, as `verify::last_commit` finds it in ours.
async fn last_commit(
    sources: &Sources,
    base: &Base,
    way: &Way,
    suffices: impl Fn(Timestamp) -> bool,
) -> Result<Option<Timestamp>> {
    let scratch = tempfile::tempdir().during(|| "could not make a directory for a WAL segment")?;
    let mut latest = None;
    let most = (READ_AT_MOST / base.segment_size.bytes()).max(1) as usize;
    for name in verify::newest_first(&way.history, &way.coverage, base.segment_size).take(most) {
        let commits = commits_of(sources, base.system_id, name, scratch.path()).await?;
        latest = latest.max(commits.latest());
        // What goes on behind the last segment cannot be replayed.
        if way.coverage.last != Some(name) {
            latest = latest.max(commits.unfinished());
        }
        if latest.is_some_and(&suffices) {
            break;
        }
    }
    Ok(latest)
}

/// Ours are read as they come; theirs by way of a file, in which they are checked.
async fn commits_of(
    sources: &Sources,
    system: SystemId,
    name: SegmentName,
    scratch: &std::path::Path,
) -> Result<Commits> {
    let file = WalFile::Segment(name);
    let path = scratch.join(name.to_string());
    match sources.archive.get_file(&Key::Wal(system, file), Commits::default()).await {
        Err(error) if error.kind() == Kind::NotFound => {}
        read => return read.map(|(_, commits)| commits),
    }
    let what = || format!("could not write \"{}\"", path.display());
    let staged = Staged::beside(&path).during(what)?;
    let mut staged = receive::receive(sources, system, file, None, staged).await?;
    let mut commits = Commits::default();
    let content = staged.file();
    std::io::Seek::seek(content, std::io::SeekFrom::Start(0)).during(what)?;
    std::io::copy(content, &mut commits).during(what)?;
    Ok(commits)
}
