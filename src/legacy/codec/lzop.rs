//! The container of the program lzop around blocks of LZO1X, with all of its checksums.
//!
//! Written from descriptions of the format. All numbers in it are big-endian. The blocks themselves are decompressed by
//! the crate lzokay.

use std::io::{self, ErrorKind, Read};

use lzokay::decompress::decompress;

/// What every file begins with.
pub(super) const MAGIC: &[u8] = &[0x89, b'L', b'Z', b'O', 0x00, 0x0D, 0x0A, 0x1A, 0x0A];

/// The largest block that lzop itself takes. It writes blocks of 256 KiB.
const LARGEST_BLOCK: u64 = 64 << 20;

/// The version of lzop from which on the header has a level, and times of 64 bits.
const LONG_HEADER: u16 = 0x0940;

/// The newest version of lzop whose files are known.
const NEWEST: u16 = 0x1040;

/// The flags that change what is in the file.
const ADLER32_PLAIN: u32 = 0x0001;
const ADLER32_STORED: u32 = 0x0002;
const EXTRA_FIELD: u32 = 0x0040;
const CRC32_PLAIN: u32 = 0x0100;
const CRC32_STORED: u32 = 0x0200;
const MULTIPART: u32 = 0x0400;
const FILTER: u32 = 0x0800;
const HEADER_CRC32: u32 = 0x1000;

/// LZO1X-1, LZO1X-1(15) and LZO1X-999: three compressors of one format.
const METHODS: [u8; 3] = [1, 2, 3];

/// A file of lzop.
pub(super) struct Lzop<R> {
    source: R,
    /// Bytes of the largest block that is taken.
    largest: u64,
    /// What the header says, once it has been read.
    flags: Option<u32>,
    stored: Vec<u8>,
    plain: Vec<u8>,
    /// What of `plain` has been handed out.
    taken: usize,
    ended: bool,
}

impl<R> Lzop<R> {
    /// One of which no more than `limit` plain bytes are wanted: no block needs to be larger.
    pub(super) fn new(source: R, limit: u64) -> Lzop<R> {
        Lzop {
            source,
            largest: limit.min(LARGEST_BLOCK),
            flags: None,
            stored: Vec::new(),
            plain: Vec::new(),
            taken: 0,
            ended: false,
        }
    }

    pub(super) fn source_mut(&mut self) -> &mut R {
        &mut self.source
    }
}

impl<R: Read> Read for Lzop<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.plain.len() && !self.ended {
            let flags = match self.flags {
                Some(flags) => flags,
                None => *self.flags.insert(read_header(&mut self.source)?),
            };
            self.taken = 0;
            self.ended = !self.read_block(flags)?;
        }
        let count = buffer.len().min(self.plain.len() - self.taken);
        buffer[..count].copy_from_slice(&self.plain[self.taken..][..count]);
        self.taken += count;
        Ok(count)
    }
}

