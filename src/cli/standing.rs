//! How the standing of an archive is shown.

use indicatif::{BinaryBytes, HumanDuration};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::looking;
use crate::backup::manifest::Backup;
use crate::status::Status;

/// A few lines for each cluster.
pub(super) fn text(found: &[Status], now: Timestamp) -> String {
    if found.is_empty() {
        return "the archive is empty\n".to_owned();
    }
    found.iter().map(|status| cluster(status, now)).collect::<Vec<String>>().join("\n")
}

fn cluster(status: &Status, now: Timestamp) -> String {
    let report = &status.report;
    let wal = status.last_segment.map_or("there is none".to_owned(), |(name, stored)| {
        format!("{name}, stored {} ago ({})", ago(stored, now), looking::second(stored))
    });
    let backup = status.last_backup().map_or("there is none".to_owned(), |backup| last_backup(backup, now));
    let incomplete = match report.incomplete_backups.len() {
        0 => String::new(),
        count => format!(", {count} incomplete"),
    };
    let mut text = format!("cluster {}\n\n", report.system_id);
    for (name, value) in [
        ("last WAL", wal),
        ("last backup", backup),
        ("backups", format!("{} complete{incomplete}", report.backups.len())),
    ] {
        text.push_str(&format!("{name:<14}{value}\n"));
    }
    if !report.backups.is_empty() {
        text.push_str(&format!("\nA recovery can stop\n{}", looking::windows(report)));
    }
    for damage in &report.damaged {
        text.push_str(&format!("damaged: {}: {}\n", damage.name, damage.detail));
    }
    text
}

fn last_backup(backup: &Backup, now: Timestamp) -> String {
    format!(
        "{}, finished {} ago, took {}, {} stored in {}",
        backup.id,
        ago(backup.finished, now),
        HumanDuration(backup.finished.duration_since(backup.started).unsigned_abs()),
        BinaryBytes(backup.plain_size),
        BinaryBytes(backup.stored_size),
    )
}

/// Of two clocks, so it may be less than nothing.
pub(super) fn ago(time: Timestamp, now: Timestamp) -> String {
    let age = now.duration_since(time);
    HumanDuration(if age.is_negative() { std::time::Duration::ZERO } else { age.unsigned_abs() }).to_string()
}

/// The same as an array; its form is in docs/json.md.
pub(super) fn json(found: &[Status], now: Timestamp) -> String {
    let age = |time: Timestamp| now.duration_since(time).as_secs();
    let clusters = found.iter().map(|status| {
        let report = &status.report;
        json!({
            "system_id": report.system_id,
            "last_segment": status.last_segment.map(|(name, stored)| {
                json!({ "name": name, "stored": stored, "age": age(stored) })
            }),
            "last_backup": status.last_backup().map(|backup| {
                json!({
                    "id": backup.id,
                    "timeline": backup.timeline.0,
                    "started": backup.started,
                    "finished": backup.finished,
                    "age": age(backup.finished),
                    "plain_size": backup.plain_size,
                    "stored_size": backup.stored_size,
                })
            }),
            "backups": report.backups.len(),
            "incomplete_backups": report.incomplete_backups,
            "recoverable": report.recoverable().iter().map(|one| {
                json!({
                    "timeline": one.timeline.0,
                    "latest": one.latest,
                    "windows": one.windows.iter().map(looking::window_json).collect::<Vec<Value>>(),
                    "gaps": one.gaps.iter().map(looking::gap_json).collect::<Vec<Value>>(),
                })
            }).collect::<Vec<Value>>(),
            "missing_histories": report.missing_histories.iter().map(|t| t.0).collect::<Vec<u32>>(),
            "damaged": report.damaged.iter().map(|damage| {
                json!({ "name": damage.name, "newer": damage.newer, "detail": damage.detail })
            }).collect::<Vec<Value>>(),
        })
    });
    format!("{:#}", clusters.collect::<Value>())
}
