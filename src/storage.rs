//! The seam to where objects lie: a directory or an S3 bucket.
//!
//! Knows keys as plain strings below one prefix and bytes as bytes: nothing of WAL, backups or codecs. What each
//! operation promises is written here and proved by one contract suite on every backend (tests/contract.rs).

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use self::examination::Finding;
use crate::config::Location;
use crate::error::{Error, Kind, Result};

pub mod examination;
pub mod local;
pub mod memory;
pub mod progress;
pub mod retry;
pub mod s3;

/// A place for immutable objects. All keys are relative to the store's own prefix.
///
/// Every method retries by itself what may be retried, within the budget that the store was opened with.
#[async_trait]
pub trait Store: Send + Sync + Debug {
    /// The object's address as a person would write it, for messages. The empty key names the prefix.
    fn url(&self, key: &str) -> String;

    /// Begins with what the first request will need, so that it comes up while its caller still makes the body: the
    /// connection, and credentials. Returns at once; must be called within a runtime.
    fn prepare(&self) {}

    /// What the oldest request that is on its way is doing, for the message of whoever gives up on it from outside: which
    /// object, where it is, and for how long. `None` if there is no request, or the store has no phases.
    fn progress(&self) -> Option<String> {
        None
    }

    /// As whom the store was last asked, and until when that is good; `None` before the first request, and where nobody
    /// is asked who he is.
    fn signer(&self) -> Option<Signer> {
        None
    }

    /// Finds out what can be done here by doing it, with an object of its own ([`crate::layout::Key::Doctor`]), which is
    /// deleted again where that is allowed. Takes seconds; a failure is a finding.
    async fn examine(&self) -> Vec<Finding>;

    /// Stores `body` under `key`. When it returns `Ok` the object is complete, checked where the store can check it,
    /// and durable. Before that it is not visible at all, whatever happens to this process.
    ///
    /// # Errors
    /// With [`PutMode::New`]: `AlreadyExists` if the key is taken, and then the object there is durable; of any number
    /// of racing creators one succeeds. A creator whose first try succeeded unnoticed (the reply was lost) is told
    /// `AlreadyExists` too: compare the content. Only where the object could not be read to do so, because it is of a
    /// class that is restored first, it is compared here, by its size and CRC-32C, and the same counts as put.
    async fn put(&self, key: &str, body: Body, mode: PutMode) -> Result<()>;

    /// Opens an object, whole or the bytes of `range` (which must lie within the object and not be empty).
    ///
    /// # Errors
    /// `NotFound` only if the store said so.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Download>;

    /// The object's size and age.
    ///
    /// # Errors
    /// `NotFound` only if the store said so.
    async fn head(&self, key: &str) -> Result<ObjectInfo>;

    /// One page of the objects whose keys begin with `prefix`, in the order of their keys' bytes. An object is listed
    /// from the moment its put returned, and never before it is complete. A store that was asked whether it honours
    /// [`PutMode::New`] has, beside what was put, the object of [`crate::layout::Key::Probe`].
    async fn list(&self, query: &ListQuery) -> Result<Page>;

    /// How many pages, from different places of one long listing, are worth asking for at the same time.
    fn pages_at_once(&self) -> usize;

    /// Deletes these objects; one that is absent already counts as deleted. In a bucket that keeps versions they are only
    /// marked: neither listed nor read any more, but their room is not free. Then it says so in the log, once.
    ///
    /// # Errors
    /// Only those that concern all of the keys. Which single ones were refused is in what is returned.
    async fn remove(&self, keys: &[String]) -> Result<Removed>;

    /// The same, for whoever needs all of them to go.
    ///
    /// # Errors
    /// The first refusal, after all keys have been tried, saying how many of them were refused, and until when those stay
    /// that are locked.
    async fn delete(&self, keys: &[String]) -> Result<()> {
        self.remove(keys).await?.all()
    }

    /// Until when the object is locked against being deleted for good, in words; `None` if it is not, or if we may not know.
    async fn lock(&self, _key: &str) -> Option<String> {
        None
    }

    /// What time it is by the clock that the ages of objects are told by. A store that does not tell gets this machine's.
    async fn now(&self) -> Result<Timestamp>;

    /// What writers that were killed have left of objects that never came to be, untouched since `before`: not listed, and
    /// not read. Most stores leave nothing.
    async fn leftovers(&self, _before: Timestamp) -> Result<Leftovers> {
        Ok(Leftovers::default())
    }

    /// Removes these leftovers; says what it has removed.
    ///
    /// # Errors
    /// The first refusal, after all have been tried.
    async fn remove_leftovers(&self, _before: Timestamp) -> Result<Leftovers> {
        Ok(Leftovers::default())
    }
}

/// What became of a removal.
#[must_use]
#[derive(Debug, Default)]
pub struct Removed {
    /// The keys that were refused.
    pub refused: Vec<String>,
    /// The first refusal, and until when objects stay that are locked.
    pub refusal: Option<Error>,
    /// How many are only marked as deleted.
    pub marked: u64,
}

/// So many of the refused keys are named.
const NAMED: usize = 3;

impl Removed {
    /// # Errors
    /// The first refusal, with how many there are, and some of their names.
    pub fn all(self) -> Result<()> {
        let Some(refusal) = self.refusal else { return Ok(()) };
        Err(refusal.detail(could_not(self.refused.len() as u64, &self.refused)))
    }
}

