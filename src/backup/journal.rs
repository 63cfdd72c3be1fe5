//! The journal of a backup that is being taken: what another process needs to go on with it, should this one die
//! (docs/decisions/resumed-backups.md).
//!
//! Best effort: a journal that cannot be written only means that the backup cannot be resumed. Holds what was seen, and
//! judges nothing: whether it is still true is the business of `resume`. The directory and the file are this user's alone,
//! or they are passed over. A journal is locked by whoever writes it, so no two processes go on with the same backup.

use std::fs::{File as Handle, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::manifest::{File, Part};
use crate::durable;
use crate::error::{Context, Result};
use crate::layout::BackupId;
use crate::postgres::control::SystemId;

/// No line is longer, those of parts included (`manifest`'s `LONGEST_LINE`).
const LONGEST_LINE: u64 = 64 << 20;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Entry {
    /// The first line.
    Head(Head),
    /// A part is stored.
    Part(Part),
    /// A file is in frames, as far as its extents lie in parts that are stored.
    File(Record),
}

/// Whose backup it is, and on which machine, since when, its times were told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) walden: String,
    pub(super) id: BackupId,
    pub(super) system_id: SystemId,
    pub(super) data_directory: PathBuf,
    /// Of the store.
    pub(super) address: String,
    /// Whether pages are verified.
    pub(super) checksums: bool,
    /// For whom its data keys are wrapped; nobody, if it is not encrypted.
    #[serde(default)]
    pub(super) recipients: Vec<String>,
    pub(super) clock: Clock,
}

/// What makes times of files comparable with each other: the same start of the machine, and a clock that was not set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Clock {
    /// `/proc/sys/kernel/random/boot_id` (random(4)).
    pub(super) boot: String,
    /// What the time of day was, in milliseconds since 1970, when the machine was started, by the clock of now.
    pub(super) started: i64,
}

impl Clock {
    /// The clock of this moment.
    pub(super) fn read() -> io::Result<Clock> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        // Seconds since the start, time asleep included (proc_uptime(5)).
        let uptime = std::fs::read_to_string("/proc/uptime")?;
        let seconds: Option<f64> = uptime.split(' ').next().and_then(|seconds| seconds.parse().ok());
        let seconds = seconds.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "/proc/uptime has no number"))?;
        Ok(Clock { boot, started: Timestamp::now().as_millisecond() - (seconds * 1000.0) as i64 })
    }
}

/// A file of the backup and which very file was read for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) file: File,
    pub(super) seen: Seen,
    /// How many of its pages were verified, all of them sound at the first look.
    pub(super) pages: u64,
}

/// What `fstat` said when a file was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    /// Seconds and nanoseconds.
    pub(super) modified: [i64; 2],
    /// The same, of the last change of the inode: nobody can set it.
    pub(super) changed: [i64; 2],
    /// When that was, by this machine's clock, before the first byte was read; in milliseconds since 1970.
    pub(super) at: i64,
}

impl Seen {
    /// `at` must have been taken before `metadata` was.
    pub(super) fn of(metadata: &std::fs::Metadata, at: Timestamp) -> Seen {
        Seen {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: [metadata.mtime(), metadata.mtime_nsec()],
            changed: [metadata.ctime(), metadata.ctime_nsec()],
            at: at.as_millisecond(),
        }
    }
}

/// A journal that is being written; several threads add to it.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// None when it could not be written.
    file: Mutex<Option<BufWriter<Handle>>>,
}

impl Journal {
    /// Begins one in this directory, which must be this user's alone; it counts from [`Journal::publish`] on.
    pub(super) fn begin(directory: &Path, head: Head) -> io::Result<Journal> {
        let path = directory.join(name(head.system_id, head.id));
        let file = private().write(true).create(true).truncate(true).open(unpublished(&path))?;
        file.try_lock()?;
        let journal = Journal { path, file: Mutex::new(Some(BufWriter::new(file))) };
        journal.add(&Entry::Head(head));
        Ok(journal)
    }

    /// Gives it its name, in place of the one that it goes on from.
    pub(super) fn publish(&self) {
        self.flush();
        if let Err(error) = durable::rename(&unpublished(&self.path), &self.path) {
            self.give_up(&error);
        }
    }

    /// Adds a line. With a part all lines before it reach the file: files count only with the parts that hold them.
    pub(super) fn add(&self, entry: &Entry) {
        let write = |file: &mut BufWriter<Handle>| {
            serde_json::to_writer(&mut *file, entry)?;
            file.write_all(b"\n")?;
            if matches!(entry, Entry::Part(_)) { file.flush() } else { Ok(()) }
        };
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.as_mut().map_or(Ok(()), write);
        drop(file);
        if let Err(error) = written {
            self.give_up(&error);
        }
    }

