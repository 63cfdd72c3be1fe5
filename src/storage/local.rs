//! Objects as files below a directory.
//!
//! Keys are relative paths. Every file is staged, synced and then named in one step (`durable`), so a reader never meets
//! half an object and a crash loses none that was acknowledged.

mod examine;

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::examination::Finding;
use super::{
    Body, Chunks, Cursor, Download, End, Leftovers, ListQuery, ObjectInfo, PAGE_SIZE, Page, PutMode, Removed, Store,
};
use crate::durable::{self, Staged, WRITTEN_AT_ONCE};
use crate::error::{Context, Error, Kind, Result};

/// How much is read at a time.
const CHUNK_SIZE: u64 = 1 << 20;

/// How often a put makes its directory anew while deletes remove it because it is empty.
const DIRECTORY_TRIES: u32 = 10;

/// How many keys of a listing are read ahead and handed on from page to page. Directories come unsorted, so each look at
/// one reads all of it: a million files are read eight times, not once for each of a thousand pages. Some 15 MiB, twice
/// while the next ones are read.
const AHEAD: usize = 128 << 10;

/// A directory as a store. It need not exist before the first put.
#[derive(Clone, Debug)]
pub struct LocalStore {
    root: PathBuf,
}

impl LocalStore {
    /// The store below this absolute path.
    pub fn new(root: PathBuf) -> LocalStore {
        LocalStore { root }
    }

    fn path(&self, key: &str) -> Result<PathBuf> {
        let legal = !key.is_empty()
            && !key.ends_with('/')
            && Path::new(key).components().all(|part| matches!(part, Component::Normal(_)))
            && !key.split('/').any(|part| part.is_empty() || durable::is_staged(part));
        match legal {
            true => Ok(self.root.join(key)),
            false => Err(Error::new(Kind::Bug, format!("\"{key}\" cannot be an object's key"))),
        }
    }
}

#[async_trait]
impl Store for LocalStore {
    fn url(&self, key: &str) -> String {
        format!("file://{}", self.root.join(key).display())
    }

    async fn examine(&self) -> Vec<Finding> {
        examine::examine(self).await
    }

