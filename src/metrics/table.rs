//! Every metric there is: its name, what it means, and its labels beside `archive`.
//!
//! Names and units follow Prometheus ("Metric and label naming"): base units, `_total` for counters, times as seconds
//! since 1970. docs/monitoring.md is tested against this.

/// Whether a metric only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until it begins at 0 again.
    Counter,
    /// It is what it is now.
    Gauge,
}

impl Kind {
    /// As Prometheus writes it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        }
    }
}

/// Who finds a value out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Each run of a verb leaves it.
    Run,
    /// `status` and the exporter find it out when they look.
    Look,
}

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Whether it only grows.
    pub kind: Kind,
    /// Who finds it out.
    pub source: Source,
    /// Its labels beside `archive`, in order.
    pub labels: &'static [&'static str],
    /// What it means, without a full stop.
    pub help: &'static str,
}

const fn run(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind, source: Source::Run, labels, help }
}

const fn look(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, source: Source::Look, labels, help }
}

const fn looked_up_counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, source: Source::Look, labels, help }
}

const VERB: &[&str] = &["verb"];
const CLUSTER: &[&str] = &["system_id"];
const TIMELINE: &[&str] = &["system_id", "timeline"];

/// Runs that came to an end.
pub static RUNS: Metric = run(
    "walden_runs_total",
    Kind::Counter,
    &["verb", "result"],
    "Runs that came to an end, by verb and result: ok, or the kind of the error as in docs/exit-codes.md",
);
/// Their durations.
pub static RUN_SECONDS: Metric =
    run("walden_run_seconds_total", Kind::Counter, VERB, "How long all runs of the verb took together");
/// The last success.
pub static LAST_SUCCESS: Metric =
    run("walden_last_success_timestamp_seconds", Kind::Gauge, VERB, "When a run of the verb last succeeded");
/// The last failure.
pub static LAST_FAILURE: Metric =
    run("walden_last_failure_timestamp_seconds", Kind::Gauge, VERB, "When a run of the verb last failed");
/// The last run's duration.
pub static LAST_RUN_SECONDS: Metric =
    run("walden_last_run_seconds", Kind::Gauge, VERB, "How long the last run of the verb took");
/// The last run's memory.
pub static LAST_RUN_MEMORY: Metric = run(
    "walden_last_run_peak_memory_bytes",
    Kind::Gauge,
    VERB,
    "The most memory that the last run of the verb had resident",
);

/// When it was looked.
pub static LOOK: Metric = look("walden_look_timestamp_seconds", &[], "When the archive and the server were looked at");
/// How long that took.
pub static LOOK_SECONDS: Metric = look("walden_look_seconds", &[], "How long looking at them took");
/// Whether the store answered.
pub static ARCHIVE_SEEN: Metric = look(
    "walden_archive_seen",
    &[],
    "1 if the archive could be seen, 0 if the store refused or did not answer; what comes from it is missing then",
);
/// Whether the server answered.
pub static SERVER_SEEN: Metric = look("walden_server_seen", &[], "1 if the server answered, else 0");
/// The end of the identity.
pub static CREDENTIALS_EXPIRY: Metric = look(
    "walden_credentials_expiry_timestamp_seconds",
    &[],
    "When the credentials end that the store was asked with, unless they are renewed before; missing if they do not end",
);
/// The server's setting.
pub static SERVER_ARCHIVES: Metric = look(
    "walden_server_archives",
    CLUSTER,
    "0 if the server is set so that it archives nothing, 1 if not; a standby that leaves it to its primary counts as 1",
);
/// Files that wait.
pub static READY_FILES: Metric = look("walden_wal_ready_files", CLUSTER, "WAL files that wait to be archived");
/// Their bytes.
pub static READY_BYTES: Metric = look("walden_wal_ready_bytes", CLUSTER, "The size of the WAL files that wait");
/// The oldest of them.
pub static READY_OLDEST: Metric = look(
    "walden_wal_ready_oldest_timestamp_seconds",
    CLUSTER,
    "Since when the oldest WAL file waits; missing if none does",
);
/// Whether a file fails.
pub static FAILING: Metric =
    look("walden_archiver_failing", CLUSTER, "1 if the last attempt to archive a file failed, else 0");
