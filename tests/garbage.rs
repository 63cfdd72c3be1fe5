//! `delete garbage`: what failed backups left goes, when it is old enough and somebody has confirmed it. Nothing else does.
//! `delete policy` takes it along.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use support::place::Place;
use support::s3::{Answer, Fault, On, Op};
use support::walden::Ran;

const SYSTEM: &str = "7710427967336607753";
const DAYS: Duration = Duration::from_secs(3 * 86_400);

/// The keys of a backup's objects.
fn keys(day: u32, names: &[&str]) -> Vec<String> {
    let id = id(day);
    names.iter().map(|name| format!("{SYSTEM}/backup/{id}/{name}")).collect()
}

fn id(day: u32) -> String {
    format!("202611{day:02}T013005Z-0000000100000000000000AB")
}

/// Stores these as they were left so long ago.
fn leave(place: &Place, keys: &[String], ago: Duration) {
    for key in keys {
        place.put(key, b"twelve bytes");
        place.age(key, ago);
    }
}

fn delete(place: &Place, args: &[&str]) -> Ran {
    let home = tempfile::tempdir().unwrap();
    place.walden(home.path()).env("WALDEN_RETRY_TIMEOUT", "5s").args(["delete", "garbage"]).args(args).run()
}

fn names(listed: &Value) -> Vec<&str> {
    listed.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect()
}

#[test]
fn what_failed_backups_left_is_shown_and_goes_when_that_is_confirmed_and_nothing_else_goes() {
    for place in Place::each() {
        println!("-- {place:?}");
        let failed = keys(1, &["v0/000000", "v0/000001", "v1/000000", "files"]);
        leave(&place, &failed, DAYS);
        let complete = keys(2, &["v0/000000", "files", "backup.json"]);
        leave(&place, &complete, DAYS);
        let underway = keys(3, &["v0/000000", "v0/000001"]);
        leave(&place, &underway[..1], DAYS);
        leave(&place, &underway[1..], Duration::from_secs(60));
        let others = vec![format!("{SYSTEM}/backup/{}/notes.txt", id(1)), format!("{SYSTEM}/wal/00000002.history")];
        leave(&place, &others, DAYS);
        leave(&place, &["walden-doctor.txt".to_owned()], DAYS);

        let before = place.keys();
        let shown = delete(&place, &[]).code(0);
        shown.stdout_has(&id(1)).stdout_has("4 objects, 48 B").stdout_has("--confirm");
        assert_eq!(place.keys(), before);
        let shown = delete(&place, &["--json"]).code(0).json();
        assert_eq!((&shown["confirmed"], &shown["deleted"]), (&json!(false), &json!([])));
        assert_eq!(names(&shown["goes"]), [&id(1), "walden-doctor.txt"]);
        assert_eq!(names(&shown["stays"]), [&id(3)]);
        assert_eq!(place.keys(), before);

        delete(&place, &["--confirm"]).code(0).stdout_has("deleted 5 objects, 60 B").stdout_has("may be being taken");
        let mut left = [complete, underway, others].concat();
        left.sort();
        assert_eq!(place.keys(), left);
        // What is older than the other one is long enough.
        delete(&place, &["--confirm", "--json", "--older-than", "1h"]).code(0);
        assert_eq!(place.keys(), left);
        delete(&place, &[]).code(0).stdout_has("nothing to delete");
    }
}

#[test]
fn files_that_killed_writers_left_in_a_directory_go_after_an_hour() {
    let place = Place::directory();
    let staged = |name: &str| format!("{SYSTEM}/wal/00000001/.walden-staged-{name}");
    leave(&place, &[staged("old")], Duration::from_secs(3700));
    leave(&place, &[staged("young")], Duration::from_secs(3500));
    delete(&place, &[]).code(0).stdout_has("1 object, 12 B");
    delete(&place, &["--confirm"]).code(0).stdout_has("deleted 1 object,");
    assert_eq!(place.keys(), [staged("young")]);
}

#[test]
fn age_is_told_by_the_clock_of_the_store() {
    let place = Place::s3();
    leave(&place, &keys(1, &["v0/000000"]), Duration::from_secs(55 * 60));
    let hour = ["--older-than", "1h"];
    delete(&place, &hour).code(0).stdout_has("nothing to delete");
    // The clock by which requests are signed follows the store's, and a quarter of an hour is the most that it may be off.
    let date = (Timestamp::now() + SignedDuration::from_mins(10)).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let body = "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                <IsTruncated>false</IsTruncated></ListBucketResult>";
    let answer = Answer { status: 200, headers: Vec::new(), body: body.to_owned() }.header("date", date);
    // The first listing asks for clusters.
    place.service().fail_next(On::op(Op::List), Fault::StallBeforeAnswer(Duration::ZERO));
    place.service().fail_next(On::op(Op::List), answer.into());
    delete(&place, &hour).code(0).stdout_has(&id(1)).stdout_has("would delete");
}

