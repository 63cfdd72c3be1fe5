//! Base backups that WAL-E and WAL-G wrote, restored on real servers. WAL-E is the real one; WAL-G is one of the tests'
//! own, written from the description of its formats (`support::walg`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::fs;
use std::path::Path;

use support::cluster::{Cluster, Postgres};
use support::legacy::CODECS;
use support::load::{Load, audit, open_books};
use support::place::{Place, files_below};
use support::stories::{recovered, restore, started, wait_for_promotion};
use support::user::{User, scratch_directory};
use support::wale::WalE;
use support::walg::{Form, WalG};

/// A directory that the servers' user may write to.
fn root(place: &Place) -> &Path {
    match place {
        Place::Directory(directory) => directory.path(),
        _ => unreachable!(),
    }
}

/// The same archive as objects of another place.
fn copied(from: &Place, to: &Place) {
    for key in files_below(root(from)) {
        to.put(&key, &fs::read(root(from).join(&key)).unwrap());
    }
}

/// A running server that archives with this command, and lies in a tablespace too.
fn primary(postgres: &Postgres, archive_command: &str) -> Cluster {
    let mut cluster = Cluster::initialized(postgres, &Place::directory(), &[]);
    cluster.configure(&format!("archive_command = '{archive_command}'\ncheckpoint_completion_target = 0\n"));
    cluster.start();
    let space = cluster.directory("space");
    cluster.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    cluster.sql("CREATE TABLE kept AS SELECT n, md5(n::text) AS text FROM generate_series(1, 20000) n");
    cluster.sql("CREATE INDEX ON kept (n); CREATE TABLE elsewhere TABLESPACE space AS SELECT * FROM kept");
    cluster
}

/// All rows, in one word.
fn digest(cluster: &Cluster) -> String {
    let table =
        |name: &str| format!("(SELECT count(*) || md5(string_agg(n || text, ',' ORDER BY n, text)) FROM {name})");
    cluster.value(&format!("SELECT {} || {}", table("kept"), table("elsewhere")))
}

/// Something changes of everything.
fn change(cluster: &Cluster, round: u32) {
    cluster.sql(&format!("UPDATE kept SET text = 'round {round}' WHERE n % 97 = {round}"));
    cluster.sql(&format!("DELETE FROM elsewhere WHERE n % 89 = {round}"));
    cluster.sql(&format!("INSERT INTO elsewhere SELECT 100000 + n, 'new {round}' FROM generate_series(1, 3000) n"));
    cluster.sql(&format!("CREATE TABLE only_{round} AS SELECT 1; DROP TABLE IF EXISTS only_{}", round.wrapping_sub(1)));
    cluster.sql("VACUUM kept");
}

/// A cluster restored from `place`, with its tablespaces below a directory of its own.
fn copy_of(postgres: &Postgres, place: &Place, theirs: Option<&Place>, words: &[&str]) -> Cluster {
    let mut cluster = Cluster::empty(postgres, place);
    if let Some(theirs) = theirs {
        cluster = cluster.env("WALDEN_LEGACY_PREFIX", &theirs.prefix());
    }
    let spaces = cluster.directory("spaces");
    let ran = restore(&cluster, &[words, &["--tablespace-root", spaces.to_str().unwrap()]].concat()).code(0);
    println!("{ran:?}");
    cluster
}

