//! Files that must be whole: staged beside their target, synced, then given their name in one step.
//!
//! The only place that calls fsync, link and rename for what Walden writes. A crash at any moment leaves the old state or
//! the new one, and perhaps a staged file, whose name says whose it is ([`is_staged`]).

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::NamedTempFile;

use crate::error::{Context, Error, Kind, Result};

const STAGED_PREFIX: &str = ".walden-staged-";

/// A staged file that nobody has written to for this long belongs to a process that was killed.
pub const STALE_AFTER: Duration = Duration::from_secs(3600);

/// Bytes that are written to a file with one call. With many more, Linux spends more on its page cache than on all the rest:
/// it looks for the largest pages that there are. See docs/decisions/restore-writes.md.
pub const WRITTEN_AT_ONCE: usize = 256 << 10;

/// A file in the making, beside its target and so on the same file system. Dropped unpublished, it is removed.
pub struct Staged {
    temporary: NamedTempFile,
    target: PathBuf,
}

impl Staged {
    /// Opens a staged file for `target`, whose directory must exist. Rights are those that the umask leaves of `rw-rw-rw-`.
    ///
    /// # Errors
    /// The underlying [`ErrorKind`] is kept, so that a caller can make a missing directory and try again.
    pub fn beside(target: &Path) -> io::Result<Staged> {
        Staged::with_mode(target, 0o666)
    }

    /// The same, for what is this user's alone: rights are `rw-------`.
    ///
    /// # Errors
    /// Those of [`Staged::beside`].
    pub fn private_beside(target: &Path) -> io::Result<Staged> {
        Staged::with_mode(target, 0o600)
    }

    fn with_mode(target: &Path, mode: u32) -> io::Result<Staged> {
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let temporary = tempfile::Builder::new()
            .prefix(STAGED_PREFIX)
            .permissions(std::fs::Permissions::from_mode(mode))
            .tempfile_in(directory)?;
        Ok(Staged { temporary, target: target.to_path_buf() })
    }

    /// Opens a staged file for `target` under a name of the caller's in the same directory, by which others can see how it
    /// grows.
    ///
    /// # Errors
    /// `AlreadyExists` if that name is taken.
    pub fn at(path: &Path, target: &Path) -> io::Result<Staged> {
        let (directory, name) = (path.parent().unwrap_or(Path::new(".")), path.file_name().unwrap_or_default());
        let temporary = tempfile::Builder::new()
            .prefix(name)
            .rand_bytes(0)
            .permissions(std::fs::Permissions::from_mode(0o666))
            .tempfile_in(directory)?;
        Ok(Staged { temporary, target: target.to_path_buf() })
    }

    /// The file to write to.
    pub fn file(&mut self) -> &mut File {
        self.temporary.as_file_mut()
    }

    /// Syncs the content and gives it the target's name, replacing what bears it; durable when this returns.
    pub fn replace(self) -> Result<()> {
        let target = self.target.clone();
        self.sync_content()?;
        self.rename()?;
        sync_parent(&target)
    }

    /// Syncs the content and gives it the target's name unless that is taken; durable when this returns. Of any number
    /// of racing callers one gets through: `link(2)` never replaces.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`] if the name is taken; the file that bears it is durable by then.
    pub fn create_new(self) -> Result<()> {
        self.sync_content()?;
        match std::fs::hard_link(self.temporary.path(), &self.target) {
            Ok(()) => sync_parent(&self.target),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // Its creator synced the content before linking it, but may have died before it synced the directory.
                sync_parent(&self.target)?;
                Err(Error::new(Kind::AlreadyExists, format!("\"{}\" exists already", self.target.display())))
            }
            Err(error) => Err(Error::io(format!("could not create \"{}\"", self.target.display()), &error)),
        }
    }

    /// Gives the content the target's name without syncing: for a file that its reader asks for again after a crash.
    pub fn rename(self) -> Result<()> {
        let target = self.target;
        self.temporary
            .persist(&target)
            .map(drop)
            .map_err(|failed| Error::io(format!("could not rename a file to \"{}\"", target.display()), &failed.error))
    }

    fn sync_content(&self) -> Result<()> {
        self.temporary.as_file().sync_all().during(|| format!("could not sync \"{}\"", self.target.display()))
    }
}

impl io::Write for Staged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.temporary.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Is this the name of a [`Staged`] file?
pub fn is_staged(name: &str) -> bool {
    name.starts_with(STAGED_PREFIX)
}

