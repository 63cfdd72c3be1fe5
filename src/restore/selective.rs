//! `--only-database`: which databases are restored, and which are only there as zeros. Pure.

use crate::backup::manifest::Backup;
use crate::error::{Error, Kind, Result};
use crate::postgres::entry::Database;

/// Databases below this number come with the cluster: template0, template1 and postgres (`FirstNormalObjectId` in
/// src/include/access/transam.h). They are restored always.
const FIRST_OF_USERS: u32 = 16384;

/// Which databases are left out.
#[derive(Clone, Debug, Default)]
pub(super) struct Selective {
    /// The numbers of those that are restored; `None`: all of them.
    restored: Option<Vec<u32>>,
    /// Those that are left out, as far as their names are known.
    pub(super) left_out: Vec<Database>,
}

impl Selective {
    /// Restores these databases of a backup alone; all if none is named.
    ///
    /// # Errors
    /// [`Kind::Refused`] if the backup does not know the names of its databases, or has none of this name.
    pub(super) fn of(backup: &Backup, names: &[String]) -> Result<Selective> {
        if names.is_empty() {
            return Ok(Selective::default());
        }
        let known = &backup.databases;
        if let Some(name) = names.iter().find(|name| !known.iter().any(|database| database.name == **name)) {
            let users: Vec<String> = known.iter().map(|database| format!("\"{}\"", database.name)).collect();
            let error = Error::new(Kind::Refused, format!("backup {} has no database \"{name}\"", backup.id));
            return Err(match users.is_empty() {
                true => error
                    .detail("it does not know the names of its databases: an early version took it")
                    .hint("Restore all of it, without --only-database."),
                false => error.detail(format!("it has {}", users.join(", "))),
            });
        }
        let (restored, left_out): (Vec<&Database>, Vec<&Database>) =
            known.iter().partition(|database| database.oid < FIRST_OF_USERS || names.contains(&database.name));
        Ok(Selective {
            restored: Some(restored.iter().map(|database| database.oid).collect()),
            left_out: left_out.into_iter().cloned().collect(),
        })
    }

    /// Is this file of a database that is left out? Only its `PG_VERSION` stays, by which the server knows the directory.
    pub(super) fn is_hollow(&self, path: &str) -> bool {
        let Some(restored) = &self.restored else { return false };
        let parts: Vec<&str> = path.split('/').collect();
        let (database, name) = match parts.as_slice() {
            ["base", database, name] | ["pg_tblspc", _, _, database, name] => (database, name),
            _ => return false,
        };
        let Ok(oid) = database.parse::<u32>() else { return false };
        oid >= FIRST_OF_USERS && !restored.contains(&oid) && *name != "PG_VERSION"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::manifest::tests::backup;

    fn with(names: &[&str]) -> Result<Selective> {
        let databases = [(1, "template1"), (5, "postgres"), (16390, "shop"), (16400, "old")];
        let databases = databases.map(|(oid, name)| Database { oid, name: name.into() }).to_vec();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Selective::of(&Backup { databases, ..backup() }, &names)
    }

    #[test]
    fn other_databases_of_users_are_hollow_and_nothing_else_is() {
        let selective = with(&["shop"]).unwrap();
        assert_eq!(selective.left_out, [Database { oid: 16400, name: "old".into() }]);
        for (path, hollow) in [
            ("base/16400/2619", true),
            ("base/16400/pg_filenode.map", true),
            // Made after the names were asked for.
            ("base/17000/1", true),
            ("pg_tblspc/16385/PG_15_202209061/16400/1", true),
            ("base/16400/PG_VERSION", false),
            ("base/16390/2619", false),
            ("base/5/1259", false),
            ("pg_tblspc/16385/PG_15_202209061/16390/1", false),
            ("global/1262", false),
            ("pg_xact/0000", false),
            ("base/pgsql_tmp/1", false),
        ] {
            assert_eq!(selective.is_hollow(path), hollow, "{path}");
        }
        let all = with(&[]).unwrap();
        assert!(!all.is_hollow("base/16400/2619"));
    }

    #[test]
    fn a_database_that_is_not_there_is_refused_with_those_that_are() {
        let error = with(&["shop", "shpo"]).unwrap_err();
        assert!(error.what().contains("\"shpo\"") && error.cause().unwrap().contains("\"shop\""), "{error:?}");
        assert_eq!(Selective::of(&backup(), &["shop".into()]).unwrap_err().kind(), Kind::Refused);
    }
}
