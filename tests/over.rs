//! Restores of a part, and restores over what is there: `--only-database` and `--delta`, on real servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use support::cluster::{Cluster, Postgres};
use support::place::{Place, files_below};
use support::random::Random;
use support::s3::Op;
use support::stories::{back_up, recovered, restore, started, wait_for_promotion};
use support::user::User;

const COUNTS: &str =
    "SELECT (SELECT count(*) FROM large), (SELECT count(*) FROM elsewhere), (SELECT sum(i) FROM large)";

/// A cluster of some 40 MB with a tablespace, backed up, and what it holds.
fn backed_up(postgres: &Postgres, place: &Place) -> (Cluster, Vec<Vec<String>>) {
    let primary = Cluster::primary(postgres, place);
    let space = primary.directory("space");
    primary.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    primary.sql("CREATE TABLE large AS SELECT i, md5(i::text) AS text FROM generate_series(1, 150000) i");
    primary.sql("CREATE TABLE elsewhere TABLESPACE space AS SELECT * FROM large LIMIT 50000");
    back_up(&primary);
    let counts = primary.sql(COUNTS);
    (primary, counts)
}

fn each(story: impl Fn(&Postgres, &Place)) {
    for postgres in Postgres::each() {
        println!("-- PostgreSQL {}", postgres.major);
        story(&postgres, &Place::s3());
    }
}

/// What the copy is restored with: its tablespace lies beside it.
fn options(cluster: &Cluster) -> Vec<String> {
    vec!["--tablespace-root".to_owned(), cluster.data().with_file_name("spaces").to_str().unwrap().to_owned()]
}

fn restore_copy(cluster: &Cluster, more: &[&str]) -> support::walden::Ran {
    let options = options(cluster);
    let options: Vec<&str> = options.iter().map(String::as_str).chain(more.iter().copied()).collect();
    restore(cluster, &options)
}

fn owned(path: &Path) {
    if let Some(user) = User::for_servers() {
        user.owns(path);
    }
}

#[test]
fn over_an_old_cluster_only_what_differs_is_fetched_and_the_result_is_the_backup() {
    each(|postgres, place| {
        let (_primary, counts) = backed_up(postgres, place);
        let copy = Cluster::empty(postgres, place);
        restore_copy(&copy, &[]).code(0);
        let data = copy.data();
        let file = |path: &str| data.join(path);
        let large = large_file(&data);
        let (before, equal) = (fs::metadata(&large).unwrap(), file("base/1/2619"));

        // What an old cluster has that the backup has not, and has otherwise.
        let mut random = Random::announced();
        fs::create_dir_all(file("base/99999")).unwrap();
        fs::write(file("base/99999/1"), "foreign").unwrap();
        fs::write(file("base/1/foreign"), "foreign").unwrap();
        fs::write(file("pg_wal/000000010000000000000001"), "old").unwrap();
        fs::remove_file(file("PG_VERSION")).unwrap();
        let changed = file("base/1/1259");
        let mut bytes = fs::read(&changed).unwrap();
        let (at, times) = (random.below(bytes.len() as u64) as usize, fs::metadata(&changed).unwrap());
        bytes[at] ^= 1;
        fs::write(&changed, bytes).unwrap();
        // It looks as it was: only its content tells.
        fs::File::options().write(true).open(&changed).unwrap().set_modified(times.modified().unwrap()).unwrap();
        fs::File::options().write(true).open(&equal).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
        for path in files_below(&data) {
            owned(&data.join(path));
        }
        owned(&file("base/99999"));
        symlink("/nowhere", file("dangling")).unwrap();

        place.service().forget_requests();
        restore_copy(&copy, &[]).code(8).stderr_has("is not empty").stderr_has("--delta");
        let report = restore_copy(&copy, &["--delta", "--json"]).code(0).json();
        let (kept, all) = (report["kept"]["bytes"].as_u64().unwrap(), report["plain_size"].as_u64().unwrap());
        assert!(kept > all * 9 / 10 && kept < all, "{kept} of {all} bytes were kept");
        let requests = place.service().requests();
        let parts = requests.iter().filter(|request| request.op == Op::Get && request.key.contains("/v"));
        let ranges: Vec<&str> = parts.map(|request| request.header("range")).collect();
        assert!(!ranges.is_empty() && ranges.iter().all(|range| range.starts_with("bytes=")), "{ranges:?}");
        assert_eq!(fs::metadata(&large).unwrap().ino(), before.ino(), "an equal file was replaced");
        for gone in ["base/99999", "base/1/foreign", "dangling", "pg_wal/000000010000000000000001"] {
            assert!(file(gone).symlink_metadata().is_err(), "{gone}");
        }
        copy.verify_backup();
        let copy = recovered(copy);
        assert_eq!(copy.sql(COUNTS), counts);
    });
}

