//! The two-way door between plain files and the store: one object a file, described, compressed and digested.
//!
//! Knows keys, the codec and the store, and, in [`keyring`], what objects are encrypted with. Decides nothing about WAL or backups: what a conflict or an absence means is the
//! caller's business.

pub mod keyring;
pub mod part;
mod sealing;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::keyring::Keyring;
use crate::codec::{self, Decoder, Description, Header};
use crate::crypt::Recipient;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::{self, Key, sealed};
use crate::pipeline;
use crate::postgres::control::SystemId;
use crate::storage::memory::Memory;
use crate::storage::{Body, ListQuery, PutMode, Store, list_all};
use crate::wal::segment::WalFile;

/// An archive: a store, and how new files are compressed.
#[derive(Clone, Debug)]
pub struct Archive {
    store: Arc<dyn Store>,
    level: i32,
    proofs: Option<Proofs>,
    keyring: Option<Keyring>,
}

/// Where it is remembered that an archive has been seen.
#[derive(Clone, Debug)]
struct Proofs {
    memory: Memory,
    address: String,
}

/// How long an archive that was seen counts as being there. A bucket that goes away in the meantime says so itself.
const SEEN_FOR: Duration = Duration::from_secs(86_400);

/// How a file got into the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is new.
    New {
        /// Bytes of the object.
        object_size: u64,
    },
    /// The same content was there already.
    Already,
}

/// An object that is ready to be stored.
#[derive(Clone, Debug)]
pub struct Encoded {
    header: Header,
    body: Body,
}

impl Encoded {
    /// Bytes of the object.
    pub fn size(&self) -> u64 {
        self.body.size()
    }

    /// The BLAKE3 of the plain file, in lower-case hexadecimal.
    pub fn plain_blake3(&self) -> String {
        self.header.plain_blake3.to_string()
    }
}

impl Archive {
    /// An archive in `store` that compresses new files with this zstd level.
    pub fn new(store: Arc<dyn Store>, level: i32) -> Archive {
        Archive { store, level, proofs: None, keyring: None }
    }

    /// The same, which remembers what [`Archive::prove`] has found at this address.
    pub fn remembering(self, memory: Memory, address: String) -> Archive {
        Archive { proofs: Some(Proofs { memory, address }), ..self }
    }

    /// The same, which encrypts and decrypts with these keys. Without any it does neither.
    pub fn with_keys(self, keyring: Keyring) -> Archive {
        Archive { keyring: Some(keyring), ..self }
    }

    /// Its keys.
    ///
    /// # Errors
    /// [`Kind::Bug`] if it was given none.
    pub fn keyring(&self) -> Result<&Keyring> {
        self.keyring.as_ref().ok_or_else(|| Error::new(Kind::Bug, "the archive was opened without its keys"))
    }

    /// For whom what is written is encrypted, by their names; nobody, if it is not.
    pub fn recipients(&self) -> Vec<String> {
        self.keyring.as_ref().map(Keyring::recipients).unwrap_or_default()
    }

    /// The store, for objects that are not described files: parts and short manifests of backups, listings.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The object's address, for messages.
    pub fn url(&self, key: &Key) -> String {
        self.store.url(&key.to_string())
    }

    /// Stores a plain file of `size` bytes: [`Archive::encode`], then [`Archive::put_encoded`].
    ///
    /// # Errors
    /// Theirs.
    pub async fn put_file(
        &self,
        key: &Key,
        source: impl Read + Send + 'static,
        size: u64,
        file: Description,
    ) -> Result<Stored> {
        let encoded = self.encode(source, size, file).await?;
        self.put_encoded(key, encoded).await
    }

    /// Makes the object of a WAL file of `size` bytes, on threads of its own; encrypted, if the archive is to be. The history
    /// of a timeline is not: who only writes must be able to say which WAL belongs together, and it tells nothing of data.
    ///
    /// # Errors
    /// [`Kind::Local`] if the file cannot be read or has another length by now; those of [`Archive::data_key`].
    pub async fn encode(&self, source: impl Read + Send + 'static, size: u64, file: Description) -> Result<Encoded> {
        let to = match file.name.parse() {
            Ok(WalFile::History(_)) => None,
            _ => self.data_key(file.system_id).await?,
        };
        self.encode_for(source, size, file, to.as_ref()).await
    }

    /// The same for a given data key, or in the clear.
    ///
    /// # Errors
    /// [`Kind::Local`] if the file cannot be read or has another length by now.
    pub async fn encode_for(
        &self,
        source: impl Read + Send + 'static,
        size: u64,
        file: Description,
        to: Option<&Recipient>,
    ) -> Result<Encoded> {
        let (level, to) = (self.level, to.cloned());
        let (header, body) = pipeline::blocking(move || codec::encode(source, size, file, level, to.as_ref())).await?;
        Ok(Encoded { header, body })
    }

