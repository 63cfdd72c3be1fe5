//! The names of damaged relations.

use std::collections::HashMap;

use super::{Client, column};
use crate::error::Result;
use crate::postgres::relation::DataFile;

/// What people call a data file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The database; none for relations that all databases share, and for databases that are not there any more.
    pub database: Option<String>,
    /// The relation, `schema.name`, quoted as SQL wants it; only for relations that the session's own database knows.
    pub relation: Option<String>,
}

/// What a lock on the catalogues may cost: the backup waits meanwhile.
const BRIEFLY: &str = "SET lock_timeout = '5s'";
const WITHOUT_LIMIT: &str = "SET lock_timeout = 0";

impl Client {
    /// The names for these files, in the same order.
    ///
    /// # Errors
    /// Those of SQL: where catalogues are damaged there can be any. The session goes on, unless it has ended.
    pub async fn names(&self, files: &[DataFile]) -> Result<Vec<Names>> {
        let what = "could not find the names of relations";
        let limit = self.session.batch_execute(BRIEFLY).await;
        limit.map_err(|error| self.failure(what, &error))?;
        let names = self.ask_for_names(what, files).await;
        let limit = self.session.batch_execute(WITHOUT_LIMIT).await;
        limit.map_err(|error| self.failure(what, &error))?;
        names
    }

    async fn ask_for_names(&self, what: &str, files: &[DataFile]) -> Result<Vec<Names>> {
        let databases: Vec<u32> = files.iter().map(|file| file.database).collect();
        let sql = "SELECT oid, datname, datname = current_database() FROM pg_database WHERE oid = ANY($1)";
        let rows = self.session.query(sql, &[&databases]).await.map_err(|error| self.failure(what, &error))?;
        let (mut called, mut own) = (HashMap::new(), None);
        for row in &rows {
            let (oid, name): (u32, String) = (column(row, 0)?, column(row, 1)?);
            if column(row, 2)? {
                own = Some(oid);
            }
            called.insert(oid, name);
        }
        let known = |file: &DataFile| file.database == 0 || Some(file.database) == own;
        let relations = self.relations(what, files.iter().copied().filter(known).collect()).await?;
        let name = |file: &DataFile| Names {
            database: called.get(&file.database).cloned(),
            relation: relations.get(file).cloned(),
        };
        Ok(files.iter().map(name).collect())
    }

    /// `pg_filenode_relation` looks into the session's own database, and at what all of them share.
    async fn relations(&self, what: &str, files: Vec<DataFile>) -> Result<HashMap<DataFile, String>> {
        let tablespaces: Vec<u32> = files.iter().map(|file| file.tablespace).collect();
        let numbers: Vec<u32> = files.iter().map(|file| file.relation).collect();
        let sql = "SELECT place, format('%I.%I', nspname, relname) \
            FROM unnest($1::oid[], $2::oid[]) WITH ORDINALITY AS file (tablespace, number, place) \
            JOIN pg_class c ON c.oid = pg_filenode_relation(tablespace, number) JOIN pg_namespace n ON n.oid = relnamespace";
        let rows = self.session.query(sql, &[&tablespaces, &numbers]).await;
        let mut relations = HashMap::new();
        for row in &rows.map_err(|error| self.failure(what, &error))? {
            let place: i64 = column(row, 0)?;
            if let Some(file) = usize::try_from(place - 1).ok().and_then(|place| files.get(place)) {
                relations.insert(*file, column(row, 1)?);
            }
        }
        Ok(relations)
    }
}
