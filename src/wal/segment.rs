//! Names and sizes of WAL files.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Kind, Result};
use crate::postgres::lsn::Lsn;
use crate::wal::timeline::{Timeline, parse_hex8};

/// The size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB (`IsValidWalSegSize` in
/// src/include/access/xlog_internal.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentSize(u64);

impl SegmentSize {
    /// What `initdb` chooses unless told otherwise.
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);

    /// `None` unless PostgreSQL would accept this size.
    pub fn new(bytes: u64) -> Option<SegmentSize> {
        let legal = bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes);
        legal.then_some(SegmentSize(bytes))
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// How many segments make 4 GiB of WAL (`XLogSegmentsPerXLogId`).
    fn per_log(self) -> u64 {
        (1 << 32) / self.0
    }
}

/// The name of a WAL segment: timeline, "log" (4 GiB units) and segment within it. What position it stands for depends on
/// the [`SegmentSize`], which the name does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The timeline.
    pub timeline: Timeline,
    log: u32,
    segment: u32,
}

impl SegmentName {
    /// The segment of `timeline` with this running number, counted from the beginning of the WAL; `None` if it lies
    /// beyond the last position an LSN can name.
    pub fn new(timeline: Timeline, number: u64, size: SegmentSize) -> Option<SegmentName> {
        let log = u32::try_from(number / size.per_log()).ok()?;
        Some(SegmentName { timeline, log, segment: (number % size.per_log()) as u32 })
    }

    /// The segment that holds the byte at `lsn`.
    pub fn containing(timeline: Timeline, lsn: Lsn, size: SegmentSize) -> SegmentName {
        let number = lsn.0 / size.bytes();
        SegmentName { timeline, log: (number / size.per_log()) as u32, segment: (number % size.per_log()) as u32 }
    }

    /// The running number, or `None` if this name cannot occur with this segment size.
    pub fn number(self, size: SegmentSize) -> Option<u64> {
        let segment = u64::from(self.segment);
        (segment < size.per_log()).then(|| u64::from(self.log) * size.per_log() + segment)
    }

    /// The position of the segment's first byte, or `None` if this name cannot occur with this segment size.
    pub fn start(self, size: SegmentSize) -> Option<Lsn> {
        Some(Lsn(self.number(size)? * size.bytes()))
    }

    /// Reads 24 upper-case hexadecimal digits.
    pub fn parse(name: &str) -> Option<SegmentName> {
        if name.len() != 24 || !name.is_ascii() {
            return None;
        }
        Some(SegmentName {
            timeline: Timeline::parse(&name[..8])?,
            log: parse_hex8(&name[8..16])?,
            segment: parse_hex8(&name[16..])?,
        })
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:08X}{:08X}", self.timeline, self.log, self.segment)
    }
}

impl serde::Serialize for SegmentName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for SegmentName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<SegmentName, D::Error> {
        let text = String::deserialize(deserializer)?;
        SegmentName::parse(&text).ok_or_else(|| serde::de::Error::custom("not the name of a WAL segment"))
    }
}

/// Every kind of file that PostgreSQL hands to `archive_command` (src/include/access/xlog_internal.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalFile {
    /// A complete segment.
    Segment(SegmentName),
    /// The last, incomplete segment of a timeline that ended in a promotion. PostgreSQL never asks for it again.
    Partial(SegmentName),
    /// The backup history file of a base backup that began in this segment at this byte offset.
    BackupHistory(SegmentName, u32),
    /// The history of a timeline.
    History(Timeline),
}

impl WalFile {
    /// The timeline that the name carries.
    pub fn timeline(self) -> Timeline {
        match self {
            WalFile::Segment(name) | WalFile::Partial(name) | WalFile::BackupHistory(name, _) => name.timeline,
            WalFile::History(timeline) => timeline,
        }
    }

    /// The segment that the name carries; a history file has none.
    pub fn segment(self) -> Option<SegmentName> {
        match self {
            WalFile::Segment(name) | WalFile::Partial(name) | WalFile::BackupHistory(name, _) => Some(name),
            WalFile::History(_) => None,
        }
    }

    /// Reads a file name; `None` for a name that PostgreSQL does not give to a WAL file.
    pub fn parse(name: &str) -> Option<WalFile> {
        match name.split_once('.') {
            None => SegmentName::parse(name).map(WalFile::Segment),
            Some((stem, "history")) => Timeline::parse(stem).map(WalFile::History),
            Some((stem, "partial")) => SegmentName::parse(stem).map(WalFile::Partial),
            Some((stem, rest)) => {
                let offset = parse_hex8(rest.strip_suffix(".backup")?)?;
                Some(WalFile::BackupHistory(SegmentName::parse(stem)?, offset))
            }
        }
    }
}

