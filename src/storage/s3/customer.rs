//! A key of the user's own, with which S3 encrypts and which it does not keep (SSE-C).
//!
//! Read from a file that nobody else can read, and shown to nobody: not in a log, not in a message.

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};

use crate::crypt::file::read_private;
use crate::error::{Error, Kind, Result};

/// Bytes of a key: S3 takes AES-256 alone (Amazon S3 User Guide, "Using server-side encryption with customer-provided
/// keys").
const SIZE: usize = 32;

/// More than any way of writing a key takes.
const LONGEST: u64 = 128;

/// A key, as its three headers have it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct CustomerKey {
    key: String,
    md5: String,
}

impl fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomerKey")
    }
}

impl CustomerKey {
    /// Reads 32 bytes, as they are or in Base64; the end of a line may follow.
    ///
    /// # Errors
    /// [`Kind::Config`] if it is no key, or if others can read it; an error of the local machine if it cannot be read.
    pub fn read(path: &Path) -> Result<CustomerKey> {
        let shown = path.display();
        let hint = "Name a file that this user can read with --s3-sse-c-key-file or WALDEN_S3_SSE_C_KEY_FILE.";
        let content = read_private(path, LONGEST, hint)?;
        CustomerKey::parse(&content).ok_or_else(|| {
            Error::new(Kind::Config, format!("the file \"{shown}\" does not hold a key"))
                .detail(format!("a key has {SIZE} bytes, as they are or in Base64"))
                .hint(format!(
                    "Make one with (umask 077; openssl rand -base64 {SIZE} >'{shown}'), and keep a copy elsewhere."
                ))
        })
    }

    fn parse(content: &[u8]) -> Option<CustomerKey> {
        // A key as it is may end like a line, so the whole comes first.
        let ways = [Some(content), content.strip_suffix(b"\n"), content.strip_suffix(b"\r\n")];
        let plain = ways.into_iter().flatten().find(|bytes| bytes.len() == SIZE).map(<[u8]>::to_vec);
        let key = match plain {
            Some(key) => key,
            None => STANDARD.decode(content.trim_ascii_end()).ok().filter(|key| key.len() == SIZE)?,
        };
        Some(CustomerKey { md5: STANDARD.encode(Md5::digest(&key)), key: STANDARD.encode(key) })
    }

    /// `x-amz-server-side-encryption-customer-algorithm`.
    pub fn algorithm(&self) -> String {
        String::from("AES256")
    }

    /// `x-amz-server-side-encryption-customer-key`.
    pub fn key(&self) -> String {
        self.key.clone()
    }

    /// `x-amz-server-side-encryption-customer-key-MD5`, by which S3 sees that the key came whole.
    pub fn md5(&self) -> String {
        self.md5.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    proptest! {
        #[test]
        fn a_key_is_the_same_however_it_is_written(bytes: [u8; SIZE]) {
            let plain = CustomerKey::parse(&bytes).unwrap();
            prop_assert_eq!(STANDARD.decode(plain.key()).unwrap(), bytes.to_vec());
            let base64 = STANDARD.encode(bytes);
            for text in [base64.clone().into_bytes(), format!("{base64}\n").into_bytes(), format!("{base64}\r\n").into_bytes()] {
                prop_assert!(CustomerKey::parse(&text).unwrap() == plain);
            }
            prop_assert!(CustomerKey::parse(&[&bytes[..], b"\n"].concat()).unwrap() == plain);
            let shown = format!("{plain:?}");
            prop_assert!(!shown.contains(&base64));
        }

        #[test]
        fn what_has_not_the_length_of_a_key_is_none(content in prop::collection::vec(any::<u8>(), 0..31)) {
            prop_assert_eq!(CustomerKey::parse(&content), None);
            let base64 = STANDARD.encode(&content);
            // That of 24 bytes has 32 letters, which are a key as they are.
            prop_assert_eq!(CustomerKey::parse(base64.as_bytes()).is_some(), base64.len() == SIZE);
        }
    }

    /// 32 times the letter "a".
    #[test]
    fn the_digest_is_that_of_the_key_and_not_of_its_base64() {
        let key = CustomerKey::parse(&[b'a'; SIZE]).unwrap();
        // printf %032d 0 | tr 0 a | openssl md5 -binary | base64
        assert_eq!(key.md5(), "Xsqb0+sHwAbNQ65I395/0w==");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_command_that_mends_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, [7; SIZE]).unwrap();
        for mode in [0o644, 0o640, 0o604, 0o622] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = CustomerKey::read(&path);
            // Root's own file may be readable by its group.
            if rustix::process::geteuid().is_root() && mode == 0o640 {
                assert!(error.is_ok());
                continue;
            }
            let error = error.unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{mode:o}");
            assert!(error.advice().unwrap().starts_with("Run chmod 600"), "{error:?}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(CustomerKey::read(&path).is_ok());
        assert_eq!(CustomerKey::read(directory.path()).unwrap_err().kind(), Kind::Config);
        assert_eq!(CustomerKey::read(&directory.path().join("absent")).unwrap_err().kind(), Kind::Local);
    }
}
