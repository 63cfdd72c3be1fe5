//! What the session's user must be allowed to do, and the words that allow it.

use super::{Client, column};
use crate::error::{Error, Kind, Result};

/// The role whose members may read all settings (PostgreSQL documentation, "Predefined Roles").
const SETTINGS: &str = "pg_read_all_settings";

impl Client {
    /// May the user take a backup: read all settings, and execute the functions that begin and end it?
    ///
    /// # Errors
    /// [`Kind::Denied`] with what is missing, and the statements that give it.
    pub async fn check_rights(&self) -> Result<()> {
        let functions = self.backup_functions();
        let sql = "SELECT pg_has_role($1::text, 'USAGE'), has_function_privilege($2::text, 'EXECUTE'), \
            has_function_privilege($3::text, 'EXECUTE')";
        let what = "could not ask for the rights of a backup";
        let row = self.row(what, sql, &[&SETTINGS, &functions[0], &functions[1]]).await?;
        let settings: bool = column(&row, 0)?;
        let mut lacking = Vec::new();
        for (index, function) in (1..).zip(functions) {
            if !column::<bool>(&row, index)? {
                lacking.push(function);
            }
        }
        if settings && lacking.is_empty() {
            return Ok(());
        }
        let role = (!settings).then(|| format!("is not a member of {SETTINGS}"));
        let lacks = lacking.iter().map(|function| format!("may not execute {function}"));
        let lacks: Vec<String> = role.into_iter().chain(lacks).collect();
        Err(Error::new(Kind::Denied, format!("the user \"{}\" may not take backups", self.user))
            .detail(format!("it {}", lacks.join(", and ")))
            .hint(self.grants(!settings, &lacking)))
    }

    /// The functions that begin and end a backup, as GRANT names them.
    pub(super) fn backup_functions(&self) -> [&'static str; 2] {
        match self.major() {
            ..15 => ["pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"],
            _ => ["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"],
        }
    }

    /// The statements that give the user these rights.
    pub(super) fn grants(&self, settings: bool, functions: &[&str]) -> String {
        let user = format!("\"{}\"", self.user.replace('"', "\"\""));
        let mut grants = String::from("Run as a superuser, in the database that PGDATABASE names:");
        if settings {
            grants.push_str(&format!(" GRANT {SETTINGS} TO {user};"));
        }
        if !functions.is_empty() {
            grants.push_str(&format!(" GRANT EXECUTE ON FUNCTION {} TO {user};", functions.join(", ")));
        }
        grants
    }
}
