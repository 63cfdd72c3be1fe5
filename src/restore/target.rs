//! Is it safe to write there? And the marker by which an interrupted restore is known.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::destination::{Destination, WAL_DIRECTORY};
use super::owner::Owner;
use super::plan::Plan;
use crate::durable::{self, FileSystem};
use crate::error::{Context, Error, Kind, Result};
use crate::postgres::control::{CONTROL_FILE, SystemId};
use crate::postgres::datadir;

/// While it lies in a data directory without `global/pg_control`, all that is there is what an interrupted restore left.
pub(super) const MARKER: &str = ".walden-restore";

/// What the marker says.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    /// Directories outside the data directory, of tablespaces or of the WAL, which were empty when the restore began.
    #[serde(alias = "tablespaces")]
    outside: Vec<PathBuf>,
    /// Was it a restore over what was there? Then they were not empty, and may hold what is none of ours.
    #[serde(default)]
    over: bool,
}

/// A target in which nothing is in the way.
#[derive(Debug)]
pub(super) struct Examined {
    /// What an interrupted restore left.
    leftover: Option<Marker>,
    /// Is what is there of use?
    delta: bool,
}

/// A target that is empty and marked.
#[derive(Debug)]
pub(super) struct Prepared {
    marker: PathBuf,
    owner: Option<Owner>,
    /// Where all of it lies, open since before anything was written.
    file_systems: Vec<FileSystem>,
    /// Directories above those of the cluster that were not there.
    made: Vec<PathBuf>,
}

/// Looks whether the places of a cluster are apart from each other, and empty but for what an interrupted restore left. For a
/// restore over what is there (`over`: whose data directory that may be) they may be those of the same cluster.
/// Changes nothing.
///
/// # Errors
/// [`Kind::Refused`] if a server runs there or anything is in the way.
pub(super) fn examine(destination: &Destination, owner: Option<Owner>, over: Option<SystemId>) -> Result<Examined> {
    if owner.is_none() {
        refuse_root()?;
    }
    let root = destination.root();
    if let Some(pid) = datadir::running_server(root)? {
        return Err(Error::new(Kind::Refused, format!("a server is running in \"{}\"", root.display()))
            .detail(format!("its process id is {pid}"))
            .hint("Stop it first with pg_ctl stop, or restore to another directory."));
    }
    destination.check_apart(real)?;
    let leftover = match fs::read(root.join(MARKER)) {
        Ok(content) if !root.join(CONTROL_FILE).exists() => serde_json::from_slice::<Marker>(&content).ok(),
        _ => None,
    };
    if leftover.as_ref().is_some_and(|left| left.over) && over.is_none() {
        return Err(Error::new(Kind::Refused, format!("\"{}\" holds an unfinished restore", root.display()))
            .detail("it was made over an old data directory, with --delta")
            .hint("Run the same command again, with --delta."));
    }
    if leftover.is_none() && !over.is_some_and(|system| is_data_directory_of(root, system)) {
        refuse_content(root).map_err(|error| {
            error.hint(match over {
                None => "Restore to a directory that is empty or does not exist yet, or over it with --delta.",
                Some(_) => "--delta restores over a data directory of the same cluster only.",
            })
        })?;
    }
    let left = |place: &Path| {
        leftover.as_ref().is_some_and(|left| left.outside.iter().any(|other| other == place))
            || (over.is_some() && is_linked_from(root, place))
    };
    for place in destination.tablespaces().values().filter(|place| !left(place)) {
        refuse_content(place).map_err(|error| {
            error.hint(
                "Put the tablespace elsewhere with --tablespace-mapping OLD=NEW, or all with --tablespace-root DIR.",
            )
        })?;
    }
    if let Some(wal) = destination.wal().filter(|place| !left(place)) {
        refuse_content(wal)
            .map_err(|error| error.hint("Give --waldir a directory that is empty or does not exist yet."))?;
    }
    Ok(Examined { leftover, delta: over.is_some() })
}

/// Does a cluster of this system identifier lie there?
fn is_data_directory_of(root: &Path, system: SystemId) -> bool {
    datadir::read_control(root).is_ok_and(|(control, _)| control.system_id == system)
}

