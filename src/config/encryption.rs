//! For whom archives are encrypted, and with what they are decrypted: the words of the settings that say so.
//!
//! Pure: whether a file is there, and what is in it, is looked at by `crypt`. No error quotes what was given: it may be a
//! secret at the wrong place.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::value::Value;
use crate::error::{Error, Kind, Result};

/// Who can read what is encrypted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EncryptTo {
    /// Whoever has the private half of this age key, `age1…`.
    Age(String),
    /// Whoever may use this key of KMS, by its ARN or that of an alias.
    Kms(String),
    /// Whoever has this file.
    KeyFile(PathBuf),
}

impl fmt::Display for EncryptTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncryptTo::Age(text) | EncryptTo::Kms(text) => f.write_str(text),
            EncryptTo::KeyFile(path) => write!(f, "{}", path.display()),
        }
    }
}

const FORMS: &str = "Write the recipient of an age key (age1..., which walden keygen FILE prints), the ARN of a key of KMS \
                     (arn:aws:kms:REGION:ACCOUNT:key/ID or alias/NAME), or the absolute path of a file with a symmetric key.";

/// What is given by mistake, by its beginning, and what is to be said of it. Secrets come first.
const MISTAKES: [(&str, &str); 7] = [
    ("AGE-SECRET-KEY-", "it is the private half of an age key, which writers need not have: give its public half"),
    ("AGE-PLUGIN-", "it is the identity of an age plugin, and walden runs no plugins"),
    ("age1tagpq1", "it is a recipient of an age plugin, and walden runs no plugins"),
    ("age1tag1", "it is a recipient of an age plugin, and walden runs no plugins"),
    ("age1pq1", "it is a post-quantum recipient, of which walden makes no use: X25519 ones alone"),
    ("age1yubikey1", "it is a recipient of an age plugin, and walden runs no plugins"),
    ("ssh-", "it is an SSH key, of which walden makes no use"),
];

impl Value for EncryptTo {
    fn read(text: &str) -> Result<EncryptTo> {
        let refused = |why: &str| Err(Error::new(Kind::Usage, why).hint(FORMS));
        let is = |beginning: &str| text.get(..beginning.len()).is_some_and(|own| own.eq_ignore_ascii_case(beginning));
        if let Some((_, why)) = MISTAKES.iter().find(|(beginning, _)| is(beginning)) {
            return refused(why);
        }
        if text.starts_with("age1") {
            return match recipient(text) {
                Ok(recipient) => Ok(EncryptTo::Age(recipient.to_string())),
                Err(cause) => refused(&format!("it is not the recipient of an age key: {cause}")),
            };
        }
        if text.starts_with("arn:") {
            return match region_of_key(text) {
                Some(_) => Ok(EncryptTo::Kms(text.to_owned())),
                None => refused("it is not the ARN of a key of KMS"),
            };
        }
        match Path::new(text).is_absolute() {
            true => Ok(EncryptTo::KeyFile(PathBuf::from(text))),
            false => refused("it is neither a recipient, nor an ARN, nor an absolute path"),
        }
    }
}

/// The points of small order, as they are written: with them every secret has the same outcome (RFC 7748, 6.1; the five below
/// 2^255 - 19 of "May the Fourth Be With You", 2017, table 2). For one of these the crate panics.
const SMALL_ORDER: [[u8; 32]; 5] = {
    let mut points = [[0; 32]; 5];
    points[1][0] = 1;
    points[2] = [
        0xE0, 0xEB, 0x7A, 0x7C, 0x3B, 0x41, 0xB8, 0xAE, 0x16, 0x56, 0xE3, 0xFA, 0xF1, 0x9F, 0xC4, 0x6A, 0xDA, 0x09,
        0x8D, 0xEB, 0x9C, 0x32, 0xB1, 0xFD, 0x86, 0x62, 0x05, 0x16, 0x5F, 0x49, 0xB8, 0x00,
    ];
    points[3] = [
        0x5F, 0x9C, 0x95, 0xBC, 0xA3, 0x50, 0x8C, 0x24, 0xB1, 0xD0, 0xB1, 0x55, 0x9C, 0x83, 0xEF, 0x5B, 0x04, 0x44,
        0x5C, 0xC4, 0x58, 0x1C, 0x8E, 0x86, 0xD8, 0x22, 0x4E, 0xDD, 0xD0, 0x9F, 0x11, 0x57,
    ];
    points[4] = PRIME;
    points[4][0] -= 1;
    points
};

/// 2^255 - 19, the lowest byte first. What is not below it is another way to write a smaller number, which the crate would wrap
/// for a key that nobody has.
const PRIME: [u8; 32] = {
    let mut prime = [0xFF; 32];
    (prime[0], prime[31]) = (0xED, 0x7F);
    prime
};

