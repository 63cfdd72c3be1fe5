//! Data keys: what objects are encrypted for, and the small objects that hold them wrapped (docs/format.md, "Keys").
//!
//! A data key is an age identity of Walden's own. Its secret is never stored but wrapped, once or several times: for the
//! recipients whom the user named, or by a key of KMS. Pure: who asks KMS is `archive`.

use std::collections::BTreeMap;
use std::time::Duration;

use age::secrecy::zeroize::Zeroizing;
use age::secrecy::{ExposeSecret, SecretSlice};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::identity::{Identity, Recipient, SECRET_SIZE, Secret};
use super::{open, seal};
use crate::error::{Context, Error, Kind, Result};
use crate::layout::{self, DataKeyName, sealed};
use crate::postgres::control::SystemId;

/// More than the text of an identity takes.
const LONGEST_IDENTITY: usize = 256;

/// The content of a key object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyObject {
    /// The format version.
    pub format: u32,
    /// The version of Walden that wrapped it last.
    pub walden: String,
    /// Whose data it protects.
    pub system_id: SystemId,
    /// The data key's recipient, which is its name.
    pub key: DataKeyName,
    /// When the data key was made, by the clock of the host that made it.
    pub created: Timestamp,
    /// Its secret, wrapped in each of these ways; one of them is enough to open it.
    pub wrapped: Vec<Envelope>,
}

/// One way in which a secret is wrapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Envelope {
    /// An age file with the text of the identity.
    Age {
        /// For whom, in the order in which they were named; the age file itself does not tell.
        recipients: Vec<String>,
        /// The age file, in Base64.
        age: String,
    },
    /// What KMS made of the 32 bytes of the secret.
    Kms {
        /// The ARN of the key.
        kms: String,
        /// What KMS calls the ciphertext blob, in Base64.
        ciphertext: String,
        /// The encryption context, which KMS wants to have again.
        context: BTreeMap<String, String>,
    },
    /// A way of a newer version.
    Other(serde_json::Value),
}

impl KeyObject {
    /// A data key that is being made now.
    pub fn new(system_id: SystemId, identity: &Identity, wrapped: Vec<Envelope>) -> KeyObject {
        let created = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let key = DataKeyName::of(&identity.recipient().to_string());
        KeyObject {
            format: layout::FORMAT,
            walden: env!("CARGO_PKG_VERSION").to_owned(),
            system_id,
            key,
            created,
            wrapped,
        }
    }

    /// The content of the object.
    ///
    /// # Errors
    /// None that is not a defect.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        sealed::to_json("a key object", self)
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it is damaged, [`Kind::Refused`] for a newer format.
    pub fn from_json(content: &[u8]) -> Result<KeyObject> {
        sealed::from_json("the key object", content)
    }

    /// For whom it is wrapped: recipients, and keys of KMS. Fit to be printed: others may have written them.
    pub fn holders(&self) -> Vec<String> {
        let holders = self.wrapped.iter().flat_map(|envelope| match envelope {
            Envelope::Age { recipients, .. } => recipients.clone(),
            Envelope::Kms { kms, .. } => vec![kms.clone()],
            Envelope::Other(_) => vec!["something that this version does not know".to_owned()],
        });
        holders.map(|holder| holder.chars().filter(|letter| !letter.is_control()).collect()).collect()
    }

    /// Opens it with one of these identities; `None` if it is wrapped for none of them.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it holds another key than it says.
    pub fn open(&self, identities: &[Identity]) -> Result<Option<Identity>> {
        for envelope in &self.wrapped {
            let Envelope::Age { age, .. } = envelope else { continue };
            let age = STANDARD.decode(age).map_err(|error| corrupt(&error.to_string()))?;
            let opened = open::open(&age, identities, LONGEST_IDENTITY).map_err(|error| corrupt(&error.to_string()))?;
            if let Some(text) = opened {
                let text = str::from_utf8(text.expose_secret()).unwrap_or_default();
                return self.check(Identity::parse(text.trim_end())).map(Some);
            }
        }
        Ok(None)
    }

    /// The identity whose secret KMS has given back.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it is another key than this says.
    pub fn open_secret(&self, secret: &SecretSlice<u8>) -> Result<Identity> {
        self.check(identity_of(secret))
    }

    fn check(&self, identity: Option<Identity>) -> Result<Identity> {
        let identity = identity.ok_or_else(|| corrupt("what is wrapped in it is no age identity"))?;
        match self.key == DataKeyName::of(&identity.recipient().to_string()) {
            true => Ok(identity),
            false => Err(corrupt(&format!("what is wrapped in it is the key {}", identity.recipient()))),
        }
    }
}

/// How long a host writes with the same data key, at most. Shorter would make more key objects, longer would let who once
/// had one read more.
pub const DATA_KEY_LIFE: Duration = Duration::from_secs(30 * 86_400);

/// The identity with this secret; `None` if it has the wrong length.
pub fn identity_of(secret: &SecretSlice<u8>) -> Option<Identity> {
    let bytes = <[u8; SECRET_SIZE]>::try_from(secret.expose_secret()).ok()?;
    let secret: Secret = Zeroizing::new(bytes);
    Identity::from_secret(&secret).ok()
}

