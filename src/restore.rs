//! `backup-fetch`: a cluster out of the archive, ready for PostgreSQL to recover (docs/architecture.md, walk D).
//!
//! Everything that can be known to fail is checked before the first byte is written. `global/pg_control` gets its name last:
//! without it no server starts on what is there.

mod copy;
mod manifest;
mod plan;
mod recovery;
mod select;
mod target;

use std::path::PathBuf;
use std::sync::Arc;

use crate::archive::Archive;
use crate::backup::catalogue;
use crate::backup::manifest::Backup;
use crate::config::target::{Goal, Selection, TablespaceMapping, TargetTimeline};
use crate::durable;
use crate::error::{Context, Result};
use crate::observe::{Event, Observer};
use crate::postgres::control::{CONTROL_FILE, SystemId};
use crate::postgres::lsn::Lsn;
use crate::wal::timeline::Timeline;
use crate::wal::verify;

use self::plan::{Destination, Plan};
use self::target::Prepared;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where the cluster is to lie.
    pub directory: PathBuf,
    /// Which backup; if not given, the newest one that leads to the goal.
    pub selection: Option<Selection>,
    /// How it is to recover.
    pub goal: Goal,
    /// Along which timeline.
    pub timeline: TargetTimeline,
    /// Tablespaces that are to lie elsewhere.
    pub tablespaces: Vec<TablespaceMapping>,
    /// Which cluster, if several share the archive.
    pub system_id: Option<SystemId>,
    /// What PostgreSQL is to run for WAL, with its placeholders.
    pub restore_command: String,
    /// Threads that fetch and decompress.
    pub workers: usize,
}

/// Restores a cluster. When this returns `Ok`, everything is on disk, and starting a server there begins the recovery.
///
/// # Errors
/// [`Refused`](crate::error::Kind::Refused) for an unsafe target, [`Incomplete`](crate::error::Kind::Incomplete) if WAL
/// that is needed is not in the archive: nothing has been written then. After any later error the directory has no
/// `global/pg_control`, and the next run clears it away.
pub async fn restore(archive: &Archive, request: &Request, observer: &Arc<dyn Observer>) -> Result<Backup> {
    observer.notice(Event::Phase { name: "looking for a backup and its WAL".into(), bytes: None });
    let system = match request.system_id {
        Some(system) => system,
        None => archive.only_cluster().await?,
    };
    let backup = select::select(archive, system, request).await?;
    if let Some(check) = backup.damage() {
        observer.notice(Event::Warning(format!("backup {} has {}", backup.id, check.count())));
    }
    let (timeline, end) = check_wal(archive, &backup, request, observer).await?;
    let files = catalogue::files(archive, &backup).await?;
    let destination = Destination::new(&request.directory, &backup.tablespaces, &request.tablespaces)?;
    let prepared = target::prepare(&destination)?;
    let plan = Arc::new(Plan::new(files, destination));
    observer.notice(Event::Phase { name: format!("restoring {} files", backup.files), bytes: Some(backup.plain_size) });
    let what = || format!("could not restore backup {} to \"{}\"", backup.id, request.directory.display());
    prepared.make_directories(&plan, backup.directory_mode).during(what)?;
    copy::copy(archive, &backup, &plan, request.workers, observer).await.during(what)?;
    finish(&backup, &plan, request, prepared, observer).during(what)?;
    observer.notice(Event::Done(format!(
        "backup {} is restored; the recovery follows timeline {}, whose WAL is there up to {end}",
        backup.id, timeline.0
    )));
    Ok(backup)
}

/// Is the WAL there that the recovery will ask for? Which timeline it follows, and up to where its WAL is there.
async fn check_wal(
    archive: &Archive,
    backup: &Backup,
    request: &Request,
    observer: &Arc<dyn Observer>,
) -> Result<(Timeline, Lsn)> {
    let history = select::history(archive, backup, request.timeline).await?;
    let size = backup.segment_size()?;
    let inventory = verify::inventory(archive, backup.system_id, &history, backup.start, size).await?;
    let coverage = inventory.coverage(backup.start, backup.stop, &history);
    if let Some(warning) = plan::check_coverage(backup, &request.goal, &history, &coverage)? {
        observer.notice(Event::Warning(warning));
    }
    Ok((history.timeline, coverage.end))
}

/// What comes after the files: the manifest, the settings of the recovery, the sync, and the commit.
fn finish(
    backup: &Backup,
    plan: &Plan,
    request: &Request,
    prepared: Prepared,
    observer: &Arc<dyn Observer>,
) -> Result<()> {
    let destination = plan.destination();
    let changed = recovery::map_tablespaces(destination, plan.files())?;
    manifest::write(destination.root(), backup, plan.files(), changed.as_ref())?;
    recovery::configure(destination.root(), request)?;
    observer.notice(Event::Phase { name: "syncing".into(), bytes: None });
    for directory in destination.directories() {
        durable::sync_filesystem(directory)?;
    }
    durable::rename(&destination.resolve(CONTROL_FILE), &destination.root().join(CONTROL_FILE))?;
    prepared.forget()
}
