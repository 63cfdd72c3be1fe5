//! Base backups of WAL-E and WAL-G as the program lists, restores and refuses them, on forged archives: every codec, every
//! form of a sentinel, deltas on deltas, and whatever can be wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::forge::SYSTEM_ID;
use support::legacy::{CODECS, Keyring, through};
use support::place::{Place, files_below};
use support::scene::small;
use support::user::{User, reachable, scratch_directory};
use support::walden::{Ran, Walden, program};
use support::walg::{Forged, Form, Has, WalG, append, control, increment};

const PAGE: usize = 8192;
const PLAIN: usize = 7;

/// A directory with an archive, and one to restore into.
struct Stage {
    theirs: Place,
    scratch: tempfile::TempDir,
    walden: PathBuf,
}

impl Stage {
    fn new() -> Stage {
        let scratch = scratch_directory();
        let walden = reachable(program(), scratch.path());
        Stage { theirs: Place::directory(), scratch, walden }
    }

    fn root(&self) -> &Path {
        match &self.theirs {
            Place::Directory(directory) => directory.path(),
            _ => unreachable!(),
        }
    }

    fn walg(&self, codec: usize, form: Form) -> WalG {
        WalG { root: self.root().to_path_buf(), codec: CODECS[codec], form, key: None }
    }

    /// A walden for which theirs lies under the prefix of ours.
    fn walden(&self, args: &[&str]) -> Walden {
        let walden = Walden::at(&self.walden, self.scratch.path()).user(User::for_servers());
        walden.env("WALDEN_PREFIX", self.theirs.prefix()).args(args)
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    fn restore(&self, words: &[&str]) -> Ran {
        self.walden(&[&["backup-fetch", self.data().to_str().unwrap()], words].concat()).run()
    }

    /// What was restored, but for what the restore itself has added.
    fn restored(&self) -> BTreeMap<String, Vec<u8>> {
        let added = ["postgresql.auto.conf", "recovery.signal"];
        let names = files_below(&self.data()).into_iter().filter(|name| !added.contains(&name.as_str()));
        names.map(|name| (name.clone(), fs::read(self.data().join(&name)).unwrap())).collect()
    }

    fn clear(&self) {
        if self.data().exists() {
            fs::remove_dir_all(self.data()).unwrap();
        }
    }

    fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        files_below(self.root()).into_iter().map(|key| (key.clone(), self.theirs.get(&key).unwrap())).collect()
    }
}

