//! The keys of an archive: those that it is read with, and the one that each host writes with.
//!
//! Objects are encrypted for data keys, which lie in the archive, wrapped for whoever may read (docs/decisions/encryption.md).
//! Opened data keys stay in the memory of this process alone; their public halves are remembered from one process to the
//! next, by this machine and not by the store, where others could exchange them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::mpsc;

use super::Archive;
use super::sealing::Making;
use crate::config::encryption::EncryptTo;
use crate::crypt::identity::KeyFile;
use crate::crypt::wrapped::{Envelope, KeyObject};
use crate::crypt::{Identity, Recipient, SecretSlice};
use crate::error::{Context, Error, Kind, Result};
use crate::layout::{self, DataKeyName, Key};
use crate::pipeline;
use crate::postgres::control::SystemId;
use crate::storage::memory::Memory;
use crate::storage::s3::kms::{Context as KmsContext, Kms};
use crate::storage::{ListQuery, list_all};

/// Key objects that are read at the same time.
const READS_AT_ONCE: usize = 16;

/// No key object is longer: some hundred recipients.
pub(super) const LONGEST_OBJECT: usize = 256 << 10;

/// What the user has chosen.
#[derive(Debug)]
pub struct Chosen {
    /// For whom everything is encrypted; for nobody, nothing is.
    pub to: Vec<EncryptTo>,
    /// The files to decrypt with.
    pub identity_files: Vec<PathBuf>,
    /// The archive's address as the user writes it, which KMS is told.
    pub prefix: String,
    /// Where KMS is.
    pub kms: Kms,
    /// What this machine remembers.
    pub memory: Memory,
    /// The address of the store, by which its memories are told from those of others.
    pub address: String,
    /// Whether it is remembered what was read there: a directory is asked anew each time.
    pub remembers: bool,
}

/// The keys; clones are the same.
#[derive(Clone, Debug)]
pub struct Keyring(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) holders: Holders,
    pub(super) identities: Vec<Identity>,
    pub(super) prefix: String,
    pub(super) kms: Kms,
    pub(super) memory: Memory,
    pub(super) address: String,
    pub(super) making: Making,
    remembers: bool,
    /// The data keys that were opened.
    opened: Mutex<HashMap<DataKeyName, Identity>>,
}

/// For whom data keys are wrapped.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders {
    pub(super) recipients: Vec<Recipient>,
    pub(super) kms: Vec<String>,
}

impl Holders {
    /// By name, in order.
    pub(super) fn names(&self) -> Vec<String> {
        let names = self.recipients.iter().map(Recipient::to_string).chain(self.kms.iter().cloned());
        names.collect::<BTreeSet<String>>().into_iter().collect()
    }
}

/// For so long a host does without reading a key object again.
const REMEMBERED: Duration = Duration::from_secs(3600);

impl Inner {
    fn object_key(&self, system: SystemId, name: &DataKeyName) -> String {
        format!("key object\n{system}\n{}\n{name}", self.address)
    }

    /// It holds nothing that is secret.
    fn remember(&self, object: &KeyObject) {
        if let Ok(content) = object.to_json()
            && self.remembers
        {
            let key = self.object_key(object.system_id, &object.key);
            self.memory.remember(&key, &String::from_utf8_lossy(&content), REMEMBERED);
        }
    }
}

const BRING_BACK: &str = "Bring the object back from a copy of the archive, or from an earlier version of it in the bucket \
                          (docs/encryption.md).";

const IDENTITY_HINT: &str =
    "Name the file with the private half of one of these with --identity-file or WALDEN_IDENTITY_FILE.";

impl Keyring {
    /// Reads the files that were named; asks nobody.
    ///
    /// # Errors
    /// [`Kind::Config`] for a file that is not what it should be.
    pub fn open(chosen: Chosen) -> Result<Keyring> {
        let mut holders = Holders::default();
        let mut identities = Vec::new();
        for to in chosen.to {
            match to {
                EncryptTo::Age(text) => holders.recipients.push(text.parse()?),
                EncryptTo::Kms(arn) => holders.kms.push(arn),
                EncryptTo::KeyFile(path) => {
                    let identity = symmetric(&path)?;
                    holders.recipients.push(identity.recipient());
                    identities.push(identity);
                }
            }
        }
        for path in chosen.identity_files {
            let hint = "Name a file that this user can read with --identity-file or WALDEN_IDENTITY_FILE.";
            identities.extend(KeyFile::read(&path, hint)?.into_identities());
        }
        // The same one twice is one holder.
        let mut seen = BTreeSet::new();
        holders.recipients.retain(|recipient| seen.insert(recipient.to_string()));
        holders.kms.retain(|key| seen.insert(key.clone()));
        let Chosen { prefix, kms, memory, address, remembers, .. } = chosen;
        let (making, opened) = (Making::default(), Mutex::default());
        let inner = Inner { holders, identities, prefix, kms, memory, address, making, remembers, opened };
        Ok(Keyring(Arc::new(inner)))
    }

