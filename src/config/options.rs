//! The table of everything that can be set: one row each, from which the parser, the readers of variables and files,
//! `--help`, `walden config` and docs/configuration.md are all made.
//!
//! To add a setting: write its static with the doc sentence, list it in [`TABLE`], and regenerate the documentation
//! (tests/config.rs says how). Nothing here reads any source.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::Location;
use crate::config::foreign::wal_e_endpoint;
use crate::config::mark::{Label, Note};
use crate::config::role::{AssumedRole, ExternalId};
use crate::config::row::VerbName::{
    BackupCat, BackupFetch, BackupList, BackupMark, BackupPush, BackupShow, Config, Daemon, Delete, Doctor, Exporter,
    Keys, MigrateConfig, Rekey, Report, Status, WalBackfill, WalFetch, WalPush, WalShow, WalVerify,
};
use crate::config::row::{Alias, Row, Setting};
use crate::config::value::{
    Addressing, Checksum, LogFormat, LogLevel, OnCorruption, OnError, RemoteCompression, Value,
};
use crate::error::{Error, Kind, Result};
use crate::postgres::control::SystemId;

pub mod encryption;
pub mod legacy;
pub mod requests;
pub mod restoring;
pub mod retention;
pub mod watching;

/// Every row, in the order in which help and documentation list them.
pub static TABLE: &[&Row] = &[
    &PREFIX.row,
    &SYSTEM_ID.row,
    &PGDATA.row,
    &WORKERS.row,
    &PART_SIZE.row,
    &MEMORY_LIMIT.row,
    &MAX_RATE.row,
    &NICE.row,
    &WAL_COMPRESSION.row,
    &BACKUP_COMPRESSION.row,
    &WAL_TIMEOUT.row,
    &ON_CORRUPTION.row,
    &REMOTE.row,
    &REMOTE_COMPRESSION.row,
    &RETRY_TIMEOUT.row,
    &PUSH_TIMEOUT.row,
    &PUSH_AHEAD.row,
    &PREFETCH.row,
    &SPOOL_DIR.row,
    &ON_ERROR.row,
    &ASSUME_ROLE.row,
    &EXTERNAL_ID.row,
    &S3_ADDRESSING.row,
    &S3_ACCELERATE.row,
    &S3_CHECKSUM.row,
    &requests::S3_SSE.row,
    &requests::S3_SSE_KMS_KEY.row,
    &requests::S3_SSE_BUCKET_KEY.row,
    &requests::S3_SSE_C_KEY_FILE.row,
    &requests::S3_ACL.row,
    &requests::S3_WAL_STORAGE_CLASS.row,
    &requests::S3_BACKUP_STORAGE_CLASS.row,
    &requests::S3_TAGS.row,
    &requests::S3_OBJECT_LOCK.row,
    &requests::S3_WAL_LOCK.row,
    &requests::S3_BACKUP_LOCK.row,
    &requests::S3_REQUESTER_PAYS.row,
    &encryption::ENCRYPT_TO.row,
    &encryption::IDENTITY_FILE.row,
    &legacy::LEGACY_PREFIX.row,
    &legacy::LEGACY_LIBSODIUM_KEY_FILE.row,
    &legacy::LEGACY_LIBSODIUM_KEY_TRANSFORM.row,
    &legacy::LEGACY_PGP_KEY_FILE.row,
    &legacy::LEGACY_GPG_KEY_ID.row,
    &retention::RETAIN.row,
    &retention::RETAIN_WINDOW.row,
    &retention::RETAIN_MIN.row,
    &CACHE_DIR.row,
    &watching::METRICS_DIR.row,
    &watching::LISTEN.row,
    &watching::WARN_BACKUP_AGE.row,
    &watching::CRITICAL_BACKUP_AGE.row,
    &watching::WARN_WAL_AGE.row,
    &watching::CRITICAL_WAL_AGE.row,
    &LOG_LEVEL.row,
    &LOG_FORMAT.row,
    &CONFIG.row,
    &ENVDIR.row,
    &JSON.row,
    &FILES.row,
    &WINDOWS.row,
    &AHEAD.row,
    &DEEP.row,
    &RESUME.row,
    &LABEL.row,
    &NOTE.row,
    &KEEP.row,
    &NO_KEEP.row,
    &OLDER_THAN.row,
    &retention::EVEN_THE_LAST.row,
    &CONFIRM.row,
    &watching::CHECK.row,
    &EXAMPLE.row,
    &encryption::AS_IDENTITY.row,
    &FROM.row,
    &watching::OUTPUT.row,
    &restoring::TARGET_TIME.row,
    &restoring::TARGET_LSN.row,
    &restoring::TARGET_XID.row,
    &restoring::TARGET_NAME.row,
    &restoring::TARGET_IMMEDIATE.row,
    &restoring::TARGET_EXCLUSIVE.row,
    &restoring::TARGET_ACTION.row,
    &restoring::TARGET_TIMELINE.row,
    &restoring::STANDBY.row,
    &restoring::PRIMARY_CONNINFO.row,
    &restoring::SLOT.row,
    &restoring::DELTA.row,
    &restoring::ONLY_DATABASE.row,
    &restoring::TABLESPACE_MAPPING.row,
    &restoring::TABLESPACE_ROOT.row,
    &restoring::WALDIR.row,
    &restoring::OWNER.row,
    &restoring::DRY_RUN.row,
];

