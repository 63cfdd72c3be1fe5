//! From an object to the plain file.

use std::io::{self, Write};

use super::encode::Digesting;
use super::header::{self, Encryption, Header};
use crate::crypt::Identity;
use crate::crypt::open::Opener;
use crate::error::{Error, Kind, Result};
use crate::layout::DataKeyName;

/// The largest window that a frame may ask for, as a power of two: what zstd's own levels use without `--long`.
const WINDOW_LOG_MAX: u32 = 27;

/// Takes an object's bytes as they come and writes the plain file to `W`. What was written counts only once
/// [`Decoder::finish`] has returned `Ok`: the digests cover the whole.
pub struct Decoder<W: Write> {
    state: State<W>,
}

enum State<W: Write> {
    Header {
        seen: Vec<u8>,
        sink: W,
    },
    /// The payload is encrypted, and its key has not come yet; of it, these bytes have.
    Locked {
        header: Box<Header>,
        rest: Vec<u8>,
        sink: W,
    },
    Payload(Box<Payload<W>>),
    Failed,
}

struct Payload<W: Write> {
    header: Header,
    stored: blake3::Hasher,
    stored_size: u64,
    content: Content<W>,
}

/// From frames to the sink, with the digest of what goes there.
type Decompressor<W> = Box<zstd::stream::write::Decoder<'static, Digesting<Limited<W>>>>;

/// What becomes of a payload's bytes.
enum Content<W: Write> {
    /// They are decrypted, if they are encrypted, and decompressed.
    Read(Option<Opener>, Decompressor<W>),
    /// Nothing but their own digest.
    Unread(W),
}

impl<W: Write> Decoder<W> {
    /// A decoder that writes to `sink`.
    pub fn new(sink: W) -> Decoder<W> {
        Decoder { state: State::Header { seen: Vec::new(), sink } }
    }

    /// The header, once it has come.
    pub fn header(&self) -> Option<&Header> {
        match &self.state {
            State::Locked { header, .. } => Some(header),
            State::Payload(payload) => Some(&payload.header),
            State::Header { .. } | State::Failed => None,
        }
    }

    /// The data key that the decoder waits for: [`Decoder::unlock`] has to come before more bytes.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if the header names none.
    pub fn locked(&self) -> Result<Option<DataKeyName>> {
        match &self.state {
            State::Locked { header, .. } => match &header.key {
                Some(key) => Ok(Some(key.clone())),
                None => Err(damaged("its header does not name the key that it is encrypted for")),
            },
            _ => Ok(None),
        }
    }

    /// Hands over the key that [`Decoder::locked`] asks for.
    ///
    /// # Errors
    /// As [`Decoder::feed`].
    pub fn unlock(&mut self, identity: &Identity) -> Result<()> {
        self.go_on(|header, sink| Ok(Content::Read(Some(Opener::new(identity)), decompress(header, sink)?)))
    }

    /// Goes on without the key: nothing is written to the sink, and the digest of the payload alone is checked.
    ///
    /// # Errors
    /// As [`Decoder::feed`].
    pub fn leave_locked(&mut self) -> Result<()> {
        self.go_on(|_, sink| Ok(Content::Unread(sink)))
    }

    fn go_on(&mut self, content: impl FnOnce(&Header, W) -> Result<Content<W>>) -> Result<()> {
        self.state = match std::mem::replace(&mut self.state, State::Failed) {
            State::Locked { header, rest, sink } => {
                let content = content(&header, sink)?;
                let mut payload = Box::new(Payload::new(*header, content));
                payload.feed(&rest)?;
                State::Payload(payload)
            }
            other => other,
        };
        Ok(())
    }

    /// Takes the next bytes of the object.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] as soon as the damage shows, [`Kind::Refused`] for a newer format, [`Kind::Local`] if the sink
    /// fails. The decoder is of no use afterwards.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Header { mut seen, sink } => {
                seen.extend_from_slice(bytes);
                self.state = match header::parse(&seen)? {
                    None => State::Header { seen, sink },
                    Some((header, length)) if header.encryption == Encryption::Age => {
                        State::Locked { header: Box::new(header), rest: seen.split_off(length), sink }
                    }
                    Some((header, length)) => {
                        let content = Content::Read(None, decompress(&header, sink)?);
                        let mut payload = Box::new(Payload::new(header, content));
                        payload.feed(&seen[length..])?;
                        State::Payload(payload)
                    }
                };
                Ok(())
            }
            State::Locked { .. } => Err(Error::new(Kind::Bug, "the payload's key was not asked for")),
            State::Payload(mut payload) => {
                payload.feed(bytes)?;
                self.state = State::Payload(payload);
                Ok(())
            }
            State::Failed => Err(damaged("an earlier part of it was refused")),
        }
    }

    /// Ends the object: everything is there and every digest is right. Returns the header and the sink.
    ///
    /// # Errors
    /// As [`Decoder::feed`]; also for an object that ends early.
    pub fn finish(self) -> Result<(Header, W)> {
        match self.state {
            State::Payload(payload) => payload.finish(),
            State::Header { seen, .. } => {
                Err(damaged(&format!("it ends after {} bytes, within its header", seen.len())))
            }
            State::Locked { .. } => Err(Error::new(Kind::Bug, "the payload's key was not asked for")),
            State::Failed => Err(damaged("an earlier part of it was refused")),
        }
    }
}

