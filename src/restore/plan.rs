//! What a restore writes where. Pure.

use std::path::PathBuf;

use super::destination::Destination;
use crate::backup::manifest::{Files, Frame};
use crate::layout::PartName;

/// Everything that is to be written. What belongs to one part is worked out when its turn comes: all of it at once would be
/// larger than the manifest.
#[derive(Debug)]
pub(super) struct Plan {
    files: Files,
    destination: Destination,
    /// The numbers of all extents by their place in the volumes.
    order: Vec<u32>,
    /// Where each part begins in its volume.
    starts: Vec<u64>,
    /// What becomes of each file.
    fates: Vec<Fate>,
}

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is written as the backup has it.
    Copied,
    /// It is made with its size, and holds zeros.
    Hollow,
    /// It is there already.
    Kept,
}

/// A file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The file's number in the manifest.
    pub(super) number: usize,
    /// Where.
    pub(super) path: PathBuf,
    /// Permission bits.
    pub(super) mode: u32,
    /// Bytes.
    pub(super) size: u64,
}

/// What to write from one part.
#[derive(Clone, Debug)]
pub(super) struct PartPlan {
    /// Which part.
    pub(super) name: PartName,
    /// Its frames, in order.
    pub(super) frames: Vec<Frame>,
    /// What is written from them, in their order.
    pub(super) writes: Vec<Write>,
}

/// Bytes of a frame that go into a file. Small: a part can hold as many small files as a cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// Index in [`PartPlan::frames`].
    pub(super) frame: u32,
    /// The file's number in the manifest.
    pub(super) file: u32,
    /// Where in the file.
    pub(super) file_offset: u64,
    /// Where in the plain frame.
    pub(super) frame_offset: u32,
    /// How many bytes.
    pub(super) length: u32,
}

impl Plan {
    /// Plans the restore of these files, whose manifest has been checked. Those for which `is_hollow` holds by their path
    /// are to have no content.
    pub(super) fn new(files: Files, destination: Destination, is_hollow: impl Fn(&str) -> bool) -> Plan {
        let fate = |number| if is_hollow(&files.path(number)) { Fate::Hollow } else { Fate::Copied };
        let fates: Vec<Fate> = (0..files.len()).map(fate).collect();
        let extents = files.extents();
        let mut order: Vec<u32> = (0..extents.len() as u32).filter(|&at| extents[at as usize].length > 0).collect();
        order.retain(|&at| fates[files.file_of(at as usize)] == Fate::Copied);
        order.sort_unstable_by_key(|&at| (extents[at as usize].volume, extents[at as usize].offset));
        let mut starts = Vec::with_capacity(files.parts().len());
        let mut position = (0, 0);
        for part in files.parts() {
            if part.volume != position.0 {
                position = (part.volume, 0);
            }
            starts.push(position.1);
            position.1 += part.plain_size();
        }
        Plan { files, destination, order, starts, fates }
    }

    /// Leaves out what is there already, by the numbers of files.
    pub(super) fn keep(&mut self, is_kept: &[bool]) {
        for (fate, _) in self.fates.iter_mut().zip(is_kept).filter(|(_, is_kept)| **is_kept) {
            *fate = Fate::Kept;
        }
        self.order.retain(|&at| self.fates[self.files.file_of(at as usize)] == Fate::Copied);
    }

    /// What becomes of a file.
    pub(super) fn fate(&self, number: usize) -> Fate {
        self.fates[number]
    }

    /// The manifest.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Where everything goes.
    pub(super) fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Directories, those above first, with their permission bits.
    pub(super) fn directories(&self) -> impl Iterator<Item = (PathBuf, u32)> {
        self.files.directories().iter().map(|dir| (self.destination.resolve(&dir.path), dir.mode))
    }

    /// Files that are made without anything being fetched.
    pub(super) fn unfetched(&self) -> impl Iterator<Item = Target> {
        let unfetched = |&number: &usize| match self.fates[number] {
            Fate::Copied => self.files.size(number) == 0,
            Fate::Hollow => true,
            Fate::Kept => false,
        };
        (0..self.files.len()).filter(unfetched).map(|number| self.target(number))
    }

    /// Where a file is written to.
    pub(super) fn place(&self, number: usize) -> PathBuf {
        self.destination.resolve(&self.files.path(number))
    }

    /// The file of this number.
    pub(super) fn target(&self, number: usize) -> Target {
        let path = self.place(number);
        Target { number, path, mode: self.files.mode(number), size: self.files.size(number) }
    }

    /// What to write from the part of this number, which is below the number of [`Files::parts`].
    pub(super) fn part(&self, number: usize) -> PartPlan {
        let part = &self.files.parts()[number];
        let mut plan = PartPlan { name: part.name(), frames: part.frames.clone(), writes: Vec::new() };
        let mut start = self.starts[number];
        let mut extents = self.overlapping(part.volume, start, start + part.plain_size());
        for (frame, facts) in part.frames.iter().enumerate() {
            let end = start + u64::from(facts.plain);
            while let Some((&first, rest)) = extents.split_first() {
                let extent = self.files.extents()[first as usize];
                if extent.offset >= end {
                    break;
                }
                let file = self.files.file_of(first as usize);
                let before = self.files.extents_of(file).take_while(|&other| other < first as usize);
                let file_start: u64 = before.map(|other| self.files.extents()[other].length).sum();
                let extent_end = extent.offset + extent.length;
                let (from, to) = (extent.offset.max(start), extent_end.min(end));
                plan.writes.push(Write {
                    frame: frame as u32,
                    file: file as u32,
                    file_offset: file_start + (from - extent.offset),
                    frame_offset: (from - start) as u32,
                    length: (to - from) as u32,
                });
                if extent_end > end {
                    break;
                }
                extents = rest;
            }
            start = end;
        }
        plan
    }

    /// The numbers of the extents that have bytes in `start..end` of a volume, in their order. They are disjoint.
    fn overlapping(&self, volume: u32, start: u64, end: u64) -> &[u32] {
        let extent = |&at: &u32| self.files.extents()[at as usize];
        let from = self.order.partition_point(|at| {
            let extent = extent(at);
            (extent.volume, extent.offset + extent.length) <= (volume, start)
        });
        let to = self.order.partition_point(|at| (extent(at).volume, extent(at).offset) < (volume, end));
        &self.order[from..to.max(from)]
    }
}
