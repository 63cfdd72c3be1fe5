//! Fetches parts and writes what is in them, several at once.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::plan::{Fate, PartPlan, Plan, Target, Write};
use crate::archive::Archive;
use crate::archive::part::{PartReader, StoredPart};
use crate::backup::manifest::Backup;
use crate::codec::FrameReader;
use crate::durable::WRITTEN_AT_ONCE;
use crate::error::{Context, Result};
use crate::observe::{Event, Observer};
use crate::pipeline;

/// Parts that one worker has under way: while one waits for the store, another decompresses.
const PARTS_PER_WORKER: usize = 2;

/// So many stored bytes that nobody needs are rather fetched than asked around.
const WORTH_A_REQUEST: u64 = 1 << 20;

/// So many bytes are worth telling the file system of. See docs/decisions/restore-writes.md.
const WORTH_A_HINT: u64 = 64 << 10;

/// Writes everything that is planned; the directories are there already.
pub(super) async fn copy(
    archive: &Archive,
    backup: &Backup,
    plan: &Arc<Plan>,
    workers: usize,
    observer: &Arc<dyn Observer>,
) -> Result<()> {
    for target in plan.unfetched() {
        let file = open(&target)?;
        if plan.fate(target.number) == Fate::Copied {
            date(&file, &target, plan)?;
        }
    }
    let parts = plan.files().parts().len();
    let (sender, receiver) = mpsc::channel(parts.max(1));
    for number in 0..parts {
        // The channel has room for all of them.
        let _ = sender.try_send(number);
    }
    drop(sender);
    let copying = Arc::new(Copying {
        archive: archive.clone(),
        backup: backup.clone(),
        plan: plan.clone(),
        left: (0..plan.files().len()).map(|number| AtomicU64::new(plan.files().size(number))).collect(),
        observer: observer.clone(),
    });
    pipeline::run(receiver, workers * PARTS_PER_WORKER, move |number| {
        let copying = copying.clone();
        async move { copying.part(number).await }
    })
    .await
    .map(drop)
}

struct Copying {
    archive: Archive,
    backup: Backup,
    plan: Arc<Plan>,
    /// Of each file, how many bytes have not been written yet.
    left: Vec<AtomicU64>,
    observer: Arc<dyn Observer>,
}

impl Copying {
    /// Writes what is wanted of a part.
    async fn part(self: &Arc<Copying>, number: usize) -> Result<()> {
        let part = Arc::new(self.plan.part(number));
        let there = StoredPart::of(self.backup.system_id, self.backup.id, &self.plan.files().parts()[number]);
        for stretch in stretches(&part) {
            let reader = self.archive.open_part(&there, stretch.bytes.clone()).await?;
            let url = self.archive.url(there.key());
            // Decrypting, decompressing and writing block, so all of it is done where blocking is fine.
            let (copying, part, runtime) = (self.clone(), part.clone(), Handle::current());
            let work = move || {
                let source = Source { reader, runtime, buffer: Vec::new() };
                copying.write_stretch(&part, &stretch, source).during(|| format!("could not restore {url}"))
            };
            pipeline::blocking(work).await?;
        }
        Ok(())
    }
}

/// Frames of a part that are fetched with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    frames: Range<usize>,
    writes: Range<usize>,
    /// Where they lie among the bytes of all frames.
    bytes: Range<u64>,
}

/// What to fetch of a part: the frames that something is written from, and those between them that are not worth a request
/// of their own. At its two ends too: there are tar headers that belong to no file.
fn stretches(part: &PartPlan) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let (mut offset, mut write) = (0, 0);
    for (number, frame) in part.frames.iter().enumerate() {
        let end = offset + u64::from(frame.stored);
        let first = write;
        while part.writes.get(write).is_some_and(|write| write.frame as usize == number) {
            write += 1;
        }
        if write > first {
            let near = |stretch: &&mut Stretch| offset - stretch.bytes.end <= WORTH_A_REQUEST;
            match stretches.last_mut().filter(near) {
                Some(last) => {
                    (last.frames.end, last.writes.end, last.bytes.end) = (number + 1, write, end);
                }
                None => {
                    stretches.push(Stretch { frames: number..number + 1, writes: first..write, bytes: offset..end })
                }
            }
        }
        offset = end;
    }
    stretches
}

/// The bytes of a stretch, frame by frame.
struct Source {
    reader: PartReader,
    runtime: Handle,
    buffer: Vec<u8>,
}

