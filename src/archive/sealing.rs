//! The data key that a host writes with: made once, remembered, and made anew when it is old.
//!
//! A data key is used only when its object is known to be in the archive. Its secret is gone when it has been wrapped.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Mutex;

use super::Archive;
use super::keyring::{Inner, Keyring, LONGEST_OBJECT, context, unwrap};
use crate::crypt::wrapped::{DATA_KEY_LIFE, Envelope, KeyObject, identity_of, prove, wrap, wrapped_by_kms};
use crate::crypt::{Identity, Recipient, SecretSlice};
use crate::error::{Context, Error, Kind, Result};
use crate::layout::{DataKeyName, Key};
use crate::postgres::control::SystemId;
use crate::storage::{Body, PutMode};

/// For so long it is believed that a key object which was seen in the archive is still there. Then it is put again, which
/// changes nothing where it is: should somebody have deleted it, no more than this long was written in vain, and not even
/// that, for it is the same object.
const SEEN_FOR: Duration = Duration::from_secs(3600);

/// The data keys of this process, by cluster. Locked while one is made, so that of many objects one makes it.
pub(super) type Making = Mutex<HashMap<SystemId, Made>>;

/// A data key to write with.
#[derive(Clone, Debug)]
pub(super) struct Made {
    recipient: Recipient,
    created: Timestamp,
    /// The key object.
    content: Bytes,
    /// When this process has last seen that it is in the archive.
    seen: Option<Instant>,
}

impl Made {
    fn of(object: &KeyObject, content: Vec<u8>) -> Result<Made> {
        let recipient = object.key.as_str().parse()?;
        Ok(Made { recipient, created: object.created, content: content.into(), seen: None })
    }

    fn left(&self, now: Timestamp) -> Option<Duration> {
        let age = Duration::try_from(now.duration_since(self.created).max(SignedDuration::ZERO)).ok()?;
        DATA_KEY_LIFE.checked_sub(age).filter(|left| !left.is_zero())
    }

    fn key(&self, system: SystemId) -> Key {
        Key::DataKey(system, DataKeyName::of(&self.recipient.to_string()))
    }
}

impl Archive {
    /// The data key to encrypt for what is written of this cluster; `None` if nothing is to be encrypted.
    ///
    /// # Errors
    /// Those of the store and of KMS. Never is anything written in the clear instead.
    pub async fn data_key(&self, system: SystemId) -> Result<Option<Recipient>> {
        self.data_key_seen_within(system, SEEN_FOR).await
    }

    /// The same, seen to be in the archive now: for what is large, or takes long.
    ///
    /// # Errors
    /// Those of [`Archive::data_key`].
    pub async fn fresh_data_key(&self, system: SystemId) -> Result<Option<Recipient>> {
        self.data_key_seen_within(system, Duration::ZERO).await
    }

    async fn data_key_seen_within(&self, system: SystemId, within: Duration) -> Result<Option<Recipient>> {
        let Some(ring) = self.keyring.as_ref().map(Keyring::inner).filter(|ring| !ring.holders.names().is_empty())
        else {
            return Ok(None);
        };
        let mut all = ring.making.lock().await;
        let now = Timestamp::now();
        let young = |made: &Made| made.left(now).is_some();
        let known = all.get(&system).cloned().filter(young).or_else(|| recall(ring, system).filter(young));
        let usable = match known {
            Some(made) if is_seen(ring, system, &made, within) => Some(made),
            Some(made) => self.put_again(ring, system, made).await?,
            None => None,
        };
        let made = match usable {
            Some(made) => made,
            None => self.make(ring, system).await.during(|| "could not make a data key to encrypt with")?,
        };
        let recipient = made.recipient.clone();
        all.insert(system, made);
        Ok(Some(recipient))
    }