/// A page with this LSN, filled with a byte, whose checksum nobody has computed.
fn page(lsn: u64, fill: u8) -> Vec<u8> {
    let mut page = vec![fill; PAGE];
    page[..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
    page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
    page[14..16].copy_from_slice(&8192u16.to_le_bytes());
    page
}

fn pages(pages: &[(u64, u8)]) -> Vec<u8> {
    pages.iter().flat_map(|(lsn, fill)| page(*lsn, *fill)).collect()
}

/// A full backup and two deltas, and the files that the newest one has.
fn chain() -> (Vec<Forged>, BTreeMap<String, Vec<u8>>) {
    chain_named(false)
}

fn chain_named(names_all: bool) -> (Vec<Forged>, BTreeMap<String, Vec<u8>>) {
    let lsn = |number: u64| (number << 20) + 0x1000;
    let once = pages(&[(lsn(2), 1), (lsn(2), 2), (lsn(2), 3)]);
    // One page changes and one is added; then the file becomes shorter, and a page changes again.
    let twice = pages(&[(lsn(2), 1), (lsn(4), 20), (lsn(2), 3), (lsn(4), 40)]);
    let thrice = pages(&[(lsn(6), 10), (lsn(4), 20)]);
    let later = pages(&[(lsn(4), 7)]);
    let whole = |text: &str| Has::Whole(text.as_bytes().to_vec());
    let full = Forged {
        number: 2,
        from: None,
        names_all,
        files: vec![
            ("/PG_VERSION", whole("15\n")),
            ("/base/5/16384", Has::Whole(once)),
            ("/base/5/16385", Has::Whole(pages(&[(lsn(2), 5)]))),
            ("/base/5/16386", Has::Whole(pages(&[(lsn(2), 6)]))),
            ("/base/5/16389", Has::Whole(Vec::new())),
            ("/postgresql.conf", whole("first")),
            ("/pg_hba.conf", whole("all")),
        ],
    };
    let delta = Forged {
        number: 4,
        from: Some((2, full.name())),
        names_all,
        files: vec![
            ("/PG_VERSION", Has::Same),
            ("/base/5/16384", Has::Pages(increment(&twice, full.start()))),
            ("/base/5/16385", Has::Same),
            ("/base/5/16387", Has::Whole(later.clone())),
            ("/base/5/16389", Has::Same),
            ("/postgresql.conf", whole("second")),
            ("/pg_hba.conf", Has::Same),
        ],
    };
    let deeper = Forged {
        number: 6,
        from: Some((4, delta.name())),
        names_all,
        files: vec![
            ("/PG_VERSION", Has::Same),
            ("/base/5/16384", Has::Pages(increment(&thrice, delta.start()))),
            ("/base/5/16385", Has::Whole(pages(&[(lsn(6), 55)]))),
            ("/base/5/16387", Has::Same),
            ("/base/5/16389", Has::Same),
            ("/postgresql.conf", Has::Same),
            ("/pg_hba.conf", whole("nobody")),
        ],
    };
    let expected = BTreeMap::from([
        ("PG_VERSION".to_owned(), b"15\n".to_vec()),
        ("backup_label".to_owned(), deeper.label().into_bytes()),
        ("base/5/16384".to_owned(), thrice),
        ("base/5/16385".to_owned(), pages(&[(lsn(6), 55)])),
        ("base/5/16387".to_owned(), later),
        ("base/5/16389".to_owned(), Vec::new()),
        ("global/pg_control".to_owned(), control(SYSTEM_ID)),
        ("pg_hba.conf".to_owned(), b"nobody".to_vec()),
        ("postgresql.conf".to_owned(), b"second".to_vec()),
        ("tablespace_map".to_owned(), Vec::new()),
    ]);
    (vec![full, delta, deeper], expected)
}

/// Whatever has failed, no server starts on what is there.
#[track_caller]
fn no_server_starts(stage: &Stage) {
    assert!(!stage.data().join("global/pg_control").exists());
}

#[test]
fn a_chain_comes_to_the_same_files_in_every_codec_and_with_every_form_of_its_lists() {
    let (backups, expected) = chain();
    for (codec, form) in (0..CODECS.len()).zip([Form::Second, Form::First, Form::Inline].into_iter().cycle()) {
        println!("-- {:?} and {form:?}", CODECS[codec]);
        let stage = Stage::new();
        backups.iter().for_each(|backup| stage.walg(codec, form).forge(backup));
        let before = stage.objects();
        let shown = stage.restore(&["LATEST", "--json"]).code(0).json();
        assert_eq!(shown["backup"], backups[2].name());
        assert_eq!((shown["written_by"].as_str(), shown["restored"]["files"].as_u64()), (Some("WAL-G"), Some(10)));
        assert_eq!(stage.restored(), expected);
        assert_eq!(stage.objects(), before);
    }
}

#[test]
fn a_chain_of_wal_rus_is_restored_by_its_own_names() {
    let (backups, mut expected) = chain_named(true);
    let stage = Stage::new();
    backups.iter().for_each(|backup| stage.walg(2, Form::Rus).forge(backup));
    expected.insert("backup_label".to_owned(), backups[2].label().into_bytes());
    let name = backups[2].name();
    assert_eq!(name.matches("_D_").count(), 2);
    let listed = stage.walden(&["backup-list", "--json"]).run().code(0).json();
    assert_eq!(listed.as_array().unwrap().last().unwrap()["id"], name);
    stage.restore(&["LATEST"]).code(0);
    assert_eq!(stage.restored(), expected);
    stage.clear();
    // It has another form of increments as well, which is PostgreSQL's own.
    let sentinel = format!("basebackups_005/{name}_backup_stop_sentinel.json");
    change_json(&stage, &sentinel, |value| value["IncrementFormat"] = "native".into());
    stage.restore(&[&name]).code(8).stderr_has("is a delta in the form \"native\"");
    assert!(!stage.data().exists());
}

#[test]
fn what_an_attempt_of_the_same_name_has_left_is_no_part_of_a_backup() {
    let (backups, expected) = chain();
    let stage = Stage::new();
    backups.iter().for_each(|backup| stage.walg(PLAIN, Form::Second).forge(backup));
    let left = part(&stage, 2, "part_001.tar").replace("part_001", "part_099");
    stage.theirs.put(&left, &stage.theirs.get(&part(&stage, 2, "part_001.tar")).unwrap());
    stage.restore(&["LATEST"]).code(0);
    assert_eq!(stage.restored(), expected);
}

#[test]
fn what_a_chain_was_deleted_of_stays_in_the_older_backups_and_each_codec_may_be_another() {
    let (backups, _) = chain();
    let stage = Stage::new();
    stage.walg(2, Form::Inline).forge(&backups[0]);
    stage.walg(0, Form::First).forge(&backups[1]);
    stage.walg(3, Form::First).wal(3);
    stage.restore(&[&backups[0].name()]).code(0);
    let files = stage.restored();
    assert!(files.contains_key("base/5/16386") && !files.contains_key("base/5/16387"));
    stage.clear();
    stage.restore(&[&backups[1].name()]).code(0);
    let files = stage.restored();
    assert!(!files.contains_key("base/5/16386") && files.contains_key("base/5/16387"));
    assert_eq!(files["base/5/16384"].len(), 4 * PAGE);
}

/// What is done to an archive, the words of the refusal, its code, and whether it is known before the first byte.
type Damage = (&'static str, fn(&Stage), i32, &'static str, bool);

/// The key of an archive of a backup, which is there.
fn part(stage: &Stage, backup: usize, name: &str) -> String {
    let name = format!("basebackups_005/{}/tar_partitions/{name}", chain().0[backup].name());
    assert!(stage.theirs.get(&name).is_some(), "{name}");
    name
}

/// The archive of a backup that holds these bytes.
fn part_with(stage: &Stage, backup: usize, path: &str) -> String {
    let prefix = format!("basebackups_005/{}/tar_partitions/", chain().0[backup].name());
    let holds = |key: &String| {
        let content = stage.theirs.get(key).unwrap();
        key.starts_with(&prefix) && content.windows(path.len()).any(|window| window == path.as_bytes())
    };
    files_below(stage.root()).into_iter().find(holds).unwrap()
}

fn remove(stage: &Stage, key: &str) {
    fs::remove_file(stage.root().join(key)).unwrap();
}

/// Another archive in place of one, with this member added before what is there.
fn with_member(stage: &Stage, path: &str, kind: tar::EntryType, content: &[u8]) {
    let key = part(stage, 2, "part_001.tar");
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, path, 0o600, kind, content);
    // What is appended to an archive is read on, its end is not.
    let member = tar.into_inner().unwrap();
    let member = &member[..member.len() - 1024];
    stage.theirs.put(&key, &[member, &stage.theirs.get(&key).unwrap()].concat());
}

