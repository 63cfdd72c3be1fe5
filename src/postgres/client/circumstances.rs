//! What else a server says of itself that no backup needs, and an examination does.

use jiff::Timestamp;

use super::{Client, column, number, time, unexpected};
#[cfg(doc)]
use crate::error::Kind;
use crate::error::Result;

/// Settings and facts that tell whether all is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// `restore_command`; empty if there is none.
    pub restore_command: String,
    /// Is `primary_conninfo` set? Then a standby streams.
    pub streams: bool,
    /// `max_wal_senders`: without any, no remote backup can be taken.
    pub max_wal_senders: u64,
    /// `max_wal_size` in bytes: so much WAL the server keeps in the ordinary course of things.
    pub max_wal_size: u64,
    /// The server's clock.
    pub clock: Timestamp,
}

impl Client {
    /// Asks for them.
    ///
    /// # Errors
    /// [`Kind::Denied`] if the user may not read all settings, [`Kind::Unreachable`] if the session has ended.
    pub async fn circumstances(&self) -> Result<Circumstances> {
        let sql = "SELECT current_setting('restore_command'), current_setting('primary_conninfo') <> '', \
            current_setting('max_wal_senders')::int8, pg_size_bytes(current_setting('max_wal_size')), \
            (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
        let row = self.row("could not ask the server about its settings", sql, &[]).await?;
        Ok(Circumstances {
            restore_command: column(&row, 0)?,
            streams: column(&row, 1)?,
            max_wal_senders: number(column::<i64>(&row, 2)?)?,
            max_wal_size: number(column::<i64>(&row, 3)?)?,
            clock: time(&row, 4)?.ok_or_else(|| unexpected("its clock shows no time".to_owned()))?,
        })
    }

    /// May the user take remote backups: is it a superuser, or does it have the attribute REPLICATION?
    ///
    /// # Errors
    /// [`Kind::Unreachable`] if the session has ended.
    pub async fn may_replicate(&self) -> Result<bool> {
        let sql = "SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user";
        column(&self.row("could not ask for the rights of a remote backup", sql, &[]).await?, 0)
    }
}