#[test]
fn a_backup_that_is_completed_between_looking_and_deleting_stays_whole() {
    let place = Place::s3();
    let parts = keys(1, &["v0/000000", "v0/000001"]);
    leave(&place, &parts, DAYS);
    // Looked at once for the plan; the second look comes before anything is deleted.
    // The listings before are those of clusters, of the clock, and of ids.
    for pause in [0, 0, 0, 5000] {
        place.service().fail_next(On::op(Op::List), Fault::StallBeforeAnswer(Duration::from_millis(pause)));
    }
    std::thread::scope(|scope| {
        let deleting = scope.spawn(|| delete(&place, &["--confirm"]));
        support::patience::wait_until("it is looked at", || place.service().count(Op::List) >= 4);
        // What was asked is carried out at once; only its answer waits.
        std::thread::sleep(Duration::from_secs(1));
        leave(&place, &keys(1, &["backup.json"]), Duration::ZERO);
        deleting.join().unwrap().code(0).stdout_has("deleted 0 objects").stderr_has("meanwhile");
    });
    assert_eq!(place.keys().len(), 3);
}

#[test]
fn whoever_may_not_delete_is_told_so_and_locked_objects_stay_alone() {
    let place = Place::s3();
    let parts = keys(1, &["v0/000000", "v0/000001"]);
    leave(&place, &parts, DAYS);
    leave(&place, &keys(2, &["v0/000000"]), DAYS);
    place.service().fail_always(On::op(Op::Delete), Fault::Status(403, "AccessDenied"));
    delete(&place, &["--confirm"]).code(4).stderr_has("s3:DeleteObject");
    assert_eq!(place.keys().len(), 3);
    place.service().heal();
    place.service().lock(&format!("some/where/{}", parts[1]));
    let ran = delete(&place, &["--confirm"]).code(4).stderr_has("000001").stderr_has("1 objects could not be deleted");
    ran.stdout_has(&format!("deleted backup {}", id(2)));
    assert_eq!(place.keys(), [parts[1].clone()]);
}

#[test]
fn a_policy_takes_along_what_failed_backups_left_and_other_words_do_not() {
    for place in Place::each() {
        println!("-- {place:?}");
        let failed = [keys(1, &["v0/000000", "files"]), vec!["walden-doctor.txt".to_owned()]].concat();
        leave(&place, &failed, DAYS);
        let underway = keys(3, &["v0/000000"]);
        leave(&place, &underway, Duration::from_secs(60));
        let home = tempfile::tempdir().unwrap();
        let run = |args: &[&str]| {
            place.walden(home.path()).env("WALDEN_RETAIN", "7").args(["delete"]).args(args).run().code(0)
        };

        let told = run(&["policy"]).stdout_has("goes   backup ").stdout_has(&id(1)).stdout_has("walden-doctor.txt");
        told.stdout_has("and 3 objects, 36 B of garbage, go with --confirm");
        let plan = run(&["policy", "--json"]).json();
        assert_eq!(names(&plan["garbage"]["goes"]), [&id(1), "walden-doctor.txt"]);
        // It is told of with the cluster's backups.
        assert_eq!(plan["garbage"]["stays"], json!([]));
        assert_eq!(plan["clusters"][0]["backups"][0]["id"], id(3));
        assert_eq!(run(&["retain", "7", "--confirm", "--json"]).json()["garbage"], Value::Null);
        let record = format!("{SYSTEM}/retention.json");
        let mut expected = [&failed[..], &underway, std::slice::from_ref(&record)].concat();
        expected.sort();
        assert_eq!(place.keys(), expected);

        let done = run(&["policy", "--confirm", "--json"]).json();
        assert_eq!(names(&done["garbage"]["deleted"]), [&id(1), "walden-doctor.txt"]);
        assert_eq!(place.keys(), [underway, vec![record]].concat());
        run(&["policy"]).stdout_has("there is nothing to delete");
    }
}

#[test]
fn a_policy_that_may_not_delete_garbage_has_done_the_rest_and_says_so() {
    let place = Place::s3();
    let parts = keys(1, &["v0/000000", "v0/000001"]);
    leave(&place, &parts, DAYS);
    leave(&place, &keys(2, &["v0/000000"]), DAYS);
    leave(&place, &keys(3, &["v0/000000"]), DAYS);
    place.service().lock(&format!("some/where/{}", parts[1]));
    let home = tempfile::tempdir().unwrap();
    let policy = |words: &[&str]| {
        let policy = place.walden(home.path()).env("WALDEN_RETAIN", "7").args(["delete", "policy", "--confirm"]);
        policy.args(words).run().code(4).stderr_has("000001").stderr_has("1 objects could not be deleted")
    };
    policy(&[]).stdout_has("deleted 0 backups").stdout_has("deleted 2 objects, 24 B of garbage");
    assert_eq!(place.keys(), [parts[1].clone()]);
    leave(&place, &keys(2, &["v0/000000"]), DAYS);
    assert_eq!(names(&policy(&["--json"]).json()["garbage"]["deleted"]), [&id(2)]);
    assert_eq!(place.keys(), [parts[1].clone()]);
}

#[test]
fn a_word_that_is_nothing_to_delete_deletes_nothing() {
    let place = Place::directory();
    leave(&place, &keys(1, &["v0/000000"]), DAYS);
    let home = tempfile::tempdir().unwrap();
    place.walden(home.path()).args(["delete", "rubbish", "--confirm"]).run().code(2).stderr_has("garbage");
    place.walden(home.path()).args(["delete"]).run().code(2);
    assert_eq!(place.keys().len(), 1);
}
