//! How WAL-E and WAL-G compress, by the extension of an object's name: blocking adapters from stored to plain bytes.
//!
//! Each one reads in bounded memory and lets no more plain bytes through than its caller allows. A stream that ends early,
//! is damaged, or is followed by something else is [`Kind::Corrupt`], at the latest when the end is read; so nothing counts
//! before that. Brotli, LZMA and what is not compressed carry no digest: there damage can go unseen, and whoever reads a
//! file has to check it by what is in it. Never knows stores, or what files mean.

mod brotli;
mod input;
mod lzop;

use std::io::{self, BufRead, Cursor, ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;
use lz4_flex::frame::FrameDecoder;
use lzma_rust2::LzmaReader;

use self::brotli::Brotli;
use self::input::Input;
use self::lzop::Lzop;
use crate::error::{Error, Kind, Result};

/// The largest window that a zstd frame may ask for, as a power of two: what zstd's own levels use without `--long`.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Memory for one LZMA stream in KiB: the dictionary of `xz -9` has 64 MiB, WAL-G's 8.
const LZMA_MEMORY: u32 = 80 << 10;

/// So many bytes of a stream are looked at before a decoder is chosen: the header of LZMA, the longest one, and the start of
/// its range coder.
const HEAD: usize = 13 + 5;

/// How an object is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Codec {
    /// LZO1X in lzop's container: all that WAL-E writes, and WAL-G once did.
    Lzo,
    /// LZ4 frames: WAL-G's default.
    Lz4,
    /// Zstandard.
    Zstd,
    /// Brotli.
    Brotli,
    /// LZMA in the format that was before xz, "LZMA alone".
    Lzma,
    /// gzip.
    Gzip,
    /// Not at all.
    Plain,
}

impl Codec {
    /// Every one.
    pub const ALL: [Codec; 7] =
        [Codec::Lzo, Codec::Lz4, Codec::Zstd, Codec::Brotli, Codec::Lzma, Codec::Gzip, Codec::Plain];

    /// What names of such objects end with, its dot included; nothing for [`Codec::Plain`].
    pub fn extension(self) -> &'static str {
        match self {
            Codec::Lzo => ".lzo",
            Codec::Lz4 => ".lz4",
            Codec::Zstd => ".zst",
            Codec::Brotli => ".br",
            Codec::Lzma => ".lzma",
            Codec::Gzip => ".gz",
            Codec::Plain => "",
        }
    }

    /// Takes the extension off a name: `part_001.tar.lz4` is `part_001.tar` in LZ4.
    pub fn split(name: &str) -> (&str, Codec) {
        let split = |codec: Codec| Some((name.strip_suffix(codec.extension())?, codec));
        // The last one always fits.
        match Codec::ALL.into_iter().find_map(split).unwrap_or((name, Codec::Plain)) {
            // WAL-G up to 3.0.8 wrote the dot before an extension that is empty (wal-g#2227).
            (name, Codec::Plain) => (name.strip_suffix('.').unwrap_or(name), Codec::Plain),
            split => split,
        }
    }

    /// What every such stream begins with, where there is such a thing.
    fn magic(self) -> &'static [u8] {
        match self {
            Codec::Lzo => lzop::MAGIC,
            Codec::Lz4 => &[0x04, 0x22, 0x4D, 0x18],
            Codec::Zstd => &[0x28, 0xB5, 0x2F, 0xFD],
            Codec::Gzip => &[0x1F, 0x8B],
            Codec::Brotli | Codec::Lzma | Codec::Plain => &[],
        }
    }

    /// Reads `source` as this, and no more than `limit` plain bytes of it. Takes the first bytes at once.
    ///
    /// # Errors
    /// Those of the source; [`Kind::Corrupt`] if it does not begin as such a stream does.
    pub fn decode(self, mut source: impl Read + Send + 'static, limit: u64) -> Result<Decoded> {
        let mut head = Vec::with_capacity(HEAD);
        source.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(error_of)?;
        if !head.starts_with(self.magic()) {
            return Err(self.not_such(&head));
        }
        let input = Input::new(Box::new(Cursor::new(head).chain(source)));
        let decoder = self.decoder(input, limit).map_err(|error| self.damaged(&error))?;
        Ok(Decoded { codec: self, decoder, left: limit, limit, state: State::Open })
    }

    fn decoder(self, input: Input, limit: u64) -> io::Result<Decoder> {
        Ok(match self {
            Codec::Lzo => Decoder::Lzo(Lzop::new(input, limit)),
            Codec::Lz4 => Decoder::Lz4(Box::new(FrameDecoder::new(input))),
            Codec::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Decoder::Zstd(decoder)
            }
            Codec::Brotli => Decoder::Brotli(Box::new(Brotli::new(input))),
            Codec::Lzma => {
                let mut decoder = LzmaReader::new_mem_limit(input, LZMA_MEMORY, None)?;
                decoder.set_relaxed_end_condition(false);
                Decoder::Lzma(Box::new(Some(decoder)))
            }
            Codec::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(input))),
            Codec::Plain => Decoder::Plain(input),
        })
    }

    fn not_such(self, head: &[u8]) -> Error {
        let error = self.corrupt(match head.is_empty() {
            true => "it is empty".to_owned(),
            false => format!("it does not begin as a \"{}\" does", self.extension()),
        });
        if head.is_empty() { error } else { error.hint(PERHAPS_ENCRYPTED) }
    }

    fn damaged(self, error: &io::Error) -> Error {
        match error.kind() {
            ErrorKind::OutOfMemory => self.corrupt(format!("it asks for more than {} MiB", LZMA_MEMORY >> 10)),
            ErrorKind::UnexpectedEof => self.corrupt("it ends early".to_owned()),
            _ => self.corrupt(error.to_string()),
        }
    }

    fn corrupt(self, detail: String) -> Error {
        let what = match self {
            Codec::Plain => String::from("the object is damaged"),
            _ => format!("the object cannot be decompressed as \"{}\"", self.extension()),
        };
        Error::new(Kind::Corrupt, what).detail(detail)
    }
}

