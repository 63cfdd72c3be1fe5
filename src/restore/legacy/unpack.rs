//! Writes what is in the archives of a chain, several at once. What an archive says decides nothing about where a file goes
//! but its path below the data directory.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tar::{Archive, Entry, EntryType};
use tokio::sync::mpsc;

use super::archive::{self, Padded};
use super::chain::{Chain, Link, Namer};
use super::suspects::Suspects;
use crate::durable::WRITTEN_AT_ONCE;
use crate::error::{Context, Error, Kind, Result};
use crate::legacy::Legacy;
use crate::legacy::codec::Decoded;
use crate::legacy::increment::{Increment, read_exactly};
use crate::legacy::parts::{Part, Tally};
use crate::legacy::tree;
use crate::legacy::wanted::{Use, Wanted};
use crate::observe::{Event, Observer};
use crate::pipeline;
use crate::postgres::control::CONTROL_FILE;
use crate::postgres::datadir;
use crate::postgres::lsn::Lsn;
use crate::postgres::page::PAGE_SIZE;
use crate::restore::copy::is_zero;
use crate::restore::destination::{Destination, WAL_DIRECTORY};
use crate::restore::recovery::{BACKUP_LABEL, TABLESPACE_MAP};
use crate::restore::target::make_directory;

/// Files of which only the newest backup's own count, and which WAL-G's list does not name.
const LAST_FILES: [&str; 3] = [CONTROL_FILE, BACKUP_LABEL, TABLESPACE_MAP];

/// Left out besides what is no part of a backup: with it no server since PostgreSQL 12 starts (`RECOVERY_COMMAND_FILE` in
/// src/backend/access/transam/xlogrecovery.c).
const RECOVERY_CONF: &str = "recovery.conf";

/// Permission bits of directories that no archive has.
const OWNERS_DIRECTORY: u32 = 0o700;

/// What has been written.
#[derive(Debug)]
pub(super) struct Unpacking {
    legacy: Legacy,
    destination: Destination,
    wanted: Option<Wanted>,
    newest: usize,
    observer: Arc<dyn Observer>,
    suspects: Mutex<Suspects>,
    root_mode: AtomicU32,
    files: AtomicU64,
    bytes: AtomicU64,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// Files that were written.
    pub(super) files: u64,
    /// Their bytes, as they came out of the archives.
    pub(super) bytes: u64,
    /// Permission bits of the data directory.
    pub(super) root_mode: u32,
    /// Pages whose checksum was not right.
    pub(super) suspects: Suspects,
    /// What was in the archives of the newest backup, files that were left out too.
    pub(super) tally: Tally,
}

/// What was in one archive.
#[derive(Clone, Copy, Debug, Default)]
struct Contents {
    bytes: u64,
    members: u64,
}

/// Writes everything that is wanted of a chain, one backup after the other. `start` is where the recovery begins.
///
/// # Errors
/// [`Kind::Corrupt`] if an archive is damaged, or a file is missing in all of them.
pub(super) async fn unpack(
    legacy: &Legacy,
    chain: Chain,
    start: Lsn,
    destination: &Destination,
    workers: usize,
    observer: &Arc<dyn Observer>,
) -> Result<Unpacked> {
    let newest = chain.newest();
    let mut unpacking = Unpacking {
        legacy: legacy.clone(),
        destination: destination.clone(),
        wanted: chain.wanted,
        newest,
        observer: observer.clone(),
        suspects: Mutex::new(Suspects::new(start)),
        root_mode: AtomicU32::new(OWNERS_DIRECTORY),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    };
    let mut tally = Tally::default();
    for (number, link) in chain.links.iter().enumerate() {
        announce(link, number, newest, observer);
        let shared = Arc::new(unpacking);
        tally = shared.clone().link(number, link, workers).await?;
        // All jobs have ended, and with them their shares.
        unpacking = Arc::into_inner(shared).ok_or_else(|| Error::new(Kind::Bug, "a job goes on behind its end"))?;
        unpacking = unpacking.require_all(number, link).await?;
    }
    Ok(Unpacked {
        files: unpacking.files.into_inner(),
        bytes: unpacking.bytes.into_inner(),
        root_mode: unpacking.root_mode.into_inner(),
        suspects: unpacking.suspects.into_inner().unwrap_or_else(PoisonError::into_inner),
        tally,
    })
}

fn announce(link: &Link, number: usize, newest: usize, observer: &Arc<dyn Observer>) {
    let name = match newest {
        0 => format!("restoring {} archives", link.parts.len()),
        _ => format!(
            "restoring {} archives of {} ({} of {})",
            link.parts.len(),
            link.backup.name,
            number + 1,
            newest + 1
        ),
    };
    observer.notice(Event::Phase { name, bytes: link.backup.plain_size.filter(|_| newest == 0) });
}

