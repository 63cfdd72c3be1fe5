//! What can be known to be wrong before a backup begins: of the server, of its data directory, of the archive, and of
//! others who take a backup. Takes seconds, and says everything at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::catalogue;
use super::obstacles::{failing, foreign, minimal_wal, not_archiving};
use super::push::Options;
use crate::archive::Archive;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::{self, BackupId, Key};
use crate::observe::{Event, Observer};
use crate::postgres::client::{Archiver, Archiving, Client, Holder, Replication, Sender, Server};
use crate::postgres::control::{ControlFile, SystemId};
use crate::postgres::datadir;
use crate::storage::ListQuery;
use crate::wal::segment::WalFile;

/// A backup is being taken elsewhere, for all we know, if it stored something so recently: parts of the usual size come
/// every few seconds, and none that is given up is tried for longer.
const UNDERWAY: SignedDuration = SignedDuration::from_mins(10);

/// What hints set `archive_command` to.
const COMMAND: &str = "walden wal-push %p";

/// What to do about an archiver that fails.
const REPAIR: &str = "Repair it, and run the backup again when the archiver has got through: SELECT last_archived_time, \
                      last_failed_time FROM pg_stat_archiver.";

/// What is known of the server then.
pub(super) struct Ready {
    pub(super) server: Server,
    pub(super) data_directory: PathBuf,
    pub(super) control: ControlFile,
}

/// Looks at everything, writes the archive's marker, and takes the turn, which the session has until it ends.
///
/// # Errors
/// [`Kind::Denied`] without the rights, in PostgreSQL, on the data directory, or in the store; [`Kind::Refused`] if the
/// backup could never be complete, or another one is being taken.
pub(super) async fn preflight(
    archive: &Archive,
    client: &Client,
    options: &Options,
    observer: &Arc<dyn Observer>,
) -> Result<Ready> {
    client.check_rights().await?;
    let server = client.server().await?;
    let data_directory = options.data_directory.clone().unwrap_or_else(|| server.data_directory.clone());
    let control = read(&data_directory)?;
    let archiver = client.archiver().await?;
    all_at_once(problems(&server, &control, &data_directory, &archiver))?;
    if let Some(holder) = client.take_turn().await? {
        return Err(taken(&holder));
    }
    archive.ensure_marker().await?;
    match server.in_recovery {
        true => require_wal(archive, server.system_id).await?,
        false => compare(archive, server.system_id, &archiver, observer).await?,
    }
    Ok(Ready { server, data_directory, control })
}

/// What is known of a server that sends its backup itself.
pub(super) struct RemoteReady {
    pub(super) replication: Replication,
    pub(super) sender: Sender,
    /// Takes SQL; `None` where the user may replicate and nothing else. Then the archiver cannot be asked, nobody's turn
    /// is known, and damaged relations have no names.
    pub(super) session: Option<Client>,
}

/// The same over a replication connection, as far as that tells, and a session that takes SQL, if there may be one.
///
/// # Errors
/// Those of [`preflight`].
pub(super) async fn remote(
    archive: &Archive,
    mut replication: Replication,
    observer: &Arc<dyn Observer>,
) -> Result<RemoteReady> {
    let sender = replication.sender().await?;
    let session = match replication.session().await {
        Ok(session) => Some(session),
        Err(error) => {
            tracing::info!("the backup does without a session: {error}");
            None
        }
    };
    let archiver = match &session {
        Some(session) if !sender.in_recovery => Some(session.archiver().await?),
        _ => None,
    };
    if !sender.in_recovery {
        let failing = archiver.as_ref().and_then(|archiver| failing(archiver, None)).map(|error| error.hint(REPAIR));
        all_at_once(not_archiving(sender.archive_mode, None, COMMAND).into_iter().chain(failing).collect())?;
    }
    if let Some(session) = &session
        && let Some(holder) = session.take_turn().await?
    {
        return Err(taken(&holder));
    }
    archive.ensure_marker().await?;
    match &archiver {
        _ if sender.in_recovery => require_wal(archive, sender.system_id).await?,
        Some(archiver) => compare(archive, sender.system_id, archiver, observer).await?,
        None => {}
    }
    warn_of_others(archive, sender.system_id, None, observer).await?;
    Ok(RemoteReady { replication, sender, session })
}

/// Reads what tells whose data directory it is, and whether this process may read one. The walk tries all the rest.
fn read(data_directory: &Path) -> Result<ControlFile> {
    datadir::check_readable(data_directory)
        .and_then(|()| datadir::read_control(data_directory))
        .map(|(control, _)| control)
        .map_err(|error| match error.kind() {
            Kind::Denied => error.hint("Run walden backup-push as the server's own user: sudo -u postgres walden ..."),
            _ => error.hint("Name the server's data directory as the argument of backup-push."),
        })
}

