//! A zstd stream of somebody else's, decompressed as its bytes come.

use bytes::{Buf, Bytes};
use zstd::stream::raw::{DParameter, Decoder, Operation};

use crate::error::{Error, Kind, Result};

/// So many plain bytes come at once, whatever they were compressed to.
const AT_ONCE: usize = 256 << 10;

/// The largest window, as a power of two: 8 MiB. The first level of zstd takes half of one.
const LARGEST_WINDOW: u32 = 23;

/// Decompresses a stream in bounded memory: its window, and some more.
pub struct StreamDecoder {
    decoder: Decoder<'static>,
    input: Bytes,
    buffer: Vec<u8>,
    /// There may be more where the last piece came from.
    more: bool,
    ended: bool,
}

impl StreamDecoder {
    /// For the beginning of a stream.
    pub fn new() -> Result<StreamDecoder> {
        let mut decoder = Decoder::new().map_err(damaged)?;
        decoder.set_parameter(DParameter::WindowLogMax(LARGEST_WINDOW)).map_err(damaged)?;
        Ok(StreamDecoder { decoder, input: Bytes::new(), buffer: vec![0; AT_ONCE], more: false, ended: false })
    }

    /// Takes more bytes. Those before must have been used up: [`StreamDecoder::take`] has returned `None`.
    pub fn push(&mut self, bytes: Bytes) {
        debug_assert!(self.input.is_empty());
        self.input = bytes;
    }

    /// Plain bytes; `None` if that takes more of the stream.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if this is not zstd, or has a larger window.
    pub fn take(&mut self) -> Result<Option<Bytes>> {
        while self.more || !self.input.is_empty() {
            let done = self.decoder.run_on_buffers(&self.input, &mut self.buffer).map_err(damaged)?;
            self.input.advance(done.bytes_read);
            self.more = done.bytes_written == self.buffer.len();
            self.ended = done.remaining == 0;
            if done.bytes_written > 0 {
                return Ok(Some(Bytes::copy_from_slice(&self.buffer[..done.bytes_written])));
            }
        }
        Ok(None)
    }

    /// Is this where the stream may end?
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it is not.
    pub fn end(&self) -> Result<()> {
        match self.ended {
            true => Ok(()),
            false => Err(Error::new(Kind::Corrupt, "a compressed stream ends too early")),
        }
    }
}

fn damaged(error: std::io::Error) -> Error {
    Error::new(Kind::Corrupt, "a compressed stream is damaged").detail(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decompress(stored: &[u8], piece: usize) -> Result<(Vec<u8>, Result<()>)> {
        let (mut decoder, mut plain) = (StreamDecoder::new()?, Vec::new());
        for piece in stored.chunks(piece) {
            decoder.push(Bytes::copy_from_slice(piece));
            while let Some(bytes) = decoder.take()? {
                assert!(bytes.len() <= AT_ONCE);
                plain.extend_from_slice(&bytes);
            }
        }
        Ok((plain, decoder.end()))
    }

    proptest! {
        #[test]
        fn a_stream_comes_back_whatever_it_is_cut_into(
            plain in prop::collection::vec(0u8..3, 0..50_000), piece in 1usize..5_000, repeat in 1usize..20,
        ) {
            let plain = plain.repeat(repeat);
            let stored = zstd::encode_all(&plain[..], 1).unwrap();
            let (back, end) = decompress(&stored, piece).unwrap();
            prop_assert!(back == plain && end.is_ok());
            prop_assert!(decompress(&stored[..stored.len() - 1], piece).unwrap().1.is_err());
        }
    }

    #[test]
    fn what_is_no_zstd_is_refused() {
        assert_eq!(decompress(b"base.tar is not compressed at all", 7).unwrap_err().kind(), Kind::Corrupt);
    }
}
