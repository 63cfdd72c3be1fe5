//! What this machine remembers of stores between short-lived processes: small facts, each with an expiry.
//!
//! `wal-push` and `wal-fetch` live for milliseconds; what one of them found out about a store would be asked again by the
//! next. Best effort throughout: what cannot be read, written or trusted is merely not remembered, and no caller is ever
//! told of an error. Never holds what cannot be found out again, and never believes a file that somebody else may have
//! written: the directory and its files are this user's alone, or they are passed over.

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags, Stat};
use serde::{Deserialize, Serialize};

use crate::durable::{self, Staged};
use crate::observe::repeats::REPEATED;

/// The longest file that is read or written; credentials with their session token have 1 to 4 KiB.
const LONGEST: u64 = 64 << 10;

/// How many files one sweep looks at. More than that are there only if something else writes into the directory.
const SWEPT: usize = 1000;

/// The memory of one user of this machine; cheap to make, for nothing is read or written before it is asked.
#[derive(Clone, Debug)]
pub struct Memory {
    directory: PathBuf,
}

/// What a file holds.
#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    /// Milliseconds since 1970, by this machine's clock.
    stored: i64,
    /// The same; at this time it is no longer true.
    expires: i64,
    value: String,
}

impl Entry {
    fn new(value: &str, now: i64, for_: Duration) -> Entry {
        let life = i64::try_from(for_.as_millis()).unwrap_or(i64::MAX);
        Entry { stored: now, expires: now.saturating_add(life), value: value.to_owned() }
    }

    /// Not expired, and not from the future: a clock that was set back would let it live for too long.
    fn holds_at(&self, now: i64) -> bool {
        self.stored <= now && now < self.expires
    }
}

impl Memory {
    /// The memory in this directory, which is made when it is first needed; by default in `walden` below
    /// `XDG_RUNTIME_DIR`, if that is this user's own, and else in `walden-UID` in the directory for temporary files.
    pub fn at(directory: Option<PathBuf>) -> Memory {
        Memory { directory: directory.unwrap_or_else(usual_directory) }
    }

    /// The value that was last remembered under this key, unless it has expired.
    pub fn recall(&self, key: &str) -> Option<String> {
        let entry = open_directory(&self.directory).and_then(|directory| read(&directory, &file_name(key)));
        match entry {
            Ok(entry) => Some(entry).filter(|entry| entry.holds_at(now())).map(|entry| entry.value),
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    tracing::debug!(target: REPEATED, "could not use the memory \"{}\": {error}", self.directory.display());
                }
                None
            }
        }
    }

    /// Remembers the value for so long, in place of what was remembered under this key before.
    pub fn remember(&self, key: &str, value: &str, for_: Duration) {
        if let Err(error) = self.write(&file_name(key), &Entry::new(value, now(), for_)) {
            tracing::debug!(target: REPEATED, "could not write to the memory \"{}\": {error}", self.directory.display());
        }
    }

    /// Remembers nothing under this key any longer.
    pub fn forget(&self, key: &str) {
        let removed = open_directory(&self.directory)
            .and_then(|directory| Ok(rustix::fs::unlinkat(&directory, file_name(key), rustix::fs::AtFlags::empty())?));
        if let Err(error) =
            removed.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
        {
            tracing::debug!(target: REPEATED, "could not remove from the memory \"{}\": {error}", self.directory.display());
        }
    }

    /// The directory, made if it is missing, for larger things that are this user's alone; `None` if it cannot be had or is
    /// open to others.
    pub fn private_directory(&self) -> Option<PathBuf> {
        let made = self.make_directory().inspect_err(|error| {
            tracing::info!("could not use the directory \"{}\": {error}", self.directory.display());
        });
        made.ok().map(|_| self.directory.clone())
    }

    fn make_directory(&self) -> io::Result<File> {
        match DirBuilder::new().recursive(true).mode(0o700).create(&self.directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        open_directory(&self.directory)
    }

    fn write(&self, name: &str, entry: &Entry) -> io::Result<()> {
        let text = serde_json::to_vec(entry)?;
        if text.len() as u64 > LONGEST {
            return Err(io::Error::other(format!("{} bytes are too many", text.len())));
        }
        let directory = self.make_directory()?;
        self.sweep(&directory);
        let mut staged = Staged::private_beside(&self.directory.join(name))?;
        staged.write_all(&text)?;
        staged.rename().map_err(|error| io::Error::other(error.to_string()))
    }

    /// Removes what has expired, so that keys that are never asked for again do not pile up.
    fn sweep(&self, directory: &File) {
        durable::sweep_stale(&self.directory);
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        for name in entries.flatten().take(SWEPT).filter_map(|entry| entry.file_name().into_string().ok()) {
            if is_file_name(&name) && !read(directory, &name).is_ok_and(|entry| entry.holds_at(now())) {
                // Another process may have been quicker.
                let _ = rustix::fs::unlinkat(directory, name, rustix::fs::AtFlags::empty());
            }
        }
    }
}

fn usual_directory() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    // A server that was started by su has the variable of whoever called su.
    let own = |path: &PathBuf| path.is_absolute() && path.metadata().is_ok_and(|metadata| metadata.uid() == user);
    match runtime.filter(own) {
        Some(runtime) => runtime.join("walden"),
        None => std::env::temp_dir().join(format!("walden-{user}")),
    }
}

fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Keys have characters and lengths that names of files cannot have.
fn file_name(key: &str) -> String {
    blake3::hash(key.as_bytes()).to_hex()[..32].to_owned()
}

fn is_file_name(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Opened without following a link, and this user's alone.
fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    require_private(&rustix::fs::fstat(&handle)?)?;
    Ok(handle)
}

fn read(directory: &File, name: &str) -> io::Result<Entry> {
    // Without NONBLOCK a FIFO would keep us waiting for its writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?);
    require_private(&rustix::fs::fstat(&file)?)?;
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn require_private(stat: &Stat) -> io::Result<()> {
    let own = stat.st_uid == rustix::process::geteuid().as_raw();
    match own && stat.st_mode & 0o077 == 0 {
        true => Ok(()),
        false => Err(io::Error::new(ErrorKind::PermissionDenied, "it is another user's, or open to others")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const HOUR: Duration = Duration::from_secs(3600);

    /// A memory in a directory that does not exist yet.
    fn memory() -> (Memory, tempfile::TempDir) {
        let scratch = tempfile::tempdir().unwrap();
        (Memory::at(Some(scratch.path().join("deep/memory"))), scratch)
    }

    fn file(memory: &Memory, key: &str) -> PathBuf {
        memory.directory.join(file_name(key))
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    proptest! {
        #[test]
        fn an_entry_holds_from_when_it_was_stored_until_it_expires(now in 0..i64::MAX, life in 0u64..1 << 40, at in 0..i64::MAX) {
            let entry = Entry::new("x", now, Duration::from_millis(life));
            prop_assert_eq!(entry.holds_at(at), at >= now && (at - now) < life as i64);
        }
    }

    #[test]
    fn what_was_remembered_is_recalled_by_the_next_process_and_the_last_word_counts() {
        let (memory, _scratch) = memory();
        assert_eq!(memory.recall("a"), None);
        memory.remember("a", "one", HOUR);
        memory.remember("a", "two\nlines", HOUR);
        memory.remember("b", "", HOUR);
        let next = Memory::at(Some(memory.directory.clone()));
        assert_eq!(next.recall("a").as_deref(), Some("two\nlines"));
        assert_eq!(next.recall("b").as_deref(), Some(""));
        next.forget("a");
        next.forget("never there");
        assert_eq!(memory.recall("a"), None);
    }

    #[test]
    fn files_and_directory_are_this_users_alone_and_nothing_is_left_of_what_expired() {
        let (memory, _scratch) = memory();
        memory.remember("short", "x", Duration::ZERO);
        assert_eq!(memory.recall("short"), None);
        assert!(file(&memory, "short").exists());
        memory.remember("long", "x", HOUR);
        assert!(!file(&memory, "short").exists());
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        assert_eq!((mode(&memory.directory), mode(&file(&memory, "long"))), (0o700, 0o600));
    }

    #[test]
    fn what_others_can_write_or_read_is_not_believed() {
        let (memory, _scratch) = memory();
        memory.remember("a", "x", HOUR);
        for mode in [0o640, 0o602, 0o601] {
            set_mode(&file(&memory, "a"), mode);
            assert_eq!(memory.recall("a"), None, "file {mode:o}");
        }
        set_mode(&file(&memory, "a"), 0o600);
        for mode in [0o750, 0o702, 0o777] {
            set_mode(&memory.directory, mode);
            assert_eq!(memory.recall("a"), None, "directory {mode:o}");
            memory.remember("b", "x", HOUR);
            assert!(!file(&memory, "b").exists(), "directory {mode:o}");
        }
        set_mode(&memory.directory, 0o700);
        assert_eq!(memory.recall("a").as_deref(), Some("x"));
    }

    #[test]
    fn links_are_not_followed() {
        let (memory, scratch) = memory();
        memory.remember("a", "x", HOUR);
        let link = scratch.path().join("link");
        symlink(&memory.directory, &link).unwrap();
        let through = Memory::at(Some(link));
        through.remember("b", "x", HOUR);
        assert_eq!((through.recall("a"), memory.recall("b")), (None, None));
        std::fs::rename(file(&memory, "a"), scratch.path().join("elsewhere")).unwrap();
        symlink(scratch.path().join("elsewhere"), file(&memory, "a")).unwrap();
        assert_eq!(memory.recall("a"), None);
    }

    #[test]
    fn what_another_user_owns_is_not_believed() {
        let (memory, _scratch) = memory();
        memory.remember("a", "x", HOUR);
        // Only root can give a file away; the rule itself is tested in any case.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(file(&memory, "a"), Some(65534), None).unwrap();
            assert_eq!(memory.recall("a"), None);
        }
        let mut stat = rustix::fs::stat(&memory.directory).unwrap();
        assert!(require_private(&stat).is_ok());
        stat.st_uid += 1;
        assert!(require_private(&stat).is_err());
    }

    #[test]
    fn damage_is_forgotten_and_replaced() {
        let (memory, _scratch) = memory();
        memory.remember("a", "x", HOUR);
        std::fs::write(file(&memory, "a"), "{\"stored\":1").unwrap();
        assert_eq!(memory.recall("a"), None);
        memory.remember("a", &"y".repeat(LONGEST as usize), HOUR);
        assert_eq!(memory.recall("a"), None);
        memory.remember("a", "z", HOUR);
        assert_eq!(memory.recall("a").as_deref(), Some("z"));
    }
}
