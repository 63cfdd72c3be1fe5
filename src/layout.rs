//! Every object key, built and parsed in one place (docs/format.md, "Keys").
//!
//! Pure. Nothing else in Walden puts a key together or takes one apart. The form of the short JSON objects is next door,
//! in [`sealed`].

pub mod basebackups;
pub mod legacy;
pub mod sealed;

use std::fmt;

use jiff::Timestamp;

use crate::error::{Error, Kind, Result};
use crate::postgres::control::SystemId;
use crate::wal::segment::{SegmentName, WalFile};
use crate::wal::timeline::Timeline;

/// The newest version of the bucket's format that this build reads. What is encrypted is written in it.
pub const FORMAT: u32 = 2;

/// The version in which everything is written that is not encrypted: older builds read it.
pub const CLEAR: u32 = 1;

/// The version in which something is written.
pub fn format(encrypted: bool) -> u32 {
    if encrypted { FORMAT } else { CLEAR }
}

/// May this version read what says that it was written in `format`? `what` says it for the message, as in "the object".
///
/// # Errors
/// [`Kind::Refused`] for a newer format.
pub fn check_format(what: impl fmt::Display, format: u32) -> Result<()> {
    if format <= FORMAT {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, format!("{what} was written in format {format}"))
        .detail(format!("this version of walden knows formats up to {FORMAT}"))
        .hint("Use the version of walden that wrote it, or a newer one."))
}

/// The greatest number of parts in a volume: their names keep six digits, so that a shell's `*` sorts them.
pub const MAX_PARTS: u32 = 1_000_000;

/// What [`Key::Probe`] holds, always and in every archive.
pub const PROBE: &[u8] = b"walden put this here to see whether the store honours If-None-Match. It may be deleted.\n";

/// What [`Key::Doctor`] holds.
pub const DOCTOR: &[u8] = b"walden doctor put this here to see what it may do. It may be deleted.\n";

/// An object below the prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// `walden.json`: says that the prefix is Walden's, and its format.
    Marker,
    /// `walden-probe.txt`: put twice to see whether the store overwrites. It holds [`PROBE`].
    Probe,
    /// `walden-doctor.txt`: stored, read and deleted by an examination of the store. It holds [`DOCTOR`].
    Doctor,
    /// A WAL file as PostgreSQL names it.
    Wal(SystemId, WalFile),
    /// One part of one volume of a base backup.
    Part(SystemId, BackupId, PartName),
    /// The long manifest of a base backup.
    Files(SystemId, BackupId),
    /// The short manifest: the commit point of a base backup.
    Backup(SystemId, BackupId),
    /// `retention.json`: what the last deletion by `walden delete` did.
    Retention(SystemId),
    /// A data key, wrapped.
    DataKey(SystemId, DataKeyName),
}

/// What an object belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The archive as a whole.
    Archive,
    /// The WAL.
    Wal,
    /// A base backup.
    Backup,
    /// The keys of both.
    Keys,
}

/// Which part of which volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartName {
    /// Counted from 0.
    pub volume: u32,
    /// Counted from 0, less than [`MAX_PARTS`].
    pub part: u32,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Marker => f.write_str("walden.json"),
            Key::Probe => f.write_str("walden-probe.txt"),
            Key::Doctor => f.write_str("walden-doctor.txt"),
            Key::Wal(system, file @ WalFile::History(_)) => write!(f, "{system}/wal/{file}"),
            Key::Wal(system, file) => write!(f, "{system}/wal/{}/{file}", file.timeline()),
            Key::Part(system, id, PartName { volume, part }) => write!(f, "{system}/backup/{id}/v{volume}/{part:06}"),
            Key::Files(system, id) => write!(f, "{system}/backup/{id}/files"),
            Key::Backup(system, id) => write!(f, "{system}/backup/{id}/backup.json"),
            Key::Retention(system) => write!(f, "{system}/retention.json"),
            Key::DataKey(system, name) => write!(f, "{system}/keys/{name}"),
        }
    }
}

