//! What the sentinel of a backup says: the JSON object whose presence makes the backup complete. Pure.
//!
//! WAL-E writes four fields. WAL-G's first version (`BackupSentinelDto`) has positions and what it was made of, its second
//! one (`Version`: 2) times and the host besides. Early versions of WAL-G kept the list of files in it as well. All are
//! read by one structure, whose fields nobody writes all at once.

use std::io::Read;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::error::{Error, Kind, Result};
use crate::layout::basebackups::{LegacyName, Writer};
use crate::legacy::codec::carried;
use crate::postgres::control::SystemId;
use crate::postgres::entry::Tablespace;
use crate::postgres::lsn::Lsn;
use crate::wal::segment::{SegmentName, SegmentSize};

/// Where the list of the files of a backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// In `files_metadata.json`, which must be there.
    Required,
    /// There, if it is there: versions of WAL-G that knew it did not say so yet.
    Perhaps,
    /// In the sentinel.
    Inline,
    /// Nowhere.
    None,
}

/// A position, as far as a sentinel or a name tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// By itself.
    Lsn(Lsn),
    /// By the offset in a segment, whose size is not said.
    Within(SegmentName, u64),
}

impl Position {
    /// The LSN, in a cluster with segments of this size; `None` if that has no such position.
    pub fn lsn(self, size: SegmentSize) -> Option<Lsn> {
        match self {
            Position::Lsn(lsn) => Some(lsn),
            // Before PostgreSQL 17 `pg_walfile_name_offset` takes the end of a segment for its offset 0, and nothing begins or
            // ends at its beginning, where a page header is.
            Position::Within(segment, 0) => Position::Within(segment, size.bytes()).lsn(size),
            Position::Within(segment, offset) if offset <= size.bytes() => {
                Some(Lsn(segment.start(size)?.0.checked_add(offset)?))
            }
            Position::Within(..) => None,
        }
    }
}

/// What is known of a backup by its name and its sentinel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyBackup {
    /// Its name.
    pub name: LegacyName,
    /// Who wrote it.
    pub writer: Writer,
    /// Whose backup it is; WAL-E does not say.
    pub system_id: Option<SystemId>,
    /// The major version of PostgreSQL, where it is said.
    pub postgres: Option<u16>,
    /// When it began, where it is said.
    pub started: Option<Timestamp>,
    /// When it ended, by the clock of its host; where that is not said, when the sentinel was stored, by the store's clock.
    pub finished: Timestamp,
    /// Is the time when it ended its own, and not that of the sentinel?
    pub finish_is_said: bool,
    /// Where replay begins.
    pub start: Position,
    /// Up to where replay must get before the copy is consistent.
    pub stop: Position,
    /// Of a delta, the backup before it.
    pub parent: Option<LegacyName>,
    /// Of a delta, where that one begins.
    pub parent_start: Option<Lsn>,
    /// Of a delta of WAL-RUS, how its increments are written; WAL-G knows one form alone, and does not say so.
    pub increments: Option<String>,
    /// The tablespaces outside the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// Bytes of the cluster's files, or, where WAL-G does not say that, of its own archives.
    pub plain_size: Option<u64>,
    /// Bytes of its objects, where it is said.
    pub stored_size: Option<u64>,
    /// Did its user mark it as one to keep?
    pub permanent: bool,
    /// Where its files are listed.
    pub listing: Listing,
}

