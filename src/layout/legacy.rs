//! The keys of archives that WAL-E and WAL-G wrote, below their prefix. They are read and never written.
//!
//! The number is that of WAL-E's layout (`StorageLayout` in wal_e/storage/base.py), which WAL-G has kept. A name is
//! followed by the extension of its codec, which is the business of `legacy::codec`.

use crate::wal::segment::WalFile;

/// What all WAL begins with.
pub const WAL: &str = "wal_005/";

/// What all base backups begin with.
pub const BACKUPS: &str = "basebackups_005/";

/// What the object of a WAL file is called, without the extension of its codec. Others begin with it too: the partial
/// segment and the backup history of a segment, and what WAL-G notes of one.
pub fn wal_stem(file: WalFile) -> String {
    format!("{WAL}{file}")
}