/// Wraps a secret for all of these recipients, each of whom can open it alone; proves it before it is used.
///
/// # Errors
/// [`Kind::Bug`] if what came out is not for exactly so many.
pub fn wrap(identity: &Identity, recipients: &[Recipient]) -> Result<Envelope> {
    let secret = identity.text();
    // With room from the beginning: a text that grows leaves a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(secret.expose_secret().len() + 1));
    text.push_str(secret.expose_secret());
    text.push('\n');
    let file = seal::seal(text.as_bytes(), recipients).during(|| "could not wrap a data key")?;
    let head = open::head_length(&file).ok().flatten().unwrap_or_default();
    if open::count_recipients(&file[..head]) != recipients.len() {
        return Err(Error::new(Kind::Bug, "a data key was not wrapped for all of its recipients"));
    }
    Ok(Envelope::Age { recipients: recipients.iter().map(Recipient::to_string).collect(), age: STANDARD.encode(file) })
}

/// What KMS has wrapped.
pub fn wrapped_by_kms(kms: String, ciphertext: &[u8], context: BTreeMap<String, String>) -> Envelope {
    Envelope::Kms { kms, ciphertext: STANDARD.encode(ciphertext), context }
}

/// Does a data key do what it is for: what is encrypted for its recipient is decrypted with its secret?
///
/// # Errors
/// [`Kind::Bug`] if not.
pub fn prove(identity: &Identity) -> Result<()> {
    const PROBE: &[u8] = b"walden encrypts this to see whether it can be decrypted";
    let sealed = seal::seal(PROBE, &[identity.recipient()]);
    let opened = sealed.and_then(|sealed| open::open(&sealed, std::slice::from_ref(identity), PROBE.len()));
    match opened {
        Ok(Some(plain)) if plain.expose_secret() == PROBE => Ok(()),
        outcome => Err(Error::new(Kind::Bug, "what a new data key encrypts cannot be decrypted with it")
            .detail(outcome.err().map_or_else(|| "other bytes came out".to_owned(), |error| error.to_string()))),
    }
}

fn corrupt(detail: &str) -> Error {
    Error::new(Kind::Corrupt, "the key object is damaged").detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> (Identity, [Identity; 2], KeyObject) {
        let (data, holders) = (Identity::generate(), [Identity::generate(), Identity::generate()]);
        let envelope = wrap(&data, &holders.each_ref().map(Identity::recipient)).unwrap();
        let context = BTreeMap::from([("walden-system-id".to_owned(), "7".to_owned())]);
        let kms = wrapped_by_kms("arn:aws:kms:eu-central-1:1:key/x".to_owned(), b"blob", context);
        let object = KeyObject::new(SystemId(7), &data, vec![kms, envelope]);
        (data, holders, object)
    }

    #[test]
    fn a_key_object_is_plain_json_that_names_its_holders_and_never_its_secret() {
        let (data, holders, object) = object();
        let json = object.to_json().unwrap();
        assert_eq!(KeyObject::from_json(&json).unwrap(), object);
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value["key"], data.recipient().to_string());
        assert_eq!(value["wrapped"][1]["recipients"][0], holders[0].recipient().to_string());
        assert_eq!(value["wrapped"][0]["context"]["walden-system-id"], "7");
        let text = String::from_utf8(json).unwrap();
        assert!(!text.contains("AGE-SECRET-KEY") && !text.contains(data.text().expose_secret()));
        assert_eq!(object.holders().len(), 3);
    }

    #[test]
    fn each_holder_opens_it_and_nobody_else() {
        let (data, holders, object) = object();
        for holder in holders {
            let opened = object.open(&[Identity::generate(), holder]).unwrap().unwrap();
            assert_eq!(opened.recipient(), data.recipient());
        }
        assert!(object.open(&[Identity::generate()]).unwrap().is_none());
        assert!(object.open(&[]).unwrap().is_none());
        let secret = SecretSlice::from(data.secret().unwrap().to_vec());
        assert_eq!(object.open_secret(&secret).unwrap().recipient(), data.recipient());
        assert!(object.open_secret(&SecretSlice::from(vec![0; 31])).is_err());
    }

    #[test]
    fn an_object_that_holds_another_key_than_it_says_is_corrupt() {
        let (_, [holder, _], object) = object();
        let other = Identity::generate();
        let lying = KeyObject { key: DataKeyName::of(&other.recipient().to_string()), ..object };
        assert_eq!(lying.open(&[holder]).unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(lying.open_secret(&SecretSlice::from(vec![7; 32])).unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn a_way_of_the_future_is_passed_over() {
        let (data, [holder, _], object) = object();
        let body = serde_json::to_string(&object).unwrap().replace("\"wrapped\":[", "\"wrapped\":[{\"hsm\":1},");
        let read = KeyObject::from_json(&sealed::seal(format!("{},\n", body.trim_end_matches('}')))).unwrap();
        assert_eq!(read.open(&[holder]).unwrap().unwrap().recipient(), data.recipient());
    }

    #[test]
    fn a_new_key_is_proven() {
        prove(&Identity::generate()).unwrap();
    }
}
