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
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

/// An open session: what sends statements, and what tells that (and why) it ended.
pub(super) type Session = (tokio_postgres::Client, watch::Receiver<Option<Arc<str>>>);

/// Opens a session with the first target that answers. As in libpq, a server that answers and refuses ends the search.
pub(super) async fn connect(parameters: &Parameters) -> Result<Session> {
    let mut failed: Option<Error> = None;
    for target in &parameters.targets {
        let error = match connect_to(parameters, target).await {
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
async fn connect_to(parameters: &Parameters, target: &Target) -> Result<Session> {
    let (first, second) = ways(parameters.ssl_mode, target);
    match (attempt(parameters, target, first).await, second) {
        (Err(refused), Some(second)) if refused.kind() == Kind::Denied => {
            attempt(parameters, target, second).await.map_err(|error| merge(Some(refused), error))
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
async fn attempt(parameters: &Parameters, target: &Target, encryption: Encryption) -> Result<Session> {
    let config = config(parameters, target, encryption);
    let what = format!("could not connect to PostgreSQL at {target} as user \"{}\"", parameters.user);
    let session = async {
        if encryption == Encryption::Disable {
            return Ok(open(&config, NoTls).await);
        }
        let connector = tls::connector(parameters.ssl_mode, &parameters.root_certificates)?;
        Ok(open(&config, connector).await)
    };
    match tokio::time::timeout(parameters.timeout, session).await {
        Ok(session) => session?.map_err(|error| failure::of_connection(what, &error)),
        Err(_) => Err(Error::new(Kind::Unreachable, what)
            .detail(format!("there was no answer within {} s", parameters.timeout.as_secs()))
            .hint("Set PGHOST and PGPORT to where the server listens, or PGCONNECT_TIMEOUT to more seconds.")),
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
    if let Some(password) = password::password(parameters, target) {
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
