//! The whole job on real servers: archive, back up under load, restore, follow, stop where asked.
//!
//! Every story runs on a directory and on S3, with the same words, for each major version in `PG_VERSIONS`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::cluster::Cluster;
use support::load::{Load, audit, open_books};
use support::place::files_below;
use support::random::Random;
use support::stories::{back_up, complete_backups, each, recovered, restore, restored, started, wait_for_promotion};
use support::walden::Walden;

#[test]
fn a_backup_taken_under_load_restores_whole_with_every_archived_row_and_feeds_a_standby() {
    each(|postgres, place| {
        let primary = Cluster::primary(postgres, place);
        open_books(&primary);
        let load = Load::start(&primary);
        std::thread::sleep(Duration::from_secs(1));
        back_up(&primary).stdout_is("");
        std::thread::sleep(Duration::from_secs(1));
        let booked = load.stop();
        primary.archive_all();
        assert_eq!(audit(&primary), booked);

        let copy = restored(postgres, place, &[]);
        copy.verify_backup();
        let copy = recovered(copy);
        assert_eq!(audit(&copy), booked);
        copy.check_pages();

        let standby = started(restored(postgres, place, &["--standby"]));
        standby.wait_until("the standby has all bookings", |standby| audit(standby) == booked);
        assert!(standby.is_in_recovery());
        primary.sql("CREATE TABLE late AS SELECT 42 AS answer");
        primary.archive_all();
        standby.wait_until("the standby follows", |standby| standby.try_sql("SELECT answer FROM late").is_ok());

        assert_eq!(complete_backups(&primary), 1);
    });
}

#[test]
fn a_promoted_standby_archives_its_history_and_a_new_standby_follows_onto_its_timeline() {
    each(|postgres, place| {
        let mut primary = Cluster::primary(postgres, place);
        primary.sql("CREATE TABLE marks (mark int); INSERT INTO marks VALUES (1)");
        back_up(&primary);
        let standby = started(restored(postgres, place, &["--standby"]));
        let second = started(restored(postgres, place, &["--standby"]));
        primary.sql("INSERT INTO marks VALUES (2)");
        primary.archive_all();
        let marks = |cluster: &Cluster| cluster.value("SELECT count(*) FROM marks");
        standby.wait_until("the standby follows", |standby| marks(standby) == "2");
        primary.kill();

        standby.promote();
        wait_for_promotion(&standby);
        standby.sql("INSERT INTO marks VALUES (3)");
        standby.archive_all();
        assert!(place.keys().iter().any(|key| key.ends_with("/wal/00000002.history")), "{:?}", place.keys());
        second.wait_until("the second standby follows", |second| marks(second) == "3");
        assert!(second.is_in_recovery());
    });
}

/// A primary with a backup and then five marked rows, each in a transaction of its own.
struct Marks {
    time: Vec<String>,
    lsn: Vec<String>,
    xid: Vec<String>,
}

fn mark(primary: &Cluster) -> Marks {
    let mut marks = Marks { time: Vec::new(), lsn: Vec::new(), xid: Vec::new() };
    for number in 1..=5 {
        let insert = format!("INSERT INTO marks VALUES ({number}) RETURNING pg_current_xact_id()::text");
        marks.xid.push(primary.value(&insert));
        marks.lsn.push(primary.value("SELECT pg_current_wal_insert_lsn()"));
        std::thread::sleep(Duration::from_millis(20));
        marks.time.push(primary.value("SELECT clock_timestamp()"));
        std::thread::sleep(Duration::from_millis(20));
        primary.sql(&format!("SELECT pg_create_restore_point('after {number}')"));
    }
    marks
}

#[test]
fn a_restore_stops_on_the_asked_marker_and_not_one_row_later() {
    each(|postgres, place| {
        let primary = Cluster::primary(postgres, place);
        primary.sql("CREATE TABLE marks (mark int)");
        let before = primary.value("SELECT clock_timestamp()");
        primary.archive_all();
        restore(&Cluster::empty(postgres, place), &[]).code(1);
        back_up(&primary);
        let marks = mark(&primary);
        primary.archive_all();

        let rows_at = |target: &[&str]| {
            let copy = recovered(restored(postgres, place, &[target, &["--target-action", "promote"]].concat()));
            copy.value("SELECT coalesce(string_agg(mark::text, ' ' ORDER BY mark), '') FROM marks")
        };
        assert_eq!(rows_at(&["--target-name", "after 2"]), "1 2");
        assert_eq!(rows_at(&["--target-time", &marks.time[2]]), "1 2 3");
        assert_eq!(rows_at(&["--target-lsn", &marks.lsn[3]]), "1 2 3 4");
        assert_eq!(rows_at(&["--target-xid", &marks.xid[3]]), "1 2 3 4");
        assert_eq!(rows_at(&["--target-xid", &marks.xid[3], "--target-exclusive"]), "1 2 3");
        assert_eq!(rows_at(&["--target-immediate"]), "");

        // Left to itself a restored server waits at the target for a person's word.
        let paused = started(restored(postgres, place, &["--target-name", "after 1"]));
        paused.wait_until("the server pauses", |paused| paused.value("SELECT pg_is_wal_replay_paused()") == "t");
        assert_eq!(paused.value("SELECT count(*) FROM marks"), "1");

        let impossible = Cluster::empty(postgres, place);
        let refused = restore(&impossible, &["--target-time", &before]);
        assert_ne!(refused.code, Some(0), "{refused}");
        assert!(!impossible.data().join("global").exists(), "{refused}");
    });
}

