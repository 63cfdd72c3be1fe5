//! What the objects in S3 are to be: encrypted, classed, tagged, locked. The words of the settings that say so.
//!
//! Pure. Which of them go together, and what becomes of them in a request, is decided in `storage::s3::request`.

use std::path::{Path, PathBuf};

use crate::config::value::{Choice, Value};
use crate::error::{Error, Kind, Result};

/// Server-side encryption with keys that the service keeps (Amazon S3 API Reference, PutObject,
/// `x-amz-server-side-encryption`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sse {
    /// Keys of S3's own.
    S3,
    /// A key of KMS.
    Kms,
    /// A key of KMS, in two layers.
    KmsTwice,
}

impl Choice for Sse {
    const WORDS: &'static [(&'static str, Sse)] =
        &[("AES256", Sse::S3), ("aws:kms", Sse::Kms), ("aws:kms:dsse", Sse::KmsTwice)];
}

/// A canned ACL, of those that do not show a database to strangers (Amazon S3 User Guide, "Canned ACL").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Acl {
    /// For whoever stored the object alone.
    Private,
    /// The bucket's owner may read it.
    BucketOwnerRead,
    /// The bucket's owner may do everything with it.
    BucketOwnerFullControl,
}

impl Choice for Acl {
    const WORDS: &'static [(&'static str, Acl)] = &[
        ("private", Acl::Private),
        ("bucket-owner-read", Acl::BucketOwnerRead),
        ("bucket-owner-full-control", Acl::BucketOwnerFullControl),
    ];
}

/// How strictly an object is locked (Amazon S3 User Guide, "Object Lock retention modes").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockMode {
    /// Whoever has `s3:BypassGovernanceRetention` may delete it all the same.
    Governance,
    /// Nobody can delete it before its time, the account's root neither.
    Compliance,
}

impl Choice for LockMode {
    const WORDS: &'static [(&'static str, LockMode)] =
        &[("governance", LockMode::Governance), ("compliance", LockMode::Compliance)];
}

/// The name of a storage class: Amazon's, or one that another store has of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StorageClass(String);

/// Longer than any class that is known.
const LONGEST_CLASS: usize = 64;

impl StorageClass {
    /// As it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Must an object of this class be restored before it can be read (Amazon S3 User Guide, "Understanding S3 Glacier
    /// storage classes for long-term data storage")?
    pub fn is_frozen(&self) -> bool {
        ["GLACIER", "DEEP_ARCHIVE"].contains(&self.as_str())
    }
}

impl Value for StorageClass {
    fn read(text: &str) -> Result<StorageClass> {
        let letter = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        let legal = (1..=LONGEST_CLASS).contains(&text.len()) && text.bytes().all(letter);
        legal.then(|| StorageClass(text.to_owned())).ok_or_else(|| {
            Error::new(Kind::Usage, format!("\"{}\" is not the name of a storage class", text.escape_debug()))
                .hint("Write it as S3 does, such as STANDARD_IA or INTELLIGENT_TIERING.")
        })
    }
}

/// A key of KMS: its id, its ARN, or an alias of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KmsKey(String);

/// The longest identifier that KMS takes (AWS KMS API Reference, GenerateDataKey, `KeyId`).
const LONGEST_KMS_KEY: usize = 2048;

impl KmsKey {
    /// As it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for KmsKey {
    fn read(text: &str) -> Result<KmsKey> {
        let legal = (1..=LONGEST_KMS_KEY).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        legal.then(|| KmsKey(text.to_owned())).ok_or_else(|| {
            Error::new(Kind::Usage, format!("\"{}\" is not a key of KMS", text.escape_debug()))
                .hint("Write its id, its ARN (arn:aws:kms:REGION:ACCOUNT:key/ID), or an alias (alias/NAME).")
        })
    }
}

/// A file that more than one process has to find, so by its absolute path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AbsolutePath(pub PathBuf);

impl Value for AbsolutePath {
    fn read(text: &str) -> Result<AbsolutePath> {
        let path = Path::new(text);
        path.is_absolute().then(|| AbsolutePath(path.to_owned())).ok_or_else(|| {
            Error::new(Kind::Usage, format!("\"{text}\" is not an absolute path"))
                .hint("Write it from the root on: the server runs its commands in another directory.")
        })
    }
}

