//! Where and as whom to connect, from the variables that libpq reads
//! (PostgreSQL documentation, "Environment Variables" of libpq).
//!
//! Takes the environment as a value. Files that the variables name are read by `service`, `password` and `tls`. A variable
//! that would change where or how safely Walden connects, and that it does not support, is an error.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::service;
use crate::error::{Error, Kind, Result};

/// The variables of a process, by name.
pub type Environment = BTreeMap<String, String>;

/// Where a server listens unless told otherwise: as Debian and Red Hat build it, then as PostgreSQL's source has it
/// (`DEFAULT_PGSOCKET_DIR` in src/include/pg_config_manual.h).
pub(super) const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

const DEFAULT_PORT: u16 = 5432;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Variables that Walden does not support, each with the values that ask for nothing more than what it does anyway.
const UNSUPPORTED: [(&str, &[&str]); 16] = [
    ("PGCHANNELBINDING", &["prefer"]),
    ("PGGSSENCMODE", &["disable", "prefer"]),
    ("PGHOSTADDR", &[]),
    ("PGLOADBALANCEHOSTS", &["disable"]),
    ("PGREQUIREAUTH", &[]),
    ("PGREQUIREPEER", &[]),
    ("PGREQUIRESSL", &["0"]),
    ("PGSSLCERT", &[]),
    ("PGSSLCERTMODE", &["disable", "allow"]),
    ("PGSSLCRL", &[]),
    ("PGSSLCRLDIR", &[]),
    ("PGSSLKEY", &[]),
    ("PGSSLMAXPROTOCOLVERSION", &["TLSv1.3"]),
    ("PGSSLMINPROTOCOLVERSION", &["TLSv1", "TLSv1.1", "TLSv1.2"]),
    ("PGSSLNEGOTIATION", &["postgres"]),
    ("PGTARGETSESSIONATTRS", &["any"]),
];

/// Everything that a connection needs to know. Has no `Debug`: it holds a password.
pub(super) struct Parameters {
    /// To be tried in this order; never empty.
    pub targets: Vec<Target>,
    pub user: String,
    pub database: String,
    pub password: Option<String>,
    pub password_file: Option<PathBuf>,
    pub ssl_mode: SslMode,
    pub root_certificates: RootCertificates,
    pub application_name: String,
    pub options: Option<String>,
    /// For each target, from its first packet to the end of the authentication.
    pub timeout: Duration,
}

/// One place where the server may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub host: Host,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// The directory of a Unix socket.
    Socket(PathBuf),
    /// A name or an address.
    Tcp(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Socket(directory) => write!(f, "{}", directory.join(format!(".s.PGSQL.{}", self.port)).display()),
            Host::Tcp(name) => write!(f, "{name} port {}", self.port),
        }
    }
}

/// `PGSSLMODE` (PostgreSQL documentation, "SSL Mode Descriptions"). Means nothing for a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SslMode {
    Disable,
    /// TLS only if the server refuses to do without.
    Allow,
    /// Without TLS only if the server refuses to do with.
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    const NAMES: [(&str, SslMode); 6] = [
        ("disable", SslMode::Disable),
        ("allow", SslMode::Allow),
        ("prefer", SslMode::Prefer),
        ("require", SslMode::Require),
        ("verify-ca", SslMode::VerifyCa),
        ("verify-full", SslMode::VerifyFull),
    ];
}

/// Whose certificates to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RootCertificates {
    /// `PGSSLROOTCERT=system`: those that the operating system trusts.
    System,
    /// The file that `PGSSLROOTCERT` names.
    File(PathBuf),
    /// `~/.postgresql/root.crt`, if it is there.
    Default(Option<PathBuf>),
}

