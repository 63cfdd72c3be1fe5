//! Backups that meet faults at random points: a server that restarts, a store that refuses one object, disks that are full.
//! What did not succeed is not listed, and the next backup succeeds and restores.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::time::Duration;

use support::cluster::{Cluster, Postgres};
use support::load::{Load, audit, fill, open_books};
use support::patience::wait_until;
use support::place::Place;
use support::random::{Random, times};
use support::s3::{Fault, On, Op};
use support::small_disk::SmallDisk;
use support::stories::{back_up, complete_backups, in_turn, recovered, restored};
use support::walden::Walden;

const MIB: u64 = 1 << 20;

/// A backup in several parts.
fn push(cluster: &Cluster) -> Walden {
    let words = ["--part-size", "1MiB", "--workers", "2"];
    cluster.walden(&[&["backup-push", cluster.data().to_str().unwrap()], &words[..]].concat())
}

/// For WAL that may never come.
const BRIEFLY: [&str; 2] = ["--wal-timeout", "2s"];

/// The next backup succeeds, and what it restores is whole.
fn the_next_one_is_good(primary: &Cluster, place: &Place) {
    back_up(primary);
    primary.archive_all();
    let booked = audit(primary);
    let copy = restored(primary.postgres(), place, &["--tablespace-root", "spaces"]);
    copy.verify_backup();
    let mut copy = recovered(copy);
    assert_eq!(audit(&copy), booked);
    copy.check_relations();
    copy.stop();
    copy.verify_checksums();
}

fn backed_up_once(postgres: &Postgres, place: &Place) -> Cluster {
    let primary = Cluster::primary(postgres, place);
    open_books(&primary);
    fill(&primary, 10);
    primary.archive_all();
    push(&primary).run().code(0);
    primary
}

#[test]
fn a_server_that_restarts_at_random_moments_leaves_complete_backups_or_none() {
    let mut random = Random::announced();
    in_turn(|postgres, place| {
        let mut primary = backed_up_once(postgres, place);
        let mut complete = 1;
        for _ in 0..times(6) {
            let running = push(&primary).args(BRIEFLY);
            let running = std::thread::spawn(move || running.run());
            std::thread::sleep(Duration::from_millis(random.below(1500)));
            match random.below(3) {
                0 => primary.stop(),
                1 => primary.stop_at_once(),
                _ => primary.kill(),
            }
            std::thread::sleep(Duration::from_millis(random.below(300)));
            primary.start();
            let ran = running.join().unwrap();
            // 9: its WAL did not come in time.
            assert!(matches!(ran.code, Some(0 | 5 | 9)), "{ran}");
            complete += usize::from(ran.code == Some(0));
            assert_eq!(complete_backups(&primary), complete, "{ran}");
        }
        let load = Load::start(&primary);
        push(&primary).run().code(0);
        load.stop();
        the_next_one_is_good(&primary, place);
    });
}

/// Which objects a backup consists of: what follows its id.
fn objects(place: &Place) -> Vec<String> {
    let keys = place.keys();
    let newest = keys.iter().filter_map(|key| key.strip_suffix("/backup.json")).next_back().unwrap();
    keys.iter().filter_map(|key| key.strip_prefix(newest)).map(str::to_owned).collect()
}

#[test]
fn of_two_backups_that_take_the_same_id_at_the_same_moment_one_is_refused_and_the_other_is_not_touched() {
    for postgres in Postgres::each() {
        let place = Place::s3();
        let primary = backed_up_once(&postgres, &place);
        // It has found its id free, and is about to store its first part.
        place.service().forget_requests();
        place.service().fail_next(On::op(Op::Put).key("/v0/"), Fault::Stall(Duration::from_secs(3)));
        let refused = push(&primary);
        let refused = std::thread::spawn(move || refused.run());
        wait_until("a part is sent", || place.service().faults_left() == 0);
        let requests = place.service().requests();
        let sent = requests.iter().find(|request| request.op == Op::Put && request.key.contains("/v0/")).unwrap();
        place.service().put(&sent.key, "of the other one");
        refused.join().unwrap().code(6).stderr_has("began in the same second. Run walden backup-push again.");
        assert_eq!(place.service().get(&sent.key).unwrap(), b"of the other one");
        assert_eq!(complete_backups(&primary), 1);
        push(&primary).run().code(0);
        the_next_one_is_good(&primary, &place);
    }
}

