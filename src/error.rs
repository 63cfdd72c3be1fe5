//! What went wrong, in the form PostgreSQL's users know, and the exit code that follows from it.
//!
//! Owns the error type, its kinds and the one function that turns a kind into an exit code.
//! Never prints (that is `cli`) and never retries (that is `storage::retry`).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The result of everything in Walden that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an error. Four answers are never mixed up: absent, denied, unreachable, corrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// The store answered, and the object is certainly absent.
    NotFound,
    /// The command line cannot be understood.
    Usage,
    /// A setting is missing, unknown, contradictory or impossible.
    Config,
    /// The service or the system knows who asks and says no.
    Denied,
    /// No usable answer, with the retries spent.
    Unreachable,
    /// A create-only put found the name taken; the caller compares contents and decides.
    AlreadyExists,
    /// Same name, other content.
    Conflict,
    /// A digest, checksum, frame or header is wrong.
    Corrupt,
    /// The server's own data pages are damaged.
    Damaged,
    /// Doing it would be unsafe: a foreign cluster, a directory in use, a running server.
    Refused,
    /// Something that must be complete has a gap.
    Incomplete,
    /// The local machine failed: disk full, no right on a file, an I/O error.
    Local,
    /// A defect in Walden.
    Bug,
}

impl Kind {
    /// Every kind, for tables and tests.
    pub const ALL: [Kind; 13] = [
        Kind::NotFound,
        Kind::Usage,
        Kind::Config,
        Kind::Denied,
        Kind::Unreachable,
        Kind::AlreadyExists,
        Kind::Conflict,
        Kind::Corrupt,
        Kind::Refused,
        Kind::Incomplete,
        Kind::Local,
        Kind::Damaged,
        Kind::Bug,
    ];

    /// The exit code where nobody but a person or a script reads it. Always in 1..=125.
    pub fn code(self) -> u8 {
        match self {
            Kind::NotFound => 1,
            Kind::Usage => 2,
            Kind::Config => 3,
            Kind::Denied => 4,
            Kind::Unreachable => 5,
            Kind::AlreadyExists | Kind::Conflict => 6,
            Kind::Corrupt => 7,
            Kind::Refused => 8,
            Kind::Incomplete => 9,
            Kind::Local => 10,
            Kind::Damaged => 12,
            Kind::Bug => 70,
        }
    }
}

/// Who reads the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A person, cron, a script.
    Plain,
    /// PostgreSQL's archiver (`archive_command`): its range 1..=125 is that of every kind's code.
    Archiver,
    /// A monitoring system that runs `status --check`: an error means that nothing is known.
    Check,
    /// PostgreSQL's startup process (`restore_command`), in the mode that the signal files of the data directory say.
    Restore(Recovery),
}

/// What PostgreSQL does with a failing `restore_command` depends on the signal file in the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// `standby.signal` is there (it wins over `recovery.signal`): PostgreSQL asks again later.
    Standby,
    /// Only `recovery.signal` is there: a code up to 125 means "end of WAL" and ends the recovery.
    Targeted,
    /// Neither: `pg_rewind`, or a person.
    None,
}

/// The code of `wal-fetch` that makes PostgreSQL stop instead of ending the recovery early: above 125, and not 143,
/// which PostgreSQL takes for a quiet shutdown (`RestoreArchivedFile` in src/backend/access/transam/xlogarchive.c).
pub const STOP_RECOVERY: u8 = 200;

/// The code of `wal-push` when a signal ends it: a shell's 128 and more would make the archiver end too, and not count
/// the failure (`pgarch_archiveXlog` in src/backend/postmaster/pgarch.c).
pub const INTERRUPTED: u8 = 11;

/// The code by which a plugin of Nagios says that it does not know (Monitoring Plugins Development Guidelines, "Plugin
/// Return Codes").
pub const UNKNOWN: u8 = 3;

/// The one place where an error's kind becomes an exit code.
///
/// For `restore_command` under `recovery.signal` alone, everything but certain absence is [`STOP_RECOVERY`]: PostgreSQL
/// would take a lower code for the end of the archive and open the database with rows missing. Under `standby.signal`
/// the same code would shut the standby down, where a lower one makes it ask again.
pub fn exit_code(kind: Kind, caller: Caller) -> u8 {
    match (caller, kind) {
        (Caller::Restore(Recovery::Targeted), Kind::NotFound) => Kind::NotFound.code(),
        (Caller::Restore(Recovery::Targeted), _) => STOP_RECOVERY,
        (Caller::Check, _) => UNKNOWN,
        _ => kind.code(),
    }
}