fn change_json(stage: &Stage, key: &str, change: impl Fn(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&stage.theirs.get(key).unwrap()).unwrap();
    change(&mut value);
    stage.theirs.put(key, value.to_string().as_bytes());
}

fn list_of(backup: usize) -> String {
    format!("basebackups_005/{}/files_metadata.json", chain().0[backup].name())
}

fn sentinel_of(backup: usize) -> String {
    format!("basebackups_005/{}_backup_stop_sentinel.json", chain().0[backup].name())
}

const DAMAGES: &[Damage] = &[
    (
        "a cut archive",
        |stage| {
            let key = part_with(stage, 2, "/base/5/16385");
            let bytes = stage.theirs.get(&key).unwrap();
            stage.theirs.put(&key, &bytes[..bytes.len() / 2]);
        },
        7,
        "it ends within \"base/5/16385\"",
        false,
    ),
    (
        "an archive of zeros",
        |stage| {
            let key = part_with(stage, 2, "/base/5/16385");
            stage.theirs.put(&key, &[0; 4096]);
        },
        7,
        "lacks files that its list has",
        false,
    ),
    (
        "an archive that is none",
        |stage| {
            stage.theirs.put(&part(stage, 2, "part_001.tar"), &[7; 4096]);
        },
        7,
        "not a whole tar archive",
        false,
    ),
    (
        "an archive that is missing",
        |stage| remove(stage, &part(stage, 2, "part_001.tar")),
        9,
        "lacks its archive part_001.tar",
        true,
    ),
    (
        "an archive of the full backup that is missing",
        |stage| {
            remove(stage, &part_with(stage, 0, "/base/5/16384"));
        },
        9,
        "lacks its archive",
        true,
    ),
    (
        "a sentinel without archives",
        |stage| {
            fs::remove_dir_all(stage.root().join(format!("basebackups_005/{}/tar_partitions", chain().0[2].name())))
                .unwrap();
        },
        9,
        "lacks its archive",
        true,
    ),
    (
        "no pg_control",
        |stage| remove(stage, &part(stage, 2, "pg_control.tar")),
        9,
        "lacks its archive pg_control.tar",
        true,
    ),
    (
        "a delta without its base",
        |stage| remove(stage, &sentinel_of(0)),
        9,
        "is a delta of one that is not there",
        true,
    ),
    (
        "a delta of another base",
        |stage| {
            change_json(stage, &sentinel_of(1), |value| value["DeltaLSN"] = 0x0200_0999.into());
        },
        7,
        "is no delta of backup",
        true,
    ),
    (
        "a base without a file that is incremented",
        |stage| {
            change_json(stage, &list_of(0), |value| {
                drop(value["Files"].as_object_mut().unwrap().remove("/base/5/16384"))
            });
        },
        7,
        "lacks files that a later one goes by",
        true,
    ),
    (
        "a list that names what is nowhere",
        |stage| {
            change_json(stage, &list_of(2), |value| {
                value["Files"]["/base/5/99999"] = json!({ "IsIncremented": false })
            });
        },
        7,
        "1 are in none of its archives: base/5/99999",
        false,
    ),
    ("no list", |stage| remove(stage, &list_of(2)), 9, "lacks its list of files", true),
    (
        "a list that is cut",
        |stage| {
            let bytes = stage.theirs.get(&list_of(1)).unwrap();
            stage.theirs.put(&list_of(1), &bytes[..bytes.len() / 2]);
        },
        7,
        "not the JSON that is expected",
        true,
    ),
    (
        "an increment with another magic",
        |stage| {
            let key = part_with(stage, 2, "wi1\x55");
            let mut bytes = stage.theirs.get(&key).unwrap();
            let at = bytes.windows(4).position(|window| window == b"wi1\x55").unwrap();
            bytes[at + 2] = b'2';
            stage.theirs.put(&key, &bytes);
        },
        7,
        "77 69 32 55",
        false,
    ),
    (
        "a path that leads out",
        |stage| {
            with_member(stage, "/base/../../../evil", tar::EntryType::Regular, b"evil");
        },
        7,
        "it leads out of it",
        false,
    ),
    (
        "a hard link",
        |stage| {
            change_json(stage, &list_of(2), |value| value["Files"]["/base/5/link"] = json!({}));
            with_member(stage, "/base/5/link", tar::EntryType::Link, b"");
        },
        7,
        "something that no data directory has",
        false,
    ),
    (
        "a file twice",
        |stage| {
            with_member(stage, "/base/5/16385", tar::EntryType::Regular, b"other");
        },
        7,
        "the backup has it twice",
        false,
    ),
    (
        "the control file of another cluster",
        |stage| {
            let mut tar = tar::Builder::new(Vec::new());
            append(&mut tar, "/global/pg_control", 0o600, tar::EntryType::Regular, &control(7));
            stage.theirs.put(&part(stage, 2, "pg_control.tar"), &tar.into_inner().unwrap());
        },
        8,
        "is that of another cluster",
        false,
    ),
    (
        "a control file that is damaged",
        |stage| {
            let mut bytes = control(SYSTEM_ID);
            bytes[100] ^= 1;
            let mut tar = tar::Builder::new(Vec::new());
            append(&mut tar, "/global/pg_control", 0o600, tar::EntryType::Regular, &bytes);
            stage.theirs.put(&part(stage, 2, "pg_control.tar"), &tar.into_inner().unwrap());
        },
        7,
        "global/pg_control is damaged",
        false,
    ),
    (
        "no backup_label",
        |stage| {
            remove(stage, &part(stage, 2, "backup_label.tar"));
            change_json(stage, &list_of(2), |value| {
                drop(value["TarFileSets"].as_object_mut().unwrap().remove("backup_label.tar"))
            });
        },
        9,
        "has no backup_label",
        false,
    ),
    (
        "the backup_label of another",
        |stage| {
            let key = part(stage, 1, "backup_label.tar");
            stage.theirs.put(&part(stage, 2, "backup_label.tar"), &stage.theirs.get(&key).unwrap());
        },
        7,
        "contradicts itself",
        false,
    ),
    (
        "a sentinel of another cluster",
        |stage| {
            change_json(stage, &sentinel_of(2), |value| value["SystemIdentifier"] = 7.into());
        },
        8,
        "contradicts its WAL",
        true,
    ),
    (
        "an older version of PostgreSQL",
        |stage| {
            change_json(stage, &sentinel_of(2), |value| value["PgVersion"] = 120_007.into());
        },
        8,
        "is of PostgreSQL 12",
        true,
    ),
    (
        "no WAL",
        |stage| {
            remove(stage, &format!("wal_005/{}", small(6).name()));
        },
        9,
        "lacks WAL that it needs",
        true,
    ),
    ("a gap", |stage| stage.walg(PLAIN, Form::Second).wal(8), 9, "has a gap after the backup", true),
];