    /// Stores an object. `Ok` means that it is in the archive, complete and durable: put there now, or there already with
    /// the same plain content, which is then read back and checked.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if there is other content under the key, with both digests; it is never overwritten.
    /// [`Kind::Corrupt`] if what is there is damaged.
    pub async fn put_encoded(&self, key: &Key, Encoded { header, body }: Encoded) -> Result<Stored> {
        let object_size = body.size();
        match self.store.put(&key.to_string(), body, PutMode::New).await {
            Ok(()) => Ok(Stored::New { object_size }),
            Err(error) if error.kind() == Kind::AlreadyExists => {
                let existing = self.checked(key).await.map_err(|error| self.incomparable(key, error))?;
                compare(&self.url(key), &header, &existing).map(|()| Stored::Already)
            }
            Err(error) => Err(error),
        }
    }

    /// The header of an object that is whole. Takes no key: of an encrypted one, the digest of what is stored is checked.
    async fn checked(&self, key: &Key) -> Result<Header> {
        let mut download = self.store.get(&key.to_string(), None).await?;
        let what = || format!("could not read {}", self.url(key));
        let mut decoder = Decoder::new(std::io::sink());
        while let Some(chunk) = download.next().await? {
            decoder.feed(&chunk).during(what)?;
            if decoder.locked().during(what)?.is_some() {
                decoder.leave_locked().during(what)?;
            }
        }
        decoder.finish().during(what).map(|(header, _)| header)
    }

    /// Reads a file into `sink`. What was written there counts only if this returns `Ok`: then it is complete and every
    /// digest was right.
    ///
    /// # Errors
    /// [`Kind::NotFound`] only if the store said so; [`Kind::Corrupt`] for a damaged or cut object; those of
    /// [`Archive::identity`] for one that is encrypted, before anything is written.
    pub async fn get_file<W: Write>(&self, key: &Key, sink: W) -> Result<(Header, W)> {
        let mut download = self.store.get(&key.to_string(), None).await?;
        let what = || format!("could not read {}", self.url(key));
        let mut decoder = Decoder::new(sink);
        while let Some(chunk) = download.next().await? {
            decoder.feed(&chunk).during(what)?;
            if let Some(name) = decoder.locked().during(what)? {
                let identity = self.identity(self.owner(key)?, &name).await.during(what)?;
                decoder.unlock(&identity).during(what)?;
            }
        }
        decoder.finish().during(what)
    }

    /// Whose object it is. By its key and not by its header, which others may have written.
    pub(crate) fn owner(&self, key: &Key) -> Result<SystemId> {
        key.system().ok_or_else(|| Error::new(Kind::Bug, format!("{} belongs to no cluster", self.url(key))))
    }

    /// What an object of `object_size` bytes says of itself in its header. The payload behind it is not looked at.
    ///
    /// # Errors
    /// As [`Archive::get_file`].
    pub async fn describe(&self, key: &Key, object_size: u64) -> Result<Header> {
        let what = || format!("could not read {}", self.url(key));
        let mut decoder = Decoder::new(std::io::sink());
        let longest = object_size.min(codec::LONGEST_HEADER as u64);
        if longest > 0 {
            let start = self.store.get(&key.to_string(), Some(0..longest)).await?;
            decoder.feed(&start.read_all(codec::LONGEST_HEADER).await?).during(what)?;
        }
        match decoder.header() {
            Some(header) => Ok(header.clone()),
            None => decoder.finish().during(what).map(|(header, _)| header),
        }
    }

    /// Stores a small object as it is, unless it is there already with the same bytes.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if there are other bytes under the key.
    pub async fn put_plain(&self, key: &Key, content: Bytes) -> Result<()> {
        let (name, limit) = (key.to_string(), content.len());
        match self.store.put(&name, Body::Memory(content.clone()), PutMode::New).await {
            Err(error) if error.kind() == Kind::AlreadyExists => {
                let existing = self.store.get(&name, None).await.map_err(|error| self.incomparable(key, error))?;
                if existing.object_size == limit as u64 && existing.read_all(limit).await? == content {
                    return Ok(());
                }
                Err(Error::new(Kind::Conflict, format!("{} exists with other content", self.url(key))))
            }
            result => result,
        }
    }

    /// There is an object, and whether it is the same cannot be said: success would be a guess.
    fn incomparable(&self, key: &Key, error: Error) -> Error {
        match error.kind() {
            Kind::Denied => error.during(format!("{} exists, and may not be read to compare it", self.url(key))),
            _ => error,
        }
    }

