//! From the words of a command line to an [`Invocation`]: everything validated, nothing done yet.
//!
//! Which flags exist is the table's business ([`crate::config::options`]), and the texts of `--help` that are not in it
//! are `help`'s. Never prints and never exits: exit codes matter too much to PostgreSQL to be left to a parser.

mod deleting;
mod spellings;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use clap_complete::Shell;

use crate::backup::delete::expiry;
use crate::backup::manifest::{MarkChange, Marks};
use crate::cli::help::{self, Positional};
use crate::cli::pages;
use crate::config::Settings;
use crate::config::foreign;
use crate::config::mark::Label;
use crate::config::options::{self, TABLE, encryption, restoring, retention};
use crate::config::row::{Role, Row, VerbName};
use crate::config::sources::{self, Entry, Environment, Flags};
use crate::config::target::{Goal, Point, Selection, TablespaceMapping, Target, TargetTimeline};
use crate::config::value::Value;
use crate::error::{Error, Kind, Result};
use crate::wal::segment::WalFile;

/// What a command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// Do this.
    Run(Invocation),
    /// Print this, the help or the version, and end with status 0.
    Print(String),
    /// Start anew with these arguments, and with the variables that they name in the environment.
    Enter(Entry),
}

/// A verb, what it was given, and the settings.
#[derive(Debug)]
pub struct Invocation {
    /// What to do.
    pub verb: Verb,
    /// How; has a prefix, unless the verb is [`Verb::Config`].
    pub settings: Settings,
}

/// The verbs with their validated operands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Store one WAL file.
    WalPush {
        /// The file, from the current directory.
        path: PathBuf,
    },
    /// Bring one WAL file back.
    WalFetch {
        /// Which.
        name: WalFile,
        /// Where to put it, from the current directory.
        path: PathBuf,
        /// Fetch those that follow it instead.
        ahead: bool,
    },
    /// Store what a server's WAL directory has and the archive has not.
    WalBackfill {
        /// The data directory.
        pgdata: PathBuf,
    },
    /// Make a base backup.
    BackupPush {
        /// The data directory; `None`: the server says where it is.
        pgdata: Option<PathBuf>,
        /// Has the server send it.
        remote: bool,
        /// What to write on it.
        marks: Marks,
    },
    /// Restore a base backup.
    BackupFetch(BackupFetch),
    /// List the base backups.
    BackupList,
    /// Show one base backup.
    BackupShow {
        /// Which.
        backup: Selection,
    },
    /// Write one file of a base backup to standard output.
    BackupCat {
        /// Which.
        backup: Selection,
        /// The file, relative to the data directory.
        file: String,
    },
    /// Change what is written on a base backup.
    BackupMark {
        /// Which.
        backup: Selection,
        /// What to change.
        change: MarkChange,
    },
    /// Delete something.
    Delete(Deletion),
    /// Make an age identity, or show what is in a file of keys.
    Keygen {
        /// The file.
        path: PathBuf,
        /// Print the private halves.
        as_identity: bool,
    },
    /// List the data keys.
    Keys,
    /// Wrap the data keys anew.
    Rekey,
    /// Help `wal-push` until the process ends.
    Daemon {
        /// The data directory.
        pgdata: PathBuf,
    },
    /// Show what the archive holds of WAL.
    WalShow,
    /// Verify that recoveries find their WAL.
    WalVerify,
    /// Show how archiving stands.
    Status {
        /// The data directory, if it lies here.
        pgdata: Option<PathBuf>,
    },
    /// Serve the same as metrics until the process ends.
    Exporter {
        /// The data directory, if it lies here.
        pgdata: Option<PathBuf>,
    },
    /// Show how archiving stands as a page.
    Report {
        /// The data directory, if it lies here.
        pgdata: Option<PathBuf>,
    },
    /// Find out whether all is set up.
    Doctor {
        /// The data directory; `None`: the server says where it is.
        pgdata: Option<PathBuf>,
    },
    /// Show the settings, or an example of a configuration file.
    Config {
        /// The example.
        example: bool,
    },
    /// Make a configuration file of the settings of WAL-E or WAL-G.
    MigrateConfig {
        /// The file that has them; `None`: the environment.
        from: Option<PathBuf>,
    },
    /// Print what a shell completes commands by.
    Completions {
        /// For which.
        shell: Shell,
    },
    /// Write the man pages into a directory.
    Man {
        /// Which; it is there.
        directory: PathBuf,
    },
}