#[derive(Debug, Deserialize)]
struct Sentinel {
    // WAL-E's.
    wal_segment_backup_stop: Option<String>,
    wal_segment_offset_backup_stop: Option<String>,
    expanded_size_bytes: Option<u64>,
    // WAL-G's, but for the specification, which both have.
    #[serde(rename = "LSN")]
    lsn: Option<u64>,
    #[serde(rename = "FinishLSN")]
    finish_lsn: Option<u64>,
    #[serde(rename = "DeltaFrom")]
    delta_from: Option<String>,
    #[serde(rename = "DeltaLSN", alias = "DeltaFromLSN")]
    delta_lsn: Option<u64>,
    #[serde(rename = "IncrementFormat")]
    increment_format: Option<String>,
    #[serde(rename = "PgVersion")]
    pg_version: Option<u32>,
    #[serde(rename = "SystemIdentifier")]
    system_identifier: Option<u64>,
    #[serde(rename = "UncompressedSize")]
    uncompressed_size: Option<i64>,
    #[serde(rename = "CompressedSize")]
    compressed_size: Option<i64>,
    #[serde(rename = "DataCatalogSize")]
    data_catalog_size: Option<i64>,
    #[serde(rename = "Spec", alias = "spec")]
    spec: Option<Value>,
    #[serde(rename = "FilesMetadataDisabled", default)]
    files_metadata_disabled: bool,
    #[serde(rename = "Files")]
    files: Option<IgnoredAny>,
    #[serde(rename = "Version")]
    version: Option<u32>,
    #[serde(rename = "StartTime")]
    start_time: Option<Timestamp>,
    #[serde(rename = "FinishTime")]
    finish_time: Option<Timestamp>,
    #[serde(rename = "IsPermanent", default)]
    is_permanent: bool,
}

impl LegacyBackup {
    /// Reads a sentinel, in little memory even where it holds the list of all files. `stored` is when it was stored.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it is not one, or does not say where the backup begins and ends; those of the source.
    pub fn read(name: LegacyName, source: impl Read, stored: Timestamp) -> Result<LegacyBackup> {
        let sentinel: Sentinel = serde_json::from_reader(source).map_err(json_error)?;
        let writer = if sentinel.wal_segment_backup_stop.is_some() { Writer::WalE } else { Writer::WalG };
        let own_finish = sentinel.finish_time.filter(|time| time.as_second() > 0);
        let size = |size: i64| u64::try_from(size).ok().filter(|size| *size > 0);
        let (begins, ends, before) = (start(&name, &sentinel)?, stop(&name, &sentinel)?, parent(&name, &sentinel)?);
        Ok(LegacyBackup {
            name,
            writer,
            system_id: sentinel.system_identifier.filter(|id| *id > 0).map(SystemId),
            postgres: sentinel.pg_version.and_then(major),
            started: sentinel.start_time.filter(|time| time.as_second() > 0),
            finished: own_finish.unwrap_or(stored),
            finish_is_said: own_finish.is_some(),
            start: begins,
            stop: ends,
            parent: before,
            parent_start: sentinel.delta_lsn.map(Lsn),
            increments: sentinel.increment_format,
            tablespaces: sentinel.spec.as_ref().map_or(Ok(Vec::new()), tablespaces)?,
            plain_size: sentinel
                .expanded_size_bytes
                .or(sentinel.data_catalog_size.and_then(size))
                .or(sentinel.uncompressed_size.and_then(size)),
            stored_size: sentinel.compressed_size.and_then(size),
            permanent: sentinel.is_permanent,
            listing: match (writer, sentinel.version) {
                (Writer::WalE, _) => Listing::None,
                _ if sentinel.files.is_some() => Listing::Inline,
                _ if sentinel.files_metadata_disabled => Listing::None,
                (_, Some(2..)) => Listing::Required,
                _ => Listing::Perhaps,
            },
        })
    }
}

/// Bounds the times that no sentinel says, but only its store: a copied archive has those of its copying. A backup ended
/// before those that begin behind it on its timeline did; `ours` are others of the same cluster, each by the segment that it
/// begins in and when it ended.
pub fn bound_times(theirs: &mut [LegacyBackup], ours: &[(SegmentName, Timestamp)]) {
    let known: Vec<(SegmentName, Timestamp)> = theirs
        .iter()
        .filter(|backup| backup.finish_is_said)
        .map(|backup| (backup.name.segment, backup.finished))
        .collect();
    for backup in theirs.iter_mut().filter(|backup| !backup.finish_is_said) {
        let begins = backup.name.segment;
        let behind = known.iter().chain(ours).filter(|(other, _)| other.timeline == begins.timeline && *other > begins);
        let bound = behind.map(|(_, finished)| *finished).min();
        backup.finished = bound.map_or(backup.finished, |bound| bound.min(backup.finished));
    }
}

