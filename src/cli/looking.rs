//! How the WAL of an archive, and what was found of it, are shown.

use comfy_table::{CellAlignment, Table, presets};
use indicatif::BinaryBytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::layout::BackupId;
use crate::postgres::control::SystemId;
use crate::wal::chain::{Coverage, Gap, Window};
use crate::wal::segment::{SegmentSize, WalFile};
use crate::wal::show::{HistoryFile, Shown, ShownTimeline};
use crate::wal::verify::{DeepRead, Report, VerifiedBackup, Way};

/// So many gaps and damaged objects are printed for a person; JSON has all of them.
const PRINTED: usize = 20;

/// For each cluster its timelines as a tree, then what is missing.
pub(super) fn shown_text(shown: &[Shown]) -> String {
    shown.iter().map(shown_cluster).collect::<Vec<String>>().join("\n")
}

fn shown_cluster(shown: &Shown) -> String {
    let mut text = heading(shown.system_id, shown.segment_size);
    let header = ["timeline", "left", "history", "segments", "stored", "first", "last", "gaps", "other files"];
    let mut table = table(&header, &[3, 4, 7]);
    for (index, timeline) in shown.timelines.iter().enumerate() {
        table.add_row(timeline_row(timeline, is_last(&shown.timelines, index)));
    }
    text.push_str(&table.trim_fmt());
    text.push('\n');
    let gaps = shown.timelines.iter().flat_map(|timeline| &timeline.gaps);
    lines(&mut text, "missing", gaps.map(Gap::to_string));
    let damaged = shown.timelines.iter().filter_map(|timeline| match &timeline.history {
        HistoryFile::Damaged(detail) => Some(format!("{}: {detail}", WalFile::History(timeline.timeline))),
        _ => None,
    });
    lines(&mut text, "damaged", damaged);
    text
}

fn heading(system: SystemId, size: Option<SegmentSize>) -> String {
    match size {
        Some(size) => format!("cluster {system}, segments of {}\n\n", BinaryBytes(size.bytes())),
        None => format!("cluster {system}\n\n"),
    }
}

/// No later sibling follows.
fn is_last(timelines: &[ShownTimeline], index: usize) -> bool {
    let depth = timelines[index].depth;
    let later = timelines[index + 1..].iter().take_while(|other| other.depth >= depth);
    !later.into_iter().any(|other| other.depth == depth)
}

fn timeline_row(timeline: &ShownTimeline, last: bool) -> [String; 9] {
    let holdings = &timeline.holdings;
    let branch = match (timeline.depth, last) {
        (0, _) => String::new(),
        (depth, true) => format!("{}└─ ", "   ".repeat(depth - 1)),
        (depth, false) => format!("{}├─ ", "   ".repeat(depth - 1)),
    };
    let left = timeline.parent.as_ref().map(|parent| {
        // The reason is text out of a file.
        format!("{} at {}: {}", parent.timeline.0, parent.at, parent.reason.escape_debug())
    });
    let others = [
        (holdings.partial, "partial"),
        (holdings.backup_histories, "backup history"),
        (holdings.foreign, "not WAL of this size"),
    ];
    let others = others.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let missing: u64 = timeline.gaps.iter().map(|gap| gap.run.len()).sum();
    [
        format!("{branch}{}", timeline.timeline.0),
        left.unwrap_or_default(),
        history_word(&timeline.history).to_owned(),
        holdings.segments.count().to_string(),
        BinaryBytes(holdings.stored_size).to_string(),
        timeline.first.map(|name| name.to_string()).unwrap_or_default(),
        timeline.last.map(|name| name.to_string()).unwrap_or_default(),
        if missing == 0 { String::new() } else { format!("{missing} missing") },
        others.collect::<Vec<String>>().join(", "),
    ]
}

fn history_word(history: &HistoryFile) -> &'static str {
    match history {
        HistoryFile::None => "none",
        HistoryFile::Present => "present",
        HistoryFile::Missing => "missing",
        HistoryFile::Damaged(_) => "damaged",
    }
}

/// The same as an array; its form is in docs/json.md.
pub(super) fn shown_json(shown: &[Shown]) -> String {
    let clusters = shown.iter().map(|shown| {
        json!({
            "system_id": shown.system_id,
            "segment_size": shown.segment_size.map(SegmentSize::bytes),
            "timelines": shown.timelines.iter().map(timeline_json).collect::<Vec<Value>>(),
        })
    });
    format!("{:#}", clusters.collect::<Value>())
}

