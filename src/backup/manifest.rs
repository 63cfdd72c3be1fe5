//! The two manifests of a base backup: the short one that makes it exist, and the long one that says where every byte
//! lies (docs/format.md, "Base backups").
//!
//! Pure: the form and its rules. Which objects hold them is `layout`'s business.

use std::collections::BTreeMap;
use std::io::{self, Write};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::damage::PageCheck;
use crate::crypt::size::sealed_size;
use crate::error::{Error, Kind, Result};
use crate::layout::{self, BackupId, DataKeyName, PartName, sealed};
use crate::postgres::control::SystemId;
use crate::postgres::entry::{Database, Directory, Paths, Tablespace};
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
    /// The databases when the copying ended; none where an early version took the backup.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<Database>,
    /// What became of verifying the page checksums; none if they were not verified: the cluster has no checksums, or the
    /// backup was taken by a version that did not verify them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<PageCheck>,
    /// Was it taken from a standby? Then no record in the WAL says where the copy is consistent: `stop` does, and
    /// `global/pg_control`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub from_standby: bool,
    /// Was it gone on with after an interruption? Then it began later than its id says, and its older volumes may end early
    /// and hold files that are not in it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub resumed: bool,
    /// How it was taken.
    #[serde(default, skip_serializing_if = "Method::is_local")]
    pub method: Method,
    /// The data key that its list of files was encrypted for, if it is encrypted. Parts of a run that was interrupted can have
    /// another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<DataKeyName>,
    /// What its users have written on it.
    #[serde(flatten)]
    pub marks: Marks,
}

/// How a backup was taken; what it holds is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Its files were read.
    #[default]
    Local,
    /// The server sent it (`BASE_BACKUP`).
    Remote,
}

impl Method {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
    fn is_local(&self) -> bool {
        *self == Method::Local
    }
}

/// What users write on a backup, then or later. Nothing of it changes what the backup is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// What it is called; one line, not empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What else there is to know, by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
    /// Is it to be kept for good?
    #[serde(default, skip_serializing_if = "is_false")]
    pub keep: bool,
}

/// What is to be changed of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarkChange {
    /// Another label, or none any more.
    pub label: Option<Option<String>>,
    /// Notes to set, or to take away, one after the other.
    pub notes: Vec<(String, Option<String>)>,
    /// Whether it is to be kept.
    pub keep: Option<bool>,
}

impl Marks {
    /// Changes them.
    pub fn change(&mut self, change: MarkChange) {
        self.label = change.label.unwrap_or(self.label.take());
        for (key, value) in change.notes {
            match value {
                Some(value) => self.notes.insert(key, value),
                None => self.notes.remove(&key),
            };
        }
        self.keep = change.keep.unwrap_or(self.keep);
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Backup {
    /// The content of `backup.json`.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        sealed::to_json("a manifest", self)
    }

    /// Reads `backup.json`.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it is damaged, [`Kind::Refused`] for a newer format.
    pub fn from_json(content: &[u8]) -> Result<Backup> {
        sealed::from_json("the backup", content)
    }

    /// What is known of its damaged pages, if it has any.
    pub fn damage(&self) -> Option<&PageCheck> {
        self.pages.as_ref().filter(|check| check.damaged > 0)
    }

    /// Is this all that the `backup.json` says that it was read from? A newer version may have written more, which would
    /// be lost if this were written in its place.
    pub fn is_all_of(&self, content: &[u8]) -> bool {
        let values = self.to_json().ok().map(|ours| [ours, content.to_vec()].map(|json| sealed::unseal(&json).ok()));
        let without_seal = |value: Option<serde_json::Value>| {
            let mut value = value?;
            value.as_object_mut()?.remove("sha256");
            Some(value)
        };
        values.is_some_and(|[ours, theirs]| without_seal(ours).is_some_and(|ours| Some(ours) == without_seal(theirs)))
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
    /// Its frames, in order. Their stored sizes add up to the object's, or to the plain bytes of the age file that it is.
    pub frames: Vec<Frame>,
    /// How it is encrypted, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<Box<AgeFile>>,
}

/// What a reader has to know of an age file to begin in its middle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgeFile {
    /// The data key that it is encrypted for.
    pub key: DataKeyName,
    /// All that comes before its first chunk.
    #[serde(with = "base64_text")]
    pub head: Vec<u8>,
}

/// Bytes as Base64.
mod base64_text {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Part {
    /// Its name.
    pub fn name(&self) -> PartName {
        PartName { volume: self.volume, part: self.part }
    }

