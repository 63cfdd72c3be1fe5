//! What an examination finds: one line for each thing looked at.
//!
//! Each kind of store looks at what matters to it; here is what all have in common: the words, which the examination of a
//! server and of a host share, and the probe. Printing is `cli`'s.

use std::path::Path;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::{Body, Store};
use crate::error::{Error, Kind, Result};
use crate::layout::{self, Key};

/// One thing that was looked at.
#[derive(Debug)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub check: &'static str,
    /// What was found.
    pub outcome: Outcome,
}

/// What was found.
#[derive(Debug)]
pub enum Outcome {
    /// As it should be; in a few words.
    Good(String),
    /// It works, but not everything can be done: what is missing, and what could be done about it. Whether it should be
    /// depends on what this identity is for.
    Limited(String, String),
    /// It was not looked at: why, and how to have it looked at. Says nothing of how it is.
    Unseen(String, String),
    /// It does not work.
    Bad(Error),
}

impl Finding {
    /// As it should be.
    pub fn good(check: &'static str, found: impl Into<String>) -> Finding {
        Finding { check, outcome: Outcome::Good(found.into()) }
    }

    /// Works, with a limit; the hint is a sentence.
    pub fn limited(check: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Finding {
        Finding { check, outcome: Outcome::Limited(found.into(), hint.into()) }
    }

    /// Not looked at; the hint is a sentence that says how it would be.
    pub fn unseen(check: &'static str, why: impl Into<String>, hint: impl Into<String>) -> Finding {
        Finding { check, outcome: Outcome::Unseen(why.into(), hint.into()) }
    }

    /// Does not work.
    pub fn bad(check: &'static str, error: Error) -> Finding {
        Finding { check, outcome: Outcome::Bad(error) }
    }

    /// Whether something may be done. A refusal for lack of a right is a limit, and `without` says what it keeps from;
    /// another failure is a fault.
    pub fn right(check: &'static str, outcome: Result<()>, without: &str, hint: impl Into<String>) -> Finding {
        match outcome {
            Ok(()) => Finding::good(check, "allowed"),
            Err(error) if error.kind() == Kind::Denied => {
                Finding::limited(check, format!("not allowed: {without}"), hint)
            }
            Err(error) => Finding::bad(check, error),
        }
    }
}

/// From here on a difference of clocks is worth a word.
const NOTABLE_SKEW: SignedDuration = SignedDuration::from_secs(60);

/// This machine's clock, compared with another one, which is `whose`; with `bearable` off or more nothing works.
pub fn clock(theirs: Timestamp, ours: Timestamp, whose: &str, bearable: Option<SignedDuration>) -> Finding {
    let off = ours.duration_since(theirs);
    let words = match off.abs() < SignedDuration::from_secs(2) {
        true => format!("agrees with {whose}"),
        false if off.is_negative() => format!("{} s behind {whose}", off.abs().as_secs()),
        false => format!("{} s ahead of {whose}", off.as_secs()),
    };
    let hint = "Set this machine's clock, and keep it set: timedatectl set-ntp true.";
    match off.abs() {
        skew if bearable.is_some_and(|bearable| skew >= bearable) => {
            Finding::bad("clock", Error::new(Kind::Config, format!("this machine's clock is {words}")).hint(hint))
        }
        skew if skew >= NOTABLE_SKEW => Finding::limited("clock", words, hint),
        _ => Finding::good("clock", words),
    }
}

/// Bytes that this user may still write, on the file system of the directory or of the nearest one above that exists.
pub fn free_space(directory: &Path) -> Option<u64> {
    let there = directory.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// What is stored as [`Key::Doctor`].
pub(super) fn probe() -> Body {
    Body::Memory(Bytes::from_static(layout::DOCTOR))
}

/// Reads the probe, which has been stored.
///
/// # Errors
/// Those of a read, and [`Kind::Corrupt`] if it is not the same.
pub(super) async fn read_probe(store: &dyn Store) -> Result<()> {
    let key = Key::Doctor.to_string();
    match store.get(&key, None).await?.read_all(layout::DOCTOR.len()).await? == layout::DOCTOR {
        true => Ok(()),
        false => Err(Error::new(Kind::Corrupt, format!("{} has other bytes than were stored", store.url(&key)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared_with_what_can_be_borne() {
        let ours = Timestamp::from_second(1_000_000).unwrap();
        let bearable = Some(SignedDuration::from_mins(15));
        let off = |seconds: i64, bearable| {
            clock(ours - SignedDuration::from_secs(seconds), ours, "the store's", bearable).outcome
        };
        assert!(matches!(off(1, bearable), Outcome::Good(words) if words.starts_with("agrees")));
        assert!(matches!(off(-20, bearable), Outcome::Good(words) if words == "20 s behind the store's"));
        assert!(matches!(off(61, bearable), Outcome::Limited(words, _) if words == "61 s ahead of the store's"));
        assert!(matches!(off(-900, bearable), Outcome::Bad(_)));
        assert!(matches!(off(-900, None), Outcome::Limited(..)));
    }
}
