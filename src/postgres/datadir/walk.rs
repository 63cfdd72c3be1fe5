//! The walk through a data directory that finds what belongs in a base backup.
//!
//! Reads names, sizes and times, never contents. The server runs meanwhile: files come and go, and what is missed or has
//! gone is in the WAL that the backup needs anyway.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::error::{Context, Error, Kind, Result};
use crate::postgres::control::ControlFile;
use crate::postgres::datadir::rules;
use crate::postgres::entry::{Directory, FileList, Tablespace};
use crate::postgres::relation;

/// How deep directories may lie within each other. PostgreSQL's own lie no deeper than 5.
const MAX_DEPTH: usize = 64;

/// What belongs in a base backup. The data directory itself and the links to tablespaces are not in it.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// The data directory, without symbolic links. Every path is relative to it, those of tablespaces through the links in
    /// `pg_tblspc`.
    pub root: PathBuf,
    /// Directories, each one before those in it.
    pub directories: Vec<Directory>,
    /// Files; `global/pg_control` is among them, and must be read last.
    pub files: FileList,
    /// The tablespaces that lie elsewhere, in the order of their numbers.
    pub tablespaces: Vec<Tablespace>,
    /// What belongs to no backup and that PostgreSQL did not put there; to be told to the user.
    pub skipped: Vec<Skipped>,
}

/// What was found and left out for a reason that the user should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Relative to the data directory.
    pub path: String,
    /// Why, in words.
    pub why: &'static str,
}

/// Walks through the data directory of the cluster that `control` tells of, by PostgreSQL's own rules (`sendDir` in
/// src/backend/backup/basebackup.c, 13 to 18), except that signal files are left out too. Of a tablespace only the
/// cluster's own directory in it is walked; a tablespace that lies within the data directory is found once, as a
/// tablespace.
///
/// # Errors
/// [`Kind::Denied`] for a directory or file that we may not read; [`Kind::Incomplete`] for a tablespace that is not there;
/// [`Kind::Refused`] for a name that is not UTF-8 or directories that lie too deep. A file that vanishes is none.
pub fn walk(data_directory: &Path, control: &ControlFile) -> Result<Walk> {
    let root = fs::canonicalize(data_directory).during(|| could_not("read", data_directory))?;
    let metadata = fs::metadata(&root).during(|| could_not("read", data_directory))?;
    let mut walker = Walker {
        tablespace_directory: control.tablespace_directory(),
        summaries: control.version >= 17,
        directory_mode: permissions(&metadata),
        inner_tablespaces: inner_tablespaces(&root)?,
        found: Walk::default(),
    };
    walker.content("", &root, 0)?;
    let mut found = Walk { root, ..walker.found };
    found.tablespaces.sort_unstable();
    found.skipped.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Which of these files, found by [`walk`], are an unlogged relation's that a server makes anew when it starts after a crash:
/// those whose `init` fork was not there yet. The `init` fork of an index comes when the index is built, be it hours later
/// (`index_build` in src/backend/catalog/index.c), and such files must not be in a backup whose WAL creates the `init` fork:
/// recovery removes a main fork when it begins, by the `init` forks that are there, and insists at its end that it is gone
/// (`ResetUnloggedRelations` in src/backend/storage/file/reinit.c).
///
/// # Errors
/// [`Kind::Denied`] for a directory that we may not read. One that has vanished is none.
pub fn reset_by_now(data_directory: &Path, control: &ControlFile, files: &FileList) -> Result<HashSet<String>> {
    let tablespace_directory = control.tablespace_directory();
    let (mut current, mut unlogged, mut found) = (String::new(), HashSet::new(), HashSet::new());
    for (path, _) in files.iter() {
        let Some((directory, name)) = path.rsplit_once('/') else { continue };
        if directory != current {
            directory.clone_into(&mut current);
            unlogged.clear();
            if rules::is_database_directory(directory, &tablespace_directory) {
                each_name(&data_directory.join(directory), |name| unlogged.extend(init_fork(&name)))?;
            }
        }
        if is_reset(name, &unlogged) {
            found.insert(path);
        }
    }
    Ok(found)
}

/// The tablespaces that somebody made within the data directory itself, which PostgreSQL only warns of.
fn inner_tablespaces(root: &Path) -> Result<HashSet<PathBuf>> {
    let links = root.join("pg_tblspc");
    let names = names(&links)?;
    let locations = names.iter().map(|name| links.join(name)).filter(|link| link.is_symlink());
    Ok(locations.filter_map(|link| fs::canonicalize(link).ok()).filter(|location| location.starts_with(root)).collect())
}

struct Walker {
    tablespace_directory: String,
    /// Does the server keep `pg_wal/summaries`?
    summaries: bool,
    /// The mode of the directories that a server makes.
    directory_mode: u32,
    inner_tablespaces: HashSet<PathBuf>,
    found: Walk,
}

impl Walker {
    /// Visits everything in the directory `source`, which is `path` in the backup.
    fn content(&mut self, path: &str, source: &Path, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::new(Kind::Refused, format!("directories lie too deep in \"{}\"", source.display()))
                .detail(format!("the bound is {MAX_DEPTH}"))
                .hint("Move what is not PostgreSQL's out of the data directory."));
        }
        let mut names = names(source)?;
        names.sort_unstable();
        let holds_relations = rules::is_database_directory(path, &self.tablespace_directory);
        let unlogged = names.iter().filter_map(|name| init_fork(name)).collect();
        for name in &names {
            if holds_relations && (rules::is_temporary_relation(name) || is_reset(name, &unlogged)) {
                continue;
            }
            let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            if !rules::is_left_out(&path) {
                self.visit(path, name, source.join(name), depth)?;
            }
        }
        Ok(())
    }

    fn visit(&mut self, path: String, name: &str, source: PathBuf, depth: usize) -> Result<()> {
        let Some(metadata) = present(source.symlink_metadata()).during(|| could_not("read", &source))? else {
            return Ok(());
        };
        let (is_link, is_directory) = (metadata.is_symlink(), metadata.is_dir());
        if (is_link || is_directory) && path == "pg_wal" {
            self.wal_directory(&metadata);
        } else if (is_link || is_directory) && rules::is_emptied(name) {
            self.directory(path, &metadata);
        } else if is_link && path.strip_prefix("pg_tblspc/") == Some(name) {
            self.tablespace(path, name, source, depth)?;
        } else if is_directory {
            let is_tablespace = self.inner_tablespaces.contains(&source);
            self.directory(path.clone(), &metadata);
            if !is_tablespace {
                self.content(&path, &source, depth + 1)?;
            }
        } else if metadata.is_file() {
            self.file(path, source, &metadata)?;
        } else {
            self.skip(path, if is_link { "it is a symbolic link" } else { "it is neither a file nor a directory" });
        }
        Ok(())
    }

    /// Whether the file can be read is found out now, not hours into the backup.
    fn file(&mut self, path: String, source: PathBuf, metadata: &Metadata) -> Result<()> {
        let readable = access(&source, Access::READ_OK).map_err(io::Error::from);
        if present(readable).during(|| could_not("read", &source))?.is_some() {
            self.found.files.push(&path, metadata.len());
        }
        Ok(())
    }

    fn directory(&mut self, path: String, metadata: &Metadata) {
        let mode = if metadata.is_symlink() { self.directory_mode } else { permissions(metadata) };
        self.found.directories.push(Directory { path, mode });
    }

    /// Of the WAL only the directories that a server wants to find: the WAL itself comes from the archive.
    fn wal_directory(&mut self, metadata: &Metadata) {
        let summaries = self.summaries.then_some("pg_wal/summaries");
        for path in ["pg_wal", "pg_wal/archive_status"].into_iter().chain(summaries) {
            self.directory(path.into(), metadata);
        }
    }

    fn tablespace(&mut self, path: String, name: &str, link: PathBuf, depth: usize) -> Result<()> {
        let Some(oid) = Some(name).filter(|name| relation::is_number(name)).and_then(|name| name.parse().ok()) else {
            self.skip(path, "it is a symbolic link that is no tablespace");
            return Ok(());
        };
        let Some(location) = present(fs::read_link(&link)).during(|| could_not("read", &link))? else {
            return Ok(());
        };
        let source = link.join(&self.tablespace_directory);
        let Some(metadata) = present(source.symlink_metadata()).during(|| could_not("read", &source))? else {
            return absent_tablespace(&link, &location, &self.tablespace_directory);
        };
        let path = format!("{path}/{}", self.tablespace_directory);
        self.found.tablespaces.push(Tablespace { oid, location });
        self.directory(path.clone(), &metadata);
        self.content(&path, &source, depth + 2)
    }

    fn skip(&mut self, path: String, why: &'static str) {
        self.found.skipped.push(Skipped { path, why });
    }
}

