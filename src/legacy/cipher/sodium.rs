//! libsodium's secretstream (XChaCha20-Poly1305) as WAL-G cuts it: a header of 24 bytes, then chunks of 8192 plain bytes,
//! the last of which is shorter, perhaps empty, and marked as the last.

use std::fmt;
use std::io::{self, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crypto_secretstream::{Header, Key, PullStream, Stream, Tag};

use crate::config::value::KeyTransform;
use crate::crypt::Zeroizing;
use crate::error::{Error, Kind, Result};
use crate::legacy::codec::carrying;

/// Plain bytes of a chunk, as WAL-G has it (`chunkSize`).
const CHUNK: usize = 8192;

/// The shortest key that WAL-G takes as it is (`minimalKeyLength`): what is missing to 32 bytes is zeros.
const SHORTEST: usize = 25;

/// A key of 32 bytes. Not shown by its [`fmt::Debug`], and wiped when it is dropped.
#[derive(Clone)]
pub struct SodiumKey(Zeroizing<[u8; Key::BYTES]>);

impl fmt::Debug for SodiumKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SodiumKey")
    }
}

impl SodiumKey {
    /// Reads what WAL-G would take for a key; blanks and newlines around it are no part of it.
    ///
    /// # Errors
    /// [`Kind::Config`], which never quotes it.
    pub fn read(text: &[u8], transform: KeyTransform) -> Result<SodiumKey> {
        let text = text.trim_ascii();
        let bytes = match transform {
            KeyTransform::None if text.len() < SHORTEST => {
                return Err(unusable(format!("it has {} bytes, and at least {SHORTEST} are needed", text.len())));
            }
            KeyTransform::None => {
                let mut bytes = vec![0; Key::BYTES];
                let given = text.len().min(Key::BYTES);
                bytes[..given].copy_from_slice(&text[..given]);
                Some(bytes)
            }
            KeyTransform::Hex => hexadecimal(text),
            KeyTransform::Base64 => STANDARD.decode(text).ok(),
        };
        let Some(bytes) = bytes.map(Zeroizing::new) else {
            return Err(unusable(format!("it is not {}", word(transform))));
        };
        <[u8; Key::BYTES]>::try_from(&bytes[..]).map(Zeroizing::new).map(SodiumKey).map_err(|_| {
            let known = match transform {
                KeyTransform::None => String::new(),
                _ => format!(" once it is read as {}", word(transform)),
            };
            unusable(format!("it has {} bytes{known}, and must have {}", bytes.len(), Key::BYTES))
        })
    }

    /// Decrypts a stream.
    pub(super) fn decrypt<R: Read>(&self, source: R) -> SecretStream<R> {
        SecretStream { source, key: self.clone(), stream: None, chunk: Vec::new(), taken: 0, ended: false }
    }
}

fn word(transform: KeyTransform) -> &'static str {
    match transform {
        KeyTransform::None => "plain text",
        KeyTransform::Hex => "hexadecimal",
        KeyTransform::Base64 => "Base64",
    }
}

fn hexadecimal(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pairs = text.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?));
    pairs.collect()
}

fn unusable(detail: String) -> Error {
    Error::new(Kind::Config, "the key of libsodium cannot be used").detail(detail).hint(
        "Correct WALDEN_LEGACY_LIBSODIUM_KEY_FILE and WALDEN_LEGACY_LIBSODIUM_KEY_TRANSFORM, or WAL-G's names for them.",
    )
}

/// A stream that is being decrypted.
pub(super) struct SecretStream<R> {
    source: R,
    key: SodiumKey,
    /// `None` before the header has been read.
    stream: Option<PullStream>,
    chunk: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl<R: Read> Read for SecretStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.chunk.len() && !self.ended {
            self.next_chunk()?;
        }
        let count = buffer.len().min(self.chunk.len() - self.taken);
        buffer[..count].copy_from_slice(&self.chunk[self.taken..][..count]);
        self.taken += count;
        Ok(count)
    }
}

impl<R: Read> SecretStream<R> {
    fn next_chunk(&mut self) -> io::Result<()> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let mut header = Vec::new();
                self.source.by_ref().take(Header::BYTES as u64).read_to_end(&mut header)?;
                let header = Header::try_from(&header[..]).map_err(|_| ended_early())?;
                none.insert(PullStream::init(header, &Key::from(*self.key.0)))
            }
        };
        let longest = (CHUNK + Stream::ABYTES) as u64;
        (self.chunk, self.taken) = (Vec::with_capacity(longest as usize), 0);
        self.source.by_ref().take(longest).read_to_end(&mut self.chunk)?;
        if self.chunk.is_empty() {
            return Err(ended_early());
        }
        let whole = self.chunk.len() as u64 == longest;
        let tag = stream.pull(&mut self.chunk, &[]).map_err(|_| match whole {
            true => undecryptable("the key is another one, it was not encrypted at all, or it is damaged"),
            false => undecryptable("the key is another one, it was not encrypted at all, or it is damaged or cut"),
        })?;
        self.ended = tag == Tag::Final;
        match self.ended && self.source.read(&mut [0])? > 0 {
            true => Err(undecryptable("something follows its end")),
            false => Ok(()),
        }
    }
}

