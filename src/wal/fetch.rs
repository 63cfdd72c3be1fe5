//! `wal-fetch`: one WAL file out of the archive, checked, and under its name in one step (docs/architecture.md, walk B).

use std::path::{Path, PathBuf};

use crate::durable::{self, Staged};
use crate::error::{Context, Error, Kind, Result};
use crate::postgres::control::{ControlFile, SystemId};
use crate::postgres::datadir;
use crate::wal::prefetch::{self, Ahead, Taken};
use crate::wal::receive::{self, Sources};
use crate::wal::segment::{SegmentName, WalFile};
use crate::wal::spool::Spool;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which file.
    pub file: WalFile,
    /// Where it shall lie; PostgreSQL asks for `pg_wal/RECOVERYXLOG`, relative to the data directory.
    pub target: PathBuf,
    /// The data directory whose cluster it must belong to; if not given, the one above the target, if there is one.
    pub data_directory: Option<PathBuf>,
    /// Which cluster's file, where there is no data directory.
    pub system_id: Option<SystemId>,
    /// The archive's address, by which files in the spool are known.
    pub address: String,
    /// Where files lie that were fetched ahead.
    pub spool: Spool,
    /// Bytes of WAL that may be fetched ahead during a recovery.
    pub prefetch: u64,
}

/// A request together with what its data directory says.
#[derive(Clone, Debug)]
pub struct Job {
    request: Request,
    control: Option<ControlFile>,
    /// In a recovery: what fetching ahead is about.
    ahead: Option<Ahead>,
}

impl Job {
    /// Looks at the data directory.
    ///
    /// # Errors
    /// If one is named and is none, or its control file is damaged.
    pub fn new(request: Request) -> Result<Job> {
        let directory = request.data_directory.clone().or_else(|| datadir::data_directory_of(&request.target));
        let Some(directory) = directory else { return Ok(Job { request, control: None, ahead: None }) };
        let what = || format!("could not fetch \"{}\"", request.file);
        let control = datadir::read_control(&directory).during(what)?.0;
        let ahead = Ahead::during_recovery(&directory, control, &request.spool, &request.address, request.prefetch);
        Ok(Job { request, control: Some(control), ahead })
    }

    /// What fetching ahead is about. `None` outside a recovery; what an earlier one has left is then removed.
    pub fn ahead(&self) -> Option<&Ahead> {
        if self.ahead.is_none() {
            self.request.spool.remove_fetched();
        }
        self.ahead.as_ref()
    }

    /// Whether there should be a process that fetches ahead and is none. To be asked when a segment has been handed over.
    pub fn lacks_prefetcher(&self) -> bool {
        self.ahead.as_ref().is_some_and(|ahead| self.segment().is_some() && !ahead.is_served())
    }

    fn segment(&self) -> Option<SegmentName> {
        match self.request.file {
            WalFile::Segment(segment) => Some(segment),
            _ => None,
        }
    }
}

/// Hands over the file if it was fetched ahead. Asks the spool alone, not the store.
///
/// # Errors
/// If it is there and cannot be handed over.
pub fn take(job: &Job) -> Result<bool> {
    let (Some(ahead), Some(segment)) = (&job.ahead, job.segment()) else { return Ok(false) };
    let taken = prefetch::take(ahead, segment, &job.request.target).during(|| could_not_fetch(job))?;
    if taken != Taken::Missing {
        ahead.note(segment, taken);
    }
    Ok(taken != Taken::Missing)
}

/// That an archive holds no cluster yet is no word about the file: nobody has looked for it.
fn unknown_cluster(error: Error) -> Error {
    match error.kind() {
        Kind::NotFound => Error::new(Kind::Config, "it is not known of which cluster the file is to be")
            .detail(error.to_string())
            .hint("Say so with --pgdata or --system-id (WALDEN_PGDATA, WALDEN_SYSTEM_ID)."),
        _ => error,
    }
}

/// Fetches a WAL file from the store. When this returns `Ok`, the target is complete and is what its name says; before that
/// nothing bears the target's name.
///
/// # Errors
/// [`Kind::NotFound`] only if the stores said that the object is absent, from our archive, which is there or has not been
/// begun beside the one before it, and from that one.
pub async fn fetch(sources: &Sources, job: &Job) -> Result<()> {
    let archive = &sources.archive;
    let what = || could_not_fetch(job);
    let Request { file, target, .. } = &job.request;
    let system_id = match job.control.as_ref().map(|control| control.system_id).or(job.request.system_id) {
        Some(system_id) => system_id,
        None => archive.only_cluster().await.map_err(unknown_cluster).during(what)?,
    };
    // Whoever fetches ahead goes on behind this one, and does not fetch it too.
    let ahead = job.ahead.as_ref().zip(job.segment());
    if let Some((ahead, segment)) = ahead.filter(|(ahead, _)| ahead.is_served()) {
        ahead.note(segment, Taken::Missing);
    }
    let staged =
        Staged::beside(target).during(|| format!("could not create a file beside \"{}\"", target.display()))?;
    let staged = match receive::receive(sources, system_id, *file, job.control.as_ref(), staged).await {
        Err(error) if error.kind() == Kind::NotFound => {
            prove(sources, system_id).await.during(what)?;
            return Err(error.during(format!("\"{file}\" is not in the archive")));
        }
        result => result.during(what)?,
    };
    durable::sweep_stale(target.parent().unwrap_or(Path::new(".")));
    // Not synced: after a crash PostgreSQL asks for the file again, and it syncs what it keeps
    // (KeepFileRestoredFromArchive in src/backend/access/transam/xlogarchive.c).
    staged.rename().during(what)?;
    if let Some((ahead, segment)) = ahead {
        ahead.note(segment, Taken::Missing);
    }
    Ok(())
}

/// Is our archive there, or at least its prefix right?
async fn prove(Sources { archive, legacy }: &Sources, system_id: SystemId) -> Result<()> {
    match archive.prove(system_id).await {
        Err(error) if error.kind() == Kind::Config => match legacy.vouches_for_our_prefix().await? {
            true => Ok(()),
            false => Err(error),
        },
        outcome => outcome,
    }
}

fn could_not_fetch(job: &Job) -> String {
    format!("could not fetch \"{}\"", job.request.file)
}
