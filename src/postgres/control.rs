//! `global/pg_control`: which cluster a data directory holds and how it was built.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Kind, Result};
use crate::postgres::bytes::{u32_at, u64_at};
use crate::postgres::lsn::Lsn;
use crate::wal::segment::SegmentSize;
use crate::wal::timeline::Timeline;

/// A cluster's system identifier: made by `initdb`, the same on all its standbys and restored copies, written in decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SystemId {
    type Err = Error;

    /// Reads a decimal number without sign or leading zero.
    fn from_str(text: &str) -> Result<SystemId> {
        let canonical =
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        canonical.then(|| text.parse().ok()).flatten().map(SystemId).ok_or_else(|| {
            Error::new(Kind::Usage, format!("\"{text}\" is not a system identifier"))
                .hint("pg_controldata prints a cluster's; it is a decimal number such as 7710427967336607753.")
        })
    }
}

impl serde::Serialize for SystemId {
    /// As a string: JSON readers that keep numbers as doubles would round it.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for SystemId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<SystemId, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where the file lies within a data directory.
pub const CONTROL_FILE: &str = "global/pg_control";

/// Bytes of the file (`PG_CONTROL_FILE_SIZE`); those after the CRC are zero.
pub const CONTROL_FILE_SIZE: usize = 8192;

/// Major version, `pg_control_version`, `catalog_version_no`, offset of the CRC.
///
/// 13 to 16 share one layout. 17 added `wal_level` to `CheckPoint`, in what was padding; 18 added
/// `default_char_signedness` before the nonce, which moves the CRC (src/include/catalog/pg_control.h).
const VERSIONS: [(u16, u32, u32, usize); 6] = [
    (13, 1300, 202007201, 288),
    (14, 1300, 202107181, 288),
    (15, 1300, 202209061, 288),
    (16, 1300, 202307071, 288),
    (17, 1700, 202406281, 288),
    (18, 1800, 202506291, 292),
];

/// What Walden reads from the control file (`ControlFileData`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// Whose data directory this is.
    pub system_id: SystemId,
    /// Major version of PostgreSQL, 13 to 18.
    pub version: u16,
    /// `catalog_version_no`: part of the name of a tablespace's directory.
    pub catalog_version: u32,
    /// The redo position of the last checkpoint.
    pub redo: Lsn,
    /// The timeline of the last checkpoint.
    pub timeline: Timeline,
    /// The size of a WAL segment.
    pub segment_size: SegmentSize,
    /// Bytes of a data page (`blcksz`), as the server was built.
    pub page_size: u32,
    /// Pages in a file of a relation (`relseg_size`), as the server was built.
    pub relation_segment_pages: u32,
    /// Are data pages checksummed?
    pub data_checksums: bool,
    /// Was the server shut down in good order (`DB_SHUTDOWNED`)?
    pub shut_down: bool,
}

/// `DB_SHUTDOWNED` of `DBState` (src/include/catalog/pg_control.h).
const SHUT_DOWN: u32 = 1;

impl ControlFile {
    /// Reads the content of `global/pg_control`.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it is too short or its CRC-32C is wrong: a reader can meet a file that the server is just
    /// writing, so the caller reads it again. [`Kind::Refused`] for a version of PostgreSQL other than 13 to 18.
    pub fn parse(bytes: &[u8]) -> Result<ControlFile> {
        if bytes.len() < 512 {
            return Err(corrupt(format!("it has only {} bytes", bytes.len())));
        }
        let (layout, catalog) = (u32_at(bytes, 8), u32_at(bytes, 12));
        let known =
            VERSIONS.iter().find(|(_, control, catalog_version, _)| (*control, *catalog_version) == (layout, catalog));
        let Some(&(version, _, _, crc_at)) = known else {
            return Err(Error::new(Kind::Refused, "this is not the data directory of PostgreSQL 13 to 18")
                .detail(format!("the version of global/pg_control is {layout}, that of the catalog is {catalog}")));
        };
        let (stored, computed) = (u32_at(bytes, crc_at), crc32c::crc32c(&bytes[..crc_at]));
        if stored != computed {
            return Err(corrupt(format!("its CRC is {stored:08X}, that of its content is {computed:08X}")));
        }
        let size = u32_at(bytes, 228);
        Ok(ControlFile {
            system_id: SystemId(u64_at(bytes, 0)),
            version,
            catalog_version: catalog,
            redo: Lsn(u64_at(bytes, 40)),
            timeline: Timeline(u32_at(bytes, 48)),
            segment_size: SegmentSize::new(size.into())
                .ok_or_else(|| corrupt(format!("its WAL segment size is {size}")))?,
            page_size: u32_at(bytes, 216),
            relation_segment_pages: u32_at(bytes, 220),
            data_checksums: u32_at(bytes, 252) != 0,
            shut_down: u32_at(bytes, 16) == SHUT_DOWN,
        })
    }

