//! The end of a backup: waiting until all of its WAL is in the archive, and saying what holds it up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::manifest::Backup;
use crate::archive::Archive;
use crate::error::{Error, Kind, Result};
use crate::observe::{Event, Observer};
use crate::postgres::client::{Archiver, ArchivingFailure, Client};
use crate::wal::chain::segments_between;
use crate::wal::segment::SegmentName;
use crate::wal::verify;

/// How often the archive is asked for the backup's WAL.
const WAL_POLL: Duration = Duration::from_millis(500);

/// When the user of a standby is told what its primary has to do: an `archive_timeout` of a minute, which is usual, ends
/// the wait by itself.
const STANDBY_PATIENCE: Duration = Duration::from_secs(75);

/// What ends the wait of a backup that was taken from a standby.
const SWITCH: &str = "SELECT pg_switch_wal()";

/// One backup's waiting.
pub(super) struct Waiting<'a> {
    pub(super) archive: &'a Archive,
    /// Who can be asked for explanations.
    pub(super) client: Option<&'a Client>,
    pub(super) backup: &'a Backup,
    pub(super) timeout: Duration,
    pub(super) observer: &'a Arc<dyn Observer>,
}

/// What the user has been told already.
#[derive(Default)]
struct Told {
    failing: Option<String>,
    lost: bool,
    denied: bool,
    standby: bool,
}

impl Waiting<'_> {
    /// Waits until all the WAL from the backup's start to its stop is in the archive: by a listing; where that is denied,
    /// by what the server says that it has archived, with a warning. The session is not needed for the former: where it
    /// has ended, only the explanations are poorer.
    ///
    /// # Errors
    /// [`Kind::Incomplete`] if for the timeout nothing more has arrived, with what holds it up.
    pub(super) async fn wait(&self) -> Result<()> {
        let name = "waiting for the WAL of the backup".into();
        self.observer.notice(Event::Phase { name, bytes: None });
        let (began, mut told) = (Instant::now(), Told::default());
        let mut last_progress = (began, None);
        loop {
            let archiver = self.ask(&mut told).await;
            let missing = self.missing(archiver.as_ref(), &mut told).await?;
            let Some(first) = missing.first() else { return Ok(()) };
            let failure = archiver.as_ref().and_then(Archiver::failing);
            self.tell(&missing, failure.as_ref(), began, &mut told);
            let seen = Some((missing.len(), archiver.map(|archiver| archiver.archived_count)));
            if seen != last_progress.1 {
                last_progress = (Instant::now(), seen);
            }
            if last_progress.0.elapsed() >= self.timeout {
                return Err(self.given_up(missing.len(), *first, failure));
            }
            tokio::time::sleep(WAL_POLL).await;
        }
    }

    /// How the archiver fares that stores this WAL. `None` for a standby, whose primary's it is, where there is no session, and
    /// after its end.
    async fn ask(&self, told: &mut Told) -> Option<Archiver> {
        let client = self.client.filter(|_| !self.backup.from_standby && !told.lost)?;
        match client.archiver().await {
            Ok(archiver) => Some(archiver),
            Err(error) => {
                told.lost = true;
                let text = format!("the server can no longer be asked, only the archive for the backup's WAL: {error}");
                self.observer.notice(Event::Warning(text));
                None
            }
        }
    }

    async fn missing(&self, archiver: Option<&Archiver>, told: &mut Told) -> Result<Vec<SegmentName>> {
        let Backup { system_id, timeline, start, stop, .. } = *self.backup;
        let size = self.backup.segment_size()?;
        match verify::missing(self.archive, system_id, timeline, (start, stop), size).await {
            Err(error) if error.kind() == Kind::Denied => {
                let Some(archiver) = archiver else { return Err(error) };
                if !std::mem::replace(&mut told.denied, true) {
                    tracing::warn!("that the WAL of the backup is archived is the server's word alone: {error}");
                }
                let needed = segments_between(timeline, start, stop, size);
                Ok(not_passed(archiver.last_archived_wal.as_deref(), needed))
            }
            missing => missing,
        }
    }

    /// Says once for each file that it cannot be archived, and once what a standby waits for.
    fn tell(&self, missing: &[SegmentName], failure: Option<&ArchivingFailure>, began: Instant, told: &mut Told) {
        if let Some(failure) = failure
            && told.failing.as_ref() != Some(&failure.wal)
        {
            told.failing = Some(failure.wal.clone());
            let text = format!("the backup waits for its WAL, and {failure}; see the server's log for the reason");
            self.observer.notice(Event::Warning(text));
        }
        if self.backup.from_standby && !told.standby && began.elapsed() >= STANDBY_PATIENCE {
            told.standby = true;
            let last = missing.last().map(SegmentName::to_string).unwrap_or_default();
            let text = format!(
                "the backup waits for {last}, which the primary archives when it is full; {SWITCH} on the primary ends \
                 it at once"
            );
            self.observer.notice(Event::Warning(text));
        }
    }

    fn given_up(&self, count: usize, first: SegmentName, failure: Option<ArchivingFailure>) -> Error {
        let error = Error::new(Kind::Incomplete, format!("backup {} lacks WAL that it needs", self.backup.id))
            .detail(format!("{count} segments have not been archived, the first is {first}"));
        let error = match failure {
            Some(failure) => error.detail(failure.to_string()),
            None => error,
        };
        error.hint(match self.backup.from_standby {
            true => format!("See that the primary archives, run {SWITCH} there, and run the backup again."),
            false => "Look for the output of archive_command in the server's log, and run the backup again.".to_owned(),
        })
    }
}

/// The segments that an archiver has not passed which has this file behind it. It takes segments in their order, and none
/// before the one ahead of it is archived (`pgarch_readyXlog` in src/backend/postmaster/pgarch.c).
fn not_passed(last_archived: Option<&str>, mut needed: Vec<SegmentName>) -> Vec<SegmentName> {
    // A backup history file begins with its segment's name; a timeline's history is too short to say anything.
    let last = last_archived.and_then(|name| name.get(..24)).unwrap_or_default();
    needed.retain(|name| {
        let name = name.to_string();
        last.get(..8) != name.get(..8) || last < name.as_str()
    });
    needed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archiver_has_passed_what_is_not_behind_its_last_file_on_the_same_timeline() {
        let names = ["000000020000000000000009", "00000002000000000000000A", "00000002000000000000000B"];
        let left = |last: Option<&str>| {
            let needed = names.iter().map(|name| SegmentName::parse(name).unwrap()).collect();
            not_passed(last, needed).len()
        };
        for (last, expected) in [
            (None, 3),
            (Some("000000020000000000000008"), 3),
            (Some("00000002000000000000000A"), 1),
            (Some("00000002000000000000000A.00000028.backup"), 1),
            (Some("00000002000000000000000B"), 0),
            (Some("000000020000000100000000"), 0),
            (Some("0000000100000000000000FF"), 3),
            (Some("0000000100000000000000FF.partial"), 3),
            (Some("00000003.history"), 3),
        ] {
            assert_eq!(left(last), expected, "{last:?}");
        }
    }
}
