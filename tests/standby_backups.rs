//! Base backups of standbys: whole, honest about what their WAL waits for, and void when the standby is promoted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::time::{Duration, Instant};

use support::cluster::{Cluster, Postgres};
use support::front::{Front, Script, Way};
use support::load::{Load, audit, fill, open_books};
use support::place::Place;
use support::stories::{back_up, complete_backups, each, recovered, restored, started, wait_for_promotion};
use support::walden::{Ran, Walden};

/// A primary with some data, a backup, and these settings.
fn primary(postgres: &Postgres, place: &Place, settings: &str) -> Cluster {
    let mut primary = Cluster::initialized(postgres, place, &[]);
    primary.configure(settings);
    primary.start();
    open_books(&primary);
    back_up(&primary);
    primary
}

/// A standby that follows the archive, or that streams as well.
fn standby(primary: &Cluster, place: &Place, streams: bool) -> Cluster {
    let standby = restored(primary.postgres(), place, &["--standby"]);
    if streams {
        standby.configure(&format!("primary_conninfo = 'host={} user=postgres'\n", primary.socket().display()));
    }
    let standby = started(standby);
    if streams {
        let streaming = |_: &Cluster| primary.value("SELECT count(*) FROM pg_stat_replication") == "1";
        standby.wait_until("the standby streams", streaming);
    }
    standby
}

fn push(standby: &Cluster, options: &[&str]) -> Walden {
    standby.walden(&[&["backup-push", standby.data().to_str().unwrap()], options].concat())
}

fn newest(cluster: &Cluster) -> serde_json::Value {
    cluster.walden(&["backup-show", "LATEST", "--json"]).run().code(0).json()
}

#[test]
fn a_backup_of_a_standby_taken_under_load_restores_whole_with_every_archived_row() {
    each(|postgres, place| {
        let primary = primary(postgres, place, "archive_timeout = '1s'\n");
        let load = Load::start(&primary);
        let standby = standby(&primary, place, matches!(place, Place::S3(_)));
        push(&standby, &["--label", "of a standby"]).run().code(0).stdout_is("");
        std::thread::sleep(Duration::from_secs(1));
        let booked = load.stop();
        primary.archive_all();

        let shown = newest(&primary);
        assert_eq!((&shown["from_standby"], &shown["label"]), (&true.into(), &"of a standby".into()));
        assert_eq!(complete_backups(&primary), 2);
        assert!(standby.is_in_recovery());
        let id = shown["id"].as_str().unwrap();
        let copy = restored(postgres, place, &[id]);
        copy.verify_backup();
        let copy = recovered(copy);
        assert_eq!(audit(&copy), booked);
        copy.check_pages();
        let consistent =
            recovered(restored(postgres, place, &[id, "--target-immediate", "--target-action", "promote"]));
        assert!(audit(&consistent) <= booked);
        primary.walden(&["wal-verify"]).run().code(0);
    });
}

/// What it waits for lies in the primary's current segment, which only the primary can end.
#[test]
fn a_backup_of_a_standby_waits_for_the_primary_to_archive_and_says_so() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let primary = primary(&postgres, &place, "");
        let standby = standby(&primary, &place, true);
        let all_replayed = || {
            primary.sql("UPDATE accounts SET balance = balance WHERE id = 1; CHECKPOINT");
            let end = primary.value("SELECT pg_current_wal_flush_lsn()");
            let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
            standby.wait_until("the standby has replayed it", |standby| standby.value(&replayed) == "t");
        };
        all_replayed();
        push(&standby, &["--wal-timeout", "2s"]).run().code(9).stderr_has("SELECT pg_switch_wal()");
        assert_eq!(complete_backups(&primary), 1);

        all_replayed();
        // As on another host, which knows nothing of the one that failed.
        let waiting =
            push(&standby, &["--wal-timeout", "100s"]).env("WALDEN_CACHE_DIR", standby.socket().join("other"));
        let waiting = std::thread::spawn(move || waiting.run());
        primary.wait_until("it waits for WAL", |_| ended_on_standby(&standby));
        assert!(!waiting.is_finished());
        primary.archive_all();
        let waited = waiting.join().unwrap().code(0);
        // The other one failed a moment ago, and looks as if somebody were at it.
        waited.stderr_has("is incomplete").stderr_has("another host may be taking it").stderr_lacks("pg_switch_wal");
        assert_eq!(complete_backups(&primary), 2);
    }
}

/// Is there a session of walden's whose last statement came after the end of the backup?
fn ended_on_standby(standby: &Cluster) -> bool {
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'walden%' \
                    AND query LIKE '%pg_control_recovery()%' AND state = 'idle'";
    standby.value(sessions) == "1"
}

#[test]
fn a_promotion_in_the_middle_voids_the_backup_within_seconds_and_the_next_one_succeeds() {
    for postgres in Postgres::each() {
        let place = Place::s3();
        let mut primary = Cluster::initialized(&postgres, &place, &[]);
        primary.start();
        fill(&primary, 40);
        back_up(&primary);
        let standby = standby(&primary, &place, false);
        // More than can be on its way at the same time, so that the copying lasts.
        let front = Front::start(place.service().address());
        front.always(Script { up: Way { bandwidth: Some(400_000), ..Way::default() }, ..Script::default() });
        let slow = push(&standby, &["--part-size", "2MiB", "--workers", "2"]).env("AWS_ENDPOINT_URL", front.endpoint());
        let slow = std::thread::spawn(move || slow.run());
        standby.wait_until("parts are on their way", |_| front.bytes().0 > 400_000);
        standby.promote();
        wait_for_promotion(&standby);
        let promoted = Instant::now();
        let ran: Ran = slow.join().unwrap();
        // Before all is copied, which takes at least 24 s over that connection.
        assert!(promoted.elapsed() < Duration::from_secs(20), "{ran}");
        ran.code(8).stderr_has("the standby was promoted during the backup").stderr_has("backup-push again");
        assert_eq!(complete_backups(&primary), 1);

        push(&standby, &[]).run().code(0);
        let shown = newest(&primary);
        assert_eq!((&shown["from_standby"], &shown["timeline"]), (&false.into(), &2.into()));
    }
}

#[test]
fn a_standby_whose_cluster_has_nothing_in_the_archive_is_refused_before_anything_is_copied() {
    for postgres in Postgres::each() {
        let (place, elsewhere) = (Place::directory(), Place::directory());
        let primary = primary(&postgres, &place, "");
        let standby = standby(&primary, &place, false);
        let refused = push(&standby, &[]).env("WALDEN_PREFIX", elsewhere.prefix()).run().code(8);
        refused.stderr_has("has no WAL of this standby's cluster").stderr_has("archive_command");
        assert_eq!(elsewhere.keys(), ["walden.json"]);
    }
}
