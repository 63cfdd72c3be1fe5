//! Restores that come to their end before it: killed, on full and on lying disks, without their store. No server starts on
//! what they leave, and the same command again completes it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use support::cluster::{Cluster, Postgres};
use support::failing_disk::FailingDisk;
use support::front::{Accident, Script, When};
use support::load::fill;
use support::place::Place;
use support::random::{Random, times};
use support::small_disk::SmallDisk;
use support::stories::{back_up, in_turn, recovered};
use support::user::User;
use support::walden::{Ran, Walden};

const MIB: u64 = 1 << 20;

/// A backup of a cluster with tables in the data directory and in a tablespace. Its server runs no more, and what is in the
/// archive is all that there is of it.
fn backed_up(postgres: &Postgres, place: &Place) {
    let primary = Cluster::primary(postgres, place);
    fill(&primary, 12);
    primary.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", primary.directory("space").display()));
    primary.sql(&format!("CREATE TABLE rows TABLESPACE space AS {}", "SELECT generate_series(1, 50000) AS n"));
    back_up(&primary);
    primary.archive_all();
}

/// Whatever was stored is there, and every page of it sound.
fn is_whole(copy: Cluster) {
    copy.verify_backup();
    let mut copy = recovered(copy);
    assert_eq!(copy.value("SELECT sum(n) FROM rows"), "1250025000");
    assert_eq!(copy.value("SELECT count(*) FROM filler WHERE length(noise) = 1048576"), "12");
    copy.stop();
    copy.verify_checksums();
}

/// A restore that puts the tablespace and the WAL outside the data directory.
fn fetch(copy: &Cluster) -> Walden {
    let words = ["--tablespace-root", "spaces", "--waldir", "wal", "--retry-timeout", "0s"];
    copy.walden(&[&["backup-fetch", copy.data().to_str().unwrap()], &words[..]].concat())
}

/// What an interrupted restore has left is no cluster for any server.
fn starts_no_server(copy: &mut Cluster) {
    assert!(!copy.data().join("global/pg_control").exists());
    if copy.data().exists() {
        assert_ne!(copy.run_to_its_end(), Some(0));
        assert!(!copy.data().join("postmaster.pid").exists());
    }
}

/// Whether it is complete, even if the end came before it could say so.
fn is_complete(copy: &Cluster) -> bool {
    copy.data().join("global/pg_control").exists()
}

#[test]
fn a_restore_that_is_killed_again_and_again_is_completed_by_the_same_command() {
    let mut random = Random::announced();
    in_turn(|postgres, place| {
        backed_up(postgres, place);
        let mut copy = Cluster::empty(postgres, place);
        let (mut kills, mut patience) = (0, 150);
        while kills < times(8) {
            let mut running = fetch(&copy).spawn();
            std::thread::sleep(Duration::from_millis(random.below(patience)));
            running.kill().unwrap();
            let said_ok = running.wait().unwrap().success();
            if is_complete(&copy) {
                // The next directory is for those that are left.
                is_whole(std::mem::replace(&mut copy, Cluster::empty(postgres, place)));
                patience = patience * 2 / 3 + 1;
                continue;
            }
            assert!(!said_ok);
            kills += 1;
            starts_no_server(&mut copy);
        }
        fetch(&copy).run().code(0);
        is_whole(copy);
    });
}

/// A data directory that is a link to another disk, whose end comes sooner.
fn lies_on(copy: &Cluster, directory: &Path) {
    if let Some(user) = User::for_servers() {
        user.owns(directory);
    }
    std::os::unix::fs::symlink(directory, copy.data()).unwrap();
}

#[test]
fn a_restore_onto_a_full_disk_says_so_and_with_room_the_same_command_completes_it() {
    let Some(disk) = SmallDisk::of(160 * MIB) else { return };
    let mut random = Random::announced();
    in_turn(|postgres, place| {
        backed_up(postgres, place);
        let fresh = || {
            let (copy, directory) = (Cluster::empty(postgres, place), disk.directory());
            lies_on(&copy, directory.path());
            (copy, directory)
        };
        let (mut copy, mut directory) = fresh();
        let amounts = [0, 4096, 100_000].into_iter().chain((0..times(5)).map(|_| random.below(16 * MIB)));
        for left in amounts {
            disk.fill_up_to(left);
            let ran = fetch(&copy).run();
            disk.free();
            // What the last one left makes room.
            if is_complete(&copy) {
                is_whole(copy);
                (copy, directory) = fresh();
                continue;
            }
            ran.code(10).stderr_has("No space left on device").stderr_has("Free some space");
            starts_no_server(&mut copy);
        }
        fetch(&copy).run().code(0);
        is_whole(copy);
        drop(directory);
    });
}

