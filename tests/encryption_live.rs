//! Encrypted archives of real servers: nothing is found in the clear, what goes out comes back, by hand too, ranges are
//! read without the rest, interrupted backups stay encrypted, and a restore without its key touches nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use support::cluster::{Cluster, Postgres};
use support::keys::{Identity, found_in, key_file};
use support::place::{Place, files_below};
use support::s3::{Fault, Logged, On, Op};
use support::stories::{back_up, each, recovered, restore, started};
use support::user::{User, scratch_directory};

/// What rows and relations say that nobody else is to read. Random, so that no compressor takes it apart.
const MARKER: &str = "7Qx9ZkR2vLw8PbT4mNc6YdHs3FgJ1uAe5KoXiWqVzCyBtSrM0";

/// The keys of a test, which lie beside its clusters.
struct Keys {
    _scratch: tempfile::TempDir,
    identity: Identity,
}

fn keys() -> Keys {
    let scratch = scratch_directory();
    let identity = Identity::make(scratch.path(), "identity");
    Keys { _scratch: scratch, identity }
}

impl Keys {
    /// A primary that knows the public half alone.
    fn primary(&self, postgres: &Postgres, place: &Place) -> Cluster {
        let mut primary = Cluster::initialized(postgres, place, &[]).env("WALDEN_ENCRYPT_TO", &self.identity.public);
        // What a page holds twice is written once by the second compressor, and then it is harder to find.
        primary.configure("wal_compression = off\n");
        primary.start();
        primary
    }

    /// A place to restore into that knows the private half alone.
    fn reader(&self, postgres: &Postgres, place: &Place) -> Cluster {
        Cluster::empty(postgres, place).env("WALDEN_IDENTITY_FILE", self.identity.path())
    }

    fn restored(&self, postgres: &Postgres, place: &Place, options: &[&str]) -> Cluster {
        let reader = self.reader(postgres, place);
        restore(&reader, options).code(0);
        reader
    }
}

/// A table that is large enough for frames of its own, and says the marker.
fn fill(cluster: &Cluster) {
    cluster.sql(&format!(
        "CREATE TABLE large AS SELECT i, '{MARKER}' || md5(i::text) AS text FROM generate_series(1, 60000) i"
    ));
    cluster.sql("CHECKPOINT");
}

#[test]
fn nothing_of_a_server_is_found_in_its_archive_and_all_of_it_comes_back() {
    each(|postgres, place| {
        let keys = keys();
        let primary = keys.primary(postgres, place);
        fill(&primary);
        back_up(&primary);
        primary.sql("CREATE TABLE later AS SELECT 1 AS n");
        let moment = primary.value("SELECT clock_timestamp()");
        std::thread::sleep(std::time::Duration::from_millis(50));
        primary.sql("DROP TABLE large");
        primary.archive_all();

        for marker in [MARKER.as_bytes(), b"PostgreSQL database directory", b"pg_hba.conf\0\0\0\0\0"] {
            assert_eq!(found_in(place, marker), None);
        }
        for key in place.keys().iter().filter(|key| key.contains("/v") || key.ends_with("/files")) {
            let object = place.get(key).unwrap();
            assert!(!zstd::decode_all(&object[..]).is_ok_and(|plain| !plain.is_empty()), "{key} is zstd");
        }

        // Without the key nothing is touched, whatever is asked for.
        let without = Cluster::empty(postgres, place);
        restore(&without, &[]).code(3).stderr_has(&keys.identity.public).stderr_has("--identity-file");
        assert!(!without.data().exists());
        let shown = primary.walden(&["backup-show", "LATEST", "--json"]).run().code(0).json();
        assert!(shown["key"].as_str().unwrap().starts_with("age1"), "{shown:#}");
        primary.walden(&["status", primary.data().to_str().unwrap()]).run().code(0).stdout_has("encrypted");
        primary.walden(&["wal-verify"]).run().code(0);
        primary.walden(&["backup-list", "--windows"]).run().code(0);

        let copy = keys.restored(postgres, place, &["--target-time", &moment, "--target-action", "promote"]);
        copy.verify_backup();
        let copy = recovered(copy);
        assert_eq!(copy.value(&format!("SELECT count(*) FROM large WHERE text LIKE '{MARKER}%'")), "60000");
        let standby = started(keys.restored(postgres, place, &["--standby"]));
        standby.wait_until("the standby follows", |standby| standby.try_sql("SELECT i FROM large").is_err());
        primary.sql("CREATE TABLE last AS SELECT 42 AS answer");
        primary.archive_all();
        standby.wait_until("the standby follows", |standby| standby.try_sql("SELECT answer FROM last").is_ok());
        let deep = keys.reader(postgres, place).walden(&["wal-verify", "--deep"]).run();
        deep.code(0);
    });
}