impl<R: Read> Lzop<R> {
    /// Reads the next block; `false` at the end of the file.
    fn read_block(&mut self, flags: u32) -> io::Result<bool> {
        self.plain.clear();
        let plain_size = u32_of(&mut self.source)? as usize;
        if plain_size == 0 {
            return Ok(false);
        }
        let stored_size = u32_of(&mut self.source)? as usize;
        if plain_size as u64 > self.largest || stored_size == 0 || stored_size > plain_size {
            return Err(damaged("a block has an impossible size"));
        }
        let plain_sums = Sums::read(&mut self.source, flags & ADLER32_PLAIN != 0, flags & CRC32_PLAIN != 0)?;
        let compressed = stored_size < plain_size;
        // What is stored as it is has no second checksum.
        let (adler, crc) = (compressed && flags & ADLER32_STORED != 0, compressed && flags & CRC32_STORED != 0);
        let stored_sums = Sums::read(&mut self.source, adler, crc)?;
        self.stored.clear();
        self.source.by_ref().take(stored_size as u64).read_to_end(&mut self.stored)?;
        if self.stored.len() < stored_size {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        stored_sums.check(&self.stored)?;
        if compressed {
            self.plain.resize(plain_size, 0);
            let made = decompress(&self.stored, &mut self.plain).map_err(|error| damaged(&error.to_string()))?;
            if made != plain_size {
                return Err(damaged("a block is shorter than it says"));
            }
        } else {
            std::mem::swap(&mut self.stored, &mut self.plain);
        }
        plain_sums.check(&self.plain)?;
        Ok(true)
    }
}

/// Reads the header and returns its flags.
fn read_header(source: &mut impl Read) -> io::Result<u32> {
    let mut magic = [0; MAGIC.len()];
    source.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(damaged("it does not begin as a file of lzop does"));
    }
    // All that the header's checksum covers.
    let mut header = Vec::new();
    let version = u16::from_be_bytes(field(source, &mut header)?);
    let _library: [u8; 2] = field(source, &mut header)?;
    let long = version >= LONG_HEADER;
    let needed = if long { u16::from_be_bytes(field(source, &mut header)?) } else { version };
    let [method] = field(source, &mut header)?;
    if long {
        let _level: [u8; 1] = field(source, &mut header)?;
    }
    let flags = u32::from_be_bytes(field(source, &mut header)?);
    if flags & FILTER != 0 {
        let _filter: [u8; 4] = field(source, &mut header)?;
    }
    let _mode_and_time: [u8; 8] = field(source, &mut header)?;
    if long {
        let _high_time: [u8; 4] = field(source, &mut header)?;
    }
    let [name] = field(source, &mut header)?;
    for _ in 0..name {
        let _letter: [u8; 1] = field(source, &mut header)?;
    }
    check_header(source, flags, &header)?;
    if needed > NEWEST || !METHODS.contains(&method) || flags & (FILTER | MULTIPART) != 0 {
        return Err(damaged("lzop wrote it in a way that is not known"));
    }
    if flags & EXTRA_FIELD != 0 {
        pass_over_extra_field(source, flags)?;
    }
    Ok(flags)
}

fn check_header(source: &mut impl Read, flags: u32, covered: &[u8]) -> io::Result<()> {
    let crc = flags & HEADER_CRC32 != 0;
    Sums::read(source, !crc, crc)?.check(covered)
}

/// The longest extra field that is passed over; lzop itself writes none.
const LONGEST_EXTRA_FIELD: u64 = 64 << 10;

fn pass_over_extra_field(source: &mut impl Read, flags: u32) -> io::Result<()> {
    let length: [u8; 4] = field(source, &mut Vec::new())?;
    let size = u64::from(u32::from_be_bytes(length));
    if size > LONGEST_EXTRA_FIELD {
        return Err(damaged("its header is too long"));
    }
    let mut covered = length.to_vec();
    source.by_ref().take(size).read_to_end(&mut covered)?;
    check_header(source, flags, &covered)
}

/// Checksums of something, as far as there are any.
struct Sums {
    adler: Option<u32>,
    crc: Option<u32>,
}

impl Sums {
    fn read(source: &mut impl Read, adler: bool, crc: bool) -> io::Result<Sums> {
        let mut read = |there: bool| there.then(|| u32_of(source)).transpose();
        Ok(Sums { adler: read(adler)?, crc: read(crc)? })
    }

    fn check(&self, bytes: &[u8]) -> io::Result<()> {
        let adler = self.adler.is_none_or(|sum| sum == adler2::adler32_slice(bytes));
        let crc = self.crc.is_none_or(|sum| {
            let mut crc = flate2::Crc::new();
            crc.update(bytes);
            sum == crc.sum()
        });
        if adler && crc { Ok(()) } else { Err(damaged("a checksum is wrong")) }
    }
}

fn field<const SIZE: usize>(source: &mut impl Read, covered: &mut Vec<u8>) -> io::Result<[u8; SIZE]> {
    let mut bytes = [0; SIZE];
    source.read_exact(&mut bytes)?;
    covered.extend_from_slice(&bytes);
    Ok(bytes)
}

fn u32_of(source: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    source.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
