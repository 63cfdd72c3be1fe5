//! Where settings come from: flags, then `WALDEN_*` variables, then other tools' variables, then the file.
//!
//! Reads the configuration file and the directory of variables, and nothing else: the process's environment is handed
//! in, and never changed. What a setting is called and which values it can have is the table's business.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::{Table, Value as Toml};

use crate::config::options::{CONFIG, ENVDIR, TABLE};
use crate::config::row::{Alias, Role, Row, VARIABLE_PREFIX};
use crate::config::{Given, Origin, Settings, foreign, wal_g};
use crate::error::{Context, Error, Kind, Result};

/// The variable that names the directory whose variables were added to this process's environment, for messages only:
/// setting it does not read the directory.
pub const ENVDIR_VARIABLE: &str = "WALDEN_ENVDIR";

/// The variable that names the configuration file of WAL-G whose keys were added to this process's environment, likewise.
pub const WAL_G_VARIABLE: &str = "WALDEN_WAL_G_CONFIG";

/// The greatest size of a configuration file in bytes.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// The greatest size of an environment variable in bytes: Linux refuses to start a process with a longer one
/// (`MAX_ARG_STRLEN`, execve(2)).
const MAX_VARIABLE: u64 = 128 << 10;

/// What the command line gave: for each row's name the texts, at least one.
pub type Flags = BTreeMap<&'static str, Vec<String>>;

/// The environment variables of a process, as a value.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Environment {
        Environment { variables: variables.into_iter().collect() }
    }
}

impl Environment {
    /// Takes what `std::env::vars_os` yields. Variables that are not UTF-8 are left out unless we would read them.
    ///
    /// # Errors
    /// [`Kind::Config`] for a variable of ours, or an alias of one, whose value is not UTF-8.
    pub fn of_process(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Environment> {
        let is_alias = |name: &str| TABLE.iter().flat_map(|row| row.aliases).any(|alias| alias.name == name);
        let mut environment = Environment::default();
        for (name, value) in variables {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => {
                    environment.variables.insert(name, value);
                }
                Err(_) if name.starts_with(VARIABLE_PREFIX) || is_alias(&name) => {
                    return Err(Error::new(Kind::Config, format!("variable {name} is not UTF-8"))
                        .hint(format!("Set {name} to text in UTF-8, or unset it.")));
                }
                Err(_) => {}
            }
        }
        Ok(environment)
    }

    fn change(&mut self, changes: &BTreeMap<String, Option<String>>) {
        for (name, value) in changes {
            match value {
                Some(value) => self.variables.insert(name.clone(), value.clone()),
                None => self.variables.remove(name),
            };
        }
    }

    /// The variable's value; an empty one counts as unset.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables that are not empty, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(_, value)| !value.is_empty())
    }

    /// Where the variable was set: in a file of the directory that was read into this environment, or outside.
    pub fn origin(&self, name: &str) -> Origin {
        let file = self.get(ENVDIR_VARIABLE).map(|directory| Path::new(directory).join(name));
        match file.filter(|file| file.is_file()) {
            Some(file) => Origin::Envdir(file),
            None => Origin::Variable(name.to_owned()),
        }
    }
}

/// Reads all sources and validates every value of them, whichever of them wins; only an alias that is overridden by a
/// flag or a variable of ours is not looked at.
///
/// # Errors
/// [`Kind::Usage`] for a flag, [`Kind::Config`] for all else: a value that is not legal, an unknown name, aliases that
/// disagree, a file that is not TOML. A file that cannot be read is an error of the local machine.
pub fn load(flags: Flags, environment: &Environment) -> Result<Settings> {
    let mut settings = Settings { given: from_flags(flags)? };
    settings.add_weaker(from_variables(environment)?);
    let aliases = from_aliases(environment, &settings)?;
    settings.add_weaker(aliases);
    if let Some(path) = settings.find(&CONFIG)? {
        settings.add_weaker(from_file(&path)?);
    }
    Ok(settings)
}

type Layer = BTreeMap<&'static str, Given>;

impl Settings {
    fn add_weaker(&mut self, layer: Layer) {
        for (name, given) in layer {
            if let btree_map::Entry::Vacant(vacant) = self.given.entry(name) {
                vacant.insert(given);
            }
        }
    }
}

