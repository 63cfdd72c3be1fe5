//! Which WAL the backups that stay need, and which of it nothing needs any more. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Bare, Cluster};
use crate::layout::BackupId;
use crate::postgres::lsn::Lsn;
use crate::wal::chain::legs;
use crate::wal::runs::{Run, Runs};
use crate::wal::segment::SegmentSize;
use crate::wal::timeline::{History, Timeline};

/// A backup that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub id: BackupId,
    /// The timeline it was taken on.
    pub timeline: Timeline,
    /// Where replay begins.
    pub start: Lsn,
    /// Up to where replay must get.
    pub stop: Lsn,
    /// How far recoveries from it are promised.
    pub reach: Reach,
}

/// How far recoveries from a backup are promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To its end: what is pinned and no rule keeps.
    Consistent,
    /// As far as there is WAL, on every timeline that passes through it.
    Forward,
}

/// WAL that stays or goes as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Its timeline.
    pub timeline: Timeline,
    /// The numbers of its segments, also of those that are not there.
    pub run: Run,
    /// How many segments are there.
    pub segments: u64,
    /// Does it go?
    pub goes: bool,
    /// Why.
    pub why: WhyWal,
    /// Files of all kinds and their bytes, where somebody has counted them.
    pub weight: Option<(u64, u64)>,
}

/// Why WAL stays or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyWal {
    /// This backup needs it.
    Needed(BackupId),
    /// The server is there now, and no backup leads there yet.
    Living,
    /// The segments of this cluster cannot be counted, so nobody can say who needs them.
    Uncounted,
    /// There is no backup: a first one may be being taken.
    NoBackup,
    /// No backup that stays needs it.
    Unneeded,
}

impl fmt::Display for WhyWal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WhyWal::Needed(id) => write!(f, "backup {id} needs it"),
            WhyWal::Living => f.write_str("the server is on this timeline, and no backup leads there yet"),
            WhyWal::Uncounted => {
                f.write_str("which backups need it cannot be said: their segment size is not known or differs")
            }
            WhyWal::NoBackup => f.write_str("no backup is complete yet: a first one may be being taken"),
            WhyWal::Unneeded => f.write_str("no backup that stays needs it"),
        }
    }
}

/// What becomes of a cluster's WAL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalPlan {
    /// By timeline and number.
    pub stretches: Vec<Stretch>,
    /// Timelines whose history file goes, after their WAL.
    pub histories: BTreeSet<Timeline>,
}

impl WalPlan {
    /// The numbers that go, of each timeline of which any do.
    pub fn going(&self) -> BTreeMap<Timeline, Runs> {
        let mut going: BTreeMap<Timeline, Runs> = BTreeMap::new();
        for stretch in self.stretches.iter().filter(|stretch| stretch.goes) {
            going.entry(stretch.timeline).or_default().add(stretch.run);
        }
        going
    }
}

/// One need: these numbers of a timeline, for this backup.
#[derive(Clone, Copy, Debug)]
struct Need {
    timeline: Timeline,
    run: Run,
    of: BackupId,
}

/// Sorts the WAL of a cluster. `kept` is what stays; `None` if what that needs cannot be counted.
pub fn plan(cluster: &Cluster, kept: Option<&[Kept]>, bare: Bare) -> WalPlan {
    let Some(kept) = kept else { return all_stay(cluster, WhyWal::Uncounted) };
    let leads_forward = kept.iter().any(|kept| kept.reach == Reach::Forward);
    if bare == Bare::Stays && !leads_forward {
        return all_stay(cluster, WhyWal::NoBackup);
    }
    // Where it is not known nothing is kept, and nothing is counted.
    let size = cluster.size.unwrap_or(SegmentSize::DEFAULT);
    let needs: Vec<Need> = kept.iter().flat_map(|kept| needs(cluster, kept, size)).collect();
    let forward = |timeline: Timeline| {
        kept.iter()
            .filter(|kept| kept.reach == Reach::Forward)
            .any(|kept| cluster.leads(kept.timeline, kept.stop, timeline))
    };
    let living = cluster.living().filter(|&living| bare == Bare::Stays && !forward(living));
    let mut plan = WalPlan::default();
    for (&timeline, stock) in &cluster.wal {
        let Some(last) = stock.last else { continue };
        let whole = Run { first: 0, last };
        let own: Vec<Need> = needs.iter().filter(|need| need.timeline == timeline).copied().collect();
        let clip = |need: &Need| Run { first: need.run.first, last: need.run.last.min(last) };
        let mut needed: Runs = own.iter().map(clip).filter(|run| run.first <= run.last).collect();
        if living == Some(timeline) {
            needed.add(whole);
        }
        let mut stretches: Vec<Stretch> = Vec::new();
        for &run in needed.as_slice() {
            let by = own.iter().find(|need| need.run.last >= run.first && need.run.first <= run.last);
            let why = by.filter(|_| living != Some(timeline)).map_or(WhyWal::Living, |need| WhyWal::Needed(need.of));
            stretches.push(Stretch {
                timeline,
                run,
                segments: count(&stock.segments, run),
                goes: false,
                why,
                weight: None,
            });
        }
        for &run in needed.gaps(whole).as_slice() {
            let segments = count(&stock.segments, run);
            stretches.push(Stretch { timeline, run, segments, goes: true, why: WhyWal::Unneeded, weight: None });
        }
        stretches.sort_by_key(|stretch| stretch.run);
        plan.stretches.extend(stretches);
    }
    plan.histories = histories(cluster, kept, &plan);
    plan
}