impl Verb {
    /// Its name.
    pub fn name(&self) -> VerbName {
        match self {
            Verb::WalPush { .. } => VerbName::WalPush,
            Verb::WalFetch { .. } => VerbName::WalFetch,
            Verb::WalBackfill { .. } => VerbName::WalBackfill,
            Verb::BackupPush { .. } => VerbName::BackupPush,
            Verb::BackupFetch(_) => VerbName::BackupFetch,
            Verb::BackupList => VerbName::BackupList,
            Verb::BackupShow { .. } => VerbName::BackupShow,
            Verb::BackupCat { .. } => VerbName::BackupCat,
            Verb::BackupMark { .. } => VerbName::BackupMark,
            Verb::Delete(_) => VerbName::Delete,
            Verb::Keygen { .. } => VerbName::Keygen,
            Verb::Keys => VerbName::Keys,
            Verb::Rekey => VerbName::Rekey,
            Verb::Daemon { .. } => VerbName::Daemon,
            Verb::WalShow => VerbName::WalShow,
            Verb::WalVerify => VerbName::WalVerify,
            Verb::Status { .. } => VerbName::Status,
            Verb::Exporter { .. } => VerbName::Exporter,
            Verb::Report { .. } => VerbName::Report,
            Verb::Doctor { .. } => VerbName::Doctor,
            Verb::Config { .. } => VerbName::Config,
            Verb::MigrateConfig { .. } => VerbName::MigrateConfig,
            Verb::Completions { .. } => VerbName::Completions,
            Verb::Man { .. } => VerbName::Man,
        }
    }

    /// What it is done to, for the log: a WAL file's name, or a directory; empty where nothing is named.
    pub fn object(&self) -> String {
        let directory = |directory: &PathBuf| directory.display().to_string();
        match self {
            Verb::WalPush { path } => {
                path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
            }
            Verb::WalFetch { name, .. } => name.to_string(),
            Verb::WalBackfill { pgdata } | Verb::Daemon { pgdata } => directory(pgdata),
            Verb::BackupPush { pgdata, .. }
            | Verb::Status { pgdata }
            | Verb::Exporter { pgdata }
            | Verb::Report { pgdata }
            | Verb::Doctor { pgdata } => pgdata.as_ref().map(directory).unwrap_or_default(),
            Verb::BackupFetch(fetch) => directory(&fetch.directory),
            Verb::Man { directory: pages } => directory(pages),
            Verb::Keygen { path, .. } => directory(path),
            _ => String::new(),
        }
    }
}

/// What `delete` is to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Backups, and WAL that no other one needs.
    Expiry(expiry::Request),
    /// What failed backups have left.
    Garbage {
        /// How long nothing was stored of it.
        older_than: Duration,
    },
}

/// What `backup-fetch` is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupFetch {
    /// The data directory to make.
    pub directory: PathBuf,
    /// Which backup; `None`: the newest one that leads to the goal.
    pub backup: Option<Selection>,
    /// How the cluster is to recover.
    pub goal: Goal,
    /// Along which timeline.
    pub timeline: TargetTimeline,
    /// Tablespaces that are to lie elsewhere; no source is there twice.
    pub tablespaces: Vec<TablespaceMapping>,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// Understands a command line, the program's name first, together with the environment and the configuration file.
///
/// # Errors
/// [`Kind::Usage`] for words that cannot be understood; otherwise those of [`sources::load`], and [`Kind::Config`] if a
/// verb that needs the archive has no prefix.
pub fn parse(arguments: impl IntoIterator<Item = OsString>, environment: &Environment) -> Result<Parsed> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some(entry) = sources::take_entry(&arguments)? {
        return Ok(Parsed::Enter(entry));
    }
    let words = arguments.iter().cloned().map(text).collect::<Result<Vec<String>>>()?;
    match command().try_get_matches_from(words) {
        Ok(matches)
            if matches.subcommand_name() != Some(VerbName::MigrateConfig.as_str())
                && sources::needs_entry(environment)? =>
        {
            Ok(Parsed::Enter(Entry { arguments, ..Entry::default() }))
        }
        Ok(matches) => invocation(&matches, environment).map(Parsed::Run),
        Err(answer) if matches!(answer.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Parsed::Print(answer.to_string()))
        }
        Err(error) => Err(usage(&error)),
    }
}

/// Whether this may be the verb, even if the command line cannot be understood: an exit code that PostgreSQL takes for the
/// end of the archive must not come from a mistyped flag either.
pub fn may_be(verb: VerbName, arguments: &[OsString]) -> bool {
    arguments.iter().skip(1).any(|word| word == verb.as_str())
}

/// Whether this may be a check, even if the command line cannot be understood: a monitoring system would misread the code
/// of any other error.
pub fn may_be_check(arguments: &[OsString]) -> bool {
    let check = format!("--{}", options::watching::CHECK.row.name);
    may_be(VerbName::Status, arguments) && arguments.iter().any(|word| *word == *check)
}

fn text(word: OsString) -> Result<String> {
    word.into_string().map_err(|word| {
        Error::new(Kind::Usage, format!("the argument \"{}\" is not UTF-8", word.to_string_lossy().escape_debug()))
            .hint("Use names in UTF-8, or go to the directory and use a relative path.")
    })
}

/// The width of help in columns; fixed, so that examples are never broken in two.
const WIDTH: usize = 110;

