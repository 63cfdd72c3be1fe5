//! `backup-push --resume`: what an interrupted backup stored is used as far as it is provably right, and what is restored
//! from it is the cluster.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use support::cluster::{Cluster, Postgres};
use support::load::{Load, audit, fill, open_books};
use support::place::Place;
use support::random::Random;
use support::s3::{Fault, On, Op};
use support::stories::{each, recovered, restored};
use support::walden::Walden;

/// MiB that are not to be read or stored again.
const FILLING: u32 = 24;

/// Longer than the margin of `backup::resume`: what was changed later than that is read again.
const AT_REST: Duration = Duration::from_secs(11);

fn push(cluster: &Cluster, options: &[&str]) -> Walden {
    cluster.walden(&[&["backup-push", cluster.data().to_str().unwrap()], options].concat())
}

/// A primary with something large in it that has not changed for a while.
fn primary(postgres: &Postgres, place: &Place) -> Cluster {
    let primary = Cluster::primary(postgres, place);
    open_books(&primary);
    fill(&primary, FILLING);
    for table in ["dropped", "truncated", "rewritten", "frozen"] {
        primary
            .sql(&format!("CREATE TABLE {table} AS SELECT n, repeat('x', 100) AS x FROM generate_series(1, 5000) n"));
    }
    primary.sql("CREATE DATABASE doomed");
    fs::write(primary.data().join("notes.txt"), "the first text").unwrap();
    // Else a vacuum that comes by itself marks rows, and the next checkpoint writes the files.
    primary.sql("VACUUM (FREEZE)");
    primary.sql("CHECKPOINT");
    primary.archive_all();
    std::thread::sleep(AT_REST);
    primary
}

/// A backup that stores all its parts and is interrupted before it is complete. Returns its id.
fn interrupt(primary: &Cluster, place: &Place) -> String {
    let before = ids(place);
    place.service().fail_always(On::op(Op::Put).key("/files"), Fault::Status(403, "AccessDenied"));
    push(primary, &[]).run().code(4);
    place.service().heal();
    let mut new = ids(place);
    new.retain(|id| !before.contains(id));
    let [id] = new.as_slice() else { panic!("{new:?}") };
    id.clone()
}

fn ids(place: &Place) -> Vec<String> {
    let keys = place.keys().into_iter().filter(|key| key.contains("/backup/"));
    let mut ids: Vec<String> = keys.map(|key| key.split('/').nth(2).unwrap().to_owned()).collect();
    ids.dedup();
    ids
}

fn parts(place: &Place) -> Vec<String> {
    place.keys().into_iter().filter(|key| key.contains("/backup/") && key.contains("/v")).collect()
}

fn shown(cluster: &Cluster) -> Value {
    cluster.walden(&["backup-show", "LATEST", "--json"]).run().code(0).json()
}

/// Things happen to the cluster that only the new run can know.
fn change(primary: &Cluster) {
    primary.sql("UPDATE accounts SET filler = 'changed' WHERE id % 7 = 0");
    primary.sql("DROP TABLE dropped");
    primary.sql("TRUNCATE truncated; INSERT INTO truncated VALUES (42, 'x')");
    primary.sql("VACUUM FULL rewritten");
    primary.sql("CREATE TABLE made AS SELECT 7 AS n");
    primary.sql("DROP DATABASE doomed");
    primary.sql("CHECKPOINT");
}

/// What a copy must have, now that all that has happened.
fn look_through(copy: &Cluster, original: &Cluster) {
    audit(copy);
    for sql in [
        "SELECT md5(string_agg(md5(noise), '' ORDER BY noise)) FROM filler",
        "SELECT md5(string_agg(a::text, '' ORDER BY id)) FROM accounts a",
        "SELECT string_agg(n::text, ' ') FROM truncated",
        "SELECT md5(string_agg(n || x, '' ORDER BY n)) FROM rewritten",
        "SELECT md5(string_agg(n || x, '' ORDER BY n)) FROM frozen",
        "SELECT n FROM made",
        "SELECT count(*) FROM pg_class WHERE relname = 'dropped'",
        "SELECT count(*) FROM pg_database",
    ] {
        assert_eq!(copy.value(sql), original.value(sql), "{sql}");
    }
}

#[test]
fn what_is_stored_and_has_not_changed_is_not_stored_again_and_the_rest_is_as_it_is_now() {
    for postgres in Postgres::each() {
        let place = Place::s3();
        let primary = primary(&postgres, &place);
        let id = interrupt(&primary, &place);
        let stored = parts(&place);
        change(&primary);
        push(&primary, &["--resume"]).run().code(0).stderr_is("");
        assert_eq!(ids(&place), [id.as_str()]);
        let manifest = shown(&primary);
        assert_eq!((manifest["id"].as_str(), &manifest["resumed"]), (Some(id.as_str()), &Value::Bool(true)));

        let all = parts(&place);
        assert!(stored.iter().all(|key| all.contains(key)), "{stored:?} {all:?}");
        let new = all.iter().filter(|key| !stored.contains(key)).map(|key| place.get(key).unwrap().len());
        let new: usize = new.sum();
        println!("-- {new} bytes are new");
        assert!(new < (FILLING as usize) << 19, "{new} bytes are new");
        by_hand(&place, &id);

        let copy = restored(&postgres, &place, &[]);
        copy.verify_backup();
        primary.archive_all();
        let copy = recovered(copy);
        look_through(&copy, &primary);
        copy.check_pages();
        // The next one begins anew.
        push(&primary, &["--resume"]).run().code(0).stderr_is("");
        assert_eq!((ids(&place).len(), &shown(&primary)["resumed"]), (2, &Value::Bool(false)));
    }
}