#[test]
fn a_store_that_refuses_any_one_object_has_no_backup_of_it() {
    let mut random = Random::announced();
    for postgres in Postgres::each() {
        let place = Place::s3();
        let primary = backed_up_once(&postgres, &place);
        let of_first = |names: &[String]| -> Vec<String> {
            let last = |volume: &str| names.iter().rfind(|name| name.starts_with(volume)).cloned();
            ["/v0/", "/v1/"].into_iter().filter_map(last).collect()
        };
        let names = objects(&place);
        let mut victims = of_first(&names);
        assert!(!victims.is_empty() && names.len() > 6, "{names:?}");
        victims.extend((0..times(4)).map(|_| random.pick(&names).clone()));
        let mut complete = 1;
        for victim in victims {
            place.service().fail_always(On::op(Op::Put).key(&victim), Fault::Status(403, "AccessDenied"));
            let ran = push(&primary).run();
            place.service().heal();
            // Another backup may have fewer parts.
            match ran.code {
                Some(0) => complete += 1,
                _ => drop(ran.code(4).stderr_has(&victim).stderr_has("s3:PutObject")),
            }
            assert_eq!(complete_backups(&primary), complete, "{victim}");
        }
        assert!(complete < 4, "nearly nothing was refused");
        the_next_one_is_good(&primary, &place);
    }
}

#[test]
fn an_archive_that_is_full_at_a_random_point_has_no_backup_of_it() {
    let Some(disk) = SmallDisk::of(400 * MIB) else { return };
    let mut random = Random::announced();
    for postgres in Postgres::each() {
        let place = Place::Directory(disk.directory());
        let primary = backed_up_once(&postgres, &place);
        let mut complete = 1;
        for _ in 0..times(6) {
            disk.fill_up_to(random.below(20 * MIB));
            let ran = push(&primary).args(BRIEFLY).run();
            match ran.code {
                Some(0) => complete += 1,
                // The archiver finds no room either.
                Some(9) => {}
                _ => drop(ran.code(10).stderr_has("No space left on device").stderr_has("Free some space")),
            }
            assert_eq!(complete_backups(&primary), complete);
            disk.free();
            primary.archive_all();
        }
        the_next_one_is_good(&primary, &place);
    }
}

/// PostgreSQL itself would lose such a database: its recovery repeats the move with the files of the old place.
#[test]
fn a_backup_during_which_a_database_moves_is_refused_and_the_next_one_has_it() {
    in_turn(|postgres, place| {
        let primary = backed_up_once(postgres, place);
        primary.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", primary.directory("space").display()));
        primary.sql("CREATE DATABASE moving");
        let parts = || place.keys().iter().filter(|key| key.contains("/v")).count();
        let before = parts();
        let running = push(&primary).args(["--max-rate", "3MiB"]);
        let running = std::thread::spawn(move || running.run());
        primary.wait_until("parts are stored", |_| parts() > before);
        primary.sql("ALTER DATABASE moving SET TABLESPACE space");
        let ran = running.join().unwrap().code(8).stderr_has("moved to another tablespace during the backup");
        ran.stderr_has("\"moving\"").stderr_has("Run walden backup-push again");
        assert_eq!(complete_backups(&primary), 1);
        the_next_one_is_good(&primary, place);
    });
}

/// So many files that their list does not stay in memory.
const FILES: usize = 75_000;

#[test]
fn a_full_directory_for_temporary_files_ends_a_backup_of_very_many_files() {
    let Some(disk) = SmallDisk::of(MIB) else { return };
    let postgres = &Postgres::each()[0];
    let place = Place::directory();
    let primary = backed_up_once(postgres, &place);
    let many = primary.directory("data/base/many");
    for number in 0..FILES {
        std::fs::write(many.join(number.to_string()), "").unwrap();
    }
    disk.fill_up_to(0);
    let ran = push(&primary).env("TMPDIR", disk.path()).run().code(10);
    ran.stderr_has("No space left on device").stderr_has("TMPDIR");
    assert_eq!(complete_backups(&primary), 1);
    disk.free();
    std::fs::remove_dir_all(&many).unwrap();
    the_next_one_is_good(&primary, &place);
}
