//! Segments of 1, 16, 64 and 1024 MiB: they come back, and walden needs no more memory for them than docs/limits.md says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::fs::{self, File};
use std::path::Path;

use support::archiver;
use support::cluster::{Cluster, Postgres};
use support::forge::Segment;
use support::place::Place;
use support::scene::Scene;
use support::stories::{back_up, recovered, restored, started};
use support::walden::{measured, peak_of};

const MIB: u64 = 1 << 20;

/// What docs/limits.md promises of the release build, in MiB, for segments of so many MiB: of wal-push, of wal-fetch and of
/// the process that fetches ahead.
const PROMISES: [(u64, [u64; 3]); 4] =
    [(1, [48, 48, 64]), (16, [48, 48, 64]), (64, [112, 48, 64]), (1024, [112, 48, 64])];

/// MiB that the code of a build for tests takes beyond that of the release build: 9 of its `wal-push` are measured.
const UNOPTIMIZED: u64 = if cfg!(debug_assertions) { 8 } else { 0 };

fn promised(size: u64, verb: usize) -> u64 {
    (PROMISES.iter().find(|(known, _)| *known == size).unwrap().1[verb] + UNOPTIMIZED) * MIB
}

/// Both as servers write it and as it is at its worst.
fn contents(size: u64) -> [Segment; 2] {
    [false, true].map(|dense| Segment { size: size * MIB, dense, ..Segment::default() })
}

#[test]
fn segments_of_every_size_come_back_within_the_memory_that_is_promised() {
    for (size, _) in PROMISES {
        for segment in contents(size) {
            for scene in Place::each().map(|place| Scene::of(place, &segment)) {
                let name = scene.write(&segment);
                let (pushed, push) = measured(|| scene.walden(&["wal-push", &format!("pg_wal/{name}")]));
                pushed.code(0);
                let (fetched, fetch) = measured(|| scene.walden(&["wal-fetch", &name, "pg_wal/RECOVERYXLOG"]));
                fetched.code(0);
                assert_eq!(digest(&scene.wal("RECOVERYXLOG")), digest(&scene.wal(&name)));
                println!(
                    "{size} MiB, dense: {}, {:?}: push {} kB, fetch {} kB",
                    segment.dense,
                    scene.place,
                    push >> 10,
                    fetch >> 10
                );
                assert!(push <= promised(size, 0), "wal-push took {push} bytes");
                assert!(fetch <= promised(size, 1), "wal-fetch took {fetch} bytes");
            }
        }
    }
}

fn digest(path: &Path) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).unwrap()).unwrap();
    hasher.finalize()
}

#[test]
fn many_segments_ahead_of_their_turn_take_no_more_memory_than_one() {
    for segment in contents(16) {
        let scene = Scene::of(Place::s3(), &segment);
        let name = scene.write(&segment);
        for number in 1..=24 {
            let waiting = Segment { number, ..segment.clone() };
            scene.write(&waiting);
            archiver::offer(&scene, &waiting.name());
        }
        let (pushed, push) = scene.walden(&["wal-push", &format!("pg_wal/{name}")]).run_measured();
        pushed.code(0);
        println!("dense: {}: {} segments, {} kB", segment.dense, scene.archived_names().len(), push >> 10);
        assert!(scene.archived_names().len() > 2, "nothing went ahead");
        assert!(push <= promised(16, 0), "wal-push took {push} bytes");
    }
}

#[test]
fn fetching_ahead_takes_no_more_memory_than_is_promised() {
    for (size, _) in PROMISES.into_iter().filter(|(size, _)| *size <= 64) {
        let segment = Segment { size: size * MIB, dense: true, ..Segment::default() };
        let scene = Scene::of(Place::s3(), &segment);
        for number in 1..=12 {
            let segment = Segment { number, ..segment.clone() };
            let name = scene.write(&segment);
            archiver::offer(&scene, &name);
        }
        while let Some(name) = archiver::next(&scene) {
            archiver::archive(&scene, &name, |name| scene.push(name)).code(0);
        }
        fs::write(scene.data.path().join("standby.signal"), "").unwrap();
        let mut peak = 0;
        for number in 1..=12 {
            let name = Segment { number, ..segment.clone() }.name();
            let (fetched, fetch) = scene.walden(&["wal-fetch", &name, "pg_wal/RECOVERYXLOG"]).run_watched();
            fetched.code(0);
            assert_eq!(digest(&scene.wal("RECOVERYXLOG")), digest(&scene.wal(&name)));
            assert!(fetch.is_none_or(|fetch| fetch <= promised(size, 1)), "wal-fetch took {fetch:?} bytes");
            for worker in scene.left_running() {
                peak = peak_of(worker).unwrap_or(0).max(peak);
            }
        }
        println!("{size} MiB: {} kB", peak >> 10);
        assert!(peak > 0, "nothing fetched ahead");
        assert!(peak <= promised(size, 2), "fetching ahead took {peak} bytes");
    }
}

#[test]
fn a_server_with_small_or_large_segments_is_archived_restored_and_followed() {
    for postgres in Postgres::each() {
        for (size, place) in ["1", "64"].into_iter().zip(Place::each()) {
            let mut primary = Cluster::initialized(&postgres, &place, &[&format!("--wal-segsize={size}")]);
            primary.configure("min_wal_size = 128MB\nmax_wal_size = 512MB\n");
            primary.start();
            primary.sql("CREATE TABLE numbers AS SELECT generate_series(1, 50000) AS n");
            back_up(&primary);
            primary.sql("INSERT INTO numbers SELECT generate_series(50001, 100000)");
            primary.archive_all();

            let copy = recovered(restored(&postgres, &place, &[]));
            assert_eq!(copy.value("SELECT sum(n) FROM numbers"), "5000050000");
            let standby = started(restored(&postgres, &place, &["--standby"]));
            primary.sql("INSERT INTO numbers VALUES (0)");
            primary.archive_all();
            standby.wait_until("the standby follows", |standby| {
                standby.try_sql("SELECT count(*) FROM numbers").is_ok_and(|rows| rows[0][0] == "100001")
            });
        }
    }
}