impl Unpacking {
    /// All archives of one backup; those that were written last come last.
    async fn link(self: Arc<Self>, number: usize, link: &Link, workers: usize) -> Result<Tally> {
        let (last, others): (Vec<&Part>, Vec<&Part>) = link.parts.iter().partition(|part| part.is_last());
        let mut contents = Vec::new();
        for (parts, at_once) in [(others, workers.max(1)), (last, 1)] {
            let (sender, receiver) = mpsc::channel(parts.len().max(1));
            for part in parts {
                // The channel has room for all of them.
                let _ = sender.try_send(part.clone());
            }
            drop(sender);
            let (unpacking, folder) = (self.clone(), link.backup.name.parts());
            let done = pipeline::run(receiver, at_once, move |part: Part| {
                let (unpacking, folder) = (unpacking.clone(), folder.clone());
                async move { Ok((part.name.clone(), unpacking.part(number, folder, part).await?)) }
            });
            contents.extend(done.await?);
        }
        let last = contents.iter().max_by(|(one, _), (other, _)| one.cmp(other)).map(|(_, contents)| *contents);
        let last = last.unwrap_or_default();
        Ok(Tally {
            bytes: contents.iter().map(|(_, contents)| contents.bytes).sum(),
            last_bytes: last.bytes,
            last_members: last.members,
        })
    }

    async fn part(self: Arc<Self>, number: usize, folder: String, part: Part) -> Result<Contents> {
        let key = format!("{folder}{}", part.name);
        let (legacy, codec) = (self.legacy.clone(), part.codec);
        // How large an archive may be is said nowhere; what is written has the bound of the disk.
        legacy.read(&key, codec, u64::MAX, move |plain| self.read(number, &part, plain)).await
    }

    /// Every wanted file of the list has been seen.
    async fn require_all(mut self, number: usize, link: &Link) -> Result<Unpacking> {
        let Some(wanted) = self.wanted.take() else { return Ok(self) };
        let missing = wanted.missing(number);
        if missing == 0 {
            self.wanted = Some(wanted);
            return Ok(self);
        }
        let (namer, _) = self.legacy.files(&link.backup, Namer { wanted, number, names: Vec::new() }).await?;
        let more = if missing > namer.names.len() { " and others" } else { "" };
        Err(Error::new(Kind::Corrupt, format!("backup {} lacks files that its list has", link.backup.name))
            .detail(format!("{missing} are in none of its archives: {}{more}", namer.names.join(", "))))
    }

    fn read(&self, number: usize, part: &Part, plain: &mut Decoded) -> Result<Contents> {
        let padded = Padded::new(plain);
        let (end, bound) = (padded.end(), padded.bound());
        let mut tar = Archive::new(padded);
        let (mut contents, mut members_end) = (Contents::default(), 0);
        for entry in tar.entries().map_err(archive::error)? {
            let mut entry = entry.map_err(archive::error)?;
            let entry_end = entry.raw_file_position().saturating_add(entry.size());
            bound.goes_on_from(entry_end);
            if entry.header().entry_type().is_pax_global_extensions() {
                continue;
            }
            let path = tree::relative(&entry.path_bytes())?;
            contents.members += 1;
            if entry.header().entry_type().is_file() {
                contents.bytes += entry.size();
            }
            self.member(number, path.as_deref(), &mut entry)?;
            members_end = entry_end;
            if end.get().is_some_and(|end| end < members_end) {
                return Err(archive::cut(path.as_deref().unwrap_or_default()));
            }
        }
        bound.lift();
        archive::finish(tar, members_end, part.codec, self.wanted.is_some())?;
        Ok(contents)
    }

    fn member(&self, number: usize, path: Option<&str>, entry: &mut Entry<'_, Padded<'_>>) -> Result<()> {
        let mode = entry.header().mode().map_err(archive::error)? & 0o777;
        let kind = entry.header().entry_type();
        let Some(path) = path else {
            // PostgreSQL refuses any other (`checkDataDir` in src/backend/utils/init/miscinit.c).
            if kind.is_dir() && number == self.newest && matches!(mode, 0o700 | 0o750) {
                self.root_mode.store(mode, Ordering::Relaxed);
            }
            return Ok(());
        };
        let usage = self.usage(number, path);
        // The list of a backup that the server has sent has no directories, and an empty one is above no file.
        let is_directory = kind.is_dir() && number == self.newest;
        if (usage == Use::PassOver && !is_directory) || datadir_leaves_out(path) {
            return Ok(());
        }
        match kind {
            EntryType::Directory => self.directory(path, mode),
            EntryType::Regular | EntryType::Continuous => {
                let size = entry.size();
                let what = || format!("could not restore \"{path}\"");
                match usage {
                    Use::Apply => self.apply(path, size, entry),
                    _ => self.write(number, path, mode, size, entry),
                }
                .during(what)
            }
            // The server's own links, of which the restore makes those that it is to have.
            EntryType::Symlink if path == WAL_DIRECTORY || tree::tablespace(path).is_some() => Ok(()),
            EntryType::Symlink | EntryType::Fifo | EntryType::Char | EntryType::Block => {
                self.observer.notice(Event::Warning(format!("\"{path}\" is left out: it is no file and no directory")));
                Ok(())
            }
            _ => Err(Error::new(Kind::Corrupt, format!("\"{path}\" is something that no data directory has"))
                .detail("in the tar archive it is neither a file, a directory nor a symbolic link")),
        }
    }

