//! A file system with an end: a tmpfs of a few MiB, which can be filled up and freed again.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Mounted until this is dropped.
pub struct SmallDisk {
    mount_point: tempfile::TempDir,
}

impl SmallDisk {
    /// One of so many bytes. Only root can mount: elsewhere this is `None`, which is said aloud, and in CI a failure.
    pub fn of(bytes: u64) -> Option<SmallDisk> {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "only root can mount a small disk, and CI is to run as root");
            eprintln!("SKIPPED: only root can mount a small disk");
            return None;
        }
        let mount_point = tempfile::Builder::new().prefix("wd").tempdir().unwrap();
        let size = format!("size={bytes},mode=0777");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(mount_point.path()).output().unwrap();
        assert!(mounted.status.success(), "{mount:?}: {}", String::from_utf8_lossy(&mounted.stderr));
        Some(SmallDisk { mount_point })
    }

    pub fn path(&self) -> &Path {
        self.mount_point.path()
    }

    /// A directory on it that anybody may write to.
    pub fn directory(&self) -> tempfile::TempDir {
        let directory = tempfile::tempdir_in(self.path()).unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        directory
    }

    /// Leaves so many bytes free, or a few less.
    pub fn fill_up_to(&self, left: u64) {
        let mut ballast = fs::File::create(self.ballast()).unwrap();
        let block = [0; 4096];
        loop {
            match ballast.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
        let size = ballast.metadata().unwrap().len();
        ballast.set_len(size.saturating_sub(left)).unwrap();
    }

    /// Takes away what filled it.
    pub fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Detached even where a process that was killed still lies in it.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}
