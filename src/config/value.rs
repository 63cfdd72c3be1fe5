//! How the values of settings are written, one implementation for each type.
//!
//! Pure, and ignorant of which settings exist. An error says only what is wrong with the text; which setting it was
//! given for, and where, is added by whoever knows.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

use crate::config::Location;
use crate::error::{Error, Kind, Result};
use crate::postgres::control::SystemId;
use crate::postgres::lsn::Lsn;

/// A type that a setting can have. The order is the one in which a row's bounds are meant.
pub trait Value: PartialOrd + Sized {
    /// Reads the text.
    ///
    /// # Errors
    /// [`Kind::Usage`], quoting the text.
    fn read(text: &str) -> Result<Self>;

    /// All texts that can be read, where they are few enough to be listed; otherwise none.
    fn words() -> Vec<&'static str> {
        Vec::new()
    }
}

/// A type with few values, each one written as a word.
pub trait Choice: PartialOrd + Copy + 'static {
    /// The words and what they stand for.
    const WORDS: &'static [(&'static str, Self)];
}

impl<C: Choice> Value for C {
    fn read(text: &str) -> Result<C> {
        let value = C::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        value.ok_or_else(|| {
            let hint = format!("Write {}.", list(&C::words(), "or"));
            Error::new(Kind::Usage, format!("\"{text}\" is not one of the words it can be")).hint(hint)
        })
    }

    fn words() -> Vec<&'static str> {
        C::WORDS.iter().map(|(word, _)| *word).collect()
    }
}

/// "a, b or c".
pub(crate) fn list(words: &[&str], conjunction: &str) -> String {
    match words {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [init @ .., last] => format!("{} {conjunction} {last}", init.join(", ")),
    }
}

/// Flags.
impl Choice for bool {
    const WORDS: &'static [(&'static str, bool)] = &[("false", false), ("true", true)];
}

/// Names that only somebody else can judge.
impl Value for String {
    fn read(text: &str) -> Result<String> {
        Ok(text.to_owned())
    }
}

/// How a bucket is named in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Addressing {
    /// As the store's address suggests.
    Auto,
    /// As the first part of the path.
    Path,
    /// As the first part of the host name.
    Virtual,
}

impl Choice for Addressing {
    const WORDS: &'static [(&'static str, Addressing)] =
        &[("auto", Addressing::Auto), ("path", Addressing::Path), ("virtual", Addressing::Virtual)];
}

/// The checksum that the store verifies when an object arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checksum {
    /// CRC-32C in a header of the request, or Content-MD5 where the store does not verify that.
    Auto,
    /// CRC-32C or nothing.
    Crc32c,
    /// None.
    Off,
}

impl Choice for Checksum {
    const WORDS: &'static [(&'static str, Checksum)] =
        &[("auto", Checksum::Auto), ("crc32c", Checksum::Crc32c), ("off", Checksum::Off)];
}

/// What `wal-fetch` says when it cannot tell whether the file is in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnError {
    /// What the signal files of the data directory ask for.
    Auto,
    /// An exit code that PostgreSQL takes for "not there".
    Missing,
    /// An exit code that makes PostgreSQL stop.
    Abort,
}

impl Choice for OnError {
    const WORDS: &'static [(&'static str, OnError)] =
        &[("auto", OnError::Auto), ("missing", OnError::Missing), ("abort", OnError::Abort)];
}

/// What becomes of a base backup of a cluster with damaged pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnCorruption {
    /// It is completed, and marked as damaged.
    Warn,
    /// There is none.
    Fail,
}

impl Choice for OnCorruption {
    const WORDS: &'static [(&'static str, OnCorruption)] =
        &[("warn", OnCorruption::Warn), ("fail", OnCorruption::Fail)];
}

/// What the server does to a base backup before it sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RemoteCompression {
    /// Nothing.
    None,
    /// It compresses it with zstd.
    Zstd,
}

impl Choice for RemoteCompression {
    const WORDS: &'static [(&'static str, RemoteCompression)] =
        &[("none", RemoteCompression::None), ("zstd", RemoteCompression::Zstd)];
}

/// How a key of libsodium is written, in the words of WAL-G.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyTransform {
    /// As it is; cut, or filled up with zeros, to 32 bytes.
    None,
    /// In hexadecimal.
    Hex,
    /// In Base64.
    Base64,
}

impl Choice for KeyTransform {
    const WORDS: &'static [(&'static str, KeyTransform)] =
        &[("none", KeyTransform::None), ("hex", KeyTransform::Hex), ("base64", KeyTransform::Base64)];
}

/// How much is logged; each level has all that the ones before it have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What somebody should look at.
    Warn,
    /// What was done.
    Info,
    /// How it was done.
    Debug,
}