impl Source {
    /// Makes the first `size` bytes of what has not been consumed available in the buffer.
    fn fill(&mut self, size: usize) -> Result<()> {
        self.runtime.block_on(self.reader.fill(&mut self.buffer, size))
    }
}

impl Copying {
    fn write_stretch(&self, part: &PartPlan, stretch: &Stretch, mut source: Source) -> Result<()> {
        let mut reader = FrameReader::new()?;
        let mut writes = part.writes[stretch.writes.clone()].iter().peekable();
        // The files of a part come one after the other: one is open at a time.
        let mut current: Option<(Target, File)> = None;
        for number in stretch.frames.clone() {
            let frame = &part.frames[number];
            let stored = frame.stored as usize;
            source.fill(stored)?;
            let here = |write: &&Write| write.frame as usize == number;
            if writes.peek().is_some_and(here) {
                let plain = reader.decompress(frame, &source.buffer[..stored])?;
                while let Some(write) = writes.next_if(here) {
                    let (target, file) = match &current {
                        Some(current) if current.0.number == write.file as usize => current,
                        _ => {
                            let target = self.plan.target(write.file as usize);
                            let file = open(&target)?;
                            &*current.insert((target, file))
                        }
                    };
                    write_at(file, target, write, plain)?;
                    self.written(file, target, u64::from(write.length))?;
                }
            }
            source.buffer.drain(..stored);
        }
        Ok(())
    }

    /// So many more bytes of a file are there. The last ones give it the time that it has in the backup: by that it is known
    /// as complete if the restore is interrupted and begun again over what is there.
    fn written(&self, file: &File, target: &Target, bytes: u64) -> Result<()> {
        self.observer.notice(Event::Advanced(bytes));
        match self.left[target.number].fetch_sub(bytes, Ordering::AcqRel) == bytes {
            true => date(file, target, &self.plan),
            false => Ok(()),
        }
    }
}

/// Gives a file that is complete the time that it has in the backup.
fn date(file: &File, target: &Target, plan: &Plan) -> Result<()> {
    let nanoseconds = plan.files().modified(target.number);
    let since = Duration::from_nanos(nanoseconds.unsigned_abs());
    let time = if nanoseconds < 0 { SystemTime::UNIX_EPOCH - since } else { SystemTime::UNIX_EPOCH + since };
    file.set_modified(time).during(|| format!("could not set the time of \"{}\"", target.path.display()))
}

/// Writes, unless these are zeros: a new file is all zeros.
fn write_at(file: &File, target: &Target, write: &Write, plain: &[u8]) -> Result<()> {
    let (from, length) = (write.frame_offset as usize, write.length as usize);
    let bytes = &plain[from..from + length];
    if is_zero(bytes) {
        return Ok(());
    }
    let many = NonZeroU64::new(bytes.len() as u64).filter(|length| length.get() >= WORTH_A_HINT);
    if let Some(length) = many {
        // Space that is asked for at once lies together. File systems that cannot do so find it when they write.
        let _ = fallocate(file, FallocateFlags::KEEP_SIZE, write.file_offset, length.get());
    }
    for (piece, offset) in bytes.chunks(WRITTEN_AT_ONCE).zip((write.file_offset..).step_by(WRITTEN_AT_ONCE)) {
        file.write_all_at(piece, offset).during(|| format!("could not write \"{}\"", target.path.display()))?;
    }
    if many.is_some() {
        // Linux begins to write these bytes to the disk, so that little is left for the sync at the end.
        let _ = fadvise(file, write.file_offset, many, Advice::DontNeed);
    }
    Ok(())
}

/// Is there nothing but zeros?
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|piece| piece == &ZEROS[..piece.len()])
}

/// Opens a file that another part may have begun; it has its size from the beginning.
fn open(target: &Target) -> Result<File> {
    let what = || format!("could not create \"{}\"", target.path.display());
    match OpenOptions::new().write(true).create_new(true).mode(target.mode).open(&target.path) {
        Ok(file) => {
            // The umask may have taken rights away.
            file.set_permissions(fs::Permissions::from_mode(target.mode)).during(what)?;
            file.set_len(target.size).during(what)?;
            Ok(file)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            OpenOptions::new().write(true).open(&target.path).during(what)
        }
        Err(error) => Err(error).during(what),
    }
}