    /// Bytes of its frames.
    pub fn framed_size(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.stored)).sum()
    }

    /// Bytes of the object.
    pub fn stored_size(&self) -> u64 {
        match &self.age {
            Some(age) => sealed_size(age.head.len() as u64, self.framed_size()),
            None => self.framed_size(),
        }
    }

    /// Bytes of the tar archive that it holds.
    pub fn plain_size(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.plain)).sum()
    }
}

/// No frame holds more plain bytes: the bound on what a reader of one file must fetch and hold.
pub const FRAME_SIZE: usize = 2 << 20;

/// No part that this version writes holds more frames: the bound on what a writer and a reader keep of one. Only one that is
/// full of zeros comes near it.
pub const MAX_FRAMES: usize = 16 << 10;

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

/// A CRC-32C as PostgreSQL's `backup_manifest` has it: as its bytes lie in memory (`pg_checksum_final` in
/// src/common/checksum_helper.c).
pub fn printed_crc(crc32c: u32) -> String {
    crc32c.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
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

impl Line {
    /// Writes it, with its end.
    pub fn write(&self, mut target: impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut target, self)?;
        target.write_all(b"\n")
    }
}

/// Everything that the long manifest says, in little memory: a file costs less than 100 bytes, a frame 32.
#[derive(Clone, Debug, Default)]
pub struct Files {
    parts: Vec<Part>,
    directories: Vec<Directory>,
    paths: Paths,
    facts: Vec<Facts>,
    extents: Vec<Extent>,
}

/// A file without its path and its extents.
#[derive(Clone, Copy, Debug)]
struct Facts {
    size: u64,
    /// In nanoseconds since 1970.
    modified: i64,
    mode: u32,
    crc32c: u32,
    /// The number of its first extent; those of a file follow each other.
    extent: u32,
}

impl Files {
    /// All parts, by volume and part.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// All directories, those above before those below.
    pub fn directories(&self) -> &[Directory] {
        &self.directories
    }

    /// How many files there are; they are numbered from 0.
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// Is there no file?
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    /// A file's path.
    pub fn path(&self, number: usize) -> String {
        self.paths.get(number)
    }

    /// A file's bytes.
    pub fn size(&self, number: usize) -> u64 {
        self.facts[number].size
    }

    /// A file's permission bits.
    pub fn mode(&self, number: usize) -> u32 {
        self.facts[number].mode
    }

    /// When a file was last changed, in nanoseconds since 1970.
    pub fn modified(&self, number: usize) -> i64 {
        self.facts[number].modified
    }

    /// The CRC-32C of a file's content.
    pub fn crc32c(&self, number: usize) -> u32 {
        self.facts[number].crc32c
    }

    /// A whole file.
    pub fn file(&self, number: usize) -> File {
        let Facts { size, modified, mode, crc32c, .. } = self.facts[number];
        let modified = Timestamp::from_nanosecond(modified.into()).unwrap_or_default();
        let at = self.extents_of(number).map(|extent| self.extents[extent]).collect();
        File { path: self.path(number), size, mode, modified, crc32c, at }
    }

    /// All extents of all files. Those of a file follow each other, in its order.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The numbers of a file's extents.
    pub fn extents_of(&self, number: usize) -> std::ops::Range<usize> {
        let end = self.facts.get(number + 1).map_or(self.extents.len(), |next| next.extent as usize);
        self.facts[number].extent as usize..end
    }

    /// The file that an extent belongs to.
    pub fn file_of(&self, extent: usize) -> usize {
        self.facts.partition_point(|facts| facts.extent as usize <= extent).saturating_sub(1)
    }

