//! The names of the files that hold relations (documentation, "Database File Layout").
//!
//! Pure: looks at names only.

use serde::{Deserialize, Serialize};

/// Pages in a file of a relation, but for the last one (`RELSEG_SIZE`): 1 GiB. Servers can be built with others.
pub const SEGMENT_PAGES: u32 = 131_072;

/// `DEFAULTTABLESPACE_OID` and `GLOBALTABLESPACE_OID` (src/include/catalog/pg_tablespace.dat).
const DEFAULT_TABLESPACE: u32 = 1663;
const GLOBAL_TABLESPACE: u32 = 1664;

/// One of the files that a relation has beside each other (src/common/relpath.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fork {
    /// Its content.
    Main,
    /// The free space map.
    Fsm,
    /// The visibility map.
    Vm,
    /// What an unlogged relation is reset to.
    Init,
}

impl std::fmt::Display for Fork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Fork::Main => "main",
            Fork::Fsm => "fsm",
            Fork::Vm => "vm",
            Fork::Init => "init",
        })
    }
}

/// The name of a relation's file, in its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileName<'a> {
    /// The relation's file number.
    pub number: &'a str,
    /// Which fork.
    pub fork: Fork,
    /// Which segment of it, where the name says so; the first one's does not.
    pub segment: Option<&'a str>,
}

impl FileName<'_> {
    /// Reads a name: `16384`, `16384.1`, `16384_vm`, `16384_init` (`parse_filename_for_nontemp_relation` in
    /// src/backend/storage/file/reinit.c).
    pub fn parse(name: &str) -> Option<FileName<'_>> {
        let (stem, segment) = name.split_once('.').map_or((name, None), |(stem, segment)| (stem, Some(segment)));
        let (number, fork) = stem.split_once('_').map_or((stem, None), |(number, fork)| (number, Some(fork)));
        let fork = match fork {
            None => Fork::Main,
            Some("fsm") => Fork::Fsm,
            Some("vm") => Fork::Vm,
            Some("init") => Fork::Init,
            Some(_) => return None,
        };
        let legal = is_number(number) && segment.is_none_or(is_number);
        legal.then_some(FileName { number, fork, segment })
    }
}

/// Digits and nothing else. PostgreSQL's numbers have at most ten; a longer one is none of its files.
pub fn is_number(text: &str) -> bool {
    (1..=10).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A file of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DataFile {
    /// The number of the tablespace that it lies in.
    pub tablespace: u32,
    /// The number of its database; 0 for relations that all databases share.
    pub database: u32,
    /// The relation's file number.
    pub relation: u32,
    /// Which fork.
    pub fork: Fork,
    /// The fork's block that the file begins with.
    pub first_block: u32,
}

impl DataFile {
    /// Reads a path relative to the data directory: `base/5/16384.1`, `global/1262`,
    /// `pg_tblspc/16385/PG_15_202209061/5/16386_fsm`. `None` for files of other kinds, such as `PG_VERSION`,
    /// `pg_filenode.map` and `global/pg_control`, and for relations that only their session sees.
    pub fn parse(path: &str) -> Option<DataFile> {
        let parts: Vec<&str> = path.split('/').collect();
        let (tablespace, database, name) = match parts.as_slice() {
            ["global", name] => (GLOBAL_TABLESPACE, 0, *name),
            ["base", database, name] => (DEFAULT_TABLESPACE, number(database)?, *name),
            ["pg_tblspc", tablespace, directory, database, name] if directory.starts_with("PG_") => {
                (number(tablespace)?, number(database)?, *name)
            }
            _ => return None,
        };
        let FileName { number: relation, fork, segment } = FileName::parse(name)?;
        let segment = segment.map_or(Some(0), number)?;
        let first_block = segment.checked_mul(SEGMENT_PAGES)?;
        Some(DataFile { tablespace, database, relation: number(relation)?, fork, first_block })
    }
}

/// A number as PostgreSQL writes it: without leading zeros, and never 0.
fn number(text: &str) -> Option<u32> {
    is_number(text).then(|| text.parse().ok()).flatten().filter(|_| !text.starts_with('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_path_of_a_data_file_says_all_about_it(
            place in 0usize..3, tablespace in 1u32.., database in 1u32.., relation in 1u32..,
            fork in prop::sample::select(vec![Fork::Main, Fork::Fsm, Fork::Vm, Fork::Init]), segment in 0u32..32_768,
        ) {
            let (directory, tablespace, database) = match place {
                0 => ("global".to_owned(), GLOBAL_TABLESPACE, 0),
                1 => (format!("base/{database}"), DEFAULT_TABLESPACE, database),
                _ => (format!("pg_tblspc/{tablespace}/PG_15_202209061/{database}"), tablespace, database),
            };
            let suffix = if fork == Fork::Main { String::new() } else { format!("_{fork}") };
            let number = if segment == 0 { String::new() } else { format!(".{segment}") };
            let file = DataFile::parse(&format!("{directory}/{relation}{suffix}{number}"));
            let first_block = segment * SEGMENT_PAGES;
            prop_assert_eq!(file, Some(DataFile { tablespace, database, relation, fork, first_block }));
        }

        #[test]
        fn no_path_makes_it_panic(path in "(base|global|pg_tblspc|[0-9]{0,12}|PG_|/|\\.|_|vm){0,12}") {
            let _ = DataFile::parse(&path);
        }
    }

    #[test]
    fn other_files_have_no_pages() {
        for path in [
            "PG_VERSION",
            "16384",
            "base/16384",
            "base/5/PG_VERSION",
            "base/5/pg_filenode.map",
            "base/5/pg_internal.init",
            "base/5/t3_16384",
            "base/5/16384.0",
            "base/5/16384.01",
            "base/5/016384",
            "base/5/16384.32768",
            "base/5/16384/1",
            "base/x/16384",
            "base/5/4294967296",
            "global/pg_control",
            "global/5/1262",
            "pg_tblspc/16385/16386",
            "pg_tblspc/16385/x/5/16386",
            "pg_xact/0000",
            "pg_multixact/offsets/0000",
            "mine/5/16384",
        ] {
            assert_eq!(DataFile::parse(path), None, "{path}");
        }
    }
}
