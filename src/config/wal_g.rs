//! What WAL-G and WAL-E are configured by, as variables: WAL-G's configuration file, and lines of a shell.
//!
//! WAL-G takes each key of its file for a variable of the same name, whatever case it is in, and the environment wins over
//! it (spf13/viper). Reads one file, and knows no variable.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;

use crate::config::sources::{MAX_FILE, read_bounded};
use crate::error::{Context, Error, Kind, Result};

/// The variable by which WAL-G is told where its file is.
pub const PATH_VARIABLE: &str = "WALG_CONFIG_PATH";

/// Whether this is the name of a file of WAL-G's, and not of ours, which is TOML.
pub fn is_wal_g(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    ["json", "yaml", "yml"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// The variables in a configuration file of WAL-G, JSON or YAML; in any other file, in lines `NAME=value` as a shell has
/// them. Sorted by name.
///
/// # Errors
/// [`Kind::Config`] for what cannot be understood, never quoting a value: some are secret. A file that cannot be read is an
/// error of the local machine.
pub fn read(path: &Path) -> Result<Vec<(String, String)>> {
    let shown = path.display();
    let bytes = read_bounded(path, MAX_FILE).during(|| format!("could not read the configuration file {shown}"))?;
    let refused = |detail: String| {
        Error::new(Kind::Config, format!("could not understand the configuration file {shown}")).detail(detail)
    };
    let text = String::from_utf8(bytes).map_err(|_| refused(String::from("it is not UTF-8")))?;
    let variables = if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        of_json(&text)
    } else if is_wal_g(path) {
        of_yaml(&text)
    } else {
        of_lines(&text)
    };
    variables.map(|variables| variables.into_iter().collect()).map_err(refused)
}

type Variables = BTreeMap<String, String>;

fn of_json(text: &str) -> Result<Variables, String> {
    let map: BTreeMap<String, Json> = serde_json::from_str(text)
        .map_err(|error| format!("line {}, column {}: it is not a JSON object", error.line(), error.column()))?;
    let mut variables = Variables::new();
    for (key, value) in map {
        let text = match value {
            Json::Null => continue,
            Json::String(text) => text,
            Json::Number(number) => number.to_string(),
            Json::Bool(flag) => flag.to_string(),
            Json::Object(_) if is_nested(&key) => String::from(NESTED),
            Json::Array(_) | Json::Object(_) => return Err(nested(&key)),
        };
        variables.insert(key.to_uppercase(), text);
    }
    Ok(variables)
}

fn of_yaml(text: &str) -> Result<Variables, String> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Variables::new());
    }
    let map: Keys = serde_saphyr::from_str(text).map_err(|error| match error.location() {
        Some(place) => format!("line {}: it is not a list of keys with a plain value each", place.line()),
        None => String::from("it is not a list of keys with a plain value each"),
    })?;
    Ok(map.0)
}

/// The one key of WAL-G's that has keys of its own (its docs/README.md, "WALG_FAILOVER_STORAGES").
fn is_nested(key: &str) -> bool {
    key.eq_ignore_ascii_case("WALG_FAILOVER_STORAGES")
}

/// What stands for its value, of which nobody reads more than that it is there.
const NESTED: &str = "{...}";

/// Keys with plain values.
struct Keys(Variables);

impl<'de> serde::Deserialize<'de> for Keys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Keys, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Keys;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("keys with plain values")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut variables = Variables::new();
                while let Some(key) = map.next_key::<String>()? {
                    if is_nested(&key) {
                        map.next_value::<serde::de::IgnoredAny>()?;
                        variables.insert(key.to_uppercase(), NESTED.to_owned());
                    } else if let Scalar(Some(value)) = map.next_value()? {
                        variables.insert(key.to_uppercase(), value);
                    }
                }
                Ok(Keys(variables))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// The text of a plain value, as it is written; nothing for null.
struct Scalar(Option<String>);

