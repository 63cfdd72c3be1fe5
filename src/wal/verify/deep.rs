//! Reading what is there: every needed segment, with its digests, its headers and its pages.
//!
//! What was found sound is remembered as it goes (`storage::memory`), so that a run that was interrupted goes on where it
//! was. A run that comes to its end forgets it: the next one reads everything again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::report::{Damage, DeepRead};
use crate::archive::Archive;
use crate::error::{Error, Kind, Result};
use crate::layout::Key;
use crate::observe::{Event, Observer};
use crate::pipeline;
use crate::postgres::control::SystemId;
use crate::storage::memory::Memory;
use crate::wal::pages::Pages;
use crate::wal::runs::{Run, Runs};
use crate::wal::segment::{SegmentName, SegmentSize, WalFile};
use crate::wal::timeline::Timeline;

/// How long an interrupted run can be taken up again. A sound object stays sound, as a rule, but not for ever.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often progress is noted: what is lost by a kill is read again.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// So many damaged segments are described; the others are counted. Each takes some 300 bytes.
const DESCRIBED: usize = 10_000;

/// How segments are read.
#[derive(Clone, Debug)]
pub struct Deep {
    /// So many at the same time.
    pub workers: usize,
    /// Where progress is noted.
    pub memory: Memory,
}

/// What is noted of a run.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Note {
    /// Which segments are sound.
    sound: BTreeMap<Timeline, Vec<Run>>,
}

/// A run under way.
struct Progress {
    read: DeepRead,
    sound: BTreeMap<Timeline, Runs>,
    noted: Option<Instant>,
}

/// What the workers share.
struct Reading {
    archive: Archive,
    system: SystemId,
    size: SegmentSize,
    observer: Arc<dyn Observer>,
    memory: Memory,
    key: String,
    progress: Mutex<Progress>,
}

/// Reads these segments.
///
/// # Errors
/// Those of the store, except for damage and absence, which are findings. Progress is noted before.
pub(super) async fn read(
    archive: &Archive,
    system: SystemId,
    size: SegmentSize,
    needed: BTreeMap<Timeline, Runs>,
    deep: &Deep,
    observer: &Arc<dyn Observer>,
) -> Result<DeepRead> {
    let key = format!("wal-verify --deep {} {system} {}", archive.store().url(""), size.bytes());
    let before = recall(&deep.memory, &key);
    let total: u64 = needed.values().map(Runs::count).sum();
    let sound_before: u64 = needed.iter().filter_map(|(timeline, runs)| Some(before.get(timeline)?.common(runs))).sum();
    let rest = total - sound_before;
    observer.notice(Event::Phase { name: format!("reading {rest} segments"), bytes: Some(rest * size.bytes()) });
    let reading = Arc::new(Reading {
        archive: archive.clone(),
        system,
        size,
        observer: observer.clone(),
        memory: deep.memory.clone(),
        key,
        progress: Mutex::new(Progress {
            read: DeepRead { sound_before, ..DeepRead::default() },
            sound: before.clone(),
            noted: None,
        }),
    });
    let (sender, receiver) = mpsc::channel(deep.workers.max(1));
    let feed = async move {
        for name in names(&needed, &before, size) {
            if sender.send(name).await.is_err() {
                break;
            }
        }
    };
    let work = |name| {
        let reading = reading.clone();
        async move { reading.segment(name).await }
    };
    let (_, result) = tokio::join!(feed, pipeline::run(receiver, deep.workers, work));
    match result {
        Ok(_) => reading.memory.forget(&reading.key),
        Err(error) => {
            reading.note(&mut reading.progress(), true);
            return Err(error.detail("when the command is run again, it goes on where it was"));
        }
    }
    Ok(std::mem::take(&mut reading.progress().read))
}

/// The segments that are still to be read, in order.
fn names<'a>(
    needed: &'a BTreeMap<Timeline, Runs>,
    before: &'a BTreeMap<Timeline, Runs>,
    size: SegmentSize,
) -> impl Iterator<Item = SegmentName> + 'a {
    needed.iter().flat_map(move |(&timeline, runs)| {
        let numbers = runs.as_slice().iter().flat_map(|run| run.first..=run.last);
        let known = before.get(&timeline);
        let open = numbers.filter(move |&number| !known.is_some_and(|known| known.contains(number)));
        open.filter_map(move |number| SegmentName::new(timeline, number, size))
    })
}

fn recall(memory: &Memory, key: &str) -> BTreeMap<Timeline, Runs> {
    let note = memory.recall(key).and_then(|text| serde_json::from_str::<Note>(&text).ok()).unwrap_or_default();
    note.sound.into_iter().map(|(timeline, runs)| (timeline, runs.into_iter().collect())).collect()
}

impl Reading {
    async fn segment(&self, name: SegmentName) -> Result<()> {
        let outcome = self.check(name).await;
        let mut progress = self.progress();
        match outcome {
            Ok(()) => {
                progress.read.sound += 1;
                if let Some(number) = name.number(self.size) {
                    progress.sound.entry(name.timeline).or_default().insert(number);
                }
            }
            Err(error) => match error.kind() {
                Kind::Corrupt | Kind::Refused => {
                    progress.read.damaged += 1;
                    if progress.read.damage.len() < DESCRIBED {
                        progress.read.damage.insert(name, Damage::of(name.to_string(), &error));
                    }
                }
                Kind::NotFound => progress.read.vanished.push(name),
                _ => return Err(error),
            },
        }
        self.note(&mut progress, false);
        self.observer.notice(Event::Advanced(self.size.bytes()));
        Ok(())
    }

    /// Is this segment sound: its digests, what its header says, and each of its pages?
    async fn check(&self, name: SegmentName) -> Result<()> {
        let key = Key::Wal(self.system, WalFile::Segment(name));
        let (header, pages) = self.archive.get_file(&key, Pages::of(name, self.system, self.size)).await?;
        let corrupt = |detail: String| {
            Error::new(Kind::Corrupt, format!("{} is not what its key says", self.archive.url(&key))).detail(detail)
        };
        if header.file.name != name.to_string() || header.file.system_id != self.system {
            let found = header.file;
            return Err(corrupt(format!("it holds \"{}\" of system identifier {}", found.name, found.system_id)));
        }
        if header.file.segment_size != Some(self.size.bytes()) {
            return Err(corrupt(format!("its header gives {:?} for the segment size", header.file.segment_size)));
        }
        pages.finish()
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // A poisoned lock means that another worker panicked, which ends the run anyway.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, progress: &mut Progress, now: bool) {
        if !now && progress.noted.is_some_and(|noted| noted.elapsed() < NOTE_EVERY) {
            return;
        }
        progress.noted = Some(Instant::now());
        let sound = progress.sound.iter().map(|(&timeline, runs)| (timeline, runs.as_slice().to_vec())).collect();
        match serde_json::to_string(&Note { sound }) {
            Ok(text) => self.memory.remember(&self.key, &text, REMEMBERED),
            Err(error) => tracing::debug!("could not note the progress: {error}"),
        }
    }
}
