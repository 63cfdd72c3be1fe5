//! Bytes out of an age file, whole or from the middle, as they come.
//!
//! age's reader pulls, and a download is pushed: between the two lies a queue that says "not yet" where it is empty. The
//! reader keeps what it has of a chunk until the rest comes (`StreamReader::read` in age's src/primitives/stream.rs).

use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use age::Decryptor;
use age::stream::StreamReader;

use super::Identity;
use super::size::{CHUNK, TAG};

/// Where the head of any age file ends that walden reads: those of many recipients are longer than its own.
const LONGEST_HEAD: usize = 64 << 10;

/// What every age file begins with.
const BEGINNING: &[u8] = b"age-encryption.org/v1\n";

/// What the last line of the head begins with (the age specification, "Header"); no other line does: a stanza begins with
/// `->`, and its body is Base64.
const LAST_LINE: &[u8] = b"\n---";

/// Random bytes between the head's lines and the first chunk.
const NONCE: usize = 16;

/// How long the head of this age file is, the nonce included: all that comes before the first chunk. `None` while more of it
/// is needed.
///
/// # Errors
/// `InvalidData` for what does not begin like an age file.
pub fn head_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    let seen = bytes.len().min(BEGINNING.len());
    if bytes[..seen] != BEGINNING[..seen] {
        return Err(damaged("it does not begin like an age file"));
    }
    let longest = &bytes[..bytes.len().min(LONGEST_HEAD)];
    let last = longest.windows(LAST_LINE.len()).position(|window| window == LAST_LINE).map(|at| at + 1);
    let end = last.and_then(|last| Some(last + longest[last..].iter().position(|&byte| byte == b'\n')? + 1 + NONCE));
    match end {
        Some(end) if end <= bytes.len() => Ok(Some(end)),
        None if bytes.len() >= LONGEST_HEAD => Err(damaged("the head of the age file does not end")),
        _ => Ok(None),
    }
}

/// How many recipients of the kind X25519 the head names; who they are it does not tell.
pub fn count_recipients(head: &[u8]) -> usize {
    head.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"-> X25519 ")).count()
}

/// Decrypts an age file whose bytes are pushed.
pub struct Opener {
    state: State,
    queue: Queue,
}

enum State {
    /// The head has not come yet.
    Head(Vec<u8>, Identity),
    /// `from`: so many plain bytes are still to be left out, for which the first chunk must have come.
    Body { reader: Box<StreamReader<Queue>>, from: Option<u64> },
}

impl Opener {
    /// For a whole age file.
    pub fn new(identity: &Identity) -> Opener {
        Opener { state: State::Head(Vec::new(), identity.clone()), queue: Queue::default() }
    }

    /// For what lies in an age file with this head from `from` plain bytes on. What is pushed has to begin with the chunk
    /// that holds them: see [`super::size::chunks`].
    ///
    /// # Errors
    /// `InvalidData` if it is no head, or not for this identity.
    pub fn within(head: &[u8], identity: &Identity, from: u64) -> io::Result<Opener> {
        let queue = Queue::default();
        if head_length(head)? != Some(head.len()) {
            return Err(damaged("the head of the age file is cut"));
        }
        queue.push(head);
        let reader = Box::new(begin(&queue, identity)?);
        Ok(Opener { state: State::Body { reader, from: Some(from) }, queue })
    }

    /// Takes more of the file. Whoever pushes pieces and pulls all in between holds little memory.
    ///
    /// # Errors
    /// As soon as it shows that this is no age file, or not for this identity.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        let State::Head(seen, identity) = &mut self.state else {
            self.queue.push(bytes);
            return Ok(());
        };
        seen.extend_from_slice(bytes);
        if head_length(seen)?.is_some() {
            self.queue.push(seen);
            self.state = State::Body { reader: Box::new(begin(&self.queue, identity)?), from: None };
        }
        Ok(())
    }

    /// Nothing more will be pushed.
    pub fn end(&mut self) {
        self.queue.lock().ended = true;
    }

    /// Decrypts into `buffer`; `None` if that takes more of the file, `Some(0)` at its end.
    ///
    /// # Errors
    /// `InvalidData` or `UnexpectedEof` for what was changed or cut.
    pub fn pull(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let (left, ended) = {
            let waiting = self.queue.lock();
            (waiting.left(), waiting.ended)
        };
        let State::Body { reader, from } = &mut self.state else {
            return if ended { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(None) };
        };
        if from.is_some() && (left as u64) < CHUNK + TAG && !ended {
            return Ok(None);
        }
        if let Some(from) = from.take() {
            leave_out(reader, from)?;
        }
        match reader.read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    /// Takes more of the file and writes all that it gives to `sink`.
    ///
    /// # Errors
    /// Those of [`Opener::push`] and [`Opener::pull`], and the sink's.
    pub fn feed(&mut self, bytes: &[u8], sink: &mut impl Write) -> io::Result<()> {
        for piece in bytes.chunks(CHUNK as usize) {
            self.push(piece)?;
            self.drain(sink)?;
        }
        Ok(())
    }

    /// Ends the file and writes the rest of it to `sink`.
    ///
    /// # Errors
    /// Those of [`Opener::feed`]; also for a file that ends too early.
    pub fn finish(&mut self, sink: &mut impl Write) -> io::Result<()> {
        self.end();
        self.drain(sink)
    }

    fn drain(&mut self, sink: &mut impl Write) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.pull(&mut buffer)? {
                None | Some(0) => return Ok(()),
                Some(read) => sink.write_all(&buffer[..read])?,
            }
        }
    }
}

