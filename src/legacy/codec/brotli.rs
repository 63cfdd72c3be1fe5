//! Brotli (RFC 7932), read so that it is known where the stream ends.

use std::io::{self, BufRead, ErrorKind, Read};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};

/// A stream of brotli. Its window has at most 16 MiB: the larger ones of "large window brotli" are not taken.
pub(super) struct Brotli<R> {
    source: R,
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    ended: bool,
}

impl<R> Brotli<R> {
    pub(super) fn new(source: R) -> Brotli<R> {
        let memory = StandardAlloc::default;
        Brotli { source, state: BrotliState::new_strict(memory(), memory(), memory()), ended: false }
    }

    pub(super) fn source_mut(&mut self) -> &mut R {
        &mut self.source
    }
}

impl<R: BufRead> Read for Brotli<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended {
            let stored = self.source.fill_buf()?;
            let starved = stored.is_empty();
            let (mut stored_left, mut taken) = (stored.len(), 0);
            let (mut room, mut made, mut total) = (buffer.len(), 0, 0);
            let result = BrotliDecompressStream(
                &mut stored_left,
                &mut taken,
                stored,
                &mut room,
                &mut made,
                buffer,
                &mut total,
                &mut self.state,
            );
            self.source.consume(taken);
            self.ended = matches!(result, BrotliResult::ResultSuccess);
            if made > 0 {
                return Ok(made);
            }
            match result {
                BrotliResult::ResultFailure => return Err(io::Error::new(ErrorKind::InvalidData, "it is damaged")),
                BrotliResult::NeedsMoreInput if starved => return Err(ErrorKind::UnexpectedEof.into()),
                BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput | BrotliResult::ResultSuccess => {}
            }
        }
        Ok(0)
    }
}
