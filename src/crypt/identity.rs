//! Keys: the two halves of an age X25519 key, and the files that they come from.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use age::secrecy::zeroize::{Zeroize, Zeroizing};
use age::secrecy::{ExposeSecret, SecretString};
use age::x25519;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bech32::{Bech32, Hrp};

use super::file::read_private;
use crate::error::{Error, Kind, Result};

/// Bytes of the secret half (RFC 7748, 5).
pub const SECRET_SIZE: usize = 32;

/// The secret half as it is.
pub type Secret = Zeroizing<[u8; SECRET_SIZE]>;

/// What the text of an identity begins with (the age specification, "The X25519 recipient type").
const IDENTITY_PREFIX: &str = "AGE-SECRET-KEY-";

/// No file of keys is longer: some hundred identities with their comments.
const LONGEST_FILE: u64 = 64 << 10;

/// The secret half of a key, with which files are decrypted.
#[derive(Clone)]
pub struct Identity(pub(super) x25519::Identity);

impl fmt::Debug for Identity {
    /// Its public half alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.recipient())
    }
}

impl Identity {
    /// A new one, from the system's random numbers.
    pub fn generate() -> Identity {
        Identity(x25519::Identity::generate())
    }

    /// The one with this secret.
    ///
    /// # Errors
    /// None that is not a defect.
    pub fn from_secret(secret: &Secret) -> Result<Identity> {
        let hrp = Hrp::parse(IDENTITY_PREFIX).map_err(unencodable)?;
        let text = Zeroizing::new(bech32::encode_upper::<Bech32>(hrp, &secret[..]).map_err(unencodable)?);
        Identity::parse(&text).ok_or_else(|| Error::new(Kind::Bug, "a key cannot be written as an age identity"))
    }

    /// Reads `AGE-SECRET-KEY-1…`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Identity> {
        text.parse().ok().map(Identity)
    }

    /// As age writes it: `AGE-SECRET-KEY-1…`.
    pub fn text(&self) -> SecretString {
        self.0.to_string()
    }

    /// The secret itself.
    ///
    /// # Errors
    /// None that is not a defect.
    pub fn secret(&self) -> Result<Secret> {
        let text = self.text();
        let (_, mut bytes) = bech32::decode(text.expose_secret())
            .map_err(|_| Error::new(Kind::Bug, "an age identity cannot be read back"))?;
        let secret = <[u8; SECRET_SIZE]>::try_from(&bytes[..]).map(Zeroizing::new);
        bytes.zeroize();
        secret.map_err(|_| Error::new(Kind::Bug, "an age identity has another length than it should have"))
    }

    /// The public half.
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }
}

/// Says nothing of what could not be encoded.
fn unencodable(_: impl std::error::Error) -> Error {
    Error::new(Kind::Bug, "a key cannot be written in Bech32")
}

/// The public half of a key, for which files are encrypted. It is no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(pub(super) x25519::Recipient);

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Recipient {
    type Err = Error;

    /// Reads `age1…`. The error does not quote the text: it may be a secret at the wrong place.
    fn from_str(text: &str) -> Result<Recipient> {
        crate::config::encryption::recipient(text)
            .map(Recipient)
            .map_err(|cause| Error::new(Kind::Usage, "it is not the recipient of an age key").detail(cause))
    }
}

/// What a file of keys holds.
#[derive(Debug)]
pub enum KeyFile {
    /// One key in 64 hexadecimal digits or in Base64: whoever has the file can write and read.
    Symmetric(Identity),
    /// Identities as `age-keygen` and `walden keygen` write them.
    Identities(Vec<Identity>),
}

impl KeyFile {
    /// Reads a file of keys; `hint` says how to name another one.
    ///
    /// # Errors
    /// [`Kind::Config`] if others can read it, or if it is none, saying by name what it is instead; no error quotes what
    /// is in it.
    pub fn read(path: &Path, hint: &str) -> Result<KeyFile> {
        let content = read_private(path, LONGEST_FILE, hint)?;
        if content.len() as u64 == LONGEST_FILE {
            return Err(refused(path, "it is longer than any file of keys").hint(hint));
        }
        parse(&content).map_err(|why| refused(path, &why).hint(advice(path)))
    }

