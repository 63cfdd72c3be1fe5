//! Is it safe to write there? And the marker by which an interrupted restore is known.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::{Destination, Plan};
use crate::durable;
use crate::error::{Context, Error, Kind, Result};
use crate::postgres::control::CONTROL_FILE;
use crate::postgres::datadir;

/// While it lies in a data directory without `global/pg_control`, all that is there is what an interrupted restore left.
const MARKER: &str = ".walden-restore";

/// What the marker says.
#[derive(Serialize, Deserialize)]
struct Marker {
    /// Directories of tablespaces, which were empty when the restore began.
    tablespaces: Vec<PathBuf>,
}

/// A target that is empty and marked.
#[derive(Debug)]
pub(super) struct Prepared {
    marker: PathBuf,
}

/// Makes the data directory, checks that it and the tablespaces' directories are empty or hold only what an interrupted
/// restore left, clears that away, and marks the directory.
///
/// # Errors
/// [`Kind::Refused`] if a server runs there or anything else is in the way.
pub(super) fn prepare(destination: &Destination) -> Result<Prepared> {
    refuse_root()?;
    let root = destination.root();
    if let Some(pid) = datadir::running_server(root)? {
        return Err(Error::new(Kind::Refused, format!("a server is running in \"{}\"", root.display()))
            .detail(format!("its process id is {pid}"))
            .hint("Stop it first with pg_ctl stop, or restore to another directory."));
    }
    let marker = root.join(MARKER);
    let leftover = match fs::read(&marker) {
        Ok(content) if !root.join(CONTROL_FILE).exists() => serde_json::from_slice::<Marker>(&content).ok(),
        _ => None,
    };
    if let Some(leftover) = leftover {
        for directory in
            leftover.tablespaces.iter().filter(|&place| destination.tablespaces().values().any(|t| t == place))
        {
            clear(directory, None)?;
        }
        clear(root, Some(&marker))?;
    } else {
        refuse_content(root)
            .map_err(|error| error.hint("Restore to a directory that is empty or does not exist yet."))?;
    }
    for directory in destination.tablespaces().values() {
        refuse_content(directory)
            .map_err(|error| error.hint("Put the tablespace elsewhere with --tablespace-mapping OLD=NEW."))?;
    }
    durable::create_directories(root)?;
    let content = Marker { tablespaces: destination.tablespaces().values().cloned().collect() };
    let content = serde_json::to_vec(&content)
        .map_err(|error| Error::new(Kind::Bug, "could not describe a restore").detail(error.to_string()))?;
    durable::write(&marker, &content)?;
    Ok(Prepared { marker })
}

/// The server refuses to run as root and to use files of another owner.
fn refuse_root() -> Result<()> {
    match rustix::process::geteuid().is_root() {
        true => Err(Error::new(Kind::Refused, "a cluster cannot be restored by root")
            .detail("PostgreSQL would not start on files that belong to root")
            .hint("Run the command as the server's user: sudo -u postgres walden backup-fetch ...")),
        false => Ok(()),
    }
}

/// Refuses a directory that has anything in it; a staged file is one of ours, whose writer was killed.
fn refuse_content(directory: &Path) -> Result<()> {
    let what = || format!("could not read \"{}\"", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.during(what)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.during(what)?;
        if entry.file_name().to_str().is_some_and(durable::is_staged) {
            fs::remove_file(entry.path()).during(what)?;
        } else if names.len() <= SHOWN {
            names.push(format!("\"{}\"", entry.file_name().display()));
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

/// How many names a refusal shows.
const SHOWN: usize = 5;

/// Removes what is in a directory, except `keep`: the marker goes last, with the first new one.
fn clear(directory: &Path, keep: Option<&Path>) -> Result<()> {
    let what = || format!("could not clear away what an interrupted restore left in \"{}\"", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
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
    /// Makes all directories and the links to the tablespaces.
    pub(super) fn make_directories(&self, plan: &Plan, root_mode: u32) -> Result<()> {
        let destination = plan.destination();
        set_mode(destination.root(), root_mode)?;
        for place in destination.tablespaces().values() {
            durable::create_directories(place)?;
            set_mode(place, root_mode)?;
        }
        for (directory, mode) in plan.directories() {
            let made = fs::DirBuilder::new().mode(mode).recursive(true).create(&directory);
            made.during(|| format!("could not create \"{}\"", directory.display()))?;
            set_mode(&directory, mode)?;
        }
        for (oid, place) in destination.tablespaces() {
            let link = destination.root().join(format!("pg_tblspc/{oid}"));
            symlink(place, &link).during(|| format!("could not create the link \"{}\"", link.display()))?;
        }
        Ok(())
    }

    /// The restore is complete: removes the marker.
    pub(super) fn forget(self) -> Result<()> {
        fs::remove_file(&self.marker).during(|| format!("could not remove \"{}\"", self.marker.display()))?;
        durable::sync_parent(&self.marker)
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    let permissions = fs::Permissions::from_mode(mode);
    fs::set_permissions(path, permissions).during(|| format!("could not set the rights of \"{}\"", path.display()))
}
