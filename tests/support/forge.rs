//! Forged files of PostgreSQL, so that most tests need no server. Written from PostgreSQL's own headers and not with
//! Walden's code, which would then be its own witness.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::random::Random;

/// Major version, `XLOG_PAGE_MAGIC`, `PG_CONTROL_VERSION`, `CATALOG_VERSION_NO`, offset of pg_control's CRC.
const VERSIONS: [(u16, u16, u32, u32, usize); 6] = [
    (13, 0xD106, 1300, 202007201, 288),
    (14, 0xD10D, 1300, 202107181, 288),
    (15, 0xD110, 1300, 202209061, 288),
    (16, 0xD113, 1300, 202307071, 288),
    (17, 0xD116, 1700, 202406281, 288),
    (18, 0xD118, 1800, 202506291, 292),
];

pub const SYSTEM_ID: u64 = 7_710_427_967_336_607_753;

const PAGE: usize = 8192;

/// Larger segments repeat themselves after so many bytes. No compressor here looks back that far, and forging is quick.
const VARIED: u64 = 8 << 20;

/// A WAL segment: true page headers over content that compresses about as WAL does.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Major version of PostgreSQL.
    pub version: u16,
    /// Bytes; a power of two from 1 MiB to 1 GiB.
    pub size: u64,
    pub timeline: u32,
    /// Counted from the beginning of WAL.
    pub number: u64,
    pub system_id: u64,
    /// Other seed, other content.
    pub seed: u64,
    /// Content that does not compress at all.
    pub dense: bool,
}

impl Default for Segment {
    fn default() -> Segment {
        Segment { version: 15, size: 16 << 20, timeline: 1, number: 1, system_id: SYSTEM_ID, seed: 1, dense: false }
    }
}

impl Segment {
    /// The file name.
    pub fn name(&self) -> String {
        let per_log = (1 << 32) / self.size;
        format!("{:08X}{:08X}{:08X}", self.timeline, self.number / per_log, self.number % per_log)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size as usize);
        self.write_to(&mut bytes).unwrap();
        bytes
    }

    fn write_to(&self, sink: &mut impl Write) -> std::io::Result<()> {
        let varied = self.records(self.size.min(VARIED) as usize);
        for offset in (0..self.size).step_by(PAGE) {
            let header = self.page_header(offset);
            sink.write_all(&header)?;
            let at = (offset % VARIED) as usize;
            sink.write_all(&varied[at + header.len()..at + PAGE])?;
        }
        Ok(())
    }

    /// So many bytes of something between page headers.
    fn records(&self, size: usize) -> Vec<u8> {
        let mut random = Random::from_seed(self.seed);
        let mut bytes = Vec::with_capacity(size);
        while bytes.len() < size {
            match self.dense {
                true => bytes.extend(random.next().to_le_bytes()),
                false => bytes.extend(record(&mut random)),
            }
        }
        bytes
    }

    /// `XLogPageHeaderData`, and on the first page `XLogLongPageHeaderData` (src/include/access/xlog_internal.h).
    fn page_header(&self, offset: u64) -> Vec<u8> {
        let (_, magic, ..) = version(self.version);
        let mut bytes = Vec::with_capacity(40);
        bytes.extend(magic.to_le_bytes());
        bytes.extend(if offset == 0 { 2u16 } else { 0 }.to_le_bytes());
        bytes.extend(self.timeline.to_le_bytes());
        bytes.extend((self.number * self.size + offset).to_le_bytes());
        bytes.extend([0; 8]);
        if offset == 0 {
            bytes.extend(self.system_id.to_le_bytes());
            bytes.extend((self.size as u32).to_le_bytes());
            bytes.extend((PAGE as u32).to_le_bytes());
        }
        bytes
    }

    /// Writes the file where a server would, below the data directory, and returns its path.
    pub fn write(&self, data_directory: &Path) -> PathBuf {
        let path = data_directory.join("pg_wal").join(self.name());
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&path).unwrap());
        self.write_to(&mut file).and_then(|()| file.flush()).unwrap();
        path
    }
}

/// 32 bytes of which a quarter is random: something like the records of small updates.
fn record(random: &mut Random) -> [u8; 32] {
    let mut record = *b"\x47\0\0\0\x0A\x0B\0\0 update .......         ";
    record[8..16].copy_from_slice(&random.next().to_le_bytes());
    record
}

/// A history file: each line a timeline, where it was left (as `X/Y`) and why.
pub fn history(lines: &[(u32, &str, &str)]) -> String {
    lines.iter().map(|(timeline, lsn, reason)| format!("{timeline}\t{lsn}\t{reason}\n")).collect()
}

/// `global/pg_control` of a server in production (`ControlFileData` in src/include/catalog/pg_control.h) with page
/// checksums.
pub fn control_file(major: u16, system_id: u64, segment_size: u64) -> Vec<u8> {
    let (_, _, control_version, catalog_version, crc_at) = version(major);
    let redo: u64 = 0x0200_0028;
    let mut bytes = vec![0; 8192];
    let mut set = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    set(0, &system_id.to_le_bytes());
    set(8, &control_version.to_le_bytes());
    set(12, &catalog_version.to_le_bytes());
    set(16, &6u32.to_le_bytes()); // DB_IN_PRODUCTION
    set(32, &(redo + 0x38).to_le_bytes());
    set(40, &redo.to_le_bytes());
    set(48, &1u32.to_le_bytes());
    set(52, &1u32.to_le_bytes());
    set(216, &(PAGE as u32).to_le_bytes());
    set(224, &(PAGE as u32).to_le_bytes());
    set(228, &(segment_size as u32).to_le_bytes());
    set(252, &1u32.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..crc_at]);
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The bare bones of the data directory that this segment would belong to: enough to push it from and fetch it into.
pub fn data_directory(at: &Path, of: &Segment) {
    std::fs::create_dir_all(at.join("pg_wal/archive_status")).unwrap();
    std::fs::create_dir_all(at.join("global")).unwrap();
    std::fs::write(at.join("PG_VERSION"), format!("{}\n", of.version)).unwrap();
    let control = control_file(of.version, of.system_id, of.size);
    std::fs::write(at.join("global/pg_control"), control).unwrap();
}

fn version(major: u16) -> (u16, u16, u32, u32, usize) {
    *VERSIONS.iter().find(|(known, ..)| *known == major).unwrap()
}
