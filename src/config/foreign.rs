//! Variables of WAL-E and WAL-G that are no other name for a setting: what becomes of each of them.
//!
//! What changes where data lies, or how safely, is never passed over: it is honoured, or refused by name. What only tunes
//! the machinery of those tools is known, and has no meaning here. Pure: variables in, variables and errors out.

use crate::config::options::TABLE;
use crate::config::row::{VARIABLE_PREFIX, VerbName};
use crate::config::sources::Environment;
use crate::config::{Origin, Settings};
use crate::error::{Error, Kind, Result};

/// What becomes of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// [`translated`] makes variables of it that are heeded.
    Translated,
    /// It is, or protects, a key with which an archive of theirs is read.
    Key,
    /// Whoever does this is refused.
    Refused {
        /// Who is.
        by: By,
        /// Unless this setting is given by a name of ours: then the question is answered.
        unless: Option<&'static str>,
        /// What it asks for.
        asks: &'static str,
        /// What to do instead: a sentence.
        instead: &'static str,
    },
    /// It tunes what Walden does not have, or does otherwise.
    Idle(&'static str),
}

/// Whom a refusal concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Whoever needs the archive.
    All,
    /// Those that store something.
    Writers,
    /// Those that take base backups.
    BackupWriters,
}

impl By {
    fn concerns(self, verb: VerbName) -> bool {
        use VerbName::{BackupPush, Daemon, WalBackfill, WalPush};
        match self {
            By::All => verb.needs_archive(),
            By::Writers => matches!(verb, WalPush | WalBackfill | BackupPush | Daemon),
            By::BackupWriters => verb == BackupPush,
        }
    }
}

/// Variables with the same fate.
#[derive(Clone, Copy, Debug)]
pub struct Foreign {
    /// Their names; a `*` at the end stands for whatever follows.
    pub names: &'static [&'static str],
    /// Values that ask for nothing.
    pub harmless: &'static [&'static str],
    /// What becomes of them.
    pub fate: Fate,
}

impl Foreign {
    /// Is this one of them?
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| match known.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => *known == name,
        })
    }
}

const fn of(names: &'static [&'static str], fate: Fate) -> Foreign {
    Foreign { names, harmless: &[], fate }
}

const fn refused(
    names: &'static [&'static str],
    by: By,
    unless: Option<&'static str>,
    asks: &'static str,
    instead: &'static str,
) -> Foreign {
    of(names, Fate::Refused { by, unless, asks, instead })
}

const fn idle(names: &'static [&'static str], why: &'static str) -> Foreign {
    of(names, Fate::Idle(why))
}

const OFF: &[&str] = &["0", "-1", "false", "FALSE", "False"];