fn given(row: &'static Row, texts: Vec<String>, origin: Origin) -> Result<(&'static str, Given)> {
    texts.iter().try_for_each(|text| row.check(text, &origin))?;
    Ok((row.name, Given { texts, origin }))
}

fn from_flags(flags: Flags) -> Result<Layer> {
    let mut layer = Layer::new();
    for row in TABLE {
        let Some(texts) = flags.get(row.name) else { continue };
        let origin = Origin::Flag(row.name);
        let (name, given) = given(row, texts.clone(), origin)?;
        layer.insert(name, given);
    }
    Ok(layer)
}

fn from_variables(environment: &Environment) -> Result<Layer> {
    let ours = environment.iter().filter(|(name, _)| name.starts_with(VARIABLE_PREFIX) && *name != WAL_G_VARIABLE);
    ours.map(|(name, value)| {
        let readable = |row: &Row| row.role != Role::Argument;
        let row = find(readable, Row::variable, name)
            .map_err(|hint| Error::new(Kind::Config, format!("unknown variable {name}")).hint(hint))?;
        given(row, of_variable(row, value), environment.origin(name))
    })
    .collect()
}

/// A variable has one value, or several with blanks between them where the row is repeatable.
pub(super) fn of_variable(row: &Row, value: &str) -> Vec<String> {
    match row.repeatable {
        true => value.split_whitespace().map(str::to_owned).collect(),
        false => vec![value.to_owned()],
    }
}

fn from_aliases(environment: &Environment, stronger: &Settings) -> Result<Layer> {
    let open = TABLE.iter().filter(|row| !stronger.given.contains_key(row.name));
    open.filter_map(|row| from_aliases_of(row, environment).transpose()).collect()
}

fn from_aliases_of(row: &'static Row, environment: &Environment) -> Result<Option<(&'static str, Given)>> {
    let mut first: Option<(&Alias, String)> = None;
    for alias in row.aliases {
        let Some(value) = environment.get(alias.name) else { continue };
        let text = (alias.convert)(value).map_err(|cause| row.refuse(&environment.origin(alias.name), &cause))?;
        match &first {
            None => first = Some((alias, text)),
            Some((other, meant)) if *meant != text => {
                return Err(disagree(row, other.name, alias.name, environment));
            }
            Some(_) => {}
        }
    }
    first.map(|(alias, text)| given(row, of_variable(row, &text), environment.origin(alias.name))).transpose()
}

fn disagree(row: &Row, one: &str, other: &str, environment: &Environment) -> Error {
    let mean =
        |name: &str| format!("{} is \"{}\"", environment.origin(name), environment.get(name).unwrap_or_default());
    let error = Error::new(Kind::Config, format!("variables {one} and {other} disagree about {}", row.name))
        .hint(format!("Unset one of them, or set {}, which wins over both.", row.variable()));
    if row.secret { error } else { error.detail(format!("{}, {}", mean(one), mean(other))) }
}

fn from_file(path: &Path) -> Result<Layer> {
    let shown = path.display();
    let bytes = read_bounded(path, MAX_FILE)
        .during(|| format!("could not read the configuration file {shown}"))
        .map_err(|error| error.hint("Name a file that can be read with --config or WALDEN_CONFIG."))?;
    let refused = || Error::new(Kind::Config, format!("could not understand the configuration file {shown}"));
    let text = String::from_utf8(bytes).map_err(|_| refused().detail("it is not UTF-8"))?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        refused()
            .detail(format!("line {line}: {}", error.message()))
            .hint("Write lines such as prefix = \"s3://bucket/path\".")
    })?;
    table.into_iter().map(|(key, value)| from_key(path, key, value)).collect()
}

fn from_key(path: &Path, key: String, value: Toml) -> Result<(&'static str, Given)> {
    let readable = |row: &Row| row.role == Role::Setting;
    let row = find(readable, |row| row.name.to_owned(), &key)
        .map_err(|hint| Error::new(Kind::Config, format!("unknown key {key} in {}", path.display())).hint(hint))?;
    let texts = match value {
        Toml::Array(values) if row.repeatable => values.into_iter().map(plain).collect(),
        value => plain(value).map(|text| vec![text]),
    };
    let origin = Origin::File(path.to_owned(), key);
    match texts {
        Some(texts) if !texts.is_empty() => given(row, texts, origin),
        _ => Err(row.refuse(&origin, &Error::new(Kind::Config, "it is neither a string nor a whole number"))),
    }
}

