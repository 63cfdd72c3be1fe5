//! Write-ahead log: the names and headers of its files, which segments a recovery needs, and the two commands that
//! PostgreSQL calls.

pub mod header;
pub mod segment;
pub mod timeline;