/// Is this place a tablespace of the cluster that lies in `root`, or its WAL? Otherwise it may be another one's, whose files
/// would be removed.
fn is_linked_from(root: &Path, place: &Path) -> bool {
    let Ok(place) = fs::canonicalize(place) else { return false };
    let links = fs::read_dir(root.join("pg_tblspc")).map(|links| links.flatten().map(|link| link.path()).collect());
    let links: Vec<PathBuf> = links.unwrap_or_default();
    let wal = root.join(WAL_DIRECTORY);
    links.iter().chain([&wal]).any(|link| link.is_symlink() && fs::canonicalize(link).is_ok_and(|to| to == place))
}

/// Where a path leads to, with the links in it followed as far as it exists.
///
/// # Errors
/// [`Kind::Refused`] for a link that leads nowhere: what were made behind it is anybody's guess.
fn real(path: &Path) -> Result<PathBuf> {
    let what = || format!("could not look at \"{}\"", path.display());
    let mut missing = PathBuf::new();
    for above in path.ancestors() {
        match fs::canonicalize(above) {
            Ok(known) => return Ok(descend(known, &missing)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if above.is_symlink() {
                    return Err(Error::new(Kind::Refused, format!("the link \"{}\" leads nowhere", above.display()))
                        .hint("Make the directory that it points to, or remove the link."));
                }
                let name = above.components().next_back().map_or_else(PathBuf::new, |name| name.as_os_str().into());
                missing = if missing.as_os_str().is_empty() { name } else { name.join(missing) };
            }
            Err(error) => return Err(Error::io(what(), &error)),
        }
    }
    Ok(path.to_owned())
}

/// The path of what does not exist below a directory that does: no links are there, so `..` leads back.
fn descend(mut from: PathBuf, missing: &Path) -> PathBuf {
    for component in missing.components() {
        match component {
            Component::ParentDir => drop(from.pop()),
            component => from.push(component),
        }
    }
    from
}

impl Examined {
    /// Makes the directories, clears what an interrupted restore left, and marks the data directory. Where the files are to
    /// belong to somebody else, the directories are root's own until all is done: nobody may put links in the way.
    pub(super) fn prepare(self, destination: &Destination, owner: Option<Owner>) -> Result<Prepared> {
        let root = destination.root();
        let marker = root.join(MARKER);
        if let Some(leftover) = self.leftover.filter(|_| !self.delta) {
            for directory in leftover.outside.iter().filter(|&place| destination.outside().any(|other| other == place))
            {
                clear(directory, None)?;
            }
            clear(root, Some(&marker))?;
        }
        let (mut made, mut file_systems) = (Vec::<PathBuf>::new(), Vec::new());
        for place in destination.directories() {
            let above = place.ancestors().skip(1).take_while(|path| !path.exists());
            made.extend(above.filter(|path| !path.as_os_str().is_empty()).map(Path::to_owned));
            durable::create_directories(place)?;
            file_systems.push(FileSystem::holding(place)?);
            remove_staged(place)?;
            if let Some(owner) = owner {
                // Before anything is written it shows whether we may give it away.
                owner.take(place)?;
                Owner::ourselves().take(place)?;
                set_mode(place, 0o700)?;
            }
        }
        let outside = destination.outside().map(Path::to_owned).collect();
        let content = Marker { outside, over: self.delta };
        let content = serde_json::to_vec(&content)
            .map_err(|error| Error::new(Kind::Bug, "could not describe a restore").detail(error.to_string()))?;
        durable::write(&marker, &content)?;
        if self.delta {
            // From here on no server starts on what is there.
            durable::remove(&root.join(CONTROL_FILE))?;
        }
        Ok(Prepared { marker, owner, file_systems, made })
    }
}

/// The server refuses to run as root and to use files of another owner.
fn refuse_root() -> Result<()> {
    match rustix::process::geteuid().is_root() {
        true => Err(Error::new(Kind::Refused, "a cluster cannot belong to root")
            .detail("PostgreSQL would not start on files that belong to root")
            .hint(
                "Name the server's user with --owner postgres, or run the command as that user: sudo -u postgres walden \
                 backup-fetch ...",
            )),
        false => Ok(()),
    }
}

