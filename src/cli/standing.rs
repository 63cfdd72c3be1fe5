//! How the standing of an archive and its server is shown: in lines for people, as JSON, and in one line for Nagios.

use indicatif::{BinaryBytes, HumanDuration};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::looking;
use crate::backup::manifest::Backup;
use crate::backup::retention::record::LastRun;
use crate::observe::words::counted;
use crate::status::retention;
use crate::status::verdict::{Finding, Limits, worst};
use crate::status::{Archived, Failing, Host, Standing, Status, Verification};

/// A few lines for each cluster.
pub(super) fn text(standing: &Standing) -> String {
    let clusters = standing.clusters.iter().map(|status| cluster(status, standing));
    let mut text = clusters.collect::<Vec<String>>().join("\n");
    if standing.clusters.is_empty() && standing.unseen_archive.is_none() {
        text.push_str("the archive is empty\n");
    }
    if let Some(signer) = &standing.signer {
        let ends = signer.expires.map_or(String::new(), |end| format!(", until {}", looking::second(end)));
        text.push_str(&format!("\nasked as      {}{ends}\n", signer.who));
    }
    let unseen = standing.unseen_archive.iter().map(|error| format!("the archive: {error}"));
    let unseen: Vec<String> = unseen.chain(standing.not_seen.iter().map(|unseen| unseen.what.clone())).collect();
    if !unseen.is_empty() {
        text.push('\n');
    }
    for what in unseen {
        text.push_str(&format!("not seen: {what}\n"));
    }
    text
}

fn cluster(status: &Status, standing: &Standing) -> String {
    let now = standing.when;
    let name = status.system_id.map_or("of unknown identifier".to_owned(), |system| system.to_string());
    let mut lines = Vec::new();
    if let Some(archived) = &status.archived {
        let wal = archived.last_segment.map_or("there is none".to_owned(), |(name, stored)| {
            format!("{name}, stored {} ago ({})", ago(stored, now), looking::second(stored))
        });
        lines.push(("last WAL", wal));
        let encrypted = archived.last_key.as_ref().map(|key| format!("the last WAL is, for the data key {key}"));
        lines.extend(encrypted.map(|words| ("encrypted", words)));
    } else if standing.unseen_archive.is_none() {
        lines.push(("archive", "has nothing of this cluster".to_owned()));
    }
    if let Some(host) = &status.host {
        lines.extend(host_lines(host, now));
    }
    if let Some(archived) = &status.archived {
        lines.extend(archive_lines(archived, now));
    }
    let mut text = format!("cluster {name}\n\n");
    for (name, value) in lines {
        text.push_str(&format!("{name:<14}{value}\n"));
    }
    let Some(report) = status.archived.as_ref().map(|archived| &archived.report) else { return text };
    if !report.backups.is_empty() {
        text.push_str(&format!("\nA recovery can stop\n{}", looking::windows(report)));
    }
    for damage in &report.damaged {
        text.push_str(&format!("damaged: {}: {}\n", damage.name, damage.detail));
    }
    text
}

fn archive_lines(archived: &Archived, now: Timestamp) -> Vec<(&'static str, String)> {
    let report = &archived.report;
    let backup = archived.last_backup().map_or("there is none".to_owned(), |backup| last_backup(backup, now));
    let incomplete = match report.incomplete_backups.len() {
        0 => String::new(),
        count => format!(", {count} incomplete"),
    };
    let mut lines =
        vec![("last backup", backup), ("backups", format!("{} complete{incomplete}", report.backups.len()))];
    let good = archived.last_good_backup().map(|verified| verified.backup.id);
    if let Some(last) = archived.last_backup().filter(|last| Some(last.id) != good) {
        let damage = last.damage().map_or("its WAL is incomplete".to_owned(), |check| check.count());
        let good = good.map_or("there is none".to_owned(), |id| id.to_string());
        lines.push(("last good one", format!("{good}; of the last one, {damage}")));
    }
    lines.extend(archived.retention.as_ref().map(|last| ("retention", last_retention(last, now))));
    lines.extend(archived.verification.as_ref().map(|last| ("last verified", verification(last, now))));
    lines
}