/// `server_version_num`: 90624 is 9.6, 160004 is 16.
fn major(version: u32) -> Option<u16> {
    u16::try_from(version / 10_000).ok().filter(|major| *major > 0)
}

fn start(name: &LegacyName, sentinel: &Sentinel) -> Result<Position> {
    match (sentinel.lsn, name.offset()) {
        (Some(lsn), _) => Ok(Position::Lsn(Lsn(lsn))),
        (None, Some(offset)) => Ok(Position::Within(name.segment, offset)),
        (None, None) => Err(corrupt("it does not say where the backup begins".to_owned())),
    }
}

fn stop(name: &LegacyName, sentinel: &Sentinel) -> Result<Position> {
    if let Some(lsn) = sentinel.finish_lsn {
        return Ok(Position::Lsn(Lsn(lsn)));
    }
    let (Some(segment), Some(offset)) = (&sentinel.wal_segment_backup_stop, &sentinel.wal_segment_offset_backup_stop)
    else {
        return Err(corrupt("it does not say where the backup ends".to_owned()));
    };
    let segment = SegmentName::parse(segment).filter(|segment| segment.timeline == name.segment.timeline);
    // Decimal digits, as in the name.
    let offset = offset.bytes().all(|byte| byte.is_ascii_digit()).then(|| offset.parse().ok()).flatten();
    match (segment, offset) {
        (Some(segment), Some(offset)) => Ok(Position::Within(segment, offset)),
        _ => Err(corrupt("where it says that the backup ends is no position on its timeline".to_owned())),
    }
}

/// A delta says so by its name and in its sentinel; one of both alone would be a guess.
fn parent(name: &LegacyName, sentinel: &Sentinel) -> Result<Option<LegacyName>> {
    let said = match &sentinel.delta_from {
        Some(text) => {
            Some(LegacyName::parse(text).ok_or_else(|| corrupt(format!("\"{text}\" is not the name of a backup")))?)
        }
        None => None,
    };
    match (name.parent, said) {
        (None, None) => Ok(None),
        (Some(segment), Some(said)) if said.segment == segment => Ok(Some(said)),
        _ => Err(corrupt("by its name it is a delta of another backup than it says".to_owned())),
    }
}

/// `{"base_prefix": …, "tablespaces": ["16400"], "16400": {"loc": "/ts/", "link": "pg_tblspc/16400"}}`
fn tablespaces(spec: &Value) -> Result<Vec<Tablespace>> {
    let Some(names) = spec.get("tablespaces").and_then(Value::as_array) else { return Ok(Vec::new()) };
    let one = |name: &Value| {
        let name = name.as_str()?;
        let oid = name.parse().ok().filter(|oid: &u32| oid.to_string() == name)?;
        let place = spec.get(name)?.get("loc")?.as_str()?;
        // WAL-E writes a slash behind it.
        let place = if place.len() > 1 { place.trim_end_matches('/') } else { place };
        place.starts_with('/').then(|| Tablespace { oid, location: PathBuf::from(place) })
    };
    let one = |name| one(name).ok_or_else(|| corrupt(format!("tablespace {name} has no place in it")));
    let mut tablespaces: Vec<Tablespace> = names.iter().map(one).collect::<Result<_>>()?;
    tablespaces.sort();
    tablespaces.dedup();
    Ok(tablespaces)
}

fn corrupt(detail: String) -> Error {
    Error::new(Kind::Corrupt, "the sentinel of the backup is damaged").detail(detail)
}

