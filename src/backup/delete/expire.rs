//! Carries out what retention has decided: short manifests first, so that what is killed midway leaves no backup that is
//! not whole; then lists of files, parts, WAL, and the history files. Garbage, where it goes too, is last.
//!
//! Deletes nothing that is not in the plan. What was refused and so still is there keeps its WAL.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::delete_garbage;
use super::expiry::Plan;
use crate::archive::Archive;
use crate::backup::catalogue;
use crate::backup::garbage::Remains;
use crate::backup::retention::record::LastRun;
use crate::backup::retention::{self, ClusterPlan, Verdict, Why, needs};
use crate::error::{Error, Kind, Result};
use crate::layout::{self, BackupId, Key};
use crate::observe::{Event, Observer};
use crate::postgres::control::SystemId;
use crate::storage::{ListQuery, ObjectInfo, PutMode, could_not};
use crate::wal::segment::{SegmentName, SegmentSize, WalFile};
use crate::wal::timeline::Timeline;

/// What came of a plan.
#[derive(Debug)]
pub struct Outcome {
    /// What was done in each cluster.
    pub runs: Vec<LastRun>,
    /// What was deleted of what failed backups and the like have left.
    pub garbage: Vec<Remains>,
    refused: Refused,
}

#[derive(Debug, Default)]
struct Refused {
    count: u64,
    first: Vec<String>,
    error: Option<Error>,
}

/// So many keys that were refused are remembered by name.
const REMEMBERED: usize = 10;

impl Outcome {
    /// # Errors
    /// The first refusal, with how many there were.
    pub fn judge(self) -> Result<()> {
        let Refused { count, first, error } = self.refused;
        match error {
            None => Ok(()),
            Some(error) if count == 0 => Err(error),
            Some(error) => Err(error.detail(could_not(count, &first))),
        }
    }
}

/// Deletes what goes by the plan. Can be run again, with a new plan, after whatever ended it.
///
/// # Errors
/// Those of the store that concern more than single objects. What was refused of those is in the outcome.
pub async fn expire(archive: &Archive, plan: &Plan, observer: &dyn Observer) -> Result<Outcome> {
    let mut outcome = Outcome { runs: Vec::new(), garbage: Vec::new(), refused: Refused::default() };
    for cluster in &plan.clusters {
        let run = expire_cluster(archive, plan, cluster, &mut outcome.refused, observer).await?;
        outcome.runs.push(run);
    }
    if let Some(garbage) = &plan.garbage {
        let swept = delete_garbage(archive, garbage, observer).await?;
        outcome.garbage = swept.deleted;
        outcome.refused.error = outcome.refused.error.or(swept.refused);
    }
    observer.notice(Event::Done("what may go has been deleted".to_owned()));
    Ok(outcome)
}

async fn expire_cluster(
    archive: &Archive,
    plan: &Plan,
    cluster: &ClusterPlan,
    refused: &mut Refused,
    observer: &dyn Observer,
) -> Result<LastRun> {
    let system = cluster.cluster.system_id;
    let goes: Vec<BackupId> = cluster.backups.iter().filter(|verdict| verdict.goes).map(|verdict| verdict.id).collect();
    let run = LastRun::begin(system, &plan.command, plan.now, goes);
    let mut work = Work { archive, system, run, refused, observer };
    work.record().await?;
    let ended = work.expire(cluster).await;
    work.run.finished = Some(archive.store().now().await.unwrap_or(plan.now));
    if let Err(error) = &ended {
        work.run.failure.get_or_insert_with(|| error.to_string());
    }
    let recorded = work.finish(cluster).await;
    let run = work.run;
    ended.and(recorded).map(|()| run)
}

/// The deletion of one cluster's share.
struct Work<'a> {
    archive: &'a Archive,
    system: SystemId,
    run: LastRun,
    refused: &'a mut Refused,
    observer: &'a dyn Observer,
}

