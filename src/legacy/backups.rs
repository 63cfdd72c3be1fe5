//! Which base backups WAL-E and WAL-G left, and what they consist of. Reads listings, sentinels and lists of files.

use std::io::{BufReader, Read};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::Legacy;
use super::codec::error_of;
use super::metadata::{self, Reader};
use super::parts::{self, Part};
use super::sentinel::{LegacyBackup, Listing, bound_times};
use super::source::{self, Pieces};
use crate::error::{Context, Error, Kind, Result};
use crate::layout::basebackups::{LegacyName, Writer};
use crate::layout::legacy as keys;
use crate::pipeline;
use crate::storage::{ListQuery, list_all};

/// Sentinels that are read at the same time.
const READS_AT_ONCE: usize = 16;

/// What is found under a name.
#[derive(Debug)]
pub enum Found {
    /// A complete backup.
    Complete(Box<LegacyBackup>),
    /// Archives without a sentinel: the remains of a backup that failed, or one that is being taken.
    Incomplete(LegacyName),
    /// A sentinel that cannot be read ([`Kind::Corrupt`]).
    Damaged(LegacyName, Error),
}

impl Found {
    /// The name.
    pub fn name(&self) -> &LegacyName {
        match self {
            Found::Complete(backup) => &backup.name,
            Found::Incomplete(name) | Found::Damaged(name, _) => name,
        }
    }
}

impl Legacy {
    /// All base backups: what is none or cannot be read, then the complete ones, oldest first by when they ended. None where
    /// it is remembered that there is no such archive.
    ///
    /// # Errors
    /// Those of the store; [`Kind::Config`] if a setting names an archive that is not there.
    pub async fn backups(&self) -> Result<Vec<Found>> {
        if !self.may_be_there().await? {
            return Ok(Vec::new());
        }
        let (mut sentinels, mut folders) = (Vec::new(), Vec::new());
        let query = ListQuery { prefix: keys::BACKUPS.to_owned(), fold: true, ..ListQuery::default() };
        list_all(&**self.store(), query, |page| {
            for object in &page.objects {
                match LegacyName::of_sentinel(&object.key) {
                    Some(name) => sentinels.push((name, object.modified)),
                    None if LegacyName::ends_as_sentinel(&object.key) => {
                        tracing::warn!(
                            "{} is passed over: it has not the name of a backup",
                            self.store().url(&object.key)
                        );
                    }
                    None => {}
                }
            }
            folders.extend(page.prefixes.iter().filter_map(|folder| LegacyName::of_folder(folder)));
        })
        .await?;
        if sentinels.is_empty() && folders.is_empty() {
            return self.prove().await.map(|()| Vec::new());
        }
        folders.retain(|name| !sentinels.iter().any(|(other, _)| other == name));
        let (mut complete, mut found) = (Vec::new(), Vec::new());
        for one in self.read_sentinels(sentinels).await? {
            match one {
                Found::Complete(backup) => complete.push(*backup),
                other => found.push(other),
            }
        }
        found.extend(folders.into_iter().map(Found::Incomplete));
        found.sort_by(|one, other| one.name().cmp(other.name()));
        bound_times(&mut complete, &[]);
        complete.sort_by(|one, other| (one.finished, &one.name).cmp(&(other.finished, &other.name)));
        found.extend(complete.into_iter().map(|backup| Found::Complete(Box::new(backup))));
        Ok(found)
    }

    async fn read_sentinels(&self, sentinels: Vec<(LegacyName, Timestamp)>) -> Result<Vec<Found>> {
        let (sender, receiver) = mpsc::channel(sentinels.len().max(1));
        for job in sentinels {
            // The channel has room for all of them.
            let _ = sender.try_send(job);
        }
        drop(sender);
        let legacy = self.clone();
        pipeline::run(receiver, READS_AT_ONCE, move |(name, stored)| {
            let legacy = legacy.clone();
            async move {
                match legacy.read_sentinel(&name, stored).await {
                    Ok(backup) => Ok(Found::Complete(Box::new(backup))),
                    Err(error) if error.kind() == Kind::Corrupt => Ok(Found::Damaged(name, error)),
                    // It was deleted in the meantime.
                    Err(error) if error.kind() == Kind::NotFound => Ok(Found::Incomplete(name)),
                    Err(error) => Err(error),
                }
            }
        })
        .await
    }

