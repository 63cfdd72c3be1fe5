//! Where a test's archive lies. The same test, with the same words, runs on every kind of place.

use std::path::{Path, PathBuf};

use super::front::Front;
use super::s3::{BUCKET, S3};
use super::user::scratch_directory;
use super::walden::Walden;

/// An empty archive, gone when this is dropped.
pub enum Place {
    Directory(tempfile::TempDir),
    S3(S3),
    /// An S3 with a scripted network before it.
    Fronted(S3, Front),
    /// A service that others look after: all that is known of it is what walden is told.
    Elsewhere(Vec<(&'static str, String)>),
}

const S3_FOLDER: &str = "some/where";

const UNSEEN: &str = "what lies at this place is seen through walden alone";

impl Place {
    pub fn directory() -> Place {
        Place::Directory(scratch_directory())
    }

    pub fn s3() -> Place {
        Place::S3(S3::start())
    }

    pub fn fronted() -> Place {
        let s3 = S3::start();
        let front = Front::start(s3.address());
        Place::Fronted(s3, front)
    }

    /// The two that every story is told on.
    pub fn each() -> [Place; 2] {
        [Place::directory(), Place::s3()]
    }

    /// The service, where there is one.
    pub fn service(&self) -> &S3 {
        match self {
            Place::S3(s3) | Place::Fronted(s3, _) => s3,
            Place::Directory(_) | Place::Elsewhere(_) => panic!("this place has no service of its own"),
        }
    }

    /// The network before the service.
    pub fn front(&self) -> &Front {
        match self {
            Place::Fronted(_, front) => front,
            _ => panic!("this place has no front"),
        }
    }

    /// The setting `prefix`.
    pub fn prefix(&self) -> String {
        match self {
            Place::Directory(directory) => format!("file://{}", directory.path().display()),
            Place::S3(_) | Place::Fronted(..) => format!("s3://{BUCKET}/{S3_FOLDER}"),
            Place::Elsewhere(env) => env.iter().find(|(name, _)| *name == "WALDEN_PREFIX").unwrap().1.clone(),
        }
    }

    /// All settings that walden needs to find the place.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        if let Place::Elsewhere(env) = self {
            return env.clone();
        }
        let mut env = vec![("WALDEN_PREFIX", self.prefix())];
        if let Place::S3(s3) | Place::Fronted(s3, _) = self {
            env.extend(s3.env());
        }
        if let Place::Fronted(_, front) = self {
            // The later one counts.
            env.push(("AWS_ENDPOINT_URL", front.endpoint()));
        }
        env
    }

    /// A walden that works on this place.
    pub fn walden(&self, directory: &Path) -> Walden {
        Walden::new(directory).envs(self.env())
    }

    /// The keys of all objects but the probe's, in order, without the prefix.
    pub fn keys(&self) -> Vec<String> {
        match self {
            Place::Directory(directory) => files_below(directory.path()),
            Place::S3(s3) | Place::Fronted(s3, _) => {
                let keys = s3.keys(S3_FOLDER);
                let keys = keys.iter().map(|key| &key[S3_FOLDER.len() + 1..]);
                keys.filter(|key| *key != "walden-probe.txt").map(str::to_owned).collect()
            }
            Place::Elsewhere(_) => panic!("{UNSEEN}"),
        }
    }

    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        match self {
            Place::Directory(directory) => std::fs::read(directory.path().join(key)).ok(),
            Place::S3(s3) | Place::Fronted(s3, _) => s3.get(&format!("{S3_FOLDER}/{key}")),
            Place::Elsewhere(_) => panic!("{UNSEEN}"),
        }
    }

    pub fn put(&self, key: &str, bytes: &[u8]) {
        match self {
            Place::Directory(directory) => {
                let path = directory.path().join(key);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
            Place::S3(s3) | Place::Fronted(s3, _) => s3.put(&format!("{S3_FOLDER}/{key}"), bytes.to_vec()),
            Place::Elsewhere(_) => panic!("{UNSEEN}"),
        }
    }

    /// The object was stored so much earlier than it was.
    pub fn age(&self, key: &str, by: std::time::Duration) {
        match self {
            Place::Directory(directory) => {
                let file = std::fs::File::options().write(true).open(directory.path().join(key)).unwrap();
                file.set_modified(file.metadata().unwrap().modified().unwrap() - by).unwrap();
            }
            Place::S3(s3) | Place::Fronted(s3, _) => s3.age(&format!("{S3_FOLDER}/{key}"), by),
            Place::Elsewhere(_) => panic!("{UNSEEN}"),
        }
    }

    /// Flips one bit of the byte at `at`.
    pub fn corrupt(&self, key: &str, at: usize) {
        let mut bytes = self.get(key).unwrap();
        bytes[at] ^= 0x10;
        self.put(key, &bytes);
    }

    pub fn remove(&self, key: &str) {
        match self {
            Place::Directory(directory) => std::fs::remove_file(directory.path().join(key)).unwrap(),
            Place::S3(s3) | Place::Fronted(s3, _) => s3.remove(&format!("{S3_FOLDER}/{key}")),
            Place::Elsewhere(_) => panic!("{UNSEEN}"),
        }
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.prefix())
    }
}

/// The files of a directory tree, as paths relative to it, in order.
pub fn files_below(directory: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut open = vec![PathBuf::from(directory)];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                files.push(entry.path().strip_prefix(directory).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}
