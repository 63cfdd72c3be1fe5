//! The two manifests of a base backup: the short one that makes it exist, and the long one that says where every byte
//! lies (docs/format.md, "Base backups").
//!
//! Pure: the form and its rules. Which objects hold them is `layout`'s business.

use std::io::{BufRead, Write};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::layout::{self, BackupId, FORMAT, PartName, sealed};
use crate::postgres::control::SystemId;
use crate::postgres::entry::Tablespace;
use crate::postgres::lsn::Lsn;
use crate::wal::segment::SegmentSize;
use crate::wal::timeline::Timeline;

/// The short manifest, `backup.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// The format version.
    pub format: u32,
    /// The version of Walden that took it.
    pub walden: String,
    /// Its id.
    pub id: BackupId,
    /// Whose backup it is.
    pub system_id: SystemId,
    /// The major version of PostgreSQL.
    pub postgres: u16,
    /// When the copying began.
    pub started: Timestamp,
    /// When `pg_backup_stop` returned: recovery can stop at this time and later.
    pub finished: Timestamp,
    /// The timeline of its WAL.
    pub timeline: Timeline,
    /// Where replay begins.
    pub start: Lsn,
    /// Up to where replay must get before the copy is consistent.
    pub stop: Lsn,
    /// The cluster's segment size in bytes.
    pub segment_size: u64,
    /// Are the cluster's data pages checksummed?
    pub data_checksums: bool,
    /// Permission bits of the data directory.
    pub directory_mode: u32,
    /// Number of files.
    pub files: u64,
    /// Bytes of all files.
    pub plain_size: u64,
    /// Bytes of all parts.
    pub stored_size: u64,
    /// Tablespaces other than the two in the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// BLAKE3 of the long manifest, plain, in lower-case hexadecimal.
    pub files_blake3: String,
}

impl Backup {
    /// The content of `backup.json`.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let json = serde_json::to_string_pretty(self)
            .map_err(|error| Error::new(Kind::Bug, "could not write a manifest").detail(error.to_string()))?;
        // The closing brace makes room for the digest.
        Ok(sealed::seal(format!("{},\n  ", json.trim_end_matches("\n}"))))
    }

    /// Reads `backup.json`.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it is damaged, [`Kind::Refused`] for a newer format.
    pub fn from_json(content: &[u8]) -> Result<Backup> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format } = sealed::unseal(content)?;
        layout::check_format("the backup", format)?;
        sealed::unseal(content)
    }

    /// The cluster's segment size.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if PostgreSQL knows no such size.
    pub fn segment_size(&self) -> Result<SegmentSize> {
        SegmentSize::new(self.segment_size).ok_or_else(|| {
            Error::new(Kind::Corrupt, format!("the manifest of backup {} is damaged", self.id))
                .detail(format!("{} is not a WAL segment size", self.segment_size))
        })
    }
}

/// One line of the long manifest. It is JSON lines: a `head`, then parts, directories and files in any order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// The first line.
    Head(Head),
    /// A part and its frames.
    Part(Part),
    /// A directory.
    Dir(Directory),
    /// A file and where its bytes are.
    File(File),
}

/// What the manifest belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The format version.
    pub format: u32,
    /// The backup.
    pub id: BackupId,
}

/// A part of a volume. The frames of all the parts of a volume, decompressed one after the other, are a tar archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The volume, counted from 0.
    pub volume: u32,
    /// The part, counted from 0.
    pub part: u32,
    /// BLAKE3 of the object, in lower-case hexadecimal.
    pub blake3: String,
    /// Its frames, in order; their stored sizes add up to the object's.
    pub frames: Vec<Frame>,
}

impl Part {
    /// Its name.
    pub fn name(&self) -> PartName {
        PartName { volume: self.volume, part: self.part }
    }

    /// Bytes of the object.
    pub fn stored_size(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.stored)).sum()
    }

    /// Bytes of the tar archive that it holds.
    pub fn plain_size(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.plain)).sum()
    }
}