fn plain(value: Toml) -> Option<String> {
    match value {
        Toml::String(text) => Some(text),
        Toml::Integer(number) => Some(number.to_string()),
        Toml::Boolean(flag) => Some(flag.to_string()),
        Toml::Float(_) | Toml::Datetime(_) | Toml::Array(_) | Toml::Table(_) => None,
    }
}

/// The row that one kind of source knows by this name.
///
/// # Errors
/// A hint, which says that the name belongs to the command line, or what it may have been meant to be.
fn find(readable: impl Fn(&Row) -> bool, name_of: impl Fn(&Row) -> String, name: &str) -> Result<&'static Row, String> {
    match TABLE.iter().find(|row| name_of(row) == name) {
        Some(row) if readable(row) => return Ok(row),
        Some(row) => return Err(format!("Give --{} on the command line; it cannot be set here.", row.name)),
        None => {}
    }
    let plain = |name: &str| name.to_lowercase().replace('_', "-");
    let distance = |row: &Row| strsim::osa_distance(&plain(&name_of(row)), &plain(name));
    let nearest = TABLE.iter().filter(|row| readable(row)).min_by_key(|row| distance(row));
    // With more to change than a third of it, it is another word.
    Err(match nearest.filter(|row| distance(row) <= (row.name.len() / 3).max(1)) {
        Some(row) => format!("Did you mean {}?", name_of(row)),
        None => String::from("Run walden config to see all settings."),
    })
}

/// What is to be read into the environment before anything else, and the command line without the words that said so, the
/// program's name still first.
///
/// It is read by starting the program anew with its variables in the environment: libraries read the process's own
/// environment, which cannot safely be changed from within.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// A directory of variables: they replace those of the environment.
    pub directory: Option<PathBuf>,
    /// A configuration file of WAL-G: the environment wins over it.
    pub wal_g: Option<PathBuf>,
    /// The command line.
    pub arguments: Vec<OsString>,
}

impl Entry {
    /// What such a directory, such a file and the words of other tools change in the environment; `None` unsets a variable.
    ///
    /// # Errors
    /// Those of [`read_envdir`] and [`wal_g::read`].
    pub fn changes(&self, environment: &Environment) -> Result<BTreeMap<String, Option<String>>> {
        let mut changes = BTreeMap::new();
        if let Some(directory) = &self.directory {
            changes.extend(read_envdir(directory)?);
            changes.insert(ENVDIR_VARIABLE.to_owned(), Some(directory.display().to_string()));
        }
        let mut after = environment.clone();
        after.change(&changes);
        if let Some(path) = self.wal_g.clone().or_else(|| after.get(wal_g::PATH_VARIABLE).map(PathBuf::from)) {
            let path = std::path::absolute(&path).during(|| "could not find the current directory")?;
            let variables = wal_g::read(&path)?.into_iter().filter(|(name, _)| after.get(name).is_none());
            changes.extend(variables.map(|(name, value)| (name, Some(value))).collect::<Vec<_>>());
            changes.insert(wal_g::PATH_VARIABLE.to_owned(), None);
            changes.insert(WAL_G_VARIABLE.to_owned(), Some(path.display().to_string()));
            after.change(&changes);
        }
        // What cannot be translated is told when it is needed, by the new process.
        let translated = foreign::translated(&after).unwrap_or_default();
        changes.extend(translated.into_iter().map(|(name, value)| (name.to_owned(), Some(value))));
        Ok(changes)
    }
}

/// Whether the program has to start anew, with the command line as it is, for what the environment says in the words of
/// other tools.
///
/// # Errors
/// Those of [`foreign::translated`].
pub fn needs_entry(environment: &Environment) -> Result<bool> {
    Ok(environment.get(wal_g::PATH_VARIABLE).is_some() || !foreign::translated(environment)?.is_empty())
}

/// Finds `--envdir DIR`, and `--config FILE` where that is one of WAL-G's, before any `--` and takes them out; `None` if
/// neither is there.
///
/// # Errors
/// [`Kind::Usage`] if a flag is there twice.
pub fn take_entry(arguments: &[OsString]) -> Result<Option<Entry>> {
    let (directory, rest) = take(&ENVDIR.row, arguments, |_| true)?;
    let (wal_g, rest) = take(&CONFIG.row, &rest, wal_g::is_wal_g)?;
    let found = directory.is_some() || wal_g.is_some();
    Ok(found.then_some(Entry { directory, wal_g, arguments: rest }))
}