    /// The clusters that have anything in the archive.
    ///
    /// # Errors
    /// [`Kind::Config`] if there is no archive at all.
    pub async fn clusters(&self) -> Result<Vec<SystemId>> {
        let mut clusters = Vec::new();
        list_all(&*self.store, ListQuery { fold: true, ..ListQuery::default() }, |page| {
            let names = page.prefixes.iter().filter_map(|prefix| prefix.trim_end_matches('/').parse::<SystemId>().ok());
            clusters.extend(names);
        })
        .await?;
        if clusters.is_empty() {
            self.require_marker().await?;
        }
        Ok(clusters)
    }

    /// The cluster that has the archive for itself.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the archive is empty; [`Kind::Usage`] if several clusters share it.
    pub async fn only_cluster(&self) -> Result<SystemId> {
        match self.clusters().await?.as_slice() {
            [only] => Ok(*only),
            [] => Err(Error::new(Kind::NotFound, format!("the archive {} is empty", self.store.url("")))),
            several => {
                let names: Vec<String> = several.iter().map(SystemId::to_string).collect();
                Err(Error::new(Kind::Usage, format!("several clusters share the archive {}", self.store.url("")))
                    .detail(format!("their system identifiers are {}", names.join(", ")))
                    .hint("Choose one with --system-id or WALDEN_SYSTEM_ID."))
            }
        }
    }

    /// Is there an archive of this cluster, and may we see what is in it? Turns an object's absence into proof: under a
    /// mistyped prefix, or in a directory whose file system is not mounted, everything is absent. Asks nobody where an
    /// earlier answer is remembered.
    ///
    /// # Errors
    /// [`Kind::Config`] if nothing of the cluster is there.
    pub async fn prove(&self, system: SystemId) -> Result<()> {
        let seen =
            self.proofs.as_ref().map(|proofs| (&proofs.memory, format!("archive\n{system}\n{}", proofs.address)));
        if seen.as_ref().is_some_and(|(memory, key)| memory.recall(key).is_some()) {
            return Ok(());
        }
        let prefix = layout::cluster_prefix(system);
        let page = self.store.list(&ListQuery { prefix, fold: true, ..ListQuery::default() }).await?;
        if page.objects.is_empty() && page.prefixes.is_empty() {
            return self.require_marker().await;
        }
        if let Some((memory, key)) = seen {
            memory.remember(&key, "seen", SEEN_FOR);
        }
        Ok(())
    }

    /// Where nothing else is, the marker must be.
    async fn require_marker(&self) -> Result<()> {
        match self.store.head(&Key::Marker.to_string()).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == Kind::NotFound => {
                Err(Error::new(Kind::Config, format!("there is no archive at {}", self.store.url("")))
                    .detail("nothing that walden has written is there")
                    .hint("Correct --prefix or WALDEN_PREFIX, or mount the file system."))
            }
            Err(error) => Err(error),
        }
    }

    /// Marks the prefix as Walden's, or checks that the format there is one that this version can add to. Warns where the
    /// marker is there and may not be read: whoever writes need not have the right to.
    ///
    /// # Errors
    /// [`Kind::Refused`] for a newer format.
    pub async fn ensure_marker(&self) -> Result<()> {
        let key = Key::Marker;
        match self.store.put(&key.to_string(), Body::from(sealed::marker()), PutMode::New).await {
            Err(error) if error.kind() == Kind::AlreadyExists => {
                let existing = match self.store.get(&key.to_string(), None).await {
                    Err(error) if error.kind() == Kind::Denied => {
                        let url = self.store.url("");
                        tracing::warn!(
                            "the format of the archive {url} is not checked, for it may not be read: {error}"
                        );
                        return Ok(());
                    }
                    existing => existing?.read_all(MARKER_LIMIT).await?,
                };
                let format =
                    sealed::marker_format(&existing).during(|| format!("could not read {}", self.url(&key)))?;
                layout::check_format(format!("the archive {}", self.store.url("")), format)
            }
            result => result,
        }
    }
}

/// No marker is longer.
const MARKER_LIMIT: usize = 64 << 10;

fn compare(url: &str, ours: &Header, existing: &Header) -> Result<()> {
    if ours.plain_blake3 == existing.plain_blake3 && ours.plain_size == existing.plain_size {
        return Ok(());
    }
    let describe = |header: &Header| {
        let timeline = header.file.timeline.map_or(String::new(), |timeline| format!("timeline {}, ", timeline.0));
        format!("system identifier {}, {timeline}BLAKE3 {}", header.file.system_id, header.plain_blake3)
    };
    Err(Error::new(Kind::Conflict, format!("{url} exists with other content"))
        .detail(format!("there: {}", describe(existing)))
        .detail(format!("here: {}", describe(ours)))
        .hint("Two servers may be archiving the same timeline: check which of them is the primary. Nothing was overwritten."))
}
