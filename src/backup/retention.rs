//! Which base backups and which WAL of an archive stay, which go, and why. Pure: from what was found to a plan.
//!
//! The order is that of time (when backups finished) and of descent (history files); the numbers of timelines decide
//! nothing. What is not known stays.

pub mod needs;
pub mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use self::needs::{Kept, Reach, WalPlan};
use crate::config::target::Selection;
use crate::error::{Error, Kind, Result};
use crate::layout::BackupId;
use crate::postgres::control::SystemId;
use crate::postgres::lsn::Lsn;
use crate::wal::runs::Runs;
use crate::wal::segment::SegmentSize;
use crate::wal::timeline::Timeline;
use crate::wal::tree::Tree;

/// What was found of a cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Which.
    pub system_id: SystemId,
    /// Its complete backups.
    pub backups: Vec<Known>,
    /// Backups whose short manifest cannot be read: damaged, or written by a newer version.
    pub unreadable: Vec<BackupId>,
    /// Backups without a short manifest that may be being taken.
    pub underway: Vec<BackupId>,
    /// What an earlier deletion has left of backups: their short manifest is gone.
    pub remains: Vec<BackupId>,
    /// The size of its segments; `None` if no backup tells it, or they differ: then numbers cannot be compared.
    pub size: Option<SegmentSize>,
    /// How its timelines descend from each other, as far as their histories can be read.
    pub tree: Tree,
    /// What there is of WAL.
    pub wal: BTreeMap<Timeline, Stock>,
}

/// A complete backup, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its id.
    pub id: BackupId,
    /// When it had ended: a recovery can stop after this.
    pub finished: Timestamp,
    /// The timeline it was taken on.
    pub timeline: Timeline,
    /// Where replay begins.
    pub start: Lsn,
    /// Up to where replay must get.
    pub stop: Lsn,
    /// The major version of PostgreSQL.
    pub postgres: u16,
    /// Has it damaged pages? Then it stands for no other.
    pub damaged: bool,
    /// Is it marked as one to keep for good?
    pub pinned: bool,
    /// Stored bytes of its parts.
    pub bytes: u64,
}

/// The WAL files of one timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stock {
    /// Its segments.
    pub segments: Runs,
    /// The greatest number that a segment, a partial segment or a backup history file has.
    pub last: Option<u64>,
    /// When the oldest and the newest of its files were stored, by the store's clock.
    pub stored: Option<(Timestamp, Timestamp)>,
}

/// What somebody wants to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// All that no rule keeps.
    Unless(Rules),
    /// What is older than this backup, of its cluster and of those that it succeeded.
    OlderThan {
        /// The backup, which stays.
        backup: BackupId,
        /// As in [`Rules`].
        min: u32,
    },
    /// These backups.
    Backups {
        /// Which.
        ids: BTreeSet<BackupId>,
        /// Even if no sound backup would be left of a cluster.
        even_the_last: bool,
    },
    /// Everything but what is pinned or being taken.
    Everything {
        /// Even if no sound backup would be left of a cluster, as is the case unless some are pinned.
        even_the_last: bool,
    },
}

/// What a command line asks for, before anything is known of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demand {
    /// All goes that none of these keeps.
    Rules {
        /// One of so many newest.
        newest: Option<u32>,
        /// Recoveries to any moment of so long.
        window: Option<Duration>,
        /// There must be so many.
        min: u32,
    },
    /// What no recovery to this moment or a later one begins with.
    Before(Timestamp, u32),
    /// What is older than this backup.
    OlderThan(Selection, u32),
    /// These backups.
    Backups {
        /// Which.
        ids: BTreeSet<BackupId>,
        /// Even the last sound one.
        even_the_last: bool,
    },
    /// Everything.
    Everything {
        /// Even the last sound backup.
        even_the_last: bool,
    },
}

