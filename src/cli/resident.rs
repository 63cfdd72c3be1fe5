//! Both ends of `walden daemon`: how `wal-push` turns to it, and how it is set up.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::opening::pushing_archive;
use crate::config::Settings;
use crate::config::options::{self, TABLE};
use crate::config::row::{Role, VerbName};
use crate::config::sources::Environment;
use crate::daemon::{self, Order, Service};
use crate::error::{Context, Result};
use crate::storage;
use crate::wal::push::Request;
use crate::wal::spool::Spool;

/// Has a daemon archive the file; `None` if there is none that does it.
pub(super) async fn ask(
    request: &Request,
    settings: &Settings,
    environment: &Environment,
) -> Result<Option<Result<()>>> {
    let socket = daemon::socket(&request.spool);
    if !socket.exists() {
        return Ok(None);
    }
    let absolute = |path: &Path| std::path::absolute(path).during(|| "could not find the current directory");
    let order = Order {
        settings: fingerprint(settings, environment),
        path: absolute(&request.path)?,
        data_directory: request.data_directory.as_deref().map(absolute).transpose()?,
    };
    Ok(daemon::ask(&socket, &order, request.timeout).await)
}

/// Is the daemon of this data directory until the process ends.
pub(super) async fn serve(data_directory: &Path, settings: &Settings, environment: &Environment) -> Result<()> {
    let data_directory = std::path::absolute(data_directory).during(|| "could not find the current directory")?;
    let spool_directory = settings.find(&options::SPOOL_DIR)?.map(|directory| data_directory.join(directory));
    daemon::serve(Service {
        spool: Spool::new(spool_directory, &data_directory.join("pg_wal/any")),
        address: storage::address(&settings.get(&options::PREFIX)?),
        ahead: settings.get(&options::PUSH_AHEAD)? as usize,
        timeout: settings.get(&options::PUSH_TIMEOUT)?,
        open: || pushing_archive(settings),
        settings: || fingerprint(settings, environment),
    })
    .await
}

/// Variables that are not ours and change what a push does.
const FOREIGN: [&str; 10] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];

/// Stands for everything that decides what a push does: our version, our settings, the AWS SDK's variables, and the state
/// of the files that all of those name. A digest, for some of it is secret.
fn fingerprint(settings: &Settings, environment: &Environment) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |name: &str, value: &str| {
        for part in [name, value] {
            hasher.update(&part.len().to_le_bytes()).update(part.as_bytes());
        }
    };
    add("version", env!("CARGO_PKG_VERSION"));
    let decisive = |name: &str| !["pgdata", "log-level", "log-format", "metrics-dir"].contains(&name);
    let rows = TABLE.iter().filter(|row| row.role == Role::Setting && row.verbs.contains(&VerbName::WalPush));
    for row in rows.filter(|row| decisive(row.name)) {
        // Of those that are not given the default decides, which belongs to the version.
        settings.texts(row).for_each(|text| add(row.name, text));
    }
    for (name, value) in environment.iter().filter(|(name, _)| name.starts_with("AWS_") || FOREIGN.contains(name)) {
        add(name, value);
    }
    let keys = settings.text(&options::requests::S3_SSE_C_KEY_FILE.row).into_iter();
    // A recipient is no file, and then it has no state.
    let keys = keys.chain(settings.texts(&options::encryption::ENCRYPT_TO.row)).map(PathBuf::from);
    for path in files(environment).into_iter().chain(keys) {
        let state = std::fs::metadata(&path).map(|file| (file.ino(), file.size(), file.mtime(), file.mtime_nsec()));
        if let Ok(state) = state {
            add(&path.display().to_string(), &format!("{state:?}"));
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// Files that the AWS SDK reads its configuration from (AWS SDKs and Tools Reference Guide, "Shared config and credentials
/// files"), and the certificates.
fn files(environment: &Environment) -> Vec<PathBuf> {
    let home = environment.get("HOME").unwrap_or_default();
    let named = |variable: &str, usual: &str| match environment.get(variable) {
        Some(path) => PathBuf::from(path),
        None => Path::new(home).join(usual),
    };
    vec![
        named("AWS_CONFIG_FILE", ".aws/config"),
        named("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
        named("AWS_CA_BUNDLE", ".aws/none"),
    ]
}
