//! The header that begins every object.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::layout::{self, DataKeyName};
use crate::postgres::control::SystemId;
use crate::wal::timeline::Timeline;

/// The magic number of the skippable frame that holds a header, one of the sixteen that RFC 8878 (3.1.2) sets aside.
const MAGIC: u32 = 0x184D_2A57;

/// Bytes before the content of a skippable frame: magic and length.
pub(super) const PREAMBLE: usize = 8;

/// No header is longer; a longer one is damage.
const LONGEST: usize = 64 << 10;

/// What the writer of an object knows about the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The file's own name, as in the key.
    pub name: String,
    /// Whose file it is.
    pub system_id: SystemId,
    /// For a WAL segment: the timeline of its first page, an ancestor of the name's where that began within the segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// For a WAL segment: the segment size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment_size: Option<u64>,
    /// The major version of PostgreSQL that wrote the file, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<u16>,
}

/// What an object says of itself. Fields may be added without a new format version; readers pass over those that they do
/// not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The format version; a reader refuses one that is newer than its own.
    pub format: u32,
    /// The version of Walden that wrote it.
    pub walden: String,
    /// What the file is.
    #[serde(flatten)]
    pub file: Description,
    /// How the payload is compressed.
    pub codec: Codec,
    /// How the payload is encrypted.
    pub encryption: Encryption,
    /// The data key that it is encrypted for, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<DataKeyName>,
    /// The length of the plain file in bytes.
    pub plain_size: u64,
    /// BLAKE3 of the plain file.
    pub plain_blake3: Digest,
    /// The length of the payload, which is all that follows the header, in bytes.
    pub stored_size: u64,
    /// BLAKE3 of the payload.
    pub stored_blake3: Digest,
}

/// How a payload is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// zstd frames (RFC 8878) with content checksums.
    Zstd,
}

/// How a payload is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// Not at all.
    None,
    /// As an age file.
    Age,
}

/// A BLAKE3 digest, in lower-case hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub blake3::Hash);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.to_hex())
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_hex())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        blake3::Hash::from_hex(text.as_bytes()).map(Digest).map_err(serde::de::Error::custom)
    }
}

/// No object's header takes more bytes, the preamble included.
pub const LONGEST_HEADER: usize = PREAMBLE + LONGEST;

/// The bytes that begin an object: the skippable frame with the header as a line of JSON and, on a second line, the BLAKE3
/// of the first. Spaces before the second line's end fill it up to `size` bytes, if that is given.
pub(super) fn build(header: &Header, size: Option<usize>) -> Result<Vec<u8>> {
    let json = serde_json::to_string(header)
        .map_err(|error| Error::new(Kind::Bug, "could not write an object's header").detail(error.to_string()))?;
    let mut content = format!("{json}\n{}", blake3::hash(json.as_bytes()).to_hex());
    let wanted = size.map_or(0, |size| size - PREAMBLE - 1);
    content.extend(std::iter::repeat_n(' ', wanted.saturating_sub(content.len())));
    content.push('\n');
    let mut bytes = Vec::with_capacity(PREAMBLE + content.len());
    bytes.extend_from_slice(&MAGIC.to_le_bytes());
    bytes.extend_from_slice(&(content.len() as u32).to_le_bytes());
    bytes.extend_from_slice(content.as_bytes());
    Ok(bytes)
}

/// Reads the header at the beginning of `bytes`: `None` while more of them are needed, else the header and its length.
///
/// # Errors
/// [`Kind::Corrupt`] for what is not a header, or is a damaged one; [`Kind::Refused`] for a newer format.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>> {
    let Some((magic, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if u32::from_le_bytes(*magic) != MAGIC || length > LONGEST {
        return Err(corrupt("it does not begin with the header of a Walden object"));
    }
    let Some(content) = rest.get(..length) else { return Ok(None) };
    let (json, digest) = std::str::from_utf8(content)
        .ok()
        .and_then(|content| content.strip_suffix('\n')?.split_once('\n'))
        .ok_or_else(|| corrupt("its header is not in the known form"))?;
    if digest.trim_end_matches(' ') != blake3::hash(json.as_bytes()).to_hex().as_str() {
        return Err(corrupt("the digest of its header is wrong"));
    }
    check_format(json)?;
    let header = serde_json::from_str(json).map_err(|error| corrupt(&format!("its header cannot be read: {error}")))?;
    Ok(Some((header, PREAMBLE + length)))
}

/// Looks at the version before anything else: a newer header may have fields in other forms.
fn check_format(json: &str) -> Result<()> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    match serde_json::from_str::<Version>(json) {
        Ok(Version { format }) => layout::check_format("the object", format),
        // Whoever reads all of it says what is wrong.
        Err(_) => Ok(()),
    }
}

fn corrupt(detail: &str) -> Error {
    Error::new(Kind::Corrupt, "the object is damaged").detail(detail)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::layout::FORMAT;
    use proptest::prelude::*;

    pub(crate) fn sample() -> Header {
        let digest = Digest(blake3::hash(b""));
        Header {
            format: FORMAT,
            walden: "0.1.0".into(),
            file: Description {
                name: "x".into(),
                system_id: SystemId(7),
                timeline: Some(Timeline(3)),
                segment_size: Some(1 << 24),
                postgres: Some(15),
            },
            codec: Codec::Zstd,
            encryption: Encryption::None,
            key: None,
            plain_size: 0,
            plain_blake3: digest,
            stored_size: 0,
            stored_blake3: digest,
        }
    }

    proptest! {
        #[test]
        fn parse_undoes_build(name in "[0-9A-F]{24}(\\.partial)?", system_id: u64, plain_size: u64, stored_size: u64, spare in 0usize..100) {
            let mut header = sample();
            header.file.name = name;
            header.file.system_id = SystemId(system_id);
            (header.plain_size, header.stored_size) = (plain_size, stored_size);
            let tight = build(&header, None).unwrap();
            let bytes = build(&header, Some(tight.len() + spare)).unwrap();
            prop_assert_eq!(bytes.len(), tight.len() + spare);
            prop_assert_eq!(parse(&bytes).unwrap(), Some((header, bytes.len())));
            prop_assert_eq!(parse(&bytes[..bytes.len() - 1]).unwrap(), None);
        }

        #[test]
        fn a_changed_bit_is_noticed(at in 0usize..400, bit in 0u8..8) {
            let mut bytes = build(&sample(), None).unwrap();
            let at = at % (bytes.len() - 1);
            bytes[at] ^= 1 << bit;
            // A longer length asks for more bytes; everything else is an error.
            prop_assert!(!matches!(parse(&bytes), Ok(Some(_))));
        }

        #[test]
        fn parse_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn a_newer_format_is_refused_before_its_fields_are_read() {
        let json = r#"{"format":3,"codec":{"name":"new"}}"#;
        let content = format!("{json}\n{}\n", blake3::hash(json.as_bytes()).to_hex());
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend((content.len() as u32).to_le_bytes());
        bytes.extend(content.as_bytes());
        assert_eq!(parse(&bytes).unwrap_err().kind(), Kind::Refused);
    }

    #[test]
    fn a_field_from_the_future_is_passed_over() {
        let json = serde_json::to_string(&sample()).unwrap().replace("\"codec\"", "\"new\":1,\"codec\"");
        let content = format!("{json}\n{}\n", blake3::hash(json.as_bytes()).to_hex());
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend((content.len() as u32).to_le_bytes());
        bytes.extend(content.as_bytes());
        assert_eq!(parse(&bytes).unwrap().unwrap().0, sample());
    }
}