impl Work<'_> {
    async fn expire(&mut self, plan: &ClusterPlan) -> Result<()> {
        let goes: Vec<&Verdict> = plan.backups.iter().filter(|verdict| verdict.goes).collect();
        self.phase(format!("deleting {} backups of cluster {}", goes.len(), self.system));
        let mut left = BTreeSet::new();
        for verdict in &goes {
            if !self.unmake(verdict).await? {
                left.insert(verdict.id);
            }
        }
        for id in goes.iter().map(|verdict| verdict.id).filter(|id| !left.contains(id)) {
            self.contents(id).await?;
        }
        self.run.deleting.retain(|id| !left.contains(id));
        let after: Vec<Verdict> = plan.backups.iter().map(|verdict| spared(verdict, &left)).collect();
        self.note_what_stays(&after);
        self.wal(plan, &after).await
    }

    /// Takes the short manifest away; `false` if the backup stays.
    async fn unmake(&mut self, verdict: &Verdict) -> Result<bool> {
        let id = verdict.id;
        if verdict.why == Why::Remains {
            return Ok(true);
        }
        match catalogue::read(self.archive, self.system, id).await {
            Ok(backup) if backup.marks.keep => {
                let what = format!("backup {id} is not deleted: it was marked to be kept meanwhile");
                self.observer.notice(Event::Warning(what));
                return Ok(false);
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Corrupt | Kind::Refused) => {}
            Err(error) => return Err(error),
        }
        let key = Key::Backup(self.system, id).to_string();
        // From here on there is no such backup.
        let gone = self.delete(vec![ObjectInfo { key, size: 0, modified: Timestamp::UNIX_EPOCH }]).await? == 1;
        if gone {
            self.run.deleted.push(id);
            self.run.backup_objects += 1;
        }
        Ok(gone)
    }

    /// Deletes what lies below an id whose short manifest is gone.
    async fn contents(&mut self, id: BackupId) -> Result<()> {
        let before = self.refused.count;
        let key = Key::Files(self.system, id).to_string();
        self.run.backup_objects +=
            self.delete(vec![ObjectInfo { key, size: 0, modified: Timestamp::UNIX_EPOCH }]).await?;
        let mut query = ListQuery { prefix: layout::backup_prefix(self.system, id), ..ListQuery::default() };
        loop {
            let page = self.archive.store().list(&query).await?;
            let is_part = |object: &ObjectInfo| matches!(Key::parse(&object.key), Some(Key::Part(..)));
            let parts: Vec<ObjectInfo> = page.objects.into_iter().filter(is_part).collect();
            self.run.backup_objects += self.delete(parts).await?;
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => break,
            }
        }
        if self.refused.count == before {
            self.run.deleting.retain(|other| *other != id);
        }
        Ok(())
    }

    /// Deletes the WAL that nothing needs which is there now.
    async fn wal(&mut self, plan: &ClusterPlan, after: &[Verdict]) -> Result<()> {
        let kept = retention::kept(&plan.cluster, after);
        let wal = needs::plan(&plan.cluster, kept.as_deref(), plan.bare);
        let going = wal.going();
        let planned = plan.wal.going();
        self.phase(format!("deleting WAL of cluster {}", self.system));
        let before = self.refused.count;
        let size = plan.cluster.size.unwrap_or(SegmentSize::DEFAULT);
        for (&timeline, runs) in &going {
            let Some(planned) = planned.get(&timeline) else { continue };
            // Where nothing stays, names that no segment of this size has go, too.
            let uncounted = kept.as_ref().is_some_and(Vec::is_empty);
            let goes = |file: WalFile| match file.segment().and_then(|name| name.number(size)) {
                Some(number) => runs.contains(number) && planned.contains(number),
                None => uncounted,
            };
            let end = planned.as_slice().last().map(|run| run.last).filter(|_| !uncounted);
            self.timeline(timeline, end.and_then(|end| SegmentName::new(timeline, end + 1, size)), goes).await?;
        }
        // Who could not delete all WAL must be able to say where it comes from.
        if self.refused.count == before {
            let histories = wal.histories.intersection(&plan.wal.histories);
            let keys = histories.map(|&timeline| Key::Wal(self.system, WalFile::History(timeline)).to_string());
            let keys = keys.map(|key| ObjectInfo { key, size: 0, modified: Timestamp::UNIX_EPOCH }).collect();
            self.run.wal_files += self.delete(keys).await?;
        }
        Ok(())
    }

    /// Deletes what goes of a timeline; nothing does from the segment `end` on.
    async fn timeline(
        &mut self,
        timeline: Timeline,
        end: Option<SegmentName>,
        goes: impl Fn(WalFile) -> bool,
    ) -> Result<()> {
        let end = end.map(|name| Key::Wal(self.system, WalFile::Segment(name)).to_string());
        let mut query = ListQuery { prefix: layout::timeline_prefix(self.system, timeline), ..ListQuery::default() };
        loop {
            let page = self.archive.store().list(&query).await?;
            let goes = |object: &ObjectInfo| matches!(Key::parse(&object.key), Some(Key::Wal(_, file)) if goes(file));
            let beyond = page.objects.last().zip(end.as_ref()).is_some_and(|(last, end)| last.key >= *end);
            self.run.wal_files += self.delete(page.objects.into_iter().filter(goes).collect()).await?;
            match page.next.filter(|_| !beyond) {
                Some(next) => query.cursor = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Deletes these, at most a page of them; how many are gone.
    async fn delete(&mut self, objects: Vec<ObjectInfo>) -> Result<u64> {
        if objects.is_empty() {
            return Ok(0);
        }
        let keys: Vec<String> = objects.iter().map(|object| object.key.clone()).collect();
        let removed = self.archive.store().remove(&keys).await?;
        let refused: BTreeSet<&String> = removed.refused.iter().collect();
        let gone: Vec<&ObjectInfo> = objects.iter().filter(|object| !refused.contains(&object.key)).collect();
        self.run.bytes += gone.iter().map(|object| object.size).sum::<u64>();
        self.run.marked += removed.marked;
        self.run.refused += refused.len() as u64;
        self.refused.count += refused.len() as u64;
        let room = REMEMBERED.saturating_sub(self.refused.first.len());
        self.refused.first.extend(removed.refused.iter().take(room).cloned());
        if let Some(error) = removed.refusal {
            self.run.failure.get_or_insert_with(|| error.to_string());
            self.refused.error.get_or_insert(error);
        }
        Ok(gone.len() as u64)
    }

    fn note_what_stays(&mut self, after: &[Verdict]) {
        let stays = || after.iter().filter(|verdict| !verdict.goes);
        self.run.kept = stays().filter(|verdict| verdict.finished.is_some()).count() as u64;
        let leading = stays().filter(|verdict| verdict.why != Why::Pinned && !verdict.damaged);
        self.run.oldest = leading.filter_map(|verdict| verdict.finished).min();
    }

    /// Writes down what is being done. Whoever may not do that can delete all the same.
    async fn record(&self) -> Result<()> {
        let key = Key::Retention(self.system).to_string();
        let put = self.archive.store().put(&key, self.run.to_json()?.into(), PutMode::Replace).await;
        match put {
            Err(error) if error.kind() == Kind::Denied => {
                let what = format!("what is deleted is not noted in the archive, and status will not show it: {error}");
                self.observer.notice(Event::Warning(what));
                Ok(())
            }
            put => put,
        }
    }

    /// Writes down what was done; where nothing is left, there is nothing to read it beside.
    async fn finish(&mut self, plan: &ClusterPlan) -> Result<()> {
        let empty = self.run.kept == 0
            && self.run.failure.is_none()
            && plan.wal.stretches.iter().all(|stretch| stretch.goes)
            && plan.backups.iter().all(|verdict| verdict.goes);
        match empty {
            true => {
                self.archive.store().delete(&[Key::Retention(self.system).to_string()]).await?;
                self.data_keys().await
            }
            false => self.record().await,
        }
    }

    /// Deletes the data keys of a cluster of which nothing else is left. Whoever still writes with one of them puts it
    /// there again.
    async fn data_keys(&self) -> Result<()> {
        let prefix = layout::cluster_prefix(self.system);
        let page = self.archive.store().list(&ListQuery { prefix, fold: true, ..ListQuery::default() }).await?;
        let keys = layout::keys_prefix(self.system);
        if !page.objects.is_empty() || page.prefixes.iter().any(|prefix| *prefix != keys) {
            return Ok(());
        }
        let names = self.archive.data_key_names(self.system).await?;
        let keys = names.into_iter().map(|name| Key::DataKey(self.system, name).to_string());
        self.archive.store().delete(&keys.collect::<Vec<String>>()).await
    }

    fn phase(&self, name: String) {
        self.observer.notice(Event::Phase { name, bytes: None });
    }
}

/// The verdict, or that the backup stays after all, with all WAL from there on.
fn spared(verdict: &Verdict, left: &BTreeSet<BackupId>) -> Verdict {
    match left.contains(&verdict.id) {
        true => Verdict { goes: false, why: Why::NotMeant, ..verdict.clone() },
        false => verdict.clone(),
    }
}