/// Reads the recipient of an age key. One that no secret belongs to is refused.
///
/// # Errors
/// Why it is none; without the text, which may be a secret.
pub fn recipient(text: &str) -> std::result::Result<age::x25519::Recipient, &'static str> {
    let recipient = text.parse::<age::x25519::Recipient>()?;
    let (_, bytes) = bech32::decode(text).map_err(|_| "invalid Bech32 encoding")?;
    let is_canonical = bytes.iter().rev().lt(PRIME.iter().rev());
    match is_canonical && !SMALL_ORDER.iter().any(|point| point[..] == bytes) {
        true => Ok(recipient),
        false => Err("no secret belongs to it"),
    }
}

/// The region in the ARN of a key of KMS, or of an alias of one; `None` for what is no such ARN (Service Authorization
/// Reference, "Resource types defined by AWS Key Management Service").
pub fn region_of_key(arn: &str) -> Option<&str> {
    let fields: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", partition, "kms", region, account, resource] = fields.as_slice() else { return None };
    let word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let name = resource.strip_prefix("key/").or_else(|| resource.strip_prefix("alias/"))?;
    let named = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_/".contains(&byte));
    ([partition, region, account].into_iter().all(|field| word(field)) && named).then_some(*region)
}

/// A file with keys to decrypt with, which more than one process has to find, so by its absolute path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdentityPath(pub PathBuf);

impl Value for IdentityPath {
    fn read(text: &str) -> Result<IdentityPath> {
        const HINT: &str = "Write the absolute path of a file with age identities, as walden keygen FILE makes them, or with \
                            a symmetric key.";
        let refused = |why: &str| Err(Error::new(Kind::Usage, why).hint(HINT));
        if text.get(..15).is_some_and(|beginning| beginning.eq_ignore_ascii_case("AGE-SECRET-KEY-")) {
            return refused("it is a key, and what is wanted is the file that holds one");
        }
        match Path::new(text).is_absolute() {
            true => Ok(IdentityPath(PathBuf::from(text))),
            false => refused("it is not an absolute path"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
    const SECRET: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";

    #[test]
    fn each_form_is_known_by_how_it_begins() {
        let key = "arn:aws:kms:eu-central-1:111111111111:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        let alias = "arn:aws-cn:kms:cn-north-1:111111111111:alias/walden";
        for (text, expected) in [
            (PUBLIC, EncryptTo::Age(PUBLIC.to_owned())),
            (key, EncryptTo::Kms(key.to_owned())),
            (alias, EncryptTo::Kms(alias.to_owned())),
            ("/etc/walden.d/.key", EncryptTo::KeyFile(PathBuf::from("/etc/walden.d/.key"))),
        ] {
            assert_eq!(EncryptTo::read(text).unwrap(), expected);
            assert_eq!(expected.to_string(), text);
        }
        assert_eq!((region_of_key(key), region_of_key(alias)), (Some("eu-central-1"), Some("cn-north-1")));
    }

    /// All but the last are points of small order; that one is 2^255 - 19, which is 0 written in another way.
    #[test]
    fn a_recipient_that_no_secret_belongs_to_is_refused() {
        for text in [
            "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z",
            "age1ur4h5lpmgxu2u9jku0a0r87ydtdqnr0tnsetrlvxvgz3vh6fhqqqzyt4v9",
            "age1t7wft09r2zxzfvwsk92eeql0tvzyghxytqwgapkcyf8dm5ylz9ts6wm9s8",
            "age1anlllllllllllllllllllllllllllllllllllllllllllllllals4n2t7m",
            "age1ahlllllllllllllllllllllllllllllllllllllllllllllllalsn46ayy",
        ] {
            assert_eq!(recipient(text).err(), Some("no secret belongs to it"), "{text}");
        }
    }

    #[test]
    fn what_is_none_of_them_is_refused_by_its_name_and_never_quoted() {
        for (text, name) in [
            (SECRET, "private half"),
            (&SECRET.to_lowercase(), "private half"),
            ("age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t", "plugin"),
            ("age1pq1abc", "post-quantum"),
            ("ssh-ed25519", "SSH"),
            (&PUBLIC[..61], "not the recipient"),
            (&format!("{PUBLIC}a"), "not the recipient"),
            ("arn:aws:s3:::bucket", "not the ARN of a key"),
            ("arn:aws:kms:eu-central-1:1:key/", "not the ARN of a key"),
            ("alias/walden", "neither"),
            ("key", "neither"),
            ("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff", "neither"),
            ("", "neither"),
        ] {
            let error = EncryptTo::read(text).unwrap_err();
            assert!(error.what().contains(name), "{text}: {error:?}");
            // "key" is a word of the hint.
            assert!(text.len() < 4 || !format!("{error:?}").contains(text), "{error:?}");
        }
    }

    #[test]
    fn a_secret_in_place_of_its_file_is_not_quoted() {
        for text in [SECRET, "relative", ""] {
            let error = IdentityPath::read(text).unwrap_err();
            assert!(text.is_empty() || !format!("{error:?}").contains(text), "{error:?}");
        }
        assert_eq!(IdentityPath::read("/a/b").unwrap(), IdentityPath(PathBuf::from("/a/b")));
    }
}
