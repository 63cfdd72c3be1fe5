//! Which backup leads to the goal.

use std::sync::Arc;

use crate::archive::Archive;
use crate::backup::catalogue;
use crate::backup::manifest::Backup;
use crate::config::target::{Goal, Point, Selection, TargetTimeline};
use crate::error::{Error, Kind, Result};
use crate::observe::Observer;
use crate::postgres::control::SystemId;
use crate::restore::Request;
use crate::wal::timeline::History;
use crate::wal::verify;

/// The chosen backup, or the newest one that leads to the goal.
///
/// # Errors
/// [`Kind::NotFound`] if there is no such backup; [`Kind::Refused`] if none leads to the goal.
pub(super) async fn select(
    archive: &Archive,
    system: SystemId,
    request: &Request,
    observer: &Arc<dyn Observer>,
) -> Result<Backup> {
    let chosen = match request.selection {
        Some(Selection::Id(id)) => catalogue::read(archive, system, id).await.map_err(|error| match error.kind() {
            Kind::NotFound => Error::new(Kind::NotFound, format!("there is no complete backup {id}"))
                .hint("walden backup-list prints the backups."),
            _ => error,
        })?,
        Some(Selection::Latest) => catalogue::latest(archive, system).await?,
        None => return newest_before(archive, system, request, observer).await,
    };
    match too_late(&chosen, &request.goal) {
        None => Ok(chosen),
        Some(why) => Err(Error::new(Kind::Refused, format!("backup {} does not lead to the target", chosen.id))
            .detail(why)
            .hint("Leave the backup out: walden backup-fetch then chooses one.")),
    }
}

/// The newest backup that ended before the target, on the way of the timeline.
async fn newest_before(
    archive: &Archive,
    system: SystemId,
    request: &Request,
    observer: &Arc<dyn Observer>,
) -> Result<Backup> {
    let backups = catalogue::complete(archive, system).await?;
    let (mut refusal, mut reason) = (None, None);
    for backup in backups.iter().rev() {
        if let Some(why) = too_late(backup, &request.goal) {
            reason = Some(why);
            continue;
        }
        match history(archive, backup, request.timeline).await {
            Ok(_) => return Ok(backup.clone()),
            Err(error) if error.kind() == Kind::Refused => refusal = Some(error),
            Err(error) => return Err(error),
        }
    }
    if let Some(why) = reason {
        return Err(refusal.unwrap_or_else(|| no_backup_before(&why)).detail(windows(archive, system, observer).await));
    }
    Err(refusal.unwrap_or_else(|| {
        Error::new(Kind::NotFound, format!("the archive {} has no complete backup", archive.store().url("")))
            .hint("Take one with walden backup-push.")
    }))
}

fn no_backup_before(why: &str) -> Error {
    Error::new(Kind::Refused, "no backup leads to the target").detail(format!("of the oldest, {why}")).hint(
        "Choose a later target; walden status shows how far the backups lead, and walden backup-list which there are.",
    )
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
fn too_late(backup: &Backup, goal: &Goal) -> Option<String> {
    let Goal::Target(target) = goal else { return None };
    match target.point {
        Point::Time(time) if backup.finished >= time => {
            Some(format!("backup {} ended at {}, the target is {time}", backup.id, backup.finished))
        }
        Point::Lsn(lsn) if backup.stop > lsn => {
            Some(format!("backup {} ended at {}, the target is {lsn}", backup.id, backup.stop))
        }
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
