//! The real WAL-E, as scripts/wal-e installs it, which stores in a directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::cluster::Cluster;
use super::user::{User, reachable};

/// WAL-E, where the servers' user can run it.
pub struct WalE {
    python: PathBuf,
    root: PathBuf,
}

impl WalE {
    /// One whose archive is the directory `root`; a copy of it may lie in `scratch`.
    pub fn new(root: &Path, scratch: &Path) -> WalE {
        let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/wal-e");
        assert!(home.join("ready").exists(), "WAL-E is missing: scripts/wal-e");
        let python = reachable(&home, scratch).join("bin/python");
        WalE { python, root: root.to_path_buf() }
    }

    fn prefix(&self) -> String {
        format!("WALE_FILE_PREFIX=file://localhost{}", self.root.display())
    }

    /// What a server archives with.
    pub fn archive_command(&self) -> String {
        let python = self.python.display();
        format!("env {} WALE_LOG_DESTINATION=stderr {python} -m wal_e.cmd --terse wal-push %p", self.prefix())
    }

    /// `wal-e backup-push`; returns what it says.
    pub fn back_up(&self, cluster: &Cluster) -> String {
        let mut command = Command::new("env");
        command.args([&self.prefix(), "WALE_LOG_DESTINATION=stderr"]).arg(&self.python);
        command.args(["-m", "wal_e.cmd", "backup-push"]).arg(cluster.data());
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", cluster.socket()).env("LC_ALL", "C.UTF-8");
        command.env("PGHOST", cluster.socket()).env("PGUSER", "postgres").current_dir(cluster.socket());
        if let Some(user) = User::for_servers() {
            user.runs(&mut command);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }
}
