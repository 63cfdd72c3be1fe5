//! Which segments a recovery needs, whether they are all there, and how far it can get. Pure: from names to answers.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;

use crate::postgres::lsn::Lsn;
use crate::wal::runs::{Run, Runs};
use crate::wal::segment::{SegmentName, SegmentSize};
use crate::wal::timeline::{History, Timeline};

/// Which segments of a cluster exist.
#[derive(Clone, Debug)]
pub struct Inventory {
    size: SegmentSize,
    timelines: BTreeMap<Timeline, Runs>,
}

impl Inventory {
    /// An empty one, for segments of this size.
    pub fn new(size: SegmentSize) -> Inventory {
        Inventory { size, timelines: BTreeMap::new() }
    }

    /// The size of its segments.
    pub fn segment_size(&self) -> SegmentSize {
        self.size
    }

    /// Notes that these segments of `timeline` exist.
    pub fn add(&mut self, timeline: Timeline, runs: Runs) {
        self.timelines.entry(timeline).or_default().merge(runs);
    }

    /// What there is of `timeline`.
    pub fn runs(&self, timeline: Timeline) -> &[Run] {
        self.timelines.get(&timeline).map_or(&[], Runs::as_slice)
    }

    /// Is this segment of `timeline` there?
    pub fn holds(&self, timeline: Timeline, number: u64) -> bool {
        self.timelines.get(&timeline).is_some_and(|runs| runs.contains(number))
    }

    /// What lies between `start` and the newest segment, but at least the segment before `stop`, on the way that `history`
    /// describes.
    pub fn coverage(&self, start: Lsn, stop: Lsn, history: &History) -> Coverage {
        let legs = legs(start, history, self.size);
        let newest = legs.iter().filter_map(|leg| leg.within(self.runs(leg.timeline)).last().map(|run| run.last));
        let newest = newest.max().unwrap_or(0).max(stop.0.saturating_sub(1).max(start.0) / self.size.bytes());
        let mut coverage = Coverage {
            first: start.0 / self.size.bytes(),
            end: Lsn(start.0 / self.size.bytes() * self.size.bytes()),
            last: None,
            present: 0,
            missing: 0,
            gaps: Vec::new(),
            size: self.size,
        };
        for leg in legs.iter().filter(|leg| leg.first <= newest) {
            let mut next = leg.first;
            for run in leg.within(self.runs(leg.timeline)) {
                coverage.lack(leg.timeline, next, run.first);
                coverage.hold(leg.timeline, run);
                next = run.last + 1;
            }
            coverage.lack(leg.timeline, next, leg.last.map_or(newest, |last| last.min(newest)) + 1);
        }
        coverage
    }
}

/// A stretch of the way of a recovery: the segments that it reads from one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The timeline.
    pub timeline: Timeline,
    /// The number of the first segment.
    pub first: u64,
    /// The number of the last one; `None` on the newest timeline, which goes on for ever.
    pub last: Option<u64>,
}

impl Leg {
    /// What this leg takes of `runs`, which are in order.
    pub fn within<'a>(&self, runs: &'a [Run]) -> impl Iterator<Item = Run> + use<'a> {
        let (first, last) = (self.first, self.last.unwrap_or(u64::MAX));
        let from = runs.partition_point(|run| run.last < first);
        let runs = runs[from..].iter().take_while(move |run| run.first <= last);
        runs.map(move |run| Run { first: run.first.max(first), last: run.last.min(last) })
    }
}

/// Which segments a recovery from `start` along `history` reads, oldest first; a timeline without a segment of its own is
/// left out.
///
/// Where a timeline ends within a segment, the segment of its successor counts: it holds the WAL of both, and recovery
/// reads it first (`XLogFileReadAnyTLI` in src/backend/access/transam/xlogrecovery.c).
pub fn legs(start: Lsn, history: &History, size: SegmentSize) -> Vec<Leg> {
    let mut first = start.0 / size.bytes();
    let mut legs = Vec::new();
    for switch in &history.ancestors {
        let end = switch.at.0 / size.bytes();
        if end > first {
            legs.push(Leg { timeline: switch.timeline, first, last: Some(end - 1) });
            first = end;
        }
    }
    legs.push(Leg { timeline: history.timeline, first, last: None });
    legs
}