/// An error with PostgreSQL's three parts. The first line (`what`) is lower case, says what failed on which object and
/// has no full stop; the detail is the cause; the hint is a sentence with a command or setting that can be typed.
pub struct Error(Box<Parts>);

struct Parts {
    kind: Kind,
    what: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl Error {
    /// An error of this kind; `what` is its first line.
    pub fn new(kind: Kind, what: impl Into<String>) -> Error {
        Error(Box::new(Parts { kind, what: what.into(), detail: None, hint: None }))
    }

    /// An error of the local machine, with the system's own words as the detail.
    ///
    /// `PermissionDenied` becomes [`Kind::Denied`], every other one [`Kind::Local`]: that a *local* file is missing is
    /// never "absent from the archive".
    pub fn io(what: impl Into<String>, source: &std::io::Error) -> Error {
        let kind = match source.kind() {
            std::io::ErrorKind::PermissionDenied => Kind::Denied,
            _ => Kind::Local,
        };
        let error = Error::new(kind, what).detail(source.to_string());
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                error.hint("Free some space on that file system and run the command again.")
            }
            _ => error,
        }
    }

    /// Adds the cause; a second one is appended.
    pub fn detail(mut self, detail: impl Into<String>) -> Error {
        let detail = detail.into();
        self.0.detail = Some(match self.0.detail.take() {
            Some(earlier) => format!("{earlier}; {detail}"),
            None => detail,
        });
        self
    }

    /// Sets the hint unless a more specific one, set nearer to the cause, is there.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Says what the failing step was part of: `what` becomes the first line, the old first line begins the detail.
    pub fn during(mut self, what: impl Into<String>) -> Error {
        let cause = std::mem::replace(&mut self.0.what, what.into());
        self.0.detail = Some(match self.0.detail.take() {
            Some(detail) => format!("{cause}: {detail}"),
            None => cause,
        });
        self
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The first line.
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// The cause, if one was given.
    pub fn cause(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// The advice, if one was given.
    pub fn advice(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.detail {
            Some(detail) => write!(f, "{}: {detail}", self.0.what),
            None => f.write_str(&self.0.what),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?}] {self}", self.0.kind)?;
        match &self.0.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Sugar for errors that pass through.
pub trait Context<T> {
    /// See [`Error::during`]; the text is made only on failure.
    fn during<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn during<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| error.during(what()))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn during<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::io(what(), &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archiver_codes_stay_below_126() {
        for kind in Kind::ALL {
            assert!((1..=125).contains(&exit_code(kind, Caller::Archiver)), "{kind:?}");
            assert_ne!(exit_code(kind, Caller::Archiver), INTERRUPTED, "{kind:?}");
        }
    }

    #[test]
    fn a_standby_is_never_shut_down_and_a_targeted_recovery_never_ends_early() {
        for kind in Kind::ALL {
            let standby = exit_code(kind, Caller::Restore(Recovery::Standby));
            let targeted = exit_code(kind, Caller::Restore(Recovery::Targeted));
            assert!((1..=125).contains(&standby), "{kind:?}");
            assert_eq!(targeted <= 125, kind == Kind::NotFound, "{kind:?}");
        }
        assert_eq!(exit_code(Kind::NotFound, Caller::Restore(Recovery::None)), 1);
    }

    #[test]
    fn context_moves_the_first_line_into_the_detail() {
        let error = Error::new(Kind::Corrupt, "digest differs").detail("a is not b").during("could not fetch x");
        assert_eq!(error.what(), "could not fetch x");
        assert_eq!(error.cause(), Some("digest differs: a is not b"));
        assert_eq!(error.kind(), Kind::Corrupt);
    }

    #[test]
    fn the_hint_nearest_to_the_cause_wins() {
        let error = Error::new(Kind::Config, "x").hint("near").hint("far");
        assert_eq!(error.advice(), Some("near"));
    }
}
