//! In which order a backup's files are read, and in how much memory. Pure.

use std::ops::Range;

use super::manifest::FRAME_SIZE;
use crate::postgres::control::CONTROL_FILE;
use crate::postgres::entry::FileList;

/// How many bytes of small files a worker takes at a time.
const BATCH_BYTES: u64 = 8 << 20;

/// How many small files a worker takes at a time.
const BATCH_FILES: usize = 256;

/// What one worker does in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// The file of this number, which has frames of its own.
    Large(u32),
    /// Files that share frames, as a range in [`Plan::small`].
    Small(Range<usize>),
}

/// All the work of a backup.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// The cluster's files.
    pub(super) files: FileList,
    /// The numbers of the small ones.
    pub(super) small: Vec<u32>,
    /// Large files first, the largest of them first, so that no worker begins a long job when the others are done.
    pub(super) jobs: Vec<Job>,
    /// Bytes of all files, as they were when the directory was walked.
    pub(super) bytes: u64,
}

/// Plans the copying of these files, without `global/pg_control`, which is read last.
pub(super) fn plan(files: FileList) -> Plan {
    let (mut large, mut small, mut batches) = (Vec::new(), Vec::new(), Vec::new());
    let (mut bytes, mut batch_bytes, mut batch_start) = (0, 0, 0);
    for (number, (path, size)) in files.iter().enumerate() {
        bytes += size;
        if path == CONTROL_FILE {
            continue;
        }
        if size >= FRAME_SIZE as u64 {
            large.push(number as u32);
            continue;
        }
        small.push(number as u32);
        batch_bytes += size;
        if batch_bytes >= BATCH_BYTES || small.len() - batch_start == BATCH_FILES {
            batches.push(Job::Small(batch_start..small.len()));
            (batch_bytes, batch_start) = (0, small.len());
        }
    }
    if batch_start < small.len() {
        batches.push(Job::Small(batch_start..small.len()));
    }
    large.sort_by_key(|&number| std::cmp::Reverse(files.size(number as usize)));
    let jobs = large.into_iter().map(Job::Large).chain(batches).collect();
    Plan { files, small, jobs, bytes }
}

/// Memory that does not depend on the workers: the program, its connections, the list of files.
const FIXED: u64 = 40 << 20;

/// Frames that a worker holds: the plain one, its compressed form, one that small files fill and its compressed form, and
/// two that wait to be appended.
const FRAMES_PER_WORKER: u64 = 6;

/// Requests under way, at least: one connection to S3 carries less than a core compresses.
const UPLOADS: u64 = 4;

/// No part needs to be smaller to keep the memory limit: there are fewer workers instead.
const SMALLEST_PART: u64 = 2 << 20;

/// How a backup uses its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Threads that read and compress.
    pub(super) workers: usize,
    /// Stored bytes of a part.
    pub(super) part_size: usize,
    /// Parts that are being stored at the same time.
    pub(super) uploads: usize,
}

impl Shape {
    /// As many of the wanted workers, and parts as large as wanted, as `limit` bytes of memory allow. The formula stands in
    /// docs/limits.md:
    ///
    /// `40 MiB + workers × (12 MiB + 2 × context) + (workers + uploads + 1) × part size`, with `uploads` = the greater of 4
    /// and the workers: each worker fills one part, one more waits, and the others are under way. `context` is what zstd
    /// takes to compress 2 MiB at this level.
    pub(super) fn within(limit: u64, workers: usize, part_size: usize, level: i32) -> Shape {
        let per_worker = FRAMES_PER_WORKER * FRAME_SIZE as u64 + 2 * context(level);
        let part = |workers: u64| {
            let parts = workers + workers.max(UPLOADS) + 1;
            limit.saturating_sub(FIXED + workers * per_worker) / parts
        };
        let workers = (1..=workers.max(1) as u64).rev().find(|&workers| part(workers) >= SMALLEST_PART).unwrap_or(1);
        let part_size = part(workers).clamp(SMALLEST_PART, (part_size as u64).max(1)) as usize;
        Shape { workers: workers as usize, part_size, uploads: workers.max(UPLOADS) as usize }
    }
}

/// What zstd takes to compress 2 MiB at this level, as `ZSTD_sizeof_CCtx` says, rounded up.
fn context(level: i32) -> u64 {
    let mib = match level {
        ..=2 => 2,
        3..=4 => 3,
        5..=9 => 6,
        10..=12 => 20,
        _ => 40,
    };
    mib << 20
}
