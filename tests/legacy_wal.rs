//! WAL of archives that WAL-E and WAL-G wrote: found behind our own, in every form, and never taken for absent or for sound
//! where it is neither.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::time::Duration;

use support::forge::{self, Segment};
use support::legacy::{CODECS, Keyring, secretstream, through};
use support::patience::wait_until;
use support::place::Place;
use support::random::Random;
use support::s3::{Fault, On, Op};
use support::scene::{Scene, small};
use support::walden::Ran;

const SODIUM_KEY: &[u8; 32] = b"a key of libsodium for the tests";

/// An archive of ours with one segment, the first.
fn scene(place: Place) -> Scene {
    let scene = Scene::new(place);
    let name = scene.write(&small(1));
    scene.push(&name).code(0);
    scene
}

fn each() -> [Scene; 2] {
    Place::each().map(scene)
}

fn legacy_key(name: &str, extension: &str) -> String {
    format!("wal_005/{name}{extension}")
}

#[test]
fn wal_files_of_every_kind_and_codec_come_back_byte_for_byte() {
    for scene in each() {
        for (number, (extension, program)) in (10..).zip(CODECS) {
            let segment = small(number);
            let name = segment.name();
            let files = [
                (name.clone(), segment.bytes()),
                (format!("{name}.partial"), segment.bytes()),
                (format!("{name}.00000028.backup"), b"START WAL LOCATION: 0/300028 (file x)\n".to_vec()),
                (format!("{number:08X}.history"), forge::history(&[(1, "0/5000000", "no reason")]).into_bytes()),
            ];
            for (name, content) in files {
                scene.place.put(&legacy_key(&name, extension), &through(program, &content));
                scene.fetch(&name).code(0).stderr_is("");
                assert!(scene.fetched().unwrap() == content, "{name}{extension} by {program:?}");
            }
            // What lies beside it is something else.
            scene.place.put(&legacy_key(&name, "_delta.lz4"), b"x");
            scene.place.put(&legacy_key(&name, ".json"), b"{}");
            scene.fetch(&name).code(0);
            assert!(scene.fetched().unwrap() == segment.bytes());
        }
        // Ours wins, and is all that is asked for.
        scene.place.put(&legacy_key(&small(1).name(), ".lz4"), b"junk");
        scene.fetch(&small(1).name()).code(0);
        assert!(scene.fetched().unwrap() == small(1).bytes());
    }
}

#[test]
fn segments_of_the_usual_size_come_back_whether_they_can_be_compressed_or_not() {
    let scene = Scene::of(Place::s3(), &Segment::default());
    for (number, (extension, program)) in (20..).zip(CODECS) {
        let segment = Segment { number, dense: number % 2 == 0, ..Segment::default() };
        scene.place.put(&legacy_key(&segment.name(), extension), &through(program, &segment.bytes()));
        scene.fetch(&segment.name()).code(0);
        assert!(scene.fetched().unwrap() == segment.bytes(), "{extension} by {program:?}");
    }
}

#[test]
fn an_archive_elsewhere_is_named_by_a_setting() {
    for scene in each() {
        let other = Place::directory();
        let segment = small(7);
        other.put(&legacy_key(&segment.name(), ".lz4"), &through(&["lz4", "-q", "-c"], &segment.bytes()));
        let fetch = |name: &str| {
            let prefix = other.prefix();
            scene.walden(&["wal-fetch", "--legacy-prefix", &prefix, name, "pg_wal/RECOVERYXLOG"]).run()
        };
        fetch(&segment.name()).code(0);
        assert!(scene.fetched().unwrap() == segment.bytes());
        scene.fetch(&segment.name()).code(1);
        fetch(&small(8).name()).code(1);
        // Under a mistyped prefix everything is absent.
        let nowhere = format!("{}/typo", other.prefix());
        let args = ["wal-fetch", "--legacy-prefix", &nowhere, &segment.name(), "pg_wal/RECOVERYXLOG"];
        scene
            .walden(&args)
            .run()
            .code(3)
            .stderr_has("there is no archive of WAL-E or WAL-G at")
            .stderr_has("WALDEN_LEGACY_PREFIX");
        assert_eq!(scene.fetched(), None);
    }
}

