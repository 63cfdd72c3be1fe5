//! The backups that a restore goes through, the full one first, and which bytes of which archive it takes.

use std::collections::BTreeSet;

use crate::error::{Error, Kind, Result};
use crate::layout::basebackups::Writer;
use crate::legacy::metadata::{Content, Reader};
use crate::legacy::parts::{self, Part};
use crate::legacy::sentinel::LegacyBackup;
use crate::legacy::wanted::{LONGEST_CHAIN, Wanted, listed};
use crate::legacy::{Legacy, increment};
use crate::restore::legacy::known;

/// One backup of a chain.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) backup: LegacyBackup,
    /// The archives that something is taken from.
    pub(super) parts: Vec<Part>,
}

/// What a restore goes through.
#[derive(Debug)]
pub(super) struct Chain {
    /// The full backup first. There is at least one.
    pub(super) links: Vec<Link>,
    /// Which of them has what; `None`: there is one alone, and all that is in it is wanted.
    pub(super) wanted: Option<Wanted>,
}

impl Chain {
    /// The number of the newest backup.
    pub(super) fn newest(&self) -> usize {
        self.links.len() - 1
    }

    /// Bytes to fetch.
    pub(super) fn stored_size(&self) -> u64 {
        self.links.iter().flat_map(|link| &link.parts).map(|part| part.size).sum()
    }
}

/// Finds the backups before this one, and reads their lists of files.
///
/// # Errors
/// [`Kind::Incomplete`] if a backup before, an archive or a list of files is missing; [`Kind::Corrupt`] if what is said
/// contradicts itself.
pub(super) async fn plan(legacy: &Legacy, newest: LegacyBackup) -> Result<Chain> {
    let backups = follow(legacy, newest).await?;
    let last = backups.len() - 1;
    let (mut wanted, mut links) = (Wanted::default(), Vec::new());
    for (number, backup) in backups.into_iter().enumerate().rev() {
        let lister = Lister { wanted, number, is_newest: number == last, ..Lister::default() };
        let (lister, has_list) = legacy.files(&backup, lister).await?;
        let found = legacy.parts(&backup.name).await?;
        let has_list = has_list && lister.files > 0;
        let needed = lister.needed();
        wanted = lister.wanted;
        match (has_list, number == last) {
            (true, true) if number > 0 => {}
            (true, _) => require_all(wanted.end(number), &backup)?,
            (false, true) if number > 0 => return Err(without_list(&backup)),
            (false, _) if number == 0 => wanted.assume_whole(),
            (false, _) => return Err(without_list(&backup)),
        }
        // Of older backups only those archives are fetched that something is taken from. Of the newest all that are listed,
        // and those that never are: what an attempt has left that was made under the same name is no part of it.
        let is_needed = |part: &Part| needed.iter().flatten().any(|name| part.is_called(name));
        let names_parts = needed.iter().flatten().any(|name| name.starts_with("part_"));
        let is_taken = |part: &Part| match (number == last, &needed) {
            (true, _) => !names_parts || is_needed(part) || part.is_last() || part.is_copied(),
            (false, Some(_)) => is_needed(part),
            (false, None) => !part.is_last(),
        };
        let listed = needed.clone().unwrap_or_default();
        parts::check(&found, backup.writer, &listed).map_err(|error| error.during(lacking(&backup)))?;
        links.push(Link { backup, parts: found.into_iter().filter(is_taken).collect() });
    }
    links.reverse();
    let wanted = (!wanted.is_empty()).then_some(wanted);
    Ok(Chain { links, wanted })
}

fn lacking(backup: &LegacyBackup) -> String {
    format!("backup {} is not complete", backup.name)
}

fn without_list(backup: &LegacyBackup) -> Error {
    Error::new(Kind::Incomplete, format!("backup {} has no list of its files", backup.name))
        .detail("without one nobody knows what of a delta is an increment, and what has been deleted")
}

fn require_all(missing: usize, backup: &LegacyBackup) -> Result<()> {
    match missing {
        0 => Ok(()),
        count => Err(Error::new(Kind::Corrupt, format!("backup {} lacks files that a later one goes by", backup.name))
            .detail(format!("{count} files ought to be in it, or in the backups that it is a delta of, and are not"))),
    }
}

