//! The names of base backups that WAL-E and WAL-G wrote, and the keys of their objects below the prefix of theirs
//! (docs/legacy-backups.md).
//!
//! Pure. These objects are read and never written.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Kind, Result};
use crate::layout::legacy::BACKUPS;
use crate::wal::segment::SegmentName;

/// What the name of a sentinel ends with. It is put last: a backup without one is none.
const SENTINEL: &str = "_backup_stop_sentinel.json";

/// Who wrote a backup that is not Walden's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// WAL-E.
    WalE,
    /// WAL-G, or one that writes as it does.
    WalG,
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Writer::WalE => "WAL-E",
            Writer::WalG => "WAL-G",
        })
    }
}

/// The name of a backup of WAL-E (`base_<segment>_<offset>`), or of WAL-G (`base_<segment>`, and `base_<segment>_D_<segment
/// of the one before>` for a delta). WAL-RUS names all deltas before, down to the full backup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegacyName {
    /// The segment in which its WAL begins.
    pub segment: SegmentName,
    /// Of a delta, the segment in which that of the backup before begins. It names that one in part only.
    pub parent: Option<SegmentName>,
    /// Those before that one, as far as the name has them.
    further: Vec<SegmentName>,
    offset: Option<[u8; OFFSET_DIGITS]>,
}

/// Digits of an offset: `lpad(file_offset::text, 8, '0')` in WAL-E, so they are decimal.
const OFFSET_DIGITS: usize = 8;

impl LegacyName {
    /// Reads a name; `None` for anything else.
    pub fn parse(text: &str) -> Option<LegacyName> {
        let rest = text.strip_prefix("base_")?;
        let (segment, rest) = rest.split_at_checked(24)?;
        let (mut rest, mut named) = (rest, Vec::new());
        while let Some(delta) = rest.strip_prefix("_D_") {
            let (before, behind) = delta.split_at_checked(24)?;
            named.push(SegmentName::parse(before)?);
            rest = behind;
        }
        let offset = match rest.strip_prefix('_') {
            Some(digits) => Some(<[u8; OFFSET_DIGITS]>::try_from(digits.as_bytes()).ok()?),
            None if rest.is_empty() => None,
            None => return None,
        };
        let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte);
        if offset.is_some_and(|digits| !digits.iter().all(is_digit)) {
            return None;
        }
        let mut named = named.into_iter();
        let parent = named.next();
        Some(LegacyName { segment: SegmentName::parse(segment)?, parent, further: named.collect(), offset })
    }

    /// Where in its segment the WAL begins, as WAL-E says it; `None` in a name of WAL-G.
    pub fn offset(&self) -> Option<u64> {
        std::str::from_utf8(self.offset.as_ref()?).ok()?.parse().ok()
    }

    /// Who wrote it, as the name tells: WAL-G's have no offset.
    pub fn writer(&self) -> Writer {
        if self.offset.is_some() { Writer::WalE } else { Writer::WalG }
    }

    /// Says that only ours can be changed, deleted and looked into.
    pub fn not_ours(&self) -> Error {
        let writer = self.writer();
        Error::new(Kind::Refused, format!("backup {self} is not one of walden's"))
            .detail(format!("{writer} wrote it, and walden only lists, shows and restores such backups"))
            .hint(format!("Use {writer} for it, or walden backup-fetch DIR {self} to restore it."))
    }

    /// The backup whose sentinel this is; `None` for any other key.
    pub fn of_sentinel(key: &str) -> Option<LegacyName> {
        LegacyName::parse(key.strip_prefix(BACKUPS)?.strip_suffix(SENTINEL)?)
    }

    /// Does this key end as those of sentinels do, whatever it begins with?
    pub fn ends_as_sentinel(key: &str) -> bool {
        key.ends_with(SENTINEL)
    }

    /// The key of its sentinel.
    pub fn sentinel(&self) -> String {
        format!("{BACKUPS}{self}{SENTINEL}")
    }

    /// The backup whose objects begin with this, as a folded listing has it: `basebackups_005/base_…/`.
    pub fn of_folder(folder: &str) -> Option<LegacyName> {
        LegacyName::parse(folder.strip_prefix(BACKUPS)?.strip_suffix('/')?)
    }

    /// What all of its tar archives begin with.
    pub fn parts(&self) -> String {
        format!("{BACKUPS}{self}/tar_partitions/")
    }

    /// The key of WAL-G's list of files.
    pub fn files_metadata(&self) -> String {
        format!("{BACKUPS}{self}/files_metadata.json")
    }

    /// The key of what WAL-E's server said of its version.
    pub fn extended_version(&self) -> String {
        format!("{BACKUPS}{self}/extended_version.txt")
    }
}

