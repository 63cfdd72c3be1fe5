//! The long manifest of a backup that is being taken: written as files and parts get done, so that it need not be held in
//! memory.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tempfile::SpooledTempFile;

use super::journal::{Entry, Journal, Record};
use super::manifest::{Head, Line, Part};
use crate::error::{Context, Result};
use crate::layout::{self, BackupId};

/// Beyond so many bytes the list goes on in an unnamed temporary file (in `TMPDIR`): some 60 000 files.
const IN_MEMORY: usize = 8 << 20;

/// The list so far; several threads add to it.
#[derive(Debug)]
pub(super) struct Listing {
    inner: Mutex<Inner>,
    /// Where the same is written down for a later run, should this one be interrupted.
    journal: Option<Arc<Journal>>,
}

#[derive(Debug)]
struct Inner {
    spool: BufWriter<SpooledTempFile>,
    counts: Counts,
}

/// What the list adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Files.
    pub(super) files: u64,
    /// Their bytes.
    pub(super) plain_size: u64,
    /// Bytes of the parts.
    pub(super) stored_size: u64,
}

/// A list that is complete.
#[derive(Debug)]
pub(super) struct Listed {
    /// From its beginning.
    pub(super) content: SpooledTempFile,
    /// Its bytes.
    pub(super) size: u64,
    /// What it adds up to.
    pub(super) counts: Counts,
}

impl Listing {
    /// Begins the list of this backup, which is to be encrypted or not.
    pub(super) fn begin(id: BackupId, encrypted: bool, journal: Option<Arc<Journal>>) -> Result<Listing> {
        let listing = Listing { inner: Mutex::new(Inner::empty()), journal };
        listing.add(&Line::Head(Head { format: layout::format(encrypted), id }))?;
        Ok(listing)
    }

    /// Adds a file that a later run could take over.
    pub(super) fn add_record(&self, record: Record) -> Result<()> {
        self.add(&Line::File(record.file.clone()))?;
        if let Some(journal) = &self.journal {
            journal.add(&Entry::File(record));
        }
        Ok(())
    }

    /// Adds a part that is stored.
    pub(super) fn add_part(&self, part: Part) -> Result<()> {
        self.add(&Line::Part(part.clone()))?;
        if let Some(journal) = &self.journal {
            journal.add(&Entry::Part(part));
        }
        Ok(())
    }

    /// Adds a line of which no later run needs to know.
    pub(super) fn add(&self, line: &Line) -> Result<()> {
        self.inner().add(line)
    }

    /// Takes these files out of the list again. Their bytes stay in the volumes.
    pub(super) fn leave_out(&self, paths: &HashSet<String>) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        let mut inner = self.inner();
        let (content, _) = std::mem::replace(&mut *inner, Inner::empty()).into_content()?;
        for line in BufReader::new(content).lines() {
            match serde_json::from_str(&line.during(listing)?).map_err(std::io::Error::from).during(listing)? {
                Line::File(file) if paths.contains(&file.path) => {
                    tracing::info!("\"{}\" is left out: its relation turned out to be unlogged", file.path);
                }
                line => inner.add(&line)?,
            }
        }
        Ok(())
    }

    /// Ends the list.
    pub(super) fn finish(self) -> Result<Listed> {
        let inner = self.inner.into_inner().unwrap_or_else(PoisonError::into_inner);
        let counts = inner.counts;
        let (content, size) = inner.into_content()?;
        Ok(Listed { content, size, counts })
    }

    /// A thread that panicked ended the backup, and its list is not used.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn empty() -> Inner {
        let spool = BufWriter::with_capacity(64 << 10, SpooledTempFile::new(IN_MEMORY));
        Inner { spool, counts: Counts::default() }
    }

    fn add(&mut self, line: &Line) -> Result<()> {
        match line {
            Line::File(file) => {
                self.counts.files += 1;
                self.counts.plain_size += file.size;
            }
            Line::Part(part) => self.counts.stored_size += part.stored_size(),
            Line::Head(_) | Line::Dir(_) => {}
        }
        line.write(&mut self.spool).during(listing)
    }

    /// All of it from its beginning, and its bytes.
    fn into_content(self) -> Result<(SpooledTempFile, u64)> {
        let mut content = self.spool.into_inner().map_err(|failed| failed.into_error()).during(listing)?;
        let size = content.stream_position().during(listing)?;
        content.seek(SeekFrom::Start(0)).during(listing)?;
        Ok((content, size))
    }
}

fn listing() -> String {
    format!("could not write the list of files to a temporary file in \"{}\" (TMPDIR)", std::env::temp_dir().display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::manifest::{File, Frame, FrameDigest};

    #[test]
    fn what_is_left_out_is_neither_listed_nor_counted_and_all_else_stays_as_it_is() {
        let listing =
            Listing::begin("20261121T013005Z-0000000100000000000000AB".parse().unwrap(), false, None).unwrap();
        let file = |path: &str, size| {
            let modified = jiff::Timestamp::UNIX_EPOCH;
            Line::File(File { path: path.to_owned(), size, mode: 0o600, modified, crc32c: 7, at: Vec::new() })
        };
        let frame = Frame { plain: 5, stored: 3, digest: FrameDigest::of(b"abc") };
        let part = Part { volume: 0, part: 0, blake3: String::new(), frames: vec![frame], age: None };
        listing.add(&file("base/5/16384", 10)).unwrap();
        listing.add(&file("base/5/16385", 200)).unwrap();
        listing.add_part(part).unwrap();
        listing.leave_out(&HashSet::from(["base/5/16385".to_owned(), "base/5/1".to_owned()])).unwrap();
        listing.add(&file("global/pg_control", 3000)).unwrap();
        let Listed { content, size, counts } = listing.finish().unwrap();
        assert_eq!(counts, Counts { files: 2, plain_size: 3010, stored_size: 3 });
        let lines: Vec<String> = BufReader::new(content).lines().map(Result::unwrap).collect();
        assert_eq!(lines.iter().map(|line| line.len() as u64 + 1).sum::<u64>(), size);
        let kinds = lines.iter().map(|line| serde_json::from_str::<Line>(line).unwrap());
        let kinds: Vec<String> = kinds
            .map(|line| match line {
                Line::Head(head) => head.id.to_string(),
                Line::Part(part) => format!("part {}", part.part),
                Line::Dir(directory) => directory.path,
                Line::File(file) => file.path,
            })
            .collect();
        let id = "20261121T013005Z-0000000100000000000000AB";
        assert_eq!(kinds, [id, "base/5/16384", "part 0", "global/pg_control"]);
    }
}
