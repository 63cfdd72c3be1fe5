//! Walden ships PostgreSQL's write-ahead log and base backups to S3, or to a directory, and brings them back.
//!
//! The map, arrows pointing down only (tests/architecture.rs keeps it so; docs/architecture.md says why):
//!
//! ```text
//!            main ── cli ──────────────── words in, words out
//!                     │
//!  stories   wal::{push, fetch, prefetch, spool, backfill, verify, show}  daemon  exporter  status  report  doctor  keys
//!            backup::{push, remote, cat, mark, delete}  restore
//!                     │
//!  joiners   archive  legacy  wal::{receive, survey}  backup::{catalogue, obstacles}
//!                     │
//!  machines  storage  codec  crypt  legacy::{codec, cipher}  durable  pipeline  observe  metrics
//!            postgres::{client, datadir, installed}
//!                     │
//!  words     error  config  layout  observe::{repeats, words}
//!            postgres::{bytes, lsn, control, entry, label, page, ready, relation}
//!            wal::{segment, timeline, header, chain, runs, split, tree, pages, commits}
//!            crypt::size  backup::{manifest, damage, plan, garbage, retention}
//!            restore::{base, plan, destination, reach, forecast}
//! ```

pub mod archive;
pub mod backup;
pub mod cli;
pub mod codec;
pub mod config;
pub mod crypt;
pub mod daemon;
pub mod doctor;
pub mod durable;
pub mod error;
pub mod exporter;
pub mod keys;
pub mod layout;
pub mod legacy;
pub mod metrics;
pub mod observe;
pub mod pipeline;
pub mod postgres;
pub mod report;
pub mod restore;
pub mod status;
pub mod storage;
pub mod wal;
