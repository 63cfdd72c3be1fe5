//! Reads the cluster's files into volumes, on all workers at once.
//!
//! Each worker owns a volume and takes whole files. What makes the work even is that the slices of a large file are
//! compressed by whichever worker has nothing else to do (rayon's work stealing), while their order stays that of the file.

use std::cell::RefCell;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use rayon::prelude::*;
use tokio::sync::mpsc::Sender;

use super::manifest::{Directory, FRAME_SIZE, File, Frame};
use super::plan::{Job, Plan};
use super::volume::{FinishedPart, VolumeWriter};
use crate::codec::FrameWriter;
use crate::error::{Context, Error, Kind, Result};
use crate::observe::{Event, Observer};
use crate::postgres::entry::Entry;

/// How many slices of a large file are compressed before they are appended to the volume: enough that several workers
/// can help, at no more than 16 MiB of memory a worker.
const SLICES: usize = 8;

/// How to pack.
#[derive(Clone, Debug)]
pub(super) struct Packer {
    /// zstd level.
    pub(super) level: i32,
    /// Stored bytes of a part.
    pub(super) part_size: usize,
    /// Where finished parts go.
    pub(super) parts: Sender<FinishedPart>,
    /// Set to end the work early.
    pub(super) stop: Arc<AtomicBool>,
    /// Who is told of the progress.
    pub(super) observer: Arc<dyn Observer>,
}

/// What has been packed: the files, and the volumes, which can still take more. Volume 0 is the first.
pub(super) struct Packed {
    pub(super) files: Vec<File>,
    pub(super) volumes: Vec<VolumeWriter>,
}

impl Packer {
    /// Packs all that is planned except `global/pg_control`, with so many threads.
    ///
    /// # Errors
    /// The first worker's; the others stop at their next file or slice.
    pub(super) fn pack(&self, plan: &Plan, workers: usize) -> Result<Packed> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(workers)
            .thread_name(|index| format!("pack-{index}"))
            .build()
            .map_err(|error| Error::new(Kind::Local, "could not start the workers").detail(error.to_string()))?;
        let (next_job, next_volume) = (AtomicUsize::new(0), AtomicU32::new(0));
        let shared = Shared { packer: self, plan, next_job, next_volume };
        let outcomes = pool.broadcast(|_| {
            let outcome = shared.work();
            if outcome.is_err() {
                self.stop.store(true, Ordering::Relaxed);
            }
            outcome
        });
        let mut packed = Packed { files: Vec::new(), volumes: Vec::new() };
        let mut volumes = Vec::new();
        for outcome in outcomes {
            let (volume, files) = outcome?;
            volumes.extend(volume);
            packed.files.extend(files);
        }
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Unreachable, "the copying was stopped"));
        }
        volumes.sort_by_key(|(number, _)| *number);
        packed.volumes = volumes.into_iter().map(|(_, volume)| volume).collect();
        Ok(packed)
    }
}

struct Shared<'a> {
    packer: &'a Packer,
    plan: &'a Plan,
    next_job: AtomicUsize,
    next_volume: AtomicU32,
}

type Work = (Option<(u32, VolumeWriter)>, Vec<File>);

