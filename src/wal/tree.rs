//! How the timelines of a cluster descend from each other. Pure: from history files to answers.

use std::collections::{BTreeMap, BTreeSet};

use crate::postgres::lsn::Lsn;
use crate::wal::timeline::{History, Switch, Timeline};

/// The timelines of a cluster that an archive knows of.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    histories: BTreeMap<Timeline, History>,
    known: BTreeSet<Timeline>,
}

impl Tree {
    /// A tree of these histories. `others` are timelines that are known by their WAL or their backups alone.
    pub fn new(histories: impl IntoIterator<Item = History>, others: impl IntoIterator<Item = Timeline>) -> Tree {
        let histories: BTreeMap<Timeline, History> =
            histories.into_iter().map(|history| (history.timeline, history)).collect();
        let mut known: BTreeSet<Timeline> = others.into_iter().collect();
        for history in histories.values() {
            known.insert(history.timeline);
            known.extend(history.ancestors.iter().map(|switch| switch.timeline));
        }
        Tree { histories, known }
    }

    /// Every timeline, in the order of their numbers.
    pub fn timelines(&self) -> impl Iterator<Item = Timeline> {
        self.known.iter().copied()
    }

    /// Is the timeline's history file in the archive?
    pub fn has_history(&self, timeline: Timeline) -> bool {
        self.histories.contains_key(&timeline)
    }

    /// The timeline's history; that of a timeline without ancestors if its file is not there, as PostgreSQL has it
    /// (`readTimeLineHistory` in src/backend/access/transam/timeline.c).
    pub fn history(&self, timeline: Timeline) -> History {
        self.histories.get(&timeline).cloned().unwrap_or_else(|| History::root(timeline))
    }

    /// The timeline that this one left, where, and why; `None` for one without ancestors, or without a history file.
    pub fn parent(&self, timeline: Timeline) -> Option<&Switch> {
        self.histories.get(&timeline)?.ancestors.last()
    }

    /// The timelines in the order in which a tree is drawn, each with its depth: children after their parent.
    pub fn outline(&self) -> Vec<(usize, Timeline)> {
        let mut children: BTreeMap<Option<Timeline>, Vec<Timeline>> = BTreeMap::new();
        for timeline in self.timelines() {
            children.entry(self.parent(timeline).map(|switch| switch.timeline)).or_default().push(timeline);
        }
        let mut outline = Vec::new();
        let mut open: Vec<(usize, Timeline)> = Vec::new();
        let mut expand = |open: &mut Vec<(usize, Timeline)>, depth: usize, parent: Option<Timeline>| {
            let found = children.remove(&parent).unwrap_or_default();
            open.extend(found.into_iter().rev().map(|timeline| (depth, timeline)));
        };
        expand(&mut open, 0, None);
        while let Some((depth, timeline)) = open.pop() {
            outline.push((depth, timeline));
            expand(&mut open, depth + 1, Some(timeline));
        }
        outline
    }

    /// What `recovery_target_timeline = 'latest'` chooses for a backup of `timeline`.
    pub fn latest(&self, timeline: Timeline) -> Timeline {
        latest(timeline, |next| self.has_history(next))
    }

    /// The ways that a recovery can take from a backup of `timeline` that ended at `lsn`: the histories that pass through
    /// there and that no other one of them goes on from. Never empty.
    pub fn ways(&self, timeline: Timeline, lsn: Lsn) -> Vec<History> {
        let passing = self.histories.values().filter(|history| history.passes(timeline, lsn)).cloned();
        let own = (!self.has_history(timeline)).then(|| History::root(timeline));
        let passing: Vec<History> = own.into_iter().chain(passing).collect();
        let goes_on = |one: &History| {
            passing.iter().any(|other| other.ancestors.iter().any(|switch| switch.timeline == one.timeline))
        };
        passing.iter().filter(|history| !goes_on(history)).cloned().collect()
    }

    /// The timelines from `oldest` on whose history file should be there and is not. Without it a recovery to the latest
    /// timeline stops short of it, and of all that have a greater number. Timeline 1 has none.
    pub fn missing_histories(&self, oldest: Timeline) -> Vec<Timeline> {
        let newest = self.known.last().map_or(0, |timeline| timeline.0);
        // A greater number may be a foreign name: what lies between is then told by its bounds.
        let numbers = oldest.0.max(2)..=newest.min(oldest.0.saturating_add(MOST_MISSING));
        let mut missing: Vec<Timeline> =
            numbers.map(Timeline).filter(|&timeline| !self.has_history(timeline)).collect();
        missing.extend(
            self.known
                .iter()
                .filter(|timeline| timeline.0 > oldest.0.saturating_add(MOST_MISSING))
                .filter(|&&timeline| !self.has_history(timeline)),
        );
        missing
    }
}

