//! Whose turn it is: one backup of a server at a time, told by an advisory lock of the session.
//!
//! The lock is the pair of numbers (1463897156, 1): the letters `WALD` as a big-endian number, and 1 for base backups.
//! It ends with the session, however that ends. A standby has locks of its own, apart from its primary's.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{Client, column, time};
use crate::error::{Error, Kind, Result};

/// The first number of all of Walden's advisory locks: `WALD`.
const WALDEN: i32 = i32::from_be_bytes(*b"WALD");

/// The second number: a base backup is being taken.
const BACKUP: i32 = 1;

/// How long a turn is waited for: a server notices that a client was killed when its statement ends, a checkpoint as a
/// rule, and those of a busy night take their time.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often it is asked for meanwhile.
const PAUSE: Duration = Duration::from_millis(200);

/// Another session that has the turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process that serves it.
    pub pid: i32,
    /// What it calls itself.
    pub application_name: String,
    /// When it began; `None` if the user may not know (it needs `pg_read_all_stats`).
    pub since: Option<Timestamp>,
}

impl Client {
    /// Takes the turn until the session ends, if no other session has it. Returns who has it after 15 s of waiting.
    ///
    /// Advisory locks belong to a database. All of them are looked through, so that it does not matter in which the other
    /// session is; of two that begin at the same moment in different databases, each can find the other.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] if the session has ended.
    pub async fn take_turn(&self) -> Result<Option<Holder>> {
        let began = Instant::now();
        loop {
            let taken = self.row("could not take the turn for a backup", &try_lock(), &[]).await?;
            let taken: bool = column(&taken, 0)?;
            let holder = self.holder().await?;
            match holder {
                None if taken => return Ok(None),
                Some(holder) if began.elapsed() >= PATIENCE => return Ok(Some(holder)),
                None if began.elapsed() >= PATIENCE => {
                    return Err(Error::new(Kind::Refused, "another backup of this server has just ended")
                        .hint("Run walden backup-push again."));
                }
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn holder(&self) -> Result<Option<Holder>> {
        let sql = format!(
            "SELECT a.pid, coalesce(a.application_name, ''), (extract(epoch FROM a.backend_start) * 1000000)::int8 \
             FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted \
             AND (l.classid, l.objid, l.objsubid) = ({WALDEN}, {BACKUP}, 2) AND l.pid <> pg_backend_pid() \
             ORDER BY a.backend_start, a.pid LIMIT 1"
        );
        let what = "could not ask who else takes a backup";
        let Some(row) = self.row_if_any(what, &sql).await? else { return Ok(None) };
        Ok(Some(Holder { pid: column(&row, 0)?, application_name: column(&row, 1)?, since: time(&row, 2)? }))
    }
}

/// Taking it once more while we have it does no harm: the end of the session gives up all of it (PostgreSQL
/// documentation, "Advisory Locks").
fn try_lock() -> String {
    format!("SELECT pg_try_advisory_lock({WALDEN}, {BACKUP})")
}