/// A tablespace's link outlives its directory only while it is being dropped, so if the link is still there the
/// directory is missing. PostgreSQL's own backup would go on without it.
fn absent_tablespace(link: &Path, location: &Path, directory: &str) -> Result<()> {
    if present(link.symlink_metadata()).during(|| could_not("read", link))?.is_none() {
        return Ok(());
    }
    Err(Error::new(Kind::Incomplete, format!("the tablespace at \"{}\" is not there", location.display()))
        .detail(format!("\"{}\" points to it, and it has no directory \"{directory}\"", link.display()))
        .hint("Mount its file system, or drop the tablespace with DROP TABLESPACE."))
}

/// The number of the unlogged relation whose `init` fork this is.
fn init_fork(name: &str) -> Option<String> {
    rules::relation_file(name).filter(|(_, is_init)| *is_init).map(|(number, _)| number.to_owned())
}

/// Is this a file that a server makes anew from the `init` fork when it starts after a crash?
fn is_reset(name: &str, unlogged: &HashSet<String>) -> bool {
    rules::relation_file(name).is_some_and(|(number, is_init)| !is_init && unlogged.contains(number))
}

/// The names in a directory; none if it has vanished.
fn names(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    each_name(directory, |name| names.push(name))?;
    Ok(names)
}

/// The same, one by one: there can be very many.
fn each_name(directory: &Path, mut visit: impl FnMut(String)) -> Result<()> {
    let could_not_read = || could_not("read the directory", directory);
    let Some(listing) = present(fs::read_dir(directory)).during(could_not_read)? else { return Ok(()) };
    for entry in listing {
        let name = entry.during(could_not_read)?.file_name();
        visit(name.into_string().map_err(|name| {
            Error::new(Kind::Refused, format!("the name of \"{}\" is not UTF-8", directory.join(name).display()))
                .detail("PostgreSQL gives no file such a name")
                .hint("Move the file out of the data directory.")
        })?);
    }
    Ok(())
}

/// `None` for what has vanished.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn could_not(what: &str, path: &Path) -> String {
    format!("could not {what} \"{}\"", path.display())
}

fn permissions(metadata: &Metadata) -> u32 {
    metadata.mode() & 0o7777
}