#[test]
fn whatever_is_wrong_has_its_own_refusal_and_nothing_is_left_that_could_start() {
    let (backups, _) = chain();
    let name = backups[2].name();
    for (what, damage, code, words, is_known_before) in DAMAGES {
        println!("-- {what}");
        let stage = Stage::new();
        backups.iter().for_each(|backup| stage.walg(PLAIN, Form::Second).forge(backup));
        damage(&stage);
        stage.restore(&[&name]).code(*code).stderr_has(words).stderr_has("HINT");
        no_server_starts(&stage);
        assert_eq!(stage.data().exists(), !is_known_before, "{what}");
        assert!(!stage.scratch.path().join("evil").exists() && !Path::new("/evil").exists());
        stage.restore(&[&name, "--dry-run"]).code(if *is_known_before { *code } else { 0 });
    }
}

#[test]
fn the_same_command_completes_what_a_damaged_archive_has_interrupted() {
    let (backups, expected) = chain();
    let stage = Stage::new();
    backups.iter().for_each(|backup| stage.walg(PLAIN, Form::First).forge(backup));
    let key = part_with(&stage, 2, "/base/5/16385");
    let whole = stage.theirs.get(&key).unwrap();
    stage.theirs.put(&key, &whole[..600]);
    stage.restore(&["LATEST"]).code(7);
    no_server_starts(&stage);
    stage.theirs.put(&key, &whole);
    stage.restore(&["LATEST"]).code(0);
    assert_eq!(stage.restored(), expected);
    stage.restore(&["LATEST"]).code(8).stderr_has("is not empty");
}

