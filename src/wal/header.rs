//! The long page header at the beginning of every WAL segment, and whether a segment is what its name says.

use crate::error::{Error, Kind, Result};
use crate::postgres::bytes::{u32_at, u64_at};
use crate::postgres::control::SystemId;
use crate::postgres::lsn::Lsn;
use crate::wal::segment::{SegmentName, SegmentSize};
use crate::wal::timeline::Timeline;

/// Bytes of a long page header (`SizeOfXLogLongPHD` in src/include/access/xlog_internal.h).
pub const LONG_HEADER_SIZE: usize = 40;

/// `XLP_LONG_HEADER`
const LONG_HEADER: u16 = 0x0002;

/// `XLOG_PAGE_MAGIC` of each major version.
const MAGICS: [(u16, u16); 6] = [(0xD106, 13), (0xD10D, 14), (0xD110, 15), (0xD113, 16), (0xD116, 17), (0xD118, 18)];

/// What the first page of a segment says (`XLogLongPageHeaderData`), read in the byte order of x86-64 and arm64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongHeader {
    /// `xlp_magic`: changes with the format of the WAL.
    pub magic: u16,
    /// `xlp_tli`: the timeline of the page; an ancestor of the name's where a timeline began within the segment.
    pub timeline: Timeline,
    /// `xlp_pageaddr`: the position of the segment's first byte.
    pub start: Lsn,
    /// `xlp_sysid`: which cluster wrote it.
    pub system_id: SystemId,
    /// `xlp_seg_size`.
    pub segment_size: SegmentSize,
}

impl LongHeader {
    /// Reads the first [`LONG_HEADER_SIZE`] bytes of a segment.
    ///
    /// A magic newer than the newest known one is accepted: the layout of this header has not changed since
    /// PostgreSQL 9.3, and a new major version must not stop archiving.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if they are not a long page header.
    pub fn parse(bytes: &[u8]) -> Result<LongHeader> {
        let corrupt = |detail: String| {
            Error::new(Kind::Corrupt, "the file does not begin with the header of a WAL segment").detail(detail)
        };
        let Some(bytes) = bytes.first_chunk::<LONG_HEADER_SIZE>() else {
            return Err(corrupt(format!("it has only {} bytes", bytes.len())));
        };
        let magic = u16::from_le_bytes([bytes[0], bytes[1]]);
        let newest = MAGICS[MAGICS.len() - 1].0;
        if version_of(magic).is_none() && !(magic > newest && magic >> 8 == newest >> 8) {
            return Err(corrupt(format!("its magic number is {magic:04X}")));
        }
        if u16::from_le_bytes([bytes[2], bytes[3]]) & LONG_HEADER == 0 {
            return Err(corrupt("its first page has no long header".into()));
        }
        let size = u32_at(bytes, 32);
        let segment_size = SegmentSize::new(size.into()).ok_or_else(|| {
            corrupt(format!("its segment size is {size}, which is not a power of two from 1 MiB to 1 GiB"))
        })?;
        let timeline = Timeline(u32_at(bytes, 4));
        if timeline.0 == 0 {
            return Err(corrupt("its timeline is 0".into()));
        }
        Ok(LongHeader {
            magic,
            timeline,
            start: Lsn(u64_at(bytes, 8)),
            system_id: SystemId(u64_at(bytes, 24)),
            segment_size,
        })
    }

    /// The major version of PostgreSQL that wrote it, or `None` for one newer than this table.
    pub fn version(&self) -> Option<u16> {
        version_of(self.magic)
    }

    /// Is this the header of the segment `name`, in a file of `file_size` bytes?
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if the file's size, the position or the timeline do not fit the name.
    pub fn check(&self, name: SegmentName, file_size: u64) -> Result<()> {
        let wrong = |detail: String| {
            Error::new(Kind::Corrupt, format!("WAL segment {name} is not what its name says")).detail(detail)
        };
        if file_size != self.segment_size.bytes() {
            return Err(wrong(format!(
                "the file has {file_size} bytes, its header says {}",
                self.segment_size.bytes()
            )));
        }
        if name.start(self.segment_size) != Some(self.start) {
            return Err(wrong(format!("its first page is that of position {}", self.start)));
        }
        if self.timeline > name.timeline {
            return Err(wrong(format!("its first page is of timeline {}", self.timeline)));
        }
        Ok(())
    }
}

