//! Where things lie on the time line: from times to shares of its width. Pure.
//!
//! Whatever there is of backups, windows and timelines, what is drawn is bounded: what comes closer together than can
//! be seen becomes one thing that says of how many it is made.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::text::{minute, second};
use super::{Cluster, Line, Listed, State};
use crate::observe::counted;
use crate::wal::timeline::Timeline;

/// Marks that are closer together than this share of the width become one: eight points of a thousand, which a mark is
/// wide.
const MARKS_APART: f64 = 0.008;

/// The same for stretches: less than three points of a thousand.
const STRETCHES_APART: i32 = 400;

/// So many timelines are drawn, the newest: each failover makes one more.
const LANES: usize = 12;

/// So many ticks at most.
const TICKS: i64 = 8;

/// Seconds between two ticks: what people count time in.
const STEPS: [i64; 16] = [
    60,
    300,
    900,
    3600,
    3 * 3600,
    6 * 3600,
    12 * 3600,
    DAY,
    2 * DAY,
    7 * DAY,
    14 * DAY,
    28 * DAY,
    91 * DAY,
    182 * DAY,
    364 * DAY,
    1820 * DAY,
];

const DAY: i64 = 86_400;

/// A time line.
#[derive(Clone, Debug)]
pub(super) struct Drawing {
    pub from: Timestamp,
    pub to: Timestamp,
    pub ticks: Vec<Tick>,
    pub lanes: Vec<Lane>,
    /// Timelines that would be drawn, and are too many.
    pub hidden: usize,
}

/// A time below the lanes.
#[derive(Clone, Debug)]
pub(super) struct Tick {
    pub at: f64,
    pub label: String,
}

/// One timeline.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub timeline: Timeline,
    pub latest: bool,
    /// Where recoveries can stop.
    pub windows: Vec<Bar>,
    /// Where they cannot, though there are backups before.
    pub holes: Vec<Bar>,
    /// Backups, in order.
    pub backups: Vec<Mark>,
    /// Where WAL is missing: in the middle of a hole, which may be too small to be seen.
    pub gaps: Vec<Mark>,
    /// The lane that it left, by its place, and when.
    pub fork: Option<(usize, f64)>,
}

/// From where to where, as shares of the width.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bar {
    pub from: f64,
    pub to: f64,
    pub title: String,
}

/// What lies at one place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mark {
    pub at: f64,
    pub shape: Shape,
    pub count: usize,
    pub title: String,
}

/// What a mark looks like; the worst comes last, and wins where marks become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shape {
    Good,
    Kept,
    Incomplete,
    Damaged,
    Lost,
}

impl Shape {
    pub fn of(listed: &Listed) -> Shape {
        match listed.state {
            State::Good if listed.taken.as_ref().is_some_and(|taken| taken.keep) => Shape::Kept,
            State::Good => Shape::Good,
            State::Incomplete => Shape::Incomplete,
            State::Damaged => Shape::Damaged,
            State::Unusable | State::Unreadable => Shape::Lost,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Shape::Good => "good",
            Shape::Kept => "good, kept",
            Shape::Incomplete => "incomplete",
            Shape::Damaged => "damaged",
            Shape::Lost => "unusable",
        }
    }
}

/// How many timelines are never drawn.
pub(super) fn older(cluster: &Cluster) -> usize {
    cluster.timelines.len().saturating_sub(LANES)
}

/// When a backup stands on the time line.
pub(super) fn time(listed: &Listed) -> Timestamp {
    listed.taken.as_ref().map_or(listed.started, |taken| taken.finished)
}

/// From when on there is something to draw; `None` if there is nothing. Of many timelines only the newest are drawn, and
/// the others are to leave no room empty.
pub(super) fn first(cluster: &Cluster) -> Option<Timestamp> {
    let windows = cluster.recoverable.iter().flat_map(|line| &line.windows).map(|window| window.start_time);
    let first = windows.chain(cluster.backups.iter().map(|listed| listed.started)).min()?;
    let oldest = cluster.timelines.len().checked_sub(LANES).and_then(|hidden| cluster.timelines.get(hidden));
    let begin = oldest.and_then(|branch| begins(cluster).remove(&branch.timeline));
    Some(begin.map_or(first, |begin| begin.max(first)))
}

