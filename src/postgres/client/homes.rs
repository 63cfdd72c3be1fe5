//! In which tablespace each database lies: one that moves during a backup would be lost in what is restored.

use std::collections::BTreeMap;

use super::{Client, column};
use crate::error::{Error, Kind, Result};

/// How many databases an error names.
const SHOWN: usize = 5;

/// The databases of a cluster: name and tablespace by OID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Homes(BTreeMap<i64, (String, i64)>);

impl Client {
    /// Where each database lies now.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] if the session has ended.
    pub async fn homes(&self) -> Result<Homes> {
        let sql = "SELECT array_agg(oid::int8 ORDER BY oid), array_agg(datname::text ORDER BY oid), \
                   array_agg(dattablespace::int8 ORDER BY oid) FROM pg_database";
        let row = self.row("could not ask where the databases lie", sql, &[]).await?;
        let (oids, names): (Vec<i64>, Vec<String>) = (column(&row, 0)?, column(&row, 1)?);
        let places: Vec<i64> = column(&row, 2)?;
        Ok(Homes(oids.into_iter().zip(names.into_iter().zip(places)).collect()))
    }
}

impl Homes {
    /// Compares where the databases lay before a backup began with where they lay when all of it was copied.
    ///
    /// `ALTER DATABASE ... SET TABLESPACE` copies files and writes into the WAL no more than that they are to be copied.
    /// Recovery replaces the new directory by a copy of the old one, which the backup lacks if the server had removed it by
    /// then (`movedb` and `dbase_redo` in src/backend/commands/dbcommands.c).
    ///
    /// # Errors
    /// [`Kind::Refused`] if one has moved.
    pub fn check_unmoved(&self, later: &Homes) -> Result<()> {
        let moved: Vec<String> = self
            .0
            .iter()
            .filter_map(|(oid, (_, before))| {
                let (name, after) = later.0.get(oid)?;
                (before != after).then(|| format!("\"{name}\""))
            })
            .collect();
        if moved.is_empty() {
            return Ok(());
        }
        let more = if moved.len() > SHOWN { " and more" } else { "" };
        let names = moved[..moved.len().min(SHOWN)].join(", ");
        Err(Error::new(Kind::Refused, "a database was moved to another tablespace during the backup")
            .detail(format!("{names}{more}: recovery repeats the move, from files that the backup lacks"))
            .hint("Run walden backup-push again, and ALTER DATABASE ... SET TABLESPACE when no backup is being taken."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn homes(homes: &[(i64, &str, i64)]) -> Homes {
        Homes(homes.iter().map(|&(oid, name, place)| (oid, (name.to_owned(), place))).collect())
    }

    #[test]
    fn only_a_database_that_was_there_and_has_moved_is_told() {
        let before = homes(&[(1, "template1", 1663), (5, "shop", 1663), (6, "old", 1663)]);
        assert!(before.check_unmoved(&before).is_ok());
        // Renamed, dropped, created and moved: its creation is in the WAL.
        let later = homes(&[(1, "template1", 1663), (5, "store", 1663), (7, "new", 16400)]);
        assert!(before.check_unmoved(&later).is_ok());
        let moved = homes(&[(1, "template1", 1663), (5, "store", 16400)]);
        let error = before.check_unmoved(&moved).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.cause().is_some_and(|cause| cause.contains("\"store\"")), "{error:?}");
    }
}