/// The tags of an object, in the order given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tags(Vec<(String, String)>);

/// Tags that an object can have, and the characters of a key and of a value (Amazon S3 User Guide, "Categorizing your
/// objects using tags").
const MOST_TAGS: usize = 10;
const LONGEST_TAG: [usize; 2] = [128, 256];

impl Tags {
    /// Keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl Value for Tags {
    /// `KEY=VALUE`, several of them with commas between, which no tag may have in it.
    fn read(text: &str) -> Result<Tags> {
        let refused =
            |what: String| Error::new(Kind::Usage, what).hint("Write KEY=VALUE, or several: team=db,env=prod.");
        let mut tags: Vec<(String, String)> = Vec::new();
        for tag in text.split(',') {
            let (key, value) = tag.split_once('=').ok_or_else(|| refused(format!("\"{tag}\" is not KEY=VALUE")))?;
            let fits = !key.is_empty() && [key, value].iter().zip(LONGEST_TAG).all(|(part, most)| is_legal(part, most));
            if !fits || key.to_ascii_lowercase().starts_with("aws:") {
                return Err(refused(format!("\"{}\" cannot be a tag", tag.escape_debug())));
            }
            if tags.iter().any(|(other, _)| other == key) {
                return Err(refused(format!("the tag {key} is given twice")));
            }
            tags.push((key.to_owned(), value.to_owned()));
        }
        match tags.len() {
            0..=MOST_TAGS => Ok(Tags(tags)),
            count => Err(refused(format!("{count} tags are more than the {MOST_TAGS} that an object can have"))),
        }
    }
}

fn is_legal(part: &str, most: usize) -> bool {
    part.chars().count() <= most && part.chars().all(|c| c.is_alphanumeric() || " +-=._:/@".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in ".{0,32}|[-=,a-zA-Z:/ ]{0,32}") {
            let _ = (Tags::read(&text), KmsKey::read(&text), StorageClass::read(&text), AbsolutePath::read(&text));
        }

        #[test]
        fn tags_are_read_as_they_are_written(tags in prop::collection::btree_map("[b-z0-9 +._:/@-]{1,20}", "[a-z0-9 +=._:/@-]{0,20}", 1..=10)) {
            let text = tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
            let read = Tags::read(&text).unwrap();
            prop_assert!(read.iter().eq(tags.iter().map(|(key, value)| (key.as_str(), value.as_str()))));
        }
    }

    #[test]
    fn what_s3_would_refuse_as_a_tag_is_refused_at_once() {
        let long = format!("{}=x", "k".repeat(129));
        let many = (0..11).map(|number| format!("k{number}=v")).collect::<Vec<_>>().join(",");
        for text in
            ["", "key", "=value", "a=b,", "a=b,a=c", "aws:a=b", "AWS:a=b", "a=\"b\"", "a=b;c=d", "a=\n", &long, &many]
        {
            let error = Tags::read(text).unwrap_err();
            assert!(error.advice().unwrap().contains("KEY=VALUE"), "{text:?}");
        }
        let umlauts = format!("{}={}", "ü".repeat(128), "ü".repeat(256));
        assert!(Tags::read(&umlauts).is_ok());
        assert_eq!(Tags::read("a==b").unwrap().iter().next(), Some(("a", "=b")));
    }

    #[test]
    fn classes_and_keys_are_what_can_stand_in_a_header() {
        for text in ["", "standard_ia", "STANDARD IA", "STANDARD-IA"] {
            assert!(StorageClass::read(text).is_err(), "{text:?}");
        }
        assert!(StorageClass::read("DEEP_ARCHIVE").unwrap().is_frozen());
        assert!(!StorageClass::read("GLACIER_IR").unwrap().is_frozen());
        for text in ["", "a b", "a\r\nx: y", "schlüssel"] {
            assert!(KmsKey::read(text).is_err(), "{text:?}");
        }
        assert!(KmsKey::read("arn:aws:kms:eu-central-1:111111111111:key/1234abcd-12ab").is_ok());
    }

    #[test]
    fn a_file_for_several_processes_is_named_from_the_root_on() {
        assert_eq!(AbsolutePath::read("/etc/key").unwrap(), AbsolutePath("/etc/key".into()));
        for text in ["", "key", "./key"] {
            assert!(AbsolutePath::read(text).is_err(), "{text:?}");
        }
    }
}
