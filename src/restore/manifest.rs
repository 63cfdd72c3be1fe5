//! PostgreSQL's own `backup_manifest`, so that `pg_verifybackup` can check what was restored.

use std::io::{BufWriter, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::backup::manifest::{Backup, File, Files, printed_crc};
use crate::durable::Staged;
use crate::error::{Context, Result};

/// Writes `backup_manifest` (PostgreSQL documentation, "Backup Manifest Format"): version 1 for 13 to 16, version 2, with the
/// system identifier, from 17 on. `changed` is a file that the restore has written otherwise than the backup has it.
pub(super) fn write(root: &Path, backup: &Backup, files: &Files, changed: Option<&File>) -> Result<()> {
    let path = root.join("backup_manifest");
    let what = || format!("could not write \"{}\"", path.display());
    let mut staged = Staged::beside(&path).during(what)?;
    write_to(BufWriter::new(staged.file()), backup, files, changed).during(what)?;
    staged.replace()
}

fn write_to(target: impl Write, backup: &Backup, files: &Files, changed: Option<&File>) -> std::io::Result<()> {
    let mut target = Digesting { target, digest: Sha256::new() };
    match backup.postgres {
        ..17 => target.write_all(b"{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n")?,
        _ => write!(
            target,
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {},\n",
            backup.system_id
        )?,
    }
    target.write_all(b"\"Files\": [\n")?;
    for number in 0..files.len() {
        let file = files.file(number);
        let file = changed.filter(|changed| changed.path == file.path).unwrap_or(&file);
        write!(target, "{}{}", if number == 0 { "" } else { ",\n" }, line(file))?;
    }
    write!(
        target,
        "\n],\n\"WAL-Ranges\": [\n{{ \"Timeline\": {}, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}\n],\n",
        backup.timeline.0, backup.start, backup.stop
    )?;
    let Digesting { mut target, digest } = target;
    let sum: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(target, "\"Manifest-Checksum\": \"{sum}\"}}")?;
    target.flush()
}

/// Digests what is written through it.
struct Digesting<W> {
    target: W,
    digest: Sha256,
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.target.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.target.flush()
    }
}

fn line(file: &File) -> String {
    let crc = printed_crc(file.crc32c);
    format!(
        "{{ \"Path\": {}, \"Size\": {}, \"Last-Modified\": \"{}\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{crc}\" }}",
        serde_json::Value::from(file.path.as_str()),
        file.size,
        file.modified.strftime("%Y-%m-%d %H:%M:%S GMT"),
    )
}
