//! The way to an open session: which places to try, with and without TLS, and when to give up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::config::SslMode as Encryption;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Config, NoTls, Socket};

use crate::error::{Error, Kind, Result};
use crate::postgres::client::parameters::{Host, Parameters, SslMode, Target};
use crate::postgres::client::{failure, password, tls};

/// A dead network is noticed after `KEEPALIVE_IDLE` + `KEEPALIVE_PROBES` * `KEEPALIVE_INTERVAL`: 30 s.
pub(super) const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
pub(super) const KEEPALIVE_PROBES: u32 = 3;

/// An open session: what sends statements, and what tells that (and why) it ended.
pub(super) type Session = (tokio_postgres::Client, watch::Receiver<Option<Arc<str>>>);

/// Opens a session that takes SQL.
pub(super) async fn connect(parameters: &Parameters) -> Result<Session> {
    search(parameters, async |attempt: Attempt<'_>| attempt.open_session().await).await
}

/// One attempt to open a session of some kind.
pub(super) struct Attempt<'a> {
    pub parameters: &'a Parameters,
    pub target: &'a Target,
    pub encryption: Encryption,
    /// What an error begins with.
    pub what: &'a str,
}

/// Opens a session with the first target that answers. As in libpq, a server that answers and refuses ends the search.
/// `open` makes one attempt; how long it may take is seen to here.
pub(super) async fn search<S>(parameters: &Parameters, open: impl AsyncFn(Attempt<'_>) -> Result<S>) -> Result<S> {
    let mut failed: Option<Error> = None;
    for target in &parameters.targets {
        let error = match connect_to(parameters, target, &open).await {
            Ok(session) => return Ok(session),
            Err(error) => merge(failed, error),
        };
        if error.kind() != Kind::Unreachable {
            return Err(error);
        }
        failed = Some(error);
    }
    Err(failed.unwrap_or_else(|| Error::new(Kind::Bug, "there is no server to connect to")))
}

/// Tries one target, with TLS or without as its mode says. The second way is tried only if the first was refused: for
/// want of TLS or in spite of it, for all we know.
async fn connect_to<S>(
    parameters: &Parameters,
    target: &Target,
    open: &impl AsyncFn(Attempt<'_>) -> Result<S>,
) -> Result<S> {
    let (first, second) = ways(parameters.ssl_mode, target);
    match (attempt(parameters, target, first, open).await, second) {
        (Err(refused), Some(second)) if refused.kind() == Kind::Denied => {
            attempt(parameters, target, second, open).await.map_err(|error| merge(Some(refused), error))
        }
        (outcome, _) => outcome,
    }
}

/// The later failure, which keeps the words of the earlier one.
fn merge(earlier: Option<Error>, later: Error) -> Error {
    match earlier {
        Some(earlier) => later.detail(format!("before that, {earlier}")),
        None => later,
    }
}

/// In which ways to try, in order. TLS over a Unix socket does not exist.
fn ways(mode: SslMode, target: &Target) -> (Encryption, Option<Encryption>) {
    match (&target.host, mode) {
        (Host::Socket(_), _) | (_, SslMode::Disable) => (Encryption::Disable, None),
        (_, SslMode::Allow) => (Encryption::Disable, Some(Encryption::Require)),
        (_, SslMode::Prefer) => (Encryption::Prefer, Some(Encryption::Disable)),
        (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => (Encryption::Require, None),
    }
}

/// One attempt, from the first packet to the end of the authentication, within the time that the user allows.
async fn attempt<S>(
    parameters: &Parameters,
    target: &Target,
    encryption: Encryption,
    open: &impl AsyncFn(Attempt<'_>) -> Result<S>,
) -> Result<S> {
    let what = format!("could not connect to PostgreSQL at {target} as user \"{}\"", parameters.user);
    let session = open(Attempt { parameters, target, encryption, what: &what });
    match tokio::time::timeout(parameters.timeout, session).await {
        Ok(session) => session,
        Err(_) => Err(Error::new(Kind::Unreachable, what)
            .detail(format!("there was no answer within {} s", parameters.timeout.as_secs()))
            .hint("Set PGHOST and PGPORT to where the server listens, or PGCONNECT_TIMEOUT to more seconds.")),
    }
}

impl Attempt<'_> {
    async fn open_session(self) -> Result<Session> {
        let Attempt { parameters, target, encryption, what } = self;
        let config = config(parameters, target, encryption);
        let opened = match encryption {
            Encryption::Disable => open(&config, NoTls).await,
            _ => open(&config, tls::connector(parameters.ssl_mode, &parameters.root_certificates)?).await,
        };
        opened.map_err(|error| failure::of_connection(what.to_owned(), &error))
    }
}

fn config(parameters: &Parameters, target: &Target, encryption: Encryption) -> Config {
    let mut config = Config::new();
    config
        .port(target.port)
        .user(&parameters.user)
        .dbname(&parameters.database)
        .application_name(&parameters.application_name)
        .ssl_mode(encryption)
        .keepalives(true)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_PROBES);
    match &target.host {
        Host::Socket(directory) => config.host_path(directory),
        Host::Tcp(name) => config.host(name),
    };
    if let Some(password) = password::password(parameters, target, &parameters.database) {
        config.password(password);
    }
    if let Some(options) = &parameters.options {
        config.options(options);
    }
    config
}

/// Connects, and leaves a task to work the connection. It ends when the server ends the session, or when the client is
/// dropped, and says why.
async fn open<T>(config: &Config, connector: T) -> Result<Session, tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect(connector).await?;
    let (end, ended) = watch::channel(None);
    tokio::spawn(async move {
        let reason = match connection.await {
            Ok(()) => "it was closed".to_owned(),
            Err(error) => failure::words(&error),
        };
        end.send_replace(Some(reason.into()));
    });
    Ok((client, ended))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unix_socket_never_needs_tls() {
        let socket = Target { host: Host::Socket("/tmp".into()), port: 5432 };
        assert_eq!(ways(SslMode::VerifyFull, &socket), (Encryption::Disable, None));
    }

    #[test]
    fn the_modes_that_promise_tls_never_do_without() {
        let target = Target { host: Host::Tcp("db".into()), port: 5432 };
        for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
            assert_eq!(ways(mode, &target), (Encryption::Require, None), "{mode:?}");
        }
        assert_eq!(ways(SslMode::Disable, &target), (Encryption::Disable, None));
    }
}
