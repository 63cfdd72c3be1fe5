//! One volume in the making: a tar archive as a stream of frames, cut into parts.

use std::io::Write;

use tokio::sync::mpsc::Sender;

use super::manifest::{AgeFile, Extent, FRAME_SIZE, File, Frame, MAX_FRAMES, Part};
use crate::codec::FrameWriter;
use crate::crypt::Recipient;
use crate::crypt::open::head_length;
use crate::crypt::seal::Sealer;
use crate::crypt::size::room;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::{DataKeyName, MAX_PARTS};
use crate::postgres::entry::Directory;

/// A part that is ready to be stored.
#[derive(Debug)]
pub(super) struct FinishedPart {
    /// What the manifest says of it.
    pub(super) part: Part,
    /// The object.
    pub(super) content: Vec<u8>,
}

/// Writes a volume. Small files share frames; a large file has frames of its own, which other threads may have made.
pub(super) struct VolumeWriter {
    volume: u32,
    writer: FrameWriter,
    /// Plain bytes that wait until a frame is full.
    pending: Vec<u8>,
    /// Plain bytes in frames so far.
    framed: u64,
    part: u32,
    shape: PartShape,
    frames: Vec<Frame>,
    /// Bytes in these frames.
    filled: usize,
    /// The object in the making; none until its first frame.
    content: Option<Sealer<Vec<u8>>>,
    parts: Sender<FinishedPart>,
}

/// What parts are to be.
#[derive(Clone, Debug)]
pub(super) struct PartShape {
    /// Stored bytes, at most, unless a single frame takes more.
    pub(super) size: usize,
    /// The data key that they are encrypted for, if they are.
    pub(super) to: Option<Recipient>,
}

impl PartShape {
    /// Bytes of frames that fit into a part.
    fn room(&self) -> usize {
        match self.to {
            Some(_) => room(self.size as u64) as usize,
            None => self.size,
        }
    }

    fn begin(&self) -> Result<Sealer<Vec<u8>>> {
        // Only the pages that are written to cost memory.
        Sealer::begin(self.to.as_ref(), Vec::with_capacity(self.size)).during(encrypting)
    }
}

fn encrypting() -> &'static str {
    "could not encrypt a part"
}

const TAR_BLOCK: u64 = 512;

impl VolumeWriter {
    /// Begins a volume whose parts go to `parts`.
    pub(super) fn new(volume: u32, level: i32, shape: PartShape, parts: Sender<FinishedPart>) -> Result<VolumeWriter> {
        Ok(VolumeWriter {
            volume,
            writer: FrameWriter::new(level)?,
            pending: Vec::with_capacity(FRAME_SIZE),
            framed: 0,
            part: 0,
            shape,
            frames: Vec::new(),
            filled: 0,
            content: None,
            parts,
        })
    }

    /// Its number.
    pub(super) fn number(&self) -> u32 {
        self.volume
    }

    /// Adds a directory.
    pub(super) fn add_directory(&mut self, directory: &Directory) -> Result<()> {
        let header = header(&format!("{}/", directory.path), tar::EntryType::Directory, directory.mode, 0, 0)?;
        self.append(&header)
    }

    /// Adds a whole file that fits into one frame; says where its content lies.
    pub(super) fn add_small(&mut self, file: &File, content: &[u8]) -> Result<Vec<Extent>> {
        let header = file_header(file)?;
        let padding = padding(content.len() as u64);
        let total = header.len() + content.len() + padding.len();
        if self.pending.len() + total > FRAME_SIZE && total <= FRAME_SIZE {
            self.flush()?;
        }
        self.append(&header)?;
        let offset = self.offset();
        self.append(content)?;
        self.append(padding)?;
        Ok(self.extents(offset, content.len() as u64))
    }

    /// Begins a large file: its frames follow through [`VolumeWriter::add_frame`], then [`VolumeWriter::end_large`].
    pub(super) fn begin_large(&mut self, file: &File) -> Result<Vec<Extent>> {
        self.append(&file_header(file)?)?;
        self.flush()?;
        Ok(self.extents(self.offset(), file.size))
    }