impl Parameters {
    /// Reads the variables, and the service that they may name. An empty one counts as not set. Differences from libpq: the
    /// database is `postgres` unless `PGDATABASE` says otherwise (a backup needs some database, not the user's); the
    /// connection timeout is 10 s.
    pub fn read(environment: &Environment) -> Result<Parameters> {
        refuse_unsupported(environment, |name| {
            let hint = "and say where to connect with PGHOST, PGPORT, PGUSER and PGSSLMODE";
            (format!("{name} is set"), format!("Run the command with env -u {name}, {hint}."))
        })?;
        let environment = &service::resolved(environment)?;
        // What the variables themselves ask for has passed, so this is the service's.
        refuse_unsupported(environment, |name| {
            let keyword = service::keyword(name);
            let hint =
                format!("Take {keyword} out of its section in the service file, or set PGSERVICE to another service.");
            (format!("the service that PGSERVICE names has {keyword}"), hint)
        })?;
        let variable = |name: &str| set(environment, name);
        let home = variable("HOME").map(Path::new);
        let root_certificates = root_certificates(variable("PGSSLROOTCERT"), home);
        Ok(Parameters {
            targets: targets(variable("PGHOST"), variable("PGPORT"))?,
            user: variable("PGUSER").map_or_else(os_user, |name| Ok(name.to_owned()))?,
            database: variable("PGDATABASE").unwrap_or("postgres").to_owned(),
            password: variable("PGPASSWORD").map(str::to_owned),
            password_file: variable("PGPASSFILE").map(PathBuf::from).or_else(|| Some(home?.join(".pgpass"))),
            ssl_mode: ssl_mode(variable("PGSSLMODE"), &root_certificates)?,
            root_certificates,
            application_name: variable("PGAPPNAME").unwrap_or("walden").to_owned(),
            options: variable("PGOPTIONS").map(str::to_owned),
            timeout: variable("PGCONNECT_TIMEOUT").map_or(Ok(DEFAULT_TIMEOUT), timeout)?,
        })
    }
}

/// The value of a variable; an empty one counts as not set.
fn set<'a>(environment: &'a Environment, name: &str) -> Option<&'a str> {
    environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// `words` say of a variable that it is set, and what to do about it.
fn refuse_unsupported(environment: &Environment, words: impl Fn(&str) -> (String, String)) -> Result<()> {
    for (name, harmless) in UNSUPPORTED {
        if let Some(value) = set(environment, name).filter(|value| !harmless.contains(value)) {
            let (what, hint) = words(name);
            return Err(Error::new(Kind::Config, format!("{what}, which is not supported"))
                .detail(format!("its value is \"{value}\"; to ignore it would connect in another way than asked for"))
                .hint(hint));
        }
    }
    Ok(())
}

fn targets(hosts: Option<&str>, ports: Option<&str>) -> Result<Vec<Target>> {
    let hosts: Vec<Host> = match hosts {
        Some(list) => list.split(',').flat_map(hosts_of).collect(),
        None => hosts_of("").collect(),
    };
    let ports = match ports {
        Some(list) => list.split(',').map(port).collect::<Result<Vec<u16>>>()?,
        None => vec![DEFAULT_PORT],
    };
    match ports.as_slice() {
        [port] => Ok(hosts.into_iter().map(|host| Target { host, port: *port }).collect()),
        _ if ports.len() == hosts.len() => {
            Ok(hosts.into_iter().zip(ports).map(|(host, port)| Target { host, port }).collect())
        }
        _ => Err(Error::new(Kind::Config, "PGHOST and PGPORT do not fit together")
            .detail(format!("they list {} hosts and {} ports", hosts.len(), ports.len()))
            .hint("Set PGPORT to one port for all hosts, such as PGPORT=5432, or to as many as PGHOST has hosts.")),
    }
}

/// One item of `PGHOST`; the empty one stands for the usual sockets.
fn hosts_of(item: &str) -> impl Iterator<Item = Host> {
    let (sockets, host): (&[&str], _) = match item.trim() {
        "" => (&SOCKET_DIRECTORIES, None),
        path if path.starts_with('/') => (&[], Some(Host::Socket(path.into()))),
        name => (&[], Some(Host::Tcp(name.to_owned()))),
    };
    sockets.iter().map(|path| Host::Socket(path.into())).chain(host)
}

