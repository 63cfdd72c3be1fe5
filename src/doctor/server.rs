//! The server's side: whether it answers, what it is, and what the user may do there.

use std::path::Path;

use jiff::Timestamp;

use super::Case;
use crate::error::{Error, Kind, Result};
use crate::postgres::client::{Archiver, Circumstances, Client, Server};
use crate::postgres::datadir;
use crate::storage::examination::{Finding, clock};

/// In seconds, unless it is set: a server that does not answer is to be told by its address, before the time is up.
const CONNECT_TIMEOUT: &str = "3";

/// What a server said.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) server: Server,
    pub(super) circumstances: Circumstances,
    pub(super) archiver: Archiver,
}

/// Connects as backup-push would.
pub(super) async fn look(case: &Case, findings: &mut Vec<Finding>) -> Option<Seen> {
    let mut variables = case.variables.clone();
    variables.entry("PGCONNECT_TIMEOUT".to_owned()).or_insert_with(|| CONNECT_TIMEOUT.to_owned());
    let client = match Client::connect(&variables).await {
        Ok(client) => client,
        Err(error) => {
            findings.push(unreached(case, error));
            return None;
        }
    };
    let (seen, rights) = (ask(&client).await, rights(&client).await);
    match &seen {
        Ok(seen) => findings.push(Finding::good("server", description(&seen.server))),
        // The rights tell why.
        Err(error) if error.kind() == Kind::Denied => findings.push(Finding::unseen(
            "server",
            "it answers; its settings may not be read by this user",
            error.advice().unwrap_or_default(),
        )),
        Err(_) => {}
    }
    findings.push(rights);
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => {
            if error.kind() != Kind::Denied {
                findings.push(Finding::bad("server", error));
            }
            return None;
        }
    };
    findings.push(clock(seen.circumstances.clock, Timestamp::now(), "the server's", None));
    findings.push(senders(&seen.circumstances));
    Some(seen)
}

async fn ask(client: &Client) -> Result<Seen> {
    Ok(Seen {
        server: client.server().await?,
        circumstances: client.circumstances().await?,
        archiver: client.archiver().await?,
    })
}

/// Whoever names no server may have none here, as where an archive is only watched. Whoever named one, or a data directory
/// that is in use, wants to be told.
fn unreached(case: &Case, error: Error) -> Finding {
    let named = ["PGHOST", "PGHOSTADDR", "PGSERVICE"].iter().any(|name| case.variables.contains_key(*name));
    let runs = |directory: &Path| !matches!(datadir::running_server(directory), Ok(None));
    let expected = named || case.data_directory.as_deref().is_some_and(runs);
    match error.kind() {
        Kind::Unreachable if !expected => Finding::unseen(
            "server",
            error.to_string(),
            "Start the server, or set PGHOST, PGPORT and PGUSER to find it by.",
        ),
        _ => Finding::bad("server", error),
    }
}

fn description(server: &Server) -> String {
    let role = if server.in_recovery { "a standby" } else { "a primary" };
    let Server { version, system_id, timeline, .. } = server;
    format!("PostgreSQL {version}, {role} on timeline {}, system identifier {system_id}", timeline.0)
}

/// A user with REPLICATION alone can have the server send backups, which is a way to set it up.
async fn rights(client: &Client) -> Finding {
    let replicates = client.may_replicate().await;
    match (client.check_rights().await, replicates) {
        (Ok(()), _) => Finding::good("role", "may take backups"),
        (Err(error), Ok(true)) if error.kind() == Kind::Denied => Finding::limited(
            "role",
            format!("may take remote backups only (backup-push --remote): {error}"),
            error.advice().unwrap_or_default(),
        ),
        (Err(error), _) => Finding::bad("role", error),
    }
}

fn senders(circumstances: &Circumstances) -> Finding {
    match circumstances.max_wal_senders {
        0 => Finding::limited(
            "max_wal_senders",
            "0: nothing can stream from this server, nor take remote backups of it (backup-push --remote)",
            "Set max_wal_senders = 10 in postgresql.conf and restart the server, if that is wanted.",
        ),
        senders => Finding::good("max_wal_senders", senders.to_string()),
    }
}