/// What went wrong while JSON was read: the source, or the text.
pub(super) fn json_error(error: serde_json::Error) -> Error {
    if error.is_io() {
        return crate::legacy::codec::error_of(error.into());
    }
    let io: std::io::Error = error.into();
    match carried(&io) {
        Some(_) => crate::legacy::codec::error_of(io),
        None => Error::new(Kind::Corrupt, "it is not the JSON that is expected").detail(io.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAL_E: &str = "base_000000010000000000000002_00000040";
    const FULL: &str = "base_000000010000000000000002";
    const DELTA: &str = "base_000000010000000000000004_D_000000010000000000000002";

    fn read(name: &str, text: &str) -> Result<LegacyBackup> {
        LegacyBackup::read(name.parse().unwrap(), text.as_bytes(), Timestamp::from_second(77).unwrap())
    }

    /// As WAL-E 1.1.1 wrote it, with a tablespace.
    #[test]
    fn a_sentinel_of_wal_e() {
        let text = r#"{"wal_segment_backup_stop": "000000010000000000000002", "wal_segment_offset_backup_stop":
            "00000368", "expanded_size_bytes": 29266420, "spec": {"base_prefix": "/tmp/wales/data/", "tablespaces":
            ["16389"], "16389": {"loc": "/tmp/wales/ts/", "link": "pg_tblspc/16389"}}}"#;
        let backup = read(WAL_E, text).unwrap();
        let size = SegmentSize::DEFAULT;
        assert_eq!((backup.writer, backup.system_id, backup.listing), (Writer::WalE, None, Listing::None));
        assert_eq!(backup.start.lsn(size), Some(Lsn(0x200_0028)));
        assert_eq!(backup.stop.lsn(size), Some(Lsn(0x200_0170)));
        assert_eq!(backup.plain_size, Some(29_266_420));
        assert_eq!((backup.finished.as_second(), backup.finish_is_said), (77, false));
        assert_eq!(backup.tablespaces, [Tablespace { oid: 16389, location: "/tmp/wales/ts".into() }]);
    }

    #[test]
    fn sentinels_of_wal_g_of_both_versions() {
        let first = r#"{"LSN":33554472,"PgVersion":140005,"FinishLSN":33554776,"SystemIdentifier":7410000000000000123,
            "UncompressedSize":10,"CompressedSize":5,"DataCatalogSize":7,"Spec":null,"UserData":{"a":[1]}}"#;
        let backup = read(FULL, first).unwrap();
        assert_eq!((backup.writer, backup.postgres, backup.listing), (Writer::WalG, Some(14), Listing::Perhaps));
        assert_eq!(backup.system_id, Some(SystemId(7_410_000_000_000_000_123)));
        assert_eq!((backup.start, backup.stop), (Position::Lsn(Lsn(33_554_472)), Position::Lsn(Lsn(33_554_776))));
        let second = r#"{"LSN":67108904,"Timeline":1,"DeltaLSN":33554472,"DeltaFrom":"base_000000010000000000000002",
            "DeltaFullName":"base_000000010000000000000002","DeltaCount":1,"PgVersion":140005,"FinishLSN":67109208,
            "SystemIdentifier":1,"UncompressedSize":1,"CompressedSize":1,"Spec":null,"Version":2,
            "StartTime":"2024-05-01T10:00:00.123456Z","FinishTime":"2024-05-01T12:00:01.5+01:00","DateFmt":"x",
            "Hostname":"h","DataDir":"/d","IsPermanent":true}"#;
        let backup = read(DELTA, second).unwrap();
        assert_eq!((backup.parent, backup.listing), (Some(FULL.parse().unwrap()), Listing::Required));
        assert_eq!(backup.finished.to_string(), "2024-05-01T11:00:01.5Z");
        assert!(backup.permanent && backup.finish_is_said);
        let without = second.replace("\"Version\":2", "\"FilesMetadataDisabled\":true,\"Version\":2");
        assert_eq!(read(DELTA, &without).unwrap().listing, Listing::None);
        let early = r#"{"LSN":1,"FinishLSN":2,"DeltaFromLSN":null,"PgVersion":90624,"Files":{"/a":{"MTime":"x"}}}"#;
        let backup = read(FULL, early).unwrap();
        assert_eq!((backup.listing, backup.postgres), (Listing::Inline, Some(9)));
    }

    #[test]
    fn what_does_not_say_where_it_begins_and_ends_or_contradicts_itself_is_corrupt() {
        let stop = r#""wal_segment_offset_backup_stop":"00000368""#;
        for (name, text) in [
            (FULL, "{}".to_owned()),
            (FULL, r#"{"LSN":1}"#.to_owned()),
            (FULL, r#"{"LSN":1,"FinishLSN":2"#.to_owned()),
            (FULL, r#"{"LSN":1,"FinishLSN":2,"DeltaFrom":"base_000000010000000000000002"}"#.to_owned()),
            (DELTA, r#"{"LSN":1,"FinishLSN":2}"#.to_owned()),
            (DELTA, r#"{"LSN":1,"FinishLSN":2,"DeltaFrom":"x"}"#.to_owned()),
            (DELTA, r#"{"LSN":1,"FinishLSN":2,"DeltaFrom":"base_000000010000000000000003"}"#.to_owned()),
            (WAL_E, format!(r#"{{"wal_segment_backup_stop":"000000020000000000000002",{stop}}}"#)),
            (WAL_E, r#"{"wal_segment_backup_stop":"000000010000000000000002"}"#.to_owned()),
            (FULL, r#"{"LSN":1,"FinishLSN":2,"Spec":{"tablespaces":["16400"]}}"#.to_owned()),
            (FULL, r#"{"LSN":1,"FinishLSN":2,"Spec":{"tablespaces":["x"],"x":{"loc":"/x"}}}"#.to_owned()),
            (FULL, r#"{"LSN":1,"FinishLSN":2,"Spec":{"tablespaces":["16400"],"16400":{"loc":"x"}}}"#.to_owned()),
        ] {
            assert_eq!(read(name, &text).unwrap_err().kind(), Kind::Corrupt, "{text}");
        }
    }

    #[test]
    fn a_time_that_is_not_said_is_no_later_than_those_of_the_backups_behind_it() {
        let backup = |segment: &str, second: i64, said: bool| LegacyBackup {
            finished: Timestamp::from_second(second).unwrap(),
            finish_is_said: said,
            ..read(&format!("base_{segment}"), r#"{"LSN":1,"FinishLSN":2}"#).unwrap()
        };
        let mut theirs = [
            backup("000000010000000000000002", 900, false),
            backup("000000010000000000000003", 901, false),
            backup("000000010000000000000004", 50, true),
            backup("000000010000000000000005", 902, false),
            backup("000000010000000000000007", 5, false),
            backup("000000020000000000000001", 903, false),
        ];
        let ours = [(SegmentName::parse("000000010000000000000006").unwrap(), Timestamp::from_second(60).unwrap())];
        bound_times(&mut theirs, &ours);
        assert_eq!(theirs.map(|backup| backup.finished.as_second()), [50, 50, 50, 60, 5, 903]);
    }

    #[test]
    fn an_offset_lies_within_its_segment() {
        let segment = SegmentName::parse("000000010000000000000002").unwrap();
        let size = SegmentSize::new(1 << 20).unwrap();
        assert_eq!(Position::Within(segment, 1 << 20).lsn(size), Some(Lsn(3 << 20)));
        assert_eq!(Position::Within(segment, (1 << 20) + 1).lsn(size), None);
        assert_eq!(Position::Within(segment, 0).lsn(size), Some(Lsn(3 << 20)));
    }
}
