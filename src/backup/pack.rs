//! Reads the cluster's files into volumes, on all workers at once.
//!
//! Each worker owns a volume and takes whole files. What makes the work even is that the slices of a large file are
//! compressed by whichever worker has nothing else to do (rayon's work stealing), while their order stays that of the file.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use rayon::prelude::*;
use tokio::sync::mpsc::Sender;

use super::listing::Listing;
use super::manifest::{FRAME_SIZE, File, Frame, Line};
use super::pages::Pages;
use super::plan::{Job, Plan, Shape};
use super::read::{Source, Stretch};
use super::volume::{FinishedPart, PartShape, VolumeWriter};
use crate::codec::FrameWriter;
use crate::crypt::Recipient;
use crate::error::{Error, Kind, Result};
use crate::observe::{Event, Observer};
use crate::pipeline::{self, Pace};
use crate::postgres::entry::Directory;

/// How many slices beyond those that are being compressed the disk is told of.
const READ_AHEAD: usize = 2;

/// How to pack.
#[derive(Clone, Debug)]
pub(super) struct Packer {
    /// The data directory.
    pub(super) root: PathBuf,
    /// zstd level.
    pub(super) level: i32,
    /// Threads and memory.
    pub(super) shape: Shape,
    /// The data key that parts are encrypted for, if they are.
    pub(super) to: Option<Recipient>,
    /// How fast to read.
    pub(super) pace: Option<Arc<Pace>>,
    /// What verifies the pages.
    pub(super) pages: Arc<Pages>,
    /// Where finished parts go.
    pub(super) parts: Sender<FinishedPart>,
    /// Where finished files are listed.
    pub(super) listing: Arc<Listing>,
    /// Set to end the work early.
    pub(super) stop: Arc<AtomicBool>,
    /// The number of the first volume; those before it are an interrupted run's.
    pub(super) first_volume: u32,
    /// Who is told of the progress.
    pub(super) observer: Arc<dyn Observer>,
}

impl Packer {
    /// Packs all that is planned and returns the volumes, which can still take more; at least one. The first one begins with
    /// the directories.
    ///
    /// # Errors
    /// The first worker's; the others stop at their next file or slice.
    pub(super) fn pack(&self, plan: &Plan, directories: &[Directory]) -> Result<Vec<VolumeWriter>> {
        let pool = pipeline::threads(self.shape.workers, "pack")?;
        let shared = Shared {
            packer: self,
            plan,
            directories,
            next_job: AtomicUsize::new(0),
            next_volume: AtomicU32::new(self.first_volume),
            busy: AtomicUsize::new(0),
        };
        let outcomes = pool.broadcast(|_| {
            shared.busy.fetch_add(1, Ordering::Relaxed);
            let outcome = shared.work();
            shared.busy.fetch_sub(1, Ordering::Relaxed);
            if outcome.is_err() {
                self.stop.store(true, Ordering::Relaxed);
            }
            outcome
        });
        let mut volumes = Vec::new();
        for outcome in outcomes {
            volumes.extend(outcome?);
        }
        if self.stop.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        if volumes.is_empty() {
            volumes.push(shared.begin_volume()?);
        }
        volumes.sort_by_key(VolumeWriter::number);
        Ok(volumes)
    }
}

struct Shared<'a> {
    packer: &'a Packer,
    plan: &'a Plan,
    directories: &'a [Directory],
    next_job: AtomicUsize,
    next_volume: AtomicU32,
    /// Workers that have jobs of their own.
    busy: AtomicUsize,
}

