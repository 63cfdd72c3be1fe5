//! Who runs the servers: PostgreSQL refuses to run as root, so root's tests run it, and walden beside it, as another user.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A user and its group.
#[derive(Clone, Copy, Debug)]
pub struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// `None` if whoever runs the tests can run the servers as well.
    pub fn for_servers() -> Option<User> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
        let user = ["postgres", "nobody"].iter().find_map(|name| {
            let mut fields =
                passwd.lines().map(|line| line.split(':')).find(|line| line.clone().next() == Some(name))?;
            Some(User { uid: fields.nth(2)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        });
        Some(user.expect("root needs a user postgres or nobody to run servers as"))
    }

    pub fn uid(self) -> u32 {
        self.uid
    }

    pub fn gid(self) -> u32 {
        self.gid
    }

    pub fn owns(self, path: &Path) {
        chown(path, Some(self.uid), Some(self.gid)).unwrap();
    }

    pub fn runs(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}

/// A directory of the servers' user. Its name is short: the path of a socket in it may have 107 bytes.
pub fn scratch_directory() -> tempfile::TempDir {
    let directory = tempfile::Builder::new().prefix("wd").tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    if let Some(user) = User::for_servers() {
        user.owns(directory.path());
    }
    directory
}

/// The program or tree `path` itself, or a copy in `scratch` if the servers' user cannot reach it (the clone of a root
/// lies in a home of mode 0700).
pub fn reachable(path: &Path, scratch: &Path) -> PathBuf {
    if User::for_servers().is_none() || open_to_all(path) {
        return path.to_path_buf();
    }
    let copy = scratch.join(path.file_name().unwrap());
    if !copy.exists() {
        let copied = Command::new("cp").arg("-a").arg(path).arg(&copy).status().unwrap();
        assert!(copied.success(), "could not copy {}", path.display());
    }
    copy
}

fn open_to_all(path: &Path) -> bool {
    path.canonicalize().unwrap().ancestors().all(|ancestor| ancestor.metadata().unwrap().mode() & 0o005 == 0o005)
}
