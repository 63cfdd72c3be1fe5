//! What was found, as metrics. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::{Archived, Host, Standing, retention};
use crate::metrics::Samples;
use crate::metrics::table::{self, Source};

/// So many timelines have a window among the metrics, the newest ones: each failover makes one more.
const TIMELINES: usize = 10;

/// All values that a look of this duration has found, of the archive at this address.
pub fn samples(archive: &str, standing: &Standing, took: Duration) -> Samples {
    let mut samples = Samples::of(archive);
    let seen = |seen: bool| f64::from(u8::from(seen));
    samples.set(&table::LOOK, &[], seconds(standing.when));
    samples.set(&table::LOOK_SECONDS, &[], took.as_secs_f64());
    samples.set(&table::ARCHIVE_SEEN, &[], seen(standing.unseen_archive.is_none()));
    let hosts = || standing.clusters.iter().filter_map(|status| status.host.as_ref());
    samples.set(&table::SERVER_SEEN, &[], seen(hosts().any(|host| host.archiver.is_some())));
    if let Some(end) = standing.signer.as_ref().and_then(|signer| signer.expires) {
        samples.set(&table::CREDENTIALS_EXPIRY, &[], seconds(end));
    }
    for status in &standing.clusters {
        let system = status.system_id.map(|system| system.to_string()).unwrap_or_default();
        if let Some(host) = &status.host {
            of_host(&mut samples, &system, host);
        }
        if let Some(archived) = &status.archived {
            of_archive(&mut samples, &system, archived, standing.when);
        }
    }
    samples
}

/// Puts what a look has found in place of what an earlier one had found.
pub fn replace(all: &mut Samples, found: Samples) {
    all.retain(|metric| metric.source != Source::Look);
    all.merge(found);
}

fn of_host(samples: &mut Samples, system: &str, host: &Host) {
    let cluster = [("system_id", system)];
    let flag = |is: bool| f64::from(u8::from(is));
    if host.server.is_some() {
        samples.set(&table::SERVER_ARCHIVES, &cluster, flag(host.does_not_archive().is_none()));
    }
    if let Some(ready) = &host.ready {
        samples.set(&table::READY_FILES, &cluster, ready.files as f64);
        samples.set(&table::READY_BYTES, &cluster, ready.bytes as f64);
        if let Some(oldest) = ready.oldest {
            samples.set(&table::READY_OLDEST, &cluster, seconds(oldest));
        }
    }
    let failing = host.failing();
    if host.archiver.is_some() || failing.is_some() {
        samples.set(&table::FAILING, &cluster, flag(failing.is_some()));
    }
    if let Some(since) = failing.and_then(|failing| failing.since) {
        samples.set(&table::FAILING_SINCE, &cluster, seconds(since));
    }
    if let Some(archiver) = &host.archiver {
        samples.set(&table::ARCHIVER_ARCHIVED, &cluster, archiver.archived_count as f64);
        samples.set(&table::ARCHIVER_FAILED, &cluster, archiver.failed_count as f64);
    }
}

fn of_archive(samples: &mut Samples, system: &str, archived: &Archived, now: Timestamp) {
    let (report, cluster) = (&archived.report, [("system_id", system)]);
    if let Some((_, stored)) = archived.last_segment {
        samples.set(&table::LAST_WAL, &cluster, seconds(stored));
    }
    let damaged = report.backups.iter().filter(|verified| verified.backup.damage().is_some()).count();
    for (state, count) in [
        ("complete", report.backups.len() - damaged),
        ("damaged", damaged),
        ("incomplete", report.incomplete_backups.len()),
    ] {
        samples.set(&table::BACKUPS, &[("system_id", system), ("state", state)], count as f64);
    }
    if let Some(backup) = archived.last_good_backup().map(|verified| &verified.backup) {
        samples.set(&table::LAST_BACKUP, &cluster, seconds(backup.finished));
        let took = backup.finished.duration_since(backup.started).as_secs_f64();
        samples.set(&table::LAST_BACKUP_SECONDS, &cluster, took);
        samples.set(&table::LAST_BACKUP_PLAIN, &cluster, backup.plain_size as f64);
        samples.set(&table::LAST_BACKUP_STORED, &cluster, backup.stored_size as f64);
    }
    for one in report.recoverable().iter().rev().take(TIMELINES) {
        let timeline = one.timeline.0.to_string();
        let labels = [("system_id", system), ("timeline", timeline.as_str())];
        // The last one reaches up to now; what lies behind a gap is told by the gap.
        let Some(window) = one.windows.last() else { continue };
        samples.set(&table::WINDOW_START, &labels, seconds(window.start_time));
        if let Some(end) = window.end_time {
            samples.set(&table::WINDOW_END, &labels, seconds(end));
        }
    }
    samples.set(&table::MISSING_SEGMENTS, &cluster, archived.missing_segments() as f64);
    let of_newest = archived
        .last_good_backup()
        .map_or(0, |verified| verified.ways.iter().map(|way| way.coverage.missing).max().unwrap_or(0));
    samples.set(&table::MISSING_AFTER_BACKUP, &cluster, of_newest as f64);
    let unusable = report.damaged.len() + report.missing_histories.len();
    samples.set(&table::DAMAGED_OBJECTS, &cluster, unusable as f64);
    if let Some(last) = &archived.retention {
        samples.set(&table::LAST_RETENTION, &cluster, seconds(last.finished.unwrap_or(last.begun)));
        let wrong = retention::wrong(last, now).is_some();
        samples.set(&table::LAST_RETENTION_FAILED, &cluster, f64::from(u8::from(wrong)));
        samples.set(&table::LAST_RETENTION_DELETED, &cluster, last.bytes as f64);
    }
    if let Some(last) = &archived.verification {
        let labels = [("system_id", system), ("depth", if last.deep { "deep" } else { "shallow" })];
        samples.set(&table::LAST_VERIFY, &labels, seconds(last.when));
        samples.set(&table::LAST_VERIFY_FAILED, &labels, f64::from(u8::from(last.failure.is_some())));
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}
