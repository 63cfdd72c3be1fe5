//! The `restore_command` that a restored cluster gets: this program, with the settings that this run had.

use std::path::{Path, PathBuf};

use crate::config::options::encryption::{ENCRYPT_TO, IDENTITY_FILE};
use crate::config::options::{CONFIG, ENVDIR, TABLE};
use crate::config::row::{Role, VerbName};
use crate::config::sources::{ENVDIR_VARIABLE, Environment, WAL_G_VARIABLE};
use crate::config::{Origin, Settings};
use crate::error::{Context, Result};

/// A command line for PostgreSQL's shell, with `%f` and `%p`. Settings are passed as flags, because the server's
/// environment need not be ours; secrets never are, and what the AWS SDK reads from the environment cannot be.
pub(super) fn build(settings: &Settings, environment: &Environment) -> Result<String> {
    let program = std::env::current_exe().during(|| "could not find this program's own file")?;
    let mut words = vec![quoted(&program.display().to_string())];
    // Only what every verb takes may stand before it.
    let mut own = vec![VerbName::WalFetch.to_string()];
    if let Some(directory) = environment.get(ENVDIR_VARIABLE) {
        words.push(format!("--{} {}", ENVDIR.row.name, quoted(&absolute(directory)?)));
    }
    if let Some(file) = environment.get(WAL_G_VARIABLE) {
        words.push(format!("--{} {}", CONFIG.row.name, quoted(&absolute(file)?)));
    }
    for row in TABLE.iter().filter(|row| row.verbs.contains(&VerbName::WalFetch) && !row.secret) {
        let given = settings.origin(row).is_some_and(|origin| origin != Origin::Default);
        // The data directory of the restored cluster is another one.
        if !given || row.name == ENVDIR.row.name || row.name == "pgdata" {
            continue;
        }
        for text in settings.texts(row) {
            let text = if row.role == Role::Source { absolute(text)? } else { text.to_owned() };
            let place = if row.is_global() { &mut words } else { &mut own };
            place.push(format!("--{} {}", row.name, quoted(&text)));
        }
    }
    // A symmetric key that is written with is read with, too.
    let named: Vec<&str> = settings.texts(&IDENTITY_FILE.row).collect();
    for file in settings.texts(&ENCRYPT_TO.row).filter(|text| text.starts_with('/') && !named.contains(text)) {
        own.push(format!("--{} {}", IDENTITY_FILE.row.name, quoted(file)));
    }
    words.extend(own);
    words.push("%f \"%p\"".to_owned());
    Ok(words.join(" "))
}

fn absolute(path: &str) -> Result<String> {
    let path: PathBuf = std::path::absolute(Path::new(path)).during(|| "could not find the current directory")?;
    Ok(path.display().to_string())
}

/// A word for the shell, with PostgreSQL's own placeholder character doubled.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=,+@".contains(c);
    let word = word.replace('%', "%%");
    match !word.is_empty() && word.chars().all(plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_safe_for_the_shell_and_for_postgresql() {
        assert_eq!(quoted("s3://bucket/path"), "s3://bucket/path");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("100%"), "'100%%'");
        assert_eq!(quoted(""), "''");
    }
}
