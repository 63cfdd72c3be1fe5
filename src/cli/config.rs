//! What `walden config` prints: every setting with its value and where that comes from, and the variables that belong to
//! the AWS SDK and to libpq. Returns text; never shows a secret.

use comfy_table::{Table, presets};
use serde_json::{Value, json};

use crate::config::Settings;
use crate::config::foreign;
use crate::config::migration::is_secret;
use crate::config::options::TABLE;
use crate::config::row::{Role, Row};
use crate::config::sources::Environment;

const MASK: &str = "****";

struct Line {
    name: String,
    value: Option<String>,
    origin: Option<String>,
}

/// For people: a table.
pub fn table(settings: &Settings, environment: &Environment) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["name", "value", "origin"]);
    for Line { name, value, origin } in lines(settings, environment) {
        table.add_row([name, value.unwrap_or_default(), origin.unwrap_or_else(|| String::from("not set"))]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// For programs: an array of objects with the strings `name`, `value` and `origin`, the latter two null where nothing
/// is set.
pub fn json(settings: &Settings, environment: &Environment) -> String {
    let lines = lines(settings, environment);
    let object = |Line { name, value, origin }| json!({ "name": name, "value": value, "origin": origin });
    format!("{:#}", Value::Array(lines.map(object).collect()))
}

fn lines(settings: &Settings, environment: &Environment) -> impl Iterator<Item = Line> {
    let ours = TABLE.iter().filter(|row| row.role != Role::Argument).map(|row| own(row, settings));
    let foreign = environment.iter().filter(|(name, _)| is_foreign(name)).map(|(name, value)| Line {
        name: name.to_owned(),
        value: Some(masked(name, value)),
        origin: Some(environment.origin(name).to_string()),
    });
    ours.chain(foreign)
}

fn own(row: &Row, settings: &Settings) -> Line {
    let all = settings.texts(row).collect::<Vec<_>>().join(" ");
    let value = Some(all).filter(|all| !all.is_empty()).or(row.default.map(str::to_owned));
    Line {
        name: row.name.to_owned(),
        value: value.map(|value| if row.secret { MASK.to_owned() } else { value }),
        origin: settings.origin(row).map(|origin| origin.to_string()),
    }
}

fn is_foreign(name: &str) -> bool {
    name.starts_with("AWS_") || name.starts_with("PG") || foreign::fate(name).is_some()
}

/// An access key's id is public, but it is enough of a credential to be shown only as far as it takes to recognise it.
fn masked(name: &str, value: &str) -> String {
    match name {
        "AWS_ACCESS_KEY_ID" if value.is_ascii() && value.len() >= 16 => {
            format!("{}…{}", &value[..4], &value[value.len() - 2..])
        }
        "AWS_ACCESS_KEY_ID" => MASK.to_owned(),
        _ if is_secret(name) => MASK.to_owned(),
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sources::{Flags, load};
    use proptest::prelude::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn every_setting_is_shown_with_its_value_and_origin_and_without_a_prefix() {
        let environment = environment(&[("WALDEN_WORKERS", "3")]);
        let settings = load(Flags::new(), &environment).unwrap();
        let table = table(&settings, &environment);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(lines.contains(&vec!["workers", "3", "variable", "WALDEN_WORKERS"]), "{table}");
        assert!(lines.contains(&vec!["part-size", "32MiB", "default"]), "{table}");
        assert!(lines.contains(&vec!["prefix", "not", "set"]), "{table}");
    }

    #[test]
    fn json_has_one_object_for_each_setting_and_foreign_variable() {
        let environment = environment(&[("AWS_REGION", "eu-central-1"), ("PGHOST", "/run"), ("HOME", "/root")]);
        let text = json(&Settings::default(), &environment);
        let values: Vec<Value> = serde_json::from_str(&text).unwrap();
        let rows = TABLE.iter().filter(|row| row.role != Role::Argument).count();
        assert_eq!(values.len(), rows + 2);
        assert!(values.contains(&json!({ "name": "prefix", "value": null, "origin": null })));
        assert!(
            values.contains(&json!({ "name": "AWS_REGION", "value": "eu-central-1", "origin": "variable AWS_REGION" }))
        );
    }

    proptest! {
        #[test]
        fn no_secret_is_ever_printed(secret in "[a-zA-Z0-9/+]{20,40}") {
            let names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PGPASSWORD", "PGSSLPASSWORD"];
            let set: Vec<(&str, &str)> = names.iter().map(|name| (*name, secret.as_str())).collect();
            let environment = environment(&set);
            let settings = Settings::default();
            for text in [table(&settings, &environment), json(&settings, &environment)] {
                prop_assert!(!text.contains(&secret[..8]));
                prop_assert!(names.iter().all(|name| text.contains(name)));
            }
        }
    }

    #[test]
    fn what_helps_to_recognise_credentials_is_shown() {
        assert_eq!(masked("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"), "AKIA…LE");
        assert_eq!(masked("AWS_ACCESS_KEY_ID", "minio"), "****");
        assert_eq!(masked("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token"), "/var/run/token");
        assert_eq!(masked("PGPASSFILE", "/root/.pgpass"), "/root/.pgpass");
    }

    #[test]
    fn a_secret_setting_is_masked() {
        let mut row = *TABLE[0];
        row.secret = true;
        let flags = Flags::from([(row.name, vec!["s3://hidden".to_owned()])]);
        let settings = load(flags, &Environment::default()).unwrap();
        assert_eq!(own(&row, &settings).value.as_deref(), Some(MASK));
    }
}