/// Where the archive lies.
pub static PREFIX: Setting<Location> = Setting::new(Row {
    name: "prefix",
    aliases: &[
        Alias { name: "WALG_S3_PREFIX", syntax: None, convert: location },
        Alias { name: "WALE_S3_PREFIX", syntax: None, convert: location },
        Alias { name: "WALG_FILE_PREFIX", syntax: Some("an absolute path"), convert: directory },
        Alias { name: "WALE_FILE_PREFIX", syntax: Some("file://localhost/path"), convert: directory },
    ],
    value: Some("URL"),
    example: Some("s3://bucket/path"),
    doc: "Where the archive lies: s3://bucket/path or file:///absolute/directory",
    ..Row::SETTING
});

/// Which cluster below the prefix.
pub static SYSTEM_ID: Setting<SystemId> = Setting::new(Row {
    name: "system-id",
    verbs: &[
        WalFetch,
        BackupFetch,
        BackupList,
        BackupShow,
        BackupCat,
        BackupMark,
        Delete,
        Keys,
        Rekey,
        WalShow,
        WalVerify,
        Status,
        Exporter,
        Report,
    ],
    value: Some("NUMBER"),
    example: Some("7710427967336607753"),
    doc: "Which cluster below the prefix, by its system identifier (pg_controldata prints it), where no data directory \
          tells it",
    ..Row::SETTING
});

/// The data directory that WAL belongs to.
pub static PGDATA: Setting<PathBuf> = Setting::new(Row {
    name: "pgdata",
    verbs: &[WalPush, WalFetch],
    value: Some("DIR"),
    example: Some("/var/lib/postgresql/15/main"),
    doc: "The data directory whose global/pg_control says which cluster it is; unless given, the one above the WAL \
          file's directory",
    ..Row::SETTING
});

/// How many threads a backup, a restore or a deep verification uses.
pub static WORKERS: Setting<u32> = Setting::new(Row {
    name: "workers",
    verbs: &[BackupPush, BackupFetch, WalVerify],
    value: Some("COUNT"),
    bounds: Some(["1", "256"]),
    example: Some("4"),
    doc: "How many threads read, compress and decompress; unless given, as many as there are cores that this process \
          may use",
    ..Row::SETTING
});

/// The stored size of one part of a base backup, in bytes.
pub static PART_SIZE: Setting<u64> = Setting::new(Row {
    name: "part-size",
    verbs: &[BackupPush],
    value: Some("SIZE"),
    bounds: Some(["1MiB", "1GiB"]),
    default: Some("32MiB"),
    doc: "The stored size of one part of a base backup: what one request uploads, and sends again if it fails",
    ..Row::SETTING
});

