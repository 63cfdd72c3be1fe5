//! Timelines and their history files.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::postgres::lsn::Lsn;

/// A timeline's number; never zero (`TimeLineID` in src/include/access/xlogdefs.h). Written as eight hexadecimal digits
/// in file names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl Timeline {
    /// Reads the eight upper-case hexadecimal digits of a file name; `None` for anything else and for zero.
    pub fn parse(digits: &str) -> Option<Timeline> {
        parse_hex8(digits).filter(|&number| number != 0).map(Timeline)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}", self.0)
    }
}

/// Eight upper-case hexadecimal digits, the only form in which PostgreSQL writes numbers into WAL file names.
pub(crate) fn parse_hex8(digits: &str) -> Option<u32> {
    let legal = digits.len() == 8 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    legal.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

/// One line of a history file: the timeline that was left, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The timeline that ended for this history.
    pub timeline: Timeline,
    /// Where the next timeline begins.
    pub at: Lsn,
    /// Why, in the server's words: "no recovery target specified", "before transaction 1234".
    pub reason: String,
}

/// The ancestry of a timeline, oldest first, as its history file tells it (`readTimeLineHistory` in
/// src/backend/access/transam/timeline.c). Timeline 1 has no file and an empty ancestry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The timeline whose ancestry this is.
    pub timeline: Timeline,
    /// The ancestors in order; timelines and positions never decrease.
    pub ancestors: Vec<Switch>,
}

impl History {
    /// The history of a timeline without ancestors.
    pub fn root(timeline: Timeline) -> History {
        History { timeline, ancestors: Vec::new() }
    }

    /// Reads a history file: `timeline <tab> LSN <tab> reason` a line; empty lines and lines that begin with `#` are
    /// passed over.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] for a line that PostgreSQL would not take, timelines that do not increase, or an ancestor that
    /// is not older than the file's own timeline.
    pub fn parse(timeline: Timeline, text: &str) -> Result<History> {
        let mut ancestors: Vec<Switch> = Vec::new();
        for line in text.lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let switch = parse_switch(line).ok_or_else(|| {
                Error::new(Kind::Corrupt, format!("syntax error in the history file of timeline {timeline}"))
                    .detail(format!("the line is \"{line}\""))
            })?;
            let increases = ancestors.last().is_none_or(|last| last.timeline < switch.timeline && last.at <= switch.at);
            if !increases || switch.timeline >= timeline {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("the history file of timeline {timeline} is out of order"),
                )
                .detail(format!("the line is \"{line}\"")));
            }
            ancestors.push(switch);
        }
        Ok(History { timeline, ancestors })
    }

    /// The timeline on which `lsn` lies for this history: an ancestor up to (not including) its end, or the timeline
    /// itself.
    pub fn timeline_at(&self, lsn: Lsn) -> Timeline {
        self.ancestors.iter().find(|switch| lsn < switch.at).map_or(self.timeline, |switch| switch.timeline)
    }

    /// Where `timeline` ends for this history: `None` if it is no part of it, `Some(None)` if it is the newest.
    pub fn end_of(&self, timeline: Timeline) -> Option<Option<Lsn>> {
        if timeline == self.timeline {
            return Some(None);
        }
        self.ancestors.iter().find(|switch| switch.timeline == timeline).map(|switch| Some(switch.at))
    }

    /// Does this history hold the WAL of `timeline` up to `lsn`?
    pub fn passes(&self, timeline: Timeline, lsn: Lsn) -> bool {
        self.end_of(timeline).is_some_and(|end| end.is_none_or(|end| lsn <= end))
    }
}

fn parse_switch(line: &str) -> Option<Switch> {
    let (timeline, rest) = line.split_once(char::is_whitespace)?;
    let timeline = timeline.parse::<u32>().ok().filter(|&number| number != 0)?;
    let (at, reason) = rest.trim_start().split_once(char::is_whitespace).unwrap_or((rest.trim_start(), ""));
    Some(Switch { timeline: Timeline(timeline), at: at.parse().ok()?, reason: reason.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REAL: &str = "1\t0/3000060\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-11-20 14:03:00+00\n";

    #[test]
    fn a_real_history_file() {
        let history = History::parse(Timeline(3), REAL).unwrap();
        assert_eq!(history.ancestors.len(), 2);
        assert_eq!(history.timeline_at(Lsn(0x300_0000)), Timeline(1));
        assert_eq!(history.timeline_at(Lsn(0x300_0060)), Timeline(2));
        assert_eq!(history.timeline_at(Lsn(0x500_0000)), Timeline(3));
        assert_eq!(history.end_of(Timeline(1)), Some(Some(Lsn(0x300_0060))));
        assert_eq!(history.end_of(Timeline(3)), Some(None));
        assert_eq!(history.end_of(Timeline(4)), None);
        assert_eq!(history.ancestors[1].reason, "before 2026-11-20 14:03:00+00");
        assert!(history.passes(Timeline(1), Lsn(0x300_0060)) && !history.passes(Timeline(1), Lsn(0x300_0061)));
        assert!(history.passes(Timeline(3), Lsn(u64::MAX)) && !history.passes(Timeline(4), Lsn(0)));
    }

    #[test]
    fn wrong_history_files_are_corrupt() {
        for text in ["x", "1", "1\tzero", "2\t0/1\tx\n1\t0/2\tx", "1\t0/5\tx\n2\t0/4\tx", "3\t0/1\tx", "0\t0/1\tx"] {
            let error = History::parse(Timeline(3), text).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{text:?}");
        }
    }

    #[test]
    fn comments_and_empty_lines_are_passed_over() {
        assert_eq!(History::parse(Timeline(2), "# a comment\n\n").unwrap(), History::root(Timeline(2)));
    }

    proptest! {
        #[test]
        fn parse_undoes_display(number in 1u32..) {
            prop_assert_eq!(Timeline::parse(&Timeline(number).to_string()), Some(Timeline(number)));
        }

        #[test]
        fn every_position_lies_on_exactly_one_timeline(steps in prop::collection::vec(1u64..1 << 40, 1..6), lsn: u64) {
            let mut at = 0;
            let mut text = String::new();
            for (index, step) in steps.iter().enumerate() {
                at += step;
                text.push_str(&format!("{}\t{}\tswitch\n", index + 1, Lsn(at)));
            }
            let history = History::parse(Timeline(steps.len() as u32 + 1), &text).unwrap();
            let timeline = history.timeline_at(Lsn(lsn));
            prop_assert!(history.end_of(timeline).unwrap().is_none_or(|end| Lsn(lsn) < end));
            let before = history.ancestors.iter().filter(|switch| switch.timeline < timeline);
            prop_assert!(before.map(|switch| switch.at).all(|end| end <= Lsn(lsn)));
        }

        #[test]
        fn parse_never_panics(text in "[0-9A-F/\t\n# ]{0,60}") {
            let _ = History::parse(Timeline(3), &text);
        }
    }
}