/// No frame holds more plain bytes: the bound on what a reader of one file must fetch and hold.
pub const FRAME_SIZE: usize = 2 << 20;

/// One zstd frame, written `[plain bytes, stored bytes, digest]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, u32, FrameDigest)", into = "(u32, u32, FrameDigest)")]
pub struct Frame {
    /// Plain bytes, at most [`FRAME_SIZE`].
    pub plain: u32,
    /// Stored bytes.
    pub stored: u32,
    /// The digest of the stored bytes.
    pub digest: FrameDigest,
}

impl From<(u32, u32, FrameDigest)> for Frame {
    fn from((plain, stored, digest): (u32, u32, FrameDigest)) -> Frame {
        Frame { plain, stored, digest }
    }
}

impl From<Frame> for (u32, u32, FrameDigest) {
    fn from(frame: Frame) -> Self {
        (frame.plain, frame.stored, frame.digest)
    }
}

/// The first 16 bytes of a BLAKE3 digest, in lower-case hexadecimal: there are as many of them as there are frames, and
/// they guard against damage; each part as a whole has a full digest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FrameDigest(u128);

impl FrameDigest {
    /// The digest of these stored bytes.
    pub fn of(bytes: &[u8]) -> FrameDigest {
        let digest = blake3::hash(bytes);
        FrameDigest(digest.as_bytes()[..16].iter().fold(0, |number, &byte| number << 8 | u128::from(byte)))
    }
}

impl std::fmt::Display for FrameDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::fmt::Debug for FrameDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for FrameDigest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FrameDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<FrameDigest, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digest = u128::from_str_radix(&text, 16).ok().map(FrameDigest).filter(|digest| digest.to_string() == text);
        digest.ok_or_else(|| serde::de::Error::custom("not a frame's digest"))
    }
}

/// A directory of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Relative to the data directory, with `/`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
}

/// A file of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Relative to the data directory, with `/`; files of tablespaces begin with `pg_tblspc/<oid>/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// When it was last changed, as the file system had it.
    pub modified: Timestamp,
    /// CRC-32C of the content.
    pub crc32c: u32,
    /// Where the content lies, in the order of the file.
    pub at: Vec<Extent>,
}

/// A run of a file's bytes within a volume, written `[volume, offset, length]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, u64, u64)", into = "(u32, u64, u64)")]
pub struct Extent {
    /// The volume.
    pub volume: u32,
    /// Offset in the tar archive that the volume is.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl From<(u32, u64, u64)> for Extent {
    fn from((volume, offset, length): (u32, u64, u64)) -> Extent {
        Extent { volume, offset, length }
    }
}

impl From<Extent> for (u32, u64, u64) {
    fn from(extent: Extent) -> Self {
        (extent.volume, extent.offset, extent.length)
    }
}

/// Everything that the long manifest says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// All parts, by volume and part.
    pub parts: Vec<Part>,
    /// All directories, those above before those below.
    pub directories: Vec<Directory>,
    /// All files, by path.
    pub files: Vec<File>,
}

impl Files {
    /// Puts everything in its order.
    pub fn sort(&mut self) {
        self.parts.sort_unstable_by_key(Part::name);
        self.directories.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        self.files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    }

    /// Writes the long manifest of this backup.
    pub fn write(&self, id: BackupId, mut target: impl Write) -> Result<()> {
        let mut line = |line: Line| -> Result<()> {
            serde_json::to_writer(&mut target, &line)
                .map_err(|error| Error::new(Kind::Bug, "could not write a manifest").detail(error.to_string()))?;
            target.write_all(b"\n").during(|| "could not write a manifest")
        };
        line(Line::Head(Head { format: FORMAT, id }))?;
        self.parts.iter().cloned().map(Line::Part).try_for_each(&mut line)?;
        self.directories.iter().cloned().map(Line::Dir).try_for_each(&mut line)?;
        self.files.iter().cloned().map(Line::File).try_for_each(&mut line)
    }