#[test]
fn the_old_archive_alone_can_be_recovered_from_to_its_end() {
    for scene in Scene::each() {
        let segment = small(5);
        let key = legacy_key(&segment.name(), ".lz4");
        scene.place.put(&key, &through(&["lz4", "-q", "-c"], &segment.bytes()));
        fs::write(scene.data.path().join("recovery.signal"), "").unwrap();
        for _ in 0..2 {
            scene.fetch(&segment.name()).code(0);
            assert!(scene.fetched().unwrap() == segment.bytes());
            // Nothing of ours is there, but the prefix is no slip of the pen.
            scene.fetch(&small(6).name()).code(1);
            let prefix = scene.place.prefix();
            let here = ["wal-fetch", "--legacy-prefix", &prefix, &small(6).name(), "pg_wal/RECOVERYXLOG"];
            scene.walden(&here).run().code(1);
        }
        // Elsewhere it says nothing of our prefix: what we have archived may lie under the right one.
        let fetch = ["wal-fetch", &small(6).name(), "pg_wal/RECOVERYXLOG"];
        let elsewhere = scene.walden(&fetch).env("WALDEN_LEGACY_PREFIX", scene.place.prefix());
        elsewhere.env("WALDEN_PREFIX", format!("{}/typo", scene.place.prefix())).run().code(200);
        scene.wait_until_nothing_runs();
    }
}

#[test]
fn what_is_in_neither_archive_is_absent_and_costs_one_request_more_or_none() {
    let scene = scene(Place::s3());
    let s3 = scene.s3();
    let asked = |name: &str| {
        s3.forget_requests();
        scene.fetch(name).code(1);
        (s3.count(Op::Get), s3.count(Op::List))
    };
    // The first time our own archive is proved to be there, and there is no other one; both is remembered.
    assert_eq!(asked(&small(2).name()), (1, 2));
    assert_eq!(asked(&small(2).name()), (1, 0));
    assert_eq!(asked("00000002.history"), (1, 0));
    // Of an archive that is there, each file is looked for.
    let other = Scene::new(Place::s3());
    let name = other.write(&small(1));
    other.push(&name).code(0);
    other.place.put(&legacy_key(&small(3).name(), ".lz4"), &through(&["lz4", "-q", "-c"], &small(3).bytes()));
    other.fetch(&small(2).name()).code(1);
    let s3 = other.s3();
    s3.forget_requests();
    other.fetch(&small(2).name()).code(1);
    assert_eq!((s3.count(Op::Get), s3.count(Op::List)), (1, 1));
    s3.forget_requests();
    other.fetch(&small(3).name()).code(0);
    assert_eq!((s3.count(Op::Get), s3.count(Op::List)), (2, 1));
    s3.forget_requests();
    other.fetch(&name).code(0);
    assert_eq!((s3.count(Op::Get), s3.count(Op::List)), (1, 0), "what is ours costs no more than before");
}

#[test]
fn an_outage_or_a_refusal_of_the_older_archive_is_never_absence() {
    let scene = scene(Place::s3());
    let segment = small(5);
    scene.place.put(&legacy_key(&segment.name(), ".lz4"), &through(&["lz4", "-q", "-c"], &segment.bytes()));
    // Nothing of it is remembered; of ours it is.
    scene.fetch(&segment.name()).code(0);
    scene.fetched().unwrap();
    let s3 = scene.s3();
    for (op, part) in [(Op::List, ""), (Op::Get, "wal_005")] {
        for (fault, code) in [
            (Fault::Status(503, "SlowDown"), 5),
            (Fault::Status(500, "InternalError"), 5),
            (Fault::Status(403, "AccessDenied"), 4),
        ] {
            s3.fail_always(On::op(op).key(part), fault);
            let fetch = ["wal-fetch", &segment.name(), "pg_wal/RECOVERYXLOG"];
            scene.walden(&fetch).env("WALDEN_RETRY_TIMEOUT", "1s").run().code(code);
            assert_eq!(scene.fetched(), None);
            // In a recovery to a target no code but that of absence may be low.
            fs::write(scene.data.path().join("recovery.signal"), "").unwrap();
            scene.walden(&fetch).env("WALDEN_RETRY_TIMEOUT", "1s").run().code(200);
            fs::remove_file(scene.data.path().join("recovery.signal")).unwrap();
            s3.heal();
        }
    }
    scene.fetch(&segment.name()).code(0);
}

