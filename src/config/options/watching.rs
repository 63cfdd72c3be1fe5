//! What is set for watching: where metrics go, and from when on something is bad.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::row::VerbName::{Exporter, Report, Status};
use crate::config::row::{Row, Setting};

/// Where metrics are left.
pub static METRICS_DIR: Setting<PathBuf> = Setting::new(Row {
    name: "metrics-dir",
    value: Some("DIR"),
    example: Some("/var/lib/prometheus/node-exporter"),
    doc: "Where each run leaves metrics for the textfile collector of Prometheus' node_exporter; none are left unless given",
    ..Row::SETTING
});

/// Where the exporter listens.
pub static LISTEN: Setting<SocketAddr> = Setting::new(Row {
    name: "listen",
    verbs: &[Exporter],
    value: Some("ADDRESS"),
    default: Some("127.0.0.1:9762"),
    doc: "The address and port at which metrics are served; whoever can reach it can read them",
    ..Row::SETTING
});

/// The age of a backup that is a warning.
pub static WARN_BACKUP_AGE: Setting<Duration> = Setting::new(Row {
    name: "warn-backup-age",
    verbs: &[Status, Report],
    value: Some("DURATION"),
    default: Some("30h"),
    doc: "In a verdict, the age of the newest good backup from which on it is a warning: one daily backup was missed",
    ..Row::SETTING
});

/// The age of a backup that is critical.
pub static CRITICAL_BACKUP_AGE: Setting<Duration> = Setting::new(Row {
    name: "critical-backup-age",
    verbs: &[Status, Report],
    value: Some("DURATION"),
    default: Some("54h"),
    doc: "In a verdict, the age of the newest good backup from which on it is critical: two daily backups were missed",
    ..Row::SETTING
});

/// The age of WAL that is a warning.
pub static WARN_WAL_AGE: Setting<Duration> = Setting::new(Row {
    name: "warn-wal-age",
    verbs: &[Status, Report],
    value: Some("DURATION"),
    default: Some("15m"),
    doc: "In a verdict, how long WAL may wait to be archived before it is a warning; where the server is not seen, how \
          old the last segment in the archive may be",
    ..Row::SETTING
});

/// The age of WAL that is critical.
pub static CRITICAL_WAL_AGE: Setting<Duration> = Setting::new(Row {
    name: "critical-wal-age",
    verbs: &[Status, Report],
    value: Some("DURATION"),
    default: Some("1h"),
    doc: "In a verdict, how long WAL may wait to be archived before it is critical; where the server is not seen, how \
          old the last segment in the archive may be",
    ..Row::SETTING
});

/// Judge.
pub static CHECK: Setting<bool> = Setting::new(Row {
    name: "check",
    verbs: &[Status],
    default: Some("false"),
    doc: "Print one line and end with 0, 1, 2 or 3 for OK, WARNING, CRITICAL or UNKNOWN, as Nagios' plugins do",
    ..Row::ARGUMENT
});

/// Where the page goes.
pub static OUTPUT: Setting<PathBuf> = Setting::new(Row {
    name: "output",
    verbs: &[Report],
    value: Some("FILE"),
    doc: "The file to write the page to, in one step, in place of what was there; standard output unless given",
    ..Row::ARGUMENT
});
