//! The spool: a directory of Walden's own beside the WAL, in which one short-lived process leaves word for the next.
//!
//! `failing` says why the last push failed (`failure`). `pushed/NAME` says that the file NAME is in the archive, put there ahead of its turn, or compared with what was there
//! already; `fetched/` belongs to `wal::prefetch`. All of it can be lost or removed at any time, which costs nothing but
//! work done twice. PostgreSQL's own `archive_status` is never touched.

mod failure;

use std::fs;
use std::fs::Metadata;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use serde::{Deserialize, Serialize};

pub use self::failure::Failure;
use crate::durable::Staged;
use crate::error::{Context, Error, Kind, Result};
use crate::wal::segment::WalFile;

/// The spool's name in the directory of the WAL. PostgreSQL passes over names there that are not WAL files', and
/// `pg_basebackup` takes nothing of that directory (`excludeDirContents` in src/backend/backup/basebackup.c).
const NAME: &str = ".walden";

/// A spool. Its directories are made when something is first put into them.
#[derive(Clone, Debug)]
pub struct Spool {
    directory: PathBuf,
}

impl Spool {
    /// The chosen directory; unless one is chosen, `.walden` beside the file at `wal_path`.
    pub fn new(chosen: Option<PathBuf>, wal_path: &Path) -> Spool {
        let beside = || wal_path.parent().unwrap_or(Path::new("")).join(NAME);
        Spool { directory: chosen.unwrap_or_else(beside) }
    }

    /// Where it lies, whether or not it has been made.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where files that were fetched ahead lie.
    pub fn fetched(&self) -> PathBuf {
        self.directory.join("fetched")
    }

    /// A file of another module in the spool.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Is it the one that lies beside this WAL file, and not one that was chosen?
    pub fn is_beside(&self, wal_path: &Path) -> bool {
        self.directory == Spool::new(None, wal_path).directory
    }

    fn pushed(&self) -> PathBuf {
        self.directory.join("pushed")
    }

    /// Was this very file noted? Whatever cannot be read or understood was not.
    pub fn has_pushed(&self, file: WalFile, mark: &Mark) -> bool {
        let noted = fs::read(self.pushed().join(file.to_string())).ok();
        noted.and_then(|text| serde_json::from_slice::<Mark>(&text).ok()).is_some_and(|noted| noted == *mark)
    }

    /// Makes the place for notes.
    ///
    /// # Errors
    /// If this user cannot write there.
    pub fn prepare_notes(&self) -> Result<()> {
        let what = || format!("could not use the spool \"{}\"", self.directory.display());
        fs::create_dir_all(self.pushed()).during(what)?;
        let usable = rustix::fs::access(self.pushed(), Access::WRITE_OK | Access::EXEC_OK);
        usable.map_err(std::io::Error::from).during(what)
    }

    /// Notes that this very file is in the archive. Not synced: a note that a crash of the machine takes, or leaves
    /// without its content, is no note.
    ///
    /// # Errors
    /// If the spool cannot be written to.
    pub fn note_pushed(&self, file: WalFile, mark: &Mark) -> Result<()> {
        let what = || format!("could not write to the spool \"{}\"", self.directory.display());
        let text = serde_json::to_vec(mark).map_err(|error| Error::new(Kind::Bug, what()).detail(error.to_string()))?;
        self.prepare_notes()?;
        let mut staged = Staged::beside(&self.pushed().join(file.to_string())).during(what)?;
        staged.file().write_all(&text).during(what)?;
        staged.rename().during(what)
    }