fn ended_early() -> io::Error {
    undecryptable("it ends early")
}

fn undecryptable(detail: &str) -> io::Error {
    carrying(Error::new(Kind::Corrupt, "the object cannot be decrypted with the key of libsodium").detail(detail))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::legacy::codec::error_of;
    use crypto_secretstream::PushStream;
    use crypto_secretstream::aead::rand_core::OsRng;
    use proptest::prelude::*;

    /// As WAL-G writes it.
    pub(crate) fn encrypt(plain: &[u8], key: &SodiumKey) -> Vec<u8> {
        let (header, mut stream) = PushStream::init(OsRng, &Key::from(*key.0));
        let mut stored = header.as_ref().to_vec();
        let whole = plain.chunks_exact(CHUNK);
        let rest = whole.remainder().to_vec();
        for (chunk, tag) in whole.map(|chunk| (chunk.to_vec(), Tag::Message)).chain([(rest, Tag::Final)]) {
            let mut chunk = chunk;
            stream.push(&mut chunk, &[], tag).unwrap();
            stored.extend(chunk);
        }
        stored
    }

    fn decrypt(stored: &[u8], key: &SodiumKey) -> Result<Vec<u8>> {
        let mut plain = Vec::new();
        key.decrypt(stored).read_to_end(&mut plain).map_err(error_of)?;
        Ok(plain)
    }

    fn key() -> SodiumKey {
        SodiumKey::read(b"TEST_LIBSODIUM_KEY_______", KeyTransform::None).unwrap()
    }

    fn any_plain() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![0..40_000usize, Just(CHUNK), Just(2 * CHUNK), Just(CHUNK - 1)].prop_map(|size| vec![7; size])
    }

    proptest! {
        #[test]
        fn what_was_encrypted_comes_back_and_nothing_of_it_is_stored(plain in any_plain()) {
            let stored = encrypt(&plain, &key());
            prop_assert!(decrypt(&stored, &key()).unwrap() == plain);
            prop_assert!(!stored.windows(16).any(|window| window == [7; 16]));
        }

        #[test]
        fn what_is_cut_changed_or_lengthened_is_corrupt(plain in any_plain(), at: prop::sample::Index, bit in 0u8..8) {
            let mut stored = encrypt(&plain, &key());
            let at = at.index(stored.len());
            let mut longer = stored.clone();
            longer.push(0);
            for damaged in [&stored[..at], &longer] {
                prop_assert_eq!(decrypt(damaged, &key()).unwrap_err().kind(), Kind::Corrupt);
            }
            stored[at] ^= 1 << bit;
            prop_assert_eq!(decrypt(&stored, &key()).unwrap_err().kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn a_stream_that_was_cut_between_two_chunks_is_not_whole() {
        let stored = encrypt(&[7; 3 * CHUNK], &key());
        let cut = Header::BYTES + 2 * (CHUNK + Stream::ABYTES);
        assert_eq!(decrypt(&stored[..cut], &key()).unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn keys_are_read_as_wal_g_reads_them() {
        let text = "TEST_LIBSODIUM_KEY_______";
        let mut padded = [0; 32];
        padded[..text.len()].copy_from_slice(text.as_bytes());
        assert_eq!(SodiumKey::read(format!(" {text}\n").as_bytes(), KeyTransform::None).unwrap().0[..], padded);
        let long = SodiumKey::read(&[b'k'; 40], KeyTransform::None).unwrap();
        assert_eq!(long.0[..], [b'k'; 32]);
        let hex: String = long.0.iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(SodiumKey::read(hex.as_bytes(), KeyTransform::Hex).unwrap().0, long.0);
        assert_eq!(SodiumKey::read(STANDARD.encode(&long.0[..]).as_bytes(), KeyTransform::Base64).unwrap().0, long.0);
    }

    #[test]
    fn a_key_that_is_too_short_or_written_otherwise_is_refused_and_not_quoted() {
        for (text, transform, part) in [
            ("hunter2", KeyTransform::None, "7 bytes"),
            ("abcdef", KeyTransform::Hex, "3 bytes once it is read as hexadecimal"),
            ("abcde", KeyTransform::Hex, "not hexadecimal"),
            ("hunter2hunter2", KeyTransform::Hex, "not hexadecimal"),
            ("aHVudGVyMg==", KeyTransform::Base64, "7 bytes"),
            ("hunter2!", KeyTransform::Base64, "not Base64"),
        ] {
            let error = SodiumKey::read(text.as_bytes(), transform).unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.cause().unwrap().contains(part), "{error:?}");
            assert!(!format!("{error:?}").contains("hunter"), "{error:?}");
        }
    }
}
