//! From the variables of WAL-E or WAL-G to a configuration file of ours, with a remark on whatever is no setting.
//!
//! Pure: variables in, text out. Never shows a secret, and decides nothing that its reader has to decide.

use crate::config::foreign::{self, Fate, Foreign};
use crate::config::options::{PREFIX, TABLE};
use crate::config::row::{Role, Row};
use crate::config::sources::{Environment, of_variable};
use crate::error::Error;

/// What a variable comes to.
enum Finding {
    /// A setting: its key, and its values.
    Setting(&'static Row, Vec<String>),
    /// A variable that stays one.
    Kept(String),
    /// Something that its reader has to decide.
    Open(String),
    /// Nothing.
    Idle(String),
    /// Nobody knows.
    Unknown,
}

/// A configuration file, in TOML, of these variables; those that have nothing to do with backups are passed over.
pub fn file(variables: &Environment) -> String {
    let mut found: Vec<(&str, Finding)> =
        variables.iter().flat_map(|(name, value)| findings(name, value, variables)).collect();
    // What cannot be understood is told of the variable itself.
    for (name, value) in foreign::translated(variables).unwrap_or_default() {
        let row = TABLE.iter().find(|row| row.role == Role::Setting && row.variable() == name);
        found
            .push((name, row.map_or_else(|| Finding::Kept(kept(name, &value)), |row| setting(row, Ok(value.clone())))));
    }
    let mut text = String::from(HEAD);
    for row in TABLE {
        let of_row = found.iter().filter_map(|(name, finding)| match finding {
            Finding::Setting(other, texts) if other.name == row.name => Some((*name, texts)),
            _ => None,
        });
        let of_row: Vec<(&str, &Vec<String>)> = of_row.collect();
        let Some((_, texts)) = of_row.first() else { continue };
        let names: Vec<&str> = of_row.iter().map(|(name, _)| *name).collect();
        let agree = of_row.iter().all(|(_, other)| other == texts);
        let disagree = if agree { "" } else { ": these disagree, choose one" };
        text.push_str(&format!("\n# {}{disagree}\n{} = {}\n", names.join(", "), row.name, toml(row, texts)));
    }
    let is_set =
        |name: &str| found.iter().any(|(_, finding)| matches!(finding, Finding::Setting(row, _) if row.name == name));
    let encrypts = |name: &str| {
        matches!(foreign::fate(name), Some(Foreign { fate: Fate::Refused { unless: Some("encrypt-to"), .. }, .. }))
    };
    if found.iter().any(|(name, _)| encrypts(name)) && !is_set("encrypt-to") {
        text.push_str(ENCRYPTED);
    }
    if !is_set(PREFIX.row.name) {
        text.push_str("\n# Where the archive lies is not said by any variable.\n# prefix = \"s3://bucket/path\"\n");
    }
    let list = |title: &str, line: &dyn Fn(&str, &Finding) -> Option<String>| {
        let lines: Vec<String> = found.iter().filter_map(|(name, finding)| line(name, finding)).collect();
        if lines.is_empty() { String::new() } else { format!("\n# {title}\n{}\n", lines.join("\n")) }
    };
    text.push_str(&list(KEPT, &|_, finding| match finding {
        Finding::Kept(line) => Some(format!("#   {line}")),
        _ => None,
    }));
    text.push_str(&list(OPEN, &|name, finding| match finding {
        Finding::Open(line) => Some(format!("#   {name}: {line}")),
        _ => None,
    }));
    text.push_str(&list("Without meaning here:", &|name, finding| match finding {
        Finding::Idle(why) => Some(format!("#   {name}: {why}")),
        _ => None,
    }));
    text.push_str(&list("Not known; they may be misspelt:", &|name, finding| match finding {
        Finding::Unknown => Some(format!("#   {name}")),
        _ => None,
    }));
    text
}

const HEAD: &str = "\
# Settings of Walden, made of those of WAL-E or WAL-G. Name this file with --config or WALDEN_CONFIG.
# What WAL-E or WAL-G wrote under the same prefix is found there by itself; elsewhere, name it by legacy-prefix.
";

const KEPT: &str = "These stay variables: one file each in the directory of --envdir, for its owner alone:";

const OPEN: &str = "To be decided. Where these variables stay set, some verbs refuse to work until it is:";

/// A line that is refused as it stands.
const ENCRYPTED: &str = "
# What these variables had encrypted would be stored in the clear. Name a key here, which walden keygen makes, or take this
# line out if that is meant; as it is, it is refused.
encrypt-to = [\"to-be-decided\"]
";

fn findings<'a>(name: &'a str, value: &str, variables: &Environment) -> Vec<(&'a str, Finding)> {
    let mut found = Vec::new();
    for row in TABLE.iter().filter(|row| row.role == Role::Setting) {
        let converted = match row.aliases.iter().find(|alias| alias.name == name) {
            Some(alias) => (alias.convert)(value),
            None if row.variable() == name => Ok(value.to_owned()),
            None => continue,
        };
        found.push((name, setting(row, converted)));
    }
    match foreign::fate(name) {
        Some(foreign) => found.extend(judge(name, value, foreign, variables).map(|finding| (name, finding))),
        None if !found.is_empty() => {}
        None if name.starts_with("AWS_") || is_of_libpq(name) => found.push((name, Finding::Kept(kept(name, value)))),
        None if ["WALG_", "WALE_"].iter().any(|start| name.starts_with(start)) => found.push((name, Finding::Unknown)),
        None => {}
    }
    found
}

fn setting(row: &'static Row, converted: crate::error::Result<String>) -> Finding {
    let checked = converted.and_then(|text| {
        let texts = of_variable(row, &text);
        texts.iter().try_for_each(|text| row.check(text, &crate::config::Origin::Default))?;
        Ok(texts)
    });
    match checked {
        Ok(_) if row.secret => Finding::Open(format!("it is secret, and is {} here", row.variable())),
        Ok(texts) => Finding::Setting(row, texts),
        Err(error) => Finding::Open(sentence(&error)),
    }
}

fn judge(name: &str, value: &str, foreign: &Foreign, variables: &Environment) -> Option<Finding> {
    Some(match foreign.fate {
        _ if foreign.harmless.contains(&value) => Finding::Idle(String::from("it asks for nothing")),
        Fate::Translated => match foreign::translated(variables) {
            Err(error) => Finding::Open(sentence(&error)),
            Ok(_) => Finding::Idle(String::from("the variable of the AWS SDK for it is named above")),
        },
        Fate::Key if TABLE.iter().flat_map(|row| row.aliases).any(|alias| alias.name == name) => return None,
        Fate::Key => Finding::Kept(kept(name, value)),
        Fate::Refused { asks, instead, .. } => Finding::Open(format!("it asks for {asks}. {instead}")),
        Fate::Idle(why) => Finding::Idle(why.to_owned()),
    })
}

fn is_of_libpq(name: &str) -> bool {
    name.strip_prefix("PG").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_uppercase()))
}

