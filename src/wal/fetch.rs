//! `wal-fetch`: one WAL file out of the archive, checked, and under its name in one step (docs/architecture.md, walk B).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::archive::Archive;
use crate::durable::{self, Staged};
use crate::error::{Context, Error, Kind, Result};
use crate::layout::Key;
use crate::postgres::control::{ControlFile, SystemId};
use crate::postgres::datadir;
use crate::wal::header::{self, LONG_HEADER_SIZE, LongHeader};
use crate::wal::segment::WalFile;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which file.
    pub file: WalFile,
    /// Where it shall lie; PostgreSQL asks for `pg_wal/RECOVERYXLOG`, relative to the data directory.
    pub target: PathBuf,
    /// The data directory whose cluster it must belong to; if not given, the one above the target, if there is one.
    pub data_directory: Option<PathBuf>,
    /// Which cluster's file, where there is no data directory.
    pub system_id: Option<SystemId>,
}

/// Fetches a WAL file. When this returns `Ok`, the target is complete and is what its name says; before that nothing bears
/// the target's name.
///
/// # Errors
/// [`Kind::NotFound`] only if the store said that the object is absent from an archive that is there.
pub async fn fetch(archive: &Archive, request: &Request) -> Result<()> {
    let what = || format!("could not fetch \"{}\"", request.file);
    let control = control_file(request).during(what)?;
    let system_id = match control.map(|control| control.system_id).or(request.system_id) {
        Some(system_id) => system_id,
        None => archive.only_cluster().await.during(what)?,
    };
    let target = &request.target;
    let staged =
        Staged::beside(target).during(|| format!("could not create a file beside \"{}\"", target.display()))?;
    let key = Key::Wal(system_id, request.file);
    let (header, mut staged) = match archive.get_file(&key, staged).await {
        Err(error) if error.kind() == Kind::NotFound => {
            archive.prove(system_id).await.during(what)?;
            return Err(error.during(what()));
        }
        result => result.during(what)?,
    };
    if header.file.name != request.file.to_string() || header.file.system_id != system_id {
        return Err(Error::new(Kind::Corrupt, what()).detail(format!(
            "{} holds \"{}\" of system identifier {}",
            archive.url(&key),
            header.file.name,
            header.file.system_id
        )));
    }
    check(request.file, staged.file(), control.as_ref()).during(what)?;
    durable::sweep_stale(target.parent().unwrap_or(Path::new(".")));
    // Not synced: after a crash PostgreSQL asks for the file again, and it syncs what it keeps
    // (KeepFileRestoredFromArchive in src/backend/access/transam/xlogarchive.c).
    staged.rename().during(what)
}

fn control_file(request: &Request) -> Result<Option<ControlFile>> {
    let directory = request.data_directory.clone().or_else(|| datadir::data_directory_of(&request.target));
    directory.map(|directory| Ok(datadir::read_control(&directory)?.0)).transpose()
}

/// A segment must be the one that was asked for, of this cluster and of its segment size: PostgreSQL would take a foreign
/// one for the end of the WAL.
fn check(file: WalFile, content: &mut File, control: Option<&ControlFile>) -> Result<()> {
    let (WalFile::Segment(segment) | WalFile::Partial(segment)) = file else { return Ok(()) };
    let what = || format!("could not read back \"{file}\"");
    let size = content.metadata().during(what)?.len();
    let mut first = [0; LONG_HEADER_SIZE];
    content.seek(SeekFrom::Start(0)).and_then(|_| content.read_exact(&mut first)).during(what)?;
    let header = LongHeader::parse(&first)?;
    header.check(segment, size)?;
    let Some(control) = control else { return Ok(()) };
    header::check_system(segment, header.system_id, control.system_id)?;
    if header.segment_size != control.segment_size {
        return Err(Error::new(Kind::Refused, format!("WAL segment {segment} does not fit this cluster")).detail(
            format!(
                "it has {} bytes, the segments of this cluster have {}",
                header.segment_size.bytes(),
                control.segment_size.bytes()
            ),
        ));
    }
    Ok(())
}