/// How much memory a base backup may use, in bytes.
pub static MEMORY_LIMIT: Setting<u64> = Setting::new(Row {
    name: "memory-limit",
    verbs: &[BackupPush],
    value: Some("SIZE"),
    bounds: Some(["96MiB", "64GiB"]),
    default: Some("256MiB"),
    doc: "How much memory a base backup may use: parts become smaller, and in the end workers fewer, to stay below it",
    ..Row::SETTING
});

/// How fast a base backup may read, in bytes a second.
pub static MAX_RATE: Setting<u64> = Setting::new(Row {
    name: "max-rate",
    verbs: &[BackupPush],
    aliases: &[Alias { name: "WALG_DISK_RATE_LIMIT", syntax: Some("bytes a second"), convert: same }],
    value: Some("SIZE"),
    bounds: Some(["64KiB", "1024GiB"]),
    example: Some("100MiB"),
    doc: "How many bytes a second a base backup may read; it sends less than that, as it compresses; unless given, as many \
          as it can",
    ..Row::SETTING
});

/// How far a base backup steps back for other processes.
pub static NICE: Setting<u32> = Setting::new(Row {
    name: "nice",
    verbs: &[BackupPush, BackupFetch],
    value: Some("NUMBER"),
    bounds: Some(["0", "19"]),
    default: Some("0"),
    doc: "How far to step back for other processes, as the command nice does: 19 takes what nobody else wants, of \
          processors and of disks",
    ..Row::SETTING
});

/// zstd's level for WAL.
pub static WAL_COMPRESSION: Setting<u32> = Setting::new(Row {
    name: "wal-compression",
    verbs: &[WalPush, WalBackfill, Daemon],
    value: Some("LEVEL"),
    bounds: Some(["1", "19"]),
    default: Some("1"),
    doc: "The level at which zstd compresses WAL; a higher one is smaller and slower",
    ..Row::SETTING
});

/// zstd's level for base backups.
pub static BACKUP_COMPRESSION: Setting<u32> = Setting::new(Row {
    name: "backup-compression",
    verbs: &[BackupPush],
    value: Some("LEVEL"),
    bounds: Some(["1", "19"]),
    default: Some("1"),
    doc: "The level at which zstd compresses base backups; a higher one is smaller and slower",
    ..Row::SETTING
});

/// How long a base backup waits for its WAL.
pub static WAL_TIMEOUT: Setting<Duration> = Setting::new(Row {
    name: "wal-timeout",
    verbs: &[BackupPush],
    value: Some("DURATION"),
    bounds: Some(["1s", "7d"]),
    default: Some("10m"),
    doc: "How long a base backup waits for its WAL to arrive in the archive while no further segment arrives",
    ..Row::SETTING
});

/// What becomes of a base backup with damaged pages.
pub static ON_CORRUPTION: Setting<OnCorruption> = Setting::new(Row {
    name: "on-corruption",
    verbs: &[BackupPush],
    value: Some("WHAT"),
    default: Some("warn"),
    doc: "What becomes of a base backup of a cluster with damaged pages: warn completes it, marked as damaged, and fail \
          leaves none. Either way the exit code is that of damage",
    ..Row::SETTING
});

/// Take the backup over a replication connection.
pub static REMOTE: Setting<bool> = Setting::new(Row {
    name: "remote",
    verbs: &[BackupPush],
    default: Some("false"),
    doc: "Have the server send the backup over a replication connection, instead of reading its files: for hosts that \
          do not have them",
    ..Row::ARGUMENT
});

/// What the server does to a remote backup before it sends it.
pub static REMOTE_COMPRESSION: Setting<RemoteCompression> = Setting::new(Row {
    name: "remote-compression",
    verbs: &[BackupPush],
    value: Some("WHAT"),
    default: Some("none"),
    doc: "Whether the server compresses what it sends with --remote: zstd (PostgreSQL 15 and newer) where the network is \
          slower than one processor of the server, else none",
    ..Row::SETTING
});

