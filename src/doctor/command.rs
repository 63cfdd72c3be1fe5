//! What a command of the server's configuration would do, read and never run: which walden it calls, and with which
//! settings.
//!
//! Takes the command apart as far as commands of this kind go: one call of walden, perhaps behind others. What it cannot
//! make out it does not judge.

use std::path::{Path, PathBuf};

use rustix::fs::Access;

use crate::config::options::TABLE;
use crate::config::row::{Row, VerbName};
use crate::config::sources::{self, Environment, Flags};
use crate::config::{Settings, options};
use crate::error::{Error, Kind, Result};

/// What ends one command of a shell and begins the next.
const OPERATORS: [&str; 7] = ["&&", "||", ";", "|", "(", "{", "!"];

/// One call of walden in a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// As it is written there.
    pub(super) program: String,
    /// `NAME=value` before the program.
    assignments: Vec<(String, String)>,
    /// What follows it.
    pub(super) words: Vec<String>,
}

impl Call {
    /// The call of this verb; `None` if the command has none, or cannot be taken apart.
    pub(super) fn find(command: &str, verb: VerbName) -> Option<Call> {
        let words = shlex::split(command)?;
        let at = words.iter().position(|word| word == verb.as_str())?;
        let operator = |word: &String| OPERATORS.contains(&word.as_str()) || word.ends_with(';');
        let start = words[..at].iter().rposition(operator).map_or(0, |before| before + 1);
        let end = words[at..].iter().position(operator).map_or(words.len(), |after| at + after);
        let named = |word: &String| Path::new(word).file_name().is_some_and(|name| name == "walden");
        let assigns = |word: &String| word.contains('=') && !word.starts_with(['-', '/']);
        // Another name than ours: the first word that is none of those that begin a command by custom.
        let program = words[start..at].iter().position(named).or_else(|| {
            words[start..at].iter().position(|word| !assigns(word) && !matches!(word.as_str(), "exec" | "env" | "nice"))
        })?;
        let assignments = words[start..start + program].iter().filter_map(|word| word.split_once('='));
        Some(Call {
            program: words[start + program].clone(),
            assignments: assignments.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            words: words[start + program + 1..end].to_vec(),
        })
    }

    /// Whether the server's word for something, such as `%p`, is handed on.
    pub(super) fn hands_on(&self, placeholder: &str) -> bool {
        self.words.iter().any(|word| word.contains(placeholder))
    }

    /// The program's file: looked for in `path` if it has no slash, and from the data directory if it is relative.
    ///
    /// # Errors
    /// [`Kind::Config`] if it is not there, or may not be run.
    pub(super) fn find_program(&self, data_directory: &Path, path: Option<&str>) -> Result<PathBuf> {
        let places: Vec<PathBuf> = match self.program.contains('/') {
            true => vec![data_directory.join(&self.program)],
            false => path.unwrap_or_default().split(':').map(|place| Path::new(place).join(&self.program)).collect(),
        };
        let runs = |file: &PathBuf| file.is_file() && rustix::fs::access(file, Access::EXEC_OK).is_ok();
        places.iter().find(|file| runs(file)).cloned().ok_or_else(|| {
            let there = places.iter().find(|file| file.exists());
            let missing = || match self.program.contains('/') {
                true => format!("there is no \"{}\"", self.program),
                false => format!("\"{}\" is in no directory of the PATH", self.program),
            };
            let why = there.map_or_else(missing, |file| format!("\"{}\" cannot be run by this user", file.display()));
            Error::new(Kind::Config, "its program cannot be run").detail(why)
        })
    }

    /// The settings that it has, in an environment such as the server's.
    ///
    /// # Errors
    /// Those of [`sources::load`] and of [`sources::read_envdir`].
    pub(super) fn settings(&self, data_directory: &Path, environment: &[(String, String)]) -> Result<Settings> {
        let mut variables: Vec<(String, String)> = environment.to_vec();
        variables.extend(self.assignments.iter().cloned());
        if let Some(directory) = self.value_of(&options::ENVDIR.row) {
            let directory = data_directory.join(directory);
            for (name, value) in sources::read_envdir(&directory)? {
                // An empty variable counts as unset.
                variables.push((name, value.unwrap_or_default()));
            }
        }
        let environment: Environment = variables.into_iter().collect();
        let rows = TABLE.iter().filter(|row| row.value.is_some());
        let flags: Flags = rows.filter_map(|row| Some((row.name, vec![self.value_of(row)?]))).collect();
        sources::load(flags, &environment)
    }