impl Demand {
    /// What that means for these clusters at this moment.
    ///
    /// # Errors
    /// [`Kind::Usage`] for the newest backup where there are several clusters, [`Kind::NotFound`] where there is none.
    pub fn wish(&self, clusters: &[Cluster], now: Timestamp) -> Result<Wish> {
        Ok(match self {
            Demand::Rules { newest, window, min } => {
                let back = window.map(|window| SignedDuration::try_from(window).unwrap_or(SignedDuration::MAX));
                let since = back.map(|back| now.checked_sub(back).unwrap_or(Timestamp::MIN));
                Wish::Unless(Rules { newest: *newest, since, min: *min })
            }
            Demand::Before(time, min) => Wish::Unless(Rules { newest: None, since: Some(*time), min: *min }),
            Demand::OlderThan(Selection::Id(backup), min) => Wish::OlderThan { backup: *backup, min: *min },
            Demand::OlderThan(Selection::Legacy(name), _) => return Err(name.not_ours()),
            Demand::OlderThan(Selection::Latest, min) => Wish::OlderThan { backup: latest(clusters)?, min: *min },
            Demand::Backups { ids, even_the_last } => Wish::Backups { ids: ids.clone(), even_the_last: *even_the_last },
            Demand::Everything { even_the_last } => Wish::Everything { even_the_last: *even_the_last },
        })
    }
}

fn latest(clusters: &[Cluster]) -> Result<BackupId> {
    let mut with_backups = clusters.iter().filter(|cluster| !cluster.backups.is_empty());
    match (with_backups.next(), with_backups.next()) {
        (Some(only), None) => {
            let newest = only.backups.iter().max_by_key(|backup| (backup.finished, backup.id));
            newest.map(|backup| backup.id).ok_or_else(|| Error::new(Kind::NotFound, "there is no complete backup"))
        }
        (None, _) => {
            Err(Error::new(Kind::NotFound, "there is no complete backup").hint("Take one with walden backup-push."))
        }
        (Some(_), Some(_)) => Err(Error::new(Kind::Usage, "several clusters share the archive, and each has a LATEST")
            .hint("Choose one with --system-id or WALDEN_SYSTEM_ID, or name the backup.")),
    }
}

/// What keeps a backup: any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// It is one of so many newest sound ones.
    pub newest: Option<u32>,
    /// It is needed to recover to a moment from this one on.
    pub since: Option<Timestamp>,
    /// The same as `newest`, and of what leads to where the server is now, too. At least 1.
    pub min: u32,
}

/// Why a backup stays or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// One of so many newest.
    Newest(u32),
    /// It finished since then.
    Since(Timestamp),
    /// Recoveries to this moment and later begin with it, to this timeline.
    Anchor(Timestamp, Timeline),
    /// There must be so many.
    Minimum(u32),
    /// One of so many newest that lead to the timeline on which the server is now.
    Living(u32, Timeline),
    /// It is marked as one to keep.
    Pinned,
    /// It is not among those to be deleted.
    NotMeant,
    /// Nothing can be said about it.
    Unreadable,
    /// It may be being taken.
    Underway,
    /// So many newer ones are sound.
    Superseded(usize),
    /// It is older than this one.
    OlderThan(BackupId),
    /// Somebody has named it, or everything.
    Named,
    /// Its short manifest is gone already.
    Remains,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Newest(1) => f.write_str("the newest sound one (retain)"),
            Why::Newest(count) => write!(f, "one of the {count} newest sound ones (retain)"),
            Why::Since(time) => write!(f, "finished after {time} (window)"),
            Why::Anchor(time, timeline) => {
                write!(f, "recoveries to {time} and later on timeline {} begin with it (window)", timeline.0)
            }
            Why::Minimum(1) => f.write_str("the newest sound one, which never goes by a rule"),
            Why::Minimum(count) => write!(f, "one of the {count} newest sound ones (retain-min)"),
            Why::Living(_, timeline) => {
                write!(f, "needed to get to timeline {}, where the server is now", timeline.0)
            }
            Why::Pinned => f.write_str("it is marked to be kept (backup-mark --no-keep takes the mark away)"),
            Why::NotMeant => f.write_str("not meant"),
            Why::Unreadable => f.write_str("its backup.json cannot be read (delete backup takes it away by its id)"),
            Why::Underway => f.write_str("not complete, and may be being taken"),
            Why::Superseded(1) => f.write_str("no rule keeps it; 1 newer one is sound"),
            Why::Superseded(count) => write!(f, "no rule keeps it; {count} newer ones are sound"),
            Why::OlderThan(id) => write!(f, "older than {id}"),
            Why::Named => f.write_str("it is meant"),
            Why::Remains => f.write_str("an earlier deletion was interrupted"),
        }
    }
}

