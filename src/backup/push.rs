//! `backup-push`: a base backup of a running server (docs/architecture.md, walk C).
//!
//! Nothing that it stores counts before the short manifest is there, which comes last.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::catalogue;
use super::copy::{Copied, Copying};
use super::damage::PageCheck;
use super::listing::Listed;
use super::manifest::{Backup, Marks, Method};
use super::plan::Shape;
use super::preflight::{Ready, preflight, warn_of_others};
use super::resume::{Interrupted, Journals};
use super::wait::Waiting;
use crate::archive::{Archive, Encoded};
use crate::codec::Description;
use crate::config::value::{OnCorruption, RemoteCompression};
use crate::crypt::Recipient;
use crate::error::{Context, Result};
use crate::layout::{self, BackupId, DataKeyName, Key};
use crate::observe::{Event, Observer};
use crate::postgres::client::Client;
use crate::postgres::control::SystemId;
use crate::postgres::entry::{Database, Tablespace};
use crate::postgres::label::BackupLabel;
use crate::postgres::lsn::Lsn;
use crate::wal::segment::{SegmentName, SegmentSize};

/// What PostgreSQL calls a backup that has no label.
pub(super) const LABEL: &str = "walden backup-push";

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
    /// Whether a server that sends the backup compresses it.
    pub remote_compression: RemoteCompression,
    /// How long to wait for the backup's WAL while nothing more arrives.
    pub wal_timeout: Duration,
    /// What becomes of a backup with damaged pages.
    pub on_corruption: OnCorruption,
    /// Go on with a backup that was interrupted, if there is one that can be gone on with.
    pub resume: bool,
    /// Where journals of backups lie; `None` if there is no such place. This user's alone.
    pub journals: Option<PathBuf>,
    /// The address of the store, by which its journals are told from those of others.
    pub address: String,
    /// What is written on the backup. Its label is PostgreSQL's label of the backup, too.
    pub marks: Marks,
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
    let shape = Shape::within(options.memory_limit, options.workers, options.part_size, options.level)?;
    let Ready { server, data_directory, control } = preflight(archive, client, options, observer).await?;
    // First of all: what cannot be encrypted as it is wanted is not begun.
    let to = archive.fresh_data_key(server.system_id).await?;
    let journals = Journals::look(options, &control, &data_directory, archive.recipients());
    // Before the backup mode begins: reading back can take long.
    let (known, interrupted) = journals.interrupted(archive, options.resume, observer).await?;
    warn_of_others(archive, server.system_id, known, observer).await?;
    observer.notice(Event::Phase { name: "waiting for a checkpoint".into(), bytes: None });
    let homes = client.homes().await?;
    let start = client.backup_start(options.marks.label.as_deref().unwrap_or(LABEL)).await?;
    let started = Timestamp::now();
    // A standby's start is that of a restartpoint, which may be the first one on a new timeline.
    let timeline = client.server().await?.timeline;
    let id = match &interrupted {
        // The stored parts lie below the id of when it was begun.
        Some(interrupted) => interrupted.id(),
        None => {
            let segment = SegmentName::containing(timeline, start, server.segment_size);
            catalogue::free_id(archive, server.system_id, started, segment).await?
        }
    };
    let standby = server.in_recovery;
    let journal = journals.begin(id);
    let copying = Copying {
        archive,
        client,
        options,
        observer,
        id,
        control,
        shape,
        to: to.clone(),
        start,
        standby,
        interrupted: interrupted.as_ref(),
        journal: journal.clone(),
        homes,
    };
    let (Copied { listed, tablespaces, databases, pages }, stop) =
        copying.copy(&data_directory).await.during(|| format!("could not take backup {id}"))?;
    let finished = Timestamp::now();

    let facts = Facts {
        id,
        system_id: server.system_id,
        postgres: server.major,
        started,
        finished,
        label: BackupLabel::parse(&stop.label_file)?,
        stop: stop.stop,
        segment_size: server.segment_size,
        data_checksums: server.data_checksums,
        directory_mode: permissions(&data_directory)?,
        tablespaces,
        databases,
        pages,
        from_standby: standby,
        method: Method::Local,
        to,
        interrupted,
    };
    let backup = complete(archive, Some(client), options, observer, facts, listed).await?;
    journal.iter().for_each(|journal| journal.remove());
    journals.clear();
    Ok(backup)
}

