//! What keeps a server's backups from being complete, in words: for whoever is about to take one, and for whoever only asks.
//!
//! Each obstacle is a function of what was seen. Looks at nothing itself, and decides on nothing.

use std::path::Path;

use crate::error::{Error, Kind};
use crate::postgres::client::{ArchiveMode, Archiver, Archiving, Server};
use crate::postgres::control::ControlFile;

/// The data directory is another cluster's: the system identifiers differ.
pub fn foreign(server: &Server, control: &ControlFile, data_directory: &Path) -> Error {
    let what = format!("\"{}\" is not the server's data directory", data_directory.display());
    Error::new(Kind::Refused, what)
        .detail(format!("its system identifier is {}, the server's is {}", control.system_id, server.system_id))
        .hint(format!(
            "The server's is \"{}\"; or set PGHOST and PGPORT to the other server.",
            server.data_directory.display()
        ))
}

/// The server writes too little WAL.
pub fn minimal_wal(server: &Server) -> Option<Error> {
    (server.wal_level == "minimal").then(|| {
        Error::new(Kind::Refused, "the server's WAL does not suffice to recover a backup")
            .detail("wal_level is minimal")
            .hint("Set wal_level = replica in postgresql.conf and restart the server.")
    })
}

/// Nothing is archived. Who archives is known to those who may read all settings: `None` is not known. `command` is what to
/// set `archive_command` to.
pub fn not_archiving(mode: ArchiveMode, archiving: Option<&Archiving>, command: &str) -> Option<Error> {
    let what = "the server does not archive its WAL";
    match (mode, archiving) {
        (ArchiveMode::Off, _) => Some(Error::new(Kind::Refused, what).detail("archive_mode is off").hint(format!(
            "Set archive_mode = on and archive_command = '{command}' in postgresql.conf and restart the server.",
        ))),
        (_, Some(Archiving::Nothing)) => Some(
            Error::new(Kind::Refused, what)
                .detail(format!("archive_mode is on, with {}", Archiving::Nothing))
                .hint(format!("Set archive_command = '{command}' in postgresql.conf and run SELECT pg_reload_conf().")),
        ),
        _ => None,
    }
}

/// What was to be archived last was not. What to do about it depends on who asks.
pub fn failing(archiver: &Archiver, archiving: Option<&Archiving>) -> Option<Error> {
    let failure = archiver.failing()?;
    let with = archiving.map_or(String::new(), |archiving| format!(", with {archiving}"));
    Some(
        Error::new(Kind::Refused, "the server's archiving fails, so the backup could not be complete")
            .detail(format!("{failure}{with}; what that said is in the server's log")),
    )
}