#[test]
fn backups_are_listed_shown_and_never_changed() {
    let (backups, _) = chain();
    let stage = Stage::new();
    backups.iter().for_each(|backup| stage.walg(2, Form::Second).forge(backup));
    stage.theirs.put("basebackups_005/base_000000010000000000000009_backup_stop_sentinel.json", b"{}");
    stage.theirs.put("basebackups_005/base_00000001000000000000000A/tar_partitions/part_001.tar.lz4", b"x");
    let wal_e = json!({ "wal_segment_backup_stop": "000000010000000000000007", "expanded_size_bytes": 5,
        "wal_segment_offset_backup_stop": "00000368", "spec": { "base_prefix": "/d/", "tablespaces": [] } });
    let wal_e_name = "base_000000010000000000000007_00000040";
    stage.theirs.put(&format!("basebackups_005/{wal_e_name}_backup_stop_sentinel.json"), wal_e.to_string().as_bytes());
    stage.theirs.put(&format!("basebackups_005/{wal_e_name}/extended_version.txt"), b"PostgreSQL 15.3 on x86_64");
    let before = stage.objects();
    let list = stage.walden(&["backup-list"]).run().code(0);
    for words in [
        "complete, of WAL-G ",
        "complete, of WAL-G delta",
        "complete, of WAL-E",
        "incomplete, of WAL-G",
        "damaged, of WAL-G",
        &format!("{} ", backups[2].name()),
    ] {
        list.clone().stdout_has(words);
    }
    let listed = stage.walden(&["backup-list", "--json"]).run().code(0).json();
    let of = |name: &str| listed.as_array().unwrap().iter().find(|one| one["id"] == name).unwrap().clone();
    let delta = of(&backups[1].name());
    assert_eq!((&delta["written_by"], &delta["state"]), (&json!("WAL-G"), &json!("complete")));
    assert_eq!((&delta["delta_of"], &delta["postgres"]), (&json!(backups[0].name()), &json!(15)));
    assert_eq!((&delta["start"], &delta["finished_is_exact"]), (&json!("0/400028"), &json!(true)));
    assert_eq!(delta["system_id"], SYSTEM_ID.to_string());
    let old = of(wal_e_name);
    assert_eq!((&old["written_by"], &old["postgres"], &old["system_id"]), (&json!("WAL-E"), &json!(15), &Value::Null));
    assert_eq!(of("base_000000010000000000000009")["state"], "damaged");
    assert_eq!(of("base_00000001000000000000000A")["state"], "incomplete");
    stage.walden(&["backup-show", wal_e_name]).run().code(0).stdout_has("byte 40 of segment 000000010000000000000007");
    stage
        .walden(&["backup-show", &backups[1].name()])
        .run()
        .code(0)
        .stdout_has(&format!("delta of      {}", backups[0].name()));
    stage.walden(&["backup-show", "base_0000000100000000000000FF"]).run().code(1);
    for words in [
        &["backup-cat", wal_e_name, "PG_VERSION"][..],
        &["backup-mark", wal_e_name, "--keep"],
        &["backup-show", wal_e_name, "--files"],
        &["delete", "backup", wal_e_name, "--confirm"],
        &["delete", "before", wal_e_name, "--confirm"],
    ] {
        stage.walden(words).run().code(8).stderr_has("is not one of walden's").stderr_has("WAL-E");
    }
    assert_eq!(stage.objects(), before);
    // Ours lies under the same prefix, and goes alone.
    support::archive::Forged::new(SYSTEM_ID, 20, 480).store(&stage.theirs);
    support::archive::store_wal(&stage.theirs, SYSTEM_ID, 1, 1..=25);
    for words in [&["delete", "garbage", "--confirm"][..], &["delete", "everything", "--even-the-last", "--confirm"]] {
        // Whoever runs the tests owns what they have stored.
        let walden = Walden::at(&stage.walden, stage.scratch.path()).env("WALDEN_PREFIX", stage.theirs.prefix());
        walden.args(words).run().code(0);
    }
    let is_theirs = |key: &String| key.starts_with("wal_005/") || key.starts_with("basebackups_005/");
    let (left, ours): (BTreeMap<_, _>, BTreeMap<_, _>) =
        stage.objects().into_iter().partition(|(key, _)| is_theirs(key));
    assert_eq!(left, before);
    assert!(!ours.keys().any(|key| key.contains("/wal/") || key.contains("/backup/")), "{:?}", ours.keys());
}