    /// All its identities.
    pub fn into_identities(self) -> Vec<Identity> {
        match self {
            KeyFile::Symmetric(identity) => vec![identity],
            KeyFile::Identities(identities) => identities,
        }
    }
}

fn refused(path: &Path, why: &str) -> Error {
    Error::new(Kind::Config, format!("the key file \"{}\" cannot be used", path.display())).detail(why)
}

fn advice(path: &Path) -> String {
    format!(
        "Make an age identity with walden keygen FILE, or a symmetric key with (umask 077; openssl rand -hex 32 >FILE); \
         '{}' is neither.",
        path.display()
    )
}

/// What cannot be used, and what it is called: by the beginning of a line.
const FOREIGN: [(&str, &str); 8] = [
    ("age1", "it holds an age recipient, the public half of a key, where the private half belongs"),
    ("AGE-SECRET-KEY-PQ-", "it holds a post-quantum age identity, of which walden makes no use: X25519 ones alone"),
    ("AGE-PLUGIN-", "it holds the identity of an age plugin, and walden runs no plugins"),
    ("-----BEGIN AGE ENCRYPTED FILE-----", "it is protected by a passphrase, and nobody could type that here"),
    ("age-encryption.org/", "it is protected by a passphrase, and nobody could type that here"),
    ("-----BEGIN OPENSSH PRIVATE KEY-----", "it holds an SSH key, of which walden makes no use"),
    ("-----BEGIN", "it holds a key in PEM, of which walden makes no use"),
    ("ssh-", "it holds an SSH key, of which walden makes no use"),
];

fn parse(content: &[u8]) -> Result<KeyFile, String> {
    if content.trim_ascii().is_empty() {
        return Err("it is empty".to_owned());
    }
    // Thirty-two bytes as they are may well end like a line: a form makes sure that nothing was cut or added.
    let Ok(text) = str::from_utf8(content) else {
        let size = content.len();
        return Err(format!("its {size} bytes are no text: a key is written as 64 hexadecimal digits, or in Base64"));
    };
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let lines: Vec<(usize, &str)> = lines.collect();
    if let [(_, only)] = lines.as_slice()
        && let Some(outcome) = symmetric(only)
    {
        return outcome.map(KeyFile::Symmetric);
    }
    let identities = lines.into_iter().map(|(number, line)| {
        Identity::parse(line).ok_or_else(|| {
            let foreign = FOREIGN.iter().find(|(beginning, _)| line.starts_with(beginning));
            let why = foreign.map_or("it is no age identity", |(_, why)| why);
            format!("line {}: {why}", number + 1)
        })
    });
    let identities: Vec<Identity> = identities.collect::<Result<_, String>>()?;
    match identities.is_empty() {
        true => Err("it holds comments alone".to_owned()),
        false => Ok(KeyFile::Identities(identities)),
    }
}