impl FromStr for WalFile {
    type Err = Error;

    fn from_str(name: &str) -> Result<WalFile> {
        WalFile::parse(name).ok_or_else(|| {
            Error::new(Kind::Usage, format!("\"{name}\" is not the name of a WAL file")).hint(
                "Use archive_command = 'walden wal-push %p' and restore_command = 'walden wal-fetch %f %p', with just these placeholders.",
            )
        })
    }
}

impl fmt::Display for WalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalFile::Segment(name) => name.fmt(f),
            WalFile::Partial(name) => write!(f, "{name}.partial"),
            WalFile::BackupHistory(name, offset) => write!(f, "{name}.{offset:08X}.backup"),
            WalFile::History(timeline) => write!(f, "{timeline}.history"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_size() -> impl Strategy<Value = SegmentSize> {
        (20u32..=30).prop_map(|log2| SegmentSize::new(1 << log2).unwrap())
    }

    pub(crate) fn any_segment() -> impl Strategy<Value = SegmentName> {
        (1u32.., any::<u64>(), any_size())
            .prop_map(|(timeline, lsn, size)| SegmentName::containing(Timeline(timeline), Lsn(lsn), size))
    }

    pub(crate) fn any_wal_file() -> impl Strategy<Value = WalFile> {
        prop_oneof![
            any_segment().prop_map(WalFile::Segment),
            any_segment().prop_map(WalFile::Partial),
            (any_segment(), any::<u32>()).prop_map(|(name, offset)| WalFile::BackupHistory(name, offset)),
            (1u32..).prop_map(|timeline| WalFile::History(Timeline(timeline))),
        ]
    }

    #[test]
    fn legal_sizes_are_the_powers_of_two_from_1_mib_to_1_gib() {
        let legal: Vec<u64> = (0..64).map(|log2| 1u64 << log2).filter(|&n| SegmentSize::new(n).is_some()).collect();
        assert_eq!(legal.first(), Some(&(1 << 20)));
        assert_eq!(legal.last(), Some(&(1 << 30)));
        assert_eq!(legal.len(), 11);
        assert_eq!(SegmentSize::new(3 << 20), None);
    }

    #[test]
    fn names_as_postgresql_writes_them() {
        let size = SegmentSize::DEFAULT;
        let name = SegmentName::containing(Timeline(1), Lsn(0x16_B374_D848), size);
        assert_eq!(name.to_string(), "0000000100000016000000B3");
        assert_eq!(name.start(size), Some(Lsn(0x16_B300_0000)));
        let last = SegmentName::parse("0000000100000000000000FF").unwrap();
        let next = SegmentName::new(Timeline(1), last.number(size).unwrap() + 1, size).unwrap();
        assert_eq!(next.to_string(), "000000010000000100000000");
        assert_eq!(SegmentName::parse("000000010000000000000100").unwrap().number(size), None);
    }

    #[test]
    fn names_that_are_not_wal_files_are_refused() {
        for name in [
            "",
            "00000001",
            "RECOVERYXLOG",
            "00000000000000000000000A",
            "00000001000000000000000a",
            "00000001000000000000000A.ready",
            "00000001000000000000000A.partial.gz",
            "00000001000000000000000A.28.backup",
            "00000001000000000000000A.00000028.backup.old",
            "0000000G.history",
            "00000000.history",
            "../000000010000000000000001",
            "ä0000001000000000000000",
        ] {
            assert_eq!(WalFile::parse(name), None, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn file_names_round_trip(file in any_wal_file()) {
            prop_assert_eq!(WalFile::parse(&file.to_string()), Some(file));
        }

        #[test]
        fn positions_and_numbers_agree_for_every_size(timeline in 1u32.., lsn: u64, size in any_size()) {
            let name = SegmentName::containing(Timeline(timeline), Lsn(lsn), size);
            let start = name.start(size).unwrap();
            prop_assert!(start.0 <= lsn && lsn - start.0 < size.bytes());
            prop_assert_eq!(SegmentName::new(name.timeline, name.number(size).unwrap(), size), Some(name));
        }

        #[test]
        fn names_sort_as_positions_do(a: u64, b: u64, size in any_size()) {
            let name = |lsn| SegmentName::containing(Timeline(1), Lsn(lsn), size).to_string();
            let numbers = (a / size.bytes()).cmp(&(b / size.bytes()));
            prop_assert_eq!(name(a).cmp(&name(b)), numbers);
        }

        #[test]
        fn parse_never_panics(name in "\\PC{0,48}") {
            let _ = WalFile::parse(&name);
        }
    }
}