#[test]
fn chains_of_wal_g_are_restored_with_every_row() {
    for postgres in Postgres::each() {
        // All the others are in tests/legacy_backups.rs, where no server has to be waited for.
        for (codec, form) in [(CODECS[2], Form::Second), (CODECS[3], Form::First)] {
            println!("-- PostgreSQL {} with {codec:?} and {form:?}", postgres.major);
            let theirs = Place::directory();
            let walg = WalG { root: root(&theirs).to_path_buf(), codec, form, key: None };
            let primary = primary(&postgres, &walg.archive_command());
            let full = walg.back_up(&primary, None);
            change(&primary, 1);
            let delta = walg.back_up(&primary, Some(&full));
            change(&primary, 2);
            let deeper = walg.back_up(&primary, Some(&delta));
            for of in [&delta, &deeper] {
                let key = format!("basebackups_005/{}/files_metadata.json", of.name);
                let list = String::from_utf8(theirs.get(&key).unwrap()).unwrap();
                assert!(list.contains(r#""IsIncremented":true"#) && list.contains(r#""IsSkipped":true"#));
            }
            primary.sql("INSERT INTO kept SELECT 500000 + n, 'after' FROM generate_series(1, 100) n");
            primary.archive_all();
            let expected = digest(&primary);

            // Its own prefix is told for ours: nothing of ours is there yet. LATEST is the newest delta.
            let copy = copy_of(&postgres, &theirs, None, &["LATEST"]);
            assert!(copy.data().join("pg_tblspc").read_dir().unwrap().next().unwrap().unwrap().path().is_symlink());
            let mut copy = recovered(copy);
            assert_eq!(digest(&copy), expected);
            assert_eq!(copy.sql("SELECT relname FROM pg_class WHERE relname LIKE 'only_%'"), [["only_2"]]);
            copy.check_relations();
            copy.stop();
            copy.verify_checksums();

            // On S3, beside ours as well, the first delta by its name.
            let bucket = Place::s3();
            copied(&theirs, &bucket);
            let copy = recovered(copy_of(&postgres, &bucket, None, &[&delta.name]));
            assert_eq!(digest(&copy), expected);
            let listed = copy.walden(&["backup-list", "--json"]).run().code(0).json();
            let ids: Vec<&str> = listed.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
            assert_eq!(ids, [&full.name, &delta.name, &deeper.name]);
        }
    }
}

#[test]
fn a_chain_of_wal_g_that_was_taken_under_load_has_every_booking() {
    for postgres in Postgres::each() {
        let theirs = Place::directory();
        let walg = WalG { root: root(&theirs).to_path_buf(), codec: CODECS[2], form: Form::Second, key: None };
        let primary = primary(&postgres, &walg.archive_command());
        open_books(&primary);
        let load = Load::start(&primary);
        let mut taken = walg.back_up(&primary, None);
        for _ in 0..3 {
            taken = walg.back_up(&primary, Some(&taken));
        }
        let booked = load.stop();
        primary.archive_all();
        let mut copy = recovered(copy_of(&postgres, &theirs, None, &[&taken.name]));
        assert_eq!((audit(&primary), audit(&copy)), (booked, booked));
        copy.check_relations();
        copy.stop();
        copy.verify_checksums();
    }
}

#[test]
fn a_backup_of_wal_g_without_a_list_stops_where_it_is_told() {
    for postgres in Postgres::each() {
        let theirs = Place::directory();
        let walg = WalG { root: root(&theirs).to_path_buf(), codec: CODECS[2], form: Form::Unlisted, key: None };
        let primary = primary(&postgres, &walg.archive_command());
        let full = walg.back_up(&primary, None);
        primary.sql("INSERT INTO kept SELECT 500000 + n, 'before' FROM generate_series(1, 100) n");
        let (expected, lsn) = (digest(&primary), primary.value("SELECT pg_current_wal_lsn()"));
        primary.sql("DELETE FROM kept");
        primary.archive_all();
        let target = ["--target-lsn", &lsn, "--target-action", "promote"];
        let copy = copy_of(&postgres, &theirs, None, &[&[full.name.as_str()], &target[..]].concat());
        assert_eq!(digest(&recovered(copy)), expected);
    }
}

#[test]
fn what_the_real_wal_e_wrote_is_restored_and_followed_into_our_archive() {
    let postgres = Postgres::installed(14).expect("PostgreSQL 14 is missing: scripts/install-postgres 14");
    let (theirs, ours) = (Place::directory(), Place::directory());
    let scratch = scratch_directory();
    let wal_e = WalE::new(root(&theirs), scratch.path());
    let primary = primary(&postgres, &wal_e.archive_command());
    let said = wal_e.back_up(&primary);
    assert!(said.contains("finish uploading a base backup volume"), "{said}");
    change(&primary, 1);
    primary.archive_all();

    // WAL-E's archive alone.
    let at_cut_over = digest(&primary);
    let copy = with_configuration(&primary, copy_of(&postgres, &theirs, None, &["LATEST"]));
    let mut copy = recovered(copy);
    assert_eq!(digest(&copy), at_cut_over);
    copy.check_relations();
    copy.stop();
    copy.verify_checksums();

    // From here on our archive takes the WAL: what follows is in another place, and the recovery finds both.
    let archiver = format!("env WALDEN_PREFIX={} {}", ours.prefix(), primary.archive_command());
    primary.sql(&format!("ALTER SYSTEM SET archive_command = '{archiver}'"));
    primary.sql("SELECT pg_reload_conf()");
    change(&primary, 2);
    primary.archive_all();
    let expected = digest(&primary);
    let listed = Cluster::empty(&postgres, &ours).env("WALDEN_LEGACY_PREFIX", &theirs.prefix());
    let list = listed.walden(&["backup-list", "--json"]).run().code(0).json();
    assert_eq!((list[0]["written_by"].as_str(), list[0]["postgres"].as_u64()), (Some("WAL-E"), Some(14)));
    let name = list[0]["id"].as_str().unwrap().to_owned();
    listed.walden(&["backup-list"]).run().code(0).stdout_has("complete, of WAL-E");
    listed.walden(&["backup-show", &name]).run().code(0).stdout_has("taken by      WAL-E");
    let copy = with_configuration(&primary, copy_of(&postgres, &ours, Some(&theirs), &[]));
    assert_eq!(digest(&recovered(copy)), expected);

    // A backup of ours is newer, and LATEST.
    let pushing = Cluster::empty(&postgres, &ours).env("PGHOST", primary.socket().to_str().unwrap());
    let pushed = pushing.walden(&["backup-push", primary.data().to_str().unwrap(), "--json"]);
    let id = pushed.env("PGHOST", primary.socket()).run().code(0).json()["id"].as_str().unwrap().to_owned();
    change(&primary, 3);
    primary.archive_all();
    let copy = copy_of(&postgres, &ours, Some(&theirs), &["LATEST", "--json"]);
    assert_eq!(digest(&recovered(copy)), digest(&primary));
    let shown = listed.walden(&["backup-list", "--json"]).run().code(0).json();
    assert_eq!((shown[0]["id"].as_str(), shown[1]["id"].as_str()), (Some(&name[..]), Some(&id[..])));

    // A standby from the old backup follows through both, over a promotion that only ours has seen.
    let standby = copy_of(&postgres, &ours, Some(&theirs), &[&name, "--standby"]);
    let standby = started(with_configuration(&primary, standby));
    standby.wait_until("the standby has all rows", |standby| {
        standby.try_sql("SELECT 1 FROM only_3").is_ok() && digest(standby) == digest(&primary)
    });
    standby.promote();
    wait_for_promotion(&standby);
}

/// WAL-E leaves the configuration out.
fn with_configuration(primary: &Cluster, copy: Cluster) -> Cluster {
    for name in ["postgresql.conf", "pg_hba.conf"] {
        assert!(!copy.data().join(name).exists());
        fs::copy(primary.data().join(name), copy.data().join(name)).unwrap();
        if let Some(user) = User::for_servers() {
            user.owns(&copy.data().join(name));
        }
    }
    copy
}