#[test]
fn what_needs_a_manifest_and_what_cannot_be_proved_is_refused() {
    let (backups, _) = chain();
    let stage = Stage::new();
    backups.iter().for_each(|backup| stage.walg(PLAIN, Form::Second).forge(backup));
    let name = backups[2].name();
    stage.restore(&[&name, "--delta"]).code(8).stderr_has("cannot be restored with --delta");
    stage.restore(&[&name, "--only-database", "x"]).code(8).stderr_has("--only-database");
    stage.restore(&[&name, "--system-id", "7"]).code(8).stderr_has("is that of another cluster");
    stage.restore(&["base_0000000100000000000000FF"]).code(1).stderr_has("there is no complete backup");
    let data = stage.data();
    // Ours lies elsewhere, and is not there: a recovery could not tell the end of the WAL from a mistake.
    let elsewhere = Place::directory();
    let apart = |words: &[&str]| {
        let walden = stage.walden(&[&["backup-fetch", data.to_str().unwrap()], words].concat());
        walden.env("WALDEN_PREFIX", elsewhere.prefix()).env("WALDEN_LEGACY_PREFIX", stage.theirs.prefix()).run()
    };
    apart(&[&name]).code(3).stderr_has("mistyped prefix").stderr_has("--prefix file://");
    assert!(!data.exists());
    // A target before it ended is for an older one, and one in its WAL for itself.
    let at = |number: u64| format!("0/{:X}", (number << 20) + 0x200);
    let chosen =
        |lsn: &str| stage.restore(&["--target-lsn", lsn, "--dry-run", "--json"]).code(0).json()["backup"].clone();
    stage.walg(PLAIN, Form::Second).wal(5);
    assert_eq!(chosen(&at(6)), name);
    assert_eq!(chosen(&at(5)), backups[1].name());
    // LATEST passes over one of another cluster, and one whose WAL is gone.
    let wal_e = json!({ "wal_segment_backup_stop": "000000010000000000000009", "expanded_size_bytes": 5,
        "wal_segment_offset_backup_stop": "00000368" });
    let sentinel = "basebackups_005/base_000000010000000000000009_00000040_backup_stop_sentinel.json";
    stage.theirs.put(sentinel, wal_e.to_string().as_bytes());
    let latest = stage.restore(&["LATEST", "--dry-run", "--json"]).code(0).stderr_has("is passed over");
    assert_eq!(latest.json()["backup"], name);
    remove(&stage, sentinel);
    stage.restore(&["--target-lsn", "0/200030"]).code(8).stderr_has("no backup leads to the target");
    stage.restore(&[&name, "--target-lsn", &at(5)]).code(8).stderr_has("does not lead to the target");
}