impl Choice for LogLevel {
    const WORDS: &'static [(&'static str, LogLevel)] =
        &[("error", LogLevel::Error), ("warn", LogLevel::Warn), ("info", LogLevel::Info), ("debug", LogLevel::Debug)];
}

/// The form of a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Choice for LogFormat {
    const WORDS: &'static [(&'static str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
}

impl Value for u32 {
    fn read(text: &str) -> Result<u32> {
        whole(text).and_then(|number| u32::try_from(number).ok()).ok_or_else(|| {
            let hint = format!("Write it with digits only; {} is the greatest.", u32::MAX);
            Error::new(Kind::Usage, format!("\"{text}\" is not a whole number that fits")).hint(hint)
        })
    }
}

/// A size in bytes.
impl Value for u64 {
    fn read(text: &str) -> Result<u64> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "" | "B" => Some(1),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            _ => None,
        };
        whole(digits).zip(unit).and_then(|(count, unit)| count.checked_mul(unit)).ok_or_else(|| {
            Error::new(Kind::Usage, format!("\"{text}\" is not a size"))
                .hint("Write a whole number and KiB, MiB or GiB, such as 32MiB; without a unit it means bytes.")
        })
    }
}

/// `str::parse` would let a plus sign pass.
fn whole(digits: &str) -> Option<u64> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

impl Value for Duration {
    fn read(text: &str) -> Result<Duration> {
        let span = text.parse::<Span>().ok();
        let duration = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
        duration.and_then(|duration| Duration::try_from(duration).ok()).ok_or_else(|| {
            Error::new(Kind::Usage, format!("\"{text}\" is not a span of time"))
                .hint("Write numbers with units, such as 90s, 10m, 1h30m or 2d.")
        })
    }
}

impl Value for PathBuf {
    fn read(text: &str) -> Result<PathBuf> {
        match text {
            "" => Err(Error::new(Kind::Usage, "the path is empty").hint("Write \".\" for the current directory.")),
            _ => Ok(PathBuf::from(text)),
        }
    }
}

impl Value for SocketAddr {
    fn read(text: &str) -> Result<SocketAddr> {
        text.parse().map_err(|_| {
            Error::new(Kind::Usage, format!("\"{text}\" is not an address with a port"))
                .hint("Write digits only, such as 127.0.0.1:9762 or [::1]:9762.")
        })
    }
}

impl Value for Location {
    fn read(text: &str) -> Result<Location> {
        text.parse()
    }
}

impl Value for SystemId {
    fn read(text: &str) -> Result<SystemId> {
        text.parse()
    }
}

impl Value for Lsn {
    fn read(text: &str) -> Result<Lsn> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_size_is_its_number_times_its_unit(count in 0u64..1 << 33, (unit, bytes) in prop_oneof![
            Just(("", 1)), Just(("B", 1)), Just(("KiB", 1 << 10)), Just(("MiB", 1 << 20)), Just(("GiB", 1 << 30))
        ]) {
            prop_assert_eq!(u64::read(&format!("{count}{unit}")).unwrap(), count * bytes);
        }

        #[test]
        fn a_duration_is_the_sum_of_its_parts(hours in 0u64..100, minutes in 0u64..100, seconds in 0u64..1000) {
            let duration = Duration::read(&format!("{hours}h{minutes}m{seconds}s")).unwrap();
            prop_assert_eq!(duration, Duration::from_secs(hours * 3600 + minutes * 60 + seconds));
        }

        #[test]
        fn no_text_makes_a_reader_panic(text in ".{0,24}|[-+0-9a-zA-Z.: ]{0,16}") {
            let _ = (u32::read(&text), u64::read(&text), Duration::read(&text), LogLevel::read(&text));
        }
    }

    #[test]
    fn sizes_and_durations_without_a_clear_meaning_are_refused() {
        for text in ["", "MiB", "1 MiB", "1MB", "1mib", "+1MiB", "-1", "1.5GiB", "18446744073709551615GiB", "1MiBx"] {
            assert!(u64::read(text).is_err(), "{text:?}");
        }
        for text in ["", "60", "s", "-1s", "1y", "2mo", "soon"] {
            assert!(Duration::read(text).is_err(), "{text:?}");
        }
        assert_eq!(Duration::read("7d").unwrap(), Duration::from_secs(7 * 86_400));
        assert_eq!(Duration::read("250ms").unwrap(), Duration::from_millis(250));
    }

    #[test]
    fn counts_have_digits_only() {
        for text in ["", "+1", "-1", "1e3", "0x1", "4294967296", "١"] {
            assert!(u32::read(text).is_err(), "{text:?}");
        }
        assert_eq!(u32::read("4294967295").unwrap(), u32::MAX);
    }

    #[test]
    fn a_word_that_is_none_of_the_choices_is_answered_with_all_of_them() {
        let error = LogLevel::read("verbose").unwrap_err();
        assert_eq!(error.advice(), Some("Write error, warn, info or debug."));
    }
}