/// Without its key, what was encrypted looks like this.
const PERHAPS_ENCRYPTED: &str = "If it was encrypted, say how by WALDEN_LEGACY_LIBSODIUM_KEY_FILE, \
                                 WALDEN_LEGACY_PGP_KEY_FILE or WALDEN_LEGACY_GPG_KEY_ID.";

/// The plain bytes of an object. They count when the end has been read: [`Read::read`] returned `Ok(0)`. Its errors carry
/// ours, which [`error_of`] brings back.
pub struct Decoded {
    codec: Codec,
    decoder: Decoder,
    limit: u64,
    left: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Failed,
}

enum Decoder {
    Lzo(Lzop<Input>),
    Lz4(Box<FrameDecoder<Input>>),
    Zstd(zstd::stream::read::Decoder<'static, Input>),
    Brotli(Box<Brotli<Input>>),
    /// `None` when it has ended: only then can it be told what it has not used of what it took.
    Lzma(Box<Option<LzmaReader<Input>>>),
    Gzip(Box<MultiGzDecoder<Input>>),
    Plain(Input),
}

impl Read for Decoded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.state {
            State::Ended => return Ok(0),
            State::Failed => return Err(ErrorKind::InvalidData.into()),
            State::Open if buffer.is_empty() => return Ok(0),
            State::Open => {}
        }
        let outcome = match self.decoder.read(buffer) {
            Ok(0) => self.decoder.end().map(|()| 0),
            outcome => outcome,
        };
        match outcome {
            Ok(0) => {
                self.state = State::Ended;
                Ok(0)
            }
            Ok(count) if count as u64 <= self.left => {
                self.left -= count as u64;
                Ok(count)
            }
            Ok(_) => self.fail(self.codec.corrupt(format!("it holds more than {} bytes", self.limit))),
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let error = match self.decoder.take_failure() {
                    Some(failure) => error_of(failure),
                    None => self.codec.damaged(&error),
                };
                self.fail(error)
            }
        }
    }
}

impl Decoded {
    fn fail(&mut self, error: Error) -> io::Result<usize> {
        self.state = State::Failed;
        Err(carrying(error))
    }
}

