//! What a user writes on a backup: a label and notes.
//!
//! Pure. Where they are kept is `backup::manifest`'s business.

use std::str::FromStr;

use crate::config::value::Value;
use crate::error::{Error, Kind, Result};

/// Bytes of a label, or of a note's value. PostgreSQL takes labels of up to 1024 (`do_pg_backup_start` in
/// src/backend/access/transam/xlog.c); a short manifest is read whenever somebody looks at the archive.
const LONGEST_TEXT: usize = 1000;

/// Bytes of a note's key.
const LONGEST_KEY: usize = 64;

/// What a backup is called. It is in the server's backup label too, a file of lines: so it is one line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label(String);

impl Label {
    /// The text; `None` where it is empty, which stands for no label.
    pub fn text(self) -> Option<String> {
        Some(self.0).filter(|text| !text.is_empty())
    }
}

impl Value for Label {
    fn read(text: &str) -> Result<Label> {
        is_line(text).then(|| Label(text.to_owned())).ok_or_else(|| {
            Error::new(Kind::Usage, format!("\"{}\" is not a label", text.escape_debug()))
                .hint(format!("Write one line of at most {LONGEST_TEXT} bytes."))
        })
    }
}

/// One thing to know of a backup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// What it is about.
    pub key: String,
    /// What there is to know; `None`: no more.
    pub value: Option<String>,
}

impl FromStr for Note {
    type Err = Error;

    fn from_str(text: &str) -> Result<Note> {
        let legal = |key: &str| {
            (1..=LONGEST_KEY).contains(&key.len())
                && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        match text.split_once('=') {
            Some((key, value)) if legal(key) && is_line(value) => {
                Ok(Note { key: key.to_owned(), value: Some(value.to_owned()).filter(|value| !value.is_empty()) })
            }
            _ => Err(Error::new(Kind::Usage, format!("\"{}\" is not a note", text.escape_debug())).hint(format!(
                "Write KEY=VALUE: a key of letters, digits, '-', '_' and '.', at most {LONGEST_KEY}, and one line of \
                 at most {LONGEST_TEXT} bytes, such as ticket=OPS-1234."
            ))),
        }
    }
}

impl Value for Note {
    fn read(text: &str) -> Result<Note> {
        text.parse()
    }
}

fn is_line(text: &str) -> bool {
    text.len() <= LONGEST_TEXT && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_label_is_one_line_and_an_empty_one_is_none() {
        assert_eq!(Label::read("before the upgrade").unwrap().text().as_deref(), Some("before the upgrade"));
        assert_eq!(Label::read("").unwrap().text(), None);
        assert!(Label::read(&"x".repeat(1000)).is_ok());
        for text in ["two\nlines", "a\ttab", &"x".repeat(1001)] {
            assert!(Label::read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_note_has_a_plain_key_and_any_line_as_its_value() {
        let note = |key: &str, value: Option<&str>| Note { key: key.into(), value: value.map(str::to_owned) };
        assert_eq!(Note::read("ticket=OPS=1").unwrap(), note("ticket", Some("OPS=1")));
        assert_eq!(Note::read("ticket=").unwrap(), note("ticket", None));
        for text in ["", "=", "=x", "ticket", "a b=c", "k=two\nlines", &format!("{}=x", "k".repeat(65))] {
            assert!(Note::read(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text: String) {
            let _ = (Label::read(&text), Note::read(&text));
        }
    }
}