    /// Reads the long manifest of this backup and checks that it hangs together: safe paths, and every extent within its
    /// volume.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it does not, [`Kind::Refused`] for a newer format.
    pub fn read(id: BackupId, source: impl BufRead) -> Result<Files> {
        let mut lines = source.lines();
        let mut next = || -> Result<Option<Line>> {
            let Some(line) = lines.next() else { return Ok(None) };
            let line = line.during(|| "could not read a manifest")?;
            serde_json::from_str(&line).map(Some).map_err(|error| corrupt(id, error.to_string()))
        };
        match next()? {
            Some(Line::Head(head)) if head.id == id => layout::check_format("the list of files", head.format)?,
            Some(Line::Head(head)) => return Err(corrupt(id, format!("it is that of {}", head.id))),
            _ => return Err(corrupt(id, "it does not begin with its head".into())),
        }
        let mut files = Files::default();
        while let Some(line) = next()? {
            match line {
                Line::Head(_) => return Err(corrupt(id, "it has two heads".into())),
                Line::Part(part) => files.parts.push(part),
                Line::Dir(directory) => files.directories.push(directory),
                Line::File(file) => files.files.push(file),
            }
        }
        files.sort();
        files.check().map_err(|detail| corrupt(id, detail))?;
        Ok(files)
    }

    fn check(&self) -> Result<(), String> {
        let mut volumes: Vec<u64> = Vec::new();
        let mut expected = PartName { volume: 0, part: 0 };
        for part in &self.parts {
            if part.part == 0 && part.volume == volumes.len() as u32 {
                volumes.push(0);
                expected = part.name();
            }
            if part.name() != expected {
                return Err(format!("part {} of volume {} is out of order", part.part, part.volume));
            }
            if part.frames.iter().any(|frame| frame.plain as usize > FRAME_SIZE) {
                return Err(format!("part {} of volume {} has a frame that is too large", part.part, part.volume));
            }
            expected.part += 1;
            if let Some(volume) = volumes.last_mut() {
                *volume += part.plain_size();
            }
        }
        let paths =
            self.directories.iter().map(|directory| &directory.path).chain(self.files.iter().map(|file| &file.path));
        if let Some(path) = paths.into_iter().find(|path| !is_safe(path)) {
            return Err(format!("the path \"{path}\" leads out of the data directory"));
        }
        for file in &self.files {
            let inside = |extent: &Extent| {
                let end = extent.offset.checked_add(extent.length);
                volumes.get(extent.volume as usize).is_some_and(|&size| end.is_some_and(|end| end <= size))
            };
            let total = file.at.iter().try_fold(0u64, |total, extent| total.checked_add(extent.length));
            if total != Some(file.size) || !file.at.iter().all(inside) {
                return Err(format!("the extents of \"{}\" do not fit", file.path));
            }
        }
        if let Some(pair) = self.files.windows(2).find(|pair| pair[0].path == pair[1].path) {
            return Err(format!("the file \"{}\" is there twice", pair[0].path));
        }
        Ok(())
    }
}