/// The largest file of the cluster.
fn large_file(data: &Path) -> PathBuf {
    let files = files_below(data).into_iter().map(|path| data.join(path));
    files.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

#[test]
fn a_cluster_that_has_run_meanwhile_goes_back_to_its_backup() {
    each(|postgres, place| {
        let (_primary, counts) = backed_up(postgres, place);
        let copy = Cluster::empty(postgres, place);
        restore_copy(&copy, &[]).code(0);
        let mut copy = recovered(copy);
        copy.sql("DELETE FROM large WHERE i % 2 = 0");
        copy.sql("VACUUM FULL large");
        copy.sql("TRUNCATE elsewhere");
        copy.sql("CREATE DATABASE more");
        restore_copy(&copy, &["--delta"]).code(8).stderr_has("a server is running");
        copy.stop();
        restore_copy(&copy, &["--delta", "--target-immediate", "--target-action", "promote"]).code(0);
        copy.verify_backup();
        copy.configure("archive_mode = off\n");
        let copy = started(copy);
        wait_for_promotion(&copy);
        assert_eq!(copy.sql(COUNTS), counts);
        assert_eq!(copy.value("SELECT count(*) FROM pg_database WHERE datname = 'more'"), "0");
    });
}

#[test]
fn wal_on_another_disk_stays_there_also_behind_a_relative_link() {
    let (postgres, place) = (Postgres::each().remove(0), Place::directory());
    let (_primary, counts) = backed_up(&postgres, &place);
    let copy = Cluster::empty(&postgres, &place);
    restore_copy(&copy, &["--waldir", "wal"]).code(0);
    let (link, wal) = (copy.data().join("pg_wal"), copy.socket().join("wal"));
    fs::remove_file(&link).unwrap();
    symlink("../wal", &link).unwrap();
    let old = wal.join("000000010000000000000001");
    fs::write(&old, "old").unwrap();
    restore_copy(&copy, &["--delta"]).code(0);
    assert_eq!(fs::canonicalize(&link).unwrap(), fs::canonicalize(&wal).unwrap());
    assert!(wal.join("archive_status").is_dir() && !old.exists());
    copy.verify_backup();
    assert_eq!(recovered(copy).sql(COUNTS), counts);
}

#[test]
fn nothing_but_the_same_cluster_is_restored_over() {
    let (postgres, place) = (Postgres::each().remove(0), Place::s3());
    let (primary, _) = backed_up(&postgres, &place);
    let other = Cluster::initialized(&postgres, &Place::directory(), &[]);
    let before = files_below(&other.data());
    let data = other.data();
    let over = |directory: &Path, more: &[&str]| {
        let words = [&["backup-fetch", directory.to_str().unwrap(), "--delta"], more].concat();
        primary.walden(&words).run()
    };
    let root = options(&other);
    let root: Vec<&str> = root.iter().map(String::as_str).collect();
    over(&data, &root).code(8).stderr_has("over a data directory of the same cluster only");
    assert_eq!(files_below(&data), before);

    // The tablespace of the running original is not that of the copy, even where nobody says otherwise.
    let copy = Cluster::empty(&postgres, &place);
    restore_copy(&copy, &[]).code(0);
    over(&copy.data(), &[]).code(8).stderr_has("--tablespace-mapping");
    assert_eq!(primary.value("SELECT count(*) FROM elsewhere"), "50000");
}

#[test]
fn a_restore_over_that_was_killed_cannot_start_and_goes_on() {
    let (postgres, place) = (Postgres::each().remove(0), Place::s3());
    let (_primary, counts) = backed_up(&postgres, &place);
    let copy = Cluster::empty(&postgres, &place);
    restore_copy(&copy, &[]).code(0);
    let mut random = Random::announced();
    let mut interrupted = false;
    for round in 0..40 {
        // What comes afterwards needs one that was interrupted.
        if round >= 6 && interrupted {
            break;
        }
        for path in files_below(&copy.data()).iter().filter(|_| random.below(3) == 0) {
            // The links to tablespaces say whose they are.
            if path != ".walden-restore" && path != "global/pg_control" && !path.starts_with("pg_tblspc/") {
                fs::remove_file(copy.data().join(path)).unwrap();
            }
        }
        let options = options(&copy);
        let data = copy.data();
        let words = ["backup-fetch", data.to_str().unwrap(), "--delta"];
        let words: Vec<&str> = words.into_iter().chain(options.iter().map(String::as_str)).collect();
        let mut child = copy.walden(&words).spawn();
        let marker = copy.data().join(".walden-restore");
        while !marker.exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        std::thread::sleep(std::time::Duration::from_millis(random.below(300)));
        child.kill().unwrap();
        child.wait().unwrap();
        let control = copy.data().join("global/pg_control").exists();
        println!("killed: marked {}, control file {control}", marker.exists());
        // The control file goes right after the marker has come, and comes right before the marker goes.
        interrupted = marker.exists() && !control;
    }
    assert!(interrupted, "all of them were too quick");
    // Clearing all away would take what is none of ours from the places of the tablespaces.
    restore_copy(&copy, &[]).code(8).stderr_has("Run the same command again, with --delta");
    restore_copy(&copy, &["--delta"]).code(0);
    copy.verify_backup();
    assert_eq!(recovered(copy).sql(COUNTS), counts);
}

/// Everything is there already, the control file too, still by the name under which it waits for the end.
#[test]
fn a_restore_over_that_was_killed_in_its_last_moment_goes_on() {
    let (postgres, place) = (Postgres::each().remove(0), Place::directory());
    let (_primary, counts) = backed_up(&postgres, &place);
    let copy = Cluster::empty(&postgres, &place);
    restore_copy(&copy, &[]).code(0);
    let control = copy.data().join("global/pg_control");
    fs::rename(&control, control.with_extension("walden-restore")).unwrap();
    fs::write(copy.data().join(".walden-restore"), r#"{"outside": [], "over": true}"#).unwrap();
    restore_copy(&copy, &["--delta"]).code(0);
    copy.verify_backup();
    assert_eq!(recovered(copy).sql(COUNTS), counts);
}

#[test]
fn one_database_is_restored_and_the_others_are_zeros_that_can_be_dropped() {
    each(|postgres, place| {
        let primary = Cluster::primary(postgres, place);
        let space = primary.directory("space");
        primary.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
        for (name, tablespace) in [("shop", "pg_default"), ("old", "pg_default"), ("older", "space")] {
            primary.sql(&format!("CREATE DATABASE {name} TABLESPACE {tablespace}"));
            primary.sql_in(name, "CREATE TABLE t AS SELECT i, md5(i::text) AS text FROM generate_series(1, 60000) i");
        }
        back_up(&primary);
        // What the WAL says of the others is replayed over zeros.
        for name in ["shop", "old", "older"] {
            primary.sql_in(name, "UPDATE t SET i = -i WHERE i % 3 = 0");
            primary.sql_in(name, "CREATE TABLE later AS SELECT * FROM t");
        }
        primary.archive_all();

        let copy = Cluster::empty(postgres, place);
        restore_copy(&copy, &["--only-database", "nothing"]).code(8).stderr_has("\"shop\"");
        restore_copy(&copy, &["--only-database", "shop", "--standby"]).code(2);
        let report = restore_copy(&copy, &["--only-database", "shop", "--json"]).code(0).json();
        assert_eq!(report["left_out"], serde_json::json!(["old", "older"]));
        let steps: Vec<&str> = report["next"].as_array().unwrap().iter().map(|step| step.as_str().unwrap()).collect();
        assert!(steps.iter().any(|step| step.contains("DROP DATABASE \"older\"")), "{steps:?}");
        let oid = primary.value("SELECT oid FROM pg_database WHERE datname = 'old'");
        let hollow = fs::read_dir(copy.data().join(format!("base/{oid}"))).unwrap().map(|file| file.unwrap());
        let blocks: u64 =
            hollow.filter(|f| f.file_name() != "PG_VERSION").map(|f| f.metadata().unwrap().blocks()).sum();
        assert_eq!(blocks, 0, "zeros take room on the disk");

        let copy = recovered(copy);
        assert_eq!(
            copy.sql_in("shop", "SELECT count(*), count(*) FILTER (WHERE i < 0) FROM later"),
            [["60000", "20000"]]
        );
        copy.sql("DROP DATABASE old");
        copy.sql("DROP DATABASE older");
        copy.sql("CHECKPOINT");
        assert_eq!(
            copy.value("SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE oid >= 16384"),
            "shop"
        );
    });
}
