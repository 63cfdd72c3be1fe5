//! The rows of the table that say where an archive of WAL-E or WAL-G lies, and with which keys it can be read.

use crate::config::Location;
use crate::config::requests::AbsolutePath;
use crate::config::row::VerbName::{self, BackupFetch, BackupList, BackupShow, WalFetch};
use crate::config::row::{Alias, Row, Setting};
use crate::config::value::KeyTransform;
use crate::error::Result;

/// Those that read what WAL-E and WAL-G wrote.
const READERS: &[VerbName] = &[WalFetch, BackupFetch, BackupList, BackupShow];

/// Where it lies.
pub static LEGACY_PREFIX: Setting<Location> = Setting::new(Row {
    name: "legacy-prefix",
    verbs: READERS,
    value: Some("URL"),
    example: Some("s3://bucket/wal-g"),
    doc: "Where the archive lies that WAL-E or WAL-G wrote before, for what is not in ours; reached with the same \
          credentials, roles and endpoint; unless given, it is looked for under our prefix",
    ..Row::SETTING
});

/// The key of libsodium.
pub static LEGACY_LIBSODIUM_KEY_FILE: Setting<AbsolutePath> = Setting::new(Row {
    name: "legacy-libsodium-key-file",
    verbs: READERS,
    aliases: &[Alias { name: "WALG_LIBSODIUM_KEY_PATH", syntax: None, convert: same }],
    value: Some("FILE"),
    example: Some("/etc/walden.d/.libsodium-key"),
    doc: "A file with the key with which WAL-G encrypted that archive by libsodium",
    ..Row::SETTING
});

/// How that key is written.
pub static LEGACY_LIBSODIUM_KEY_TRANSFORM: Setting<KeyTransform> = Setting::new(Row {
    name: "legacy-libsodium-key-transform",
    verbs: READERS,
    aliases: &[Alias { name: "WALG_LIBSODIUM_KEY_TRANSFORM", syntax: None, convert: same }],
    value: Some("HOW"),
    default: Some("none"),
    doc: "How that key is written: as it is (none), in hexadecimal (hex) or in Base64 (base64)",
    ..Row::SETTING
});

/// A secret key of OpenPGP.
pub static LEGACY_PGP_KEY_FILE: Setting<AbsolutePath> = Setting::new(Row {
    name: "legacy-pgp-key-file",
    verbs: READERS,
    aliases: &[Alias { name: "WALG_PGP_KEY_PATH", syntax: None, convert: same }],
    value: Some("FILE"),
    example: Some("/etc/walden.d/.pgp-key.asc"),
    doc: "A file with the armored secret key of OpenPGP with which that archive can be decrypted, by the program gpg",
    ..Row::SETTING
});

/// A secret key of OpenPGP in the keyring.
pub static LEGACY_GPG_KEY_ID: Setting<String> = Setting::new(Row {
    name: "legacy-gpg-key-id",
    verbs: READERS,
    aliases: &[
        Alias { name: "WALE_GPG_KEY_ID", syntax: None, convert: same },
        Alias { name: "WALG_GPG_KEY_ID", syntax: None, convert: same },
    ],
    value: Some("ID"),
    example: Some("0x8A3C5D2E"),
    doc: "The secret key of OpenPGP in the keyring of the user who runs this, with which that archive can be decrypted, by \
          the program gpg",
    ..Row::SETTING
});

fn same(text: &str) -> Result<String> {
    Ok(text.to_owned())
}
