//! The look-ahead: when PostgreSQL's call has been answered, files that wait for later calls go into the archive too, many
//! at once, and are noted in the spool. PostgreSQL calls for one file after the other; each noted one then costs a look at
//! the note.
//!
//! Nothing here can fail a call: what does not get through waits for its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{Request, Source, wal_file};
use crate::archive::{Archive, Encoded};
use crate::error::{Error, Kind, Recovery, Result};
use crate::layout::Key;
use crate::pipeline;
use crate::postgres::control::SystemId;
use crate::postgres::datadir;
use crate::wal::segment::WalFile;
use crate::wal::spool::Mark;

/// How long the look-ahead may hold back the call that it belongs to.
const LONGEST: Duration = Duration::from_secs(5);

/// Requests to the store at once.
const AT_ONCE: usize = 16;

/// Bytes of objects on their way to the store, together; one more is being made meanwhile. With segments of 16 MiB that do
/// not compress at all this is one at a time, and the process stays below its promise (docs/limits.md).
const BYTES_AT_ONCE: usize = 16 << 20;

const STATUS: &str = "archive_status";
const READY: &str = ".ready";

/// Archives what waits, for as long as it may.
pub(super) async fn push(archive: &Archive, request: &Request, cluster: Option<SystemId>) {
    let (Some(directory), Ok(asked)) = (request.path.parent(), wal_file(&request.path)) else { return };
    // A process that fetched ahead, and was killed, may have left something for a recovery that is over.
    if datadir::data_directory_of(&request.path).is_some_and(|data| datadir::recovery_mode(&data) == Recovery::None) {
        request.spool.remove_fetched();
    }
    let waiting = waiting(&directory.join(STATUS));
    request.spool.sweep_pushed(|name| waiting.iter().any(|file| file.to_string() == name));
    let (histories, others): (Vec<_>, Vec<_>) = plan(waiting, asked, request.ahead).into_iter().partition(is_history);
    let work = async {
        // Whoever finds a segment of a new timeline finds its history too.
        let first = push_all(archive, request, cluster, histories).await?;
        Ok::<usize, Error>(first + push_all(archive, request, cluster, others).await?)
    };
    match tokio::time::timeout(LONGEST, work).await {
        Ok(Ok(0)) => {}
        Ok(Ok(count)) => tracing::info!(count, "archived files ahead of their turn"),
        Ok(Err(error)) => tracing::info!("stopped archiving ahead: {error}"),
        Err(_) => tracing::info!("stopped archiving ahead after {} s", LONGEST.as_secs()),
    }
}

/// The files that PostgreSQL has marked as ready; none if this is no directory of a server.
fn waiting(status: &Path) -> Vec<WalFile> {
    let Ok(entries) = std::fs::read_dir(status) else { return Vec::new() };
    entries.flatten().filter_map(|entry| WalFile::parse(entry.file_name().to_str()?.strip_suffix(READY)?)).collect()
}

/// Which of them to archive, in PostgreSQL's own order: histories first, then by name (`ready_file_comparator` in
/// src/backend/postmaster/pgarch.c).
fn plan(mut waiting: Vec<WalFile>, asked: WalFile, at_most: usize) -> Vec<WalFile> {
    waiting.retain(|file| *file != asked);
    waiting.sort_by_cached_key(|file| (!is_history(file), file.to_string()));
    waiting.truncate(at_most);
    waiting
}

fn is_history(file: &WalFile) -> bool {
    matches!(file, WalFile::History(_))
}

/// A file that is ready to be sent.
struct Job {
    file: WalFile,
    mark: Mark,
    key: Key,
    encoded: Encoded,
    /// Its share of [`BYTES_AT_ONCE`].
    _bytes: OwnedSemaphorePermit,
}

async fn push_all(
    archive: &Archive,
    request: &Request,
    cluster: Option<SystemId>,
    files: Vec<WalFile>,
) -> Result<usize> {
    let (jobs, receiver) = mpsc::channel(1);
    let maker = make(archive.clone(), request.clone(), cluster, files, jobs);
    let send = |job: Job| {
        let (archive, spool) = (archive.clone(), request.spool.clone());
        async move {
            archive.put_encoded(&job.key, job.encoded).await?;
            spool.note_pushed(job.file, &job.mark)
        }
    };
    let (made, sent) = tokio::join!(maker, pipeline::run(receiver, AT_ONCE, send));
    // What was made could be sent, so the error of the maker is the first one.
    let sent = sent?.len();
    made.map(|()| sent)
}

/// Makes the objects, one after the other, until somebody no longer takes them.
async fn make(
    archive: Archive,
    request: Request,
    cluster: Option<SystemId>,
    files: Vec<WalFile>,
    jobs: mpsc::Sender<Job>,
) -> Result<()> {
    let bytes = Arc::new(Semaphore::new(BYTES_AT_ONCE));
    for file in files {
        let source = Source::open(&request.path.with_file_name(file.to_string()), cluster)?;
        let mark = Mark::of(&source.metadata, &request.address);
        if request.spool.has_pushed(file, &mark) {
            continue;
        }
        let encoded = archive.encode(source.content, source.size, source.description).await?;
        let share = encoded.size().min(BYTES_AT_ONCE as u64) as u32;
        let share = bytes.clone().acquire_many_owned(share).await;
        let _bytes =
            share.map_err(|error| Error::new(Kind::Bug, "a semaphore was closed").detail(error.to_string()))?;
        if jobs.send(Job { file, mark, key: source.key, encoded, _bytes }).await.is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::segment::tests::any_wal_file;
    use proptest::prelude::*;

    fn files(names: &[&str]) -> Vec<WalFile> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn histories_come_first_and_the_others_by_name() {
        let names = [
            "000000010000000000000003",
            "000000010000000000000002.partial",
            "000000010000000000000002.00000028.backup",
            "00000002.history",
            "000000010000000000000002",
            "000000020000000000000002",
        ];
        let planned = plan(files(&names), names[4].parse().unwrap(), 9);
        let expected = [names[3], names[2], names[1], names[0], names[5]];
        assert_eq!(planned, files(&expected));
        assert_eq!(plan(files(&names), names[4].parse().unwrap(), 2), files(&expected[..2]));
    }

    proptest! {
        #[test]
        fn a_plan_has_no_more_than_allowed_and_never_the_asked_file(waiting in prop::collection::vec(any_wal_file(), 0..20), at_most in 0usize..20) {
            let asked = waiting.first().copied().unwrap_or("00000002.history".parse().unwrap());
            let planned = plan(waiting.clone(), asked, at_most);
            prop_assert!(planned.len() <= at_most && !planned.contains(&asked));
            prop_assert!(planned.iter().all(|file| waiting.contains(file)));
        }
    }
}