fn port(item: &str) -> Result<u16> {
    match item.trim() {
        "" => Ok(DEFAULT_PORT),
        digits => digits.parse().ok().filter(|&port| port != 0).ok_or_else(|| {
            Error::new(Kind::Config, format!("PGPORT is \"{item}\", which is not a port"))
                .hint("Set PGPORT to a number from 1 to 65535, such as PGPORT=5432.")
        }),
    }
}

/// The name of the effective user, as the system's user database has it. `USER` and `LOGNAME` are not asked: under cron
/// and after `sudo` they name someone else, and `peer` authentication goes by the effective user.
fn os_user() -> Result<String> {
    whoami::username().map_err(|error| {
        Error::new(Kind::Config, "could not find the name of the operating system's user")
            .detail(error.to_string())
            .hint("Set PGUSER to the PostgreSQL user to connect as.")
    })
}

fn root_certificates(variable: Option<&str>, home: Option<&Path>) -> RootCertificates {
    match variable {
        Some("system") => RootCertificates::System,
        Some(path) => RootCertificates::File(path.into()),
        None => RootCertificates::Default(home.map(|home| home.join(".postgresql/root.crt"))),
    }
}

/// With the system's certificates the mode is `verify-full`, and a weaker one an error, as in libpq: anyone can have a
/// certificate that the system trusts, so without its name it proves nothing.
fn ssl_mode(variable: Option<&str>, roots: &RootCertificates) -> Result<SslMode> {
    let Some(name) = variable else {
        return Ok(if *roots == RootCertificates::System { SslMode::VerifyFull } else { SslMode::Prefer });
    };
    let mode = SslMode::NAMES.iter().find(|(known, _)| *known == name).map(|(_, mode)| *mode);
    let mode = mode.ok_or_else(|| {
        let names: Vec<&str> = SslMode::NAMES.iter().map(|(name, _)| *name).collect();
        Error::new(Kind::Config, format!("PGSSLMODE is \"{name}\", which is not an SSL mode"))
            .hint(format!("Set PGSSLMODE to one of {}.", names.join(", ")))
    })?;
    if *roots == RootCertificates::System && mode != SslMode::VerifyFull {
        return Err(Error::new(Kind::Config, format!("PGSSLMODE={name} is too weak for PGSSLROOTCERT=system"))
            .hint("Set PGSSLMODE=verify-full, or set PGSSLROOTCERT to the file of your own certificate authority."));
    }
    Ok(mode)
}