pub(super) fn command() -> Command {
    let globals = TABLE.iter().copied().filter(|row| row.is_global());
    let command = Command::new("walden")
        .bin_name("walden")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Ships PostgreSQL's WAL and base backups to S3, or to a directory, and brings them back.")
        .after_help(help::epilogue())
        .term_width(WIDTH)
        .subcommand_required(true)
        .subcommand_value_name("VERB")
        .subcommand_help_heading("Verbs")
        .args(globals.map(|row| argument(row).global(true).help_heading("Options of every verb")))
        .subcommands(VerbName::ALL.map(|verb| spellings::of(verb, verb_command(verb))));
    spellings::of_every_verb(command)
}

fn verb_command(verb: VerbName) -> Command {
    let own = TABLE.iter().copied().filter(|row| !row.is_global() && row.verbs.contains(&verb));
    let command = Command::new(verb.as_str())
        .about(help::summary(verb))
        .after_help(help::examples(verb))
        .args(help::positionals(verb).iter().map(operand))
        .args(own.map(argument));
    match verb {
        VerbName::BackupFetch => target_rules(command),
        // What a file was when it was read is not known of one that the server sends.
        VerbName::BackupPush => command
            .mut_arg(options::REMOTE.row.name, |arg| arg.conflicts_with(help::PGDATA))
            .mut_arg(options::RESUME.row.name, |arg| arg.conflicts_with(options::REMOTE.row.name)),
        VerbName::Delete => command
            .mut_arg(help::OBJECT, |arg| arg.num_args(0..).action(ArgAction::Append))
            .mut_arg(retention::RETAIN_WINDOW.row.name, |arg| arg.visible_alias("window"))
            .mut_arg(retention::RETAIN_MIN.row.name, |arg| arg.visible_alias("min")),
        VerbName::Status => {
            command.mut_arg(options::watching::CHECK.row.name, |arg| arg.conflicts_with(options::JSON.row.name))
        }
        VerbName::BackupMark => command
            .mut_arg(options::NO_KEEP.row.name, |arg| arg.conflicts_with(options::KEEP.row.name))
            .group(ArgGroup::new("change").multiple(true).required(true).args(MARKS.map(|row| row.name))),
        _ => command,
    }
}

/// What `backup-mark` can change.
static MARKS: [&Row; 4] = [&options::LABEL.row, &options::NOTE.row, &options::KEEP.row, &options::NO_KEEP.row];

/// Which arguments of a restore go together.
fn target_rules(command: Command) -> Command {
    let points = [
        restoring::TARGET_TIME.row.name,
        restoring::TARGET_LSN.row.name,
        restoring::TARGET_XID.row.name,
        restoring::TARGET_NAME.row.name,
        restoring::TARGET_IMMEDIATE.row.name,
    ];
    command
        .group(ArgGroup::new("target").args(points))
        .group(ArgGroup::new("ordered target").args(&points[..3]))
        .mut_arg(restoring::TARGET_EXCLUSIVE.row.name, |arg| arg.requires("ordered target"))
        .mut_arg(restoring::TARGET_ACTION.row.name, |arg| arg.requires("target"))
        .mut_arg(restoring::STANDBY.row.name, |arg| arg.conflicts_with("target"))
        .mut_arg(restoring::ONLY_DATABASE.row.name, |arg| arg.conflicts_with(restoring::STANDBY.row.name))
        .mut_arg(restoring::PRIMARY_CONNINFO.row.name, |arg| arg.requires(restoring::STANDBY.row.name))
        .mut_arg(restoring::SLOT.row.name, |arg| arg.requires(restoring::PRIMARY_CONNINFO.row.name))
}

fn operand(positional: &'static Positional) -> Arg {
    Arg::new(positional.name).required(positional.required).help(positional.doc)
}

fn argument(row: &'static Row) -> Arg {
    let arg = Arg::new(row.name).long(row.name).help(description(row));
    match row.value {
        None => arg.action(ArgAction::SetTrue),
        Some(value) if row.repeatable => arg.value_name(value).action(ArgAction::Append),
        Some(value) => arg.value_name(value).action(ArgAction::Set),
    }
}

fn description(row: &Row) -> String {
    let default = row.default.filter(|_| row.value.is_some()).map(|default| format!("default {default}"));
    let variable = (row.role != Role::Argument).then(|| row.variable());
    let facts: Vec<String> = [row.range(), default, variable].into_iter().flatten().collect();
    if facts.is_empty() { row.doc.to_owned() } else { format!("{}\n[{}]", row.doc, facts.join("; ")) }
}

/// In our form: Clap's message is the first line, its tips and the usage are the hint.
fn usage(error: &clap::Error) -> Error {
    let text = error.to_string();
    let (message, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let message: Vec<&str> = message.trim_start_matches("error: ").lines().map(str::trim).collect();
    let hints =
        rest.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let hints: Vec<String> = hints.map(sentence).collect();
    let error = Error::new(Kind::Usage, message.join(" "));
    if hints.is_empty() { error.hint("Run walden --help.") } else { error.hint(hints.join(" ")) }
}

fn sentence(line: &str) -> String {
    if line.starts_with("Usage:") {
        return line.to_owned();
    }
    let line = line.trim_start_matches("tip: ");
    let mut letters = line.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).chain(['.']).collect()
}

