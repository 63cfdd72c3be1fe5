//! The tar archives of a backup that the server sends, taken apart as their bytes come. Pure.
//!
//! PostgreSQL writes plain ustar headers, without long names and without sparse files (`tarCreateHeader` in
//! src/port/tar.c). 13 and 14 leave out the two empty blocks at the end.

use bytes::{Buf, Bytes};
use jiff::Timestamp;

use crate::error::{Error, Kind, Result};

const BLOCK: usize = 512;

/// What an archive holds, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A directory.
    Directory { path: String, mode: u32 },
    /// A symbolic link.
    Link { path: String },
    /// A file begins; `size` bytes of it follow.
    File { path: String, size: u64, mode: u32, modified: Timestamp },
    /// Bytes of the file.
    Data(Bytes),
}

/// An archive that is being read.
#[derive(Debug, Default)]
pub(super) struct Untar {
    input: Bytes,
    header: Vec<u8>,
    /// Bytes of the current file that are still to come.
    left: u64,
    /// Bytes of filling that are still to come.
    padding: u64,
    ended: bool,
}

impl Untar {
    /// Takes more bytes. Those before must have been used up: [`Untar::next`] has returned `None`.
    pub(super) fn push(&mut self, bytes: Bytes) {
        debug_assert!(self.input.is_empty());
        self.input = bytes;
    }

    /// What comes next; `None` if that takes more bytes.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if this is no archive as PostgreSQL writes it.
    pub(super) fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if self.input.is_empty() {
                return Ok(None);
            }
            if self.ended {
                self.input.clear();
            } else if self.left > 0 {
                let now = self.left.min(self.input.len() as u64);
                self.left -= now;
                return Ok(Some(Event::Data(self.input.split_to(now as usize))));
            } else if self.padding > 0 {
                let now = self.padding.min(self.input.len() as u64);
                self.padding -= now;
                self.input.advance(now as usize);
            } else if let Some(event) = self.header()? {
                return Ok(Some(event));
            }
        }
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// [`Kind::Incomplete`] if it ends within a file or a header.
    pub(super) fn end(self) -> Result<()> {
        let whole = self.left == 0 && self.padding == 0 && self.header.is_empty() && self.input.is_empty();
        match whole {
            true => Ok(()),
            false => Err(Error::new(Kind::Incomplete, "an archive of the backup ended too early")
                .detail(format!("{} bytes of a file are missing", self.left))
                .hint("Run walden backup-push again.")),
        }
    }

    fn header(&mut self) -> Result<Option<Event>> {
        let now = (BLOCK - self.header.len()).min(self.input.len());
        self.header.extend_from_slice(&self.input.split_to(now));
        if self.header.len() < BLOCK {
            return Ok(None);
        }
        let block = std::mem::take(&mut self.header);
        if block.iter().all(|&byte| byte == 0) {
            self.ended = true;
            return Ok(None);
        }
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        let event = read(&header).map_err(|error| wrong(error.to_string()))?;
        if let Event::File { size, .. } = &event {
            self.left = *size;
            self.padding = size.next_multiple_of(BLOCK as u64) - size;
        }
        Ok(Some(event))
    }
}

fn read(header: &tar::Header) -> std::io::Result<Event> {
    // The sum of all bytes, where the field that holds it counts as blanks (POSIX.1-2017, pax, "ustar Interchange Format").
    let sum: u32 = header
        .as_bytes()
        .iter()
        .enumerate()
        .map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u32::from(byte) })
        .sum();
    if header.cksum()? != sum {
        return Err(std::io::Error::other("the checksum of a header is wrong"));
    }
    let path = String::from_utf8(header.path_bytes().into_owned())
        .map_err(|_| std::io::Error::other("a name is not UTF-8"))?;
    let path = path.trim_start_matches("./").trim_end_matches('/').to_owned();
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(std::io::Error::other(format!("\"{path}\" is not a name in a data directory")));
    }
    let mode = header.mode()? & 0o7777;
    Ok(match header.entry_type() {
        tar::EntryType::Directory => Event::Directory { path, mode },
        tar::EntryType::Symlink => Event::Link { path },
        tar::EntryType::Regular => {
            let modified = i64::try_from(header.mtime()?).ok().and_then(|second| Timestamp::from_second(second).ok());
            Event::File { path, size: header.size()?, mode, modified: modified.unwrap_or_default() }
        }
        other => return Err(std::io::Error::other(format!("\"{path}\" is of the type {other:?}"))),
    })
}

fn wrong(detail: String) -> Error {
    Error::new(Kind::Corrupt, "the server sent an archive that cannot be read").detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An archive of a directory, a link, and files of these sizes, each filled with its number.
    fn archive(sizes: &[usize]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o40700);
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        builder.append_data(&mut header, "base/", std::io::empty()).unwrap();
        header.set_entry_type(tar::EntryType::Symlink);
        builder.append_link(&mut header, "pg_tblspc/16385", "/srv/fast").unwrap();
        for (number, &size) in sizes.iter().enumerate() {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o600);
            header.set_mtime(7);
            header.set_size(size as u64);
            builder.append_data(&mut header, format!("base/{number}"), &vec![number as u8; size][..]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn events(archive: &[u8], pieces: usize) -> Result<Vec<Event>> {
        let (mut untar, mut events) = (Untar::default(), Vec::new());
        for piece in archive.chunks(pieces) {
            untar.push(Bytes::copy_from_slice(piece));
            while let Some(event) = untar.next()? {
                match (events.last_mut(), event) {
                    (Some(Event::Data(before)), Event::Data(more)) => *before = [before.clone(), more].concat().into(),
                    (_, event) => events.push(event),
                }
            }
        }
        untar.end().map(|()| events)
    }

    proptest! {
        #[test]
        fn archives_are_read_whatever_pieces_they_come_in(
            sizes in prop::collection::vec(0usize..2000, 0..6),
            pieces in 1usize..3000,
            ends in any::<bool>(),
        ) {
            let mut whole = archive(&sizes);
            if !ends {
                // As 13 and 14 do.
                whole.truncate(whole.len() - 2 * BLOCK);
            }
            let mut expected = vec![
                Event::Directory { path: "base".into(), mode: 0o700 },
                Event::Link { path: "pg_tblspc/16385".into() },
            ];
            for (number, &size) in sizes.iter().enumerate() {
                let modified = Timestamp::from_second(7).unwrap();
                expected.push(Event::File { path: format!("base/{number}"), size: size as u64, mode: 0o600, modified });
                if size > 0 {
                    expected.push(Event::Data(vec![number as u8; size].into()));
                }
            }
            prop_assert_eq!(events(&whole, pieces).unwrap(), expected);
        }

        #[test]
        fn what_is_cut_or_changed_is_noticed(size in 1usize..2000, cut in 1usize..512, at in 0usize..512) {
            let mut whole = archive(&[size]);
            whole.truncate(whole.len() - 2 * BLOCK);
            prop_assert_eq!(events(&whole[..whole.len() - cut], 700).unwrap_err().kind(), Kind::Incomplete);
            // The unused end of a header is part of its sum too. The sum itself can be written in several ways.
            prop_assume!(!(148..156).contains(&at));
            whole[at] ^= 0x10;
            prop_assert_eq!(events(&whole, 700).unwrap_err().kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn names_that_lead_out_of_a_data_directory_are_refused() {
        for name in ["../x", "base/../../x", "base//x"] {
            let mut header = tar::Header::new_ustar();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(0o600);
            header.set_size(0);
            header.set_mtime(0);
            header.set_cksum();
            assert!(events(header.as_bytes(), 512).is_err(), "{name}");
        }
    }
}
