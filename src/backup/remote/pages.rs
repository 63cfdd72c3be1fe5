//! Verifies the pages in what the server sends. They cannot be read again here; the server does that itself before it sends
//! one that was being written (`read_file_data_into_buffer` and `verify_page_checksum` in
//! src/backend/backup/basebackup.c), so what is wrong then is damage. As for the server, pages that were written since the
//! backup began do not count, for replay puts them in place.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::backup::damage::{DamagedPage, PageCheck};
use crate::postgres::lsn::Lsn;
use crate::postgres::page::{self, Fault, PAGE_SIZE};
use crate::postgres::relation::DataFile;

/// Damaged pages that are remembered; those beyond are counted.
const KEPT: usize = 1000;

/// The pages of one backup.
#[derive(Debug)]
pub(super) struct StreamPages {
    /// Where the backup's WAL begins.
    pub(super) start: Lsn,
    /// Has the cluster checksums, and pages and files of the usual size?
    pub(super) enabled: bool,
    pub(super) checked: AtomicU64,
    pub(super) damaged: AtomicU64,
    pub(super) list: Mutex<Vec<DamagedPage>>,
}

impl StreamPages {
    pub(super) fn new(enabled: bool, start: Lsn) -> StreamPages {
        let (checked, damaged, list) = Default::default();
        StreamPages { start, enabled, checked, damaged, list }
    }

    /// Verifies the whole pages in these bytes, which lie at `offset` of the file.
    pub(super) fn check(&self, path: &str, offset: u64, bytes: &[u8]) {
        let Some(file) = self.enabled.then(|| DataFile::parse(path)).flatten() else { return };
        let (pages, _) = bytes.as_chunks::<PAGE_SIZE>();
        self.checked.fetch_add(pages.len() as u64, Ordering::Relaxed);
        let first = file.first_block.wrapping_add((offset / PAGE_SIZE as u64) as u32);
        for (index, page) in pages.iter().enumerate() {
            let block = first.wrapping_add(index as u32);
            let lsn = page::lsn(page);
            // One that looks new is not looked at by the server, which could have read it while it was being written.
            let Some(fault @ Fault::Checksum { .. }) = page::fault(page, block) else { continue };
            if lsn < self.start {
                let (path, why) = (path.to_owned(), fault.to_string());
                self.remember(DamagedPage { database: None, relation: None, fork: file.fork, block, path, lsn, why });
            }
        }
    }

    fn remember(&self, page: DamagedPage) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() < KEPT {
            list.push(page);
        }
    }

    /// What came of it; `None` if pages were not verified.
    pub(super) fn judge(&self) -> Option<PageCheck> {
        let mut list = std::mem::take(&mut *self.list.lock().unwrap_or_else(PoisonError::into_inner));
        list.sort_by(|one, other| (&one.path, one.block).cmp(&(&other.path, other.block)));
        let (checked, damaged) = (self.checked.load(Ordering::Relaxed), self.damaged.load(Ordering::Relaxed));
        self.enabled.then_some(PageCheck { checked, damaged, list })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::page::tests::sealed;
    use crate::postgres::relation::SEGMENT_PAGES;

    const START: Lsn = Lsn(1000);

    #[test]
    fn a_wrong_page_is_damage_if_it_is_older_than_the_backup() {
        let page = |index: u32, lsn| sealed(index.into(), SEGMENT_PAGES + index, Lsn(lsn));
        let (mut old, mut new) = (page(1, 999), page(2, 1000));
        (old[5000], new[5000]) = (old[5000] ^ 1, new[5000] ^ 1);
        let mut empty = [0; PAGE_SIZE];
        empty[5000] = 1;
        let bytes = [page(0, 5), old, new, page(3, 2000), empty].concat();
        let pages = StreamPages::new(true, START);
        pages.check("base/5/16384.1", 0, &bytes);
        pages.check("base/5/PG_VERSION", 0, &bytes);
        let check = pages.judge().unwrap();
        assert_eq!((check.checked, check.damaged), (5, 1));
        assert_eq!((check.list[0].block, check.list[0].lsn), (SEGMENT_PAGES + 1, Lsn(999)));
        assert_eq!(StreamPages::new(false, START).judge(), None);
    }

    #[test]
    fn all_damage_is_counted_and_some_of_it_remembered() {
        let pages = StreamPages::new(true, START);
        let mut bad = sealed(1, 0, Lsn(1));
        bad[5000] ^= 1;
        for number in 0..KEPT as u64 + 5 {
            pages.check("base/5/16384", number * PAGE_SIZE as u64, &bad);
        }
        let check = pages.judge().unwrap();
        assert_eq!((check.damaged, check.list.len()), (KEPT as u64 + 5, KEPT));
    }
}