/// All that are known, beside the other names of settings. The first line that has a name decides.
pub static KNOWN: &[Foreign] = &[
    of(&["AWS_SECURITY_TOKEN", "AWS_ENDPOINT", "WALE_S3_ENDPOINT", "WALG_S3_CA_CERT_FILE"], Fate::Translated),
    of(&["AWS_DUAL_STACK"], Fate::Translated),
    of(&["WALG_LIBSODIUM_KEY_TRANSFORM", "WALG_PGP_KEY_PASSPHRASE"], Fate::Key),
    refused(
        &[
            "WALG_LIBSODIUM_KEY",
            "WALG_LIBSODIUM_KEY_PATH",
            "WALG_PGP_KEY",
            "WALG_PGP_KEY_PATH",
            "WALG_GPG_KEY_ID",
            "WALE_GPG_KEY_ID",
        ],
        By::Writers,
        Some("encrypt-to"),
        "encryption in a form that Walden reads and does not write",
        "Say what to encrypt to by WALDEN_ENCRYPT_TO; or unset it, and name the key for reading the old archive by \
         WALDEN_LEGACY_LIBSODIUM_KEY_FILE, WALDEN_LEGACY_PGP_KEY_FILE or WALDEN_LEGACY_GPG_KEY_ID.",
    ),
    refused(
        &["WALG_CSE_KMS_ID", "WALG_CSE_KMS_REGION", "YC_CSE_KMS_KEY_ID", "WALG_ENVELOPE_PGP_*"],
        By::Writers,
        Some("encrypt-to"),
        "encryption in a form that Walden does not have",
        "Say what to encrypt to by WALDEN_ENCRYPT_TO, and unset it. What it encrypted cannot be read by Walden.",
    ),
    refused(
        &[
            "WALG_GS_PREFIX",
            "WALE_GS_PREFIX",
            "WALG_AZ_PREFIX",
            "WALE_WABS_PREFIX",
            "WALG_SWIFT_PREFIX",
            "WALE_SWIFT_PREFIX",
            "WALG_SSH_PREFIX",
            "WALG_OSS_PREFIX",
        ],
        By::All,
        Some("prefix"),
        "an archive in a kind of store that Walden does not have",
        "Name a bucket of S3 or a directory by WALDEN_PREFIX: s3://bucket/path or file:///directory.",
    ),
    refused(
        &["WALG_STORAGE_PREFIX"],
        By::All,
        Some("prefix"),
        "an archive below a path of its own",
        "Write the whole address into WALDEN_PREFIX: s3://bucket/path/and/that.",
    ),
    refused(
        &["S3_ENDPOINT_SOURCE"],
        By::All,
        None,
        "the store's address from a service of its own",
        "Set AWS_ENDPOINT_URL_S3 to the store's address, and unset it.",
    ),
    refused(
        &["S3_REQUEST_ADDITIONAL_HEADERS"],
        By::All,
        None,
        "headers of its own for every request",
        "Set WALDEN_S3_SSE, WALDEN_S3_ACL, WALDEN_S3_TAGS and their kin to the same, and unset it.",
    ),
    Foreign {
        harmless: OFF,
        ..refused(
            &["S3_RETENTION_PERIOD"],
            By::Writers,
            Some("s3-object-lock"),
            "locks on what is stored",
            "Set WALDEN_S3_OBJECT_LOCK, WALDEN_S3_WAL_LOCK and WALDEN_S3_BACKUP_LOCK, and unset it.",
        )
    },
    refused(
        &["WALG_FAILOVER_STORAGES"],
        By::Writers,
        None,
        "writing to other stores where the first one fails",
        "Unset it: Walden writes to one store, and PostgreSQL keeps its WAL until that takes it.",
    ),
    Foreign {
        harmless: OFF,
        ..refused(
            &["WALG_DELTA_MAX_STEPS"],
            By::BackupWriters,
            None,
            "base backups of what has changed only",
            "Unset it: Walden takes full base backups, which need more room.",
        )
    },
    idle(&["S3_RETENTION_MODE"], "says how S3_RETENTION_PERIOD locks; WALDEN_S3_OBJECT_LOCK says so here"),
    idle(
        &["WALG_COMPRESSION_METHOD", "WALG_ZSTD_LEVEL"],
        "Walden writes zstd; its levels are wal-compression and backup-compression",
    ),
    idle(
        &["WALG_DOWNLOAD_CONCURRENCY", "WALG_UPLOAD_CONCURRENCY", "WALG_UPLOAD_DISK_CONCURRENCY", "WALG_UPLOAD_QUEUE"],
        "workers, and for WAL push-ahead, say how much is done at once",
    ),
    idle(&["TOTAL_BG_UPLOADED_LIMIT"], "push-ahead says how many files wal-push archives ahead"),
    idle(
        &["WALG_DOWNLOAD_FILE_RETRIES", "WALG_S3_MAX_RETRIES", "WALE_RETRIES"],
        "retry-timeout says how long a request is retried",
    ),
    idle(
        &["WALG_TAR_SIZE_THRESHOLD", "WALG_S3_MAX_PART_SIZE", "WALG_USE_RATING_COMPOSER"],
        "part-size says how large the parts of a base backup are",
    ),
    idle(
        &["WALG_USE_COPY_COMPOSER", "WALG_USE_DATABASE_COMPOSER"],
        "parts of base backups are not copied from older ones",
    ),
    idle(&["WALG_NETWORK_RATE_LIMIT"], "max-rate bounds how fast a base backup reads, and so how fast it sends"),
    idle(&["WALG_PREVENT_WAL_OVERWRITE"], "Walden never overwrites"),
    idle(
        &["WALG_VERIFY_PAGE_CHECKSUMS", "WALG_STORE_ALL_CORRUPT_BLOCKS"],
        "Walden always verifies pages; see on-corruption",
    ),
    idle(
        &["WALG_PG_WAL_SIZE", "WALG_PG_WAL_PAGE_SIZE", "WALG_PG_BLOCK_SIZE"],
        "Walden reads them in the files themselves",
    ),
    idle(&["WALG_PREFETCH_DIR"], "spool-dir says where fetched WAL waits"),
    idle(
        &["PG_READY_RENAME", "WALG_UPLOAD_WAL_METADATA"],
        "archive_status is PostgreSQL's, and listings say what is there",
    ),
    idle(
        &["WALG_DELTA_ORIGIN", "WALG_USE_WAL_DELTA", "WALG_FORCE_WAL_DELTA", "WALG_WITHOUT_FILES_METADATA"],
        "Walden takes full base backups",
    ),
    idle(&["WALG_SENTINEL_USER_DATA"], "--label and --note write on a base backup"),
    idle(&["WALG_DAEMON_WAL_UPLOAD_TIMEOUT"], "push-timeout says how long wal-push may take"),
    idle(
        &["WALG_STOP_BACKUP_TIMEOUT", "WALG_ALIVE_CHECK_INTERVAL"],
        "wal-timeout says how long a base backup waits for its WAL",
    ),
    idle(&["WALE_LOG_DESTINATION", "WALE_SYSLOG_FACILITY"], "the log goes to standard error"),
    idle(&["WALG_STATSD_*", "HTTP_LISTEN", "HTTP_EXPOSE_*"], "walden exporter and metrics-dir have metrics"),
    idle(&["WALG_FAILOVER_STORAGES_*"], "there is one store"),
    idle(&["AWS_INSTANCE_PROFILE"], "the role of the instance is found by itself where no other credentials are given"),
    idle(&["WALG_CONFIG_PATH"], "it names WAL-G's configuration file"),
    idle(
        &[
            "WALG_TAR_DISABLE_FSYNC",
            "WALG_DIRECT_IO*",
            "WALG_USE_REVERSE_UNPACK",
            "WALG_SKIP_REDUNDANT_TARS",
            "WALG_DISABLE_PARTIAL_RESTORE",
            "WALG_INTEGRITY_MAX_DELAYED_WALS",
            "WALG_SLOTNAME",
            "WALG_S3_USE_LIST_OBJECTS_V1",
            "WALG_S3_RANGE_*",
            "S3_SKIP_VALIDATION",
            "S3_ENABLE_VERSIONING",
            "S3_DELETE_BATCH_SIZE",
            "S3_MIN_THROTTLING_RETRY_DELAY",
            "S3_MAX_THROTTLING_RETRY_DELAY",
            "PGBACKREST_STANZA",
        ],
        "it tunes what Walden does not have",
    ),
];