    /// One complete backup.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is none of this name; [`Kind::Corrupt`] if its sentinel is damaged.
    pub async fn backup(&self, name: &LegacyName) -> Result<LegacyBackup> {
        let stored = self.store().head(&name.sentinel()).await?.modified;
        self.read_sentinel(name, stored).await
    }

    async fn read_sentinel(&self, name: &LegacyName, stored: Timestamp) -> Result<LegacyBackup> {
        let own = name.clone();
        let mut backup =
            self.read_bare(&name.sentinel(), move |source| LegacyBackup::read(own, source, stored)).await?;
        if backup.writer == Writer::WalE {
            backup.postgres = self.version(name).await?;
        }
        Ok(backup)
    }

    /// The major version of PostgreSQL that WAL-E wrote beside a backup: `PostgreSQL 14.23 on …`.
    async fn version(&self, name: &LegacyName) -> Result<Option<u16>> {
        let read = |source: Source| {
            let mut text = Vec::new();
            source.take(LONGEST_VERSION).read_to_end(&mut text).map_err(error_of)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        match self.read_bare(&name.extended_version(), read).await {
            Ok(text) => Ok(major(&text)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The tar archives of a backup.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn parts(&self, name: &LegacyName) -> Result<Vec<Part>> {
        let prefix = name.parts();
        let mut objects = Vec::new();
        list_all(&**self.store(), ListQuery { prefix: prefix.clone(), ..ListQuery::default() }, |page| {
            let named = page.objects.into_iter();
            objects
                .extend(named.filter_map(|object| Some((object.key.strip_prefix(&prefix)?.to_owned(), object.size))));
        })
        .await?;
        Ok(parts::find(objects))
    }

    /// Tells `reader` of every file of a backup, and gives it back; `false` if the backup has no list of them.
    ///
    /// # Errors
    /// [`Kind::Incomplete`] if it must have one and it is not there; [`Kind::Corrupt`] if it is damaged.
    pub async fn files<R: Reader + Send + 'static>(&self, backup: &LegacyBackup, mut reader: R) -> Result<(R, bool)> {
        let key = match backup.listing {
            Listing::None => return Ok((reader, false)),
            Listing::Inline => backup.name.sentinel(),
            Listing::Required | Listing::Perhaps => backup.name.files_metadata(),
        };
        // Asked for first, so that the reader is not lost with an answer that may be expected.
        match self.store().head(&key).await {
            Ok(_) => {}
            Err(error) if error.kind() == Kind::NotFound && backup.listing == Listing::Perhaps => {
                return Ok((reader, false));
            }
            Err(error) if error.kind() == Kind::NotFound => {
                return Err(Error::new(Kind::Incomplete, format!("backup {} lacks its list of files", backup.name))
                    .detail(format!("{} does not exist", self.store().url(&key))));
            }
            Err(error) => return Err(error),
        }
        let read = move |source: Source| metadata::read(source, &mut reader).map(|()| reader);
        self.read_bare(&key, read).await.map(|reader| (reader, true))
    }

    /// Reads an object that is neither compressed nor encrypted.
    async fn read_bare<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce(Source) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (feed, pieces) = source::of(self.store().get(key, None).await?);
        let work = pipeline::blocking(move || work(BufReader::with_capacity(BUFFERED, pieces)));
        let ((), outcome) = tokio::join!(feed, work);
        outcome.during(|| format!("could not read {}", self.store().url(key)))
    }
}

type Source = BufReader<Pieces>;

/// Bytes that are taken from a download at once: the JSON reader asks for single ones.
const BUFFERED: usize = 64 << 10;

/// No server says more of its version.
const LONGEST_VERSION: u64 = 4096;

fn major(version: &str) -> Option<u16> {
    let number = version.strip_prefix("PostgreSQL ")?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_first_number() {
        assert_eq!(major("PostgreSQL 14.23 on x86_64-pc-linux-gnu, compiled by gcc"), Some(14));
        assert_eq!(major("PostgreSQL 16beta1 on x"), Some(16));
        assert_eq!(major("PostgreSQL 9.6.24 on x"), Some(9));
        assert_eq!(major("EnterpriseDB 14"), None);
    }
}