#[test]
fn tablespaces_come_back_to_their_places_or_to_mapped_ones() {
    each(|postgres, place| {
        let mut primary = Cluster::primary(postgres, place);
        let (one, two) = (primary.directory("one"), primary.directory("two"));
        for (name, path) in [("one", &one), ("two", &two)] {
            primary.sql(&format!("CREATE TABLESPACE {name} LOCATION '{}'", path.display()));
            primary.sql(&format!("CREATE TABLE in_{name} TABLESPACE {name} AS SELECT generate_series(1, 5000) AS n"));
            // Otherwise the server does it in its own time, and the files are others then.
            primary.sql(&format!("VACUUM in_{name}"));
        }
        back_up(&primary);
        primary.archive_all();
        let original = files_below(&one);
        let whole = |cluster: &Cluster| {
            for table in ["in_one", "in_two"] {
                assert_eq!(cluster.value(&format!("SELECT sum(n) FROM {table}")), "12502500");
            }
        };

        let mapped = Cluster::empty(postgres, place);
        let mappings: Vec<String> = [("one", &one), ("two", &two)]
            .map(|(name, path)| format!("{}={}", path.display(), mapped.socket().join(name).display()))
            .into();
        restore(&mapped, &["--tablespace-mapping", &mappings[0], "--tablespace-mapping", &mappings[1]]).code(0);
        mapped.verify_backup();
        let mapped = recovered(mapped);
        whole(&mapped);
        assert!(
            mapped
                .value("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'one'")
                .starts_with(mapped.socket().to_str().unwrap())
        );
        assert_eq!(files_below(&one), original);

        // The places are taken by the original: no second server may share them.
        let taken = Cluster::empty(postgres, place);
        restore(&taken, &[]).code(8).stderr_has(one.to_str().unwrap());
        assert_eq!(files_below(&one), original);
        primary.stop();
        for path in [&one, &two] {
            for entry in fs::read_dir(path).unwrap() {
                fs::remove_dir_all(entry.unwrap().path()).unwrap();
            }
        }
        let same = recovered(restored(postgres, place, &[]));
        whole(&same);
        assert!(!files_below(&one).is_empty());
    });
}

#[test]
fn a_volume_opens_with_cat_zstd_and_tar() {
    each(|postgres, place| {
        let primary = Cluster::primary(postgres, place);
        open_books(&primary);
        back_up(&primary);
        let scratch = tempfile::tempdir().unwrap();
        let keys = place.keys();
        let parts: Vec<&String> = keys.iter().filter(|key| key.contains("/backup/") && key.contains("/v")).collect();
        assert!(!parts.is_empty(), "{keys:?}");
        for key in parts {
            let path = scratch.path().join(key.rsplitn(3, '/').take(2).collect::<Vec<_>>().join("-of-"));
            fs::write(path, place.get(key).unwrap()).unwrap();
        }
        // Files are named PART-of-vN here, and a shell sorts them as it sorts v0/*.
        let volumes =
            "for v in $(ls *-of-* | sed 's/.*-of-//' | sort -u); do cat *-of-$v | zstd -dc | tar x || exit 1; done";
        shell(scratch.path(), volumes);
        for name in ["PG_VERSION", "global/pg_filenode.map", "base/1/PG_VERSION", "postgresql.conf"] {
            let (by_hand, original) = (scratch.path().join(name), primary.data().join(name));
            assert_eq!(fs::read(by_hand).unwrap(), fs::read(original).unwrap(), "{name}");
        }
        let manifest = keys.iter().find(|key| key.ends_with("/backup.json")).unwrap();
        fs::write(scratch.path().join("backup.json"), place.get(manifest).unwrap()).unwrap();
        shell(scratch.path(), "jq -e . backup.json >/dev/null");
    });
}

fn shell(directory: &Path, script: &str) {
    let output = Command::new("bash").args(["-eu", "-o", "pipefail", "-c", script]).current_dir(directory).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_backup_killed_at_any_moment_is_no_backup_and_the_next_one_is() {
    each(|postgres, place| {
        let mut random = Random::announced();
        let primary = Cluster::primary(postgres, place);
        open_books(&primary);
        // An archive that is there, however soon the first kill comes.
        primary.archive_all();
        for _ in 0..6 {
            let push = primary.walden(&["backup-push", primary.data().to_str().unwrap()]);
            kill_within(push, random.below(1500));
            let committed = || place.keys().iter().filter(|key| key.ends_with("/backup.json")).count();
            // The service may be storing what the killed process sent last.
            let before = committed();
            let complete = complete_backups(&primary);
            assert!((before..=committed()).contains(&complete), "{complete} backups, {before} were committed");
        }
        back_up(&primary);
        primary.archive_all();
        let copy = restored(postgres, place, &[]);
        copy.verify_backup();
        let copy = recovered(copy);
        audit(&copy);
    });
}

#[test]
fn a_restore_killed_at_any_moment_cannot_be_started_and_the_next_one_can() {
    each(|postgres, place| {
        let mut random = Random::announced();
        let primary = Cluster::primary(postgres, place);
        open_books(&primary);
        back_up(&primary);
        for _ in 0..6 {
            let copy = Cluster::empty(postgres, place);
            let fetch = copy.walden(&["backup-fetch", copy.data().to_str().unwrap()]);
            let ended_well = kill_within(fetch, random.below(600));
            // With this file the restore is complete, even if the kill came before the exit.
            let complete = copy.data().join("global/pg_control").exists();
            assert!(complete || !ended_well);
            if !complete {
                restore(&copy, &[]).code(0);
            }
            copy.verify_backup();
            let copy = recovered(copy);
            audit(&copy);
        }
    });
}

/// Kills it after so many milliseconds; whether it had ended well by then.
fn kill_within(walden: Walden, milliseconds: u64) -> bool {
    let mut running = walden.spawn();
    std::thread::sleep(Duration::from_millis(milliseconds));
    running.kill().unwrap();
    running.wait().unwrap().success()
}
