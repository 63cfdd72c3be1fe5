//! Is the WAL that recoveries need in the archive, and how far can they get? `wal-verify`, and the same question where a
//! backup or a restore asks it.
//!
//! Reads listings and history files; segments only where it is asked to (`deep`). Changes nothing.

mod deep;
mod report;
mod tail;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use jiff::Timestamp;

use crate::archive::Archive;
use crate::backup::catalogue::{self, Found};
use crate::backup::manifest::Backup;
use crate::error::{Error, Kind, Result};
use crate::layout::{self, BackupId, Key};
use crate::observe::{Event, Observer};
use crate::postgres::control::SystemId;
use crate::postgres::lsn::Lsn;
use crate::storage::ListQuery;
use crate::wal::chain::{Inventory, legs, segments_between};
use crate::wal::segment::{SegmentName, SegmentSize, WalFile};
use crate::wal::survey;
use crate::wal::timeline::{History, Timeline};
use crate::wal::tree::{self, Tree};

pub use self::deep::Deep;
pub use self::report::{Damage, DeepRead, Recoverable, Report, SeenTimeline, VerifiedBackup, Way, judge};
pub use self::tail::{last_commit, newest_first};
pub use crate::wal::survey::history;

/// Verifies that every complete backup of a cluster can be recovered along every timeline that passes through it: from its
/// start to the newest segment. What is missing or damaged is in the report and does not end the work.
///
/// # Errors
/// Those of the store: what cannot be seen is never taken for missing.
pub async fn verify(
    archive: &Archive,
    system: SystemId,
    deep: Option<&Deep>,
    observer: &Arc<dyn Observer>,
) -> Result<Report> {
    let found = catalogue::look(archive, system).await?;
    verify_found(archive, system, found, deep, observer).await
}

/// The same for whoever has looked at the backups already.
///
/// # Errors
/// Those of the store: what cannot be seen is never taken for missing.
pub async fn verify_found(
    archive: &Archive,
    system: SystemId,
    found: Vec<(BackupId, Result<Found>)>,
    deep: Option<&Deep>,
    observer: &Arc<dyn Observer>,
) -> Result<Report> {
    observer.notice(Event::Phase { name: format!("listing the WAL of cluster {system}"), bytes: None });
    let mut report = Report::of(system);
    let backups = sorted(found, system, &mut report);
    let outline = survey::outline(archive, system).await?;
    report.newest_timeline = outline.timelines.last().copied();
    let own = backups.iter().map(|backup| backup.timeline);
    let (tree, damaged) = survey::tree(archive, system, &outline, own).await?;
    for (timeline, error) in damaged {
        report.damaged.push(Damage::of(WalFile::History(timeline).to_string(), &error));
    }
    if let Some(oldest) = backups.iter().map(|backup| backup.timeline).min() {
        let damaged =
            |timeline: &Timeline| report.damaged.iter().any(|damage| damage.is_of(WalFile::History(*timeline)));
        report.missing_histories = tree.missing_histories(oldest).into_iter().filter(|t| !damaged(t)).collect();
    }
    report.timelines = report::seen(&outline, &tree);
    for (size, backups) in by_segment_size(backups)? {
        let ways: Vec<Vec<History>> = backups.iter().map(|backup| tree.ways(backup.timeline, backup.stop)).collect();
        let wanted = wanted(&backups, &ways, size);
        let holdings = survey::holdings(archive, system, size, wanted).await?;
        report.note_holdings(&holdings);
        let mut inventory = Inventory::new(size);
        holdings.into_iter().for_each(|(timeline, holdings)| inventory.add(timeline, holdings.segments));
        let verified = report.backups.len();
        let mut ages = BTreeMap::new();
        for (backup, ways) in backups.iter().zip(ways) {
            let verified = verify_backup(archive, backup, &ways, &tree, &inventory, &mut ages).await?;
            report.backups.push(verified);
        }
        if let Some(deep) = deep {
            let needed = report::needed(&report.backups[verified..], &inventory);
            let read = deep::read(archive, system, size, needed, deep, observer).await?;
            report.take(read, size);
        }
    }
    report.note_the_unseen(&outline, &tree);
    report.backups.sort_by_key(|verified| verified.backup.id);
    observer.notice(Event::Done(format!("the WAL of cluster {system} is verified")));
    Ok(report)
}

/// The complete backups; the others go into the report.
fn sorted(found: Vec<(BackupId, Result<Found>)>, system: SystemId, report: &mut Report) -> Vec<Backup> {
    let mut complete = Vec::new();
    for (id, found) in found {
        match found {
            Ok(Found::Complete(backup)) => complete.push(*backup),
            Ok(Found::Incomplete(..)) => report.incomplete_backups.push(id),
            Err(error) => report.damaged.push(Damage::of(Key::Backup(system, id).to_string(), &error)),
        }
    }
    complete
}

/// Each segment size with its backups: `pg_resetwal --wal-segsize` can change it.
fn by_segment_size(backups: Vec<Backup>) -> Result<BTreeMap<SegmentSize, Vec<Backup>>> {
    let mut groups: BTreeMap<SegmentSize, Vec<Backup>> = BTreeMap::new();
    for backup in backups {
        groups.entry(backup.segment_size()?).or_default().push(backup);
    }
    Ok(groups)
}

