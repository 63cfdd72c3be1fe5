//! Objects as files below a directory.
//!
//! Keys are relative paths. Every file is staged, synced and then named in one step (`durable`), so a reader never meets
//! half an object and a crash loses none that was acknowledged.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::{Body, Chunks, Cursor, Download, ListQuery, ObjectInfo, PAGE_SIZE, Page, PutMode, Store};
use crate::durable::{self, Staged};
use crate::error::{Context, Error, Kind, Result};

/// How much is read at a time.
const CHUNK_SIZE: u64 = 1 << 20;

/// How often a put makes its directory anew while deletes remove it because it is empty.
const DIRECTORY_TRIES: u32 = 10;

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
        blocking(move || {
            let mut lister = Lister {
                after: query.cursor.as_ref().map(|c| c.0.clone()).or(query.after.clone()),
                query,
                page: Page::default(),
            };
            let base =
                lister.query.prefix.rsplit_once('/').map_or(String::new(), |(directory, _)| format!("{directory}/"));
            lister.visit(&root.join(&base), &base)?;
            Ok(lister.page)
        })
        .await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        let paths = keys.iter().map(|key| Ok((self.path(key)?, self.url(key)))).collect::<Result<Vec<_>>>()?;
        let root = self.root.clone();
        blocking(move || {
            let mut refused = Vec::new();
            for (path, url) in paths {
                if let Err(error) = delete(&path, &root) {
                    refused.push(Error::io(format!("could not delete {url}"), &error));
                }
            }
            let count = refused.len();
            match refused.into_iter().next() {
                None => Ok(()),
                Some(first) => Err(first.detail(format!("{count} objects could not be deleted"))),
            }
        })
        .await
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
        Body::Memory(bytes) => std::io::Write::write_all(target, bytes),
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

/// Walks the directories in the order of their keys and stops when a page is full.
struct Lister {
    query: ListQuery,
    after: Option<String>,
    page: Page,
}

impl Lister {
    /// Lists what lies in `directory`, whose keys begin with `base`; `false` once the page is full.
    fn visit(&mut self, directory: &Path, base: &str) -> Result<bool> {
        for (key, entry) in self.entries(directory, base)? {
            let is_prefix = key.ends_with('/');
            let folded = is_prefix && self.query.fold && key.len() > self.query.prefix.len();
            if is_prefix && !folded {
                if !self.visit(&directory.join(entry), &key)? {
                    return Ok(false);
                }
                continue;
            }
            if self.page.objects.len() + self.page.prefixes.len() == PAGE_SIZE {
                let last_object = self.page.objects.last().map(|object| object.key.as_str());
                let last = last_object.max(self.page.prefixes.last().map(String::as_str));
                self.page.next = last.map(|last| Cursor(last.to_owned()));
                return Ok(false);
            }
            if folded {
                self.page.prefixes.push(key);
                continue;
            }
            match directory.join(entry).metadata() {
                Ok(metadata) => self.page.objects.push(describe(key, &metadata)?),
                // Deleted since the directory was read.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(format!("could not read \"{key}\""), &error)),
            }
        }
        Ok(true)
    }

    /// The entries of `directory` that the query wants, as (key, file name), in the order of their keys. A directory's key
    /// ends in `/`, which is how it sorts among files.
    fn entries(&self, directory: &Path, base: &str) -> Result<Vec<(String, String)>> {
        let what = || format!("could not list \"{}\"", directory.display());
        let reader = match std::fs::read_dir(directory) {
            Ok(reader) => reader,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(Error::io(what(), &error)),
        };
        let mut entries = Vec::new();
        for entry in reader {
            let entry = entry.during(what)?;
            // Names that are not UTF-8 are not ours.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_directory = entry.file_type().during(what)?.is_dir();
            let key = format!("{base}{name}{}", if is_directory { "/" } else { "" });
            if !durable::is_staged(&name) && self.wants(&key, is_directory) {
                entries.push((key, name));
            }
        }
        entries.sort_unstable();
        Ok(entries)
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
