//! Where the parts of a cluster go. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::target::TablespaceMapping;
use crate::error::{Error, Kind, Result};
use crate::postgres::control::CONTROL_FILE;
use crate::postgres::entry::Tablespace;

/// Under this name `global/pg_control` waits until everything else is on disk.
const WAITING_CONTROL_FILE: &str = "global/pg_control.walden-restore";

/// The directory of the WAL within a data directory.
pub(super) const WAL_DIRECTORY: &str = "pg_wal";

/// What is to lie elsewhere than in the backup.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Single tablespaces.
    pub tablespaces: Vec<TablespaceMapping>,
    /// All others, below this directory, each named after its number; absolute.
    pub tablespace_root: Option<PathBuf>,
    /// The WAL; absolute.
    pub wal: Option<PathBuf>,
}

/// Where the parts of a cluster go.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    root: PathBuf,
    tablespaces: BTreeMap<u32, PathBuf>,
    wal: Option<PathBuf>,
    mapped: bool,
}

impl Destination {
    /// The cluster below `root`, its tablespaces where they were unless `places` say otherwise.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a mapping of a tablespace that the backup has not, or of one that has a mapping already.
    pub(super) fn new(root: &Path, tablespaces: &[Tablespace], places: &Places) -> Result<Destination> {
        let mappings = &places.tablespaces;
        if let Some(mapping) = mappings.iter().find(|mapping| !tablespaces.iter().any(|one| mapping.source.names(one)))
        {
            return Err(unknown(mapping, tablespaces));
        }
        let mut all = BTreeMap::new();
        for tablespace in tablespaces {
            let mut own = mappings.iter().filter(|mapping| mapping.source.names(tablespace));
            let place = match (own.next(), own.next(), &places.tablespace_root) {
                (Some(_), Some(_), _) => {
                    return Err(Error::new(
                        Kind::Usage,
                        format!("tablespace {} is mapped by its number and by its place", tablespace.oid),
                    )
                    .hint("Give one --tablespace-mapping OLD=NEW for each tablespace."));
                }
                (Some(mapping), None, _) => mapping.target.clone(),
                (None, _, Some(root)) => root.join(tablespace.oid.to_string()),
                (None, _, None) => tablespace.location.clone(),
            };
            all.insert(tablespace.oid, place);
        }
        let mapped = tablespaces.iter().any(|one| all.get(&one.oid) != Some(&one.location));
        Ok(Destination { root: root.to_path_buf(), tablespaces: all, wal: places.wal.clone(), mapped })
    }

    /// The data directory.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The tablespaces outside the data directory.
    pub(super) fn tablespaces(&self) -> &BTreeMap<u32, PathBuf> {
        &self.tablespaces
    }

    /// The directory of the WAL, where it is not the data directory's own.
    pub(super) fn wal(&self) -> Option<&Path> {
        self.wal.as_deref()
    }

    /// Does a tablespace lie elsewhere than in the backup?
    pub(super) fn is_mapped(&self) -> bool {
        self.mapped
    }

    /// The data directory, the tablespaces, and the directory of the WAL.
    pub(super) fn directories(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.root()).chain(self.outside())
    }

    /// What lies outside the data directory, with links in it.
    pub(super) fn outside(&self) -> impl Iterator<Item = &Path> {
        self.tablespaces.values().map(PathBuf::as_path).chain(self.wal())
    }

    /// Where a path of the backup is written to.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        if path == CONTROL_FILE {
            return self.root.join(WAITING_CONTROL_FILE);
        }
        if let Some((wal, rest)) = self.wal().zip(path.strip_prefix(WAL_DIRECTORY)) {
            match rest.strip_prefix('/') {
                Some(rest) => return wal.join(rest),
                None if rest.is_empty() => return wal.to_owned(),
                None => {}
            }
        }
        let in_tablespace = path.strip_prefix("pg_tblspc/").and_then(|rest| {
            let (oid, rest) = rest.split_once('/')?;
            Some(self.tablespaces.get(&oid.parse().ok()?)?.join(rest))
        });
        in_tablespace.unwrap_or_else(|| self.root.join(path))
    }

    /// Do the data directory, the tablespaces and the WAL lie apart? `real` tells where a path leads to when its links are
    /// followed.
    ///
    /// # Errors
    /// [`Kind::Refused`] if two of them are one directory, or one lies within another.
    pub(super) fn check_apart(&self, real: impl Fn(&Path) -> Result<PathBuf>) -> Result<()> {
        let mut places: Vec<(String, &Path, PathBuf, &str)> = Vec::new();
        let tablespaces = self.tablespaces.iter().map(|(oid, place)| {
            (format!("tablespace {oid}"), place.as_path(), "--tablespace-mapping OLD=NEW or --tablespace-root DIR")
        });
        let wal = self.wal().map(|place| ("the WAL".to_owned(), place, "--waldir DIR"));
        let root = ("the data directory".to_owned(), self.root(), "");
        for (name, place, option) in std::iter::once(root).chain(tablespaces).chain(wal) {
            let lies_at = real(place)?;
            if let Some((other, elsewhere, ..)) =
                places.iter().find(|(_, _, other, _)| lies_at.starts_with(other) || other.starts_with(&lies_at))
            {
                return Err(Error::new(Kind::Refused, format!("{name} and {other} would lie within each other"))
                    .detail(format!("they are to lie in \"{}\" and \"{}\"", place.display(), elsewhere.display()))
                    .hint(format!("Give {name} a directory of its own with {option}.")));
            }
            places.push((name, place, lies_at, option));
        }
        Ok(())
    }
}

