//! How the server's archiver fares.

use std::fmt;

use jiff::Timestamp;

use super::{Client, column, number, time};
#[cfg(doc)]
use crate::error::Kind;
use crate::error::Result;
use crate::postgres::ready::Ready;

/// How archiving fares since the server's statistics were last reset (`pg_stat_archiver`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archiver {
    /// How many WAL files were archived.
    pub archived_count: u64,
    /// The last of them.
    pub last_archived_wal: Option<String>,
    /// When it was archived.
    pub last_archived_time: Option<Timestamp>,
    /// How many attempts failed.
    pub failed_count: u64,
    /// The file of the last failed attempt.
    pub last_failed_wal: Option<String>,
    /// When the last attempt failed.
    pub last_failed_time: Option<Timestamp>,
    /// Since when all this is counted.
    pub since: Option<Timestamp>,
}

/// That the last attempt to archive something failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivingFailure {
    /// The file. Nothing behind it is archived before it is.
    pub wal: String,
    /// When it failed last.
    pub time: Timestamp,
    /// How many attempts failed since the statistics were reset, of this file and of others.
    pub count: u64,
    /// When they were reset.
    pub since: Option<Timestamp>,
}

impl fmt::Display for ArchivingFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "archiving {} last failed at {:.0}; failed attempts", self.wal, self.time)?;
        self.since.map_or(Ok(()), |since| write!(f, " since {since:.0}"))?;
        write!(f, ": {}", self.count)
    }
}

impl Archiver {
    /// The failure, if the last attempt was one: if it is newer than the last success.
    pub fn failing(&self) -> Option<ArchivingFailure> {
        let (wal, time) = self.last_failed_wal.clone().zip(self.last_failed_time)?;
        let failing = self.last_archived_time.is_none_or(|archived| archived < time);
        failing.then_some(ArchivingFailure { wal, time, count: self.failed_count, since: self.since })
    }
}

impl Client {
    /// What waits to be archived. Members of `pg_monitor` may ask.
    ///
    /// # Errors
    /// [`Kind::Denied`] if the user may not look into the directories of the WAL.
    pub async fn ready(&self) -> Result<Ready> {
        let sql = "SELECT count(*), coalesce(sum(w.size), 0)::int8, \
            (extract(epoch FROM min(s.modification)) * 1000000)::int8 \
            FROM pg_ls_archive_statusdir() s LEFT JOIN pg_ls_waldir() w ON w.name = left(s.name, -6) \
            WHERE s.name LIKE '%.ready'";
        let row = self.row("could not ask what waits to be archived", sql, &[]).await?;
        Ok(Ready {
            files: number(column::<i64>(&row, 0)?)?,
            bytes: number(column::<i64>(&row, 1)?)?,
            oldest: time(&row, 2)?,
        })
    }

    /// Asks how archiving fares.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] if the session has ended.
    pub async fn archiver(&self) -> Result<Archiver> {
        let sql = "SELECT archived_count, last_archived_wal, failed_count, last_failed_wal, \
            (extract(epoch FROM last_archived_time) * 1000000)::int8, \
            (extract(epoch FROM last_failed_time) * 1000000)::int8, \
            (extract(epoch FROM stats_reset) * 1000000)::int8 FROM pg_stat_archiver";
        let row = self.row("could not ask about the archiver", sql, &[]).await?;
        Ok(Archiver {
            archived_count: number(column::<i64>(&row, 0)?)?,
            last_archived_wal: column(&row, 1)?,
            failed_count: number(column::<i64>(&row, 2)?)?,
            last_failed_wal: column(&row, 3)?,
            last_archived_time: time(&row, 4)?,
            last_failed_time: time(&row, 5)?,
            since: time(&row, 6)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archiver_fails_while_its_last_failure_is_newer_than_its_last_success() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let failing = |archived: Option<i64>, failed: Option<i64>| {
            let archiver = Archiver {
                archived_count: 1,
                last_archived_wal: archived.map(|_| "000000010000000000000001".into()),
                last_archived_time: archived.map(at),
                failed_count: 3,
                last_failed_wal: failed.map(|_| "000000010000000000000002".into()),
                last_failed_time: failed.map(at),
                since: Some(at(0)),
            };
            archiver.failing().map(|failure| failure.to_string())
        };
        let told = "archiving 000000010000000000000002 last failed at 1970-01-01T00:00:09Z; failed attempts since \
                    1970-01-01T00:00:00Z: 3";
        assert_eq!(failing(None, Some(9)).as_deref(), Some(told));
        assert_eq!(failing(Some(8), Some(9)).as_deref(), Some(told));
        assert_eq!(failing(Some(9), Some(8)), None);
        assert_eq!(failing(Some(9), None), None);
        assert_eq!(failing(None, None), None);
    }
}
