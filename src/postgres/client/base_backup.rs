//! A base backup that the server sends itself (PostgreSQL documentation, "Streaming Replication Protocol", `BASE_BACKUP`;
//! src/backend/backup/basebackup.c).
//!
//! Owns the command and the order of its answers. What the pieces are made of, tar archives and a manifest, is others'
//! business.

use bytes::{Buf, Bytes};
use postgres_protocol::message::backend::Message;

use super::failure::Failure;
use super::replication::Replication;
use super::unexpected;
use super::wire::{Columns, columns};
use crate::error::{Error, Kind, Result};
use crate::postgres::entry::Tablespace;
use crate::postgres::lsn::Lsn;
use crate::wal::timeline::Timeline;

/// What the server may be told not to exceed, in kB a second (`MAX_RATE_LOWER` and `MAX_RATE_UPPER`).
const RATES: [u64; 2] = [32, 1 << 20];

/// How pages that are damaged end a backup that is otherwise complete: after its end was told
/// (`perform_base_backup`; `ERRCODE_DATA_CORRUPTED`).
const DATA_CORRUPTED: &str = "XX001";

/// How a server answers to a compression that it was not built for (`SendBaseBackup`, `ERRCODE_SYNTAX_ERROR`).
const SYNTAX_ERROR: &str = "42601";

const UNCOMPRESSED: &str = "Set remote-compression to none (--remote-compression, WALDEN_REMOTE_COMPRESSION).";

/// What to ask for.
#[derive(Clone, Debug)]
pub struct BaseBackup<'a> {
    /// PostgreSQL's label of the backup.
    pub label: &'a str,
    /// Bytes a second that the server may send, as near as the server can.
    pub max_rate: Option<u64>,
    /// Archives that are compressed with zstd. A rate is that of what is sent then.
    pub compressed: bool,
}

/// A base backup on its way: first the tablespaces, then the data directory, then the manifest.
pub struct Transfer {
    replication: Replication,
    /// Where replay of the copy begins.
    pub start: Lsn,
    /// The timeline of that.
    pub timeline: Timeline,
    /// The archives in their order: a tablespace outside the data directory, or, last, the data directory.
    pub archives: Vec<Option<Tablespace>>,
    /// About how many bytes there are.
    pub bytes: u64,
    /// Are the archives compressed with zstd?
    pub compressed: bool,
    begun: usize,
    form: Form,
    end: Option<(Lsn, Timeline)>,
    damaged: bool,
}

/// How pieces are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// 13 and 14: each piece is a copy of its own.
    Copies,
    /// 15 and later: one copy, whose messages begin with a letter.
    Letters,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// An archive begins, the one of this number.
    Archive(usize),
    /// The manifest begins.
    Manifest,
    /// Bytes of what began last.
    Data(Bytes),
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The copy is consistent when all WAL up to here is replayed.
    pub stop: Lsn,
    /// The timeline of that.
    pub timeline: Timeline,
    /// Did the server find wrong page checksums?
    pub damaged: bool,
}

impl BaseBackup<'_> {
    /// The command for this major version. The server makes a checkpoint at once, does not wait for the archiver, and
    /// verifies page checksums: it alone can read a page again that was being written.
    fn command(&self, major: u16) -> String {
        let label = self.label.replace('\'', "''");
        let rate = self.max_rate.map(|rate| format!("MAX_RATE {}", (rate / 1024).clamp(RATES[0], RATES[1])));
        let (open, close, separator, words): (_, _, _, &[&str]) = match form(major) {
            Form::Copies => ("", "", " ", &["PROGRESS", "FAST", "NOWAIT", "TABLESPACE_MAP"]),
            Form::Letters => {
                ("(", ")", ", ", &["PROGRESS", "CHECKPOINT 'fast'", "WAIT false", "TABLESPACE_MAP", "TARGET 'client'"])
            }
        };
        // The fastest level: one process of the server does all of it.
        let compression =
            self.compressed.then_some(["COMPRESSION 'zstd'", "COMPRESSION_DETAIL 'level=1'"]).into_iter().flatten();
        let manifest = ["MANIFEST 'yes'", "MANIFEST_CHECKSUMS 'CRC32C'"];
        let options: Vec<String> = std::iter::once(format!("LABEL '{label}'"))
            .chain(words.iter().map(|word| (*word).to_owned()))
            .chain(rate)
            .chain(compression.map(str::to_owned))
            .chain(manifest.map(str::to_owned))
            .collect();
        format!("BASE_BACKUP {open}{}{close}", options.join(separator))
    }
}