fn invocation(matches: &ArgMatches, environment: &Environment) -> Result<Invocation> {
    let named = matches.subcommand().and_then(|(name, matches)| Some((VerbName::parse(name)?, matches)));
    let (name, matches) = named.ok_or_else(|| not_given("VERB"))?;
    let settings = sources::load(flags(name, matches), environment)?;
    spellings::check(matches, environment)?;
    foreign::require_honest(name, &settings, environment)?;
    if name == VerbName::WalFetch && (1..LEAST_PREFETCH).contains(&settings.get(&options::PREFETCH)?) {
        return Err(Error::new(Kind::Usage, "prefetch is a size, and not a number of segments as in WAL-E")
            .hint("Write 0, or a size such as 128MiB."));
    }
    if name.needs_archive() {
        settings.get(&options::PREFIX)?;
    }
    Ok(Invocation { verb: verb(name, matches, &settings)?, settings })
}

/// No segment is smaller (`WalSegMinSize` in src/include/access/xlog_internal.h), and so nothing would be fetched ahead.
const LEAST_PREFETCH: u64 = 1 << 20;

fn flags(verb: VerbName, matches: &ArgMatches) -> Flags {
    let taken = TABLE.iter().filter(|row| row.verbs.contains(&verb));
    taken.filter_map(|row| texts(row, matches).map(|texts| (row.name, texts))).collect()
}

fn texts(row: &Row, matches: &ArgMatches) -> Option<Vec<String>> {
    match row.value {
        None => matches.get_flag(row.name).then(|| vec![String::from("true")]),
        Some(_) => matches.get_many::<String>(row.name).map(|texts| texts.cloned().collect()),
    }
}

fn verb(name: VerbName, matches: &ArgMatches, settings: &Settings) -> Result<Verb> {
    Ok(match name {
        VerbName::WalPush => Verb::WalPush { path: required(matches, help::PATH, PathBuf::read)? },
        VerbName::WalFetch => Verb::WalFetch {
            name: required(matches, help::NAME, str::parse)?,
            path: required(matches, help::PATH, PathBuf::read)?,
            ahead: settings.get(&options::AHEAD)?,
        },
        VerbName::WalBackfill => Verb::WalBackfill { pgdata: required(matches, help::PGDATA, PathBuf::read)? },
        VerbName::BackupPush => {
            let mut marks = Marks::default();
            marks.change(mark_change(settings)?);
            let remote = settings.get(&options::REMOTE)?;
            Verb::BackupPush { pgdata: optional(matches, help::PGDATA, PathBuf::read)?, remote, marks }
        }
        VerbName::BackupFetch => Verb::BackupFetch(BackupFetch {
            directory: required(matches, help::DIR, PathBuf::read)?,
            backup: optional(matches, help::BACKUP, str::parse)?,
            goal: goal(settings)?,
            timeline: settings.get(&restoring::TARGET_TIMELINE)?,
            tablespaces: tablespaces(settings)?,
            dry_run: settings.get(&restoring::DRY_RUN)?,
        }),
        VerbName::BackupList => Verb::BackupList,
        VerbName::BackupShow => Verb::BackupShow { backup: required(matches, help::BACKUP, str::parse)? },
        VerbName::BackupCat => Verb::BackupCat {
            backup: required(matches, help::BACKUP, str::parse)?,
            file: required(matches, help::FILE, |text| Ok(text.to_owned()))?,
        },
        VerbName::BackupMark => {
            Verb::BackupMark { backup: required(matches, help::BACKUP, str::parse)?, change: mark_change(settings)? }
        }
        VerbName::Delete => {
            let words = matches.get_many::<String>(help::OBJECT).into_iter().flatten();
            let words: Vec<&str> = words.map(String::as_str).collect();
            Verb::Delete(required(matches, help::WHAT, |what| deleting::deletion(what, &words, matches, settings))?)
        }
        VerbName::Keygen => Verb::Keygen {
            path: required(matches, help::FILE, PathBuf::read)?,
            as_identity: settings.get(&encryption::AS_IDENTITY)?,
        },
        VerbName::Keys => Verb::Keys,
        VerbName::Rekey => Verb::Rekey,
        VerbName::Daemon => Verb::Daemon { pgdata: required(matches, help::PGDATA, PathBuf::read)? },
        VerbName::WalShow => Verb::WalShow,
        VerbName::WalVerify => Verb::WalVerify,
        VerbName::Status => Verb::Status { pgdata: optional(matches, help::PGDATA, PathBuf::read)? },
        VerbName::Exporter => Verb::Exporter { pgdata: optional(matches, help::PGDATA, PathBuf::read)? },
        VerbName::Report => Verb::Report { pgdata: optional(matches, help::PGDATA, PathBuf::read)? },
        VerbName::Doctor => Verb::Doctor { pgdata: optional(matches, help::PGDATA, PathBuf::read)? },
        VerbName::Config => Verb::Config { example: settings.get(&options::EXAMPLE)? },
        VerbName::MigrateConfig => Verb::MigrateConfig { from: settings.find(&options::FROM)? },
        VerbName::Completions => Verb::Completions { shell: required(matches, help::SHELL, pages::shell)? },
        VerbName::Man => Verb::Man { directory: required(matches, help::DIR, PathBuf::read)? },
    })
}