    async fn put(&self, key: &str, body: Body, mode: PutMode) -> Result<()> {
        let (path, url) = (self.path(key)?, self.url(key));
        blocking(move || put(&path, &body, mode).during(|| format!("could not store {url}"))).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Download> {
        let (path, url) = (self.path(key)?, self.url(key));
        blocking(move || {
            let mut file = open(&path, &url)?;
            let size = file.metadata().during(|| format!("could not read {url}"))?.len();
            let range = range.unwrap_or(0..size);
            if range.start > range.end || range.end > size {
                return Err(Error::new(Kind::Corrupt, format!("{url} has only {size} bytes"))
                    .detail(format!("the bytes {}..{} were asked for", range.start, range.end)));
            }
            file.seek(SeekFrom::Start(range.start)).during(|| format!("could not read {url}"))?;
            let chunks = FileChunks { file: Some(file), left: range.end - range.start, url };
            Ok(Download::new(size, Box::new(chunks)))
        })
        .await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        let (path, url, key) = (self.path(key)?, self.url(key), key.to_owned());
        blocking(move || {
            let file = open(&path, &url)?;
            describe(key, &file.metadata().during(|| format!("could not read {url}"))?)
        })
        .await
    }

    async fn list(&self, query: &ListQuery) -> Result<Page> {
        let (root, query) = (self.root.clone(), query.clone());
        blocking(move || page(&root, query, AHEAD)).await
    }

    fn pages_at_once(&self) -> usize {
        // Every look into the middle of a directory reads all of it.
        1
    }

    async fn remove(&self, keys: &[String]) -> Result<Removed> {
        let paths = keys.iter().map(|key| Ok((key.clone(), self.path(key)?))).collect::<Result<Vec<_>>>()?;
        let store = self.clone();
        blocking(move || {
            let mut removed = Removed::default();
            for (key, path) in paths {
                if let Err(error) = delete(&path, &store.root) {
                    let what = format!("could not delete {}", store.url(&key));
                    removed.refusal.get_or_insert_with(|| Error::io(what, &error));
                    removed.refused.push(key);
                }
            }
            Ok(removed)
        })
        .await
    }

    async fn now(&self) -> Result<Timestamp> {
        Ok(Timestamp::now())
    }

    async fn leftovers(&self, before: Timestamp) -> Result<Leftovers> {
        let root = self.root.clone();
        blocking(move || leftovers(&root, before, |_| Ok(()))).await
    }

    async fn remove_leftovers(&self, before: Timestamp) -> Result<Leftovers> {
        let root = self.root.clone();
        blocking(move || leftovers(&root, before, |path| std::fs::remove_file(path))).await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(lost) => Err(Error::new(Kind::Bug, "a thread of the local store ended early").detail(lost.to_string())),
    }
}

fn put(path: &Path, body: &Body, mode: PutMode) -> Result<()> {
    let mut staged = stage(path)?;
    copy(body, staged.file()).during(|| "could not write the file")?;
    match mode {
        PutMode::New => staged.create_new(),
        PutMode::Replace => staged.replace(),
    }
}

/// A staged file for `path`, whose directory is made if it is missing.
fn stage(path: &Path) -> Result<Staged> {
    let mut tries = 0;
    loop {
        match Staged::beside(path) {
            Ok(staged) => return Ok(staged),
            Err(error) if error.kind() == ErrorKind::NotFound && tries < DIRECTORY_TRIES => {
                tries += 1;
                durable::create_directories(path.parent().unwrap_or(Path::new("/")))?;
            }
            Err(error) => return Err(Error::io("could not create a file", &error)),
        }
    }
}

fn copy(body: &Body, target: &mut File) -> std::io::Result<()> {
    match body {
        Body::Memory(bytes) => {
            bytes.chunks(WRITTEN_AT_ONCE).try_for_each(|piece| std::io::Write::write_all(target, piece))
        }
        Body::File(file, _) => {
            let mut source: &File = file;
            source.seek(SeekFrom::Start(0))?;
            std::io::copy(&mut source, target).map(drop)
        }
    }
}

fn open(path: &Path, url: &str) -> Result<File> {
    let absent = || Error::new(Kind::NotFound, format!("{url} does not exist"));
    match File::open(path) {
        Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_dir()) => Err(absent()),
        Ok(file) => Ok(file),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Err(absent()),
        Err(error) => Err(Error::io(format!("could not read {url}"), &error)),
    }
}

/// Deletes a file, and the directories that this empties.
fn delete(path: &Path, root: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for directory in path.ancestors().skip(1).take_while(|directory| *directory != root) {
        // Fails, as it should, on the first one that is not empty.
        if std::fs::remove_dir(directory).is_err() {
            break;
        }
    }
    Ok(())
}

/// Does something with each staged file below `root` that nobody has written to since `before`, and counts where that went
/// well.
fn leftovers(root: &Path, before: Timestamp, each: impl Fn(&Path) -> std::io::Result<()>) -> Result<Leftovers> {
    let (mut found, mut refused) = (Leftovers::default(), None);
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let what = || format!("could not list \"{}\"", directory.display());
        let entries = match std::fs::read_dir(&directory) {
            // Removed since its name was read.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries.during(what)?,
        };
        for entry in entries {
            let entry = entry.during(what)?;
            if entry.file_type().during(what)?.is_dir() {
                open.push(entry.path());
                continue;
            }
            // One that has gone since has got its name.
            let Ok(metadata) = entry.metadata() else { continue };
            let staged = entry.file_name().to_str().is_some_and(durable::is_staged);
            let old = metadata.modified().is_ok_and(|time| Timestamp::try_from(time).is_ok_and(|time| time < before));
            match (staged && old).then(|| each(&entry.path())) {
                None => {}
                Some(Ok(())) => {
                    found.count += 1;
                    found.bytes += metadata.len();
                }
                Some(Err(error)) if error.kind() == ErrorKind::NotFound => {}
                Some(Err(error)) => {
                    let what = format!("could not delete \"{}\"", entry.path().display());
                    refused.get_or_insert_with(|| Error::io(what, &error));
                }
            }
        }
    }
    refused.map_or(Ok(found), Err)
}

