//! How the long listing of a timeline is cut into stretches that are listed at the same time. Pure: says what to list next,
//! and learns from what was found.
//!
//! Nobody knows beforehand where a timeline ends, and a store lists forwards only. So stretches are handed out on
//! speculation, more of them the longer the listing proves to be: few requests are in vain, at most about as many as were
//! not.

/// Segments in a stretch: sixteen pages, so that its last one, which runs into the next stretch, does not matter.
const STRETCH: u64 = 16_000;

/// Objects behind the segment `after`, up to and including the segment `until`, in the order of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The number of a segment.
    pub after: u64,
    /// The number of a later one.
    pub until: u64,
}

/// A listing under way.
#[derive(Clone, Debug)]
pub struct Split {
    /// Where the next stretch begins.
    next: u64,
    /// Nothing is wanted behind this segment.
    last: u64,
    width: usize,
    most: usize,
}

impl Split {
    /// The rest of a listing behind the segment `after`, up to `last`, in up to `most` stretches at the same time.
    pub fn new(after: u64, last: u64, most: usize) -> Split {
        Split { next: after, last, width: most.min(2), most }
    }

    /// How many stretches may be listed at the same time.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The next stretch to list, if there is any.
    pub fn take(&mut self) -> Option<Stretch> {
        let after = self.next;
        self.next = after.saturating_add(STRETCH).min(self.last);
        (after < self.next).then_some(Stretch { after, until: self.next })
    }

    /// Learns from a stretch that has been listed: the next object behind it, if there is any, lies behind this segment.
    pub fn learn(&mut self, beyond: Option<u64>) {
        match beyond {
            Some(number) => {
                self.next = self.next.max(number.min(self.last));
                self.width = self.most.min(self.width * 2);
            }
            // What has been handed out behind it will find nothing either.
            None => self.last = self.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Lists a stretch of these names as a store would: in pages, the last of which runs beyond the end.
    fn list(names: &BTreeSet<u64>, stretch: Stretch, page: usize, found: &mut Vec<u64>) -> Option<u64> {
        let mut rest = names.range(stretch.after + 1..).peekable();
        while rest.peek().is_some() {
            for &name in rest.by_ref().take(page) {
                if name > stretch.until {
                    return Some(name - 1);
                }
                found.push(name);
            }
        }
        None
    }

    proptest! {
        #[test]
        fn every_name_is_listed_once_however_the_stretches_end(
            parts in prop::collection::vec((0u64..10 * STRETCH, 1u64..3 * STRETCH), 0..5),
            far in prop::option::of(0u64..1 << 40), last in prop_oneof![Just(1u64 << 40), 0u64..20 * STRETCH],
            page in prop_oneof![Just(1000usize), 1usize..50_000], most in 1usize..9, mut seed: u64
        ) {
            let names: BTreeSet<u64> =
                parts.iter().flat_map(|&(first, count)| (first..first + count).step_by(7)).chain(far).filter(|&n| n > 0).collect();
            let (mut split, mut running, mut found, mut requests) = (Split::new(0, last, most), Vec::new(), Vec::new(), 0);
            loop {
                while running.len() < split.width() {
                    let Some(stretch) = split.take() else { break };
                    running.push(stretch);
                }
                prop_assert!(running.len() <= most);
                if running.is_empty() {
                    break;
                }
                // They end in any order.
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let stretch = running.swap_remove((seed >> 33) as usize % running.len());
                let beyond = list(&names, stretch, page, &mut found);
                split.learn(beyond);
                requests += 1;
            }
            found.sort_unstable();
            let expected: Vec<u64> = names.range(..=last).copied().collect();
            prop_assert_eq!(found, expected);
            // A hole of any size is passed over.
            prop_assert!(requests <= 14 * 2 + 2 * most + 4, "{} stretches", requests);
        }
    }

    #[test]
    fn a_short_listing_is_not_asked_for_often() {
        let mut split = Split::new(999, 1 << 40, 8);
        assert_eq!((split.width(), split.take().map(|stretch| stretch.after)), (2, Some(999)));
        split.learn(None);
        assert_eq!(split.take(), None);
    }
}
