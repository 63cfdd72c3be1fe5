//! Fetches parts and writes what is in them, several at once.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::plan::{PartPlan, Plan, Target};
use crate::archive::Archive;
use crate::backup::manifest::Backup;
use crate::codec::FrameReader;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::Key;
use crate::observe::{Event, Observer};
use crate::pipeline;
use crate::storage::Download;

/// Parts that one worker has under way: while one waits for the store, another decompresses.
const PARTS_PER_WORKER: usize = 2;

/// Writes everything that is planned; the directories are there already.
pub(super) async fn copy(
    archive: &Archive,
    backup: &Backup,
    plan: Plan,
    workers: usize,
    observer: &Arc<dyn Observer>,
) -> Result<()> {
    for target in &plan.empty {
        open(target)?;
    }
    let (sender, receiver) = mpsc::channel(plan.parts.len().max(1));
    for part in plan.parts {
        // The channel has room for all of them.
        let _ = sender.try_send(part);
    }
    drop(sender);
    let (archive, system, id) = (archive.clone(), backup.system_id, backup.id);
    let observer = observer.clone();
    pipeline::run(receiver, workers * PARTS_PER_WORKER, move |part: PartPlan| {
        let (archive, observer) = (archive.clone(), observer.clone());
        let key = Key::Part(system, id, part.name);
        async move {
            let download = archive.store().get(&key.to_string(), None).await?;
            let url = archive.url(&key);
            let runtime = Handle::current();
            // Decompressing and writing block, so the whole part is worked on where blocking is fine.
            let work = move || {
                let source = Source { download, runtime, buffer: Vec::new() };
                write_part(&part, source, &*observer).during(|| format!("could not restore {url}"))
            };
            match tokio::task::spawn_blocking(work).await {
                Ok(result) => result,
                Err(lost) => Err(Error::new(Kind::Bug, "a restoring thread ended early").detail(lost.to_string())),
            }
        }
    })
    .await
    .map(drop)
}

/// The bytes of a part, frame by frame.
struct Source {
    download: Download,
    runtime: Handle,
    buffer: Vec<u8>,
}

impl Source {
    /// Makes the first `size` bytes of what has not been consumed available in the buffer.
    fn fill(&mut self, size: usize) -> Result<()> {
        while self.buffer.len() < size {
            match self.runtime.block_on(self.download.next())? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Err(Error::new(Kind::Corrupt, "the part is too short")),
            }
        }
        Ok(())
    }
}

fn write_part(part: &PartPlan, mut source: Source, observer: &dyn Observer) -> Result<()> {
    let expected: u64 = part.frames.iter().map(|(frame, _)| u64::from(frame.stored)).sum();
    if source.download.object_size != expected {
        return Err(Error::new(Kind::Corrupt, "the part has the wrong size")
            .detail(format!("it has {} bytes, not {expected}", source.download.object_size)));
    }
    let mut reader = FrameReader::new()?;
    // The files of a part come one after the other: one is open at a time.
    let mut current: Option<(usize, File)> = None;
    for (frame, writes) in &part.frames {
        let stored = frame.stored as usize;
        source.fill(stored)?;
        let plain = reader.decompress(frame, &source.buffer[..stored])?;
        for write in writes {
            let file = match &current {
                Some((index, file)) if *index == write.file => file,
                _ => &current.insert((write.file, open(&part.files[write.file])?)).1,
            };
            let bytes = &plain[write.frame_offset..write.frame_offset + write.length];
            file.write_all_at(bytes, write.file_offset)
                .during(|| format!("could not write \"{}\"", part.files[write.file].path.display()))?;
            observer.notice(Event::Advanced(bytes.len() as u64));
        }
        source.buffer.drain(..stored);
    }
    Ok(())
}

/// Opens a file that another part may have begun.
fn open(target: &Target) -> Result<File> {
    let what = || format!("could not create \"{}\"", target.path.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(target.mode)
        .open(&target.path)
        .during(what)?;
    // The umask may have taken rights away.
    file.set_permissions(fs::Permissions::from_mode(target.mode)).during(what)?;
    Ok(file)
}