fn all_stay(cluster: &Cluster, why: WhyWal) -> WalPlan {
    let stretches = cluster.wal.iter().filter_map(|(&timeline, stock)| {
        let run = Run { first: 0, last: stock.last? };
        Some(Stretch { timeline, run, segments: count(&stock.segments, run), goes: false, why, weight: None })
    });
    WalPlan { stretches: stretches.collect(), histories: BTreeSet::new() }
}

fn count(segments: &Runs, run: Run) -> u64 {
    segments.common(&Runs::from_iter([run]))
}

/// What a recovery from this backup can read: along every timeline that passes through it, or could for all that is known.
fn needs(cluster: &Cluster, kept: &Kept, size: SegmentSize) -> Vec<Need> {
    let first = kept.start.0 / size.bytes();
    let last = match kept.reach {
        Reach::Forward => u64::MAX,
        Reach::Consistent => kept.stop.0.saturating_sub(1).max(kept.start.0) / size.bytes(),
    };
    let mut found = Vec::new();
    let mut need = |timeline: Timeline, first: u64, end: u64| {
        let run = Run { first, last: end.min(last) };
        if run.first <= run.last {
            found.push(Need { timeline, run, of: kept.id });
        }
    };
    let along = |history: &History, need: &mut dyn FnMut(Timeline, u64, u64)| {
        for leg in legs(kept.start, history, size) {
            need(leg.timeline, leg.first, leg.last.unwrap_or(u64::MAX));
        }
    };
    along(&cluster.tree.history(kept.timeline), &mut need);
    for timeline in cluster.tree.timelines().filter(|&timeline| timeline != kept.timeline) {
        if !cluster.leads(kept.timeline, kept.stop, timeline) {
            // Where a backup's own timeline comes from matters if it began before that.
            if !cluster.knows(kept.timeline) && timeline < kept.timeline {
                need(timeline, first, u64::MAX);
            }
        } else if cluster.knows(timeline) {
            along(&cluster.tree.history(timeline), &mut need);
        } else {
            need(timeline, first, u64::MAX);
        }
    }
    found
}

/// The history files that nothing needs. They are small, and PostgreSQL looks for the newest timeline by trying one number
/// after the other (`findNewestTimeLine` in src/backend/access/transam/timeline.c): none may be missing in between.
fn histories(cluster: &Cluster, kept: &[Kept], plan: &WalPlan) -> BTreeSet<Timeline> {
    let staying = plan.stretches.iter().filter(|stretch| !stretch.goes).map(|stretch| stretch.timeline);
    let used: BTreeSet<Timeline> = staying.chain(kept.iter().map(|kept| kept.timeline)).collect();
    let unknown = used.iter().any(|&timeline| !cluster.knows(timeline));
    let lowest = used.first().copied();
    let ancestors: BTreeSet<Timeline> = used
        .iter()
        .flat_map(|&timeline| cluster.tree.history(timeline).ancestors)
        .map(|switch| switch.timeline)
        .collect();
    let goes = |timeline: &Timeline| {
        let below = lowest.is_none_or(|lowest| *timeline < lowest);
        below && !ancestors.contains(timeline) && !unknown
    };
    cluster.tree.timelines().filter(|timeline| cluster.tree.has_history(*timeline)).filter(goes).collect()
}
