//! What WAL-E and WAL-G write, made by the programs that they compress with, and by libsodium's own construction: Walden's
//! code would be its own witness.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crypto_secretstream::aead::rand_core::OsRng;
use crypto_secretstream::{Key, PushStream, Tag};

/// Every codec: its extension, and the program that writes it.
pub const CODECS: [(&str, &[&str]); 9] = [
    (".lzo", &["lzop", "-c"]),
    // Another compressor of the same format, with every checksum that there is.
    (".lzo", &["lzop", "-9", "--crc32", "-C", "-c"]),
    (".lz4", &["lz4", "-q", "-c"]),
    (".zst", &["zstd", "-q", "-c"]),
    (".br", &["brotli", "-q", "2", "-c"]),
    (".lzma", &["xz", "--format=lzma", "-1", "-c"]),
    (".gz", &["gzip", "-c"]),
    ("", &["cat"]),
    // WAL-G up to 3.0.8, where it is not to compress.
    (".", &["cat"]),
];

/// The plain bytes through a program.
pub fn through(program: &[&str], plain: &[u8]) -> Vec<u8> {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program:?}: {error}: see scripts/need"));
    let (mut input, plain) = (child.stdin.take().unwrap(), plain.to_vec());
    let feeder = std::thread::spawn(move || input.write_all(&plain).unwrap());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert!(output.status.success(), "{program:?}");
    output.stdout
}

/// As WAL-G encrypts with libsodium: a header, chunks of 8192 bytes, and a last one that is shorter.
pub fn secretstream(plain: &[u8], key: [u8; 32]) -> Vec<u8> {
    let (header, mut stream) = PushStream::init(OsRng, &Key::from(key));
    let mut stored = header.as_ref().to_vec();
    let whole = plain.chunks_exact(8192);
    let rest = whole.remainder().to_vec();
    for (mut chunk, tag) in whole.map(|chunk| (chunk.to_vec(), Tag::Message)).chain([(rest, Tag::Final)]) {
        stream.push(&mut chunk, &[], tag).unwrap();
        stored.extend(chunk);
    }
    stored
}

/// A keyring of gpg's with a secret key that no passphrase protects, unless one is given.
pub struct Keyring {
    pub home: tempfile::TempDir,
}

pub const USER: &str = "walden-test@example.org";

impl Keyring {
    pub fn new(passphrase: &str) -> Keyring {
        // The path of an agent's socket must be short.
        let private = std::fs::Permissions::from_mode(0o700);
        let home = tempfile::Builder::new().prefix("wg-").permissions(private).tempdir_in("/tmp").unwrap();
        let keyring = Keyring { home };
        let made = ["--passphrase", passphrase, "--quick-generate-key", USER, "default", "default", "never"];
        keyring.gpg(&made, b"");
        keyring
    }

    pub fn encrypt(&self, plain: &[u8]) -> Vec<u8> {
        // As WAL-E calls it: what was compressed is not compressed again.
        self.gpg(&["--trust-model", "always", "-e", "-z", "0", "-r", USER], plain)
    }

    /// Armored.
    pub fn secret_key(&self, passphrase: &str) -> Vec<u8> {
        self.gpg(&["--passphrase", passphrase, "--armor", "--export-secret-keys", USER], b"")
    }

    pub fn public_key(&self) -> Vec<u8> {
        self.gpg(&["--armor", "--export", USER], b"")
    }

    fn gpg(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let home = self.home.path().to_str().unwrap();
        let how = ["gpg", "--homedir", home, "--batch", "--quiet", "--no-tty", "--pinentry-mode", "loopback"];
        through(&[&how, args].concat(), input)
    }
}

impl Drop for Keyring {
    fn drop(&mut self) {
        let home = self.home.path().to_str().unwrap();
        let _ = Command::new("gpgconf").args(["--homedir", home, "--kill", "all"]).status();
    }
}
