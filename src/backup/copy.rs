//! The copying of a backup: from the walk through the data directory to the last stored part, around the end of the backup
//! mode.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::manifest::{Directory, File, Files, Part};
use super::pack::{Packed, Packer, add_content};
use super::plan::{Plan, plan};
use super::push::Options;
use super::volume::FinishedPart;
use crate::archive::Archive;
use crate::error::{Error, Kind, Result};
use crate::layout::{BackupId, Key};
use crate::observe::{Event, Observer};
use crate::pipeline;
use crate::postgres::client::{BackupStop, Client};
use crate::postgres::control::{CONTROL_FILE, ControlFile};
use crate::postgres::datadir::{self, Walk};
use crate::postgres::entry::{Entry, EntryKind, Tablespace};

/// Bytes of finished parts that are being stored at the same time.
const UPLOAD_BYTES: usize = 64 << 20;

/// One backup's copying.
pub(super) struct Copying<'a> {
    pub(super) archive: &'a Archive,
    pub(super) client: &'a Client,
    pub(super) options: &'a Options,
    pub(super) observer: &'a Arc<dyn Observer>,
    pub(super) id: BackupId,
    pub(super) control: ControlFile,
}

/// All that was copied.
pub(super) struct Copied {
    pub(super) content: Files,
    pub(super) tablespaces: Vec<Tablespace>,
}

impl Copying<'_> {
    /// Copies the data directory, ends the backup mode and adds what the server says at its end.
    pub(super) async fn copy(&self, data_directory: &Path) -> Result<(Copied, BackupStop)> {
        let Walk { entries, tablespaces, skipped } = datadir::walk(data_directory, &self.control)?;
        for skipped in skipped {
            self.observer.notice(Event::Warning(format!("\"{}\" is not backed up: {}", skipped.path, skipped.why)));
        }
        let plan = Arc::new(plan(entries));
        let name = format!("copying {} files", plan.files);
        self.observer.notice(Event::Phase { name, bytes: Some(plan.bytes) });

        let (sender, receiver) = mpsc::channel(1);
        let storing = Storing { open: sender.clone(), task: tokio::spawn(self.store_parts(receiver)) };
        let packed = match self.pack(plan.clone(), sender).await {
            Ok(packed) => packed,
            Err(error) => return Err(storing.first_cause(error).await),
        };
        // Read last of all files, as PostgreSQL's documentation asks of backups taken from a standby ("Backing Up The Data
        // Directory"), and before the end of the backup mode.
        let control = (plan.control.clone(), datadir::read_control(data_directory)?.1);
        let stop = self.client.backup_stop().await?;
        let last = self.last_files(control, &stop);
        let files = match blocking(move || finish(packed, last)).await {
            Ok(files) => files,
            Err(error) => return Err(storing.first_cause(error).await),
        };
        let parts = storing.finish().await?;
        let directories = plan.directories.iter();
        let directories = directories.map(|entry| Directory { path: entry.path.clone(), mode: entry.mode });
        let mut content = Files { parts, directories: directories.collect(), files };
        content.sort();
        Ok((Copied { content, tablespaces }, stop))
    }

    /// Packs on other threads, as long as the session lives: without it the backup is void.
    async fn pack(&self, plan: Arc<Plan>, parts: mpsc::Sender<FinishedPart>) -> Result<Packed> {
        let packer = Packer {
            level: self.options.level,
            part_size: self.options.part_size,
            parts,
            stop: Arc::new(AtomicBool::new(false)),
            observer: self.observer.clone(),
        };
        let (stop, workers) = (packer.stop.clone(), self.options.workers);
        tokio::select! {
            packed = blocking(move || packer.pack(&plan, workers)) => packed,
            ended = self.client.closed() => {
                stop.store(true, Ordering::Relaxed);
                Err(ended)
            }
        }
    }

    /// Stores parts as they come.
    fn store_parts(
        &self,
        parts: mpsc::Receiver<FinishedPart>,
    ) -> impl Future<Output = Result<Vec<Part>>> + Send + 'static {
        let at_once = (UPLOAD_BYTES / self.options.part_size).clamp(2, 16);
        let (archive, system, id) = (self.archive.clone(), self.control.system_id, self.id);
        pipeline::run(parts, at_once, move |FinishedPart { part, content }| {
            let (archive, key) = (archive.clone(), Key::Part(system, id, part.name()));
            async move { archive.put_plain(&key, Bytes::from(content)).await.map(|()| part) }
        })
    }

    /// The files that come last, with their content.
    fn last_files(&self, (control, bytes): (Option<Entry>, Vec<u8>), stop: &BackupStop) -> Vec<(Entry, Vec<u8>)> {
        let made_here = |path: &str, content: &str| {
            let entry = Entry {
                path: path.to_owned(),
                source: PathBuf::new(),
                kind: EntryKind::File,
                size: content.len() as u64,
                mode: 0o600,
                modified: Timestamp::now(),
            };
            (entry, content.as_bytes().to_vec())
        };
        let mut last = vec![(control.unwrap_or_else(|| made_here(CONTROL_FILE, "").0), bytes)];
        last.push(made_here("backup_label", &stop.label_file));
        if !stop.tablespace_map.is_empty() {
            last.push(made_here("tablespace_map", &stop.tablespace_map));
        }
        last
    }
}

/// Adds the last files to the first volume and ends all of them.
fn finish(mut packed: Packed, last: Vec<(Entry, Vec<u8>)>) -> Result<Vec<File>> {
    let Some(first) = packed.volumes.first_mut() else {
        return Err(Error::new(Kind::Refused, "the data directory has no files"));
    };
    for (entry, content) in last {
        packed.files.push(add_content(first, &entry, &content)?);
    }
    packed.volumes.into_iter().try_for_each(|volume| volume.finish())?;
    Ok(packed.files)
}

/// The task that stores parts.
struct Storing {
    /// Keeps the channel open, and tells whether the task has closed it.
    open: mpsc::Sender<FinishedPart>,
    task: tokio::task::JoinHandle<Result<Vec<Part>>>,
}

impl Storing {
    /// Waits for the last part.
    async fn finish(self) -> Result<Vec<Part>> {
        drop(self.open);
        joined(self.task.await)
    }

    /// If storing has failed, the packers only met the consequence: the closed channel.
    async fn first_cause(self, consequence: Error) -> Error {
        if self.open.is_closed() {
            return self.finish().await.err().unwrap_or(consequence);
        }
        self.task.abort();
        consequence
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    joined(tokio::task::spawn_blocking(work).await)
}

fn joined<T>(ended: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    match ended {
        Ok(result) => result,
        Err(lost) => Err(Error::new(Kind::Bug, "a task of the backup ended without a result").detail(lost.to_string())),
    }
}