/// What an inventory holds from a position on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// The number of the first segment that is needed.
    pub first: u64,
    /// Everything before this position is there: the end of the last segment before the first gap.
    pub end: Lsn,
    /// The last segment before the first gap.
    pub last: Option<SegmentName>,
    /// How many segments are there.
    pub present: u64,
    /// How many are missing before the newest one.
    pub missing: u64,
    /// Which are missing before the newest one, in order; the first [`GAPS_KEPT`] gaps.
    pub gaps: Vec<Gap>,
    size: SegmentSize,
}

/// So many gaps are kept of each way: a person needs the first, and an archive with more is in ruins.
pub const GAPS_KEPT: usize = 1000;

impl Coverage {
    fn hold(&mut self, timeline: Timeline, run: Run) {
        self.present += run.len();
        if self.missing == 0 {
            self.end = Lsn((run.last + 1).saturating_mul(self.size.bytes()));
            self.last = SegmentName::new(timeline, run.last, self.size);
        }
    }

    /// Notes that the segments from `first` up to (not including) `end` are missing.
    fn lack(&mut self, timeline: Timeline, first: u64, end: u64) {
        let Some(last) = end.checked_sub(1).filter(|&last| first <= last) else { return };
        let gap = Gap { timeline, run: Run { first, last }, size: self.size };
        self.missing += gap.run.len();
        if self.gaps.len() < GAPS_KEPT {
            self.gaps.push(gap);
        }
    }

    /// What a recovery from a backup that ended at `stop` can reach, or `None` if it cannot even become consistent.
    /// `finished` is when the backup ended, `archived` when [`Coverage::last`] was stored.
    pub fn window(&self, stop: Lsn, finished: Timestamp, archived: Option<Timestamp>) -> Option<Window> {
        let reaches = self.end >= stop;
        reaches.then_some(Window { start: stop, start_time: finished, end: self.end, end_time: archived })
    }
}

/// Where a recovery from one backup along one timeline can stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// From here on the copy is consistent.
    pub start: Lsn,
    /// When the backup ended, by the clock of the server's host.
    pub start_time: Timestamp,
    /// The WAL is there up to here, not including this position.
    pub end: Lsn,
    /// When the last segment of it was stored, by the store's clock: what was committed later is certainly not in it. A
    /// copied archive has the times of its copying.
    pub end_time: Option<Timestamp>,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Window { start, start_time, end, end_time } = self;
        match end_time {
            Some(end_time) => write!(f, "from {start_time} ({start}) to {end_time} ({end})"),
            None => write!(f, "from {start_time} ({start}) to {end}"),
        }
    }
}

/// Windows that together reach as far as these, in order, none of which touches another.
pub fn union(windows: impl IntoIterator<Item = Window>) -> Vec<Window> {
    let mut windows: Vec<Window> = windows.into_iter().collect();
    windows.sort_by_key(|window| window.start);
    let mut union: Vec<Window> = Vec::new();
    for window in windows {
        match union.last_mut() {
            Some(last) if window.start <= last.end => {
                if window.end > last.end {
                    (last.end, last.end_time) = (window.end, window.end_time);
                }
            }
            _ => union.push(window),
        }
    }
    union
}

/// Missing segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// The timeline on which they are missing.
    pub timeline: Timeline,
    /// Which.
    pub run: Run,
    size: SegmentSize,
}

impl Gap {
    /// The names of the first and the last one; `None` beyond the last position that an LSN can name.
    pub fn names(&self) -> Option<(SegmentName, SegmentName)> {
        let name = |number| SegmentName::new(self.timeline, number, self.size);
        Some((name(self.run.first)?, name(self.run.last)?))
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.names(), self.run.len()) {
            (Some((first, _)), 1) => write!(f, "{first}"),
            (Some((first, last)), count) => write!(f, "{first} to {last} ({count} segments)"),
            (None, count) => write!(f, "#{} ({count} segments)", self.run.first),
        }
    }
}