/// Whole seconds; zero and less mean to wait without end, as in libpq.
fn timeout(value: &str) -> Result<Duration> {
    let seconds: i64 = value.trim().parse().map_err(|_| {
        Error::new(Kind::Config, format!("PGCONNECT_TIMEOUT is \"{value}\", which is not a number of seconds"))
            .hint("Set PGCONNECT_TIMEOUT to whole seconds, such as PGCONNECT_TIMEOUT=10.")
    })?;
    Ok(u64::try_from(seconds).ok().filter(|&seconds| seconds > 0).map_or(Duration::MAX, Duration::from_secs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(variables: &[(&str, &str)]) -> Result<Parameters> {
        let environment = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Parameters::read(&environment)
    }

    fn failure(variables: &[(&str, &str)]) -> Error {
        read(variables).err().unwrap()
    }

    fn socket(directory: &str, port: u16) -> Target {
        Target { host: Host::Socket(directory.into()), port }
    }

    fn tcp(name: &str, port: u16) -> Target {
        Target { host: Host::Tcp(name.into()), port }
    }

    #[test]
    fn without_any_variable_it_is_the_local_server_as_the_operating_systems_user() {
        let parameters = read(&[]).unwrap();
        assert_eq!(parameters.targets, [socket("/var/run/postgresql", 5432), socket("/tmp", 5432)]);
        assert_eq!(parameters.database, "postgres");
        assert_eq!(parameters.application_name, "walden");
        assert_eq!(parameters.timeout, Duration::from_secs(10));
        assert_eq!(parameters.ssl_mode, SslMode::Prefer);
        assert!(!parameters.user.is_empty());
        assert!(parameters.password.is_none() && parameters.password_file.is_none());
    }

    #[test]
    fn what_a_service_asks_for_and_nobody_can_give_is_refused_by_its_keyword() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[prod]\nhost=db\nsslcert=/etc/client.crt\n").unwrap();
        let error = failure(&[("PGSERVICE", "prod"), ("PGSERVICEFILE", file.path().to_str().unwrap())]);
        assert!(error.to_string().contains("has sslcert, which is not supported"), "{error}");
        assert!(error.advice().unwrap().contains("Take sslcert out"), "{error:?}");
    }

    #[test]
    fn user_and_logname_do_not_say_as_whom_to_connect() {
        let parameters = read(&[("USER", "someone else"), ("LOGNAME", "someone else")]).unwrap();
        assert_ne!(parameters.user, "someone else");
    }

    #[test]
    fn hosts_and_ports_pair_as_in_libpq() {
        let targets = |host, port| read(&[("PGHOST", host), ("PGPORT", port)]).map(|parameters| parameters.targets);
        assert_eq!(targets("/run/pg", "").unwrap(), [socket("/run/pg", 5432)]);
        assert_eq!(targets("db,10.0.0.7", "6000").unwrap(), [tcp("db", 6000), tcp("10.0.0.7", 6000)]);
        assert_eq!(targets("a,/run/pg", "1,").unwrap(), [tcp("a", 1), socket("/run/pg", 5432)]);
        assert_eq!(targets("a,b", "1,2,3").unwrap_err().kind(), Kind::Config);
        for port in ["0", "65536", "x", "-1"] {
            assert_eq!(targets("a", port).unwrap_err().kind(), Kind::Config, "{port}");
        }
    }

    #[test]
    fn what_is_not_supported_is_never_ignored_in_silence() {
        for (name, harmless) in UNSUPPORTED {
            let error = failure(&[(name, "something")]);
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.what().contains(name) && error.advice().unwrap().contains(name), "{error:?}");
            for value in harmless {
                assert!(read(&[(name, value)]).is_ok(), "{name}={value}");
            }
        }
    }

    #[test]
    fn the_systems_certificates_need_verify_full() {
        assert_eq!(read(&[("PGSSLROOTCERT", "system")]).unwrap().ssl_mode, SslMode::VerifyFull);
        let error = failure(&[("PGSSLROOTCERT", "system"), ("PGSSLMODE", "verify-ca")]);
        assert!(error.advice().unwrap().contains("PGSSLMODE=verify-full"));
        assert_eq!(failure(&[("PGSSLMODE", "Require")]).kind(), Kind::Config);
    }

    #[test]
    fn files_in_the_home_directory_are_the_default() {
        let parameters = read(&[("HOME", "/home/ann")]).unwrap();
        assert_eq!(parameters.password_file, Some("/home/ann/.pgpass".into()));
        let roots = RootCertificates::Default(Some("/home/ann/.postgresql/root.crt".into()));
        assert_eq!(parameters.root_certificates, roots);
        let parameters = read(&[("HOME", "/home/ann"), ("PGPASSFILE", "/x"), ("PGSSLROOTCERT", "/y")]).unwrap();
        assert_eq!(parameters.password_file, Some("/x".into()));
        assert_eq!(parameters.root_certificates, RootCertificates::File("/y".into()));
    }

    #[test]
    fn a_timeout_of_zero_waits_without_end() {
        let timeout = |value| read(&[("PGCONNECT_TIMEOUT", value)]).map(|parameters| parameters.timeout);
        assert_eq!(timeout("3").unwrap(), Duration::from_secs(3));
        assert_eq!(timeout("0").unwrap(), Duration::MAX);
        assert_eq!(timeout("-1").unwrap(), Duration::MAX);
        assert_eq!(timeout("1.5").unwrap_err().kind(), Kind::Config);
    }

    proptest! {
        #[test]
        fn there_is_always_a_target_or_an_error(hosts in "[a-z/,. ]{0,20}", ports in "[0-9, ]{0,12}") {
            if let Ok(parameters) = read(&[("PGHOST", &hosts), ("PGPORT", &ports)]) {
                prop_assert!(!parameters.targets.is_empty());
            }
        }
    }
}