    /// Removes the notes of files that PostgreSQL no longer waits for. A note is kept until then, and not removed when it
    /// has been of use: a command behind `&&` in `archive_command` may fail, and PostgreSQL ask again.
    pub fn sweep_pushed(&self, waits: impl Fn(&str) -> bool) {
        let Ok(entries) = fs::read_dir(self.pushed()) else { return };
        for entry in entries.flatten() {
            if !entry.file_name().to_str().is_some_and(&waits) {
                // Best effort: the next call finds it again.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Removes what was fetched ahead, and the spool with it if nothing else is in it.
    pub fn remove_fetched(&self) {
        match fs::remove_dir_all(self.fetched()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::info!("could not remove \"{}\": {error}", self.fetched().display());
            }
            // Fails, as it should, unless the spool is empty.
            _ => drop(fs::remove_dir(&self.directory)),
        }
    }
}

/// Which very file went into which archive. Another file under the same name, or the same one changed, has another mark:
/// a rewritten file differs in its times, a file from elsewhere in its inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    archive: String,
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Mark {
    /// The mark of a file that is described by `metadata`, for the archive at this address.
    pub fn of(metadata: &Metadata, archive: &str) -> Mark {
        Mark {
            archive: archive.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::{Duration, SystemTime};

    const ARCHIVE: &str = "s3://bucket/path";

    fn scene() -> (tempfile::TempDir, Spool, PathBuf, WalFile) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("000000010000000000000001");
        fs::write(&path, "content").unwrap();
        let spool = Spool::new(None, &path);
        (directory, spool, path, "000000010000000000000001".parse().unwrap())
    }

    fn mark(path: &Path) -> Mark {
        Mark::of(&fs::metadata(path).unwrap(), ARCHIVE)
    }

    #[test]
    fn a_note_counts_for_the_very_file_and_the_very_archive_only() {
        let (_directory, spool, path, file) = scene();
        assert!(!spool.has_pushed(file, &mark(&path)));
        spool.note_pushed(file, &mark(&path)).unwrap();
        assert!(spool.has_pushed(file, &mark(&path)));
        assert!(!spool.has_pushed("000000010000000000000002".parse().unwrap(), &mark(&path)));
        assert!(!spool.has_pushed(file, &Mark::of(&fs::metadata(&path).unwrap(), "s3://other")));

        let noted = mark(&path);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(SystemTime::now() + Duration::from_secs(1))
            .unwrap();
        assert_ne!(mark(&path), noted);
        assert!(!spool.has_pushed(file, &mark(&path)));
        fs::copy(&path, path.with_extension("new")).unwrap();
        fs::rename(path.with_extension("new"), &path).unwrap();
        assert!(!spool.has_pushed(file, &mark(&path)));
    }

    #[test]
    fn a_note_that_was_cut_is_no_note() {
        let (_directory, spool, path, file) = scene();
        spool.note_pushed(file, &mark(&path)).unwrap();
        let note = spool.pushed().join(file.to_string());
        let text = fs::read(&note).unwrap();
        for size in 0..text.len() {
            fs::write(&note, &text[..size]).unwrap();
            assert!(!spool.has_pushed(file, &mark(&path)), "{size}");
        }
    }

    #[test]
    fn notes_of_files_that_wait_are_kept() {
        let (_directory, spool, path, file) = scene();
        let other: WalFile = "00000002.history".parse().unwrap();
        spool.note_pushed(file, &mark(&path)).unwrap();
        spool.note_pushed(other, &mark(&path)).unwrap();
        spool.sweep_pushed(|name| name == other.to_string());
        assert!(!spool.has_pushed(file, &mark(&path)) && spool.has_pushed(other, &mark(&path)));
    }

    #[test]
    fn an_emptied_spool_is_removed_and_one_in_use_is_not() {
        let (directory, spool, path, file) = scene();
        fs::create_dir_all(spool.fetched()).unwrap();
        spool.note_pushed(file, &mark(&path)).unwrap();
        spool.remove_fetched();
        assert!(!spool.fetched().exists() && spool.has_pushed(file, &mark(&path)));
        fs::remove_dir_all(spool.pushed()).unwrap();
        spool.remove_fetched();
        assert!(!directory.path().join(NAME).exists());
    }
}