    fn add(&mut self, line: Line) -> Result<(), String> {
        match line {
            Line::Head(_) => return Err("it has two heads".into()),
            Line::Part(part) => self.parts.push(part),
            Line::Dir(directory) => self.directories.push(directory),
            Line::File(file) => {
                let File { path, size, mode, modified, crc32c, at } = file;
                let extent = u32::try_from(self.extents.len()).map_err(|_| "it has too many extents".to_owned())?;
                let modified = i64::try_from(modified.as_nanosecond()).unwrap_or_default();
                self.paths.push(&path);
                self.facts.push(Facts { size, modified, mode, crc32c, extent });
                self.extents.extend(at);
            }
        }
        Ok(())
    }

    /// Puts parts and directories in their order, and checks that everything hangs together: safe paths, and every extent
    /// within its volume.
    fn finish(mut self) -> Result<Files, String> {
        self.parts.sort_unstable_by_key(Part::name);
        self.directories.sort_unstable();
        let volumes = self.volumes()?;
        let directories = self.directories.iter().map(|directory| directory.path.clone());
        let mut paths = directories.chain((0..self.len()).map(|number| self.path(number)));
        if let Some(path) = paths.find(|path| !is_safe(path)) {
            return Err(format!("the path \"{path}\" leads out of the data directory"));
        }
        let inside = |extent: &Extent| {
            let end = extent.offset.checked_add(extent.length);
            volumes.get(extent.volume as usize).is_some_and(|&size| end.is_some_and(|end| end <= size))
        };
        for number in 0..self.len() {
            let extents = &self.extents[self.extents_of(number)];
            let total = extents.iter().try_fold(0u64, |total, extent| total.checked_add(extent.length));
            if total != Some(self.size(number)) || !extents.iter().all(inside) {
                return Err(format!("the extents of \"{}\" do not fit", self.path(number)));
            }
        }
        match self.paths.duplicate() {
            Some(path) => Err(format!("the file \"{path}\" is there twice")),
            None => Ok(self),
        }
    }

    /// The plain bytes of each volume, of whose parts none may be missing.
    fn volumes(&self) -> Result<Vec<u64>, String> {
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
        Ok(volumes)
    }
}

/// No line of a long manifest is longer: those of parts are the longest, with some 50 bytes a frame, and no part of this
/// version has more than [`MAX_FRAMES`].
const LONGEST_LINE: usize = 64 << 20;

/// Reads a long manifest as its bytes come.
#[derive(Debug)]
pub struct FilesReader {
    id: BackupId,
    has_head: bool,
    line: Vec<u8>,
    files: Files,
    /// What is wrong; the rest is passed over.
    failed: Option<Error>,
}

impl FilesReader {
    /// A reader of the long manifest of this backup.
    pub fn new(id: BackupId) -> FilesReader {
        FilesReader { id, has_head: false, line: Vec::new(), files: Files::default(), failed: None }
    }

