//! Many WAL files of one directory on their way into the archive at once, within bounds.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Source;
use crate::archive::{Archive, Encoded, Stored};
use crate::error::{Error, Kind, Result};
use crate::layout::Key;
use crate::pipeline;
use crate::postgres::control::SystemId;
use crate::wal::segment::WalFile;
use crate::wal::spool::Mark;

/// Requests to the store at once.
const AT_ONCE: usize = 16;

/// Bytes of objects that are being made or are on their way to the store, together. With segments of 16 MiB that do not
/// compress at all this is one at a time, and the process stays below its promise (docs/limits.md).
const BYTES_AT_ONCE: u64 = 16 << 20;

/// Which files, in the order in which to begin with them.
pub(crate) struct Batch {
    pub(crate) directory: PathBuf,
    pub(crate) cluster: Option<SystemId>,
    /// The archive's address, for marks.
    pub(crate) address: String,
    pub(crate) files: Vec<WalFile>,
}

/// What became of one file.
pub(crate) struct Outcome {
    pub(crate) file: WalFile,
    /// How it got into the archive, with the mark that the file had before.
    pub(crate) stored: Result<(Stored, Mark)>,
}

/// Archives the files, and tells `each` what became of one after the other.
///
/// # Errors
/// The first one that `each` returns; the files that are on their way then are given up.
pub(crate) async fn all<F>(archive: &Archive, batch: Batch, each: F) -> Result<()>
where
    F: Fn(Outcome) -> Result<()> + Clone + Send + 'static,
{
    let (jobs, receiver) = mpsc::channel(1);
    let send = |job: Job| {
        let (archive, each) = (archive.clone(), each.clone());
        async move {
            let stored = match job.made {
                Ok(made) => archive.put_encoded(&made.key, made.encoded).await.map(|stored| (stored, made.mark)),
                Err(error) => Err(error),
            };
            each(Outcome { file: job.file, stored })
        }
    };
    let ((), sent) = tokio::join!(make_all(archive, batch, jobs), pipeline::run(receiver, AT_ONCE, send));
    sent.map(drop)
}

struct Job {
    file: WalFile,
    made: Result<Made>,
}

/// A file that is ready to be sent.
struct Made {
    key: Key,
    mark: Mark,
    encoded: Encoded,
    /// Its share of [`BYTES_AT_ONCE`].
    _bytes: OwnedSemaphorePermit,
}

/// Makes the objects, one after the other, until nobody takes them any more.
async fn make_all(archive: &Archive, batch: Batch, jobs: mpsc::Sender<Job>) {
    let bytes = Arc::new(Semaphore::new(BYTES_AT_ONCE as usize));
    // Nothing is known of the first one; the others are like the one before.
    let mut expected = BYTES_AT_ONCE;
    for &file in &batch.files {
        let made = make(archive, &batch, file, &bytes, expected).await;
        if let Ok(made) = &made {
            expected = made.encoded.size().saturating_mul(2);
        }
        if jobs.send(Job { file, made }).await.is_err() {
            break;
        }
    }
}

async fn make(archive: &Archive, batch: &Batch, file: WalFile, bytes: &Arc<Semaphore>, expected: u64) -> Result<Made> {
    let source = Source::open(&batch.directory.join(file.to_string()), batch.cluster)?;
    let mark = Mark::of(&source.metadata, &batch.address);
    let mut share = acquire(bytes, expected.min(source.size)).await?;
    let encoded = archive.encode(source.content, source.size, source.description).await?;
    let (taken, needed) = (share.num_permits(), encoded.size().min(BYTES_AT_ONCE) as usize);
    if needed > taken {
        share.merge(acquire(bytes, (needed - taken) as u64).await?);
    } else {
        drop(share.split(taken - needed));
    }
    Ok(Made { key: source.key, mark, encoded, _bytes: share })
}

async fn acquire(bytes: &Arc<Semaphore>, count: u64) -> Result<OwnedSemaphorePermit> {
    let share = bytes.clone().acquire_many_owned(count.min(BYTES_AT_ONCE) as u32).await;
    share.map_err(|error| Error::new(Kind::Bug, "a semaphore was closed").detail(error.to_string()))
}
