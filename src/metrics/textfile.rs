//! The file in which short-lived processes keep their metrics together, for the textfile collector of node_exporter.
//!
//! One file for each archive. It is its own memory: each process reads it, adds, and puts the new one in its place, under
//! a lock. Not synced: after a crash of the machine counters may begin at 0 again, which Prometheus expects of counters.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::Samples;
use crate::durable::Staged;
use crate::error::{Context, Error, Kind, Result};

/// Bytes that are read of a file: all metrics with all their labels take less than a tenth of it.
const LONGEST: u64 = 1 << 20;

/// How often a lock is asked for that another process has, and how long to wait in between: each has it for less than a
/// millisecond, and no caller may be held back for long.
const LOCK_TRIES: usize = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The file of an archive in this directory.
pub fn path(directory: &Path, archive: &str) -> PathBuf {
    directory.join(format!("walden-{}.prom", &blake3::hash(archive.as_bytes()).to_hex()[..8]))
}

/// What is in the file; nothing if there is none.
///
/// # Errors
/// If it cannot be read.
pub fn read(directory: &Path, archive: &str) -> Result<Samples> {
    let path = path(directory, archive);
    let text = match fs::metadata(&path).map(|found| found.len()) {
        // Not ours.
        Ok(LONGEST..) => Ok(Vec::new()),
        Ok(_) => fs::read(&path),
        Err(error) => Err(error),
    };
    match text {
        Ok(text) => Ok(Samples::read(archive, &String::from_utf8_lossy(&text))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Samples::of(archive)),
        Err(error) => Err(Error::io(format!("could not read \"{}\"", path.display()), &error)),
    }
}

/// Changes what is in the file. Readable by everybody: its reader is another user.
///
/// # Errors
/// If the directory cannot be written to, or others have the lock for 0.2 s.
pub fn update(directory: &Path, archive: &str, change: impl FnOnce(&mut Samples)) -> Result<()> {
    let path = path(directory, archive);
    let what = || format!("could not write \"{}\"", path.display());
    let _lock = lock(&path.with_extension("lock")).during(what)?;
    let mut samples = read(directory, archive)?;
    change(&mut samples);
    let mut staged = Staged::private_beside(&path).during(what)?;
    staged.write_all(samples.text().as_bytes()).during(what)?;
    staged.file().set_permissions(Permissions::from_mode(0o644)).during(what)?;
    staged.rename().during(what)
}

/// Held until it is dropped. The file stays: whoever removed it could remove another one's.
fn lock(path: &Path) -> Result<File> {
    let what = || format!("could not lock \"{}\"", path.display());
    let file = fs::OpenOptions::new().create(true).append(true).open(path).during(what)?;
    for _ in 0..LOCK_TRIES {
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(file);
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Err(Error::new(Kind::Local, what()).detail("other processes have it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::table;

    #[test]
    fn no_count_that_was_kept_is_lost_between_many_writers() {
        let directory = tempfile::tempdir().unwrap();
        let labels = [("verb", "wal-push"), ("result", "ok")];
        let add = || update(directory.path(), "a", |samples| samples.add(&table::RUNS, &labels, 1.0)).is_ok();
        // Without a pause between two of them, one can be kept from the lock for too long, and is told so.
        let kept: usize = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..50).filter(|_| add()).count())).collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).sum()
        });
        assert!(kept > 0);
        let mut expected = Samples::of("a");
        expected.add(&table::RUNS, &labels, kept as f64);
        assert_eq!(read(directory.path(), "a").unwrap(), expected);
        let mode = fs::metadata(path(directory.path(), "a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }

    #[test]
    fn archives_do_not_share_a_file_and_a_damaged_one_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let labels = [("verb", "wal-push"), ("result", "ok")];
        for archive in ["a", "b"] {
            update(directory.path(), archive, |samples| samples.add(&table::RUNS, &labels, 1.0)).unwrap();
        }
        fs::write(path(directory.path(), "a"), b"\xff{} x\nwalden_runs_total").unwrap();
        update(directory.path(), "a", |samples| samples.add(&table::RUNS, &labels, 5.0)).unwrap();
        assert!(read(directory.path(), "a").unwrap().text().contains("} 5\n"));
        assert!(read(directory.path(), "b").unwrap().text().contains("} 1\n"));
        assert!(update(&directory.path().join("none"), "a", |_| {}).is_err());
    }
}
