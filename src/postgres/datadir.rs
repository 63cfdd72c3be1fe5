//! A data directory as it lies on disk: its control file, whether a server uses it, and what of it belongs in a backup.
//!
//! Only reads. Blocks its thread. Knows nothing of where backups go or how they are restored.

mod ready;
mod rules;
mod walk;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

pub use self::ready::ready;
pub use self::rules::is_left_out;
pub use self::walk::{Skipped, Walk, reset_by_now, walk};
use crate::error::{Context, Error, Kind, Recovery, Result};
use crate::postgres::control::{CONTROL_FILE, ControlFile};

/// How often a control file with a wrong CRC is read before it is called damaged, and how long to wait in between: the
/// server writes it in place. `get_controlfile` in src/common/controldata_utils.c reads 10 times; this is for 3 a.m.: to
/// look for a second costs nothing where it is damaged, and what a busy machine writes slowly is not called so.
const CONTROL_FILE_TRIES: usize = 100;
const CONTROL_FILE_PAUSE: Duration = Duration::from_millis(10);

/// Reads the control file, and returns it with the very bytes that it was read from.
///
/// # Errors
/// [`Kind::Refused`] if there is none: this is no data directory. Those of [`ControlFile::parse`], where a wrong CRC
/// stays wrong for a second.
pub fn read_control(data_directory: &Path) -> Result<(ControlFile, Vec<u8>)> {
    let path = data_directory.join(CONTROL_FILE);
    let mut tries = 1;
    loop {
        let bytes = read_control_once(&path)?;
        match ControlFile::parse(&bytes) {
            Err(error) if error.kind() == Kind::Corrupt && tries < CONTROL_FILE_TRIES => {
                tries += 1;
                thread::sleep(CONTROL_FILE_PAUSE);
            }
            parsed => {
                let parsed = parsed.during(|| format!("could not read \"{}\"", path.display()));
                return parsed.map(|control| (control, bytes));
            }
        }
    }
}

/// May this process read a data directory? Looks at a file and at a directory that every cluster has.
///
/// # Errors
/// [`Kind::Denied`] if not.
pub fn check_readable(data_directory: &Path) -> Result<()> {
    let denied = |path: &Path, opened: std::io::Result<()>| match opened {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(Error::io(format!("could not read \"{}\"", path.display()), &error))
        }
        // What else is wrong is said by who looks at the control file.
        _ => Ok(()),
    };
    let (version, global) = (data_directory.join("PG_VERSION"), data_directory.join("global"));
    denied(&version, fs::File::open(&version).map(drop))?;
    denied(&global, fs::read_dir(&global).map(drop))
}

fn read_control_once(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| {
        let what = format!("could not read \"{}\"", path.display());
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Error::new(Kind::Refused, what)
                .detail("this is not the data directory of a PostgreSQL cluster")
                .hint("Name the directory that the SQL command SHOW data_directory prints."),
            _ => Error::io(what, &error),
        }
    })
}

/// Which kind of recovery a server would do, or does, in this directory: as the signal files say, of which
/// `standby.signal` wins (`readRecoverySignalFile` in src/backend/access/transam/xlogrecovery.c).
pub fn recovery_mode(data_directory: &Path) -> Recovery {
    let signalled = |name: &str| data_directory.join(name).symlink_metadata().is_ok();
    if signalled("standby.signal") {
        Recovery::Standby
    } else if signalled("recovery.signal") {
        Recovery::Targeted
    } else {
        Recovery::None
    }
}

/// The data directory that `%p` of `archive_command` or `restore_command` points into: `pg_wal/NAME`, relative to the
/// data directory as PostgreSQL passes it, or absolute. `None` if no data directory lies two levels up. Symbolic links
/// are not resolved, for `pg_wal` may be one.
pub fn data_directory_of(wal_path: &Path) -> Option<PathBuf> {
    let directory = match wal_path.parent()?.parent()? {
        here if here.as_os_str().is_empty() => Path::new("."),
        directory => directory,
    };
    directory.join(CONTROL_FILE).is_file().then(|| directory.to_owned())
}

/// The process id of the server that runs in this directory, if one does: `postmaster.pid` names it and it is alive
/// (`CreateLockFile` in src/backend/utils/init/miscinit.c). Whether it is a server or got the same id later is not asked,
/// nor whether it runs in another container: the answer is to be on the safe side of a restore.
///
/// # Errors
/// [`Kind::Refused`] if `postmaster.pid` is there and names no process: nobody knows whether a server runs.
pub fn running_server(data_directory: &Path) -> Result<Option<u32>> {
    let path = data_directory.join("postmaster.pid");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format!("could not read \"{}\"", path.display()), &error)),
    };
    // A single-user server writes its id with a minus.
    let id = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()).map(i32::unsigned_abs);
    let process = id.and_then(|id| Pid::from_raw(id.cast_signed()));
    let (Some(id), Some(process)) = (id, process) else {
        return Err(Error::new(Kind::Refused, format!("\"{}\" does not name a process", path.display()))
            .hint("Run pg_ctl status, and remove the file if no server runs in this directory."));
    };
    // After a restart of the machine, or in a container, the id may have become our own.
    let ours = id == std::process::id();
    let alive = !ours && test_kill_process(process) != Err(Errno::SRCH);
    Ok(alive.then_some(id))
}