impl fmt::Display for LegacyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "base_{}", self.segment)?;
        for before in self.parent.iter().chain(&self.further) {
            write!(f, "_D_{before}")?;
        }
        match self.offset {
            Some(digits) => write!(f, "_{}", String::from_utf8_lossy(&digits)),
            None => Ok(()),
        }
    }
}

impl FromStr for LegacyName {
    type Err = Error;

    fn from_str(text: &str) -> Result<LegacyName> {
        LegacyName::parse(text).ok_or_else(|| {
            Error::new(Kind::Usage, format!("\"{text}\" is not the name of a backup of WAL-E or WAL-G"))
                .hint("walden backup-list prints the names.")
        })
    }
}

impl serde::Serialize for LegacyName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::wal::segment::tests::any_segment;
    use proptest::prelude::*;

    pub(crate) fn any_name() -> impl Strategy<Value = LegacyName> {
        let offset = prop::option::of((0u32..100_000_000).prop_map(|offset| {
            let digits = format!("{offset:08}");
            <[u8; OFFSET_DIGITS]>::try_from(digits.as_bytes()).unwrap()
        }));
        let before = prop::collection::vec(any_segment(), 0..20);
        (any_segment(), before, offset).prop_map(|(segment, before, offset)| {
            let mut before = before.into_iter();
            LegacyName { segment, parent: before.next(), further: before.collect(), offset }
        })
    }

    proptest! {
        #[test]
        fn parse_undoes_build(name in any_name()) {
            prop_assert_eq!(LegacyName::parse(&name.to_string()), Some(name.clone()));
            prop_assert_eq!(LegacyName::of_sentinel(&name.sentinel()), Some(name));
        }

        #[test]
        fn whatever_parses_is_built_the_same(text in "base_[0-9A-F]{24}(_D_[0-9A-F]{24}){0,18}(_[0-9A-F]{7,9})?[_x]?") {
            if let Some(name) = LegacyName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }

    #[test]
    fn names_as_the_two_programs_write_them() {
        let wal_e = LegacyName::parse("base_00000001000000000000002A_00000040").unwrap();
        assert_eq!((wal_e.offset(), wal_e.writer()), (Some(40), Writer::WalE));
        let delta = LegacyName::parse("base_00000001000000000000002C_D_00000001000000000000002A").unwrap();
        assert_eq!(delta.parent.unwrap().to_string(), "00000001000000000000002A");
        assert_eq!((delta.offset(), delta.writer()), (None, Writer::WalG));
        assert_eq!(delta.parts(), format!("basebackups_005/{delta}/tar_partitions/"));
        let all = "base_00000001000000000000002E_D_00000001000000000000002C_D_00000001000000000000002A";
        let deep = LegacyName::parse(all).unwrap();
        assert_eq!((deep.to_string().as_str(), deep.parent.unwrap()), (all, delta.segment));
        for other in ["base_", "base_00000001000000000000002A_", "base_00000001000000000000002A_4", "base_x", "LATEST"]
        {
            assert_eq!(LegacyName::parse(other), None, "{other}");
        }
        assert_eq!(LegacyName::of_sentinel("basebackups_005/base_00000001000000000000002A/metadata.json"), None);
    }
}
