//! `--resume`: what an interrupted run stored, and what of it is provably still true
//! (docs/decisions/resumed-backups.md has the proof).
//!
//! Takes nothing on trust: parts are read back, files are looked at again after the new start of the backup. Whatever is
//! in doubt is read and stored again.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::catalogue;
use super::journal::{Clock, Entry, Head, Journal, Left, Record, Seen};
use super::listing::Listing;
use super::manifest::Part;
use super::pages::Pages;
use super::push::Options;
use crate::archive::Archive;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::{self, BackupId, Key, PartName};
use crate::observe::{Event, Observer};
use crate::pipeline;
use crate::postgres::control::{ControlFile, SystemId};
use crate::postgres::entry::FileList;
use crate::postgres::lsn::Lsn;
use crate::storage::{ListQuery, list_all};
use crate::wal::segment::{SegmentName, SegmentSize};
use crate::wal::timeline::Timeline;

/// Parts that are read back at the same time; each takes a chunk of a few MiB of memory.
const READS_AT_ONCE: usize = 8;

/// How long before it was opened a file must have been changed last, in milliseconds. Times of files tick every few
/// milliseconds, and a write sets them at its beginning: one that stands still in the middle goes on sooner.
const MARGIN: i64 = 10_000;

/// By how much the clock may have been set in between, in milliseconds: less than the margin by far.
const CLOCK_SLACK: i64 = 1_000;

/// File systems whose inodes' change times are set by this machine's kernel at every write (statfs(2) has the numbers):
/// ext2 to 4, XFS, Btrfs, ZFS, F2FS, tmpfs.
const TRUSTED: [i64; 6] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x2FC1_2FC1, 0xF2F5_2010, 0x0102_1994];

/// An interrupted backup that can be gone on with.
#[derive(Debug)]
pub(super) struct Interrupted {
    left: Left,
    /// The plain bytes of each volume's parts that are stored and sound, from volume 0 on.
    volumes: Vec<u64>,
    /// How many parts of each volume those are.
    parts: Vec<u32>,
}

impl Interrupted {
    /// Its id, which it keeps.
    pub(super) fn id(&self) -> BackupId {
        self.left.head.id
    }

    /// The first volume that is free.
    pub(super) fn first_volume(&self) -> u32 {
        self.volumes.len() as u32
    }

    /// Are all the parts that were taken over still there? Whoever deletes garbage may have taken an interrupted backup for
    /// that while its parts were read back.
    ///
    /// # Errors
    /// [`Kind::Incomplete`] if not.
    pub(super) async fn require_parts(&self, archive: &Archive) -> Result<()> {
        let Head { system_id, id, .. } = self.left.head;
        let there = stored(archive, system_id, id).await?;
        let kept =
            (0..).zip(&self.parts).flat_map(|(volume, &count)| (0..count).map(move |part| PartName { volume, part }));
        match kept.into_iter().find(|name| !there.contains_key(name)) {
            None => Ok(()),
            Some(name) => Err(Error::new(Kind::Incomplete, "a part that was stored earlier has gone")
                .detail(archive.url(&Key::Part(system_id, id, name)))
                .hint("Run walden backup-push again, without --resume.")),
        }
    }
}

/// The journals of one cluster on this machine.
#[derive(Debug)]
pub(super) struct Journals {
    directory: Option<PathBuf>,
    /// What a journal of now would begin with, but for the id.
    wanted: Option<Head>,
}

impl Journals {
    /// Those of this cluster; none where they cannot be kept.
    pub(super) fn look(
        options: &Options,
        control: &ControlFile,
        data_directory: &Path,
        recipients: Vec<String>,
    ) -> Journals {
        let head = || -> std::io::Result<Head> {
            Ok(Head {
                walden: env!("CARGO_PKG_VERSION").to_owned(),
                id: BackupId::new(
                    jiff::Timestamp::UNIX_EPOCH,
                    SegmentName::containing(Timeline(1), Lsn(0), SegmentSize::DEFAULT),
                ),
                system_id: control.system_id,
                data_directory: std::fs::canonicalize(data_directory)?,
                address: options.address.clone(),
                checksums: control.data_checksums,
                recipients,
                clock: Clock::read()?,
            })
        };
        let wanted = head().inspect_err(|error| tracing::info!("this backup cannot be resumed: {error}")).ok();
        Journals { directory: options.journals.clone(), wanted }
    }

