//! One WAL file out of the archive and into a staged file, checked: what `wal-fetch` does at once, and ahead. What is not in
//! our archive may be in an older one, which WAL-E or WAL-G wrote: a standby follows from one to the other.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use crate::archive::Archive;
use crate::durable::Staged;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::Key;
use crate::legacy::Legacy;
use crate::postgres::control::{ControlFile, SystemId};
use crate::wal::header::{self, LONG_HEADER_SIZE, LongHeader};
use crate::wal::segment::WalFile;

/// Where WAL files come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Our archive, which is asked first.
    pub archive: Archive,
    /// The one before it, which is asked for what is not in ours.
    pub legacy: Legacy,
}

/// Fetches a file of the cluster `system` into `staged`. If this returns `Ok`, the file is complete and is what its name
/// says; where there is a control file, a segment belongs to its cluster and has its size.
///
/// # Errors
/// [`Kind::NotFound`] only if both stores said so; [`Kind::Corrupt`] for an object that is damaged or not what its key says;
/// [`Kind::Refused`] for a segment of another cluster or size.
pub async fn receive(
    sources: &Sources,
    system: SystemId,
    file: WalFile,
    control: Option<&ControlFile>,
    mut staged: Staged,
) -> Result<Staged> {
    let Sources { archive, legacy } = sources;
    let key = Key::Wal(system, file);
    match archive.get_file(&key, &mut staged).await {
        Ok((header, _)) if header.file.name != file.to_string() || header.file.system_id != system => {
            return Err(Error::new(Kind::Corrupt, format!("{} is not what its key says", archive.url(&key)))
                .detail(format!("it holds \"{}\" of system identifier {}", header.file.name, header.file.system_id)));
        }
        Ok(_) => {}
        Err(absent) if absent.kind() == Kind::NotFound => match legacy.find(file).await? {
            Some(stored) => {
                staged = legacy.receive(file, &stored, system, control, staged).await.map_err(went_away)?;
                tracing::debug!("\"{file}\" comes from {}", legacy.store().url(&stored.key));
            }
            None => return Err(absent),
        },
        Err(error) => return Err(error),
    }
    check(file, staged.file(), control)?;
    Ok(staged)
}

/// What a listing has shown is not absent: it was deleted in the meantime, or the listing is of another moment.
fn went_away(error: Error) -> Error {
    match error.kind() {
        Kind::NotFound => {
            Error::new(Kind::Unreachable, "the file went away while it was read").detail(error.to_string())
        }
        _ => error,
    }
}

/// A segment must be the one that was asked for, of this cluster and of its segment size: PostgreSQL would take a foreign
/// one for the end of the WAL.
///
/// # Errors
/// [`Kind::Corrupt`] or [`Kind::Refused`] if it is not.
pub fn check(file: WalFile, content: &mut File, control: Option<&ControlFile>) -> Result<()> {
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
