//! Write-ahead log: the names and headers of its files, which segments a recovery needs and the archive has, and the two
//! commands that PostgreSQL calls.

pub mod backfill;
pub mod chain;
pub mod commits;
pub mod fetch;
pub mod header;
pub mod pages;
pub mod prefetch;
pub mod push;
pub mod receive;
pub mod runs;
pub mod segment;
pub mod show;
pub mod split;
pub mod spool;
pub mod survey;
pub mod timeline;
pub mod tree;
pub mod verify;
