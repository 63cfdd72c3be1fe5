//! What a backup knows of its data pages: how many were verified, and which of them are damaged.
//!
//! Pure: the words for it, in a manifest and for people. Finding damage is the business of `pages`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};
use crate::layout::BackupId;
use crate::observe::words::counted;
use crate::postgres::lsn::Lsn;
use crate::postgres::relation::Fork;

/// Damaged pages that an error names; the manifest has more.
const NAMED: usize = 5;

/// What became of verifying the page checksums.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageCheck {
    /// Pages that were verified.
    pub checked: u64,
    /// Pages that are damaged.
    pub damaged: u64,
    /// The damaged pages, by path and block; where they are very many, the first that were found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub list: Vec<DamagedPage>,
}

/// One damaged page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPage {
    /// The database, if its name could be found out; none for relations that all databases share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The relation, as `schema.name`, quoted as SQL wants it; none in databases other than the one of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<String>,
    /// The fork.
    pub fork: Fork,
    /// The block, counted from the beginning of the fork.
    pub block: u32,
    /// The file, relative to the data directory.
    pub path: String,
    /// How far the page says that it was written.
    pub lsn: Lsn,
    /// What is wrong with it, in words.
    pub why: String,
}

impl std::fmt::Display for DamagedPage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "block {} of ", self.block)?;
        if let Some(relation) = &self.relation {
            write!(f, "{relation}, ")?;
        }
        write!(f, "{} fork, in \"{}\"", self.fork, self.path)?;
        if let Some(database) = &self.database {
            write!(f, " of database \"{database}\"")?;
        }
        write!(f, ": {}", self.why)
    }
}

impl PageCheck {
    /// What makes a backup with damage end with an exit code of its own, though it is complete.
    pub fn complaint(&self, id: BackupId) -> Option<Error> {
        self.error(format!("backup {id} is complete, and has {}", self.count())).map(|error| {
            error.hint(format!(
                "Run walden backup-show {id} for all of them. Keep the backups that were taken before the damage, and \
                 look for its cause on the server: disks, memory, file system."
            ))
        })
    }

    /// What makes a backup with damage fail, where that is wanted.
    pub fn refusal(&self) -> Option<Error> {
        self.error(format!("the cluster has {}", self.count())).map(|error| {
            error.hint(
                "With --on-corruption warn, or WALDEN_ON_CORRUPTION=warn, such a backup is completed, and marked as damaged.",
            )
        })
    }

    /// "1 damaged page".
    pub fn count(&self) -> String {
        counted(self.damaged, "damaged page")
    }

    fn error(&self, what: String) -> Option<Error> {
        if self.damaged == 0 {
            return None;
        }
        let mut places: Vec<String> = self.list.iter().take(NAMED).map(DamagedPage::to_string).collect();
        let others = self.damaged - places.len() as u64;
        if others > 0 {
            places.push(format!("and {others} more"));
        }
        Some(Error::new(Kind::Damaged, what).detail(places.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(block: u32) -> DamagedPage {
        DamagedPage {
            database: Some("shop".into()),
            relation: Some("public.orders".into()),
            fork: Fork::Main,
            block,
            path: "base/5/16384".into(),
            lsn: Lsn(0x1_0000_0028),
            why: "its checksum is wrong".into(),
        }
    }

    #[test]
    fn a_page_is_named_as_far_as_its_names_are_known() {
        let full =
            "block 3 of public.orders, main fork, in \"base/5/16384\" of database \"shop\": its checksum is wrong";
        assert_eq!(page(3).to_string(), full);
        let bare = DamagedPage { database: None, relation: None, fork: Fork::Vm, ..page(0) };
        assert_eq!(bare.to_string(), "block 0 of vm fork, in \"base/5/16384\": its checksum is wrong");
    }

    #[test]
    fn an_error_names_a_few_and_counts_all() {
        let check =
            |damaged: u64| PageCheck { checked: 100, damaged, list: (0..damaged.min(8) as u32).map(page).collect() };
        let id = BackupId::parse("20261121T013005Z-0000000100000000000000AB").unwrap();
        assert!(check(0).complaint(id).is_none() && check(0).refusal().is_none());
        let one = check(1).complaint(id).unwrap();
        assert!(one.what().ends_with("has 1 damaged page") && one.cause() == Some(page(0).to_string().as_str()));
        let many = check(2000).refusal().unwrap();
        assert_eq!((many.kind(), many.what()), (Kind::Damaged, "the cluster has 2000 damaged pages"));
        assert!(many.cause().unwrap().ends_with("; and 1995 more"), "{many}");
    }

    #[test]
    fn what_a_manifest_says_is_read_back() {
        let check = PageCheck { checked: 7, damaged: 1, list: vec![DamagedPage { database: None, ..page(9) }] };
        let json = serde_json::to_string(&check).unwrap();
        assert!(!json.contains("database") && json.contains("\"fork\":\"main\""), "{json}");
        assert_eq!(serde_json::from_str::<PageCheck>(&json).unwrap(), check);
    }
}