/// How long a request to the store is retried.
pub static RETRY_TIMEOUT: Setting<Duration> = Setting::new(Row {
    name: "retry-timeout",
    value: Some("DURATION"),
    bounds: Some(["0s", "1h"]),
    default: Some("60s"),
    doc: "How long a request to the store is retried before the command gives up; where it is not set, status and the \
          exporter give up after 10s",
    ..Row::SETTING
});

/// How long a push may take.
pub static PUSH_TIMEOUT: Setting<Duration> = Setting::new(Row {
    name: "push-timeout",
    verbs: &[WalPush, Daemon],
    value: Some("DURATION"),
    bounds: Some(["1s", "1h"]),
    default: Some("60s"),
    doc: "How long wal-push may take for one file, retries included, before PostgreSQL is told that it failed; for each \
          16 MiB of a larger segment",
    ..Row::SETTING
});

/// How many files are archived ahead of their turn.
pub static PUSH_AHEAD: Setting<u32> = Setting::new(Row {
    name: "push-ahead",
    verbs: &[WalPush, Daemon],
    value: Some("COUNT"),
    bounds: Some(["0", "1024"]),
    default: Some("64"),
    doc: "How many more files wal-push archives when others wait, several at once and for at most 5 seconds; 0 for none",
    ..Row::SETTING
});

/// Bytes of WAL that are fetched ahead.
pub static PREFETCH: Setting<u64> = Setting::new(Row {
    name: "prefetch",
    verbs: &[WalFetch],
    value: Some("SIZE"),
    bounds: Some(["0", "1024GiB"]),
    default: Some("1GiB"),
    doc: "How much WAL may be fetched ahead of replay during a recovery, at most 64 segments; 0 for none",
    ..Row::SETTING
});

/// Where one process leaves word for the next.
pub static SPOOL_DIR: Setting<PathBuf> = Setting::new(Row {
    name: "spool-dir",
    verbs: &[WalPush, WalFetch, Daemon, Status, Exporter, Report, Doctor],
    value: Some("DIR"),
    example: Some("/var/spool/walden/main"),
    doc: "Where it is noted what was archived ahead, and where fetched WAL waits, for one cluster; unless given, \
          .walden beside the WAL",
    ..Row::SETTING
});

/// What `wal-fetch` says when it cannot tell.
pub static ON_ERROR: Setting<OnError> = Setting::new(Row {
    name: "on-error",
    verbs: &[WalFetch],
    value: Some("HOW"),
    default: Some("auto"),
    doc: "How wal-fetch ends when it cannot tell whether the file is in the archive: with its error's code, which \
          PostgreSQL takes for \"not there\" (missing), with 200, which stops PostgreSQL (abort), or as the signal file \
          in the data directory asks for (auto)",
    ..Row::SETTING
});

/// The roles that are assumed, one from the other.
pub static ASSUME_ROLE: Setting<AssumedRole> = Setting::new(Row {
    name: "assume-role",
    value: Some("ROLE"),
    example: Some("arn:aws:iam::111111111111:role/wal-reader"),
    repeatable: true,
    doc: "The role to assume with the credentials of the environment, by its ARN, with external-id, session-name, \
          duration, tag:KEY, region and endpoint after it where they are needed: ARN;duration=15m;tag:team=db. Can be \
          given several times: each role assumes the next",
    ..Row::SETTING
});

/// The external id of roles that name none.
pub static EXTERNAL_ID: Setting<ExternalId> = Setting::new(Row {
    name: "external-id",
    value: Some("ID"),
    example: Some("walden-7d1f"),
    doc: "The external id that the owner of the role gave you, for each role that has none of its own",
    ..Row::SETTING
});