/// What is known of a backup when its files are stored.
pub(super) struct Facts {
    pub(super) id: BackupId,
    pub(super) system_id: SystemId,
    pub(super) postgres: u16,
    pub(super) started: Timestamp,
    pub(super) finished: Timestamp,
    pub(super) label: BackupLabel,
    pub(super) stop: Lsn,
    pub(super) segment_size: SegmentSize,
    pub(super) data_checksums: bool,
    pub(super) directory_mode: u32,
    pub(super) tablespaces: Vec<Tablespace>,
    pub(super) databases: Vec<Database>,
    pub(super) pages: Option<PageCheck>,
    pub(super) from_standby: bool,
    pub(super) method: Method,
    pub(super) to: Option<Recipient>,
    /// The run that it went on with.
    pub(super) interrupted: Option<Interrupted>,
}

/// Completes a backup whose parts are stored: waits for its WAL, and commits it. `session` is for explanations; without it
/// they are poorer.
pub(super) async fn complete(
    archive: &Archive,
    session: Option<&Client>,
    options: &Options,
    observer: &Arc<dyn Observer>,
    facts: Facts,
    Listed { content, size, counts }: Listed,
) -> Result<Backup> {
    let id = facts.id;
    let description = description(facts.system_id, facts.postgres);
    let list = archive.encode_for(content, size, description, facts.to.as_ref()).await?;
    let backup = Backup {
        format: layout::format(facts.to.is_some()),
        walden: env!("CARGO_PKG_VERSION").to_owned(),
        id,
        system_id: facts.system_id,
        postgres: facts.postgres,
        started: facts.started,
        finished: facts.finished,
        timeline: facts.label.timeline,
        start: facts.label.start,
        stop: facts.stop,
        segment_size: facts.segment_size.bytes(),
        data_checksums: facts.data_checksums,
        directory_mode: facts.directory_mode,
        files: counts.files,
        plain_size: counts.plain_size,
        stored_size: counts.stored_size,
        tablespaces: facts.tablespaces,
        files_blake3: list.plain_blake3(),
        databases: facts.databases,
        pages: facts.pages,
        from_standby: facts.from_standby,
        resumed: facts.interrupted.is_some(),
        method: facts.method,
        key: facts.to.as_ref().map(|recipient| DataKeyName::of(&recipient.to_string())),
        marks: options.marks.clone(),
    };
    Waiting { archive, client: session, backup: &backup, timeout: options.wal_timeout, observer }.wait().await?;
    if let Some(interrupted) = &facts.interrupted {
        interrupted.require_parts(archive).await.during(|| format!("could not complete backup {id}"))?;
    }
    commit(archive, &backup, list).await.during(|| format!("could not complete backup {id}"))?;
    let damage = backup.damage().map(|check| format!(", and has {}", check.count())).unwrap_or_default();
    observer.notice(Event::Done(format!("backup {id} is complete{damage}")));
    Ok(backup)
}

/// Is there damage in this backup?
///
/// # Errors
/// [`Kind::Damaged`](crate::error::Kind::Damaged) if some of its pages are damaged.
pub fn judge(backup: &Backup) -> Result<()> {
    backup.damage().and_then(|check| check.complaint(backup.id)).map_or(Ok(()), Err)
}

fn permissions(directory: &Path) -> Result<u32> {
    let metadata = std::fs::metadata(directory).during(|| format!("could not read \"{}\"", directory.display()))?;
    Ok(metadata.permissions().mode() & 0o777)
}

/// What the long manifest says of itself.
fn description(system_id: SystemId, postgres: u16) -> Description {
    Description { name: "files".to_owned(), system_id, timeline: None, segment_size: None, postgres: Some(postgres) }
}

/// Puts the long manifest, then the short one: from then on the backup exists.
async fn commit(archive: &Archive, backup: &Backup, list: Encoded) -> Result<()> {
    archive.put_encoded(&Key::Files(backup.system_id, backup.id), list).await?;
    archive.put_plain(&Key::Backup(backup.system_id, backup.id), backup.to_json()?.into()).await
}