/// The time line of a cluster between two times.
pub(super) fn draw(cluster: &Cluster, from: Timestamp, to: Timestamp) -> Drawing {
    let axis = Axis { from, to: to.max(from + SignedDuration::from_secs(1)) };
    let begins = begins(cluster);
    let (mut windows, mut holes) = (BTreeMap::new(), BTreeMap::new());
    for line in &cluster.recoverable {
        let chain = chain(cluster, line.timeline);
        let newest = cluster.last_segment.as_ref().map_or(to, |last| last.stored).max(from);
        let own = reached(line);
        for &window in &own {
            share(&mut windows, &chain, &begins, window);
        }
        for hole in lost(cluster, line, &own, newest) {
            share(&mut holes, &chain, &begins, hole);
        }
    }
    let mut lanes = Vec::new();
    for branch in &cluster.timelines {
        let timeline = branch.timeline;
        let own = cluster.backups.iter().filter(|listed| listed.timeline == timeline);
        let holes: Vec<(Timestamp, Timestamp)> = holes.remove(&timeline).unwrap_or_default();
        let lane = Lane {
            timeline,
            latest: cluster.recoverable.iter().any(|line| line.timeline == timeline && line.latest),
            gaps: gaps(&holes, &axis),
            windows: bars(windows.remove(&timeline).unwrap_or_default(), &axis, "a recovery can stop here"),
            holes: bars(holes, &axis, "no recovery can stop here: WAL is missing"),
            backups: marks(own, &axis),
            fork: None,
        };
        if !(lane.windows.is_empty() && lane.holes.is_empty() && lane.backups.is_empty()) {
            lanes.push(lane);
        }
    }
    let hidden = lanes.len().saturating_sub(LANES);
    let mut lanes = lanes.split_off(hidden);
    let places: BTreeMap<Timeline, usize> =
        lanes.iter().enumerate().map(|(place, lane)| (lane.timeline, place)).collect();
    for lane in &mut lanes {
        let branch = cluster.timelines.iter().find(|branch| branch.timeline == lane.timeline);
        let parent = branch.and_then(|branch| branch.parent).and_then(|parent| places.get(&parent));
        let at = begins.get(&lane.timeline).and_then(|&begin| axis.at(begin));
        lane.fork = parent.copied().zip(at);
    }
    Drawing { from: axis.from, to: axis.to, ticks: ticks(&axis), lanes, hidden }
}

/// The ends of the time line.
struct Axis {
    from: Timestamp,
    to: Timestamp,
}

impl Axis {
    fn width(&self) -> f64 {
        self.to.duration_since(self.from).as_secs_f64()
    }

    fn share(&self, time: Timestamp) -> f64 {
        (time.duration_since(self.from).as_secs_f64() / self.width()).clamp(0.0, 1.0)
    }

    /// `None` for what lies beyond.
    fn at(&self, time: Timestamp) -> Option<f64> {
        (self.from..=self.to).contains(&time).then(|| self.share(time))
    }
}

/// When timelines began, as far as can be told: when the history file was stored, but not after the first backup on it
/// as a copied archive would have it, and not before the parent.
fn begins(cluster: &Cluster) -> BTreeMap<Timeline, Timestamp> {
    let mut begins: BTreeMap<Timeline, Timestamp> = BTreeMap::new();
    for branch in cluster.timelines.iter().filter(|branch| branch.parent.is_some()) {
        let own = cluster.backups.iter().filter(|listed| listed.timeline == branch.timeline);
        let time = branch.promoted.into_iter().chain(own.map(|listed| listed.started)).min();
        let parent = branch.parent.and_then(|parent| begins.get(&parent).copied());
        if let Some(time) = time {
            begins.insert(branch.timeline, parent.map_or(time, |parent| parent.max(time)));
        }
    }
    begins
}