impl Decoder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Lzo(decoder) => decoder.read(buffer),
            Decoder::Lz4(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
            Decoder::Brotli(decoder) => decoder.read(buffer),
            Decoder::Lzma(decoder) => decoder.as_mut().as_mut().map_or(Ok(0), |decoder| decoder.read(buffer)),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Plain(input) => input.read(buffer),
        }
    }

    /// The decoder says that the stream has ended. Has it, and is there nothing behind it?
    fn end(&mut self) -> io::Result<()> {
        if let Decoder::Lzma(decoder) = self
            && let Some(decoder) = decoder.take()
        {
            let (input, unused) = decoder.into_parts();
            *self = Decoder::Plain(input);
            require_end(unused.is_empty())?;
        }
        let is_lz4 = matches!(self, Decoder::Lz4(_));
        let Some(input) = self.input() else { return Ok(()) };
        // LZ4's decoder takes the end of its source for the end of the stream.
        if is_lz4 && input.has_starved() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        require_end(input.fill_buf()?.is_empty())
    }

    fn take_failure(&mut self) -> Option<io::Error> {
        self.input().and_then(Input::take_failure)
    }

    fn input(&mut self) -> Option<&mut Input> {
        match self {
            Decoder::Lzo(decoder) => Some(decoder.source_mut()),
            Decoder::Lz4(decoder) => Some(decoder.get_mut()),
            Decoder::Zstd(decoder) => Some(decoder.get_mut()),
            Decoder::Brotli(decoder) => Some(decoder.source_mut()),
            Decoder::Lzma(decoder) => decoder.as_mut().as_mut().map(LzmaReader::inner_mut),
            Decoder::Gzip(decoder) => Some(decoder.get_mut()),
            Decoder::Plain(input) => Some(input),
        }
    }
}

fn require_end(ended: bool) -> io::Result<()> {
    match ended {
        true => Ok(()),
        false => Err(io::Error::new(ErrorKind::InvalidData, "something follows its end")),
    }
}

/// An error of ours on its way through a [`Read`].
pub fn carrying(error: Error) -> io::Error {
    io::Error::other(error)
}

/// The error of ours that a [`Read`] of this module, or of `legacy::cipher`, ended with, also where another library has
/// wrapped it. Any other is one of this machine.
pub fn error_of(error: io::Error) -> Error {
    match carried(&error) {
        Some(ours) => copy(ours),
        None => Error::io("could not read an object", &error),
    }
}