    /// The manifest, which is complete.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it does not hang together, [`Kind::Refused`] for a newer format.
    pub fn finish(mut self) -> Result<Files> {
        if self.failed.is_none() && !self.line.is_empty() {
            self.end_line()?;
        }
        match self.failed {
            Some(error) => Err(error),
            None if !self.has_head => Err(corrupt(self.id, "it does not begin with its head".into())),
            None => self.files.finish().map_err(|detail| corrupt(self.id, detail)),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let mut pieces = bytes.split(|&byte| byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            if self.line.len() + piece.len() > LONGEST_LINE {
                return Err(corrupt(self.id, format!("a line has more than {LONGEST_LINE} bytes")));
            }
            self.line.extend_from_slice(piece);
            if pieces.peek().is_some() {
                self.end_line()?;
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<()> {
        let line = serde_json::from_slice(&self.line).map_err(|error| corrupt(self.id, error.to_string()))?;
        self.line.clear();
        match line {
            line if self.has_head => self.files.add(line).map_err(|detail| corrupt(self.id, detail)),
            Line::Head(head) if head.id == self.id => {
                self.has_head = true;
                layout::check_format("the list of files", head.format)
            }
            Line::Head(head) => Err(corrupt(self.id, format!("it is that of {}", head.id))),
            _ => Err(corrupt(self.id, "it does not begin with its head".into())),
        }
    }
}

impl Write for FilesReader {
    /// Takes everything; an error is kept for [`FilesReader::finish`], for whoever reads the object knows whether its
    /// bytes are those that were written.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failed.is_none() {
            self.failed = self.take(bytes).err();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
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
    use crate::layout::CLEAR;
    use proptest::prelude::*;

    fn id() -> BackupId {
        BackupId::parse("20261121T013005Z-0000000100000000000000AB").unwrap()
    }

    fn file(path: &str, at: Vec<Extent>) -> File {
        let size = at.iter().map(|extent| extent.length).sum();
        File { path: path.into(), size, mode: 0o600, modified: Timestamp::UNIX_EPOCH, crc32c: 7, at }
    }

    fn sample() -> Vec<Line> {
        let frame = |plain| Frame { plain, stored: plain / 2, digest: FrameDigest::of(b"x") };
        let part = |volume, part, frames| Line::Part(Part { volume, part, blake3: "00".into(), frames, age: None });
        vec![
            Line::Head(Head { format: CLEAR, id: id() }),
            part(1, 0, vec![frame(500)]),
            Line::File(file("PG_VERSION", vec![])),
            part(0, 0, vec![frame(1000), frame(2000)]),
            Line::File(file(
                "base/1",
                vec![Extent { volume: 0, offset: 512, length: 3000 }, Extent { volume: 1, offset: 0, length: 500 }],
            )),
            Line::Dir(Directory { path: "base".into(), mode: 0o700 }),
            part(0, 1, vec![frame(3000)]),
        ]
    }

    /// Reads them in pieces of so many bytes.
    fn read(lines: &[Line], piece: usize) -> Result<Files> {
        let mut content = Vec::new();
        lines.iter().for_each(|line| line.write(&mut content).unwrap());
        let mut reader = FilesReader::new(id());
        content.chunks(piece).for_each(|piece| reader.write_all(piece).unwrap());
        reader.finish()
    }

    #[test]
    fn the_long_manifest_round_trips_in_whatever_pieces_and_order_it_comes() {
        for piece in [1, 7, 1000] {
            let files = read(&sample(), piece).unwrap();
            let names: Vec<(u32, u32)> = files.parts().iter().map(|part| (part.volume, part.part)).collect();
            assert_eq!(names, [(0, 0), (0, 1), (1, 0)]);
            assert_eq!(files.directories(), [Directory { path: "base".into(), mode: 0o700 }]);
            let read: Vec<Line> = (0..files.len()).map(|number| Line::File(files.file(number))).collect();
            assert_eq!(read, [sample()[2].clone(), sample()[4].clone()]);
            assert_eq!([files.file_of(0), files.file_of(1)], [1, 1]);
        }
    }

    #[test]
    fn an_encrypted_part_is_as_large_as_its_age_file() {
        let age = AgeFile { key: DataKeyName::of("age1x"), head: vec![0xFF; 200] };
        let frame = Frame { plain: 1 << 20, stored: 70_000, digest: FrameDigest::of(b"x") };
        let clear = Part { volume: 0, part: 0, blake3: "00".into(), frames: vec![frame; 2], age: None };
        let part = Part { age: Some(Box::new(age)), ..clear.clone() };
        // Three chunks of 64 KiB.
        assert_eq!((clear.stored_size(), part.stored_size()), (140_000, 140_000 + 200 + 3 * 16));
        assert_eq!(part.framed_size(), 140_000);
    }

    #[test]
    fn a_manifest_that_does_not_hang_together_is_corrupt() {
        type Damage = fn(&mut Vec<Line>);
        fn part(line: &mut Line) -> &mut Part {
            let Line::Part(part) = line else { panic!("{line:?}") };
            part
        }
        fn file(line: &mut Line) -> &mut File {
            let Line::File(file) = line else { panic!("{line:?}") };
            file
        }
        let broken: [(&str, Damage); 10] = [
            ("it is empty", Vec::clear),
            ("the head is missing", |lines| drop(lines.remove(0))),
            ("there are two heads", |lines| lines.push(lines[0].clone())),
            ("a part is missing", |lines| drop(lines.remove(3))),
            ("a volume is missing", |lines| part(&mut lines[1]).volume = 2),
            ("an extent is too long", |lines| file(&mut lines[4]).at[1].length += 1),
            ("an extent overflows", |lines| file(&mut lines[4]).at[1].offset = u64::MAX),
            ("a size is wrong", |lines| file(&mut lines[4]).size += 1),
            ("a path leads out", |lines| file(&mut lines[2]).path = "../PG_VERSION".into()),
            ("a file is there twice", |lines| lines.push(lines[4].clone())),
        ];
        for (why, damage) in broken {
            let mut lines = sample();
            damage(&mut lines);
            assert_eq!(read(&lines, 1000).unwrap_err().kind(), Kind::Corrupt, "{why}");
        }
        let mut lines = sample();
        lines[5] = Line::Dir(Directory { path: "/base".into(), mode: 0o700 });
        assert_eq!(read(&lines, 1000).unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn a_file_costs_less_than_a_hundred_bytes() {
        let mut files = Files::default();
        for number in 0..100_000 {
            let at = vec![Extent { volume: 0, offset: number * 8192, length: 8192 }];
            files.add(Line::File(file(&format!("base/16384/{}", 1_000_000 + number), at))).unwrap();
        }
        let own = files.facts.capacity() * size_of::<Facts>() + files.extents.capacity() * size_of::<Extent>();
        // The paths have their own bound: a name and 12 bytes each.
        assert!(own + 20 * files.len() < 100 * files.len(), "{}", own / files.len());
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
            format: CLEAR,
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
            databases: Vec::new(),
            pages: None,
            from_standby: false,
            resumed: false,
            method: Method::Local,
            key: None,
            marks: Marks::default(),
        }
    }

    #[test]
    fn marks_are_there_if_they_were_made_and_change_nothing_else() {
        let (plain, mut marked) = (backup(), backup());
        marked.marks.change(MarkChange {
            label: Some(Some("before the upgrade".into())),
            notes: vec![("a".into(), Some("1".into())), ("b".into(), Some("2".into())), ("a".into(), None)],
            keep: Some(true),
        });
        assert_eq!(Backup::from_json(&marked.to_json().unwrap()).unwrap(), marked);
        let json = |backup: &Backup| serde_json::from_slice::<serde_json::Value>(&backup.to_json().unwrap()).unwrap();
        let (before, mut after) = (json(&plain), json(&marked));
        let fields = after.as_object_mut().unwrap();
        assert_eq!(fields.remove("label").unwrap(), "before the upgrade");
        assert_eq!(fields.remove("notes").unwrap(), serde_json::json!({ "b": "2" }));
        assert_eq!(fields.remove("keep").unwrap(), true);
        assert_ne!(fields["sha256"], before["sha256"]);
        fields["sha256"] = before["sha256"].clone();
        assert_eq!(after, before);
        marked.marks.change(MarkChange { label: Some(None), notes: vec![("b".into(), None)], keep: Some(false) });
        assert_eq!(marked.to_json().unwrap(), plain.to_json().unwrap());
    }

    #[test]
    fn what_a_newer_version_has_added_is_noticed() {
        let content = String::from_utf8(backup().to_json().unwrap()).unwrap();
        assert!(backup().is_all_of(content.as_bytes()));
        let body = content[..content.rfind("\"sha256\"").unwrap()].replace("\"files\"", "\"new\": 1, \"files\"");
        let newer = sealed::seal(body);
        assert_eq!(Backup::from_json(&newer).unwrap(), backup());
        assert!(!backup().is_all_of(&newer));
    }

    #[test]
    fn the_short_manifest_round_trips_and_is_plain_json() {
        let content = backup().to_json().unwrap();
        assert_eq!(Backup::from_json(&content).unwrap(), backup());
        let json: serde_json::Value = serde_json::from_slice(&content).unwrap();
        assert_eq!(json["system_id"], "7710427967336607753");
        assert!(json["sha256"].is_string());
        // As before there was anything to say of pages.
        assert!(json.get("pages").is_none() && backup().damage().is_none());
    }

    #[test]
    fn damage_is_what_the_short_manifest_says_of_it() {
        for damaged in [0, 3] {
            let pages = PageCheck { checked: 100, damaged, list: Vec::new() };
            let backup = Backup { pages: Some(pages), ..backup() };
            assert_eq!(Backup::from_json(&backup.to_json().unwrap()).unwrap(), backup);
            assert_eq!(backup.damage().is_some(), damaged > 0);
        }
    }
}