fn timeline_json(timeline: &ShownTimeline) -> Value {
    let ShownTimeline { parent, holdings, .. } = timeline;
    json!({
        "timeline": timeline.timeline.0,
        "parent": parent.as_ref().map(|parent| parent.timeline.0),
        "left_at": parent.as_ref().map(|parent| parent.at),
        "reason": parent.as_ref().map(|parent| &parent.reason),
        "history": history_word(&timeline.history),
        "segments": holdings.segments.count(),
        "stored_size": holdings.stored_size,
        "first": timeline.first,
        "last": timeline.last,
        "gaps": timeline.gaps.iter().map(gap_json).collect::<Vec<Value>>(),
        "partial": holdings.partial,
        "backup_histories": holdings.backup_histories,
        "foreign": holdings.foreign,
    })
}

pub(super) fn gap_json(gap: &Gap) -> Value {
    let (first, last) = gap.names().unzip();
    json!({ "timeline": gap.timeline.0, "first": first, "last": last, "segments": gap.run.len() })
}

/// For each cluster its backups and how far each can be recovered, then what is missing, damaged and not looked at.
pub(super) fn verified_text(reports: &[Report]) -> String {
    reports.iter().map(verified_cluster).collect::<Vec<String>>().join("\n")
}

fn verified_cluster(report: &Report) -> String {
    let mut text = heading(report.system_id, None);
    if report.backups.is_empty() {
        text.push_str("no complete backup\n");
    } else {
        let header = ["backup", "along timeline", "segments", "restores from", "up to", "wal"];
        let mut table = table(&header, &[2]);
        for VerifiedBackup { backup, ways } in &report.backups {
            for (index, way) in ways.iter().enumerate() {
                let id = if index == 0 { backup.id.to_string() } else { String::new() };
                table.add_row(way_row(id, way));
            }
        }
        text.push_str(&table.trim_fmt());
        text.push('\n');
    }
    if let Some(deep) = &report.deep {
        text.push_str(&deep_line(deep));
    }
    lines(&mut text, "missing", report.missing_histories.iter().map(|&t| WalFile::History(t).to_string()));
    let gaps: Vec<&Gap> = report.backups.iter().flat_map(|one| &one.ways).flat_map(|way| &way.coverage.gaps).collect();
    let mut once: Vec<String> = Vec::new();
    for gap in gaps.into_iter().map(Gap::to_string) {
        // Backups of one timeline share their gaps.
        if !once.contains(&gap) && once.len() <= PRINTED {
            once.push(gap);
        }
    }
    lines(&mut text, "missing", once.into_iter());
    let vanished = report.deep.iter().flat_map(|deep| &deep.vanished);
    lines(&mut text, "missing", vanished.map(|name| format!("{name} (listed, and gone when it was read)")));
    lines(&mut text, "damaged", report.damaged.iter().map(|damage| format!("{}: {}", damage.name, damage.detail)));
    for skipped in &report.skipped {
        text.push_str(&format!("not looked at: {skipped}\n"));
    }
    text
}

fn way_row(id: String, way: &Way) -> [String; 6] {
    let (from, to) = match &way.window {
        Some(Window { start, start_time, end, end_time }) => {
            let by = end_time.map(|time| format!(" ({})", second(time))).unwrap_or_default();
            (format!("{start} ({})", second(*start_time)), format!("{end}{by}"))
        }
        None => ("cannot be restored".to_owned(), String::new()),
    };
    let latest = if way.latest { " (latest)" } else { "" };
    let mut state = Vec::new();
    if way.coverage.missing > 0 {
        state.push(format!("{} missing", way.coverage.missing));
    }
    if !way.damaged.is_empty() {
        state.push(format!("{} damaged", way.damaged.len()));
    }
    let state = if state.is_empty() { "complete".to_owned() } else { state.join(", ") };
    let timeline = format!("{}{latest}", way.history.timeline.0);
    [id, timeline, way.coverage.present.to_string(), from, to, state]
}

fn deep_line(deep: &DeepRead) -> String {
    let DeepRead { sound, sound_before, damaged, .. } = deep;
    let before = if *sound_before == 0 {
        String::new()
    } else {
        format!("; {sound_before} more were read by an earlier run that was interrupted")
    };
    format!("{} segments were read, {damaged} of them are damaged{before}\n", sound + damaged)
}