fn form(major: u16) -> Form {
    if major < 15 { Form::Copies } else { Form::Letters }
}

impl Replication {
    /// Has the server begin a base backup. Returns when its checkpoint is done, which can take minutes.
    ///
    /// # Errors
    /// [`Kind::Refused`] if the server begins none, or cannot compress it; [`Kind::Unreachable`] if the connection has ended.
    pub async fn base_backup(mut self, wanted: &BaseBackup<'_>) -> Result<Transfer> {
        if wanted.compressed && form(self.major) == Form::Copies {
            return Err(Error::new(Kind::Refused, format!("PostgreSQL {} cannot compress what it sends", self.major))
                .detail("servers of version 15 and newer can")
                .hint(UNCOMPRESSED));
        }
        let begun = self.begin(wanted).await;
        let sets = begun.map_err(|failure| {
            // A server can be built without zstd, and says so in its own language.
            let syntax = matches!(&failure, Failure::Refused(refusal) if refusal.code == SYNTAX_ERROR);
            let error = failure.of_command("could not start a backup", &self.user);
            if wanted.compressed && syntax { error.hint(UNCOMPRESSED) } else { error }
        })?;
        let [start, tablespaces] = sets;
        let (start, timeline) = position(start.first()).ok_or_else(|| unexpected("it names no start".into()))?;
        let archives: Option<Vec<(Option<Tablespace>, u64)>> = tablespaces.iter().map(archive).collect();
        let archives = archives.ok_or_else(|| unexpected(format!("its tablespaces are {tablespaces:?}")))?;
        let bytes = archives.iter().map(|(_, bytes)| bytes).sum();
        let archives = archives.into_iter().map(|(tablespace, _)| tablespace).collect();
        let form = form(self.major);
        let (begun, end, damaged) = (0, None, false);
        let compressed = wanted.compressed;
        Ok(Transfer { replication: self, start, timeline, archives, bytes, compressed, begun, form, end, damaged })
    }

    /// The two result sets that come before the copy.
    async fn begin(&mut self, wanted: &BaseBackup<'_>) -> Result<[Vec<Columns>; 2], Failure> {
        self.wire.send(&wanted.command(self.major)).await?;
        let mut sets = [Vec::new(), Vec::new()];
        for set in &mut sets {
            loop {
                match self.wire.next().await? {
                    Message::DataRow(body) => set.push(columns(&body)?),
                    Message::CommandComplete(_) => break,
                    Message::ReadyForQuery(_) => return Ok(sets),
                    _ => {}
                }
            }
        }
        Ok(sets)
    }
}

impl Transfer {
    /// The next piece; `None` when there are no more, and all of them came.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] if the connection ends before the backup does, [`Kind::Refused`] if the server ends the backup,
    /// as when a standby is promoted.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            let message = match self.replication.wire.next().await {
                Ok(message) => message,
                Err(Failure::Refused(refusal)) if refusal.code == DATA_CORRUPTED && self.end.is_some() => {
                    tracing::info!("the server says: {refusal}");
                    self.damaged = true;
                    continue;
                }
                Err(failure) => {
                    return Err(failure.of_command("the server did not send the whole backup", &self.replication.user));
                }
            };
            match (message, self.form) {
                (Message::CopyOutResponse(_), Form::Copies) => return self.begin_next().map(Some),
                (Message::CopyData(body), Form::Copies) => return Ok(Some(Piece::Data(body.into_bytes()))),
                (Message::CopyData(body), Form::Letters) => {
                    if let Some(piece) = self.lettered(body.into_bytes())? {
                        return Ok(Some(piece));
                    }
                }
                (Message::DataRow(body), _) => {
                    let row = columns(&body).map_err(|failure| failure.of_command("the end of a backup", ""))?;
                    self.end = position(Some(&row));
                }
                (Message::ReadyForQuery(_), _) => return Ok(None),
                _ => {}
            }
        }
    }

    /// The archives come in the order in which they were announced, then the manifest.
    fn begin_next(&mut self) -> Result<Piece> {
        self.begun += 1;
        match self.begun.cmp(&(self.archives.len() + 1)) {
            std::cmp::Ordering::Less => Ok(Piece::Archive(self.begun - 1)),
            std::cmp::Ordering::Equal => Ok(Piece::Manifest),
            std::cmp::Ordering::Greater => Err(unexpected("the backup has more archives than it announced".into())),
        }
    }

    fn lettered(&mut self, mut message: Bytes) -> Result<Option<Piece>> {
        if message.is_empty() {
            return Err(unexpected("a piece of the backup has no type".into()));
        }
        match message.get_u8() {
            b'n' => {
                let piece = self.begin_next()?;
                let name = message.split(|&byte| byte == 0).next().map(String::from_utf8_lossy).unwrap_or_default();
                match &piece {
                    Piece::Archive(number) if name == self.archive_name(*number) => Ok(Some(piece)),
                    _ => Err(unexpected(format!("it was not the turn of the archive \"{name}\""))),
                }
            }
            b'm' => match self.begin_next()? {
                Piece::Manifest => Ok(Some(Piece::Manifest)),
                _ => Err(unexpected("the manifest came before the last archive".into())),
            },
            b'd' => Ok(Some(Piece::Data(message))),
            // How far the server is.
            b'p' => Ok(None),
            other => Err(unexpected(format!("a piece of the backup has the type {other}"))),
        }
    }

    /// What the server calls an archive.
    fn archive_name(&self, number: usize) -> String {
        let name = archive_name(self.archives[number].as_ref());
        if self.compressed { name + ".zst" } else { name }
    }

    /// How it ended, after the last piece.
    ///
    /// # Errors
    /// [`Kind::Incomplete`] if archives are missing, or the end.
    pub fn ended(self) -> Result<Ended> {
        match self.end {
            Some((stop, timeline)) if self.begun == self.archives.len() + 1 => {
                Ok(Ended { stop, timeline, damaged: self.damaged })
            }
            _ => Err(Error::new(Kind::Incomplete, "the server did not send the whole backup")
                .detail(format!("{} of {} archives and manifest came", self.begun, self.archives.len() + 1))
                .hint("Run walden backup-push again.")),
        }
    }
}

