//! How WAL-E and WAL-G encrypt what they have compressed: blocking adapters from encrypted to compressed bytes.
//!
//! libsodium's secretstream is read here, OpenPGP by the program gpg. What was configured is required: an object that is
//! not encrypted so is an error. Never holds a key longer than its reader lives, and never shows one.

mod gpg;
mod sodium;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use self::gpg::Gpg;
pub use self::sodium::SodiumKey;
use crate::config::value::KeyTransform;
use crate::crypt::Zeroizing;
use crate::error::{Context, Error, Kind, Result};

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

/// Where a key is.
#[derive(Clone)]
pub enum KeyText {
    /// In this file.
    File(PathBuf),
    /// In a variable, which had this text.
    Variable(String),
}

/// Bytes that nearly every file of a key has room in.
const USUAL_KEY: usize = 64 << 10;

/// No key of either kind is longer.
const LONGEST_KEY: u64 = 1 << 20;

impl KeyText {
    fn read(&self) -> Result<Zeroizing<Vec<u8>>> {
        match self {
            KeyText::File(path) => read_key(path),
            KeyText::Variable(text) => Ok(Zeroizing::new(text.clone().into_bytes())),
        }
    }
}

fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let what = || format!("could not read the key file {}", path.display());
    // With room from the beginning: a vector that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(USUAL_KEY));
    File::open(path).during(what)?.take(LONGEST_KEY).read_to_end(&mut text).during(what)?;
    Ok(text)
}

/// Which keys were given.
#[derive(Clone, Default)]
pub struct Given {
    /// The key of libsodium, and how it is written.
    pub sodium: Option<(KeyText, KeyTransform)>,
    /// A secret key of OpenPGP, and its passphrase.
    pub pgp: Option<(KeyText, Option<String>)>,
    /// Whether gpg's keyring has the secret key.
    pub keyring: bool,
}

/// The keys of an archive, which are read when the first object is.
#[derive(Clone, Default)]
pub struct Keys {
    given: Given,
    cipher: Arc<Mutex<Option<Cipher>>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// Those that were given. Nothing is read yet.
    ///
    /// # Errors
    /// [`Kind::Config`] if they are of both kinds: nobody says which one is right.
    pub fn new(given: Given) -> Result<Keys> {
        if given.sodium.is_some() && (given.pgp.is_some() || given.keyring) {
            return Err(Error::new(Kind::Config, "keys of libsodium and of OpenPGP are set for the same archive")
                .hint("Unset those with which the objects are not encrypted."));
        }
        Ok(Keys { given, cipher: Arc::default() })
    }

    /// The cipher, made once.
    ///
    /// # Errors
    /// [`Kind::Config`] for a key that cannot be used.
    pub fn cipher(&self) -> Result<Cipher> {
        let mut known = self.cipher.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cipher) = &*known {
            return Ok(cipher.clone());
        }
        let cipher = match &self.given {
            Given { sodium: Some((text, transform)), .. } => {
                Cipher::Sodium(SodiumKey::read(&text.read()?, *transform)?)
            }
            // WAL-G takes it in one line, too.
            Given { pgp: Some((KeyText::Variable(text), passphrase)), .. } => Cipher::OpenPgp(Gpg::with_key(
                Zeroizing::new(text.replace("\\n", "\n")).as_bytes(),
                passphrase.clone(),
            )?),
            Given { pgp: Some((file, passphrase)), .. } => {
                Cipher::OpenPgp(Gpg::with_key(&file.read()?, passphrase.clone())?)
            }
            Given { keyring: true, .. } => Cipher::OpenPgp(Gpg::of_the_keyring()),
            Given { .. } => Cipher::None,
        };
        Ok(known.insert(cipher).clone())
    }
}
