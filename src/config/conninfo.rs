//! What a standby streams from: libpq's connection strings, and the names of replication slots.
//!
//! Pure. A connection string is understood as far as to tell a misspelt one, and a password in it; it is libpq that reads
//! it in the end. No error quotes a value, which may be a password.

use crate::config::value::Value;
use crate::error::{Error, Kind, Result};

/// The keywords that libpq knows, of all versions from 13 to 18 (`PQconninfoOptions` in
/// src/interfaces/libpq/fe-connect.c).
const KEYWORDS: [&str; 50] = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "options",
    "passfile",
    "password",
    "port",
    "replication",
    "require_auth",
    "requirepeer",
    "scram_client_key",
    "scram_server_key",
    "service",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslkeylogfile",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// Keywords whose values nobody may read.
const SECRETS: [&str; 5] = ["password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"];

/// A connection string of libpq, as words or as a URI. Its text is as it was given.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionString {
    text: String,
    secret: bool,
}

impl ConnectionString {
    /// As libpq reads it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Is a password, or something as secret, written in it?
    pub fn holds_secret(&self) -> bool {
        self.secret
    }
}

impl std::fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.secret { "ConnectionString(with a secret)" } else { &self.text })
    }
}

impl Value for ConnectionString {
    fn read(text: &str) -> Result<ConnectionString> {
        let uri = ["postgresql://", "postgres://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        let keywords = match uri {
            Some(rest) => uri_keywords(rest),
            None => keywords(text),
        };
        let refused = |what: String| {
            Error::new(Kind::Usage, what).hint(
                "Write it as for libpq: --primary-conninfo 'host=primary user=replicator', values with spaces in single \
                 quotes.",
            )
        };
        let keywords = keywords.map_err(refused)?;
        if let Some(unknown) = keywords.iter().find(|keyword| !KEYWORDS.contains(&keyword.as_str())) {
            return Err(refused(format!("libpq has no parameter \"{}\"", unknown.escape_debug())));
        }
        if keywords.is_empty() {
            return Err(refused("the connection string says nothing".to_owned()));
        }
        let secret = keywords.iter().any(|keyword| SECRETS.contains(&keyword.as_str()));
        Ok(ConnectionString { text: text.to_owned(), secret })
    }
}

/// The keywords of `keyword = value ...`, read as libpq reads them (`conninfo_parse` in fe-connect.c).
fn keywords(text: &str) -> Result<Vec<String>, String> {
    let mut keywords = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or(rest.len());
        let (keyword, after) = rest.split_at(end);
        let Some(value) = after.trim_start().strip_prefix('=') else {
            // It may be a piece of a password with a space in it.
            return Err(format!("after {} an equals sign is missing", last_of(&keywords)));
        };
        rest = skip_value(value.trim_start()).ok_or(format!("the value of \"{keyword}\" does not end"))?.trim_start();
        keywords.push(keyword.to_owned());
    }
    Ok(keywords)
}

fn last_of(keywords: &[String]) -> String {
    keywords.last().map_or("the first word".to_owned(), |last| format!("what follows the value of \"{last}\""))
}

/// What comes after a value; `None` if its quotes are not closed.
fn skip_value(text: &str) -> Option<&str> {
    let quoted = text.strip_prefix('\'');
    let inner = quoted.unwrap_or(text);
    let mut characters = inner.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            '\'' if quoted.is_some() => return Some(&inner[at + 1..]),
            c if c.is_ascii_whitespace() && quoted.is_none() => return Some(&inner[at..]),
            _ => {}
        }
    }
    quoted.is_none().then_some("")
}

/// The keywords that `user:password@host/dbname?keyword=value&...` stands for.
fn uri_keywords(rest: &str) -> Result<Vec<String>, String> {
    let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let mut keywords = vec!["host".to_owned()];
    if let Some((user, _)) = place.rsplit_once('@') {
        keywords.push("user".to_owned());
        if user.contains(':') {
            keywords.push("password".to_owned());
        }
    }
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            // Two that URIs have besides (`conninfo_uri_parse_params`).
            Some(("ssl", _)) => keywords.push("sslmode".to_owned()),
            Some((keyword, _)) => keywords.push(keyword.to_owned()),
            None => return Err("a parameter of the URI has no equals sign".to_owned()),
        }
    }
    Ok(keywords)
}

/// The name of a replication slot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotName(String);

/// The longest name that PostgreSQL takes (`NAMEDATALEN` less its NUL).
const LONGEST_SLOT: usize = 63;

impl SlotName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for SlotName {
    /// As PostgreSQL wants it (`ReplicationSlotValidateName` in src/backend/replication/slot.c).
    fn read(text: &str) -> Result<SlotName> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let legal = (1..=LONGEST_SLOT).contains(&text.len()) && text.bytes().all(letter);
        legal.then(|| SlotName(text.to_owned())).ok_or_else(|| {
            Error::new(Kind::Usage, format!("\"{}\" is not the name of a replication slot", text.escape_debug()))
                .hint("Write 1 to 63 lower case letters, digits and underscores, such as --slot standby_1.")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn connection_strings_are_taken_as_libpq_takes_them() {
        for (text, secret) in [
            ("host=primary user=replicator", false),
            (" host = '/tmp/a b' port=5433 ", false),
            (r"host=a\ b application_name='it\'s'", false),
            ("host=a,b port=1,2 target_session_attrs=read-write", false),
            ("passfile=/etc/pgpass service=main", false),
            ("host=a password=x", true),
            ("host=a sslpassword=''", true),
            ("postgresql://replicator@primary:5433/?sslmode=verify-full", false),
            ("postgres://%2Ftmp", false),
            ("postgres://u:p@h", true),
            ("postgres://u@h/?password=x", true),
        ] {
            let read = ConnectionString::read(text).unwrap();
            assert_eq!((read.as_str(), read.holds_secret()), (text, secret));
        }
    }

    #[test]
    fn what_libpq_would_refuse_is_refused_and_no_value_is_quoted() {
        for text in [
            "",
            " ",
            "primary",
            "host=a hunter2",
            "host=a pasword=hunter2",
            "host='hunter2",
            "password=hunter2 x",
            "postgres://u@h/?pass=hunter2",
            "postgres://u@h/?hunter2",
        ] {
            let error = ConnectionString::read(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{text:?}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        assert_eq!(ConnectionString::read("pasword=x").unwrap_err().what(), "libpq has no parameter \"pasword\"");
        let debug = format!("{:?}", ConnectionString::read("password=hunter2").unwrap());
        assert!(!debug.contains("hunter2"), "{debug}");
    }

    #[test]
    fn slots_are_named_as_postgresql_wants_it() {
        assert_eq!(SlotName::read("standby_1").unwrap().as_str(), "standby_1");
        for text in ["", "Standby", "a-b", "a b", &"x".repeat(64)] {
            assert!(SlotName::read(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_value_can_be_written_in_quotes(value in "[^\\x00]{0,20}", keyword in prop::sample::select(&KEYWORDS[..])) {
            let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
            let read = keywords(&format!("{keyword}='{quoted}' port=1")).unwrap();
            prop_assert_eq!(read, [keyword, "port"]);
        }

        #[test]
        fn no_text_makes_a_reader_panic(text in ".{0,32}|[a-z=' \\\\:/?&@]{0,32}") {
            let _ = (ConnectionString::read(&text), SlotName::read(&text));
        }
    }
}
