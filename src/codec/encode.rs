//! From a plain file to an object.

use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tempfile::{SpooledData, SpooledTempFile};

use super::frame::FrameWriter;
use super::header::{self, Codec, Description, Digest, Encryption, Header};
use crate::backup::manifest::FRAME_SIZE;
use crate::crypt::Recipient;
use crate::crypt::seal::Sealer;
use crate::crypt::size::{LONGEST_HEAD, sealed_size};
use crate::error::{Context, Error, Kind, Result};
use crate::layout::{self, DataKeyName};
use crate::storage::Body;

/// An object that grows beyond this many bytes goes on in an unnamed temporary file (in `TMPDIR`) instead of in memory: so
/// the segments of ordinary clusters never touch a disk, and the largest cost no more memory than this.
pub const SPOOL_THRESHOLD: usize = 32 << 20;

/// Threads that compress one file, at most: more of them would wait for the one that reads and digests.
const MAX_THREADS: usize = 4;

/// Makes the object of a plain file of exactly `size` bytes, in one pass over it. Its frames hold [`FRAME_SIZE`] plain
/// bytes each, and are compressed by several threads if there are several. With a data key to encrypt for, the payload is
/// an age file, whose plain content they are.
///
/// # Errors
/// [`Kind::Local`] if the file cannot be read or has another length by now.
pub fn encode(
    source: impl Read + Send,
    size: u64,
    file: Description,
    level: i32,
    to: Option<&Recipient>,
) -> Result<(Header, Body)> {
    let nothing = Digest(blake3::hash(b""));
    let mut header = Header {
        format: layout::format(to.is_some()),
        walden: env!("CARGO_PKG_VERSION").to_owned(),
        file,
        codec: Codec::Zstd,
        encryption: if to.is_some() { Encryption::Age } else { Encryption::None },
        key: to.map(|recipient| DataKeyName::of(&recipient.to_string())),
        plain_size: size,
        plain_blake3: nothing,
        stored_size: u64::MAX,
        stored_blake3: nothing,
    };
    // The header comes first but is known last: its place is kept with the longest numbers that it can have.
    let place = header::build(&header, None)?;
    let mut object = Object::with_room_for(place.len(), size);
    object.write_all(&place).during(spooling)?;

    let plain =
        Plain { name: header.file.name.clone(), source, size, left: size, read: 0, hasher: blake3::Hasher::new() };
    let payload = Sealer::begin(to, Digesting::new(object)).during(spooling)?;
    let (plain_blake3, payload) = compress(plain, payload, level)?;
    let payload = payload.finish().during(spooling)?;
    header.plain_blake3 = plain_blake3;
    (header.stored_size, header.stored_blake3) = (payload.size, payload.digest());

    let mut object = payload.inner;
    object.seek(SeekFrom::Start(0)).during(spooling)?;
    object.write_all(&header::build(&header, Some(place.len()))?).during(spooling)?;
    let total = place.len() as u64 + header.stored_size;
    Ok((header, object.into_body(total)))
}

/// An object in the making.
enum Object {
    /// It fits into memory whatever becomes of it. The room is taken at once: growing would copy it, and leave holes in
    /// the heap of a process that makes many.
    Memory(Cursor<Vec<u8>>),
    Spooled(SpooledTempFile),
}

impl Object {
    fn with_room_for(header: usize, plain_size: u64) -> Object {
        let frames = plain_size.div_ceil(FRAME_SIZE as u64).max(1);
        let payload = frames.saturating_mul(zstd::zstd_safe::compress_bound(FRAME_SIZE) as u64);
        // Whether it will be encrypted or not: the difference is small.
        let longest = sealed_size(LONGEST_HEAD, payload) + header as u64;
        match usize::try_from(longest) {
            Ok(longest) if longest <= SPOOL_THRESHOLD => Object::Memory(Cursor::new(Vec::with_capacity(longest))),
            _ => Object::Spooled(SpooledTempFile::new(SPOOL_THRESHOLD)),
        }
    }

    fn into_body(self, size: u64) -> Body {
        match self {
            Object::Memory(cursor) => {
                let mut object = cursor.into_inner();
                // The room that was not needed goes back to the system, and all of it does when the object is sent.
                object.shrink_to_fit();
                Body::Memory(object.into())
            }
            Object::Spooled(object) => match object.into_inner() {
                SpooledData::InMemory(cursor) => Body::Memory(cursor.into_inner().into()),
                SpooledData::OnDisk(file) => Body::File(file.into(), size),
            },
        }
    }
}