#[test]
fn a_backup_sees_to_it_that_its_key_is_there_and_deletes_nothing_that_needs_it() {
    let (keys, place) = (keys(), Place::s3());
    let postgres = Postgres::each().pop().unwrap();
    let primary = keys.primary(&postgres, &place);
    back_up(&primary);
    let of = |place: &Place| place.keys().into_iter().filter(|key| key.contains("/keys/")).collect::<Vec<String>>();
    let before = of(&place);
    assert_eq!(before.len(), 1);
    let object = place.get(&before[0]).unwrap();
    place.remove(&before[0]);
    back_up(&primary);
    assert_eq!(place.get(&before[0]), Some(object.clone()));
    // One that was damaged is put again.
    place.put(&before[0], &object[..object.len() / 2]);
    let push = || primary.walden(&["backup-push", primary.data().to_str().unwrap()]);
    push().run().code(0).stderr_has("it is damaged");
    assert_eq!(place.get(&before[0]), Some(object.clone()));
    // What is wrapped for others now would not open for whom this host writes: it makes another key.
    let other = Identity::make(keys.identity.file.parent().unwrap(), "other");
    let rekey = primary.walden(&["rekey", "--confirm"]).env("WALDEN_ENCRYPT_TO", &other.public);
    rekey.env("WALDEN_IDENTITY_FILE", keys.identity.path()).run().code(0);
    push().run().code(0).stderr_has("is wrapped for others now");
    let before = of(&place);
    assert_eq!(before.len(), 2);
    primary.walden(&["delete", "retain", "1", "--confirm"]).run().code(0);
    assert_eq!(of(&place), before);
    // One that could not be encrypted is not begun.
    place.service().fail_always(On::op(Op::Put).key("/keys/"), Fault::Status(403, "AccessDenied"));
    place.service().forget_requests();
    primary.walden(&["backup-push", primary.data().to_str().unwrap()]).run().code(4);
    assert!(
        !place.service().requests().iter().any(|request| request.op == Op::Put && request.key.contains("/backup/"))
    );
}

/// How many bytes these requests have asked for.
fn asked_for(requests: &[Logged], place: &Place) -> u64 {
    let of_parts = requests.iter().filter(|request| request.op == Op::Get && request.key.contains("/v"));
    of_parts
        .map(|request| match request.header("range").strip_prefix("bytes=") {
            Some(range) => {
                let (from, to) = range.split_once('-').unwrap();
                to.parse::<u64>().unwrap() + 1 - from.parse::<u64>().unwrap()
            }
            None => place.get(&request.key.replace("some/where/", "")).unwrap().len() as u64,
        })
        .sum()
}

