//! `backup-push`: a base backup of a running server (docs/architecture.md, walk C).
//!
//! Nothing that it stores counts before the short manifest is there, which comes last.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::copy::{Copied, Copying};
use super::listing::Listed;
use super::manifest::Backup;
use super::plan::Shape;
use crate::archive::{Archive, Encoded};
use crate::codec::Description;
use crate::config::value::OnCorruption;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::{BackupId, FORMAT, Key};
use crate::observe::{Event, Observer};
use crate::postgres::client::{ArchiveMode, Client, Server};
use crate::postgres::control::ControlFile;
use crate::postgres::datadir;
use crate::postgres::label::BackupLabel;
use crate::wal::chain::segments_between;
use crate::wal::segment::SegmentName;
use crate::wal::verify;

/// How often the archive is asked for the backup's WAL.
const WAL_POLL: Duration = Duration::from_millis(500);

/// How a backup is taken.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory, if it is not where the server says.
    pub data_directory: Option<PathBuf>,
    /// Threads that read and compress.
    pub workers: usize,
    /// zstd level.
    pub level: i32,
    /// Stored bytes of a part, at most.
    pub part_size: usize,
    /// Bytes of memory that may be used.
    pub memory_limit: u64,
    /// Bytes a second that may be read.
    pub max_rate: Option<u64>,
    /// How long to wait for the backup's WAL while nothing more arrives.
    pub wal_timeout: Duration,
    /// What becomes of a backup with damaged pages.
    pub on_corruption: OnCorruption,
}

/// Takes a base backup. `Ok` means that it is complete in the archive, with the WAL that makes it consistent; its manifest
/// says whether the cluster has damaged pages, which [`judge`] makes an error of.
///
/// # Errors
/// Any, at any point, leaves no backup, only parts of one that nobody takes for a backup; the server ends its backup mode
/// with the session.
pub async fn push(
    archive: &Archive,
    client: &Client,
    options: &Options,
    observer: &Arc<dyn Observer>,
) -> Result<Backup> {
    let server = client.server().await?;
    let data_directory = options.data_directory.clone().unwrap_or_else(|| server.data_directory.clone());
    let control = preflight(&server, &data_directory)?;
    let shape = Shape::within(options.memory_limit, options.workers, options.part_size, options.level)?;
    archive.ensure_marker().await?;

    observer.notice(Event::Phase { name: "waiting for a checkpoint".into(), bytes: None });
    let start = client.backup_start("walden backup-push").await?;
    let started = Timestamp::now();
    let id = BackupId::new(started, SegmentName::containing(server.timeline, start, server.segment_size));
    let copying = Copying { archive, client, options, observer, id, control, shape, start };
    let (Copied { listed, tablespaces, pages }, stop) =
        copying.copy(&data_directory).await.during(|| format!("could not take backup {id}"))?;
    let finished = Timestamp::now();

    let label = BackupLabel::parse(&stop.label_file)?;
    let Listed { content, size, counts } = listed;
    let list = archive.encode(content, size, description(&server)).await?;
    let backup = Backup {
        format: FORMAT,
        walden: env!("CARGO_PKG_VERSION").to_owned(),
        id,
        system_id: server.system_id,
        postgres: server.major,
        started,
        finished,
        timeline: label.timeline,
        start: label.start,
        stop: stop.stop,
        segment_size: server.segment_size.bytes(),
        data_checksums: server.data_checksums,
        directory_mode: permissions(&data_directory)?,
        files: counts.files,
        plain_size: counts.plain_size,
        stored_size: counts.stored_size,
        tablespaces,
        files_blake3: list.plain_blake3(),
        pages,
    };
    wait_for_wal(archive, client, &backup, options.wal_timeout, observer).await?;
    commit(archive, &backup, list).await.during(|| format!("could not complete backup {id}"))?;
    let damage = backup.damage().map(|check| format!(", and has {}", check.count())).unwrap_or_default();
    observer.notice(Event::Done(format!("backup {id} is complete{damage}")));
    Ok(backup)
}

/// Is there damage in this backup?
///
/// # Errors
/// [`Kind::Damaged`] if some of its pages are damaged.
pub fn judge(backup: &Backup) -> Result<()> {
    backup.damage().and_then(|check| check.complaint(backup.id)).map_or(Ok(()), Err)
}

