//! Working ahead: what `wal-push` archives before it is asked, what `wal-fetch` has brought before it is asked, and that
//! neither ever shows in an answer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process};
use support::forge::{self, Segment};
use support::legacy::through;
use support::patience::{PATIENCE, wait_until};
use support::place::{Place, files_below};
use support::s3::{Fault, On, Op};
use support::scene::{Scene, small};

/// Segments in `pg_wal` that PostgreSQL has marked as ready; their names.
fn waiting(scene: &Scene, numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(|number| ready(scene, scene.write(&small(number)))).collect()
}

fn ready(scene: &Scene, name: String) -> String {
    fs::write(scene.wal(&format!("archive_status/{name}.ready")), "").unwrap();
    name
}

fn archived(scene: &Scene, name: &str) -> bool {
    scene.place.keys().contains(&scene.key(name))
}

fn notes(scene: &Scene) -> Vec<String> {
    files_below(&scene.wal(""))
        .into_iter()
        .filter_map(|path| Some(path.strip_prefix(".walden/pushed/")?.into()))
        .collect()
}

#[test]
fn what_waits_is_archived_ahead_and_its_own_call_asks_nobody() {
    for scene in Scene::each() {
        let names = waiting(&scene, 1..=12);
        scene.push(&names[0]).code(0).stderr_is("");
        for name in &names {
            assert!(archived(&scene, name), "{name}");
        }
        let stored = scene.place.keys();
        if let Place::S3(s3) = &scene.place {
            s3.forget_requests();
            s3.fail_always(On::any(), Fault::Status(403, "AccessDenied"));
        }
        for name in &names[1..] {
            scene.push(name).code(0);
            // PostgreSQL may ask again, for a command behind && may have failed.
            scene.push(name).code(0);
        }
        if let Place::S3(s3) = &scene.place {
            assert_eq!(s3.requests().len(), 0);
            s3.heal();
        }
        assert_eq!(scene.place.keys(), stored);
        for (name, number) in names.iter().zip(1..) {
            scene.fetch(name).code(0);
            assert!(scene.fetched().unwrap() == small(number).bytes(), "{name}");
        }
    }
}

#[test]
fn archive_status_is_never_written_and_notes_go_when_their_files_no_longer_wait() {
    for scene in Scene::each() {
        let names = waiting(&scene, 1..=5);
        let status = || files_below(&scene.wal("archive_status"));
        let before = status();
        scene.push(&names[0]).code(0);
        assert_eq!(status(), before);
        assert_eq!(notes(&scene), names[1..]);
        // PostgreSQL has been told of the first three.
        for name in &names[..3] {
            fs::remove_file(scene.wal(&format!("archive_status/{name}.ready"))).unwrap();
        }
        let names: Vec<String> = names[3..].iter().cloned().chain(waiting(&scene, [6])).collect();
        scene.push(&names[2]).code(0);
        assert_eq!(notes(&scene), names[..2]);
    }
}

#[test]
fn no_more_goes_ahead_than_is_allowed() {
    for scene in Scene::each() {
        let names = waiting(&scene, 1..=8);
        let push = |ahead: &str, name: &str| {
            let path = format!("pg_wal/{name}");
            scene.walden(&["wal-push", &path]).env("WALDEN_PUSH_AHEAD", ahead).run().code(0);
            names.iter().filter(|name| archived(&scene, name)).count()
        };
        assert_eq!(push("0", &names[0]), 1);
        assert_eq!(push("3", &names[1]), 4);
        assert_eq!(notes(&scene), [&names[0][..], &names[2], &names[3]]);
        assert_eq!(push("64", &names[4]), 8);
    }
}

#[test]
fn a_note_counts_for_the_very_file_and_the_very_archive_alone() {
    for scene in Scene::each() {
        let names = waiting(&scene, 1..=4);
        scene.push(&names[0]).code(0);
        // The same bytes in another file are asked about, and found to be the same.
        fs::copy(scene.wal(&names[1]), scene.wal("copy")).unwrap();
        fs::rename(scene.wal("copy"), scene.wal(&names[1])).unwrap();
        scene.push(&names[1]).code(0);
        // Other bytes are a conflict, although a note has this name.
        scene.write(&Segment { seed: 99, ..small(3) });
        scene.push(&names[2]).code(6);
        // Another archive does not have what this one has.
        let other = Place::directory();
        let elsewhere = scene.walden(&["wal-push", &format!("pg_wal/{}", names[3])]);
        elsewhere.env("WALDEN_PREFIX", other.prefix()).env("WALDEN_PUSH_AHEAD", "0").run().code(0);
        assert_eq!(other.keys(), [scene.key(&names[3])]);
    }
}

