//! `keys` and `rekey`: which data keys an archive has and who can open them, and how that is changed.
//!
//! Never touches what is encrypted with them, and never deletes a data key.

use std::sync::Arc;

use crate::archive::Archive;
use crate::crypt::wrapped::KeyObject;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::DataKeyName;
use crate::observe::{Event, Observer};
use crate::postgres::control::SystemId;

/// The data keys of one cluster.
#[derive(Debug)]
pub struct Listed {
    /// Which cluster.
    pub system_id: SystemId,
    /// Each key, or why its object cannot be read, in the order of their names.
    pub keys: Vec<(DataKeyName, Result<KeyObject>)>,
}

/// The data keys of these clusters.
///
/// # Errors
/// Those of the store, but not those of single objects.
pub async fn list(archive: &Archive, systems: &[SystemId]) -> Result<Vec<Listed>> {
    let mut listed = Vec::new();
    for &system_id in systems {
        listed.push(Listed { system_id, keys: archive.data_keys(system_id).await? });
    }
    Ok(listed)
}

/// What becomes of one data key.
#[derive(Debug)]
pub enum Fate {
    /// It is wrapped for those who are wanted, and for nobody else.
    Stays,
    /// It is wrapped anew.
    Rewrapped(KeyObject),
    /// It cannot be opened here, and stays as it is.
    Closed(Error),
}

/// One data key.
#[derive(Debug)]
pub struct Verdict {
    /// Its cluster.
    pub system_id: SystemId,
    /// Its name.
    pub key: DataKeyName,
    /// For whom it is wrapped; nobody, if its object cannot be read.
    pub from: Vec<String>,
    /// What becomes of it.
    pub fate: Fate,
}

/// What a rekeying is to do.
#[derive(Debug)]
pub struct Plan {
    /// For whom.
    pub to: Vec<String>,
    /// Every data key.
    pub keys: Vec<Verdict>,
}

impl Plan {
    /// How many keys are wrapped anew.
    pub fn count(&self) -> usize {
        self.keys.iter().filter(|verdict| matches!(verdict.fate, Fate::Rewrapped(_))).count()
    }

    /// Can all of them be opened?
    ///
    /// # Errors
    /// [`Kind::Incomplete`] with the first that cannot.
    pub fn judge(&self) -> Result<()> {
        let closed = self.keys.iter().filter_map(|verdict| match &verdict.fate {
            Fate::Closed(error) => Some((verdict, error)),
            _ => None,
        });
        let closed: Vec<(&Verdict, &Error)> = closed.collect();
        let Some((first, error)) = closed.first() else { return Ok(()) };
        let what =
            format!("{} of {} data keys could not be opened, and stay as they are", closed.len(), self.keys.len());
        let error = Error::new(Kind::Incomplete, what).detail(format!("{}: {error}", first.key));
        Err(error.hint("Give all identities that open them: --identity-file or WALDEN_IDENTITY_FILE."))
    }
}

/// Is a key that is wrapped for these to be wrapped anew for those?
fn differs(from: &[String], to: &[String]) -> bool {
    let mut from = from.to_vec();
    from.sort();
    from != to
}

/// Looks which data keys are not wrapped for those for whom the archive is written now, and whether they can be opened.
///
/// # Errors
/// [`Kind::Config`] if it is written for nobody; those of the listing.
pub async fn plan(archive: &Archive, systems: &[SystemId]) -> Result<Plan> {
    let to = archive.recipients();
    if to.is_empty() {
        return Err(Error::new(Kind::Config, "it is not said for whom the data keys are to be wrapped")
            .hint("Name all who shall read from now on with --encrypt-to or WALDEN_ENCRYPT_TO."));
    }
    let mut keys = Vec::new();
    for &system_id in systems {
        for (key, object) in archive.data_keys(system_id).await? {
            keys.push(judge(archive, system_id, key, object, &to).await);
        }
    }
    Ok(Plan { to, keys })
}

async fn judge(
    archive: &Archive,
    system_id: SystemId,
    key: DataKeyName,
    object: Result<KeyObject>,
    to: &[String],
) -> Verdict {
    let object = match object {
        Ok(object) => object,
        Err(error) => return Verdict { system_id, key, from: Vec::new(), fate: Fate::Closed(error) },
    };
    let from = object.holders();
    let fate = match differs(&from, to) {
        false => Fate::Stays,
        true => match archive.open_key(&object).await {
            Ok(_) => Fate::Rewrapped(object),
            Err(error) => Fate::Closed(error),
        },
    };
    Verdict { system_id, key, from, fate }
}

/// Wraps the data keys anew, one object after the other. Each is replaced in one step, so whatever ends this between two of
/// them leaves keys that open, and the same command goes on.
///
/// # Errors
/// The first failure.
pub async fn rekey(archive: &Archive, plan: &Plan, observer: &Arc<dyn Observer>) -> Result<()> {
    for verdict in &plan.keys {
        let Fate::Rewrapped(object) = &verdict.fate else { continue };
        archive.rewrap(object).await.during(|| format!("could not wrap the data key {} anew", verdict.key))?;
        observer.notice(Event::Done(format!("the data key {} is wrapped anew", verdict.key)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_holders_is_no_difference_and_one_more_or_less_is() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
        let to = names(&["a", "b"]);
        assert!(!differs(&names(&["b", "a"]), &to));
        for other in [&["a"][..], &["a", "b", "c"], &["a", "c"], &[]] {
            assert!(differs(&names(other), &to));
        }
    }
}
