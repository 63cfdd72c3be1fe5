//! The independent frames that payloads and the volumes of base backups are made of.

use crate::backup::manifest::{FRAME_SIZE, Frame, FrameDigest};
use crate::error::{Error, Kind, Result};

/// Compresses frames, one after the other, in memory that it keeps.
pub struct FrameWriter {
    compressor: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

impl FrameWriter {
    /// A writer of frames of this zstd level.
    pub fn new(level: i32) -> Result<FrameWriter> {
        let mut compressor = zstd::bulk::Compressor::new(level).map_err(unusable)?;
        compressor.include_checksum(true).map_err(unusable)?;
        Ok(FrameWriter { compressor, buffer: Vec::new() })
    }

    /// The frame of these at most [`FRAME_SIZE`] bytes, and its stored form.
    pub fn compress(&mut self, plain: &[u8]) -> Result<(Frame, &[u8])> {
        let plain_size = plain.len() as u32;
        let stored = self.frame(plain)?;
        let frame = Frame { plain: plain_size, stored: stored.len() as u32, digest: FrameDigest::of(stored) };
        Ok((frame, stored))
    }

    /// The stored form alone of the frame of these at most [`FRAME_SIZE`] bytes.
    pub fn frame(&mut self, plain: &[u8]) -> Result<&[u8]> {
        if plain.len() > FRAME_SIZE {
            return Err(Error::new(Kind::Bug, format!("a frame cannot hold {} bytes", plain.len())));
        }
        self.buffer.clear();
        self.buffer.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.compressor.compress_to_buffer(plain, &mut self.buffer).map_err(unusable)?;
        Ok(&self.buffer)
    }
}

/// Checks and decompresses frames, one after the other, in memory that it keeps.
pub struct FrameReader {
    decompressor: zstd::bulk::Decompressor<'static>,
    buffer: Vec<u8>,
}

impl FrameReader {
    /// A reader.
    pub fn new() -> Result<FrameReader> {
        Ok(FrameReader { decompressor: zstd::bulk::Decompressor::new().map_err(unusable)?, buffer: Vec::new() })
    }

    /// The plain bytes of a frame.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if the stored bytes are not those that the manifest describes.
    pub fn decompress(&mut self, frame: &Frame, stored: &[u8]) -> Result<&[u8]> {
        let plain = frame.plain as usize;
        if stored.len() != frame.stored as usize || plain > FRAME_SIZE {
            return Err(damaged(format!("it has {} bytes for {plain}, not {}", stored.len(), frame.stored)));
        }
        let digest = FrameDigest::of(stored);
        if digest != frame.digest {
            return Err(damaged(format!("its digest is {digest}, not {}", frame.digest)));
        }
        self.buffer.clear();
        self.buffer.reserve(plain);
        self.decompressor.decompress_to_buffer(stored, &mut self.buffer).map_err(|error| damaged(error.to_string()))?;
        match self.buffer.len() == plain {
            true => Ok(&self.buffer),
            false => Err(damaged(format!("it holds {} bytes, not {plain}", self.buffer.len()))),
        }
    }
}

fn unusable(error: std::io::Error) -> Error {
    Error::new(Kind::Bug, "zstd failed").detail(error.to_string())
}

fn damaged(detail: String) -> Error {
    Error::new(Kind::Corrupt, "a frame is damaged").detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decompress_undoes_compress(plain in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut writer = FrameWriter::new(1).unwrap();
            let (frame, stored) = writer.compress(&plain).unwrap();
            let mut reader = FrameReader::new().unwrap();
            prop_assert_eq!(reader.decompress(&frame, stored).unwrap(), &plain);
        }

        #[test]
        fn a_changed_byte_is_corrupt(plain in prop::collection::vec(any::<u8>(), 1..3000), at: prop::sample::Index) {
            let mut writer = FrameWriter::new(1).unwrap();
            let (frame, stored) = writer.compress(&plain).unwrap();
            let mut stored = stored.to_vec();
            let at = at.index(stored.len());
            stored[at] ^= 0x10;
            let error = FrameReader::new().unwrap().decompress(&frame, &stored).unwrap_err();
            prop_assert_eq!(error.kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn a_frame_is_bounded() {
        let mut writer = FrameWriter::new(1).unwrap();
        assert!(writer.compress(&vec![0; FRAME_SIZE]).is_ok());
        assert!(writer.compress(&vec![0; FRAME_SIZE + 1]).is_err());
    }
}
