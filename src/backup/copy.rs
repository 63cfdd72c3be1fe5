//! The copying of a backup: from the walk through the data directory to the last stored part, around the end of the backup
//! mode.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::damage::PageCheck;
use super::journal::Journal;
use super::listing::{Listed, Listing};
use super::manifest::{File, Line};
use super::pack::{Packer, add_content};
use super::pages::{self, Pages};
use super::plan::{Plan, Shape, plan};
use super::push::Options;
use super::read::describe;
use super::resume::{Interrupted, take_over};
use super::session;
use super::volume::{FinishedPart, VolumeWriter};
use crate::archive::Archive;
use crate::crypt::Recipient;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::{BackupId, Key};
use crate::observe::{Event, Observer};
use crate::pipeline::{self, Pace, blocking, joined};
use crate::postgres::client::{BackupStop, Client, Homes};
use crate::postgres::control::{CONTROL_FILE, ControlFile, SystemId};
use crate::postgres::datadir::{self, Walk};
use crate::postgres::entry::{Database, Directory, Tablespace};
use crate::postgres::lsn::Lsn;

/// Two that find an id free at the same time have the same one, and only one of them stores its first part.
const SAME_SECOND: &str = "Another backup of this cluster began in the same second. Run walden backup-push again.";

/// One backup's copying.
pub(super) struct Copying<'a> {
    pub(super) archive: &'a Archive,
    pub(super) client: &'a Client,
    pub(super) options: &'a Options,
    pub(super) observer: &'a Arc<dyn Observer>,
    pub(super) id: BackupId,
    pub(super) control: ControlFile,
    pub(super) shape: Shape,
    /// The data key that everything is encrypted for, if it is.
    pub(super) to: Option<Recipient>,
    /// Where replay of the copy begins.
    pub(super) start: Lsn,
    pub(super) standby: bool,
    /// The interrupted run that this one goes on with.
    pub(super) interrupted: Option<&'a Interrupted>,
    /// Where it is written down for a later run.
    pub(super) journal: Option<Arc<Journal>>,
    /// Where the databases lay before the backup began.
    pub(super) homes: Homes,
}

/// All that was copied.
pub(super) struct Copied {
    pub(super) listed: Listed,
    pub(super) tablespaces: Vec<Tablespace>,
    pub(super) databases: Vec<Database>,
    pub(super) pages: Option<PageCheck>,
}

impl Copying<'_> {
    /// Copies the data directory, ends the backup mode and adds what the server says at its end.
    pub(super) async fn copy(&self, data_directory: &Path) -> Result<(Copied, BackupStop)> {
        let Walk { root, directories, files, tablespaces, skipped } = datadir::walk(data_directory, &self.control)?;
        for skipped in skipped {
            self.observer.notice(Event::Warning(format!("\"{}\" is not backed up: {}", skipped.path, skipped.why)));
        }
        if let Some(why) = pages::unknown_build(&self.control) {
            self.observer.notice(Event::Warning(why));
        }
        let pages = Arc::new(Pages::new(&self.control, &root, self.start));
        let listing = Arc::new(Listing::begin(self.id, self.to.is_some(), self.journal.clone())?);
        let files = Arc::new(files);
        let wanted = match self.interrupted {
            Some(interrupted) => Arc::new(take_over(interrupted, &root, &files, &listing, &pages)?),
            None => files.clone(),
        };
        self.journal.iter().for_each(|journal| journal.publish());
        let plan = plan(wanted);
        let name = format!("copying {} files", plan.files.len());
        self.observer.notice(Event::Phase { name, bytes: Some(plan.bytes) });

        let Options { level, max_rate, .. } = *self.options;
        let (parts, storing) =
            Storing::begin(self.archive, self.control.system_id, self.id, self.shape.uploads, &listing);
        let packer = Packer {
            root,
            level,
            shape: self.shape,
            to: self.to.clone(),
            pace: max_rate.map(|rate| Arc::new(Pace::new(rate))),
            pages: pages.clone(),
            parts,
            listing: listing.clone(),
            stop: Arc::new(AtomicBool::new(false)),
            first_volume: self.interrupted.map_or(0, Interrupted::first_volume),
            observer: self.observer.clone(),
        };
        let volumes = match self.pack(packer, plan, directories).await {
            Ok(volumes) => volumes,
            Err(error) => return Err(storing.first_cause(error).await),
        };
        let on_corruption = self.options.on_corruption;
        let pages = match pages::conclude(pages, self.client, on_corruption, self.observer).await {
            Ok(pages) => pages,
            Err(error) => return Err(storing.first_cause(error).await),
        };
        let databases = self.client.databases().await?;
        // Before the end of the backup mode (docs/decisions/late-init-forks.md).
        listing.leave_out(&datadir::reset_by_now(data_directory, &self.control, &files)?)?;
        // Read last of all files, as PostgreSQL's documentation asks of backups taken from a standby ("Backing Up The Data
        // Directory"), and before the end of the backup mode.
        let control = control_file(data_directory)?;
        let stop = session::stop(self.client, self.standby, &self.homes).await?;
        let made = made_by_the_server(&control.0, &stop);
        let last = std::iter::once(control).chain(made).collect();
        let ended = listing.clone();
        if let Err(error) = blocking(move || finish(volumes, last, &ended)).await {
            return Err(storing.first_cause(error).await);
        }
        storing.finish().await?;
        Ok((Copied { listed: finish_list(listing)?, tablespaces, databases, pages }, stop))
    }

    /// Packs on other threads, as long as the session lives: without it the backup is void.
    async fn pack(&self, packer: Packer, plan: Plan, directories: Vec<Directory>) -> Result<Vec<VolumeWriter>> {
        let stop = packer.stop.clone();
        tokio::select! {
            packed = blocking(move || packer.pack(&plan, &directories)) => packed,
            ended = session::voided(self.client, self.standby) => {
                stop.store(true, Ordering::Relaxed);
                Err(ended)
            }
        }
    }
}