fn unknown(mapping: &TablespaceMapping, tablespaces: &[Tablespace]) -> Error {
    let known: Vec<String> =
        tablespaces.iter().map(|one| format!("{} in \"{}\"", one.oid, one.location.display())).collect();
    let known = if known.is_empty() { "it has none at all".into() } else { format!("it has {}", known.join(", ")) };
    Error::new(Kind::Usage, format!("the backup has no tablespace {}", mapping.source))
        .detail(known)
        .hint("walden backup-show prints the tablespaces of a backup.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::target::TablespaceSource;

    fn spaces() -> Vec<Tablespace> {
        [(16385, "/one"), (16386, "/two")].map(|(oid, place)| Tablespace { oid, location: place.into() }).to_vec()
    }

    fn mapping(source: TablespaceSource, target: &str) -> TablespaceMapping {
        TablespaceMapping { source, target: target.into() }
    }

    #[test]
    fn a_mapping_comes_before_the_root_and_the_root_before_the_old_place() {
        let by_number = mapping(TablespaceSource::Oid(16385), "/new");
        let mut places = Places { tablespaces: vec![by_number], ..Places::default() };
        let to = |places: &Places| {
            let made = Destination::new(Path::new("/d"), &spaces(), places).unwrap();
            made.tablespaces().values().map(|place| place.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(to(&Places::default()), ["/one", "/two"]);
        assert_eq!(to(&places), ["/new", "/two"]);
        places.tablespace_root = Some("/all".into());
        assert_eq!(to(&places), ["/new", "/all/16386"]);
        assert!(!Destination::new(Path::new("/d"), &spaces(), &Places::default()).unwrap().is_mapped());
        assert!(Destination::new(Path::new("/d"), &spaces(), &places).unwrap().is_mapped());
    }

    #[test]
    fn a_mapping_names_a_tablespace_of_the_backup_and_only_one_does() {
        let refused = |tablespaces: Vec<TablespaceMapping>| {
            let places = Places { tablespaces, ..Places::default() };
            Destination::new(Path::new("/d"), &spaces(), &places).unwrap_err()
        };
        let error = refused(vec![mapping(TablespaceSource::Oid(1), "/new")]);
        assert_eq!(error.what(), "the backup has no tablespace 1");
        assert_eq!(error.cause(), Some("it has 16385 in \"/one\", 16386 in \"/two\""));
        let place = TablespaceSource::Place("/one".into());
        let twice = refused(vec![mapping(place, "/a"), mapping(TablespaceSource::Oid(16385), "/b")]);
        assert_eq!(twice.what(), "tablespace 16385 is mapped by its number and by its place");
    }

    #[test]
    fn what_is_in_the_wal_directory_goes_where_that_lies() {
        let places = Places { wal: Some("/wal".into()), ..Places::default() };
        let destination = Destination::new(Path::new("/d"), &spaces(), &places).unwrap();
        for (path, to) in [
            ("pg_wal", "/wal"),
            ("pg_wal/archive_status", "/wal/archive_status"),
            ("pg_walden", "/d/pg_walden"),
            ("base/1/1259", "/d/base/1/1259"),
            ("pg_tblspc/16385/PG_15/5/1", "/one/PG_15/5/1"),
            ("pg_tblspc/1/x", "/d/pg_tblspc/1/x"),
            ("global/pg_control", "/d/global/pg_control.walden-restore"),
        ] {
            assert_eq!(destination.resolve(path), Path::new(to), "{path}");
        }
    }

    #[test]
    fn no_part_of_a_cluster_lies_within_another_whatever_links_lead_there() {
        let apart = |root: &str, places: &Places| {
            let destination = Destination::new(Path::new(root), &spaces(), places).unwrap();
            // /link leads to /one.
            destination.check_apart(|path| {
                Ok(path.strip_prefix("/link").map_or_else(|_| path.to_owned(), |rest| Path::new("/one").join(rest)))
            })
        };
        let wal = |place: &str| Places { wal: Some(place.into()), ..Places::default() };
        assert!(apart("/d", &Places::default()).is_ok());
        assert!(apart("/d", &wal("/dd")).is_ok());
        for (root, places) in [
            ("/one", Places::default()),
            ("/one/data", Places::default()),
            ("/link", Places::default()),
            ("/", Places::default()),
            ("/d", wal("/d")),
            ("/d", wal("/d/pg_wal")),
            ("/d/e", wal("/d")),
            ("/d", wal("/link/wal")),
            ("/d", Places { tablespace_root: Some("/d/spaces".into()), ..Places::default() }),
            ("/d", Places { tablespaces: vec![mapping(TablespaceSource::Oid(16385), "/two")], ..Places::default() }),
        ] {
            let error = apart(root, &places).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{root} {places:?}");
            assert!(error.advice().unwrap().contains("--"), "{error:?}");
        }
    }
}