#[test]
fn single_files_and_single_databases_are_read_with_their_chunks_alone() {
    let (keys, place) = (keys(), Place::s3());
    let postgres = Postgres::each().pop().unwrap();
    let primary = keys.primary(&postgres, &place);
    fill(&primary);
    primary.sql("CREATE DATABASE small");
    back_up(&primary);
    primary.archive_all();
    let stored: u64 = place
        .keys()
        .iter()
        .filter(|key| key.contains("/backup/") && key.contains("/v"))
        .map(|key| place.get(key).unwrap().len() as u64)
        .sum();
    let reader = keys.reader(&postgres, &place);
    let path = primary.value("SELECT pg_relation_filepath('large')");
    primary.sql("CHECKPOINT");
    for file in ["PG_VERSION", &path] {
        place.service().forget_requests();
        let output = reader.walden(&["backup-cat", "LATEST", file]).output();
        assert!(output.status.success(), "{file}: {output:?}");
        let asked = asked_for(&place.service().requests(), &place);
        if file == "PG_VERSION" {
            assert_eq!(output.stdout, fs::read(primary.data().join(file)).unwrap());
            // Its frame, by whole chunks of age's.
            assert!(asked <= (2 << 20) + 3 * (64 << 10) && asked < stored / 2, "{asked} of {stored}");
        } else {
            assert!(output.stdout.windows(MARKER.len()).any(|window| window == MARKER.as_bytes()));
        }
    }
    place.service().forget_requests();
    let copy = keys.restored(&postgres, &place, &["--only-database", "small"]);
    let asked = asked_for(&place.service().requests(), &place);
    assert!(asked < stored, "{asked} of {stored}");
    assert_eq!(started(copy).value("SELECT 1"), "1");
}

#[test]
fn an_encrypted_backup_keeps_its_memory_limit() {
    let (keys, place) = (keys(), Place::s3());
    let postgres = Postgres::each().pop().unwrap();
    let primary = keys.primary(&postgres, &place);
    let dense = "CREATE TABLE dense AS SELECT string_agg(decode(md5(i::text || j::text), 'hex'), '') AS x \
                 FROM generate_series(1, 12000) i, generate_series(1, 400) j GROUP BY i";
    primary.sql(dense);
    let args = ["backup-push", "--json", "--workers", "2", "--memory-limit", "96MiB"];
    let (ran, peak) = primary.walden(&args).run_measured();
    let stored = ran.code(0).json()["stored_size"].as_u64().unwrap();
    println!("{} kB for {} kB", peak >> 10, stored >> 10);
    assert!(stored > 60 << 20 && peak <= 96 << 20, "{peak} bytes for {stored}");
}

#[test]
fn a_damaged_or_exchanged_part_is_damage_and_leaves_no_cluster() {
    let (keys, place) = (keys(), Place::directory());
    let postgres = Postgres::each().pop().unwrap();
    let primary = keys.primary(&postgres, &place);
    fill(&primary);
    back_up(&primary);
    let parts: Vec<String> =
        place.keys().into_iter().filter(|key| key.contains("/backup/") && key.contains("/v")).collect();
    let part = parts.iter().max_by_key(|key| place.get(key).unwrap().len()).unwrap();
    let object = place.get(part).unwrap();
    let mut flipped = object.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for damaged in [flipped, object[..object.len() - 1].to_vec()] {
        place.put(part, &damaged);
        let reader = keys.reader(&postgres, &place);
        restore(&reader, &[]).code(7);
        assert!(!reader.data().join("global/pg_control").exists());
    }
    place.put(part, &object);
    keys.restored(&postgres, &place, &[]);
}

#[test]
fn an_interrupted_backup_goes_on_encrypted_and_never_with_what_was_stored_for_others() {
    let (keys, place) = (keys(), Place::s3());
    let postgres = Postgres::each().pop().unwrap();
    let primary = keys.primary(&postgres, &place);
    fill(&primary);
    primary.sql("VACUUM (FREEZE)");
    primary.sql("CHECKPOINT");
    // Longer than the margin of `backup::resume`.
    std::thread::sleep(std::time::Duration::from_secs(11));
    let push = |more: &[&str]| primary.walden(&[&["backup-push", primary.data().to_str().unwrap()], more].concat());
    let interrupt = || {
        place.service().fail_always(On::op(Op::Put).key("/files"), Fault::Status(403, "AccessDenied"));
        push(&[]).run().code(4);
        place.service().heal();
    };
    interrupt();
    let other = Identity::make(keys.identity.file.parent().unwrap(), "other");
    // For others nothing is gone on with.
    let shown = push(&["--resume", "--json"]).env("WALDEN_ENCRYPT_TO", &other.public).run().code(0).json();
    assert_eq!(shown["resumed"], false, "{shown:#}");
    interrupt();
    let shown = push(&["--resume", "--json"]).run().code(0).json();
    assert_eq!(shown["resumed"], true, "{shown:#}");
    primary.archive_all();
    assert_eq!(found_in(&place, MARKER.as_bytes()), None);
    let copy = recovered(keys.restored(&postgres, &place, &[]));
    assert_eq!(copy.value("SELECT count(*) FROM large"), "60000");
}

