//! `backup-fetch`: a cluster out of the archive, ready for PostgreSQL to recover (docs/architecture.md, walk D).
//!
//! Everything that can be known to fail is checked before the first byte is written. `global/pg_control` gets its name last:
//! without it no server starts on what is there.

mod base;
mod copy;
mod delta;
mod destination;
mod forecast;
mod legacy;
mod manifest;
mod owner;
mod plan;
mod reach;
mod recovery;
mod select;
mod selective;
mod target;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use crate::archive::Archive;
use crate::backup::catalogue;
use crate::backup::manifest::{Backup, Files};
use crate::config::conninfo::{ConnectionString, SlotName};
use crate::config::target::{Goal, OwnerName, Point, Selection, TargetTimeline};
use crate::durable;
use crate::error::{Context, Kind, Result};
use crate::layout::Key;
use crate::observe::{Event, Lap, Observer, Stopwatch};
use crate::pipeline;
use crate::postgres::control::{CONTROL_FILE, SystemId};
use crate::wal::receive::Sources;
use crate::wal::segment::{SegmentName, WalFile};
use crate::wal::verify;

pub use self::base::Base;
use self::destination::Destination;
pub use self::destination::Places;
pub use self::forecast::{Configuration, Forecast, Replay};
use self::owner::Owner;
use self::plan::Plan;
use self::reach::Way;
use self::select::Chosen;
use self::selective::Selective;
use self::target::Prepared;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where the cluster is to lie; absolute.
    pub directory: PathBuf,
    /// Which backup; if not given, the newest one that leads to the goal.
    pub selection: Option<Selection>,
    /// How it is to recover.
    pub goal: Goal,
    /// Along which timeline.
    pub timeline: TargetTimeline,
    /// What is to lie elsewhere.
    pub places: Places,
    /// May an old data directory of the same cluster be there, whose equal files stay?
    pub delta: bool,
    /// The databases that are restored, by name; none: all.
    pub only_databases: Vec<String>,
    /// Whom everything is to belong to; `None`: whoever runs this.
    pub owner: Option<OwnerName>,
    /// From where a standby streams.
    pub upstream: Upstream,
    /// Which cluster, if several share the archive.
    pub system_id: Option<SystemId>,
    /// What PostgreSQL is to run for WAL, with its placeholders.
    pub restore_command: String,
    /// Threads that fetch and decompress.
    pub workers: usize,
}

/// From where a standby streams; it follows the archive in any case.
#[derive(Clone, Debug, Default)]
pub struct Upstream {
    /// How it reaches its primary.
    pub conninfo: Option<ConnectionString>,
    /// Its replication slot there.
    pub slot: Option<SlotName>,
}

/// A restore that has been thought through, and has touched nothing yet.
#[derive(Debug)]
pub struct Prospect {
    forecast: Forecast,
    request: Request,
    work: Work,
    owner: Option<Owner>,
    watch: Stopwatch,
}

/// What is to be done, by who wrote the backup.
#[derive(Debug)]
enum Work {
    /// One of ours.
    Ours(Box<(Backup, Plan)>),
    /// One of WAL-E or WAL-G.
    Theirs(Box<legacy::Planned>),
}

impl Prospect {
    /// What it is going to do.
    pub fn forecast(&self) -> &Forecast {
        &self.forecast
    }
}

/// What has been restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What had been said before.
    pub forecast: Forecast,
    /// How many files there are.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What had been there already.
    pub kept: Kept,
    /// What could not be checked, and what came of what could, a sentence each; of a backup of ours there is nothing to say.
    pub remarks: Vec<String>,
    /// How long each phase took.
    pub phases: Vec<Lap>,
}

/// What was there as the backup has it, and has stayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Chooses the backup, proves that its WAL is there, and looks at the target: everything that can be known to fail is known
/// when this returns. Changes nothing.
///
/// # Errors
/// [`Refused`](crate::error::Kind::Refused) for an unsafe target, and for one that no backup leads to;
/// [`Incomplete`](crate::error::Kind::Incomplete) if WAL that is needed is not in the archive.
pub async fn foresee(sources: &Sources, request: Request, observer: &Arc<dyn Observer>) -> Result<Prospect> {
    let watch = Stopwatch::start();
    observer.notice(Event::Phase { name: "looking for a backup and its WAL".into(), bytes: None });
    let owner = request.owner.as_ref().map(Owner::find).transpose()?;
    match select::select(sources, &request, observer).await? {
        Chosen::Ours(backup) => foresee_ours(&sources.archive, *backup, request, owner, watch, observer).await,
        Chosen::Theirs(theirs) => legacy::foresee(sources, *theirs, request, owner, watch, observer).await,
    }
}