#[test]
fn histories_go_first_and_files_of_all_kinds_go_along() {
    let scene = Scene::on_s3();
    let asked = waiting(&scene, [1]).remove(0);
    let last = small(2);
    let files = [
        ("00000002.history".to_owned(), forge::history(&[(1, "0/5000000", "no reason")]).into_bytes()),
        (format!("{}.00000028.backup", last.name()), b"START WAL LOCATION: 0/200028 (file x)\n".to_vec()),
        (format!("{}.partial", last.name()), last.bytes()),
    ];
    for (name, content) in &files {
        fs::write(scene.wal(name), content).unwrap();
        ready(&scene, name.clone());
    }
    scene.push(&asked).code(0);
    let puts: Vec<String> =
        scene.s3().requests().into_iter().filter(|request| request.op == Op::Put).map(|put| put.key).collect();
    let at = |name: &str| puts.iter().position(|key| key.ends_with(name)).unwrap_or_else(|| panic!("{name}: {puts:?}"));
    assert!(
        at(&asked) < at(".history") && at(".history") < at(".backup") && at(".history") < at(".partial"),
        "{puts:?}"
    );
    for (name, content) in &files {
        scene.push(name).code(0);
        scene.fetch(name).code(0);
        assert!(scene.fetched().unwrap() == *content, "{name}");
    }
}

#[test]
fn the_answer_does_not_depend_on_what_waits() {
    let scene = Scene::on_s3();
    let names = waiting(&scene, 1..=6);
    // One that is no segment, one that the store refuses, and one that the store leaves lying.
    fs::write(scene.wal(&names[1]), "no segment").unwrap();
    scene.push(&names[0]).code(0).stderr_is("");
    scene.push(&names[1]).code(7);
    scene.s3().fail_always(On::op(Op::Put).key(&names[3]), Fault::Status(403, "AccessDenied"));
    scene.push(&names[2]).code(0).stderr_is("");
    scene.push(&names[3]).code(4);
    assert!(!archived(&scene, &names[3]));
    scene.s3().heal();
    fs::remove_file(scene.wal(&format!("archive_status/{}.ready", names[1]))).unwrap();
    scene.s3().fail_next(On::op(Op::Put).key(&names[4]), Fault::StallInBody(1000, PATIENCE));
    scene.push(&names[3]).code(0).stderr_is("");
    assert!(!archived(&scene, &names[4]) && !notes(&scene).contains(&names[4]));
    scene.push(&names[4]).code(0);
    scene.push(&names[5]).code(0);
    assert!(archived(&scene, &names[5]));
}

#[test]
fn where_the_asked_file_fails_nothing_goes_ahead() {
    for scene in Scene::each() {
        let names = waiting(&scene, 1..=4);
        fs::write(scene.wal(&names[0]), "no segment").unwrap();
        scene.push(&names[0]).code(7);
        assert!(!names.iter().any(|name| archived(&scene, name)));
        assert!(notes(&scene).is_empty());
    }
}

#[test]
fn a_spool_can_lie_elsewhere_and_one_that_cannot_be_used_costs_only_time() {
    for scene in Scene::each() {
        let names = waiting(&scene, 1..=4);
        let elsewhere = tempfile::tempdir().unwrap();
        let push = |name: &str, spool: &str| {
            let path = format!("pg_wal/{name}");
            scene.walden(&["wal-push", &path]).env("WALDEN_SPOOL_DIR", elsewhere.path().join(spool)).run()
        };
        fs::write(elsewhere.path().join("file"), "").unwrap();
        push(&names[0], "file/x").code(0).stderr_has("could not use the spool");
        assert!(!archived(&scene, &names[1]));
        push(&names[0], "spool").code(0);
        assert!(!scene.wal(".walden").exists());
        // The first one too: it was there already, and has been compared.
        assert_eq!(files_below(&elsewhere.path().join("spool/pushed")), names[..]);
        push(&names[1], "file/x").code(0);
    }
}

/// The same scene as a standby.
fn standby(scene: Scene) -> Scene {
    fs::write(scene.data.path().join("standby.signal"), "").unwrap();
    scene
}

/// An archive with segments `first..=last`, and a data directory in recovery that has none of them.
fn behind(place: Place, last: u64) -> (Scene, Vec<Segment>) {
    let scene = Scene::new(place);
    let segments: Vec<Segment> = (1..=last).map(small).collect();
    for segment in &segments {
        let name = scene.write(segment);
        scene.push(&name).code(0);
        fs::remove_file(scene.wal(&name)).unwrap();
    }
    if let Place::S3(s3) = &scene.place {
        s3.forget_requests();
    }
    (standby(scene), segments)
}

