//! This host's side: who runs this, the data directory, and the space that WAL needs. Blocks its thread.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use indicatif::BinaryBytes;
use rustix::fs::Access;

use super::Case;
use super::server::Seen;
use crate::backup::obstacles::foreign;
use crate::error::{Error, Kind, Result};
use crate::postgres::control::ControlFile;
use crate::postgres::datadir;
use crate::storage::examination::{Finding, free_space};
use crate::wal::spool::Spool;

/// With fewer segments of space left the server is about to stop: it makes the next one while it fills the last, and a
/// checkpoint that would free some writes WAL itself.
const LAST_SEGMENTS: u64 = 4;

/// `max_wal_size` unless it is set (src/backend/utils/misc/guc_tables.c).
const USUAL_MAX_WAL_SIZE: u64 = 1 << 30;

/// What is remembered of stores takes a few files of some KiB, and the journal of a running backup some MiB.
const MEMORY_SPACE: u64 = 16 << 20;

/// The most that is read of a process's environment (`ARG_MAX` on Linux is a quarter of the stack's limit of 8 MiB).
const LONGEST_ENVIRONMENT: u64 = 2 << 20;

/// The server's files, where they are on this host.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) directory: PathBuf,
    /// What the server was started with, if it runs and this user may see that.
    pub(super) environment: Option<Vec<(String, String)>>,
}

/// Looks at everything.
pub(super) fn look(case: &Case, seen: Option<&Seen>) -> (Option<Local>, Vec<Finding>) {
    let named = case.data_directory.clone();
    let directory = named.or_else(|| seen.map(|seen| seen.server.data_directory.clone()));
    let Some(directory) = directory else {
        let unseen = Finding::unseen(
            "data directory",
            "none was named, and no server names one",
            "Name it: walden doctor /var/lib/postgresql/15/main.",
        );
        return (None, vec![user(None), unseen, memory(case)]);
    };
    let mut findings = vec![user(Some(&directory))];
    let control = match read(case, seen, &directory) {
        Ok(control) => control,
        Err(finding) => {
            findings.extend([*finding, memory(case)]);
            return (None, findings);
        }
    };
    let found = format!("\"{}\", PostgreSQL {}", directory.display(), control.version);
    findings.push(Finding::good("data directory", found));
    findings.extend([wal_space(&directory, &control, seen), spool(case, &directory, &control), memory(case)]);
    let environment = datadir::running_server(&directory).ok().flatten().and_then(environment_of);
    (Some(Local { directory, environment }), findings)
}

/// The commands of a server run as its user: what another one may do says little.
fn user(directory: Option<&Path>) -> Finding {
    let name = |uid: u32| match uzers::get_user_by_uid(uid) {
        Some(user) => user.name().to_string_lossy().into_owned(),
        None => uid.to_string(),
    };
    let own = rustix::process::geteuid().as_raw();
    let owner = directory.and_then(|directory| directory.metadata().ok()).map(|metadata| metadata.uid());
    match owner {
        None => Finding::good("user", name(own)),
        Some(owner) if owner == own => {
            Finding::good("user", format!("{}, to whom the data directory belongs", name(own)))
        }
        Some(owner) => Finding::limited(
            "user",
            format!(
                "{}; the data directory belongs to {}, as whom archive_command runs, with rights of its own",
                name(own),
                name(owner)
            ),
            format!("Run it as that user: sudo -u {} walden doctor.", name(owner)),
        ),
    }
}

/// The control file, if it is that of the server.
fn read(case: &Case, seen: Option<&Seen>, directory: &Path) -> Result<ControlFile, Box<Finding>> {
    let check = "data directory";
    let control = datadir::check_readable(directory).and_then(|()| datadir::read_control(directory));
    let (control, _) = control.map_err(|error| {
        let elsewhere = case.data_directory.is_none() && error.kind() == Kind::Refused;
        Box::new(match elsewhere {
            true => Finding::unseen(
                check,
                format!("the server's, \"{}\", is not on this host", directory.display()),
                "Run walden doctor on the server's host, as its user.",
            ),
            false => Finding::bad(check, unreadable(error, seen)),
        })
    })?;
    match seen {
        Some(seen) if seen.server.system_id != control.system_id => {
            Err(Box::new(Finding::bad(check, foreign(&seen.server, &control, directory))))
        }
        _ => Ok(control),
    }
}

