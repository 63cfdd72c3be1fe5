//! Where this machine keeps PostgreSQL: its programs, and the configuration of Debian's clusters, which lies outside the
//! data directory.
//!
//! Only reads, and only to word what a person could type next: nothing is decided by what is found here.

use std::fs;
use std::path::{Path, PathBuf};

/// Where Debian's tools keep a directory `VERSION/NAME` of configuration for each cluster, unless [`CONFIG_ROOT_VARIABLE`]
/// says otherwise (`$confroot` in postgresql-common's PgCommon.pm).
const CONFIG_ROOT: &str = "/etc/postgresql";

/// Debian's own variable for another place.
pub const CONFIG_ROOT_VARIABLE: &str = "PG_CLUSTER_CONF_ROOT";

/// A cluster as Debian's tools know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebianCluster {
    /// `15`.
    pub version: String,
    /// `main`.
    pub name: String,
}

/// The cluster of Debian's whose `postgresql.conf` names this data directory. `root` is where the configurations lie, if
/// not in the usual place. `None` also for what cannot be read.
pub fn debian_cluster(root: Option<&Path>, data_directory: &Path) -> Option<DebianCluster> {
    let directories = |path: &Path| -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
    };
    // The directory may be about to be made.
    let same = |place: &Path| match (fs::canonicalize(place), fs::canonicalize(data_directory)) {
        (Ok(one), Ok(other)) => one == other,
        _ => place == data_directory,
    };
    let versions = directories(root.unwrap_or(Path::new(CONFIG_ROOT)));
    versions.into_iter().find_map(|(version, path)| {
        let mut clusters = directories(&path).into_iter();
        let own = clusters.find(|(_, path)| {
            let text = fs::read_to_string(path.join("postgresql.conf")).unwrap_or_default();
            data_directory_in(&text).is_some_and(|place| same(&place))
        });
        own.map(|(name, _)| DebianCluster { version, name })
    })
}

/// What a `postgresql.conf` says where its data directory is; the last word counts.
fn data_directory_in(text: &str) -> Option<PathBuf> {
    let value = |line: &str| {
        let rest = line.trim_start().strip_prefix("data_directory")?;
        let rest = rest.trim_start();
        let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
        let value = rest.strip_prefix('\'')?;
        Some(PathBuf::from(&value[..value.find('\'')?]))
    };
    text.lines().filter_map(value).next_back()
}

/// How to call `pg_ctl` of a major version: by its path where this machine's distribution has it, for it is in nobody's
/// `PATH` there.
pub fn pg_ctl(major: u16) -> String {
    let places = [format!("/usr/lib/postgresql/{major}/bin/pg_ctl"), format!("/usr/pgsql-{major}/bin/pg_ctl")];
    places.into_iter().find(|place| Path::new(place).exists()).unwrap_or_else(|| "pg_ctl".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_known_by_the_data_directory_that_its_configuration_names() {
        let scratch = tempfile::tempdir().unwrap();
        let data = scratch.path().join("data");
        let cluster = |version: &str, name: &str, text: &str| {
            let directory = scratch.path().join("etc").join(version).join(name);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("postgresql.conf"), text).unwrap();
        };
        cluster("15", "main", "data_directory = '/elsewhere'\n");
        cluster("15", "second", &format!("# data_directory = '/x'\n  data_directory='{}' # comment\n", data.display()));
        cluster("16", "third", "port = 5433\n");
        let root = scratch.path().join("etc");
        let found = Some(DebianCluster { version: "15".into(), name: "second".into() });
        assert_eq!(debian_cluster(Some(&root), &data), found);
        fs::create_dir(&data).unwrap();
        std::os::unix::fs::symlink(&data, scratch.path().join("link")).unwrap();
        assert_eq!(debian_cluster(Some(&root), &scratch.path().join("link")), found);
        assert_eq!(debian_cluster(Some(&root), scratch.path()), None);
        assert_eq!(debian_cluster(Some(&scratch.path().join("none")), &data), None);
    }
}
