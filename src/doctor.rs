//! `walden doctor`: whether all is set up, and what to do where it is not. On the side of the store, who we are and what
//! we may do there; on the server's, whether it archives, and here; on this host's, files, rights and space.
//!
//! Looks at everything, also where something fails, and changes nothing but for a small object of its own in the store. Runs
//! none of the commands that the server is configured with. What could not be seen is told as such.

mod archiving;
mod command;
mod encryption;
mod environment;
mod host;
mod server;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use self::archiving::Arrival;
use self::host::Local;
use self::server::Seen;
use crate::archive::Archive;
use crate::config::Location;
use crate::error::{Error, Kind, Result};
use crate::pipeline;
use crate::postgres::client::Environment;
use crate::postgres::control::SystemId;
use crate::storage::examination::{Finding, Outcome};
use crate::storage::memory::Memory;

/// How long each side is looked at, so that the whole takes less than 10 s: the store beside the server and the host, which
/// come one after the other, and last what takes both.
const FOR_STORE: Duration = Duration::from_secs(7);
const FOR_SERVER: Duration = Duration::from_secs(5);
const FOR_HOST: Duration = Duration::from_secs(2);
const FOR_BOTH: Duration = Duration::from_secs(2);

/// What is examined, and from where.
#[derive(Debug)]
pub struct Case {
    /// The archive's place.
    pub prefix: Location,
    /// The variables of this process: `PG*` to find the server by.
    pub variables: Environment,
    /// The data directory that was named.
    pub data_directory: Option<PathBuf>,
    /// The spool that was chosen.
    pub spool: Option<PathBuf>,
    /// What this machine remembers.
    pub memory: Memory,
    /// Why those that write would be refused, for a variable of another tool that cannot be honoured.
    pub refusal: Option<Error>,
    /// This program's file.
    pub program: PathBuf,
    /// How to call it with the same settings, up to the verb, for hints.
    pub walden: String,
}

/// What was found, side by side.
#[derive(Debug, Default)]
pub struct Report {
    /// Of the store.
    pub store: Vec<Finding>,
    /// Of the server.
    pub server: Vec<Finding>,
    /// Of this host.
    pub host: Vec<Finding>,
}

impl Report {
    /// The sides with their names.
    pub fn sides(&self) -> [(&'static str, &[Finding]); 3] {
        [("store", &self.store), ("server", &self.server), ("host", &self.host)]
    }
}

/// Looks at everything; takes less than 10 s whatever does not answer. `opening` is the archive, as soon as it is open.
pub async fn examine(mut case: Case, opening: impl Future<Output = Result<Archive>>) -> Report {
    let refusal = case.refusal.take();
    let case = Arc::new(case);
    let mut report = Report::default();
    let ((archive, mut store), (seen, local, server, host)) = tokio::join!(of_store(opening), of_server(&case));
    let arrival = arrival(archive.as_ref(), seen.as_ref()).await;
    // Whoever may not list has been told so; and what cannot be reached has no content.
    if let Some(archive) = archive {
        let systems = match may_list(&store) {
            true => {
                let (finding, systems) = content(&archive, seen.as_ref()).await;
                store.push(finding);
                systems
            }
            false => Vec::new(),
        };
        store.extend(encryption(&archive, seen.as_ref(), &systems).await);
    }
    report.store = store;
    report.server = server;
    report.host = host;
    report.host.push(environment::look(&case.variables));
    report.host.extend(refusal.map(|error| Finding::bad("writing", error.during("writers are refused"))));
    if let Some(seen) = &seen {
        report.server.extend(archiving::examine(&case, seen, local.as_ref(), &arrival));
    }
    report
}

async fn of_store(opening: impl Future<Output = Result<Archive>>) -> (Option<Archive>, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut opened = None;
    let look = async {
        match opening.await {
            Ok(archive) => {
                opened = Some(archive.clone());
                archive.store().examine(&mut findings).await;
            }
            Err(error) => findings.push(Finding::bad("store", error)),
        }
    };
    if timeout(FOR_STORE, look).await.is_err() {
        findings.push(Finding::bad("store", too_slow("the store", FOR_STORE, STORE_HINT)));
        // It would not answer what is asked next either.
        opened = None;
    }
    (opened, findings)
}

async fn of_server(case: &Arc<Case>) -> (Option<Seen>, Option<Local>, Vec<Finding>, Vec<Finding>) {
    let mut server = Vec::new();
    let seen = match timeout(FOR_SERVER, server::look(case, &mut server)).await {
        Ok(seen) => seen,
        Err(_) => {
            server.push(Finding::bad("server", too_slow("the server", FOR_SERVER, SERVER_HINT)));
            None
        }
    };
    // A file system that does not answer keeps its thread: nobody waits for that one.
    let (of_case, of_server) = (case.clone(), seen.clone());
    let look = pipeline::blocking(move || Ok(host::look(&of_case, of_server.as_ref())));
    let (local, host) = match timeout(FOR_HOST, look).await {
        Ok(Ok(looked)) => looked,
        Ok(Err(error)) => (None, vec![Finding::bad("files", error)]),
        Err(_) => (None, vec![Finding::bad("files", too_slow("a file system of this host", FOR_HOST, FILES_HINT))]),
    };
    (seen, local, server, host)
}

const STORE_HINT: &str = "Check AWS_ENDPOINT_URL, AWS_REGION and the network, or what mounts the directory.";
const KMS_HINT: &str = "Check AWS_ENDPOINT_URL_KMS and the network, where KMS wraps the keys.";
const SERVER_HINT: &str = "Check PGHOST, PGPORT and the network, and whether the server takes new sessions.";
const FILES_HINT: &str = "Run df: it stands still at the file system that does not answer.";

fn too_slow(who: &str, limit: Duration, hint: &str) -> Error {
    Error::new(Kind::Unreachable, format!("{who} was not examined to the end in {} s", limit.as_secs())).hint(hint)
}

fn may_list(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.check == "list" && matches!(finding.outcome, Outcome::Good(_)))
}