/// Everything for which a backup would fail in the end.
fn problems(server: &Server, control: &ControlFile, data_directory: &Path, archiver: &Archiver) -> Vec<Error> {
    let foreign = (control.system_id != server.system_id).then(|| foreign(server, control, data_directory));
    // A standby's WAL is its primary's: that one's settings decide, and its archiver.
    let not_archiving = not_archiving(server.archive_mode, Some(&server.archiving), COMMAND);
    let failing = failing(archiver, Some(&server.archiving)).filter(|_| server.archiving != Archiving::Nothing);
    let failing = failing.map(|error| error.hint(REPAIR));
    let of_primary = [minimal_wal(server), not_archiving, failing];
    let of_primary = of_primary.into_iter().flatten().filter(|_| !server.in_recovery);
    foreign.into_iter().chain(of_primary).collect()
}

/// One error that has all of them: nobody wants to be told the second one after the first is repaired.
fn all_at_once(problems: Vec<Error>) -> Result<()> {
    let hints: Vec<String> = problems.iter().filter_map(|problem| problem.advice().map(str::to_owned)).collect();
    let mut problems = problems.into_iter();
    let Some(first) = problems.next() else { return Ok(()) };
    let mut all = Error::new(first.kind(), first.what());
    if let Some(cause) = first.cause() {
        all = all.detail(cause);
    }
    Err(problems.fold(all, |all, problem| all.detail(problem.to_string())).hint(hints.join(" ")))
}

fn taken(holder: &Holder) -> Error {
    let since = holder.since.map_or(String::new(), |since| format!(", connected since {since:.0}"));
    Error::new(Kind::Refused, "another backup of this server is being taken")
        .detail(format!("its session is process {} (\"{}\"){since}", holder.pid, holder.application_name))
        .hint(format!("Wait until it has ended, or end it with SELECT pg_terminate_backend({}).", holder.pid))
}

/// The WAL of a standby's backup comes into the archive from elsewhere. Where none has ever come, none will.
async fn require_wal(archive: &Archive, system: SystemId) -> Result<()> {
    let query = ListQuery { prefix: layout::wal_prefix(system), fold: true, ..ListQuery::default() };
    let what = "the archive cannot be asked for the WAL of a standby's backup";
    let page = archive.store().list(&query).await.map_err(|error| error.during(what))?;
    if !page.objects.is_empty() || !page.prefixes.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Refused,
        format!("the archive {} has no WAL of this standby's cluster", archive.store().url("")),
    )
    .detail(format!("its primary archives nothing of system identifier {system} there"))
    .hint("Set archive_command = 'walden wal-push %p' on the primary, with the same WALDEN_PREFIX as here (--prefix)."))
}

/// Does the server archive into this archive? What it archived last must be there, unless that went elsewhere, as before
/// a change of its settings, or was deleted since.
async fn compare(archive: &Archive, system: SystemId, archiver: &Archiver, observer: &Arc<dyn Observer>) -> Result<()> {
    let Some(last) = archiver.last_archived_wal.as_deref().and_then(WalFile::parse) else { return Ok(()) };
    let key = Key::Wal(system, last);
    match archive.store().head(&key.to_string()).await {
        Err(error) if error.kind() == Kind::NotFound => {
            observer.notice(Event::Warning(format!(
                "the server has archived {last}, and {} is not there: if archive_command (or archive_library) stores \
                 elsewhere, the backup will wait for its WAL in vain",
                archive.url(&key)
            )));
            Ok(())
        }
        // Whoever writes need not have the right to read.
        Err(error) if error.kind() == Kind::Denied => Ok(()),
        answer => answer.map(drop),
    }
}

/// A backup of another host, such as the primary's while this is a standby, is seen in the archive alone, and looks like
/// the remains of one that failed: so this is a word, not a refusal.
/// `known` was interrupted on this host.
pub(super) async fn warn_of_others(
    archive: &Archive,
    system: SystemId,
    known: Option<BackupId>,
    observer: &Arc<dyn Observer>,
) -> Result<()> {
    let now = Timestamp::now();
    let underway = match catalogue::underway(archive, system, now, UNDERWAY).await {
        Err(error) if error.kind() == Kind::Denied => return Ok(()),
        underway => underway.during(|| "could not look for backups that are being taken")?,
    };
    for (id, stored) in underway.into_iter().filter(|(id, _)| Some(*id) != known) {
        observer.notice(Event::Warning(format!(
            "backup {id} is incomplete and stored something at {stored:.0}: another host may be taking it, or it was \
             interrupted"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_wrong_is_said_in_one_error() {
        assert!(all_at_once(Vec::new()).is_ok());
        let one = || Error::new(Kind::Refused, "one is wrong").detail("why").hint("Set one.");
        let two = || Error::new(Kind::Refused, "two is wrong").hint("Set two.");
        assert_eq!(format!("{:?}", all_at_once(vec![one()]).unwrap_err()), format!("{:?}", one()));
        let both = all_at_once(vec![one(), two()]).unwrap_err();
        assert_eq!(both.to_string(), "one is wrong: why; two is wrong");
        assert_eq!(both.advice(), Some("Set one. Set two."));
    }
}
