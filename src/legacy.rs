//! Archives that WAL-E and WAL-G wrote, read and never written: their objects, down to plain bytes.
//!
//! What is below: [`codec`], how they compress, [`cipher`], how they encrypt, [`wal`], their WAL, and [`backups`], their
//! base backups, with what is said of those: [`sentinel`], [`metadata`], [`parts`], [`wanted`], [`tree`] and
//! [`increment`], which are pure. Knows their keys and the store; believes nothing that they say of themselves.

pub mod backups;
pub mod cipher;
pub mod codec;
pub mod increment;
pub mod metadata;
pub mod parts;
pub mod sentinel;
pub mod source;
pub mod tree;
pub mod wal;
pub mod wanted;

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use self::cipher::Keys;
use self::codec::{Codec, Decoded};
use crate::error::{Context, Error, Kind, Result};
use crate::layout::legacy as keys;
use crate::pipeline;
use crate::storage::memory::Memory;
use crate::storage::{ListQuery, Store};

/// How it came to be looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A setting names it, so it has to be there.
    Named,
    /// The same, and it lies under our own prefix.
    Here,
    /// It would lie under our own prefix, and as a rule there is none.
    Beside,
}

/// How long an archive that was seen counts as being there, as with Walden's own.
const SEEN_FOR: Duration = Duration::from_secs(86_400);

/// How long none counts as none. Shorter, for another tool could begin one; and it is only one request that is saved.
const NONE_FOR: Duration = Duration::from_secs(3600);

/// An archive of WAL-E or WAL-G.
#[derive(Clone, Debug)]
pub struct Legacy {
    store: Arc<dyn Store>,
    standing: Standing,
    keys: Keys,
    memory: Option<(Memory, String)>,
    /// Whether what is remembered of there being none counts for nothing.
    anew: bool,
}

impl Legacy {
    /// The one in `store`, whose objects are encrypted with these keys, if they are.
    pub fn new(store: Arc<dyn Store>, standing: Standing, keys: Keys) -> Legacy {
        Legacy { store, standing, keys, memory: None, anew: false }
    }

    /// The same, which remembers whether it is there, at this address.
    pub fn remembering(self, memory: Memory, address: &str) -> Legacy {
        Legacy { memory: Some((memory, format!("legacy\n{address}"))), ..self }
    }

    /// The same, for who must not go wrong by what was true a while ago: it is looked for each time.
    pub fn asked_anew(self) -> Legacy {
        Legacy { anew: true, ..self }
    }

    /// Where it lies.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Whether a setting names it.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Reads an object through its cipher and its codec, on a thread where `work` may block. What `work` has read counts
    /// only when it has read to the end.
    ///
    /// # Errors
    /// Those of the store, and of `work`; [`Kind::Corrupt`] for an object that is damaged, or holds more than `limit` plain
    /// bytes.
    pub async fn read<T: Send + 'static>(
        &self,
        key: &str,
        codec: Codec,
        limit: u64,
        work: impl FnOnce(&mut Decoded) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let what = || format!("could not read {}", self.store.url(key));
        let (feed, pieces) = source::of(self.store.get(key, None).await?);
        let keys = self.keys.clone();
        let work = pipeline::blocking(move || {
            let mut decoded = codec.decode(keys.cipher()?.decrypt(pieces)?, limit)?;
            work(&mut decoded)
        });
        let ((), outcome) = tokio::join!(feed, work);
        outcome.during(what)
    }

    /// The plain bytes of a small object.
    ///
    /// # Errors
    /// Those of [`Legacy::read`].
    pub async fn read_all(&self, key: &str, codec: Codec, limit: u64) -> Result<Vec<u8>> {
        self.read(key, codec, limit, |decoded| {
            let mut plain = Vec::new();
            decoded.read_to_end(&mut plain).map_err(codec::error_of)?;
            Ok(plain)
        })
        .await
    }

    /// Whether there is one, where that is worth a question because the answer is remembered. Without a memory whoever looks
    /// for something finds out as much by looking.
    async fn may_be_there(&self) -> Result<bool> {
        match (self.standing, self.recall().as_deref()) {
            (Standing::Named | Standing::Here, _) | (_, Some(SEEN)) => Ok(true),
            (Standing::Beside, Some(_)) if !self.anew => Ok(false),
            (Standing::Beside, _) if self.memory.is_none() => Ok(true),
            (Standing::Beside, _) => {
                let there = self.holds(keys::WAL).await?;
                if there {
                    self.remember(SEEN, SEEN_FOR)
                } else {
                    self.remember(NONE, NONE_FOR)
                }
                Ok(there)
            }
        }
    }

    /// Something was looked for and is not there: is the archive? One that only could lie here need not be; one that a
    /// setting names must, for under a mistyped prefix everything is absent.
    ///
    /// # Errors
    /// [`Kind::Config`] if there is nothing where the setting says.
    async fn prove(&self) -> Result<()> {
        if self.standing == Standing::Beside || self.recall().as_deref() == Some(SEEN) {
            return Ok(());
        }
        if self.holds_anything().await? {
            self.remember(SEEN, SEEN_FOR);
            return Ok(());
        }
        Err(Error::new(Kind::Config, format!("there is no archive of WAL-E or WAL-G at {}", self.store.url("")))
            .detail(format!("nothing lies below {} or {} there", keys::WAL, keys::BACKUPS))
            .hint("Correct --legacy-prefix or WALDEN_LEGACY_PREFIX, or unset it."))
    }

    /// Whether our own prefix is right though nothing of ours is there, because this archive is: then it is no slip of the
    /// pen, and nothing has been archived by us yet.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn vouches_for_our_prefix(&self) -> Result<bool> {
        match self.standing {
            Standing::Named => Ok(false),
            Standing::Here | Standing::Beside => self.holds_anything().await,
        }
    }

    async fn holds_anything(&self) -> Result<bool> {
        Ok(self.holds(keys::WAL).await? || self.holds(keys::BACKUPS).await?)
    }

    async fn holds(&self, prefix: &str) -> Result<bool> {
        let page = self.store.list(&ListQuery { prefix: prefix.to_owned(), ..ListQuery::default() }).await?;
        Ok(!page.objects.is_empty())
    }

    fn recall(&self) -> Option<String> {
        self.memory.as_ref().and_then(|(memory, key)| memory.recall(key))
    }

    fn remember(&self, what: &str, for_: Duration) {
        if let Some((memory, key)) = &self.memory {
            memory.remember(key, what, for_);
        }
    }
}

const SEEN: &str = "seen";
const NONE: &str = "none";
