//! Sets of segments of one timeline, as runs of consecutive numbers: a million segments without a hole are one run.
//! Pure. Knows numbers only; memory grows with the number of holes.

/// Consecutive segments, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Run {
    /// Number of the first segment.
    pub first: u64,
    /// Number of the last segment.
    pub last: u64,
}

impl Run {
    /// How many segments it has; at least one.
    #[allow(clippy::len_without_is_empty, reason = "a run is never empty")]
    pub fn len(self) -> u64 {
        self.last - self.first + 1
    }
}

/// A set of segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs(Vec<Run>);

impl Runs {
    /// The runs, in order, none of which touches another.
    pub fn as_slice(&self) -> &[Run] {
        &self.0
    }

    /// How many segments there are.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|run| run.len()).sum()
    }

    /// Is this segment among them?
    pub fn contains(&self, number: u64) -> bool {
        let at = self.0.partition_point(|run| run.last < number);
        self.0.get(at).is_some_and(|run| run.first <= number)
    }

    /// How many segments are in both.
    pub fn common(&self, other: &Runs) -> u64 {
        let (mut ours, mut others) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut count = 0;
        while let (Some(one), Some(two)) = (ours.peek(), others.peek()) {
            count += (one.last.min(two.last) + 1).saturating_sub(one.first.max(two.first));
            if one.last < two.last {
                ours.next()
            } else {
                others.next()
            };
        }
        count
    }

    /// What is missing of `within`.
    pub fn gaps(&self, within: Run) -> Runs {
        let (mut gaps, mut next) = (Vec::new(), Some(within.first));
        for run in self.0.iter().filter(|run| run.last >= within.first && run.first <= within.last) {
            if let Some(first) = next.filter(|&first| first < run.first) {
                gaps.push(Run { first, last: run.first - 1 });
            }
            next = run.last.checked_add(1);
        }
        gaps.extend(next.filter(|&first| first <= within.last).map(|first| Run { first, last: within.last }));
        Runs(gaps)
    }

    /// Adds a segment. Quickest in the order of the numbers, as listings have them.
    pub fn insert(&mut self, number: u64) {
        self.add(Run { first: number, last: number });
    }

    /// Adds a run, whatever of it is there already.
    pub fn add(&mut self, run: Run) {
        let from = self.0.partition_point(|known| known.last.saturating_add(1) < run.first);
        let to = self.0.partition_point(|known| known.first <= run.last.saturating_add(1));
        if from >= to {
            self.0.insert(from, run);
            return;
        }
        let first = run.first.min(self.0[from].first);
        let last = run.last.max(self.0[to - 1].last);
        self.0[from] = Run { first, last };
        self.0.drain(from + 1..to);
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: Runs) {
        other.0.into_iter().for_each(|run| self.add(run));
    }
}

impl FromIterator<u64> for Runs {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Runs {
        let mut runs = Runs::default();
        numbers.into_iter().for_each(|number| runs.insert(number));
        runs
    }
}

impl FromIterator<Run> for Runs {
    fn from_iter<I: IntoIterator<Item = Run>>(parts: I) -> Runs {
        let mut runs = Runs::default();
        parts.into_iter().for_each(|run| runs.add(run));
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn any_run() -> impl Strategy<Value = Run> {
        (0u64..90, 0u64..10).prop_map(|(first, more)| Run { first, last: first + more })
    }

    proptest! {
        #[test]
        fn runs_are_the_set_of_their_numbers_in_whatever_order_and_parts_they_come(
            parts in prop::collection::vec(prop::collection::vec(any_run(), 0..8), 0..5)
        ) {
            let mut merged = Runs::default();
            parts.iter().for_each(|part| merged.merge(part.iter().copied().collect()));
            let set: BTreeSet<u64> = parts.iter().flatten().flat_map(|run| run.first..=run.last).collect();
            let numbers: Vec<u64> = merged.as_slice().iter().flat_map(|run| run.first..=run.last).collect();
            prop_assert_eq!(&numbers, &set.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(merged.count(), set.len() as u64);
            prop_assert!((0..110).all(|number| merged.contains(number) == set.contains(&number)));
            prop_assert!(merged.as_slice().windows(2).all(|pair| pair[0].last + 1 < pair[1].first));
            let other: BTreeSet<u64> = parts.iter().flatten().flat_map(|run| run.last..run.last + 3).collect();
            prop_assert_eq!(merged.common(&other.iter().copied().collect()), set.intersection(&other).count() as u64);
            let gaps: Vec<u64> = merged.gaps(Run { first: 5, last: 80 }).as_slice().iter().flat_map(|run| run.first..=run.last).collect();
            prop_assert_eq!(gaps, (5..=80).filter(|number| !set.contains(number)).collect::<Vec<u64>>());
            prop_assert_eq!(merged, set.into_iter().rev().collect::<Runs>());
        }
    }

    #[test]
    fn the_ends_of_the_numbers_do_not_overflow() {
        let mut runs = Runs::from_iter([u64::MAX - 1, 0]);
        runs.insert(u64::MAX);
        assert_eq!(runs.as_slice(), [Run { first: 0, last: 0 }, Run { first: u64::MAX - 1, last: u64::MAX }]);
    }
}