/// Removes the staged files that killed processes left in `directory`; what cannot be removed stays.
pub fn sweep_stale(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_staged)) {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        if age.is_some_and(|age| age > STALE_AFTER) {
            // Best effort: the next run finds it again.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Syncs a directory, so that the names in it survive a crash.
pub fn sync_directory(directory: &Path) -> Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .during(|| format!("could not sync directory \"{}\"", directory.display()))
}

/// Syncs the directory that holds `path`.
pub fn sync_parent(path: &Path) -> Result<()> {
    sync_directory(path.parent().unwrap_or(Path::new("/")))
}

/// Makes a directory and those above it; each one made survives a crash.
pub fn create_directories(directory: &Path) -> Result<()> {
    let missing: Vec<&Path> = directory.ancestors().take_while(|path| !path.exists()).collect();
    for path in missing.into_iter().rev().filter(|path| !path.as_os_str().is_empty()) {
        match std::fs::create_dir(path) {
            Ok(()) => sync_parent(path)?,
            // Another process was quicker.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io(format!("could not create directory \"{}\"", path.display()), &error)),
        }
    }
    Ok(())
}

/// Gives a file that is already on disk another name in the same file system, replacing what bears it; durable when this
/// returns.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).during(|| format!("could not rename \"{}\" to \"{}\"", from.display(), to.display()))?;
    sync_parent(to)
}

/// Removes a file, if it is there; it stays removed after a crash.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(format!("could not remove \"{}\"", path.display()), &error)),
    }
}

/// Gives a complete file another name, also on another file system, replacing what bears it; not synced. The old name is
/// gone afterwards.
pub fn hand_over(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("could not rename \"{}\" to \"{}\"", from.display(), to.display());
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::CrossesDevices => {
            let mut staged = Staged::beside(to).during(what)?;
            io::copy(&mut File::open(from).during(what)?, staged.file()).during(what)?;
            staged.rename()?;
            // What stays is removed by whoever put it there.
            let _ = std::fs::remove_file(from);
            Ok(())
        }
        outcome => outcome.during(what),
    }
}

/// Writes a whole file in place of whatever bears the name; durable when this returns.
pub fn write(path: &Path, content: &[u8]) -> Result<()> {
    let what = || format!("could not write \"{}\"", path.display());
    let mut staged = Staged::beside(path).during(what)?;
    io::Write::write_all(staged.file(), content).during(what)?;
    staged.replace()
}

/// The same, with these permission bits whatever the umask says.
pub fn write_with_mode(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let what = || format!("could not write \"{}\"", path.display());
    let mut staged = Staged::private_beside(path).during(what)?;
    io::Write::write_all(staged.file(), content).during(what)?;
    staged.file().set_permissions(std::fs::Permissions::from_mode(mode)).during(what)?;
    staged.replace()
}

/// A file system that is going to be written to, and synced in one call however many files were written.
#[derive(Debug)]
pub struct FileSystem {
    handle: File,
    path: PathBuf,
}

impl FileSystem {
    /// The one that holds `path`. To be opened before anything is written: the kernel tells each handle once of a write-back
    /// that failed (since Linux 5.8), and of one that failed earlier only if nobody has been told yet.
    pub fn holding(path: &Path) -> Result<FileSystem> {
        let handle = OpenOptions::new().read(true).open(path);
        let handle = handle.during(|| format!("could not open \"{}\"", path.display()))?;
        Ok(FileSystem { handle, path: path.to_owned() })
    }

    /// Waits until everything is on the disk: `syncfs(2)`.
    pub fn sync(&self) -> Result<()> {
        let what = || format!("could not sync the file system of \"{}\"", self.path.display());
        rustix::fs::syncfs(&self.handle).map_err(io::Error::from).during(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn staged(path: &Path, content: &str) -> Staged {
        let mut staged = Staged::beside(path).unwrap();
        staged.file().write_all(content.as_bytes()).unwrap();
        staged
    }

    fn names(directory: &Path) -> Vec<String> {
        std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn nothing_bears_the_name_before_it_is_published_and_nothing_is_left_of_what_was_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let file = staged(&path, "x");
        assert!(!path.exists() && names(directory.path()).iter().all(|name| is_staged(name)));
        drop(file);
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn create_new_never_replaces() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        staged(&path, "first").create_new().unwrap();
        assert_eq!(staged(&path, "second").create_new().unwrap_err().kind(), Kind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first");
        staged(&path, "third").replace().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "third");
        assert_eq!(names(directory.path()), ["a"]);
    }

    #[test]
    fn a_file_gets_the_rights_that_were_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        for mode in [0o666, 0o640, 0o600] {
            write_with_mode(&path, b"x", mode).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
    }

    #[test]
    fn only_stale_staged_files_are_swept() {
        let directory = tempfile::tempdir().unwrap();
        let old = directory.path().join(format!("{STAGED_PREFIX}old"));
        let new = directory.path().join(format!("{STAGED_PREFIX}new"));
        let other = directory.path().join("other");
        for path in [&old, &new, &other] {
            std::fs::write(path, "x").unwrap();
        }
        let long_ago = SystemTime::now() - 2 * STALE_AFTER;
        for path in [&old, &other] {
            File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
        }
        sweep_stale(directory.path());
        assert!(!old.exists() && new.exists() && other.exists());
    }

    #[test]
    fn directories_are_made_all_the_way_down() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("a/b/c");
        create_directories(&deep).unwrap();
        create_directories(&deep).unwrap();
        assert!(deep.is_dir());
        std::fs::write(directory.path().join("f"), "").unwrap();
        assert_eq!(create_directories(&directory.path().join("f/x")).unwrap_err().kind(), Kind::Local);
    }
}
