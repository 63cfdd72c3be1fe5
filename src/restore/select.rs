//! Which backup leads to the goal.

use std::sync::Arc;

use jiff::Timestamp;

use super::base::Base;
use super::legacy::{known, way};
use crate::archive::Archive;
use crate::backup::catalogue;
use crate::backup::manifest::Backup;
use crate::config::target::{Goal, Point, Selection, TargetTimeline};
use crate::error::{Error, Kind, Result};
use crate::legacy::backups::Found;
use crate::legacy::sentinel::{LegacyBackup, bound_times};
use crate::observe::Observer;
use crate::postgres::control::SystemId;
use crate::restore::Request;
use crate::wal::receive::Sources;
use crate::wal::segment::SegmentName;
use crate::wal::timeline::History;
use crate::wal::verify;

/// The backup that is restored.
#[derive(Debug)]
pub(super) enum Chosen {
    /// One of ours.
    Ours(Box<Backup>),
    /// One that WAL-E or WAL-G wrote, with what is known of it.
    Theirs(Box<(LegacyBackup, Base)>),
}

/// The chosen backup, or the newest one that leads to the goal: of ours and of theirs, by when they ended.
///
/// # Errors
/// [`Kind::NotFound`] if there is no such backup; [`Kind::Refused`] if none leads to the goal.
pub(super) async fn select(sources: &Sources, request: &Request, observer: &Arc<dyn Observer>) -> Result<Chosen> {
    let archive = &sources.archive;
    let chosen = match &request.selection {
        Some(Selection::Id(id)) => {
            let system = cluster(archive, request).await?;
            Candidate::Ours(catalogue::read(archive, system, *id).await.map_err(|error| unknown(error, id))?)
        }
        Some(Selection::Legacy(name)) => {
            Candidate::Theirs(sources.legacy.backup(name).await.map_err(|error| unknown(error, name))?)
        }
        Some(Selection::Latest) => return refuse_too_late(newest(sources, request).await?, request),
        None => return newest_before(sources, request, observer).await,
    };
    refuse_too_late(chosen.know(sources, request.system_id).await?, request)
}

/// Refuses a backup that was named and cannot lead to the goal; one that may is a matter for PostgreSQL, which refuses a
/// target that comes before the copy is consistent.
fn refuse_too_late((chosen, base): (Chosen, Base), request: &Request) -> Result<Chosen> {
    match too_late(&base, &request.goal) {
        None => Ok(chosen),
        Some(_) if perhaps_too_late(&base, &request.goal).is_some() => Ok(chosen),
        Some(why) => Err(Error::new(Kind::Refused, format!("backup {} does not lead to the target", base.name))
            .detail(why)
            .hint("Leave the backup out: walden backup-fetch then chooses one.")),
    }
}

fn unknown(error: Error, name: &dyn std::fmt::Display) -> Error {
    match error.kind() {
        Kind::NotFound => Error::new(Kind::NotFound, format!("there is no complete backup {name}"))
            .hint("walden backup-list prints the backups."),
        _ => error,
    }
}

async fn cluster(archive: &Archive, request: &Request) -> Result<SystemId> {
    match request.system_id {
        Some(system) => Ok(system),
        None => archive.only_cluster().await,
    }
}

/// A backup that may be chosen.
enum Candidate {
    Ours(Backup),
    Theirs(LegacyBackup),
}

impl Candidate {
    /// When it ended, and where it began, for those that ended at the same time.
    fn order(&self) -> (Timestamp, SegmentName) {
        match self {
            Candidate::Ours(backup) => (backup.finished, backup.id.segment()),
            Candidate::Theirs(backup) => (backup.finished, backup.name.segment),
        }
    }

    /// What is known of it, if it is one of the cluster `wanted`.
    async fn know(self, sources: &Sources, wanted: Option<SystemId>) -> Result<(Chosen, Base)> {
        Ok(match self {
            Candidate::Ours(backup) => {
                let base = Base::of(&backup)?;
                (Chosen::Ours(Box::new(backup)), base)
            }
            Candidate::Theirs(backup) => {
                let base = known::base(sources, &backup, wanted).await?;
                (Chosen::Theirs(Box::new((backup, base.clone()))), base)
            }
        })
    }
}

/// All complete backups, oldest first, and the cluster that they are to be of, where that is known. One of theirs whose
/// sentinel is damaged is passed over with a warning.
async fn candidates(sources: &Sources, request: &Request) -> Result<(Vec<Candidate>, Option<SystemId>)> {
    let mut theirs = Vec::new();
    for found in sources.legacy.backups().await? {
        match found {
            Found::Complete(backup) => theirs.push(*backup),
            Found::Damaged(name, error) => tracing::warn!("backup {name} is passed over: {error}"),
            Found::Incomplete(_) => {}
        }
    }
    let system = match cluster(&sources.archive, request).await {
        // Where theirs is all that there is, ours need not have been begun.
        Err(error) if !theirs.is_empty() && matches!(error.kind(), Kind::Config | Kind::NotFound) => None,
        system => Some(system?),
    };
    let mut candidates = Vec::new();
    if let Some(system) = system {
        candidates.extend(catalogue::complete(&sources.archive, system).await?.into_iter().map(Candidate::Ours));
        theirs.retain(|backup| backup.system_id.is_none_or(|other| other == system));
    }
    let ours: Vec<(SegmentName, Timestamp)> =
        candidates.iter().map(|ours| ours.order()).map(|(finished, begins)| (begins, finished)).collect();
    bound_times(&mut theirs, &ours);
    candidates.extend(theirs.into_iter().map(Candidate::Theirs));
    candidates.sort_by_key(Candidate::order);
    Ok((candidates, system))
}