/// Finds `--flag PATH` or `--flag=PATH` before any `--`, with a path that is wanted, and takes it out; a flag without a
/// value stays.
fn take(row: &Row, arguments: &[OsString], wanted: impl Fn(&Path) -> bool) -> Result<(Option<PathBuf>, Vec<OsString>)> {
    let flag = format!("--{}", row.name);
    let assigned = |word: &OsString| Some(PathBuf::from(word.to_str()?.strip_prefix(&flag)?.strip_prefix('=')?));
    let (mut found, mut rest) = (Vec::new(), Vec::new());
    let mut words = arguments.iter().peekable();
    while let Some(word) = words.next() {
        if word == "--" {
            rest.push(word.clone());
            rest.extend(words.by_ref().cloned());
        } else if *word == *flag && words.peek().is_some_and(|path| wanted(Path::new(path))) {
            found.extend(words.next().map(PathBuf::from));
        } else if let Some(path) = assigned(word).filter(|path| wanted(path)) {
            found.push(path);
        } else {
            rest.push(word.clone());
        }
    }
    if found.len() > 1 {
        let value = row.value.unwrap_or_default();
        return Err(Error::new(Kind::Usage, format!("{flag} is given more than once"))
            .hint(format!("Give {flag} {value} once.")));
    }
    Ok((found.pop(), rest))
}

/// Reads a directory of variables by the rules of envdir(8): a file for each, whose first line is the value; blanks and
/// tabs at its end are dropped, NULs become newlines; an empty file unsets the variable (`None`); names that begin with
/// a dot are passed over. Sorted by name.
///
/// # Errors
/// [`Kind::Config`] for a name or value that cannot be a variable; for anything in the directory that cannot be read,
/// an error of the local machine.
pub fn read_envdir(directory: &Path) -> Result<Vec<(String, Option<String>)>> {
    let context = || format!("could not read the directory of variables {}", directory.display());
    let mut variables = Vec::new();
    let entries = std::fs::read_dir(directory)
        .during(context)
        .map_err(|error| error.hint("Name a directory that can be read with --envdir DIR."))?;
    for entry in entries {
        let path = entry.during(context)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with('.') {
            continue;
        }
        if name.is_empty() || name.contains('=') {
            return Err(Error::new(Kind::Config, format!("file {} cannot name a variable", path.display()))
                .hint("Remove or rename it; a name is UTF-8 without an equals sign."));
        }
        variables.push((name.to_owned(), read_variable(&path)?));
    }
    variables.sort();
    Ok(variables)
}

fn read_variable(path: &Path) -> Result<Option<String>> {
    let content =
        read_bounded(path, MAX_VARIABLE).during(|| format!("could not read variable file {}", path.display()))?;
    if content.is_empty() {
        return Ok(None);
    }
    let line = content.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let value = str::from_utf8(line)
        .map_err(|_| Error::new(Kind::Config, format!("variable file {} is not UTF-8", path.display())))?;
    Ok(Some(value.trim_end_matches([' ', '\t']).replace('\0', "\n")))
}

