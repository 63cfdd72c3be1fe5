//! Disks that are full: of the archive, of the spool, of temporary files, of the WAL. It is said clearly, nothing is lost
//! and nothing is half there, and with some room the same command succeeds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;

use support::archiver;
use support::cluster::{Cluster, Postgres};
use support::forge::{self, Segment};
use support::place::{Place, files_below};
use support::scene::{Scene, small};
use support::small_disk::SmallDisk;
use support::stories::{back_up, recovered, restored};
use support::walden::Ran;

const MIB: u64 = 1 << 20;

/// The failure names the cause and the way out.
fn says_that_it_is_full(ran: Ran) {
    ran.stderr_has("No space left on device").stderr_has("Free some space");
}

#[test]
fn a_full_archive_refuses_and_takes_the_rest_when_there_is_room() {
    let Some(disk) = SmallDisk::of(8 * MIB) else { return };
    let scene = Scene::new(Place::Directory(disk.directory()));
    let names: Vec<String> = (1..=4).map(|number| scene.write(&small(number))).collect();
    scene.push(&names[0]).code(0);
    let before = scene.place.keys();
    for left in [0, 10_000, 200_000] {
        disk.fill_up_to(left);
        for name in &names[1..] {
            archiver::offer(&scene, name);
            says_that_it_is_full(archiver::archive(&scene, name, |name| scene.push(name)).code(10));
            assert_eq!(scene.place.keys(), before, "with {left} bytes left");
        }
        disk.free();
    }
    while let Some(name) = archiver::next(&scene) {
        archiver::archive(&scene, &name, |name| scene.push(name)).code(0);
    }
    scene.push(&names[0]).code(0);
    for (number, name) in (1..).zip(&names) {
        assert!(scene.archived(name).unwrap() == small(number).bytes());
    }
}

#[test]
fn a_full_directory_for_temporary_files_stops_large_segments_alone() {
    let Some(disk) = SmallDisk::of(100 * MIB) else { return };
    let segment = Segment { size: 64 * MIB, dense: true, ..Segment::default() };
    let scene = Scene::of(Place::s3(), &segment);
    let name = scene.write(&segment);
    let push = || scene.walden(&["wal-push", &format!("pg_wal/{name}")]).env("TMPDIR", disk.path()).run();
    disk.fill_up_to(MIB);
    says_that_it_is_full(push().code(10).stderr_has("(TMPDIR)").stderr_has(disk.path().to_str().unwrap()));
    assert_eq!(scene.place.keys(), [""; 0]);
    let ordinary = Scene::new(Place::s3());
    let small = ordinary.write(&small(1));
    ordinary.walden(&["wal-push", &format!("pg_wal/{small}")]).env("TMPDIR", disk.path()).run().code(0);
    disk.free();
    push().code(0);
    assert!(scene.archived(&name).unwrap() == segment.bytes());
}

#[test]
fn a_fetch_onto_a_full_disk_hands_nothing_over_and_ends_no_recovery() {
    let Some(disk) = SmallDisk::of(16 * MIB) else { return };
    for place in Place::each() {
        let scene = Scene { place, data: disk.directory() };
        forge::data_directory(scene.data.path(), &small(1));
        let name = scene.write(&small(1));
        scene.push(&name).code(0);
        let signal = |name: &str| scene.data.path().join(name);
        let before = files_below(&scene.wal(""));
        for left in [0, 10_000, 900_000] {
            for (mode, code) in [("", 10), ("recovery.signal", 200), ("standby.signal", 10)] {
                if !mode.is_empty() {
                    fs::write(signal(mode), "").unwrap();
                }
                disk.fill_up_to(left);
                says_that_it_is_full(scene.fetch(&name).code(code));
                assert_eq!(files_below(&scene.wal("")), before, "with {left} bytes left");
                disk.free();
                scene.fetch(&name).code(0);
                assert!(scene.fetched().unwrap() == small(1).bytes());
                if !mode.is_empty() {
                    fs::remove_file(signal(mode)).unwrap();
                }
                scene.wait_until_nothing_runs();
            }
        }
    }
}

#[test]
fn a_full_spool_slows_down_and_fails_nothing() {
    let Some(disk) = SmallDisk::of(4 * MIB) else { return };
    let scene = Scene::on_s3();
    let spool = disk.path().join("spool");
    fs::create_dir(&spool).unwrap();
    disk.fill_up_to(0);
    let names: Vec<String> = (1..=8).map(|number| scene.write(&small(number))).collect();
    names.iter().for_each(|name| archiver::offer(&scene, name));
    while let Some(name) = archiver::next(&scene) {
        let push = |name: &str| scene.walden(&["wal-push", &format!("pg_wal/{name}")]).env("WALDEN_SPOOL_DIR", &spool);
        archiver::archive(&scene, &name, |name| push(name).run()).code(0);
        assert!(scene.archived(&name).is_some());
    }
    fs::write(scene.data.path().join("recovery.signal"), "").unwrap();
    let fetch_all = || {
        for (number, name) in (1..).zip(&names) {
            let fetch = scene.walden(&["wal-fetch", name, "pg_wal/RECOVERYXLOG"]).env("WALDEN_SPOOL_DIR", &spool);
            fetch.run().code(0);
            assert!(scene.fetched().unwrap() == small(number).bytes());
        }
    };
    fetch_all();
    disk.free();
    fetch_all();
    scene.fetch("00000001000000000000000A").code(1);
    fs::remove_file(scene.data.path().join("recovery.signal")).unwrap();
    scene.wait_until_nothing_runs();
    assert_eq!(files_below(&spool), [""; 0]);
}

#[test]
fn a_server_outlives_a_full_archive_and_loses_nothing() {
    let Some(disk) = SmallDisk::of(64 * MIB) else { return };
    for postgres in Postgres::each() {
        let place = Place::Directory(disk.directory());
        let primary = Cluster::primary(&postgres, &place);
        primary.sql("CREATE TABLE marks AS SELECT 1 AS mark");
        back_up(&primary);
        disk.fill_up_to(0);
        primary.sql("INSERT INTO marks VALUES (2)");
        primary.sql("SELECT pg_switch_wal()");
        primary
            .wait_until("archiving fails", |primary| primary.value("SELECT failed_count FROM pg_stat_archiver") != "0");
        primary.sql("INSERT INTO marks VALUES (3)");
        disk.free();
        primary.archive_all();
        let copy = recovered(restored(&postgres, &place, &[]));
        assert_eq!(copy.value("SELECT sum(mark) FROM marks"), "6");
    }
}
