//! What is to be said of the last deletion by retention. Pure.

use jiff::{SignedDuration, Timestamp};

use crate::backup::retention::record::LastRun;

/// A deletion that has neither ended nor failed by then was interrupted: a million objects are deleted in minutes.
const INTERRUPTED_AFTER: SignedDuration = SignedDuration::from_hours(6);

/// What is wrong with it, in words; `None` if nothing is.
pub fn wrong(last: &LastRun, now: Timestamp) -> Option<String> {
    match (&last.failure, last.finished) {
        (Some(failure), _) => Some(failure.clone()),
        (None, _) if last.refused > 0 => Some(format!("{} objects could not be deleted", last.refused)),
        (None, None) if now.duration_since(last.begun) > INTERRUPTED_AFTER => {
            Some("it did not come to its end".to_owned())
        }
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::control::SystemId;

    #[test]
    fn a_deletion_is_wrong_if_it_failed_left_something_or_never_ended() {
        let at = |hour: i64| Timestamp::from_second(hour * 3600).unwrap();
        let begun = LastRun::begin(SystemId(7), "retain 2", at(0), Vec::new());
        assert_eq!(wrong(&begun, at(6)), None);
        assert_eq!(wrong(&begun, at(7)).as_deref(), Some("it did not come to its end"));
        let ended = LastRun { finished: Some(at(1)), ..begun };
        assert_eq!(wrong(&ended, at(99)), None);
        let left = LastRun { refused: 3, ..ended };
        assert_eq!(wrong(&left, at(2)).as_deref(), Some("3 objects could not be deleted"));
        let failed = LastRun { failure: Some("no".into()), ..left };
        assert_eq!(wrong(&failed, at(2)).as_deref(), Some("no"));
    }
}