/// A timeline with those that it passes through, oldest first.
fn chain(cluster: &Cluster, timeline: Timeline) -> Vec<Timeline> {
    let mut chain = vec![timeline];
    let mut parents: BTreeMap<Timeline, Timeline> =
        cluster.timelines.iter().filter_map(|branch| Some((branch.timeline, branch.parent?))).collect();
    // Taken out, so that no file can lead in a circle.
    while let Some(parent) = chain.last().and_then(|last| parents.remove(last)) {
        chain.push(parent);
    }
    chain.reverse();
    chain
}

type Stretches = BTreeMap<Timeline, Vec<(Timestamp, Timestamp)>>;

/// Gives each timeline of a chain its part of a stretch of time.
fn share(
    all: &mut Stretches,
    chain: &[Timeline],
    begins: &BTreeMap<Timeline, Timestamp>,
    (from, to): (Timestamp, Timestamp),
) {
    for (index, &timeline) in chain.iter().enumerate() {
        let begin = begins.get(&timeline).map_or(from, |&begin| begin.max(from));
        let end = chain.get(index + 1).and_then(|next| begins.get(next)).map_or(to, |&end| end.min(to));
        // A single point of time is shown where the chain ends.
        if begin < end || (begin == end && index + 1 == chain.len()) {
            all.entry(timeline).or_default().push((begin, end));
        }
    }
}

/// The windows of a line. They are in the order of their WAL, so none ends after the next one begins, though the store's
/// clock may say so: of a copied archive, or where the clocks differ.
fn reached(line: &Line) -> Vec<(Timestamp, Timestamp)> {
    let nexts = line.windows.iter().skip(1).map(|next| Some(next.start_time)).chain([None]);
    let reached = line.windows.iter().zip(nexts).map(|(window, next)| {
        let end = window.end_time.unwrap_or(window.start_time).max(window.start_time);
        (window.start_time, next.map_or(end, |next| end.min(next)))
    });
    reached.collect()
}

/// Where recoveries along this line cannot stop: between its windows, and behind the last one. The newest WAL is of the
/// latest timeline.
fn lost(
    cluster: &Cluster,
    line: &Line,
    windows: &[(Timestamp, Timestamp)],
    newest: Timestamp,
) -> Vec<(Timestamp, Timestamp)> {
    let mut lost: Vec<(Timestamp, Timestamp)> = windows.windows(2).map(|pair| (pair[0].1, pair[1].0)).collect();
    let from = match windows.last() {
        Some(&(_, end)) => line.broken.then_some(end),
        None => {
            let chain = chain(cluster, line.timeline);
            cluster.backups.iter().filter(|listed| chain.contains(&listed.timeline)).map(time).min()
        }
    };
    lost.extend(from.map(|from| (from, if line.latest { newest.max(from) } else { from })));
    lost
}

/// Stretches in order, those together that cannot be told apart.
fn bars(mut stretches: Vec<(Timestamp, Timestamp)>, axis: &Axis, what: &str) -> Vec<Bar> {
    stretches.retain(|(from, to)| *to >= axis.from && *from <= axis.to);
    stretches.sort();
    let apart = axis.to.duration_since(axis.from) / STRETCHES_APART;
    let mut joined: Vec<(Timestamp, Timestamp)> = Vec::new();
    for (from, to) in stretches {
        match joined.last_mut() {
            Some(last) if from.duration_since(last.1) <= apart => last.1 = last.1.max(to),
            _ => joined.push((from, to)),
        }
    }
    let bar = |(from, to)| Bar {
        from: axis.share(from),
        to: axis.share(to),
        title: format!("{what}: {} to {}", second(from), second(to)),
    };
    joined.into_iter().map(bar).collect()
}

fn gaps(holes: &[(Timestamp, Timestamp)], axis: &Axis) -> Vec<Mark> {
    let middle = |&(from, to): &(Timestamp, Timestamp)| Some((axis.at(from + to.duration_since(from) / 2)?, from));
    let mut at: Vec<(f64, Timestamp)> = holes.iter().filter_map(middle).collect();
    at.sort_by(|one, other| one.0.total_cmp(&other.0));
    at.dedup();
    let groups = groups(&at, |&(at, _)| at);
    let mark = |group: &[(f64, Timestamp)]| Mark {
        at: group[0].0,
        shape: Shape::Lost,
        count: group.len(),
        title: format!("WAL is missing from {} on", second(group[0].1)),
    };
    groups.into_iter().map(mark).collect()
}

