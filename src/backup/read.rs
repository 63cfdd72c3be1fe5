//! The files of a running cluster as they are read for a backup: paced, and without filling the host's page cache.

use std::fs::{self, Metadata};
use std::io::{ErrorKind, IoSliceMut};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use jiff::Timestamp;
use rustix::fs::{Advice, fadvise};
use rustix::io::{ReadWriteFlags, preadv2};

use super::journal::{Record, Seen};
use super::manifest::File;
use crate::error::{Context, Result};
use crate::postgres::page::Page;

/// A file that is being backed up.
#[derive(Debug)]
pub(super) struct Source {
    file: fs::File,
    place: PathBuf,
    /// What the manifest says of it, without digest and place in a volume.
    pub(super) described: File,
    /// Which very file it is, and in which state.
    pub(super) seen: Seen,
    /// What verifying its pages has come to so far.
    pub(super) checked: Checked,
}

/// What verifying the pages of a file has come to.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// So many were verified.
    pub(super) pages: AtomicU64,
    /// One of them was wrong at the first look, whatever it became later.
    pub(super) doubtful: AtomicBool,
}

/// Bytes of a file, and whether the host had them in memory anyway.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) offset: u64,
    pub(super) length: usize,
    cached: bool,
}

impl Source {
    /// Opens a file; `None` if it has vanished since the directory was walked, for then the WAL says so too.
    pub(super) fn open(root: &Path, path: String) -> Result<Option<Source>> {
        let place = root.join(&path);
        let what = || format!("could not read \"{}\"", place.display());
        let now = Timestamp::now();
        let file = match fs::File::open(&place) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.during(what)?,
        };
        let metadata = file.metadata().during(what)?;
        // The kernel's own reading ahead would bring what nobody could tell from the server's pages later.
        let _ = fadvise(&file, 0, None, Advice::Random);
        let described = describe(path, &metadata, metadata.len());
        Ok(Some(Source { file, place, described, seen: Seen::of(&metadata, now), checked: Checked::default() }))
    }

    /// What a later run needs to take the file over, which `file` tells of; `None` if a page of it was in doubt: that must
    /// be looked at again.
    pub(super) fn record(&self, file: &File) -> Option<Record> {
        let (pages, doubtful) = (&self.checked.pages, &self.checked.doubtful);
        let record = || Record { file: file.clone(), seen: self.seen, pages: pages.load(Ordering::Relaxed) };
        (!doubtful.load(Ordering::Relaxed)).then(record)
    }

    /// Its bytes when it was opened: what it gains meanwhile is in the WAL.
    pub(super) fn size(&self) -> u64 {
        self.described.size
    }

    /// Says that these bytes will be read, so that the disk can begin.
    pub(super) fn expect(&self, offset: u64, length: usize) -> Stretch {
        let cached = self.is_cached(offset, length);
        if !cached {
            let _ = fadvise(&self.file, offset, std::num::NonZeroU64::new(length as u64), Advice::WillNeed);
        }
        Stretch { offset, length, cached }
    }

    /// Fills `buffer` with these bytes, and returns how many of them the file still had. What it has lost since it was opened
    /// becomes zeros, as in pg_basebackup: the WAL replayed over the copy truncates it again (`sendFile` in
    /// src/backend/backup/basebackup.c).
    pub(super) fn read(&self, stretch: Stretch, buffer: &mut Vec<u8>) -> Result<usize> {
        let Stretch { offset, length, cached } = stretch;
        buffer.resize(length, 0);
        let mut filled = 0;
        while filled < length {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(error).during(|| self.could_not_read(offset));
                }
            }
        }
        buffer[filled..].fill(0);
        if !cached {
            // What the server has not read it does not miss.
            let _ = fadvise(&self.file, offset, std::num::NonZeroU64::new(length as u64), Advice::DontNeed);
        }
        Ok(filled)
    }

    /// Reads the page at this offset again; false if the file ends before it does.
    pub(super) fn read_page(&self, offset: u64, page: &mut Page) -> Result<bool> {
        match self.file.read_exact_at(page, offset) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            read => read.map(|()| true).during(|| self.could_not_read(offset)),
        }
    }

    fn could_not_read(&self, offset: u64) -> String {
        format!("could not read \"{}\" at offset {offset}", self.place.display())
    }

    /// Are most of these bytes in the page cache? Found out by sample; where the file system cannot say, they count as being
    /// there, so that nothing is taken from the server.
    fn is_cached(&self, offset: u64, length: usize) -> bool {
        const SAMPLES: usize = 8;
        let places = (0..length).step_by((length / SAMPLES).max(64 << 10));
        let (mut hits, mut misses) = (0, 0);
        for place in places {
            let mut byte = [0];
            let read =
                preadv2(&self.file, &mut [IoSliceMut::new(&mut byte)], offset + place as u64, ReadWriteFlags::NOWAIT);
            match read {
                Err(rustix::io::Errno::AGAIN) => misses += 1,
                _ => hits += 1,
            }
        }
        hits >= misses
    }
}

/// What the manifest says of a file of so many bytes, without digest and place in a volume.
pub(super) fn describe(path: String, metadata: &Metadata, size: u64) -> File {
    // A time that no calendar holds becomes the beginning of 1970: no recovery goes by it.
    let nanoseconds = i32::try_from(metadata.mtime_nsec()).unwrap_or_default();
    let modified = Timestamp::new(metadata.mtime(), nanoseconds).unwrap_or_default();
    File { path, size, mode: metadata.mode() & 0o7777, modified, crc32c: 0, at: Vec::new() }
}
