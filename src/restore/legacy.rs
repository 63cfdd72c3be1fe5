//! The restore of a backup that WAL-E or WAL-G wrote: with the same safeguards and the same end as one of ours
//! (docs/legacy-backups.md).
//!
//! Everything that can be known to fail is checked before the first byte is written. Their formats have no checksums, so
//! some can only be known when all is there; then, too, no server starts on it.

mod archive;
mod chain;
pub(super) mod known;
mod suspects;
mod unpack;
mod verdict;
pub(super) mod way;

use std::sync::Arc;

use self::chain::Chain;
use self::verdict::Verdict;
use super::base::Base;
use super::destination::{Destination, WAL_DIRECTORY};
use super::forecast::{self, Configuration, Forecast};
use super::owner::Owner;
use super::target::{self, make_directory};
use super::{Kept, Prospect, Request, Restored, Work, finish, reach, recovery, select};
use crate::error::{Context, Error, Kind, Result};
use crate::layout::basebackups::Writer;
use crate::legacy::sentinel::LegacyBackup;
use crate::observe::{Event, Observer, Stopwatch};
use crate::wal::receive::Sources;

/// What initdb makes below a data directory (`subdirs` in src/bin/initdb/initdb.c). The server makes few of them itself, and
/// some are in no archive where they were empty, or links.
const DIRECTORIES: [&str; 21] = [
    "base",
    "base/1",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_xact",
];

/// What is wrong with one backup of theirs does not concern the others.
fn advised(error: Error) -> Error {
    match error.kind() {
        Kind::Corrupt | Kind::Incomplete => error.hint("Restore another backup: walden backup-list prints them."),
        _ => error,
    }
}

/// A restore that has been thought through.
#[derive(Debug)]
pub(super) struct Planned {
    chain: Chain,
    destination: Destination,
}

/// Looks at the backup, at those that it is a delta of, at its WAL and at the target. Changes nothing.
///
/// # Errors
/// As [`super::foresee`].
pub(super) async fn foresee(
    sources: &Sources,
    (backup, mut base): (LegacyBackup, Base),
    request: Request,
    owner: Option<Owner>,
    mut watch: Stopwatch,
    observer: &Arc<dyn Observer>,
) -> Result<Prospect> {
    refuse_what_needs_a_manifest(&base, &request)?;
    require_proof_of_absence(sources, &base).await?;
    let history = way::history(sources, &base, request.timeline).await?;
    let way = way::way(sources, &base, history, &request.goal).await?;
    let mut warnings = reach::check(&request.goal, &way)?;
    warnings.extend(select::perhaps_too_late(&base, &request.goal));
    warnings.extend(super::password_warning(&request));
    let chain = chain::plan(&sources.legacy, backup).await.map_err(advised)?;
    base.stored_size = chain.stored_size();
    base.files = chain.wanted.as_ref().map(|wanted| wanted.len() as u64);
    let destination = Destination::new(&request.directory, &base.tablespaces, &request.places)?;
    target::examine(&destination, owner, None)?;
    let forecast = forecast::forecast(forecast::Known {
        backup: &base,
        goal: &request.goal,
        owner: request.owner.as_ref(),
        destination: &destination,
        way: &way,
        configuration: configuration(&chain),
        left_out: Vec::new(),
        warnings,
    });
    super::warn(&forecast, observer);
    watch.lap("looking");
    let work = Work::Theirs(Box::new(Planned { chain, destination }));
    Ok(Prospect { forecast, request, work, owner, watch })
}

/// At the end of the WAL the server asks for what is not there, and `wal-fetch` says so only of an archive that is there.
async fn require_proof_of_absence(sources: &Sources, base: &Base) -> Result<()> {
    let error = match sources.archive.prove(base.system_id).await {
        Err(error) if error.kind() == Kind::Config => error,
        proved => return proved,
    };
    if sources.legacy.vouches_for_our_prefix().await? {
        return Ok(());
    }
    Err(Error::new(Kind::Config, error.what())
        .detail("a recovery could not tell where the WAL ends from a mistyped prefix")
        .hint(format!(
            "Take a backup with walden backup-push first, or restore with --prefix {}, where {} has its own.",
            sources.legacy.store().url(""),
            base.writer.map_or_else(String::new, |writer| writer.to_string())
        )))
}

