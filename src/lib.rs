//! Walden ships PostgreSQL's write-ahead log and base backups to S3, or to a directory, and brings them back.
//!
//! The map, arrows pointing down only (tests/architecture.rs keeps it so; docs/architecture.md says why):
//!
//! ```text
//!            main ── cli ──────────────── words in, words out
//!                     │
//!  stories   wal::{push, fetch, prefetch, spool, backfill, verify, show}  daemon  exporter  status  report  keys
//!           backup::push  restore
//!                     │
//!  joiners   archive  legacy  wal::{receive, survey}  backup::catalogue
//!                     │
//!  machines  storage  codec  crypt  legacy::{codec, cipher}  durable  pipeline  observe  metrics
//!            postgres::{client, datadir, installed}
//!                     │
//!  words     error  config  layout  postgres::{lsn, control, entry, label, page, ready, relation}
//!            wal::{segment, timeline, header, chain, runs, split, tree, pages, commits}
//!            backup::{manifest, damage, plan}  restore::{plan, destination, reach, forecast}
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
