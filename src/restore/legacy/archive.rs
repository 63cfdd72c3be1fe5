//! A tar archive as WAL-E and WAL-G write it, read to its end, so that a cut one is never taken for a whole one.
//!
//! Python's `tarfile` and Go's `archive/tar` end an archive with two empty blocks. What WAL-G makes of a backup that the
//! server has sent it ends without them, and even without what fills up the block of the last file.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use tar::Archive;

use crate::error::{Error, Kind, Result};
use crate::legacy::codec::{Codec, Decoded, carried, carrying, error_of};

const BLOCK: u64 = 512;

/// So much lies between two members at most: what fills up the last block of the first, and headers with long names. They
/// are read into memory.
const MOST_HEADERS: u64 = 1 << 20;

/// How far an archive is read, by the members that have been met: no header is longer than is sane.
#[derive(Clone, Debug)]
pub(super) struct Bound(Rc<Cell<u64>>);

impl Bound {
    /// The member that was met last ends there.
    pub(super) fn goes_on_from(&self, end: u64) {
        self.0.set(end.saturating_add(MOST_HEADERS));
    }

    /// All members have been met.
    pub(super) fn lift(&self) {
        self.0.set(u64::MAX);
    }
}

/// A source that goes on with zeros for a while behind its end, as an archive does that is ended in good order.
pub(super) struct Padded<'a> {
    source: &'a mut Decoded,
    position: u64,
    bound: Bound,
    /// Where the source ended, when it has.
    end: Rc<Cell<Option<u64>>>,
}

impl<'a> Padded<'a> {
    pub(super) fn new(source: &'a mut Decoded) -> Padded<'a> {
        Padded { source, position: 0, bound: Bound(Rc::new(Cell::new(MOST_HEADERS))), end: Rc::default() }
    }

    /// How far it is read.
    pub(super) fn bound(&self) -> Bound {
        self.bound.clone()
    }

    /// Where the source ended, when it has.
    pub(super) fn end(&self) -> Rc<Cell<Option<u64>>> {
        self.end.clone()
    }
}

impl Read for Padded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.end.get().is_none() {
            let room = self.bound.0.get().saturating_sub(self.position).min(buffer.len() as u64) as usize;
            if room == 0 && !buffer.is_empty() {
                return Err(carrying(not_whole("a header in it is too long")));
            }
            let count = self.source.read(&mut buffer[..room])?;
            self.position += count as u64;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.end.set(Some(self.position));
        }
        let Some(end) = self.end.get() else { return Ok(0) };
        let count = ((end.next_multiple_of(BLOCK) + 2 * BLOCK - self.position) as usize).min(buffer.len());
        buffer[..count].fill(0);
        self.position += count as u64;
        Ok(count)
    }
}

/// An error while an archive was read: one of ours from below, or what the archive is.
pub(super) fn error(error: io::Error) -> Error {
    match carried(&error) {
        Some(_) => error_of(error),
        None => not_whole(error.to_string()),
    }
}

fn not_whole(detail: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, "it is not a whole tar archive").detail(detail)
}

/// The archive ended in the middle of a member.
pub(super) fn cut(path: &str) -> Error {
    not_whole(format!("it ends within \"{path}\""))
}