/// A disk that takes what is written and cannot store it, and an empty data directory on it.
fn on_a_thin_disk(story: impl Fn(&SmallDisk, &Path, Cluster)) {
    for postgres in Postgres::each() {
        let Some(small) = SmallDisk::of(128 * MIB) else { return };
        let Some(disk) = FailingDisk::thin(small.path()) else { return };
        let place = Place::directory();
        backed_up(&postgres, &place);
        let directory = disk.path().join("data");
        fs::create_dir(&directory).unwrap();
        let copy = Cluster::empty(&postgres, &place);
        lies_on(&copy, &directory);
        story(&small, &directory, copy);
    }
}

#[test]
fn a_restore_onto_a_disk_that_loses_what_was_written_fails_and_is_no_cluster() {
    on_a_thin_disk(|small, _, mut copy| {
        for left in [MIB, 10 * MIB] {
            small.fill_up_to(left);
            fetch(&copy).run().code(10).stderr_has("could not sync");
            starts_no_server(&mut copy);
            small.free();
        }
    });
}

/// The kernel tells of a lost page once. Here somebody else hears of it first, and makes room at once.
#[test]
fn a_restore_hears_of_what_was_lost_even_if_another_process_has_been_told_before() {
    on_a_thin_disk(|small, directory, mut copy| {
        small.fill_up_to(2 * MIB);
        let mut running = fetch(&copy).spawn();
        let mut told = false;
        while running.try_wait().unwrap().is_none() {
            let other = fs::File::open(directory).unwrap();
            if !told && rustix::fs::syncfs(&other).is_err() {
                told = true;
                small.free();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        println!("told before: {told}");
        assert_eq!(running.wait().unwrap().code(), Some(10));
        starts_no_server(&mut copy);
    });
}

fn lost(ran: Ran) {
    ran.code(5).stderr_has("RETRY_TIMEOUT");
}

#[test]
fn a_restore_whose_store_goes_away_is_no_cluster_until_the_same_command_completes_it() {
    let mut random = Random::announced();
    for postgres in Postgres::each() {
        let place = Place::fronted();
        backed_up(&postgres, &place);
        let (_, before) = place.front().bytes();
        is_whole({
            let copy = Cluster::empty(&postgres, &place);
            fetch(&copy).run().code(0);
            copy
        });
        let all = place.front().bytes().1 - before;
        let mut copy = Cluster::empty(&postgres, &place);
        for _ in 0..times(5) {
            // Each connection breaks off after so many bytes; there are a few of them.
            let passed = random.below(all / 8);
            place.front().always(Script::down(When::Bytes(passed), Accident::Reset));
            let ran = fetch(&copy).run();
            place.front().heal();
            match is_complete(&copy) {
                true => is_whole(std::mem::replace(&mut copy, Cluster::empty(&postgres, &place))),
                false => {
                    lost(ran);
                    starts_no_server(&mut copy);
                }
            }
        }
        fetch(&copy).run().code(0);
        is_whole(copy);
    }
}

#[test]
fn a_restore_that_was_killed_is_completed_by_a_command_with_other_places_too() {
    let mut random = Random::announced();
    for postgres in Postgres::each() {
        let place = Place::directory();
        backed_up(&postgres, &place);
        let mut kills = 0;
        while kills < times(3) {
            let copy = Cluster::empty(&postgres, &place);
            let mut running = fetch(&copy).spawn();
            std::thread::sleep(Duration::from_millis(random.below(120)));
            running.kill().unwrap();
            running.wait().unwrap();
            if !is_complete(&copy) {
                kills += 1;
                let words = ["--tablespace-root", "elsewhere"];
                copy.walden(&[&["backup-fetch", copy.data().to_str().unwrap()], &words[..]].concat()).run().code(0);
                assert!(!copy.data().join("pg_wal").is_symlink());
            }
            is_whole(copy);
        }
    }
}