    /// For whom what is written is encrypted, by their names; nobody, if it is not.
    pub fn recipients(&self) -> Vec<String> {
        self.0.holders.names()
    }

    /// The public halves of the keys that are here to decrypt with.
    pub fn identities(&self) -> Vec<String> {
        self.0.identities.iter().map(|identity| identity.recipient().to_string()).collect()
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }
}

/// The key of a file that is both written and read with.
fn symmetric(path: &Path) -> Result<Identity> {
    let hint = "Name a file that this user can read with --encrypt-to or WALDEN_ENCRYPT_TO.";
    match KeyFile::read(path, hint)? {
        KeyFile::Symmetric(identity) => Ok(identity),
        KeyFile::Identities(_) => Err(Error::new(
            Kind::Config,
            format!("the file \"{}\" holds the private half of an age key", path.display()),
        )
        .detail("whoever writes need not have it")
        .hint(format!(
            "Give its public half instead: --encrypt-to or WALDEN_ENCRYPT_TO with what walden keygen {} prints.",
            path.display()
        ))),
    }
}

impl Archive {
    /// The key that opens what was encrypted for this data key of the cluster.
    ///
    /// # Errors
    /// [`Kind::Config`] if there is no identity here that opens it, saying which are needed and which are there;
    /// [`Kind::Incomplete`] if the archive has lost it; [`Kind::Denied`] with the words of KMS; [`Kind::Corrupt`] if its
    /// object is damaged. Never [`Kind::NotFound`]: the data are there.
    pub async fn identity(&self, system: SystemId, name: &DataKeyName) -> Result<Identity> {
        let ring = self.keyring()?.inner();
        let opened = || ring.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(identity) = opened().get(name) {
            return Ok(identity.clone());
        }
        let identity = match self.open_remembered(ring, system, name).await {
            Some(identity) => identity,
            None => {
                let object = self.key_object(system, name).await?;
                let identity = self.open_key(&object).await?;
                ring.remember(&object);
                identity
            }
        };
        opened().insert(name.clone(), identity.clone());
        Ok(identity)
    }

    /// The key, as it was wrapped when another process read its object: each call of `wal-fetch` would read it again. It is
    /// as good as one that was just read, for it says itself whether it is the right one.
    async fn open_remembered(&self, ring: &Inner, system: SystemId, name: &DataKeyName) -> Option<Identity> {
        let content = ring.memory.recall(&ring.object_key(system, name)).filter(|_| ring.remembers)?;
        let object = KeyObject::from_json(content.as_bytes()).ok()?;
        let meant = object.system_id == system && object.key == *name;
        // Whatever is wrong with it, the one in the archive counts.
        self.open_key(&object).await.ok().filter(|_| meant)
    }

    /// Reads a key object.
    ///
    /// # Errors
    /// Those of [`Archive::identity`].
    pub async fn key_object(&self, system: SystemId, name: &DataKeyName) -> Result<KeyObject> {
        let key = Key::DataKey(system, name.clone());
        let url = self.url(&key);
        let content = match self.store().get(&key.to_string(), None).await {
            Err(error) if error.kind() == Kind::NotFound => {
                return Err(Error::new(Kind::Incomplete, format!("the data key {name} is not in the archive"))
                    .detail(format!("{url} does not exist, and what was encrypted for it cannot be read without it"))
                    .hint(BRING_BACK));
            }
            download => download?.read_all(LONGEST_OBJECT).await?,
        };
        let damaged = |error: Error| if error.kind() == Kind::Corrupt { error.hint(BRING_BACK) } else { error };
        let object = KeyObject::from_json(&content).map_err(damaged).during(|| format!("could not read {url}"))?;
        match object.system_id == system && object.key == *name {
            true => Ok(object),
            false => Err(Error::new(Kind::Corrupt, format!("{url} is not what its key says"))
                .detail(format!("it holds the key {} of system identifier {}", object.key, object.system_id))
                .hint(BRING_BACK)),
        }
    }