/// Does a relative path stay below where it begins?
fn is_safe(path: &str) -> bool {
    !path.is_empty() && !path.contains('\0') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn corrupt(id: BackupId, detail: String) -> Error {
    Error::new(Kind::Corrupt, format!("the list of files of backup {id} is damaged")).detail(detail)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> BackupId {
        BackupId::parse("20261121T013005Z-0000000100000000000000AB").unwrap()
    }

    fn file(path: &str, at: Vec<Extent>) -> File {
        let size = at.iter().map(|extent| extent.length).sum();
        File { path: path.into(), size, mode: 0o600, modified: Timestamp::UNIX_EPOCH, crc32c: 7, at }
    }

    fn sample() -> Files {
        let frame = |plain| Frame { plain, stored: plain / 2, digest: FrameDigest::of(b"x") };
        let part = |volume, part, frames| Part { volume, part, blake3: "00".into(), frames };
        Files {
            parts: vec![
                part(0, 0, vec![frame(1000), frame(2000)]),
                part(0, 1, vec![frame(3000)]),
                part(1, 0, vec![frame(500)]),
            ],
            directories: vec![Directory { path: "base".into(), mode: 0o700 }],
            files: vec![
                file("PG_VERSION", vec![]),
                file(
                    "base/1",
                    vec![Extent { volume: 0, offset: 512, length: 3000 }, Extent { volume: 1, offset: 0, length: 500 }],
                ),
            ],
        }
    }

    fn read(files: &Files) -> Result<Files> {
        let mut content = Vec::new();
        files.write(id(), &mut content).unwrap();
        Files::read(id(), content.as_slice())
    }

    #[test]
    fn the_long_manifest_round_trips() {
        assert_eq!(read(&sample()).unwrap(), sample());
    }

    #[test]
    fn a_manifest_that_does_not_hang_together_is_corrupt() {
        type Damage = fn(&mut Files);
        let broken: [(&str, Damage); 8] = [
            ("a part is missing", |files| drop(files.parts.remove(0))),
            ("a volume is missing", |files| files.parts[2].volume = 2),
            ("an extent is too long", |files| files.files[1].at[1].length += 1),
            ("an extent overflows", |files| files.files[1].at[1].offset = u64::MAX),
            ("a size is wrong", |files| files.files[1].size += 1),
            ("a path leads out", |files| files.files[0].path = "../PG_VERSION".into()),
            ("a path is absolute", |files| files.directories[0].path = "/base".into()),
            ("a file is there twice", |files| files.files.push(files.files[0].clone())),
        ];
        for (why, damage) in broken {
            let mut files = sample();
            damage(&mut files);
            assert_eq!(read(&files).unwrap_err().kind(), Kind::Corrupt, "{why}");
        }
        assert_eq!(Files::read(id(), &b""[..]).unwrap_err().kind(), Kind::Corrupt);
    }

    proptest! {
        #[test]
        fn frames_and_extents_round_trip(plain: u32, stored: u32, content: Vec<u8>, volume: u32, offset: u64, length: u64) {
            let frame = Frame { plain, stored, digest: FrameDigest::of(&content) };
            let json = serde_json::to_string(&frame).unwrap();
            prop_assert_eq!(serde_json::from_str::<Frame>(&json).unwrap(), frame);
            let extent = Extent { volume, offset, length };
            let json = serde_json::to_string(&extent).unwrap();
            prop_assert_eq!(serde_json::from_str::<Extent>(&json).unwrap(), extent);
        }

        #[test]
        fn a_changed_byte_of_the_short_manifest_is_noticed(at: prop::sample::Index, bit in 0u8..7) {
            let mut content = backup().to_json().unwrap();
            let at = at.index(content.len());
            content[at] ^= 1 << bit;
            prop_assert_eq!(Backup::from_json(&content).unwrap_err().kind(), Kind::Corrupt);
        }
    }

    pub(crate) fn backup() -> Backup {
        Backup {
            format: FORMAT,
            walden: "0.1.0".into(),
            id: id(),
            system_id: SystemId(7710427967336607753),
            postgres: 15,
            started: id().started(),
            finished: id().started(),
            timeline: Timeline(1),
            start: Lsn(0xAB00_0028),
            stop: Lsn(0xAB00_0138),
            segment_size: 16 << 20,
            data_checksums: true,
            directory_mode: 0o700,
            files: 2,
            plain_size: 3500,
            stored_size: 3250,
            tablespaces: vec![Tablespace { oid: 16385, location: "/srv/fast".into() }],
            files_blake3: blake3::hash(b"").to_hex().to_string(),
        }
    }

    #[test]
    fn the_short_manifest_round_trips_and_is_plain_json() {
        let content = backup().to_json().unwrap();
        assert_eq!(Backup::from_json(&content).unwrap(), backup());
        let json: serde_json::Value = serde_json::from_slice(&content).unwrap();
        assert_eq!(json["system_id"], "7710427967336607753");
        assert!(json["sha256"].is_string());
    }
}