    /// Adds a frame of a large file, made with the settings of this volume.
    pub(super) fn add_frame(&mut self, frame: Frame, stored: &[u8]) -> Result<()> {
        let full = self.filled + stored.len() > self.shape.room() || self.frames.len() == MAX_FRAMES;
        if full && !self.frames.is_empty() {
            self.finish_part()?;
        }
        let content = match &mut self.content {
            Some(content) => content,
            none => none.insert(self.shape.begin()?),
        };
        content.write_all(stored).during(encrypting)?;
        self.filled += stored.len();
        self.frames.push(frame);
        self.framed += u64::from(frame.plain);
        Ok(())
    }

    /// Ends a large file.
    pub(super) fn end_large(&mut self, file: &File) -> Result<()> {
        self.append(padding(file.size))
    }

    /// Ends the volume.
    pub(super) fn finish(mut self) -> Result<()> {
        // Two empty blocks end a tar archive (POSIX.1-2017, pax, "ustar Interchange Format").
        self.append(&[0; 2 * TAR_BLOCK as usize])?;
        self.flush()?;
        self.finish_part()
    }

    fn offset(&self) -> u64 {
        self.framed + self.pending.len() as u64
    }

    fn extents(&self, offset: u64, length: u64) -> Vec<Extent> {
        // An empty file has no bytes that lie anywhere.
        if length == 0 { Vec::new() } else { vec![Extent { volume: self.volume, offset, length }] }
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = FRAME_SIZE - self.pending.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.pending.extend_from_slice(now);
            if self.pending.len() == FRAME_SIZE {
                self.flush()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let (frame, stored) = self.writer.compress(&pending)?;
        let stored = stored.to_vec();
        self.pending = pending;
        self.pending.clear();
        self.add_frame(frame, &stored)
    }

    fn finish_part(&mut self) -> Result<()> {
        if self.part == MAX_PARTS {
            return Err(Error::new(Kind::Refused, format!("a volume cannot have more than {MAX_PARTS} parts"))
                .hint("Make the parts larger with --part-size or WALDEN_PART_SIZE, or use more workers."));
        }
        let content = match self.content.take() {
            Some(content) => content,
            None => self.shape.begin()?,
        };
        let content = content.finish().during(encrypting)?;
        let part = Part {
            volume: self.volume,
            part: self.part,
            blake3: blake3::hash(&content).to_hex().to_string(),
            frames: std::mem::take(&mut self.frames),
            age: self.age_file(&content)?,
        };
        self.filled = 0;
        self.part += 1;
        self.parts.blocking_send(FinishedPart { part, content }).map_err(|_| {
            // The receiver says why; see `push`.
            Error::new(Kind::Unreachable, "the parts of the backup can no longer be stored")
        })
    }

    /// What its readers have to know of a part that is encrypted.
    fn age_file(&self, content: &[u8]) -> Result<Option<Box<AgeFile>>> {
        let Some(recipient) = &self.shape.to else { return Ok(None) };
        let head = head_length(content).during(encrypting)?.map(|length| content[..length].to_vec());
        let head = head.ok_or_else(|| Error::new(Kind::Bug, "an encrypted part has no head"))?;
        Ok(Some(Box::new(AgeFile { key: DataKeyName::of(&recipient.to_string()), head })))
    }
}

fn file_header(file: &File) -> Result<Vec<u8>> {
    header(&file.path, tar::EntryType::Regular, file.mode, file.size, file.modified.as_second())
}

fn header(path: &str, kind: tar::EntryType, mode: u32, size: u64, modified: i64) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(modified.max(0) as u64);
    header.set_uid(0);
    header.set_gid(0);
    // Writes the header alone, preceded by a long-name entry where the path needs one; the content is ours to add.
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, path, std::io::empty()).during(|| format!("could not describe \"{path}\""))?;
    Ok(std::mem::take(builder.get_mut()))
}

