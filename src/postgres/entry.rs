//! What a data directory consists of. Pure; `datadir` finds it.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A directory of the cluster; in a backup also where the server has a symbolic link to one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Directory {
    /// Relative to the data directory, with `/`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
}

/// A tablespace outside the data directory (a symbolic link in `pg_tblspc`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its number, the name of the link.
    pub oid: u32,
    /// Where the link points.
    pub location: PathBuf,
}

/// A database of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its number, the name of its directories.
    pub oid: u32,
    /// Its name.
    pub name: String,
}

/// Paths, relative to the data directory and with `/`, in little memory: each directory is kept once, and of a file its
/// name and 12 bytes more. A cluster can have millions of them.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    directories: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u32>,
    names: String,
    /// Of each path, the number of its directory.
    homes: Vec<u32>,
    /// Of each path, where its name ends in `names`.
    ends: Vec<usize>,
}

impl Paths {
    /// Adds a path: the next number, from 0, is its own.
    pub fn push(&mut self, path: &str) {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let home = match self.numbers.get(directory) {
            Some(number) => *number,
            None => {
                let number = self.directories.len() as u32;
                self.directories.push(directory.into());
                self.numbers.insert(directory.into(), number);
                number
            }
        };
        self.homes.push(home);
        self.names.push_str(name);
        self.ends.push(self.names.len());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.homes.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.homes.is_empty()
    }

    /// The path of this number, which must be below [`Paths::len`].
    pub fn get(&self, number: usize) -> String {
        let (directory, name) = self.split(number);
        if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
    }

    /// Directory and name of the path of this number.
    fn split(&self, number: usize) -> (&str, &str) {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        (&self.directories[self.homes[number] as usize], &self.names[start..self.ends[number]])
    }

    /// A path that is there twice, if one is.
    pub fn duplicate(&self) -> Option<String> {
        let mut numbers: Vec<u32> = (0..self.len() as u32).collect();
        let split = |number: u32| {
            let (_, name) = self.split(number as usize);
            (self.homes[number as usize], name)
        };
        numbers.sort_unstable_by_key(|&number| split(number));
        let twice = numbers.windows(2).find(|pair| split(pair[0]) == split(pair[1]));
        twice.map(|pair| self.get(pair[0] as usize))
    }
}

/// The files of a cluster, with their sizes when they were seen.
#[derive(Clone, Debug, Default)]
pub struct FileList {
    paths: Paths,
    sizes: Vec<u64>,
}

impl FileList {
    /// Adds a file of so many bytes.
    pub fn push(&mut self, path: &str, size: u64) {
        self.paths.push(path);
        self.sizes.push(size);
    }

    /// How many there are; they are numbered from 0.
    pub fn len(&self) -> usize {
        self.sizes.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    /// The path of a file, relative to the data directory.
    pub fn path(&self, number: usize) -> String {
        self.paths.get(number)
    }

    /// Its bytes.
    pub fn size(&self, number: usize) -> u64 {
        self.sizes[number]
    }

    /// All files, as path and size.
    pub fn iter(&self) -> impl Iterator<Item = (String, u64)> {
        (0..self.len()).map(|number| (self.path(number), self.size(number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn paths_are_kept_and_duplicates_found(paths in prop::collection::vec("[ab](/[ab]){0,2}", 0..12)) {
            let mut kept = Paths::default();
            paths.iter().for_each(|path| kept.push(path));
            let read: Vec<String> = (0..kept.len()).map(|number| kept.get(number)).collect();
            prop_assert_eq!(&read, &paths);
            let distinct: std::collections::BTreeSet<&String> = paths.iter().collect();
            prop_assert_eq!(kept.duplicate().is_some(), distinct.len() < paths.len());
            prop_assert!(kept.duplicate().is_none_or(|twice| paths.iter().filter(|path| **path == twice).count() > 1));
        }
    }

    #[test]
    fn a_file_costs_less_than_fifty_bytes() {
        let mut files = FileList::default();
        (0..100_000).for_each(|number| files.push(&format!("base/16384/{}", 1_000_000 + number), 8192));
        let Paths { names, homes, ends, .. } = &files.paths;
        let bytes = names.capacity() + homes.capacity() * 4 + ends.capacity() * 8 + files.sizes.capacity() * 8;
        assert!(bytes < 50 * files.len(), "{}", bytes / files.len());
    }
}
