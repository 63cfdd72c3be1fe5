//! The backup mode: its beginning, its end, and what can void it on a standby.

use std::collections::BTreeMap;

use super::{Client, column};
#[cfg(doc)]
use crate::error::Kind;
use crate::error::Result;
use crate::postgres::entry::Database;
use crate::postgres::lsn::Lsn;
use crate::wal::timeline::Timeline;

/// What `pg_backup_stop` hands over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupStop {
    /// The recovery of the backup is consistent once it has replayed the WAL up to here.
    pub stop: Lsn,
    /// The content of `backup_label`, to be stored with the backup byte for byte.
    pub label_file: String,
    /// The content of `tablespace_map`; empty if there are no tablespaces.
    pub tablespace_map: String,
}

impl Client {
    /// Begins a backup with an immediate checkpoint and returns where the WAL that it needs begins. This waits for the
    /// checkpoint, which can take minutes on a busy server.
    ///
    /// # Errors
    /// [`Kind::Denied`] without the right on the function, [`Kind::Unreachable`] if the session has ended.
    pub async fn backup_start(&self, label: &str) -> Result<Lsn> {
        let sql = match self.major() {
            ..15 => "SELECT pg_start_backup($1, true, false)::text",
            _ => "SELECT pg_backup_start($1, true)::text",
        };
        column::<String>(&self.row("could not start a backup", sql, &[&label]).await?, 0)?.parse()
    }

    /// Ends the backup. Does not wait for the archiver: the caller looks itself for the WAL that the backup needs.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] if the session that began the backup has ended: the backup is void. Also
    /// [`Kind::Refused`] if the server says that it cannot be used, as when a standby was promoted meanwhile.
    pub async fn backup_stop(&self) -> Result<BackupStop> {
        let sql = match self.major() {
            ..15 => "SELECT lsn::text, labelfile, coalesce(spcmapfile, '') FROM pg_stop_backup(false, false)",
            _ => "SELECT lsn::text, labelfile, coalesce(spcmapfile, '') FROM pg_backup_stop(false)",
        };
        let row = self.row("could not end the backup", sql, &[]).await?;
        Ok(BackupStop {
            stop: column::<String>(&row, 0)?.parse()?,
            label_file: column(&row, 1)?,
            tablespace_map: column(&row, 2)?,
        })
    }

    /// Is the server in recovery: a standby, that was not promoted?
    ///
    /// # Errors
    /// [`Kind::Unreachable`] if the session has ended.
    pub async fn is_in_recovery(&self) -> Result<bool> {
        column(&self.row("could not ask whether the server is a standby", "SELECT pg_is_in_recovery()", &[]).await?, 0)
    }

    /// The timeline of the last WAL that a standby has written pages of to its disk: that of `minRecoveryPoint`, where
    /// its backups end (`UpdateMinRecoveryPoint` in src/backend/access/transam/xlog.c).
    ///
    /// # Errors
    /// [`Kind::Unreachable`] if the session has ended.
    pub async fn recovery_timeline(&self) -> Result<Timeline> {
        let sql = "SELECT min_recovery_end_timeline FROM pg_control_recovery()";
        let row = self.row("could not ask a standby for its timeline", sql, &[]).await?;
        Ok(Timeline(column::<i32>(&row, 0)?.cast_unsigned()))
    }

    /// The cluster's databases, by their numbers.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] if the session has ended.
    pub async fn databases(&self) -> Result<Vec<Database>> {
        let what = "could not ask for the databases";
        let rows = self.session.query("SELECT oid, datname::text FROM pg_database ORDER BY oid", &[]).await;
        let rows = rows.map_err(|error| self.failure(what, &error))?;
        rows.iter().map(|row| Ok(Database { oid: column(row, 0)?, name: column(row, 1)? })).collect()
    }

    /// The names of the tablespaces beside `pg_default` and `pg_global`, by their numbers.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] if the session has ended.
    pub async fn tablespaces(&self) -> Result<BTreeMap<u32, String>> {
        let what = "could not ask for the tablespaces";
        let sql = "SELECT oid, spcname::text FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')";
        let rows = self.session.query(sql, &[]).await.map_err(|error| self.failure(what, &error))?;
        rows.iter().map(|row| Ok((column(row, 0)?, column(row, 1)?))).collect()
    }
}