/// Why one of theirs is none: it is of another cluster, which WAL-E does not say, or its WAL is gone.
fn is_passed_over(error: &Error) -> bool {
    let is_so = matches!(error.kind(), Kind::Refused | Kind::Incomplete);
    if is_so {
        tracing::warn!("a backup is passed over: {error}");
    }
    is_so
}

/// The newest backup of all.
async fn newest(sources: &Sources, request: &Request) -> Result<(Chosen, Base)> {
    let (candidates, system) = candidates(sources, request).await?;
    let mut refusal = None;
    for candidate in candidates.into_iter().rev() {
        match candidate.know(sources, system).await {
            Err(error) if is_passed_over(&error) => refusal = refusal.or(Some(error)),
            known => return known,
        }
    }
    Err(refusal.unwrap_or_else(|| catalogue::none_complete(&sources.archive)))
}

/// The newest backup that ended before the target, on the way of the timeline.
async fn newest_before(sources: &Sources, request: &Request, observer: &Arc<dyn Observer>) -> Result<Chosen> {
    let archive = &sources.archive;
    let (mut refusal, mut reason, mut is_doubtful) = (None, None, false);
    let (candidates, system) = candidates(sources, request).await?;
    for candidate in candidates.into_iter().rev() {
        let (chosen, base) = match candidate.know(sources, system).await {
            Err(error) if is_passed_over(&error) => {
                refusal = Some(error);
                continue;
            }
            known => known?,
        };
        if let Some(why) = too_late(&base, &request.goal) {
            is_doubtful |= perhaps_too_late(&base, &request.goal).is_some();
            reason = Some((why, base.system_id));
            continue;
        }
        let history = match &chosen {
            Chosen::Ours(backup) => history(archive, backup, request.timeline).await,
            Chosen::Theirs(_) => way::history(sources, &base, request.timeline).await,
        };
        match history {
            Ok(_) => return Ok(chosen),
            Err(error) if error.kind() == Kind::Refused => refusal = Some(error),
            Err(error) => return Err(error),
        }
    }
    if let Some((why, system)) = reason {
        return Err(no_backup_before(&why, is_doubtful).detail(windows(archive, system, observer).await));
    }
    Err(refusal.unwrap_or_else(|| catalogue::none_complete(archive)))
}

fn no_backup_before(why: &str, is_doubtful: bool) -> Error {
    let error = Error::new(Kind::Refused, "no backup leads to the target").detail(format!("of the oldest, {why}"));
    error.hint(match is_doubtful {
        true => {
            "Some only say when they were stored, which in a copied archive is later than they ended: name one that ended \
             before the target; walden backup-list prints them."
        }
        false => {
            "Choose a later target; walden status shows how far the backups lead, and walden backup-list which there are."
        }
    })
}

/// Where recoveries can stop, for whoever wanted to stop elsewhere.
async fn windows(archive: &Archive, system: SystemId, observer: &Arc<dyn Observer>) -> String {
    match verify::verify(archive, system, None, observer).await {
        Ok(report) => {
            let found = report.recoverable();
            let windows: Vec<String> =
                found.iter().filter(|one| !one.windows.is_empty()).map(ToString::to_string).collect();
            if windows.is_empty() {
                "there is no target that a recovery could reach".to_owned()
            } else {
                format!("recoveries can stop {}", windows.join("; "))
            }
        }
        Err(error) => format!("where recoveries can stop could not be found out: {error}"),
    }
}

/// Why recovery from this backup cannot stop at the goal, if it cannot: the copy is consistent only from its end on.
fn too_late(backup: &Base, goal: &Goal) -> Option<String> {
    let Goal::Target(target) = goal else { return None };
    match target.point {
        Point::Time(time) if backup.finished >= time => {
            Some(format!("backup {} ended at {}, the target is {time}", backup.name, backup.finished))
        }
        Point::Lsn(lsn) if backup.stop > lsn => {
            Some(format!("backup {} ended at {}, the target is {lsn}", backup.name, backup.stop))
        }
        _ => None,
    }
}

/// Says of a backup that may have ended after the target, as far as is known, why nobody knows.
pub(super) fn perhaps_too_late(backup: &Base, goal: &Goal) -> Option<String> {
    let Goal::Target(target) = goal else { return None };
    match target.point {
        Point::Time(time) if backup.finished >= time && !backup.finish_is_said => Some(format!(
            "when backup {} ended is not known, only that its sentinel was stored at {}: if it ended after the target, the \
             server says that it cannot stop there",
            backup.name, backup.finished
        )),
        _ => None,
    }
}

/// The history that recovery from this backup follows.
///
/// # Errors
/// [`Kind::Refused`] if the timeline does not pass through the backup.
pub(super) async fn history(archive: &Archive, backup: &Backup, timeline: TargetTimeline) -> Result<History> {
    let system = backup.system_id;
    match timeline {
        TargetTimeline::Latest => verify::latest_history(archive, system, backup.timeline, backup.stop).await,
        TargetTimeline::Current => verify::history(archive, system, backup.timeline).await,
        TargetTimeline::Number(number) => {
            let history = verify::history(archive, system, number).await?;
            verify::check_descent(&history, backup.timeline, backup.stop)?;
            Ok(history)
        }
    }
}
