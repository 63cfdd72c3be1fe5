//! What Walden knows of PostgreSQL itself: its positions, its control file, what lies in its data directory, and how to
//! talk to a server. Nothing here knows where backups are stored.

pub mod bytes;
pub mod client;
pub mod control;
pub mod datadir;
pub mod entry;
pub mod installed;
pub mod label;
pub mod lsn;
pub mod page;
pub mod ready;
pub mod relation;
