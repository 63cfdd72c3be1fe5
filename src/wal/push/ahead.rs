//! The look-ahead: when PostgreSQL's call has been answered, files that wait for later calls go into the archive too, many
//! at once, and are noted in the spool. PostgreSQL calls for one file after the other; each noted one then costs a look at
//! the note.
//!
//! Nothing here can fail a call: what does not get through waits for its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::send::{self, Batch, Outcome};
use super::{Request, Underway, wal_file};
use crate::archive::Archive;
use crate::error::{Error, Recovery, Result};
use crate::postgres::control::SystemId;
use crate::postgres::datadir;
use crate::wal::segment::WalFile;
use crate::wal::spool::Mark;

/// How long the look-ahead may hold back the call that it belongs to.
const LONGEST: Duration = Duration::from_secs(5);

const STATUS: &str = "archive_status";
const READY: &str = ".ready";

/// Archives what waits, for as long as it may.
pub(super) async fn push(archive: &Archive, request: &Request, cluster: Option<SystemId>, underway: &Underway) {
    let Ok(asked) = wal_file(&request.path) else { return };
    let directory = directory(request);
    // A process that fetched ahead, and was killed, may have left something for a recovery that is over.
    if datadir::data_directory_of(&request.path).is_some_and(|data| datadir::recovery_mode(&data) == Recovery::None) {
        request.spool.remove_fetched();
    }
    let waiting = waiting(&directory.join(STATUS));
    request.spool.sweep_pushed(|name| waiting.iter().any(|file| file.to_string() == name));
    let mut files = plan(waiting, asked, request.ahead);
    files.retain(|file| {
        let metadata = std::fs::metadata(directory.join(file.to_string()));
        !metadata.is_ok_and(|metadata| request.spool.has_pushed(*file, &Mark::of(&metadata, &request.address)))
    });
    if files.is_empty() {
        return;
    }
    if let Err(error) = request.spool.prepare_notes() {
        tracing::warn!("other files wait, and none is archived ahead: {error}");
        return;
    }
    let _underway = underway.begin(&files);
    let (histories, others): (Vec<_>, Vec<_>) = files.into_iter().partition(is_history);
    let work = async {
        // Whoever finds a segment of a new timeline finds its history too.
        let first = push_all(archive, request, cluster, histories, underway).await?;
        Ok::<usize, Error>(first + push_all(archive, request, cluster, others, underway).await?)
    };
    match tokio::time::timeout(LONGEST, work).await {
        Ok(Ok(count)) => tracing::info!(count, "archived files ahead of their turn"),
        Ok(Err(error)) => tracing::info!("stopped archiving ahead: {error}"),
        Err(_) => tracing::info!("stopped archiving ahead after {} s", LONGEST.as_secs()),
    }
}

/// Is this a directory in which PostgreSQL marks what is ready?
pub(super) fn has_status(path: &Path) -> bool {
    path.parent().is_some_and(|directory| directory.join(STATUS).is_dir())
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

async fn push_all(
    archive: &Archive,
    request: &Request,
    cluster: Option<SystemId>,
    files: Vec<WalFile>,
    underway: &Underway,
) -> Result<usize> {
    let count = files.len();
    let batch = Batch { directory: directory(request), cluster, address: request.address.clone(), files };
    let (spool, underway) = (request.spool.clone(), underway.clone());
    let note = move |outcome: Outcome| {
        let noted = outcome.stored.and_then(|(_, mark)| spool.note_pushed(outcome.file, &mark));
        underway.end(outcome.file);
        noted
    };
    send::all(archive, batch, note).await?;
    Ok(count)
}

fn directory(request: &Request) -> PathBuf {
    request.path.parent().unwrap_or(Path::new("")).to_path_buf()
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