/// Since when.
pub static FAILING_SINCE: Metric = look(
    "walden_archiver_failing_since_timestamp_seconds",
    CLUSTER,
    "Since when a file fails to be archived; missing if none does, or no push left word of it",
);
/// The server's own count.
pub static ARCHIVER_ARCHIVED: Metric = looked_up_counter(
    "walden_archiver_archived_total",
    CLUSTER,
    "WAL files that the server's archiver got through, as pg_stat_archiver counts them",
);
/// The server's own count.
pub static ARCHIVER_FAILED: Metric = looked_up_counter(
    "walden_archiver_failed_total",
    CLUSTER,
    "Attempts of the server's archiver that failed, as pg_stat_archiver counts them",
);
/// The newest segment.
pub static LAST_WAL: Metric = look(
    "walden_last_wal_timestamp_seconds",
    CLUSTER,
    "When the last segment of the newest timeline was stored, by the store's clock",
);
/// How many backups.
pub static BACKUPS: Metric = look(
    "walden_backups",
    &["system_id", "state"],
    "Backups in the archive: complete, damaged (complete, with damaged pages) or incomplete",
);
/// The newest good backup.
pub static LAST_BACKUP: Metric = look(
    "walden_last_backup_timestamp_seconds",
    CLUSTER,
    "When the newest good backup ended: complete, without damaged pages, and with its WAL",
);
/// Its duration.
pub static LAST_BACKUP_SECONDS: Metric =
    look("walden_last_backup_duration_seconds", CLUSTER, "How long the newest good backup took");
/// Its size.
pub static LAST_BACKUP_PLAIN: Metric =
    look("walden_last_backup_plain_bytes", CLUSTER, "The size of the files of the newest good backup");
/// Its stored size.
pub static LAST_BACKUP_STORED: Metric =
    look("walden_last_backup_stored_bytes", CLUSTER, "What the newest good backup takes in the store");
/// The first time to go back to.
pub static WINDOW_START: Metric = look(
    "walden_recovery_window_start_timestamp_seconds",
    TIMELINE,
    "The first time that a recovery along the timeline can stop at, without a gap up to its end",
);
/// The last one.
pub static WINDOW_END: Metric = look(
    "walden_recovery_window_end_timestamp_seconds",
    TIMELINE,
    "When the last segment was stored that a recovery along the timeline can use",
);
/// What is missing.
pub static MISSING_SEGMENTS: Metric =
    look("walden_wal_missing_segments", CLUSTER, "Segments that recoveries need and that are not in the archive");
/// What is missing of it after the newest good backup.
pub static MISSING_AFTER_BACKUP: Metric = look(
    "walden_wal_missing_after_backup_segments",
    CLUSTER,
    "Those of them that recoveries from the newest good backup need",
);
/// What is damaged.
pub static DAMAGED_OBJECTS: Metric = look(
    "walden_damaged_objects",
    CLUSTER,
    "History files and manifests that cannot be used, and history files that are missing",
);
/// The last deletion by retention.
pub static LAST_RETENTION: Metric = look(
    "walden_last_retention_timestamp_seconds",
    CLUSTER,
    "When the last walden delete by retention ended, or began if it did not end, by the store's clock",
);
/// What came of it.
pub static LAST_RETENTION_FAILED: Metric = look(
    "walden_last_retention_failed",
    CLUSTER,
    "1 if it failed, left objects that could not be deleted, or did not come to its end, else 0",
);
/// What it has deleted.
pub static LAST_RETENTION_DELETED: Metric =
    look("walden_last_retention_deleted_bytes", CLUSTER, "The stored bytes that it has deleted");
/// The last verification.
pub static LAST_VERIFY: Metric = look(
    "walden_last_verify_timestamp_seconds",
    &["system_id", "depth"],
    "When this machine last verified the archive with wal-verify: shallow, or deep with the content of the segments",
);
/// What it found.
pub static LAST_VERIFY_FAILED: Metric =
    look("walden_last_verify_failed", &["system_id", "depth"], "1 if that verification found something wrong, else 0");

/// Every metric, in the order in which they are written.
pub static TABLE: &[&Metric] = &[
    &RUNS,
    &RUN_SECONDS,
    &LAST_SUCCESS,
    &LAST_FAILURE,
    &LAST_RUN_SECONDS,
    &LAST_RUN_MEMORY,
    &LOOK,
    &LOOK_SECONDS,
    &ARCHIVE_SEEN,
    &SERVER_SEEN,
    &CREDENTIALS_EXPIRY,
    &SERVER_ARCHIVES,
    &READY_FILES,
    &READY_BYTES,
    &READY_OLDEST,
    &FAILING,
    &FAILING_SINCE,
    &ARCHIVER_ARCHIVED,
    &ARCHIVER_FAILED,
    &LAST_WAL,
    &BACKUPS,
    &LAST_BACKUP,
    &LAST_BACKUP_SECONDS,
    &LAST_BACKUP_PLAIN,
    &LAST_BACKUP_STORED,
    &WINDOW_START,
    &WINDOW_END,
    &MISSING_SEGMENTS,
    &MISSING_AFTER_BACKUP,
    &DAMAGED_OBJECTS,
    &LAST_RETENTION,
    &LAST_RETENTION_FAILED,
    &LAST_RETENTION_DELETED,
    &LAST_VERIFY,
    &LAST_VERIFY_FAILED,
];