impl Shared<'_> {
    /// One worker: takes jobs until there are none. Its volume exists from its first job on.
    fn work(&self) -> Result<Option<VolumeWriter>> {
        let mut own = None;
        while let Some(job) = self.take() {
            let volume = match &mut own {
                Some(own) => own,
                none => none.insert(self.begin_volume()?),
            };
            match job {
                Job::Large(number) => self.add(*number, volume)?,
                Job::Small(numbers) => {
                    for number in &self.plan.small[numbers.clone()] {
                        self.add(*number, volume)?;
                    }
                }
            }
        }
        Ok(own)
    }

    fn take(&self) -> Option<&Job> {
        let stopped = self.packer.stop.load(Ordering::Relaxed);
        self.plan.jobs.get(self.next_job.fetch_add(1, Ordering::Relaxed)).filter(|_| !stopped)
    }

    fn begin_volume(&self) -> Result<VolumeWriter> {
        let number = self.next_volume.fetch_add(1, Ordering::Relaxed);
        let Packer { level, shape, to, parts, .. } = self.packer;
        let part = PartShape { size: shape.part_size, to: to.clone() };
        let mut volume = VolumeWriter::new(number, *level, part, parts.clone())?;
        if number == self.packer.first_volume {
            for directory in self.directories {
                volume.add_directory(directory)?;
                self.packer.listing.add(&Line::Dir(directory.clone()))?;
            }
        }
        Ok(volume)
    }

    /// Adds one file as it is now, if it is still there.
    fn add(&self, number: u32, volume: &mut VolumeWriter) -> Result<()> {
        let path = self.plan.files.path(number as usize);
        let Some(source) = Source::open(&self.packer.root, path)? else { return Ok(()) };
        let mut file = source.described.clone();
        if file.size < FRAME_SIZE as u64 {
            SCRATCH.with_borrow_mut(|scratch| {
                self.read(&source, source.expect(0, file.size as usize), &mut scratch.buffer)?;
                file.crc32c = crc32c::crc32c(&scratch.buffer);
                file.at = volume.add_small(&file, &scratch.buffer)?;
                Ok::<(), Error>(())
            })?;
        } else {
            file.at = volume.begin_large(&file)?;
            file.crc32c = self.add_slices(&source, volume)?;
            volume.end_large(&file)?;
        }
        match source.record(&file) {
            Some(record) => self.packer.listing.add_record(record),
            None => self.packer.listing.add(&Line::File(file)),
        }
    }

    /// Adds the content of a large file; returns its CRC.
    fn add_slices(&self, source: &Source, volume: &mut VolumeWriter) -> Result<u32> {
        let size = source.size();
        let mut offsets = (0..size).step_by(FRAME_SIZE);
        let mut waiting: VecDeque<Stretch> = VecDeque::new();
        let mut crc = 0;
        loop {
            let at_once = self.slices_at_once();
            let wanted = (at_once + READ_AHEAD).saturating_sub(waiting.len());
            let expected = offsets.by_ref().take(wanted);
            waiting
                .extend(expected.map(|offset| source.expect(offset, (size - offset).min(FRAME_SIZE as u64) as usize)));
            let batch: Vec<Stretch> = waiting.drain(..at_once.min(waiting.len())).collect();
            if batch.is_empty() {
                return Ok(crc);
            }
            if self.packer.stop.load(Ordering::Relaxed) {
                return Err(stopped());
            }
            let slices: Vec<Result<Slice>> =
                batch.par_iter().with_max_len(1).map(|&stretch| self.slice(source, stretch)).collect();
            for slice in slices {
                let slice = slice?;
                volume.add_frame(slice.frame, &slice.stored)?;
                crc = crc32c::crc32c_combine(crc, slice.crc32c, slice.frame.plain as usize);
            }
        }
    }

    /// How many slices of a file are compressed before they are appended to its volume: one, while every worker has files of
    /// its own; more when some have nothing else to do, but no more than two a worker altogether, for memory's sake.
    fn slices_at_once(&self) -> usize {
        let busy = self.busy.load(Ordering::Relaxed).max(1);
        1 + self.packer.shape.workers.saturating_sub(busy).div_ceil(busy)
    }

    fn slice(&self, source: &Source, stretch: Stretch) -> Result<Slice> {
        SCRATCH.with_borrow_mut(|scratch| {
            self.read(source, stretch, &mut scratch.buffer)?;
            slice(&mut scratch.writer, &scratch.buffer, self.packer.level)
        })
    }

    fn read(&self, source: &Source, stretch: Stretch, buffer: &mut Vec<u8>) -> Result<()> {
        if let Some(pace) = &self.packer.pace {
            pace.wait(stretch.length);
        }
        let held = source.read(stretch, buffer)?;
        self.packer.pages.check(source, stretch.offset, &mut buffer[..held])?;
        self.packer.observer.notice(Event::Advanced(stretch.length as u64));
        Ok(())
    }
}

/// A compressed slice of a large file.
pub(super) struct Slice {
    pub(super) frame: Frame,
    pub(super) stored: Vec<u8>,
    pub(super) crc32c: u32,
}

/// Compresses a slice that is at hand. For threads of a pool that lives for one backup, and keeps what they need.
pub(super) fn compress(plain: &[u8], level: i32) -> Result<Slice> {
    SCRATCH.with_borrow_mut(|scratch| slice(&mut scratch.writer, plain, level))
}

fn slice(writer: &mut Option<FrameWriter>, plain: &[u8], level: i32) -> Result<Slice> {
    let writer = match writer {
        Some(writer) => writer,
        none => none.insert(FrameWriter::new(level)?),
    };
    let (frame, stored) = writer.compress(plain)?;
    let stored = stored.to_vec();
    Ok(Slice { frame, stored, crc32c: crc32c::crc32c(plain) })
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

fn stopped() -> Error {
    Error::new(Kind::Unreachable, "the copying was stopped")
}

/// Adds a small file whose content is at hand.
pub(super) fn add_content(volume: &mut VolumeWriter, mut file: File, content: &[u8]) -> Result<File> {
    file.size = content.len() as u64;
    file.crc32c = crc32c::crc32c(content);
    file.at = volume.add_small(&file, content)?;
    Ok(file)
}
