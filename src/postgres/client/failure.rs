//! What the errors of a session mean to its owner.
//!
//! Owns the way from tokio-postgres's errors to Walden's: the server's own words are kept whole, with their SQLSTATE.

use std::error::Error as _;
use std::io;

use tokio_postgres::error::{DbError, SqlState};

use crate::error::{Error, Kind};

/// What a failed attempt to connect means. `what` names the server.
pub(super) fn of_connection(what: String, error: &tokio_postgres::Error) -> Error {
    let detail = words(error);
    let (kind, hint) = match (error.as_db_error(), cause_io(error)) {
        (Some(refusal), _) => of_refusal(refusal),
        (None, Some(io)) if is_tls(io) => (Kind::Denied, CERTIFICATE),
        (None, Some(io)) if io.kind() == io::ErrorKind::PermissionDenied => (Kind::Denied, SOCKET_RIGHTS),
        (None, Some(_)) => (Kind::Unreachable, WHERE),
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
        Some(code) if lost(code) => Kind::Unreachable,
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
    let mut words = format!("{}: {} (SQLSTATE {})", refusal.severity(), refusal.message(), refusal.code().code());
    if let Some(detail) = refusal.detail() {
        words.push_str(&format!("; {detail}"));
    }
    if let Some(hint) = refusal.hint() {
        words.push_str(&format!("; the server's hint: {hint}"));
    }
    words
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
fn of_refusal(refusal: &DbError) -> (Kind, &'static str) {
    let code = refusal.code();
    match code.code() {
        "28000" | "28P01" => (Kind::Denied, PASSWORD),
        "42501" => (Kind::Denied, DATABASE),
        "3D000" => (Kind::Config, DATABASE),
        "53300" => (Kind::Unreachable, NOT_NOW),
        _ if lost(code) => (Kind::Unreachable, NOT_NOW),
        _ => (Kind::Refused, "Read the server's log for more about this refusal."),
    }
}

/// Is the session gone, or the server not taking any (yet)? Class 57P and class 08.
fn lost(code: &SqlState) -> bool {
    code.code().starts_with("57P") || code.code().starts_with("08")
}

/// The I/O error among the causes.
fn cause_io(error: &tokio_postgres::Error) -> Option<&io::Error> {
    error.source().and_then(|cause| cause.downcast_ref::<io::Error>())
}

/// Did rustls refuse? Its errors come wrapped in those of the stream.
fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}