/// Reads on to the very end, where the codec's own checks are, when all members have been read; the last one ended at
/// `members_end`. `is_listed`: is it known what ought to be in it?
///
/// # Errors
/// [`Kind::Corrupt`] if something follows, or if nothing says that this is the end.
pub(super) fn finish(archive: Archive<Padded<'_>>, members_end: u64, codec: Codec, is_listed: bool) -> Result<()> {
    let mut source = archive.into_inner();
    let mut buffer = vec![0; 64 << 10];
    while source.end.get().is_none() {
        let count = source.read(&mut buffer).map_err(error)?;
        if buffer[..count].iter().any(|byte| *byte != 0) {
            return Err(Error::new(Kind::Corrupt, "something follows the end of the tar archive"));
        }
    }
    let end = source.end.get().unwrap_or_default();
    let is_ended = end >= members_end.next_multiple_of(BLOCK) + BLOCK;
    match is_ended || is_listed || codec != Codec::Plain {
        true => Ok(()),
        false => Err(not_whole("its end is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn archive() -> (Vec<u8>, usize) {
        let mut builder = tar::Builder::new(Vec::new());
        let mut last = 0;
        for (name, size) in [("a", 700usize), ("b", 0), ("c", 512), ("d", 100)] {
            let mut header = tar::Header::new_ustar();
            header.set_size(size as u64);
            header.set_mode(0o600);
            builder.append_data(&mut header, name, &vec![7u8; size][..]).unwrap();
            last = builder.get_ref().len();
        }
        (builder.into_inner().unwrap(), last)
    }

    /// The names in an archive that is read as it is.
    fn read(bytes: &[u8], is_listed: bool) -> Result<Vec<String>> {
        let mut source = Codec::Plain.decode(Cursor::new(bytes.to_vec()), u64::MAX)?;
        let padded = Padded::new(&mut source);
        let (end, bound) = (padded.end(), padded.bound());
        let mut archive = Archive::new(padded);
        let (mut names, mut members_end) = (Vec::new(), 0);
        for entry in archive.entries().map_err(error)? {
            let mut entry = entry.map_err(error)?;
            let name = String::from_utf8(entry.path_bytes().to_vec()).unwrap();
            bound.goes_on_from(entry.raw_file_position() + entry.size());
            io::copy(&mut entry, &mut io::sink()).map_err(error)?;
            members_end = entry.raw_file_position() + entry.size();
            if end.get().is_some_and(|end| end < members_end) {
                return Err(cut(&name));
            }
            names.push(name);
        }
        bound.lift();
        finish(archive, members_end, Codec::Plain, is_listed).map(|()| names)
    }

    #[test]
    fn an_archive_is_whole_to_its_end_and_a_cut_is_noticed_wherever_it_is() {
        let (bytes, last) = archive();
        let data_end = last - 412;
        assert_eq!(read(&bytes, false).unwrap(), ["a", "b", "c", "d"]);
        for end in 1..bytes.len() {
            let outcome = read(&bytes[..end], false);
            match end >= last + BLOCK as usize {
                true => assert_eq!(outcome.unwrap().len(), 4, "{end}"),
                false => assert_eq!(outcome.unwrap_err().kind(), Kind::Corrupt, "{end}"),
            }
            // A list tells of members that are missing, and nothing that is in one may be.
            let listed = read(&bytes[..end], true);
            assert!(end < data_end || listed.unwrap().len() == 4, "{end}");
        }
        let more = [&bytes[..], b"x"].concat();
        assert_eq!(read(&more, true).unwrap_err().kind(), Kind::Corrupt);
    }

    /// It would be read into memory before anybody has looked at what it is of.
    #[test]
    fn a_header_that_is_too_long_is_corrupt() {
        let with_name = |length: usize| {
            let mut builder = tar::Builder::new(Vec::new());
            for (kind, content) in
                [(tar::EntryType::GNULongName, vec![b'a'; length]), (tar::EntryType::Regular, vec![7; 3])]
            {
                let mut header = tar::Header::new_gnu();
                header.set_size(content.len() as u64);
                header.set_entry_type(kind);
                builder.append_data(&mut header, "b", &content[..]).unwrap();
            }
            read(&builder.into_inner().unwrap(), true)
        };
        assert_eq!(with_name(4000).unwrap(), ["a".repeat(4000)]);
        let error = with_name(2 * MOST_HEADERS as usize).unwrap_err();
        assert_eq!((error.kind(), error.cause()), (Kind::Corrupt, Some("a header in it is too long")));
    }

    #[test]
    fn what_is_no_archive_is_corrupt() {
        assert_eq!(read(&[7; 2000], true).unwrap_err().kind(), Kind::Corrupt);
    }
}
