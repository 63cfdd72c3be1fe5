//! One command at night: what a restore says before it begins, what it refuses, where it puts things, and whom they belong
//! to; on real servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};
use support::cluster::{Cluster, Postgres};
use support::place::Place;
use support::stories::{back_up, each, recovered, restore, restored, started, wait_for_promotion};
use support::user::User;
use support::walden::Walden;

/// A story for each major version, on a directory.
fn on_a_directory(story: impl Fn(&Postgres, &Place)) {
    for postgres in Postgres::each() {
        println!("-- PostgreSQL {}", postgres.major);
        story(&postgres, &Place::directory());
    }
}

/// Everything below a directory as it lies there: inode, owner, mode and content, links not followed.
fn as_it_lies(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        let metadata = next.symlink_metadata().unwrap();
        let content = if metadata.is_symlink() {
            fs::read_link(&next).unwrap().display().to_string()
        } else if metadata.is_dir() {
            open.extend(fs::read_dir(&next).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else {
            Sha256::digest(fs::read(&next).unwrap_or_default()).iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let facts = format!("{} {}:{} {:o} {content}", metadata.ino(), metadata.uid(), metadata.gid(), metadata.mode());
        found.insert(next, facts);
    }
    found
}

const ROWS: &str = "SELECT coalesce(string_agg(mark::text, ' ' ORDER BY mark), '') FROM marks";

/// The LSN so many bytes further on. PostgreSQL itself can count so from version 14 on.
fn moved(lsn: &str, bytes: i64) -> String {
    let (high, low) = lsn.split_once('/').unwrap();
    let [high, low] = [high, low].map(|half| u64::from_str_radix(half, 16).unwrap());
    let there = (high << 32 | low).strict_add_signed(bytes);
    format!("{:X}/{:X}", there >> 32, there & 0xFFFF_FFFF)
}

#[test]
fn a_dry_run_says_what_would_be_done_and_touches_nothing_and_the_report_says_what_was() {
    each(|postgres, place| {
        let primary = Cluster::primary(postgres, place);
        primary.sql("CREATE TABLE marks (mark int)");
        back_up(&primary);
        primary.sql("INSERT INTO marks VALUES (1)");
        let lsn = primary.value("SELECT pg_current_wal_insert_lsn()");
        primary.sql("INSERT INTO marks VALUES (2)");
        primary.archive_all();

        let copy = Cluster::empty(postgres, place);
        let before = as_it_lies(&copy.socket());
        let told = restore(&copy, &["--dry-run", "--target-lsn", &lsn]).code(0).stderr_is("");
        let told = told.stdout_has("recover to").stdout_has(&lsn).stdout_has("takes about").stdout_has("WAL");
        told.stdout_has(copy.data().to_str().unwrap());
        let plan = restore(&copy, &["--dry-run", "--json", "--target-xid", "4711"]).code(0).json();
        assert_eq!((&plan["timeline"], &plan["wal"]["exact"]), (&json!(1), &json!(false)));
        assert!(plan["unknown"][0].as_str().unwrap().contains("transaction 4711"), "{plan}");
        assert!(plan["next"][0].as_str().unwrap().contains(" start"), "{plan}");
        assert!(plan["next"][1].as_str().unwrap().contains("pg_wal_replay_resume"), "{plan}");
        let mut after = as_it_lies(&copy.socket());
        // What this machine remembers of the store.
        after.retain(|path, _| !path.starts_with(copy.socket().join("cache")));
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());

        let done = restore(&copy, &["--json", "--target-lsn", &lsn, "--target-action", "promote"]).code(0).json();
        assert_eq!((&done["backup"], &done["directory"]), (&plan["backup"], &json!(copy.data())));
        assert_eq!(done["target"], format!("{lsn}, then open for writing"));
        let phases: Vec<&str> =
            done["phases"].as_array().unwrap().iter().map(|lap| lap["name"].as_str().unwrap()).collect();
        assert_eq!(phases, ["looking", "preparing", "copying", "configuring", "syncing"]);
        assert!(done["peak_memory"].as_u64().unwrap() > 1 << 20 && done["plain_size"].as_u64().unwrap() > 1 << 20);
        let copy = recovered(copy);
        assert_eq!(copy.value(ROWS), "1");
    });
}

#[test]
fn a_target_outside_the_window_is_refused_in_seconds_with_the_window() {
    each(|postgres, place| {
        let primary = Cluster::primary(postgres, place);
        primary.sql("CREATE TABLE marks (mark int)");
        let before = primary.value("SELECT clock_timestamp()");
        back_up(&primary);
        primary.sql("INSERT INTO marks VALUES (1)");
        primary.archive_all();
        let after = primary.value("SELECT clock_timestamp()");
        let beyond = moved(&primary.value("SELECT pg_current_wal_insert_lsn()"), 16 << 20);

        let copy = Cluster::empty(postgres, place);
        let early = restore(&copy, &["--target-time", &before]).code(8);
        early.stderr_has("no backup leads to the target").stderr_has("recoveries can stop along timeline 1 from 2");
        let late = restore(&copy, &["--target-time", &after]).code(9);
        let late =
            late.stderr_has("the archive does not reach the target").stderr_has("the last transaction there ended");
        late.stderr_has("a recovery can stop from 2").stderr_has("pg_switch_wal()");
        restore(&copy, &["--target-lsn", &beyond]).code(9).stderr_has("a recovery can stop from 2").stderr_has(&beyond);
        assert!(!copy.data().exists());

        // Now that a later transaction is archived, the target can be reached.
        primary.sql("INSERT INTO marks VALUES (2)");
        primary.archive_all();
        restore(&copy, &["--target-time", &after, "--target-action", "promote"]).code(0);
        let copy = recovered(copy);
        assert_eq!(copy.value(ROWS), "1");
    });
}

#[test]
fn the_window_is_shown_by_the_list_and_by_the_status_with_gaps() {
    each(|postgres, place| {
        let primary = Cluster::primary(postgres, place);
        primary.sql("CREATE TABLE marks (mark int)");
        primary.archive_all();
        let none = primary.walden(&["status"]).run().code(0).stdout_has("last backup   there is none");
        none.stdout_has("stored");
        back_up(&primary);
        let mut lost = String::new();
        for mark in 0..4 {
            primary.sql(&format!("INSERT INTO marks VALUES ({mark})"));
            if mark == 2 {
                lost = primary.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
            }
            primary.archive_all();
        }
        back_up(&primary);
        primary.archive_all();

        let listed = primary.walden(&["backup-list"]).run().code(0);
        listed.stdout_has("A recovery can stop\n  on timeline 1 (latest)").stdout_has("from 2").stdout_has(" to 2");
        let status = primary.walden(&["status", "--json"]).run().code(0).json();
        assert_eq!(status[0]["backups"], 2);
        assert_eq!(status[0]["recoverable"][0]["windows"].as_array().unwrap().len(), 1, "{status}");
        let archived = primary.value("SELECT last_archived_wal FROM pg_stat_archiver");
        assert_eq!(status[0]["last_segment"]["name"], archived[..24]);
        assert!(status[0]["last_segment"]["age"].as_i64().unwrap() < 600, "{status}");
        assert_eq!(status[0]["last_backup"]["timeline"], 1);

        let key = place.keys().into_iter().find(|key| key.ends_with(&lost)).unwrap();
        place.remove(&key);
        let status = primary.walden(&["status", "--json"]).run().code(0).json();
        let reach = &status[0]["recoverable"][0];
        assert_eq!(reach["windows"].as_array().unwrap().len(), 2, "{status}");
        assert_eq!((&reach["gaps"][0]["first"], &reach["gaps"][0]["segments"]), (&json!(lost), &json!(1)));
        primary.walden(&["status"]).run().code(0).stdout_has(&format!("missing: {lost}"));
        let backups = primary.walden(&["backup-list", "--windows", "--json"]).run().code(0).json();
        assert_ne!(backups[0]["windows"][0]["end"], backups[1]["windows"][0]["end"]);
    });
}

/// The moments at which the marks were committed, to the microsecond, as the server itself records them.
fn commit_times(primary: &Cluster) -> Vec<String> {
    let times = primary.sql("SELECT pg_xact_commit_timestamp(xmin) FROM marks ORDER BY mark");
    times.into_iter().map(|mut row| row.remove(0)).collect()
}

#[test]
fn a_recovery_stops_at_the_very_commit_that_was_asked_for_and_at_the_edges_of_the_window() {
    on_a_directory(|postgres, place| {
        let mut primary = Cluster::initialized(postgres, place, &[]);
        primary.configure("track_commit_timestamp = on\n");
        primary.start();
        primary.sql("CREATE TABLE marks (mark int)");
        back_up(&primary);
        let stop = primary.walden(&["backup-show", "LATEST", "--json"]).run().code(0).json()["stop"].clone();
        for mark in 1..=4 {
            primary.sql(&format!("INSERT INTO marks VALUES ({mark})"));
        }
        let times = commit_times(&primary);
        primary.archive_all();

        let refused = |target: &[&str]| restore(&Cluster::empty(postgres, place), target);
        let rows_at = |target: &[&str]| {
            let copy = recovered(restored(postgres, place, &[target, &["--target-action", "promote"]].concat()));
            copy.value(ROWS)
        };
        assert_eq!(rows_at(&["--target-time", &times[1]]), "1 2");
        assert_eq!(rows_at(&["--target-time", &times[1], "--target-exclusive"]), "1");
        // The last commit itself: nothing later is there at which PostgreSQL would stop.
        refused(&["--target-time", &times[3]]).code(9).stderr_has("the last transaction there ended at");
        assert_eq!(rows_at(&["--target-time", &times[3], "--target-exclusive"]), "1 2 3");
        // The end of the backup is the first position, and the moment after it the first time.
        assert_eq!(rows_at(&["--target-lsn", stop.as_str().unwrap()]), "");
        let earlier = moved(stop.as_str().unwrap(), -1);
        refused(&["--target-lsn", &earlier]).code(8).stderr_has("no backup leads to the target");
        let shown = primary.walden(&["backup-show", "LATEST", "--json"]).run().code(0).json();
        refused(&["--target-time", shown["finished"].as_str().unwrap()]).code(8);

        let mut down = restored(postgres, place, &["--target-time", &times[2], "--target-action", "shutdown"]);
        assert_eq!(down.run_to_its_end(), Some(0), "{}", down.log());
        assert!(down.data().join("recovery.signal").exists());
        let paused = started(restored(postgres, place, &["--target-time", &times[2]]));
        paused.wait_until("the server pauses", |paused| paused.value("SELECT pg_is_wal_replay_paused()") == "t");
        assert_eq!(paused.value(ROWS), "1 2 3");
    });
}

#[test]
fn a_local_hour_that_comes_twice_is_told_apart_by_its_offset() {
    // Clocks in Berlin were set back on 2026-10-25 at 03:00 summer time: 02:30 came twice.
    let directory = tempfile::tempdir().unwrap();
    let place = Place::directory();
    let fetch = |time: &str| {
        let walden = place.walden(directory.path()).env("TZ", "Europe/Berlin");
        walden.args(["backup-fetch", "restored", "--target-time", time]).run()
    };
    fetch("2026-10-25 02:30").code(2).stderr_has("'2026-10-25 02:30:00Z'").stderr_has("'2026-10-25 02:30:00+02:00'");
    // In spring there was no 02:30 at all; the reading is an hour that exists.
    fetch("2026-03-29 02:30").code(2).stderr_has("'2026-03-29 02:30:00Z'").stderr_has("'2026-03-29 03:30:00+02:00'");
    // With an offset either is understood, and what is missing is the archive.
    for time in ["2026-10-25 02:30+02", "2026-10-25 02:30+01"] {
        fetch(time).code(3).stderr_has("there is no archive at");
    }
}

#[test]
fn on_either_side_of_a_fork_a_target_gives_the_rows_of_its_timeline() {
    on_a_directory(|postgres, place| {
        let mut primary = Cluster::primary(postgres, place);
        primary.sql("CREATE TABLE marks (mark int)");
        back_up(&primary);
        primary.sql("INSERT INTO marks VALUES (1)");
        primary.archive_all();
        let standby = started(restored(postgres, place, &["--standby"]));
        standby.wait_until("the standby follows", |standby| standby.value("SELECT count(*) FROM marks") == "1");
        standby.promote();
        wait_for_promotion(&standby);
        // Both go on: the old one on timeline 1, the new one on 2.
        primary.sql("INSERT INTO marks VALUES (10)");
        primary.archive_all();
        standby.sql("INSERT INTO marks VALUES (20)");
        standby.archive_all();
        let moment = standby.value("SELECT clock_timestamp()");
        for (server, mark) in [(&primary, 11), (&standby, 21)] {
            server.sql(&format!("INSERT INTO marks VALUES ({mark})"));
            server.archive_all();
        }
        primary.stop();

        let rows_at = |options: &[&str]| {
            let target = ["--target-time", &moment, "--target-action", "promote"];
            recovered(restored(postgres, place, &[&target, options].concat())).value(ROWS)
        };
        assert_eq!(rows_at(&[]), "1 20");
        assert_eq!(rows_at(&["--target-timeline", "2"]), "1 20");
        assert_eq!(rows_at(&["--target-timeline", "current"]), "1 10");
    });
}

/// A primary with three tablespaces.
fn with_tablespaces(postgres: &Postgres, place: &Place) -> (Cluster, Vec<PathBuf>) {
    let primary = Cluster::primary(postgres, place);
    let names = ["one", "two", "three"];
    let places: Vec<PathBuf> = names.iter().map(|name| primary.directory(name)).collect();
    for (name, path) in names.iter().zip(&places) {
        primary.sql(&format!("CREATE TABLESPACE {name} LOCATION '{}'", path.display()));
        primary.sql(&format!("CREATE TABLE in_{name} TABLESPACE {name} AS SELECT generate_series(1, 5000) AS n"));
        primary.sql(&format!("VACUUM in_{name}"));
    }
    back_up(&primary);
    primary.archive_all();
    (primary, places)
}

fn is_whole(cluster: &Cluster) {
    for name in ["one", "two", "three"] {
        assert_eq!(cluster.value(&format!("SELECT sum(n) FROM in_{name}")), "12502500");
    }
}

#[test]
fn a_restore_beside_its_running_original_leaves_that_untouched_wherever_it_puts_things() {
    on_a_directory(|postgres, place| {
        let (primary, places) = with_tablespaces(postgres, place);
        // What a running server changes by itself is not looked at: the tablespaces, and its links to them.
        primary.sql("CHECKPOINT");
        let looked_at = || {
            let mut all = as_it_lies(&primary.data().join("pg_tblspc"));
            places.iter().for_each(|place| all.extend(as_it_lies(place)));
            all
        };
        let original = looked_at();

        // The same places.
        let taken = Cluster::empty(postgres, place);
        restore(&taken, &[]).code(8).stderr_has("is not empty").stderr_has("--tablespace-root");
        restore(&taken, &["--dry-run"]).code(8);
        let own = primary.data();
        primary.walden(&["backup-fetch", own.to_str().unwrap()]).run().code(8).stderr_has("a server is running");
        let wal = own.join("pg_wal");
        restore(&taken, &["--tablespace-root", "all", "--waldir", wal.to_str().unwrap()])
            .code(8)
            .stderr_has("--waldir");
        assert_eq!(looked_at(), original);

        // By number, by place, and the rest below one directory.
        let mapped = Cluster::empty(postgres, place);
        let oid = primary.value("SELECT oid FROM pg_tablespace WHERE spcname = 'one'");
        let by_number = format!("{oid}={}", mapped.socket().join("first").display());
        let by_place = format!("{}={}", places[1].display(), mapped.socket().join("second").display());
        let root = mapped.socket().join("all");
        let waldir = mapped.socket().join("wal");
        let options = [
            ["--tablespace-mapping", &by_number],
            ["--tablespace-mapping", &by_place],
            ["--tablespace-root", root.to_str().unwrap()],
            ["--waldir", waldir.to_str().unwrap()],
        ];
        let told = restore(&mapped, &[&["--log-level", "info"][..], options.as_flattened()].concat()).code(0);
        // Whoever keeps a log has the plan in it.
        told.stderr_has("takes about").stderr_has(&format!("which was in {}", places[0].display()));
        mapped.verify_backup();
        assert_eq!(looked_at(), original);
        assert_eq!(fs::read_link(mapped.data().join("pg_wal")).unwrap(), waldir);
        assert!(waldir.join("archive_status").is_dir());
        let third = primary.value("SELECT oid FROM pg_tablespace WHERE spcname = 'three'");
        assert!(root.join(&third).is_dir());
        let mapped = recovered(mapped);
        is_whole(&mapped);
        let own = mapped.socket();
        let lies = mapped.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE oid >= 16384");
        assert!(lies.iter().all(|row| Path::new(&row[0]).starts_with(&own)), "{lies:?}");
        is_whole(&primary);
    });
}

#[test]
fn parts_of_a_cluster_never_lie_within_each_other_not_even_behind_links() {
    on_a_directory(|postgres, place| {
        let (primary, _) = with_tablespaces(postgres, place);
        let oid = primary.value("SELECT oid FROM pg_tablespace WHERE spcname = 'one'");
        let copy = Cluster::empty(postgres, place);
        let (data, elsewhere) = (copy.data(), copy.directory("elsewhere"));
        symlink(&elsewhere, copy.socket().join("link")).unwrap();
        symlink(copy.socket().join("nowhere"), copy.socket().join("dangling")).unwrap();
        let at = |name: &str| copy.socket().join(name).display().to_string();
        for options in [
            ["--tablespace-root", &at("data/spaces")],
            ["--tablespace-root", &at("x/../data")],
            ["--waldir", data.to_str().unwrap()],
            ["--waldir", &at("data/../data/pg_wal")],
        ] {
            let apart = ["--tablespace-root", &at("spaces")];
            let options = if options[0] == "--waldir" { [options, apart].concat() } else { options.to_vec() };
            restore(&copy, &options).code(8).stderr_has("would lie within each other").stderr_has("DIR");
        }
        let behind = ["--tablespace-root", &at("elsewhere"), "--waldir", &at("link/wal"), "--tablespace-mapping"];
        let mapping = format!("{oid}={}", at("link"));
        restore(&copy, &[&behind[..], &[&mapping]].concat()).code(8).stderr_has("would lie within each other");
        restore(&copy, &["--tablespace-root", &at("spaces"), "--waldir", &at("dangling")])
            .code(8)
            .stderr_has("leads nowhere");
        assert!(!data.exists() && fs::read_dir(&elsewhere).unwrap().next().is_none());
    });
}

#[test]
fn group_access_is_kept_in_everything_that_a_restore_writes() {
    on_a_directory(|postgres, place| {
        let mut primary = Cluster::initialized(postgres, place, &["-g"]);
        primary.start();
        back_up(&primary);
        primary.archive_all();
        for (options, group) in [(&[][..], true), (&["--target-immediate", "--target-action", "promote"], true)] {
            let copy = restored(postgres, place, options);
            assert_modes(&copy.data(), group);
            recovered(copy);
        }
        let place = Place::directory();
        let primary = Cluster::primary(postgres, &place);
        back_up(&primary);
        assert_modes(&restored(postgres, &place, &[]).data(), false);
    });
}

/// As PostgreSQL itself has them: src/include/common/file_perm.h.
fn assert_modes(data: &Path, group: bool) {
    let mut open = vec![data.to_owned()];
    while let Some(next) = open.pop() {
        let metadata = next.symlink_metadata().unwrap();
        let expected = match (metadata.is_dir(), group) {
            (true, true) => 0o750,
            (true, false) => 0o700,
            (false, true) => 0o640,
            (false, false) => 0o600,
        };
        assert_eq!(metadata.permissions().mode() & 0o777, expected, "{}", next.display());
        if metadata.is_dir() {
            open.extend(fs::read_dir(&next).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

#[test]
fn root_restores_for_an_owner_and_the_server_starts_at_once() {
    let Some(user) = User::for_servers() else {
        // Without root nobody can give files away; CI runs the tests as root.
        println!("not root: only the refusal of a foreign owner is looked at");
        return on_a_directory(|postgres, place| {
            back_up(&Cluster::primary(postgres, place));
            restore(&Cluster::empty(postgres, place), &["--owner", "nobody"]).code(4);
        });
    };
    on_a_directory(|postgres, place| {
        let (primary, _) = with_tablespaces(postgres, place);
        let copy = Cluster::empty(postgres, place);
        let by_root = |options: &[&str]| {
            let walden = Walden::at(copy.program_path(), &copy.socket()).envs(place.env());
            walden
                .args(["backup-fetch", "new/data", "--tablespace-root", "spaces", "--waldir", "wal"])
                .args(options)
                .run()
        };
        by_root(&[]).code(8).stderr_has("a cluster cannot belong to root").stderr_has("--owner postgres");
        by_root(&["--owner", "root"]).code(8).stderr_has("a cluster cannot belong to root");
        by_root(&["--owner", "nobody-of-that-name"]).code(2).stderr_has("this machine has no user");
        assert!(!copy.socket().join("new").exists());
        let owner = format!("{}:{}", user.uid(), user.gid());
        by_root(&["--owner", &owner]).code(0);
        for place in ["new", "spaces", "wal"] {
            for (path, _) in as_it_lies(&copy.socket().join(place)) {
                let metadata = path.symlink_metadata().unwrap();
                assert_eq!((metadata.uid(), metadata.gid()), (user.uid(), user.gid()), "{}", path.display());
            }
        }
        fs::rename(copy.socket().join("new/data"), copy.data()).unwrap();
        is_whole(&recovered(copy));
        drop(primary);
    });
}

#[test]
fn a_cluster_whose_configuration_lies_elsewhere_is_restored_without_it_and_started_with_it() {
    on_a_directory(|postgres, place| {
        let mut primary = Cluster::initialized(postgres, place, &[]);
        let etc = primary.directory("etc");
        let own = etc.join("15/main");
        fs::create_dir_all(&own).unwrap();
        let files = ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"];
        for name in files {
            fs::rename(primary.data().join(name), own.join(name)).unwrap();
        }
        primary.options(&config_options(&own, None));
        primary.start();
        primary.sql("CREATE TABLE marks (mark int); INSERT INTO marks VALUES (1)");
        back_up(&primary);
        primary.archive_all();

        let copy = Cluster::empty(postgres, place);
        let known = |text: &str| {
            let config = format!("{text}{}", fs::read_to_string(own.join("postgresql.conf")).unwrap());
            fs::write(own.join("postgresql.conf"), config).unwrap();
        };
        let plan = |copy: &Cluster| {
            let data = copy.data();
            let fetch = copy.walden(&["backup-fetch", data.to_str().unwrap(), "--dry-run", "--json"]);
            fetch.env("PG_CLUSTER_CONF_ROOT", &etc).run().code(0).json()
        };
        let unknown = plan(&copy);
        assert_eq!(unknown["missing_configuration"], json!(["postgresql.conf", "pg_hba.conf"]));
        assert!(unknown["next"][0].as_str().unwrap().contains("-c config_file="), "{unknown}");
        restore(&copy, &["--dry-run"]).code(0).stdout_has("not in it").stdout_has("postgresql.conf and pg_hba.conf");
        known(&format!("data_directory = '{}'\n", copy.data().display()));
        assert_eq!(plan(&copy)["next"][0], "pg_ctlcluster 15 main start");

        // Recovery settings are read from the data directory, wherever the other files lie.
        restore(&copy, &["--target-immediate", "--target-action", "promote"]).code(0);
        let mut copy = copy;
        copy.options(
            &[config_options(&own, Some(&copy.data())), vec!["-c".into(), "archive_mode=off".into()]].concat(),
        );
        let copy = started(copy);
        wait_for_promotion(&copy);
        assert_eq!(copy.value(ROWS), "1");
    });
}

fn config_options(directory: &Path, data: Option<&Path>) -> Vec<String> {
    let at = |name: &str| directory.join(name).display().to_string();
    let mut options = vec![
        format!("config_file={}", at("postgresql.conf")),
        format!("hba_file={}", at("pg_hba.conf")),
        format!("ident_file={}", at("pg_ident.conf")),
    ];
    options.extend(data.map(|data| format!("data_directory={}", data.display())));
    options.into_iter().flat_map(|option| ["-c".to_owned(), option]).collect()
}

#[test]
fn a_standby_follows_the_archive_while_its_primary_is_away_and_streams_when_it_is_there() {
    on_a_directory(|postgres, place| {
        let mut primary = Cluster::primary(postgres, place);
        primary.sql("CREATE TABLE marks (mark int); SELECT pg_create_physical_replication_slot('s1')");
        back_up(&primary);
        primary.sql("INSERT INTO marks VALUES (1)");
        primary.archive_all();
        let conninfo = format!("host={} user=postgres password=hunter2", primary.socket().display());
        let standby = Cluster::empty(postgres, place);
        let options = ["--standby", "--primary-conninfo", &conninfo, "--slot", "s1"];
        let ran = restore(&standby, &options).code(0);
        ran.stderr_has("holds a password").stderr_lacks("hunter2").stdout_is("");
        let written = standby.data().join("postgresql.auto.conf");
        assert_eq!(fs::metadata(&written).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(&written).unwrap().contains("primary_slot_name = 's1'"));

        primary.stop();
        let standby = started(standby);
        let rows = |standby: &Cluster| standby.value("SELECT count(*) FROM marks");
        standby.wait_until("it follows the archive", |standby| rows(standby) == "1");
        primary.start();
        primary.sql("INSERT INTO marks VALUES (2)");
        // Nothing is archived: it can only have come over the stream.
        standby.wait_until("it streams", |standby| rows(standby) == "2");
        assert_eq!(standby.value("SELECT status FROM pg_stat_wal_receiver"), "streaming");
        assert_eq!(primary.value("SELECT active FROM pg_replication_slots"), "t");
        assert!(standby.is_in_recovery());
    });
}

#[test]
fn what_a_restore_was_told_by_flags_is_in_a_command_that_the_server_can_run() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let primary = Cluster::primary(&postgres, &place);
        primary.sql("CREATE TABLE kept AS SELECT 1 AS one");
        back_up(&primary);
        let system = primary.value("SELECT system_identifier FROM pg_control_system()");
        let copy = restored(&postgres, &place, &["--system-id", &system]);
        assert_eq!(recovered(copy).value("SELECT one FROM kept"), "1");
    }
}
