//! The arguments of a restore: up to where it recovers, where it puts things, and whom they belong to.

use std::path::PathBuf;

use jiff::Timestamp;

use crate::config::conninfo::{ConnectionString, SlotName};
use crate::config::row::{Row, Setting};
use crate::config::target::{Action, OwnerName, RestorePoint, TablespaceMapping, TargetTimeline};
use crate::postgres::lsn::Lsn;

/// Recover up to a time.
pub static TARGET_TIME: Setting<Timestamp> = Setting::new(Row {
    name: "target-time",
    value: Some("TIME"),
    example: Some("2026-11-20 14:03+01"),
    doc: "Recover to the last commit up to this time, which must have an offset from UTC: '2026-11-20 14:03+01'",
    ..Row::ARGUMENT
});

/// Recover up to a position.
pub static TARGET_LSN: Setting<Lsn> = Setting::new(Row {
    name: "target-lsn",
    value: Some("LSN"),
    example: Some("16/B374D848"),
    doc: "Recover to this position of the WAL, such as 16/B374D848",
    ..Row::ARGUMENT
});

/// Recover up to a transaction. Bounds: `FirstNormalTransactionId` in src/include/access/transam.h, and 32 bits.
pub static TARGET_XID: Setting<u32> = Setting::new(Row {
    name: "target-xid",
    value: Some("XID"),
    bounds: Some(["3", "4294967295"]),
    example: Some("81273"),
    doc: "Recover to the end of this transaction",
    ..Row::ARGUMENT
});

/// Recover up to a restore point.
pub static TARGET_NAME: Setting<RestorePoint> = Setting::new(Row {
    name: "target-name",
    value: Some("NAME"),
    example: Some("before-migration"),
    doc: "Recover to the restore point that pg_create_restore_point() gave this name",
    ..Row::ARGUMENT
});

/// Recover until consistent.
pub static TARGET_IMMEDIATE: Setting<bool> = Setting::new(Row {
    name: "target-immediate",
    default: Some("false"),
    doc: "Recover only until the backup is consistent",
    ..Row::ARGUMENT
});

/// Stop just before the target.
pub static TARGET_EXCLUSIVE: Setting<bool> = Setting::new(Row {
    name: "target-exclusive",
    default: Some("false"),
    doc: "Stop just before the target instead of just after it; with a time, an LSN or a transaction",
    ..Row::ARGUMENT
});

/// What to do at the target.
pub static TARGET_ACTION: Setting<Action> = Setting::new(Row {
    name: "target-action",
    value: Some("ACTION"),
    default: Some("pause"),
    doc: "What PostgreSQL does at the target",
    ..Row::ARGUMENT
});

/// Which timeline to follow.
pub static TARGET_TIMELINE: Setting<TargetTimeline> = Setting::new(Row {
    name: "target-timeline",
    value: Some("TIMELINE"),
    default: Some("latest"),
    doc: "The timeline to follow: latest, current (the backup's own) or a decimal number",
    ..Row::ARGUMENT
});

/// Restore a standby.
pub static STANDBY: Setting<bool> = Setting::new(Row {
    name: "standby",
    default: Some("false"),
    doc: "Restore a standby, which keeps following the archive",
    ..Row::ARGUMENT
});

/// Make a data directory over.
pub static DELTA: Setting<bool> = Setting::new(Row {
    name: "delta",
    default: Some("false"),
    doc: "Restore over an old data directory of the same cluster: files that are as in the backup stay, all others are \
          replaced or removed",
    ..Row::ARGUMENT
});

/// The databases that are restored.
pub static ONLY_DATABASE: Setting<String> = Setting::new(Row {
    name: "only-database",
    value: Some("NAME"),
    example: Some("shop"),
    repeatable: true,
    doc: "Restore this database alone, besides template0, template1 and postgres; the others are there as zeros, which take \
          no room, and are to be dropped after the recovery; can be given several times",
    ..Row::ARGUMENT
});

/// Tablespaces that are to lie elsewhere.
pub static TABLESPACE_MAPPING: Setting<TablespaceMapping> = Setting::new(Row {
    name: "tablespace-mapping",
    value: Some("OLD=NEW"),
    example: Some("/ssd/old=/ssd/new"),
    repeatable: true,
    doc: "Restore the tablespace that was in the directory OLD, or that has the number OLD, to the directory NEW; can be \
          given several times",
    ..Row::ARGUMENT
});

/// Tablespaces that are to lie in one place.
pub static TABLESPACE_ROOT: Setting<PathBuf> = Setting::new(Row {
    name: "tablespace-root",
    value: Some("DIR"),
    example: Some("/ssd/tablespaces"),
    doc: "Restore every tablespace that is not mapped to a directory below DIR, named after its number",
    ..Row::ARGUMENT
});

/// Where the WAL is to lie.
pub static WALDIR: Setting<PathBuf> = Setting::new(Row {
    name: "waldir",
    value: Some("DIR"),
    example: Some("/wal/main"),
    doc: "Put the WAL into DIR, which must be absent or empty; pg_wal becomes a link to it",
    ..Row::ARGUMENT
});

/// Whom the files are to belong to.
pub static OWNER: Setting<OwnerName> = Setting::new(Row {
    name: "owner",
    value: Some("USER[:GROUP]"),
    example: Some("postgres"),
    doc: "Give everything that is restored to this user, and to this group or the user's own; for root, which PostgreSQL \
          does not run as",
    ..Row::ARGUMENT
});

/// Say what would be done.
pub static DRY_RUN: Setting<bool> = Setting::new(Row {
    name: "dry-run",
    default: Some("false"),
    doc: "Print what would be restored, check everything that can be checked, and touch nothing",
    ..Row::ARGUMENT
});

/// From whom a standby streams.
pub static PRIMARY_CONNINFO: Setting<ConnectionString> = Setting::new(Row {
    name: "primary-conninfo",
    value: Some("CONNINFO"),
    example: Some("host=primary user=replicator"),
    doc: "How the standby reaches its primary, to stream from it: 'host=primary user=replicator'; without it, it follows \
          the archive alone",
    ..Row::ARGUMENT
});

/// The replication slot of a standby.
pub static SLOT: Setting<SlotName> = Setting::new(Row {
    name: "slot",
    value: Some("NAME"),
    example: Some("standby_1"),
    doc: "The replication slot that the standby uses on its primary, where it must exist",
    ..Row::ARGUMENT
});
