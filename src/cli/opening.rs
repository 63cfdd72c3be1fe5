//! From the settings to an archive that can be used.

use std::path::PathBuf;
use std::time::Duration;

use crate::archive::Archive;
use crate::archive::keyring::{Chosen, Keyring};
use crate::config::options::legacy as older;
use crate::config::options::{self, encryption, requests};
use crate::config::role::{AssumedRole, usual_session_name};
use crate::config::row::Setting;
use crate::config::sources::Environment;
use crate::config::{Location, Origin, Settings};
use crate::error::{Error, Kind, Result};
use crate::legacy::cipher::{Given, KeyText, Keys};
use crate::legacy::{Legacy, Standing};
use crate::postgres::datadir;
use crate::storage;
use crate::storage::memory::Memory;
use crate::storage::s3::kms::Kms;
use crate::storage::s3::{self, Wanted};
use crate::wal::receive::Sources;

/// For what PostgreSQL waits for: the retry timeout bounds even a try that moves.
pub(super) async fn wal_archive(settings: &Settings) -> Result<Archive> {
    let how = How { level: &options::WAL_COMPRESSION, strict: true, reads: true, writes: true };
    open_within(settings, how, settings.get(&options::RETRY_TIMEOUT)?).await
}

/// The same for who only writes, and has no use for what there is to decrypt with.
pub(super) async fn pushing_archive(settings: &Settings) -> Result<Archive> {
    let how = How { level: &options::WAL_COMPRESSION, strict: true, reads: false, writes: true };
    open_within(settings, how, settings.get(&options::RETRY_TIMEOUT)?).await
}

/// For backups, whose parts may take their time.
pub(super) async fn archive(settings: &Settings) -> Result<Archive> {
    open_within(settings, AT_LEISURE, settings.get(&options::RETRY_TIMEOUT)?).await
}

/// For whoever looks at what there is, or deletes it, and needs no keys, nor the right to read their files.
pub(super) async fn keyless_archive(settings: &Settings) -> Result<Archive> {
    open_within(settings, KEYLESS, settings.get(&options::RETRY_TIMEOUT)?).await
}

/// How an archive is opened.
struct How {
    /// How hard zstd tries.
    level: &'static Setting<u32>,
    /// Whether somebody waits for one small object.
    strict: bool,
    /// Whether there may be something to decrypt.
    reads: bool,
    /// Whether there may be something to encrypt. A symmetric key that is written with is read with, too.
    writes: bool,
}

const AT_LEISURE: How = How { level: &options::BACKUP_COMPRESSION, strict: false, reads: true, writes: true };
const KEYLESS: How = How { reads: false, writes: false, ..AT_LEISURE };

/// How long `status` and the exporter ask a store that does not answer, unless `retry-timeout` is set: whoever watches wants
/// to know within a minute that it cannot be seen.
const LOOKING_TIMEOUT: Duration = Duration::from_secs(10);

/// For looking at it.
pub(super) async fn watched_archive(settings: &Settings) -> Result<Archive> {
    let row = &options::RETRY_TIMEOUT.row;
    let timeout = match settings.origin(row) {
        Some(Origin::Default) | None => LOOKING_TIMEOUT,
        Some(_) => settings.get(&options::RETRY_TIMEOUT)?,
    };
    open_within(settings, KEYLESS, timeout).await
}

async fn open_within(settings: &Settings, how: How, retry_timeout: Duration) -> Result<Archive> {
    let location: Location = settings.get(&options::PREFIX)?;
    let (address, remembers) = (storage::address(&location), remembers(&location));
    let (memory, options) = (memory(settings)?, store_options(settings, how.strict, retry_timeout)?);
    // First of all: a key that cannot be used is not found out when half of the work is done.
    let keyring = Keyring::open(Chosen {
        to: match how.writes {
            true => settings.all(&encryption::ENCRYPT_TO)?,
            false => Vec::new(),
        },
        identity_files: match how.reads {
            true => settings.all(&encryption::IDENTITY_FILE)?.into_iter().map(|file| file.0).collect(),
            false => Vec::new(),
        },
        prefix: location.to_string(),
        kms: Kms::new(options.clone()),
        memory: memory.clone(),
        address: address.clone(),
        remembers,
    })?;
    let store = storage::open(location, options).await?;
    let archive = Archive::new(store, level(settings, how.level)?).with_keys(keyring);
    Ok(if remembers { archive.remembering(memory, address) } else { archive })
}

/// A directory is asked anew each time: its file system may have been unmounted.
fn remembers(location: &Location) -> bool {
    matches!(location, Location::Bucket { .. })
}

fn memory(settings: &Settings) -> Result<Memory> {
    Ok(Memory::at(settings.find(&options::CACHE_DIR)?))
}

fn store_options(settings: &Settings, strict: bool, retry_timeout: Duration) -> Result<s3::Options> {
    let roles = roles(settings)?;
    Ok(s3::Options {
        retry_timeout,
        strict,
        addressing: settings.get(&options::S3_ADDRESSING)?,
        accelerate: settings.get(&options::S3_ACCELERATE)?,
        checksum: settings.get(&options::S3_CHECKSUM)?,
        wanted: wanted(settings)?,
        session_name: session_name(&roles, settings)?,
        roles,
        memory: memory(settings)?,
    })
}

/// Where WAL comes from: our archive, and the one before it.
pub(super) async fn wal_sources(settings: &Settings, environment: &Environment) -> Result<Sources> {
    let archive = wal_archive(settings).await?;
    let legacy = legacy(settings, environment, &archive, true).await?;
    Ok(Sources { archive, legacy })
}

