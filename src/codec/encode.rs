//! From a plain file to an object.

use std::io::{Read, Seek, SeekFrom, Write};

use tempfile::{SpooledData, SpooledTempFile};

use super::header::{self, Codec, Description, Digest, Encryption, Header};
use crate::error::{Context, Error, Kind, Result};
use crate::layout::FORMAT;
use crate::storage::Body;

/// An object that grows beyond this many bytes goes on in an unnamed temporary file (in `TMPDIR`) instead of in memory: so
/// the segments of ordinary clusters never touch a disk, and the largest cost no more memory than this.
pub const SPOOL_THRESHOLD: usize = 32 << 20;

const CHUNK_SIZE: usize = 256 << 10;

/// Makes the object of a plain file of exactly `size` bytes, in one pass over it.
///
/// # Errors
/// [`Kind::Local`] if the file cannot be read or has another length by now.
pub fn encode(mut source: impl Read, size: u64, file: Description, level: i32) -> Result<(Header, Body)> {
    let nothing = Digest(blake3::hash(b""));
    let mut header = Header {
        format: FORMAT,
        walden: env!("CARGO_PKG_VERSION").to_owned(),
        file,
        codec: Codec::Zstd,
        encryption: Encryption::None,
        plain_size: size,
        plain_blake3: nothing,
        stored_size: u64::MAX,
        stored_blake3: nothing,
    };
    // The header comes first but is known last: its place is kept with the longest numbers that it can have.
    let place = header::build(&header, None)?;
    let mut object = SpooledTempFile::new(SPOOL_THRESHOLD);
    object.write_all(&place).during(spooling)?;

    let name = header.file.name.clone();
    let mut payload = Digesting::new(object);
    header.plain_blake3 = compress(&mut source, size, &name, &mut payload, level)?;
    (header.stored_size, header.stored_blake3) = (payload.size, payload.digest());

    let mut object = payload.inner;
    object.seek(SeekFrom::Start(0)).during(spooling)?;
    object.write_all(&header::build(&header, Some(place.len()))?).during(spooling)?;
    let total = place.len() as u64 + header.stored_size;
    let body = match object.into_inner() {
        SpooledData::InMemory(cursor) => Body::Memory(cursor.into_inner().into()),
        SpooledData::OnDisk(file) => Body::File(file.into(), total),
    };
    Ok((header, body))
}

fn compress(source: &mut impl Read, size: u64, name: &str, payload: &mut impl Write, level: i32) -> Result<Digest> {
    let mut encoder = zstd::stream::write::Encoder::new(payload, level).during(spooling)?;
    encoder.include_checksum(true).and_then(|()| encoder.set_pledged_src_size(Some(size))).during(spooling)?;
    let mut plain = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK_SIZE];
    let mut left = size;
    loop {
        let read = source.read(&mut buffer).during(|| format!("could not read \"{name}\""))?;
        if read == 0 && left == 0 {
            break;
        }
        if read == 0 || read as u64 > left {
            return Err(Error::new(Kind::Local, format!("\"{name}\" changed while it was read"))
                .detail(format!("it had {size} bytes when it was opened")));
        }
        left -= read as u64;
        plain.update(&buffer[..read]);
        encoder.write_all(&buffer[..read]).during(spooling)?;
    }
    encoder.finish().during(spooling)?;
    Ok(Digest(plain.finalize()))
}

fn spooling() -> &'static str {
    "could not compress into memory or a temporary file"
}

/// Counts and digests what is written through it.
pub(super) struct Digesting<W> {
    pub(super) inner: W,
    pub(super) size: u64,
    hasher: blake3::Hasher,
}

impl<W> Digesting<W> {
    pub(super) fn new(inner: W) -> Digesting<W> {
        Digesting { inner, size: 0, hasher: blake3::Hasher::new() }
    }

    pub(super) fn digest(&self) -> Digest {
        Digest(self.hasher.finalize())
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
