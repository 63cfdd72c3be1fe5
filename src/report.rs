//! `report`: how archiving stands, as one page to look at.
//!
//! Out of what `status` found come plain values ([`Page`]), which are also what `--json` prints; `html` makes the page
//! of them. Pure: nothing is read, nothing written, and the time comes from outside.

mod chart;
mod drawing;
mod html;
mod text;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::backup::manifest::Backup;
use crate::layout::{BackupId, Key};
use crate::postgres::control::SystemId;
use crate::postgres::lsn::Lsn;
use crate::status::verdict::{Finding, worst};
use crate::status::{Archived, Host, Standing, Status, Verification, retention};
use crate::wal::chain::{Gap, Window};
use crate::wal::segment::SegmentName;
use crate::wal::timeline::Timeline;
use crate::wal::verify::{Recoverable, Report, SeenTimeline, VerifiedBackup};

pub use self::html::html;

/// All that the page says.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// When the archive was looked at, by this machine's clock.
    pub made: Timestamp,
    /// The version of Walden that made it.
    pub walden: &'static str,
    /// The archive's address.
    pub archive: String,
    /// The worst of the findings: `OK`, `UNKNOWN`, `WARNING` or `CRITICAL`.
    pub verdict: String,
    /// What is not well, the worst first.
    pub findings: Vec<Judged>,
    /// Why the archive could not be seen.
    pub unseen_archive: Option<String>,
    /// What else could not be seen.
    pub not_seen: Vec<String>,
    /// As whom the store was asked.
    pub asked_as: Option<String>,
    /// When these credentials end.
    pub credentials_end: Option<Timestamp>,
    /// Each cluster.
    pub clusters: Vec<Cluster>,
}

/// Something that is not well.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// How bad it is.
    pub level: String,
    /// What.
    pub what: String,
}

/// One cluster.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cluster {
    /// Which; `None` if only its server was seen, and does not tell.
    pub system_id: Option<SystemId>,
    /// Whether something of it is in the archive, as far as that was seen.
    pub archived: bool,
    /// The last segment of the newest timeline.
    pub last_segment: Option<LastSegment>,
    /// The newest backup that restores a sound cluster.
    pub last_good_backup: Option<BackupId>,
    /// Every backup that there is anything of, oldest first.
    pub backups: Vec<Listed>,
    /// Where recoveries can stop, timeline by timeline.
    pub recoverable: Vec<Line>,
    /// Every timeline.
    pub timelines: Vec<Branch>,
    /// Timelines without their history file.
    pub missing_histories: Vec<Timeline>,
    /// What is damaged, and why.
    pub damaged: Vec<[String; 2]>,
    /// What was not looked at.
    pub skipped: Vec<String>,
    /// When it was last verified from this machine.
    pub verified: Option<Verification>,
    /// What the last deletion by retention has done.
    pub retention: Option<Retention>,
    /// What its server says.
    pub archiving: Option<Archiving>,
}

/// A segment and when it was stored, by the store's clock.
#[derive(Clone, Debug, Serialize)]
pub struct LastSegment {
    /// Its name.
    pub name: SegmentName,
    /// When.
    pub stored: Timestamp,
}

/// What can be said of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It restores a sound cluster.
    Good,
    /// It has no short manifest: it is being taken, or failed.
    Incomplete,
    /// It has damaged pages.
    Damaged,
    /// WAL that it needs is missing.
    Unusable,
    /// Its manifest cannot be read.
    Unreadable,
}

/// A backup.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// Its id.
    pub id: BackupId,
    /// How it is.
    pub state: State,
    /// What is wrong with it.
    pub why: Option<String>,
    /// Its timeline.
    pub timeline: Timeline,
    /// When it began.
    pub started: Timestamp,
    /// What its manifest says.
    #[serde(flatten)]
    pub taken: Option<Taken>,
}

/// What the manifest of a backup says.
#[derive(Clone, Debug, Serialize)]
pub struct Taken {
    /// When it ended.
    pub finished: Timestamp,
    /// How long it took.
    pub seconds: f64,
    /// Bytes of the cluster.
    pub plain_size: u64,
    /// Bytes in the store.
    pub stored_size: u64,
    /// Bytes of the cluster a second; `None` if it took no time.
    pub bytes_per_second: Option<f64>,
    /// WAL that was written since the backup before it began, in bytes an hour; `None` of the first one.
    pub wal_per_hour: Option<f64>,
    /// The version of PostgreSQL.
    pub postgres: u16,
    /// Whether it is kept for good.
    pub keep: bool,
    /// What it is called.
    pub label: Option<String>,
    /// What else is written on it.
    pub notes: BTreeMap<String, String>,
}

