//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Kind, Result};

/// A log sequence number: a byte position in the WAL, written `X/X` in hexadecimal
/// (PostgreSQL documentation, "pg_lsn Type"; `XLogRecPtr` in src/include/access/xlogdefs.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    /// Reads `X/X` with one to eight hexadecimal digits on each side, as PostgreSQL's `pg_lsn_in` does.
    fn from_str(text: &str) -> Result<Lsn> {
        let half = |digits: &str| -> Option<u64> {
            let legal = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            legal.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/').and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?))).ok_or_else(|| {
            Error::new(Kind::Usage, format!("\"{text}\" is not an LSN"))
                .hint("An LSN is two hexadecimal numbers with a slash between them, such as 16/B374D848.")
        })
    }
}

impl serde::Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parse_undoes_display(value: u64) {
            prop_assert_eq!(Lsn(value).to_string().parse::<Lsn>().unwrap(), Lsn(value));
        }

        #[test]
        fn parse_never_panics(text in ".{0,24}") {
            let _ = text.parse::<Lsn>();
        }
    }

    #[test]
    fn malformed_positions_are_refused() {
        for text in ["", "/", "1", "1/", "/1", "G/0", "+1/0", "1/123456789", "1/0/0", " 1/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
        assert_eq!("16/B374D848".parse::<Lsn>().unwrap(), Lsn(0x16_B374_D848));
        assert_eq!("16/b374d848".parse::<Lsn>().unwrap(), Lsn(0x16_B374_D848));
    }
}