/// Refuses the WAL of another cluster.
///
/// # Errors
/// [`Kind::Refused`] if the two system identifiers differ.
pub fn check_system(name: SegmentName, found: SystemId, expected: SystemId) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, format!("WAL segment {name} belongs to another cluster"))
        .detail(format!("its system identifier is {found}, that of the data directory is {expected}"))
        .hint("Check that the path comes from this server: archive_command = 'walden wal-push %p'."))
}

fn version_of(magic: u16) -> Option<u16> {
    MAGICS.iter().find(|(known, _)| *known == magic).map(|(_, version)| *version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::segment::tests::{any_segment, any_size};
    use proptest::prelude::*;

    fn forge(magic: u16, info: u16, name: SegmentName, size: SegmentSize, system_id: u64) -> Vec<u8> {
        let mut bytes = vec![0; LONG_HEADER_SIZE];
        bytes[..2].copy_from_slice(&magic.to_le_bytes());
        bytes[2..4].copy_from_slice(&info.to_le_bytes());
        bytes[4..8].copy_from_slice(&name.timeline.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&name.start(size).map_or(0, |lsn| lsn.0).to_le_bytes());
        bytes[24..32].copy_from_slice(&system_id.to_le_bytes());
        bytes[32..36].copy_from_slice(&(size.bytes() as u32).to_le_bytes());
        bytes
    }

    proptest! {
        #[test]
        fn every_known_version_and_size(version in 0usize..6, lsn: u64, timeline in 1u32.., size in any_size(), system_id: u64) {
            let name = SegmentName::containing(Timeline(timeline), Lsn(lsn), size);
            let header = LongHeader::parse(&forge(MAGICS[version].0, LONG_HEADER, name, size, system_id)).unwrap();
            prop_assert_eq!(header.version(), Some(MAGICS[version].1));
            prop_assert_eq!(header.system_id, SystemId(system_id));
            prop_assert!(header.check(name, size.bytes()).is_ok());
            prop_assert!(header.check(name, size.bytes() - 1).is_err());
            let other = SegmentName::containing(Timeline(timeline), Lsn(lsn ^ size.bytes()), size);
            prop_assert_eq!(header.check(other, size.bytes()).unwrap_err().kind(), Kind::Corrupt);
        }

        #[test]
        fn parse_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), name in any_segment()) {
            if let Ok(header) = LongHeader::parse(&bytes) {
                let _ = header.check(name, 1 << 24);
            }
        }
    }

    #[test]
    fn what_is_not_a_segment_is_corrupt() {
        let name = SegmentName::parse("000000010000000000000001").unwrap();
        let size = SegmentSize::DEFAULT;
        let good = forge(0xD110, LONG_HEADER, name, size, 7);
        assert!(LongHeader::parse(&good[..39]).is_err());
        assert!(LongHeader::parse(&[0; 40]).is_err());
        assert!(LongHeader::parse(&forge(0xD110, 0, name, size, 7)).is_err());
        assert!(LongHeader::parse(&forge(0xD0FF, LONG_HEADER, name, size, 7)).is_err());
        assert!(LongHeader::parse(&forge(0xD121, LONG_HEADER, name, size, 7)).unwrap().version().is_none());
        let mut odd_size = good.clone();
        odd_size[32] = 1;
        assert!(LongHeader::parse(&odd_size).is_err());
    }

    #[test]
    fn a_parent_timeline_in_the_first_page_is_fine_a_younger_one_is_not() {
        let size = SegmentSize::DEFAULT;
        let old = SegmentName::parse("000000010000000000000005").unwrap();
        let new = SegmentName::parse("000000020000000000000005").unwrap();
        let on_old = LongHeader::parse(&forge(0xD110, LONG_HEADER, old, size, 7)).unwrap();
        let on_new = LongHeader::parse(&forge(0xD110, LONG_HEADER, new, size, 7)).unwrap();
        assert!(on_old.check(new, size.bytes()).is_ok());
        assert!(on_new.check(old, size.bytes()).is_err());
    }

    #[test]
    fn another_clusters_segment_is_refused() {
        let name = SegmentName::parse("000000010000000000000001").unwrap();
        assert!(check_system(name, SystemId(1), SystemId(1)).is_ok());
        assert_eq!(check_system(name, SystemId(1), SystemId(2)).unwrap_err().kind(), Kind::Refused);
    }
}
