//! Stores that ask for fewer requests get fewer, all work is done all the same, and nobody waits for longer than they said.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use support::archiver;
use support::cluster::{Cluster, Postgres};
use support::place::Place;
use support::random::Random;
use support::s3::{Answer, Fault, On, Op, S3};
use support::scene::{Scene, small};
use support::stories;
use support::walden::Ran;

/// So many small segments are archived and read, some of them at once.
const SEGMENTS: u64 = 240;

/// What a store that is under load bears: 40 requests a second.
const RATE: (usize, Duration) = (10, Duration::from_millis(250));

/// A scene whose server has so many segments, and whose store is known already.
fn scene(segments: u64) -> Scene {
    let scene = Scene::on_s3();
    scene.push(&scene.write(&small(1))).code(0);
    for number in 2..=segments {
        archiver::offer(&scene, &scene.write(&small(number)));
    }
    scene.s3().forget_requests();
    scene
}

fn backfill(scene: &Scene) -> Ran {
    let server = scene.data.path().to_str().unwrap();
    scene.walden(&["wal-backfill", server]).env("WALDEN_RETRY_TIMEOUT", "60s").env("WALDEN_LOG_LEVEL", "info").run()
}

/// How many requests this takes.
fn requests_of(s3: &S3, work: impl FnOnce()) -> usize {
    s3.forget_requests();
    work();
    s3.requests().len()
}

#[test]
fn a_store_under_load_gets_less_than_twice_the_requests_and_everything_is_done() {
    let (quiet, loaded) = (scene(SEGMENTS), scene(SEGMENTS));
    let requests = requests_of(quiet.s3(), || drop(backfill(&quiet).code(0)));
    assert!(requests >= SEGMENTS as usize - 1, "{requests}");
    loaded.s3().burden(Random::announced(), 100, RATE);
    let mut log = String::new();
    let more = requests_of(loaded.s3(), || log = backfill(&loaded).code(0).stderr);
    assert_eq!(loaded.archived_names().len() as u64, SEGMENTS);
    let complaints = loaded.s3().requests().iter().filter(|request| is_complaint(request.status)).count();
    println!("{requests} requests quiet, {more} under load, {complaints} of them refused");
    assert!(complaints >= 10 && more < 2 * requests, "{more} requests instead of {requests}, {complaints} refused");
    assert!(log.contains("the store asks for fewer requests"), "{log}");
}

fn is_complaint(status: Option<hyper::StatusCode>) -> bool {
    status.is_some_and(|status| [429, 503].contains(&status.as_u16()))
}

#[test]
fn when_the_store_keeps_up_again_requests_are_no_longer_held_back() {
    let scene = scene(SEGMENTS);
    for _ in 0..8 {
        scene.s3().fail_next(On::op(Op::Put), Fault::Status(503, "SlowDown"));
    }
    let ran = backfill(&scene).code(0).stderr_has("the store asks for fewer requests");
    ran.stderr_has("the store keeps up again");
    assert_eq!(scene.s3().count(Op::Put) as u64, SEGMENTS - 1 + 8);
}

#[test]
fn a_complaint_makes_all_wait_and_not_each_worker_find_out_for_itself() {
    let scene = scene(17);
    scene
        .s3()
        .fail_always(On::op(Op::Put), Answer::refusal(503, "SlowDown", "Please reduce your request rate.").into());
    let server = scene.data.path().to_str().unwrap();
    let ran = scene.walden(&["wal-backfill", server]).env("WALDEN_RETRY_TIMEOUT", "3s").run();
    ran.code(5).stderr_has("SlowDown").stderr_has("WALDEN_RETRY_TIMEOUT");
    // Sixteen at once, each with pauses of its own, make a hundred in that time.
    let puts = scene.s3().count(Op::Put);
    assert!(puts <= 60, "{puts} requests to a store that had asked for fewer");
}

#[test]
fn a_push_to_a_store_that_refuses_all_ends_within_its_patience_and_says_why() {
    let scene = scene(17);
    for fault in [Fault::Status(503, "SlowDown"), Fault::Status(429, "TooManyRequests"), Fault::RetryAfter(503, 3600)] {
        scene.s3().fail_always(On::any(), fault);
        let path = format!("pg_wal/{}", small(2).name());
        let ran = scene.walden(&["wal-push", &path]).env("WALDEN_RETRY_TIMEOUT", "2s").run();
        ran.code(5).stderr_has("gave up after").stderr_has("asks for fewer requests");
        scene.s3().heal();
    }
    assert!(scene.s3().count(Op::Put) < 60, "{}", scene.s3().count(Op::Put));
    scene.push(&small(2).name()).code(0);
}

/// How it is when the last attempt begins just before the end.
#[test]
fn an_attempt_that_is_cut_by_the_end_of_the_patience_does_not_hide_what_the_store_said_before() {
    let scene = scene(17);
    let path = format!("pg_wal/{}", small(2).name());
    let busy = Answer::refusal(503, "SlowDown", "Please reduce your request rate.");
    scene.s3().fail_next(On::op(Op::Put), busy.into());
    scene.s3().fail_always(On::op(Op::Put), Fault::Stall(Duration::from_secs(600)));
    let ran = scene.walden(&["wal-push", &path]).env("WALDEN_RETRY_TIMEOUT", "2s").run();
    ran.code(5)
        .stderr_has("Please reduce your request rate")
        .stderr_has("asks for fewer requests")
        .stderr_has("of the last one: the time for it is used up")
        .stderr_has("gave up after 2 attempts");
    scene.s3().heal();
    scene.push(&small(2).name()).code(0);
}

#[test]
fn a_backup_and_its_restore_go_through_a_store_under_load() {
    for postgres in Postgres::each() {
        let [quiet, loaded] = [false, true].map(|under_load| {
            let place = Place::s3();
            let mut primary = Cluster::primary(&postgres, &place).env("WALDEN_RETRY_TIMEOUT", "60s");
            let noise = "string_agg(decode(md5(g || '.' || i), 'hex'), '')";
            primary.sql(&format!(
                "CREATE TABLE noise AS SELECT g, (SELECT {noise} FROM generate_series(1, 60) i) AS noise \
                 FROM generate_series(1, 100000) g"
            ));
            primary.archive_all();
            let backup = requests_of(place.service(), || {
                if under_load {
                    place.service().burden(Random::announced(), 100, RATE);
                }
                let data = primary.data();
                let push = ["backup-push", "--part-size", "1MiB", data.to_str().unwrap()];
                primary.walden(&push).run().code(0);
            });
            primary.stop();
            let restore = requests_of(place.service(), || {
                if under_load {
                    place.service().burden(Random::announced(), 100, RATE);
                }
                drop(stories::restored(&postgres, &place, &[]));
            });
            place.service().heal();
            let copy = stories::recovered(stories::restored(&postgres, &place, &[]));
            assert_eq!(copy.value("SELECT count(*) FROM noise WHERE length(noise) = 960"), "100000");
            (backup, restore)
        });
        println!("requests of a backup and a restore: {quiet:?} quiet, {loaded:?} under load");
        assert!(loaded.0 < 2 * quiet.0 && loaded.1 < 2 * quiet.1, "{quiet:?} {loaded:?}");
        assert!(quiet.0 > 50 && quiet.1 > 50, "{quiet:?}");
    }
}