/// `global/pg_control` and its content.
fn control_file(data_directory: &Path) -> Result<(File, Vec<u8>)> {
    let path = data_directory.join(CONTROL_FILE);
    let metadata = fs::metadata(&path).during(|| format!("could not read \"{}\"", path.display()))?;
    let content = datadir::read_control(data_directory)?.1;
    Ok((describe(CONTROL_FILE.to_owned(), &metadata, content.len() as u64), content))
}

/// The files that the server hands over at the end, with the rights of its own control file.
fn made_by_the_server(control: &File, stop: &BackupStop) -> Vec<(File, Vec<u8>)> {
    let made = |path: &str, content: &str| {
        let file = File { path: path.to_owned(), modified: jiff::Timestamp::now(), ..control.clone() };
        (file, content.as_bytes().to_vec())
    };
    let mut files = vec![made("backup_label", &stop.label_file)];
    if !stop.tablespace_map.is_empty() {
        files.push(made("tablespace_map", &stop.tablespace_map));
    }
    files
}

/// Adds the last files to the first volume and ends all of them.
pub(super) fn finish(mut volumes: Vec<VolumeWriter>, last: Vec<(File, Vec<u8>)>, listing: &Listing) -> Result<()> {
    let Some(first) = volumes.first_mut() else {
        return Err(Error::new(Kind::Refused, "the data directory has no files"));
    };
    for (file, content) in last {
        listing.add(&Line::File(add_content(first, file, &content)?))?;
    }
    volumes.into_iter().try_for_each(VolumeWriter::finish)
}

pub(super) fn finish_list(listing: Arc<Listing>) -> Result<Listed> {
    Arc::into_inner(listing).ok_or_else(|| Error::new(Kind::Bug, "the list of files is still being written"))?.finish()
}

/// The task that stores parts.
pub(super) struct Storing {
    /// Keeps the channel open, and tells whether the task has closed it.
    open: mpsc::Sender<FinishedPart>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Storing {
    /// Stores parts as they come, `at_once` of them at the same time, and lists those that are stored.
    pub(super) fn begin(
        archive: &Archive,
        system: SystemId,
        id: BackupId,
        at_once: usize,
        listing: &Arc<Listing>,
    ) -> (mpsc::Sender<FinishedPart>, Storing) {
        let (open, parts) = mpsc::channel(1);
        let (archive, listing) = (archive.clone(), listing.clone());
        let stored = pipeline::run(parts, at_once, move |FinishedPart { part, content }| {
            let (archive, key, listing) = (archive.clone(), Key::Part(system, id, part.name()), listing.clone());
            async move {
                archive.put_plain(&key, Bytes::from(content)).await.map_err(|error| match error.kind() {
                    Kind::Conflict => error.hint(SAME_SECOND),
                    _ => error,
                })?;
                listing.add_part(part)
            }
        });
        let task = tokio::spawn(async { stored.await.map(drop) });
        (open.clone(), Storing { open, task })
    }

    /// Waits for the last part.
    pub(super) async fn finish(self) -> Result<()> {
        drop(self.open);
        joined(self.task.await)
    }

    /// If storing has failed, the packers only met the consequence: the closed channel.
    pub(super) async fn first_cause(self, consequence: Error) -> Error {
        if self.open.is_closed() {
            return self.finish().await.err().unwrap_or(consequence);
        }
        self.task.abort();
        consequence
    }
}