impl Key {
    /// Reads a key (without the prefix); `None` for one that Walden does not write.
    pub fn parse(text: &str) -> Option<Key> {
        let words: Vec<&str> = text.split('/').collect();
        let system = |word: &str| word.parse::<SystemId>().ok();
        let key = match words.as_slice() {
            ["walden.json"] => Key::Marker,
            ["walden-probe.txt"] => Key::Probe,
            ["walden-doctor.txt"] => Key::Doctor,
            [id, "retention.json"] => Key::Retention(system(id)?),
            [id, "keys", name] => Key::DataKey(system(id)?, DataKeyName::parse(name)?),
            [id, "wal", name] => Key::Wal(system(id)?, WalFile::parse(name)?),
            [id, "wal", _, name] => Key::Wal(system(id)?, WalFile::parse(name)?),
            [id, "backup", backup, "files"] => Key::Files(system(id)?, BackupId::parse(backup)?),
            [id, "backup", backup, "backup.json"] => Key::Backup(system(id)?, BackupId::parse(backup)?),
            [id, "backup", backup, volume, part] => {
                let volume = volume.strip_prefix('v')?.parse().ok()?;
                let part = part.parse().ok().filter(|&part| part < MAX_PARTS)?;
                Key::Part(system(id)?, BackupId::parse(backup)?, PartName { volume, part })
            }
            _ => return None,
        };
        // Catches what the parsers above let through: "+1", "00000" for part 0, a segment below the wrong timeline.
        (key.to_string() == text).then_some(key)
    }

    /// What it belongs to.
    pub fn family(&self) -> Family {
        match self {
            Key::Marker | Key::Probe | Key::Doctor | Key::Retention(..) => Family::Archive,
            Key::Wal(..) => Family::Wal,
            Key::Part(..) | Key::Files(..) | Key::Backup(..) => Family::Backup,
            Key::DataKey(..) => Family::Keys,
        }
    }

    /// The cluster that it belongs to; none for what belongs to the archive as a whole.
    pub fn system(&self) -> Option<SystemId> {
        match self {
            Key::Marker | Key::Probe | Key::Doctor => None,
            Key::Wal(system, _) | Key::Part(system, ..) | Key::Files(system, _) | Key::Backup(system, _) => {
                Some(*system)
            }
            Key::Retention(system) | Key::DataKey(system, _) => Some(*system),
        }
    }

    /// Is it one of the many large ones, which only a recovery reads? All others are small, or are read whenever somebody
    /// looks at the archive.
    pub fn is_bulk(&self) -> bool {
        match self {
            Key::Wal(_, file) => matches!(file, WalFile::Segment(_) | WalFile::Partial(_)),
            Key::Part(..) => true,
            Key::Marker | Key::Probe | Key::Doctor | Key::Retention(..) | Key::DataKey(..) => false,
            Key::Files(..) | Key::Backup(..) => false,
        }
    }
}

/// What all objects of one cluster begin with.
pub fn cluster_prefix(system: SystemId) -> String {
    format!("{system}/")
}

/// What all WAL files of one timeline begin with; history files lie beside these directories.
pub fn timeline_prefix(system: SystemId, timeline: Timeline) -> String {
    format!("{system}/wal/{timeline}/")
}

/// What all WAL of one cluster begins with.
pub fn wal_prefix(system: SystemId) -> String {
    format!("{system}/wal/")
}

/// What all data keys of one cluster begin with.
pub fn keys_prefix(system: SystemId) -> String {
    format!("{system}/keys/")
}

/// What all base backups of one cluster begin with.
pub fn backups_prefix(system: SystemId) -> String {
    format!("{system}/backup/")
}

/// What all objects of one base backup begin with.
pub fn backup_prefix(system: SystemId, id: BackupId) -> String {
    format!("{system}/backup/{id}/")
}

/// The name of a data key: the recipient of an age key (Bech32, in lower case).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct DataKeyName(String);

/// Characters of an X25519 recipient: `age1`, 52 for 32 bytes, and 6 of checksum.
const RECIPIENT_LENGTH: usize = 62;

impl DataKeyName {
    /// The name of the key with this recipient, which has been made by age.
    pub fn of(recipient: &str) -> DataKeyName {
        DataKeyName(recipient.to_owned())
    }

    /// Reads a name; `None` for what does not look like a recipient.
    pub fn parse(text: &str) -> Option<DataKeyName> {
        let letters = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        (text.len() == RECIPIENT_LENGTH && text.starts_with("age1") && letters(text))
            .then(|| DataKeyName(text.to_owned()))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DataKeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for DataKeyName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<DataKeyName, D::Error> {
        let text = String::deserialize(deserializer)?;
        DataKeyName::parse(&text).ok_or_else(|| serde::de::Error::custom("not the recipient of a data key"))
    }
}

/// The name of a base backup: when it began (UTC, whole seconds) and the segment that its WAL begins with. Sorts by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId {
    started: Timestamp,
    segment: SegmentName,
}

const STARTED: &str = "%Y%m%dT%H%M%SZ";

impl BackupId {
    /// The id of a backup that began at `started`, whose WAL begins in `segment`.
    pub fn new(started: Timestamp, segment: SegmentName) -> BackupId {
        let seconds = started.as_second();
        BackupId { started: Timestamp::from_second(seconds).unwrap_or(started), segment }
    }

