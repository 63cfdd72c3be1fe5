//! Whether what was found is well: what `status --check` says. Pure.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Archived, Host, Standing, Status, retention};
use crate::observe::counted;
use crate::wal::verify::VerifiedBackup;

/// A file that fails for longer than this is not helped by PostgreSQL's next attempts, which come every minute.
const FAILING_TOO_LONG: SignedDuration = SignedDuration::from_mins(10);

/// How bad it is, with the codes that Nagios knows (Monitoring Plugins Development Guidelines, "Plugin Return Codes"). A
/// known evil is worse than one that may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// All is well.
    Ok,
    /// Something could not be seen.
    Unknown,
    /// Somebody should look at it today.
    Warning,
    /// WAL or backups are missing, or soon will be.
    Critical,
}

impl Level {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Level::Ok => 0,
            Level::Warning => 1,
            Level::Critical => 2,
            Level::Unknown => 3,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Ok => "OK",
            Level::Warning => "WARNING",
            Level::Critical => "CRITICAL",
            Level::Unknown => "UNKNOWN",
        })
    }
}

/// From which age on something is bad.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of the newest good backup: warning, critical.
    pub backup: [Duration; 2],
    /// Of WAL that waits to be archived, or, where the server is not seen, of the last segment in the archive.
    pub wal: [Duration; 2],
}

/// Something that is not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is; never [`Level::Ok`].
    pub level: Level,
    /// What, in a few words.
    pub what: String,
}

/// All that is not well, the worst first.
pub fn findings(standing: &Standing, limits: &Limits) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(error) = &standing.unseen_archive {
        found.push(finding(Level::Unknown, format!("the archive could not be seen: {error}")));
    }
    for unseen in standing.not_seen.iter().filter(|unseen| unseen.expected) {
        found.push(finding(Level::Unknown, format!("not seen: {}", unseen.what)));
    }
    for status in &standing.clusters {
        let name = match (&status.system_id, standing.clusters.len()) {
            (Some(system), 2..) => format!("cluster {system}: "),
            _ => String::new(),
        };
        let own = cluster(status, standing, limits).into_iter();
        found.extend(own.map(|one| finding(one.level, format!("{name}{}", one.what))));
    }
    if standing.clusters.is_empty() && standing.unseen_archive.is_none() {
        found.push(finding(Level::Critical, "the archive is empty".to_owned()));
    }
    found.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    found
}

/// The worst of them.
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

fn finding(level: Level, what: String) -> Finding {
    Finding { level, what }
}

fn cluster(status: &Status, standing: &Standing, limits: &Limits) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(host) = &status.host {
        found.extend(archiving(host, standing.when, limits));
    }
    match &status.archived {
        Some(archived) => {
            // The server knows what it has not archived. Of a server that is idle the last segment may be old.
            if status.host.as_ref().is_none_or(|host| host.ready.is_none()) {
                found.extend(last_segment(archived, standing.when, limits));
            }
            found.extend(backups(archived, standing.when, limits));
            found.extend(content(archived));
            found.extend(housekeeping(archived, standing.when));
        }
        // Of a server that does not tell which cluster it serves nothing can be said.
        None if standing.unseen_archive.is_none() && status.system_id.is_some() => {
            found.push(finding(Level::Critical, "nothing of the cluster is in the archive".to_owned()));
        }
        None => {}
    }
    found
}

fn archiving(host: &Host, now: Timestamp, limits: &Limits) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(why) = host.does_not_archive() {
        found.push(finding(Level::Critical, format!("the server does not archive: {why}")));
    }
    if let Some(failing) = host.failing() {
        // PostgreSQL asks for the oldest first: it waits for as long as it fails, or a little longer.
        let waits = host.ready.and_then(|ready| ready.oldest);
        let archived = host.archiver.as_ref().and_then(|archiver| archiver.last_archived_time);
        let since = failing.since.or(waits).or(archived);
        let long = since.is_none_or(|since| now.duration_since(since) > FAILING_TOO_LONG);
        let level = if long { Level::Critical } else { Level::Warning };
        let reason = failing.reason.unwrap_or_else(|| "the server's log says why".to_owned());
        found.push(finding(level, format!("archiving {} fails: {reason}", failing.file)));
    }
    if let Some(ready) = &host.ready
        && let Some((level, age)) = ready.oldest.and_then(|oldest| beyond(oldest, now, limits.wal))
    {
        found.push(finding(level, format!("{} WAL files wait, the oldest for {age:#}", ready.files)));
    }
    found
}

fn last_segment(archived: &Archived, now: Timestamp, limits: &Limits) -> Option<Finding> {
    match archived.last_segment {
        None => Some(finding(Level::Critical, "there is no WAL in the archive".to_owned())),
        Some((name, stored)) => beyond(stored, now, limits.wal)
            .map(|(level, age)| finding(level, format!("the last WAL, {name}, was stored {age:#} ago"))),
    }
}

fn backups(archived: &Archived, now: Timestamp, limits: &Limits) -> Vec<Finding> {
    let mut found = Vec::new();
    match archived.last_good_backup().map(|verified| &verified.backup) {
        None => found.push(finding(Level::Critical, "there is no good backup".to_owned())),
        Some(backup) => found.extend(
            beyond(backup.finished, now, limits.backup)
                .map(|(level, age)| finding(level, format!("the last good backup is {age:#} old"))),
        ),
    }
    if let Some(check) = archived.last_backup().and_then(|backup| backup.damage()) {
        found.push(finding(Level::Warning, format!("the last backup has {} damaged pages", check.damaged)));
    }
    found
}

