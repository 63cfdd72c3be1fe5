//! A file system whose disk breaks: ext4 in a file, on a loop device, and then the file loses its end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Mounted until this is dropped.
pub struct FailingDisk {
    directory: tempfile::TempDir,
}

const SIZE: u64 = 64 << 20;

impl FailingDisk {
    /// A disk that works so far. Only root can mount, and containers may have no loop devices: elsewhere this is `None`,
    /// which is said aloud.
    pub fn mounted() -> Option<FailingDisk> {
        FailingDisk::in_directory(&std::env::temp_dir())
    }

    /// One that takes what is written, and loses it as soon as there is no room left in this directory.
    pub fn thin(directory: &Path) -> Option<FailingDisk> {
        FailingDisk::in_directory(directory)
    }

    fn in_directory(directory: &Path) -> Option<FailingDisk> {
        let is_root = rustix::process::geteuid().is_root();
        let has_tools = Command::new("mkfs.ext4").arg("-V").output().is_ok();
        if !is_root || !has_tools || !Path::new("/dev/loop-control").exists() {
            eprintln!("SKIPPED: a disk that breaks needs root, mkfs.ext4 and loop devices");
            return None;
        }
        let disk = FailingDisk { directory: tempfile::Builder::new().prefix("wd").tempdir_in(directory).unwrap() };
        fs::create_dir(disk.path()).unwrap();
        fs::File::create(disk.image()).unwrap().set_len(SIZE).unwrap();
        // A journal would end up on the missing part of the disk.
        run(Command::new("mkfs.ext4").args(["-q", "-O", "^has_journal"]).arg(disk.image()));
        run(Command::new("mount").args(["-o", "loop"]).arg(disk.image()).arg(disk.path()));
        Some(disk)
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mount")
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    /// From now on nothing of this file, which lies on the disk, can be read. Names and sizes remain known.
    pub fn break_under(&self, file: &Path) {
        let file = fs::File::open(file).unwrap();
        rustix::fs::syncfs(&file).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        fs::OpenOptions::new().write(true).open(self.image()).unwrap().set_len(0).unwrap();
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
