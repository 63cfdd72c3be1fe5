//! What a decoder reads from: the source in larger pieces, and how it ended.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

/// Decoders ask for a few bytes at a time.
const BUFFER: usize = 64 << 10;

/// The source below a decoder. Keeps an error of the source, which decoders may put into words of their own.
pub(super) struct Input {
    source: BufReader<Box<dyn Read + Send>>,
    failure: Option<io::Error>,
    starved: bool,
}

impl Input {
    pub(super) fn new(source: Box<dyn Read + Send>) -> Input {
        Input { source: BufReader::with_capacity(BUFFER, source), failure: None, starved: false }
    }

    /// Whether more was asked for when there was nothing left.
    pub(super) fn has_starved(&self) -> bool {
        self.starved
    }

    /// The error of the source, if it had one.
    pub(super) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    fn keep(&mut self, error: io::Error) -> io::Error {
        if error.kind() == ErrorKind::Interrupted {
            return error;
        }
        let told = io::Error::new(error.kind(), "the source failed");
        self.failure = Some(error);
        told
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer).map_err(|error| self.keep(error))?;
        self.starved |= count == 0 && !buffer.is_empty();
        Ok(count)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // The second call returns what the first one has got: the borrow of one whose error is kept would not end.
        if let Err(error) = self.source.fill_buf() {
            return Err(self.keep(error));
        }
        self.source.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.source.consume(count);
    }
}