fn marks<'a>(backups: impl Iterator<Item = &'a Listed>, axis: &Axis) -> Vec<Mark> {
    let mut at: Vec<(f64, &Listed)> = backups.filter_map(|listed| Some((axis.at(time(listed))?, listed))).collect();
    at.sort_by_key(|(_, listed)| time(listed));
    groups(&at, |&(at, _)| at).into_iter().map(mark).collect()
}

fn mark(group: &[(f64, &Listed)]) -> Mark {
    let (first, last) = (group[0].1, group[group.len() - 1].1);
    let shape = group.iter().map(|(_, listed)| Shape::of(listed)).max().unwrap_or(Shape::Good);
    let title = if group.len() == 1 {
        format!("backup {}, {}: {}", first.id, shape.word(), second(time(first)))
    } else {
        let mut counts: BTreeMap<Shape, usize> = BTreeMap::new();
        group.iter().for_each(|(_, listed)| *counts.entry(Shape::of(listed)).or_default() += 1);
        let counts: Vec<String> = counts.iter().map(|(shape, count)| format!("{count} {}", shape.word())).collect();
        let count = counted(group.len() as u64, "backup");
        format!("{count}, {} to {}: {}", second(time(first)), second(time(last)), counts.join("; "))
    };
    Mark { at: (group[0].0 + group[group.len() - 1].0) / 2.0, shape, count: group.len(), title }
}

/// What lies within [`MARKS_APART`] of the first of its group, in order.
fn groups<T>(all: &[T], at: impl Fn(&T) -> f64) -> Vec<&[T]> {
    let mut groups = Vec::new();
    let mut rest = all;
    while let Some(first) = rest.first() {
        let (group, others) = rest.split_at(rest.partition_point(|one| at(one) - at(first) < MARKS_APART));
        groups.push(group);
        rest = others;
    }
    groups
}

