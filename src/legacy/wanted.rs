//! Which archive of a chain of backups has the bytes of which file: a full backup, and the deltas on it. Pure.
//!
//! The chain counts from 0, the full backup. A file is what the newest backup says of it: whole there, or the same as in the
//! backup before but for some pages. So its bytes begin in the newest backup that has it whole, and every later one that
//! has an increment changes some. What only older backups have was deleted since.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::metadata::Content;
use super::tree;

/// The longest chain. WAL-G makes none unless `WALG_DELTA_MAX_STEPS` says how long they may be.
pub const LONGEST_CHAIN: usize = u64::BITS as usize;

/// Every file of the newest backup, known by the first 16 bytes of the BLAKE3 of its path: 45 to 90 bytes a file, however
/// long its name is, by how full the table is. A name that is needed for a message is found by going through the list again.
#[derive(Debug, Default)]
pub struct Wanted {
    files: HashMap<Key, Role>,
}

/// What becomes of a file.
#[derive(Debug, Default)]
struct Role {
    /// The backups that have bytes of it: bit 0 is the full one. The lowest bit is that of the whole file.
    wanted: u64,
    /// Those whose bytes have been seen.
    seen: AtomicU64,
    /// The backup that was looked at last goes by the one before.
    open: bool,
    /// The backup that is being looked at has it.
    met: bool,
}

/// What is to be made of a file in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The file is to hold this.
    Write,
    /// The pages are to be written over those that are there.
    Apply,
    /// Nothing: it was deleted later, or is whole in a later backup.
    PassOver,
}

/// As two words it needs no room to be aligned.
type Key = [u64; 2];

fn key(path: &str) -> Key {
    let digest = blake3::hash(path.as_bytes());
    let word = |at: usize| digest.as_bytes()[at..at + 8].iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
    [word(0), word(8)]
}

impl Wanted {
    /// Notes a file of the newest backup, which is number `newest` of its chain. Paths are those of [`tree::relative`].
    pub fn note_newest(&mut self, newest: usize, path: &str, content: Content) {
        let wanted = if content == Content::Nothing { 0 } else { bit(newest) };
        self.files.insert(key(path), Role { wanted, open: content != Content::Whole, ..Role::default() });
    }

    /// Notes a file of the backup before the one that was looked at last.
    pub fn note_older(&mut self, number: usize, path: &str, content: Content) {
        let Some(role) = self.files.get_mut(&key(path)).filter(|role| role.open && !role.met) else { return };
        role.met = true;
        if content != Content::Nothing {
            role.wanted |= bit(number);
        }
        role.open = content != Content::Whole;
    }

    /// Ends the look at backup `number`, which is not the newest or the only one; returns how many files it ought to have and
    /// has not. None may go by a backup before the full one.
    pub fn end(&mut self, number: usize) -> usize {
        let mut missing = 0;
        for role in self.files.values_mut().filter(|role| role.open) {
            if !role.met || number == 0 {
                missing += 1;
            }
            role.met = false;
        }
        missing
    }