    /// The name of the directory that this cluster makes in each tablespace (`TABLESPACE_VERSION_DIRECTORY`).
    pub fn tablespace_directory(&self) -> String {
        format!("PG_{}_{}", self.version, self.catalog_version)
    }
}

fn corrupt(detail: String) -> Error {
    Error::new(Kind::Corrupt, format!("{CONTROL_FILE} is damaged")).detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn forge(version: usize, system_id: u64, redo: u64, timeline: u32, segment_log2: u32, checksums: bool) -> Vec<u8> {
        let (_, control, catalog, crc_at) = VERSIONS[version];
        let mut bytes = vec![0; CONTROL_FILE_SIZE];
        bytes[..8].copy_from_slice(&system_id.to_le_bytes());
        bytes[8..12].copy_from_slice(&control.to_le_bytes());
        bytes[12..16].copy_from_slice(&catalog.to_le_bytes());
        bytes[40..48].copy_from_slice(&redo.to_le_bytes());
        bytes[48..52].copy_from_slice(&timeline.to_le_bytes());
        bytes[216..220].copy_from_slice(&(system_id as u32).to_le_bytes());
        bytes[220..224].copy_from_slice(&timeline.to_le_bytes());
        bytes[228..232].copy_from_slice(&(1u32 << segment_log2).to_le_bytes());
        bytes[16] = checksums.into();
        bytes[252] = checksums.into();
        let crc = crc32c::crc32c(&bytes[..crc_at]);
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    proptest! {
        #[test]
        fn every_version(version in 0usize..6, system_id: u64, redo: u64, timeline in 1u32.., log2 in 20u32..=30, checksums: bool) {
            let control = ControlFile::parse(&forge(version, system_id, redo, timeline, log2, checksums)).unwrap();
            prop_assert_eq!(control.system_id, SystemId(system_id));
            prop_assert_eq!(control.version, 13 + version as u16);
            prop_assert_eq!(control.redo, Lsn(redo));
            prop_assert_eq!(control.timeline, Timeline(timeline));
            prop_assert_eq!(control.segment_size.bytes(), 1 << log2);
            prop_assert_eq!(control.page_size, system_id as u32);
            prop_assert_eq!(control.relation_segment_pages, timeline);
            prop_assert_eq!((control.data_checksums, control.shut_down), (checksums, checksums));
        }

        #[test]
        fn one_flipped_bit_is_noticed(version in 0usize..6, at in 0usize..288, bit in 0u8..8) {
            let mut bytes = forge(version, 7, 8, 1, 24, true);
            bytes[at] ^= 1 << bit;
            prop_assert!(ControlFile::parse(&bytes).is_err());
        }

        #[test]
        fn system_ids_round_trip(number: u64) {
            prop_assert_eq!(SystemId(number).to_string().parse::<SystemId>().unwrap(), SystemId(number));
        }
    }

    #[test]
    fn other_files_and_other_versions_are_told_apart() {
        assert_eq!(ControlFile::parse(b"short").unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(ControlFile::parse(&[0; CONTROL_FILE_SIZE]).unwrap_err().kind(), Kind::Refused);
        for text in ["", "-1", "+1", "01", "1 ", "99999999999999999999", "x"] {
            assert!(text.parse::<SystemId>().is_err(), "{text:?}");
        }
    }
}
