//! Encrypted archives on forged files: who can read what, what is refused before the first byte, rotation and rekeying, and
//! that nothing that is secret is shown. Servers are in tests/encryption_live.rs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::forge::{self, SYSTEM_ID, Segment};
use support::keys::{Identity, found_in, holds, key_file};
use support::patience::wait_until;
use support::place::Place;
use support::s3::{Fault, Logged, On, Op};
use support::scene::{Scene, small};
use support::walden::{Ran, Walden};

/// A segment that does not compress, so that what it holds would be seen in an object that is not encrypted.
fn dense(number: u64) -> Segment {
    Segment { dense: true, ..small(number) }
}

/// Bytes in the middle of it, where no header is.
fn marker(segment: &Segment) -> Vec<u8> {
    segment.bytes()[20_000..20_064].to_vec()
}

/// A scene with an identity whose public half alone the pushes know.
struct Sealed {
    scene: Scene,
    identity: Identity,
}

impl Sealed {
    fn on(place: Place) -> Sealed {
        let scene = Scene::new(place);
        let identity = Identity::make(scene.data.path(), "identity");
        Sealed { scene, identity }
    }

    fn each() -> [Sealed; 2] {
        Place::each().map(Sealed::on)
    }

    fn push(&self, name: &str) -> Ran {
        self.push_to(name, &self.identity.public)
    }

    fn push_to(&self, name: &str, to: &str) -> Ran {
        let args = ["wal-push", &format!("pg_wal/{name}")];
        self.scene.walden(&args).env("WALDEN_ENCRYPT_TO", to).env("WALDEN_PUSH_AHEAD", "0").run()
    }

    /// As another host, which remembers nothing.
    fn fetch_with(&self, name: &str, files: &str) -> Ran {
        let walden = self.scene.walden(&["wal-fetch", name, "pg_wal/RECOVERYXLOG"]).env("WALDEN_PREFETCH", "0");
        let cache = self.scene.data.path().join("reader");
        let _ = fs::remove_dir_all(&cache);
        let walden = walden.env("WALDEN_CACHE_DIR", cache);
        match files {
            "" => walden.run(),
            files => walden.env("WALDEN_IDENTITY_FILE", files).run(),
        }
    }

    fn key_objects(&self) -> Vec<String> {
        self.scene.place.keys().into_iter().filter(|key| key.contains("/keys/")).collect()
    }

    fn rekey(&self, to: &str, files: &str, args: &[&str]) -> Walden {
        let walden = self.scene.walden(&[&["rekey"], args].concat());
        walden.env("WALDEN_ENCRYPT_TO", to).env("WALDEN_IDENTITY_FILE", files)
    }
}

#[test]
fn what_is_pushed_with_public_keys_alone_is_read_with_the_private_one_and_nowhere_in_the_clear() {
    for place in Place::each() {
        let sealed = Sealed::on(place);
        let segment = dense(1);
        let (name, content) = (sealed.scene.write(&segment), segment.bytes());
        sealed.push(&name).code(0).stderr_is("");
        assert_eq!(found_in(&sealed.scene.place, &marker(&segment)), None);
        assert_eq!(sealed.key_objects().len(), 1);
        sealed.fetch_with(&name, sealed.identity.path()).code(0).stderr_is("");
        assert!(sealed.scene.fetched().unwrap() == content);
    }
    // The marker would be found: without encryption it is.
    let scene = Scene::new(Place::directory());
    let segment = dense(1);
    let name = scene.write(&segment);
    scene.push(&name).code(0);
    assert_eq!(found_in(&scene.place, &marker(&segment)), Some(scene.key(&name)));
}

#[test]
fn all_kinds_of_wal_files_go_out_and_come_back_and_histories_stay_readable_without_a_key() {
    for sealed in Sealed::each() {
        let segment = sealed.scene.write(&small(1));
        let partial = format!("{segment}.partial");
        fs::copy(sealed.scene.wal(&segment), sealed.scene.wal(&partial)).unwrap();
        let backup = format!("{segment}.00000028.backup");
        fs::write(sealed.scene.wal(&backup), "START WAL LOCATION: 0/1000028\n").unwrap();
        let history = "00000002.history";
        fs::write(sealed.scene.wal(history), forge::history(&[(1, "0/1100000", "no reason")])).unwrap();
        for name in [segment.as_str(), &partial, &backup, history] {
            let content = fs::read(sealed.scene.wal(name)).unwrap();
            sealed.push(name).code(0);
            let without = sealed.fetch_with(name, "");
            assert_eq!(without.code, Some(if name == history { 0 } else { 3 }), "{without}");
            sealed.scene.fetched();
            sealed.fetch_with(name, sealed.identity.path()).code(0);
            assert!(sealed.scene.fetched().unwrap() == content, "{name}");
        }
        // Which WAL there is can be said by whoever only writes.
        let shown = sealed.scene.walden(&["wal-show", "--json"]).run().code(0).json();
        assert_eq!(shown[0]["timelines"].as_array().unwrap().len(), 2);
        let deep = sealed.scene.walden(&["wal-verify", "--deep"]);
        deep.env("WALDEN_IDENTITY_FILE", sealed.identity.path()).run().code(1).stderr_has("no complete backup");
    }
}