/// What becomes of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which.
    pub id: BackupId,
    /// When it had ended; `None` for what is not known to be complete.
    pub finished: Option<Timestamp>,
    /// Stored bytes, as far as they are known.
    pub bytes: u64,
    /// Has it damaged pages?
    pub damaged: bool,
    /// Does it go?
    pub goes: bool,
    /// Why.
    pub why: Why,
}

/// What becomes of a cluster's archive.
#[derive(Clone, Debug)]
pub struct ClusterPlan {
    /// What it was made of.
    pub cluster: Cluster,
    /// Each backup, oldest first.
    pub backups: Vec<Verdict>,
    /// What happens to WAL that nothing leads to.
    pub bare: Bare,
    /// The WAL.
    pub wal: WalPlan,
}

/// What happens to the WAL of a timeline where the server is now and to which no backup leads: a first one may be being
/// taken, whose first part is not stored yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bare {
    /// It stays.
    Stays,
    /// It goes: the cluster was succeeded by another, or everything was meant.
    Goes,
}

/// How long before the end of a cluster the one that `pg_upgrade` puts in its place may have been made by `initdb`.
const HANDOVER: SignedDuration = SignedDuration::from_hours(7 * 24);

impl Cluster {
    /// One of which nothing is known yet.
    pub fn empty(system_id: SystemId) -> Cluster {
        Cluster {
            system_id,
            backups: Vec::new(),
            unreadable: Vec::new(),
            underway: Vec::new(),
            remains: Vec::new(),
            size: None,
            tree: Tree::default(),
            wal: BTreeMap::new(),
        }
    }

    /// When anything was first stored of it, as far as that is still there.
    fn began(&self) -> Option<Timestamp> {
        let wal = self.wal.values().filter_map(|stock| stock.stored).map(|(first, _)| first);
        self.ids().map(BackupId::started).chain(wal).min()
    }

    /// When anything was last stored of it.
    fn ended(&self) -> Option<Timestamp> {
        let wal = self.wal.values().filter_map(|stock| stock.stored).map(|(_, last)| last);
        let backups = self.backups.iter().map(|backup| backup.finished);
        self.ids().map(BackupId::started).chain(backups).chain(wal).max()
    }

    fn ids(&self) -> impl Iterator<Item = BackupId> {
        let complete = self.backups.iter().map(|backup| backup.id);
        complete.chain(self.unreadable.iter().copied()).chain(self.underway.iter().copied())
    }