/// Did it come from our adapters, and not from where the bytes went?
pub fn carried(error: &io::Error) -> Option<&Error> {
    let mut next = error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(error) = next {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return Some(ours);
        }
        next = match error.downcast_ref::<io::Error>() {
            Some(wrapped) => wrapped.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    None
}

fn copy(error: &Error) -> Error {
    let mut copy = Error::new(error.kind(), error.what());
    if let Some(cause) = error.cause() {
        copy = copy.detail(cause);
    }
    match error.advice() {
        Some(advice) => copy.hint(advice),
        None => copy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// lzop's header for a stream from standard input, with the flags given, then blocks that are stored as they are.
    fn lzop(plain: &[u8], flags: u32) -> Vec<u8> {
        let mut header = vec![0x10, 0x40, 0x20, 0xA0, 0x09, 0x40, 1, 5];
        header.extend(flags.to_be_bytes());
        header.extend([0; 12]);
        header.extend([4, b'n', b'a', b'm', b'e']);
        let crc = |bytes: &[u8]| {
            let mut crc = flate2::Crc::new();
            crc.update(bytes);
            crc.sum()
        };
        let sum = if flags & 0x1000 == 0 { adler2::adler32_slice(&header) } else { crc(&header) };
        let mut file = [lzop::MAGIC, &header, &sum.to_be_bytes()].concat();
        for block in plain.chunks(1000) {
            // 512 zeros, as lzokay's documentation has them compressed.
            let stored: &[u8] = match block.len() == 512 && block.iter().all(|byte| *byte == 0) {
                true => &[0x12, 0, 0x20, 0, 0xdf, 0, 0, 0x11, 0, 0],
                false => block,
            };
            for size in [block.len(), stored.len()] {
                file.extend((size as u32).to_be_bytes());
            }
            let sums = [(0x1, adler2::adler32_slice(block)), (0x100, crc(block))];
            let stored_sums = [(0x2, adler2::adler32_slice(stored)), (0x200, crc(stored))];
            for (flag, sum) in sums.iter().chain(stored_sums.iter().filter(|_| stored.len() < block.len())) {
                if flags & flag != 0 {
                    file.extend(sum.to_be_bytes());
                }
            }
            file.extend(stored);
        }
        file.extend([0; 4]);
        file
    }

    fn lz4(plain: &[u8]) -> Vec<u8> {
        let info = lz4_flex::frame::FrameInfo::new().content_checksum(true);
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    /// "Hello, world!", as the documentation of lzma-rust2 has it.
    const LZMA: &[u8] = &[
        93, 0, 0, 128, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 36, 25, 73, 152, 111, 22, 2, 140, 232, 230, 91,
        177, 71, 198, 206, 183, 99, 255, 255, 60, 172, 0, 0,
    ];

    /// What the program brotli makes of "hello".
    const BROTLI: &[u8] = b"\x0b\x02\x80hello\x03";

    fn decode(codec: Codec, stored: &[u8], limit: u64) -> Result<Vec<u8>> {
        let mut plain = Vec::new();
        let mut decoded = codec.decode(Cursor::new(stored.to_vec()), limit)?;
        decoded.read_to_end(&mut plain).map_err(error_of)?;
        Ok(plain)
    }

    /// Every codec with a stream that it can read, and what is in it.
    fn samples(plain: &[u8]) -> Vec<(Codec, Vec<u8>, Vec<u8>)> {
        let sums = [0x1, 0x3, 0x100, 0x303, 0x1001].map(|flags| (Codec::Lzo, lzop(plain, flags), plain.to_vec()));
        let others = [
            (Codec::Lz4, lz4(plain), plain.to_vec()),
            (Codec::Zstd, zstd::encode_all(plain, 1).unwrap(), plain.to_vec()),
            (Codec::Gzip, gzip(plain), plain.to_vec()),
            (Codec::Lzma, LZMA.to_vec(), b"Hello, world!".to_vec()),
            (Codec::Brotli, BROTLI.to_vec(), b"hello".to_vec()),
        ];
        sums.into_iter().chain(others).collect()
    }

    fn any_plain() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..5000),
            Just(vec![0; 512]),
            (any::<u8>(), 0usize..400_000).prop_map(|(byte, count)| vec![byte; count])
        ]
    }

    /// So what it held is to be checked by what it is.
    #[test]
    fn without_a_checksum_of_the_data_lzop_cannot_tell_a_changed_byte() {
        let mut stored = lzop(&[7; 100], 0x1000);
        let at = stored.len() - 10;
        stored[at] ^= 8;
        assert_ne!(decode(Codec::Lzo, &stored, 100).unwrap(), [7; 100]);
    }

    #[test]
    fn the_extension_of_a_name_says_how_the_object_is_compressed() {
        assert_eq!(Codec::split("part_001.tar.lz4"), ("part_001.tar", Codec::Lz4));
        assert_eq!(Codec::split("000000010000000000000001"), ("000000010000000000000001", Codec::Plain));
        assert_eq!(Codec::split("00000002.history.lzma"), ("00000002.history", Codec::Lzma));
        assert_eq!(Codec::split("part_001.tar."), ("part_001.tar", Codec::Plain));
        for codec in Codec::ALL {
            assert_eq!(Codec::split(&format!("x{}", codec.extension())), ("x", codec));
        }
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back(plain in any_plain()) {
            for (codec, stored, plain) in samples(&plain) {
                prop_assert!(decode(codec, &stored, plain.len() as u64).unwrap() == plain, "{codec:?}");
            }
            prop_assert!(decode(Codec::Plain, &plain, plain.len() as u64).unwrap() == plain);
        }

        #[test]
        fn what_is_cut_or_followed_by_something_is_corrupt(plain in any_plain(), cut: prop::sample::Index, more in any::<u8>()) {
            for (codec, stored, _) in samples(&plain) {
                let cut = decode(codec, &stored[..cut.index(stored.len())], u64::MAX);
                prop_assert_eq!(cut.unwrap_err().kind(), Kind::Corrupt, "{:?} cut", codec);
                let more = decode(codec, &[&stored[..], &[more]].concat(), u64::MAX);
                prop_assert_eq!(more.unwrap_err().kind(), Kind::Corrupt, "{:?} with something behind it", codec);
            }
        }

        #[test]
        fn more_than_was_allowed_is_corrupt_and_is_not_let_through(count in 2usize..400_000, allowed: prop::sample::Index) {
            for (codec, stored, plain) in samples(&vec![7; count]) {
                let allowed = allowed.index(plain.len());
                let mut decoded = codec.decode(Cursor::new(stored), allowed as u64).unwrap();
                let mut through = Vec::new();
                let error = error_of(decoded.read_to_end(&mut through).unwrap_err());
                prop_assert_eq!(error.kind(), Kind::Corrupt, "{:?}", codec);
                prop_assert!(through.len() <= allowed, "{codec:?}");
            }
        }

        #[test]
        fn a_changed_bit_never_gives_other_bytes_where_there_is_a_checksum(plain in any_plain(), at: prop::sample::Index, bit in 0u8..8) {
            for (codec, mut stored, plain) in samples(&plain) {
                let at = at.index(stored.len());
                stored[at] ^= 1 << bit;
                let outcome = decode(codec, &stored, 1 << 20);
                let checked = matches!(codec, Codec::Lzo | Codec::Lz4 | Codec::Gzip);
                match outcome {
                    Ok(other) => prop_assert!(!checked || other == plain, "{codec:?}"),
                    Err(error) => prop_assert_eq!(error.kind(), Kind::Corrupt, "{:?}", codec),
                }
            }
        }

        #[test]
        fn no_block_makes_a_decoder_panic(junk in prop::collection::vec(any::<u8>(), 1..300), more in 1u32..2000) {
            let mut lzo = lzop(&[], 0);
            lzo.truncate(lzo.len() - 4);
            let sizes = [junk.len() as u32 + more, junk.len() as u32].map(u32::to_be_bytes).concat();
            let lzo = [&lzo[..], &sizes, &junk, &[0; 4]].concat();
            let lz4 = [&lz4(&[])[..7], &(junk.len() as u32).to_le_bytes(), &junk, &[0; 8]].concat();
            let gzip = [&gzip(&[])[..10], &junk].concat();
            for (codec, stored) in [(Codec::Lzo, lzo), (Codec::Lz4, lz4), (Codec::Gzip, gzip)] {
                if let Err(error) = decode(codec, &stored, 1 << 20) {
                    prop_assert_eq!(error.kind(), Kind::Corrupt);
                }
            }
        }

        #[test]
        fn no_bytes_make_a_decoder_panic(junk in prop::collection::vec(any::<u8>(), 0..300), which in 0..7usize) {
            let codec = Codec::ALL[which];
            let stored = [codec.magic(), &junk].concat();
            if let Err(error) = decode(codec, &stored, 1 << 20) {
                prop_assert_eq!(error.kind(), Kind::Corrupt);
            }
        }
    }

    #[test]
    fn an_empty_object_and_another_format_are_corrupt_with_a_word_about_encryption() {
        for codec in [Codec::Lzo, Codec::Lz4, Codec::Zstd, Codec::Gzip, Codec::Lzma, Codec::Brotli] {
            assert_eq!(decode(codec, b"", 10).unwrap_err().kind(), Kind::Corrupt, "{codec:?}");
        }
        let error = decode(Codec::Lz4, &zstd::encode_all(&b"x"[..], 1).unwrap(), 10).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.advice().unwrap().contains("WALDEN_LEGACY_LIBSODIUM_KEY_FILE"));
    }

    #[test]
    fn an_error_of_the_source_is_not_taken_for_damage() {
        struct Fails(Cursor<Vec<u8>>);
        impl Read for Fails {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                match self.0.read(buffer)? {
                    0 => Err(carrying(Error::new(Kind::Unreachable, "the store went away"))),
                    count => Ok(count),
                }
            }
        }
        for (codec, stored, _) in samples(&[3; 5000]) {
            for cut in [0, 1, 20, stored.len() / 2, stored.len()] {
                let source = Fails(Cursor::new(stored[..cut.min(stored.len())].to_vec()));
                let outcome = codec.decode(source, u64::MAX);
                let error = match outcome {
                    Ok(mut decoded) => error_of(decoded.read_to_end(&mut Vec::new()).unwrap_err()),
                    Err(error) => error,
                };
                assert_eq!(error.kind(), Kind::Unreachable, "{codec:?} cut to {cut}: {error:?}");
            }
        }
    }

    #[test]
    fn an_error_of_ours_is_found_however_it_is_wrapped() {
        let ours = || carrying(Error::new(Kind::Denied, "no").detail("why").hint("Do."));
        let wrapped = io::Error::other(io::Error::new(ErrorKind::InvalidData, ours()));
        for error in [ours(), wrapped] {
            let error = error_of(error);
            assert_eq!((error.kind(), error.cause(), error.advice()), (Kind::Denied, Some("why"), Some("Do.")));
        }
        assert_eq!(error_of(ErrorKind::StorageFull.into()).kind(), Kind::Local);
    }
}