impl Write for Object {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Object::Memory(object) => object.write(bytes),
            Object::Spooled(object) => object.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seek for Object {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        match self {
            Object::Memory(object) => object.seek(to),
            Object::Spooled(object) => object.seek(to),
        }
    }
}

/// Compresses the whole file into `payload`, and returns its digest.
fn compress<R: Read + Send, W: Write + Send>(plain: Plain<R>, payload: W, level: i32) -> Result<(Digest, W)> {
    let frames = usize::try_from(plain.size.div_ceil(FRAME_SIZE as u64)).unwrap_or(usize::MAX);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(frames.max(1));
    let line = Line {
        plain: Mutex::new(plain),
        payload: Mutex::new(Payload { sink: payload, written: 0, failed: None }),
        turn: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Where the system gives no further thread, fewer do the work.
            let _ = std::thread::Builder::new().spawn_scoped(scope, || line.work(level));
        }
        line.work(level);
    });
    let Payload { sink, failed, .. } = line.payload.into_inner().unwrap_or_else(PoisonError::into_inner);
    match failed {
        Some(error) => Err(error),
        None => Ok((Digest(line.plain.into_inner().unwrap_or_else(PoisonError::into_inner).hasher.finalize()), sink)),
    }
}

/// A file on its way through several threads: each takes the next piece, compresses it, and waits for its turn to append
/// the frame. So no thread holds more than one piece.
struct Line<R, W> {
    plain: Mutex<Plain<R>>,
    payload: Mutex<Payload<W>>,
    turn: Condvar,
}

/// The side of the file.
struct Plain<R> {
    name: String,
    source: R,
    size: u64,
    left: u64,
    /// Pieces so far.
    read: usize,
    hasher: blake3::Hasher,
}

/// The side of the object.
struct Payload<W> {
    sink: W,
    /// Frames so far.
    written: usize,
    /// The first error; nobody waits for a turn any more.
    failed: Option<Error>,
}

impl<R: Read, W: Write> Line<R, W> {
    /// Works until there is nothing left, or until something has failed.
    fn work(&self, level: i32) {
        // A thread that panics does not append its frame either, and must not be waited for.
        let alarm = Alarm(self);
        if let Err(error) = self.pass_pieces(level) {
            self.fail(error);
        }
        drop(alarm);
    }

    fn pass_pieces(&self, level: i32) -> Result<()> {
        let mut writer = FrameWriter::new(level)?;
        let mut piece = Vec::new();
        loop {
            let number = match lock(&self.plain).next(&mut piece)? {
                Some(number) => number,
                None => return Ok(()),
            };
            let frame = writer.frame(&piece)?;
            let waits = |payload: &mut Payload<W>| payload.written != number && payload.failed.is_none();
            let waited = self.turn.wait_while(lock(&self.payload), waits);
            let mut payload = waited.unwrap_or_else(PoisonError::into_inner);
            if payload.failed.is_some() {
                return Ok(());
            }
            payload.sink.write_all(frame).during(spooling)?;
            payload.written += 1;
            self.turn.notify_all();
        }
    }

    fn fail(&self, error: Error) {
        lock(&self.payload).failed.get_or_insert(error);
        self.turn.notify_all();
    }
}

struct Alarm<'a, R: Read, W: Write>(&'a Line<R, W>);

impl<R: Read, W: Write> Drop for Alarm<'_, R, W> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::new(Kind::Bug, "a compressing thread ended early"));
        }
    }
}

/// A lock that a panicking thread has left is still good: the panic is reported, and what it left half done is not used.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<R: Read> Plain<R> {
    /// Reads and digests the next piece, and returns its number; `None` at the end. An empty file has one, empty, piece.
    fn next(&mut self, piece: &mut Vec<u8>) -> Result<Option<usize>> {
        if self.left == 0 && self.read > 0 {
            return Ok(None);
        }
        let what = || format!("could not read \"{}\"", self.name);
        let wanted = self.left.min(FRAME_SIZE as u64);
        piece.clear();
        let read = (&mut self.source).take(wanted).read_to_end(piece).during(what)? as u64;
        self.left -= read;
        let longer = self.left == 0 && self.source.read(&mut [0]).during(what)? > 0;
        if read < wanted || longer {
            return Err(Error::new(Kind::Local, format!("\"{}\" changed while it was read", self.name))
                .detail(format!("it had {} bytes when it was opened", self.size)));
        }
        self.hasher.update(piece);
        self.read += 1;
        Ok(Some(self.read - 1))
    }
}

fn spooling() -> String {
    format!("could not compress into memory or a temporary file in \"{}\" (TMPDIR)", std::env::temp_dir().display())
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