    /// The full backup has no list: all that is still open must be whole there.
    pub fn assume_whole(&mut self) {
        for role in self.files.values_mut().filter(|role| role.open) {
            role.wanted |= bit(0);
            role.open = false;
        }
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Does backup `number` have bytes of this file that count?
    pub fn is_wanted(&self, number: usize, path: &str) -> bool {
        self.files.get(&key(path)).is_some_and(|role| role.wanted & bit(number) != 0)
    }

    /// What to make of a member of an archive of backup `number`, which is told to have been seen.
    pub fn see(&self, number: usize, path: &str) -> Use {
        let Some(role) = self.files.get(&key(path)) else { return Use::PassOver };
        if role.wanted & bit(number) == 0 {
            return Use::PassOver;
        }
        role.seen.fetch_or(bit(number), Ordering::Relaxed);
        if role.wanted & (bit(number) - 1) == 0 { Use::Write } else { Use::Apply }
    }

    /// Ought backup `number` to have bytes of this file, and have none been seen?
    pub fn is_missing(&self, number: usize, path: &str) -> bool {
        self.files.get(&key(path)).is_some_and(|role| role.lacks(number))
    }

    /// Of how many files no bytes have been seen that backup `number` ought to have.
    pub fn missing(&self, number: usize) -> usize {
        self.files.values().filter(|role| role.lacks(number)).count()
    }
}

impl Role {
    fn lacks(&self, number: usize) -> bool {
        self.wanted & !self.seen.load(Ordering::Relaxed) & bit(number) != 0
    }
}

fn bit(number: usize) -> u64 {
    debug_assert!(number < LONGEST_CHAIN);
    1 << number
}

/// The path of a file as WAL-G's list has it, as those of the archives are compared with it; `None` for the data directory
/// itself, and for one that cannot be a path there, which is refused where the archive has it.
pub fn listed(path: &str) -> Option<String> {
    tree::relative(path.as_bytes()).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A chain, oldest first: each backup by its files.
    type Chain = Vec<BTreeMap<String, Content>>;

    fn any_content() -> impl Strategy<Value = Content> {
        prop_oneof![Just(Content::Whole), Just(Content::Increment), Just(Content::Nothing)]
    }

    fn any_chain() -> impl Strategy<Value = Chain> {
        prop::collection::vec(prop::collection::btree_map("[a-f]", any_content(), 0..6), 1..6)
    }

    fn look(chain: &Chain) -> (Wanted, usize) {
        let (mut wanted, newest) = (Wanted::default(), chain.len() - 1);
        chain[newest].iter().for_each(|(path, content)| wanted.note_newest(newest, path, *content));
        let mut missing = 0;
        if newest == 0 {
            missing = wanted.end(0);
        }
        for number in (0..newest).rev() {
            chain[number].iter().for_each(|(path, content)| wanted.note_older(number, path, *content));
            missing += wanted.end(number);
            if missing > 0 {
                break;
            }
        }
        (wanted, missing)
    }

    /// What a file is made of, newest first, by following the chain; `None` if a backup lacks it.
    fn followed(chain: &Chain, path: &str) -> Option<Vec<usize>> {
        let mut made_of = Vec::new();
        for (number, backup) in chain.iter().enumerate().rev() {
            match backup.get(path)? {
                Content::Whole => {
                    made_of.push(number);
                    return Some(made_of);
                }
                Content::Increment => made_of.push(number),
                Content::Nothing => {}
            }
        }
        None
    }

    proptest! {
        #[test]
        fn a_file_is_made_of_what_its_chain_has(chain in any_chain()) {
            let (wanted, missing) = look(&chain);
            let newest = chain.last().unwrap();
            let followed: BTreeMap<&String, Option<Vec<usize>>> =
                newest.keys().map(|path| (path, followed(&chain, path))).collect();
            prop_assert_eq!(missing > 0, followed.values().any(Option::is_none));
            if missing > 0 {
                return Ok(());
            }
            for path in ["a", "b", "c", "d", "e", "f"] {
                let made_of = followed.get(&path.to_owned()).cloned().flatten().unwrap_or_default();
                for number in 0..chain.len() {
                    prop_assert_eq!(wanted.is_missing(number, path), made_of.contains(&number));
                    let expected = match made_of.iter().position(|other| *other == number) {
                        Some(at) if at + 1 == made_of.len() => Use::Write,
                        Some(_) => Use::Apply,
                        None => Use::PassOver,
                    };
                    prop_assert_eq!(wanted.see(number, path), expected);
                    prop_assert!(!wanted.is_missing(number, path));
                }
            }
            prop_assert_eq!((0..chain.len()).map(|number| wanted.missing(number)).sum::<usize>(), 0);
        }
    }

    #[test]
    fn a_full_backup_without_a_list_is_taken_to_have_what_its_deltas_go_by() {
        let mut wanted = Wanted::default();
        wanted.note_newest(1, "a", Content::Increment);
        wanted.note_newest(1, "b", Content::Nothing);
        wanted.note_newest(1, "c", Content::Whole);
        wanted.assume_whole();
        assert_eq!(
            (wanted.see(0, "a"), wanted.see(0, "b"), wanted.see(0, "c")),
            (Use::Write, Use::Write, Use::PassOver)
        );
        assert_eq!(
            (wanted.see(1, "a"), wanted.see(1, "c"), wanted.see(1, "d")),
            (Use::Apply, Use::Write, Use::PassOver)
        );
        assert_eq!(wanted.missing(0) + wanted.missing(1), 0);
    }
}
