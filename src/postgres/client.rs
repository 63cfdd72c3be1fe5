//! One session with a PostgreSQL server: which cluster it serves. What else is asked of it lies in the files below: the
//! backup mode, the archiver, the rights that a backup needs, and whose turn it is.
//!
//! Owns every SQL statement that Walden sends. Never reads the environment of the process (the caller hands it in) and
//! never connects again: backup mode dies with its session, so a lost session is the end of that backup.

mod archiver;
mod backup;
mod base_backup;
mod circumstances;
mod connect;
mod failure;
mod homes;
mod pages;
mod parameters;
mod password;
mod replication;
mod rights;
mod service;
mod tls;
mod turn;
mod wire;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, ToSql};

pub use self::archiver::{Archiver, ArchivingFailure};
pub use self::backup::BackupStop;
pub use self::base_backup::{BaseBackup, Ended, Piece, Transfer};
pub use self::circumstances::Circumstances;
pub use self::homes::Homes;
pub use self::pages::Names;
pub use self::parameters::Environment;
use self::parameters::Parameters;
pub use self::replication::{Replication, Sender};
pub use self::turn::Holder;
use crate::error::{Context, Error, Kind, Result};
use crate::postgres::control::SystemId;
use crate::wal::segment::SegmentSize;
use crate::wal::timeline::Timeline;

/// The major versions that Walden knows.
const MAJORS: std::ops::RangeInclusive<u16> = 13..=18;

/// An open session. Dropping it ends the session, and with it a backup that was begun and not ended.
///
/// The user need not be a superuser. In the database that `PGDATABASE` names (default `postgres`), for a role "backup":
///
/// ```sql
/// GRANT pg_read_all_settings TO backup;
/// GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO backup;                      -- 15 to 18
/// GRANT EXECUTE ON FUNCTION pg_start_backup(text, boolean, boolean), pg_stop_backup(boolean, boolean) TO backup;    -- 13, 14
/// ```
#[derive(Debug)]
pub struct Client {
    session: tokio_postgres::Client,
    ended: watch::Receiver<Option<Arc<str>>>,
    user: String,
    version_num: u32,
}

/// What a server says of itself and its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `server_version_num`, such as 150004.
    pub version_num: u32,
    /// The major version, 13 to 18.
    pub major: u16,
    /// `server_version`, such as `15.4 (Debian 15.4-1)`.
    pub version: String,
    /// Which cluster it serves.
    pub system_id: SystemId,
    /// Where its files are, on its own host.
    pub data_directory: PathBuf,
    /// Is it a standby, or otherwise replaying WAL?
    pub in_recovery: bool,
    /// The size of its WAL segments.
    pub segment_size: SegmentSize,
    /// The timeline it writes; in recovery, that of the last checkpoint it replayed.
    pub timeline: Timeline,
    /// `archive_mode`.
    pub archive_mode: ArchiveMode,
    /// Who archives its WAL.
    pub archiving: Archiving,
    /// `wal_level`: `minimal`, `replica` or `logical`. Only from `replica` on can a backup be recovered.
    pub wal_level: String,
    /// Are data pages checksummed?
    pub data_checksums: bool,
}

/// `archive_mode` (PostgreSQL documentation, "Archiving").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveMode {
    /// Nothing is archived.
    Off,
    /// A primary archives, a standby does not.
    On,
    /// A standby archives too.
    Always,
}

/// What the server does with a completed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Archiving {
    /// Nothing: neither a command nor a library is set, or `archive_mode` is off.
    Nothing,
    /// It runs `archive_command`.
    Command(String),
    /// It calls `archive_library` (15 and later), which wins over a command.
    Library(String),
}

impl fmt::Display for Archiving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Archiving::Nothing => f.write_str("neither archive_command nor archive_library"),
            Archiving::Command(command) => write!(f, "archive_command = '{command}'"),
            Archiving::Library(library) => write!(f, "archive_library = '{library}'"),
        }
    }
}