fn last_retention(last: &LastRun, now: Timestamp) -> String {
    let what = match (retention::wrong(last, now), last.finished) {
        (Some(wrong), _) => wrong,
        (None, None) => "under way".to_owned(),
        (None, Some(_)) => format!(
            "deleted {} backups and {} WAL files, {}; {} backups stay",
            last.deleted.len(),
            last.wal_files,
            BinaryBytes(last.bytes),
            last.kept
        ),
    };
    format!("{}, {} ago: {what}", last.command, ago(last.finished.unwrap_or(last.begun), now))
}

fn verification(last: &Verification, now: Timestamp) -> String {
    let depth = if last.deep { ", with the content of the segments" } else { "" };
    let found = last.failure.as_ref().map_or("nothing was wrong".to_owned(), |failure| failure.clone());
    format!("{} ago from this machine{depth}: {found}", ago(last.when, now))
}

fn host_lines(host: &Host, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(why) = host.does_not_archive() {
        lines.push(("archiving", format!("is off: {why}")));
    }
    if let Some(ready) = &host.ready {
        lines.push((
            "waiting",
            match (ready.files, ready.oldest) {
                (0, _) => "no WAL waits to be archived".to_owned(),
                (files, oldest) => {
                    let oldest =
                        oldest.map_or(String::new(), |oldest| format!(", the oldest for {}", ago(oldest, now)));
                    let rate = host
                        .drained_per_second
                        .map_or(String::new(), |rate| format!("; {rate:.1} are archived a second"));
                    format!("{}, {}{oldest}{rate}", counted(files, "file"), BinaryBytes(ready.bytes))
                }
            },
        ));
    }
    match host.failing() {
        Some(failing) => {
            lines.push(("failing", failing_words(&failing, now)));
            lines.push(("", failing.reason.unwrap_or_else(|| "the server's log says why".to_owned())));
            lines.extend(failing.hint.map(|hint| ("", hint)));
        }
        None if host.archiver.is_some() => lines.push(("failing", "nothing".to_owned())),
        None => {}
    }
    lines
}

