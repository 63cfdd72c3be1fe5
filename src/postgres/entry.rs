//! What a data directory consists of. Pure; `datadir` finds it.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One directory or file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the data directory, with `/`: `base/5/1259`, `pg_tblspc/16385/PG_15_202209061/5/16386`.
    pub path: String,
    /// Where to read it. Directories whose content is left out may not be there.
    pub source: PathBuf,
    /// Directory or file.
    pub kind: EntryKind,
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// When it was last written, by the clock of the file system.
    pub modified: Timestamp,
}

/// What an [`Entry`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory, in a backup also where the server has a symbolic link to one.
    Directory,
    /// A plain file.
    File,
}

/// A tablespace outside the data directory (a symbolic link in `pg_tblspc`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its number, the name of the link.
    pub oid: u32,
    /// Where the link points.
    pub location: PathBuf,
}
