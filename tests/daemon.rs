//! `walden daemon`: the same answers with it, without it, and when it dies in between.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::patience::wait_until;
use support::place::files_below;
use support::s3::{Fault, On, Op};
use support::scene::{Scene, small};
use support::walden::Ran;

/// A daemon that listens; it ends with this value.
struct Daemon(Child);

impl Daemon {
    fn of(scene: &Scene) -> Daemon {
        let daemon = Daemon(scene.walden(&["daemon", scene.data.path().to_str().unwrap()]).spawn());
        wait_until("the daemon listens", || scene.wal(".walden/daemon").exists());
        daemon
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A push that says in its log who did it.
fn push(scene: &Scene, name: &str) -> Ran {
    scene.walden(&["--log-level", "info", "wal-push", &format!("pg_wal/{name}")]).run()
}

/// What the process itself says when it archives; a daemon says it in its own log.
const ITSELF: &str = "archived \"pg_wal/";

#[test]
fn with_a_daemon_the_answers_are_the_same() {
    for scene in Scene::each() {
        let _daemon = Daemon::of(&scene);
        let names: Vec<String> = (1..=4).map(|number| scene.write(&small(number))).collect();
        push(&scene, &names[0]).code(0).stderr_lacks(ITSELF);
        push(&scene, &names[0]).code(0).stderr_lacks(ITSELF);
        assert!(scene.place.keys().contains(&scene.key(&names[0])));
        // Conflict, damage, another cluster's, no WAL file, no file at all.
        scene.write(&support::forge::Segment { seed: 99, ..small(1) });
        push(&scene, &names[0]).code(6).stderr_has("other content").stderr_has("Nothing was overwritten");
        fs::write(scene.wal(&names[1]), "no segment").unwrap();
        push(&scene, &names[1]).code(7);
        scene.write(&support::forge::Segment { system_id: 7, ..small(3) });
        push(&scene, &names[2]).code(8);
        push(&scene, "xlogtemp.42").code(2);
        push(&scene, &small(9).name()).code(10);
    }
}

#[test]
fn what_waits_is_archived_by_the_daemon_while_postgresql_goes_on() {
    for scene in Scene::each() {
        let _daemon = Daemon::of(&scene);
        let names: Vec<String> = (1..=30).map(|number| scene.write(&small(number))).collect();
        for name in &names {
            fs::write(scene.wal(&format!("archive_status/{name}.ready")), "").unwrap();
        }
        for name in &names {
            push(&scene, name).code(0).stderr_lacks(ITSELF);
            fs::rename(
                scene.wal(&format!("archive_status/{name}.ready")),
                scene.wal(&format!("archive_status/{name}.done")),
            )
            .unwrap();
        }
        for (name, number) in names.iter().zip(1..) {
            scene.fetch(name).code(0);
            assert!(scene.fetched().unwrap() == small(number).bytes(), "{name}");
        }
        if let support::place::Place::S3(s3) = &scene.place {
            let puts = s3.requests().into_iter().filter(|put| put.op == Op::Put && put.key.contains("/wal/")).count();
            assert_eq!(puts, names.len());
        }
    }
}

#[test]
fn without_a_daemon_that_can_do_it_a_push_does_it_itself() {
    let scene = Scene::on_s3();
    let names: Vec<String> = (1..=6).map(|number| scene.write(&small(number))).collect();
    let mut daemon = Daemon::of(&scene);
    // Other settings, in our own words and in those of the AWS SDK.
    let path = |name: &str| format!("pg_wal/{name}");
    let other = scene.walden(&["--log-level", "info", "wal-push", &path(&names[0]), "--wal-compression", "2"]);
    other.run().code(0).stderr_has(ITSELF);
    let other = scene.walden(&["--log-level", "info", "wal-push", &path(&names[1])]).env("AWS_SESSION_NAME", "x");
    other.run().code(0).stderr_has(ITSELF);
    // One that does not move.
    daemon.signal(Signal::STOP);
    push(&scene, &names[2]).code(0).stderr_has(ITSELF);
    daemon.signal(Signal::CONT);
    push(&scene, &names[3]).code(0).stderr_lacks(ITSELF);
    // One that is gone.
    daemon.kill();
    push(&scene, &names[4]).code(0).stderr_has(ITSELF);
    // Something else in its place.
    fs::remove_file(scene.wal(".walden/daemon")).unwrap();
    fs::write(scene.wal(".walden/daemon"), "").unwrap();
    push(&scene, &names[5]).code(0).stderr_has(ITSELF);
}

#[test]
fn a_daemon_that_dies_over_an_order_is_no_failure() {
    let scene = Scene::on_s3();
    let mut daemon = Daemon::of(&scene);
    let name = scene.write(&small(1));
    scene.s3().fail_next(On::op(Op::Put).key(&name), Fault::StallBeforeAnswer(Duration::from_secs(600)));
    let call = scene.walden(&["--log-level", "info", "wal-push", &format!("pg_wal/{name}")]);
    let call = std::thread::spawn(move || call.run());
    wait_until("the order is at the store", || scene.s3().faults_left() == 0);
    daemon.kill();
    call.join().unwrap().code(0).stderr_has(ITSELF);
    scene.fetch(&name).code(0);
    assert!(scene.fetched().unwrap() == small(1).bytes());
}

#[test]
fn a_failure_of_the_store_is_told_as_it_would_be_without_a_daemon() {
    let scene = Scene::on_s3();
    let _daemon = Daemon::of(&scene);
    let name = scene.write(&small(1));
    scene.s3().fail_always(On::op(Op::Put).key(&name), Fault::Status(403, "AccessDenied"));
    push(&scene, &name).code(4).stderr_has("s3:PutObject").stderr_lacks(ITSELF);
    scene.s3().heal();
    push(&scene, &name).code(0).stderr_lacks(ITSELF);
}

#[test]
fn a_cluster_has_one_daemon_and_the_next_one_takes_the_place_of_one_that_was_killed() {
    let scene = Scene::on_s3();
    let data = scene.data.path().to_str().unwrap().to_owned();
    let mut daemon = Daemon::of(&scene);
    scene.walden(&["daemon", &data]).run().code(8).stderr_has("another daemon");
    daemon.kill();
    assert!(files_below(&scene.wal(".walden")).iter().any(|name| name == "daemon"));
    fs::remove_file(scene.wal(".walden/daemon")).unwrap();
    let _next = Daemon::of(&scene);
    let name = scene.write(&small(1));
    push(&scene, &name).code(0).stderr_lacks(ITSELF);
}