#[test]
fn what_was_listed_and_went_away_is_not_absent() {
    let scene = scene(Place::s3());
    let segment = small(5);
    scene.place.put(&legacy_key(&segment.name(), ".lz4"), &through(&["lz4", "-q", "-c"], &segment.bytes()));
    scene.s3().fail_always(On::op(Op::Get).key("wal_005"), Fault::Status(404, "NoSuchKey"));
    scene.fetch(&segment.name()).code(5).stderr_has("went away");
    fs::write(scene.data.path().join("recovery.signal"), "").unwrap();
    scene.fetch(&segment.name()).code(200);
}

#[test]
fn a_recovery_to_a_target_does_not_end_by_what_is_remembered_of_an_older_archive() {
    let scene = scene(Place::s3());
    let segment = small(5);
    // That there is none is remembered for an hour.
    scene.fetch(&segment.name()).code(1);
    scene.place.put(&legacy_key(&segment.name(), ".lz4"), &through(&["lz4", "-q", "-c"], &segment.bytes()));
    scene.fetch(&segment.name()).code(1);
    fs::write(scene.data.path().join("recovery.signal"), "").unwrap();
    scene.fetch(&segment.name()).code(0);
    assert!(scene.fetched().unwrap() == segment.bytes());
}

/// No backup of ours is there yet, and where the file is to go nothing says whose it is.
#[test]
fn of_a_cluster_that_is_not_known_nothing_is_absent() {
    let scene = Scene::new(Place::s3());
    scene.place.put("walden.json", b"{}");
    let segment = small(5);
    scene.place.put(&legacy_key(&segment.name(), ".lz4"), &through(&["lz4", "-q", "-c"], &segment.bytes()));
    let target = scene.data.path().join("elsewhere");
    let fetch = || scene.walden(&["wal-fetch", &segment.name(), target.to_str().unwrap()]);
    fs::write(scene.data.path().join("recovery.signal"), "").unwrap();
    fetch().run().code(200).stderr_has("--system-id");
    fetch().env("WALDEN_SYSTEM_ID", forge::SYSTEM_ID.to_string()).run().code(0);
    assert!(fs::read(&target).unwrap() == segment.bytes());
}

#[test]
fn what_is_damaged_cut_foreign_or_something_else_is_told_and_leaves_no_file() {
    let mut random = Random::announced();
    for scene in each() {
        let segment = small(5);
        let name = segment.name();
        let refused = |stored: &[u8], extension: &str, code: i32| {
            let key = legacy_key(&name, extension);
            scene.place.put(&key, stored);
            scene.fetch(&name).code(code).stderr_has(&key);
            assert_eq!(scene.fetched(), None);
            scene.place.remove(&key);
        };
        for (extension, program) in CODECS {
            let stored = through(program, &segment.bytes());
            let cut = random.below(stored.len() as u64) as usize;
            refused(&stored[..cut], extension, 7);
            refused(&[&stored[..], b"more"].concat(), extension, 7);
            refused(b"", extension, 7);
            refused(&through(program, &small(6).bytes()), extension, 7);
            refused(&through(program, &segment.bytes()[..segment.bytes().len() / 2]), extension, 7);
            refused(&through(program, &vec![0; 2 << 20]), extension, 7);
            refused(&through(program, &Segment { system_id: 7, ..small(5) }.bytes()), extension, 8);
            // Most codecs carry a digest; where none does, the pages tell.
            let mut other_page = segment.bytes();
            other_page[5 * 8192 + 9] ^= 1;
            refused(&through(program, &other_page), extension, 7);
        }
        for (name, content) in [("00000003.history", "junk"), ("000000010000000000000005.00000028.backup", "junk")] {
            scene.place.put(&legacy_key(name, ".lz4"), &through(&["lz4", "-q", "-c"], content.as_bytes()));
            scene.fetch(name).code(7);
            assert_eq!(scene.fetched(), None);
        }
    }
}