impl Client {
    /// Connects as libpq would with these variables: `PGHOST` (lists too; default: the sockets in `/var/run/postgresql`
    /// and `/tmp`), `PGPORT`, `PGUSER` (default: the operating system's effective user), `PGDATABASE` (default:
    /// `postgres`, unlike libpq), `PGPASSWORD`, `PGPASSFILE`, `PGSSLMODE`, `PGSSLROOTCERT`, `PGAPPNAME` (default:
    /// `walden`), `PGOPTIONS`, `PGCONNECT_TIMEOUT` (default: 10 s), `PGSERVICE` with `PGSERVICEFILE` and `PGSYSCONFDIR`, and
    /// `HOME` for `~/.pgpass`, `~/.pg_service.conf` and `~/.postgresql/root.crt`. Must be called within a tokio runtime, in which the session then lives.
    ///
    /// The session has no time limits, whatever the server or the role is set to, and finds only built-in functions.
    ///
    /// # Errors
    /// [`Kind::Config`] for a variable that is wrong or not supported, or a database that does not exist;
    /// [`Kind::Unreachable`] if nothing answers in time, or a server that takes no sessions (yet); [`Kind::Denied`] if
    /// the server or its certificate is refused, or refuses us; [`Kind::Refused`] for a version other than 13 to 18.
    pub async fn connect(environment: &Environment) -> Result<Client> {
        Client::open(&Parameters::read(environment)?).await
    }

    async fn open(parameters: &Parameters) -> Result<Client> {
        let (session, ended) = connect::connect(parameters).await?;
        let mut client = Client { session, ended, user: parameters.user.clone(), version_num: 0 };
        client.set_up().await.during(|| "could not set up the session with PostgreSQL")?;
        Ok(client)
    }

    /// Lifts the time limits and learns the version.
    async fn set_up(&mut self) -> Result<()> {
        // Some of these settings are missing in older versions. The empty search path keeps a function that somebody
        // put into the schema "public" from being run with our rights.
        let settings = "SELECT pg_catalog.set_config('search_path', '', false); \
            SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout', \
            'transaction_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout')";
        let done = self.session.batch_execute(settings).await;
        done.map_err(|error| self.failure("could not lift the session's time limits", &error))?;
        let row =
            self.row("could not read the server's version", "SELECT current_setting('server_version_num')::int4", &[]);
        self.version_num = number(column::<i32>(&row.await?, 0)?)?;
        if MAJORS.contains(&self.major()) {
            return Ok(());
        }
        Err(Error::new(Kind::Refused, format!("PostgreSQL {} is not supported", self.major()))
            .detail(format!(
                "the server is of version {}; known are {} to {}",
                self.version_num,
                MAJORS.start(),
                MAJORS.end()
            ))
            .hint("Set PGHOST and PGPORT to a server of a supported version, or install a newer Walden."))
    }

    fn major(&self) -> u16 {
        u16::try_from(self.version_num / 10_000).unwrap_or(u16::MAX)
    }

    /// Asks the server about itself.
    ///
    /// # Errors
    /// [`Kind::Denied`] if the user may not read all settings, [`Kind::Unreachable`] if the session has ended.
    pub async fn server(&self) -> Result<Server> {
        let sql = "SELECT current_setting('server_version'), system_identifier, current_setting('data_directory'), \
            pg_is_in_recovery(), pg_size_bytes(current_setting('wal_segment_size')), \
            CASE WHEN pg_is_in_recovery() THEN timeline_id \
                ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int4 END, \
            current_setting('archive_mode'), current_setting('archive_command'), \
            coalesce(current_setting('archive_library', true), ''), \
            current_setting('wal_level'), current_setting('data_checksums') = 'on' \
            FROM pg_control_system(), pg_control_checkpoint()";
        let row = self.row("could not ask the server about its cluster", sql, &[]).await?;
        let segment_size = number(column::<i64>(&row, 4)?)?;
        let archive_mode = archive_mode(column(&row, 6)?)?;
        Ok(Server {
            version_num: self.version_num,
            major: self.major(),
            version: column(&row, 0)?,
            // PostgreSQL keeps it unsigned and has no SQL type for that.
            system_id: SystemId(column::<i64>(&row, 1)?.cast_unsigned()),
            data_directory: column::<String>(&row, 2)?.into(),
            in_recovery: column(&row, 3)?,
            segment_size: SegmentSize::new(segment_size)
                .ok_or_else(|| unexpected(format!("wal_segment_size is {segment_size}")))?,
            timeline: Timeline(column::<i32>(&row, 5)?.cast_unsigned()),
            archive_mode,
            archiving: archiving(archive_mode, column(&row, 7)?, column(&row, 8)?),
            wal_level: column(&row, 9)?,
            data_checksums: column(&row, 10)?,
        })
    }