    /// A remembered key must be in the archive, whole: where it is not any more, this brings it back. `None` if it has been
    /// wrapped for others in the meantime.
    async fn put_again(&self, ring: &Inner, system: SystemId, made: Made) -> Result<Option<Made>> {
        let key = made.key(system);
        match self.store().put(&key.to_string(), Body::Memory(made.content.clone()), PutMode::New).await {
            Ok(()) => tracing::info!("{} is in the archive", self.url(&key)),
            Err(error) if error.kind() == Kind::AlreadyExists => {
                if !self.is_for_all(ring, system, &made).await? {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error.during("could not see to it that the data key is in the archive")),
        }
        ring.memory.remember(&seen_key(ring, system, &made), "seen", SEEN_FOR);
        Ok(Some(Made { seen: Some(Instant::now()), ..made }))
    }

    /// Is the key object that is there wrapped for everybody for whom this host writes? It may have been rekeyed. One that was
    /// damaged is put again. Who may not read must take the store's word for it.
    async fn is_for_all(&self, ring: &Inner, system: SystemId, made: &Made) -> Result<bool> {
        let key = made.key(system);
        match self.key_object(system, &DataKeyName::of(&made.recipient.to_string())).await {
            Ok(object) => {
                let holders = object.holders();
                // Keys of KMS are not compared: one that was named by an alias stands there by its own name.
                let is_for_all = ring.holders.recipients.iter().all(|one| holders.contains(&one.to_string()));
                if !is_for_all {
                    tracing::warn!("{} is wrapped for others now: another data key is made", self.url(&key));
                }
                Ok(is_for_all)
            }
            Err(error) if error.kind() == Kind::Denied => Ok(true),
            Err(error) if error.kind() == Kind::Corrupt => {
                tracing::warn!("{} is put again, for it is damaged: {error}", self.url(&key));
                self.store().put(&key.to_string(), Body::Memory(made.content.clone()), PutMode::Replace).await?;
                self.read_back(&key, &made.content).await.map(|()| true)
            }
            Err(error) => Err(error.during("could not see to it that the data key is in the archive")),
        }
    }

    async fn make(&self, ring: &Inner, system: SystemId) -> Result<Made> {
        let (identity, wrapped) = wrap_new(ring, system).await?;
        let object = KeyObject::new(system, &identity, wrapped);
        self.prove_key(&object, &identity).await?;
        // From here on its secret is nowhere but in the object, wrapped.
        drop(identity);
        let made = Made::of(&object, object.to_json()?)?;
        let key = made.key(system);
        self.store().put(&key.to_string(), Body::Memory(made.content.clone()), PutMode::New).await.or_else(
            |error| {
                // The reply to a first try was lost; what is there is read back.
                if error.kind() == Kind::AlreadyExists { Ok(()) } else { Err(error) }
            },
        )?;
        self.read_back(&key, &made.content).await?;
        let left = made.left(Timestamp::now()).unwrap_or_default();
        let content = String::from_utf8_lossy(&made.content);
        ring.memory.remember(&memory_key(ring, system), &content, left);
        ring.memory.remember(&seen_key(ring, system, &made), "seen", SEEN_FOR);
        if ring.memory.recall(&memory_key(ring, system)).is_none() {
            tracing::warn!(
                "each process makes a data key of its own, for this machine cannot remember one: set cache-dir \
                 (--cache-dir, WALDEN_CACHE_DIR) to a directory that is this user's alone and has room"
            );
        }
        tracing::info!("made the data key {}, wrapped for {}", object.key, object.holders().join(", "));
        Ok(Made { seen: Some(Instant::now()), ..made })
    }

    /// Is what was stored there, byte for byte? Who may not read must take the store's word for it.
    pub(super) async fn read_back(&self, key: &Key, content: &[u8]) -> Result<()> {
        let url = self.url(key);
        match self.store().get(&key.to_string(), None).await {
            Err(error) if error.kind() == Kind::Denied => {
                tracing::debug!("{url} is not read back, for it may not be read: {error}");
                Ok(())
            }
            download => match download?.read_all(LONGEST_OBJECT).await? == content {
                true => Ok(()),
                false => Err(Error::new(Kind::Corrupt, format!("{url} has other bytes than were stored"))),
            },
        }
    }

    /// Does a key that was just wrapped do what it is for, and does it open as far as that can be tried here?
    ///
    /// # Errors
    /// If not.
    pub(super) async fn prove_key(&self, object: &KeyObject, identity: &Identity) -> Result<()> {
        let ring = self.keyring()?.inner();
        prove(identity)?;
        let mut opened = object.open(&ring.identities)?.is_some();
        for envelope in &object.wrapped {
            let Envelope::Kms { kms, ciphertext, context } = envelope else { continue };
            match unwrap(&ring.kms, kms, ciphertext, context).await {
                Ok(secret) => {
                    object.open_secret(&secret)?;
                    opened = true;
                }
                // A writer need not have kms:Decrypt.
                Err(error) if error.kind() == Kind::Denied => tracing::debug!("not proved with KMS: {error}"),
                Err(error) => return Err(error),
            }
        }
        if !opened && !ring.identities.is_empty() {
            tracing::warn!(
                "none of the keys in identity-file opens what is written here: it is wrapped for {}",
                object.holders().join(", ")
            );
        }
        Ok(())
    }

    /// Can a data key be made as things are, and opened as far as that can be tried? Stores nothing.
    ///
    /// # Errors
    /// What would keep a writer from it.
    pub async fn try_to_seal(&self, system: SystemId) -> Result<()> {
        let ring = self.keyring()?.inner();
        let (identity, wrapped) = wrap_new(ring, system).await?;
        self.prove_key(&KeyObject::new(system, &identity, wrapped), &identity).await
    }

    /// The same data key, wrapped for those for whom this archive is written now.
    ///
    /// # Errors
    /// Those of [`Archive::open_key`], of KMS and of the store.
    pub async fn rewrap(&self, object: &KeyObject) -> Result<()> {
        let ring = self.keyring()?.inner();
        let identity = self.open_key(object).await?;
        let wrapped = wrap_for(ring, object.system_id, &ring.holders.kms, &identity).await?;
        let object = KeyObject { walden: env!("CARGO_PKG_VERSION").to_owned(), wrapped, ..object.clone() };
        self.prove_key(&object, &identity).await?;
        let (key, content) = (Key::DataKey(object.system_id, object.key.clone()), object.to_json()?);
        self.store().put(&key.to_string(), Body::from(content.clone()), PutMode::Replace).await?;
        self.read_back(&key, &content).await
    }
}

/// A new key, wrapped for all of its holders. Where KMS is among them, the key is of its making.
async fn wrap_new(ring: &Inner, system: SystemId) -> Result<(Identity, Vec<Envelope>)> {
    let Some((first, others)) = ring.holders.kms.split_first() else {
        let identity = Identity::generate();
        let wrapped = wrap_for(ring, system, &[], &identity).await?;
        return Ok((identity, wrapped));
    };
    let context = context(&ring.prefix, system);
    let generated = ring.kms.generate(first, &context).await?;
    let identity = identity_of(&generated.secret)
        .ok_or_else(|| Error::new(Kind::Corrupt, "KMS has made a key that has not 32 bytes"))?;
    let mut wrapped = vec![wrapped_by_kms(generated.wrapped.key, &generated.wrapped.ciphertext, context)];
    wrapped.extend(wrap_for(ring, system, others, &identity).await?);
    Ok((identity, wrapped))
}

/// A key that there is, wrapped by these keys of KMS and for all recipients.
async fn wrap_for(ring: &Inner, system: SystemId, kms: &[String], identity: &Identity) -> Result<Vec<Envelope>> {
    let context = context(&ring.prefix, system);
    let mut wrapped = Vec::new();
    let secret = SecretSlice::from(identity.secret()?.to_vec());
    for key in kms {
        let made = ring.kms.encrypt(key, &secret, &context).await?;
        wrapped.push(wrapped_by_kms(made.key, &made.ciphertext, context.clone()));
    }
    if !ring.holders.recipients.is_empty() {
        wrapped.push(wrap(identity, &ring.holders.recipients)?);
    }
    Ok(wrapped)
}

/// Bound to the store, the cluster and the very holders: with others, another key is made.
fn memory_key(ring: &Inner, system: SystemId) -> String {
    format!("data key\n{system}\n{}\n{}", ring.address, ring.holders.names().join("\n"))
}

fn seen_key(ring: &Inner, system: SystemId, made: &Made) -> String {
    format!("data key is in the archive\n{system}\n{}\n{}", ring.address, made.recipient)
}

/// What this machine remembers of a data key. It is this user's alone, so it is believed.
fn recall(ring: &Inner, system: SystemId) -> Option<Made> {
    let content = ring.memory.recall(&memory_key(ring, system))?;
    let object = KeyObject::from_json(content.as_bytes()).ok()?;
    Made::of(&object, content.into_bytes()).ok()
}

fn is_seen(ring: &Inner, system: SystemId, made: &Made, within: Duration) -> bool {
    let by_this = made.seen.is_some_and(|seen| seen.elapsed() < within);
    by_this || (!within.is_zero() && ring.memory.recall(&seen_key(ring, system, made)).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_key_is_used_for_a_month() {
        let identity = Identity::generate();
        let object = KeyObject::new(SystemId(7), &identity, Vec::new());
        let made = Made::of(&object, Vec::new()).unwrap();
        let at = |days: i64| made.left(made.created + SignedDuration::from_hours(24 * days));
        assert_eq!(at(0), Some(DATA_KEY_LIFE));
        assert_eq!(at(29), Some(Duration::from_secs(86_400)));
        assert_eq!(at(30), None);
        // A clock that was set back lets it live longer, by as much as it was set back.
        assert_eq!(at(-1), Some(DATA_KEY_LIFE));
    }
}