/// The steps of docs/format.md, "A base backup".
fn by_hand(place: &Place, id: &str) {
    let scratch = tempfile::tempdir().unwrap();
    for key in place.keys().iter().filter(|key| key.contains(id)) {
        let path = scratch.path().join(key.split('/').skip(3).collect::<Vec<_>>().join("/"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, place.get(key).unwrap()).unwrap();
    }
    let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md")).unwrap();
    let (_, section) = script.split_once("### A base backup\n").unwrap();
    // The block that chooses a backup is not for us; then they are those that unpack, tidy up and compare.
    let blocks: Vec<&str> =
        section.split("```sh\n").skip(2).take(3).map(|block| block.split("```").next().unwrap()).collect();
    let script = blocks.concat().replace("cd backup/20261121T043939Z-000000010000000000000002\n", "");
    let home = tempfile::tempdir().unwrap();
    let output =
        Command::new("bash").args(["-u", "-c", &script]).current_dir(scratch.path()).env("HOME", home.path()).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).replace('\n', "; ");
    let complaints: Vec<&str> = said.split("; ").filter(|line| line.starts_with(['<', '>'])).collect();
    assert!(complaints.is_empty(), "{script}\n{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(home.path().join("restored/PG_VERSION").exists(), "{script}\n{said}");
}

#[test]
fn kills_at_any_moment_and_changes_in_between_end_in_a_backup_that_is_right() {
    each(|postgres, place| {
        let mut random = Random::announced();
        let primary = primary(postgres, place);
        let load = Load::start(&primary);
        for round in 0..5 {
            let options = ["--resume", "--part-size", "1MiB", "--max-rate", "24MiB", "--workers", "2"];
            let mut running = push(&primary, &options).spawn();
            std::thread::sleep(Duration::from_millis(300 + random.below(2000)));
            let _ = running.kill();
            let _ = running.wait();
            if round == 2 {
                change(&primary);
            }
        }
        push(&primary, &["--resume"]).run().code(0);
        load.stop();
        primary.archive_all();
        println!("-- resumed: {}", shown(&primary)["resumed"]);
        let copy = restored(postgres, place, &[]);
        copy.verify_backup();
        let copy = recovered(copy);
        look_through(&copy, &primary);
        copy.check_pages();
    });
}

#[test]
fn a_file_that_was_changed_is_read_again_even_if_it_says_that_it_was_not() {
    for postgres in Postgres::each() {
        let place = Place::s3();
        let primary = primary(&postgres, &place);
        interrupt(&primary, &place);
        let notes = primary.data().join("notes.txt");
        let modified: SystemTime = notes.metadata().unwrap().modified().unwrap();
        fs::write(&notes, "the other text").unwrap();
        fs::File::options().write(true).open(&notes).unwrap().set_modified(modified).unwrap();
        push(&primary, &["--resume"]).run().code(0);
        assert_eq!(shown(&primary)["resumed"], true);
        primary.walden(&["backup-cat", "LATEST", "notes.txt"]).run().code(0).stdout_is("the other text");
    }
}

#[test]
fn a_stored_part_that_is_damaged_or_gone_is_stored_again() {
    for postgres in Postgres::each() {
        let place = Place::s3();
        let primary = primary(&postgres, &place);
        let id = interrupt(&primary, &place);
        let stored = parts(&place);
        let last = stored.last().unwrap();
        place.corrupt(last, 100);
        push(&primary, &["--resume"]).run().code(0).stderr_has("is damaged").stderr_has(last);
        assert_eq!(ids(&place), [id]);
        let copy = restored(&postgres, &place, &[]);
        copy.verify_backup();
        recovered(copy);
    }
}

#[test]
fn without_the_word_without_a_journal_or_without_rights_another_backup_is_taken() {
    for postgres in Postgres::each() {
        let place = Place::s3();
        let primary = primary(&postgres, &place);
        let first = interrupt(&primary, &place);
        // Another archive knows nothing of it.
        let other = Place::directory();
        let elsewhere = push(&primary, &["--resume"]).envs(other.env());
        elsewhere.env("WALDEN_WAL_TIMEOUT", "1s").run().code(9);
        assert_eq!(ids(&place), [first.as_str()]);
        // Without rights to delete, what does not count would stay among what does.
        place.service().fail_always(On::op(Op::Delete), Fault::Status(403, "AccessDenied"));
        push(&primary, &["--resume"]).run().code(0).stderr_has("cannot be resumed").stderr_has("AccessDenied");
        place.service().heal();
        assert_eq!((ids(&place).len(), &shown(&primary)["resumed"]), (2, &Value::Bool(false)));

        let second = interrupt(&primary, &place);
        push(&primary, &[]).run().code(0).stderr_has(&second).stderr_has("--resume");
        assert_eq!((ids(&place).len(), &shown(&primary)["resumed"]), (4, &Value::Bool(false)));
    }
}
