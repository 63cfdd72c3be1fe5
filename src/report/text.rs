//! Words for the page: times, sizes, spans, and text that others have written. Pure.

use std::time::Duration;

use indicatif::{BinaryBytes, HumanDuration};
use jiff::Timestamp;

/// So many characters of a text that others have written are shown: more than most errors have, but a label or a note
/// may be of any length.
const SHOWN: usize = 500;

/// UTC, to the second.
pub(super) fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// UTC, to the minute.
pub(super) fn minute(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M").to_string()
}

/// UTC, as `datetime` of HTML has it.
pub(super) fn machine(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// How long before `now`. Of two clocks, so it may be less than nothing.
pub(super) fn ago(time: Timestamp, now: Timestamp) -> String {
    span(now.duration_since(time).as_secs_f64())
}

/// A span in words.
pub(super) fn span(seconds: f64) -> String {
    HumanDuration(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default()).to_string()
}

/// A span as clocks have it, with days where there are any.
pub(super) fn clock(seconds: f64) -> String {
    let all = seconds.max(0.0).round() as u64;
    let (days, hours, minutes, seconds) = (all / 86_400, all / 3600 % 24, all / 60 % 60, all % 60);
    let days = if days == 0 { String::new() } else { format!("{days} d ") };
    format!("{days}{hours:02}:{minutes:02}:{seconds:02}")
}

/// Bytes in words.
pub(super) fn bytes(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// The same of a measured value.
pub(super) fn about(value: f64) -> String {
    bytes(value.max(0.0).round() as u64)
}

/// A text that others have written, made harmless for the eye: without control characters, and without those that turn
/// the direction of the text around them (Unicode Technical Report 36, "Bidirectional Text Spoofing"), and not endless.
/// It is not HTML yet.
pub(super) fn foreign(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    let mut characters = text.chars().map(|c| if c.is_control() || turns(c) { '\u{FFFD}' } else { c });
    let mut shown: String = characters.by_ref().take(SHOWN).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_are_as_clocks_have_them() {
        let clocks = [(0.0, "00:00:00"), (59.6, "00:01:00"), (3661.0, "01:01:01"), (90_000.0, "1 d 01:00:00")];
        for (seconds, expected) in clocks {
            assert_eq!(clock(seconds), expected);
        }
        assert_eq!(clock(-5.0), "00:00:00");
    }

    proptest! {
        #[test]
        fn foreign_text_is_short_and_has_nothing_that_moves_the_eye(text in any::<String>(), turn in "[\u{202A}-\u{202E}]") {
            let shown = foreign(&format!("{turn}{text}{turn}"));
            prop_assert!(shown.chars().count() <= SHOWN + 1);
            let moves = shown.chars().any(|c| c.is_control() || ('\u{202A}'..='\u{202E}').contains(&c));
            prop_assert!(!moves);
        }

        #[test]
        fn plain_text_is_shown_as_it_is(text in "[a-z<>&\" äöü0-9]{0,200}") {
            prop_assert_eq!(foreign(&text), text);
        }
    }
}
