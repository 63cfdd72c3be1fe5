//! Which segments a recovery needs, and whether they are all there. Pure: from names to answers.

use std::collections::BTreeMap;
use std::fmt;

use crate::postgres::lsn::Lsn;
use crate::wal::segment::{SegmentName, SegmentSize};
use crate::wal::timeline::{History, Timeline};

/// Which segments exist, as runs of consecutive numbers: a million segments without a hole are one run.
#[derive(Clone, Debug)]
pub struct Inventory {
    size: SegmentSize,
    runs: BTreeMap<Timeline, Vec<Run>>,
}

/// Consecutive segments of one timeline, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of the first segment.
    pub first: u64,
    /// Number of the last segment.
    pub last: u64,
}

impl Inventory {
    /// An empty one, for segments of this size.
    pub fn new(size: SegmentSize) -> Inventory {
        Inventory { size, runs: BTreeMap::new() }
    }

    /// Notes that a segment exists. A name that cannot occur with this segment size is passed over. Quickest in the order
    /// of the names within each timeline, as listings have them.
    pub fn add(&mut self, name: SegmentName) {
        let Some(number) = name.number(self.size) else { return };
        let runs = self.runs.entry(name.timeline).or_default();
        let at = runs.partition_point(|run| run.last < number);
        if runs.get(at).is_some_and(|run| run.first <= number) {
            return;
        }
        let extends_left = at > 0 && runs[at - 1].last + 1 == number;
        let extends_right = runs.get(at).is_some_and(|run| run.first == number + 1);
        match (extends_left, extends_right) {
            (true, true) => {
                runs[at - 1].last = runs[at].last;
                runs.remove(at);
            }
            (true, false) => runs[at - 1].last = number,
            (false, true) => runs[at].first = number,
            (false, false) => runs.insert(at, Run { first: number, last: number }),
        }
    }

    /// The run that holds segment `number` of `timeline`.
    fn run(&self, timeline: Timeline, number: u64) -> Option<Run> {
        let runs = self.runs.get(&timeline)?;
        let at = runs.partition_point(|run| run.last < number);
        runs.get(at).copied().filter(|run| run.first <= number)
    }

    /// The number of the newest segment of `timeline`.
    fn newest(&self, timeline: Timeline) -> Option<u64> {
        Some(self.runs.get(&timeline)?.last()?.last)
    }

    /// What lies between `start` and the newest segment on the path that `history` describes.
    ///
    /// Where a timeline ends within a segment, the segment of its successor counts: it holds the WAL of both, and
    /// recovery reads it first (`XLogFileReadAnyTLI` in src/backend/access/transam/xlogrecovery.c).
    pub fn coverage(&self, start: Lsn, history: &History) -> Coverage {
        let first = start.0 / self.size.bytes();
        let path = Path { size: self.size, history };
        let newest = self.runs.keys().filter_map(|&timeline| path.clip(timeline, self.newest(timeline)?)).max();
        let mut gaps: Vec<Gap> = Vec::new();
        let mut number = first;
        while newest.is_some_and(|newest| number <= newest) {
            let timeline = path.timeline(number);
            if let Some(run) = self.run(timeline, number) {
                number = path.clip(timeline, run.last).unwrap_or(number) + 1;
                continue;
            }
            match gaps.last_mut() {
                Some(gap) if gap.timeline == timeline && gap.run.last + 1 == number => gap.run.last = number,
                _ => gaps.push(Gap { timeline, run: Run { first: number, last: number }, size: self.size }),
            }
            number += 1;
        }
        let end = match gaps.first() {
            Some(gap) => gap.run.first,
            None => newest.map_or(first, |newest| (newest + 1).max(first)),
        };
        Coverage { end: Lsn(end.saturating_mul(self.size.bytes())), gaps }
    }
}

/// Which timeline each segment of a recovery is read from.
struct Path<'a> {
    size: SegmentSize,
    history: &'a History,
}

impl Path<'_> {
    fn timeline(&self, number: u64) -> Timeline {
        self.history.timeline_at(Lsn(number * self.size.bytes() + (self.size.bytes() - 1)))
    }

    /// The newest segment up to `number` that this path reads from `timeline`, if there is any.
    fn clip(&self, timeline: Timeline, number: u64) -> Option<u64> {
        match self.history.end_of(timeline)? {
            None => Some(number),
            Some(end) => (end.0 / self.size.bytes()).checked_sub(1).map(|last| last.min(number)),
        }
    }
}