#[test]
fn the_same_file_again_is_success_without_any_private_key_and_another_content_is_a_conflict() {
    for sealed in Sealed::each() {
        let name = sealed.scene.write(&small(1));
        sealed.push(&name).code(0);
        let stored = sealed.scene.place.get(&sealed.scene.key(&name)).unwrap();
        // Another host, which knows neither the spool nor the data key.
        let again = || {
            let args = ["wal-push".to_owned(), format!("pg_wal/{name}")];
            let walden = sealed.scene.walden(&args.each_ref().map(String::as_str));
            walden.env("WALDEN_ENCRYPT_TO", &sealed.identity.public).env("WALDEN_PUSH_AHEAD", "0")
        };
        again().env("WALDEN_CACHE_DIR", sealed.scene.data.path().join("other")).run().code(0);
        // Nor does it matter whether it is encrypted by now.
        again().without(&["WALDEN_ENCRYPT_TO"]).run().code(0);
        assert!(sealed.scene.place.get(&sealed.scene.key(&name)).unwrap() == stored);
        sealed.scene.write(&Segment { seed: 99, ..small(1) });
        again().run().code(6).stderr_has("exists with other content");
        sealed.scene.write(&small(1));
        sealed.scene.place.corrupt(&sealed.scene.key(&name), stored.len() - 30);
        again().run().code(7);
    }
}

#[test]
fn what_cannot_be_encrypted_as_it_is_wanted_is_refused_before_the_first_byte_and_no_secret_is_echoed() {
    let sealed = Sealed::on(Place::s3());
    let directory = sealed.scene.data.path();
    let name = sealed.scene.write(&small(1));
    let hex = |bytes: usize| "5a".repeat(bytes);
    let file = |name: &str, content: &[u8]| key_file(directory, name, content, 0o600).to_str().unwrap().to_owned();
    let secret = sealed.identity.secret();
    let open = key_file(directory, "open", hex(32).as_bytes(), 0o644).to_str().unwrap().to_owned();
    let cases = [
        (secret.clone(), "private half"),
        (sealed.identity.public[..61].to_owned(), "not the recipient"),
        ("age1pq1qqqq".to_owned(), "post-quantum"),
        ("age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t".to_owned(), "plugin"),
        ("ssh-ed25519".to_owned(), "SSH"),
        ("arn:aws:kms:eu-central-1:1:nokey".to_owned(), "not the ARN of a key"),
        (hex(32), "neither a recipient"),
        (file("short", hex(31).as_bytes()), "62 hexadecimal digits"),
        (file("long", hex(33).as_bytes()), "66 hexadecimal digits"),
        (file("raw", &[0xAB; 32]), "32 bytes are no text"),
        (file("raw31", &[0xAB; 31]), "31 bytes are no text"),
        (file("empty", b""), "it is empty"),
        (file("base64", b"notThatLong+\n"), "9 bytes in Base64"),
        (sealed.identity.path().to_owned(), "private half of an age key"),
        (open, "open to others"),
        (directory.join("none").to_str().unwrap().to_owned(), "could not read"),
    ];
    for (to, why) in &cases {
        let ran = sealed.push_to(&name, to).stderr_has(why).stderr_lacks(&secret).stderr_lacks(&hex(31));
        assert!(matches!(ran.code, Some(3 | 10)), "{to}: {ran}");
        // As an argument it is the command line that is wrong.
        let args = ["wal-push", &format!("pg_wal/{name}"), "--encrypt-to", to];
        let ran = sealed.scene.walden(&args).run().stderr_has(why);
        assert!(matches!(ran.code, Some(2 | 3 | 10)), "{to}: {ran}");
        assert!(!ran.stderr.contains(&secret) && !ran.stderr.contains(&hex(31)), "{ran}");
    }
    assert_eq!(sealed.scene.place.keys(), Vec::<String>::new());
    assert_eq!(sealed.scene.s3().count(Op::Put), 0);
}