/// Whether what the server archived last is in this archive.
async fn arrival(archive: Option<&Archive>, seen: Option<&Seen>) -> Arrival {
    let (Some(archive), Some(seen)) = (archive, seen) else { return Arrival::Unknown };
    timeout(FOR_BOTH, archiving::arrival(archive, seen)).await.unwrap_or(Arrival::Unknown)
}

async fn content(archive: &Archive, seen: Option<&Seen>) -> (Finding, Vec<SystemId>) {
    let finding = match timeout(FOR_BOTH, archive.clusters()).await {
        Ok(Ok(systems)) => return (of_clusters(&systems, seen), systems),
        Ok(Err(error)) if error.kind() == Kind::Config => {
            Finding::good("archive", "empty: nothing was archived here yet")
        }
        Ok(Err(error)) => Finding::bad("archive", error),
        Err(_) => Finding::bad("archive", too_slow("the archive", FOR_BOTH, STORE_HINT)),
    };
    (finding, Vec::new())
}

/// Both sides of it within one patience: KMS may not answer.
async fn encryption(archive: &Archive, seen: Option<&Seen>, systems: &[SystemId]) -> Vec<Finding> {
    let system = seen.map(|seen| seen.server.system_id).or(systems.first().copied());
    let look = async {
        let writing = encryption::writing(archive, system).await;
        [Some(writing), encryption::reading(archive, systems).await]
    };
    match timeout(FOR_BOTH, look).await {
        Ok(findings) => findings.into_iter().flatten().collect(),
        Err(_) => vec![Finding::bad("encrypting", too_slow("encryption", FOR_BOTH, KMS_HINT))],
    }
}

/// Several clusters may share an archive; that this one has nothing there and others have is worth a word.
fn of_clusters(systems: &[SystemId], seen: Option<&Seen>) -> Finding {
    let names: Vec<String> = systems.iter().map(ToString::to_string).collect();
    let names = names.join(", ");
    match seen.map(|seen| seen.server.system_id) {
        Some(ours) if !systems.is_empty() && !systems.contains(&ours) => Finding::limited(
            "archive",
            format!("of the system identifiers {names}; nothing is there of this server's, {ours}"),
            "Nothing, if they are to share it. Otherwise set WALDEN_PREFIX (--prefix) to a place of this server's own.",
        ),
        _ => Finding::good("archive", format!("of the system identifiers {names}")),
    }
}

/// Whether all is well, but for limits and for what was not looked at.
///
/// # Errors
/// The first failure's kind, with the number of failures.
pub fn judge(report: &Report) -> Result<()> {
    let all: Vec<&Finding> = report.sides().iter().flat_map(|(_, findings)| findings.iter()).collect();
    let failures: Vec<&Error> = all.iter().copied().filter_map(failure).collect();
    match failures.first() {
        None => Ok(()),
        Some(first) => Err(Error::new(first.kind(), format!("{} of {} checks failed", failures.len(), all.len()))),
    }
}

fn failure(finding: &Finding) -> Option<&Error> {
    match &finding.outcome {
        Outcome::Bad(error) => Some(error),
        _ => None,
    }
}
