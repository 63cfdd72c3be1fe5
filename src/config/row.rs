//! What a row of the table of settings is, and the typed key that goes with it.
//!
//! Knows every way in which settings differ, and no setting. The rows themselves are in [`crate::config::options`].

use std::fmt;
use std::marker::PhantomData;

use crate::config::Origin;
use crate::config::value::{Value, list};
use crate::error::{Error, Kind, Result};

/// What all of our environment variables begin with.
pub const VARIABLE_PREFIX: &str = "WALDEN_";

/// A verb's name, without what is given to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VerbName {
    /// `wal-push`.
    WalPush,
    /// `wal-fetch`.
    WalFetch,
    /// `wal-backfill`.
    WalBackfill,
    /// `backup-push`.
    BackupPush,
    /// `backup-fetch`.
    BackupFetch,
    /// `backup-list`.
    BackupList,
    /// `backup-show`.
    BackupShow,
    /// `backup-cat`.
    BackupCat,
    /// `backup-mark`.
    BackupMark,
    /// `delete`.
    Delete,
    /// `keygen`.
    Keygen,
    /// `keys`.
    Keys,
    /// `rekey`.
    Rekey,
    /// `daemon`.
    Daemon,
    /// `wal-show`.
    WalShow,
    /// `wal-verify`.
    WalVerify,
    /// `status`.
    Status,
    /// `exporter`.
    Exporter,
    /// `report`.
    Report,
    /// `doctor`.
    Doctor,
    /// `config`.
    Config,
    /// `migrate-config`.
    MigrateConfig,
    /// `completions`.
    Completions,
    /// `man`.
    Man,
}

use VerbName::{
    BackupCat, BackupFetch, BackupList, BackupMark, BackupPush, BackupShow, Completions, Config, Daemon, Delete,
    Doctor, Exporter, Keygen, Keys, Man, MigrateConfig, Rekey, Report, Status, WalBackfill, WalFetch, WalPush, WalShow,
    WalVerify,
};

impl VerbName {
    /// Every verb, in the order in which help lists them.
    pub const ALL: [VerbName; 24] = [
        WalPush,
        WalFetch,
        WalBackfill,
        WalShow,
        WalVerify,
        BackupPush,
        BackupFetch,
        BackupList,
        BackupShow,
        BackupCat,
        BackupMark,
        Delete,
        Keygen,
        Keys,
        Rekey,
        Daemon,
        Status,
        Exporter,
        Report,
        Doctor,
        Config,
        MigrateConfig,
        Completions,
        Man,
    ];

    /// As it is typed.
    pub fn as_str(self) -> &'static str {
        match self {
            WalPush => "wal-push",
            WalFetch => "wal-fetch",
            WalBackfill => "wal-backfill",
            BackupPush => "backup-push",
            BackupFetch => "backup-fetch",
            BackupList => "backup-list",
            BackupShow => "backup-show",
            BackupCat => "backup-cat",
            BackupMark => "backup-mark",
            Delete => "delete",
            Keygen => "keygen",
            Keys => "keys",
            Rekey => "rekey",
            Daemon => "daemon",
            WalShow => "wal-show",
            WalVerify => "wal-verify",
            Status => "status",
            Exporter => "exporter",
            Report => "report",
            Doctor => "doctor",
            Config => "config",
            MigrateConfig => "migrate-config",
            Completions => "completions",
            Man => "man",
        }
    }

    /// Whether it does something with an archive, which must then be named.
    pub fn needs_archive(self) -> bool {
        !matches!(self, Keygen | Config | MigrateConfig | Completions | Man)
    }

    /// Reads what was typed; `None` for anything else.
    pub fn parse(text: &str) -> Option<VerbName> {
        VerbName::ALL.into_iter().find(|verb| verb.as_str() == text)
    }
}

impl fmt::Display for VerbName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// From where a row may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Flag, variable, alias or file.
    Setting,
    /// Flag or variable: it says where the settings are.
    Source,
    /// Flag only: it belongs to one invocation.
    Argument,
}

/// A variable of another tool that means the same as a setting.
#[derive(Clone, Copy, Debug)]
pub struct Alias {
    /// The variable.
    pub name: &'static str,
    /// How it is written there, if not in the same way.
    pub syntax: Option<&'static str>,
    /// From the other tool's way of writing to ours; the same value always comes out as the same text.
    pub convert: fn(&str) -> Result<String>,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// In kebab case: the flag without its dashes and the key in the file.
    pub name: &'static str,
    /// From where it may be given.
    pub role: Role,
    /// The verbs that take its flag.
    pub verbs: &'static [VerbName],
    /// Other tools' variables for the same.
    pub aliases: &'static [Alias],
    /// What help calls its value; `None` for a flag that has none.
    pub value: Option<&'static str>,
    /// The least and the greatest value.
    pub bounds: Option<[&'static str; 2]>,
    /// What it is when nobody says.
    pub default: Option<&'static str>,
    /// A value to show where there is no default.
    pub example: Option<&'static str>,
    /// Whether its value must not be shown.
    pub secret: bool,
    /// Whether it can be given several times.
    pub repeatable: bool,
    /// What it does, without a full stop.
    pub doc: &'static str,
    /// How its value is read; set by [`Setting::new`].
    pub(super) grammar: Grammar,
}

/// What a row knows of its value's type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grammar {
    check: fn(&Row, &str) -> Result<()>,
    words: fn() -> Vec<&'static str>,
}

