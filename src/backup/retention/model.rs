//! Plans for random histories, compared with a model that asks of each segment whether anybody needs it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::wal::segment::SegmentName;
use crate::wal::timeline::{History, Switch};

const SIZE: SegmentSize = SegmentSize::DEFAULT;
const DAY: i64 = 86_400;
const BEGIN: i64 = 1_790_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(BEGIN + seconds).unwrap()
}

/// A step in the life of a cluster; each takes a while, and writes WAL on the timeline where the server is.
#[derive(Clone, Debug)]
enum Step {
    Write(u64),
    Backup {
        damaged: bool,
        pinned: bool,
        within: u64,
    },
    Unreadable,
    /// Goes on from where it is, on a new timeline.
    Promote,
    /// Goes back so many segments, on whatever timeline that was, and opens a new one there.
    GoBack(u64),
    /// Archives nothing of this stretch, as an old timeline whose history got lost.
    ForgetHistory,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..6).prop_map(Step::Write),
        4 => (prop::bool::weighted(0.2), prop::bool::weighted(0.2), 0u64..3)
            .prop_map(|(damaged, pinned, within)| Step::Backup { damaged, pinned, within }),
        1 => Just(Step::Unreadable),
        2 => Just(Step::Promote),
        1 => (1u64..8).prop_map(Step::GoBack),
        1 => Just(Step::ForgetHistory),
    ]
}

struct Life {
    cluster: Cluster,
    /// Every history, those that the archive has lost among them.
    histories: Vec<History>,
    now: History,
    lsn: u64,
    clock: i64,
    lost: BTreeSet<Timeline>,
}

impl Life {
    fn new(system: u64, clock: i64) -> Life {
        let system = SystemId((((BEGIN + clock) as u64) << 32) | system);
        let cluster = Cluster { size: Some(SIZE), ..Cluster::empty(system) };
        let now = History::root(Timeline(1));
        Life { cluster, histories: vec![now.clone()], now, lsn: SIZE.bytes(), clock, lost: BTreeSet::new() }
    }

    fn archive(&mut self, number: u64) {
        let stored = at(self.clock);
        let stock = self.cluster.wal.entry(self.now.timeline).or_default();
        stock.segments.insert(number);
        stock.last = stock.last.max(Some(number));
        stock.stored =
            Some(stock.stored.map_or((stored, stored), |(first, last)| (first.min(stored), last.max(stored))));
    }

    fn write(&mut self, segments: u64) {
        for _ in 0..segments {
            self.clock += DAY / 4;
            self.archive(self.lsn / SIZE.bytes());
            self.lsn = (self.lsn / SIZE.bytes() + 1) * SIZE.bytes() + 100;
        }
    }

    fn id(&self, start: u64) -> BackupId {
        BackupId::new(at(self.clock), SegmentName::containing(self.now.timeline, Lsn(start), SIZE))
    }

    fn leave(&mut self, history: History, lsn: u64) {
        self.lsn = lsn;
        let timeline = Timeline(self.histories.iter().map(|one| one.timeline.0).max().unwrap_or(1) + 1);
        let mut ancestors = history.ancestors.clone();
        ancestors.push(Switch { timeline: history.timeline, at: Lsn(lsn), reason: String::new() });
        self.now = History { timeline, ancestors };
        self.histories.push(self.now.clone());
    }

    fn step(&mut self, step: &Step, postgres: u16) {
        self.clock += 60;
        match *step {
            Step::Write(count) => self.write(count),
            Step::Backup { damaged, pinned, within } => {
                let (id, start) = (self.id(self.lsn), self.lsn);
                self.write(within);
                self.lsn += 50;
                let stop = self.lsn;
                self.archive(stop / SIZE.bytes());
                self.clock += 60;
                let (timeline, finished) = (self.now.timeline, at(self.clock));
                self.cluster.backups.push(Known {
                    id,
                    finished,
                    timeline,
                    start: Lsn(start),
                    stop: Lsn(stop),
                    postgres,
                    damaged,
                    pinned,
                    bytes: 1,
                });
            }
            Step::Unreadable => self.cluster.unreadable.push(self.id(self.lsn)),
            Step::Promote => self.leave(self.now.clone(), self.lsn),
            Step::GoBack(segments) => {
                let lsn = self.lsn.saturating_sub(segments * SIZE.bytes()).max(SIZE.bytes());
                let there = self.now.timeline_at(Lsn(lsn));
                let history = self.histories.iter().find(|one| one.timeline == there).unwrap().clone();
                self.leave(history, lsn);
            }
            Step::ForgetHistory => {
                self.lost.insert(self.now.timeline);
            }
        }
    }