/// WAL-E's archives as Python writes them, and what a server sends: long names in either way, and no end.
#[test]
fn tar_archives_are_read_as_each_of_them_writes_them() {
    let stage = Stage::new();
    let walg = stage.walg(0, Form::Second);
    let name = "base_000000010000000000000002_00000040";
    let long = format!("base/5/{}", "long".repeat(40));
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "/", 0o750, tar::EntryType::Directory, b"");
    append(&mut tar, "pg_wal", 0o700, tar::EntryType::Symlink, b"");
    append(&mut tar, "postgresql.conf", 0o700, tar::EntryType::Symlink, b"");
    append(&mut tar, "PG_VERSION", 0o640, tar::EntryType::Regular, b"15\n");
    append(&mut tar, "recovery.conf", 0o640, tar::EntryType::Regular, b"");
    append(&mut tar, "standby.signal", 0o640, tar::EntryType::Regular, b"");
    append(&mut tar, "postmaster.pid", 0o640, tar::EntryType::Regular, b"1");
    append(&mut tar, "global/pg_control", 0o640, tar::EntryType::Regular, &control(SYSTEM_ID));
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o640);
    header.set_size(3);
    tar.append_data(&mut header, format!("{long}_gnu"), &b"gnu"[..]).unwrap();
    tar.append_pax_extensions([("path", format!("{long}_pax").as_bytes())]).unwrap();
    append(&mut tar, "short", 0o640, tar::EntryType::Regular, b"pax");
    let label = Forged { number: 2, from: None, names_all: false, files: Vec::new() }.label();
    append(&mut tar, "backup_label", 0o640, tar::EntryType::Regular, label.as_bytes());
    // Filled up as Python does, to 20 blocks.
    let mut tar = tar.into_inner().unwrap();
    tar.resize(tar.len().next_multiple_of(10_240), 0);
    let size = 3 + 1 + 8192 + 6 + label.len();
    walg.store(
        &format!("basebackups_005/{name}/tar_partitions/part_00000000.tar.lzo"),
        &through(&["lzop", "-c"], &tar),
    );
    let sentinel = |expanded: usize| {
        let sentinel = json!({ "wal_segment_backup_stop": "000000010000000000000002", "expanded_size_bytes": expanded,
            "wal_segment_offset_backup_stop": "00000368", "spec": { "base_prefix": "/d/", "tablespaces": [] } });
        walg.store(&format!("basebackups_005/{name}_backup_stop_sentinel.json"), sentinel.to_string().as_bytes());
    };
    walg.wal(2);
    sentinel(size);
    let shown = stage.restore(&[name, "--json"]).code(0).stderr_has("\"postgresql.conf\" is left out").json();
    assert_eq!(shown["missing_configuration"], json!(["postgresql.conf", "pg_hba.conf"]));
    let files = stage.restored();
    let mut names: Vec<&str> = files.keys().map(String::as_str).collect();
    names.sort_unstable();
    let (gnu, pax) = (format!("{long}_gnu"), format!("{long}_pax"));
    assert_eq!(names, ["PG_VERSION", "backup_label", &gnu, &pax, "global/pg_control"]);
    assert_eq!((&files[&gnu][..], &files[&pax][..]), (&b"gnu"[..], &b"pax"[..]));
    let mode =
        |path: &str| std::os::unix::fs::MetadataExt::mode(&fs::metadata(stage.data().join(path)).unwrap()) & 0o777;
    assert_eq!((mode(""), mode("PG_VERSION"), mode("recovery.signal"), mode("pg_wal")), (0o750, 0o640, 0o640, 0o700));
    // Files that were deleted in time are told; less than nothing is not.
    stage.clear();
    sentinel(size + 5);
    let remarks = stage.restore(&[name, "--json"]).code(0).json()["remarks"].to_string();
    assert!(remarks.contains("files of 5 bytes were deleted"), "{remarks}");
    stage.clear();
    sentinel(size - 1);
    stage.restore(&[name]).code(9).stderr_has("may be missing");
    no_server_starts(&stage);
    stage.clear();
    sentinel(2_000_000_000);
    stage.restore(&[name]).code(9).stderr_has("the last archive that is there was full");
}

#[test]
fn what_a_server_has_sent_to_wal_g_ends_without_an_end_and_has_its_control_file_twice() {
    let stage = Stage::new();
    let walg = stage.walg(2, Form::Second);
    let backup = Forged { number: 2, from: None, names_all: false, files: vec![] };
    walg.forge(&backup);
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "backup_label", 0o600, tar::EntryType::Regular, backup.label().as_bytes());
    append(&mut tar, "./base/5", 0o700, tar::EntryType::Directory, b"");
    append(&mut tar, "global/pg_control", 0o600, tar::EntryType::Regular, &control(SYSTEM_ID));
    append(&mut tar, "PG_VERSION", 0o600, tar::EntryType::Regular, b"15\n");
    let mut tar = tar.into_inner().unwrap();
    // Neither empty blocks nor what fills up the last one.
    tar.truncate(tar.len() - 1024 - 509);
    let folder = format!("basebackups_005/{}", backup.name());
    walg.store(&format!("{folder}/tar_partitions/part_001.tar.lz4"), &through(CODECS[2].1, &tar));
    fs::remove_file(stage.root().join(format!("{folder}/tar_partitions/backup_label.tar.lz4"))).unwrap();
    let list = json!({ "Files": { "PG_VERSION": {}, "global/pg_control": {}, "backup_label": {} }, "TarFileSets": {} });
    walg.store(&format!("{folder}/files_metadata.json"), list.to_string().as_bytes());
    stage.restore(&["LATEST"]).code(0);
    assert_eq!(stage.restored().keys().collect::<Vec<_>>(), ["PG_VERSION", "backup_label", "global/pg_control"]);
    assert!(stage.data().join("base/5").is_dir(), "a directory that no list has and no file is in");
}