impl Grammar {
    const fn of<T: Value>() -> Grammar {
        Grammar { check: check::<T>, words: T::words }
    }
}

fn check<T: Value>(row: &Row, text: &str) -> Result<()> {
    let value = T::read(text)?;
    let Some([least, greatest]) = row.bounds else { return Ok(()) };
    let beyond = |what: String| Err(Error::new(Kind::Usage, what).hint(format!("Write {least} to {greatest}.")));
    if value < T::read(least)? {
        beyond(format!("{text} is less than {least}"))
    } else if value > T::read(greatest)? {
        beyond(format!("{text} is more than {greatest}"))
    } else {
        Ok(())
    }
}

impl Row {
    /// What a row has unless it says otherwise; the type of its value comes from its [`Setting`].
    pub(super) const SETTING: Row = Row {
        name: "",
        role: Role::Setting,
        verbs: &VerbName::ALL,
        aliases: &[],
        value: None,
        bounds: None,
        default: None,
        example: None,
        secret: false,
        repeatable: false,
        doc: "",
        grammar: Grammar::of::<bool>(),
    };
    pub(super) const SOURCE: Row = Row { role: Role::Source, ..Row::SETTING };
    pub(super) const ARGUMENT: Row = Row { role: Role::Argument, verbs: &[BackupFetch], ..Row::SETTING };

    /// The environment variable of a setting or a source.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// Whether every verb takes it.
    pub fn is_global(&self) -> bool {
        self.verbs.len() == VerbName::ALL.len()
    }

    /// The words that are its legal values, where they are few.
    pub fn words(&self) -> Vec<&'static str> {
        (self.grammar.words)()
    }

    /// Which values are legal, in words, as far as that can be said shortly.
    pub fn range(&self) -> Option<String> {
        let words = self.words();
        match self.bounds {
            Some([least, greatest]) => Some(format!("{least} to {greatest}")),
            None if self.value.is_some() && !words.is_empty() => Some(list(&words, "or")),
            None => None,
        }
    }

    /// Reads a text and compares it with the bounds.
    ///
    /// # Errors
    /// Naming the setting and where the text came from: [`Kind::Usage`] for a flag, [`Kind::Config`] for all else.
    pub fn check(&self, text: &str, origin: &Origin) -> Result<()> {
        (self.grammar.check)(self, text).map_err(|cause| self.refuse(origin, &cause))
    }

    /// The error for a text that is no value of this row, with what is wrong with it as the detail.
    pub fn refuse(&self, origin: &Origin, cause: &Error) -> Error {
        let kind = match origin {
            Origin::Flag(_) => Kind::Usage,
            _ => Kind::Config,
        };
        let error = Error::new(kind, format!("invalid value for {} ({origin})", self.name));
        if self.secret {
            return error;
        }
        let error = error.detail(cause.to_string());
        match cause.advice() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// The typed key of a row: what [`crate::config::Settings`] is asked with.
pub struct Setting<T> {
    /// The row.
    pub row: Row,
    value: PhantomData<fn() -> T>,
}

impl<T: Value> Setting<T> {
    pub(super) const fn new(row: Row) -> Setting<T> {
        Setting { row: Row { grammar: Grammar::of::<T>(), ..row }, value: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::options::PART_SIZE;

    #[test]
    fn values_beyond_the_bounds_are_refused_with_the_origin_and_the_bounds() {
        let origin = Origin::Variable("WALDEN_PART_SIZE".into());
        let error = PART_SIZE.row.check("2GiB", &origin).unwrap_err();
        assert_eq!(error.what(), "invalid value for part-size (variable WALDEN_PART_SIZE)");
        assert_eq!(error.cause(), Some("2GiB is more than 1GiB"));
        assert_eq!((error.kind(), error.advice()), (Kind::Config, Some("Write 1MiB to 1GiB.")));
        assert_eq!(PART_SIZE.row.check("1KiB", &Origin::Flag("part-size")).unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn a_secret_value_is_not_quoted_by_its_error() {
        let row = Row { name: "key", secret: true, value: Some("KEY"), ..Row::SETTING };
        let error = row.check("hunter2", &Origin::Flag("key")).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}