    fn end(mut self) -> (Cluster, Vec<History>) {
        let known =
            self.histories.iter().filter(|one| one.timeline != Timeline(1) && !self.lost.contains(&one.timeline));
        let timelines = self.histories.iter().map(|one| one.timeline);
        self.cluster.tree = Tree::new(known.cloned(), timelines.collect::<Vec<_>>());
        (self.cluster, self.histories)
    }
}

/// Clusters one after the other, as `pg_upgrade` leaves them, or two that live beside each other; the last moment.
fn lives(lives: &[Vec<Step>], side_by_side: bool, underway: bool) -> (Vec<Cluster>, Vec<Vec<History>>, Timestamp) {
    let (mut all, mut clock): (Vec<Life>, i64) = (Vec::new(), 0);
    for (number, steps) in lives.iter().enumerate() {
        let mut life = Life::new(number as u64, clock);
        for step in steps {
            life.step(step, 15 + number as u16);
        }
        if underway && number + 1 == lives.len() {
            let id = life.id(life.lsn);
            life.cluster.underway.push(id);
        }
        if !side_by_side {
            clock = life.clock + 3600;
        }
        all.push(life);
    }
    let end = all.iter().map(|life| life.clock).max().unwrap_or(0);
    for life in all.iter_mut().filter(|_| side_by_side) {
        // All of them are still alive.
        life.clock = end;
        life.archive(life.lsn / SIZE.bytes());
    }
    let (clusters, histories) = all.into_iter().map(Life::end).unzip();
    (clusters, histories, at(end + 60))
}

/// Does a recovery from the backup to some timeline read this segment, if all histories are known? Asked of each segment
/// for itself, byte by byte as it were: is there a position in it that lies on the way?
fn reads(histories: &[History], backup: &Known, timeline: Timeline, number: u64, up_to: u64) -> bool {
    let (begin, end) = (number * SIZE.bytes(), (number + 1) * SIZE.bytes());
    let last = (up_to.saturating_sub(1)).max(backup.start.0) / SIZE.bytes();
    if number < backup.start.0 / SIZE.bytes() || number > last {
        return false;
    }
    histories.iter().filter(|history| history.passes(backup.timeline, backup.stop)).any(|history| {
        // The newest timeline that has written into the segment is read, and has all of it.
        history.timeline_at(Lsn(end - 1)) == timeline && begin < end
    })
}

fn any_rules() -> impl Strategy<Value = (Option<u32>, Option<i64>, u32)> {
    (prop::option::of(1u32..4), prop::option::of(0i64..20), 1u32..3)
}

fn any_lives() -> impl Strategy<Value = (Vec<Vec<Step>>, bool, bool)> {
    (prop::collection::vec(prop::collection::vec(any_step(), 0..14), 1..4), any::<bool>(), any::<bool>())
}

/// The archive after the plan was carried out.
fn carried_out(plans: &[ClusterPlan]) -> Vec<Cluster> {
    let after = plans.iter().map(|plan| {
        let mut cluster = plan.cluster.clone();
        let goes: BTreeSet<BackupId> = plan.backups.iter().filter(|one| one.goes).map(|one| one.id).collect();
        cluster.backups.retain(|one| !goes.contains(&one.id));
        cluster.unreadable.retain(|one| !goes.contains(one));
        cluster.remains.clear();
        let going = plan.wal.going();
        for (timeline, stock) in &mut cluster.wal {
            let Some(gone) = going.get(timeline) else { continue };
            let stays = |number: &u64| !gone.contains(*number);
            let all = stock.segments.as_slice().iter().flat_map(|run| run.first..=run.last);
            stock.segments = all.filter(stays).collect();
            stock.last = stock.segments.as_slice().last().map(|run| run.last);
        }
        cluster.wal.retain(|_, stock| stock.last.is_some());
        cluster
    });
    after.collect()
}