    fn flush(&self) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let flushed = file.as_mut().map_or(Ok(()), BufWriter::flush);
        drop(file);
        if let Err(error) = flushed {
            self.give_up(&error);
        }
    }

    fn give_up(&self, error: &dyn std::fmt::Display) {
        tracing::info!("this backup cannot be resumed, for its journal \"{}\" fails: {error}", self.path.display());
        self.remove();
    }

    /// Removes it: the backup is complete.
    pub(super) fn remove(&self) {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).take();
        for path in [unpublished(&self.path), self.path.clone()] {
            // Best effort: what a journal tells of a complete backup is not used.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A journal that another process left. As long as it is open, no other one goes on with it.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) path: PathBuf,
    pub(super) head: Head,
    file: Handle,
}

impl Left {
    /// Those that nobody writes to any more, of this cluster, the newest first.
    pub(super) fn find(directory: &Path, system: SystemId) -> io::Result<Vec<Left>> {
        let (prefix, mut found) = (format!("backup-{system}-"), Vec::new());
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let ours =
                entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix) && name.ends_with(ENDING));
            if ours && let Some(left) = Left::open(&entry.path()) {
                found.push(left);
            }
        }
        found.sort_by_key(|left| std::cmp::Reverse(left.head.id));
        Ok(found)
    }

    fn open(path: &Path) -> Option<Left> {
        let file = private().read(true).open(path).ok()?;
        let metadata = file.metadata().ok()?;
        let own = metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o077 == 0;
        if !own || !metadata.is_file() {
            return None;
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => return None,
        }
        let mut head = None;
        let _ = read(&file, |entry| {
            head = Some(entry);
            Ok(false)
        });
        match head {
            Some(Entry::Head(head)) => Some(Left { path: path.to_owned(), head, file }),
            _ => None,
        }
    }

    /// Hands on each line after the first, up to one that was torn when its writer died.
    ///
    /// # Errors
    /// Those of reading, and of `each`.
    pub(super) fn each(&self, mut each: impl FnMut(Entry) -> Result<()>) -> Result<()> {
        read(&self.file, |entry| each(entry).map(|()| true))
    }

    /// Takes it away.
    pub(super) fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Hands on lines until one is torn or `each` has enough.
fn read(file: &Handle, mut each: impl FnMut(Entry) -> Result<bool>) -> Result<()> {
    let what = || "could not read the journal of a backup";
    let mut reader = BufReader::new(file);
    reader.seek(SeekFrom::Start(0)).during(what)?;
    let mut line = Vec::new();
    loop {
        line.clear();
        io::Read::take(&mut reader, LONGEST_LINE).read_until(b'\n', &mut line).during(what)?;
        // The end, or the line during which its writer died; the one before it was whole.
        if line.last() != Some(&b'\n') {
            return Ok(());
        }
        let Ok(entry) = serde_json::from_slice(&line) else { return Ok(()) };
        if !each(entry)? {
            return Ok(());
        }
    }
}

const ENDING: &str = ".journal";

fn name(system: SystemId, id: BackupId) -> String {
    format!("backup-{system}-{id}{ENDING}")
}

fn unpublished(path: &Path) -> PathBuf {
    path.with_extension("unpublished")
}

/// Links are not followed, and a pipe does not keep us waiting.
fn private() -> OpenOptions {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(flags.bits().cast_signed());
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::manifest::tests::backup;

    fn head() -> Head {
        let (address, data_directory) = ("file:///a".into(), "/data".into());
        let clock = Clock { boot: "b".into(), started: 1 };
        Head {
            walden: "x".into(),
            id: backup().id,
            system_id: SystemId(7),
            data_directory,
            address,
            checksums: true,
            recipients: Vec::new(),
            clock,
        }
    }

    fn part(number: u32) -> Entry {
        Entry::Part(Part { volume: 0, part: number, blake3: "00".into(), frames: Vec::new(), age: None })
    }

    #[test]
    fn what_was_written_up_to_a_torn_line_is_read_and_nobody_reads_it_while_its_writer_lives() {
        let directory = tempfile::tempdir().unwrap();
        let find = || Left::find(directory.path(), SystemId(7)).unwrap();
        let journal = Journal::begin(directory.path(), head()).unwrap();
        assert!(find().is_empty());
        journal.publish();
        (0..3).for_each(|number| journal.add(&part(number)));
        assert!(find().is_empty());
        let path = journal.path.clone();
        drop(journal);
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(b"{\"part\":{\"volu").unwrap();
        let left = find();
        assert!(find().is_empty(), "it is held");
        assert_eq!((left.len(), &left[0].head), (1, &head()));
        let mut entries = Vec::new();
        left[0]
            .each(|entry| {
                entries.push(entry);
                Ok(())
            })
            .unwrap();
        assert_eq!(entries, [vec![Entry::Head(head())], (0..3).map(part).collect()].concat());
        assert!(Left::find(directory.path(), SystemId(8)).unwrap().is_empty());
    }

    #[test]
    fn a_journal_that_others_may_have_written_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::begin(directory.path(), head()).unwrap();
        journal.publish();
        let path = journal.path.clone();
        drop(journal);
        let rights =
            |mode| std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        rights(0o620);
        assert!(Left::find(directory.path(), SystemId(7)).unwrap().is_empty());
        rights(0o600);
        assert_eq!(Left::find(directory.path(), SystemId(7)).unwrap().len(), 1);
    }
}
