//! `keygen`, `keys` and `rekey`: what is made and what is printed.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::message;
use crate::crypt::identity::KeyFile;
use crate::crypt::{ExposeSecret, Identity, Zeroizing};
use crate::durable::Staged;
use crate::error::{Context, Error, Kind, Result};
use crate::keys::{Fate, Listed, Plan, Verdict};
use crate::observe::words::counted;

/// Makes an age identity where there is no file, and prints the public halves of what is in the file.
pub(super) fn keygen(path: &Path, as_identity: bool) -> Result<()> {
    let identities = match path.exists() {
        true => {
            KeyFile::read(path, "Name a file that this user can read, or one that is not there yet.")?.into_identities()
        }
        false => vec![make(path)?],
    };
    for identity in identities {
        match as_identity {
            // The one place where a secret is printed, for it was asked for.
            true => message::print(identity.text().expose_secret()),
            false => message::print(&identity.recipient().to_string()),
        }
    }
    Ok(())
}

/// In the form of `age-keygen`.
fn make(path: &Path) -> Result<Identity> {
    let identity = Identity::generate();
    let created = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let text = identity.text();
    let (public, secret) = (identity.recipient(), text.expose_secret());
    let content = Zeroizing::new(format!("# created: {created}\n# public key: {public}\n{secret}\n"));
    let what = || format!("could not write \"{}\"", path.display());
    let mut staged = Staged::private_beside(path).during(what)?;
    // Whatever the umask says.
    staged.file().set_permissions(std::fs::Permissions::from_mode(0o600)).during(what)?;
    staged.write_all(content.as_bytes()).during(what)?;
    staged.create_new().map_err(|error| match error.kind() {
        Kind::AlreadyExists => Error::new(Kind::Refused, format!("\"{}\" was made by another process", path.display()))
            .hint("Run the command again, to see what is in it."),
        _ => error,
    })?;
    Ok(identity)
}

/// The data keys, with those who can open them.
pub(super) fn listed(found: &[Listed]) -> String {
    let mut text = String::new();
    for Listed { system_id, keys } in found {
        text += &format!("cluster {system_id}: {}\n", amount(keys.len()));
        for (name, object) in keys {
            match object {
                Ok(object) => {
                    text += &format!("  {name}, made {}\n", object.created.strftime("%Y-%m-%d %H:%M:%SZ"));
                    text.extend(object.holders().iter().map(|holder| format!("    opens with {holder}\n")));
                }
                Err(error) => text += &format!("  {name}\n    cannot be read: {error}\n"),
            }
        }
    }
    text
}

fn amount(count: usize) -> String {
    match count {
        0 => "no data keys: nothing is encrypted".to_owned(),
        count => counted(count as u64, "data key"),
    }
}

/// The same; its form is in docs/json.md.
pub(super) fn listed_json(found: &[Listed]) -> String {
    let keys = found.iter().flat_map(|Listed { system_id, keys }| {
        keys.iter().map(move |(name, object)| match object {
            Ok(object) => json!({
                "system_id": system_id,
                "key": name,
                "created": object.created,
                "holders": object.holders(),
                "error": Value::Null,
            }),
            Err(error) => json!({
                "system_id": system_id,
                "key": name,
                "created": Value::Null,
                "holders": [],
                "error": error.to_string(),
            }),
        })
    });
    format!("{:#}", Value::Array(keys.collect()))
}

/// What would be done, or, if it was `done`, what has been.
pub(super) fn rekeyed(plan: &Plan, done: bool) -> String {
    let mut text = format!("{} to be opened by\n", amount(plan.keys.len()));
    text.extend(plan.to.iter().map(|holder| format!("    {holder}\n")));
    text.extend(plan.keys.iter().map(|verdict| verdict_line(verdict, done)));
    text += &match (plan.count(), done) {
        (0, _) => "there is nothing to wrap anew\n".to_owned(),
        (count, false) => format!("nothing has been changed: {count} would be wrapped anew with --confirm\n"),
        (count, true) => format!(
            "{count} wrapped anew. Who could open them before may have kept a copy of them, and can still read what was \
             encrypted until now; so can who reads earlier versions of the key objects in the bucket\n"
        ),
    };
    text
}

fn verdict_line(verdict: &Verdict, done: bool) -> String {
    let Verdict { system_id, key, from, fate } = verdict;
    let from = from.join(", ");
    match fate {
        Fate::Stays => format!("stays: {key} of cluster {system_id}\n"),
        Fate::Rewrapped(_) if done => format!("wrapped anew: {key} of cluster {system_id}, before for {from}\n"),
        Fate::Rewrapped(_) => format!("would wrap anew: {key} of cluster {system_id}, now for {from}\n"),
        Fate::Closed(error) => format!("cannot be opened: {key} of cluster {system_id}: {error}\n"),
    }
}

/// The same; its form is in docs/json.md.
pub(super) fn rekeyed_json(plan: &Plan, done: bool) -> String {
    let keys = plan.keys.iter().map(|Verdict { system_id, key, from, fate }| {
        let (word, error) = match fate {
            Fate::Stays => ("stays", None),
            Fate::Rewrapped(_) => ("rewrapped", None),
            Fate::Closed(error) => ("closed", Some(error.to_string())),
        };
        json!({ "system_id": system_id, "key": key, "holders": from, "fate": word, "error": error })
    });
    format!("{:#}", json!({ "confirmed": done, "to": plan.to, "keys": keys.collect::<Vec<Value>>() }))
}