/// What becomes of this variable; `None` if it is not known here.
pub fn fate(name: &str) -> Option<&'static Foreign> {
    KNOWN.iter().find(|foreign| foreign.has(name))
}

/// Refuses what the environment asks for and this verb cannot honour.
///
/// # Errors
/// [`Kind::Config`], naming the variable and what to do instead; never its value.
pub fn require_honest(verb: VerbName, settings: &Settings, environment: &Environment) -> Result<()> {
    for (name, value) in environment.iter() {
        let Some(Foreign { harmless, fate: Fate::Refused { by, unless, asks, instead }, .. }) = fate(name) else {
            continue;
        };
        let answered = unless.is_some_and(|row| is_ours(row, settings));
        if by.concerns(verb) && !answered && !harmless.contains(&value) {
            return Err(Error::new(Kind::Config, format!("{name} cannot be honoured ({})", environment.origin(name)))
                .detail(format!("it asks for {asks}"))
                .hint(*instead));
        }
    }
    Ok(())
}

/// Whether the setting is given, and by a name of ours.
fn is_ours(name: &str, settings: &Settings) -> bool {
    let row = TABLE.iter().find(|row| row.name == name);
    match row.and_then(|row| settings.origin(row)) {
        Some(Origin::Flag(_) | Origin::File(..)) => true,
        Some(Origin::Variable(variable)) => variable.starts_with(VARIABLE_PREFIX),
        Some(Origin::Envdir(file)) => {
            file.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(VARIABLE_PREFIX))
        }
        Some(Origin::Default) | None => false,
    }
}