fn decompress<W: Write>(header: &Header, sink: W) -> Result<Decompressor<W>> {
    let limited = Limited { sink, left: header.plain_size };
    // Both fail only for want of memory.
    let unusable = |error: io::Error| Error::new(Kind::Local, "could not set up zstd").detail(error.to_string());
    let mut plain = zstd::stream::write::Decoder::new(Digesting::new(limited)).map_err(unusable)?;
    plain.window_log_max(WINDOW_LOG_MAX).map_err(unusable)?;
    Ok(Box::new(plain))
}

impl<W: Write> Payload<W> {
    fn new(header: Header, content: Content<W>) -> Payload<W> {
        Payload { header, stored: blake3::Hasher::new(), stored_size: 0, content }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        self.stored_size += bytes.len() as u64;
        if self.stored_size > self.header.stored_size {
            return Err(damaged(&format!(
                "its payload is longer than the {} bytes of its header",
                self.header.stored_size
            )));
        }
        self.stored.update(bytes);
        match &mut self.content {
            Content::Read(None, plain) => plain.write_all(bytes).map_err(failed),
            Content::Read(Some(opener), plain) => opener.feed(bytes, plain).map_err(failed),
            Content::Unread(_) => Ok(()),
        }
    }

    fn finish(self) -> Result<(Header, W)> {
        if self.stored_size < self.header.stored_size {
            return Err(damaged(&format!("its payload has {} of {} bytes", self.stored_size, self.header.stored_size)));
        }
        let found = header::Digest(self.stored.finalize());
        if found != self.header.stored_blake3 {
            return Err(damaged(&format!("the digest of its payload is {found}, not {}", self.header.stored_blake3)));
        }
        let mut plain = match self.content {
            Content::Unread(sink) => return Ok((self.header, sink)),
            Content::Read(None, plain) => plain,
            Content::Read(Some(mut opener), mut plain) => {
                opener.finish(&mut plain).map_err(failed)?;
                plain
            }
        };
        plain.flush().map_err(failed)?;
        let plain = plain.into_inner();
        if plain.size != self.header.plain_size {
            return Err(damaged(&format!("it holds {} of {} bytes", plain.size, self.header.plain_size)));
        }
        let found = plain.digest();
        if found != self.header.plain_blake3 {
            return Err(damaged(&format!("the digest of the file is {found}, not {}", self.header.plain_blake3)));
        }
        Ok((self.header, plain.inner.sink))
    }
}

/// Lets no more through than the header announced, and marks the sink's own errors so that they can be told from zstd's.
struct Limited<W> {
    sink: W,
    left: u64,
}

#[derive(Debug)]
struct SinkFailed(io::Error);

impl std::fmt::Display for SinkFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for SinkFailed {}

impl<W: Write> Write for Limited<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it holds more than its header says"));
        }
        let written = self.sink.write(bytes).map_err(|error| io::Error::new(error.kind(), SinkFailed(error)))?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush().map_err(|error| io::Error::new(error.kind(), SinkFailed(error)))
    }
}

fn failed(error: io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<SinkFailed>()) {
        Some(SinkFailed(sink)) => Error::io("could not write the plain file", sink),
        // The words of ZSTD_error_memory_allocation (zstd's error_private.c): its window did not fit, the object may be well.
        None if error.to_string().contains("not enough memory") => {
            Error::new(Kind::Local, "could not decompress").detail(error.to_string())
        }
        None => damaged(&error.to_string()),
    }
}

