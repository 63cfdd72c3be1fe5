//! The rows of the table that say what the objects in S3 are to be, and how requests for them are paid for.

use std::time::Duration;

use crate::config::requests::{AbsolutePath, Acl, KmsKey, LockMode, Sse, StorageClass, Tags};
use crate::config::row::VerbName::{self, BackupPush, Daemon, Doctor, WalBackfill, WalPush};
use crate::config::row::{Alias, Row, Setting};
use crate::error::{Error, Kind, Result};

/// Those that store something, and `doctor`, which tries.
const WRITERS: &[VerbName] = &[WalPush, WalBackfill, BackupPush, Daemon, Doctor];

/// Those that store WAL, and `doctor`.
const WAL_WRITERS: &[VerbName] = &[WalPush, WalBackfill, Daemon, Doctor];

/// Those that store base backups, and `doctor`.
const BACKUP_WRITERS: &[VerbName] = &[BackupPush, Doctor];

/// Which server-side encryption is asked for.
pub static S3_SSE: Setting<Sse> = Setting::new(Row {
    name: "s3-sse",
    verbs: WRITERS,
    aliases: &[Alias { name: "WALG_S3_SSE", syntax: None, convert: same }],
    value: Some("HOW"),
    example: Some("aws:kms"),
    doc: "The server-side encryption to ask for: with keys of S3 (AES256), with a key of KMS (aws:kms), or with one in \
          two layers (aws:kms:dsse); unless given, the bucket's default decides",
    ..Row::SETTING
});

/// Which key of KMS.
pub static S3_SSE_KMS_KEY: Setting<KmsKey> = Setting::new(Row {
    name: "s3-sse-kms-key",
    verbs: WRITERS,
    aliases: &[Alias { name: "WALG_S3_SSE_KMS_ID", syntax: None, convert: same }],
    value: Some("KEY"),
    example: Some("arn:aws:kms:eu-central-1:111111111111:alias/walden"),
    doc: "The key of KMS, by its id, ARN or alias; unless given, the one that the account has for S3",
    ..Row::SETTING
});

/// Whether KMS is asked once for many objects.
pub static S3_SSE_BUCKET_KEY: Setting<bool> = Setting::new(Row {
    name: "s3-sse-bucket-key",
    verbs: WRITERS,
    value: Some("BOOL"),
    example: Some("true"),
    doc: "Whether S3 derives the keys of many objects from one that it asked KMS for, which costs fewer requests to \
          KMS; unless given, the bucket's default decides",
    ..Row::SETTING
});

/// The key of one's own.
pub static S3_SSE_C_KEY_FILE: Setting<AbsolutePath> = Setting::new(Row {
    name: "s3-sse-c-key-file",
    aliases: &[Alias {
        name: "WALG_S3_SSE_C",
        syntax: Some("the key itself, which is refused: it belongs into a file"),
        convert: key_in_the_environment,
    }],
    value: Some("FILE"),
    example: Some("/etc/walden.d/.sse-c-key"),
    doc: "A file with a key of 32 bytes, plain or in Base64, with which S3 encrypts and decrypts without keeping it; the \
          file is its owner's alone, and whoever loses it loses the archive",
    ..Row::SETTING
});

/// Who may read what was stored.
pub static S3_ACL: Setting<Acl> = Setting::new(Row {
    name: "s3-acl",
    verbs: WRITERS,
    value: Some("ACL"),
    example: Some("bucket-owner-full-control"),
    doc: "The canned ACL of each object, for buckets of another account that still use ACLs",
    ..Row::SETTING
});

/// The class of WAL.
pub static S3_WAL_STORAGE_CLASS: Setting<StorageClass> = Setting::new(Row {
    name: "s3-wal-storage-class",
    verbs: WAL_WRITERS,
    aliases: CLASS_OF_BOTH,
    value: Some("CLASS"),
    example: Some("STANDARD_IA"),
    doc: "The storage class of WAL segments, one that can be read at once; other WAL files are small and get none",
    ..Row::SETTING
});

/// The class of base backups.
pub static S3_BACKUP_STORAGE_CLASS: Setting<StorageClass> = Setting::new(Row {
    name: "s3-backup-storage-class",
    verbs: BACKUP_WRITERS,
    aliases: CLASS_OF_BOTH,
    value: Some("CLASS"),
    example: Some("GLACIER_IR"),
    doc: "The storage class of the parts of base backups; manifests, which every look at a backup reads, get none",
    ..Row::SETTING
});

/// Other tools have one class for all.
const CLASS_OF_BOTH: &[Alias] = &[
    Alias { name: "WALG_S3_STORAGE_CLASS", syntax: None, convert: same },
    Alias { name: "WALE_S3_STORAGE_CLASS", syntax: None, convert: same },
];

/// The tags of what is stored.
pub static S3_TAGS: Setting<Tags> = Setting::new(Row {
    name: "s3-tags",
    verbs: WRITERS,
    value: Some("KEY=VALUE,..."),
    example: Some("team=db,env=prod"),
    doc: "Tags of each object, at most 10, with commas between",
    ..Row::SETTING
});

/// How strictly what is stored is locked.
pub static S3_OBJECT_LOCK: Setting<LockMode> = Setting::new(Row {
    name: "s3-object-lock",
    verbs: WRITERS,
    value: Some("MODE"),
    example: Some("compliance"),
    doc: "How S3 Object Lock keeps objects from being deleted before their time: against all but those with a right of \
          its own (governance), or against everybody (compliance)",
    ..Row::SETTING
});

/// How long WAL is locked.
pub static S3_WAL_LOCK: Setting<Duration> = Setting::new(Row {
    name: "s3-wal-lock",
    verbs: WAL_WRITERS,
    value: Some("DURATION"),
    bounds: LOCK_BOUNDS,
    example: Some("35d"),
    doc: "How long s3-object-lock keeps a WAL file, from when it was archived",
    ..Row::SETTING
});

/// How long base backups are locked.
pub static S3_BACKUP_LOCK: Setting<Duration> = Setting::new(Row {
    name: "s3-backup-lock",
    verbs: BACKUP_WRITERS,
    value: Some("DURATION"),
    bounds: LOCK_BOUNDS,
    example: Some("35d"),
    doc: "How long s3-object-lock keeps the objects of a base backup, each from when it was stored",
    ..Row::SETTING
});

/// A hundred years are the most that S3 takes for a bucket's default (Amazon S3 User Guide, "Object Lock considerations").
const LOCK_BOUNDS: Option<[&str; 2]> = Some(["1s", "36500d"]);

/// Whether we pay.
pub static S3_REQUESTER_PAYS: Setting<bool> = Setting::new(Row {
    name: "s3-requester-pays",
    value: Some("BOOL"),
    default: Some("false"),
    doc: "Whether the account that asks pays for requests and transfer, as a bucket with Requester Pays demands",
    ..Row::SETTING
});

fn same(text: &str) -> Result<String> {
    Ok(text.to_owned())
}

/// WAL-G has the key in its environment, where `/proc` and every child process have it too. Never quotes it.
fn key_in_the_environment(_: &str) -> Result<String> {
    Err(Error::new(Kind::Config, "it holds a key, which is read from a file only").hint(
        "Write the key into a file of mode 0600, name that by WALDEN_S3_SSE_C_KEY_FILE, and unset WALG_S3_SSE_C.",
    ))
}