/// Where recoveries along one timeline can stop.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The timeline.
    pub timeline: Timeline,
    /// A recovery goes this way unless it is told otherwise.
    pub latest: bool,
    /// From where to where.
    pub windows: Vec<Stretch>,
    /// What is missing.
    pub gaps: Vec<Hole>,
    /// Whether WAL is missing behind the last of the windows.
    pub broken: bool,
}

/// A window.
#[derive(Clone, Debug, Serialize)]
pub struct Stretch {
    /// From here on.
    pub start: Lsn,
    /// When the backup ended.
    pub start_time: Timestamp,
    /// Up to here.
    pub end: Lsn,
    /// When its last segment was stored.
    pub end_time: Option<Timestamp>,
}

/// Missing segments.
#[derive(Clone, Debug, Serialize)]
pub struct Hole {
    /// On which timeline.
    pub timeline: Timeline,
    /// In words: the first and the last.
    pub what: String,
    /// How many.
    pub segments: u64,
}

/// A timeline.
#[derive(Clone, Debug, Serialize)]
pub struct Branch {
    /// Its number.
    pub timeline: Timeline,
    /// Which one it left.
    pub parent: Option<Timeline>,
    /// Where.
    pub left_at: Option<Lsn>,
    /// Why, in the server's words.
    pub reason: Option<String>,
    /// When its history file was stored.
    pub promoted: Option<Timestamp>,
    /// Segments that backups can need.
    pub segments: u64,
    /// Stored bytes of its WAL, as far as backups can need it.
    pub stored_size: u64,
}

/// What the last deletion by retention has done.
#[derive(Clone, Debug, Serialize)]
pub struct Retention {
    /// What was asked for, in the words of the command line.
    pub command: String,
    /// When it began, by the store's clock.
    pub begun: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// How many backups it deleted.
    pub backups: usize,
    /// How many WAL files.
    pub wal_files: u64,
    /// The bytes of all that.
    pub bytes: u64,
    /// How many backups stay.
    pub kept: u64,
    /// What is wrong with it.
    pub failure: Option<String>,
}

/// What a server says.
#[derive(Clone, Debug, Serialize)]
pub struct Archiving {
    /// Why it archives nothing.
    pub off: Option<String>,
    /// Files that wait.
    pub waiting_files: Option<u64>,
    /// Their bytes.
    pub waiting_bytes: Option<u64>,
    /// Since when the oldest waits.
    pub waiting_since: Option<Timestamp>,
    /// The file that fails now.
    pub failing: Option<String>,
    /// Since when.
    pub failing_since: Option<Timestamp>,
    /// Why.
    pub reason: Option<String>,
}

/// What the page says of what was found.
pub fn page(archive: &str, standing: &Standing, findings: &[Finding]) -> Page {
    let signer = standing.signer.as_ref();
    Page {
        made: standing.when,
        walden: env!("CARGO_PKG_VERSION"),
        archive: archive.to_owned(),
        verdict: worst(findings).to_string(),
        findings: findings.iter().map(|one| Judged { level: one.level.to_string(), what: one.what.clone() }).collect(),
        unseen_archive: standing.unseen_archive.as_ref().map(ToString::to_string),
        not_seen: standing.not_seen.iter().map(|unseen| unseen.what.clone()).collect(),
        asked_as: signer.map(|signer| signer.who.clone()),
        credentials_end: signer.and_then(|signer| signer.expires),
        clusters: standing.clusters.iter().map(|status| cluster(status, standing.when)).collect(),
    }
}

fn cluster(status: &Status, now: Timestamp) -> Cluster {
    let archiving = status.host.as_ref().map(archiving);
    let Some(archived) = &status.archived else {
        return Cluster { system_id: status.system_id, archiving, ..Cluster::default() };
    };
    let Archived { report, last_segment, retention, verification, .. } = archived;
    Cluster {
        system_id: Some(report.system_id),
        archived: true,
        last_segment: last_segment.map(|(name, stored)| LastSegment { name, stored }),
        last_good_backup: archived.last_good_backup().map(|verified| verified.backup.id),
        backups: backups(report),
        recoverable: report.recoverable().into_iter().map(|one| line(one, report)).collect(),
        timelines: report.timelines.iter().map(branch).collect(),
        missing_histories: report.missing_histories.clone(),
        damaged: report.damaged.iter().map(|damage| [damage.name.clone(), damage.detail.clone()]).collect(),
        skipped: report.skipped.clone(),
        verified: verification.clone(),
        retention: retention.as_ref().map(|last| Retention {
            command: last.command.clone(),
            begun: last.begun,
            finished: last.finished,
            backups: last.deleted.len(),
            wal_files: last.wal_files,
            bytes: last.bytes,
            kept: last.kept,
            failure: retention::wrong(last, now),
        }),
        archiving,
    }
}

