//! How it is shown which backups and which WAL stay and go, and what was deleted.

use indicatif::BinaryBytes;
use serde_json::{Value, json};

use super::deleting;
use crate::backup::delete::expire::Outcome;
use crate::backup::delete::expiry::Plan;
use crate::backup::garbage;
use crate::backup::retention::needs::Stretch;
use crate::backup::retention::record::LastRun;
use crate::backup::retention::{ClusterPlan, Verdict};
use crate::wal::runs::Run;
use crate::wal::segment::{SegmentName, SegmentSize, WalFile};

/// What would be deleted, and what to type to have it deleted.
pub(super) fn planned(plan: &Plan) -> String {
    let text = plan_text(plan);
    let (backups, bytes) = sum(plan);
    let files: u64 = going(plan).filter_map(|stretch| stretch.weight).map(|(files, _)| files).sum();
    let remains =
        plan.clusters.iter().any(|cluster| cluster.backups.iter().any(|one| one.goes && one.finished.is_none()));
    let histories = plan.clusters.iter().any(|cluster| !cluster.wal.histories.is_empty());
    let garbage = plan.garbage.as_ref().filter(|garbage| !garbage.goes.is_empty());
    if backups == 0 && files == 0 && !remains && !histories && garbage.is_none() {
        return format!("{text}there is nothing to delete\n");
    }
    let garbage = garbage.map(|garbage| format!(", and {} of garbage", deleting::amount(garbage::sum(&garbage.goes))));
    format!(
        "{text}nothing has been deleted: {backups} backups and {files} WAL files, {}{}, go with --confirm\n",
        BinaryBytes(bytes),
        garbage.unwrap_or_default()
    )
}

/// What has been deleted.
pub(super) fn done(plan: &Plan, outcome: &Outcome) -> String {
    let mut text = plan_text(plan);
    for run in &outcome.runs {
        text.push_str(&format!(
            "deleted {} backups ({} objects) and {} WAL files of cluster {}, {}\n",
            run.deleted.len(),
            run.backup_objects,
            run.wal_files,
            run.system_id,
            BinaryBytes(run.bytes)
        ));
        if run.marked > 0 {
            text.push_str(&format!(
                "{} of these objects are only marked as deleted: their versions stay until a lifecycle rule removes them\n",
                run.marked
            ));
        }
        if run.refused > 0 {
            text.push_str(&format!("{} objects could not be deleted\n", run.refused));
        }
    }
    if !outcome.garbage.is_empty() {
        text.push_str(&format!("deleted {} of garbage\n", deleting::amount(garbage::sum(&outcome.garbage))));
    }
    text
}

fn plan_text(plan: &Plan) -> String {
    let clusters = plan.clusters.iter().map(|cluster| cluster_text(cluster, plan));
    clusters.chain(plan.garbage.iter().map(deleting::lines)).collect()
}

fn cluster_text(plan: &ClusterPlan, whole: &Plan) -> String {
    let mut text = String::new();
    if whole.clusters.len() > 1 {
        text.push_str(&format!("cluster {}\n", plan.cluster.system_id));
    }
    text.extend(plan.backups.iter().map(|verdict| backup_line(verdict, whole.locks.get(&verdict.id))));
    text.extend(shown(plan).map(|stretch| wal_line(stretch, plan)));
    let histories = plan.wal.histories.iter().map(|&timeline| WalFile::History(timeline));
    text.extend(
        histories.map(|file| format!("goes   WAL {file}: nothing of this timeline or of one after it is left\n")),
    );
    text
}

fn backup_line(verdict: &Verdict, lock: Option<&String>) -> String {
    let size = if verdict.finished.is_some() { format!(", {}", BinaryBytes(verdict.bytes)) } else { String::new() };
    let damaged = if verdict.damaged { ", damaged pages" } else { "" };
    let lock = lock.map_or(String::new(), |lock| format!("; locked {lock}, old versions of it stay as long"));
    format!("{} backup {}{size}{damaged}: {}{lock}\n", fate(verdict.goes), verdict.id, verdict.why)
}

fn wal_line(stretch: &Stretch, plan: &ClusterPlan) -> String {
    let (first, last) = names(stretch, plan);
    let files = match stretch.weight {
        Some((files, bytes)) => format!("{files} files, {}", BinaryBytes(bytes)),
        None => format!("{} segments", stretch.segments),
    };
    format!("{} WAL {first} to {last}, {files}: {}\n", fate(stretch.goes), stretch.why)
}

