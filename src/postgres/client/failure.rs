//! What the errors of a session mean to its owner.
//!
//! Owns the way from tokio-postgres's errors, and those of replication connections, to Walden's: the server's own words are kept whole, with their SQLSTATE.

use std::error::Error as _;
use std::{fmt, io};

use tokio_postgres::error::{DbError, SqlState};

use crate::error::{Error, Kind};

/// What a failed attempt to connect means. `what` names the server.
pub(super) fn of_connection(what: String, error: &tokio_postgres::Error) -> Error {
    let detail = words(error);
    let (kind, hint) = match (error.as_db_error(), cause_io(error)) {
        (Some(refusal), _) => of_refusal(refusal.code().code()),
        (None, Some(io)) => of_io(io),
        (None, None) if error.is_closed() => (Kind::Unreachable, WHERE),
        (None, None) if detail.contains("TLS") => (Kind::Denied, NO_TLS),
        // What is left: no password at hand, or a way to authenticate that tokio-postgres does not know.
        (None, None) => (Kind::Denied, PASSWORD),
    };
    Error::new(kind, what).detail(detail).hint(hint)
}

/// What a failed statement means. `what` says what it was for.
pub(super) fn of_statement(what: &str, error: &tokio_postgres::Error) -> Error {
    let kind = match error.code() {
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => Kind::Denied,
        Some(code) if lost(code.code()) => Kind::Unreachable,
        Some(_) => Kind::Refused,
        None if error.is_closed() || cause_io(error).is_some() => Kind::Unreachable,
        // An answer of another type than was asked for.
        None => Kind::Bug,
    };
    let failure = Error::new(kind, what).detail(words(error));
    if kind == Kind::Unreachable { failure.hint(NOT_NOW) } else { failure }
}

/// An error in words: the server's, or the library's and those of its cause.
pub(super) fn words(error: &tokio_postgres::Error) -> String {
    if let Some(refusal) = error.as_db_error() {
        return server_words(refusal);
    }
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn server_words(refusal: &DbError) -> String {
    let (detail, hint) = (refusal.detail().map(str::to_owned), refusal.hint().map(str::to_owned));
    let (severity, code) = (refusal.severity().to_owned(), refusal.code().code().to_owned());
    Refusal { severity, code, message: refusal.message().to_owned(), detail, hint }.to_string()
}

/// What a server says instead of doing what it was asked for (PostgreSQL documentation, "Error and Notice Message Fields").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (SQLSTATE {})", self.severity, self.message, self.code)?;
        if let Some(detail) = &self.detail {
            write!(f, "; {detail}")?;
        }
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; the server's hint: {hint}"))
    }
}

/// Why a replication connection could not be had, or did not do what it was asked for.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server says no.
    Refused(Refusal),
    /// The connection broke, or what came over it cannot be understood.
    Broken(io::Error),
    /// TLS is asked for, and the server has none.
    NoTls,
    /// The server's way to authenticate cannot be gone; why not.
    Authentication(&'static str),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Broken(error)
    }
}

impl Failure {
    /// What it means for an attempt to connect. `what` names the server, `user` is who connects.
    pub(super) fn of_connection(self, what: &str, user: &str) -> Error {
        let (kind, hint) = match &self {
            Failure::Refused(refusal) => of_replication(refusal, user),
            Failure::Broken(error) => with_text(of_io(error)),
            Failure::NoTls => (Kind::Denied, NO_TLS.to_owned()),
            Failure::Authentication(_) => (Kind::Denied, PASSWORD.to_owned()),
        };
        Error::new(kind, what).detail(self.words()).hint(hint)
    }

    /// What it means in a session that was open. `what` says what it was for.
    pub(super) fn of_command(self, what: &str, user: &str) -> Error {
        let (kind, hint) = match &self {
            Failure::Refused(refusal) if refusal.code == SqlState::INSUFFICIENT_PRIVILEGE.code() => {
                of_replication(refusal, user)
            }
            Failure::Refused(refusal) if lost(&refusal.code) => (Kind::Unreachable, NOT_NOW.to_owned()),
            Failure::Refused(_) => return Error::new(Kind::Refused, what).detail(self.words()),
            Failure::Broken(_) => (Kind::Unreachable, NOT_NOW.to_owned()),
            Failure::NoTls | Failure::Authentication(_) => (Kind::Bug, NOT_NOW.to_owned()),
        };
        Error::new(kind, what).detail(self.words()).hint(hint)
    }