    /// When `initdb` made it: the upper half of a system identifier is the time in seconds (`BootStrapXLOG` in
    /// src/backend/access/transam/xlog.c).
    fn born(&self) -> Timestamp {
        Timestamp::from_second((self.system_id.0 >> 32).cast_signed()).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn postgres(&self) -> Option<u16> {
        self.backups.iter().map(|backup| backup.postgres).max()
    }

    /// Has this cluster taken the place of the other, as after `pg_upgrade`? It has a newer version, was made shortly before
    /// the other's end, and nothing was stored of it before that. Two clusters that merely share an archive must never be
    /// taken for that.
    fn succeeds(&self, other: &Cluster) -> bool {
        let newer = self.postgres().zip(other.postgres()).is_some_and(|(ours, theirs)| ours > theirs);
        // What is left of a cluster without backups has no version.
        let newer = newer || (other.backups.is_empty() && self.postgres().is_some());
        let after = self.began().zip(other.ended()).is_some_and(|(began, ended)| began >= ended);
        let due = other.ended().is_some_and(|ended| self.born() >= ended - HANDOVER);
        newer && after && due
    }

    /// Where the server is now: the timeline of which WAL was stored last.
    pub fn living(&self) -> Option<Timeline> {
        let stored = self.wal.iter().filter_map(|(timeline, stock)| Some((stock.stored?.1, *timeline)));
        stored.max().map(|(_, timeline)| timeline)
    }

    /// Is it known where this timeline comes from?
    pub fn knows(&self, timeline: Timeline) -> bool {
        timeline == Timeline(1) || self.tree.has_history(timeline)
    }

    /// Can a recovery from what was consistent at `stop` on `from` lead to `to`? Where that is not known it can.
    pub fn leads(&self, from: Timeline, stop: Lsn, to: Timeline) -> bool {
        self.surely_leads(from, stop, to) || (!self.knows(to) && from < to && self.may_begin_after(stop, to))
    }

    /// May the timeline have begun there or later? It begins in the first of its segments, or before the first that is left.
    fn may_begin_after(&self, stop: Lsn, timeline: Timeline) -> bool {
        let first = self.wal.get(&timeline).and_then(|stock| stock.segments.as_slice().first());
        first.zip(self.size).is_none_or(|(run, size)| stop.0 <= (run.first + 1).saturating_mul(size.bytes()))
    }

    /// The same, where it is known.
    fn surely_leads(&self, from: Timeline, stop: Lsn, to: Timeline) -> bool {
        from == to || (self.knows(to) && self.tree.history(to).passes(from, stop))
    }
}

/// Makes the plan. `clusters` are all that share the archive and are meant.
///
/// # Errors
/// [`Kind::NotFound`] for a backup that was named and is not there; [`Kind::Refused`] if it is pinned, or if no sound
/// backup would be left where that was not allowed.
pub fn plan(clusters: Vec<Cluster>, wish: &Wish) -> Result<Vec<ClusterPlan>> {
    require_named(&clusters, wish)?;
    let judged: Vec<(Vec<Verdict>, Bare)> = clusters.iter().map(|cluster| judge(cluster, &clusters, wish)).collect();
    let plans = clusters.into_iter().zip(judged);
    let plans = plans.map(|(cluster, (backups, bare))| {
        let kept = kept(&cluster, &backups);
        let wal = needs::plan(&cluster, kept.as_deref(), bare);
        ClusterPlan { cluster, backups, bare, wal }
    });
    let plans: Vec<ClusterPlan> = plans.collect();
    require_last(&plans, wish)?;
    Ok(plans)
}

fn require_named(clusters: &[Cluster], wish: &Wish) -> Result<()> {
    let named: Vec<BackupId> = match wish {
        Wish::Backups { ids, .. } => ids.iter().copied().collect(),
        Wish::OlderThan { backup, .. } => vec![*backup],
        Wish::Unless(_) | Wish::Everything { .. } => Vec::new(),
    };
    for id in named {
        let there = |cluster: &Cluster| cluster.ids().chain(cluster.remains.iter().copied()).any(|one| one == id);
        if !clusters.iter().any(there) {
            return Err(Error::new(Kind::NotFound, format!("there is no backup {id}"))
                .hint("walden backup-list prints the backups."));
        }
        let complete = clusters.iter().flat_map(|cluster| &cluster.backups).find(|backup| backup.id == id);
        if let Wish::Backups { .. } = wish {
            if complete.is_some_and(|backup| backup.pinned) {
                return Err(Error::new(Kind::Refused, format!("backup {id} is marked to be kept"))
                    .hint(format!("Take the mark away with walden backup-mark {id} --no-keep.")));
            }
            if clusters.iter().any(|cluster| cluster.underway.contains(&id)) {
                return Err(Error::new(Kind::Refused, format!("backup {id} is not complete, and may be being taken"))
                    .hint("What failed backups have left goes with walden delete garbage, when it is old enough."));
            }
        } else if complete.is_none() {
            return Err(Error::new(Kind::Refused, format!("backup {id} is not complete"))
                .hint("Name a complete one; walden backup-list prints them."));
        }
    }
    Ok(())
}

/// The last sound backup of a cluster goes only if that was allowed.
fn require_last(plans: &[ClusterPlan], wish: &Wish) -> Result<()> {
    if !matches!(wish, Wish::Backups { even_the_last: false, .. } | Wish::Everything { even_the_last: false }) {
        return Ok(());
    }
    for plan in plans {
        let sound = plan.backups.iter().filter(|verdict| verdict.finished.is_some() && !verdict.damaged);
        let (goes, stays): (Vec<&Verdict>, Vec<&Verdict>) = sound.partition(|verdict| verdict.goes);
        if let (Some(last), []) = (goes.last(), stays.as_slice()) {
            let system = plan.cluster.system_id;
            return Err(Error::new(Kind::Refused, format!("no sound backup of cluster {system} would be left"))
                .detail(format!("{} is the last one", last.id))
                .hint("Add --even-the-last if that is what you want."));
        }
    }
    Ok(())
}

/// What becomes of each backup of a cluster, and of WAL without one.
fn judge(cluster: &Cluster, all: &[Cluster], wish: &Wish) -> (Vec<Verdict>, Bare) {
    let heirs: Vec<&Cluster> = all.iter().filter(|other| other.succeeds(cluster)).collect();
    let mut verdicts: Vec<Verdict> = cluster
        .backups
        .iter()
        .map(|backup| {
            let (goes, why) = fate(backup, cluster, &heirs, wish);
            let finished = Some(backup.finished);
            Verdict { id: backup.id, finished, bytes: backup.bytes, damaged: backup.damaged, goes, why }
        })
        .collect();
    verdicts.sort_by_key(|verdict| (verdict.finished, verdict.id));
    let other = |id: BackupId, goes, why| Verdict { id, finished: None, bytes: 0, damaged: false, goes, why };
    let meant = |id: &BackupId| match wish {
        Wish::Backups { ids, .. } => ids.contains(id),
        Wish::Everything { .. } => true,
        Wish::Unless(_) | Wish::OlderThan { .. } => false,
    };
    verdicts.extend(cluster.unreadable.iter().map(|id| match meant(id) {
        true => other(*id, true, Why::Named),
        false => other(*id, false, Why::Unreadable),
    }));
    verdicts.extend(cluster.underway.iter().map(|id| other(*id, false, Why::Underway)));
    verdicts.extend(cluster.remains.iter().map(|id| other(*id, true, Why::Remains)));
    let bare = match wish {
        Wish::Everything { .. } => Bare::Goes,
        _ if heirs.iter().any(|heir| heir.backups.iter().any(|backup| !backup.damaged)) => Bare::Goes,
        _ => Bare::Stays,
    };
    (verdicts, bare)
}

fn fate(backup: &Known, cluster: &Cluster, heirs: &[&Cluster], wish: &Wish) -> (bool, Why) {
    let keeps = match wish {
        Wish::Unless(rules) => rules.keep(backup, cluster, heirs),
        Wish::OlderThan { backup: than, min } => {
            let own = cluster.backups.iter().find(|known| known.id == *than);
            let older = own.is_some_and(|than| (backup.finished, backup.id) < (than.finished, than.id))
                || heirs.iter().any(|heir| heir.backups.iter().any(|known| known.id == *than));
            match older {
                false => Some(Why::NotMeant),
                true => Rules { newest: None, since: None, min: *min }.keep(backup, cluster, heirs),
            }
        }
        Wish::Backups { ids, .. } => (!ids.contains(&backup.id)).then_some(Why::NotMeant),
        Wish::Everything { .. } => None,
    };
    let goes = match wish {
        Wish::Unless(_) => Why::Superseded(newer(backup, cluster, heirs)),
        Wish::OlderThan { backup: than, .. } => Why::OlderThan(*than),
        Wish::Backups { .. } | Wish::Everything { .. } => Why::Named,
    };
    match keeps.or(backup.pinned.then_some(Why::Pinned)) {
        Some(why) => (false, why),
        None => (true, goes),
    }
}

/// How many sound backups are newer, of the cluster and of those that have succeeded it.
fn newer(backup: &Known, cluster: &Cluster, heirs: &[&Cluster]) -> usize {
    let sound = |backup: &&Known| !backup.damaged;
    let own = cluster.backups.iter().filter(|other| (other.finished, other.id) > (backup.finished, backup.id));
    own.filter(sound).count() + heirs.iter().map(|heir| heir.backups.iter().filter(sound).count()).sum::<usize>()
}

impl Rules {
    /// Which of the rules keeps the backup, if one does.
    fn keep(&self, backup: &Known, cluster: &Cluster, heirs: &[&Cluster]) -> Option<Why> {
        let newer = newer(backup, cluster, heirs);
        let among = |count: u32| (newer as u64) < u64::from(count);
        if let Some(count) = self.newest.filter(|&count| among(count)) {
            return Some(Why::Newest(count));
        }
        if let Some(why) = self.since.and_then(|since| in_window(backup, cluster, heirs, since)) {
            return Some(why);
        }
        if among(self.min) {
            return Some(Why::Minimum(self.min));
        }
        let living = cluster.living().filter(|_| heirs.is_empty())?;
        // What only may lead there makes no other one dispensable.
        let newer = cluster.backups.iter().filter(|other| {
            !other.damaged
                && cluster.surely_leads(other.timeline, other.stop, living)
                && (other.finished, other.id) > (backup.finished, backup.id)
        });
        let leads = cluster.leads(backup.timeline, backup.stop, living);
        (leads && (newer.count() as u64) < u64::from(self.min)).then_some(Why::Living(self.min, living))
    }
}

/// Is the backup needed to recover to a moment from `since` on? Those that finished later are; and of each timeline that
/// got WAL since then, the newest that leads there and had finished by then, with the newer ones that may lead there for
/// all that is known.
fn in_window(backup: &Known, cluster: &Cluster, heirs: &[&Cluster], since: Timestamp) -> Option<Why> {
    if backup.finished > since {
        return Some(Why::Since(since));
    }
    let alive = cluster.wal.iter().filter(|(_, stock)| stock.stored.is_some_and(|(_, last)| last > since));
    let living = cluster.living().filter(|_| heirs.is_empty());
    let mut timelines = alive.map(|(timeline, _)| *timeline).chain(living);
    let anchors = |&timeline: &Timeline| {
        cluster.leads(backup.timeline, backup.stop, timeline)
            && anchor(cluster, timeline, since).is_none_or(|anchor| rank(backup) >= rank(anchor))
    };
    timelines.find(anchors).map(|timeline| Why::Anchor(since, timeline))
}

/// The newest backup that surely leads to the timeline and had finished by then: a sound one, if there is any.
fn anchor(cluster: &Cluster, timeline: Timeline, by: Timestamp) -> Option<&Known> {
    let leads = |backup: &&Known| backup.finished <= by && cluster.surely_leads(backup.timeline, backup.stop, timeline);
    cluster.backups.iter().filter(leads).max_by_key(|&backup| rank(backup))
}

/// By this the best of several backups is the greatest.
fn rank(backup: &Known) -> (bool, Timestamp, BackupId) {
    (!backup.damaged, backup.finished, backup.id)
}

/// What stays of a cluster, with the WAL that each needs; `None` if its segments cannot be counted.
pub fn kept(cluster: &Cluster, verdicts: &[Verdict]) -> Option<Vec<Kept>> {
    let stays = verdicts.iter().filter(|verdict| !verdict.goes);
    let mut kept = stays.map(|verdict| kept_as(cluster, verdict)).collect::<Option<Vec<Kept>>>()?;
    kept.sort_by_key(|kept| kept.id);
    Some(kept)
}

fn kept_as(cluster: &Cluster, verdict: &Verdict) -> Option<Kept> {
    let (id, size) = (verdict.id, cluster.size?);
    if let Some(known) = cluster.backups.iter().find(|known| known.id == id) {
        let reach = if verdict.why == Why::Pinned { Reach::Consistent } else { Reach::Forward };
        return Some(Kept { id, timeline: known.timeline, start: known.start, stop: known.stop, reach });
    }
    // All that is known of it is its id, and a resumed one begins later than that says.
    let start = id.segment().start(size)?;
    Some(Kept { id, timeline: id.segment().timeline, start, stop: start, reach: Reach::Forward })
}

#[cfg(test)]
mod model;