fn optional<T>(matches: &ArgMatches, name: &str, read: impl FnOnce(&str) -> Result<T>) -> Result<Option<T>> {
    matches.get_one::<String>(name).map(|text| read(text)).transpose()
}

fn required<T>(matches: &ArgMatches, name: &str, read: impl FnOnce(&str) -> Result<T>) -> Result<T> {
    optional(matches, name, read)?.ok_or_else(|| not_given(name))
}

fn not_given(name: &str) -> Error {
    Error::new(Kind::Usage, format!("{name} is not given")).hint("Run walden --help.")
}

fn goal(settings: &Settings) -> Result<Goal> {
    let exclusive = settings.get(&restoring::TARGET_EXCLUSIVE)?;
    let action = settings.get(&restoring::TARGET_ACTION)?;
    Ok(match point(settings)? {
        Some(point) => Goal::Target(Target { point, exclusive, action }),
        None if settings.get(&restoring::STANDBY)? => Goal::Standby,
        None => Goal::EndOfArchive,
    })
}

fn mark_change(settings: &Settings) -> Result<MarkChange> {
    let notes = settings.all(&options::NOTE)?.into_iter().map(|note| (note.key, note.value));
    let keep = settings.get(&options::KEEP)?.then_some(true);
    Ok(MarkChange {
        label: settings.find(&options::LABEL)?.map(Label::text),
        notes: notes.collect(),
        keep: keep.or(settings.get(&options::NO_KEEP)?.then_some(false)),
    })
}

fn point(settings: &Settings) -> Result<Option<Point>> {
    let time = settings.find(&restoring::TARGET_TIME)?.map(Point::Time);
    let lsn = settings.find(&restoring::TARGET_LSN)?.map(Point::Lsn);
    let xid = settings.find(&restoring::TARGET_XID)?.map(Point::Xid);
    let name = settings.find(&restoring::TARGET_NAME)?.map(Point::Name);
    let immediate = settings.get(&restoring::TARGET_IMMEDIATE)?.then_some(Point::Immediate);
    Ok(time.or(lsn).or(xid).or(name).or(immediate))
}