    /// Has the session ended? Noticed at once if the server stops, and after 30 s if the network dies.
    pub fn is_closed(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Waits until the session ends, and says why as an error of kind [`Kind::Unreachable`]. Race it against the work
    /// that needs the session.
    pub async fn closed(&self) -> Error {
        let mut ended = self.ended.clone();
        let reason = match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.as_deref().unwrap_or_default().to_owned(),
            Err(_) => "its task was stopped".to_owned(),
        };
        Error::new(Kind::Unreachable, "the session with PostgreSQL has ended").detail(reason).hint(failure::NOT_NOW)
    }

    /// The one row that this statement returns.
    async fn row(&self, what: &str, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row> {
        match self.session.query_one(sql, parameters).await {
            Ok(row) => Ok(row),
            Err(error) => Err(self.failed(what, &error).await),
        }
    }

    /// The one row that this statement returns, if it returns any.
    async fn row_if_any(&self, what: &str, sql: &str) -> Result<Option<Row>> {
        match self.session.query_opt(sql, &[]).await {
            Ok(row) => Ok(row),
            Err(error) => Err(self.failed(what, &error).await),
        }
    }

    /// The connection's task knows more than "connection closed".
    async fn failed(&self, what: &str, error: &tokio_postgres::Error) -> Error {
        if error.is_closed() { self.closed().await.during(what) } else { self.failure(what, error) }
    }

    fn failure(&self, what: &str, error: &tokio_postgres::Error) -> Error {
        let error = failure::of_statement(what, error);
        if error.kind() != Kind::Denied {
            return error;
        }
        error.hint(self.grants(true, &self.backup_functions()))
    }
}

fn archive_mode(setting: &str) -> Result<ArchiveMode> {
    match setting {
        "off" => Ok(ArchiveMode::Off),
        "on" => Ok(ArchiveMode::On),
        "always" => Ok(ArchiveMode::Always),
        other => Err(unexpected(format!("archive_mode is \"{other}\""))),
    }
}

/// With `archive_mode` off the server shows the command as "(disabled)" (`show_archive_command` in
/// src/backend/access/transam/xlog.c).
fn archiving(mode: ArchiveMode, command: String, library: String) -> Archiving {
    match mode {
        ArchiveMode::Off => Archiving::Nothing,
        _ if !library.is_empty() => Archiving::Library(library),
        _ if !command.is_empty() => Archiving::Command(command),
        _ => Archiving::Nothing,
    }
}

fn column<'a, T: FromSql<'a>>(row: &'a Row, index: usize) -> Result<T> {
    row.try_get(index).map_err(|error| unexpected(failure::words(&error)))
}

/// A time that was asked for as whole microseconds since 1970.
fn time(row: &Row, index: usize) -> Result<Option<Timestamp>> {
    let micros: Option<i64> = column(row, index)?;
    Ok(micros.and_then(|micros| Timestamp::from_microsecond(micros).ok()))
}

/// A number that is never negative, of one of SQL's types, which are all signed.
fn number<S: Copy + fmt::Display, U: TryFrom<S>>(signed: S) -> Result<U> {
    U::try_from(signed).map_err(|_| unexpected(format!("{signed} is out of range")))
}

fn unexpected(detail: String) -> Error {
    Error::new(Kind::Bug, "could not understand the answer of PostgreSQL").detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_wins_over_a_command_and_neither_counts_while_archiving_is_off() {
        let told = |mode, command: &str, library: &str| archiving(mode, command.into(), library.into()).to_string();
        assert_eq!(told(ArchiveMode::On, "cp %p /x", ""), "archive_command = 'cp %p /x'");
        assert_eq!(told(ArchiveMode::Always, "cp %p /x", "lib"), "archive_library = 'lib'");
        assert_eq!(told(ArchiveMode::On, "", ""), "neither archive_command nor archive_library");
        assert_eq!(told(ArchiveMode::Off, "(disabled)", "lib"), "neither archive_command nor archive_library");
    }
}
