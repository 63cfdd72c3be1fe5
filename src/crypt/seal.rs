//! Bytes on their way into an age file.

use std::io::{self, Write};

use age::Encryptor;
use age::stream::StreamWriter;

use super::Recipient;

/// Writes to `W`, encrypted or as it is.
pub enum Sealer<W: Write> {
    /// As it is.
    Clear(W),
    /// As an age file.
    Age(Box<StreamWriter<W>>),
}

impl<W: Write> Sealer<W> {
    /// Begins; without a recipient nothing is encrypted. The head of the age file has been written when this returns.
    pub fn begin(to: Option<&Recipient>, sink: W) -> io::Result<Sealer<W>> {
        let Some(recipient) = to else { return Ok(Sealer::Clear(sink)) };
        let recipients = std::iter::once(&recipient.0 as &dyn age::Recipient);
        let encryptor = Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
        Ok(Sealer::Age(Box::new(encryptor.wrap_output(sink)?)))
    }

    /// Ends it: without this an age file is cut.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Sealer::Clear(sink) => Ok(sink),
            Sealer::Age(writer) => writer.finish(),
        }
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sealer::Clear(sink) => sink.write(bytes),
            Sealer::Age(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sealer::Clear(sink) => sink.flush(),
            Sealer::Age(writer) => writer.flush(),
        }
    }
}

/// Encrypts a few bytes for all of these.
///
/// # Errors
/// None that is not a defect: recipients are checked when they are read.
pub fn seal(plain: &[u8], to: &[Recipient]) -> io::Result<Vec<u8>> {
    let recipients = to.iter().map(|recipient| &recipient.0 as &dyn age::Recipient);
    let encryptor = Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
    let mut writer = encryptor.wrap_output(Vec::new())?;
    writer.write_all(plain)?;
    writer.finish()
}
