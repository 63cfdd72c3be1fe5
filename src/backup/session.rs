//! What voids a backup while it is taken: the end of its session, a database that moves, and what happens to a standby.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::postgres::client::{BackupStop, Client, Homes};
use crate::postgres::label::BackupLabel;
use crate::wal::timeline::Timeline;

/// How often a standby is asked whether it still is one.
const PROMOTION_POLL: Duration = Duration::from_secs(5);

/// Returns when the backup is void, and says why: at once if the session ends, within seconds if a standby is promoted.
pub(super) async fn voided(client: &Client, standby: bool) -> Error {
    let promoted = async {
        if !standby {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(PROMOTION_POLL).await;
            if let Err(error) = check_standby(client).await {
                return error;
            }
        }
    };
    tokio::select! {
        error = client.closed() => error,
        error = promoted => error,
    }
}

/// Ends the backup mode. On a standby the server writes no end into the WAL: the copy is consistent where the standby's
/// `minRecoveryPoint` is, on the timeline of that (`do_pg_backup_stop` in src/backend/access/transam/xlog.c).
///
/// # Errors
/// [`Kind::Unreachable`] if the session has ended, [`Kind::Refused`] if a database has moved, or if the standby was promoted
/// or has followed its primary to another timeline.
pub(super) async fn stop(client: &Client, standby: bool, homes: &Homes) -> Result<BackupStop> {
    // Who moves from now on moves away from files that are in the backup.
    homes.check_unmoved(&client.homes().await?)?;
    if !standby {
        return client.backup_stop().await;
    }
    check_standby(client).await?;
    let stop = client.backup_stop().await?;
    let (began, ended) = (BackupLabel::parse(&stop.label_file)?.timeline, client.recovery_timeline().await?);
    if began != ended {
        return Err(followed(began, ended));
    }
    Ok(stop)
}

/// A standby has gone over to another timeline between the beginning and the end of a backup.
pub(super) fn followed(began: Timeline, ended: Timeline) -> Error {
    Error::new(Kind::Refused, "the standby has followed its primary to another timeline")
        .detail(format!("the backup began on timeline {} and ended on {}", began.0, ended.0))
        .hint("Run walden backup-push again after the new primary's next checkpoint (CHECKPOINT there makes one).")
}

async fn check_standby(client: &Client) -> Result<()> {
    if client.is_in_recovery().await? {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, "the standby was promoted during the backup")
        .detail("pages of before and after the promotion do not make one cluster")
        .hint("Run walden backup-push again: the server is a primary now."))
}
