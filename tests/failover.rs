//! High availability: the primary dies, a standby takes over, the others follow, and the archive has all of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::fs;

use support::cluster::{Cluster, Postgres};
use support::place::Place;
use support::s3::{Fault, On, Op};
use support::stories::{back_up, recovered, restore, restored, started, wait_for_promotion};

fn marks(cluster: &Cluster) -> String {
    cluster.value("SELECT coalesce(string_agg(mark::text, ' ' ORDER BY mark), '') FROM marks")
}

fn mark(cluster: &Cluster, mark: u32) {
    cluster.sql(&format!("INSERT INTO marks VALUES ({mark})"));
    cluster.sql("SELECT pg_switch_wal()");
}

/// A primary with a table, a backup, and the number 1.
fn primary(postgres: &Postgres, place: &Place) -> Cluster {
    let mut primary = Cluster::initialized(postgres, place, &[]).env("WALDEN_RETRY_TIMEOUT", "10s");
    primary.start();
    primary.sql("CREATE TABLE marks (mark int)");
    back_up(&primary);
    mark(&primary, 1);
    primary.archive_all();
    primary
}

fn standby(postgres: &Postgres, place: &Place, settings: &str) -> Cluster {
    let cluster = Cluster::empty(postgres, place).env("WALDEN_RETRY_TIMEOUT", "10s");
    restore(&cluster, &["--standby", "--retry-timeout", "10s"]).code(0);
    cluster.configure(settings);
    started(cluster)
}

fn block(place: &Place) {
    place.service().fail_always(On::op(Op::Put), Fault::Status(503, "SlowDown"));
}

fn segments(place: &Place, timeline: &str) -> Vec<u64> {
    let names = place.keys().into_iter().filter_map(|key| Some(key.rsplit_once('/')?.1.to_owned()));
    let names = names.filter(|name| name.len() == 24 && name.starts_with(timeline));
    names.map(|name| u64::from_str_radix(&name[16..], 16).unwrap()).collect()
}

