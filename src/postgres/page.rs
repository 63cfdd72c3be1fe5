//! The pages of data files: their checksum, and what is wrong with one.
//!
//! Pure: looks at bytes. Which files have pages is `relation`'s business, and reading them that of others.

use crate::postgres::lsn::Lsn;

/// Bytes of a page (`BLCKSZ`). Servers can be built with others; Walden does not know the pages of those.
pub const PAGE_SIZE: usize = 8192;

/// One page.
pub type Page = [u8; PAGE_SIZE];

/// How many checksums are computed beside each other (`N_SUMS` in src/include/storage/checksum_impl.h).
const LANES: usize = 32;

/// One word for each lane.
type Row = [[u8; 4]; LANES];

/// `FNV_PRIME`, there.
const PRIME: u32 = 16_777_619;

/// Where each lane begins (`checksumBaseOffsets`, there).
const OFFSETS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// The checksum that a server writes into this page when it is block `block` of its fork (`pg_checksum_page` in
/// src/include/storage/checksum_impl.h, the same from 9.3 to 18). Never 0. The field that holds it counts as zero.
pub fn checksum(page: &Page, block: u32) -> u16 {
    let (rows, _) = page.as_chunks::<4>().0.as_chunks::<LANES>();
    let mut sums = OFFSETS;
    for (number, row) in rows.iter().enumerate() {
        let mut row: Row = *row;
        if number == 0 {
            // pd_checksum: bytes 8 and 9 of the page.
            row[2][0] = 0;
            row[2][1] = 0;
        }
        mix(&mut sums, &row);
    }
    // Two rounds of zeros spread the last words over all bits.
    mix(&mut sums, &[[0; 4]; LANES]);
    mix(&mut sums, &[[0; 4]; LANES]);
    let folded = sums.iter().fold(block, |all, sum| all ^ sum);
    (folded % 65_535 + 1) as u16
}

/// One step of FNV-1a in each lane (`CHECKSUM_COMP`, there). Written so that the compiler makes vector code of it.
#[inline(always)]
fn mix(sums: &mut [u32; LANES], row: &Row) {
    for (sum, word) in sums.iter_mut().zip(row) {
        let mixed = *sum ^ u32::from_le_bytes(*word);
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

/// How far the page had been written when it was last changed: the end of the WAL record (`pd_lsn` in
/// src/include/storage/bufpage.h: two words, the upper half first).
pub fn lsn(page: &Page) -> Lsn {
    let [a, b, c, d, e, f, g, h, ..] = *page;
    let (high, low) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    Lsn(u64::from(high) << 32 | u64::from(low))
}

/// What is wrong with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its checksum is not that of its content.
    Checksum {
        /// What it says.
        stored: u16,
        /// What it should say.
        computed: u16,
    },
    /// It says that it is new, and a new page is all zero.
    NotEmpty,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Checksum { stored, computed } => {
                write!(f, "its checksum is {stored:04X}, that of its content is {computed:04X}")
            }
            Fault::NotEmpty => f.write_str("its header is empty, and the page is not"),
        }
    }
}

/// What is wrong with this page, if it is block `block` of its fork and its cluster has checksums: what a server that
/// reads it would say (`PageIsVerified` in src/backend/storage/page/bufpage.c, which takes a page for new where `pd_upper`
/// is 0).
pub fn fault(page: &Page, block: u32) -> Option<Fault> {
    let stored = u16::from_le_bytes([page[8], page[9]]);
    let is_new = page[14..16] == [0, 0];
    if is_new {
        return page.iter().any(|&byte| byte != 0).then_some(Fault::NotEmpty);
    }
    let computed = checksum(page, block);
    (stored != computed).then_some(Fault::Checksum { stored, computed })
}

/// What a wrong page in a copy means, by what is in its place later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: the WAL since the beginning of the backup has the whole page, or its end.
    Replayed,
    /// The copy is damaged and the original is not: it cannot have changed since, so it was read wrongly.
    CopyDamaged,
    /// The original is damaged.
    Damaged(Fault),
}

