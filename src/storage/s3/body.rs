//! Bodies of puts: sent again from their beginning, with their digests.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use aws_sdk_s3::primitives::{ByteStream, Length};

use super::S3Store;
use super::checksum::Cover;
use super::signing::PayloadSigning;
use crate::error::{Context, Error, Kind, Result};
use crate::storage::Body;

/// A put that can be tried several times.
pub(super) struct Write {
    pub body: Body,
    /// What the store is to verify it with.
    pub cover: Cover,
    pub signing: PayloadSigning,
}

impl Write {
    pub async fn prepare(store: &S3Store, body: &Body) -> Result<Write> {
        let cover = store.checksums.cover(body).await?;
        Ok(Write { body: body.clone(), cover, signing: PayloadSigning::prepare(body).await? })
    }

    /// The same for a store that does not take the CRC-32C.
    pub async fn covered_by_md5(&self) -> Result<Write> {
        let cover = Cover::md5(&self.body).await?;
        Ok(Write { body: self.body.clone(), cover, signing: self.signing.clone() })
    }
}

/// For [`digest`].
pub(super) fn hashed(mut hasher: blake3::Hasher, bytes: &[u8]) -> blake3::Hasher {
    hasher.update(bytes);
    hasher
}

/// The body of one try.
pub(super) async fn stream(body: &Body) -> Result<ByteStream> {
    match body {
        Body::Memory(bytes) => Ok(ByteStream::from(bytes.clone())),
        Body::File(file, size) => {
            let what = || "could not read a spooled object";
            let mut file: File = file.try_clone().during(what)?;
            file.seek(SeekFrom::Start(0)).during(what)?;
            ByteStream::read_from()
                .file(tokio::fs::File::from_std(file))
                .length(Length::Exact(*size))
                .buffer_size(1 << 18)
                .build()
                .await
                .map_err(|error| Error::new(Kind::Local, what()).detail(error.to_string()))
        }
    }
}

/// Folds the body's bytes; a file is read on a thread where blocking is fine.
pub(super) async fn digest<D: Send + 'static>(
    body: Body,
    start: D,
    update: impl Fn(D, &[u8]) -> D + Send + 'static,
) -> Result<D> {
    let file = match body {
        Body::Memory(bytes) => return Ok(update(start, &bytes)),
        Body::File(file, _) => file,
    };
    let read = move || {
        let mut reader: &File = &file;
        reader.seek(SeekFrom::Start(0))?;
        let (mut digest, mut buffer) = (start, vec![0; 1 << 18]);
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok::<D, std::io::Error>(digest),
                size => digest = update(digest, &buffer[..size]),
            }
        }
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(result) => result.during(|| "could not read a spooled object"),
        Err(lost) => Err(Error::new(Kind::Bug, "a reading thread ended early").detail(lost.to_string())),
    }
}
