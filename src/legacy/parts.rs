//! The tar archives of a backup: which there are, which of them come last, and whether one is missing. Pure.

use std::collections::BTreeSet;

use super::codec::Codec;
use crate::error::{Error, Kind, Result};
use crate::layout::basebackups::Writer;

/// A tar archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The name of the object: `part_001.tar.lz4`.
    pub name: String,
    /// How it is compressed.
    pub codec: Codec,
    /// Bytes of the object.
    pub size: u64,
}

impl Part {
    fn of(name: &str, size: u64) -> Option<Part> {
        let (tar, codec) = Codec::split(name);
        (tar.ends_with(".tar")).then(|| Part { name: name.to_owned(), codec, size })
    }

    fn tar(&self) -> &str {
        Codec::split(&self.name).0
    }

    /// Does a list of files mean this one? WAL-G's have the names of the objects, WAL-RUS's those without the extension.
    pub fn is_called(&self, listed: &str) -> bool {
        self.name == listed || self.tar() == listed
    }

    /// Is it one of those that WAL-G writes when all others are stored: `global/pg_control`, and `backup_label` with
    /// `tablespace_map`? Of an older backup in a chain they are of no use.
    pub fn is_last(&self) -> bool {
        self.is_control() || self.tar() == "backup_label.tar"
    }

    fn is_control(&self) -> bool {
        self.tar() == "pg_control.tar"
    }

    /// `copy_1.tar`: WAL-G copied it from another backup.
    pub fn is_copied(&self) -> bool {
        self.name.starts_with("copy_")
    }

    /// `part_001.tar` of WAL-G, `part_00000000.tar` of WAL-E.
    fn number(&self) -> Option<u64> {
        self.tar().strip_prefix("part_")?.strip_suffix(".tar")?.parse().ok()
    }
}

/// The archives among these objects, by name and size, in the order of their names.
pub fn find(objects: impl IntoIterator<Item = (String, u64)>) -> Vec<Part> {
    let mut parts: Vec<Part> = objects.into_iter().filter_map(|(name, size)| Part::of(&name, size)).collect();
    parts.sort_by(|one, other| one.name.cmp(&other.name));
    parts
}

/// Are all archives of a backup there? `listed` are those that its list of files names, where it names any.
///
/// Without such a list the numbers tell: WAL-E counts from 0 and WAL-G from 1, without a gap. Whether there was another
/// one behind the last is not said by them.
///
/// # Errors
/// [`Kind::Incomplete`], with the name of one that is missing.
pub fn check(parts: &[Part], writer: Writer, listed: &BTreeSet<String>) -> Result<()> {
    let missing = |name: &str| {
        Err(Error::new(Kind::Incomplete, format!("the backup lacks its archive {name}")).detail(match parts.len() {
            0 => "there is none at all".to_owned(),
            count => format!("{count} others are there"),
        }))
    };
    if let Some(name) = listed.iter().find(|name| !parts.iter().any(|part| part.is_called(name))) {
        return missing(name);
    }
    if writer == Writer::WalG && !parts.iter().any(Part::is_control) {
        return missing("pg_control.tar");
    }
    if parts.is_empty() {
        return missing("part_00000000.tar");
    }
    let first = if writer == Writer::WalE { 0 } else { 1 };
    let numbers: BTreeSet<u64> = parts.iter().filter_map(Part::number).collect();
    let last = numbers.last().copied().unwrap_or(first);
    match (first..=last).find(|number| !numbers.contains(number)) {
        Some(number) if listed.is_empty() && writer == Writer::WalE => missing(&format!("part_{number:08}.tar")),
        // One that was copied had a number of its own.
        Some(number) if listed.is_empty() && !parts.iter().any(Part::is_copied) => {
            missing(&format!("part_{number:03}.tar"))
        }
        _ => Ok(()),
    }
}

/// No archive of WAL-E holds so many bytes, or more files (`PARTITION_MAX_SZ` and `PARTITION_MAX_MEMBERS` in
/// wal_e/tar_partition.py).
const MOST_BYTES: u64 = 1_610_612_736;
const MOST_MEMBERS: u64 = MOST_BYTES / 262_144;

/// What was found in the archives of a backup of WAL-E.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes of the files in all archives.
    pub bytes: u64,
    /// The same of the last archive alone.
    pub last_bytes: u64,
    /// Members of the last archive, directories too.
    pub last_members: u64,
}