    /// The newest backup that was interrupted here: its id, and, if that is wanted, what can be gone on with. Else it is only
    /// mentioned.
    ///
    /// # Errors
    /// Those of [`prepare`].
    pub(super) async fn interrupted(
        &self,
        archive: &Archive,
        resume: bool,
        observer: &Arc<dyn Observer>,
    ) -> Result<(Option<BackupId>, Option<Interrupted>)> {
        let Some(left) = self.newest() else { return Ok((None, None)) };
        let id = left.head.id;
        if resume {
            return Ok((Some(id), prepare(archive, left, observer).await?));
        }
        observer.notice(Event::Warning(format!(
            "backup {id} of this cluster was interrupted: walden backup-push --resume would have gone on with it"
        )));
        Ok((Some(id), None))
    }

    /// The newest journal that can be used; those that never can be any more are removed.
    fn newest(&self) -> Option<Left> {
        let (directory, wanted) = (self.directory.as_ref()?, self.wanted.as_ref()?);
        let mut found = None;
        for left in Left::find(directory, wanted.system_id).ok()? {
            let head = &left.head;
            if head.data_directory != wanted.data_directory || head.address != wanted.address {
                continue;
            }
            let usable = head.walden == wanted.walden
                && head.checksums == wanted.checksums
                && head.recipients == wanted.recipients
                && is_comparable(&head.clock, &wanted.clock);
            match usable && found.is_none() {
                true => found = Some(left),
                false => left.remove(),
            }
        }
        found
    }

    /// Begins the journal of this backup, where that can be.
    pub(super) fn begin(&self, id: BackupId) -> Option<Arc<Journal>> {
        let (directory, wanted) = (self.directory.as_ref()?, self.wanted.as_ref()?);
        match Journal::begin(directory, Head { id, ..wanted.clone() }) {
            Ok(journal) => Some(Arc::new(journal)),
            Err(error) => {
                tracing::info!("this backup cannot be resumed: {error}");
                None
            }
        }
    }

    /// A newer backup is complete: nobody goes on with these.
    pub(super) fn clear(&self) {
        self.newest().iter().for_each(Left::remove);
    }
}

/// Were both times told by the same clock, on the same start of the machine?
fn is_comparable(one: &Clock, other: &Clock) -> bool {
    one.boot == other.boot && (one.started - other.started).abs() <= CLOCK_SLACK
}

/// Reads back what is stored of the backup, and deletes what does not count; `None`, with a word, if it cannot be gone on
/// with.
///
/// # Errors
/// Those of the store, but for refusals.
async fn prepare(archive: &Archive, left: Left, observer: &Arc<dyn Observer>) -> Result<Option<Interrupted>> {
    let id = left.head.id;
    match look(archive, left, observer).await {
        Ok(Some(interrupted)) => Ok(Some(interrupted)),
        Ok(None) => {
            tracing::info!("nothing is left of backup {id}");
            Ok(None)
        }
        Err(error) if error.kind() == Kind::Denied => {
            let what = format!("backup {id} cannot be resumed, so another one is taken: {error}");
            observer.notice(Event::Warning(what));
            Ok(None)
        }
        Err(error) => Err(error.during(format!("could not resume backup {id}"))),
    }
}

async fn look(archive: &Archive, left: Left, observer: &Arc<dyn Observer>) -> Result<Option<Interrupted>> {
    let Head { system_id: system, id, .. } = left.head;
    if catalogue::contents(archive, system, id).await?.complete {
        // Its writer died between the commit and the end.
        left.remove();
        return Ok(None);
    }
    let there = stored(archive, system, id).await?;
    let mut listed: BTreeMap<PartName, Facts> = BTreeMap::new();
    left.each(|entry| {
        if let Entry::Part(part) = entry {
            let name = part.name();
            if there.get(&name) == Some(&part.stored_size()) {
                listed.insert(name, Facts::of(&part));
            }
        }
        Ok(())
    })?;
    keep_contiguous(&mut listed);
    let bytes = listed.values().map(|facts| facts.stored).sum();
    let name = format!("reading back {} parts of backup {id}", listed.len());
    observer.notice(Event::Phase { name, bytes: Some(bytes) });
    for name in damaged(archive, system, id, &listed, observer).await? {
        observer.notice(Event::Warning(format!(
            "{} is damaged; what it and its volume's later parts hold is stored again",
            archive.url(&Key::Part(system, id, name))
        )));
        listed.remove(&name);
    }
    keep_contiguous(&mut listed);
    if listed.is_empty() {
        return Ok(None);
    }
    let others = there.keys().filter(|name| !listed.contains_key(name)).map(|&name| Key::Part(system, id, name));
    let others: Vec<String> = others.chain([Key::Files(system, id)]).map(|key| key.to_string()).collect();
    archive.store().delete(&others).await.during(|| "could not delete what does not count of it")?;
    let (mut volumes, mut parts) = (Vec::new(), Vec::new());
    for (name, facts) in &listed {
        if name.part == 0 {
            volumes.push(0);
            parts.push(0);
        }
        if let (Some(volume), Some(count)) = (volumes.last_mut(), parts.last_mut()) {
            *volume += facts.plain;
            *count += 1;
        }
    }
    Ok(Some(Interrupted { left, volumes, parts }))
}