/// What can be known to be wrong before anything is copied.
fn preflight(server: &Server, data_directory: &Path) -> Result<ControlFile> {
    let (control, _) = datadir::read_control(data_directory)
        .map_err(|error| error.hint("Name the server's data directory as the argument of backup-push."))?;
    if control.system_id != server.system_id {
        return Err(Error::new(
            Kind::Refused,
            format!("\"{}\" is not the server's data directory", data_directory.display()),
        )
        .detail(format!("its system identifier is {}, the server's is {}", control.system_id, server.system_id))
        .hint(format!(
            "The server's is \"{}\"; or set PGHOST and PGPORT to the other server.",
            server.data_directory.display()
        )));
    }
    if server.in_recovery {
        return Err(Error::new(Kind::Refused, "the server is a standby")
            .detail("base backups are taken from the primary")
            .hint("Run walden backup-push on the primary."));
    }
    if server.wal_level == "minimal" {
        return Err(Error::new(Kind::Refused, "the server's WAL does not suffice to recover a backup")
            .detail("wal_level is minimal")
            .hint("Set wal_level = replica in postgresql.conf and restart the server."));
    }
    if server.archive_mode == ArchiveMode::Off {
        return Err(Error::new(Kind::Refused, "the server does not archive its WAL")
            .detail(format!("archive_mode is off, with {}", server.archiving))
            .hint("Set archive_mode = on and archive_command = 'walden wal-push %p' in postgresql.conf and restart the server."));
    }
    Ok(control)
}

fn permissions(directory: &Path) -> Result<u32> {
    let metadata = std::fs::metadata(directory).during(|| format!("could not read \"{}\"", directory.display()))?;
    Ok(metadata.permissions().mode() & 0o777)
}

/// Waits until all the WAL from the backup's start to its stop is in the archive: by a listing; where that is denied, by what
/// the server says that it has archived, with a warning.
///
/// # Errors
/// [`Kind::Incomplete`] if for `timeout` nothing more has arrived, with the archiver's last failure.
async fn wait_for_wal(
    archive: &Archive,
    client: &Client,
    backup: &Backup,
    timeout: Duration,
    observer: &Arc<dyn Observer>,
) -> Result<()> {
    observer.notice(Event::Phase { name: "waiting for the WAL of the backup".into(), bytes: None });
    let size = backup.segment_size()?;
    let (mut last_progress, mut warned) = ((Instant::now(), None), false);
    loop {
        let range = (backup.start, backup.stop);
        let missing = match verify::missing(archive, backup.system_id, backup.timeline, range, size).await {
            Err(error) if error.kind() == Kind::Denied => {
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!("that the WAL of the backup is archived is the server's word alone: {error}");
                }
                let needed = segments_between(backup.timeline, backup.start, backup.stop, size);
                not_passed(client.archiver().await?.last_archived_wal.as_deref(), needed)
            }
            missing => missing?,
        };
        let Some(first) = missing.first() else { return Ok(()) };
        // The backup no longer needs the session; without it only the explanation is poorer.
        let archiver = client.archiver().await.ok();
        let seen = Some((missing.len(), archiver.as_ref().map(|archiver| archiver.archived_count)));
        if seen != last_progress.1 {
            last_progress = (Instant::now(), seen);
        }
        if last_progress.0.elapsed() >= timeout {
            let error = Error::new(Kind::Incomplete, format!("backup {} lacks WAL that it needs", backup.id))
                .detail(format!("{} segments have not been archived, the first is {first}", missing.len()));
            let failure = archiver.and_then(|archiver| archiver.last_failed_wal.zip(archiver.last_failed_time));
            let error = match failure {
                Some((wal, time)) => error.detail(format!("archiving {wal} last failed at {time}")),
                None => error,
            };
            return Err(
                error.hint("Look for the output of archive_command in the server's log, and run the backup again.")
            );
        }
        tokio::time::sleep(WAL_POLL).await;
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

/// What the long manifest says of itself.
fn description(server: &Server) -> Description {
    Description {
        name: "files".to_owned(),
        system_id: server.system_id,
        timeline: None,
        segment_size: None,
        postgres: Some(server.major),
    }
}

/// Puts the long manifest, then the short one: from then on the backup exists.
async fn commit(archive: &Archive, backup: &Backup, list: Encoded) -> Result<()> {
    archive.put_encoded(&Key::Files(backup.system_id, backup.id), list).await?;
    archive.put_plain(&Key::Backup(backup.system_id, backup.id), backup.to_json()?.into()).await
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
