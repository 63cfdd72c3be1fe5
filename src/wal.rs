//! Write-ahead log: the names and headers of its files, which segments a recovery needs, and the two commands that
//! PostgreSQL calls.

pub mod backfill;
pub mod chain;
pub mod fetch;
pub mod header;
pub mod prefetch;
pub mod push;
pub mod receive;
pub mod segment;
pub mod spool;
pub mod timeline;
pub mod verify;
