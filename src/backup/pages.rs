//! Verifies the pages of the data files that a backup copies, while they are copied, and tells torn pages from damaged
//! ones (docs/decisions/page-checksums.md).
//!
//! Owns the pages that are in doubt. Never asks the server what a page should be, and never writes to its files.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::damage::{DamagedPage, PageCheck};
use super::read::Source;
use crate::config::value::OnCorruption;
use crate::error::Result;
use crate::observe::{Event, Observer};
use crate::pipeline::blocking;
use crate::postgres::client::Client;
use crate::postgres::control::ControlFile;
use crate::postgres::lsn::Lsn;
use crate::postgres::page::{self, PAGE_SIZE, Page, Verdict};
use crate::postgres::relation::{DataFile, SEGMENT_PAGES};

/// How long a wrong page is looked at before it is taken for what it is.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// How long to wait before it is read again.
    pause: Duration,
    /// A page that has been the same at so many further looks is not being written.
    still: u32,
    /// No page is read more often, even if it changes all the time.
    most: usize,
}

/// While the copying waits: a server that is writing a page has done so long before, as a rule.
const ON_THE_WAY: Patience = Patience { pause: Duration::from_millis(10), still: 3, most: 10 };

/// At the end: three seconds without a change. A server that is held up in the middle of writing a page, as by the quota of
/// its cgroup or by a disk that lags behind, goes on sooner.
const AT_THE_END: Patience = Patience { pause: Duration::from_millis(50), still: 60, most: 200 };

/// Pages in doubt that are remembered, about 100 bytes each. What is wrong beyond them counts as damaged at once: with so
/// many of them the cluster is.
const KEPT: usize = 1000;

/// Damaged pages that get a warning of their own; the manifest has all that were kept.
const WARNED: usize = 20;

/// The pages of one backup.
#[derive(Debug)]
pub(super) struct Pages {
    data_directory: PathBuf,
    /// Where the backup's WAL begins.
    start: Lsn,
    enabled: bool,
    checked: AtomicU64,
    doubtful: Mutex<Doubtful>,
}

#[derive(Debug, Default)]
struct Doubtful {
    kept: Vec<Place>,
    /// How many more there were.
    more: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Relative to the data directory.
    path: String,
    /// Within the file.
    offset: u64,
    /// Within the fork.
    block: u32,
}

impl Pages {
    /// Verifies pages if the cluster has checksums, and pages and files of the usual size.
    pub(super) fn new(control: &ControlFile, data_directory: &Path, start: Lsn) -> Pages {
        Pages {
            data_directory: data_directory.to_owned(),
            start,
            enabled: control.data_checksums && unknown_build(control).is_none(),
            checked: AtomicU64::new(0),
            doubtful: Mutex::default(),
        }
    }

    /// So many more were verified, now or by an earlier run whose files are taken over.
    pub(super) fn count(&self, pages: u64) {
        self.checked.fetch_add(pages, Ordering::Relaxed);
    }

    /// Verifies the pages that `bytes` begins with, as they were just read from `offset` of this file. What follows the last
    /// whole page is none, for the server as well (`_mdnblocks` in src/backend/storage/smgr/md.c).
    ///
    /// A page that was read while the server was writing it is read again, into its place, so a sound one is stored. What
    /// stays wrong is remembered.
    ///
    /// # Errors
    /// Those of reading.
    pub(super) fn check(&self, source: &Source, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let path = source.described.path.as_str();
        let Some(file) = self.enabled.then(|| DataFile::parse(path)).flatten() else { return Ok(()) };
        let (pages, _) = bytes.as_chunks_mut::<PAGE_SIZE>();
        self.count(pages.len() as u64);
        source.checked.pages.fetch_add(pages.len() as u64, Ordering::Relaxed);
        let first = file.first_block.wrapping_add((offset / PAGE_SIZE as u64) as u32);
        let mut doubts: Vec<(usize, Doubt)> = Vec::new();
        for (index, page) in pages.iter().enumerate() {
            let block = first.wrapping_add(index as u32);
            if page::fault(page, block).is_some() {
                doubts.push((index, Doubt::about(block, page, self.start)));
            }
        }
        if doubts.is_empty() {
            return Ok(());
        }
        source.checked.doubtful.store(true, Ordering::Relaxed);
        tracing::debug!("{} pages of \"{path}\" do not match their checksums; they are read again", doubts.len());
        let at = |index: usize| offset + (index * PAGE_SIZE) as u64;
        settle(&mut doubts, self.start, ON_THE_WAY, |&index, page| {
            let there = source.read_page(at(index), page)?;
            if there {
                pages[index] = *page;
            }
            Ok(there)
        })?;
        let places = doubts.iter().filter(|(_, doubt)| doubt.is_damage());
        self.remember(places.map(|&(index, Doubt { block, .. })| Place {
            path: path.to_owned(),
            offset: at(index),
            block,
        }));
        Ok(())
    }