#[test]
fn of_a_timeline_whose_history_is_lost_every_backup_that_may_lead_there_stays() {
    let backup = |within| Step::Backup { damaged: false, pinned: false, within };
    // The second backup ends behind the place where timeline 2 left: only the first one leads there, and nothing says so.
    let steps = vec![
        backup(0),
        Step::Write(1),
        backup(1),
        Step::Write(3),
        Step::GoBack(3),
        Step::ForgetHistory,
        Step::Write(1),
    ];
    let (clusters, _, now) = lives(&[steps], false, false);
    for rules in [
        Rules { newest: None, since: Some(now - SignedDuration::from_secs(DAY)), min: 1 },
        Rules { newest: Some(1), since: None, min: 1 },
    ] {
        let plans = plan(clusters.clone(), &Wish::Unless(rules)).unwrap();
        assert!(plans[0].backups.iter().all(|one| !one.goes), "{:#?}", plans[0].backups);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn what_stays_still_restores_and_the_window_is_covered((steps, side, underway) in any_lives(), (newest, window, min) in any_rules()) {
        let (clusters, histories, now) = lives(&steps, side, underway);
        let since = window.map(|days| now - SignedDuration::from_secs(days * DAY));
        let rules = Rules { newest, since, min };
        let plans = plan(clusters.clone(), &Wish::Unless(rules)).unwrap();
        for ((plan, cluster), histories) in plans.iter().zip(&clusters).zip(&histories) {
            let going = plan.wal.going();
            let gone = |timeline: Timeline, number: u64| going.get(&timeline).is_some_and(|runs| runs.contains(number));
            let stays: BTreeSet<BackupId> = plan.backups.iter().filter(|one| !one.goes).map(|one| one.id).collect();
            let by_rule = |id: BackupId| plan.backups.iter().any(|one| one.id == id && !one.goes && one.why != Why::Pinned);
            // Who stays finds its WAL: to its end, and as far as there is any unless it is only pinned.
            for (&timeline, stock) in &cluster.wal {
                for number in stock.segments.as_slice().iter().flat_map(|run| run.first..=run.last) {
                    let needed = cluster.backups.iter().filter(|one| stays.contains(&one.id)).any(|backup| {
                        let up_to = if by_rule(backup.id) { u64::MAX } else { backup.stop.0 };
                        reads(histories, backup, timeline, number, up_to)
                    });
                    prop_assert!(!needed || !gone(timeline, number), "{timeline} {number} of {plan:#?}");
                    let open = cluster.underway.iter().chain(&cluster.unreadable).map(|id| Known {
                        id: *id, finished: now, timeline: id.segment().timeline, postgres: 15, damaged: false, pinned: false, bytes: 0,
                        start: id.segment().start(SIZE).unwrap(), stop: id.segment().start(SIZE).unwrap(),
                    });
                    for backup in open {
                        prop_assert!(!reads(histories, &backup, timeline, number, u64::MAX) || !gone(timeline, number));
                    }
                }
            }
            // Nothing that is pinned, unfinished or unreadable goes.
            for verdict in plan.backups.iter().filter(|one| one.goes) {
                let known = cluster.backups.iter().find(|one| one.id == verdict.id).unwrap();
                prop_assert!(!known.pinned);
                // Sound ones beyond the number, and none that began a promised moment.
                let heirs = clusters.iter().filter(|other| !side && other.system_id > cluster.system_id && other.born() >= cluster.born());
                let newer = cluster.backups.iter().filter(|one| !one.damaged && one.finished > known.finished).count();
                let later: usize = heirs.map(|heir| heir.backups.iter().filter(|one| !one.damaged).count()).sum();
                prop_assert!(newer + later >= newest.unwrap_or(0).max(min) as usize);
                prop_assert!(since.is_none_or(|since| known.finished <= since));
            }
            // Each moment of the window that could be had before can be had after: a segment stored since then is the end of
            // a way on which a backup lies that had ended before, and that still is so.
            let Some(since) = since else { continue };
            for (&timeline, stock) in &cluster.wal {
                let Some(history) = histories.iter().find(|one| one.timeline == timeline) else { continue };
                if stock.stored.is_none_or(|(_, last)| last <= since) {
                    continue;
                }
                let leads = |one: &&Known| !one.damaged && one.finished <= since && history.passes(one.timeline, one.stop);
                let before = cluster.backups.iter().filter(leads).map(|one| one.finished).max();
                let after = cluster.backups.iter().filter(leads).filter(|one| by_rule(one.id)).map(|one| one.finished).max();
                prop_assert_eq!(before, after, "timeline {}: {:#?}", timeline, plan);
            }
        }
        // Never the last sound one.
        for (plan, cluster) in plans.iter().zip(&clusters) {
            let sound = cluster.backups.iter().filter(|one| !one.damaged).max_by_key(|one| one.finished);
            let heir = clusters.iter().any(|other| other.succeeds(cluster) && other.backups.iter().any(|one| !one.damaged));
            if let Some(sound) = sound.filter(|_| !heir) {
                prop_assert!(plan.backups.iter().any(|one| one.id == sound.id && !one.goes));
            }
        }
    }

    #[test]
    fn what_no_backup_needs_goes_where_everything_is_known((mut steps, side, underway) in any_lives(), (newest, window, min) in any_rules()) {
        for steps in &mut steps {
            steps.retain(|step| !matches!(step, Step::ForgetHistory | Step::Unreadable));
        }
        let (clusters, histories, now) = lives(&steps, side, underway);
        let since = window.map(|days| now - SignedDuration::from_secs(days * DAY));
        let plans = plan(clusters.clone(), &Wish::Unless(Rules { newest, since, min })).unwrap();
        for ((plan, cluster), histories) in plans.iter().zip(&clusters).zip(&histories) {
            let forward = plan.backups.iter().any(|one| !one.goes && one.why != Why::Pinned);
            if !forward {
                continue;
            }
            let going = plan.wal.going();
            let living = cluster.living();
            for (&timeline, stock) in &cluster.wal {
                for number in stock.segments.as_slice().iter().flat_map(|run| run.first..=run.last) {
                    let needed = plan.backups.iter().filter(|one| !one.goes).any(|verdict| {
                        let id = verdict.id;
                        let start = id.segment().start(SIZE).unwrap();
                        let open = Known {
                            id, finished: now, timeline: id.segment().timeline, postgres: 15, damaged: false, pinned: false,
                            bytes: 0, start, stop: start,
                        };
                        let backup = cluster.backups.iter().find(|one| one.id == id).unwrap_or(&open);
                        let up_to = if verdict.why == Why::Pinned { backup.stop.0 } else { u64::MAX };
                        reads(histories, backup, timeline, number, up_to)
                    });
                    let gone = going.get(&timeline).is_some_and(|runs| runs.contains(number));
                    prop_assert!(gone != needed || Some(timeline) == living, "{timeline} {number} {needed}: {plan:#?}");
                }
            }
        }
    }

    #[test]
    fn a_plan_that_was_carried_out_leaves_nothing_to_do((steps, side, underway) in any_lives(), (newest, window, min) in any_rules()) {
        let (clusters, _, now) = lives(&steps, side, underway);
        let since = window.map(|days| now - SignedDuration::from_secs(days * DAY));
        let wish = Wish::Unless(Rules { newest, since, min });
        let after = carried_out(&plan(clusters, &wish).unwrap());
        for plan in plan(after, &wish).unwrap() {
            prop_assert!(plan.backups.iter().all(|one| !one.goes), "{plan:#?}");
            prop_assert!(plan.wal.stretches.iter().all(|one| !one.goes || one.segments == 0), "{plan:#?}");
        }
    }

    #[test]
    fn a_rule_more_or_a_greater_number_keeps_all_that_was_kept((steps, side, underway) in any_lives(), (newest, window, min) in any_rules(), more in 1u32..3) {
        let (clusters, _, now) = lives(&steps, side, underway);
        let since = |days: i64| now - SignedDuration::from_secs(days * DAY);
        let few = Rules { newest, since: None, min };
        let wide = Rules { newest: Some(newest.unwrap_or(0) + more), since: window.map(since), min: min + more - 1 };
        let few = plan(clusters.clone(), &Wish::Unless(few)).unwrap();
        let wide = plan(clusters, &Wish::Unless(wide)).unwrap();
        for (few, wide) in few.iter().zip(&wide) {
            for one in few.backups.iter().filter(|one| !one.goes) {
                prop_assert!(wide.backups.iter().any(|other| other.id == one.id && !other.goes), "{one:?}");
            }
            let (kept, gone) = (&few.wal.stretches, wide.wal.going());
            for stretch in kept.iter().filter(|one| !one.goes) {
                // A stretch has numbers before the place where its timeline began, which never had a segment.
                let there = few.cluster.wal[&stretch.timeline].segments.as_slice().iter().flat_map(|run| run.first..=run.last);
                let mut kept = there.filter(|number| (stretch.run.first..=stretch.run.last).contains(number));
                let gone = gone.get(&stretch.timeline);
                prop_assert!(kept.all(|number| gone.is_none_or(|gone| !gone.contains(number))), "{stretch:?}");
            }
        }
    }
}