fn archive_name(tablespace: Option<&Tablespace>) -> String {
    tablespace.map_or("base.tar".to_owned(), |tablespace| format!("{}.tar", tablespace.oid))
}

/// A row with a position in the WAL and its timeline.
fn position(row: Option<&Columns>) -> Option<(Lsn, Timeline)> {
    let [Some(lsn), Some(timeline), ..] = row?.as_slice() else { return None };
    Some((lsn.parse().ok()?, Timeline(timeline.parse().ok()?)))
}

/// A row that announces an archive: tablespace, its location, about how many kB. Both are NULL for the data directory.
fn archive(row: &Columns) -> Option<(Option<Tablespace>, u64)> {
    let [oid, location, size] = row.as_slice() else { return None };
    let bytes = size.as_ref().map_or(Some(0), |size| size.parse::<u64>().ok())?.saturating_mul(1024);
    let tablespace = match (oid, location) {
        (Some(oid), Some(location)) => Some(Tablespace { oid: oid.parse().ok()?, location: location.into() }),
        (None, _) => None,
        _ => return None,
    };
    Some((tablespace, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_the_form_of_its_version() {
        let wanted = BaseBackup { label: "it's", max_rate: Some(1), compressed: false };
        assert_eq!(
            wanted.command(14),
            "BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT TABLESPACE_MAP MAX_RATE 32 MANIFEST 'yes' \
             MANIFEST_CHECKSUMS 'CRC32C'"
        );
        assert_eq!(
            BaseBackup { max_rate: None, compressed: true, ..wanted }.command(15),
            "BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'fast', WAIT false, TABLESPACE_MAP, TARGET 'client', \
             COMPRESSION 'zstd', COMPRESSION_DETAIL 'level=1', MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')"
        );
    }

    #[test]
    fn what_a_row_announces_is_a_tablespace_or_the_data_directory() {
        let row = |columns: [Option<&str>; 3]| archive(&columns.map(|column| column.map(str::to_owned)).to_vec());
        let (space, bytes) = row([Some("16385"), Some("/srv/fast"), Some("7")]).unwrap();
        assert_eq!((archive_name(space.as_ref()).as_str(), bytes), ("16385.tar", 7168));
        assert_eq!(archive_name(row([None, None, None]).unwrap().0.as_ref()), "base.tar");
        assert_eq!(row([Some("x"), Some("/srv/fast"), None]), None);
        assert_eq!(row([Some("16385"), None, None]), None);
        assert_eq!(
            position(Some(&vec![Some("0/2000028".into()), Some("3".into())])),
            Some((Lsn(0x0200_0028), Timeline(3)))
        );
        assert_eq!(position(Some(&vec![Some("0/2000028".into()), None])), None);
    }
}