/// Judges a page that was wrong when it was copied, by what is in its place `now`, before the backup ends: a page that
/// does not change any more, or `None` where the file has become shorter or has gone.
///
/// A server that writes a page after the `start` of a backup has written the whole page into the WAL since (documentation,
/// "full_page_writes", which a backup forces), so the page has a later LSN and replay puts it in place whatever the copy
/// has. A shorter file was truncated, and replay truncates it again.
pub fn verdict(now: Option<&Page>, block: u32, start: Lsn) -> Verdict {
    let Some(page) = now else { return Verdict::Replayed };
    match fault(page, block) {
        Some(fault) => Verdict::Damaged(fault),
        None if lsn(page) > start => Verdict::Replayed,
        None => Verdict::CopyDamaged,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// PostgreSQL's code, word by word and in its order, to compare with.
    fn plain_checksum(page: &Page, block: u32) -> u16 {
        let mut page = *page;
        page[8..10].fill(0);
        let word = |index: usize| u32::from_le_bytes(page[4 * index..4 * index + 4].try_into().unwrap());
        let mut sums = OFFSETS;
        let step = |sum: u32, value: u32| (sum ^ value).wrapping_mul(PRIME) ^ ((sum ^ value) >> 17);
        for row in 0..PAGE_SIZE / (4 * LANES) {
            for (lane, sum) in sums.iter_mut().enumerate() {
                *sum = step(*sum, word(row * LANES + lane));
            }
        }
        let result = sums.iter().fold(0, |result, &sum| result ^ step(step(sum, 0), 0));
        ((result ^ block) % 65_535 + 1) as u16
    }

    /// A page of random content with this LSN and a checksum that is right.
    pub(crate) fn sealed(seed: u64, block: u32, at: Lsn) -> Page {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut page = [0; PAGE_SIZE];
        page.fill_with(|| random.u8(..));
        page[..4].copy_from_slice(&((at.0 >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(at.0 as u32).to_le_bytes());
        page[14..16].copy_from_slice(&8192u16.to_le_bytes());
        let checksum = checksum(&page, block);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    proptest! {
        #[test]
        fn the_checksum_is_that_of_postgresql_and_never_zero(seed: u64, block: u32) {
            let page = sealed(seed, block, Lsn(seed));
            prop_assert_eq!(checksum(&page, block), plain_checksum(&page, block));
            prop_assert_ne!(checksum(&page, block), 0);
            prop_assert_eq!(fault(&page, block), None);
            prop_assert_eq!(lsn(&page), Lsn(seed));
        }

        #[test]
        fn another_content_and_another_place_are_noticed(seed: u64, block: u32, bit in 16usize * 8..PAGE_SIZE * 8) {
            let mut page = sealed(seed, block, Lsn(7));
            prop_assert!(fault(&page, block ^ 1).is_some());
            page[bit / 8] ^= 1 << (bit % 8);
            // One change in 65535 has the same checksum.
            let stored = u16::from_le_bytes([page[8], page[9]]);
            prop_assert_eq!(fault(&page, block).is_some(), plain_checksum(&page, block) != stored);
        }

        #[test]
        fn a_new_page_is_all_zero(at in 0usize..PAGE_SIZE, block: u32) {
            let mut page = [0; PAGE_SIZE];
            prop_assert_eq!(fault(&page, block), None);
            page[at] = 1;
            prop_assert!(fault(&page, block).is_some());
        }

        #[test]
        fn a_sound_page_is_excused_only_by_the_wal_since_the_start(seed: u64, block: u32, at: u64, start: u64) {
            let page = sealed(seed, block, Lsn(at));
            let excused = verdict(Some(&page), block, Lsn(start)) == Verdict::Replayed;
            prop_assert_eq!(excused, at > start);
        }

        #[test]
        fn a_wrong_page_is_never_excused(seed: u64, block: u32, at: u64, start: u64, bit in 0usize..16) {
            let mut page = sealed(seed, block, Lsn(at));
            page[8 + bit / 8] ^= 1 << (bit % 8);
            prop_assert!(matches!(verdict(Some(&page), block, Lsn(start)), Verdict::Damaged(_)));
            prop_assert_eq!(verdict(None, block, Lsn(start)), Verdict::Replayed);
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed_wherever_it_is() {
        let page = sealed(1, 2, Lsn(3));
        for bit in 0..PAGE_SIZE * 8 {
            let mut page = page;
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(fault(&page, 2).is_some(), "bit {bit}");
        }
    }
}
