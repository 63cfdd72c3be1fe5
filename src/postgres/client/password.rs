//! The password file (PostgreSQL documentation, "The Password File"; `passwordFromFile` in
//! src/interfaces/libpq/fe-connect.c).
//!
//! Never fails: a file that libpq would ignore is ignored with a warning, and the server then says that it wants a
//! password.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::postgres::client::parameters::{Host, Parameters, SOCKET_DIRECTORIES, Target};

/// The password for this target and database: `PGPASSWORD`, else the first line of the password file that fits.
pub(super) fn password(parameters: &Parameters, target: &Target, database: &str) -> Option<String> {
    let from_file = || {
        let text = read(parameters.password_file.as_deref()?)?;
        let port = target.port.to_string();
        find(&text, [&host_name(&target.host), &port, database, &parameters.user])
    };
    parameters.password.clone().or_else(from_file)
}

/// The sockets in the usual directories are called `localhost`, others by their directory.
fn host_name(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Socket(path) if SOCKET_DIRECTORIES.iter().any(|usual| path == Path::new(usual)) => "localhost".into(),
        Host::Socket(path) => path.to_string_lossy().into_owned(),
    }
}

fn read(path: &Path) -> Option<String> {
    let ignored = |why: &str| {
        tracing::warn!("password file \"{}\" is ignored: {why}", path.display());
        None
    };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => return ignored(&error.to_string()),
    };
    if !metadata.is_file() {
        return ignored("it is not a plain file");
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return ignored("its group or others have access; it must have the mode 0600 or less");
    }
    match fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) => ignored(&error.to_string()),
    }
}

/// The password of the first line whose host, port, database and user fit.
fn find(text: &str, wanted: [&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for wanted in wanted {
            let (field, after) = rest.split_at_checked(field_length(rest))?;
            rest = after.strip_prefix(':')?;
            if field != "*" && unescape(field) != wanted {
                return None;
            }
        }
        Some(unescape(&rest[..field_length(rest)]))
    })
}

/// The length of the field that `text` begins with: up to a colon without a backslash before it.
fn field_length(text: &str) -> usize {
    let mut escaped = false;
    text.find(|character| {
        let ends = character == ':' && !escaped;
        escaped = character == '\\' && !escaped;
        ends
    })
    .unwrap_or(text.len())
}

/// Takes the backslash from each pair of a backslash and a character.
fn unescape(field: &str) -> String {
    let mut characters = field.chars();
    std::iter::from_fn(|| match characters.next()? {
        '\\' => Some(characters.next().unwrap_or('\\')),
        other => Some(other),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escape(field: &str) -> String {
        field.replace('\\', "\\\\").replace(':', "\\:")
    }

    #[test]
    fn the_first_line_that_fits_wins() {
        let text = "# a comment\n\ndb:5432:*:ann:first\n*:*:*:ann:second\n*:*:*:*:third\n";
        assert_eq!(find(text, ["db", "5432", "postgres", "ann"]).as_deref(), Some("first"));
        assert_eq!(find(text, ["db", "5433", "postgres", "ann"]).as_deref(), Some("second"));
        assert_eq!(find(text, ["db", "5432", "postgres", "bob"]).as_deref(), Some("third"));
        assert_eq!(find("db:5432:x:ann:no", ["db", "5432", "postgres", "ann"]), None);
        assert_eq!(find("db:5432:*:ann", ["db", "5432", "postgres", "ann"]), None);
    }

    #[test]
    fn an_escaped_star_is_a_star() {
        assert_eq!(find("\\*:1:*:*:x", ["db", "1", "d", "u"]), None);
        assert_eq!(find("\\*:1:*:*:x", ["*", "1", "d", "u"]).as_deref(), Some("x"));
    }

    #[test]
    fn only_the_usual_sockets_are_localhost() {
        assert_eq!(host_name(&Host::Socket("/var/run/postgresql".into())), "localhost");
        assert_eq!(host_name(&Host::Socket("/run/mine".into())), "/run/mine");
        assert_eq!(host_name(&Host::Tcp("db".into())), "db");
    }

    #[test]
    fn a_file_that_others_can_read_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        fs::write(&path, "*:*:*:*:secret").unwrap();
        for (mode, read_it) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path).is_some(), read_it, "{mode:o}");
        }
        assert_eq!(read(directory.path()), None);
        assert_eq!(read(&directory.path().join("absent")), None);
    }

    proptest! {
        #[test]
        fn escaped_fields_are_found_again(fields in prop::array::uniform5("[a-z:\\\\é#]{1,8}")) {
            let line = fields.each_ref().map(|field| escape(field)).join(":");
            let [host, port, database, user, password] = &fields;
            // A host that begins with "#" makes the line a comment, as in libpq.
            let expected = (!host.starts_with('#')).then_some(password.as_str());
            let found = find(&line, [host, port, database, user]);
            prop_assert_eq!(found.as_deref(), expected);
            prop_assert_eq!(find(&line, [host, port, database, "someone else"]), None);
        }

        #[test]
        fn find_never_panics(text in "[a:*\\\\é#\n]{0,60}") {
            let _ = find(&text, ["a", "a", "a", "a"]);
        }
    }
}