fn describe(key: String, metadata: &std::fs::Metadata) -> Result<ObjectInfo> {
    let modified = metadata.modified().during(|| format!("could not read the time of \"{key}\""))?;
    let modified = Timestamp::try_from(modified).map_err(|error| {
        Error::new(Kind::Local, format!("the time of \"{key}\" is impossible")).detail(error.to_string())
    })?;
    Ok(ObjectInfo { key, size: metadata.len(), modified })
}

struct FileChunks {
    /// Taken while a blocking thread reads from it.
    file: Option<File>,
    left: u64,
    url: String,
}

#[async_trait]
impl Chunks for FileChunks {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let size = self.left.min(CHUNK_SIZE) as usize;
        if size == 0 {
            return Ok(None);
        }
        let url = self.url.clone();
        let Some(mut file) = self.file.take() else {
            return Err(Error::new(Kind::Local, format!("could not go on reading {url}")));
        };
        let (file, chunk) = blocking(move || {
            let mut chunk = vec![0; size];
            file.read_exact(&mut chunk).during(|| format!("could not read {url}"))?;
            Ok((file, chunk))
        })
        .await?;
        self.file = Some(file);
        self.left -= chunk.len() as u64;
        Ok(Some(chunk.into()))
    }
}

/// Keys that a listing has read and not yet shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ahead {
    /// In order; a folded prefix ends in `/`.
    keys: Vec<String>,
    /// Nothing comes after the last of them.
    complete: bool,
}

/// Where a page ended: the next entry is that of this index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    ahead: Arc<Ahead>,
    next: usize,
}

/// One page; `most` keys are read ahead.
fn page(root: &Path, query: ListQuery, most: usize) -> Result<Page> {
    let (ahead, mut next) = match &query.cursor {
        Some(Cursor(End::Local(Position { ahead, next }))) if *next < ahead.keys.len() => (ahead.clone(), *next),
        Some(Cursor(End::Local(Position { ahead, .. }))) => {
            let after = ahead.keys.last().cloned();
            (Arc::new(Lister::read(root, ListQuery { after, ..query }, most)?), 0)
        }
        _ => (Arc::new(Lister::read(root, query, most)?), 0),
    };
    let mut page = Page::default();
    while let Some(key) = ahead.keys.get(next)
        && page.objects.len() + page.prefixes.len() < PAGE_SIZE
    {
        next += 1;
        if key.ends_with('/') {
            page.prefixes.push(key.clone());
            continue;
        }
        match root.join(key).metadata() {
            Ok(metadata) => page.objects.push(describe(key.clone(), &metadata)?),
            // Deleted since the directory was read.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format!("could not read \"{key}\""), &error)),
        }
    }
    let more = next < ahead.keys.len() || !ahead.complete;
    page.next = more.then_some(Cursor(End::Local(Position { ahead, next })));
    Ok(page)
}

/// Walks the directories in the order of their keys and stops when it has read `most` of them.
struct Lister {
    query: ListQuery,
    after: Option<String>,
    keys: Vec<String>,
    most: usize,
}

impl Lister {
    /// The first keys of a listing below `root`.
    fn read(root: &Path, query: ListQuery, most: usize) -> Result<Ahead> {
        let base = query.prefix.rsplit_once('/').map_or(String::new(), |(directory, _)| format!("{directory}/"));
        let mut lister = Lister { after: query.after.clone(), query, keys: Vec::new(), most };
        let complete = lister.visit(&root.join(&base), &base)?;
        Ok(Ahead { keys: lister.keys, complete })
    }

    /// Notes what lies in `directory`, whose keys begin with `base`; `false` once there is enough.
    fn visit(&mut self, directory: &Path, base: &str) -> Result<bool> {
        loop {
            let (entries, all) = self.entries(directory, base)?;
            for key in entries {
                let is_directory = key.ends_with('/');
                let folded = is_directory && self.query.fold && key.len() > self.query.prefix.len();
                if is_directory && !folded {
                    let name = &key[base.len()..key.len() - 1];
                    if !self.visit(&directory.join(name), &key)? {
                        return Ok(false);
                    }
                } else if self.keys.len() == self.most {
                    return Ok(false);
                } else {
                    self.keys.push(key.clone());
                }
                // With all that lies below it, if it is a directory.
                self.after = Some(key);
            }
            if all {
                return Ok(true);
            }
        }
    }

