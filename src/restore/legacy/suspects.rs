//! Pages whose checksum is not right. What that means is known only when everything is there: an increment may have put one
//! right, and whether the cluster has checksums is said by `global/pg_control`, which comes last.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use crate::error::{Context, Result};
use crate::postgres::lsn::Lsn;
use crate::postgres::page::{self, PAGE_SIZE, Page};
use crate::postgres::relation::{DataFile, SEGMENT_PAGES};
use crate::restore::destination::Destination;

/// So many are kept; a cluster without checksums has nothing but such pages.
const KEPT: usize = 1000;

/// Pages that may be damaged.
#[derive(Debug)]
pub(super) struct Suspects {
    /// Where the recovery begins.
    start: Lsn,
    pages: BTreeSet<(String, u32)>,
    /// There were more.
    is_cut: bool,
}

/// What the file of a path has of pages.
pub(super) struct Pages<'a> {
    path: &'a str,
    file: Option<DataFile>,
}

impl Suspects {
    /// None, of a backup whose recovery begins there.
    pub(super) fn new(start: Lsn) -> Suspects {
        Suspects { start, pages: BTreeSet::new(), is_cut: false }
    }

    /// The pages of this file, if it has any.
    pub(super) fn pages_of(path: &str) -> Pages<'_> {
        Pages { path, file: DataFile::parse(path) }
    }

    fn note(&mut self, path: &str, block: u32) {
        match self.pages.len() < KEPT {
            true => drop(self.pages.insert((path.to_owned(), block))),
            false => self.is_cut = true,
        }
    }

    /// Those that are still wrong and that the WAL does not certainly replace, as they are on disk; the first `named` of them
    /// by path and block, and how many there are.
    ///
    /// A page that was being written while it was copied is wrong too, and is put right by the WAL, even if it does not
    /// say so: its header may be the old one. So this is no proof of damage.
    pub(super) fn judge(&self, destination: &Destination, named: usize) -> Result<(usize, Vec<String>)> {
        let (mut count, mut names) = (0, Vec::new());
        for (path, block) in &self.pages {
            let target = destination.resolve(path);
            let what = || format!("could not read back \"{}\"", target.display());
            let first = DataFile::parse(path).map_or(0, |file| file.first_block);
            let file = File::open(&target).during(what)?;
            let mut page: Page = [0; PAGE_SIZE];
            let offset = u64::from(block - first) * PAGE_SIZE as u64;
            if offset + PAGE_SIZE as u64 > file.metadata().during(what)?.len() {
                continue;
            }
            file.read_exact_at(&mut page, offset).during(what)?;
            if page::fault(&page, *block).is_some() && page::lsn(&page) <= self.start {
                count += 1;
                if names.len() < named {
                    names.push(format!("{path} block {}", block - first));
                }
            }
        }
        Ok((count, names))
    }

    /// Were there more than are kept?
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }
}

impl Pages<'_> {
    /// Looks at the pages in a piece of the file, which begins with one. `is_final`: nothing is written over them later.
    pub(super) fn look(&mut self, piece: &[u8], offset: u64, is_final: bool, suspects: &Mutex<Suspects>) {
        let Some(file) = self.file else { return };
        let (pages, _) = piece.as_chunks::<PAGE_SIZE>();
        for (index, page) in pages.iter().enumerate() {
            let number = offset / PAGE_SIZE as u64 + index as u64;
            // A server that was built with larger files counts otherwise.
            let Some(block) = u32::try_from(number).ok().filter(|number| *number < SEGMENT_PAGES) else { return };
            let block = file.first_block.saturating_add(block);
            if page::fault(page, block).is_some() {
                let mut suspects = suspects.lock().unwrap_or_else(PoisonError::into_inner);
                let is_replaced = is_final && page::lsn(page) > suspects.start;
                if !is_replaced {
                    suspects.note(self.path, block);
                }
            }
        }
    }
}