fn tablespaces(settings: &Settings) -> Result<Vec<TablespaceMapping>> {
    let mappings = settings.all(&restoring::TABLESPACE_MAPPING)?;
    let mut sources = BTreeSet::new();
    match mappings.iter().find(|mapping| !sources.insert(&mapping.source)) {
        None => Ok(mappings),
        Some(twice) => Err(Error::new(Kind::Usage, format!("the tablespace {} is mapped twice", twice.source))
            .hint("Give one --tablespace-mapping OLD=NEW for each tablespace.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::target::{Action, TablespaceSource};
    use proptest::prelude::*;

    fn words(line: &str) -> Vec<OsString> {
        std::iter::once("walden").chain(line.split_whitespace()).map(OsString::from).collect()
    }

    fn with_prefix() -> Environment {
        [("WALDEN_PREFIX".to_owned(), "s3://bucket".to_owned())].into_iter().collect()
    }

    fn run(line: &str) -> Result<Invocation> {
        match parse(words(line), &with_prefix())? {
            Parsed::Run(invocation) => Ok(invocation),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn fetch(line: &str) -> Result<BackupFetch> {
        match run(&format!("backup-fetch /pg {line}"))?.verb {
            Verb::BackupFetch(fetch) => Ok(fetch),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn print(line: &str) -> String {
        match parse(words(line), &Environment::default()).unwrap() {
            Parsed::Print(text) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    const ID: &str = "20261121T013005Z-0000000100000000000000AB";

    #[test]
    fn the_tree_of_commands_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_verb_is_understood_with_its_operands() {
        let segment = "0000000100000000000000AB";
        let id = || Selection::Id(ID.parse().unwrap());
        let path = PathBuf::from("pg_wal/x");
        for (line, verb) in [
            ("wal-push pg_wal/x".to_owned(), Verb::WalPush { path: path.clone() }),
            (
                format!("wal-fetch {segment} pg_wal/x"),
                Verb::WalFetch { name: segment.parse().unwrap(), path, ahead: false },
            ),
            ("wal-backfill /pg".to_owned(), Verb::WalBackfill { pgdata: "/pg".into() }),
            ("backup-push".to_owned(), Verb::BackupPush { pgdata: None, remote: false, marks: Marks::default() }),
            (
                "backup-push /pg --label x --note a=b --note a=c --keep".to_owned(),
                Verb::BackupPush {
                    pgdata: Some("/pg".into()),
                    remote: false,
                    marks: Marks {
                        label: Some("x".into()),
                        notes: [("a".to_owned(), "c".to_owned())].into(),
                        keep: true,
                    },
                },
            ),
            ("backup-list --json".to_owned(), Verb::BackupList),
            ("backup-show LATEST".to_owned(), Verb::BackupShow { backup: Selection::Latest }),
            (format!("backup-show {ID}"), Verb::BackupShow { backup: id() }),
            (format!("backup-cat {ID} base/1/2"), Verb::BackupCat { backup: id(), file: "base/1/2".into() }),
            (
                "backup-mark LATEST --label= --note a= --no-keep".to_owned(),
                Verb::BackupMark {
                    backup: Selection::Latest,
                    change: MarkChange { label: Some(None), notes: vec![("a".to_owned(), None)], keep: Some(false) },
                },
            ),
            ("keygen /k".to_owned(), Verb::Keygen { path: "/k".into(), as_identity: false }),
            ("keygen /k --as-identity".to_owned(), Verb::Keygen { path: "/k".into(), as_identity: true }),
            ("keys --json".to_owned(), Verb::Keys),
            ("rekey --confirm --identity-file /old".to_owned(), Verb::Rekey),
            ("daemon /pg".to_owned(), Verb::Daemon { pgdata: "/pg".into() }),
            ("wal-show --json".to_owned(), Verb::WalShow),
            ("wal-verify --deep --workers 4".to_owned(), Verb::WalVerify),
            ("status --json".to_owned(), Verb::Status { pgdata: None }),
            ("report --output x.html /pg".to_owned(), Verb::Report { pgdata: Some("/pg".into()) }),
            ("doctor --json".to_owned(), Verb::Doctor { pgdata: None }),
            ("doctor /pg".to_owned(), Verb::Doctor { pgdata: Some("/pg".into()) }),
            ("config".to_owned(), Verb::Config { example: false }),
            ("config --example".to_owned(), Verb::Config { example: true }),
            ("completions zsh".to_owned(), Verb::Completions { shell: Shell::Zsh }),
            ("man /usr/share/man/man1".to_owned(), Verb::Man { directory: "/usr/share/man/man1".into() }),
        ] {
            assert_eq!(run(&line).unwrap().verb, verb, "{line}");
        }
        let plain = BackupFetch {
            directory: "/pg".into(),
            backup: None,
            goal: Goal::EndOfArchive,
            timeline: TargetTimeline::Latest,
            tablespaces: Vec::new(),
            dry_run: false,
        };
        assert_eq!(fetch("").unwrap(), plain);
        assert_eq!(fetch(ID).unwrap(), BackupFetch { backup: Some(id()), ..plain });
    }

    #[test]
    fn flags_for_every_verb_stand_before_and_after_the_verb() {
        for line in ["--log-level info backup-list", "backup-list --log-level info", "backup-list --log-level=info"] {
            let settings = run(line).unwrap().settings;
            assert_eq!(settings.text(&options::LOG_LEVEL.row), Some("info"), "{line}");
        }
    }

    #[test]
    fn every_row_is_a_flag_of_its_verbs_and_of_no_other() {
        let row_of = |row: &Row| match row.value {
            // What is given here is cut at its spaces.
            Some(_) if row.name == "primary-conninfo" => format!("--{} host=x", row.name),
            Some(_) => format!("--{} {}", row.name, row.default.or(row.example).unwrap_or("x").replace(' ', "T")),
            None => format!("--{}", row.name),
        };
        let target = |row: &Row| match row.name {
            "target-action" | "target-exclusive" => "--target-lsn 0/1",
            "primary-conninfo" => "--standby",
            "slot" => "--standby --primary-conninfo host=x",
            _ => "",
        };
        let needed = |verb: VerbName, row: &Row| match (verb, row.name) {
            (VerbName::BackupMark, "keep" | "no-keep" | "label") => "",
            (VerbName::BackupMark, _) => "--label x",
            _ => "",
        };
        for row in TABLE.iter().filter(|row| row.role != Role::Source) {
            for verb in VerbName::ALL {
                let operands: &[&str] = match verb {
                    VerbName::WalPush | VerbName::WalBackfill | VerbName::BackupFetch | VerbName::Daemon => &["x"],
                    VerbName::Completions => &["bash"],
                    VerbName::Man | VerbName::Keygen => &["x"],
                    VerbName::WalFetch => &["00000002.history", "x"],
                    VerbName::BackupShow | VerbName::BackupMark => &["LATEST"],
                    VerbName::BackupCat => &["LATEST", "x"],
                    VerbName::Delete if row.name == "even-the-last" => &["everything"],
                    VerbName::Delete if row.name.starts_with("retain") => &["retain", "7"],
                    VerbName::Delete => &["garbage"],
                    VerbName::BackupPush | VerbName::BackupList | VerbName::Config | VerbName::MigrateConfig => &[],
                    VerbName::Keys
                    | VerbName::Rekey
                    | VerbName::WalShow
                    | VerbName::WalVerify
                    | VerbName::Status
                    | VerbName::Exporter
                    | VerbName::Report
                    | VerbName::Doctor => &[],
                };
                // As WAL-G has it (docs/migrating.md, "Options").
                let is_spelling = verb == VerbName::Delete && row.name == "dry-run";
                let takes = row.verbs.contains(&verb) || is_spelling;
                let target = if takes { target(row) } else { "" };
                let needed = needed(verb, row);
                let result = run(&format!("{verb} {} {} {target} {needed}", operands.join(" "), row_of(row)));
                assert_eq!(result.is_ok(), takes, "{verb} {}: {result:?}", row.name);
            }
        }
    }

    #[test]
    fn a_verb_that_needs_the_archive_needs_a_prefix_and_config_does_not() {
        let error = parse(words("backup-list"), &Environment::default()).unwrap_err();
        assert_eq!((error.kind(), error.what()), (Kind::Config, "prefix is not set"));
        assert!(parse(words("config"), &Environment::default()).is_ok());
    }

    #[test]
    fn targets_become_goals() {
        let goal = |line: &str| fetch(line).unwrap().goal;
        let target = |point, exclusive, action| Goal::Target(Target { point, exclusive, action });
        assert_eq!(goal("--standby --target-timeline current"), Goal::Standby);
        assert_eq!(
            goal("--target-time 2026-11-20T14:03+01"),
            target(Point::Time("2026-11-20T13:03:00Z".parse().unwrap()), false, Action::Pause)
        );
        assert_eq!(
            goal("--target-lsn 1/A --target-exclusive --target-action promote"),
            target(Point::Lsn("1/A".parse().unwrap()), true, Action::Promote)
        );
        assert_eq!(goal("--target-xid 3"), target(Point::Xid(3), false, Action::Pause));
        assert_eq!(
            goal("--target-immediate --target-action shutdown"),
            target(Point::Immediate, false, Action::Shutdown)
        );
        assert!(
            matches!(goal("--target-name x"), Goal::Target(Target { point: Point::Name(name), .. }) if name.as_str() == "x")
        );
    }

    #[test]
    fn targets_that_contradict_each_other_are_refused() {
        let points = [
            "--target-time 2026-11-20T14:03Z",
            "--target-lsn 0/1",
            "--target-xid 9",
            "--target-name n",
            "--target-immediate",
        ];
        for (index, one) in points.iter().enumerate() {
            for other in &points[index + 1..] {
                assert_eq!(fetch(&format!("{one} {other}")).unwrap_err().kind(), Kind::Usage, "{one} {other}");
            }
            assert_eq!(fetch(&format!("{one} --standby")).unwrap_err().kind(), Kind::Usage, "{one}");
            assert_eq!(fetch(&format!("{one} --target-exclusive")).is_ok(), index < 3, "{one}");
        }
        for line in [
            "--target-exclusive",
            "--target-action promote",
            "--target-xid 2",
            "--target-lsn 1",
            "NEWEST",
            "--primary-conninfo host=x",
            "--standby --slot s",
            "--standby --primary-conninfo x",
        ] {
            assert_eq!(fetch(line).unwrap_err().kind(), Kind::Usage, "{line}");
        }
    }

    #[test]
    fn a_tablespace_is_mapped_once() {
        let twice = fetch("--tablespace-mapping /a=/b --tablespace-mapping /a=/c").unwrap_err();
        assert_eq!(twice.what(), "the tablespace \"/a\" is mapped twice");
        let tablespaces = fetch("--tablespace-mapping /a=/b --tablespace-mapping /c=/d").unwrap().tablespaces;
        assert_eq!(
            tablespaces[1],
            TablespaceMapping { source: TablespaceSource::Place("/c".into()), target: "/d".into() }
        );
    }

    #[test]
    fn errors_of_usage_are_in_our_form_and_say_how_to_go_on() {
        for (line, what, hint) in [
            ("backup-list --prefx x", "unexpected argument '--prefx' found", "A similar argument exists: '--prefix'."),
            ("wal-fetch x", "the following required arguments were not provided: <PATH>", "Usage: walden wal-fetch"),
            ("backup-lst", "unrecognized subcommand 'backup-lst'", "'backup-list'"),
            ("backup-list --part-size 1MiB", "unexpected argument '--part-size' found", "Usage: walden backup-list"),
            (
                "backup-list --log-level loud",
                "invalid value for log-level (flag --log-level)",
                "Write error, warn, info or debug.",
            ),
            ("wal-fetch 00000001.histories x", "\"00000001.histories\" is not the name of a WAL file", "wal-fetch %f"),
            ("backup-push --part-size 1KiB", "invalid value for part-size (flag --part-size)", "1MiB to 1GiB"),
        ] {
            let error = run(line).unwrap_err();
            assert_eq!((error.kind(), error.what()), (Kind::Usage, what), "{line}");
            assert!(error.advice().is_some_and(|advice| advice.contains(hint)), "{line}: {error:?}");
            assert!(!format!("{error:?}").contains(['\n', '\x1b']), "{line}: {error:?}");
        }
        let nothing = run("").unwrap_err();
        assert!(nothing.what().contains("wal-push"), "{nothing:?}");
    }

    #[test]
    fn an_argument_that_is_not_utf8_is_an_error_that_shows_it() {
        use std::os::unix::ffi::OsStringExt;
        let arguments = [OsString::from("walden"), "wal-push".into(), OsString::from_vec(b"caf\xE9".to_vec())];
        let error = parse(arguments, &with_prefix()).unwrap_err();
        assert_eq!((error.kind(), error.what()), (Kind::Usage, "the argument \"caf\u{FFFD}\" is not UTF-8"));
    }

    #[test]
    fn a_directory_of_variables_is_entered_before_anything_else() {
        let parsed = parse(words("wal-push --envdir /e x --nonsense"), &Environment::default()).unwrap();
        assert!(matches!(parsed, Parsed::Enter(envdir) if envdir.arguments == words("wal-push x --nonsense")));
    }

    #[test]
    fn help_and_version_are_printed_without_any_setting() {
        assert_eq!(print("--version"), format!("walden {}\n", env!("CARGO_PKG_VERSION")));
        let top = print("--help");
        for verb in VerbName::ALL {
            assert!(top.contains(verb.as_str()), "{verb}");
            assert_eq!(print(&format!("{verb} --help")), print(&format!("help {verb}")));
        }
        for kind in Kind::ALL {
            assert!(top.lines().any(|line| line.trim().starts_with(&format!("{}  ", kind.code()))), "{kind:?}");
        }
    }

    #[test]
    fn help_never_breaks_a_line_of_its_examples() {
        for verb in VerbName::ALL {
            assert!(print(&format!("{verb} --help")).ends_with(&format!("{}\n", help::examples(verb))), "{verb}");
        }
        assert!(print("--help").ends_with(&format!("{}\n", help::epilogue())));
    }

    #[test]
    fn the_examples_of_help_are_command_lines_that_are_understood() {
        let mut found = 0;
        for verb in VerbName::ALL {
            let text = help::examples(verb).replace("\\\n", "").replace("%f", "00000002.history").replace("%p", "x");
            for line in text
                .lines()
                .filter_map(|line| Some(&line[line.find("walden ")?..]))
                .filter(|line| line.contains(verb.as_str()))
            {
                let line = line.replace("2026-11-20 14:03+01", "2026-11-20T14:03+01").replace(['\'', '"'], "");
                let line = line.split(" >").next().unwrap();
                let arguments = line.split_whitespace().map(OsString::from).collect::<Vec<_>>();
                let arguments = sources::take_entry(&arguments).unwrap().map_or(arguments, |entry| entry.arguments);
                let variables = [("WALDEN_PREFIX", "s3://bucket"), ("WALDEN_RETAIN", "7")];
                let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
                let environment = variables.into_iter().collect();
                assert!(matches!(parse(arguments, &environment), Ok(Parsed::Run(_))), "{line}");
                found += 1;
            }
        }
        assert!(found >= VerbName::ALL.len(), "{found}");
    }

    #[test]
    fn a_restore_command_is_recognised_even_where_it_cannot_be_understood() {
        assert!(may_be(VerbName::WalFetch, &words("--nonsense wal-fetch")));
        assert!(!may_be(VerbName::WalFetch, &words("wal-push x")));
    }

    proptest! {
        #[test]
        fn no_command_line_makes_the_parser_panic(line in proptest::collection::vec(prop_oneof![
            proptest::sample::select(VerbName::ALL.map(VerbName::as_str).to_vec()).prop_map(str::to_owned),
            proptest::sample::select(TABLE).prop_map(|row| format!("--{}", row.name)),
            proptest::sample::select(TABLE).prop_map(|row| format!("--{}={}", row.name, row.example.unwrap_or("1"))),
            proptest::sample::select(vec!["--", "-", "help", "LATEST", ID, "00000002.history", "-h", "--help", "--version"]).prop_map(str::to_owned),
            ".{0,12}",
        ], 0..8)) {
            // Without a file to read, so that a word such as /dev/zero cannot be one.
            let harmless = line.iter().filter(|word| !word.starts_with("--config"));
            let arguments = std::iter::once("walden").chain(harmless.map(String::as_str)).map(OsString::from);
            match parse(arguments, &with_prefix()) {
                Err(error) => prop_assert!(matches!(error.kind(), Kind::Usage | Kind::Config), "{error:?}"),
                Ok(Parsed::Run(invocation)) => prop_assert!(invocation.settings.get(&options::PREFIX).is_ok()),
                Ok(Parsed::Print(text)) => prop_assert!(!text.is_empty()),
                Ok(Parsed::Enter(_)) => {}
            }
        }
    }
}