fn damaged(detail: &str) -> Error {
    Error::new(Kind::Corrupt, "the object is damaged").detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Description, encode};
    use crate::postgres::control::SystemId;
    use crate::storage::Body;
    use proptest::prelude::*;

    fn description() -> Description {
        Description { name: "x".into(), system_id: SystemId(7), timeline: None, segment_size: None, postgres: None }
    }

    /// The one that encrypted objects are encrypted for.
    fn identity() -> &'static Identity {
        static IDENTITY: std::sync::OnceLock<Identity> = std::sync::OnceLock::new();
        IDENTITY.get_or_init(Identity::generate)
    }

    fn object_of(plain: &[u8], encrypted: bool) -> Vec<u8> {
        let recipient = identity().recipient();
        match encode(plain, plain.len() as u64, description(), 1, encrypted.then_some(&recipient)).unwrap().1 {
            Body::Memory(bytes) => bytes.to_vec(),
            Body::File(..) => panic!("small objects stay in memory"),
        }
    }

    fn object(plain: &[u8]) -> Vec<u8> {
        object_of(plain, false)
    }

    fn decode(object: &[u8], chunk: usize) -> Result<Vec<u8>> {
        let mut decoder = Decoder::new(Vec::new());
        for chunk in object.chunks(chunk) {
            decoder.feed(chunk)?;
            if decoder.locked()?.is_some() {
                decoder.unlock(identity())?;
            }
        }
        Ok(decoder.finish()?.1)
    }

    /// What whoever has no key can say of an object.
    fn check(object: &[u8]) -> Result<Header> {
        let mut decoder = Decoder::new(Vec::new());
        for chunk in object.chunks(1000) {
            decoder.feed(chunk)?;
            if decoder.locked()?.is_some() {
                decoder.leave_locked()?;
            }
        }
        let (header, sink) = decoder.finish()?;
        assert!(header.encryption == Encryption::None || sink.is_empty());
        Ok(header)
    }

    fn any_plain() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..5000),
            (any::<u8>(), 0usize..400_000).prop_map(|(b, n)| vec![b; n])
        ]
    }

    proptest! {
        #[test]
        fn decode_undoes_encode_however_it_is_cut(plain in any_plain(), chunk in 1usize..100_000, encrypted: bool) {
            let object = object_of(&plain, encrypted);
            prop_assert_eq!(decode(&object, chunk.max(plain.len() / 1000 + 1)).unwrap(), plain);
        }

        #[test]
        fn without_the_key_it_can_be_told_whether_an_object_is_whole_and_what_it_holds(plain in any_plain(), at: prop::sample::Index) {
            let mut object = object_of(&plain, true);
            let header = check(&object).unwrap();
            prop_assert_eq!((header.plain_size, header.plain_blake3.0), (plain.len() as u64, blake3::hash(&plain)));
            let named = header.key.unwrap().to_string();
            prop_assert_eq!(named, identity().recipient().to_string());
            let at = at.index(object.len());
            object[at] ^= 0x10;
            prop_assert_eq!(check(&object).unwrap_err().kind(), Kind::Corrupt);
        }

        #[test]
        fn a_cut_object_is_corrupt_at_every_length(plain in any_plain(), cut: prop::sample::Index, encrypted: bool) {
            let object = object_of(&plain, encrypted);
            let error = decode(&object[..cut.index(object.len())], 4096).unwrap_err();
            prop_assert_eq!(error.kind(), Kind::Corrupt);
        }

        #[test]
        fn a_changed_bit_is_corrupt_wherever_it_is(plain in any_plain(), at: prop::sample::Index, bit in 0u8..8, encrypted: bool) {
            let mut object = object_of(&plain, encrypted);
            let at = at.index(object.len());
            object[at] ^= 1 << bit;
            prop_assert_eq!(decode(&object, 4096).unwrap_err().kind(), Kind::Corrupt);
        }

        #[test]
        fn a_lengthened_object_is_corrupt(plain in any_plain(), more in 1usize..100, encrypted: bool) {
            let mut object = object_of(&plain, encrypted);
            object.extend(std::iter::repeat_n(0, more));
            prop_assert_eq!(decode(&object, 4096).unwrap_err().kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn an_object_that_is_not_encrypted_for_the_key_that_it_names_is_corrupt() {
        let object = object_of(&[7; 1000], true);
        let mut decoder = Decoder::new(Vec::new());
        decoder.feed(&object).unwrap();
        let error = decoder.unlock(&Identity::generate()).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().contains("not encrypted for the key that it names"), "{error:?}");
    }

    #[test]
    fn a_full_disk_is_not_taken_for_damage() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut decoder = Decoder::new(Full);
        let error = decoder.feed(&object(&[1; 300_000])).and_then(|()| decoder.finish().map(drop)).unwrap_err();
        assert_eq!(error.kind(), Kind::Local);
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_not_stored() {
        for size in [9, 11] {
            assert_eq!(encode(&[1u8; 10][..], size, description(), 1, None).unwrap_err().kind(), Kind::Local);
        }
    }
}