    fn words(&self) -> String {
        match self {
            Failure::Refused(refusal) => refusal.to_string(),
            Failure::Broken(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the server closed the connection".to_owned()
            }
            Failure::Broken(error) => error.to_string(),
            Failure::NoTls => "the server does not support TLS".to_owned(),
            Failure::Authentication(why) => (*why).to_owned(),
        }
    }
}

/// What lets a replication connection in: the attribute of the role, and a line of its own in `pg_hba.conf`, where the
/// database "all" does not mean replication (PostgreSQL documentation, "The pg_hba.conf File").
fn of_replication(refusal: &Refusal, user: &str) -> (Kind, String) {
    let quoted = format!("\"{}\"", user.replace('"', "\"\""));
    let hint = match refusal.code.as_str() {
        "28000" => format!(
            "Add a line \"host replication {user} ADDRESS scram-sha-256\" (or \"local replication {user} peer\") to \
             pg_hba.conf on the server and run SELECT pg_reload_conf(); the role needs CREATE ROLE {quoted} LOGIN REPLICATION."
        ),
        "42501" => format!("Run as a superuser: ALTER ROLE {quoted} REPLICATION."),
        "53300" => "Run the command again later, or raise max_wal_senders on the server.".to_owned(),
        code => return with_text(of_refusal(code)),
    };
    (of_refusal(&refusal.code).0, hint)
}

fn with_text((kind, hint): (Kind, &'static str)) -> (Kind, String) {
    (kind, hint.to_owned())
}

/// Kind and hint where the way to the server failed.
fn of_io(error: &io::Error) -> (Kind, &'static str) {
    match error.kind() {
        _ if is_tls(error) => (Kind::Denied, CERTIFICATE),
        io::ErrorKind::PermissionDenied => (Kind::Denied, SOCKET_RIGHTS),
        _ => (Kind::Unreachable, WHERE),
    }
}

const WHERE: &str =
    "Check that the server runs and listens there; set PGHOST (a host name or the directory of the socket) and PGPORT.";
pub(super) const NOT_NOW: &str = "Run the command again when the server takes connections: pg_isready says so.";
const PASSWORD: &str =
    "Set PGUSER, and PGPASSWORD or a line in ~/.pgpass (mode 0600), or change pg_hba.conf on the server.";
const DATABASE: &str = "Set PGDATABASE to a database that is there and that the user may connect to.";
const NO_TLS: &str = "Set ssl = on on the server, or PGSSLMODE=prefer if the network is trusted.";
const CERTIFICATE: &str = "Set PGSSLROOTCERT to the certificate of the server's authority; PGSSLMODE=verify-ca does without the \
     name (subjectAltName) in the certificate.";
const SOCKET_RIGHTS: &str = "Run the command as a user who may open the socket, or set PGHOST=localhost.";

/// Kind and hint for what the server says instead of letting us in (PostgreSQL documentation, "PostgreSQL Error Codes").
fn of_refusal(code: &str) -> (Kind, &'static str) {
    match code {
        "28000" | "28P01" => (Kind::Denied, PASSWORD),
        "42501" => (Kind::Denied, DATABASE),
        "3D000" => (Kind::Config, DATABASE),
        "53300" => (Kind::Unreachable, NOT_NOW),
        _ if lost(code) => (Kind::Unreachable, NOT_NOW),
        _ => (Kind::Refused, "Read the server's log for more about this refusal."),
    }
}

/// Is the session gone, or the server not taking any (yet)? Class 57P and class 08.
fn lost(code: &str) -> bool {
    code.starts_with("57P") || code.starts_with("08")
}

/// The I/O error among the causes.
fn cause_io(error: &tokio_postgres::Error) -> Option<&io::Error> {
    error.source().and_then(|cause| cause.downcast_ref::<io::Error>())
}

/// Did rustls refuse? Its errors come wrapped in those of the stream.
fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}
