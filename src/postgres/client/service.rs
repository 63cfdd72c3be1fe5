//! Connection service files (PostgreSQL documentation, "The Connection Service File"; `parseServiceInfo` and
//! `parseServiceFile` in src/interfaces/libpq/fe-connect.c).
//!
//! Turns a service into the variables that ask for the same.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::parameters::Environment;
use crate::error::{Context, Error, Kind, Result};

/// Where the system's service file is looked for if `PGSYSCONFDIR` does not say so: as Debian builds PostgreSQL, as Red Hat
/// does, and as its source has it.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/etc/postgresql-common", "/etc", "/usr/local/pgsql/etc"];

/// The keywords of a connection that variables can say as well (`PQconninfoOptions` in
/// src/interfaces/libpq/fe-connect.c), with the variable.
const VARIABLES: [(&str, &str); 35] = [
    ("application_name", "PGAPPNAME"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("dbname", "PGDATABASE"),
    ("gssencmode", "PGGSSENCMODE"),
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    ("options", "PGOPTIONS"),
    ("passfile", "PGPASSFILE"),
    ("password", "PGPASSWORD"),
    ("port", "PGPORT"),
    ("require_auth", "PGREQUIREAUTH"),
    ("requirepeer", "PGREQUIREPEER"),
    ("requiressl", "PGREQUIRESSL"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("sslcert", "PGSSLCERT"),
    ("sslcertmode", "PGSSLCERTMODE"),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("sslkey", "PGSSLKEY"),
    ("sslmode", "PGSSLMODE"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("user", "PGUSER"),
    // How a session is coded and kept alive is Walden's own matter.
    ("client_encoding", ""),
    ("fallback_application_name", ""),
    ("keepalives", ""),
    ("keepalives_count", ""),
    ("keepalives_idle", ""),
    ("keepalives_interval", ""),
    ("sslsni", ""),
    ("tcp_user_timeout", ""),
];

/// The keyword that asks for the same as this variable.
pub(super) fn keyword(variable: &str) -> &str {
    VARIABLES.iter().find(|(_, name)| *name == variable).map_or(variable, |(keyword, _)| keyword)
}

/// The environment with what the service that `PGSERVICE` names says in place of the variables, as in libpq. Without
/// `PGSERVICE` it is what it was.
///
/// # Errors
/// [`Kind::Config`] if no file has the service, or it says what Walden does not know; [`Kind::Local`] if a file cannot be
/// read.
pub(super) fn resolved(environment: &Environment) -> Result<Environment> {
    let variable = |name: &str| environment.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let mut resolved = environment.clone();
    let Some(service) = variable("PGSERVICE") else { return Ok(resolved) };
    resolved.remove("PGSERVICE");
    let own = match variable("PGSERVICEFILE") {
        Some(file) => Some(PathBuf::from(file)),
        None => variable("HOME").map(|home| Path::new(home).join(".pg_service.conf")),
    };
    let system: Vec<&str> = variable("PGSYSCONFDIR").map_or(SYSTEM_DIRECTORIES.to_vec(), |directory| vec![directory]);
    let system = system.iter().map(|directory| Path::new(directory).join("pg_service.conf"));
    let files: Vec<PathBuf> = own.into_iter().chain(system).collect();
    for file in &files {
        let what = || format!("could not use service file \"{}\"", file.display());
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            // A file that was named must be there.
            Err(error) if error.kind() == ErrorKind::NotFound && variable("PGSERVICEFILE") != file.to_str() => continue,
            Err(error) => return Err(error).during(what),
        };
        if let Some(settings) = find(&text, service).during(what)? {
            resolved.extend(settings);
            return Ok(resolved);
        }
    }
    let looked: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    Err(Error::new(Kind::Config, format!("there is no service \"{service}\""))
        .detail(format!("PGSERVICE asks for it; looked in {}", looked.join(", ")))
        .hint(format!(
            "Add a section [{service}] with host, port and user to one of these files, or set PGHOST instead."
        )))
}

/// The variables that the service's section asks for; `None` if there is no such section.
fn find(text: &str, service: &str) -> Result<Option<Vec<(String, String)>>> {
    let mut lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    let header = format!("[{service}]");
    if !lines.by_ref().any(|(_, line)| line == header) {
        return Ok(None);
    }
    let told = lines
        .take_while(|(_, line)| !line.starts_with('['))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let mut settings: Vec<(String, String)> = Vec::new();
    for (number, line) in told {
        let (keyword, value) = line.split_once('=').ok_or_else(|| refused(number, line, "has no equals sign"))?;
        let known = VARIABLES.iter().find(|(known, _)| *known == keyword);
        let (_, name) = known.ok_or_else(|| refused(number, keyword, "is not a keyword that Walden knows"))?;
        // The first word counts.
        if !name.is_empty() && !settings.iter().any(|(said, _)| said == name) {
            settings.push(((*name).to_owned(), value.to_owned()));
        }
    }
    Ok(Some(settings))
}

fn refused(line: usize, text: &str, why: &str) -> Error {
    Error::new(Kind::Config, format!("line {line} {why}")).detail(format!("it says \"{text}\"")).hint(
        "Write lines such as host=db.example.net, without blanks around the equals sign; see \"The Connection Service \
               File\" in PostgreSQL's documentation.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# ours\n[other]\nhost=elsewhere\n\n[main]\n# with blanks\n  host=db.example.net  \nport=6432\nuser=backup\n\
                        dbname=a=b\nport=1\n[last]\nsslmode=verify-full\n";

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn a_section_is_what_stands_up_to_the_next_and_its_first_word_counts() {
        let found = find(FILE, "main").unwrap().unwrap();
        let said: Vec<(&str, &str)> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let wanted = [("PGHOST", "db.example.net"), ("PGPORT", "6432"), ("PGUSER", "backup"), ("PGDATABASE", "a=b")];
        assert_eq!(said, wanted);
        assert_eq!(find(FILE, "last").unwrap().unwrap(), [("PGSSLMODE".to_owned(), "verify-full".to_owned())]);
        assert!(find(FILE, "none").unwrap().is_none());
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_line() {
        for (text, told) in [
            ("[s]\nhots=a", "line 2"),
            ("[s]\n\nhost", "line 3"),
            ("[s]\nservice=t", "line 2"),
            ("[s]\nhost = a", "line 2"),
        ] {
            let error = find(text, "s").unwrap_err();
            assert!(error.kind() == Kind::Config && error.what().contains(told), "{error:?}");
        }
        // Nobody asked for that section.
        assert!(find("[s]\nhots=a\n[t]\nhost=b", "t").unwrap().is_some());
    }

    #[test]
    fn the_own_file_comes_before_the_systems_and_the_service_before_variables() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        let place = home.path().to_str().unwrap();
        let known = [
            ("PGSERVICE", "main"),
            ("PGHOST", "a"),
            ("PGSSLMODE", "require"),
            ("HOME", place),
            ("PGSYSCONFDIR", place),
        ];
        let missing = resolved(&environment(&known)).unwrap_err();
        assert!(missing.kind() == Kind::Config && missing.what().contains("\"main\""), "{missing:?}");

        fs::write(path("pg_service.conf"), FILE).unwrap();
        let found = resolved(&environment(&known)).unwrap();
        assert_eq!((found["PGHOST"].as_str(), found["PGSSLMODE"].as_str()), ("db.example.net", "require"));
        assert!(!found.contains_key("PGSERVICE"));

        fs::write(path(".pg_service.conf"), "[main]\nhost=own\n").unwrap();
        assert_eq!(resolved(&environment(&known)).unwrap()["PGHOST"], "own");
        let absent = path("absent");
        let named = [&known[..], &[("PGSERVICEFILE", absent.to_str().unwrap())]].concat();
        assert_eq!(resolved(&environment(&named)).unwrap_err().kind(), Kind::Local);
    }

    #[test]
    fn without_a_service_nothing_changes() {
        let known = environment(&[("PGHOST", "a"), ("PGSERVICE", ""), ("PGSERVICEFILE", "/absent")]);
        assert_eq!(resolved(&known).unwrap(), known);
    }
}
