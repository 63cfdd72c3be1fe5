//! The rows of encryption: for whom, and with what to decrypt.

use crate::config::encryption::{EncryptTo, IdentityPath};
use crate::config::row::VerbName::{BackupPush, Daemon, Doctor, Keygen, Rekey, WalBackfill, WalPush};
use crate::config::row::{Row, Setting};

/// For whom everything is encrypted.
pub static ENCRYPT_TO: Setting<EncryptTo> = Setting::new(Row {
    name: "encrypt-to",
    verbs: &[WalPush, WalBackfill, BackupPush, Daemon, Doctor, Rekey],
    value: Some("KEY"),
    example: Some("age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa"),
    repeatable: true,
    doc: "For whom to encrypt what is stored: the recipient of an age key (age1...), a key of KMS by its ARN, or a file with \
          a symmetric key by its absolute path. Can be given several times: each of them alone can decrypt; unless given, \
          nothing is encrypted",
    ..Row::SETTING
});

/// With what to decrypt.
pub static IDENTITY_FILE: Setting<IdentityPath> = Setting::new(Row {
    name: "identity-file",
    value: Some("FILE"),
    example: Some("/etc/walden.d/.identity"),
    repeatable: true,
    doc: "A file with the private halves of age keys, or with a symmetric key, to decrypt what is read; the file is its \
          owner's alone. Can be given several times. A key of KMS needs none",
    ..Row::SETTING
});

/// Print the private half.
pub static AS_IDENTITY: Setting<bool> = Setting::new(Row {
    name: "as-identity",
    verbs: &[Keygen],
    default: Some("false"),
    doc: "Print the key itself, as an age identity, for safekeeping and for decrypting by hand. It is a secret",
    ..Row::ARGUMENT
});