/// Whoever asks for an examination is told how to have it.
fn unreadable(error: Error, seen: Option<&Seen>) -> Error {
    let hint = match (error.kind(), seen) {
        (Kind::Denied, _) => String::from("Run it as the server's user: sudo -u postgres walden doctor."),
        (Kind::Refused, Some(seen)) => format!("Run walden doctor \"{}\".", seen.server.data_directory.display()),
        _ => return error,
    };
    let plain = Error::new(error.kind(), error.what()).hint(hint);
    match error.cause() {
        Some(cause) => plain.detail(cause),
        None => plain,
    }
}

/// A server whose `pg_wal` is full stops.
fn wal_space(directory: &Path, control: &ControlFile, seen: Option<&Seen>) -> Finding {
    let check = "space for WAL";
    let wal = directory.join("pg_wal");
    let Some(free) = free_space(&wal) else {
        return Finding::unseen(
            check,
            format!("the file system of \"{}\" does not say how much is free", wal.display()),
            format!("Run df \"{}\".", wal.display()),
        );
    };
    let words = format!("{} free in \"{}\"", BinaryBytes(free), wal.display());
    let hint = format!(
        "Make room on that file system, or give it more: df -h \"{}\". Remove nothing in pg_wal by hand.",
        wal.display()
    );
    let usual = seen.map_or(USUAL_MAX_WAL_SIZE, |seen| seen.circumstances.max_wal_size);
    if free < LAST_SEGMENTS * control.segment_size.bytes() {
        Finding::bad(
            check,
            Error::new(Kind::Local, "the server is about to stop for lack of space").detail(words).hint(hint),
        )
    } else if free < usual {
        Finding::limited(check, format!("{words}, less than max_wal_size, {}", BinaryBytes(usual)), hint)
    } else {
        Finding::good(check, words)
    }
}

/// Nothing needs the spool, but without it each file is archived and fetched in its turn.
fn spool(case: &Case, directory: &Path, control: &ControlFile) -> Finding {
    let spool = Spool::new(case.spool.clone(), &directory.join("pg_wal/0"));
    let path = spool.directory();
    let hint = "Give this user a directory for it: WALDEN_SPOOL_DIR (--spool-dir).";
    if !may_write(path) {
        let found = format!("\"{}\" cannot be written: nothing is archived or fetched ahead", path.display());
        return Finding::limited("spool", found, hint);
    }
    let words = |free: u64| format!("\"{}\", {} free", path.display(), BinaryBytes(free));
    match free_space(path) {
        Some(free) if free < LAST_SEGMENTS * control.segment_size.bytes() => {
            Finding::limited("spool", format!("{}: too little to fetch ahead", words(free)), hint)
        }
        Some(free) => Finding::good("spool", words(free)),
        None => Finding::good("spool", format!("\"{}\"", path.display())),
    }
}

fn memory(case: &Case) -> Finding {
    let hint = "Give this user a directory of its own for it: WALDEN_CACHE_DIR (--cache-dir).";
    let Some(path) = case.memory.private_directory() else {
        let found = "there is no directory that is this user's alone: each call finds out anew what the store is like, and \
                     an interrupted backup cannot be resumed";
        return Finding::limited("memory", found, hint);
    };
    match free_space(&path) {
        Some(free) if free < MEMORY_SPACE => {
            Finding::limited("memory", format!("\"{}\", {} free", path.display(), BinaryBytes(free)), hint)
        }
        _ => Finding::good("memory", format!("\"{}\"", path.display())),
    }
}

/// Whether this user may write to the directory, or make it.
fn may_write(directory: &Path) -> bool {
    let there = directory.ancestors().find(|path| path.exists());
    there.is_some_and(|path| rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok())
}

/// What a process was started with (`/proc/PID/environ` in proc(5), which its user alone may read): for the postmaster that
/// is what its archiver hands on.
fn environment_of(process: u32) -> Option<Vec<(String, String)>> {
    use std::io::Read;
    let file = std::fs::File::open(format!("/proc/{process}/environ")).ok()?;
    let mut bytes = Vec::new();
    file.take(LONGEST_ENVIRONMENT).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let pairs = text.split('\0').filter_map(|variable| variable.split_once('='));
    Some(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}
