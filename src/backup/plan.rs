//! In which order a backup's files are read. Pure.

use super::manifest::FRAME_SIZE;
use crate::postgres::control::CONTROL_FILE;
use crate::postgres::entry::{Entry, EntryKind};

/// How many bytes of small files a worker takes at a time.
const BATCH_BYTES: u64 = 8 << 20;

/// How many small files a worker takes at a time.
const BATCH_FILES: usize = 256;

/// What one worker does in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// One file with frames of its own.
    Large(Entry),
    /// Files that share frames.
    Small(Vec<Entry>),
}

/// All the work of a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// All directories, those above first.
    pub(super) directories: Vec<Entry>,
    /// Large files first, the largest of them first, so that no worker begins a long job when the others are done.
    pub(super) jobs: Vec<Job>,
    /// `global/pg_control`, which is read last.
    pub(super) control: Option<Entry>,
    /// Bytes of all files, as they were when the directory was walked.
    pub(super) bytes: u64,
    /// Number of files.
    pub(super) files: u64,
}

/// Plans the copying of these entries.
pub(super) fn plan(entries: Vec<Entry>) -> Plan {
    let mut plan = Plan::default();
    let (mut large, mut batch, mut batches) = (Vec::new(), Vec::new(), Vec::new());
    let mut batch_bytes = 0;
    for entry in entries {
        if entry.kind == EntryKind::Directory {
            plan.directories.push(entry);
            continue;
        }
        plan.bytes += entry.size;
        plan.files += 1;
        if entry.path == CONTROL_FILE {
            plan.control = Some(entry);
        } else if entry.size >= FRAME_SIZE as u64 {
            large.push(entry);
        } else {
            batch_bytes += entry.size;
            batch.push(entry);
            if batch_bytes >= BATCH_BYTES || batch.len() == BATCH_FILES {
                batches.push(Job::Small(std::mem::take(&mut batch)));
                batch_bytes = 0;
            }
        }
    }
    if !batch.is_empty() {
        batches.push(Job::Small(batch));
    }
    large.sort_by_key(|entry| std::cmp::Reverse(entry.size));
    plan.jobs = large.into_iter().map(Job::Large).chain(batches).collect();
    plan
}
