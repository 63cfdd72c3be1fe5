//! The server's own manifest of a backup that it sends, compared with what came: every file, by size and CRC-32C
//! (PostgreSQL documentation, "Backup Manifest Format").
//!
//! Owns the comparison. The manifest itself is not kept: a restore writes one of its own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tempfile::SpooledTempFile;

use crate::backup::manifest::printed_crc;
use crate::error::{Context, Error, Kind, Result};

/// Beyond so many bytes it goes on in an unnamed temporary file (in `TMPDIR`): some 50 000 files.
const IN_MEMORY: usize = 8 << 20;

/// No line is longer: a path has at most 1024 bytes (`MAXPGPATH`), each of which JSON can make six of.
const LONGEST_LINE: u64 = 16 << 10;

/// What came, by path: some 70 bytes a file.
#[derive(Debug, Default)]
pub(super) struct Received(BTreeMap<Box<str>, (u64, u32)>);

impl Received {
    /// Notes a file with its size and CRC.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it came twice.
    pub(super) fn add(&mut self, path: &str, size: u64, crc32c: u32) -> Result<()> {
        match self.0.insert(path.into(), (size, crc32c)) {
            None => Ok(()),
            Some(_) => Err(differs(format!("\"{path}\" came twice"))),
        }
    }
}

/// The manifest as it comes.
pub(super) struct ServerManifest {
    content: SpooledTempFile,
}

/// A file in it. Names that are not UTF-8 are there in another form; an archive with one is refused before.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    path: String,
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    checksum_algorithm: String,
    checksum: String,
}

impl ServerManifest {
    /// An empty one.
    pub(super) fn new() -> ServerManifest {
        ServerManifest { content: SpooledTempFile::new(IN_MEMORY) }
    }

    /// Takes more of it.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.content.write_all(bytes).during(|| "could not write the server's manifest to a temporary file")
    }

    /// Compares all of it with what came.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it is damaged, or anything is missing, too much, or different.
    pub(super) fn compare(mut self, mut received: Received) -> Result<()> {
        let reading = || "could not read the server's manifest back";
        self.content.seek(SeekFrom::Start(0)).during(reading)?;
        let mut content = BufReader::new(self.content);
        let (mut digest, mut sealed, mut line) = (Sha256::new(), None, Vec::new());
        loop {
            line.clear();
            let read = content.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).during(reading)?;
            if read == 0 {
                break;
            }
            // The seal is that of all lines before its own.
            if let Some(seal) = line.strip_prefix(b"\"Manifest-Checksum\": \"") {
                sealed = seal.get(..64).map(<[u8]>::to_vec);
                break;
            }
            digest.update(&line);
            check(&line, &mut received)?;
        }
        let computed: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if sealed.as_deref() != Some(computed.as_bytes()) {
            return Err(differs("the manifest's own checksum is wrong".to_owned()));
        }
        match received.0.keys().next() {
            None => Ok(()),
            Some(path) => Err(differs(format!("\"{path}\" came and is not in the manifest"))),
        }
    }
}

/// Takes the file of this line, if it has one, from those that came.
fn check(line: &[u8], received: &mut Received) -> Result<()> {
    // The first one stands behind the name of the list.
    let line = line.strip_prefix(b"\"Files\": [").unwrap_or(line).trim_ascii_start();
    if !line.starts_with(b"{ \"Path\"") && !line.starts_with(b"{ \"Encoded-Path\"") {
        return Ok(());
    }
    let line = line.trim_ascii_end();
    let line = line.strip_suffix(b"],").unwrap_or(line);
    let entry: Entry = serde_json::from_slice(line.strip_suffix(b",").unwrap_or(line))
        .map_err(|error| differs(format!("a line of the manifest cannot be read: {error}")))?;
    let Some((size, crc32c)) = received.0.remove(entry.path.as_str()) else {
        return Err(differs(format!("\"{}\" did not come", entry.path)));
    };
    let ours = printed_crc(crc32c);
    if entry.size != size || entry.checksum_algorithm != "CRC32C" || entry.checksum != ours {
        return Err(differs(format!(
            "\"{}\" has {size} bytes and the CRC {ours}, the manifest says {} bytes and {}",
            entry.path, entry.size, entry.checksum
        )));
    }
    Ok(())
}

fn differs(detail: String) -> Error {
    Error::new(Kind::Corrupt, "what came is not what the server's manifest says that it sent")
        .detail(detail)
        .hint("Run walden backup-push again; if this comes again, look for proxies on the way to the server.")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the server writes it (`AddFileToBackupManifest` in src/backend/backup/backup_manifest.c).
    fn manifest(files: &[(&str, u64, u32)]) -> Vec<u8> {
        let lines: Vec<String> = files.iter().map(|(path, size, crc)| {
            let checksum: String = crc.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{{ \"Path\": \"{path}\", \"Size\": {size}, \"Last-Modified\": \"2026-11-21 04:39:36 GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{checksum}\" }}")
        }).collect();
        let body = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{}\n],\n\"WAL-Ranges\": [\n{{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }}\n],\n",
            lines.join(",\n")
        );
        let seal: String = Sha256::digest(body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{body}\"Manifest-Checksum\": \"{seal}\"}}\n").into_bytes()
    }

    fn compared(manifest: &[u8], files: &[(&str, u64, u32)]) -> Result<()> {
        let (mut server, mut received) = (ServerManifest::new(), Received::default());
        for piece in manifest.chunks(100) {
            server.push(piece).unwrap();
        }
        for (path, size, crc) in files {
            received.add(path, *size, *crc)?;
        }
        server.compare(received)
    }

    #[test]
    fn only_the_very_same_files_are_taken() {
        let files = some_files();
        compared(&manifest(&files), &files).unwrap();
        let cause = |files: &[(&str, u64, u32)]| {
            compared(&manifest(&self::some_files()), files).unwrap_err().cause().unwrap().to_owned()
        };
        assert!(cause(&files[..2]).contains("\"pg_tblspc/16385/PG_15_1/5/1\" did not come"));
        assert!(cause(&[&files[..], &[("more", 1, 1)]].concat()).contains("\"more\" came and is not"));
        assert!(cause(&[files[0], ("base/5/1259", 8192, 1), files[2]]).contains("\"base/5/1259\" has 8192 bytes"));
        assert!(cause(&[files[0], ("base/5/1259", 8191, 0xDEAD_BEEF), files[2]]).contains("8191 bytes"));
        assert!(cause(&[&files[..], &files[..1]].concat()).contains("came twice"));
    }

    fn some_files() -> [(&'static str, u64, u32); 3] {
        [("PG_VERSION", 3, 7), ("base/5/1259", 8192, 0xDEAD_BEEF), ("pg_tblspc/16385/PG_15_1/5/1", 0, 0)]
    }

    #[test]
    fn a_manifest_that_is_cut_or_changed_is_refused() {
        let files = some_files();
        let whole = manifest(&files);
        for length in [0, 10, whole.len() / 2, whole.len() - 70] {
            assert_eq!(compared(&whole[..length], &files).unwrap_err().kind(), Kind::Corrupt, "{length}");
        }
        let mut changed = whole.clone();
        let at = changed.iter().rposition(|&byte| byte == b'Z' || byte == b'G').unwrap();
        changed[at] ^= 1;
        assert!(compared(&changed, &files).unwrap_err().cause().unwrap().contains("own checksum"));
    }
}