    /// Whether it says itself where the archive is, or where that is said.
    pub(super) fn names_its_settings(&self) -> bool {
        [&options::ENVDIR.row, &options::PREFIX.row, &options::CONFIG.row]
            .iter()
            .any(|row| self.value_of(row).is_some())
            || self.assignments.iter().any(|(name, _)| *name == options::PREFIX.row.variable())
    }

    fn value_of(&self, row: &Row) -> Option<String> {
        let flag = format!("--{}", row.name);
        let mut words = self.words.iter();
        while let Some(word) = words.next() {
            if *word == flag {
                return words.next().cloned();
            }
            if let Some(value) = word.strip_prefix(&flag).and_then(|rest| rest.strip_prefix('=')) {
                return Some(value.to_owned());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pushes(command: &str) -> Option<(String, Vec<String>)> {
        Call::find(command, VerbName::WalPush).map(|call| (call.program, call.words))
    }

    #[test]
    fn the_call_is_found_behind_others_and_by_any_name() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<String>>();
        for (command, program, rest) in [
            ("walden wal-push %p", "walden", "wal-push %p"),
            ("/usr/bin/walden --envdir '/etc/w d' wal-push \"%p\"", "/usr/bin/walden", "--envdir|/etc/w d|wal-push|%p"),
            ("test ! -f /x && exec walden wal-push %p || false", "walden", "wal-push %p"),
            ("env A=b walden wal-push %p", "walden", "wal-push %p"),
            ("A=b /opt/w-1.2/w wal-push %p", "/opt/w-1.2/w", "wal-push %p"),
            ("nice -n 5 walden wal-push %p; true", "walden", "wal-push|%p;"),
        ] {
            let rest = if rest.contains('|') { rest.split('|').map(str::to_owned).collect() } else { words(rest) };
            let (found, tail) = pushes(command).unwrap_or_else(|| panic!("{command}"));
            assert_eq!(found, program, "{command}");
            assert!(tail == rest || tail.join(" ").starts_with("wal-push"), "{command}: {tail:?}");
        }
    }

    #[test]
    fn other_tools_are_none_of_ours() {
        for command in ["", "cp %p /x", "wal-g wal-push-all %p", "pgbackrest archive-push %p", "'unclosed wal-push"] {
            assert_eq!(pushes(command), None, "{command}");
        }
    }

    #[test]
    fn its_settings_are_those_of_its_flags_and_of_its_own_environment() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("WALDEN_PREFIX"), "s3://of-the-directory\n").unwrap();
        let server = [("WALDEN_PREFIX".to_owned(), "s3://of-the-server".to_owned())];
        let prefix = |command: &str| {
            let call = Call::find(command, VerbName::WalPush).unwrap();
            call.settings(directory.path(), &server).unwrap().text(&options::PREFIX.row).unwrap().to_owned()
        };
        assert_eq!(prefix("walden wal-push %p"), "s3://of-the-server");
        assert_eq!(prefix("WALDEN_PREFIX=s3://assigned walden wal-push %p"), "s3://assigned");
        assert_eq!(prefix("walden --envdir . wal-push %p"), "s3://of-the-directory");
        assert_eq!(prefix("walden --envdir=. --prefix=s3://flag wal-push %p"), "s3://flag");
    }

    proptest! {
        #[test]
        fn whatever_the_command_is_it_is_taken_apart_or_not(command in "(walden|wal-push|%p|&&|;|A=b|'| ){0,12}") {
            if let Some(call) = Call::find(&command, VerbName::WalPush) {
                prop_assert!(call.words.iter().any(|word| word == "wal-push"));
            }
        }
    }
}