/// What `recovery_target_timeline = 'latest'` chooses for a backup of `timeline`: it probes upwards to the first number
/// without a history file (`findNewestTimeLine` in src/backend/access/transam/timeline.c).
pub fn latest(timeline: Timeline, has_history: impl Fn(Timeline) -> bool) -> Timeline {
    let upwards = (timeline.0..).map_while(|number| number.checked_add(1)).map(Timeline);
    upwards.take_while(|&next| has_history(next)).last().unwrap_or(timeline)
}

/// How far beyond the oldest timeline each number is looked at; no cluster has failed over so often.
const MOST_MISSING: u32 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn history(timeline: u32, ancestors: &[(u32, u64)]) -> History {
        let switch = |&(timeline, at): &(u32, u64)| Switch {
            timeline: Timeline(timeline),
            at: Lsn(at),
            reason: "no recovery target specified".into(),
        };
        History { timeline: Timeline(timeline), ancestors: ancestors.iter().map(switch).collect() }
    }

    /// 1 ── 2 ── 4, and 3 left 1 later than 2 did.
    fn family() -> Tree {
        let histories = [history(2, &[(1, 100)]), history(3, &[(1, 200)]), history(4, &[(1, 100), (2, 300)])];
        Tree::new(histories, [Timeline(1)])
    }

    fn ways(tree: &Tree, timeline: u32, lsn: u64) -> Vec<u32> {
        tree.ways(Timeline(timeline), Lsn(lsn)).iter().map(|history| history.timeline.0).collect()
    }

    #[test]
    fn a_recovery_can_take_each_branch_that_passes_through_the_backup() {
        assert_eq!(ways(&family(), 1, 50), [3, 4]);
        assert_eq!(ways(&family(), 1, 100), [3, 4]);
        assert_eq!(ways(&family(), 1, 150), [3]);
        assert_eq!(ways(&family(), 2, 300), [4]);
        assert_eq!(ways(&family(), 4, 400), [4]);
    }

    #[test]
    fn a_backup_that_every_branch_has_left_behind_still_has_its_own_timeline() {
        assert_eq!(ways(&family(), 1, 250), [1]);
        assert_eq!(ways(&family(), 2, 301), [2]);
        assert_eq!(ways(&family(), 9, 1), [9]);
    }

    #[test]
    fn the_tree_is_drawn_with_children_after_their_parents() {
        let drawn: Vec<(usize, u32)> = family().outline().into_iter().map(|(depth, t)| (depth, t.0)).collect();
        assert_eq!(drawn, [(0, 1), (1, 2), (2, 4), (1, 3)]);
    }

    #[test]
    fn latest_stops_at_the_first_number_without_a_history() {
        assert_eq!(family().latest(Timeline(1)), Timeline(4));
        let holed = Tree::new([history(2, &[(1, 100)]), history(4, &[(1, 100), (2, 300)])], []);
        assert_eq!(holed.latest(Timeline(1)), Timeline(2));
        assert_eq!(holed.latest(Timeline(3)), Timeline(4));
        assert_eq!(holed.missing_histories(Timeline(1)), [Timeline(3)]);
        assert_eq!(holed.missing_histories(Timeline(4)), []);
    }

    #[test]
    fn wal_without_a_history_is_missed_and_timeline_1_needs_none() {
        let tree = Tree::new([], [Timeline(1), Timeline(2)]);
        assert_eq!(tree.missing_histories(Timeline(1)), [Timeline(2)]);
        assert_eq!(Tree::new([], [Timeline(1)]).missing_histories(Timeline(1)), []);
        let far = Tree::new([], [Timeline(1), Timeline(u32::MAX)]);
        assert_eq!(far.missing_histories(Timeline(1)).last(), Some(&Timeline(u32::MAX)));
    }

    proptest! {
        #[test]
        fn every_way_passes_through_the_backup_and_no_way_goes_on_from_another(
            branches in prop::collection::vec((0usize..8, 1u64..100), 0..8), timeline in 1u32..10, lsn in 0u64..900
        ) {
            // Each branch leaves an earlier timeline at or behind the place where that one began.
            let mut histories = vec![History::root(Timeline(1))];
            for (parent, step) in branches {
                let parent = histories[parent % histories.len()].clone();
                let at = Lsn(parent.ancestors.last().map_or(0, |switch| switch.at.0) + step);
                let mut ancestors = parent.ancestors;
                ancestors.push(Switch { timeline: parent.timeline, at, reason: String::new() });
                histories.push(History { timeline: Timeline(histories.len() as u32 + 1), ancestors });
            }
            let timeline = Timeline(1 + (timeline - 1) % histories.len() as u32);
            let tree = Tree::new(histories.into_iter().skip(1), [Timeline(1)]);
            let ways = tree.ways(timeline, Lsn(lsn));
            prop_assert!(!ways.is_empty());
            for way in &ways {
                prop_assert!(way.timeline == timeline || way.passes(timeline, Lsn(lsn)));
                prop_assert!(!ways.iter().any(|other| other.ancestors.iter().any(|s| s.timeline == way.timeline)));
            }
            let outline = tree.outline();
            prop_assert_eq!(outline.len(), tree.timelines().count());
        }
    }
}