fn fate(goes: bool) -> &'static str {
    if goes { "goes  " } else { "stays " }
}

/// The stretches in which there is anything.
fn shown(plan: &ClusterPlan) -> impl Iterator<Item = &Stretch> {
    let there = |stretch: &&Stretch| stretch.weight.map_or(stretch.segments, |(files, _)| files) > 0;
    plan.wal.stretches.iter().filter(there)
}

/// The names of the first and the last segment that are there, else of the numbers that they would have.
fn names(stretch: &Stretch, plan: &ClusterPlan) -> (String, String) {
    let size = plan.cluster.size.unwrap_or(SegmentSize::DEFAULT);
    let stock = plan.cluster.wal.get(&stretch.timeline);
    let there = stock.map_or(&[][..], |stock| stock.segments.as_slice()).iter();
    let within = there.filter(|run| run.last >= stretch.run.first && run.first <= stretch.run.last);
    let within: Vec<Run> = within.copied().collect();
    let first = within.first().map_or(stretch.run.first, |run| run.first.max(stretch.run.first));
    let last = within.last().map_or(stretch.run.last, |run| run.last.min(stretch.run.last));
    let name = |number| SegmentName::new(stretch.timeline, number, size).map_or(String::new(), |name| name.to_string());
    (name(first), name(last))
}

fn going(plan: &Plan) -> impl Iterator<Item = &Stretch> {
    plan.clusters.iter().flat_map(|cluster| &cluster.wal.stretches).filter(|stretch| stretch.goes)
}

/// How many backups go, and how many bytes with all WAL.
fn sum(plan: &Plan) -> (usize, u64) {
    let backups = plan.clusters.iter().flat_map(|cluster| &cluster.backups).filter(|verdict| verdict.goes);
    let backups: Vec<&Verdict> = backups.collect();
    let wal: u64 = going(plan).filter_map(|stretch| stretch.weight).map(|(_, bytes)| bytes).sum();
    (backups.len(), backups.iter().map(|verdict| verdict.bytes).sum::<u64>() + wal)
}

/// The same; its form is in docs/json.md.
pub(super) fn json(plan: &Plan, outcome: Option<&Outcome>) -> String {
    let clusters: Vec<Value> = plan.clusters.iter().map(|cluster| cluster_json(cluster, plan)).collect();
    let done = outcome.map(|outcome| outcome.runs.iter().map(run_json).collect::<Vec<Value>>());
    let deleted = outcome.map(|outcome| outcome.garbage.as_slice());
    format!(
        "{:#}",
        json!({
            "command": plan.command,
            "now": plan.now,
            "confirmed": outcome.is_some(),
            "clusters": clusters,
            "garbage": plan.garbage.as_ref().map(|garbage| deleting::object(garbage, deleted)),
            "done": done,
        })
    )
}

fn cluster_json(plan: &ClusterPlan, whole: &Plan) -> Value {
    let backups: Vec<Value> = plan
        .backups
        .iter()
        .map(|verdict| {
            json!({
                "id": verdict.id,
                "finished": verdict.finished,
                "bytes": verdict.finished.map(|_| verdict.bytes),
                "damaged": verdict.damaged,
                "locked": whole.locks.get(&verdict.id),
                "goes": verdict.goes,
                "reason": verdict.why.to_string(),
            })
        })
        .collect();
    let wal: Vec<Value> = shown(plan)
        .map(|stretch| {
            let (first, last) = names(stretch, plan);
            json!({
                "timeline": stretch.timeline.0,
                "first": first,
                "last": last,
                "segments": stretch.segments,
                "files": stretch.weight.map(|(files, _)| files),
                "bytes": stretch.weight.map(|(_, bytes)| bytes),
                "goes": stretch.goes,
                "reason": stretch.why.to_string(),
            })
        })
        .collect();
    let histories: Vec<u32> = plan.wal.histories.iter().map(|timeline| timeline.0).collect();
    json!({ "system_id": plan.cluster.system_id, "backups": backups, "wal": wal, "histories": histories })
}

fn run_json(run: &LastRun) -> Value {
    json!({
        "system_id": run.system_id,
        "finished": run.finished,
        "deleted": run.deleted,
        "backup_objects": run.backup_objects,
        "wal_files": run.wal_files,
        "bytes": run.bytes,
        "refused": run.refused,
        "marked": run.marked,
        "failure": run.failure,
    })
}