    fn remember(&self, places: impl Iterator<Item = Place>) {
        let mut doubtful = self.doubtful.lock().unwrap_or_else(PoisonError::into_inner);
        for place in places {
            if doubtful.kept.len() < KEPT {
                let Place { path, block, .. } = &place;
                tracing::info!("block {block} in \"{path}\" stays wrong; it is looked at again at the end");
                doubtful.kept.push(place);
            } else {
                doubtful.more += 1;
            }
        }
    }

    /// Judges what is in doubt, when all is copied and before the backup ends; `None` if pages are not verified. Blocks.
    ///
    /// # Errors
    /// Those of reading, but for files that have gone.
    fn judge(&self) -> Result<Option<PageCheck>> {
        if !self.enabled {
            return Ok(None);
        }
        let doubtful = std::mem::take(&mut *self.doubtful.lock().unwrap_or_else(PoisonError::into_inner));
        let mut doubts: Vec<(Place, Doubt)> =
            doubtful.kept.into_iter().map(|place| (place.clone(), Doubt::unseen(place.block))).collect();
        settle(&mut doubts, self.start, AT_THE_END, |place, page| {
            match Source::open(&self.data_directory, place.path.clone())? {
                Some(source) => source.read_page(place.offset, page),
                None => Ok(false),
            }
        })?;
        doubts.sort_by(|(one, _), (other, _)| one.cmp(other));
        let list: Vec<DamagedPage> = doubts.iter().filter_map(|(place, doubt)| damaged(place, doubt)).collect();
        let damaged = list.len() as u64 + doubtful.more;
        Ok(Some(PageCheck { checked: self.checked.load(Ordering::Relaxed), damaged, list }))
    }
}

/// Why the pages of a cluster are not verified although it has checksums.
pub(super) fn unknown_build(control: &ControlFile) -> Option<String> {
    let usual = (control.page_size, control.relation_segment_pages) == (PAGE_SIZE as u32, SEGMENT_PAGES);
    (control.data_checksums && !usual).then(|| {
        format!(
            "page checksums are not verified: the server was built with pages of {} bytes, {} in a file",
            control.page_size, control.relation_segment_pages
        )
    })
}

/// Ends the verification: judges, and tells what came of it.
///
/// # Errors
/// [`Kind::Damaged`](crate::error::Kind::Damaged) for damage, where backups with damage are not wanted; those of reading.
pub(super) async fn conclude(
    pages: Arc<Pages>,
    client: &Client,
    on_corruption: OnCorruption,
    observer: &Arc<dyn Observer>,
) -> Result<Option<PageCheck>> {
    let Some(check) = blocking(move || pages.judge()).await? else { return Ok(None) };
    tell(check, Some(client), on_corruption, observer).await.map(Some)
}