impl<'de> serde::Deserialize<'de> for Scalar {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        Option::<String>::deserialize(deserializer).map(Scalar)
    }
}

fn nested(key: &str) -> String {
    format!("key {key} has no plain value")
}

/// `NAME=value` or `export NAME=value`, the value quoted as a shell would have it; blank lines and comments are passed over.
fn of_lines(text: &str) -> Result<Variables, String> {
    let mut variables = Variables::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words = shlex::split(line).unwrap_or_default();
        let assignment = match words.as_slice() {
            [assignment] => assignment.split_once('='),
            [export, assignment] if export == "export" => assignment.split_once('='),
            _ => None,
        };
        let is_name =
            |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        match assignment.filter(|(name, _)| is_name(name)) {
            Some((name, value)) => drop(variables.insert(name.to_owned(), value.to_owned())),
            None => return Err(format!("line {number} is not NAME=value")),
        }
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(variables: Result<Variables, String>) -> Vec<(String, String)> {
        variables.unwrap().into_iter().collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn keys_of_json_and_yaml_are_variables_with_their_values_as_they_are_written() {
        let expected = [
            pair("AWS_S3_FORCE_PATH_STYLE", "true"),
            pair("PGPORT", "5432"),
            pair("WALG_LIBSODIUM_KEY", "0123"),
            pair("WALG_S3_PREFIX", "s3://b/p"),
        ];
        let json = r#"{"WALG_S3_PREFIX": "s3://b/p", "pgport": 5432, "AWS_S3_FORCE_PATH_STYLE": true, "X": null,
                       "WALG_LIBSODIUM_KEY": "0123"}"#;
        assert_eq!(pairs(of_json(json)), expected);
        let yaml = "# WAL-G\nWALG_S3_PREFIX: s3://b/p\npgport: 5432\nAWS_S3_FORCE_PATH_STYLE: true\nX: ~\n\
                    WALG_LIBSODIUM_KEY: \"0123\"\n";
        assert_eq!(pairs(of_yaml(yaml)), expected);
        assert_eq!(pairs(of_yaml("# nothing\n\n")), []);
    }

    #[test]
    fn of_other_stores_it_is_known_that_there_are_some() {
        let expected = [pair("WALG_FAILOVER_STORAGES", NESTED), pair("WALG_S3_PREFIX", "s3://b/p")];
        let json = r#"{"walg_failover_storages": {"a": {"AWS_REGION": "x"}}, "WALG_S3_PREFIX": "s3://b/p"}"#;
        assert_eq!(pairs(of_json(json)), expected);
        let yaml = "WALG_FAILOVER_STORAGES:\n  a:\n    AWS_REGION: x\nWALG_S3_PREFIX: s3://b/p\n";
        assert_eq!(pairs(of_yaml(yaml)), expected);
    }

    #[test]
    fn lines_of_a_shell_are_read_as_a_shell_reads_them() {
        let text = "# old\nexport WALG_S3_PREFIX='s3://b/a b'\n\nAWS_REGION=eu-central-1\nEMPTY=\n";
        let expected = [pair("AWS_REGION", "eu-central-1"), pair("EMPTY", ""), pair("WALG_S3_PREFIX", "s3://b/a b")];
        assert_eq!(pairs(of_lines(text)), expected);
    }

    #[test]
    fn what_cannot_be_understood_is_refused_without_its_value() {
        for outcome in [
            of_json("{\"A\": {\"hunter2\": 1}}"),
            of_json("[\"hunter2\"]"),
            of_yaml("A:\n  B: hunter2\n"),
            of_yaml("- hunter2\n"),
            of_lines("hunter2"),
            of_lines("A=1 hunter2"),
            of_lines("A='hunter2"),
        ] {
            assert!(!outcome.unwrap_err().contains("hunter2"));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in ".{0,60}|[a-zA-Z:{}\\[\\]\", \n-]{0,60}") {
            let _ = (of_json(&text), of_yaml(&text), of_lines(&text));
        }
    }
}