#[test]
fn a_chain_that_is_encrypted_is_restored_with_its_key_and_with_no_other() {
    let (backups, expected) = chain();
    let stage = Stage::new();
    let walg = WalG { key: Some(*b"a key of libsodium of 32 bytes.."), ..stage.walg(2, Form::Second) };
    backups.iter().for_each(|backup| walg.forge(backup));
    let with = |key: &str| {
        let walden = stage.walden(&["backup-fetch", stage.data().to_str().unwrap(), "LATEST"]);
        walden.env("WALG_LIBSODIUM_KEY", key).run()
    };
    stage.restore(&["LATEST"]).code(7).stderr_has("If it was encrypted");
    with("another of libsodium of 32 bytes").code(7);
    assert!(!stage.data().exists());
    with("a key of libsodium of 32 bytes..").code(0);
    assert_eq!(stage.restored(), expected);
}

#[test]
fn a_chain_that_gpg_has_encrypted_is_restored_with_its_secret_key() {
    let (backups, expected) = chain();
    let (stage, keyring) = (Stage::new(), Keyring::new(""));
    backups.iter().for_each(|backup| stage.walg(2, Form::Second).forge(backup));
    for (key, bytes) in stage.objects() {
        if key.contains("/tar_partitions/") || key.starts_with("wal_005/") {
            stage.theirs.put(&key, &keyring.encrypt(&bytes));
        }
    }
    let with = |key: Vec<u8>| {
        let walden = stage.walden(&["backup-fetch", stage.data().to_str().unwrap(), "LATEST"]);
        walden.env("WALG_PGP_KEY", String::from_utf8(key).unwrap()).run()
    };
    stage.restore(&["LATEST"]).code(7).stderr_has("If it was encrypted");
    with(Keyring::new("").secret_key("")).code(3).stderr_has("no secret key");
    assert!(!stage.data().exists());
    with(keyring.secret_key("")).code(0);
    assert_eq!(stage.restored(), expected);
}

/// Of a copied archive the store knows when it was copied, and of some backups that is all that is known.
#[test]
fn when_a_backup_ended_that_does_not_say_so_is_for_the_user_to_know() {
    let (backups, _) = chain();
    let stage = Stage::new();
    stage.walg(PLAIN, Form::First).forge(&backups[0]);
    let target = ["--target-time", "2024-05-01 18:00+00"];
    stage.restore(&target).code(8).stderr_has("name one that ended before the target");
    let name = backups[0].name();
    // Chosen nevertheless: what is refused is that its WAL does not lead so far.
    let refused = stage.restore(&[&[name.as_str()][..], &target].concat());
    assert!(!refused.stderr.contains("does not lead to the target"), "{}", refused.stderr);
}

/// A page of the data directory as PostgreSQL would seal it is not made here: any other has a wrong checksum.
#[test]
fn pages_with_a_wrong_checksum_are_told_unless_the_wal_replaces_them() {
    let stage = Stage::new();
    let lsn = |number: u64| (number << 20) + 0x1000;
    let files = vec![
        ("/PG_VERSION", Has::Whole(b"15\n".to_vec())),
        ("/base/5/16384", Has::Whole(pages(&[(lsn(1), 1), (lsn(9), 2), (lsn(1), 3)]))),
    ];
    stage.walg(3, Form::Second).forge(&Forged { number: 2, from: None, names_all: false, files });
    let shown = stage.restore(&["LATEST", "--json"]).code(0).stderr_has("2 pages have a wrong checksum").json();
    let remarks = shown["remarks"].to_string();
    assert!(remarks.contains("base/5/16384 block 0, base/5/16384 block 2"), "{remarks}");
}

/// Archives that were written once, and what must come out of them.
#[test]
fn golden_archives_are_read_for_ever() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wal-g");
    if std::env::var_os("BLESS").is_some() {
        bless(&home);
    }
    let (_, expected) = chain();
    let stage = Stage::new();
    for key in files_below(&home) {
        stage.theirs.put(&key, &fs::read(home.join(&key)).unwrap());
    }
    stage.restore(&["LATEST"]).code(0);
    assert_eq!(stage.restored(), expected);
}

/// Each backup of the chain in another codec, and each with another form of sentinel.
fn bless(home: &Path) {
    fs::remove_dir_all(home).ok();
    for ((codec, form), backup) in [(0, Form::Inline), (2, Form::First), (3, Form::Second)].into_iter().zip(&chain().0)
    {
        WalG { root: home.to_path_buf(), codec: CODECS[codec], form, key: None }.forge(backup);
    }
    // Older backups need none for the newest.
    for number in [2, 4] {
        files_below(&home.join("wal_005")).iter().filter(|name| name.starts_with(&small(number).name())).for_each(
            |name| {
                fs::remove_file(home.join("wal_005").join(name)).unwrap();
            },
        );
    }
}
