//! The stage of most tests of the command line: forged files in a data directory, and an archive.

use std::fs;
use std::path::PathBuf;

use super::forge::{self, SYSTEM_ID, Segment};
use super::place::Place;
use super::s3::S3;
use super::walden::{Ran, Walden};

/// A data directory without a server, and the archive that it pushes to and fetches from.
pub struct Scene {
    pub place: Place,
    pub data: tempfile::TempDir,
}

impl Scene {
    pub fn new(place: Place) -> Scene {
        let data = tempfile::tempdir().unwrap();
        forge::data_directory(data.path(), &small(1));
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
        match &self.place {
            Place::S3(s3) => s3,
            Place::Directory(_) => panic!("not a scene on S3"),
        }
    }

    /// As PostgreSQL calls it: in the data directory.
    pub fn walden(&self, args: &[&str]) -> Walden {
        self.place.walden(self.data.path()).env("WALDEN_RETRY_TIMEOUT", "5s").args(args)
    }

    pub fn push(&self, name: &str) -> Ran {
        self.walden(&["wal-push", &format!("pg_wal/{name}")]).run()
    }

    pub fn fetch(&self, name: &str) -> Ran {
        self.walden(&["wal-fetch", name, "pg_wal/RECOVERYXLOG"]).run()
    }

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
}

/// Quick to push; the size that servers have is tested where it matters.
pub fn small(number: u64) -> Segment {
    Segment { size: 1 << 20, number, seed: number, ..Segment::default() }
}
