//! A primary that may put and nothing else: what it does all the same, and what it says that it could not check.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use support::cluster::{Cluster, Postgres};
use support::place::Place;
use support::s3::{Fault, On, Op, S3};
use support::scene::{Scene, small};
use support::stories::{back_up, recovered, restored};

/// From now on, whoever asks may put.
fn put_only(s3: &S3) {
    for op in [Op::Get, Op::Head, Op::List, Op::Delete] {
        s3.fail_always(On::op(op), Fault::Status(403, "AccessDenied"));
    }
}

#[test]
fn wal_is_archived_with_one_right_alone_and_without_a_word() {
    let scene = Scene::on_s3();
    put_only(scene.s3());
    for number in 1..=3 {
        let name = scene.write(&small(number));
        scene.push(&name).code(0).stderr_is("");
    }
    scene.s3().heal();
    assert_eq!(scene.archived_names().len(), 3);
}

#[test]
fn a_file_that_is_there_already_is_no_success_until_somebody_has_compared_it() {
    let scene = Scene::on_s3();
    let name = scene.write(&small(1));
    scene.push(&name).code(0);
    put_only(scene.s3());
    scene.push(&name).code(4).stderr_has("may not be read to compare it").stderr_has("s3:GetObject");
    // A person who may read pushes it once by hand, and the archiver goes on. PostgreSQL waits for it.
    std::fs::write(scene.wal("archive_status").join(format!("{name}.ready")), "").unwrap();
    scene.s3().heal();
    scene.push(&name).code(0);
    put_only(scene.s3());
    scene.s3().forget_requests();
    scene.push(&name).code(0);
    assert!(scene.s3().requests().is_empty());
    // Another file under that name is none that was compared.
    scene.write(&support::forge::Segment { seed: 99, ..small(1) });
    scene.push(&name).code(4);
}

#[test]
fn an_answer_that_is_lost_is_no_success_until_somebody_has_compared_what_is_there() {
    let scene = Scene::on_s3();
    let name = scene.write(&small(1));
    // The probe has its answers.
    scene.push(&scene.write(&small(2))).code(0);
    put_only(scene.s3());
    scene.s3().fail_next(On::op(Op::Put).key(&name), Fault::LoseReply);
    // It is our own, but nobody here can know.
    scene.push(&name).code(4).stderr_has("may not be read to compare it");
    scene.s3().heal();
    assert_eq!(scene.archived(&name), Some(small(1).bytes()));
    scene.push(&name).code(0);
}

#[test]
fn base_backups_are_taken_with_one_right_alone_and_say_what_they_did_not_check() {
    for postgres in Postgres::each() {
        let place = Place::s3();
        let primary = Cluster::primary(&postgres, &place);
        primary.sql("CREATE TABLE marks AS SELECT 1 AS mark");
        put_only(place.service());
        let first = back_up(&primary);
        first.stderr_lacks("format of the archive").stderr_has("the server's word alone");
        primary.sql("INSERT INTO marks VALUES (2)");
        let second = back_up(&primary);
        second.stderr_has("the format of the archive").stderr_has("the server's word alone");
        place.service().heal();
        assert_eq!(recovered(restored(&postgres, &place, &[])).value("SELECT count(*) FROM marks"), "2");
    }
}
