//! What any released format holds is read forever.
//!
//! `tests/golden/N` is an archive written in format N by the first version that had it (docs/format.md), and
//! `tests/golden/N.sums` says what must come out of it: the SHA-256 of each file. Both are written once; a test that no
//! longer passes has found a reader that forgot something.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use support::keys::key_file;
use support::place::files_below;
use support::user::{User, reachable, scratch_directory};
use support::walden::{Walden, program};

/// Made by the restore itself: they say where and when, not what was stored.
const MADE_HERE: [&str; 4] = ["backup_manifest", "postgresql.auto.conf", "recovery.signal", "tablespace_map"];

/// A copy of a golden archive, and what is needed to read it.
struct Golden {
    scratch: tempfile::TempDir,
    program: PathBuf,
    sums: String,
}

impl Golden {
    fn open(format: &str) -> Golden {
        let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let scratch = scratch_directory();
        let copied = Command::new("cp").arg("-r").arg(home.join(format)).arg(scratch.path().join("archive")).status();
        assert!(copied.unwrap().success());
        let program = reachable(program(), scratch.path());
        let sums = std::fs::read_to_string(home.join(format!("{format}.sums"))).unwrap();
        Golden { scratch, program, sums }
    }

    fn walden(&self, args: &[&str]) -> Walden {
        self.owner_s_walden(args).user(User::for_servers())
    }

    /// One that may write to the copy.
    fn owner_s_walden(&self, args: &[&str]) -> Walden {
        let prefix = format!("file://{}", self.scratch.path().join("archive").display());
        Walden::at(&self.program, self.scratch.path()).env("WALDEN_PREFIX", prefix).args(args)
    }

    fn place(&self, name: &str) -> String {
        self.scratch.path().join(name).to_str().unwrap().to_owned()
    }
}

/// One line a file, as sha256sum writes them.
fn sum(content: &[u8], name: &str) -> String {
    let mut line = String::new();
    Sha256::digest(content).iter().for_each(|byte| write!(line, "{byte:02x}").unwrap());
    writeln!(line, "  {name}").unwrap();
    line
}

#[test]
fn everything_in_an_archive_of_format_1_comes_out_as_it_went_in() {
    let golden = Golden::open("1");
    let listed = golden.walden(&["backup-list", "--json"]).run().code(0).json();
    assert_eq!(listed[0]["id"], "20261121T043651Z-00000001000000000000000E");
    assert_eq!(listed[0]["state"], "complete");
    let mut sums = String::new();

    for key in files_below(&golden.scratch.path().join("archive")).iter().filter(|key| key.contains("/wal/")) {
        let name = key.rsplit('/').next().unwrap();
        golden.walden(&["wal-fetch", name, "fetched"]).run().code(0);
        sums += &sum(&std::fs::read(golden.place("fetched")).unwrap(), name);
    }
    let (data, side) = (golden.place("data"), golden.place("side"));
    let mapping = format!("/tmp/golden/ts={side}");
    golden.walden(&["backup-fetch", &data, "--tablespace-mapping", &mapping]).run().code(0);
    for root in [&data, &side] {
        for path in files_below(Path::new(root)).iter().filter(|path| !MADE_HERE.contains(&path.as_str())) {
            // The link to the tablespace.
            let Ok(content) = std::fs::read(Path::new(root).join(path)) else { continue };
            sums += &sum(&content, path);
        }
    }
    assert!(sums == golden.sums, "{sums}");
}

/// Format 2 is that of what is encrypted. `2.identity` opens it: a key that protects nothing else. Its first segment was
/// stored before encryption began.
#[test]
fn everything_in_an_encrypted_archive_of_format_2_comes_out_as_it_went_in() {
    let golden = Golden::open("2");
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let identity = std::fs::read(home.join("2.identity")).unwrap();
    let identity = key_file(golden.scratch.path(), "identity", &identity, 0o600);
    let walden = |args: &[&str]| golden.walden(args).env("WALDEN_IDENTITY_FILE", &identity);
    let listed = walden(&["backup-list", "--json"]).run().code(0).json();
    assert_eq!(listed[0]["id"], "20261126T080913Z-00000001000000000000000D");
    assert_eq!(walden(&["keys", "--json"]).run().code(0).json()[0]["holders"].as_array().unwrap().len(), 2);
    let data = golden.place("data");
    golden.walden(&["backup-fetch", &data]).run().code(3).stderr_has("no key to decrypt with");
    let mut sums = String::new();
    for key in files_below(&golden.scratch.path().join("archive")).iter().filter(|key| key.contains("/wal/")) {
        let name = key.rsplit('/').next().unwrap();
        walden(&["wal-fetch", name, "fetched"]).run().code(0);
        sums += &sum(&std::fs::read(golden.place("fetched")).unwrap(), name);
    }
    walden(&["backup-fetch", &data]).run().code(0);
    for path in files_below(Path::new(&data)).iter().filter(|path| !MADE_HERE.contains(&path.as_str())) {
        sums += &sum(&std::fs::read(Path::new(&data).join(path)).unwrap(), path);
    }
    assert!(sums == golden.sums, "{sums}");
}

/// `1.marked.json` is the short manifest of the same backup, as the first version that had marks wrote it with all of them.
#[test]
fn marks_on_a_backup_of_format_1_are_read_and_taken_away_again_without_a_trace() {
    let golden = Golden::open("1");
    let archive = golden.scratch.path().join("archive");
    let key = files_below(&archive).into_iter().find(|key| key.ends_with("/backup.json")).unwrap();
    let manifest = archive.join(key);
    let before = std::fs::read(&manifest).unwrap();
    let marked = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/1.marked.json");

    let set = ["backup-mark", "LATEST", "--label", "before the upgrade", "--note", "ticket=OPS-1", "--keep"];
    golden.owner_s_walden(&set).run().code(0);
    assert!(std::fs::read(&manifest).unwrap() == std::fs::read(&marked).unwrap());
    let shown = golden.walden(&["backup-show", "LATEST", "--json"]).run().code(0).json();
    assert_eq!(shown["label"], "before the upgrade");
    assert_eq!(shown["notes"], serde_json::json!({ "ticket": "OPS-1" }));
    assert_eq!(shown["keep"], true);
    let unset = ["backup-mark", "LATEST", "--label", "", "--note", "ticket=", "--no-keep"];
    golden.owner_s_walden(&unset).run().code(0);
    assert!(std::fs::read(&manifest).unwrap() == before);
}