async fn foresee_ours(
    archive: &Archive,
    backup: Backup,
    request: Request,
    owner: Option<Owner>,
    mut watch: Stopwatch,
    observer: &Arc<dyn Observer>,
) -> Result<Prospect> {
    let base = Base::of(&backup)?;
    let way = way(archive, &base, &backup, &request).await?;
    let mut warnings = reach::check(&request.goal, &way)?;
    if let Some(check) = backup.damage() {
        warnings.push(format!("backup {} has {}", backup.id, check.count()));
    }
    warnings.extend(password_warning(&request));
    let selective = Selective::of(&backup, &request.only_databases)?;
    let files = catalogue::files(archive, &backup).await?;
    warnings.extend(check_keys(archive, &backup, &files, &way).await?);
    let mut places = request.places.clone();
    if request.delta {
        // The WAL stays where the old cluster had it; a link may be relative to where it lies.
        let linked = fs::read_link(request.directory.join("pg_wal")).map(|to| request.directory.join(to));
        places.wal = places.wal.or(linked.ok());
    }
    let destination = Destination::new(&request.directory, &backup.tablespaces, &places)?;
    let over = request.delta.then_some(backup.system_id);
    target::examine(&destination, owner, over)?;
    let forecast = forecast::forecast(forecast::Known {
        backup: &base,
        goal: &request.goal,
        owner: request.owner.as_ref(),
        destination: &destination,
        way: &way,
        configuration: configuration(&files),
        left_out: selective.left_out.clone(),
        warnings,
    });
    warn(&forecast, observer);
    watch.lap("looking");
    let plan = Plan::new(files, destination, |path| selective.is_hollow(path));
    let work = Work::Ours(Box::new((backup, plan)));
    Ok(Prospect { forecast, request, work, owner, watch })
}

fn warn(forecast: &Forecast, observer: &Arc<dyn Observer>) {
    forecast.warnings.iter().for_each(|warning| observer.notice(Event::Warning(warning.clone())));
}

fn password_warning(request: &Request) -> Option<String> {
    request.upstream.conninfo.as_ref().is_some_and(ConnectionString::holds_secret).then(|| {
        "primary-conninfo holds a password, which will stand in postgresql.auto.conf: a passfile is better".to_owned()
    })
}

/// Whatever is encrypted must open with what is here, before anything is touched: all parts, and the first and the last
/// segment of the WAL. Of other data keys nobody knows what is encrypted for them: WAL between the two perhaps. Says so.
async fn check_keys(archive: &Archive, backup: &Backup, files: &Files, way: &Way) -> Result<Vec<String>> {
    let system = backup.system_id;
    let keys: BTreeSet<_> = files.parts().iter().filter_map(|part| part.age.as_ref()).map(|age| &age.key).collect();
    for key in keys {
        archive.identity(system, key).await.during(|| format!("could not restore backup {}", backup.id))?;
    }
    let first = SegmentName::containing(backup.timeline, backup.start, backup.segment_size()?);
    for segment in [Some(first), way.coverage.last].into_iter().flatten() {
        let key = Key::Wal(system, WalFile::Segment(segment));
        archive.check_opens(&key).await.during(|| format!("the WAL of backup {} could not be read", backup.id))?;
    }
    let mut warnings = Vec::new();
    for name in archive.data_key_names(system).await? {
        match archive.identity(system, &name).await {
            Ok(_) => {}
            Err(error) if error.kind() == Kind::Unreachable => return Err(error),
            Err(error) => warnings.push(format!(
                "WAL that is encrypted for the data key {name} cannot be read, and a recovery that comes to it stops there: \
                 {error}"
            )),
        }
    }
    Ok(warnings)
}

/// Which configuration files the backup lacks.
fn configuration(files: &Files) -> Configuration {
    let is_there = |name: &str| (0..files.len()).any(|number| files.path(number) == name);
    Configuration { missing: forecast::CONFIGURATION_FILES.into_iter().filter(|name| !is_there(name)).collect() }
}

/// The WAL that the recovery will ask for, as far as it is there.
async fn way(archive: &Archive, base: &Base, backup: &Backup, request: &Request) -> Result<Way> {
    let history = select::history(archive, backup, request.timeline).await?;
    let (system, size) = (base.system_id, base.segment_size);
    let inventory = verify::inventory(archive, system, &history, backup.start, size).await?;
    let coverage = inventory.coverage(backup.start, backup.stop, &history);
    let stored = match coverage.last {
        Some(last) => verify::stored_at(archive, system, last).await?,
        None => None,
    };
    let mut way = reach::way(base, history, coverage, stored)?;
    if let Goal::Target(target) = &request.goal
        && let Point::Time(time) = target.point
    {
        let later = |commit| commit > time;
        way.last_commit = verify::last_commit(archive, system, &way.history, &way.coverage, size, later).await?;
    }
    Ok(way)
}