pub(super) fn read_bounded(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(std::io::Error::other(format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::options::{LOG_LEVEL, PART_SIZE, PREFIX, S3_ADDRESSING, WORKERS};
    use crate::config::value::{Addressing, LogLevel};
    use proptest::prelude::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn variables(variables: &[(&str, &str)]) -> Result<Settings> {
        load(Flags::new(), &environment(variables))
    }

    fn config_file(text: &str) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("walden.toml");
        std::fs::write(&path, text).unwrap();
        (directory, path.to_str().unwrap().to_owned())
    }

    fn file(text: &str) -> Result<Settings> {
        let (_directory, path) = config_file(text);
        variables(&[("WALDEN_CONFIG", &path)])
    }

    proptest! {
        #[test]
        fn of_any_set_of_sources_the_strongest_wins(flag: bool, variable: bool, alias: bool, in_file: bool) {
            let (_directory, path) = config_file(if in_file { "prefix = 's3://file'" } else { "" });
            let mut set = vec![("WALDEN_CONFIG", path.as_str())];
            set.extend(variable.then_some(("WALDEN_PREFIX", "s3://variable")));
            set.extend(alias.then_some(("WALG_S3_PREFIX", "s3://alias")));
            let flags = flag.then(|| (PREFIX.row.name, vec!["s3://flag".to_owned()])).into_iter().collect();
            let settings = load(flags, &environment(&set)).unwrap();
            let strongest = [(flag, "s3://flag"), (variable, "s3://variable"), (alias, "s3://alias"), (in_file, "s3://file")];
            let strongest = strongest.iter().find(|(given, _)| *given).map(|(_, text)| *text);
            prop_assert_eq!(settings.text(&PREFIX.row), strongest);
            let origin = settings.origin(&PREFIX.row);
            let fits = match strongest {
                Some("s3://flag") => origin == Some(Origin::Flag("prefix")),
                Some("s3://variable") => origin == Some(Origin::Variable("WALDEN_PREFIX".into())),
                Some("s3://alias") => origin == Some(Origin::Variable("WALG_S3_PREFIX".into())),
                Some(_) => origin == Some(Origin::File(path.into(), "prefix".into())),
                None => origin.is_none(),
            };
            prop_assert!(fits);
        }
    }

    #[test]
    fn the_flag_that_names_the_file_wins_over_the_variable() {
        let (_one, flag) = config_file("workers = 1");
        let (_two, variable) = config_file("workers = 2");
        let flags = Flags::from([(CONFIG.row.name, vec![flag])]);
        let settings = load(flags, &environment(&[("WALDEN_CONFIG", &variable)])).unwrap();
        assert_eq!(settings.get(&WORKERS).unwrap(), 1);
    }

    #[test]
    fn aliases_that_mean_the_same_agree_and_others_are_an_error_that_names_both() {
        let settings = variables(&[("WALG_S3_PREFIX", "s3://b/p/"), ("WALE_S3_PREFIX", "s3://b/p")]).unwrap();
        assert_eq!(settings.text(&PREFIX.row), Some("s3://b/p"));
        let error = variables(&[("WALG_S3_PREFIX", "s3://b/p"), ("WALG_FILE_PREFIX", "/srv")]).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert_eq!(error.what(), "variables WALG_S3_PREFIX and WALG_FILE_PREFIX disagree about prefix");
        assert!(error.advice().unwrap().contains("WALDEN_PREFIX"));
    }

    #[test]
    fn our_own_variable_wins_over_aliases_that_disagree_or_are_illegal() {
        let settings = variables(&[
            ("WALDEN_PREFIX", "file:///ours"),
            ("WALG_S3_PREFIX", "s3://a"),
            ("WALE_S3_PREFIX", "s3://b"),
            ("WALG_FILE_PREFIX", "not absolute"),
        ]);
        assert_eq!(settings.unwrap().text(&PREFIX.row), Some("file:///ours"));
    }

    #[test]
    fn aliases_are_converted_from_their_own_syntax() {
        let settings = variables(&[("AWS_S3_FORCE_PATH_STYLE", "true"), ("WALG_LOG_LEVEL", "DEVEL")]).unwrap();
        assert_eq!(settings.get(&S3_ADDRESSING).unwrap(), Addressing::Path);
        assert_eq!(settings.get(&LOG_LEVEL).unwrap(), LogLevel::Debug);
        let error = variables(&[("AWS_S3_FORCE_PATH_STYLE", "maybe")]).unwrap_err();
        assert_eq!(error.what(), "invalid value for s3-addressing (variable AWS_S3_FORCE_PATH_STYLE)");
    }

    #[test]
    fn an_empty_variable_is_unset() {
        let set =
            [("WALDEN_PREFIX", ""), ("WALG_S3_PREFIX", "s3://b"), ("WALE_S3_PREFIX", ""), ("WALDEN_NONSENSE", "")];
        assert_eq!(variables(&set).unwrap().text(&PREFIX.row), Some("s3://b"));
    }

    #[test]
    fn an_unknown_variable_is_an_error_that_suggests_the_nearest_name() {
        for (name, hint) in [
            ("WALDEN_PREFX", "Did you mean WALDEN_PREFIX?"),
            ("WALDEN_RETRYTIMEOUT", "Did you mean WALDEN_RETRY_TIMEOUT?"),
            ("WALDEN_part_size", "Did you mean WALDEN_PART_SIZE?"),
            ("WALDEN_COLOUR", "Run walden config to see all settings."),
            ("WALDEN_JSON", "Give --json on the command line; it cannot be set here."),
        ] {
            let error = variables(&[(name, "1")]).unwrap_err();
            assert_eq!((error.kind(), error.what()), (Kind::Config, &*format!("unknown variable {name}")));
            assert_eq!(error.advice(), Some(hint));
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_that_suggests_the_nearest_name() {
        for (line, hint) in [
            ("part_size = '1MiB'", "Did you mean part-size?"),
            ("prefixes = 's3://b'", "Did you mean prefix?"),
            ("target-xid = 7", "Give --target-xid on the command line; it cannot be set here."),
            ("config = 'other.toml'", "Give --config on the command line; it cannot be set here."),
        ] {
            let error = file(line).unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.what().starts_with("unknown key "), "{error:?}");
            assert_eq!(error.advice(), Some(hint));
        }
    }

    #[test]
    fn values_of_the_file_are_strings_or_numbers() {
        let settings = file("workers = 7\npart-size = \"2MiB\"\n# comment\nlog-level = 'info'").unwrap();
        assert_eq!(settings.get(&WORKERS).unwrap(), 7);
        assert_eq!(settings.get(&PART_SIZE).unwrap(), 2 << 20);
        for line in ["workers = [7]", "workers = 1.5", "workers = true", "[workers]\nx = 1", "workers = '0'"] {
            let error = file(line).unwrap_err();
            assert!(error.what().starts_with("invalid value for workers (key workers of /"), "{line}: {error:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_toml_is_an_error_with_the_line() {
        let error = file("workers = 7\nprefix = s3://b\n").unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.cause().unwrap().starts_with("line 2: "), "{error:?}");
        let missing = variables(&[("WALDEN_CONFIG", "/nonexistent/walden.toml")]).unwrap_err();
        assert_eq!(missing.what(), "could not read the configuration file /nonexistent/walden.toml");
    }

    #[test]
    fn a_bad_value_is_an_error_even_where_a_stronger_source_overrides_it() {
        let flags = Flags::from([(WORKERS.row.name, vec!["2".to_owned()])]);
        let error = load(flags, &environment(&[("WALDEN_WORKERS", "many")])).unwrap_err();
        assert_eq!(error.what(), "invalid value for workers (variable WALDEN_WORKERS)");
    }

    #[test]
    fn a_variable_that_is_not_utf8_matters_only_if_it_is_ours() {
        use std::os::unix::ffi::OsStringExt;
        let bad = || OsString::from_vec(vec![b'a', 0xFF]);
        let foreign = Environment::of_process([("LESSCHARDEF".into(), bad()), ("A".into(), "b".into())]).unwrap();
        assert_eq!((foreign.get("LESSCHARDEF"), foreign.get("A")), (None, Some("b")));
        for name in ["WALDEN_PREFIX", "WALG_S3_PREFIX"] {
            let error = Environment::of_process([(name.into(), bad())]).err().unwrap();
            assert_eq!(error.what(), format!("variable {name} is not UTF-8"));
        }
    }

    #[test]
    fn envdir_files_are_read_by_the_rules_of_envdir() {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in [
            ("PLAIN", "value\n"),
            ("BLANKS", " a b \t \nsecond line\n"),
            ("NULS", "one\0two\0"),
            ("UNENDED", "x"),
            ("EMPTY", ""),
            ("NEWLINE", "\nignored"),
            (".hidden", "x"),
        ] {
            std::fs::write(directory.path().join(name), content).unwrap();
        }
        let some = |value: &str| Some(value.to_owned());
        let expected = [
            ("BLANKS", some(" a b")),
            ("EMPTY", None),
            ("NEWLINE", some("")),
            ("NULS", some("one\ntwo\n")),
            ("PLAIN", some("value")),
            ("UNENDED", some("x")),
        ];
        assert_eq!(read_envdir(directory.path()).unwrap(), expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn what_cannot_be_a_variable_is_an_error_and_not_passed_over() {
        for (name, content) in [("A=B", &b"x"[..]), ("BYTES", b"\xFF"), ("LONG", &[b'x'; 200_000])] {
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join(name), content).unwrap();
            let error = read_envdir(directory.path()).unwrap_err();
            assert!(error.what().contains(name), "{error:?}");
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("sub")).unwrap();
        assert!(read_envdir(directory.path()).is_err());
        assert!(read_envdir(&directory.path().join("absent")).is_err());
    }

    #[test]
    fn a_variable_from_the_directory_is_named_by_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("WALDEN_WORKERS");
        std::fs::write(&file, "3").unwrap();
        let path = directory.path().to_str().unwrap();
        let set = [(ENVDIR_VARIABLE, path), ("WALDEN_WORKERS", "3"), ("WALDEN_LOG_LEVEL", "info")];
        let settings = variables(&set).unwrap();
        assert_eq!(settings.origin(&WORKERS.row), Some(Origin::Envdir(file)));
        assert_eq!(settings.origin(&LOG_LEVEL.row), Some(Origin::Variable("WALDEN_LOG_LEVEL".into())));
    }

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_directory_is_taken_out_of_the_command_line_wherever_it_stands() {
        for (line, rest) in [
            ("walden --envdir /e wal-push x", "walden wal-push x"),
            ("walden --envdir=/e wal-push x", "walden wal-push x"),
            ("walden wal-push --envdir /e x", "walden wal-push x"),
            ("walden wal-push x --envdir=/e -- --envdir=/f", "walden wal-push x -- --envdir=/f"),
        ] {
            let expected = Entry { directory: Some("/e".into()), wal_g: None, arguments: words(rest) };
            assert_eq!(take_entry(&words(line)).unwrap(), Some(expected), "{line}");
        }
        for line in ["walden", "walden wal-push --envdir", "walden wal-push -- --envdir /e", "walden --envdirs=/e"] {
            assert_eq!(take_entry(&words(line)).unwrap(), None, "{line}");
        }
        let twice = take_entry(&words("walden --envdir /e --envdir=/f config")).unwrap_err();
        assert_eq!(twice.kind(), Kind::Usage);
    }

    #[test]
    fn a_configuration_file_of_wal_g_is_taken_out_and_one_of_ours_is_not() {
        let taken = |line: &str| take_entry(&words(line)).unwrap();
        let entry = taken("walden --config /w.yaml wal-push x --config=/ours.toml").unwrap();
        assert_eq!((entry.directory, entry.wal_g), (None, Some("/w.yaml".into())));
        assert_eq!(entry.arguments, words("walden wal-push x --config=/ours.toml"));
        assert_eq!(taken("walden --config /ours.toml wal-push x"), None);
        let both = taken("walden --config=/w.JSON --envdir /e config").unwrap();
        assert_eq!((both.directory, both.wal_g), (Some("/e".into()), Some("/w.JSON".into())));
        assert!(take_entry(&words("walden --config a.json --config b.yml config")).is_err());
    }

    #[test]
    fn a_directory_wins_over_the_environment_which_wins_over_a_file_of_wal_g() {
        let scratch = tempfile::tempdir().unwrap();
        let (directory, file) = (scratch.path().join("env"), scratch.path().join("wal-g.json"));
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("A"), "directory").unwrap();
        std::fs::write(directory.join("WALG_CONFIG_PATH"), file.to_str().unwrap()).unwrap();
        let text = r#"{"A": "file", "B": "file", "C": "file", "AWS_SECURITY_TOKEN": "t"}"#;
        std::fs::write(&file, text).unwrap();
        let environment = [("A", "outside"), ("B", "outside")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        let entry = Entry { directory: Some(directory), ..Entry::default() };
        let changes = entry.changes(&environment).unwrap();
        let change = |name: &str| changes.get(name).cloned().map(|value| value.unwrap_or_default());
        assert_eq!(change("A").as_deref(), Some("directory"));
        assert_eq!((change("B"), change("C").as_deref()), (None, Some("file")));
        assert_eq!(change("AWS_SESSION_TOKEN").as_deref(), Some("t"));
        assert_eq!(change("WALG_CONFIG_PATH").as_deref(), Some(""));
        assert!(change(WAL_G_VARIABLE).unwrap().ends_with("wal-g.json"));
    }

    #[test]
    fn a_process_that_was_started_anew_does_not_start_anew_again() {
        let environment: Environment = [("AWS_ENDPOINT", "http://h:1"), ("WALE_S3_ENDPOINT", "http+path://h:1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect();
        assert!(needs_entry(&environment).unwrap());
        let mut after = environment.clone();
        after.change(&Entry::default().changes(&environment).unwrap());
        assert!(!needs_entry(&after).unwrap());
    }

    #[test]
    fn the_variable_that_names_the_directory_is_in_the_table() {
        assert_eq!(ENVDIR.row.variable(), ENVDIR_VARIABLE);
    }
}