/// What is known of a part, without its frames.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    plain: u64,
    stored: u64,
    blake3: String,
}

impl Facts {
    fn of(part: &Part) -> Facts {
        Facts { plain: part.plain_size(), stored: part.stored_size(), blake3: part.blake3.clone() }
    }
}

/// Keeps of each volume the parts from 0 on up to the first gap, and the volumes from 0 on up to the first that has none:
/// a volume is its parts one after the other, and volumes count without a gap.
fn keep_contiguous<T>(parts: &mut BTreeMap<PartName, T>) {
    let mut next = PartName { volume: 0, part: 0 };
    parts.retain(|&name, _| {
        if name.part == 0 && next.part > 0 && name.volume == next.volume + 1 {
            next = name;
        }
        let follows = name == next;
        next.part += u32::from(follows);
        follows
    });
}

/// The parts below an id, and their sizes.
async fn stored(archive: &Archive, system: SystemId, id: BackupId) -> Result<BTreeMap<PartName, u64>> {
    let mut parts = BTreeMap::new();
    let query = ListQuery { prefix: layout::backup_prefix(system, id), ..ListQuery::default() };
    list_all(&**archive.store(), query, |page| {
        parts.extend(page.objects.iter().filter_map(|object| match Key::parse(&object.key)? {
            Key::Part(_, _, name) => Some((name, object.size)),
            _ => None,
        }));
    })
    .await?;
    Ok(parts)
}

/// Reads back all of these and returns those that have other bytes than were stored.
async fn damaged(
    archive: &Archive,
    system: SystemId,
    id: BackupId,
    parts: &BTreeMap<PartName, Facts>,
    observer: &Arc<dyn Observer>,
) -> Result<Vec<PartName>> {
    let (sender, receiver) = mpsc::channel(parts.len().max(1));
    for (name, facts) in parts {
        // The channel has room for all of them.
        let _ = sender.try_send((*name, facts.blake3.clone()));
    }
    drop(sender);
    let (archive, observer) = (archive.clone(), observer.clone());
    let read = pipeline::run(receiver, READS_AT_ONCE, move |(name, expected)| {
        let (archive, observer) = (archive.clone(), observer.clone());
        async move {
            let mut download = archive.store().get(&Key::Part(system, id, name).to_string(), None).await?;
            let mut hasher = blake3::Hasher::new();
            while let Some(chunk) = download.next().await? {
                hasher.update(&chunk);
                observer.notice(Event::Advanced(chunk.len() as u64));
            }
            Ok((hasher.finalize().to_hex().as_str() != expected).then_some(name))
        }
    })
    .await?;
    Ok(read.into_iter().flatten().collect())
}