/// Restores a cluster. When this returns `Ok`, everything is on disk, and starting a server there begins the recovery.
///
/// # Errors
/// After any error the directory has no `global/pg_control`, and the next run clears it away.
pub async fn restore(sources: &Sources, prospect: Prospect, observer: &Arc<dyn Observer>) -> Result<Restored> {
    let Prospect { forecast, request, work, owner, watch } = prospect;
    match work {
        Work::Ours(ours) => restore_ours(&sources.archive, (forecast, request), *ours, owner, watch, observer).await,
        Work::Theirs(theirs) => legacy::restore(sources, (forecast, request), *theirs, owner, watch, observer).await,
    }
}

async fn restore_ours(
    archive: &Archive,
    (forecast, request): (Forecast, Request),
    (backup, mut plan): (Backup, Plan),
    owner: Option<Owner>,
    mut watch: Stopwatch,
    observer: &Arc<dyn Observer>,
) -> Result<Restored> {
    let over = request.delta.then_some(backup.system_id);
    // Again, for a person may have thought about it in between.
    let examined = target::examine(plan.destination(), owner, over)?;
    let prepared = examined.prepare(plan.destination(), owner)?;
    let mut kept = Kept::default();
    if request.delta {
        let name = format!("comparing {} files", backup.files);
        observer.notice(Event::Phase { name, bytes: Some(backup.plain_size) });
        (plan, kept) = keep_what_is_the_same(plan, request.workers, observer).await?;
        watch.lap("comparing");
    }
    let plan = Arc::new(plan);
    let destination = plan.destination();
    observer.notice(Event::Phase { name: format!("restoring {} files", backup.files), bytes: Some(backup.plain_size) });
    let what = || format!("could not restore backup {} to \"{}\"", backup.id, request.directory.display());
    prepared.make_directories(&plan, backup.directory_mode).during(what)?;
    watch.lap("preparing");
    copy::copy(archive, &backup, &plan, request.workers, observer).await.during(what)?;
    watch.lap("copying");
    configure(&backup, &plan, &request).during(what)?;
    watch.lap("configuring");
    observer.notice(Event::Phase { name: "syncing".into(), bytes: None });
    finish(destination, prepared).during(what)?;
    watch.lap("syncing");
    observer.notice(Event::Done(told(&forecast)));
    let (files, bytes) = (backup.files, backup.plain_size);
    Ok(Restored { forecast, files, bytes, kept, remarks: Vec::new(), phases: watch.laps() })
}

/// What came of it, in a sentence.
fn told(forecast: &Forecast) -> String {
    format!(
        "backup {} is restored; the recovery follows timeline {}, whose WAL is there up to {}",
        forecast.backup.name, forecast.timeline.0, forecast.window.end
    )
}

/// Finds out what is there as the backup has it, removes everything else, and leaves in the plan what is to be written.
async fn keep_what_is_the_same(plan: Plan, workers: usize, observer: &Arc<dyn Observer>) -> Result<(Plan, Kept)> {
    let (mut plan, observer) = (plan, observer.clone());
    pipeline::blocking(move || {
        let is_kept = delta::compare(&plan, workers, &observer)?;
        plan.keep(&is_kept);
        delta::clean(&plan)?;
        let mut kept = Kept::default();
        for (number, _) in is_kept.iter().enumerate().filter(|(_, is_kept)| **is_kept) {
            kept.files += 1;
            kept.bytes += plan.files().size(number);
        }
        Ok((plan, kept))
    })
    .await
}

/// Permission bits of a file in a data directory, and of one that the group may read (`PG_FILE_MODE_OWNER` and
/// `PG_FILE_MODE_GROUP` in src/include/common/file_perm.h).
const OWNERS_FILE: u32 = 0o600;
const GROUPS_FILE: u32 = 0o640;

/// Of a file in a data directory with these permission bits.
fn file_mode(directory_mode: u32) -> u32 {
    if directory_mode & 0o050 == 0o050 { GROUPS_FILE } else { OWNERS_FILE }
}

/// What comes after the files: the map of the tablespaces, the manifest, the settings of the recovery.
fn configure(backup: &Backup, plan: &Plan, request: &Request) -> Result<()> {
    let mode = file_mode(backup.directory_mode);
    let root = plan.destination().root();
    let changed = recovery::map_tablespaces(plan.destination(), plan.files())?;
    // Of a cluster with hollow files it would not be true.
    if request.only_databases.is_empty() {
        manifest::write(root, backup, plan.files(), changed.as_ref())?;
    }
    recovery::share(root, mode)?;
    recovery::configure(root, request, mode)
}

/// The owner, the sync, and the commit.
fn finish(destination: &Destination, prepared: Prepared) -> Result<()> {
    prepared.give_away(destination)?;
    prepared.sync()?;
    durable::rename(&destination.resolve(CONTROL_FILE), &destination.root().join(CONTROL_FILE))?;
    prepared.forget()
}
