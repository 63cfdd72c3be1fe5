//! `wal-push`: one WAL file into the archive (docs/architecture.md, walk A), and then others that wait for their turn.
//!
//! PostgreSQL may remove the file as soon as this succeeds. `archive_status` belongs to PostgreSQL and is not touched.

mod ahead;
pub(crate) mod send;
mod underway;

use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

pub use self::underway::Underway;
use crate::archive::{Archive, Stored};
use crate::codec::Description;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::Key;
use crate::postgres::control::SystemId;
use crate::postgres::datadir;
use crate::wal::header::{self, LONG_HEADER_SIZE, LongHeader};
use crate::wal::segment::{SegmentSize, WalFile};
use crate::wal::spool::{Mark, Spool};

/// What is to be archived, and what may be done on that occasion.
#[derive(Clone, Debug)]
pub struct Request {
    /// The WAL file.
    pub path: PathBuf,
    /// Where `global/pg_control` lies; without it, the directory above the one that the file lies in is tried. Segments
    /// are checked against it and can do without; history files cannot.
    pub data_directory: Option<PathBuf>,
    /// The archive's address, by which notes in the spool know it.
    pub address: String,
    /// Where files that went ahead are noted.
    pub spool: Spool,
    /// How many other files that wait may be archived after the asked one.
    pub ahead: usize,
    /// How long the asked file may take, for each 16 MiB of it.
    pub timeout: Duration,
}

/// Has an earlier call archived this very file ahead of its turn? Asks the spool alone, not the store.
///
/// # Errors
/// [`Kind::Usage`] for a name that is not a WAL file's.
pub fn went_ahead(request: &Request) -> Result<bool> {
    let file = wal_file(&request.path)?;
    // A file that cannot be looked at is an error of the push proper.
    let metadata = std::fs::metadata(&request.path).ok();
    Ok(metadata.is_some_and(|metadata| request.spool.has_pushed(file, &Mark::of(&metadata, &request.address))))
}

/// Leaves word of what became of the file, for whoever looks at the server: why it failed, or that nothing fails. Only where
/// PostgreSQL marks its files, or a spool was chosen: not beside any file that somebody pushes by hand. Best effort.
pub fn leave_word(request: &Request, outcome: &Result<()>) {
    let Err(error) = outcome else { return request.spool.forget_failure() };
    let Ok(file) = wal_file(&request.path) else { return };
    if !ahead::has_status(&request.path) && request.spool.is_beside(&request.path) {
        return;
    }
    if let Err(error) = request.spool.note_failure(file, error, Timestamp::now()) {
        tracing::info!("the failure is not noted: {error}");
    }
}

/// Stores the WAL file. `Ok` means that it is durable in the archive, stored now or earlier with the same content. Other
/// files that wait follow, for a bounded time, and whatever becomes of them does not matter to the result.
///
/// # Errors
/// Those of [`asked`].
pub async fn push(archive: &Archive, request: &Request) -> Result<()> {
    let underway = Underway::default();
    asked(archive, request, &underway).await?;
    ahead(archive, request, &underway).await;
    Ok(())
}

/// Stores the WAL file, or waits for it if it is on its way ahead of its turn.
///
/// # Errors
/// [`Kind::Usage`] for a name that is not a WAL file's; [`Kind::Corrupt`] for a segment that is not what its name says;
/// [`Kind::Refused`] for one of another cluster; [`Kind::Conflict`] if the archive has other content under its name;
/// [`Kind::Unreachable`] if it took longer than the request allows.
pub async fn asked(archive: &Archive, request: &Request, underway: &Underway) -> Result<()> {
    let what = || format!("could not archive \"{}\"", request.path.display());
    let work = async {
        underway.end_of(wal_file(&request.path)?).await;
        if went_ahead(request)? {
            return Ok::<(), Error>(());
        }
        let source = Source::open(&request.path, cluster(request)?)?;
        // The connection comes up while the file is compressed.
        archive.store().prepare();
        let mark = Mark::of(&source.metadata, &request.address);
        let encoded = archive.encode(source.content, source.size, source.description).await?;
        let stored = archive.put_encoded(&source.key, encoded).await?;
        if stored == Stored::Already {
            note_compared(request, &mark);
        }
        tracing::info!(?stored, "archived \"{}\"", request.path.display());
        Ok(())
    };
    // Not dropped before the message is made: the store says what its request was doing.
    let mut work = std::pin::pin!(work);
    let longest = longest(request);
    match tokio::time::timeout(longest, &mut work).await {
        Ok(result) => result.during(what),
        Err(_) => Err(took_too_long(archive, longest).during(what())),
    }
}