/// What is missing and what is damaged. A gap behind the newest good backup breaks the recoveries that matter most; one
/// before it takes away times that one could have gone back to.
fn content(archived: &Archived) -> Vec<Finding> {
    let report = &archived.report;
    let mut found = Vec::new();
    let gap = |verified: &VerifiedBackup| {
        verified
            .ways
            .iter()
            .find_map(|way| way.coverage.gaps.first().map(|gap| (way.coverage.missing, gap.to_string())))
    };
    let newest = archived.last_good_backup().or(report.backups.last());
    match (newest.and_then(gap), report.backups.iter().rev().find_map(gap)) {
        (Some((missing, first)), _) => found.push(finding(
            Level::Critical,
            format!("WAL is missing after the last good backup: {}, the first: {first}", counted(missing, "segment")),
        )),
        (None, Some((missing, first))) => found.push(finding(
            Level::Warning,
            format!("WAL is missing after an older backup: {}, the first: {first}", counted(missing, "segment")),
        )),
        (None, None) => {}
    }
    if let Some(timeline) = report.missing_histories.first() {
        found.push(finding(Level::Critical, format!("the history of timeline {} is missing", timeline.0)));
    }
    if let Some(damage) = report.damaged.first() {
        let level = if damage.newer { Level::Unknown } else { Level::Critical };
        found.push(finding(level, format!("{} cannot be used: {}", damage.name, damage.detail)));
    }
    found
}

/// What nobody waits for, and somebody should look at.
fn housekeeping(archived: &Archived, now: Timestamp) -> Vec<Finding> {
    let verification = archived.verification.as_ref().and_then(|last| last.failure.as_ref());
    let verification = verification.map(|failure| format!("the last wal-verify found: {failure}"));
    let retention = archived.retention.as_ref().and_then(|last| {
        Some(format!("the last walden delete {} failed: {}", last.command, retention::wrong(last, now)?))
    });
    verification.into_iter().chain(retention).map(|what| finding(Level::Warning, what)).collect()
}

/// Which of the two limits the age is beyond, and the age in whole seconds.
fn beyond(time: Timestamp, now: Timestamp, [warning, critical]: [Duration; 2]) -> Option<(Level, SignedDuration)> {
    let age = SignedDuration::from_secs(now.duration_since(time).as_secs());
    let over = |limit: Duration| SignedDuration::try_from(limit).is_ok_and(|limit| age > limit);
    match (over(critical), over(warning)) {
        (true, _) => Some((Level::Critical, age)),
        (false, true) => Some((Level::Warning, age)),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};
    use crate::postgres::client::Archiver;
    use crate::postgres::ready::Ready;
    use crate::status::NotSeen;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        backup: [Duration::from_secs(100), Duration::from_secs(200)],
        wal: [Duration::from_secs(10), Duration::from_secs(20)],
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn standing(host: Host) -> Standing {
        let status = Status { system_id: None, archived: None, host: Some(host) };
        let unseen = Some(Error::new(Kind::Unreachable, "gone"));
        Standing { when: at(1000), clusters: vec![status], unseen_archive: unseen, signer: None, not_seen: Vec::new() }
    }

    fn failing(archived: i64, failed: i64) -> Host {
        let archiver = Archiver {
            archived_count: 1,
            last_archived_wal: Some("000000010000000000000001".into()),
            last_archived_time: Some(at(archived)),
            failed_count: 1,
            last_failed_wal: Some("000000010000000000000002".into()),
            last_failed_time: Some(at(failed)),
            since: Some(at(0)),
        };
        Host { archiver: Some(archiver), ..Host::default() }
    }

    #[test]
    fn a_file_that_fails_is_a_warning_at_first_and_critical_when_it_lasts() {
        let level = |host| worst(&findings(&standing(host), &LIMITS));
        assert_eq!(level(failing(999, 998)), Level::Unknown);
        assert_eq!(level(failing(900, 999)), Level::Warning);
        assert_eq!(level(failing(1000 - 601, 999)), Level::Critical);
    }

    #[test]
    fn what_was_not_seen_is_unknown_only_where_it_was_expected() {
        let mut standing = standing(Host::default());
        standing.unseen_archive = None;
        standing.clusters.clear();
        standing.not_seen.push(NotSeen { what: "the server".into(), expected: false });
        assert_eq!(findings(&standing, &LIMITS).len(), 1);
        standing.not_seen[0].expected = true;
        let found = findings(&standing, &LIMITS);
        assert_eq!(found.iter().map(|one| one.level).collect::<Vec<_>>(), [Level::Critical, Level::Unknown]);
    }

    proptest! {
        #[test]
        fn the_longer_something_waits_the_worse_it_is(one in 0i64..60, other in 0i64..60) {
            let level = |age: i64| {
                let ready = Ready { files: 1, bytes: 1, oldest: Some(at(1000 - age)) };
                worst(&findings(&standing(Host { ready: Some(ready), ..Host::default() }), &LIMITS))
            };
            let (less, more) = (one.min(other), one.max(other));
            prop_assert!(level(less) <= level(more));
            prop_assert_eq!(level(more) == Level::Critical, more > 20);
            prop_assert_eq!(level(more) == Level::Warning, (11..=20).contains(&more));
        }
    }
}