#[test]
fn a_backup_that_the_server_sends_is_encrypted_too_and_restores() {
    let (keys, place) = (keys(), Place::directory());
    let postgres = Postgres::each().pop().unwrap();
    let primary = keys.primary(&postgres, &place);
    fill(&primary);
    primary.walden(&["backup-push", "--remote"]).run().code(0);
    primary.archive_all();
    assert_eq!(found_in(&place, MARKER.as_bytes()), None);
    let copy = keys.restored(&postgres, &place, &[]);
    copy.verify_backup();
    let copy = recovered(copy);
    assert_eq!(copy.value("SELECT count(*) FROM large"), "60000");
}

#[test]
fn an_archive_that_began_in_the_clear_restores_along_the_border() {
    let (keys, place) = (keys(), Place::directory());
    let postgres = Postgres::each().pop().unwrap();
    let mut primary = Cluster::primary(&postgres, &place);
    primary.sql("CREATE TABLE marks AS SELECT 1 AS mark");
    fill(&primary);
    back_up(&primary);
    primary.archive_all();
    // So the marker is found where it is.
    assert!(found_in(&place, MARKER.as_bytes()).is_some());
    primary.stop();
    let mut primary = primary.env("WALDEN_ENCRYPT_TO", &keys.identity.public);
    primary.start();
    primary.sql("INSERT INTO marks VALUES (2)");
    primary.archive_all();
    // The backup itself is in the clear, and its WAL is not: that is known before anything is touched.
    let without = Cluster::empty(&postgres, &place);
    restore(&without, &[]).code(3).stderr_has("the WAL of backup");
    assert!(!without.data().exists());
    let copy = recovered(keys.restored(&postgres, &place, &[]));
    assert_eq!(copy.value("SELECT count(*) FROM marks"), "2");
}

/// The first and the last segment open, and one between them does not.
#[test]
fn a_restore_says_which_keys_of_its_archive_are_not_there() {
    let (keys, place) = (keys(), Place::directory());
    let postgres = Postgres::each().pop().unwrap();
    let other = Identity::make(keys.identity.file.parent().unwrap(), "other");
    let mut primary = keys.primary(&postgres, &place);
    back_up(&primary);
    for (table, to) in [("one", &keys.identity), ("two", &other), ("three", &keys.identity)] {
        primary.stop();
        primary = primary.env("WALDEN_ENCRYPT_TO", &to.public);
        primary.start();
        primary.sql(&format!("CREATE TABLE {table} AS SELECT 1"));
        primary.archive_all();
    }
    let warned = restore(&keys.reader(&postgres, &place), &["--dry-run"]).code(0);
    warned.stderr_has("is encrypted for the data key age1").stderr_has(&other.public);
    let both = format!("{} {}", keys.identity.path(), other.path());
    let reader = Cluster::empty(&postgres, &place).env("WALDEN_IDENTITY_FILE", &both);
    assert!(!restore(&reader, &[]).code(0).stderr.contains("data key"));
    assert_eq!(
        recovered(reader).value("SELECT count(*) FROM pg_tables WHERE tablename IN ('one', 'two', 'three')"),
        "3"
    );
}