/// Leaves word that this very file was compared with what the archive has: who calls next may not have the right to, if this
/// was a person who helped an archiver along that can only put.
fn note_compared(request: &Request, mark: &Mark) {
    let noted = wal_file(&request.path).and_then(|file| request.spool.note_pushed(file, mark));
    if let Err(error) = noted {
        tracing::info!("it is not noted: {error}");
    }
}

/// Archives other files that wait, for as long as a call may be held back. What does not get through waits for its own
/// call.
pub async fn ahead(archive: &Archive, request: &Request, underway: &Underway) {
    match cluster(request) {
        Ok(cluster) => ahead::push(archive, request, cluster, underway).await,
        Err(error) => tracing::info!("nothing is archived ahead: {error}"),
    }
}

/// The timeout is meant for segments of the usual size; larger ones get as much more.
fn longest(request: &Request) -> Duration {
    let size = std::fs::metadata(&request.path).map_or(0, |metadata| metadata.len());
    let segments = u32::try_from(size.div_ceil(SegmentSize::DEFAULT.bytes())).unwrap_or(u32::MAX);
    request.timeout.saturating_mul(segments.max(1))
}

fn took_too_long(archive: &Archive, timeout: Duration) -> Error {
    let store = archive.store().url("");
    let error =
        Error::new(Kind::Unreachable, format!("storing it in {store} took longer than {} s", timeout.as_secs()));
    let error = match archive.store().progress() {
        Some(progress) => error.detail(progress),
        None => error,
    };
    error.hint("PostgreSQL will try again. If the connection is slow, raise --push-timeout or WALDEN_PUSH_TIMEOUT.")
}

/// The cluster that the file belongs to, as its data directory says, if there is one.
fn cluster(request: &Request) -> Result<Option<SystemId>> {
    let directory = request.data_directory.clone().or_else(|| datadir::data_directory_of(&request.path));
    directory.map(|directory| Ok(datadir::read_control(&directory)?.0.system_id)).transpose()
}

fn wal_file(path: &Path) -> Result<WalFile> {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default().parse()
}

/// A WAL file that is what its name says, opened.
pub(crate) struct Source {
    pub(crate) content: File,
    pub(crate) size: u64,
    pub(crate) description: Description,
    pub(crate) key: Key,
    metadata: Metadata,
}

impl Source {
    /// Opens and checks a WAL file.
    pub(crate) fn open(path: &Path, cluster: Option<SystemId>) -> Result<Source> {
        let file = wal_file(path)?;
        let what = || format!("could not read \"{}\"", path.display());
        let mut content = File::open(path).during(what)?;
        let metadata = content.metadata().during(what)?;
        let size = metadata.len();
        let description = describe(file, &mut content, size, cluster)?;
        let key = Key::Wal(description.system_id, file);
        Ok(Source { content, size, description, key, metadata })
    }
}

/// What the file is; checks a segment against its name, its size and the cluster. Leaves `source` at its beginning.
fn describe(file: WalFile, source: &mut File, size: u64, cluster: Option<SystemId>) -> Result<Description> {
    let name = file.to_string();
    match file {
        WalFile::Segment(segment) | WalFile::Partial(segment) => {
            let mut first = [0; LONG_HEADER_SIZE];
            let read = read_up_to(source, &mut first).during(|| format!("could not read \"{name}\""))?;
            let header = LongHeader::parse(&first[..read])?;
            header.check(segment, size)?;
            if let Some(cluster) = cluster {
                header::check_system(segment, header.system_id, cluster)?;
            }
            source.seek(SeekFrom::Start(0)).during(|| format!("could not read \"{name}\""))?;
            Ok(Description {
                name,
                system_id: header.system_id,
                timeline: Some(header.timeline),
                segment_size: Some(size),
                postgres: header.version(),
            })
        }
        WalFile::BackupHistory(..) | WalFile::History(_) => match cluster {
            Some(system_id) => Ok(Description { name, system_id, timeline: None, segment_size: None, postgres: None }),
            None => Err(Error::new(Kind::Usage, format!("\"{name}\" does not tell which cluster it belongs to")).hint(
                "Run the command in the data directory, as PostgreSQL does, or name it with --pgdata or PGDATA.",
            )),
        },
    }
}

/// Reads until the buffer is full or the file ends.
fn read_up_to(source: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match source.read(&mut buffer[read..])? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}
