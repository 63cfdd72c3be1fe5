//! What there is in an archive for retention to decide on, and the plan that comes of it. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::find_garbage;
use crate::archive::Archive;
use crate::backup::catalogue::{self, Found};
use crate::backup::garbage::{self, Of};
use crate::backup::manifest::Backup;
use crate::backup::retention::{self, Cluster, ClusterPlan, Demand, Known, Stock};
use crate::error::{Kind, Result};
use crate::layout::{BackupId, Key};
use crate::observe::{Event, Observer};
use crate::postgres::control::SystemId;
use crate::wal::segment::SegmentSize;
use crate::wal::survey;

/// What is to be deleted, and how it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What.
    pub demand: Demand,
    /// And what failed backups, tests of the store and killed writers have left.
    pub garbage: bool,
    /// In the words of the command line, for those who read of it later.
    pub command: String,
    /// For how long nothing must have been stored of an incomplete backup before nobody takes it for one that is being
    /// taken.
    pub older_than: Duration,
}

/// What stays and what goes of all clusters.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The moment for which it was made, by the store's clock.
    pub now: Timestamp,
    /// How it was asked for.
    pub command: String,
    /// One for each cluster.
    pub clusters: Vec<ClusterPlan>,
    /// Which of the backups that go are locked, and until when: of what a store that keeps versions lets be deleted all the
    /// same, the versions stay so long.
    pub locks: BTreeMap<BackupId, String>,
    /// What failed backups and the like have left, if that was asked for.
    pub garbage: Option<garbage::Plan>,
}

/// Looks at these clusters, and makes the plan.
///
/// # Errors
/// Those of the store: what cannot be seen is never taken for absent. Those of [`retention::plan`].
pub async fn find(archive: &Archive, systems: &[SystemId], request: &Request, observer: &dyn Observer) -> Result<Plan> {
    let (now, mut clusters) = (archive.store().now().await?, Vec::new());
    for &system in systems {
        observer.notice(Event::Phase {
            name: format!("looking at the backups and the WAL of cluster {system}"),
            bytes: None,
        });
        clusters.push(look(archive, system, now, request.older_than, observer).await?);
    }
    let wish = request.demand.wish(&clusters, now)?;
    let mut clusters = retention::plan(clusters, &wish)?;
    for plan in &mut clusters {
        weigh(archive, plan).await?;
    }
    let locks = locks(archive, &clusters).await;
    let garbage = match request.garbage {
        true => Some(beside(find_garbage(archive, systems, request.older_than).await?, &clusters)),
        false => None,
    };
    observer.notice(Event::Done("it is known what stays".to_owned()));
    Ok(Plan { now, command: request.command.clone(), clusters, locks, garbage })
}

/// Without the backups of which the clusters' plans tell.
fn beside(mut garbage: garbage::Plan, clusters: &[ClusterPlan]) -> garbage::Plan {
    let is_told = |system: SystemId, id: BackupId| {
        let mut plans = clusters.iter().filter(|plan| plan.cluster.system_id == system);
        plans.any(|plan| plan.backups.iter().any(|verdict| verdict.id == id))
    };
    for list in [&mut garbage.goes, &mut garbage.stays] {
        list.retain(|remains| !matches!(remains.of, Of::Backup(system, id) if is_told(system, id)));
    }
    garbage
}

/// Backups whose lock is asked for; what is to be said of more can be seen by these.
const LOOKED_AT: usize = 100;

async fn locks(archive: &Archive, clusters: &[ClusterPlan]) -> BTreeMap<BackupId, String> {
    let mut locks = BTreeMap::new();
    let goes = clusters.iter().flat_map(|plan| {
        let goes = plan.backups.iter().filter(|verdict| verdict.goes && verdict.finished.is_some());
        goes.map(|verdict| (plan.cluster.system_id, verdict.id))
    });
    for (system, id) in goes.take(LOOKED_AT) {
        if let Some(lock) = archive.store().lock(&Key::Backup(system, id).to_string()).await {
            locks.insert(id, lock);
        }
    }
    locks
}