/// Refuses a directory that has anything in it; a staged file is one of ours, whose writer was killed.
fn refuse_content(directory: &Path) -> Result<()> {
    let what = || format!("could not read \"{}\"", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.during(what)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.during(what)?.file_name();
        if !name.to_str().is_some_and(durable::is_staged) && names.len() <= SHOWN {
            names.push(format!("\"{}\"", name.display()));
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let more = if names.len() > SHOWN { " and more" } else { "" };
    names.truncate(SHOWN);
    Err(Error::new(Kind::Refused, format!("\"{}\" is not empty", directory.display()))
        .detail(format!("it holds {}{more}", names.join(", "))))
}

/// Removes the staged files of a writer that was killed.
fn remove_staged(directory: &Path) -> Result<()> {
    let what = || format!("could not clear \"{}\"", directory.display());
    for entry in fs::read_dir(directory).during(what)? {
        let entry = entry.during(what)?;
        if entry.file_name().to_str().is_some_and(durable::is_staged) {
            fs::remove_file(entry.path()).during(what)?;
        }
    }
    Ok(())
}

/// How many names a refusal shows.
const SHOWN: usize = 5;

/// Removes what is in a directory, except `keep`: the marker goes last, with the first new one.
fn clear(directory: &Path, keep: Option<&Path>) -> Result<()> {
    let what = || format!("could not clear away what an interrupted restore left in \"{}\"", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.during(what)?,
    };
    for entry in entries {
        let entry = entry.during(what)?;
        let path = entry.path();
        if keep == Some(path.as_path()) {
            continue;
        }
        match entry.file_type().during(what)?.is_dir() {
            true => fs::remove_dir_all(&path).during(what)?,
            false => fs::remove_file(&path).during(what)?,
        }
    }
    Ok(())
}

impl Prepared {
    /// Makes all directories, and the links to those that lie outside.
    pub(super) fn make_directories(&self, plan: &Plan, root_mode: u32) -> Result<()> {
        self.share(plan.destination(), root_mode)?;
        for (directory, mode) in plan.directories() {
            make_directory(&directory, mode)?;
        }
        self.link(plan.destination())
    }

    /// Gives the data directory, and what lies outside it, these permission bits.
    pub(super) fn share(&self, destination: &Destination, root_mode: u32) -> Result<()> {
        destination.directories().try_for_each(|place| set_mode(place, root_mode))
    }

    /// Makes the links to what lies outside the data directory, where `pg_tblspc` is.
    pub(super) fn link(&self, destination: &Destination) -> Result<()> {
        let tablespaces =
            destination.tablespaces().iter().map(|(oid, place)| (format!("pg_tblspc/{oid}"), place.as_path()));
        let wal = destination.wal().map(|place| (WAL_DIRECTORY.to_owned(), place));
        for (name, place) in tablespaces.chain(wal) {
            let link = destination.root().join(name);
            symlink(place, &link).during(|| format!("could not create the link \"{}\"", link.display()))?;
        }
        Ok(())
    }

    /// Gives everything to its owner, if that is not us.
    pub(super) fn give_away(&self, destination: &Destination) -> Result<()> {
        let Some(owner) = self.owner else { return Ok(()) };
        self.made.iter().try_for_each(|path| owner.take(path))?;
        destination.outside().try_for_each(|place| owner.take_all(place))?;
        owner.take_all(destination.root())
    }

    /// Waits until everything that was written is on the disks. After an error the page cache may hold what they do not, so a
    /// comparison with what is there would be of no use.
    pub(super) fn sync(&self) -> Result<()> {
        let failed = |error: Error| {
            error.hint("Look for the disk's errors in the system's log, then restore into an empty directory, without --delta.")
        };
        self.file_systems.iter().try_for_each(FileSystem::sync).map_err(failed)
    }

    /// The restore is complete: removes the marker.
    pub(super) fn forget(self) -> Result<()> {
        fs::remove_file(&self.marker).during(|| format!("could not remove \"{}\"", self.marker.display()))?;
        durable::sync_parent(&self.marker)
    }
}

/// Makes a directory and those above it, with these permission bits whatever the umask says; one that is there gets them.
pub(super) fn make_directory(directory: &Path, mode: u32) -> Result<()> {
    let made = fs::DirBuilder::new().mode(mode).recursive(true).create(directory);
    made.during(|| format!("could not create \"{}\"", directory.display()))?;
    set_mode(directory, mode)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    let permissions = fs::Permissions::from_mode(mode);
    fs::set_permissions(path, permissions).during(|| format!("could not set the rights of \"{}\"", path.display()))
}
