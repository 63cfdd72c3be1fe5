//! The stage of most tests of the command line: forged files in a data directory without a server, and the archive that
//! it pushes to and fetches from.

use std::fs;
use std::path::PathBuf;

use super::forge::{self, SYSTEM_ID, Segment};
use super::patience::wait_until;
use super::place::Place;
use super::s3::S3;
use super::walden::{Ran, Walden};

pub struct Scene {
    pub place: Place,
    pub data: tempfile::TempDir,
}

impl Scene {
    /// With the small segments of [`small`].
    pub fn new(place: Place) -> Scene {
        Scene::of(place, &small(1))
    }

    /// With segments like this one.
    pub fn of(place: Place, segment: &Segment) -> Scene {
        let data = tempfile::tempdir().unwrap();
        forge::data_directory(data.path(), segment);
        Scene { place, data }
    }

    /// One on each kind of place.
    pub fn each() -> [Scene; 2] {
        Place::each().map(Scene::new)
    }

    pub fn on_s3() -> Scene {
        Scene::new(Place::s3())
    }

    pub fn s3(&self) -> &S3 {
        self.place.service()
    }

    /// As PostgreSQL calls it: in the data directory.
    pub fn walden(&self, args: &[&str]) -> Walden {
        self.place.walden(self.data.path()).env("WALDEN_RETRY_TIMEOUT", "10s").args(args)
    }

    pub fn push(&self, name: &str) -> Ran {
        self.walden(&["wal-push", &format!("pg_wal/{name}")]).run()
    }

    pub fn fetch(&self, name: &str) -> Ran {
        self.walden(&["wal-fetch", name, "pg_wal/RECOVERYXLOG"]).run()
    }

    /// A file below `pg_wal`.
    pub fn wal(&self, name: &str) -> PathBuf {
        self.data.path().join("pg_wal").join(name)
    }

    /// What the last fetch brought, and takes it away as PostgreSQL does.
    pub fn fetched(&self) -> Option<Vec<u8>> {
        let path = self.wal("RECOVERYXLOG");
        let content = fs::read(&path).ok()?;
        fs::remove_file(path).unwrap();
        Some(content)
    }

    pub fn write(&self, segment: &Segment) -> String {
        segment.write(self.data.path());
        segment.name()
    }

    pub fn key(&self, name: &str) -> String {
        format!("{SYSTEM_ID}/wal/{}/{name}", &name[..8])
    }

    /// What the archive has under this name, opened with zstd alone, as anybody can: Walden is not its own witness.
    pub fn archived(&self, name: &str) -> Option<Vec<u8>> {
        let object = self.place.get(&self.key(name))?;
        Some(zstd::decode_all(&object[..]).unwrap_or_else(|error| panic!("{name} in the archive: {error}")))
    }

    /// The names of all WAL files that the archive lists. What a killed process leaves in a directory has no such name.
    pub fn archived_names(&self) -> Vec<String> {
        let keys = self.place.keys().into_iter().filter(|key| key.contains("/wal/"));
        let names = keys.map(|key| key.rsplit('/').next().unwrap().to_owned());
        names.filter(|name| !name.starts_with(".walden-staged-")).collect()
    }

    /// Waits for what works on in the background, such as fetching ahead.
    pub fn wait_until_nothing_runs(&self) {
        wait_until("no process is left over", || self.left_running().is_empty());
    }

    /// The processes that a walden of this scene has left running: they bear its home directory.
    pub fn left_running(&self) -> Vec<rustix::process::Pid> {
        let home = format!("HOME={}", self.data.path().display());
        let pid = |entry: fs::DirEntry| {
            let environment = fs::read(entry.path().join("environ")).ok()?;
            let ours = environment.split(|byte| *byte == 0).any(|variable| variable == home.as_bytes());
            let pid = entry.file_name().to_str()?.parse().ok().filter(|_| ours)?;
            rustix::process::Pid::from_raw(pid)
        };
        fs::read_dir("/proc").unwrap().filter_map(|entry| pid(entry.ok()?)).collect()
    }
}

/// Quick to push; the size that servers have is tested where it matters.
pub fn small(number: u64) -> Segment {
    Segment { size: 1 << 20, number, seed: number, ..Segment::default() }
}