/// The processes that fetch ahead for this data directory.
fn prefetchers(scene: &Scene) -> Vec<u32> {
    let data = scene.data.path().canonicalize().unwrap();
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let serves = |process: &u32| {
        let words = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let works = words.split(|byte| *byte == 0).any(|word| word == b"--ahead");
        works && fs::read_link(format!("/proc/{process}/cwd")).is_ok_and(|cwd| cwd == data)
    };
    processes.filter(serves).collect()
}

/// Where the segments lie that were fetched ahead; empty if none were.
fn fetched_ahead(scene: &Scene) -> Vec<String> {
    let files = files_in(&scene.wal(".walden/fetched"));
    files.into_iter().filter(|name| name.len() == 24 && !name.contains('.')).collect()
}

fn files_in(directory: &Path) -> Vec<String> {
    if !directory.exists() {
        return Vec::new();
    }
    // The process that fetches ahead may be clearing away.
    let files = std::panic::catch_unwind(|| files_below(directory)).unwrap_or_default();
    files.iter().map(|path| path.rsplit('/').next().unwrap().to_owned()).collect()
}

fn fetch_and_check(scene: &Scene, segment: &Segment) {
    scene.fetch(&segment.name()).code(0).stderr_is("");
    assert!(scene.fetched().unwrap() == segment.bytes(), "{}", segment.name());
}

#[test]
fn after_a_hit_the_next_segments_come_ahead_and_are_handed_over_without_a_question() {
    for place in Place::each() {
        let (scene, segments) = behind(place, 30);
        fetch_and_check(&scene, &segments[0]);
        for segment in &segments[1..] {
            wait_until("the segment is fetched ahead", || fetched_ahead(&scene).contains(&segment.name()));
            fetch_and_check(&scene, segment);
            assert_eq!(prefetchers(&scene).len(), 1);
        }
        if let Place::S3(s3) = &scene.place {
            for segment in &segments {
                let gets = s3.requests().into_iter().filter(|get| get.key.ends_with(&segment.name())).count();
                assert_eq!(gets, 1, "{}", segment.name());
            }
        }
        // PostgreSQL asks for the same segment twice when a recovery ends.
        fetch_and_check(&scene, &segments[29]);
    }
}

#[test]
fn an_older_archive_is_fetched_ahead_from_too_and_the_way_leads_on_into_ours() {
    for place in Place::each() {
        let (scene, segments) = behind(place, 12);
        for segment in &segments[..6] {
            scene.place.remove(&scene.key(&segment.name()));
            let stored = through(&["lz4", "-q", "-c"], &segment.bytes());
            scene.place.put(&format!("wal_005/{}.lz4", segment.name()), &stored);
        }
        fetch_and_check(&scene, &segments[0]);
        for segment in &segments[1..] {
            wait_until("the segment is fetched ahead", || fetched_ahead(&scene).contains(&segment.name()));
            fetch_and_check(&scene, segment);
        }
    }
}

#[test]
fn replay_at_full_speed_gets_every_segment_whole_whatever_the_spool_has_of_it() {
    for place in Place::each() {
        let (scene, segments) = behind(place, 60);
        for segment in &segments {
            fetch_and_check(&scene, segment);
        }
        scene.fetch(&small(61).name()).code(1);
        wait_until("nothing is kept", || fetched_ahead(&scene).is_empty());
    }
}

#[test]
fn after_a_promotion_nothing_is_left_in_pg_wal() {
    for place in Place::each() {
        let (scene, segments) = behind(place, 8);
        fetch_and_check(&scene, &segments[0]);
        wait_until("segments are fetched ahead", || fetched_ahead(&scene).len() == 2);
        fs::remove_file(scene.data.path().join("standby.signal")).unwrap();
        wait_until("the process ends", || prefetchers(&scene).is_empty());
        assert_eq!(files_in(&scene.wal(".walden")), Vec::<String>::new());
        assert!(!scene.wal(".walden").exists());
    }
}

#[test]
fn outside_a_recovery_nothing_is_fetched_ahead() {
    for place in Place::each() {
        let (scene, segments) = behind(place, 4);
        let fetch = |prefetch: &str| {
            let name = segments[0].name();
            let words = ["wal-fetch", &name, "pg_wal/RECOVERYXLOG"];
            scene.walden(&words).env("WALDEN_PREFETCH", prefetch).run().code(0);
        };
        fetch("0");
        fetch("1MiB");
        wait_until("one segment of 1 MiB is fetched ahead", || fetched_ahead(&scene) == [segments[1].name()]);
        fs::remove_file(scene.data.path().join("standby.signal")).unwrap();
        wait_until("the process ends", || prefetchers(&scene).is_empty());
        fetch("1GiB");
        assert!(prefetchers(&scene).is_empty() && !scene.wal(".walden").exists());
    }
}