/// How a bucket is named in a request.
pub static S3_ADDRESSING: Setting<Addressing> = Setting::new(Row {
    name: "s3-addressing",
    aliases: &[
        Alias {
            name: "AWS_S3_FORCE_PATH_STYLE",
            syntax: Some("true for path, false for virtual"),
            convert: force_path_style,
        },
        Alias {
            name: "WALE_S3_ENDPOINT",
            syntax: Some("https+path://host:port, which is the store's address too"),
            convert: addressing_of_wal_e,
        },
    ],
    value: Some("HOW"),
    default: Some("auto"),
    doc: "Where requests name the bucket: in the path, or in the host name (virtual)",
    ..Row::SETTING
});

/// Whether requests take the way over Amazon's edge.
pub static S3_ACCELERATE: Setting<bool> = Setting::new(Row {
    name: "s3-accelerate",
    value: Some("BOOL"),
    default: Some("false"),
    doc: "Whether to use S3 Transfer Acceleration, which the bucket must allow",
    ..Row::SETTING
});

/// The checksum that the store verifies on arrival.
pub static S3_CHECKSUM: Setting<Checksum> = Setting::new(Row {
    name: "s3-checksum",
    value: Some("HOW"),
    default: Some("auto"),
    doc: "The checksum that the store verifies when an object arrives: auto means CRC-32C, or Content-MD5 for a store that \
          turns out not to verify that",
    ..Row::SETTING
});

/// Where this machine remembers what it found out about stores.
pub static CACHE_DIR: Setting<PathBuf> = Setting::new(Row {
    name: "cache-dir",
    value: Some("DIR"),
    example: Some("/var/lib/postgresql/walden"),
    doc: "Where one call leaves for the next what it found out about the store, temporary credentials among it; unless \
          given, walden in XDG_RUNTIME_DIR, or walden-UID in the directory for temporary files",
    ..Row::SETTING
});

/// How much is logged.
pub static LOG_LEVEL: Setting<LogLevel> = Setting::new(Row {
    name: "log-level",
    aliases: &[Alias {
        name: "WALG_LOG_LEVEL",
        syntax: Some("NORMAL for info, DEVEL for debug, ERROR for error"),
        convert: wal_g_log_level,
    }],
    value: Some("LEVEL"),
    default: Some("warn"),
    doc: "How much is logged to standard error",
    ..Row::SETTING
});

/// The form of the log.
pub static LOG_FORMAT: Setting<LogFormat> = Setting::new(Row {
    name: "log-format",
    value: Some("FORM"),
    default: Some("text"),
    doc: "Whether a line of the log is text or a JSON object",
    ..Row::SETTING
});

/// The configuration file.
pub static CONFIG: Setting<PathBuf> = Setting::new(Row {
    name: "config",
    value: Some("FILE"),
    doc: "A TOML file with settings; none is read unless named",
    ..Row::SOURCE
});

/// The directory of variables. The variable is how one process tells the next that the directory has been read.
pub static ENVDIR: Setting<PathBuf> = Setting::new(Row {
    name: "envdir",
    value: Some("DIR"),
    doc: "A directory with one file for each environment variable to set, as for envdir(8)",
    ..Row::SOURCE
});

/// Print JSON instead of tables.
pub static JSON: Setting<bool> = Setting::new(Row {
    name: "json",
    verbs: &[
        WalBackfill,
        BackupPush,
        BackupFetch,
        BackupList,
        BackupShow,
        BackupMark,
        Delete,
        Keys,
        Rekey,
        WalShow,
        WalVerify,
        Status,
        Report,
        Doctor,
        Config,
    ],
    default: Some("false"),
    doc: "Print JSON",
    ..Row::ARGUMENT
});

/// Show a backup's files.
pub static FILES: Setting<bool> = Setting::new(Row {
    name: "files",
    verbs: &[BackupShow],
    default: Some("false"),
    doc: "Print the backup's files instead, with their sizes",
    ..Row::ARGUMENT
});

/// Show how far backups lead.
pub static WINDOWS: Setting<bool> = Setting::new(Row {
    name: "windows",
    verbs: &[BackupList],
    default: Some("false"),
    doc: "Show where recoveries can stop also where the archive has more than a thousand WAL files, which are all listed \
          for that",
    ..Row::ARGUMENT
});

