//! kill -9 at random moments, hundreds of times: of pushes, of fetches, and of what fetches ahead. What is listed or handed
//! over is whole, nothing is lost, and the same command again succeeds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use support::archiver;
use support::place::{Place, files_below};
use support::random::Random;
use support::scene::{Scene, small};
use support::walden::Walden;

/// Most calls last no longer, so most kills hit one that is at work.
const MOMENTS: u64 = 80_000;

/// Kills it within so many microseconds; whether it had ended well by then.
fn kill_within(walden: Walden, microseconds: u64) -> bool {
    let mut running = walden.spawn();
    std::thread::sleep(Duration::from_micros(microseconds));
    running.kill().unwrap();
    running.wait().unwrap().success()
}

#[test]
fn pushes_killed_a_hundred_times_on_each_place_lose_nothing_and_list_nothing_that_is_not_whole() {
    let mut random = Random::announced();
    for scene in Scene::each() {
        let mut kills = 0;
        let mut segments = BTreeMap::new();
        for first in (1..).step_by(6) {
            // As many wait as go ahead in one call.
            for number in first..first + 6 {
                let name = scene.write(&small(number));
                archiver::offer(&scene, &name);
                segments.insert(name, small(number).bytes());
            }
            while let Some(name) = archiver::next(&scene) {
                let path = format!("pg_wal/{name}");
                if kills < 100 && random.below(4) > 0 {
                    let said_ok = kill_within(scene.walden(&["wal-push", &path]), random.below(MOMENTS));
                    kills += 1;
                    assert!(!said_ok || scene.archived(&name).is_some(), "{name} is not in the archive");
                    for listed in scene.archived_names() {
                        assert!(scene.archived(&listed).as_ref() == segments.get(&listed), "{listed} is not whole");
                    }
                } else {
                    archiver::archive(&scene, &name, |name| scene.push(name)).code(0);
                }
            }
            if kills == 100 {
                break;
            }
        }
        assert_eq!(scene.archived_names(), segments.keys().cloned().collect::<Vec<_>>());
    }
}

#[test]
fn fetches_killed_a_hundred_times_on_each_place_hand_over_whole_segments_or_none() {
    let mut random = Random::announced();
    for scene in Scene::each() {
        let (names, contents) = archive(&scene, 12);
        for _ in 0..100 {
            let at = random.below(names.len() as u64) as usize;
            let fetch = scene.walden(&["wal-fetch", &names[at], "pg_wal/RECOVERYXLOG"]);
            let said_ok = kill_within(fetch, random.below(MOMENTS));
            match scene.fetched() {
                Some(content) => assert!(content == contents[at], "{} is not whole", names[at]),
                None => assert!(!said_ok, "{} was not handed over", names[at]),
            }
        }
        for (name, content) in names.iter().zip(&contents) {
            scene.fetch(name).code(0);
            assert!(scene.fetched().as_ref() == Some(content), "{name}");
        }
    }
}

#[test]
fn a_recovery_whose_prefetch_is_killed_a_hundred_times_gets_every_segment_whole_and_leaves_nothing() {
    let mut random = Random::announced();
    for (scene, signal) in [Place::directory(), Place::s3()].map(Scene::new).into_iter().zip(["recovery", "standby"]) {
        let (names, contents) = archive(&scene, 60);
        let signal = scene.data.path().join(format!("{signal}.signal"));
        fs::write(&signal, "").unwrap();
        let mut kills = 0;
        while kills < 50 {
            for (name, content) in names.iter().zip(&contents) {
                scene.fetch(name).code(0);
                assert!(scene.fetched().as_ref() == Some(content), "{name} is not whole");
                std::thread::sleep(Duration::from_micros(random.below(MOMENTS)));
                if random.below(3) == 0 {
                    for worker in scene.left_running() {
                        // It may have ended by itself.
                        kills += usize::from(kill_process(worker, Signal::KILL).is_ok());
                    }
                }
            }
        }
        // What is kept is bounded, however many workers were killed over it. One that lives may be clearing away.
        let kept: u64 =
            files_below(&scene.wal("")).iter().filter_map(|file| Some(scene.wal(file).metadata().ok()?.len())).sum();
        assert!(kept <= (60 + 64 + 8) << 20, "{kept} bytes below pg_wal");

        scene.fetch(&names[0]).code(0);
        scene.fetched().unwrap();
        fs::remove_file(&signal).unwrap();
        scene.wait_until_nothing_runs();
        let mut left = files_below(&scene.wal(""));
        // Notes of pushes are swept by the next push.
        let others = |file: &&String| !file.starts_with("archive_status/") && !file.starts_with(".walden/pushed/");
        left.retain(|file| !names.contains(file) && others(&file));
        assert_eq!(left, [""; 0], "after the recovery");
    }
}

/// Segments in the archive: their names and contents.
fn archive(scene: &Scene, count: u64) -> (Vec<String>, Vec<Vec<u8>>) {
    let segments = (1..=count).map(small);
    let pushed = segments.map(|segment| {
        let name = scene.write(&segment);
        archiver::offer(scene, &name);
        (name, segment.bytes())
    });
    let pushed = pushed.unzip();
    while let Some(name) = archiver::next(scene) {
        archiver::archive(scene, &name, |name| scene.push(name)).code(0);
    }
    pushed
}
