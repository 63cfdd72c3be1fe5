//! The door to parts of base backups: a range of the frames in one, whether it is encrypted or not.

use std::ops::Range;

use super::Archive;
use crate::backup::manifest::{AgeFile, Part};
use crate::crypt::open::Opener;
use crate::crypt::size;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::{BackupId, Key};
use crate::postgres::control::SystemId;
use crate::storage::Download;

/// What has to be known of a part to read from it.
#[derive(Clone, Debug)]
pub struct StoredPart {
    system: SystemId,
    key: Key,
    /// Bytes of the object.
    size: u64,
    age: Option<Box<AgeFile>>,
}

impl StoredPart {
    /// A part of this backup.
    pub fn of(system: SystemId, id: BackupId, part: &Part) -> StoredPart {
        StoredPart { system, key: Key::Part(system, id, part.name()), size: part.stored_size(), age: part.age.clone() }
    }

    /// The object's key.
    pub fn key(&self) -> &Key {
        &self.key
    }
}

impl Archive {
    /// Opens these bytes of the frames of a part, which are some. Of an encrypted one, the chunks are fetched that hold
    /// them, and nothing else: its head is in the manifest.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if the object has not the size that it should have; those of [`Archive::identity`].
    pub async fn open_part(&self, part: &StoredPart, frames: Range<u64>) -> Result<PartReader> {
        let url = self.url(&part.key);
        let what = || format!("could not read {url}");
        let (range, opener) = match &part.age {
            None => (frames.clone(), None),
            Some(age) => {
                let identity = self.identity(part.system, &age.key).await.during(what)?;
                let opener = Opener::within(&age.head, &identity, frames.start)
                    .map_err(|error| damaged(&url, &error.to_string()))?;
                (size::chunks(age.head.len() as u64, part.size, frames.clone()), Some(opener))
            }
        };
        let whole = range == (0..part.size);
        let download = self.store().get(&part.key.to_string(), (!whole).then_some(range)).await?;
        if download.object_size != part.size {
            return Err(Error::new(Kind::Corrupt, format!("{url} has the wrong size"))
                .detail(format!("it has {} bytes, not {}", download.object_size, part.size)));
        }
        Ok(PartReader { download, opener, url })
    }
}

/// Frames on their way out of a part.
pub struct PartReader {
    download: Download,
    opener: Option<Opener>,
    url: String,
}

/// So many bytes are decrypted at once.
const AT_ONCE: usize = 64 << 10;

impl PartReader {
    /// Adds to `buffer` until it has `size` bytes, and perhaps some of what follows.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if there are not so many, or if they were changed.
    pub async fn fill(&mut self, buffer: &mut Vec<u8>, size: usize) -> Result<()> {
        let Some(opener) = &mut self.opener else { return self.download.fill(buffer, size).await };
        while buffer.len() < size {
            let held = buffer.len();
            buffer.resize(held + AT_ONCE, 0);
            let pulled = opener.pull(&mut buffer[held..]);
            buffer.truncate(held + pulled.as_ref().map_or(0, |pulled| pulled.unwrap_or(0)));
            match pulled.map_err(|error| damaged(&self.url, &error.to_string()))? {
                Some(0) => return Err(Error::new(Kind::Corrupt, "the part is too short")),
                Some(_) => {}
                None => match self.download.next().await? {
                    Some(chunk) => opener.push(&chunk).map_err(|error| damaged(&self.url, &error.to_string()))?,
                    None => opener.end(),
                },
            }
        }
        Ok(())
    }
}

fn damaged(url: &str, detail: &str) -> Error {
    Error::new(Kind::Corrupt, format!("{url} is damaged")).detail(detail)
}