fn padding(size: u64) -> &'static [u8] {
    const ZEROS: [u8; TAR_BLOCK as usize] = [0; TAR_BLOCK as usize];
    &ZEROS[..(size.next_multiple_of(TAR_BLOCK) - size) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::FrameReader;
    use crate::crypt::open::open;
    use crate::crypt::{ExposeSecret, Identity};
    use jiff::Timestamp;
    use proptest::prelude::*;
    use std::io::Read;

    fn describe(path: String, size: usize) -> File {
        File { path, size: size as u64, mode: 0o600, modified: Timestamp::UNIX_EPOCH, crc32c: 0, at: Vec::new() }
    }

    /// Writes files of these sizes, each filled with its index, and returns what was stored, encrypted if there is a key.
    fn write(sizes: &[usize], size: usize, key: Option<&Identity>) -> (Vec<File>, Vec<FinishedPart>) {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1000);
        let shape = PartShape { size, to: key.map(Identity::recipient) };
        let mut volume = VolumeWriter::new(3, 1, shape, sender).unwrap();
        let mut files = Vec::new();
        for (index, &size) in sizes.iter().enumerate() {
            let mut file = describe(format!("base/d{}/{index}", "x".repeat(index * 40)), size);
            let content = vec![index as u8; size];
            if size < FRAME_SIZE {
                file.at = volume.add_small(&file, &content).unwrap();
            } else {
                file.at = volume.begin_large(&file).unwrap();
                let mut writer = FrameWriter::new(1).unwrap();
                for slice in content.chunks(FRAME_SIZE) {
                    let (frame, stored) = writer.compress(slice).unwrap();
                    volume.add_frame(frame, stored).unwrap();
                }
                volume.end_large(&file).unwrap();
            }
            files.push(file);
        }
        volume.finish().unwrap();
        let mut parts = Vec::new();
        while let Ok(part) = receiver.try_recv() {
            parts.push(part);
        }
        (files, parts)
    }

    fn plain(parts: &[FinishedPart], key: Option<&Identity>) -> Vec<u8> {
        let mut reader = FrameReader::new().unwrap();
        let mut plain = Vec::new();
        for part in parts {
            let content = match key {
                Some(key) => open(&part.content, std::slice::from_ref(key), 64 << 20).unwrap().unwrap(),
                None => part.content.clone().into(),
            };
            let (content, mut at) = (content.expose_secret(), 0);
            for frame in &part.part.frames {
                let stored = &content[at..at + frame.stored as usize];
                plain.extend_from_slice(reader.decompress(frame, stored).unwrap());
                at += stored.len();
            }
            assert_eq!(at, content.len());
        }
        plain
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_volume_is_a_tar_archive_and_its_extents_are_right(
            sizes in prop::collection::vec(prop_oneof![0usize..2000, Just(FRAME_SIZE - 1), Just(FRAME_SIZE), Just(FRAME_SIZE + 8192), Just(512)], 0..8),
            part_size in 1usize..3000,
            encrypted: bool,
        ) {
            let key = encrypted.then(Identity::generate);
            let (files, parts) = write(&sizes, part_size, key.as_ref());
            let plain = plain(&parts, key.as_ref());
            let mut archive = tar::Archive::new(plain.as_slice());
            let mut read = 0;
            for (entry, file) in archive.entries().unwrap().zip(&files) {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().into_owned();
                prop_assert_eq!(path.to_str().unwrap(), &file.path);
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                let at: Vec<u8> = file.at.iter().flat_map(|at| plain[at.offset as usize..(at.offset + at.length) as usize].to_vec()).collect();
                prop_assert_eq!(&content, &at);
                prop_assert!(content.iter().all(|&byte| byte == read as u8) && content.len() as u64 == file.size);
                read += 1;
            }
            prop_assert_eq!(read, files.len());
        }

        #[test]
        fn parts_are_bounded_and_numbered(sizes in prop::collection::vec(0usize..200_000, 1..20), part_size in 2000usize..4000, encrypted: bool) {
            let key = encrypted.then(Identity::generate);
            let (_, parts) = write(&sizes, part_size, key.as_ref());
            for (index, part) in parts.iter().enumerate() {
                prop_assert_eq!(part.part.part as usize, index);
                prop_assert!(part.content.len() <= part_size || part.part.frames.len() == 1);
                prop_assert_eq!(part.part.stored_size(), part.content.len() as u64);
            }
        }
    }
}
