//! How backups are shown.

use std::io::Write;

use comfy_table::{Table, presets};
use indicatif::{BinaryBytes, FormattedDuration};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{looking, theirs};
use crate::backup::catalogue::Found;
use crate::backup::manifest::{Backup, File, Files, Method};
use crate::error::{Error, Kind, Result};
use crate::legacy::backups as legacy;
use crate::wal::verify::Report;

/// What a cluster has of backups, and how far they lead, if that was asked for.
type Listed = (Vec<Found>, Option<Report>);

/// A table, oldest first, those of WAL-E and WAL-G before ours, and where recoveries can stop, if that was asked for.
pub(super) fn list_table(theirs: &[legacy::Found], listed: &[Listed]) -> String {
    let mut table = Table::new();
    let header =
        ["backup", "state", "finished", "took", "size", "stored", "postgres", "timeline", "system id", "label"];
    table.load_style(presets::NOTHING).set_header(header);
    for found in theirs {
        table.add_row(theirs::row(found));
    }
    for found in listed.iter().flat_map(|(found, _)| found) {
        table.add_row(match found {
            Found::Complete(backup) => [
                backup.id.to_string(),
                state(backup),
                time(backup.finished),
                took(backup),
                BinaryBytes(backup.plain_size).to_string(),
                BinaryBytes(backup.stored_size).to_string(),
                backup.postgres.to_string(),
                backup.timeline.0.to_string(),
                backup.system_id.to_string(),
                backup.marks.label.clone().unwrap_or_default(),
            ],
            Found::Incomplete(system, id) => {
                let mut row = [const { String::new() }; 10];
                (row[0], row[1], row[8]) = (id.to_string(), "incomplete".into(), system.to_string());
                row
            }
        });
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    for (_, report) in listed {
        match report {
            Some(report) if !report.backups.is_empty() => {
                let cluster =
                    if listed.len() > 1 { format!(" of cluster {}", report.system_id) } else { String::new() };
                text.push_str(&format!("\n\nA recovery{cluster} can stop\n{}", looking::windows(report).trim_end()));
            }
            Some(_) => {}
            None => text.push_str("\n\nWhere recoveries can stop: walden status, or walden backup-list --windows"),
        }
    }
    text
}

fn state(backup: &Backup) -> String {
    let state = backup.damage().map_or("complete".to_owned(), |check| format!("damaged pages: {}", check.damaged));
    if backup.marks.keep { format!("{state}, kept") } else { state }
}

/// An array of the short manifests, each with a `state` and its `windows`, if they have been looked at; of an incomplete
/// backup little is known.
pub(super) fn list_json(theirs: &[legacy::Found], listed: &[Listed]) -> Result<String> {
    let mut values: Vec<Value> = theirs.iter().map(theirs::listed).collect();
    for (found, report) in listed {
        for found in found {
            values.push(match found {
                Found::Complete(backup) => {
                    let mut value = value(backup)?;
                    value["windows"] =
                        report.as_ref().map_or(Value::Null, |report| looking::windows_json(report, backup.id));
                    value
                }
                Found::Incomplete(system_id, id) => json!({ "id": id, "system_id": system_id, "state": "incomplete" }),
            });
        }
    }
    Ok(format!("{:#}", Value::Array(values)))
}

/// The short manifest.
pub(super) fn json(backup: &Backup) -> Result<String> {
    Ok(format!("{:#}", value(backup)?))
}

fn value(backup: &Backup) -> Result<Value> {
    let mut value = serde_json::to_value(backup)
        .map_err(|error| Error::new(Kind::Bug, "could not describe a backup").detail(error.to_string()))?;
    value["state"] = if backup.damage().is_some() { "damaged" } else { "complete" }.into();
    // Always there for who reads it, unlike in the manifest.
    let marks = &backup.marks;
    for (name, mark) in [("label", json!(marks.label)), ("notes", json!(marks.notes)), ("keep", json!(marks.keep))] {
        value[name] = mark;
    }
    value["from_standby"] = backup.from_standby.into();
    value["resumed"] = backup.resumed.into();
    value["method"] = json!(backup.method);
    value["key"] = json!(backup.key);
    Ok(value)
}

/// What has been done, in two lines.
pub(super) fn summary(backup: &Backup) -> String {
    let (plain, stored) = (BinaryBytes(backup.plain_size), BinaryBytes(backup.stored_size));
    format!("backup {}\n{} files, {plain}, stored in {stored}\n", backup.id, backup.files)
}

/// Everything about a backup, a line each.
pub(super) fn show(backup: &Backup) -> String {
    let mut lines = vec![
        ("backup", backup.id.to_string()),
        ("system id", backup.system_id.to_string()),
        ("postgresql", backup.postgres.to_string()),
        ("started", time(backup.started)),
        ("finished", time(backup.finished)),
        ("took", took(backup)),
        ("timeline", backup.timeline.0.to_string()),
        ("start", backup.start.to_string()),
        ("stop", backup.stop.to_string()),
        ("files", backup.files.to_string()),
        ("size", BinaryBytes(backup.plain_size).to_string()),
        ("stored", BinaryBytes(backup.stored_size).to_string()),
        ("checksums", checksums(backup)),
        ("segment size", BinaryBytes(backup.segment_size).to_string()),
        ("taken by", format!("walden {}", backup.walden)),
    ];
    lines.extend(backup.key.iter().map(|key| ("encrypted", format!("for the data key {key}"))));
    if backup.from_standby {
        lines.push(("from", "a standby".to_owned()));
    }
    if backup.resumed {
        lines.push(("resumed", "after an interruption; begun when its id says".to_owned()));
    }
    if backup.method == Method::Remote {
        lines.push(("method", "remote: the server sent it".to_owned()));
    }
    if backup.marks.keep {
        lines.push(("kept", "for good".to_owned()));
    }
    lines.extend(backup.marks.label.iter().map(|label| ("label", label.clone())));
    lines.extend(backup.marks.notes.iter().map(|(key, value)| ("note", format!("{key}={value}"))));
    let tablespaces = backup.tablespaces.iter();
    lines.extend(tablespaces.map(|space| ("tablespace", format!("{} {}", space.oid, space.location.display()))));
    let damaged = backup.damage().map_or(Default::default(), |check| check.list.as_slice());
    lines.extend(damaged.iter().map(|page| ("damaged", page.to_string())));
    lines.iter().map(|(name, value)| format!("{name:<14}{value}\n")).collect()
}

/// Whether the cluster has page checksums, and what came of verifying them.
fn checksums(backup: &Backup) -> String {
    match &backup.pages {
        _ if !backup.data_checksums => "off".into(),
        None => "on, not verified".into(),
        Some(check) if check.damaged == 0 => format!("on, {} pages verified", check.checked),
        Some(check) => format!("on, {} pages verified, {}", check.checked, check.count()),
    }
}

/// UTC, to the second: an id says the same.
pub(super) fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

fn took(backup: &Backup) -> String {
    let took = backup.finished.duration_since(backup.started);
    FormattedDuration(took.unsigned_abs()).to_string()
}

/// Prints a line for each file, size and path; as JSON, an array of objects, one a line. Written as it comes: there can be
/// millions.
pub(super) fn print_files(files: &Files, json: bool) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match write_files(files, json, &mut out).and_then(|()| out.flush()) {
        // `walden backup-show LATEST --files | head` ends quietly.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("could not write to standard output", &error))
        }
        _ => Ok(()),
    }
}

fn write_files(files: &Files, json: bool, out: &mut impl Write) -> std::io::Result<()> {
    for number in 0..files.len() {
        let file = files.file(number);
        if json {
            let separator = if number == 0 { "[" } else { "," };
            let File { path, size, mode, modified, crc32c, .. } = file;
            let value = json!({ "path": path, "size": size, "mode": mode, "modified": modified, "crc32c": crc32c });
            writeln!(out, "{separator}{value}")?;
        } else {
            writeln!(out, "{:>12} {}", file.size, file.path)?;
        }
    }
    if json { writeln!(out, "{}]", if files.is_empty() { "[" } else { "" }) } else { Ok(()) }
}
