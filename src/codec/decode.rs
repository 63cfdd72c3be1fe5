//! From an object to the plain file.

use std::io::{self, Write};

use super::encode::Digesting;
use super::header::{self, Header};
use crate::error::{Error, Kind, Result};

/// The largest window that a frame may ask for, as a power of two: what zstd's own levels use without `--long`.
const WINDOW_LOG_MAX: u32 = 27;

/// Takes an object's bytes as they come and writes the plain file to `W`. What was written counts only once
/// [`Decoder::finish`] has returned `Ok`: the digests cover the whole.
pub struct Decoder<W: Write> {
    state: State<W>,
}

enum State<W: Write> {
    Header { seen: Vec<u8>, sink: W },
    Payload(Box<Payload<W>>),
    Failed,
}

struct Payload<W: Write> {
    header: Header,
    stored: blake3::Hasher,
    stored_size: u64,
    plain: zstd::stream::write::Decoder<'static, Digesting<Limited<W>>>,
}

impl<W: Write> Decoder<W> {
    /// A decoder that writes to `sink`.
    pub fn new(sink: W) -> Decoder<W> {
        Decoder { state: State::Header { seen: Vec::new(), sink } }
    }

    /// The header, once it has come.
    pub fn header(&self) -> Option<&Header> {
        match &self.state {
            State::Payload(payload) => Some(&payload.header),
            _ => None,
        }
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
                    Some((header, length)) => {
                        let mut payload = Box::new(Payload::new(header, sink)?);
                        payload.feed(&seen[length..])?;
                        State::Payload(payload)
                    }
                };
                Ok(())
            }
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
            State::Failed => Err(damaged("an earlier part of it was refused")),
        }
    }
}

impl<W: Write> Payload<W> {
    fn new(header: Header, sink: W) -> Result<Payload<W>> {
        let limited = Limited { sink, left: header.plain_size };
        // Both fail only for want of memory.
        let unusable = |error: io::Error| Error::new(Kind::Local, "could not set up zstd").detail(error.to_string());
        let mut plain = zstd::stream::write::Decoder::new(Digesting::new(limited)).map_err(unusable)?;
        plain.window_log_max(WINDOW_LOG_MAX).map_err(unusable)?;
        Ok(Payload { header, stored: blake3::Hasher::new(), stored_size: 0, plain })
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
        self.plain.write_all(bytes).map_err(failed)
    }

    fn finish(mut self) -> Result<(Header, W)> {
        if self.stored_size < self.header.stored_size {
            return Err(damaged(&format!("its payload has {} of {} bytes", self.stored_size, self.header.stored_size)));
        }
        let found = header::Digest(self.stored.finalize());
        if found != self.header.stored_blake3 {
            return Err(damaged(&format!("the digest of its payload is {found}, not {}", self.header.stored_blake3)));
        }
        self.plain.flush().map_err(failed)?;
        let plain = self.plain.into_inner();
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

    fn object(plain: &[u8]) -> Vec<u8> {
        match encode(plain, plain.len() as u64, description(), 1).unwrap().1 {
            Body::Memory(bytes) => bytes.to_vec(),
            Body::File(..) => panic!("small objects stay in memory"),
        }
    }

    fn decode(object: &[u8], chunk: usize) -> Result<Vec<u8>> {
        let mut decoder = Decoder::new(Vec::new());
        for chunk in object.chunks(chunk) {
            decoder.feed(chunk)?;
        }
        Ok(decoder.finish()?.1)
    }

    fn any_plain() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..5000),
            (any::<u8>(), 0usize..400_000).prop_map(|(b, n)| vec![b; n])
        ]
    }

    proptest! {
        #[test]
        fn decode_undoes_encode_however_it_is_cut(plain in any_plain(), chunk in 1usize..100_000) {
            prop_assert_eq!(decode(&object(&plain), chunk.max(plain.len() / 1000 + 1)).unwrap(), plain);
        }

        #[test]
        fn a_cut_object_is_corrupt_at_every_length(plain in any_plain(), cut: prop::sample::Index) {
            let object = object(&plain);
            let error = decode(&object[..cut.index(object.len())], 4096).unwrap_err();
            prop_assert_eq!(error.kind(), Kind::Corrupt);
        }

        #[test]
        fn a_changed_bit_is_corrupt_wherever_it_is(plain in any_plain(), at: prop::sample::Index, bit in 0u8..8) {
            let mut object = object(&plain);
            let at = at.index(object.len());
            object[at] ^= 1 << bit;
            prop_assert_eq!(decode(&object, 4096).unwrap_err().kind(), Kind::Corrupt);
        }

        #[test]
        fn a_lengthened_object_is_corrupt(plain in any_plain(), more in 1usize..100) {
            let mut object = object(&plain);
            object.extend(std::iter::repeat_n(0, more));
            prop_assert_eq!(decode(&object, 4096).unwrap_err().kind(), Kind::Corrupt);
        }
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
            assert_eq!(encode(&[1u8; 10][..], size, description(), 1).unwrap_err().kind(), Kind::Local);
        }
    }
}