    /// When the backup began, to the second.
    pub fn started(self) -> Timestamp {
        self.started
    }

    /// The segment in which its WAL began. A backup that was resumed begins later.
    pub fn segment(self) -> SegmentName {
        self.segment
    }

    /// Reads an id; `None` for anything else.
    pub fn parse(text: &str) -> Option<BackupId> {
        let (time, segment) = text.split_once('-')?;
        let started = jiff::civil::DateTime::strptime(STARTED, time).ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        let id = BackupId { started: started.timestamp(), segment: SegmentName::parse(segment)? };
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.started.strftime(STARTED), self.segment)
    }
}

impl std::str::FromStr for BackupId {
    type Err = Error;

    fn from_str(text: &str) -> Result<BackupId> {
        BackupId::parse(text).ok_or_else(|| {
            Error::new(Kind::Usage, format!("\"{text}\" is not the id of a base backup"))
                .hint("walden backup-list prints the ids; LATEST stands for the newest backup.")
        })
    }
}

impl serde::Serialize for BackupId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for BackupId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<BackupId, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::segment::tests::{any_segment, any_wal_file};
    use proptest::prelude::*;

    fn any_id() -> impl Strategy<Value = BackupId> {
        // The years 1970 to 2261: an id has four digits for the year.
        (0i64..9_200_000_000, any_segment())
            .prop_map(|(seconds, segment)| BackupId::new(Timestamp::from_second(seconds).unwrap(), segment))
    }

    fn any_key() -> impl Strategy<Value = Key> {
        let system = any::<u64>().prop_map(SystemId);
        prop_oneof![
            Just(Key::Marker),
            Just(Key::Probe),
            (system.clone(), any_wal_file()).prop_map(|(system, file)| Key::Wal(system, file)),
            (system.clone(), any_id(), any::<u32>(), 0..MAX_PARTS).prop_map(|(system, id, volume, part)| Key::Part(
                system,
                id,
                PartName { volume, part }
            )),
            (system.clone(), any_id()).prop_map(|(system, id)| Key::Files(system, id)),
            (system.clone(), any_id()).prop_map(|(system, id)| Key::Backup(system, id)),
            system.clone().prop_map(Key::Retention),
            (system, "age1[a-z0-9]{58}").prop_map(|(system, name)| Key::DataKey(system, DataKeyName::of(&name))),
        ]
    }

    proptest! {
        #[test]
        fn parse_undoes_build(key in any_key()) {
            prop_assert_eq!(Key::parse(&key.to_string()), Some(key));
        }

        #[test]
        fn whatever_parses_is_built_the_same(text in "[0-9A-Fa-fv/.+TZ-]{0,80}|[0-9]{1,3}/(wal|backup)/[0-9A-F/v]{0,40}") {
            if let Some(key) = Key::parse(&text) {
                prop_assert_eq!(key.to_string(), text);
            }
        }

        #[test]
        fn ids_sort_by_time(a in any_id(), b in any_id()) {
            if a.started() != b.started() {
                prop_assert_eq!(a.started().cmp(&b.started()), a.to_string().cmp(&b.to_string()));
            }
        }
    }

    #[test]
    fn keys_as_the_format_prints_them() {
        let system = SystemId(7710427967336607753);
        let segment = SegmentName::parse("0000000100000000000000AB").unwrap();
        let id = BackupId::new("2026-11-21T01:30:05.9Z".parse().unwrap(), segment);
        assert_eq!(id.to_string(), "20261121T013005Z-0000000100000000000000AB");
        let part = Key::Part(system, id, PartName { volume: 1, part: 42 });
        assert_eq!(part.to_string(), format!("7710427967336607753/backup/{id}/v1/000042"));
        let wal = Key::Wal(system, WalFile::Segment(segment));
        assert_eq!(wal.to_string(), "7710427967336607753/wal/00000001/0000000100000000000000AB");
        let history = Key::Wal(system, WalFile::History(Timeline(2)));
        assert_eq!(history.to_string(), "7710427967336607753/wal/00000002.history");
    }

    #[test]
    fn foreign_keys_are_not_ours() {
        for text in [
            "",
            "walden.json/",
            "x/wal/00000002.history",
            "1/wal/00000001/000000020000000000000001",
            "1/wal/000000010000000000000001",
            "1/wal/00000002/00000002.history",
            "1/backup/20261121T013005Z-0000000100000000000000AB/v0/00000",
            "1/backup/20261321T013005Z-0000000100000000000000AB/files",
            "1/backup/20261121T013005Z-0000000100000000000000AB/v01/000000",
            "1/keys/age1short",
            "1/keys/AGE1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ",
        ] {
            assert_eq!(Key::parse(text), None, "{text:?}");
        }
    }
}
