//! How WAL-E and WAL-G encrypt what they have compressed: blocking adapters from encrypted to compressed bytes.
//!
//! libsodium's secretstream is read here, OpenPGP by the program gpg. What was configured is required: an object that is
//! not encrypted so is an error. Never holds a key longer than its reader lives, and never shows one.

mod gpg;
mod sodium;

use std::io::Read;

pub use self::gpg::Gpg;
pub use self::sodium::{SodiumKey, Transform};
use crate::error::Result;

/// How the objects of an archive are encrypted.
#[derive(Clone, Debug)]
pub enum Cipher {
    /// Not at all.
    None,
    /// With libsodium, by WAL-G.
    Sodium(SodiumKey),
    /// As OpenPGP messages, by WAL-E or WAL-G.
    OpenPgp(Gpg),
}

impl Cipher {
    /// Decrypts a source. Errors of ours come as [`crate::legacy::codec::error_of`] knows them.
    ///
    /// # Errors
    /// [`crate::error::Kind::Local`] if a program that is needed cannot be started.
    pub fn decrypt(&self, source: impl Read + Send + 'static) -> Result<Box<dyn Read + Send>> {
        Ok(match self {
            Cipher::None => Box::new(source),
            Cipher::Sodium(key) => Box::new(key.decrypt(source)),
            Cipher::OpenPgp(gpg) => Box::new(gpg.decrypt(source)?),
        })
    }
}