async fn look(
    archive: &Archive,
    system: SystemId,
    now: Timestamp,
    older_than: Duration,
    observer: &dyn Observer,
) -> Result<Cluster> {
    let mut cluster = backups(archive, system, now, older_than, observer).await?;
    let outline = survey::outline(archive, system).await?;
    let open = cluster.unreadable.iter().chain(&cluster.underway).map(|id| id.segment().timeline);
    let timelines: Vec<_> = cluster.backups.iter().map(|backup| backup.timeline).chain(open).collect();
    // Timelines with a damaged history are of unknown descent, as are those without one.
    (cluster.tree, _) = survey::tree(archive, system, &outline, timelines).await?;
    let size = cluster.size.unwrap_or(SegmentSize::DEFAULT);
    let wanted = outline.timelines.iter().map(|&timeline| (timeline, survey::all_numbers(size)));
    let holdings = survey::holdings(archive, system, size, wanted).await?;
    let stock = |found: survey::Holdings| Stock { segments: found.segments, last: found.last, stored: found.stored };
    cluster.wal = holdings.into_iter().map(|(timeline, found)| (timeline, stock(found))).collect();
    Ok(cluster)
}

/// The backups of a cluster, and nothing of its WAL yet.
async fn backups(
    archive: &Archive,
    system: SystemId,
    now: Timestamp,
    older_than: Duration,
    observer: &dyn Observer,
) -> Result<Cluster> {
    let begun = interrupted(archive, system, observer).await?;
    let older_than = SignedDuration::try_from(older_than).unwrap_or(SignedDuration::MAX);
    let (mut cluster, mut sizes) = (Cluster::empty(system), BTreeSet::new());
    for (id, found) in catalogue::look(archive, system).await? {
        match found {
            Ok(Found::Complete(backup)) => {
                sizes.insert(backup.segment_size()?);
                cluster.backups.push(known(&backup));
            }
            Ok(Found::Incomplete(..)) if begun.contains(&id) => cluster.remains.push(id),
            Ok(Found::Incomplete(..)) => {
                let contents = catalogue::contents(archive, system, id).await?;
                // One that has been completed at this very moment is not known, and stays like one that is being taken.
                if contents.complete || now.duration_since(contents.newest) < older_than {
                    cluster.underway.push(id);
                }
            }
            Err(_) => cluster.unreadable.push(id),
        }
    }
    cluster.size = if sizes.len() == 1 { sizes.first().copied() } else { None };
    Ok(cluster)
}

/// The backups that an earlier run had begun to delete.
async fn interrupted(archive: &Archive, system: SystemId, observer: &dyn Observer) -> Result<BTreeSet<BackupId>> {
    match catalogue::last_retention(archive, system).await {
        Ok(last) => Ok(last.map_or_else(BTreeSet::new, |last| last.deleting.into_iter().collect())),
        Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Refused) => {
            observer.notice(Event::Warning(format!("what the last deletion did is not known: {error}")));
            Ok(BTreeSet::new())
        }
        Err(error) => Err(error),
    }
}

fn known(backup: &Backup) -> Known {
    Known {
        id: backup.id,
        finished: backup.finished,
        timeline: backup.timeline,
        start: backup.start,
        stop: backup.stop,
        postgres: backup.postgres,
        damaged: backup.damage().is_some(),
        pinned: backup.marks.keep,
        bytes: backup.stored_size,
    }
}

/// Counts the files and bytes of the WAL that goes.
async fn weigh(archive: &Archive, plan: &mut ClusterPlan) -> Result<()> {
    let (system, size) = (plan.cluster.system_id, plan.cluster.size.unwrap_or(SegmentSize::DEFAULT));
    for stretch in plan.wal.stretches.iter_mut().filter(|stretch| stretch.goes) {
        let wanted = [(stretch.timeline, stretch.run.first..=stretch.run.last)];
        let found = survey::holdings(archive, system, size, wanted).await?;
        stretch.weight = found.get(&stretch.timeline).map(|found| (found.files(), found.stored_size));
    }
    Ok(())
}