/// Finds the names of what is damaged, where there is a session to ask, and tells of it.
///
/// # Errors
/// [`Kind::Damaged`](crate::error::Kind::Damaged) for damage, where backups with damage are not wanted.
pub(super) async fn tell(
    mut check: PageCheck,
    client: Option<&Client>,
    on_corruption: OnCorruption,
    observer: &Arc<dyn Observer>,
) -> Result<PageCheck> {
    if check.damaged > 0 {
        if let Some(client) = client {
            name(&mut check, client, observer).await;
        }
        for page in check.list.iter().take(WARNED) {
            observer.notice(Event::Warning(format!("damaged page: {page}")));
        }
        if let (OnCorruption::Fail, Some(refusal)) = (on_corruption, check.refusal()) {
            return Err(refusal);
        }
    }
    Ok(check)
}

/// Adds the names of databases and relations. Without them the paths have to do: a server with damage may not be able to
/// tell.
async fn name(check: &mut PageCheck, client: &Client, observer: &Arc<dyn Observer>) {
    let files: Vec<DataFile> = check.list.iter().filter_map(|page| DataFile::parse(&page.path)).collect();
    match client.names(&files).await {
        Ok(names) => {
            for (page, names) in check.list.iter_mut().zip(names) {
                (page.database, page.relation) = (names.database, names.relation);
            }
        }
        Err(error) => observer.notice(Event::Warning(format!("the damaged relations have no names: {error}"))),
    }
}

/// A page that was wrong, and what it has become since.
#[derive(Clone, Debug)]
struct Doubt {
    block: u32,
    /// How it looked last.
    seen: Option<u32>,
    /// How often it has looked the same since.
    still: u32,
    lsn: Lsn,
    verdict: Option<Verdict>,
}

impl Doubt {
    fn unseen(block: u32) -> Doubt {
        Doubt { block, seen: None, still: 0, lsn: Lsn(0), verdict: None }
    }

    fn about(block: u32, page: &Page, start: Lsn) -> Doubt {
        let mut doubt = Doubt::unseen(block);
        doubt.look(Some(page), start);
        doubt
    }

    fn look(&mut self, page: Option<&Page>, start: Lsn) {
        let seen = page.map(|page| crc32c::crc32c(page));
        if seen.is_some() && seen == self.seen {
            self.still += 1;
            return;
        }
        (self.seen, self.still) = (seen, 0);
        self.lsn = page.map_or(Lsn(0), page::lsn);
        self.verdict = Some(page::verdict(page, self.block, start));
    }

    fn is_damage(&self) -> bool {
        matches!(self.verdict, None | Some(Verdict::Damaged(_)))
    }

    fn is_settled(&self, patience: Patience) -> bool {
        !self.is_damage() || self.still >= patience.still
    }
}

/// Looks at all of them again, with pauses, until each is sound or gone, or stays wrong. `look` reads the page; false if it
/// is not there any more.
fn settle<T>(
    doubts: &mut [(T, Doubt)],
    start: Lsn,
    patience: Patience,
    mut look: impl FnMut(&T, &mut Page) -> Result<bool>,
) -> Result<()> {
    let mut page = [0; PAGE_SIZE];
    for _ in 0..patience.most {
        if doubts.iter().all(|(_, doubt)| doubt.is_settled(patience)) {
            break;
        }
        std::thread::sleep(patience.pause);
        for (of, doubt) in doubts.iter_mut().filter(|(_, doubt)| !doubt.is_settled(patience)) {
            let there = look(of, &mut page)?;
            doubt.look(there.then_some(&page), start);
        }
    }
    Ok(())
}

