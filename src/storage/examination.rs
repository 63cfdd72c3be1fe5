//! What an examination of a store finds: one line for each thing looked at.
//!
//! Each kind of store looks at what matters to it; here is what all have in common: the words, and the probe. Printing is
//! `cli`'s.

use bytes::Bytes;

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