/// Lists what is taken over, and returns the files that are not. Must be called after the backup's start, which may write
/// files: what has not changed from before it was read until then is what would be read now.
///
/// # Errors
/// Those of the list.
pub(super) fn take_over(
    interrupted: &Interrupted,
    root: &Path,
    files: &FileList,
    listing: &Listing,
    pages: &Pages,
) -> Result<FileList> {
    let mut known: Vec<(u128, bool)> = files.iter().map(|(path, _)| (digest(&path), false)).collect();
    known.sort_unstable();
    let clock = Clock::read().ok();
    let head = &interrupted.left.head;
    let comparable = clock.is_some_and(|clock| is_comparable(&clock, &head.clock));
    let mut trusted = HashMap::new();
    interrupted.left.each(|entry| match entry {
        Entry::Part(part) if interrupted.parts.get(part.volume as usize).is_some_and(|&count| part.part < count) => {
            listing.add_part(part)
        }
        Entry::File(record) if comparable && is_stored(&record, &interrupted.volumes) => {
            let digest = digest(&record.file.path);
            let Ok(index) = known.binary_search_by_key(&digest, |(digest, _)| *digest) else { return Ok(()) };
            if known[index].1 || !is_unchanged(root, &record, &mut trusted) {
                return Ok(());
            }
            known[index].1 = true;
            pages.count(record.pages);
            listing.add_record(record)
        }
        _ => Ok(()),
    })?;
    let mut others = FileList::default();
    for (path, size) in files.iter() {
        let digest = digest(&path);
        let taken = known.binary_search_by_key(&digest, |(digest, _)| *digest).is_ok_and(|index| known[index].1);
        if !taken {
            others.push(&path, size);
        }
    }
    tracing::info!(
        "{} files of {} are taken over from the interrupted backup",
        files.len() - others.len(),
        files.len()
    );
    Ok(others)
}

/// 16 bytes in place of a path: there can be very many.
fn digest(path: &str) -> u128 {
    let digest = blake3::hash(path.as_bytes());
    digest.as_bytes()[..16].iter().fold(0, |number, &byte| number << 8 | u128::from(byte))
}

fn is_stored(record: &Record, volumes: &[u64]) -> bool {
    let within = |volume: u32, end: Option<u64>| {
        volumes.get(volume as usize).is_some_and(|&plain| end.is_some_and(|end| end <= plain))
    };
    record.file.at.iter().all(|extent| within(extent.volume, extent.offset.checked_add(extent.length)))
}

/// Is the file the very one that was read, and has nobody written to it since?
fn is_unchanged(root: &Path, record: &Record, trusted: &mut HashMap<u64, bool>) -> bool {
    let path = root.join(&record.file.path);
    let now = jiff::Timestamp::now();
    let Ok(metadata) = std::fs::metadata(&path) else { return false };
    let local = *trusted
        .entry(record.seen.device)
        .or_insert_with(|| rustix::fs::statfs(&path).is_ok_and(|system| TRUSTED.contains(&system.f_type)));
    local && metadata.is_file() && same(&record.seen, &Seen::of(&metadata, now)) && record.file.size == record.seen.size
}

/// Was it the same file both times, and old enough the first time that a change right then would show?
fn same(then: &Seen, now: &Seen) -> bool {
    let changed = then.changed[0].saturating_mul(1000).saturating_add(then.changed[1] / 1_000_000);
    let at_rest = changed.saturating_add(MARGIN) <= then.at;
    at_rest && Seen { at: now.at, ..*then } == *now
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn what_is_kept_has_no_gap_and_nothing_without_a_gap_is_lost(names in prop::collection::btree_set((0u32..4, 0u32..5), 0..20)) {
            let mut parts: BTreeMap<PartName, ()> =
                names.iter().map(|&(volume, part)| (PartName { volume, part }, ())).collect();
            keep_contiguous(&mut parts);
            let mut expected = BTreeSet::new();
            for volume in (0..4).take_while(|&volume| names.contains(&(volume, 0))) {
                expected.extend((0..5).take_while(|&part| names.contains(&(volume, part))).map(|part| PartName { volume, part }));
            }
            prop_assert_eq!(parts.into_keys().collect::<BTreeSet<_>>(), expected);
        }

        #[test]
        fn any_difference_and_any_haste_is_a_change(what in 0usize..6, by in 1i64..100, age in 0i64..30_000) {
            let then = Seen { device: 1, inode: 2, size: 3, modified: [4, 5], changed: [1_000_000, 0], at: 1_000_000_000 + age };
            let mut now = Seen { at: then.at + 5, ..then };
            prop_assert_eq!(same(&then, &now), age >= MARGIN);
            match what {
                0 => now.device += 1,
                1 => now.inode += 1,
                2 => now.size += 1,
                3 => now.modified[1] -= by,
                4 => now.changed[0] += by,
                _ => now.changed[1] += by,
            }
            prop_assert!(!same(&then, &now));
        }
    }
}