#[test]
fn what_wal_g_encrypted_with_libsodium_is_decrypted_with_its_key_alone() {
    for scene in each() {
        let segment = small(5);
        let stored = secretstream(&through(&["lz4", "-q", "-c"], &segment.bytes()), *SODIUM_KEY);
        let key = legacy_key(&segment.name(), ".lz4");
        scene.place.put(&key, &stored);
        let file = |name: &str, content: &[u8]| {
            let path = scene.data.path().join(name);
            fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let hex: String = SODIUM_KEY.iter().map(|byte| format!("{byte:02x}")).collect();
        let (plain, in_hex) = (file("key", SODIUM_KEY), file("key.hex", format!("{hex}\n").as_bytes()));
        let fetch = |variables: &[(&str, &str)]| -> Ran {
            let walden = scene.walden(&["wal-fetch", &segment.name(), "pg_wal/RECOVERYXLOG"]);
            walden.envs(variables.iter().copied()).run()
        };
        let text = str::from_utf8(SODIUM_KEY).unwrap();
        for variables in [
            &[("WALG_LIBSODIUM_KEY", text)][..],
            &[("WALG_LIBSODIUM_KEY_PATH", &plain)],
            &[("WALDEN_LEGACY_LIBSODIUM_KEY_FILE", &in_hex), ("WALDEN_LEGACY_LIBSODIUM_KEY_TRANSFORM", "hex")],
            &[("WALG_LIBSODIUM_KEY", &hex), ("WALG_LIBSODIUM_KEY_TRANSFORM", "hex")],
        ] {
            fetch(variables).code(0).stderr_is("");
            assert!(scene.fetched().unwrap() == segment.bytes(), "{variables:?}");
        }
        fetch(&[]).code(7).stderr_has("WALDEN_LEGACY_LIBSODIUM_KEY_FILE");
        fetch(&[("WALG_LIBSODIUM_KEY", "another key of libsodium, wrong")])
            .code(7)
            .stderr_has("the key is another one");
        fetch(&[("WALG_LIBSODIUM_KEY", "short")]).code(3).stderr_has("5 bytes").stderr_lacks("short\"");
        fetch(&[("WALG_LIBSODIUM_KEY_PATH", "/nowhere/key")]).code(10).stderr_has("/nowhere/key");
        let both = [("WALG_LIBSODIUM_KEY", text), ("WALE_GPG_KEY_ID", "x")];
        fetch(&both).code(3).stderr_has("libsodium and of OpenPGP");
        for cut in [0, 10, 24, 24 + 8209, stored.len() - 1] {
            scene.place.put(&key, &stored[..cut]);
            fetch(&[("WALG_LIBSODIUM_KEY", text)]).code(7);
            assert_eq!(scene.fetched(), None, "cut to {cut}");
        }
    }
}

#[test]
fn what_gpg_encrypted_is_decrypted_by_gpg_with_a_keyring_or_a_key() {
    let (keyring, locked, stranger) = (Keyring::new(""), Keyring::new("hunter2"), Keyring::new(""));
    for scene in each() {
        let segment = small(5);
        let compressed = through(&["lzop", "-c"], &segment.bytes());
        let key = legacy_key(&segment.name(), ".lzo");
        let file = |name: &str, content: &[u8]| {
            let path = scene.data.path().join(name);
            fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let fetch = |variables: &[(&str, &str)]| -> Ran {
            let walden = scene.walden(&["wal-fetch", &segment.name(), "pg_wal/RECOVERYXLOG"]);
            walden.envs(variables.iter().copied()).run()
        };
        scene.place.put(&key, &keyring.encrypt(&compressed));
        let home = |keyring: &Keyring| keyring.home.path().to_str().unwrap().to_owned();
        let armored = file("key.asc", &keyring.secret_key(""));
        let inline = String::from_utf8(keyring.secret_key("")).unwrap().replace('\n', "\\n");
        for variables in [
            &[("WALE_GPG_KEY_ID", "any"), ("GNUPGHOME", &home(&keyring))][..],
            &[("WALDEN_LEGACY_PGP_KEY_FILE", &armored)],
            &[("WALG_PGP_KEY", &inline)],
        ] {
            fetch(variables).code(0).stderr_is("");
            assert!(scene.fetched().unwrap() == segment.bytes(), "{:?}", variables[0].0);
        }
        fetch(&[]).code(7).stderr_has("WALDEN_LEGACY_GPG_KEY_ID");
        fetch(&[("WALE_GPG_KEY_ID", "any"), ("GNUPGHOME", &home(&stranger))]).code(3).stderr_has("no secret key");
        let public = file("public.asc", &keyring.public_key());
        fetch(&[("WALG_PGP_KEY_PATH", &public)]).code(3).stderr_has("secret key");
        fetch(&[("WALG_PGP_KEY", "junk")]).code(3);
        fetch(&[("WALE_GPG_KEY_ID", "any"), ("PATH", "/nowhere")]).code(10).stderr_has("gpg");
        let encrypted = keyring.encrypt(&compressed);
        for cut in [0, 5, encrypted.len() / 2, encrypted.len() - 1] {
            scene.place.put(&key, &encrypted[..cut]);
            fetch(&[("WALDEN_LEGACY_PGP_KEY_FILE", &armored)]).code(7);
            assert_eq!(scene.fetched(), None, "cut to {cut}");
        }
        // A key with a passphrase.
        scene.place.put(&key, &locked.encrypt(&compressed));
        let armored = file("locked.asc", &locked.secret_key("hunter2"));
        let with =
            |passphrase: &str| fetch(&[("WALG_PGP_KEY_PATH", &armored), ("WALG_PGP_KEY_PASSPHRASE", passphrase)]);
        with("hunter2").code(0);
        assert!(scene.fetched().unwrap() == segment.bytes());
        with("wrong-hunter").code(3).stderr_has("passphrase").stderr_lacks("wrong-hunter");
        fetch(&[("WALG_PGP_KEY_PATH", &armored)]).code(3).stderr_has("WALG_PGP_KEY_PASSPHRASE");
        assert_eq!(scene.fetched(), None);
    }
}

/// The keyring of a process that was killed holds a secret key.
#[test]
fn keyrings_are_left_by_nobody_for_long() {
    let scene = scene(Place::s3());
    let (keyring, segment) = (Keyring::new(""), small(5));
    let stored = keyring.encrypt(&through(&["lzop", "-c"], &Segment { dense: true, ..segment }.bytes()));
    scene.place.put(&legacy_key(&segment.name(), ".lzo"), &stored);
    let armored = scene.data.path().join("key.asc");
    fs::write(&armored, keyring.secret_key("")).unwrap();
    let temporary = tempfile::Builder::new().prefix("wt").tempdir_in("/tmp").unwrap();
    let homes = || fs::read_dir(temporary.path()).unwrap().count();
    let fetch = || {
        let walden =
            scene.walden(&["wal-fetch", &segment.name(), "pg_wal/RECOVERYXLOG"]).env("TMPDIR", temporary.path());
        walden.env("WALDEN_LEGACY_PGP_KEY_FILE", &armored)
    };
    fetch().run().code(0);
    assert_eq!(homes(), 0);
    scene.s3().fail_always(On::op(Op::Get).key("wal_005"), Fault::StallInAnswer(1000, Duration::from_secs(60)));
    scene.s3().forget_requests();
    let mut killed = fetch().spawn();
    let asked = |request: &support::s3::Logged| request.op == Op::Get && request.key.contains("wal_005");
    wait_until("the segment is asked for, and gpg has its keyring", || {
        homes() == 1 && scene.s3().requests().iter().any(asked)
    });
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(homes(), 1);
    scene.s3().heal();
    fetch().run().code(0);
    assert_eq!(homes(), 0);
}
