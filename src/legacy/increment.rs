//! WAL-G's increments: the pages of a file that have changed since the backup before, in place of the file. Pure.
//!
//! Layout, in bytes: `w i 1 0x55`; the size of the whole file, 8, little-endian; the number of pages, 4; the block of each,
//! 4 each; the pages in the same order (`ReadIncrementalFile` in WAL-G's internal/databases/postgres/pagefile.go). WAL-RUS
//! writes the same, or PostgreSQL's own, and says which.

use std::io::{ErrorKind, Read};

use crate::error::{Error, Kind, Result};
use crate::legacy::codec::error_of;
use crate::postgres::bytes::{u32_at, u64_at};
use crate::postgres::page::PAGE_SIZE;

/// How WAL-RUS calls this form, in the sentinel of each delta.
pub const FORM: &str = "wi1";

/// The first four bytes.
pub const MAGIC: [u8; 4] = [b'w', b'i', b'1', 0x55];

/// Bytes before the list of blocks.
const HEADER: usize = 16;

/// The greatest number of pages: a bound on what the list of blocks takes, 64 MiB. A file of a server that was built as usual
/// has 131 072 pages.
const MOST_PAGES: u32 = 16 << 20;

/// An increment whose pages follow in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Increment {
    /// Bytes of the file when it has been applied.
    pub file_size: u64,
    /// The blocks whose pages follow, in their order; each lies within the file.
    pub blocks: Vec<u32>,
}

impl Increment {
    /// Reads what comes before the pages. `size` is that of the whole increment.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if this is not an increment of this size; those of the source.
    pub fn read(source: &mut impl Read, size: u64) -> Result<Increment> {
        let mut header = [0; HEADER];
        read_exactly(source, &mut header)?;
        let [magic @ .., _, _, _, _, _, _, _, _, _, _, _, _] = header;
        if magic != MAGIC {
            return Err(corrupt(format!("it begins with {}", magic.map(|byte| format!("{byte:02X}")).join(" "))));
        }
        let (file_size, count) = (u64_at(&header, 4), u32_at(&header, 12));
        let page = PAGE_SIZE as u64;
        if count > MOST_PAGES || size != HEADER as u64 + u64::from(count) * (4 + page) {
            return Err(corrupt(format!("it has {size} bytes and is to hold {count} pages")));
        }
        let mut list = vec![0; count as usize * 4];
        read_exactly(source, &mut list)?;
        let blocks: Vec<u32> = list.chunks_exact(4).map(|block| u32_at(block, 0)).collect();
        match blocks.iter().find(|block| (u64::from(**block) + 1) * page > file_size) {
            Some(block) => Err(corrupt(format!("block {block} lies behind the end of the file, {file_size} bytes"))),
            None => Ok(Increment { file_size, blocks }),
        }
    }
}

/// Fills the buffer.
///
/// # Errors
/// [`Kind::Corrupt`] if the source ends before; those of the source.
pub fn read_exactly(source: &mut impl Read, buffer: &mut [u8]) -> Result<()> {
    source.read_exact(buffer).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => corrupt("it ends early".to_owned()),
        _ => error_of(error),
    })
}

fn corrupt(detail: String) -> Error {
    Error::new(Kind::Corrupt, "the increment is damaged").detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn forge(file_size: u64, blocks: &[u32]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(file_size.to_le_bytes());
        bytes.extend((blocks.len() as u32).to_le_bytes());
        blocks.iter().for_each(|block| bytes.extend(block.to_le_bytes()));
        bytes.resize(bytes.len() + blocks.len() * PAGE_SIZE, 7);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Increment> {
        Increment::read(&mut &bytes[..], bytes.len() as u64)
    }

    proptest! {
        #[test]
        fn an_increment_is_read_and_its_pages_are_left(pages in 0u32..9, blocks in prop::collection::vec(0u32..9, 0..5)) {
            let bytes = forge(u64::from(pages) * PAGE_SIZE as u64, &blocks);
            let fits = blocks.iter().all(|block| *block < pages);
            let mut rest = &bytes[..];
            let result = Increment::read(&mut rest, bytes.len() as u64);
            prop_assert_eq!(result.is_ok(), fits);
            if let Ok(increment) = result {
                prop_assert_eq!(&increment.blocks, &blocks);
                prop_assert_eq!(increment.file_size, u64::from(pages) * PAGE_SIZE as u64);
                prop_assert_eq!(rest.len(), blocks.len() * PAGE_SIZE);
            }
        }

        #[test]
        fn another_size_and_another_magic_are_corrupt(at in 0usize..4, more in 1u64..99_999) {
            let mut bytes = forge(PAGE_SIZE as u64, &[0]);
            let longer = Increment::read(&mut &bytes[..], bytes.len() as u64 + more);
            prop_assert_eq!(longer.unwrap_err().kind(), Kind::Corrupt);
            bytes[at] ^= 1;
            prop_assert_eq!(read(&bytes).unwrap_err().kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn a_number_of_pages_that_would_fill_the_memory_is_corrupt() {
        let mut bytes = forge(0, &[]);
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        let size = HEADER as u64 + u64::from(u32::MAX) * (4 + PAGE_SIZE as u64);
        assert_eq!(Increment::read(&mut &bytes[..], size).unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(read(&bytes[..10]).unwrap_err().kind(), Kind::Corrupt);
    }
}