    fn usage(&self, number: usize, path: &str) -> Use {
        let listed = self.wanted.as_ref().map_or(Use::Write, |wanted| wanted.see(number, path));
        match LAST_FILES.contains(&path) {
            true if number == self.newest => Use::Write,
            true => Use::PassOver,
            false => listed,
        }
    }

    fn directory(&self, path: &str, mode: u32) -> Result<()> {
        let is_link = |oid| self.destination.tablespaces().contains_key(&oid) && path.matches('/').count() == 1;
        if tree::tablespace(path).is_some_and(is_link) || (path == WAL_DIRECTORY && self.destination.wal().is_some()) {
            return Ok(());
        }
        make_directory(&self.destination.resolve(path), mode)
    }

    /// Writes a whole file.
    fn write(&self, number: usize, path: &str, mode: u32, size: u64, source: &mut impl Read) -> Result<()> {
        let target = self.destination.resolve(path);
        if path == CONTROL_FILE {
            // In a backup that the server has sent it is in two archives.
            let _ = fs::remove_file(&target);
        }
        let file = create(&target, mode)?;
        file.set_len(size).during(|| writing(&target))?;
        let mut pages = Suspects::pages_of(path);
        let mut buffer = vec![0; WRITTEN_AT_ONCE];
        let mut offset = 0;
        while offset < size {
            let count = (size - offset).min(buffer.len() as u64) as usize;
            read_whole(source, &mut buffer[..count], path)?;
            let piece = &buffer[..count];
            if !is_zero(piece) {
                file.write_all_at(piece, offset).during(|| writing(&target))?;
            }
            pages.look(piece, offset, number == self.newest, &self.suspects);
            offset += count as u64;
            self.advance(count as u64);
        }
        self.files.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Writes an increment over a file that an older backup has left there.
    fn apply(&self, path: &str, size: u64, source: &mut impl Read) -> Result<()> {
        let target = self.destination.resolve(path);
        let increment = Increment::read(source, size)?;
        let file = OpenOptions::new().write(true).open(&target).during(|| writing(&target))?;
        file.set_len(increment.file_size).during(|| writing(&target))?;
        let mut pages = Suspects::pages_of(path);
        let mut page = [0; PAGE_SIZE];
        for block in increment.blocks {
            let offset = u64::from(block) * PAGE_SIZE as u64;
            read_exactly(source, &mut page)?;
            file.write_all_at(&page, offset).during(|| writing(&target))?;
            // Later increments may put a page right, so what counts is what is there in the end.
            pages.look(&page, offset, false, &self.suspects);
            self.advance(PAGE_SIZE as u64);
        }
        Ok(())
    }

    fn advance(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.observer.notice(Event::Advanced(bytes));
    }
}

/// Is this no part of a data directory that is to recover? Unlike in a backup of ours, `backup_label` and `tablespace_map`
/// are files of it here.
fn datadir_leaves_out(path: &str) -> bool {
    (datadir::is_left_out(path) && !LAST_FILES.contains(&path)) || path == RECOVERY_CONF
}

fn writing(target: &Path) -> String {
    format!("could not write \"{}\"", target.display())
}

/// Creates a file, and the directories above it that no archive has had yet.
fn create(target: &Path, mode: u32) -> Result<File> {
    let open = || OpenOptions::new().write(true).create_new(true).mode(mode).open(target);
    let file = match open() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let above = target.parent().unwrap_or(Path::new("/"));
            make_directory(above, OWNERS_DIRECTORY)?;
            open()
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(Error::new(Kind::Corrupt, "the backup has it twice"));
        }
        file => file,
    };
    let file = file.during(|| format!("could not create \"{}\"", target.display()))?;
    // The umask may have taken rights away.
    let permissions = fs::Permissions::from_mode(mode);
    file.set_permissions(permissions).during(|| format!("could not set the rights of \"{}\"", target.display()))?;
    Ok(file)
}

fn read_whole(source: &mut impl Read, buffer: &mut [u8], path: &str) -> Result<()> {
    source.read_exact(buffer).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => archive::cut(path),
        _ => archive::error(error),
    })
}