/// Variables that say in the words of the AWS SDK, or in ours, what others say in theirs; none where they say it already.
///
/// # Errors
/// [`Kind::Config`] for an address that cannot be understood.
pub fn translated(environment: &Environment) -> Result<Vec<(&'static str, String)>> {
    let mut variables = Vec::new();
    let unset = |names: &[&str]| names.iter().all(|name| environment.get(name).is_none());
    if let Some(token) = environment.get("AWS_SECURITY_TOKEN").filter(|_| unset(&["AWS_SESSION_TOKEN"])) {
        variables.push(("AWS_SESSION_TOKEN", token.to_owned()));
    }
    if unset(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
        && let Some(address) = endpoint(environment)?
    {
        variables.push(("AWS_ENDPOINT_URL_S3", address));
    }
    if let Some(path) = environment.get("WALG_S3_CA_CERT_FILE").filter(|_| unset(&["AWS_CA_BUNDLE"])) {
        variables.push(("AWS_CA_BUNDLE", path.to_owned()));
    }
    let dual = environment.get("AWS_DUAL_STACK").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if dual && unset(&["AWS_USE_DUALSTACK_ENDPOINT"]) {
        variables.push(("AWS_USE_DUALSTACK_ENDPOINT", String::from("true")));
    }
    // With a web identity the SDK takes the role on by itself; without one it passes over both variables.
    if let (Some(role), Some(session)) = (environment.get("AWS_ROLE_ARN"), environment.get("AWS_ROLE_SESSION_NAME"))
        && unset(&["AWS_WEB_IDENTITY_TOKEN_FILE", "WALDEN_ASSUME_ROLE"])
    {
        variables.push(("WALDEN_ASSUME_ROLE", format!("{role};session-name={session}")));
    }
    Ok(variables)
}

/// The store's address in the words of WAL-G, or of WAL-E.
fn endpoint(environment: &Environment) -> Result<Option<String>> {
    let of_wal_g = environment.get("AWS_ENDPOINT").map(|address| match address.contains("://") {
        true => address.to_owned(),
        false => format!("https://{address}"),
    });
    let of_wal_e = environment.get("WALE_S3_ENDPOINT").map(|text| {
        wal_e_endpoint(text).map(|(_, address)| address).map_err(|error| {
            let named = Error::new(Kind::Config, "WALE_S3_ENDPOINT cannot be understood").detail(error.what());
            error.advice().into_iter().fold(named, Error::hint)
        })
    });
    match (of_wal_g, of_wal_e.transpose()?) {
        (Some(one), Some(other)) if one != other => Err(Error::new(
            Kind::Config,
            "variables AWS_ENDPOINT and WALE_S3_ENDPOINT disagree about the store's address",
        )
        .hint("Unset one of them, or set AWS_ENDPOINT_URL_S3, which wins over both.")),
        (one, other) => Ok(one.or(other)),
    }
}

/// `https+path://host:port` and its kin, as WAL-E has them: where the bucket is named, and the address.
///
/// # Errors
/// [`Kind::Usage`] for anything else.
pub fn wal_e_endpoint(text: &str) -> Result<(&'static str, String)> {
    let parsed = text.split_once("://").and_then(|(scheme, rest)| {
        let (scheme, convention) = scheme.split_once('+')?;
        let addressing = match convention {
            "path" => "path",
            "virtualhost" | "subdomain" => "virtual",
            _ => return None,
        };
        let host = rest.trim_end_matches('/');
        let legal = matches!(scheme, "http" | "https") && !host.is_empty() && !host.contains(['/', '@', '?']);
        legal.then(|| (addressing, format!("{scheme}://{host}")))
    });
    parsed.ok_or_else(|| {
        Error::new(Kind::Usage, format!("\"{}\" is not an address as WAL-E writes it", text.escape_debug()))
            .hint("Write https+path://host:port (or http, and virtualhost), or set AWS_ENDPOINT_URL_S3.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sources::{Flags, load};

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn judged(verb: VerbName, variables: &[(&str, &str)]) -> Result<()> {
        let environment = environment(variables);
        let settings = load(Flags::new(), &environment).unwrap();
        require_honest(verb, &settings, &environment)
    }

    #[test]
    fn a_name_has_one_fate_and_only_a_refusal_may_concern_another_name_of_a_setting() {
        let aliases: Vec<&str> = TABLE.iter().flat_map(|row| row.aliases).map(|alias| alias.name).collect();
        let mut seen = std::collections::BTreeSet::new();
        for foreign in KNOWN {
            for name in foreign.names {
                assert!(seen.insert(name), "{name}");
                let shared = matches!(foreign.fate, Fate::Refused { .. } | Fate::Key | Fate::Translated);
                assert!(shared || !aliases.contains(name), "{name}");
            }
        }
    }

    #[test]
    fn what_changes_where_or_how_safely_data_lies_is_refused_by_name() {
        use VerbName::{BackupFetch, BackupPush, Config, WalFetch, WalPush};
        let s3 = ("WALG_S3_PREFIX", "s3://b");
        for (verb, name, value) in [
            (WalPush, "WALG_LIBSODIUM_KEY", "secret-secret-secret-secret"),
            (WalPush, "WALE_GPG_KEY_ID", "secret"),
            (BackupPush, "WALG_CSE_KMS_ID", "secret"),
            (WalFetch, "WALG_GS_PREFIX", "secret"),
            (WalFetch, "WALG_STORAGE_PREFIX", "secret"),
            (BackupFetch, "S3_ENDPOINT_SOURCE", "secret"),
            (WalPush, "S3_RETENTION_PERIOD", "86400"),
            (BackupPush, "WALG_DELTA_MAX_STEPS", "7"),
        ] {
            let error = judged(verb, &[s3, (name, value)]).unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.what().contains(name) && error.advice().is_some(), "{error:?}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
            assert!(judged(Config, &[s3, (name, value)]).is_ok(), "{name}");
        }
    }

    #[test]
    fn what_was_answered_asks_for_nothing_or_concerns_others_is_not_refused() {
        use VerbName::{BackupPush, WalFetch, WalPush};
        let own = ("WALDEN_PREFIX", "s3://b");
        for (verb, variables) in [
            (WalFetch, [own, ("WALG_LIBSODIUM_KEY", "x")]),
            (WalPush, [own, ("WALG_GS_PREFIX", "gs://b")]),
            (WalPush, [own, ("S3_RETENTION_PERIOD", "-1")]),
            (BackupPush, [own, ("WALG_DELTA_MAX_STEPS", "0")]),
            (WalPush, [own, ("WALG_DELTA_MAX_STEPS", "7")]),
            (BackupPush, [own, ("WALG_COMPRESSION_METHOD", "brotli")]),
        ] {
            judged(verb, &variables).unwrap();
        }
    }

    #[test]
    fn words_of_others_become_words_of_the_sdk_unless_those_are_there() {
        let turn = |variables: &[(&str, &str)]| translated(&environment(variables)).unwrap();
        assert_eq!(
            turn(&[("AWS_SECURITY_TOKEN", "t"), ("WALE_S3_ENDPOINT", "http+path://h:1"), ("AWS_DUAL_STACK", "true")]),
            [
                ("AWS_SESSION_TOKEN", "t".to_owned()),
                ("AWS_ENDPOINT_URL_S3", "http://h:1".to_owned()),
                ("AWS_USE_DUALSTACK_ENDPOINT", "true".to_owned())
            ]
        );
        assert_eq!(turn(&[("AWS_ENDPOINT", "h:1")]), [("AWS_ENDPOINT_URL_S3", "https://h:1".to_owned())]);
        assert_eq!(turn(&[("WALG_S3_CA_CERT_FILE", "/ca")]), [("AWS_CA_BUNDLE", "/ca".to_owned())]);
        let role = [("AWS_ROLE_ARN", "arn"), ("AWS_ROLE_SESSION_NAME", "pg")];
        assert_eq!(turn(&role), [("WALDEN_ASSUME_ROLE", "arn;session-name=pg".to_owned())]);
        for said in [
            &[("AWS_SECURITY_TOKEN", "t"), ("AWS_SESSION_TOKEN", "u")][..],
            &[("AWS_ENDPOINT", "http://h"), ("AWS_ENDPOINT_URL", "http://other")],
            &[("AWS_ROLE_ARN", "arn"), ("AWS_ROLE_SESSION_NAME", "pg"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "/t")],
            &[("AWS_ROLE_ARN", "arn")],
            &[("AWS_DUAL_STACK", "false")],
        ] {
            assert_eq!(turn(said), []);
        }
    }

    #[test]
    fn addresses_that_disagree_or_cannot_be_understood_are_refused() {
        let both = [("AWS_ENDPOINT", "http://a"), ("WALE_S3_ENDPOINT", "http+path://b")];
        assert_eq!(translated(&environment(&both)).unwrap_err().kind(), Kind::Config);
        for text in
            ["http://h:1", "ftp+path://h", "https+magic://h", "https+path://", "https+path://u@h", "https+path://h/p"]
        {
            assert!(wal_e_endpoint(text).is_err(), "{text}");
        }
        assert_eq!(wal_e_endpoint("https+virtualhost://h:1/").unwrap(), ("virtual", "https://h:1".to_owned()));
    }
}