/// Be the process that fetches ahead.
pub static AHEAD: Setting<bool> = Setting::new(Row {
    name: "ahead",
    verbs: &[WalFetch],
    default: Some("false"),
    doc: "Keep fetching the segments after those that PostgreSQL asks for, until the recovery ends; wal-fetch starts \
          this by itself",
    ..Row::ARGUMENT
});

/// Read what is verified.
pub static DEEP: Setting<bool> = Setting::new(Row {
    name: "deep",
    verbs: &[WalVerify],
    default: Some("false"),
    doc: "Read every segment that a recovery could need, and check its digests and its pages",
    ..Row::ARGUMENT
});

/// Go on with an interrupted backup.
pub static RESUME: Setting<bool> = Setting::new(Row {
    name: "resume",
    verbs: &[BackupPush],
    default: Some("false"),
    doc: "Go on with a backup of this cluster that was interrupted on this machine: what it stored and what has provably \
          not changed since is not read again; without such a backup a new one is taken",
    ..Row::ARGUMENT
});

/// What a backup is called.
pub static LABEL: Setting<Label> = Setting::new(Row {
    name: "label",
    verbs: &[BackupPush, BackupMark],
    value: Some("TEXT"),
    example: Some("before the upgrade"),
    doc: "What to call the backup, in one line; an empty text takes a label away",
    ..Row::ARGUMENT
});

/// What else there is to know of a backup.
pub static NOTE: Setting<Note> = Setting::new(Row {
    name: "note",
    verbs: &[BackupPush, BackupMark],
    value: Some("KEY=VALUE"),
    example: Some("ticket=OPS-1234"),
    repeatable: true,
    doc: "What else to write on the backup; can be given several times; KEY= takes a note away",
    ..Row::ARGUMENT
});

/// Keep a backup for good.
pub static KEEP: Setting<bool> = Setting::new(Row {
    name: "keep",
    verbs: &[BackupPush, BackupMark],
    default: Some("false"),
    doc: "Mark the backup as one to keep for good",
    ..Row::ARGUMENT
});

/// Keep a backup no longer than others.
pub static NO_KEEP: Setting<bool> = Setting::new(Row {
    name: "no-keep",
    verbs: &[BackupMark],
    default: Some("false"),
    doc: "Take that mark away",
    ..Row::ARGUMENT
});

/// How old garbage must be.
pub static OLDER_THAN: Setting<Duration> = Setting::new(Row {
    name: "older-than",
    verbs: &[Delete],
    value: Some("DURATION"),
    bounds: Some(["1h", "365d"]),
    default: Some("24h"),
    doc: "How long nothing must have been stored of an incomplete backup before it counts as garbage and its WAL as not \
          needed, by the store's clock; longer than a backup may take to wait for its WAL",
    ..Row::ARGUMENT
});

/// Really do it.
pub static CONFIRM: Setting<bool> = Setting::new(Row {
    name: "confirm",
    verbs: &[Delete, Rekey],
    default: Some("false"),
    doc: "Do it; without it what would be done is only shown",
    ..Row::ARGUMENT
});

/// Print a configuration file.
pub static EXAMPLE: Setting<bool> = Setting::new(Row {
    name: "example",
    verbs: &[Config],
    default: Some("false"),
    doc: "Print a configuration file instead, with every setting in a comment",
    ..Row::ARGUMENT
});

/// Where the settings of another tool are.
pub static FROM: Setting<PathBuf> = Setting::new(Row {
    name: "from",
    verbs: &[MigrateConfig],
    value: Some("FILE"),
    doc: "The file with the old settings: WAL-G's, in JSON or YAML, or lines NAME=value as a shell has them; unless given, \
          the environment, and what --envdir puts there",
    ..Row::ARGUMENT
});

fn location(text: &str) -> Result<String> {
    Ok(text.parse::<Location>()?.to_string())
}

/// An absolute path, or the address of a directory.
fn directory(text: &str) -> Result<String> {
    location(&format!("file://{}", text.strip_prefix("file://").unwrap_or(text)))
}