fn has_no_gap(numbers: &[u64]) {
    assert!(!numbers.is_empty() && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
}

/// Both archive the same segments at the same time, and neither fails over it. When the primary dies while the archive is
/// out of reach, the standby archives what the primary could not, then the end of the old timeline and its own history.
#[test]
fn a_standby_that_archives_always_leaves_no_gap_when_it_takes_over_from_a_primary_that_could_not_archive() {
    for postgres in Postgres::each() {
        let place = Place::s3();
        let mut primary = primary(&postgres, &place);
        let upstream = format!("primary_conninfo = 'host={} user=postgres'\n", primary.socket().display());
        let first = standby(&postgres, &place, &format!("archive_mode = always\n{upstream}"));
        let second = standby(&postgres, &place, "");
        first.wait_until("the standby streams", |_| primary.value("SELECT count(*) FROM pg_stat_replication") == "1");
        for number in 2..=6 {
            mark(&primary, number);
        }
        primary.archive_all();
        let archived = |cluster: &Cluster| cluster.value("SELECT last_archived_wal FROM pg_stat_archiver");
        first.wait_until("the standby has archived too", |first| archived(first) >= archived(&primary));
        for server in [&primary, &first] {
            assert_eq!(server.value("SELECT failed_count FROM pg_stat_archiver"), "0", "{}", server.log());
        }

        block(&place);
        for number in 7..=9 {
            mark(&primary, number);
        }
        primary.sql("INSERT INTO marks VALUES (10)");
        first.wait_until("the standby has all", |first| marks(first) == "1 2 3 4 5 6 7 8 9 10");
        primary.kill();
        first.promote();
        wait_for_promotion(&first);
        mark(&first, 11);
        place.service().heal();
        first.archive_all();

        has_no_gap(&segments(&place, "00000001"));
        has_no_gap(&segments(&place, "00000002"));
        let names = place.keys();
        for end in ["/00000002.history", ".partial"] {
            assert!(names.iter().any(|name| name.ends_with(end)), "{end}: {names:?}");
        }
        let all = "1 2 3 4 5 6 7 8 9 10 11";
        second.wait_until("the other standby follows", |second| marks(second) == all);
        assert!(second.is_in_recovery());
        assert_eq!(marks(&recovered(restored(&postgres, &place, &[]))), all);
    }
}

/// A standby that is not set to archive always knows what the primary could not archive, but does not offer it.
#[test]
fn the_hole_that_a_dead_primary_leaves_is_filled_from_the_promoted_standby() {
    for postgres in Postgres::each() {
        let place = Place::s3();
        let mut primary = primary(&postgres, &place);
        let upstream = format!("primary_conninfo = 'host={} user=postgres'\n", primary.socket().display());
        // The checkpoint after a promotion removes what is marked as done unless it is told to keep some.
        let first = standby(&postgres, &place, &format!("wal_keep_size = '1GB'\n{upstream}"));
        let second = standby(&postgres, &place, "");
        first.wait_until("the standby streams", |_| primary.value("SELECT count(*) FROM pg_stat_replication") == "1");
        second.wait_until("the other standby has what there is", |second| marks(second) == "1");
        block(&place);
        for number in 2..=4 {
            mark(&primary, number);
        }
        first.wait_until("the standby has all", |first| marks(first) == "1 2 3 4");
        primary.kill();
        first.promote();
        wait_for_promotion(&first);
        mark(&first, 5);
        place.service().heal();
        first.archive_all();

        let all = || [segments(&place, "00000001"), segments(&place, "00000002")].concat();
        assert!(all().windows(2).any(|pair| pair[1] > pair[0] + 1), "there is no hole: {:?}", all());
        assert_eq!(marks(&second), "1");
        first.walden(&["wal-backfill", first.data().to_str().unwrap()]).run().code(0);
        assert!(all().windows(2).all(|pair| pair[1] <= pair[0] + 1), "{:?}", all());
        second.wait_until("the other standby follows", |second| marks(second) == "1 2 3 4 5");
        assert_eq!(marks(&recovered(restored(&postgres, &place, &[]))), "1 2 3 4 5");
    }
}

/// The primary dies with WAL that nobody else has. It comes back by pg_rewind, which finds in the archive what the primary
/// itself no longer has.
#[test]
fn an_old_primary_comes_back_by_pg_rewind_with_wal_from_the_archive() {
    for postgres in Postgres::each() {
        if !postgres.tool("pg_rewind").exists() {
            eprintln!("SKIPPED: PostgreSQL {} comes without pg_rewind", postgres.major);
            continue;
        }
        let place = Place::s3();
        let mut primary = primary(&postgres, &place);
        let (first, second) = (standby(&postgres, &place, ""), standby(&postgres, &place, ""));
        mark(&primary, 2);
        primary.archive_all();
        first.wait_until("the standby follows", |first| marks(first) == "1 2");

        block(&place);
        // After the checkpoint, crash recovery of the old primary needs nothing that was archived.
        mark(&primary, 100);
        primary.sql("CHECKPOINT");
        mark(&primary, 101);
        primary.kill();
        first.promote();
        wait_for_promotion(&first);
        // pg_rewind reads the new timeline in the control file, which the next checkpoint brings up to date.
        first.sql("CHECKPOINT");
        mark(&first, 3);
        place.service().heal();
        first.archive_all();
        second.wait_until("the other standby follows", |second| marks(second) == "1 2 3");

        remove_archived_segments(&primary);
        primary.configure(&format!("restore_command = '{}'\n", primary.restore_command()));
        let source = format!("host={} user=postgres dbname=postgres", first.socket().display());
        let rewind = ["--restore-target-wal", "--target-pgdata", "data", "--source-server", &source];
        place.service().forget_requests();
        primary.program("pg_rewind", &rewind);
        let fetched =
            place.service().requests().iter().filter(|request| request.key.contains("/wal/00000001/")).count();
        assert!(fetched > 0, "pg_rewind has needed no archive");
        fs::write(primary.data().join("standby.signal"), "").unwrap();
        mark(&first, 4);
        // It is consistent where the new primary was when it was read, and that must be in the archive.
        first.archive_all();
        primary.start();
        for server in [&primary, &second] {
            server.wait_until("it follows the new primary", |server| marks(server) == "1 2 3 4");
            assert!(server.is_in_recovery());
        }
    }
}

/// What the checkpoint has not removed already.
fn remove_archived_segments(primary: &Cluster) {
    let wal = primary.data().join("pg_wal");
    let status = fs::read_dir(wal.join("archive_status")).unwrap();
    let names = status.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    for name in names.filter_map(|name| name.strip_suffix(".done").map(str::to_owned)) {
        let _ = fs::remove_file(wal.join(name));
    }
}