/// Decrypts an age file of a few bytes; `None` if it is for none of these.
///
/// # Errors
/// For what was changed or cut, and if it holds more than `longest` bytes.
pub fn open(
    sealed: &[u8],
    identities: &[Identity],
    longest: usize,
) -> io::Result<Option<age::secrecy::SecretSlice<u8>>> {
    let decryptor = Decryptor::new(sealed).map_err(unreadable)?;
    let identities = identities.iter().map(|identity| &identity.0 as &dyn age::Identity);
    let reader = match decryptor.decrypt(identities) {
        Ok(reader) => reader,
        Err(age::DecryptError::NoMatchingKeys) => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let mut plain = age::secrecy::zeroize::Zeroizing::new(Vec::with_capacity(longest + 1));
    reader.take(longest as u64 + 1).read_to_end(&mut plain)?;
    match plain.len() <= longest {
        true => Ok(Some(plain.to_vec().into())),
        false => Err(damaged("it holds more than it should")),
    }
}

fn begin(queue: &Queue, identity: &Identity) -> io::Result<StreamReader<Queue>> {
    let decryptor = Decryptor::new(queue.clone()).map_err(unreadable)?;
    match decryptor.decrypt(std::iter::once(&identity.0 as &dyn age::Identity)) {
        Ok(reader) => Ok(reader),
        Err(age::DecryptError::NoMatchingKeys) => Err(damaged("it is not encrypted for the key that it names")),
        Err(error) => Err(unreadable(error)),
    }
}

/// Leaves out the plain bytes before `from`; the chunk that holds it is in the queue.
fn leave_out(reader: &mut StreamReader<Queue>, from: u64) -> io::Result<()> {
    // At the beginning of a chunk age looks whether that is the end of the file, by reading the last chunk, which is not
    // here. One byte further it does not.
    if from >= CHUNK && from.is_multiple_of(CHUNK) {
        reader.seek(SeekFrom::Start(from + 1))?;
    }
    reader.seek(SeekFrom::Start(from)).map(drop)
}

fn unreadable(error: age::DecryptError) -> io::Error {
    match error {
        age::DecryptError::Io(error) => error,
        error => damaged(&error.to_string()),
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

/// What was pushed and not read yet; clones are the same.
#[derive(Clone, Default)]
struct Queue(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// How many of them have been read.
    read: usize,
    /// Where the reader believes to be.
    position: u64,
    ended: bool,
}

impl Waiting {
    fn left(&self) -> usize {
        self.bytes.len() - self.read
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Only one thread at a time has the opener; what a panic leaves is not used.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, bytes: &[u8]) {
        let mut waiting = self.lock();
        if waiting.left() == 0 {
            waiting.bytes.clear();
            waiting.read = 0;
        }
        waiting.bytes.extend_from_slice(bytes);
    }
}

impl Read for Queue {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut waiting = self.lock();
        let count = waiting.left().min(buffer.len());
        if count == 0 && !buffer.is_empty() && !waiting.ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        let from = waiting.read;
        buffer[..count].copy_from_slice(&waiting.bytes[from..from + count]);
        waiting.read += count;
        waiting.position += count as u64;
        Ok(count)
    }
}

impl Seek for Queue {
    /// Believes what it is told: what is pushed next is what lies there. It does not know where the end is.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let mut waiting = self.lock();
        match to {
            SeekFrom::Start(position) => waiting.position = position,
            SeekFrom::Current(0) => {}
            SeekFrom::Current(_) | SeekFrom::End(_) => return Err(ErrorKind::Unsupported.into()),
        }
        Ok(waiting.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::seal::{Sealer, seal};
    use crate::crypt::size::{LONGEST_HEAD, chunks, room, sealed_size};
    use proptest::prelude::*;

    fn sealed(plain: &[u8], identity: &Identity) -> Vec<u8> {
        let mut sealer = Sealer::begin(Some(&identity.recipient()), Vec::new()).unwrap();
        sealer.write_all(plain).unwrap();
        sealer.finish().unwrap()
    }

    fn opened(file: &[u8], identity: &Identity, piece: usize) -> io::Result<Vec<u8>> {
        let (mut opener, mut plain) = (Opener::new(identity), Vec::new());
        for piece in file.chunks(piece) {
            opener.feed(piece, &mut plain)?;
        }
        opener.finish(&mut plain)?;
        Ok(plain)
    }

    /// Bytes of which each says where it is.
    fn content(size: usize) -> Vec<u8> {
        (0..size as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u8).collect()
    }

    /// Around whole numbers of chunks everything can go wrong by one.
    fn any_size() -> impl Strategy<Value = usize> {
        let around =
            (0usize..5, -2i64..=2).prop_map(|(chunks, off)| (chunks as i64 * CHUNK as i64 + off).max(0) as usize);
        prop_oneof![0usize..1000, 0usize..300_000, around]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_sealed_opens_whatever_it_is_cut_into(size in any_size(), piece in 1usize..200_000) {
            let (plain, identity) = (content(size), Identity::generate());
            let file = sealed(&plain, &identity);
            let head = head_length(&file).unwrap().unwrap() as u64;
            prop_assert!(head <= LONGEST_HEAD);
            prop_assert_eq!(file.len() as u64, sealed_size(head, size as u64));
            prop_assert!(opened(&file, &identity, piece.max(size / 500 + 1)).unwrap() == plain);
        }

        #[test]
        fn any_range_opens_with_its_chunks_and_the_head_alone(size in 1usize..300_000, ends: [prop::sample::Index; 2], whole: bool) {
            let size = if whole { size.next_multiple_of(CHUNK as usize) } else { size };
            let (plain, identity) = (content(size), Identity::generate());
            let file = sealed(&plain, &identity);
            let head = head_length(&file).unwrap().unwrap();
            let [one, other] = ends.map(|end| end.index(size));
            let from = one.min(other);
            for from in [from, from - from % CHUNK as usize] {
                let range = from as u64..one.max(other) as u64 + 1;
                let bytes = chunks(head as u64, file.len() as u64, range.clone());
                prop_assert!(bytes.end - bytes.start <= (range.end - range.start).div_ceil(CHUNK) * (CHUNK + TAG) + CHUNK + TAG);
                let mut opener = Opener::within(&file[..head], &identity, range.start).unwrap();
                let mut read = Vec::new();
                for piece in file[bytes.start as usize..bytes.end as usize].chunks(10_000) {
                    opener.feed(piece, &mut read).unwrap();
                }
                opener.finish(&mut read).ok();
                prop_assert!(read[..(range.end - range.start) as usize] == plain[range.start as usize..range.end as usize]);
            }
        }

        #[test]
        fn a_changed_bit_never_opens(size in 0usize..150_000, at: prop::sample::Index, bit in 0u8..8) {
            let (plain, identity) = (content(size), Identity::generate());
            let mut file = sealed(&plain, &identity);
            let head = head_length(&file).unwrap().unwrap();
            let at = at.index(file.len());
            file[at] ^= 1 << bit;
            let outcome = opened(&file, &identity, 50_000);
            prop_assert!(outcome.is_err(), "byte {} of {}, head {}", at, file.len(), head);
        }

        #[test]
        fn a_cut_file_never_opens(size in any_size(), cut: prop::sample::Index) {
            let identity = Identity::generate();
            let file = sealed(&content(size), &identity);
            prop_assert!(opened(&file[..cut.index(file.len())], &identity, 50_000).is_err());
        }

        #[test]
        fn what_has_room_fits(size in 0u64..1 << 30) {
            let plain = room(size);
            prop_assert!(plain == 0 || sealed_size(LONGEST_HEAD, plain) <= size);
            prop_assert!(size < 2 * LONGEST_HEAD || sealed_size(LONGEST_HEAD, plain + 2 * TAG) > size);
        }

        #[test]
        fn no_head_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), good: bool) {
            let bytes = if good { [BEGINNING, &bytes].concat() } else { bytes };
            let _ = head_length(&bytes);
            let _ = opened(&bytes, &Identity::generate(), 7);
        }
    }

    #[test]
    fn a_file_for_somebody_else_does_not_open() {
        let file = sealed(b"secret", &Identity::generate());
        assert!(opened(&file, &Identity::generate(), 1000).unwrap_err().to_string().contains("not encrypted for"));
        assert!(open(&file, &[Identity::generate()], 100).unwrap().is_none());
    }

    #[test]
    fn few_bytes_open_for_each_of_their_recipients() {
        use age::secrecy::ExposeSecret;
        let identities = [Identity::generate(), Identity::generate()];
        let file = seal(b"secret", &identities.each_ref().map(Identity::recipient)).unwrap();
        let head = head_length(&file).unwrap().unwrap();
        assert_eq!(count_recipients(&file[..head]), 2);
        for identity in identities {
            assert_eq!(
                open(&file, &[Identity::generate(), identity.clone()], 6).unwrap().unwrap().expose_secret(),
                b"secret"
            );
            assert!(open(&file, &[identity], 5).is_err());
        }
    }
}
