//! The long manifest of a backup that is being taken: written as files and parts get done, so that it need not be held in
//! memory.

use std::io::{BufWriter, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

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
        let spool = BufWriter::with_capacity(64 << 10, SpooledTempFile::new(IN_MEMORY));
        let listing = Listing { inner: Mutex::new(Inner { spool, counts: Counts::default() }), journal };
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
        // A thread that panicked ended the backup, and its list is not used.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match line {
            Line::File(file) => {
                inner.counts.files += 1;
                inner.counts.plain_size += file.size;
            }
            Line::Part(part) => inner.counts.stored_size += part.stored_size(),
            Line::Head(_) | Line::Dir(_) => {}
        }
        line.write(&mut inner.spool).during(listing)
    }

    /// Ends the list.
    pub(super) fn finish(self) -> Result<Listed> {
        let Inner { spool, counts } = self.inner.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut content = spool.into_inner().map_err(|failed| failed.into_error()).during(listing)?;
        let size = content.stream_position().during(listing)?;
        content.seek(SeekFrom::Start(0)).during(listing)?;
        Ok(Listed { content, size, counts })
    }
}

fn listing() -> String {
    format!("could not write the list of files to a temporary file in \"{}\" (TMPDIR)", std::env::temp_dir().display())
}