/// What stands for both of them, by which one process's notes are told from another's.
pub(super) fn sources_address(settings: &Settings) -> Result<String> {
    let own = storage::address(&settings.get(&options::PREFIX)?);
    Ok(match settings.find(&older::LEGACY_PREFIX)? {
        Some(location) => format!("{own}\n{}", storage::address(&location)),
        None => own,
    })
}

/// The archive of WAL-E or WAL-G that a setting names, or the one that may lie beside ours. It is reached in the same way as
/// ours: with the same credentials, roles and endpoint.
pub(super) async fn legacy(
    settings: &Settings,
    environment: &Environment,
    beside: &Archive,
    strict: bool,
) -> Result<Legacy> {
    let keys = Keys::new(given_keys(settings, environment)?)?;
    let own: Location = settings.get(&options::PREFIX)?;
    let (location, legacy) = match settings.find(&older::LEGACY_PREFIX)? {
        Some(location) if location != own => {
            let options = store_options(settings, strict, settings.get(&options::RETRY_TIMEOUT)?)?;
            let store = storage::open(location.clone(), options).await?;
            (location, Legacy::new(store, Standing::Named, keys))
        }
        Some(_) => (own, Legacy::new(beside.store().clone(), Standing::Here, keys)),
        None => (own, Legacy::new(beside.store().clone(), Standing::Beside, keys)),
    };
    let address = storage::address(&location);
    Ok(if remembers(&location) { legacy.remembering(memory(settings)?, &address) } else { legacy })
}

/// Keys in files are ours to name. Those in variables are WAL-G's alone: a setting of ours would invite more of them.
fn given_keys(settings: &Settings, environment: &Environment) -> Result<Given> {
    let key = |file: Option<PathBuf>, variable: &str| {
        let text = environment.get(variable).map(|text| KeyText::Variable(text.to_owned()));
        file.map(KeyText::File).or(text)
    };
    let sodium_file = settings.find(&older::LEGACY_LIBSODIUM_KEY_FILE)?.map(|file| file.0);
    let pgp_file = settings.find(&older::LEGACY_PGP_KEY_FILE)?.map(|file| file.0);
    let transform = settings.get(&older::LEGACY_LIBSODIUM_KEY_TRANSFORM)?;
    let passphrase = environment.get("WALG_PGP_KEY_PASSPHRASE").map(str::to_owned);
    Ok(Given {
        sodium: key(sodium_file, "WALG_LIBSODIUM_KEY").map(|key| (key, transform)),
        pgp: key(pgp_file, "WALG_PGP_KEY").map(|key| (key, passphrase)),
        keyring: settings.find(&older::LEGACY_GPG_KEY_ID)?.is_some(),
    })
}

/// What the sessions of these roles are called: after this machine, and the cluster that the command seems to be for. That
/// is the one that was named, or that of the data directory, which is where PostgreSQL calls us.
fn session_name(roles: &[AssumedRole], settings: &Settings) -> Result<String> {
    if roles.is_empty() {
        return Ok(String::new());
    }
    let named = settings.find(&options::SYSTEM_ID)?;
    let directory = settings.find(&options::PGDATA)?.unwrap_or_else(|| PathBuf::from("."));
    let system = named.or_else(|| datadir::read_control(&directory).ok().map(|(control, _)| control.system_id));
    Ok(usual_session_name(&whoami::hostname().unwrap_or_default(), system))
}

/// The chain, with the external id wherever a role names none of its own.
fn roles(settings: &Settings) -> Result<Vec<AssumedRole>> {
    let external_id = settings.find(&options::EXTERNAL_ID)?;
    let mut roles = settings.all(&options::ASSUME_ROLE)?;
    for role in &mut roles {
        role.external_id = role.external_id.take().or_else(|| external_id.clone());
    }
    match external_id.is_some() && roles.is_empty() {
        true => Err(Error::new(Kind::Config, "an external id is set, but no role to assume")
            .hint("Set WALDEN_ASSUME_ROLE to the role's ARN, or unset WALDEN_EXTERNAL_ID.")),
        false => Ok(roles),
    }
}

/// How hard zstd tries.
pub(super) fn level(settings: &Settings, setting: &Setting<u32>) -> Result<i32> {
    Ok(settings.get(setting)?.cast_signed())
}

/// What was chosen, not yet checked against itself.
fn wanted(settings: &Settings) -> Result<Wanted> {
    Ok(Wanted {
        sse: settings.find(&requests::S3_SSE)?,
        kms_key: settings.find(&requests::S3_SSE_KMS_KEY)?,
        bucket_key: settings.find(&requests::S3_SSE_BUCKET_KEY)?,
        customer_key_file: settings.find(&requests::S3_SSE_C_KEY_FILE)?.map(|file| file.0),
        acl: settings.find(&requests::S3_ACL)?,
        wal_class: settings.find(&requests::S3_WAL_STORAGE_CLASS)?,
        backup_class: settings.find(&requests::S3_BACKUP_STORAGE_CLASS)?,
        tags: settings.find(&requests::S3_TAGS)?,
        lock: settings.find(&requests::S3_OBJECT_LOCK)?,
        wal_lock: settings.find(&requests::S3_WAL_LOCK)?,
        backup_lock: settings.find(&requests::S3_BACKUP_LOCK)?,
        requester_pays: settings.get(&requests::S3_REQUESTER_PAYS)?,
    })
}