fn refuse_what_needs_a_manifest(base: &Base, request: &Request) -> Result<()> {
    let option = match (request.delta, request.only_databases.is_empty()) {
        (true, _) => "--delta",
        (false, false) => "--only-database",
        (false, true) => return Ok(()),
    };
    let writer = base.writer.map_or_else(String::new, |writer| writer.to_string());
    Err(Error::new(Kind::Refused, format!("backup {} cannot be restored with {option}", base.name))
        .detail(format!("{writer} keeps no checksums of files, and not where in its archives one lies"))
        .hint(format!("Leave {option} out.")))
}

/// Which configuration files the backup lacks, as far as that is known. WAL-E leaves them out.
fn configuration(chain: &Chain) -> Configuration {
    let is_missing = |name: &str| match (chain::writer(chain), &chain.wanted) {
        (Writer::WalE, _) => true,
        (_, Some(wanted)) => !(0..=chain.newest()).any(|number| wanted.is_wanted(number, name)),
        (_, None) => false,
    };
    Configuration { missing: forecast::CONFIGURATION_FILES.into_iter().filter(|name| is_missing(name)).collect() }
}

/// Restores the cluster.
///
/// # Errors
/// After any error the directory has no `global/pg_control`, and the next run clears it away.
pub(super) async fn restore(
    sources: &Sources,
    (forecast, request): (Forecast, Request),
    planned: Planned,
    owner: Option<Owner>,
    mut watch: Stopwatch,
    observer: &Arc<dyn Observer>,
) -> Result<Restored> {
    let Planned { chain, destination } = planned;
    // Again, for a person may have thought about it in between.
    let prepared = target::examine(&destination, owner, None)?.prepare(&destination, owner)?;
    let what = || format!("could not restore backup {} to \"{}\"", forecast.backup.name, request.directory.display());
    make_directories(&destination, &prepared).during(what)?;
    watch.lap("preparing");
    let is_listed = chain.wanted.is_some();
    let start = forecast.backup.start;
    let unpacked = unpack::unpack(&sources.legacy, chain, start, &destination, request.workers, observer);
    let unpacked = unpacked.await.map_err(advised).during(what)?;
    watch.lap("copying");
    let verdict = verdict::judge(&forecast.backup, &destination, &unpacked, is_listed);
    let Verdict { checked, doubts } = verdict.map_err(advised).during(what)?;
    watch.lap("checking");
    prepared.share(&destination, unpacked.root_mode).during(what)?;
    recovery::map_known_tablespaces(&destination).map_err(advised).during(what)?;
    let mode = super::file_mode(unpacked.root_mode);
    recovery::share(destination.root(), mode).during(what)?;
    recovery::configure(destination.root(), &request, mode).during(what)?;
    watch.lap("configuring");
    observer.notice(Event::Phase { name: "syncing".into(), bytes: None });
    finish(&destination, prepared).during(what)?;
    watch.lap("syncing");
    checked.iter().for_each(|remark| tracing::info!("{remark}"));
    doubts.iter().for_each(|doubt| observer.notice(Event::Warning(doubt.clone())));
    observer.notice(Event::Done(super::told(&forecast)));
    Ok(Restored {
        files: unpacked.files,
        bytes: unpacked.bytes,
        forecast,
        kept: Kept::default(),
        remarks: [checked, doubts].concat(),
        phases: watch.laps(),
    })
}

fn make_directories(destination: &Destination, prepared: &target::Prepared) -> Result<()> {
    const MODE: u32 = 0o700;
    prepared.share(destination, MODE)?;
    DIRECTORIES.iter().try_for_each(|name| make_directory(&destination.root().join(name), MODE))?;
    if destination.wal().is_none() {
        make_directory(&destination.root().join(WAL_DIRECTORY), MODE)?;
    }
    prepared.link(destination)
}