#[test]
fn a_download_ahead_that_stands_still_is_not_waited_for() {
    let (scene, segments) = behind(Place::s3(), 6);
    scene.s3().fail_next(On::op(Op::Get).key(&segments[1].name()), Fault::StallInAnswer(1000, PATIENCE));
    fetch_and_check(&scene, &segments[0]);
    wait_until("the download ahead stands still", || scene.s3().faults_left() == 0);
    fetch_and_check(&scene, &segments[1]);
    let gets = scene.s3().requests().into_iter().filter(|get| get.key.ends_with(&segments[1].name())).count();
    assert_eq!(gets, 2);
    for segment in &segments[2..] {
        fetch_and_check(&scene, segment);
    }
}

#[test]
fn what_is_not_there_is_asked_for_anew_each_time() {
    for place in Place::each() {
        let (scene, segments) = behind(place, 2);
        fetch_and_check(&scene, &segments[0]);
        fetch_and_check(&scene, &segments[1]);
        let next = small(3);
        scene.fetch(&next.name()).code(1);
        let name = scene.write(&next);
        scene.push(&name).code(0);
        fetch_and_check(&scene, &next);
    }
}

#[test]
fn damage_in_the_spool_and_in_the_archive_never_reaches_postgresql() {
    for place in Place::each() {
        let (scene, segments) = behind(place, 8);
        let damages = [vec![], vec![0; 1 << 20], segments[7].bytes(), segments[3].bytes()[..4096].to_vec()];
        fetch_and_check(&scene, &segments[0]);
        for (segment, damage) in segments[1..].iter().zip(damages) {
            let name = segment.name();
            wait_until("the segment is fetched ahead", || fetched_ahead(&scene).contains(&name));
            let spooled = files_below(&scene.wal(".walden/fetched")).into_iter().find(|path| path.ends_with(&name));
            fs::write(scene.wal(".walden/fetched").join(spooled.unwrap()), damage).unwrap();
            scene.fetch(&name).code(0).stderr_has("is not used");
            assert!(scene.fetched().unwrap() == segment.bytes());
        }
    }
}

#[test]
fn what_is_damaged_in_the_archive_is_damaged_ahead_too() {
    for place in Place::each() {
        let (scene, segments) = behind(place, 4);
        let key = scene.key(&segments[1].name());
        let whole = scene.place.get(&key).unwrap();
        scene.place.corrupt(&key, whole.len() / 2);
        fetch_and_check(&scene, &segments[0]);
        scene.fetch(&segments[1].name()).code(7);
        assert_eq!(scene.fetched(), None);
        scene.place.put(&key, &whole);
        segments[1..].iter().for_each(|segment| fetch_and_check(&scene, segment));
    }
}

#[test]
fn segments_of_another_timeline_do_not_stay() {
    for place in Place::each() {
        let (scene, segments) = behind(place, 4);
        let branch: Vec<Segment> =
            (2..=4).map(|number| Segment { timeline: 2, seed: 100 + number, ..small(number) }).collect();
        for segment in &branch {
            let name = scene.write(segment);
            scene.push(&name).code(0);
        }
        fetch_and_check(&scene, &segments[0]);
        wait_until("segments are fetched ahead", || fetched_ahead(&scene).len() == 2);
        fetch_and_check(&scene, &branch[0]);
        let next: Vec<String> = branch[1..].iter().map(Segment::name).collect();
        wait_until("the spool has the new timeline's alone", || {
            let mut there = fetched_ahead(&scene);
            there.sort();
            there == next
        });
        branch[1..].iter().for_each(|segment| fetch_and_check(&scene, segment));
    }
}

#[test]
fn the_process_that_fetches_ahead_holds_nothing_of_its_caller_and_can_be_killed_at_any_time() {
    for place in Place::each() {
        let (scene, segments) = behind(place, 20);
        fetch_and_check(&scene, &segments[0]);
        for segment in &segments[1..] {
            wait_until("a process fetches ahead", || prefetchers(&scene).len() == 1);
            let process = prefetchers(&scene)[0];
            for name in ["0", "1", "2"] {
                assert_eq!(fs::read_link(format!("/proc/{process}/fd/{name}")).unwrap(), PathBuf::from("/dev/null"));
            }
            kill_process(Pid::from_raw(process.cast_signed()).unwrap(), Signal::KILL).unwrap();
            // A process lets go of its files after it has gone from sight.
            let lock = fs::File::create(scene.wal(".walden/fetched/lock")).unwrap();
            wait_until("it is gone", || rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_ok());
            drop(lock);
            fetch_and_check(&scene, segment);
        }
        // What a killed process left is cleared away by the next one.
        wait_until("a process fetches ahead", || prefetchers(&scene).len() == 1);
        fs::remove_file(scene.data.path().join("standby.signal")).unwrap();
        wait_until("it ends", || prefetchers(&scene).is_empty());
        assert!(!scene.wal(".walden").exists());
    }
}