#[test]
fn what_cannot_decrypt_is_refused_by_its_name() {
    let sealed = Sealed::on(Place::directory());
    let directory = sealed.scene.data.path();
    let name = sealed.scene.write(&small(1));
    sealed.push(&name).code(0);
    let file = |name: &str, content: &str| key_file(directory, name, content.as_bytes(), 0o600).display().to_string();
    for (file, why) in [
        (file("public", &sealed.identity.public), "public half"),
        (file("plugin", "AGE-PLUGIN-YUBIKEY-1ABC"), "plugin"),
        (
            file("passphrase", "-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n-----END AGE ENCRYPTED FILE-----\n"),
            "passphrase",
        ),
        (file("ssh", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\n"), "SSH"),
        (file("quantum", "AGE-SECRET-KEY-PQ-1ABC"), "post-quantum"),
        (file("cut", &sealed.identity.secret()[..70]), "no age identity"),
        (
            key_file(directory, "open", sealed.identity.secret().as_bytes(), 0o604).display().to_string(),
            "open to others",
        ),
        ("relative".to_owned(), "not an absolute path"),
        (sealed.identity.secret(), "the file that holds one"),
    ] {
        let ran = sealed.fetch_with(&name, &file).code(3).stderr_has(why);
        assert!(!ran.stderr.contains(&sealed.identity.secret()[..70]), "{ran}");
        assert_eq!(sealed.scene.fetched(), None);
    }
}

#[test]
fn a_missing_or_wrong_key_says_what_is_needed_and_what_is_there_and_never_that_the_file_is_not() {
    for sealed in Sealed::each() {
        let other = Identity::make(sealed.scene.data.path(), "other");
        let name = sealed.scene.write(&small(1));
        sealed.push(&name).code(0);
        let [key] = sealed.key_objects().try_into().unwrap();
        let data_key = key.rsplit('/').next().unwrap().to_owned();
        let public = sealed.identity.public.as_str();

        let none = sealed.fetch_with(&name, "").code(3);
        none.stderr_has("no key to decrypt with")
            .stderr_has(&data_key)
            .stderr_has(public)
            .stderr_has("--identity-file");
        let wrong = sealed.fetch_with(&name, other.path()).code(3);
        wrong.stderr_has(&data_key).stderr_has(public).stderr_has(&format!("here is {}", other.public));
        for (signal, expected) in [("recovery.signal", 200), ("standby.signal", 3)] {
            fs::write(sealed.scene.data.path().join(signal), "").unwrap();
            sealed.fetch_with(&name, other.path()).code(expected);
        }
        fs::remove_file(sealed.scene.data.path().join("standby.signal")).unwrap();
        let object = sealed.scene.place.get(&key).unwrap();
        sealed.scene.place.remove(&key);
        sealed.fetch_with(&name, sealed.identity.path()).code(200).stderr_has("is not in the archive");
        fs::remove_file(sealed.scene.data.path().join("recovery.signal")).unwrap();
        sealed.fetch_with(&name, sealed.identity.path()).code(9).stderr_has("earlier version of it");
        sealed.scene.place.put(&key, &object);
        sealed.scene.place.corrupt(&key, object.len() / 2);
        sealed.fetch_with(&name, sealed.identity.path()).code(7).stderr_has("the object is damaged");
        assert_eq!(sealed.scene.fetched(), None);
        sealed.scene.place.put(&key, &object);
        sealed.fetch_with(&name, sealed.identity.path()).code(0);
        sealed.scene.fetched().unwrap();
    }
}

#[test]
fn changed_cut_and_exchanged_payloads_are_damage() {
    let sealed = Sealed::on(Place::s3());
    let (one, two) = (sealed.scene.write(&small(1)), sealed.scene.write(&small(2)));
    sealed.push(&one).code(0);
    sealed.push(&two).code(0);
    let key = sealed.scene.key(&one);
    let object = sealed.scene.place.get(&key).unwrap();
    let other = sealed.scene.place.get(&sealed.scene.key(&two)).unwrap();
    let mut flipped = object.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for damaged in [flipped, object[..object.len() - 1].to_vec(), object[..object.len() / 2].to_vec(), other] {
        sealed.scene.place.put(&key, &damaged);
        sealed.fetch_with(&one, sealed.identity.path()).code(7);
        assert_eq!(sealed.scene.fetched(), None);
    }
    sealed.scene.place.put(&key, &object);
    sealed.fetch_with(&one, sealed.identity.path()).code(0);
}

#[test]
fn a_host_makes_one_data_key_and_another_one_for_other_recipients_and_old_objects_stay_readable() {
    for sealed in Sealed::each() {
        let new = Identity::make(sealed.scene.data.path(), "new");
        let names: Vec<String> = (1..=4).map(|number| sealed.scene.write(&small(number))).collect();
        sealed.push(&names[0]).code(0);
        sealed.push(&names[1]).code(0);
        assert_eq!(sealed.key_objects().len(), 1);
        // Rotated: first to both, then to the new one alone; the order of the words is no difference.
        let both = format!("{} {}", sealed.identity.public, new.public);
        sealed.push_to(&names[2], &both).code(0);
        let turned = format!("{} {} {}", new.public, sealed.identity.public, new.public);
        sealed.push_to(&names[2], &turned).code(0);
        sealed.push_to(&names[3], &new.public).code(0);
        assert_eq!(sealed.key_objects().len(), 3);
        let old = |name: &str| sealed.fetch_with(name, sealed.identity.path()).code;
        let young = |name: &str| sealed.fetch_with(name, new.path()).code;
        assert_eq!(names.iter().map(|name| old(name)).collect::<Vec<_>>(), [Some(0), Some(0), Some(0), Some(3)]);
        assert_eq!(names.iter().map(|name| young(name)).collect::<Vec<_>>(), [Some(3), Some(3), Some(0), Some(0)]);
        let files = format!("{} {}", sealed.identity.path(), new.path());
        names.iter().for_each(|name| drop(sealed.fetch_with(name, &files).code(0)));
        let listed = sealed.scene.walden(&["keys", "--json"]).run().code(0).json();
        let holders: Vec<usize> =
            listed.as_array().unwrap().iter().map(|key| key["holders"].as_array().unwrap().len()).collect();
        assert_eq!(holders.iter().sum::<usize>(), 4, "{listed:#}");
        sealed.scene.walden(&["keys"]).run().code(0).stdout_has(&new.public).stdout_has("3 data keys");
    }
}

#[test]
fn what_was_stored_before_encryption_began_is_read_beside_what_came_after() {
    for sealed in Sealed::each() {
        let (before, after) = (sealed.scene.write(&small(1)), sealed.scene.write(&small(2)));
        sealed.scene.walden(&["wal-push", &format!("pg_wal/{before}")]).env("WALDEN_PUSH_AHEAD", "0").run().code(0);
        sealed.push(&after).code(0);
        for name in [&before, &after] {
            sealed.fetch_with(name, sealed.identity.path()).code(0);
            assert!(sealed.scene.fetched().unwrap() == fs::read(sealed.scene.wal(name)).unwrap());
        }
        sealed.fetch_with(&before, "").code(0);
    }
}

#[test]
fn one_file_with_a_symmetric_key_both_writes_and_reads() {
    for sealed in Sealed::each() {
        let directory = sealed.scene.data.path();
        let name = sealed.scene.write(&small(1));
        let hex = key_file(directory, "hex", format!("{}\n", "0123456789abcdef".repeat(4)).as_bytes(), 0o600);
        // The same 32 bytes.
        let base64 = key_file(directory, "base64", b"ASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4mrze8=\n", 0o600);
        sealed.push_to(&name, hex.to_str().unwrap()).code(0).stderr_is("");
        for file in [&hex, &base64] {
            sealed.fetch_with(&name, file.to_str().unwrap()).code(0);
            assert!(sealed.scene.fetched().unwrap() == small(1).bytes());
        }
        sealed.fetch_with(&name, sealed.identity.path()).code(3);
        // Whoever writes with the file can read with it.
        let fetch = sealed.scene.walden(&["wal-fetch", &name, "pg_wal/RECOVERYXLOG"]);
        fetch.env("WALDEN_ENCRYPT_TO", &hex).run().code(0);
        let public = |file: &Path| Walden::new(directory).args(["keygen", file.to_str().unwrap()]).run().code(0).stdout;
        assert_eq!(public(&hex), public(&base64));
        // As age reads it, it is the same key still.
        let shown = Walden::new(directory).args(["keygen", hex.to_str().unwrap(), "--as-identity"]).run().code(0);
        let exported = key_file(directory, "exported", shown.stdout.as_bytes(), 0o600);
        assert_eq!(public(&exported), public(&hex));
        sealed.fetch_with(&name, exported.to_str().unwrap()).code(0);
    }
}

#[test]
fn keygen_makes_a_file_that_age_reads_and_never_touches_one_that_is_there() {
    let scene = Scene::new(Place::directory());
    let identity = Identity::make(scene.data.path(), "identity");
    let before = fs::read(&identity.file).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(&identity.file).unwrap().mode() & 0o777, 0o600);
    let again = Walden::new(scene.data.path()).args(["keygen", identity.path()]).run().code(0);
    assert_eq!(again.stdout.trim_end(), identity.public);
    assert!(fs::read(&identity.file).unwrap() == before);
    let known = Command::new("age-keygen").arg("-y").arg(&identity.file).output().unwrap();
    assert_eq!(String::from_utf8(known.stdout).unwrap().trim_end(), identity.public);
    let notes = key_file(scene.data.path(), "notes", b"remember the milk\n", 0o600);
    Walden::new(scene.data.path()).args(["keygen", notes.to_str().unwrap()]).run().code(3).stderr_lacks("milk");
    assert_eq!(fs::read(&notes).unwrap(), b"remember the milk\n");
}

#[test]
fn rekeying_changes_who_can_read_without_touching_what_is_encrypted() {
    for sealed in Sealed::each() {
        let new = Identity::make(sealed.scene.data.path(), "new");
        let name = sealed.scene.write(&small(1));
        sealed.push(&name).code(0);
        let before = sealed.scene.place.get(&sealed.scene.key(&name)).unwrap();
        let planned = sealed.rekey(&new.public, sealed.identity.path(), &[]).run().code(0);
        planned.stdout_has("nothing has been changed: 1 would be wrapped anew with --confirm");
        sealed.fetch_with(&name, sealed.identity.path()).code(0);
        // Without the old identity nothing can be rewrapped.
        let closed = sealed.rekey(&new.public, new.path(), &["--confirm"]).run().code(9);
        closed.stdout_has("cannot be opened").stderr_has("--identity-file");
        sealed
            .rekey(&new.public, sealed.identity.path(), &["--confirm"])
            .run()
            .code(0)
            .stdout_has("may have kept a copy");
        sealed.fetch_with(&name, new.path()).code(0);
        sealed.fetch_with(&name, sealed.identity.path()).code(3).stderr_has(&format!("it needs {}", new.public));
        assert!(sealed.scene.place.get(&sealed.scene.key(&name)).unwrap() == before);
        let again = sealed.rekey(&new.public, new.path(), &["--confirm", "--json"]).run().code(0).json();
        assert_eq!(again["keys"][0]["fate"], "stays");
        sealed.scene.walden(&["rekey"]).run().code(3).stderr_has("--encrypt-to");
    }
}

#[test]
fn a_rekeying_that_is_interrupted_leaves_keys_that_open_and_is_gone_on_with() {
    let sealed = Sealed::on(Place::s3());
    let new = Identity::make(sealed.scene.data.path(), "new");
    // Three data keys: each of these hosts has a memory of its own.
    let names: Vec<String> = (1..=3).map(|number| sealed.scene.write(&small(number))).collect();
    for name in &names {
        let args = ["wal-push", &format!("pg_wal/{name}")];
        let walden = sealed.scene.walden(&args).env("WALDEN_ENCRYPT_TO", &sealed.identity.public);
        walden.env("WALDEN_CACHE_DIR", sealed.scene.data.path().join(name)).env("WALDEN_PUSH_AHEAD", "0").run().code(0);
    }
    let keys = sealed.key_objects();
    assert_eq!(keys.len(), 3);
    // Killed while it replaces the second one.
    sealed.scene.s3().fail_next(On::op(Op::Put).key(&keys[1]), Fault::Stall(Duration::from_secs(60)));
    sealed.scene.s3().forget_requests();
    let mut rekeying = sealed.rekey(&new.public, sealed.identity.path(), &["--confirm"]).spawn();
    let arrived = |request: &Logged| request.op == Op::Put && request.key.ends_with(&keys[1]);
    wait_until("the second key is replaced", || sealed.scene.s3().requests().iter().any(arrived));
    rekeying.kill().unwrap();
    rekeying.wait().unwrap();
    // And refused at the same place.
    sealed.scene.s3().fail_always(On::op(Op::Put).key(&keys[1]), Fault::Status(403, "AccessDenied"));
    let files = format!("{} {}", sealed.identity.path(), new.path());
    sealed.rekey(&new.public, &files, &["--confirm"]).run().code(4);
    sealed.scene.s3().heal();
    let both = format!("{} {}", sealed.identity.path(), new.path());
    let opens = |files: &str| names.iter().filter(|name| sealed.fetch_with(name, files).code == Some(0)).count();
    assert_eq!((opens(sealed.identity.path()), opens(new.path()), opens(&both)), (2, 1, 3));
    sealed.rekey(&new.public, &both, &["--confirm"]).run().code(0).stdout_has("2 wrapped anew");
    assert_eq!((opens(sealed.identity.path()), opens(new.path())), (0, 3));
}

#[test]
fn a_data_key_is_replaced_after_a_month_and_brought_back_if_somebody_has_deleted_it() {
    let sealed = Sealed::on(Place::s3());
    let names: Vec<String> = (1..=4).map(|number| sealed.scene.write(&small(number))).collect();
    sealed.push(&names[0]).code(0);
    let [key] = sealed.key_objects().try_into().unwrap();
    let object = sealed.scene.place.get(&key).unwrap();
    // What the host remembers, by what it says.
    let cache = sealed.scene.data.path().join("cache");
    let remembered = |of: &dyn Fn(&str) -> bool| {
        let files = support::place::files_below(&cache).into_iter().map(|file| cache.join(file));
        let value = |file: &Path| {
            let entry: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
            entry["value"].as_str().unwrap().to_owned()
        };
        files.filter(|file| of(&value(file))).collect::<Vec<_>>()
    };
    let forget_seen = || remembered(&|value| value == "seen").iter().for_each(|file| fs::remove_file(file).unwrap());

    sealed.scene.place.remove(&key);
    // For an hour it is believed to be there.
    sealed.push(&names[1]).code(0);
    assert_eq!(sealed.key_objects(), Vec::<String>::new());
    forget_seen();
    sealed.push(&names[2]).code(0);
    assert_eq!(sealed.scene.place.get(&key), Some(object));
    for name in &names[..3] {
        sealed.fetch_with(name, sealed.identity.path()).code(0);
    }

    let [file] = remembered(&|value| value.contains(r#""wrapped""#)).try_into().unwrap();
    let mut entry: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let value = entry["value"].as_str().unwrap().to_owned();
    let created = value.split(r#""created": ""#).nth(1).unwrap().split('"').next().unwrap();
    let older = created.parse::<jiff::Timestamp>().unwrap() - jiff::SignedDuration::from_hours(24 * 30);
    let body = value.replace(created, &older.to_string());
    let body = body.split(r#""sha256":"#).next().unwrap().to_owned();
    entry["value"] = String::from_utf8(walden::layout::sealed::seal(body)).unwrap().into();
    fs::write(&file, entry.to_string()).unwrap();
    sealed.push(&names[3]).code(0);
    assert_eq!(sealed.key_objects().len(), 2);
    sealed.fetch_with(&names[3], sealed.identity.path()).code(0);
}

#[test]
fn a_host_that_fetches_segment_after_segment_reads_a_key_object_once() {
    let sealed = Sealed::on(Place::s3());
    let names: Vec<String> = (1..=3).map(|number| sealed.scene.write(&small(number))).collect();
    names.iter().for_each(|name| drop(sealed.push(name).code(0)));
    sealed.scene.s3().forget_requests();
    for name in &names {
        let walden = sealed.scene.walden(&["wal-fetch", name, "pg_wal/RECOVERYXLOG"]).env("WALDEN_PREFETCH", "0");
        walden.env("WALDEN_IDENTITY_FILE", sealed.identity.path()).run().code(0);
        sealed.scene.fetched().unwrap();
    }
    let requests = sealed.scene.s3().requests();
    assert_eq!(requests.iter().filter(|request| request.key.contains("/keys/")).count(), 1);
    assert_eq!(requests.len(), 4, "{requests:#?}");
}

#[test]
fn whoever_watches_needs_no_key_and_no_right_to_read_its_file() {
    let sealed = Sealed::on(Place::directory());
    let name = sealed.scene.write(&small(1));
    sealed.push(&name).code(0);
    let nowhere = sealed.scene.data.path().join("nowhere");
    for words in ["status", "keys", "backup-list", "wal-show", "delete garbage", "report --json"] {
        let words: Vec<&str> = words.split(' ').collect();
        let walden = sealed.scene.walden(&words).env("WALDEN_IDENTITY_FILE", &nowhere);
        walden.env("WALDEN_ENCRYPT_TO", &nowhere).run().code(0);
    }
    let name = ["wal-fetch", &name, "pg_wal/RECOVERYXLOG"];
    sealed
        .scene
        .walden(&name)
        .env("WALDEN_IDENTITY_FILE", &nowhere)
        .run()
        .code(10)
        .stderr_has("could not read the key file");
}

#[test]
fn the_doctor_and_status_say_whether_it_is_encrypted_and_whether_it_opens_here() {
    for sealed in Sealed::each() {
        let name = sealed.scene.write(&small(1));
        let data = sealed.scene.data.path().to_str().unwrap();
        let verdicts = |walden: Walden| {
            let found = walden.run().json();
            ["encrypting", "decrypting"].map(|check| {
                let found = found.as_array().unwrap().iter().find(|finding| finding["check"] == check);
                found.map_or("none".to_owned(), |found| {
                    format!("{}: {}", found["verdict"], found["found"]).replace('"', "")
                })
            })
        };
        let doctor = || sealed.scene.walden(&["doctor", "--json", data]);
        let [writes, reads] = verdicts(doctor());
        assert_eq!((writes.as_str(), reads.as_str()), ("ok: no: encrypt-to is not set", "none"));
        sealed.push(&name).code(0);
        let [writes, reads] = verdicts(doctor().env("WALDEN_ENCRYPT_TO", &sealed.identity.public));
        assert!(
            writes.starts_with("ok: for age1") && reads.starts_with("limited: not possible here"),
            "{writes} {reads}"
        );
        let [_, reads] = verdicts(doctor().env("WALDEN_IDENTITY_FILE", sealed.identity.path()));
        assert_eq!(reads, "ok: 1 data key of 1 tried, and possible with all of them");
        let system = SYSTEM_ID.to_string();
        sealed.scene.walden(&["status", "--system-id", &system]).run().code(0);
    }
}

/// As docs/limits.md promises of the release build, encrypted or not; that of the tests has more code (tests/sizes.rs).
#[test]
fn encryption_takes_little_memory() {
    let more = if cfg!(debug_assertions) { 8 } else { 0 };
    for (mib, push, fetch) in [(16, 48 + more, 48 + more), (64, 112 + more, 48 + more)] {
        let segment = Segment { size: mib << 20, dense: true, ..Segment::default() };
        let scene = Scene::of(Place::s3(), &segment);
        let identity = Identity::make(scene.data.path(), "identity");
        let name = scene.write(&segment);
        let args = ["wal-push", &format!("pg_wal/{name}")];
        let (ran, pushed) = scene.walden(&args).env("WALDEN_ENCRYPT_TO", &identity.public).run_measured();
        ran.code(0);
        let walden = scene.walden(&["wal-fetch", &name, "pg_wal/RECOVERYXLOG"]);
        let (ran, fetched) = walden.env("WALDEN_IDENTITY_FILE", identity.path()).run_measured();
        ran.code(0);
        println!("{mib} MiB: {} and {} kB", pushed >> 10, fetched >> 10);
        assert!(pushed <= push << 20 && fetched <= fetch << 20, "{mib} MiB: {pushed} and {fetched} bytes");
    }
}

#[test]
fn a_primary_that_can_only_put_makes_its_key_and_archives() {
    let sealed = Sealed::on(Place::s3());
    for op in [Op::Get, Op::Head, Op::List, Op::Delete] {
        sealed.scene.s3().fail_always(On::op(op), Fault::Status(403, "AccessDenied"));
    }
    let name = sealed.scene.write(&small(1));
    sealed.push(&name).code(0);
    sealed.scene.s3().heal();
    assert_eq!(sealed.key_objects().len(), 1);
    sealed.fetch_with(&name, sealed.identity.path()).code(0);
}

#[test]
fn nothing_is_archived_with_a_key_that_is_not_known_to_be_in_the_archive() {
    let sealed = Sealed::on(Place::s3());
    let name = sealed.scene.write(&small(1));
    sealed.scene.s3().fail_always(On::op(Op::Put).key("/keys/"), Fault::Status(403, "AccessDenied"));
    sealed.push(&name).code(4).stderr_has("could not make a data key to encrypt with");
    assert!(!sealed.scene.place.keys().iter().any(|key| key.contains("/wal/")));
    sealed.scene.s3().heal();
    // What is read back is not what was stored.
    sealed.scene.s3().fail_next(On::op(Op::Get).key("/keys/"), Fault::Status(404, "NoSuchKey"));
    let ran = sealed.push(&name);
    assert!(ran.code != Some(0) && !sealed.scene.place.keys().iter().any(|key| key.contains("/wal/")), "{ran}");
    sealed.push(&name).code(0);
}

#[test]
fn without_a_memory_each_process_makes_a_key_and_says_so() {
    let sealed = Sealed::on(Place::directory());
    let directory = key_file(sealed.scene.data.path(), "no directory", b"", 0o600);
    for number in 1..=2 {
        let name = sealed.scene.write(&small(number));
        let args = ["wal-push", &format!("pg_wal/{name}")];
        let walden = sealed.scene.walden(&args).env("WALDEN_ENCRYPT_TO", &sealed.identity.public);
        let ran = walden.env("WALDEN_CACHE_DIR", &directory).env("WALDEN_PUSH_AHEAD", "0").run().code(0);
        ran.stderr_has("each process makes a data key of its own");
    }
    assert_eq!(sealed.key_objects().len(), 2);
}

#[test]
fn the_keys_go_last_when_everything_is_deleted_and_never_before() {
    for sealed in Sealed::each() {
        let name = sealed.scene.write(&small(1));
        sealed.push(&name).code(0);
        sealed.scene.walden(&["delete", "garbage", "--confirm"]).run().code(0);
        assert_eq!(sealed.key_objects().len(), 1);
        for key in sealed.scene.place.keys() {
            sealed.scene.place.age(&key, Duration::from_secs(3 * 86_400));
        }
        sealed.scene.walden(&["delete", "everything", "--even-the-last", "--confirm"]).run().code(0);
        let left: Vec<String> =
            sealed.scene.place.keys().into_iter().filter(|key| key.contains(&SYSTEM_ID.to_string())).collect();
        assert_eq!(left, Vec::<String>::new());
    }
}

#[test]
fn no_secret_is_in_what_is_printed_or_logged_nor_in_what_is_remembered() {
    let sealed = Sealed::on(Place::s3());
    let directory = sealed.scene.data.path();
    let hex = "0f1e2d3c4b5a69788796a5b4c3d2e1f0".repeat(2);
    let symmetric = key_file(directory, "symmetric", hex.as_bytes(), 0o600);
    let name = sealed.scene.write(&small(1));
    let both = format!("{} {}", sealed.identity.public, symmetric.display());
    let mut said = String::new();
    for format in ["text", "json"] {
        let loud = |walden: Walden| {
            let walden = walden.env("WALDEN_LOG_LEVEL", "debug").env("WALDEN_LOG_FORMAT", format);
            walden.env("WALDEN_ENCRYPT_TO", &both).env("WALDEN_IDENTITY_FILE", sealed.identity.path())
        };
        let mut runs = vec![vec!["wal-push".to_owned(), format!("pg_wal/{name}")]];
        runs.push(["wal-fetch", &name, "pg_wal/RECOVERYXLOG"].map(str::to_owned).to_vec());
        for words in
            ["keys", "rekey --confirm", "config", "config --json", "status", "doctor", "wal-verify --deep", "wal-show"]
        {
            runs.push(words.split(' ').map(str::to_owned).collect());
        }
        for words in runs {
            let ran = loud(sealed.scene.walden(&words.iter().map(String::as_str).collect::<Vec<_>>())).run();
            said += &format!("{ran}");
        }
    }
    assert!(said.contains("made the data key") && said.contains(&sealed.identity.public));
    let secrets = [&sealed.identity.secret()[15..], &hex];
    for secret in secrets {
        assert!(!said.to_lowercase().contains(&secret.to_lowercase()));
        for file in support::place::files_below(&directory.join("cache")) {
            assert!(!holds(&fs::read(directory.join("cache").join(&file)).unwrap(), secret.as_bytes()), "{file}");
        }
        assert_eq!(found_in(&sealed.scene.place, secret.as_bytes()), None);
    }
}

/// docs/encryption.md, "By hand": the commands with the names of this test in the place of the page's.
#[test]
fn a_wal_file_can_be_had_by_hand_with_stock_age_and_zstd() {
    let sealed = Sealed::on(Place::directory());
    let name = sealed.scene.write(&small(1));
    sealed.push(&name).code(0);
    let Place::Directory(archive) = &sealed.scene.place else { panic!("it is one") };
    let page = include_str!("../docs/encryption.md");
    let block = |name: &str| {
        let begins = format!("<!-- by hand: {name} -->\n```sh\n");
        page.split(&begins).nth(1).unwrap().split("\n```").next().unwrap().to_owned()
    };
    let script = format!("{}\n{}", block("keys"), block("wal"))
        .replace("000000010000000000000003", &name)
        .replace("00000001/", &format!("{}/", &name[..8]))
        .replace("7710427967336607753", &SYSTEM_ID.to_string())
        .replace("~/my.key", sealed.identity.path());
    let ran = Command::new("bash")
        .args(["-eu", "-c", &script])
        .env("HOME", sealed.scene.data.path())
        .current_dir(archive.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(ran.status.success(), "{script}\n{ran:?}");
    assert!(fs::read(archive.path().join(&name)).unwrap() == small(1).bytes());
}

/// The same page: how 32 bytes that KMS has opened are written for age.
#[test]
fn a_secret_of_kms_is_written_for_age_without_walden() {
    let page = include_str!("../docs/encryption.md");
    let script = page.split("<!-- by hand: identity -->\n```python\n").nth(1).unwrap().split("\n```").next().unwrap();
    let scene = Scene::new(Place::directory());
    let secret = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
    let key = key_file(scene.data.path(), "key", secret.as_bytes(), 0o600);
    let ours = scene.walden(&["keygen", key.to_str().unwrap(), "--as-identity"]).run().code(0).stdout;
    let theirs = support::legacy::through(&["python3", "-c", script], secret.as_bytes());
    assert_eq!(String::from_utf8(theirs).unwrap().trim(), ours.trim());
}
