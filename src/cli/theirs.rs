//! How backups are shown that WAL-E and WAL-G wrote.

use indicatif::BinaryBytes;
use serde_json::{Value, json};

use super::backups::time;
use crate::layout::basebackups::LegacyName;
use crate::legacy::backups::Found;
use crate::legacy::sentinel::{LegacyBackup, Position};

/// A row of the list, in the columns of ours.
pub(super) fn row(found: &Found) -> [String; 10] {
    let name = found.name();
    let mut row = [const { String::new() }; 10];
    row[0] = name.to_string();
    row[7] = name.segment.timeline.0.to_string();
    row[1] = state(found);
    let Found::Complete(backup) = found else { return row };
    row[2] = time(backup.finished);
    row[3] = backup.started.map_or_else(String::new, |started| {
        indicatif::FormattedDuration(backup.finished.duration_since(started).unsigned_abs()).to_string()
    });
    row[4] = size(backup.plain_size);
    row[5] = size(backup.stored_size);
    row[6] = backup.postgres.map_or_else(String::new, |major| major.to_string());
    row[8] = backup.system_id.map_or_else(String::new, |id| id.to_string());
    row
}

fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(String::new, |bytes| BinaryBytes(bytes).to_string())
}

fn state(found: &Found) -> String {
    let writer = found.name().writer();
    match found {
        Found::Complete(backup) => {
            let delta = if backup.parent.is_some() { " delta" } else { "" };
            let kept = if backup.permanent { ", kept" } else { "" };
            format!("complete, of {}{delta}{kept}", backup.writer)
        }
        Found::Incomplete(_) => format!("incomplete, of {writer}"),
        Found::Damaged(..) => format!("damaged, of {writer}"),
    }
}

/// An entry of the list.
pub(super) fn listed(found: &Found) -> Value {
    match found {
        Found::Complete(backup) => value(backup),
        Found::Incomplete(name) => unreadable(name, "incomplete", None),
        Found::Damaged(name, error) => unreadable(name, "damaged", Some(error.to_string())),
    }
}

fn unreadable(name: &LegacyName, state: &str, error: Option<String>) -> Value {
    json!({ "id": name, "written_by": name.writer().to_string(), "state": state, "error": error })
}

/// All that its sentinel says.
pub(super) fn json(backup: &LegacyBackup) -> String {
    format!("{:#}", value(backup))
}

fn value(backup: &LegacyBackup) -> Value {
    json!({
        "id": backup.name,
        "written_by": backup.writer.to_string(),
        "state": "complete",
        "system_id": backup.system_id,
        "postgres": backup.postgres,
        "started": backup.started,
        "finished": backup.finished,
        "finished_is_exact": backup.finish_is_said,
        "timeline": backup.name.segment.timeline.0,
        "start": position_json(backup.start),
        "stop": position_json(backup.stop),
        "delta_of": backup.parent,
        "plain_size": backup.plain_size,
        "stored_size": backup.stored_size,
        "tablespaces": backup.tablespaces,
        "keep": backup.permanent,
    })
}

/// An LSN, or `null` where the size of a segment would have to be known.
fn position_json(position: Position) -> Value {
    match position {
        Position::Lsn(lsn) => json!(lsn),
        Position::Within(..) => Value::Null,
    }
}

fn position(position: Position) -> String {
    match position {
        Position::Lsn(lsn) => lsn.to_string(),
        Position::Within(segment, offset) => format!("byte {offset} of segment {segment}"),
    }
}

/// Everything about a backup, a line each.
pub(super) fn show(backup: &LegacyBackup) -> String {
    let finished = match backup.finish_is_said {
        true => time(backup.finished),
        false => format!("{} by the store, when its sentinel was put there", time(backup.finished)),
    };
    let mut lines = vec![("backup", backup.name.to_string()), ("taken by", backup.writer.to_string())];
    lines.extend(backup.system_id.map(|id| ("system id", id.to_string())));
    lines.extend(backup.postgres.map(|major| ("postgresql", major.to_string())));
    lines.extend(backup.started.map(|started| ("started", time(started))));
    lines.push(("finished", finished));
    lines.push(("timeline", backup.name.segment.timeline.0.to_string()));
    lines.push(("start", position(backup.start)));
    lines.push(("stop", position(backup.stop)));
    lines.extend(backup.parent.as_ref().map(|parent| ("delta of", parent.to_string())));
    lines.extend(backup.plain_size.map(|bytes| ("size", BinaryBytes(bytes).to_string())));
    lines.extend(backup.stored_size.map(|bytes| ("stored", BinaryBytes(bytes).to_string())));
    if backup.permanent {
        lines.push(("kept", "for good".to_owned()));
    }
    let tablespaces = backup.tablespaces.iter();
    lines.extend(tablespaces.map(|space| ("tablespace", format!("{} {}", space.oid, space.location.display()))));
    lines.iter().map(|(name, value)| format!("{name:<14}{value}\n")).collect()
}
