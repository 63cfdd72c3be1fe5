//! The server's side: what it says of its archiver, what waits, and why a file fails.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{NotSeen, Wanted};
use crate::error::{Error, Result};
use crate::postgres::client::{ArchiveMode, Archiver, Archiving, Client, Server};
use crate::postgres::control::SystemId;
use crate::postgres::datadir;
use crate::postgres::ready::Ready;
use crate::wal::spool::{Failure, Spool};

/// Between two looks at the archiver's count, where something waits: long enough for a server that drains a backlog to
/// archive some files, and no longer than a store takes to be looked at.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// What a server and its data directory say. Whatever is `None` was not seen.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Which cluster.
    pub system_id: Option<SystemId>,
    /// What the server says of itself.
    pub server: Option<Server>,
    /// How its archiver fares.
    pub archiver: Option<Archiver>,
    /// What waits to be archived.
    pub ready: Option<Ready>,
    /// How many files were archived a second just now; looked at only while something waits.
    pub drained_per_second: Option<f64>,
    /// The failure that the last push left word of.
    pub failure: Option<Failure>,
}

/// The file that fails now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// The WAL file; nothing behind it is archived before it is.
    pub file: String,
    /// Since when, if a push left word of that.
    pub since: Option<Timestamp>,
    /// When it failed last.
    pub last: Timestamp,
    /// How often, if a push left word of that.
    pub attempts: Option<u64>,
    /// Why, if a push left word of that; otherwise the server's log tells.
    pub reason: Option<String>,
    /// What could be done about it.
    pub hint: Option<String>,
}

impl Host {
    /// The file that fails now. The server's word is the last one, and the note says why; without a server the note is all
    /// that is known.
    pub fn failing(&self) -> Option<Failing> {
        let note = self.failure.as_ref();
        let Some(archiver) = &self.archiver else {
            return note.map(|note| of_note(note, note.file.clone(), note.last));
        };
        let failing = archiver.failing()?;
        Some(match note.filter(|note| note.file == failing.wal) {
            Some(note) => of_note(note, failing.wal, failing.time),
            None => {
                Failing { file: failing.wal, since: None, last: failing.time, attempts: None, reason: None, hint: None }
            }
        })
    }

    /// Nothing of this server will ever be archived as it is set; why, in words. A standby that does not archive is well.
    pub fn does_not_archive(&self) -> Option<String> {
        let server = self.server.as_ref()?;
        let nothing = server.archiving == Archiving::Nothing && !server.in_recovery;
        nothing.then(|| match server.archive_mode {
            ArchiveMode::Off => "archive_mode is off".to_owned(),
            _ => "neither archive_command nor archive_library is set".to_owned(),
        })
    }

    /// Does its archive_command call this program?
    pub fn archives_here(&self) -> bool {
        let command = self.server.as_ref().map(|server| server.archiving.to_string());
        command.is_some_and(|command| command.contains("walden"))
    }
}

fn of_note(note: &Failure, file: String, last: Timestamp) -> Failing {
    let reason = match &note.detail {
        Some(detail) => format!("{}: {detail}", note.what),
        None => note.what.clone(),
    };
    Failing {
        file,
        since: Some(note.since),
        last: last.max(note.last),
        attempts: Some(note.attempts),
        reason: Some(reason),
        hint: note.hint.clone(),
    }
}

impl Wanted {
    /// Has somebody said that there is a server: by its directory, or by libpq's variables?
    pub fn expects_server(&self) -> bool {
        let named = ["PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE"];
        let set = |name: &str| self.variables.get(name).is_some_and(|value| !value.is_empty());
        self.data_directory.is_some() || named.into_iter().any(set)
    }
}

/// Looks at the server and at the data directory, as far as they can be seen from here; `None` if neither can.
pub(super) async fn look(wanted: &Wanted) -> (Option<Host>, Vec<NotSeen>) {
    let (mut host, mut unseen) = (Host::default(), Unseen { expected: wanted.expects_server(), all: Vec::new() });
    let client = unseen.take("the server", Client::connect(&wanted.variables).await);
    if let Some(client) = &client {
        host.server = unseen.take("the server's settings", client.server().await);
        host.archiver = unseen.take("how the server's archiver fares", client.archiver().await);
    }
    let of_server = host.server.as_ref().map(|server| server.system_id);
    let named = wanted.data_directory.clone();
    // The server's path means something here only if it is the same directory.
    let directory = named.clone().or_else(|| host.server.as_ref().map(|server| server.data_directory.clone()));
    let control = directory.as_deref().map(datadir::read_control);
    let of_directory = match (control, &named) {
        (Some(Ok((control, _))), _) => Some(control.system_id),
        (Some(Err(error)), Some(_)) => unseen.take("the data directory", Err(error)),
        _ => None,
    };
    if let (Some(server), Some(own), true) = (of_server, of_directory, named.is_some())
        && server != own
    {
        unseen.say(format!("the cluster's server: what answers at PGHOST is the server of cluster {server}"));
        host = Host::default();
    }
    let client = client.filter(|_| host.server.is_some() || host.archiver.is_some());
    host.system_id = of_directory.filter(|_| named.is_some()).or(of_server);
    let directory = directory.filter(|_| of_directory.is_some() && of_directory == host.system_id);
    host.ready = match (&client, &directory) {
        (Some(client), None) => unseen.take("what waits to be archived", client.ready().await),
        (_, Some(directory)) => unseen.take("what waits to be archived", datadir::ready(directory)),
        (None, None) => None,
    };
    if let Some(directory) = &directory {
        let spool = wanted.spool.as_ref().map(|spool| directory.join(spool));
        let spool = Spool::new(spool, &directory.join("pg_wal/any"));
        host.failure = unseen.take("why a file fails", spool.failure()).flatten();
    }
    if let (Some(client), Some(before), Some(1..)) = (&client, &host.archiver, host.ready.map(|ready| ready.files)) {
        host.drained_per_second = unseen.take("how fast the queue drains", drain(client, before.archived_count).await);
    }
    let seen = host.archiver.is_some() || host.system_id.is_some();
    (seen.then_some(host), unseen.all)
}

/// How many files the archiver gets through in a second.
async fn drain(client: &Client, before: u64) -> Result<f64> {
    let began = Instant::now();
    tokio::time::sleep(BETWEEN_LOOKS).await;
    let after = client.archiver().await?.archived_count;
    Ok(after.saturating_sub(before) as f64 / began.elapsed().as_secs_f64())
}

/// Collects what could not be seen.
struct Unseen {
    expected: bool,
    all: Vec<NotSeen>,
}

impl Unseen {
    fn take<T>(&mut self, what: &str, outcome: Result<T, Error>) -> Option<T> {
        outcome.map_err(|error| self.say(format!("{what}: {error}"))).ok()
    }

    fn say(&mut self, what: String) {
        self.all.push(NotSeen { what, expected: self.expected });
    }
}