/// The key that is written as this word; `None` if it seems to be written in another way.
fn symmetric(word: &str) -> Option<Result<Identity, String>> {
    if word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let digits = word.len();
        if digits != 2 * SECRET_SIZE {
            return Some(Err(format!("it has {digits} hexadecimal digits, and a key has {}", 2 * SECRET_SIZE)));
        }
        let mut secret = Secret::default();
        for (byte, pair) in secret.iter_mut().zip(word.as_bytes().chunks(2)) {
            *byte = str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())?;
        }
        return Some(Identity::from_secret(&secret).map_err(|error| error.to_string()));
    }
    if FOREIGN.iter().any(|(beginning, _)| word.starts_with(beginning)) {
        return None;
    }
    let bytes = Zeroizing::new(STANDARD.decode(word).ok()?);
    Some(match <[u8; SECRET_SIZE]>::try_from(&bytes[..]) {
        Ok(secret) => Identity::from_secret(&Zeroizing::new(secret)).map_err(|error| error.to_string()),
        Err(_) => Err(format!("it has {} bytes in Base64, and a key has {SECRET_SIZE}", bytes.len())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    proptest! {
        #[test]
        fn a_symmetric_key_is_the_same_however_it_is_written(bytes: [u8; SECRET_SIZE]) {
            let secret = Zeroizing::new(bytes);
            let identity = Identity::from_secret(&secret).unwrap();
            prop_assert_eq!(&identity.secret().unwrap()[..], &bytes[..]);
            for text in [hex(&bytes), hex(&bytes).to_uppercase() + "\n", STANDARD.encode(bytes) + "\r\n"] {
                match parse(text.as_bytes()) {
                    Ok(KeyFile::Symmetric(read)) => prop_assert_eq!(read.recipient(), identity.recipient()),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }

        #[test]
        fn a_key_of_another_length_is_refused_with_both(bytes in prop::collection::vec(any::<u8>(), 1..80)) {
            prop_assume!(bytes.len() != SECRET_SIZE && bytes.len() != 48);
            for text in [hex(&bytes), STANDARD.encode(&bytes)] {
                // What is Base64 of no length can look like hexadecimal digits, and the other way round.
                let why = parse(text.as_bytes()).unwrap_err();
                prop_assert!(why.contains("a key has"), "{}", why);
            }
        }

        #[test]
        fn no_error_quotes_what_is_in_the_file(content in "[A-Za-z0-9+/=-]{12,60}") {
            if let Err(why) = parse(content.as_bytes()) {
                prop_assert!(!why.contains(&content));
            }
        }
    }

    #[test]
    fn thirty_two_bytes_without_a_form_are_refused() {
        for size in [31, 32, 33] {
            let why = parse(&vec![0xAB; size]).unwrap_err();
            assert!(why.contains(&format!("{size} bytes")), "{why}");
        }
    }

    #[test]
    fn identities_are_read_with_comments_between_them() {
        let (one, two) = (Identity::generate(), Identity::generate());
        let text = format!(
            "# created: now\n# public key: {}\n{}\n\n{}\n",
            one.recipient(),
            one.text().expose_secret(),
            two.text().expose_secret()
        );
        let read = parse(text.as_bytes()).unwrap().into_identities();
        assert_eq!(read.iter().map(Identity::recipient).collect::<Vec<_>>(), [one.recipient(), two.recipient()]);
        let shown = format!("{read:?}");
        assert!(!shown.contains("AGE-SECRET-KEY"), "{shown}");
    }

    #[test]
    fn what_is_no_key_of_ours_is_refused_by_its_name() {
        let public = Identity::generate().recipient().to_string();
        for (content, name) in [
            (public.as_str(), "public half"),
            ("AGE-SECRET-KEY-PQ-1ABC", "post-quantum"),
            ("AGE-PLUGIN-YUBIKEY-1ABC", "plugin"),
            ("-----BEGIN AGE ENCRYPTED FILE-----\nabc\n", "passphrase"),
            ("age-encryption.org/v1\n-> scrypt a b\n", "passphrase"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n", "SSH"),
            ("ssh-ed25519 AAAA me@here", "SSH"),
            ("-----BEGIN PRIVATE KEY-----\nabc\n", "PEM"),
            ("AGE-SECRET-KEY-1QQQQQQ", "no age identity"),
            ("# nothing\n", "comments"),
            (" \n", "empty"),
            ("", "empty"),
        ] {
            let why = parse(content.as_bytes()).unwrap_err();
            assert!(why.contains(name), "{content:?}: {why}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, hex(&[7; SECRET_SIZE])).unwrap();
        for mode in [0o644, 0o604, 0o660] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = KeyFile::read(&path, "Name another.").unwrap_err();
            assert_eq!((error.kind(), error.advice().unwrap().starts_with("Run chmod 600")), (Kind::Config, true));
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(KeyFile::read(&path, "Name another.").is_ok());
    }

    #[test]
    fn a_recipient_that_cannot_be_read_is_not_quoted() {
        for text in ["AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33", "age1x", "hunter2"] {
            let error = text.parse::<Recipient>().unwrap_err();
            assert!(!format!("{error:?}").contains(text), "{error:?}");
        }
    }
}