fn kept(name: &str, value: &str) -> String {
    match is_secret(name) {
        true => format!("{name} (its value is secret, and not printed)"),
        false => format!("{name}={}", value.escape_debug()),
    }
}

/// Whether a variable's value must not be shown. The id of an access key is enough of a credential.
pub fn is_secret(name: &str) -> bool {
    let named_so = ["SECRET", "TOKEN", "PASSWORD", "PASSPHRASE"].iter().any(|word| name.contains(word));
    let key = matches!(
        name,
        "AWS_ACCESS_KEY_ID"
            | "WALG_LIBSODIUM_KEY"
            | "WALG_PGP_KEY"
            | "WALG_ENVELOPE_PGP_KEY"
            | "WALG_S3_SSE_C"
            | "S3_REQUEST_ADDITIONAL_HEADERS"
    );
    key || named_so && !name.ends_with("_FILE")
}

/// The error in one line, as a remark; it has been told never to quote what is secret.
fn sentence(error: &Error) -> String {
    let advice = error.advice().map_or(String::new(), |advice| format!(". {advice}"));
    format!("{error}{advice}").chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn toml(row: &Row, texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    match row.repeatable {
        true => format!("[{}]", quoted.join(", ")),
        false => quoted.into_iter().next().unwrap_or_default(),
    }
}

/// A basic string of TOML. Its escapes are those of JSON, which lets one control character pass.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sources::{Flags, load};
    use proptest::prelude::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    /// The settings of such a file, once it is decided what is to be encrypted.
    fn reloaded(text: &str) -> crate::config::Settings {
        let text = text.replace(ENCRYPTED, "");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("walden.toml");
        std::fs::write(&path, text).unwrap();
        load(Flags::from([("config", vec![path.to_str().unwrap().to_owned()])]), &Environment::default()).unwrap()
    }

    #[test]
    fn settings_secrets_refusals_and_what_has_no_meaning_are_told_apart() {
        let variables = environment(&[
            ("WALG_S3_PREFIX", "s3://b/p/"),
            ("WALE_S3_ENDPOINT", "http+path://h:1"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
            ("AWS_REGION", "eu-central-1"),
            ("WALG_LIBSODIUM_KEY", "hunter2hunter2hunter2hunter2"),
            ("WALG_DELTA_MAX_STEPS", "0"),
            ("WALG_COMPRESSION_METHOD", "brotli"),
            ("WALG_S3_SSE_C", "hunter2"),
            ("WALG_NONSENSE", "hunter2"),
            ("PGHOST", "/run"),
            ("PATH", "/bin"),
        ]);
        let text = file(&variables);
        assert!(!text.contains("hunter2"), "{text}");
        for line in [
            "# WALG_S3_PREFIX\nprefix = \"s3://b/p\"\n",
            "# WALE_S3_ENDPOINT\ns3-addressing = \"path\"\n",
            "#   AWS_REGION=eu-central-1\n",
            "#   AWS_SECRET_ACCESS_KEY (its value is secret, and not printed)\n",
            "#   AWS_ENDPOINT_URL_S3=http://h:1\n",
            "encrypt-to = [\"to-be-decided\"]\n",
            "#   PGHOST=/run\n",
            "#   WALG_DELTA_MAX_STEPS: it asks for nothing\n",
            "#   WALG_COMPRESSION_METHOD: Walden writes zstd",
            "#   WALG_LIBSODIUM_KEY: it asks for encryption",
            "#   WALG_NONSENSE\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(text.contains("WALG_S3_SSE_C: ") && !text.contains("PATH"), "{text}");
        assert_eq!(reloaded(&text).text(&PREFIX.row), Some("s3://b/p"));
    }

    #[test]
    fn what_disagrees_and_what_is_missing_is_said() {
        let text = file(&environment(&[("WALG_S3_PREFIX", "s3://a"), ("WALE_S3_PREFIX", "s3://b")]));
        assert!(text.contains("# WALE_S3_PREFIX, WALG_S3_PREFIX: these disagree, choose one\n"), "{text}");
        assert!(file(&Environment::default()).contains("# prefix = "));
    }

    proptest! {
        #[test]
        fn whatever_it_is_made_of_it_is_a_file_that_can_be_loaded(
            values in prop::collection::vec(".{0,20}", 8), prefix in "s3://[a-z]{1,9}(/[a-z \"\\\\#é]{1,9})?",
        ) {
            let names = ["WALG_S3_SSE", "WALG_S3_STORAGE_CLASS", "WALG_LIBSODIUM_KEY_PATH", "WALG_GPG_KEY_ID", "AWS_REGION",
                         "WALG_LOG_LEVEL", "PGHOST", "WALE_S3_ENDPOINT"];
            let mut variables: Vec<(String, String)> = names.iter().map(|name| (*name).to_owned()).zip(values).collect();
            variables.push((String::from("WALG_S3_PREFIX"), prefix));
            let text = file(&variables.into_iter().collect());
            reloaded(&text);
        }
    }
}
