//! The form of the short JSON objects, `walden.json`, `backup.json` and their like: readable by anyone, and with a digest
//! of themselves.

use sha2::{Digest, Sha256};

use super::{CLEAR, check_format};
use crate::error::{Error, Kind, Result};

/// The content of [`Key::Marker`](super::Key::Marker).
pub fn marker() -> Vec<u8> {
    seal(format!("{{\"format\":{CLEAR},\n"))
}

/// The format version that a marker names.
///
/// # Errors
/// [`Kind::Corrupt`] if it is damaged.
pub fn marker_format(content: &[u8]) -> Result<u32> {
    #[derive(serde::Deserialize)]
    struct Marker {
        format: u32,
    }
    unseal(content).map(|Marker { format }| format)
}

/// The content of the object that says this: its JSON, sealed.
///
/// # Errors
/// [`Kind::Bug`] if it has no JSON; `what` names it then.
pub fn to_json(what: &str, object: &impl serde::Serialize) -> Result<Vec<u8>> {
    let json = serde_json::to_string_pretty(object)
        .map_err(|error| Error::new(Kind::Bug, format!("could not write {what}")).detail(error.to_string()))?;
    // The closing brace makes room for the digest.
    Ok(seal(format!("{},\n  ", json.trim_end_matches("\n}"))))
}

/// Reads what [`to_json`] wrote, where its `format` is one that this version knows.
///
/// # Errors
/// [`Kind::Corrupt`] if it is damaged, [`Kind::Refused`] for a newer format; `what` names it then.
pub fn from_json<T: serde::de::DeserializeOwned>(what: &str, content: &[u8]) -> Result<T> {
    #[derive(serde::Deserialize)]
    struct Version {
        format: u32,
    }
    let text = checked(content)?;
    let Version { format } = parse(text)?;
    check_format(what, format)?;
    parse(text)
}

/// Ends a JSON object whose last line is still open with the SHA-256 of all the bytes before that line, as PostgreSQL's
/// backup_manifest does ("Backup Manifest Format"): `"sha256":"…"}`.
pub fn seal(mut json: String) -> Vec<u8> {
    let sum = Sha256::digest(json.as_bytes());
    json.push_str("\"sha256\":\"");
    json.extend(sum.iter().map(|byte| format!("{byte:02x}")));
    json.push_str("\"}\n");
    json.into_bytes()
}

/// Checks what [`seal`] added and reads the object.
///
/// # Errors
/// [`Kind::Corrupt`] if the digest is missing or wrong, or the rest is not what it should be.
pub fn unseal<T: serde::de::DeserializeOwned>(content: &[u8]) -> Result<T> {
    parse(checked(content)?)
}

fn checked(content: &[u8]) -> Result<&str> {
    let text = std::str::from_utf8(content).map_err(|error| corrupt(error.to_string()))?;
    let body = text.rfind("\"sha256\":").map(|at| &text[..at]).ok_or_else(|| corrupt("it has no digest".into()))?;
    if seal(body.to_owned()) != content {
        return Err(corrupt("its digest is wrong".into()));
    }
    Ok(text)
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| corrupt(error.to_string()))
}

fn corrupt(detail: String) -> Error {
    Error::new(Kind::Corrupt, "the object is damaged").detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_changed_byte_is_noticed(at: prop::sample::Index, bit in 0u8..7) {
            let mut content = marker();
            let at = at.index(content.len());
            content[at] ^= 1 << bit;
            prop_assert_eq!(marker_format(&content).unwrap_err().kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn the_marker_is_json_that_names_the_format() {
        assert_eq!(marker_format(&marker()).unwrap(), CLEAR);
        let json: serde_json::Value = serde_json::from_slice(&marker()).unwrap();
        assert_eq!(json["format"], CLEAR);
        assert_eq!(json["sha256"].as_str().unwrap().len(), 64);
    }

    #[test]
    fn a_digest_of_its_own_making_does_not_help_a_cut_object() {
        let content = marker();
        for length in 0..content.len() {
            assert!(marker_format(&content[..length]).is_err(), "{length}");
        }
    }
}
