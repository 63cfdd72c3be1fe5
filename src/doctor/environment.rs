//! Variables that are not ours, and that their owners will pass over without a word: misspelt ones.

use crate::config::foreign;
use crate::postgres::client::Environment;
use crate::storage::examination::Finding;

/// What the AWS SDK reads (AWS SDKs and Tools Reference Guide, "Environment variables support").
const OF_AWS: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_DEFAULT_REGION",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

/// What libpq reads and Walden heeds, and what other programs of PostgreSQL's read (PostgreSQL documentation, "Environment
/// Variables" of libpq).
const OF_POSTGRES: &[&str] = &[
    "PGAPPNAME",
    "PGCONNECT_TIMEOUT",
    "PGDATA",
    "PGDATABASE",
    "PGHOST",
    "PGHOSTADDR",
    "PGOPTIONS",
    "PGPASSFILE",
    "PGPASSWORD",
    "PGPORT",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGSSLCERT",
    "PGSSLCRL",
    "PGSSLKEY",
    "PGSSLMODE",
    "PGSSLROOTCERT",
    "PGSYSCONFDIR",
    "PGTZ",
    "PGUSER",
];

/// Looks at the names, and at no value.
pub(super) fn look(variables: &Environment) -> Finding {
    let check = "environment";
    let misspelt: Vec<(&str, &str)> =
        variables.keys().filter_map(|name| Some((name.as_str(), meant_by(name)?))).collect();
    if misspelt.is_empty() {
        return Finding::good(check, "no variable of AWS or of libpq looks misspelt");
    }
    let names: Vec<&str> = misspelt.iter().map(|(name, _)| *name).collect();
    let meant: Vec<&str> = misspelt.iter().map(|(_, meant)| *meant).collect();
    let found = format!("nobody reads {}", names.join(", "));
    Finding::limited(check, found, format!("Did you mean {}?", meant.join(", ")))
}

/// The name that this one misses by a letter, or by two if it is long; only names of the same owner are near.
fn meant_by(name: &str) -> Option<&'static str> {
    let known = match name {
        _ if name.starts_with("AWS") => OF_AWS,
        _ if name.starts_with("PG") => OF_POSTGRES,
        _ => return None,
    };
    if known.contains(&name) || foreign::fate(name).is_some() {
        return None;
    }
    let bearable = if name.len() < 10 { 1 } else { 2 };
    let distance = |known: &&str| strsim::osa_distance(known, &name.to_ascii_uppercase());
    known.iter().copied().min_by_key(distance).filter(|nearest| distance(nearest) <= bearable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::examination::Outcome;

    fn outcome(names: &[&str]) -> Outcome {
        look(&names.iter().map(|name| (name.to_string(), String::from("x"))).collect()).outcome
    }

    #[test]
    fn misspelt_names_are_told_with_the_nearest_and_others_are_left_alone() {
        for (name, meant) in [
            ("AWS_REGOIN", "Did you mean AWS_REGION?"),
            ("AWS_ACCES_KEY_ID", "Did you mean AWS_ACCESS_KEY_ID?"),
            ("AWS_ENDPOINT_URL_S", "Did you mean AWS_ENDPOINT_URL_S3?"),
            ("PGHSOT", "Did you mean PGHOST?"),
            ("PGDATABSE", "Did you mean PGDATABASE?"),
        ] {
            assert!(matches!(outcome(&[name]), Outcome::Limited(_, hint) if hint == meant), "{name}");
        }
        for name in OF_AWS.iter().chain(OF_POSTGRES).chain(&["PATH", "PGCLUSTER", "PGBACKREST_REPO1_PATH", "AWS_PAGER"])
        {
            assert!(matches!(outcome(&[name]), Outcome::Good(_)), "{name}");
        }
    }
}