fn ticks(axis: &Axis) -> Vec<Tick> {
    let (from, to) = (axis.from.as_second(), axis.to.as_second());
    let step = STEPS.into_iter().find(|step| (to - from) / step < TICKS).unwrap_or((to - from) / TICKS + 1);
    let first = from.div_euclid(step) + i64::from(from.rem_euclid(step) != 0);
    let times = (first..).map(|number| number * step).take_while(|&time| time <= to);
    let tick = |second: i64| {
        let time = Timestamp::from_second(second).ok()?;
        let label = if step < DAY { minute(time)[5..].to_owned() } else { minute(time)[..10].to_owned() };
        Some(Tick { at: axis.share(time), label })
    };
    times.filter_map(tick).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::BackupId;
    use crate::postgres::lsn::Lsn;
    use crate::report::{Branch, Stretch, Taken};
    use crate::wal::segment::{SegmentName, SegmentSize};
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn backup(timeline: u32, second: i64, state: State) -> Listed {
        let segment = SegmentName::new(Timeline(timeline), 1, SegmentSize::DEFAULT).unwrap();
        let taken = Taken {
            finished: at(second + 10),
            seconds: 10.0,
            plain_size: 1,
            stored_size: 1,
            bytes_per_second: None,
            wal_per_hour: None,
            postgres: 15,
            keep: false,
            label: None,
            notes: BTreeMap::new(),
        };
        let (id, started) = (BackupId::new(at(second), segment), at(second));
        Listed { id, state, why: None, timeline: Timeline(timeline), started, taken: Some(taken) }
    }

    fn branch(timeline: u32, parent: Option<u32>, promoted: i64) -> Branch {
        Branch {
            timeline: Timeline(timeline),
            parent: parent.map(Timeline),
            left_at: None,
            reason: None,
            promoted: parent.map(|_| at(promoted)),
            segments: 1,
            stored_size: 1,
        }
    }

    fn window(from: i64, to: i64) -> Stretch {
        Stretch { start: Lsn(1), start_time: at(from), end: Lsn(2), end_time: Some(at(to)) }
    }

    fn line(timeline: u32, windows: Vec<Stretch>) -> Line {
        Line { timeline: Timeline(timeline), latest: true, windows, gaps: Vec::new(), broken: false }
    }

    #[test]
    fn a_window_is_shared_by_the_timelines_that_it_passes_through() {
        let cluster = Cluster {
            backups: vec![backup(1, 0, State::Good)],
            recoverable: vec![line(2, vec![window(0, 1000)])],
            timelines: vec![branch(1, None, 0), branch(2, Some(1), 400)],
            ..Cluster::default()
        };
        let drawing = draw(&cluster, at(0), at(1000));
        let bars: Vec<(f64, f64)> =
            drawing.lanes.iter().flat_map(|lane| &lane.windows).map(|bar| (bar.from, bar.to)).collect();
        assert_eq!(bars, [(0.0, 0.4), (0.4, 1.0)]);
        assert_eq!(drawing.lanes[1].fork, Some((0, 0.4)));
    }

    #[test]
    fn a_copied_archive_does_not_move_a_fork_behind_the_backups_of_its_timeline() {
        let cluster = Cluster {
            backups: vec![backup(1, 0, State::Good), backup(2, 500, State::Good)],
            recoverable: vec![line(2, vec![window(0, 1000)])],
            timelines: vec![branch(1, None, 0), branch(2, Some(1), 900)],
            ..Cluster::default()
        };
        assert_eq!(draw(&cluster, at(0), at(1000)).lanes[1].fork, Some((0, 0.5)));
    }

    #[test]
    fn between_two_windows_there_is_a_hole_and_the_mark_of_a_gap() {
        let cluster = Cluster {
            recoverable: vec![line(1, vec![window(0, 300), window(600, 1000)])],
            timelines: vec![branch(1, None, 0)],
            ..Cluster::default()
        };
        let lane = &draw(&cluster, at(0), at(1000)).lanes[0];
        assert_eq!((lane.holes[0].from, lane.holes[0].to, lane.gaps[0].at), (0.3, 0.6, 0.45));
    }

    proptest! {
        #[test]
        fn however_much_there_is_little_is_drawn_and_nothing_is_left_out(
            backups in prop::collection::vec((1u32..40, 0i64..1_000_000, any::<bool>()), 0..3000),
            windows in prop::collection::vec((0i64..1_000_000, 0i64..10_000), 0..1000),
        ) {
            let mut cluster = Cluster {
                timelines: (1..40).map(|number| branch(number, (number > 1).then(|| number - 1), i64::from(number))).collect(),
                ..Cluster::default()
            };
            for &(timeline, second, good) in &backups {
                cluster.backups.push(backup(timeline, second, if good { State::Good } else { State::Incomplete }));
            }
            cluster.recoverable.push(line(39, windows.iter().map(|&(from, long)| window(from, from + long)).collect()));
            let drawing = draw(&cluster, at(0), at(2_000_000));
            prop_assert!(drawing.lanes.len() <= LANES && drawing.ticks.len() <= TICKS as usize + 1);
            for lane in &drawing.lanes {
                prop_assert!(lane.backups.len() <= 126 && lane.windows.len() <= STRETCHES_APART as usize);
                let own = backups.iter().filter(|(timeline, ..)| Timeline(*timeline) == lane.timeline);
                let bad = own.clone().any(|(.., good)| !good);
                prop_assert_eq!(lane.backups.iter().map(|mark| mark.count).sum::<usize>(), own.count());
                prop_assert_eq!(lane.backups.iter().any(|mark| mark.shape != Shape::Good), bad);
                let order = lane.backups.windows(2).all(|pair| pair[0].at < pair[1].at);
                prop_assert!(order && lane.windows.iter().all(|bar| (0.0..=1.0).contains(&bar.from) && bar.from <= bar.to));
            }
        }

        #[test]
        fn ticks_lie_within_and_are_few(from in 0i64..2_000_000_000, long in 1i64..2_000_000_000) {
            let ticks = ticks(&Axis { from: at(from), to: at(from + long) });
            prop_assert!(ticks.len() <= TICKS as usize + 1);
            prop_assert!(ticks.iter().all(|tick| (0.0..=1.0).contains(&tick.at)));
        }
    }
}
