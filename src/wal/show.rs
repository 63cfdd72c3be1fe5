//! `wal-show`: what an archive holds of a cluster's WAL, timeline by timeline. Judges nothing: that is `wal::verify`'s.

use crate::archive::Archive;
use crate::error::{Error, Kind, Result};
use crate::layout::{self, Key};
use crate::postgres::control::SystemId;
use crate::storage::ListQuery;
use crate::wal::chain::{Gap, holes};
use crate::wal::segment::{SegmentName, SegmentSize, WalFile};
use crate::wal::survey::{self, Holdings};
use crate::wal::timeline::{Switch, Timeline};

/// What there is of one cluster.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Which cluster.
    pub system_id: SystemId,
    /// As its segments say; `None` if there are none.
    pub segment_size: Option<SegmentSize>,
    /// In the order of a tree: children after their parent.
    pub timelines: Vec<ShownTimeline>,
}

/// What there is of one timeline.
#[derive(Clone, Debug)]
pub struct ShownTimeline {
    /// Which.
    pub timeline: Timeline,
    /// How deep it lies in the tree; 0 for one without a parent, or without a history file that would name it.
    pub depth: usize,
    /// What it left, where and why.
    pub parent: Option<Switch>,
    /// Its history file.
    pub history: HistoryFile,
    /// Its files.
    pub holdings: Holdings,
    /// The first segment.
    pub first: Option<SegmentName>,
    /// The last segment.
    pub last: Option<SegmentName>,
    /// What is missing between them, in order.
    pub gaps: Vec<Gap>,
}

/// A timeline's history file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryFile {
    /// Timeline 1 has none.
    None,
    /// It is there.
    Present,
    /// It is not there.
    Missing,
    /// It cannot be read; why.
    Damaged(String),
}

/// Looks at the WAL of one cluster.
///
/// # Errors
/// [`Kind::Corrupt`] if no object tells the segment size, without which names cannot be counted.
pub async fn show(archive: &Archive, system_id: SystemId) -> Result<Shown> {
    let outline = survey::outline(archive, system_id).await?;
    let (tree, damaged) = survey::tree(archive, system_id, &outline, []).await?;
    let segment_size = segment_size(archive, system_id, outline.timelines.iter().copied()).await?;
    let size = segment_size.unwrap_or(SegmentSize::DEFAULT);
    let wanted = outline.timelines.iter().map(|&timeline| (timeline, survey::all_numbers(size)));
    let mut holdings = survey::holdings(archive, system_id, size, wanted).await?;
    let timelines = tree.outline().into_iter().map(|(depth, timeline)| {
        let damage = damaged.iter().find(|(of, _)| *of == timeline);
        let holdings = holdings.remove(&timeline).unwrap_or_default();
        let runs = holdings.segments.as_slice();
        let name = |number| SegmentName::new(timeline, number, size);
        ShownTimeline {
            timeline,
            depth,
            parent: tree.parent(timeline).cloned(),
            history: match damage {
                Some((_, error)) => HistoryFile::Damaged(error.to_string()),
                None if tree.has_history(timeline) => HistoryFile::Present,
                None if timeline == Timeline(1) => HistoryFile::None,
                None => HistoryFile::Missing,
            },
            first: runs.first().and_then(|run| name(run.first)),
            last: runs.last().and_then(|run| name(run.last)),
            gaps: holes(timeline, runs, size).collect(),
            holdings,
        }
    });
    Ok(Shown { system_id, segment_size, timelines: timelines.collect() })
}

/// Objects of each timeline that are asked for the segment size, should the first ones be damaged.
const ASKED: usize = 3;

/// The segment size, as the first object says that tells one: names alone do not.
async fn segment_size(
    archive: &Archive,
    system: SystemId,
    timelines: impl Iterator<Item = Timeline>,
) -> Result<Option<SegmentSize>> {
    let mut damage = None;
    for timeline in timelines {
        let prefix = layout::timeline_prefix(system, timeline);
        let page = archive.store().list(&ListQuery { prefix, ..ListQuery::default() }).await?;
        let objects = page.objects.iter().filter_map(|object| match Key::parse(&object.key)? {
            key @ Key::Wal(_, WalFile::Segment(_) | WalFile::Partial(_)) => Some((key, object.size)),
            _ => None,
        });
        for (key, object_size) in objects.take(ASKED) {
            let header = archive.describe(&key, object_size).await;
            let size = header.and_then(|header| {
                header.file.segment_size.and_then(SegmentSize::new).ok_or_else(|| {
                    Error::new(Kind::Corrupt, format!("the header of {} names no segment size", archive.url(&key)))
                })
            });
            match size {
                Ok(size) => return Ok(Some(size)),
                Err(error) if error.kind() == Kind::Corrupt => damage = Some(error),
                Err(error) => return Err(error),
            }
        }
    }
    match damage {
        Some(error) => Err(error.hint("Look for more damage with walden wal-verify --deep.")),
        None => Ok(None),
    }
}
