//! Encryption with age (age-encryption.org/v1): keys, what they are wrapped in, and streams of bytes.
//!
//! The only room that names the `age` crate, but for the words of the settings, which say what a recipient is. What is encrypted here is an ordinary age file, which the program `age`
//! decrypts. Knows no store and decides nothing: which key is meant, and what it means that there is none, is
//! `archive`'s business. Secrets are never printed, and are wiped when they are dropped.

pub mod file;
pub mod identity;
pub mod open;
pub mod seal;
pub mod size;
pub mod wrapped;

pub use self::identity::{Identity, Recipient};
pub use age::secrecy::zeroize::Zeroizing;
pub use age::secrecy::{ExposeSecret, SecretSlice};
