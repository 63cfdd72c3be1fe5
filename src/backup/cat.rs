//! `backup-cat`: one file out of a base backup, without restoring anything.

use std::io::Write;
use std::ops::Range;

use super::catalogue;
use super::manifest::{Backup, Extent, File, Files, Part};
use crate::archive::Archive;
use crate::archive::part::StoredPart;
use crate::codec::FrameReader;
use crate::error::{Context, Error, Kind, Result};

/// Writes the content of the file at `path`, relative to the data directory, to `sink`. Fetches only the frames that hold
/// it. What was written counts only if this returns `Ok`.
///
/// # Errors
/// [`Kind::NotFound`] if the backup has no such file; [`Kind::Corrupt`] if it is damaged.
pub async fn cat(archive: &Archive, backup: &Backup, path: &str, sink: &mut impl Write) -> Result<()> {
    let files = catalogue::files(archive, backup).await?;
    let file = find(&files, path).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("backup {} has no file \"{path}\"", backup.id))
            .hint(format!("walden backup-show {} --files prints what it has.", backup.id))
    })?;
    let mut copying = Copying { archive, backup, sink, reader: FrameReader::new()?, crc32c: 0 };
    for extent in &file.at {
        copying.extent(&files, *extent).await?;
    }
    if copying.crc32c != file.crc32c {
        return Err(Error::new(Kind::Corrupt, format!("\"{path}\" is damaged in backup {}", backup.id))
            .detail(format!("its CRC-32C is {:08X}, not {:08X}", copying.crc32c, file.crc32c)));
    }
    Ok(())
}

fn find(files: &Files, path: &str) -> Option<File> {
    (0..files.len()).find(|&number| files.path(number) == path).map(|number| files.file(number))
}

struct Copying<'a, W> {
    archive: &'a Archive,
    backup: &'a Backup,
    sink: &'a mut W,
    reader: FrameReader,
    crc32c: u32,
}

impl<W: Write> Copying<'_, W> {
    /// Writes the bytes of an extent.
    async fn extent(&mut self, files: &Files, extent: Extent) -> Result<()> {
        let mut start = 0;
        for part in files.parts().iter().filter(|part| part.volume == extent.volume) {
            let end = start + part.plain_size();
            let (from, to) = (extent.offset.max(start), (extent.offset + extent.length).min(end));
            if from < to {
                self.part(part, from - start..to - start).await?;
            }
            start = end;
        }
        Ok(())
    }

    /// Writes a range of a part's plain bytes, which is not empty.
    async fn part(&mut self, part: &Part, wanted: Range<u64>) -> Result<()> {
        let there = StoredPart::of(self.backup.system_id, self.backup.id, part);
        let what = || format!("could not read {}", self.archive.url(there.key()));
        let (mut plain, mut stored) = (0, 0);
        let mut frames = Vec::new();
        for frame in &part.frames {
            let (plain_end, stored_end) = (plain + u64::from(frame.plain), stored + u64::from(frame.stored));
            if plain < wanted.end && plain_end > wanted.start {
                frames.push((*frame, plain, stored));
            }
            (plain, stored) = (plain_end, stored_end);
        }
        let (Some((_, _, first)), Some((last, _, last_at))) = (frames.first(), frames.last()) else { return Ok(()) };
        let range = *first..last_at + u64::from(last.stored);
        let mut reader = self.archive.open_part(&there, range).await?;
        let mut buffer = Vec::new();
        for (frame, plain_at, _) in frames {
            let stored = frame.stored as usize;
            reader.fill(&mut buffer, stored).await.during(what)?;
            let plain = self.reader.decompress(&frame, &buffer[..stored]).during(what)?;
            let from = wanted.start.saturating_sub(plain_at) as usize;
            let to = plain.len().min((wanted.end - plain_at) as usize);
            self.sink.write_all(&plain[from..to]).during(|| "could not write to standard output")?;
            self.crc32c = crc32c::crc32c_append(self.crc32c, &plain[from..to]);
            buffer.drain(..stored);
        }
        Ok(())
    }
}