    /// The first keys that the query wants in `directory`, in order, and whether these are all. A directory's key ends in
    /// `/`, which is how it sorts among files.
    fn entries(&self, directory: &Path, base: &str) -> Result<(Vec<String>, bool)> {
        let what = || format!("could not list \"{}\"", directory.display());
        let reader = match std::fs::read_dir(directory) {
            Ok(reader) => reader,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok((Vec::new(), true));
            }
            Err(error) => return Err(Error::io(what(), &error)),
        };
        // One more than there is room for, which tells that there are more.
        let limit = self.most - self.keys.len() + 1;
        let (mut first, mut all) = (BinaryHeap::<String>::new(), true);
        let mut key = String::new();
        for entry in reader {
            let entry = entry.during(what)?;
            let name = entry.file_name();
            // Names that are not UTF-8 are not ours.
            let Some(name) = name.to_str().filter(|name| !durable::is_staged(name)) else { continue };
            let is_directory = entry.file_type().during(what)?.is_dir();
            key.clear();
            key.extend([base, name, if is_directory { "/" } else { "" }]);
            if !self.wants(&key, is_directory) {
                continue;
            }
            if first.len() == limit {
                all = false;
                // Most of a large directory ends here, and costs no memory.
                match first.peek_mut() {
                    Some(mut greatest) if key < *greatest => greatest.clone_from(&key),
                    _ => {}
                }
                continue;
            }
            first.push(key.clone());
        }
        Ok((first.into_sorted_vec(), all))
    }

    fn wants(&self, key: &str, is_directory: bool) -> bool {
        let prefix = self.query.prefix.as_str();
        let matches = key.starts_with(prefix) || (is_directory && prefix.starts_with(key));
        let later = match &self.after {
            None => true,
            Some(after) => match key.cmp(after.as_str()) {
                Ordering::Greater => true,
                // Something later may lie inside a directory whose own key is earlier.
                _ => is_directory && after.len() > key.len() && after.starts_with(key),
            },
        };
        matches && later
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn any_key() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec!["a", "a-", "a.b", "ab", "b", "c"]);
        prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
    }

    /// All keys and all folded prefixes, page by page.
    fn list(root: &Path, mut query: ListQuery, most: usize) -> Vec<String> {
        let mut keys = Vec::new();
        loop {
            let page = page(root, query.clone(), most).unwrap();
            assert!(page.objects.len() + page.prefixes.len() <= most);
            let mut shown: Vec<String> =
                page.objects.into_iter().map(|object| object.key).chain(page.prefixes).collect();
            shown.sort_unstable();
            keys.extend(shown);
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => return keys,
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_listing_is_the_same_however_little_is_read_ahead(
            keys in prop::collection::btree_set(any_key(), 0..25), prefix in prop::sample::select(vec!["", "a", "a/", "a/b", "c/"]),
            after in prop::option::of(any_key()), most in 1usize..7
        ) {
            let root = tempfile::tempdir().unwrap();
            let mut there = BTreeSet::new();
            for key in keys {
                let path = root.path().join(&key);
                // One cannot be a file and a directory.
                let made = std::fs::create_dir_all(path.parent().unwrap()).and_then(|()| File::create_new(&path));
                there.extend(made.is_ok().then_some(key));
            }
            let wanted = |key: &&String| key.starts_with(prefix) && after.as_ref().is_none_or(|after| *key > after);
            let query = ListQuery { prefix: prefix.into(), after: after.clone(), ..ListQuery::default() };
            prop_assert_eq!(list(root.path(), query, most), there.iter().filter(wanted).cloned().collect::<Vec<_>>());

            let fold = |key: &String| match key[prefix.len()..].find('/') {
                Some(at) => key[..=prefix.len() + at].to_owned(),
                None => key.clone(),
            };
            let folded: BTreeSet<String> = there.iter().filter(|key| key.starts_with(prefix)).map(fold).collect();
            let query = ListQuery { prefix: prefix.into(), fold: true, ..ListQuery::default() };
            prop_assert_eq!(list(root.path(), query, most), folded.into_iter().collect::<Vec<_>>());
        }
    }
}