/// What is missing between the first and the last of these runs, which are in order.
pub fn holes(timeline: Timeline, runs: &[Run], size: SegmentSize) -> impl Iterator<Item = Gap> {
    runs.windows(2).map(move |pair| Gap {
        timeline,
        run: Run { first: pair[0].last + 1, last: pair[1].first - 1 },
        size,
    })
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
        for (timeline, number) in segments {
            inventory.add(Timeline(timeline), Runs::from_iter([number]));
        }
        inventory
    }

    fn at(number: u64) -> Lsn {
        Lsn(number * SIZE.bytes())
    }

    fn switch(timeline: u32, at: Lsn) -> Switch {
        Switch { timeline: Timeline(timeline), at, reason: String::new() }
    }

    /// Timeline 2 left timeline 1 in the middle of segment 5.
    fn fork() -> History {
        History { timeline: Timeline(2), ancestors: vec![switch(1, Lsn(at(5).0 + 1000))] }
    }

    fn gaps(coverage: &Coverage) -> Vec<String> {
        coverage.gaps.iter().map(Gap::to_string).collect()
    }

    fn window(start: u64, end: u64) -> Window {
        let time = |at: u64| Timestamp::from_second(at as i64).unwrap();
        Window { start: Lsn(start), start_time: time(start), end: Lsn(end), end_time: Some(time(end)) }
    }

    proptest! {
        #[test]
        fn a_union_of_windows_holds_what_one_of_them_holds_and_no_two_of_it_touch(
            windows in prop::collection::vec((0u64..100, 0u64..20), 0..8)
        ) {
            let windows: Vec<Window> = windows.into_iter().map(|(start, more)| window(start, start + more)).collect();
            let joined = union(windows.clone());
            for at in 0..130 {
                let within = |windows: &[Window]| windows.iter().any(|one| (one.start.0..=one.end.0).contains(&at));
                prop_assert_eq!(within(&windows), within(&joined), "{}", at);
            }
            prop_assert!(joined.windows(2).all(|pair| pair[0].end < pair[1].start));
            // Times go with their positions.
            prop_assert!(joined.iter().all(|one| *one == window(one.start.0, one.end.0)));
        }
    }

    proptest! {
        #[test]
        fn a_coverage_is_what_a_naive_walk_finds(
            segments in prop::collection::btree_set((1u32..4, 0u64..30), 0..60), start in 0u64..30,
            more in 0u64..40, switches in [0u64..30 * 16, 0u64..30 * 16]
        ) {
            // In sixteenths of a segment, so that switches fall on boundaries and between them.
            let place = |sixteenths: u64| Lsn(sixteenths * SIZE.bytes() / 16);
            let [one, two] = switches;
            let ancestors = vec![switch(1, place(one.min(two))), switch(2, place(one.max(two)))];
            let history = History { timeline: Timeline(3), ancestors };
            // In quarters of a segment.
            let stop = Lsn(at(start).0 + more * SIZE.bytes() / 4);
            let coverage = inventory(segments.clone()).coverage(at(start), stop, &history);

            let wanted = |number: u64| (history.timeline_at(Lsn(at(number + 1).0 - 1)).0, number);
            let newest = (start..30).rev().find(|&number| segments.contains(&wanted(number))).unwrap_or(0);
            let newest = newest.max(start + more.saturating_sub(1) / 4);
            let needed: Vec<(u32, u64)> = (start..=newest).map(wanted).collect();
            let missing: Vec<(u32, u64)> = needed.iter().filter(|name| !segments.contains(name)).copied().collect();
            let found = coverage.gaps.iter().flat_map(|gap| (gap.run.first..=gap.run.last).map(|n| (gap.timeline.0, n)));
            prop_assert_eq!(found.collect::<Vec<_>>(), missing.clone());
            prop_assert_eq!(coverage.missing, missing.len() as u64);
            prop_assert_eq!(coverage.present + coverage.missing, needed.len() as u64);
            let end = (start..).find(|&number| !segments.contains(&wanted(number))).unwrap();
            prop_assert_eq!(coverage.end, at(end));
            let last = (end > start).then(|| wanted(end - 1)).map(|(timeline, number)| segment(timeline, number));
            prop_assert_eq!(coverage.last, last);
        }

        #[test]
        fn holes_and_runs_fill_what_lies_between_the_first_and_the_last(numbers in prop::collection::btree_set(0u64..99, 1..60)) {
            let runs: Runs = numbers.iter().copied().collect();
            let holes = holes(Timeline(1), runs.as_slice(), SIZE).flat_map(|gap| gap.run.first..=gap.run.last);
            let all: BTreeSet<u64> = holes.chain(numbers.iter().copied()).collect();
            let (first, last) = (numbers.first().copied().unwrap(), numbers.last().copied().unwrap());
            prop_assert_eq!(all, (first..=last).collect::<BTreeSet<u64>>());
        }
    }

    #[test]
    fn a_fork_is_followed_through_the_segment_that_both_timelines_have() {
        let segments = [(1, 3), (1, 4), (1, 5), (1, 6), (2, 5), (2, 6), (2, 7)];
        let coverage = inventory(segments).coverage(at(3), at(3), &fork());
        assert_eq!((coverage.end, coverage.present, gaps(&coverage)), (at(8), 5, vec![]));
    }

    #[test]
    fn the_abandoned_branch_does_not_fill_a_gap_of_the_new_one() {
        let coverage = inventory([(1, 3), (1, 4), (1, 5), (1, 6), (2, 7)]).coverage(at(3), at(3), &fork());
        assert_eq!(coverage.end, at(5));
        assert_eq!(gaps(&coverage), ["000000020000000000000005 to 000000020000000000000006 (2 segments)"]);
    }

    #[test]
    fn what_is_newer_only_on_the_abandoned_branch_is_no_gap() {
        let coverage = inventory([(1, 3), (1, 4), (1, 5), (1, 6), (1, 9)]).coverage(at(3), at(3), &fork());
        assert_eq!((coverage.end, gaps(&coverage)), (at(5), vec![]));
    }

    #[test]
    fn a_gap_over_a_fork_is_told_for_each_timeline() {
        let coverage = inventory([(1, 3), (2, 7)]).coverage(at(3), at(3), &fork());
        let expected =
            ["000000010000000000000004", "000000020000000000000005 to 000000020000000000000006 (2 segments)"];
        assert_eq!(gaps(&coverage), expected);
    }

    #[test]
    fn a_hole_of_any_size_costs_nothing_and_ruins_are_counted() {
        let coverage = inventory([(1, 3), (1, 1 << 39)]).coverage(at(3), at(3), &History::root(Timeline(1)));
        assert_eq!((coverage.missing, coverage.gaps.len()), ((1 << 39) - 4, 1));
        let coverage = inventory((0..5000).map(|n| (1, 2 * n))).coverage(at(0), at(0), &History::root(Timeline(1)));
        assert_eq!((coverage.missing, coverage.gaps.len()), (4999, GAPS_KEPT));
    }

    #[test]
    fn a_window_opens_at_the_backups_end_and_not_without_its_wal() {
        let coverage = inventory([(1, 3), (1, 4)]).coverage(at(3), at(3), &History::root(Timeline(1)));
        let (finished, archived) = (Timestamp::from_second(10).unwrap(), Timestamp::from_second(20).unwrap());
        let window = coverage.window(Lsn(at(4).0 + 5), finished, Some(archived)).unwrap();
        assert_eq!((window.start, window.end), (Lsn(at(4).0 + 5), at(5)));
        assert_eq!((window.start_time, window.end_time), (finished, Some(archived)));
        assert_eq!(coverage.window(Lsn(at(5).0 + 1), finished, None), None);
    }

    #[test]
    fn the_stop_position_itself_is_not_needed() {
        let names = |start, stop| segments_between(Timeline(1), Lsn(start), Lsn(stop), SIZE);
        assert_eq!(names(at(2).0 + 40, at(3).0), [segment(1, 2)]);
        assert_eq!(names(at(2).0 + 40, at(3).0 + 1), [segment(1, 2), segment(1, 3)]);
        assert_eq!(names(at(2).0, at(2).0), [segment(1, 2)]);
    }
}
