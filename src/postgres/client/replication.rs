//! A replication connection: what a server says of itself there, and its base backups
//! (PostgreSQL documentation, "Streaming Replication Protocol"). No SQL can be sent over it.

use postgres_protocol::message::backend::Message;

use super::connect::{self, Attempt};
use super::failure::Failure;
use super::parameters::{Parameters, Target};
use super::wire::{Columns, Wire, columns};
use super::{ArchiveMode, Client, Environment, MAJORS, archive_mode, password, tls, unexpected};
use crate::error::{Context, Error, Kind, Result};
use crate::postgres::control::SystemId;
use crate::wal::segment::SegmentSize;

/// An open replication connection. Dropping it ends it, and with it a backup that is being sent.
///
/// The user needs the attribute `REPLICATION`, and a line for the database `replication` in `pg_hba.conf`; nothing else.
pub struct Replication {
    pub(super) wire: Wire,
    pub(super) user: String,
    pub(super) major: u16,
    parameters: Parameters,
    target: Target,
}

/// What a server says of itself over a replication connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The major version, 13 to 18.
    pub major: u16,
    /// Which cluster it serves.
    pub system_id: SystemId,
    /// Is it a standby?
    pub in_recovery: bool,
    /// The size of its WAL segments.
    pub segment_size: SegmentSize,
    /// `archive_mode`.
    pub archive_mode: ArchiveMode,
    /// Are data pages checksummed?
    pub data_checksums: bool,
    /// Is it built with the pages and files that most servers have: 8 kB, and 1 GB?
    pub usual_build: bool,
    /// Permission bits of its data directory.
    pub directory_mode: u32,
}

impl Replication {
    /// Connects as [`Client::connect`] does, with the same variables, to the database `replication`, by which lines of the
    /// password file go too.
    ///
    /// # Errors
    /// Those of [`Client::connect`].
    pub async fn connect(environment: &Environment) -> Result<Replication> {
        let mut parameters = Parameters::read(environment)?;
        let open = async |attempt: Attempt<'_>| attempt.open_replication().await;
        let (wire, target) = connect::search(&parameters, open).await?;
        parameters.targets = vec![target.clone()];
        let user = parameters.user.clone();
        let mut replication = Replication { wire, user, major: 0, parameters, target };
        let version = replication.show("server_version_num").await?;
        replication.major =
            version.parse::<u32>().ok().and_then(|number| u16::try_from(number / 10_000).ok()).unwrap_or(0);
        if MAJORS.contains(&replication.major) {
            return Ok(replication);
        }
        Err(Error::new(Kind::Refused, format!("PostgreSQL {} is not supported", replication.major))
            .detail(format!("the server is of version {version}; known are {} to {}", MAJORS.start(), MAJORS.end()))
            .hint("Set PGHOST and PGPORT to a server of a supported version, or install a newer Walden."))
    }

    /// A session that takes SQL, with the same server, for what is not needed and good to know.
    ///
    /// # Errors
    /// Those of [`Client::connect`]: a user that may replicate need not be let into any database.
    pub async fn session(&self) -> Result<Client> {
        Client::open(&self.parameters).await.during(|| format!("no SQL session with {}", self.target))
    }

    /// Asks the server about itself.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] if the connection has ended.
    pub async fn sender(&mut self) -> Result<Sender> {
        let identity = self.row("IDENTIFY_SYSTEM").await?;
        let system_id = identity.first().cloned().flatten().unwrap_or_default();
        let size = self.show("wal_segment_size").await?;
        let mode = self.show("data_directory_mode").await?;
        let built = (self.show("block_size").await?, self.show("segment_size").await?);
        Ok(Sender {
            major: self.major,
            system_id: system_id
                .parse()
                .map_err(|_| unexpected(format!("the system identifier is \"{system_id}\"")))?,
            in_recovery: self.show(self.recovery_setting()).await? == "on",
            segment_size: segment_size(&size).ok_or_else(|| unexpected(format!("wal_segment_size is \"{size}\"")))?,
            archive_mode: archive_mode(&self.show("archive_mode").await?)?,
            data_checksums: self.show("data_checksums").await? == "on",
            usual_build: built == ("8192".to_owned(), "1GB".to_owned()),
            directory_mode: u32::from_str_radix(&mode, 8)
                .map_err(|_| unexpected(format!("data_directory_mode is \"{mode}\"")))?,
        })
    }

    /// What says that a server is a standby. 13 has no setting for it, but all transactions of a standby are read only
    /// (`StartTransaction` in src/backend/access/transam/xact.c).
    fn recovery_setting(&self) -> &'static str {
        if self.major == 13 { "transaction_read_only" } else { "in_hot_standby" }
    }

    /// The value of a setting, in the server's own words.
    async fn show(&mut self, name: &str) -> Result<String> {
        let row = self.row(&format!("SHOW {name}")).await?;
        row.into_iter().next().flatten().ok_or_else(|| unexpected(format!("{name} has no value")))
    }

    /// The one row of a command's answer.
    async fn row(&mut self, command: &str) -> Result<Columns> {
        let asked = self.try_row(command).await;
        let row = asked.map_err(|failure| failure.of_command(&format!("could not run {command}"), &self.user))?;
        row.ok_or_else(|| unexpected(format!("{command} returned nothing")))
    }

    async fn try_row(&mut self, command: &str) -> Result<Option<Columns>, Failure> {
        self.wire.send(command).await?;
        let mut row = None;
        loop {
            match self.wire.next().await? {
                Message::DataRow(body) => row = Some(columns(&body)?),
                Message::ReadyForQuery(_) => return Ok(row),
                _ => {}
            }
        }
    }
}

impl Attempt<'_> {
    async fn open_replication(self) -> Result<(Wire, Target)> {
        let Attempt { parameters, target, encryption, what } = self;
        let tls = match encryption {
            tokio_postgres::config::SslMode::Disable => None,
            _ => Some(tls::config(parameters.ssl_mode, &parameters.root_certificates)?),
        };
        let password = password::password(parameters, target, "replication");
        let opened = async {
            let mut wire = Wire::open(target, encryption, tls).await?;
            wire.start(parameters, password, &[("replication", "true")]).await?;
            Ok::<Wire, Failure>(wire)
        };
        let wire = opened.await.map_err(|failure| failure.of_connection(what, &parameters.user))?;
        Ok((wire, target.clone()))
    }
}

/// A size as SHOW prints it, in the largest unit that divides it: `16MB`, `1GB`.
fn segment_size(shown: &str) -> Option<SegmentSize> {
    let (number, unit) = shown.split_at_checked(shown.find(|c: char| !c.is_ascii_digit())?)?;
    let factor = match unit {
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    SegmentSize::new(number.parse::<u64>().ok()?.checked_mul(factor)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_segments_are_read_as_the_server_shows_them() {
        let bytes = |shown| segment_size(shown).map(SegmentSize::bytes);
        assert_eq!(bytes("16MB"), Some(16 << 20));
        assert_eq!(bytes("1GB"), Some(1 << 30));
        for wrong in ["", "16", "MB", "3MB", "2GB", "16kB", "99999999999999999999MB", "18446744073709551615GB"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