/// The same as an array; its form is in docs/json.md.
pub(super) fn verified_json(reports: &[Report]) -> String {
    let clusters = reports.iter().map(|report| {
        json!({
            "system_id": report.system_id,
            "backups": report.backups.iter().map(backup_json).collect::<Vec<Value>>(),
            "incomplete_backups": report.incomplete_backups,
            "missing_histories": report.missing_histories.iter().map(|t| t.0).collect::<Vec<u32>>(),
            "damaged": report.damaged.iter().map(|damage| {
                json!({ "name": damage.name, "newer": damage.newer, "detail": damage.detail })
            }).collect::<Vec<Value>>(),
            "deep": report.deep.as_ref().map(|deep| {
                json!({
                    "sound": deep.sound,
                    "sound_before": deep.sound_before,
                    "damaged": deep.damaged,
                    "vanished": deep.vanished,
                })
            }),
            "skipped": report.skipped,
        })
    });
    format!("{:#}", clusters.collect::<Value>())
}

/// Where recoveries can stop, a line each, and what is missing in between.
pub(super) fn windows(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let found = report.recoverable();
    for one in &found {
        let mut name = format!("on timeline {}{}", one.timeline.0, if one.latest { " (latest)" } else { "" });
        if one.windows.is_empty() {
            table.add_row([name.clone(), "nowhere: WAL is missing".into(), String::new()]);
        }
        for window in &one.windows {
            let to = window.end_time.map(|time| format!("{} ", second(time))).unwrap_or_default();
            let from = format!("from {} ({})", second(window.start_time), window.start);
            table.add_row([std::mem::take(&mut name), from, format!("to {to}({})", window.end)]);
        }
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let indented = table.trim_fmt().lines().map(|line| format!("  {line}\n")).collect::<String>();
    let mut text = indented;
    let mut gaps: Vec<String> = Vec::new();
    for gap in found.iter().flat_map(|one| &one.gaps).map(Gap::to_string) {
        if !gaps.contains(&gap) {
            gaps.push(gap);
        }
    }
    lines(&mut text, "missing", gaps.into_iter());
    lines(&mut text, "missing", report.missing_histories.iter().map(|&t| WalFile::History(t).to_string()));
    text
}

/// Where recoveries from one backup can stop, one for each way.
pub(super) fn windows_json(report: &Report, id: BackupId) -> Value {
    let own = report.backups.iter().filter(|verified| verified.backup.id == id);
    let windows = own.flat_map(|verified| &verified.ways).filter_map(|way| {
        let mut value = window_json(&way.window?);
        value["timeline"] = way.history.timeline.0.into();
        value["latest"] = way.latest.into();
        Some(value)
    });
    windows.collect()
}

pub(super) fn window_json(window: &Window) -> Value {
    json!({
        "start": window.start,
        "start_time": window.start_time,
        "end": window.end,
        "end_time": window.end_time,
    })
}

fn backup_json(verified: &VerifiedBackup) -> Value {
    let backup = &verified.backup;
    json!({
        "id": backup.id,
        "timeline": backup.timeline.0,
        "ways": verified.ways.iter().map(|way| way_json(way, backup.segment_size)).collect::<Vec<Value>>(),
    })
}

fn way_json(way: &Way, segment_size: u64) -> Value {
    let Coverage { first, end, last, present, missing, gaps, .. } = &way.coverage;
    json!({
        "timeline": way.history.timeline.0,
        "latest": way.latest,
        "from": crate::postgres::lsn::Lsn(first * segment_size),
        "to": end,
        "last": last,
        "segments": present,
        "missing": missing,
        "gaps": gaps.iter().map(gap_json).collect::<Vec<Value>>(),
        "damaged": way.damaged,
        "window": way.window.as_ref().map(window_json),
    })
}

/// A line for each of the first few, and how many more there are.
fn lines(text: &mut String, what: &str, mut items: impl Iterator<Item = String>) {
    for item in items.by_ref().take(PRINTED) {
        text.push_str(&format!("{what}: {item}\n"));
    }
    match items.count() {
        0 => {}
        more => text.push_str(&format!("{what}: {more} more (--json prints all of them)\n")),
    }
}

fn table(header: &[&str], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// UTC, to the second, as ids of backups have it.
pub(super) fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}
