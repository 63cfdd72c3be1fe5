//! In which order a backup's files are read, and in how much memory. Pure.

use std::ops::Range;
use std::sync::Arc;

use super::manifest::FRAME_SIZE;
use crate::error::{Error, Kind, Result};
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
    /// The files to copy.
    pub(super) files: Arc<FileList>,
    /// The numbers of the small ones.
    pub(super) small: Vec<u32>,
    /// Large files first, the largest of them first, so that no worker begins a long job when the others are done.
    pub(super) jobs: Vec<Job>,
    /// Bytes of all files, as they were when the directory was walked.
    pub(super) bytes: u64,
}

/// Plans the copying of these files, without `global/pg_control`, which is read last.
pub(super) fn plan(files: Arc<FileList>) -> Plan {
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

/// What encrypting a part takes beside the part: a chunk of an age file, plain and encrypted.
const SEALING: u64 = 2 * (64 << 10);

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
    /// `40 MiB + workers × (12.125 MiB + 2 × context) + (workers + uploads + 1) × part size`, with `uploads` = the greater of 4
    /// and the workers: each worker fills one part, one more waits, and the others are under way. `context` is what zstd
    /// takes to compress 2 MiB at this level.
    ///
    /// # Errors
    /// [`Kind::Config`] if the limit is too small for one worker at this level.
    pub(super) fn within(limit: u64, workers: usize, part_size: usize, level: i32) -> Result<Shape> {
        let per_worker = FRAMES_PER_WORKER * FRAME_SIZE as u64 + 2 * context(level) + SEALING;
        let parts = |workers: u64| workers + workers.max(UPLOADS) + 1;
        let needed = |workers: u64| FIXED + workers * per_worker + parts(workers) * SMALLEST_PART;
        let Some(workers) = (1..=workers.max(1) as u64).rev().find(|&workers| needed(workers) <= limit) else {
            let least = needed(1).div_ceil(1 << 20);
            return Err(Error::new(Kind::Config, format!("{limit} bytes of memory do not suffice for a backup"))
                .detail(format!("compression level {level} takes {least} MiB at least"))
                .hint(format!(
                    "Set --memory-limit or WALDEN_MEMORY_LIMIT to {least}MiB, or --backup-compression or \
                     WALDEN_BACKUP_COMPRESSION to a lower level."
                )));
        };
        let room = (limit - FIXED - workers * per_worker) / parts(workers);
        let part_size = (part_size as u64).clamp(1, room.max(SMALLEST_PART)) as usize;
        Ok(Shape { workers: workers as usize, part_size, uploads: workers.max(UPLOADS) as usize })
    }
}

/// What zstd 1.5 takes to compress 2 MiB at this level, as `ZSTD_sizeof_CCtx` says, rounded up.
fn context(level: i32) -> u64 {
    let mib = match level {
        ..=2 => 1,
        3 => 2,
        4..=6 => 4,
        7..=8 => 7,
        9 => 13,
        10..=12 => 25,
        _ => 34,
    };
    mib << 20
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn total(shape: Shape, level: i32) -> u64 {
        let workers = shape.workers as u64 * (12 * (1 << 20) + (128 << 10) + 2 * context(level));
        (40 << 20) + workers + (shape.workers + shape.uploads + 1) as u64 * shape.part_size as u64
    }

    proptest! {
        #[test]
        fn the_memory_limit_is_kept(mib in 96u64..4096, workers in 1usize..=256, part in 20u32..=30, level in 1i32..=19) {
            let limit = mib << 20;
            match Shape::within(limit, workers, 1 << part, level) {
                Ok(shape) => {
                    prop_assert!(total(shape, level) <= limit, "{:?}", shape);
                    prop_assert!((1..=workers).contains(&shape.workers) && shape.part_size <= 1 << part);
                    // Nothing is given away: with the parts that were wanted, or with smaller ones, it is nearly used up.
                    let more = Shape { part_size: shape.part_size + (1 << 20), ..shape };
                    prop_assert!(shape.part_size == 1 << part || total(more, level) > limit);
                }
                Err(error) => prop_assert!(limit < 140 << 20 && level > 6, "{:?}", error),
            }
        }

        #[test]
        fn every_file_but_the_control_file_is_in_one_job(sizes in prop::collection::vec(prop_oneof![0u64..100_000, Just(FRAME_SIZE as u64), 0u64..10_000_000_000], 0..600)) {
            let mut files = FileList::default();
            sizes.iter().enumerate().for_each(|(number, &size)| files.push(&format!("base/5/{number}"), size));
            files.push(CONTROL_FILE, 8192);
            let plan = plan(Arc::new(files));
            let mut numbers = Vec::new();
            for job in &plan.jobs {
                match job {
                    Job::Large(number) => numbers.push(*number),
                    Job::Small(range) => {
                        let batch = &plan.small[range.clone()];
                        let bytes: u64 = batch.iter().map(|&number| plan.files.size(number as usize)).sum();
                        prop_assert!(!batch.is_empty() && batch.len() <= BATCH_FILES);
                        prop_assert!(bytes < BATCH_BYTES + FRAME_SIZE as u64);
                        numbers.extend(batch);
                    }
                }
            }
            numbers.sort_unstable();
            prop_assert_eq!(numbers, (0..sizes.len() as u32).collect::<Vec<_>>());
            prop_assert_eq!(plan.bytes, sizes.iter().sum::<u64>() + 8192);
            let large: Vec<u64> = plan.jobs.iter().filter_map(|job| match job {
                Job::Large(number) => Some(plan.files.size(*number as usize)),
                Job::Small(_) => None,
            }).collect();
            prop_assert!(large.is_sorted_by(|a, b| a >= b));
        }
    }

    #[test]
    fn the_defaults_serve_small_and_large_machines() {
        for (workers, expected) in [(1, 32), (2, 26), (8, 6), (16, 2)] {
            let shape = Shape::within(256 << 20, workers, 32 << 20, 1).unwrap();
            assert_eq!((shape.workers, shape.part_size >> 20), (workers.min(11), expected), "{workers}");
        }
    }
}
