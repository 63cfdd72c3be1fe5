//! Whether the pages of a segment are those that its name promises. Pure: bytes in, a verdict out, a header at a time.
//!
//! Each page begins with a header that names its position (`XLogPageHeaderData` in src/include/access/xlog_internal.h).
//! The records between the headers are not looked at.

use std::io::{self, Write};

use crate::error::{Error, Kind, Result};
use crate::postgres::bytes::{u16_at, u32_at};
use crate::postgres::control::SystemId;
use crate::wal::header::{LONG_HEADER_SIZE, LongHeader};
use crate::wal::segment::{SegmentName, SegmentSize};

/// Bytes of a short page header (`SizeOfXLogShortPHD`).
const SHORT_HEADER_SIZE: usize = 24;

/// `XLP_LONG_HEADER`
const LONG_HEADER: u16 = 0x0002;

/// A sink for the bytes of a segment. Keeps the first thing that is wrong and swallows the rest, so that whoever writes
/// can still tell whether the digests are right.
#[derive(Debug)]
pub struct Pages {
    name: SegmentName,
    system: SystemId,
    size: SegmentSize,
    /// Bytes so far.
    position: u64,
    /// The page's header as far as it has come.
    header: Vec<u8>,
    first: Option<First>,
    /// The highest timeline so far: it never goes back.
    timeline: u32,
    /// A page without a header: from here on there are zeros.
    zeros: bool,
    wrong: Option<String>,
}

/// What the first page says of all of them.
#[derive(Clone, Copy, Debug)]
struct First {
    magic: u16,
    page_size: u64,
}

impl Pages {
    /// For the segment `name` of this cluster.
    pub fn of(name: SegmentName, system: SystemId, size: SegmentSize) -> Pages {
        Pages {
            name,
            system,
            size,
            position: 0,
            header: Vec::with_capacity(LONG_HEADER_SIZE),
            first: None,
            timeline: 0,
            zeros: false,
            wrong: None,
        }
    }

    /// All bytes have been written.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] with the first thing that is wrong.
    pub fn finish(mut self) -> Result<()> {
        if self.position != self.size.bytes() {
            let (found, expected) = (self.position, self.size.bytes());
            self.note(|| format!("it has {found} bytes, not {expected}"));
        }
        match self.wrong {
            None => Ok(()),
            Some(detail) => {
                Err(Error::new(Kind::Corrupt, format!("WAL segment {} is not what its name says", self.name))
                    .detail(detail))
            }
        }
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.wrong.is_none() {
            self.wrong = Some(what());
        }
    }

    /// Takes bytes up to the end of the page's header, or of the page; how many.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let page_size = self.first.map_or(u64::MAX, |first| first.page_size);
        let in_page = self.position % page_size;
        let header_size =
            if self.position < LONG_HEADER_SIZE as u64 { LONG_HEADER_SIZE } else { SHORT_HEADER_SIZE } as u64;
        let taken = if in_page < header_size && !self.zeros {
            let taken = bytes.len().min((header_size - in_page) as usize);
            self.header.extend_from_slice(&bytes[..taken]);
            taken
        } else {
            let taken = bytes.len().min((page_size - in_page).min(usize::MAX as u64) as usize);
            if self.zeros && bytes[..taken].iter().any(|&byte| byte != 0) {
                let page = self.position - in_page;
                self.note(|| format!("the page at offset {page} has content without a header"));
            }
            taken
        };
        self.position += taken as u64;
        if self.header.len() as u64 == header_size {
            self.check(self.position - header_size);
            self.header.clear();
        }
        taken
    }

    /// Checks the header of the page at this offset.
    fn check(&mut self, offset: u64) {
        let header = std::mem::take(&mut self.header);
        let checked = match self.first {
            None => self.check_first(&header),
            Some(first) => self.check_page(first, offset, &header),
        };
        if let Err(wrong) = checked {
            self.note(|| wrong);
        }
        self.header = header;
    }

    fn check_first(&mut self, header: &[u8]) -> Result<(), String> {
        let page_size = u64::from(u32_at(header, 36));
        let legal = page_size.is_power_of_two() && (1 << 10..=1 << 16).contains(&page_size);
        // Whatever the header says, the rest is read in pages of some size.
        self.first = Some(First { magic: u16_at(header, 0), page_size: if legal { page_size } else { 8192 } });
        let long = LongHeader::parse(header).map_err(|error| error.cause().unwrap_or_default().to_owned())?;
        long.check(self.name, self.size.bytes()).map_err(|error| error.cause().unwrap_or_default().to_owned())?;
        self.timeline = long.timeline.0;
        if long.system_id != self.system {
            return Err(format!("its system identifier is {}, not {}", long.system_id, self.system));
        }
        match legal {
            true => Ok(()),
            false => Err(format!("the size of its pages is {page_size}")),
        }
    }

    fn check_page(&mut self, first: First, offset: u64, header: &[u8]) -> Result<(), String> {
        if header.iter().all(|&byte| byte == 0) {
            // What pg_switch_wal() leaves behind it (CopyXLogRecordToWAL in src/backend/access/transam/xlog.c).
            self.zeros = true;
            return Ok(());
        }
        let wrong = |what: String| Err(format!("the page at offset {offset} {what}"));
        let (magic, info) = (u16_at(header, 0), u16_at(header, 2));
        if magic != first.magic {
            return wrong(format!("has the magic number {magic:04X}, the first one {:04X}", first.magic));
        }
        if info & LONG_HEADER != 0 {
            return wrong("has the header of a first page".into());
        }
        let (timeline, address) =
            (u32_at(header, 4), u64::from(u32_at(header, 8)) | u64::from(u32_at(header, 12)) << 32);
        let expected = self.name.start(self.size).map(|start| start.0 + offset);
        if Some(address) != expected {
            return wrong(format!("is that of position {}", crate::postgres::lsn::Lsn(address)));
        }
        if timeline < self.timeline || timeline > self.name.timeline.0 {
            return wrong(format!("is of timeline {timeline}, after one of timeline {}", self.timeline));
        }
        self.timeline = timeline;
        Ok(())
    }
}