/// What the manifest says of a page, if it is damaged.
fn damaged(place: &Place, doubt: &Doubt) -> Option<DamagedPage> {
    let why = match doubt.verdict? {
        Verdict::Replayed => return None,
        Verdict::CopyDamaged => "the server's page is sound, but was read with an error".to_owned(),
        Verdict::Damaged(fault) => fault.to_string(),
    };
    let fork = DataFile::parse(&place.path)?.fork;
    let (path, block, lsn) = (place.path.clone(), place.block, doubt.lsn);
    Some(DamagedPage { database: None, relation: None, fork, block, path, lsn, why })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::postgres::control::SystemId;
    use crate::postgres::page::tests::sealed;
    use crate::wal::segment::SegmentSize;
    use crate::wal::timeline::Timeline;

    const START: Lsn = Lsn(1000);
    const PATH: &str = "base/5/16384.1";

    /// A data directory with one file: the second segment of a relation.
    struct Scene {
        directory: tempfile::TempDir,
        pages: Pages,
    }

    impl Scene {
        fn new(content: &[Page]) -> Scene {
            let directory = tempfile::tempdir().unwrap();
            fs::create_dir_all(directory.path().join("base/5")).unwrap();
            let pages = Pages {
                data_directory: directory.path().to_owned(),
                start: START,
                enabled: true,
                checked: AtomicU64::new(0),
                doubtful: Mutex::default(),
            };
            let scene = Scene { directory, pages };
            scene.write(content);
            scene
        }

        fn write(&self, content: &[Page]) {
            fs::write(self.path(), content.as_flattened()).unwrap();
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join(PATH)
        }

        /// Has the pages checked as if this had been read; what is stored of them.
        fn check(&self, read: &[Page]) -> Vec<u8> {
            let mut buffer = read.as_flattened().to_vec();
            self.pages.check(&self.source(PATH), 0, &mut buffer).unwrap();
            buffer
        }

        fn source(&self, path: &str) -> Source {
            Source::open(self.directory.path(), path.to_owned()).unwrap().unwrap()
        }

        fn judged(&self) -> PageCheck {
            self.pages.judge().unwrap().unwrap()
        }
    }

    fn good(index: u32, at: u64) -> Page {
        sealed(index.into(), SEGMENT_PAGES + index, Lsn(at))
    }

    fn bad(index: u32, at: u64) -> Page {
        let mut page = good(index, at);
        page[5000] ^= 1;
        page
    }

    #[test]
    fn pages_are_verified_where_there_are_checksums_and_the_server_is_built_as_usual() {
        let of = |data_checksums, page_size, relation_segment_pages| {
            let control = ControlFile {
                system_id: SystemId(7),
                version: 15,
                catalog_version: 202_209_061,
                redo: Lsn(0),
                timeline: Timeline(1),
                segment_size: SegmentSize::DEFAULT,
                page_size,
                relation_segment_pages,
                data_checksums,
                shut_down: false,
            };
            (Pages::new(&control, Path::new("data"), START).enabled, unknown_build(&control).is_some())
        };
        assert_eq!(of(true, 8192, SEGMENT_PAGES), (true, false));
        assert_eq!(of(false, 8192, SEGMENT_PAGES), (false, false));
        assert_eq!(of(false, 16_384, SEGMENT_PAGES), (false, false));
        assert_eq!(of(true, 16_384, SEGMENT_PAGES), (false, true));
        assert_eq!(of(true, 8192, SEGMENT_PAGES / 2), (false, true));
    }

    #[test]
    fn sound_pages_and_new_ones_are_stored_as_they_are() {
        let content = [good(0, 1), [0; PAGE_SIZE], good(2, u64::MAX)];
        let scene = Scene::new(&content);
        assert_eq!(scene.check(&content), content.as_flattened());
        assert_eq!(scene.judged(), PageCheck { checked: 3, damaged: 0, list: Vec::new() });
    }

    #[test]
    fn a_torn_page_is_read_again_and_stored_as_it_is_then() {
        let whole = [good(0, 1), good(1, 2)];
        let mut torn = whole;
        torn[1][4096..].fill(7);
        let scene = Scene::new(&whole);
        assert_eq!(scene.check(&torn), whole.as_flattened());
        assert_eq!(scene.judged().damaged, 0);
    }

    #[test]
    fn a_damaged_page_is_told_with_its_block_whatever_lsn_it_claims() {
        let content = [good(0, 1), bad(1, 1), bad(2, START.0), bad(3, START.0 + 1), bad(4, u64::MAX)];
        let scene = Scene::new(&content);
        assert_eq!(scene.check(&content), content.as_flattened());
        let check = scene.judged();
        assert_eq!((check.checked, check.damaged), (5, 4));
        let told: Vec<(u32, u64)> = check.list.iter().map(|page| (page.block, page.lsn.0)).collect();
        let expected = [1, START.0, START.0 + 1, u64::MAX].into_iter().enumerate();
        assert_eq!(told, expected.map(|(index, lsn)| (SEGMENT_PAGES + 1 + index as u32, lsn)).collect::<Vec<_>>());
        assert!(check.list.iter().all(|page| page.path == PATH && page.why.starts_with("its checksum is ")));
    }

    #[test]
    fn a_page_that_the_server_has_written_since_or_cut_off_is_not_damaged() {
        let content = [bad(0, 1), bad(1, START.0 + 1), bad(2, 1)];
        let scene = Scene::new(&content);
        scene.check(&content);
        scene.write(&[good(0, START.0 + 50), good(1, START.0 + 50)]);
        assert_eq!(scene.judged(), PageCheck { checked: 3, damaged: 0, list: Vec::new() });

        let scene = Scene::new(&content);
        scene.check(&content);
        fs::remove_file(scene.path()).unwrap();
        assert_eq!(scene.judged().damaged, 0);
    }

    #[test]
    fn a_page_that_was_only_read_wrongly_leaves_a_damaged_copy() {
        let scene = Scene::new(&[bad(0, 1)]);
        scene.check(&[bad(0, 1)]);
        scene.write(&[good(0, START.0)]);
        let check = scene.judged();
        assert_eq!(check.damaged, 1);
        assert!(check.list[0].why.contains("sound"), "{check:?}");
    }

    #[test]
    fn a_new_page_that_is_not_empty_is_damaged() {
        let mut page = [0; PAGE_SIZE];
        page[8000] = 1;
        let scene = Scene::new(&[page]);
        scene.check(&[page]);
        assert_eq!(scene.judged().damaged, 1);
    }

    #[test]
    fn what_follows_the_last_whole_page_and_what_fills_up_a_shorter_file_are_no_pages() {
        let scene = Scene::new(&[good(0, 1)]);
        let mut buffer = [good(0, 1), bad(1, 1), bad(2, 1)].as_flattened().to_vec();
        scene.pages.check(&scene.source(PATH), 0, &mut buffer[..PAGE_SIZE + 100]).unwrap();
        assert_eq!(scene.judged(), PageCheck { checked: 1, damaged: 0, list: Vec::new() });
    }

    #[test]
    fn files_without_pages_are_not_looked_at() {
        let scene = Scene::new(&[bad(0, 1)]);
        for path in ["base/5/pg_filenode.map", "base/5/PG_VERSION", "base/16384"] {
            fs::copy(scene.path(), scene.directory.path().join(path)).unwrap();
            scene.pages.check(&scene.source(path), 0, &mut bad(0, 1)).unwrap();
        }
        assert_eq!(scene.judged(), PageCheck::default());
    }

    #[test]
    fn of_very_many_damaged_pages_all_are_counted_and_some_are_kept() {
        let content: Vec<Page> = (0..KEPT as u32 + 7).map(|index| bad(index, 1)).collect();
        let scene = Scene::new(&content);
        scene.check(&content);
        let check = scene.judged();
        assert_eq!((check.damaged, check.list.len()), (KEPT as u64 + 7, KEPT));
    }

    #[test]
    fn a_page_is_believed_to_be_damaged_only_while_it_stays_the_same() {
        let (mut buffer, mut looks) = (bad(0, 1), 0);
        let mut doubts = [((), Doubt::about(SEGMENT_PAGES, &buffer, START))];
        settle(&mut doubts, START, ON_THE_WAY, |(), page| {
            looks += 1;
            // Being written for longer than three looks take, and then whole.
            buffer[100] = looks;
            *page = if looks < 9 { buffer } else { good(0, START.0 + 1) };
            Ok(true)
        })
        .unwrap();
        assert_eq!((looks, doubts[0].1.is_damage()), (9, false));
    }
}