fn same(text: &str) -> Result<String> {
    Ok(text.to_owned())
}

fn addressing_of_wal_e(text: &str) -> Result<String> {
    wal_e_endpoint(text).map(|(addressing, _)| addressing.to_owned())
}

fn force_path_style(text: &str) -> Result<String> {
    Ok(String::from(if bool::read(&text.to_ascii_lowercase())? { "path" } else { "virtual" }))
}

fn wal_g_log_level(text: &str) -> Result<String> {
    let level = match text {
        "NORMAL" => "info",
        "DEVEL" => "debug",
        "ERROR" => "error",
        _ => {
            return Err(Error::new(Kind::Usage, format!("\"{text}\" is not one of WAL-G's levels"))
                .hint("Write NORMAL, DEVEL or ERROR, or set WALDEN_LOG_LEVEL."));
        }
    };
    Ok(level.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;
    use crate::config::row::Role;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_lists_each_static_of_these_files_once() {
        let files = [
            include_str!("options.rs"),
            include_str!("options/encryption.rs"),
            include_str!("options/legacy.rs"),
            include_str!("options/requests.rs"),
            include_str!("options/restoring.rs"),
            include_str!("options/retention.rs"),
            include_str!("options/watching.rs"),
        ];
        let statics = files.iter().flat_map(|file| file.lines()).filter(|line| line.contains("= Setting::new(Row {"));
        let statics = statics.filter(|line| line.starts_with("pub static ")).count();
        assert_eq!(TABLE.len(), statics);
    }

    #[test]
    fn names_variables_and_aliases_are_unique_and_in_kebab_case() {
        let mut seen = BTreeSet::new();
        for row in TABLE {
            assert!(
                row.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{}",
                row.name
            );
            assert!(seen.insert(row.name.to_owned()) && seen.insert(row.variable()), "{}", row.name);
        }
        // Another tool may have one variable for what is two settings here.
        for row in TABLE {
            let aliases: BTreeSet<&str> = row.aliases.iter().map(|alias| alias.name).collect();
            assert!(
                aliases.len() == row.aliases.len() && aliases.iter().all(|name| !seen.contains(*name)),
                "{}",
                row.name
            );
        }
    }

    #[test]
    fn every_default_example_and_bound_is_a_legal_value_of_its_row() {
        for row in TABLE {
            for text in row.default.iter().chain(&row.example).chain(row.bounds.iter().flatten()) {
                row.check(text, &Origin::Default).unwrap();
            }
        }
    }

    #[test]
    fn every_row_says_what_it_does_and_every_setting_has_a_value_to_show() {
        for row in TABLE {
            assert!(row.doc.len() > 5 && !row.doc.ends_with('.'), "{}", row.name);
            assert!(!row.verbs.is_empty(), "{}", row.name);
            assert!(row.value.is_some() || row.role == Role::Argument, "{}: a flag needs no variable", row.name);
            if row.role == Role::Setting {
                assert!(row.default.or(row.example).is_some(), "{}", row.name);
            }
        }
    }

    #[test]
    fn other_tools_ways_of_writing_are_converted_to_ours() {
        assert_eq!(location("s3://b/p/").unwrap(), "s3://b/p");
        assert_eq!(directory("/srv/wal/").unwrap(), "file:///srv/wal");
        assert_eq!(directory("file://localhost/srv/wal").unwrap(), "file:///srv/wal");
        assert_eq!(directory("file:///srv/wal").unwrap(), "file:///srv/wal");
        assert!(directory("srv/wal").is_err() && directory("file://elsewhere/srv").is_err());
        assert_eq!(addressing_of_wal_e("https+virtualhost://h").unwrap(), "virtual");
        assert_eq!(force_path_style("true").unwrap(), "path");
        assert_eq!(force_path_style("FALSE").unwrap(), "virtual");
        assert!(force_path_style("perhaps").is_err());
        assert_eq!(wal_g_log_level("DEVEL").unwrap(), "debug");
        assert!(wal_g_log_level("devel").is_err());
    }
}