/// How many objects could not be deleted, and the names of the first ones.
pub fn could_not(count: u64, first: &[String]) -> String {
    let named = &first[..first.len().min(NAMED)];
    let more = if count > named.len() as u64 { " and others" } else { "" };
    format!("{count} objects could not be deleted: {}{more}", named.join(", "))
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// An ARN where it is known, else the id of an access key and where it was found.
    pub who: String,
    /// When it ends; it is renewed before, where it can be. `None` if it does not end, or does not say so.
    pub expires: Option<Timestamp>,
}

/// How much is left of objects that never came to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// How many there are.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The address of what lies at `location` as seen from this process, by which one process's notes are told from another's:
/// the same prefix at another endpoint is another archive.
pub fn address(location: &Location) -> String {
    match location {
        Location::Directory(_) => location.to_string(),
        Location::Bucket { .. } => format!("{location} at {}", s3::endpoint().unwrap_or_default()),
    }
}

/// Opens the store; the options are those of S3, a directory has none. Nothing is read from or written to it yet.
///
/// # Errors
/// `Config` if the settings cannot work.
pub async fn open(location: Location, options: s3::Options) -> Result<Arc<dyn Store>> {
    match location {
        Location::Directory(path) => Ok(Arc::new(local::LocalStore::new(path))),
        Location::Bucket { name, prefix } => Ok(Arc::new(s3::S3Store::open(name, &prefix, options).await?)),
    }
}

/// May a put replace what is there?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutMode {
    /// Create only.
    New,
    /// Create or replace, atomically.
    Replace,
}

/// The bytes of an object to be stored, of known length and readable more than once.
#[derive(Clone, Debug)]
pub enum Body {
    /// In memory.
    Memory(Bytes),
    /// In a file of our own, from its beginning to its end.
    File(Arc<std::fs::File>, u64),
}

impl Body {
    /// The length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Body::Memory(bytes) => bytes.len() as u64,
            Body::File(_, size) => *size,
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body::Memory(bytes.into())
    }
}

/// An object that is being read.
pub struct Download {
    /// The size of the whole object, also where only a range was asked for.
    pub object_size: u64,
    chunks: Box<dyn Chunks>,
}

impl Download {
    pub(crate) fn new(object_size: u64, chunks: Box<dyn Chunks>) -> Download {
        Download { object_size, chunks }
    }

    /// The next bytes, at most a few MiB; `None` at the end of what was asked for.
    ///
    /// # Errors
    /// Also when the store ends early: a short object is never taken for a whole one.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.chunks.next().await
    }

    /// Adds to `buffer` until it has `size` bytes, and perhaps some of what follows.
    ///
    /// # Errors
    /// `Corrupt` if there are not so many.
    pub async fn fill(&mut self, buffer: &mut Vec<u8>, size: usize) -> Result<()> {
        while buffer.len() < size {
            match self.next().await? {
                Some(chunk) => buffer.extend_from_slice(&chunk),
                None => return Err(Error::new(Kind::Corrupt, "the part is too short")),
            }
        }
        Ok(())
    }

    /// All the remaining bytes, if they are no more than `limit`.
    ///
    /// # Errors
    /// `Corrupt` if there are more.
    pub async fn read_all(mut self, limit: usize) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(chunk) = self.next().await? {
            if all.len() + chunk.len() > limit {
                return Err(Error::new(Kind::Corrupt, format!("the object has more than {limit} bytes")));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }
}

/// Where a [`Download`]'s bytes come from.
#[async_trait]
pub(crate) trait Chunks: Send {
    async fn next(&mut self) -> Result<Option<Bytes>>;
}

/// What a listing says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The key, relative to the store's prefix.
    pub key: String,
    /// Stored bytes.
    pub size: u64,
    /// When it was stored, by the store's clock.
    pub modified: Timestamp,
}

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Only keys after this one, in byte order. Not together with `fold`: stores differ in what they make of it.
    pub after: Option<String>,
    /// Where the last page ended; overrides `after`.
    pub cursor: Option<Cursor>,
    /// Fold what lies below the next `/` after the prefix into one entry of [`Page::prefixes`].
    pub fold: bool,
}

/// One page of a listing, at most [`PAGE_SIZE`] entries.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Objects, in the order of their keys.
    pub objects: Vec<ObjectInfo>,
    /// Folded prefixes, each ending in `/`, in order.
    pub prefixes: Vec<String>,
    /// Where the next page begins ([`ListQuery::cursor`]), or `None` if this is the last one.
    pub next: Option<Cursor>,
}

/// The end of a page, in the words of the store that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(End);

#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Local(local::Position),
    S3(String),
}

/// The greatest number of entries in a page, as S3 has it (ListObjectsV2).
pub const PAGE_SIZE: usize = 1000;

/// All pages of a listing, with the entries handed to `each` as they come.
///
/// # Errors
/// Those of [`Store::list`].
pub async fn list_all(store: &dyn Store, mut query: ListQuery, mut each: impl FnMut(Page)) -> Result<()> {
    loop {
        let mut page = store.list(&query).await?;
        let next = page.next.take();
        each(page);
        match next {
            Some(next) => query.cursor = Some(next),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
impl Cursor {
    /// For stores in tests: the end of a page is this text.
    pub(crate) fn of(text: &str) -> Cursor {
        Cursor(End::S3(text.to_owned()))
    }

    pub(crate) fn text(&self) -> String {
        match &self.0 {
            End::S3(text) => text.clone(),
            End::Local(_) => String::new(),
        }
    }
}