fn failing_words(failing: &Failing, now: Timestamp) -> String {
    let since = failing.since.map_or(String::new(), |since| format!(" for {}", ago(since, now)));
    let attempts = failing.attempts.map_or(String::new(), |attempts| format!(", {attempts} attempts"));
    format!("{}{since}{attempts}, the last {} ago", failing.file, ago(failing.last, now))
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

/// One line as Nagios reads it (Monitoring Plugins Development Guidelines, "Plugin Output"): the verdict, what is not
/// well, and ages with their limits.
pub(super) fn check(standing: &Standing, found: &[Finding], limits: &Limits) -> String {
    let now = standing.when;
    let archived: Vec<&Archived> = standing.clusters.iter().filter_map(|status| status.archived.as_ref()).collect();
    let what = match found {
        [] => archived.iter().map(|archived| well(archived, now)).collect::<Vec<String>>().join("; "),
        found => found.iter().map(|finding| finding.what.clone()).collect::<Vec<String>>().join("; "),
    };
    let mut data = Vec::new();
    for archived in archived {
        let number =
            if standing.clusters.len() > 1 { format!("_{}", archived.report.system_id) } else { String::new() };
        let wal = archived.last_segment.map(|(_, stored)| stored);
        let backup = archived.last_good_backup().map(|verified| verified.backup.finished);
        for (name, time, [warning, critical]) in [("wal_age", wal, limits.wal), ("backup_age", backup, limits.backup)] {
            let age = time.map(|time| now.duration_since(time).as_secs().max(0));
            let (warning, critical) = (warning.as_secs(), critical.as_secs());
            data.extend(age.map(|age| format!("{name}{number}={age}s;{warning};{critical};0")));
        }
    }
    let data = if data.is_empty() { String::new() } else { format!(" | {}", data.join(" ")) };
    format!("WALDEN {}: {}{data}", worst(found), one_line(&what))
}

/// What the plugin's output says where nothing could be looked at at all.
pub(super) fn unknown(error: &crate::error::Error) -> String {
    format!("WALDEN UNKNOWN: {}", one_line(&error.to_string()))
}

/// A bar begins the performance data, and a line break the long output.
fn one_line(text: &str) -> String {
    text.replace('|', "/").replace(['\n', '\r'], " ")
}

fn well(archived: &Archived, now: Timestamp) -> String {
    let wal = archived.last_segment.map_or(String::new(), |(_, stored)| format!("last WAL {} ago, ", ago(stored, now)));
    let backup = archived.last_good_backup().map(|verified| ago(verified.backup.finished, now)).unwrap_or_default();
    format!("{wal}last good backup {backup} ago")
}

/// The same as an array; its form is in docs/json.md.
pub(super) fn json(standing: &Standing) -> String {
    let not_seen = standing.unseen_archive.iter().map(|error| format!("the archive: {error}"));
    let not_seen: Vec<String> = not_seen.chain(standing.not_seen.iter().map(|unseen| unseen.what.clone())).collect();
    let clusters = standing.clusters.iter().map(|status| {
        let mut value =
            status.archived.as_ref().map_or_else(|| json!({}), |archived| archive_json(archived, standing.when));
        value["system_id"] = json!(status.system_id);
        value["archive_seen"] = standing.unseen_archive.is_none().into();
        value["archiving"] = status.host.as_ref().map_or(Value::Null, |host| host_json(host, standing.when));
        value["credentials"] = standing
            .signer
            .as_ref()
            .map_or(Value::Null, |signer| json!({ "who": signer.who, "expires": signer.expires }));
        value["not_seen"] = json!(not_seen);
        value
    });
    format!("{:#}", clusters.collect::<Value>())
}

fn host_json(host: &Host, now: Timestamp) -> Value {
    let age = |time: Timestamp| now.duration_since(time).as_secs();
    json!({
        "off": host.does_not_archive(),
        "archived_count": host.archiver.as_ref().map(|archiver| archiver.archived_count),
        "failed_count": host.archiver.as_ref().map(|archiver| archiver.failed_count),
        "last_archived": host.archiver.as_ref().and_then(|archiver| archiver.last_archived_wal.clone()),
        "last_archived_time": host.archiver.as_ref().and_then(|archiver| archiver.last_archived_time),
        "ready": host.ready.map(|ready| json!({
            "files": ready.files,
            "bytes": ready.bytes,
            "oldest": ready.oldest,
            "age": ready.oldest.map(age),
            "archived_per_second": host.drained_per_second,
        })),
        "failing": host.failing().map(|failing| json!({
            "file": failing.file,
            "since": failing.since,
            "last": failing.last,
            "attempts": failing.attempts,
            "reason": failing.reason,
            "hint": failing.hint,
        })),
    })
}

fn archive_json(archived: &Archived, now: Timestamp) -> Value {
    let age = |time: Timestamp| now.duration_since(time).as_secs();
    let report = &archived.report;
    json!({
        "last_segment": archived.last_segment.map(|(name, stored)| {
            json!({ "name": name, "stored": stored, "age": age(stored) })
        }),
        "last_key": archived.last_key,
        "last_backup": archived.last_backup().map(|backup| {
            json!({
                "id": backup.id,
                "timeline": backup.timeline.0,
                "started": backup.started,
                "finished": backup.finished,
                "age": age(backup.finished),
                "seconds": backup.finished.duration_since(backup.started).as_secs_f64(),
                "plain_size": backup.plain_size,
                "stored_size": backup.stored_size,
                "good": archived.last_good_backup().is_some_and(|good| good.backup.id == backup.id),
            })
        }),
        "last_good_backup": archived.last_good_backup().map(|verified| verified.backup.id),
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
        "last_retention": archived.retention.as_ref().map(|last| json!({
            "command": last.command,
            "begun": last.begun,
            "finished": last.finished,
            "age": age(last.finished.unwrap_or(last.begun)),
            "deleted": last.deleted,
            "wal_files": last.wal_files,
            "bytes": last.bytes,
            "refused": last.refused,
            "kept": last.kept,
            "failure": retention::wrong(last, now),
        })),
        "last_verification": archived.verification.as_ref().map(|last| {
            json!({ "when": last.when, "age": age(last.when), "deep": last.deep, "failure": last.failure })
        }),
    })
}