fn archiving(host: &Host) -> Archiving {
    let failing = host.failing();
    Archiving {
        off: host.does_not_archive(),
        waiting_files: host.ready.map(|ready| ready.files),
        waiting_bytes: host.ready.map(|ready| ready.bytes),
        waiting_since: host.ready.and_then(|ready| ready.oldest),
        failing_since: failing.as_ref().and_then(|failing| failing.since),
        reason: failing.as_ref().and_then(|failing| failing.reason.clone()),
        failing: failing.map(|failing| failing.file),
    }
}

fn backups(report: &Report) -> Vec<Listed> {
    let mut before: Option<&Backup> = None;
    let mut all = Vec::new();
    for verified in &report.backups {
        all.push(complete(verified, before));
        before = Some(&verified.backup);
    }
    all.extend(report.incomplete_backups.iter().map(|&id| remains(id, State::Incomplete, None)));
    all.extend(report.damaged.iter().filter_map(|damage| match Key::parse(&damage.name) {
        Some(Key::Backup(_, id)) => Some(remains(id, State::Unreadable, Some(damage.detail.clone()))),
        _ => None,
    }));
    all.sort_by_key(|listed| (listed.taken.as_ref().map_or(listed.started, |taken| taken.finished), listed.id));
    all
}

fn remains(id: BackupId, state: State, why: Option<String>) -> Listed {
    Listed { id, state, why, timeline: id.segment().timeline, started: id.started(), taken: None }
}

fn complete(verified: &VerifiedBackup, before: Option<&Backup>) -> Listed {
    let backup = &verified.backup;
    let seconds = backup.finished.duration_since(backup.started).as_secs_f64().max(0.0);
    let (state, why) = match backup.damage() {
        _ if verified.ways.iter().all(|way| way.window.is_none()) => {
            (State::Unusable, Some("WAL that it needs is missing".to_owned()))
        }
        Some(check) => (State::Damaged, Some(check.count())),
        None => (State::Good, None),
    };
    Listed {
        id: backup.id,
        state,
        why,
        timeline: backup.timeline,
        started: backup.started,
        taken: Some(Taken {
            finished: backup.finished,
            seconds,
            plain_size: backup.plain_size,
            stored_size: backup.stored_size,
            bytes_per_second: (seconds > 0.0).then(|| backup.plain_size as f64 / seconds),
            wal_per_hour: before.and_then(|before| wal_per_hour(before, backup)),
            postgres: backup.postgres,
            keep: backup.marks.keep,
            label: backup.marks.label.clone(),
            notes: backup.marks.notes.clone(),
        }),
    }
}

/// `None` where positions or times go backwards, as after a recovery to a point in time.
fn wal_per_hour(before: &Backup, backup: &Backup) -> Option<f64> {
    let bytes = backup.start.0.checked_sub(before.start.0)?;
    let hours = backup.started.duration_since(before.started).as_secs_f64() / 3600.0;
    (hours > 0.0).then(|| bytes as f64 / hours)
}

fn line(one: Recoverable, report: &Report) -> Line {
    let last = one.windows.last().map(|window| window.end);
    let ways = report.backups.iter().flat_map(|verified| &verified.ways);
    let own = ways.filter(|way| way.history.timeline == one.timeline && way.coverage.missing > 0);
    let broken = own.into_iter().any(|way| way.window.map(|window| window.end) == last);
    Line {
        timeline: one.timeline,
        latest: one.latest,
        windows: one.windows.iter().map(stretch).collect(),
        gaps: one.gaps.iter().map(hole).collect(),
        broken,
    }
}

fn stretch(window: &Window) -> Stretch {
    Stretch { start: window.start, start_time: window.start_time, end: window.end, end_time: window.end_time }
}

fn hole(gap: &Gap) -> Hole {
    Hole { timeline: gap.timeline, what: gap.to_string(), segments: gap.run.len() }
}

fn branch(seen: &SeenTimeline) -> Branch {
    let parent = seen.parent.as_ref();
    Branch {
        timeline: seen.timeline,
        parent: parent.map(|parent| parent.timeline),
        left_at: parent.map(|parent| parent.at),
        reason: parent.map(|parent| parent.reason.clone()),
        promoted: seen.promoted,
        segments: seen.segments,
        stored_size: seen.stored_size,
    }
}
