//! The one failure that a spool holds: why the file that PostgreSQL offers does not get into the archive.
//!
//! PostgreSQL's own statistics know which file failed and when, and not why: that is in the server's log. `status` reads
//! it here. One file, replaced by each failure and removed by the next success: PostgreSQL asks in order, so whatever gets
//! through, nothing fails any more.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Spool;
use crate::durable::Staged;
use crate::error::{Context, Error, Kind, Result};
use crate::wal::segment::WalFile;

/// Characters of each text that are kept: enough for any message of ours, and a bound for what a store may say.
const LONGEST_TEXT: usize = 1000;

/// Bytes that are read of a note: four texts, escaped, fit.
const LONGEST_NOTE: u64 = 32 << 10;

/// Why a file does not get into the archive, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The WAL file.
    pub file: String,
    /// When it failed first, since anything last got through, by this machine's clock.
    pub since: Timestamp,
    /// When it failed last.
    pub last: Timestamp,
    /// How often it failed.
    pub attempts: u64,
    /// What kind of failure the last one was.
    pub kind: Kind,
    /// Its first line.
    pub what: String,
    /// Its cause.
    pub detail: Option<String>,
    /// What could be done about it.
    pub hint: Option<String>,
}

impl Spool {
    fn failure_path(&self) -> PathBuf {
        self.path("failing")
    }

    /// The failure that was noted, if nothing got through since. Whatever cannot be understood is none.
    ///
    /// # Errors
    /// If this user may not look.
    pub fn failure(&self) -> Result<Option<Failure>> {
        let path = self.failure_path();
        let what = || format!("could not read \"{}\"", path.display());
        let text = match fs::metadata(&path).and_then(|found| match found.len() <= LONGEST_NOTE {
            true => fs::read(&path),
            false => Ok(Vec::new()),
        }) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(what(), &error)),
        };
        Ok(serde_json::from_slice(&text).ok())
    }

    /// Notes that this file did not get through. Not synced: the next attempt, within a minute, notes it again.
    ///
    /// # Errors
    /// If the spool cannot be written to.
    pub fn note_failure(&self, file: WalFile, error: &Error, now: Timestamp) -> Result<()> {
        let what = || format!("could not write to the spool \"{}\"", self.directory.display());
        let before = self.failure().ok().flatten().filter(|before| before.file == file.to_string());
        let short = |text: &str| text.chars().take(LONGEST_TEXT).collect::<String>();
        let failure = Failure {
            file: file.to_string(),
            since: before.as_ref().map_or(now, |before| before.since),
            last: now,
            attempts: before.map_or(0, |before| before.attempts).saturating_add(1),
            kind: error.kind(),
            what: short(error.what()),
            detail: error.cause().map(short),
            hint: error.advice().map(short),
        };
        let text =
            serde_json::to_vec(&failure).map_err(|error| Error::new(Kind::Bug, what()).detail(error.to_string()))?;
        fs::create_dir_all(&self.directory).during(what)?;
        let mut staged = Staged::beside(&self.failure_path()).during(what)?;
        staged.file().write_all(&text).during(what)?;
        staged.rename().during(what)
    }

    /// Something got through: nothing fails.
    pub fn forget_failure(&self) {
        if fs::remove_file(self.failure_path()).is_ok() {
            // Fails, as it should, unless the spool is empty.
            let _ = fs::remove_dir(&self.directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_noted_once_with_its_beginning_and_its_number_until_something_gets_through() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(None, &directory.path().join("000000010000000000000001"));
        let at = |second| Timestamp::from_second(second).unwrap();
        let file = |name: &str| name.parse::<WalFile>().unwrap();
        let (one, two) = (file("000000010000000000000001"), file("000000010000000000000002"));
        let error = Error::new(Kind::Denied, "no").detail("x".repeat(1 << 20)).hint("Do.");
        assert_eq!(spool.failure().unwrap(), None);
        spool.note_failure(one, &error, at(1)).unwrap();
        spool.note_failure(one, &error, at(9)).unwrap();
        let noted = spool.failure().unwrap().unwrap();
        assert_eq!((noted.since, noted.last, noted.attempts, noted.kind), (at(1), at(9), 2, Kind::Denied));
        assert_eq!(noted.detail.unwrap().len(), LONGEST_TEXT);
        spool.note_failure(two, &error, at(20)).unwrap();
        let noted = spool.failure().unwrap().unwrap();
        assert_eq!((noted.file, noted.since, noted.attempts), (two.to_string(), at(20), 1));
        spool.forget_failure();
        assert_eq!(spool.failure().unwrap(), None);
        assert!(fs::read_dir(directory.path()).unwrap().next().is_none(), "the empty spool stays");
    }

    #[test]
    fn a_note_that_was_cut_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(None, &directory.path().join("000000010000000000000001"));
        spool
            .note_failure("00000002.history".parse().unwrap(), &Error::new(Kind::Local, "x"), Timestamp::now())
            .unwrap();
        let text = fs::read(spool.failure_path()).unwrap();
        for size in 0..text.len() {
            fs::write(spool.failure_path(), &text[..size]).unwrap();
            assert_eq!(spool.failure().unwrap(), None, "{size}");
        }
    }
}
