//! Keys for encrypted archives, made as users make them.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::user::User;
use super::walden::Walden;

/// An age identity in a file, and its public half.
#[derive(Clone, Debug)]
pub struct Identity {
    pub file: PathBuf,
    pub public: String,
}

impl Identity {
    /// Has walden make one.
    pub fn make(directory: &Path, name: &str) -> Identity {
        let file = directory.join(name);
        let ran = Walden::new(directory).args(["keygen", file.to_str().unwrap()]).run().code(0);
        give(&file);
        Identity { file, public: ran.stdout.trim_end().to_owned() }
    }

    pub fn path(&self) -> &str {
        self.file.to_str().unwrap()
    }

    /// The line of the file that is secret.
    pub fn secret(&self) -> String {
        let text = fs::read_to_string(&self.file).unwrap();
        text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap().to_owned()
    }
}

/// A file of this mode, owned by whoever has the directory.
pub fn key_file(directory: &Path, name: &str, content: &[u8], mode: u32) -> PathBuf {
    let file = directory.join(name);
    fs::write(&file, content).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    give(&file);
    file
}

/// A file belongs to whoever has the directory: the user of the servers, or whoever runs the tests.
fn give(file: &Path) {
    let owner = fs::metadata(file.parent().unwrap()).unwrap().uid();
    if let Some(user) = User::for_servers().filter(|user| user.uid() == owner) {
        user.owns(file);
    }
}

/// Does any object of the place hold these bytes, as it is or as zstd decompresses it? Returns its key.
pub fn found_in(place: &super::place::Place, marker: &[u8]) -> Option<String> {
    assert!(marker.len() >= 16);
    place.keys().into_iter().find(|key| {
        let object = place.get(key).unwrap();
        let mut plain = Vec::new();
        // What comes before an error counts too.
        let _ = zstd::Decoder::new(&object[..]).and_then(|mut decoder| decoder.read_to_end(&mut plain));
        holds(&object, marker) || holds(&plain, marker)
    })
}

pub fn holds(bytes: &[u8], marker: &[u8]) -> bool {
    let first = marker[0];
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|&byte| byte == first) {
        if rest[at..].starts_with(marker) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}