/// The backup and those before it, the full one first.
async fn follow(legacy: &Legacy, newest: LegacyBackup) -> Result<Vec<LegacyBackup>> {
    let mut backups = vec![newest];
    while let Some(parent) = backups[backups.len() - 1].parent.clone() {
        let backup = &backups[backups.len() - 1];
        if let Some(form) = backup.increments.as_deref().filter(|form| *form != increment::FORM) {
            return Err(Error::new(Kind::Refused, format!("backup {} is a delta in the form \"{form}\"", backup.name))
                .detail(format!("walden reads increments in the form of WAL-G, \"{}\"", increment::FORM))
                .hint(
                    "Restore it with the program that wrote it, or another backup: walden backup-list prints them.",
                ));
        }
        // Names that lead back to themselves would go on for ever.
        if backups.len() == LONGEST_CHAIN || backups.iter().any(|other| other.name == parent) {
            return Err(Error::new(
                Kind::Refused,
                format!("backup {} is the end of too long a chain", backups[0].name),
            )
            .detail(format!("{} deltas lead to {parent}, which is one more", backups.len())));
        }
        let found = legacy.backup(&parent).await.map_err(|error| match error.kind() {
            Kind::NotFound => {
                Error::new(Kind::Incomplete, format!("backup {} is a delta of one that is not there", backup.name))
                    .detail(format!("there is no complete backup {parent}"))
            }
            _ => error,
        })?;
        known::check_parent(backup, &found)?;
        backups.push(found);
    }
    backups.reverse();
    Ok(backups)
}

/// Takes in a list of files.
#[derive(Debug, Default)]
struct Lister {
    wanted: Wanted,
    number: usize,
    is_newest: bool,
    files: usize,
    /// The archives that are named, and whether something is taken from each.
    archives: Vec<(String, bool)>,
    /// Archives were named before the files, so nothing is known of what is taken from them.
    is_out_of_order: bool,
}

impl Reader for Lister {
    fn file(&mut self, path: &str, content: Content) {
        self.files += 1;
        let Some(path) = listed(path) else { return };
        match self.is_newest {
            true => self.wanted.note_newest(self.number, &path, content),
            false => self.wanted.note_older(self.number, &path, content),
        }
    }

    fn archive(&mut self, name: &str) {
        self.is_out_of_order |= self.files == 0;
        self.archives.push((name.to_owned(), false));
    }

    fn member(&mut self, path: &str) {
        let Some((_, is_needed)) = self.archives.last_mut() else { return };
        *is_needed = *is_needed || listed(path).is_some_and(|path| self.wanted.is_wanted(self.number, &path));
    }
}

impl Lister {
    /// The archives that something is taken from; `None` if that is not known.
    fn needed(&self) -> Option<BTreeSet<String>> {
        if self.archives.is_empty() || self.is_out_of_order {
            return None;
        }
        let needed = self.archives.iter().filter(|(_, is_needed)| *is_needed || self.is_newest);
        // An archive of nothing has no name.
        Some(needed.map(|(name, _)| name.clone()).filter(|name| !name.is_empty()).collect())
    }
}

/// Finds the names of files that are missing.
#[derive(Debug)]
pub(super) struct Namer {
    pub(super) wanted: Wanted,
    pub(super) number: usize,
    /// The first ones.
    pub(super) names: Vec<String>,
}

/// So many names are told.
const NAMED: usize = 3;

impl Reader for Namer {
    fn file(&mut self, path: &str, _: Content) {
        let Some(path) = listed(path) else { return };
        if self.names.len() < NAMED && self.wanted.is_missing(self.number, &path) {
            self.names.push(path);
        }
    }
}

/// The writer of a chain, which is the same for all of it.
pub(super) fn writer(chain: &Chain) -> Writer {
    chain.links[chain.newest()].backup.writer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legacy::metadata;

    #[test]
    fn of_an_older_backup_only_the_archives_are_needed_that_hold_what_the_newest_goes_by() {
        let list = |text: &str, lister: Lister| {
            let mut lister = lister;
            metadata::read(text.as_bytes(), &mut lister).unwrap();
            lister
        };
        let newest =
            r#"{"Files":{"/a":{"IsSkipped":true},"/b":{},"/":{}},"TarFileSets":{"p1":["/b"],"p2":[],"":["x"]}}"#;
        let newest = list(newest, Lister { number: 1, is_newest: true, ..Lister::default() });
        assert_eq!(newest.needed().unwrap(), ["p1", "p2"].map(str::to_owned).into());
        let full = r#"{"Files":{"/a":{},"/b":{},"/c":{}},"TarFileSets":{"p1":["/b","/c"],"p2":["/c","/a"]}}"#;
        let full = list(full, Lister { wanted: newest.wanted, ..Lister::default() });
        assert_eq!(full.needed().unwrap(), ["p2"].map(str::to_owned).into());
        let reversed = list(r#"{"TarFileSets":{"p1":["/b"]},"Files":{"/b":{}}}"#, Lister::default());
        assert_eq!(reversed.needed(), None);
    }
}
