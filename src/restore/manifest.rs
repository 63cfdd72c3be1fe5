//! PostgreSQL's own `backup_manifest`, so that `pg_verifybackup` can check what was restored.

use sha2::{Digest, Sha256};

use crate::backup::manifest::{Backup, File, Files};

/// The text of `backup_manifest` (PostgreSQL documentation, "Backup Manifest Format"): version 1 for 13 to 16, version 2,
/// with the system identifier, from 17 on.
pub(super) fn build(backup: &Backup, files: &Files) -> String {
    let mut text = match backup.postgres {
        ..17 => "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n".to_owned(),
        _ => format!("{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {},\n", backup.system_id),
    };
    text.push_str("\"Files\": [\n");
    let lines: Vec<String> = files.files.iter().map(line).collect();
    text.push_str(&lines.join(",\n"));
    text.push_str("\n],\n\"WAL-Ranges\": [\n");
    text.push_str(&format!(
        "{{ \"Timeline\": {}, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}\n],\n",
        backup.timeline.0, backup.start, backup.stop
    ));
    let sum: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    text.push_str(&format!("\"Manifest-Checksum\": \"{sum}\"}}\n"));
    text
}

fn line(file: &File) -> String {
    // PostgreSQL prints a CRC-32C as its bytes lie in memory (`pg_checksum_final` in src/common/checksum_helper.c).
    let crc: String = file.crc32c.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{{ \"Path\": {}, \"Size\": {}, \"Last-Modified\": \"{}\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{crc}\" }}",
        serde_json::Value::from(file.path.as_str()),
        file.size,
        file.modified.strftime("%Y-%m-%d %H:%M:%S GMT"),
    )
}