/// Whether an archive is missing behind the last one of WAL-E's.
///
/// The sentinel has the size of all files as they were found, and a file that was deleted before its turn came is in no
/// archive: a shortfall alone means nothing. But WAL-E begins another archive only when the next file does not fit into
/// the one before. If all that falls short would have fitted into the last one, there was no other.
///
/// # Errors
/// [`Kind::Incomplete`] if what is there is less than that, or more.
pub fn check_tally(tally: Tally, expected: u64) -> Result<()> {
    let refused = |detail: String| {
        Err(Error::new(Kind::Incomplete, "the last archive of the backup may be missing").detail(detail))
    };
    let Some(shortfall) = expected.checked_sub(tally.bytes) else {
        return refused(format!("its files have {} bytes, its sentinel says {expected}", tally.bytes));
    };
    let may_be_full = tally.last_bytes + shortfall >= MOST_BYTES || tally.last_members >= MOST_MEMBERS;
    if shortfall > 0 && may_be_full {
        return refused(format!(
            "of {expected} bytes {shortfall} are not there, and the last archive that is there was full"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(names: &[&str]) -> Vec<Part> {
        find(names.iter().map(|name| ((*name).to_owned(), 1)))
    }

    fn missing(names: &[&str], writer: Writer, listed: &[&str]) -> Option<String> {
        let listed = listed.iter().map(|name| (*name).to_owned()).collect();
        let error = check(&parts(names), writer, &listed).err()?;
        assert_eq!(error.kind(), Kind::Incomplete);
        Some(error.what().trim_start_matches("the backup lacks its archive ").to_owned())
    }

    #[test]
    fn archives_are_told_by_their_names() {
        let found = parts(&["part_001.tar.lz4", "pg_control.tar.lz4", "backup_label.tar", "copy_2.tar.br", "x.json"]);
        let last: Vec<bool> = found.iter().map(Part::is_last).collect();
        let codecs: Vec<Codec> = found.iter().map(|part| part.codec).collect();
        assert_eq!(last, [true, false, false, true]);
        assert_eq!(codecs, [Codec::Plain, Codec::Brotli, Codec::Lz4, Codec::Lz4]);
    }

    #[test]
    fn one_that_is_listed_or_numbered_and_not_there_is_missing() {
        let (e, g) = (Writer::WalE, Writer::WalG);
        let whole = ["part_001.tar.lz4", "part_002.tar.lz4", "pg_control.tar.lz4"];
        assert_eq!(missing(&whole, g, &[]), None);
        assert_eq!(missing(&whole, g, &["part_002.tar.lz4"]), None);
        assert_eq!(missing(&whole, g, &["part_001.tar", "part_002.tar"]), None);
        assert_eq!(missing(&whole, g, &["part_003.tar"]).unwrap(), "part_003.tar");
        assert_eq!(missing(&whole, g, &["part_003.tar.lz4"]).unwrap(), "part_003.tar.lz4");
        assert_eq!(missing(&whole[..2], g, &[]).unwrap(), "pg_control.tar");
        assert_eq!(missing(&whole[1..], g, &[]).unwrap(), "part_001.tar");
        assert_eq!(missing(&whole[1..], g, &["part_002.tar.lz4"]), None);
        assert_eq!(missing(&["copy_1.tar.lz4", "part_002.tar.lz4", "pg_control.tar.lz4"], g, &[]), None);
        assert_eq!(missing(&[], e, &[]).unwrap(), "part_00000000.tar");
        assert_eq!(missing(&["part_00000000.tar.lzo", "part_00000001.tar.lzo"], e, &[]), None);
        assert_eq!(missing(&["part_00000001.tar.lzo"], e, &[]).unwrap(), "part_00000000.tar");
        let holed = ["part_00000000.tar.lzo", "part_00000002.tar.lzo"];
        assert_eq!(missing(&holed, e, &[]).unwrap(), "part_00000001.tar");
    }

    /// WAL-E's own way to fill its archives: the sizes of files by archive.
    fn fill(sizes: &[u64]) -> Vec<Vec<u64>> {
        let mut archives = vec![Vec::new()];
        let mut bytes = 0;
        for size in sizes {
            if bytes + size >= MOST_BYTES {
                archives.push(Vec::new());
                bytes = 0;
            }
            bytes += size;
            archives.last_mut().unwrap().push(*size);
        }
        archives
    }

    proptest! {
        #[test]
        fn a_last_archive_that_is_missing_is_always_noticed(
            sizes in prop::collection::vec(1u64..MOST_BYTES, 1..30), gone in prop::collection::vec(any::<bool>(), 30)
        ) {
            let mut archives = fill(&sizes);
            let expected = sizes.iter().sum();
            let lost = archives.pop().unwrap();
            prop_assume!(!archives.is_empty());
            // Of the others some files were deleted in time.
            let mut gone = gone.into_iter();
            for archive in &mut archives {
                archive.retain(|_| !gone.next().unwrap_or(false));
            }
            let last_bytes = archives.last().unwrap().iter().sum();
            let bytes = archives.iter().flatten().sum();
            let tally = Tally { bytes, last_bytes, last_members: 1 };
            prop_assert!(check_tally(tally, expected).is_err(), "{lost:?}");
        }
    }

    #[test]
    fn files_that_were_deleted_while_it_was_made_are_no_missing_archive() {
        let tally = |bytes, last_bytes, last_members| Tally { bytes, last_bytes, last_members };
        assert!(check_tally(tally(100, 100, 9), 100).is_ok());
        assert!(check_tally(tally(5 * MOST_BYTES, 1 << 30, 9), 5 * MOST_BYTES + (1 << 20)).is_ok());
        assert!(check_tally(tally(100, 100, MOST_MEMBERS), 100).is_ok());
        assert!(check_tally(tally(100, 100, MOST_MEMBERS), 101).is_err());
        assert!(check_tally(tally(101, 101, 9), 100).is_err());
    }
}
