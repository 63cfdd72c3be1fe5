//! What an examination of a store finds: one line for each thing looked at.
//!
//! Values only. Each kind of store looks at what matters to it; printing them is `cli`'s.

use crate::error::Error;

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
}