/// What an inventory holds from a position on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Everything before this position is there: the end of the last segment before the first gap.
    pub end: Lsn,
    /// What is missing before the newest segment, in order.
    pub gaps: Vec<Gap>,
}

/// Missing segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The timeline on which they are missing.
    pub timeline: Timeline,
    /// Which.
    pub run: Run,
    size: SegmentSize,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |number| {
            SegmentName::new(self.timeline, number, self.size).map_or(format!("#{number}"), |name| name.to_string())
        };
        match self.run.last - self.run.first {
            0 => f.write_str(&name(self.run.first)),
            more => write!(f, "{} to {} ({} segments)", name(self.run.first), name(self.run.last), more + 1),
        }
    }
}

/// The segments that hold the WAL from `start` up to (not including) `stop`, on one timeline.
pub fn segments_between(timeline: Timeline, start: Lsn, stop: Lsn, size: SegmentSize) -> Vec<SegmentName> {
    let last = Lsn(stop.0.saturating_sub(1).max(start.0)).0 / size.bytes();
    (start.0 / size.bytes()..=last).filter_map(|number| SegmentName::new(timeline, number, size)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::timeline::Switch;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn segment(timeline: u32, number: u64) -> SegmentName {
        SegmentName::new(Timeline(timeline), number, SIZE).unwrap()
    }

    fn inventory(segments: impl IntoIterator<Item = (u32, u64)>) -> Inventory {
        let mut inventory = Inventory::new(SIZE);
        segments.into_iter().for_each(|(timeline, number)| inventory.add(segment(timeline, number)));
        inventory
    }

    fn at(number: u64) -> Lsn {
        Lsn(number * SIZE.bytes())
    }

    /// Timeline 2 left timeline 1 in the middle of segment 5.
    fn fork() -> History {
        let switch = Switch { timeline: Timeline(1), at: Lsn(at(5).0 + 1000) };
        History { timeline: Timeline(2), ancestors: vec![switch] }
    }

    proptest! {
        #[test]
        fn the_first_gap_is_where_a_naive_walk_stops(numbers in prop::collection::vec(0u64..60, 0..60), start in 0u64..60) {
            let set: BTreeSet<u64> = numbers.iter().copied().collect();
            let inventory = inventory(numbers.into_iter().map(|number| (1, number)));
            let coverage = inventory.coverage(at(start), &History::root(Timeline(1)));
            let end = (start..).find(|number| !set.contains(number)).unwrap();
            prop_assert_eq!(coverage.end, at(end));
            let missing: Vec<u64> = coverage.gaps.iter().flat_map(|gap| gap.run.first..=gap.run.last).collect();
            let newest = set.last().copied().unwrap_or(0);
            let naive: Vec<u64> = (start..=newest).filter(|number| !set.contains(number)).collect();
            prop_assert_eq!(missing, if set.is_empty() { vec![] } else { naive });
        }
    }

    #[test]
    fn a_fork_is_followed_through_the_segment_that_both_timelines_have() {
        let segments = [(1, 3), (1, 4), (1, 5), (1, 6), (2, 5), (2, 6), (2, 7)];
        let coverage = inventory(segments).coverage(at(3), &fork());
        assert_eq!(coverage, Coverage { end: at(8), gaps: vec![] });
    }

    #[test]
    fn the_abandoned_branch_does_not_fill_a_gap_of_the_new_one() {
        let coverage = inventory([(1, 3), (1, 4), (1, 5), (1, 6), (2, 7)]).coverage(at(3), &fork());
        assert_eq!(coverage.end, at(5));
        assert_eq!(coverage.gaps.len(), 1);
        assert_eq!(coverage.gaps[0].to_string(), "000000020000000000000005 to 000000020000000000000006 (2 segments)");
    }

    #[test]
    fn what_is_newer_only_on_the_abandoned_branch_is_no_gap() {
        let coverage = inventory([(1, 3), (1, 4), (1, 5), (1, 6), (1, 9)]).coverage(at(3), &fork());
        assert_eq!(coverage, Coverage { end: at(5), gaps: vec![] });
    }

    #[test]
    fn the_stop_position_itself_is_not_needed() {
        let names = |start, stop| segments_between(Timeline(1), Lsn(start), Lsn(stop), SIZE);
        assert_eq!(names(at(2).0 + 40, at(3).0), [segment(1, 2)]);
        assert_eq!(names(at(2).0 + 40, at(3).0 + 1), [segment(1, 2), segment(1, 3)]);
        assert_eq!(names(at(2).0, at(2).0), [segment(1, 2)]);
    }
}
