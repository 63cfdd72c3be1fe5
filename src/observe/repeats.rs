//! The same line again and again: let through a few times, and then counted.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// The target of a line that can repeat within one process for as long as something is broken: what is let through of it is
/// limited, for each place in the code by itself. All other lines are always told.
pub const REPEATED: &str = "walden.repeated";

/// How many lines of one place are told in [`WINDOW`]: enough to see that it is not one alone.
pub const TOLD: u64 = 3;

/// How long the others of a place are only counted.
pub const WINDOW: Duration = Duration::from_secs(60);

/// What was let through, and what was not. Takes the time as an argument, since any fixed moment.
#[derive(Debug)]
pub struct Repeats<Place> {
    places: HashMap<Place, Window>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Duration,
    told: u64,
    left_out: u64,
}

impl<Place> Default for Repeats<Place> {
    fn default() -> Repeats<Place> {
        Repeats { places: HashMap::new() }
    }
}

impl<Place: Hash + Eq> Repeats<Place> {
    /// Whether this line is told: `None` if not, else how many were left out before it since the last one that was.
    pub fn admit(&mut self, place: Place, now: Duration) -> Option<u64> {
        let window = self.places.entry(place).or_insert(Window { began: now, told: 0, left_out: 0 });
        if now.saturating_sub(window.began) >= WINDOW {
            let left_out = window.left_out;
            *window = Window { began: now, told: 1, left_out: 0 };
            return Some(left_out);
        }
        if window.told < TOLD {
            window.told += 1;
            return Some(0);
        }
        window.left_out += 1;
        None
    }

    /// How many were left out and not told of yet.
    pub fn left_out(&self) -> u64 {
        self.places.values().map(|window| window.left_out).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_line_is_told_or_counted_and_no_place_is_told_more_than_its_share(
            lines in proptest::collection::vec((0u8..3, 0u64..200), 0..200)
        ) {
            let mut repeats = Repeats::default();
            let (mut now, mut told, mut counted) = (Duration::ZERO, Vec::new(), 0);
            for (place, later) in &lines {
                now += Duration::from_millis(*later * 100);
                if let Some(left_out) = repeats.admit(*place, now) {
                    counted += left_out;
                    told.push((*place, now));
                }
            }
            prop_assert_eq!(told.len() as u64 + counted + repeats.left_out(), lines.len() as u64);
            for (place, at) in &told {
                let near = told.iter().filter(|(other, time)| other == place && *time >= *at && *time - *at < WINDOW);
                // A window may begin right after the end of the one before.
                prop_assert!(near.count() as u64 <= 2 * TOLD);
            }
        }
    }

    #[test]
    fn after_the_window_a_line_is_told_with_how_many_were_left_out() {
        let mut repeats = Repeats::default();
        let told: Vec<Option<u64>> = (0..5).map(|second| repeats.admit("here", Duration::from_secs(second))).collect();
        assert_eq!(told, [Some(0), Some(0), Some(0), None, None]);
        assert_eq!(repeats.admit("there", Duration::from_secs(5)), Some(0));
        assert_eq!(repeats.admit("here", WINDOW), Some(2));
        assert_eq!(repeats.left_out(), 0);
    }
}
