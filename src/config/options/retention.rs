//! The rows of `delete`: what stays when old backups and WAL go.

use std::time::Duration;

use crate::config::row::VerbName::Delete;
use crate::config::row::{Row, Setting};

/// So many of the newest backups stay.
pub static RETAIN: Setting<u32> = Setting::new(Row {
    name: "retain",
    verbs: &[Delete],
    value: Some("COUNT"),
    bounds: Some(["1", "100000"]),
    example: Some("7"),
    doc: "How many of the newest sound backups stay when delete retain or delete policy removes old ones, each with the WAL \
          from there on. What any rule keeps stays",
    ..Row::SETTING
});

/// Every moment of so long stays within reach.
pub static RETAIN_WINDOW: Setting<Duration> = Setting::new(Row {
    name: "retain-window",
    verbs: &[Delete],
    value: Some("DURATION"),
    bounds: Some(["1h", "36500d"]),
    example: Some("14d"),
    doc: "How far back recoveries to any moment must stay possible when delete retain or delete policy removes old \
          backups; --window for short. The newest backup that finished before that stays, too",
    ..Row::SETTING
});

/// So many backups stay whatever else is said.
pub static RETAIN_MIN: Setting<u32> = Setting::new(Row {
    name: "retain-min",
    verbs: &[Delete],
    value: Some("COUNT"),
    bounds: Some(["1", "100000"]),
    default: Some("1"),
    doc: "How many of the newest sound backups stay whatever delete retain, policy or before are told; --min for short",
    ..Row::SETTING
});

/// Leave no sound backup.
pub static EVEN_THE_LAST: Setting<bool> = Setting::new(Row {
    name: "even-the-last",
    verbs: &[Delete],
    default: Some("false"),
    doc: "With delete backup and delete everything: also if no sound backup of the cluster is left",
    ..Row::ARGUMENT
});