impl Shared<'_> {
    /// One worker: takes jobs until there are none. Its volume exists from its first job on.
    fn work(&self) -> Result<Work> {
        let (mut own, mut files) = (None, Vec::new());
        while let Some(job) = self.take() {
            let (_, volume) = match &mut own {
                Some(own) => own,
                none => none.insert(self.begin_volume()?),
            };
            match job {
                Job::Large(entry) => files.extend(self.add(entry, volume)?),
                Job::Small(entries) => {
                    for entry in entries {
                        files.extend(self.add(entry, volume)?);
                    }
                }
            }
        }
        Ok((own, files))
    }

    fn take(&self) -> Option<&Job> {
        let stopped = self.packer.stop.load(Ordering::Relaxed);
        self.plan.jobs.get(self.next_job.fetch_add(1, Ordering::Relaxed)).filter(|_| !stopped)
    }

    fn begin_volume(&self) -> Result<(u32, VolumeWriter)> {
        let number = self.next_volume.fetch_add(1, Ordering::Relaxed);
        let Packer { level, part_size, parts, .. } = self.packer;
        let mut volume = VolumeWriter::new(number, *level, *part_size, parts.clone())?;
        if number == 0 {
            for entry in &self.plan.directories {
                volume.add_directory(&Directory { path: entry.path.clone(), mode: entry.mode })?;
            }
        }
        Ok((number, volume))
    }

    /// Adds one file as it is now; `None` if it has vanished since the directory was walked, for then the WAL says so too.
    fn add(&self, entry: &Entry, volume: &mut VolumeWriter) -> Result<Option<File>> {
        let what = || format!("could not read \"{}\"", entry.source.display());
        let source = match fs::File::open(&entry.source) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            result => result.during(what)?,
        };
        let size = source.metadata().during(what)?.len();
        let mut file = describe(entry, size);
        if size < FRAME_SIZE as u64 {
            SCRATCH.with_borrow_mut(|scratch| {
                read(&source, 0, size as usize, &mut scratch.buffer).during(what)?;
                file.crc32c = crc32c::crc32c(&scratch.buffer);
                file.at = volume.add_small(&file, &scratch.buffer)?;
                Ok::<(), Error>(())
            })?;
            self.packer.observer.notice(Event::Advanced(size));
        } else {
            file.at = volume.begin_large(&file)?;
            file.crc32c = self.add_slices(&source, size, volume).during(what)?;
            volume.end_large(&file)?;
        }
        Ok(Some(file))
    }

    /// Adds the content of a large file; returns its CRC.
    fn add_slices(&self, source: &fs::File, size: u64, volume: &mut VolumeWriter) -> Result<u32> {
        let offsets: Vec<u64> = (0..size).step_by(FRAME_SIZE).collect();
        let mut crc = 0;
        for batch in offsets.chunks(SLICES) {
            if self.packer.stop.load(Ordering::Relaxed) {
                return Err(Error::new(Kind::Unreachable, "the copying was stopped"));
            }
            let compress = |&offset: &u64| {
                let length = (size - offset).min(FRAME_SIZE as u64) as usize;
                slice(source, offset, length, self.packer.level)
            };
            let slices: Vec<Result<Slice>> = batch.par_iter().with_max_len(1).map(compress).collect();
            for slice in slices {
                let slice = slice?;
                volume.add_frame(slice.frame, &slice.stored)?;
                crc = crc32c::crc32c_combine(crc, slice.crc32c, slice.frame.plain as usize);
                self.packer.observer.notice(Event::Advanced(slice.frame.plain.into()));
            }
        }
        Ok(crc)
    }
}

/// A compressed slice of a large file.
struct Slice {
    frame: Frame,
    stored: Vec<u8>,
    crc32c: u32,
}

fn slice(source: &fs::File, offset: u64, length: usize, level: i32) -> Result<Slice> {
    SCRATCH.with_borrow_mut(|scratch| {
        read(source, offset, length, &mut scratch.buffer).during(|| format!("could not read at offset {offset}"))?;
        let writer = match &mut scratch.writer {
            Some(writer) => writer,
            none => none.insert(FrameWriter::new(level)?),
        };
        let (frame, stored) = writer.compress(&scratch.buffer)?;
        let stored = stored.to_vec();
        Ok(Slice { frame, stored, crc32c: crc32c::crc32c(&scratch.buffer) })
    })
}

/// What a worker keeps from one slice to the next. The pool's threads live for one backup, so its level is the writer's.
#[derive(Default)]
struct Scratch {
    buffer: Vec<u8>,
    writer: Option<FrameWriter>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Fills `buffer` with these bytes. What a file has lost since it was opened becomes zeros, as in pg_basebackup: the WAL
/// replayed over the copy truncates it again (`sendFile` in src/backend/backup/basebackup.c).
fn read(source: &fs::File, offset: u64, length: usize, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    buffer.resize(length, 0);
    let mut filled = 0;
    while filled < length {
        match source.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer[filled..].fill(0);
    Ok(())
}

fn describe(entry: &Entry, size: u64) -> File {
    File { path: entry.path.clone(), size, mode: entry.mode, modified: entry.modified, crc32c: 0, at: Vec::new() }
}

/// Adds a small file whose content is at hand.
pub(super) fn add_content(volume: &mut VolumeWriter, entry: &Entry, content: &[u8]) -> Result<File> {
    let mut file = describe(entry, content.len() as u64);
    file.crc32c = crc32c::crc32c(content);
    file.at = volume.add_small(&file, content)?;
    Ok(file)
}