impl Write for Pages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.take(rest);
            rest = &rest[taken..];
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::timeline::Timeline;
    use proptest::prelude::*;

    const PAGE: usize = 8192;

    fn size() -> SegmentSize {
        SegmentSize::new(1 << 20).unwrap()
    }

    fn name() -> SegmentName {
        SegmentName::new(Timeline(2), 5, size()).unwrap()
    }

    /// Timeline 2 began in the middle of it, and a switch ended it after `used` pages.
    fn segment(used: usize) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        for page in 0..used {
            let at = page * PAGE;
            bytes[at..at + PAGE].fill(0xA5);
            bytes[at..at + 2].copy_from_slice(&0xD110u16.to_le_bytes());
            bytes[at + 2..at + 4].copy_from_slice(&if page == 0 { LONG_HEADER } else { 1 }.to_le_bytes());
            bytes[at + 4..at + 8].copy_from_slice(&if page < 64 { 1u32 } else { 2 }.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&((5 << 20) + at as u64).to_le_bytes());
        }
        bytes[24..32].copy_from_slice(&7u64.to_le_bytes());
        bytes[32..36].copy_from_slice(&(1u32 << 20).to_le_bytes());
        bytes[36..40].copy_from_slice(&(PAGE as u32).to_le_bytes());
        bytes
    }

    fn check(bytes: &[u8], chunk: usize) -> Result<(), String> {
        let mut pages = Pages::of(name(), SystemId(7), size());
        bytes.chunks(chunk).for_each(|chunk| pages.write_all(chunk).unwrap());
        pages.finish().map_err(|error| error.cause().unwrap().to_owned())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_segment_is_sound_however_it_is_cut_and_wherever_it_was_switched(used in 1usize..=128, chunk in 1usize..100_000) {
            prop_assert_eq!(check(&segment(used), chunk), Ok(()));
        }

        #[test]
        fn a_page_from_elsewhere_is_found(page in 0usize..128, other in 0usize..128, chunk in 1usize..100_000) {
            prop_assume!(page != other);
            let (good, mut bytes) = (segment(128), segment(128));
            bytes[page * PAGE..][..PAGE].copy_from_slice(&good[other * PAGE..][..PAGE]);
            prop_assert!(check(&bytes, chunk).is_err());
        }

        #[test]
        fn any_bit_of_a_magic_number_or_an_address_is_missed(page in 0usize..128, byte in prop::sample::select(vec![0usize, 1, 8, 9, 10, 11, 12, 13, 14, 15]), bit in 0u8..8) {
            let mut bytes = segment(128);
            bytes[page * PAGE + byte] ^= 1 << bit;
            prop_assert!(check(&bytes, 65_536).is_err());
        }

        #[test]
        fn something_in_the_zeros_is_found(at in 40 * PAGE..1 << 20) {
            let mut bytes = segment(40);
            bytes[at] = 1;
            prop_assert!(check(&bytes, 65_536).is_err());
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = segment(128);
            change(&mut bytes);
            check(&bytes, 4096).unwrap_err()
        };
        assert_eq!(with(&|bytes| bytes.truncate(9000)), "it has 9000 bytes, not 1048576");
        assert_eq!(with(&|bytes| bytes.truncate(20)), "it has 20 bytes, not 1048576");
        assert_eq!(with(&|bytes| bytes[24] = 8), "its system identifier is 8, not 7");
        assert_eq!(with(&|bytes| bytes[36] = 1), "the size of its pages is 8193");
        assert_eq!(with(&|bytes| bytes[34] = 0x20), "the file has 1048576 bytes, its header says 2097152");
        assert_eq!(with(&|bytes| bytes[PAGE + 9] ^= 1), "the page at offset 8192 is that of position 0/502100");
        assert_eq!(
            with(&|bytes| bytes[PAGE + 4] = 3),
            "the page at offset 8192 is of timeline 3, after one of timeline 1"
        );
        let back = with(&|bytes| bytes[100 * PAGE + 4] = 1);
        assert_eq!(back, "the page at offset 819200 is of timeline 1, after one of timeline 2");
        let zeroed = with(&|bytes| bytes[3 * PAGE..4 * PAGE].fill(0));
        assert_eq!(zeroed, "the page at offset 32768 has content without a header");
        assert_eq!(with(&|bytes| bytes[PAGE + 2] = 2), "the page at offset 8192 has the header of a first page");
        assert_eq!(
            with(&|bytes| bytes[PAGE] = 0),
            "the page at offset 8192 has the magic number D100, the first one D110"
        );
    }
}