/// Which segments of each timeline the recoveries can need.
fn wanted(backups: &[Backup], ways: &[Vec<History>], size: SegmentSize) -> BTreeMap<Timeline, RangeInclusive<u64>> {
    let mut wanted: BTreeMap<Timeline, RangeInclusive<u64>> = BTreeMap::new();
    for (backup, ways) in backups.iter().zip(ways) {
        for leg in ways.iter().flat_map(|history| legs(backup.start, history, size)) {
            let last = leg.last.unwrap_or(*survey::all_numbers(size).end());
            let range = wanted.entry(leg.timeline).or_insert(leg.first..=last);
            *range = leg.first.min(*range.start())..=last.max(*range.end());
        }
    }
    wanted
}

async fn verify_backup(
    archive: &Archive,
    backup: &Backup,
    ways: &[History],
    tree: &Tree,
    inventory: &Inventory,
    ages: &mut BTreeMap<SegmentName, Option<Timestamp>>,
) -> Result<VerifiedBackup> {
    let latest = tree.latest(backup.timeline);
    let mut verified = VerifiedBackup { backup: backup.clone(), ways: Vec::new() };
    for history in ways {
        let coverage = inventory.coverage(backup.start, backup.stop, history);
        let archived = match coverage.last {
            Some(last) => age(archive, backup.system_id, last, ages).await?,
            None => None,
        };
        let window = coverage.window(backup.stop, backup.finished, archived);
        verified.ways.push(Way {
            history: history.clone(),
            latest: history.timeline == latest,
            coverage,
            window,
            damaged: Vec::new(),
        });
    }
    Ok(verified)
}

/// Is there so little WAL that one request lists all of it?
pub async fn is_short(archive: &Archive, system: SystemId) -> Result<bool> {
    let query = ListQuery { prefix: layout::wal_prefix(system), ..ListQuery::default() };
    Ok(archive.store().list(&query).await?.next.is_none())
}

/// When a segment was stored, by the store's clock; `None` if it has vanished since it was listed.
pub async fn stored_at(archive: &Archive, system: SystemId, name: SegmentName) -> Result<Option<Timestamp>> {
    match archive.store().head(&Key::Wal(system, WalFile::Segment(name)).to_string()).await {
        Ok(info) => Ok(Some(info.modified)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The same, asked once for each segment: most ways end in the same one.
async fn age(
    archive: &Archive,
    system: SystemId,
    name: SegmentName,
    known: &mut BTreeMap<SegmentName, Option<Timestamp>>,
) -> Result<Option<Timestamp>> {
    if let Some(&age) = known.get(&name) {
        return Ok(age);
    }
    let age = stored_at(archive, system, name).await?;
    known.insert(name, age);
    Ok(age)
}

/// The segments that hold the WAL from `start` to `stop` on one timeline and are not in the archive.
pub async fn missing(
    archive: &Archive,
    system: SystemId,
    timeline: Timeline,
    (start, stop): (Lsn, Lsn),
    size: SegmentSize,
) -> Result<Vec<SegmentName>> {
    let mut needed = segments_between(timeline, start, stop, size);
    let numbers =
        needed.first().and_then(|name| name.number(size)).zip(needed.last().and_then(|name| name.number(size)));
    let Some((first, last)) = numbers else { return Ok(needed) };
    let inventory = survey::inventory(archive, system, size, [(timeline, first..=last)]).await?;
    let there = |name: &SegmentName| name.number(size).is_some_and(|number| inventory.holds(timeline, number));
    needed.retain(|name| !there(name));
    Ok(needed)
}

/// The segments of the timelines of `history` in the archive that a recovery from `start` reads.
pub async fn inventory(
    archive: &Archive,
    system: SystemId,
    history: &History,
    start: Lsn,
    size: SegmentSize,
) -> Result<Inventory> {
    let all = *survey::all_numbers(size).end();
    let wanted = legs(start, history, size).into_iter();
    survey::inventory(archive, system, size, wanted.map(|leg| (leg.timeline, leg.first..=leg.last.unwrap_or(all))))
        .await
}

/// The history of the newest timeline that descends from `timeline` as it was at `lsn`: what `recovery_target_timeline =
/// 'latest'` chooses.
///
/// # Errors
/// [`Kind::Refused`] if the newest timeline does not descend from there, as PostgreSQL would refuse it after the restore.
pub async fn latest_history(archive: &Archive, system: SystemId, timeline: Timeline, lsn: Lsn) -> Result<History> {
    let outline = survey::outline(archive, system).await?;
    let newest = tree::latest(timeline, |next| outline.histories.contains(&next));
    let history = history(archive, system, newest).await?;
    check_descent(&history, timeline, lsn)?;
    Ok(history)
}

/// Does this history pass through `timeline` at `lsn`?
///
/// # Errors
/// [`Kind::Refused`] if not.
pub fn check_descent(history: &History, timeline: Timeline, lsn: Lsn) -> Result<()> {
    if history.passes(timeline, lsn) {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, format!("timeline {} does not pass through the backup", history.timeline))
        .detail(format!(
            "the backup ends at {lsn} on timeline {timeline}, where the other's history has already branched off"
        ))
        .hint("Choose an older backup, or stay on the backup's own timeline with --target-timeline current."))
}
