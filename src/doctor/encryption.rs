//! Whether what is stored is encrypted, for whom, and whether what is there can be decrypted: found out by doing it.

use crate::archive::Archive;
use crate::error::{Error, Kind};
use crate::observe::words::counted;
use crate::postgres::control::SystemId;
use crate::storage::examination::Finding;

/// So many data keys are opened, whichever come first by their names: each may take a request to KMS.
const TRIED: usize = 16;

/// For whom is encrypted, and can a data key be made? Needs a cluster to make one for, which KMS is told.
pub(super) async fn writing(archive: &Archive, system: Option<SystemId>) -> Finding {
    let to = archive.recipients().join(", ");
    if to.is_empty() {
        return Finding::good("encrypting", "no: encrypt-to is not set");
    }
    let Some(system) = system else {
        return Finding::unseen(
            "encrypting",
            format!("for {to}; it was not tried, for no cluster is known"),
            "Name the data directory: walden doctor PGDATA.",
        );
    };
    match archive.try_to_seal(system).await {
        Ok(()) => Finding::good("encrypting", format!("for {to}")),
        Err(error) => Finding::bad("encrypting", error),
    }
}

/// Do the data keys of these clusters open with what is here? `None` if there are none.
pub(super) async fn reading(archive: &Archive, systems: &[SystemId]) -> Option<Finding> {
    let mut names = Vec::new();
    for &system in systems {
        match archive.data_key_names(system).await {
            Ok(found) => names.extend(found.into_iter().map(|name| (system, name))),
            Err(error) => return Some(Finding::bad("decrypting", error)),
        }
    }
    let (count, mut opened, mut closed) = (names.len(), 0, None::<Error>);
    for (system, name) in names.iter().take(TRIED) {
        let object = match archive.key_object(*system, name).await {
            Ok(object) => object,
            Err(error) if error.kind() == Kind::Denied => {
                let hint = "Allow s3:GetObject on the archive's objects, if this is a host that restores.";
                return Some(Finding::unseen("decrypting", format!("the data keys may not be read: {error}"), hint));
            }
            Err(error) => return Some(Finding::bad("decrypting", error)),
        };
        match archive.open_key(&object).await {
            Ok(_) => opened += 1,
            Err(error) if matches!(error.kind(), Kind::Config | Kind::Denied) => {
                closed.get_or_insert(error);
            }
            Err(error) => return Some(Finding::bad("decrypting", error)),
        }
    }
    let tried = count.min(TRIED);
    Some(match closed {
        None if count == 0 => return None,
        None => {
            let here = counted(tried as u64, "data key");
            Finding::good("decrypting", format!("{here} of {count} tried, and possible with all of them"))
        }
        Some(error) => {
            let hint = format!("Nothing, on a host that only writes. {}", error.advice().unwrap_or_default());
            let found = format!("not possible here: {} of {tried} data keys do not open: {error}", tried - opened);
            Finding::limited("decrypting", found, hint.trim_end())
        }
    })
}