    /// Opens a data key with what is here.
    ///
    /// # Errors
    /// Those of [`Archive::identity`].
    pub async fn open_key(&self, object: &KeyObject) -> Result<Identity> {
        let ring = self.keyring()?.inner();
        let url = self.url(&Key::DataKey(object.system_id, object.key.clone()));
        if let Some(identity) = object.open(&ring.identities).during(|| format!("could not read {url}"))? {
            return Ok(identity);
        }
        let mut refused = None;
        for envelope in &object.wrapped {
            let Envelope::Kms { kms, ciphertext, context } = envelope else { continue };
            match unwrap(&ring.kms, kms, ciphertext, context).await {
                Ok(secret) => return object.open_secret(&secret).during(|| format!("could not read {url}")),
                Err(error) => drop(refused.get_or_insert(error)),
            }
        }
        Err(match refused {
            Some(error) => error,
            None => self.no_identity(object),
        })
    }

    fn no_identity(&self, object: &KeyObject) -> Error {
        let needed = object.holders().join(" or ");
        let there = self.keyring().map(Keyring::identities).unwrap_or_default();
        let error = match there.is_empty() {
            true => Error::new(Kind::Config, "there is no key to decrypt with")
                .detail(format!("the data key {} is wrapped for {needed}", object.key)),
            false => Error::new(Kind::Config, format!("no key that is here opens the data key {}", object.key))
                .detail(format!("it needs {needed}; here is {}", there.join(", "))),
        };
        error.hint(IDENTITY_HINT)
    }

    /// The data keys of a cluster, in the order of their names.
    ///
    /// # Errors
    /// Those of the listing.
    pub async fn data_key_names(&self, system: SystemId) -> Result<Vec<DataKeyName>> {
        let mut names = Vec::new();
        let query = ListQuery { prefix: layout::keys_prefix(system), ..ListQuery::default() };
        list_all(&**self.store(), query, |page| {
            names.extend(page.objects.iter().filter_map(|object| match Key::parse(&object.key)? {
                Key::DataKey(_, name) => Some(name),
                _ => None,
            }));
        })
        .await?;
        Ok(names)
    }

    /// Does a WAL file open with what is here, as far as its header tells? Reads no more than that. One that is not there
    /// needs no key: where a timeline ends within a segment, the next one has the segment.
    ///
    /// # Errors
    /// Those of [`Archive::identity`].
    pub async fn check_opens(&self, key: &Key) -> Result<()> {
        let size = match self.store().head(&key.to_string()).await {
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            info => info?.size,
        };
        match self.describe(key, size).await?.key {
            Some(name) => self.identity(self.owner(key)?, &name).await.map(drop),
            None => Ok(()),
        }
    }

    /// All data keys of a cluster: each with what is read of it, in the order of their names.
    ///
    /// # Errors
    /// Those of the listing, and those that another try may not have.
    pub async fn data_keys(&self, system: SystemId) -> Result<Vec<(DataKeyName, Result<KeyObject>)>> {
        let names = self.data_key_names(system).await?;
        let (sender, receiver) = mpsc::channel(names.len().max(1));
        for name in names {
            // The channel has room for all of them.
            let _ = sender.try_send(name);
        }
        drop(sender);
        let archive = self.clone();
        let mut keys = pipeline::run(receiver, READS_AT_ONCE, move |name| {
            let archive = archive.clone();
            async move {
                match archive.key_object(system, &name).await {
                    // One that cannot be reached is not known to be damaged.
                    Err(error) if !matches!(error.kind(), Kind::Corrupt | Kind::Refused | Kind::Incomplete) => {
                        Err(error)
                    }
                    object => Ok((name, object)),
                }
            }
        })
        .await?;
        keys.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(keys)
    }
}

/// Has KMS open what it has wrapped.
pub(super) async fn unwrap(kms: &Kms, key: &str, ciphertext: &str, context: &KmsContext) -> Result<SecretSlice<u8>> {
    let ciphertext = STANDARD.decode(ciphertext).map_err(|error| {
        Error::new(Kind::Corrupt, "the key object is damaged").detail(format!("its ciphertext is no Base64: {error}"))
    })?;
    kms.decrypt(key, &ciphertext, context).await
}

/// What KMS is told with the keys of a cluster in this archive.
pub(super) fn context(prefix: &str, system: SystemId) -> KmsContext {
    BTreeMap::from([
        ("walden-prefix".to_owned(), prefix.to_owned()),
        ("walden-system-id".to_owned(), system.to_string()),
    ])
}
