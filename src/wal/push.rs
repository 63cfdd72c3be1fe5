//! `wal-push`: one WAL file into the archive (docs/architecture.md, walk A).
//!
//! PostgreSQL may remove the file as soon as this succeeds. `archive_status` belongs to PostgreSQL and is not touched.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::archive::{Archive, Stored};
use crate::codec::Description;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::Key;
use crate::postgres::control::SystemId;
use crate::postgres::datadir;
use crate::wal::header::{self, LONG_HEADER_SIZE, LongHeader};
use crate::wal::segment::WalFile;

/// Stores the WAL file at `path`. `Ok` means that it is durable in the archive, stored now or earlier with the same
/// content.
///
/// `data_directory` is where `global/pg_control` lies; without it, the directory above the one that the file lies in is
/// tried. Segments are checked against it and can do without; history files cannot.
///
/// # Errors
/// [`Kind::Usage`] for a name that is not a WAL file's; [`Kind::Corrupt`] for a segment that is not what its name says;
/// [`Kind::Refused`] for one of another cluster; [`Kind::Conflict`] if the archive has other content under its name.
pub async fn push(archive: &Archive, path: &Path, data_directory: Option<&Path>) -> Result<Stored> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let file: WalFile = name.parse()?;
    let what = || format!("could not archive \"{}\"", path.display());
    let mut source = File::open(path).during(what)?;
    let size = source.metadata().during(what)?.len();
    let found = match data_directory.map(Path::to_path_buf).or_else(|| datadir::data_directory_of(path)) {
        Some(directory) => Some(datadir::read_control(&directory).during(what)?.0.system_id),
        None => None,
    };
    let description = describe(file, &mut source, size, found).during(what)?;
    let key = Key::Wal(description.system_id, file);
    archive.put_file(&key, source, size, description).await.during(what)
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
            Ok(Description { name, system_id: header.system_id, segment_size: Some(size), postgres: header.version() })
        }
        WalFile::BackupHistory(..) | WalFile::History(_) => match cluster {
            Some(system_id) => Ok(Description { name, system_id, segment_size: None, postgres: None }),
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