#[test]
fn a_symmetric_key_serves_a_primary_and_its_standby_that_take_turns() {
    let place = Place::s3();
    let scratch = scratch_directory();
    let postgres = Postgres::each().pop().unwrap();
    let file = key_file(scratch.path(), "key", "00112233445566778899aabbccddeeff".repeat(2).as_bytes(), 0o600);
    let file = file.to_str().unwrap();
    let both = |cluster: Cluster| cluster.env("WALDEN_ENCRYPT_TO", file).env("WALDEN_IDENTITY_FILE", file);
    let mut primary = both(Cluster::initialized(&postgres, &place, &[]));
    primary.start();
    primary.sql("CREATE TABLE marks AS SELECT 1 AS mark");
    back_up(&primary);
    // What is written with is read with, by the server too, whose environment may be another one.
    let reader = Cluster::empty(&postgres, &place).env("WALDEN_ENCRYPT_TO", file);
    restore(&reader, &[]).code(0);
    let settings = fs::read_to_string(reader.data().join("postgresql.auto.conf")).unwrap();
    assert!(settings.contains(&format!("--identity-file {file}")), "{settings}");
    let standby = both(Cluster::empty(&postgres, &place));
    restore(&standby, &["--standby"]).code(0);
    let standby = started(standby);
    primary.sql("INSERT INTO marks VALUES (2)");
    primary.archive_all();
    standby.wait_until("the standby follows", |standby| standby.value("SELECT count(*) FROM marks") == "2");
    primary.kill();
    standby.promote();
    support::stories::wait_for_promotion(&standby);
    standby.sql("INSERT INTO marks VALUES (3)");
    standby.archive_all();
    back_up(&standby);
    standby.walden(&["wal-verify", "--deep"]).run().code(0);
}

/// docs/encryption.md, "By hand": the commands with the names of this test in the place of the page's.
#[test]
fn a_backup_can_be_had_by_hand_with_stock_age_zstd_and_tar() {
    let (keys, place) = (keys(), Place::directory());
    let postgres = Postgres::each().pop().unwrap();
    let primary = keys.primary(&postgres, &place);
    fill(&primary);
    back_up(&primary);
    primary.archive_all();
    let copy = keys.restored(&postgres, &place, &[]);
    let Place::Directory(archive) = &place else { panic!("it is one") };
    let manifest = place.keys().into_iter().find(|key| key.ends_with("/backup.json")).unwrap();
    let mut words = manifest.split('/');
    let (system, id) = (words.next().unwrap(), words.nth(1).unwrap());
    let target = scratch_directory();
    let page = include_str!("../docs/encryption.md");
    let block = |name: &str| {
        let begins = format!("<!-- by hand: {name} -->\n```sh\n");
        page.split(&begins).nth(1).unwrap().split("\n```").next().unwrap().replace("7710427967336607753", system)
    };
    let script = format!("{}\n{}", block("keys"), block("backup"))
        .replace("20261121T043939Z-000000010000000000000002", id)
        .replace("~/my.key", keys.identity.path());
    let shell = Command::new("bash")
        .args(["-eu", "-c", &script])
        .env("HOME", target.path())
        .current_dir(archive.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(shell.status.success() && shell.stdout.is_empty(), "{script}\n{shell:?}");
    let root = target.path().join("restored");
    let made_here = ["backup_manifest", "postgresql.auto.conf", "recovery.signal"];
    for file in files_below(&copy.data()).iter().filter(|file| !made_here.contains(&file.as_str())) {
        assert!(fs::read(copy.data().join(file)).unwrap() == fs::read(root.join(file)).unwrap(), "{file}");
    }

    // And a server recovers from it, by the script of the page.
    std::os::unix::fs::symlink(archive.path(), target.path().join("archive")).unwrap();
    let unarchive = target.path().join("unarchive");
    fs::write(&unarchive, block("unarchive")).unwrap();
    fs::set_permissions(&unarchive, fs::Permissions::from_mode(0o755)).unwrap();
    let hand = Cluster::empty(&postgres, &place);
    fs::rename(&root, hand.data()).unwrap();
    let home = target.path().display();
    let settings = format!("restore_command = 'HOME={home} {home}/unarchive %f \"%p\"'\n");
    fs::write(hand.data().join("postgresql.auto.conf"), settings).unwrap();
    fs::write(hand.data().join("recovery.signal"), "").unwrap();
    if let Some(user) = User::for_servers() {
        let owner = format!("{}:{}", user.uid(), user.gid());
        let keys = target.path().join("data.keys");
        assert!(Command::new("chown").arg("-R").arg(owner).args([&hand.data(), &keys]).status().unwrap().success());
    }
    let hand = recovered(hand);
    assert_eq!(hand.value("SELECT count(*) FROM large"), "60000");
}
