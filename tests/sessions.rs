//! A base backup and its restore take longer than the sessions of the role that they are made with: on a real server,
//! with the tests' own S3 and token service.
//!
//! In the ordinary run sessions live for six seconds, and more than one is needed. `WALDEN_TEST_SESSION=20` makes it five
//! minutes with sessions of twenty seconds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::time::{Duration, Instant};

use support::cluster::{Cluster, Postgres};
use support::place::Place;
use support::s3::{Fault, On, Op, S3};
use support::walden::Walden;

const ROLE: &str = "arn:aws:iam::111111111111:role/backup";

/// How long sessions live.
fn life() -> Duration {
    Duration::from_secs(long().unwrap_or(6))
}

fn long() -> Option<u64> {
    std::env::var("WALDEN_TEST_SESSION").ok().map(|seconds| seconds.parse().unwrap())
}

#[test]
fn a_backup_and_its_restore_outlive_many_sessions_with_one_request_for_each_however_many_workers_there_are() {
    for postgres in Postgres::each() {
        let place = Place::s3();
        let primary = Cluster::primary(&postgres, &place);
        // Some 75 bytes a row that do not compress.
        let rows = if long().is_some() { 1_600_000 } else { 400_000 };
        primary.sql(&format!(
            "CREATE TABLE noise AS SELECT sha256(n::text::bytea) || sha256((-n)::text::bytea) AS bytes \
             FROM generate_series(1, {rows}) n"
        ));
        place.service().set_session_life(life());
        // Each part takes its time, so that all of it outlives several sessions.
        let slow = Fault::StallBeforeAnswer(life().mul_f64(if long().is_some() { 0.6 } else { 0.3 }));
        place.service().fail_always(On::op(Op::Put).key("/backup/"), slow.clone());
        let data = primary.data();
        let backup = primary.walden(&["backup-push", data.to_str().unwrap(), "--part-size", "1MiB"]);
        outlives("backup", place.service(), backup);
        place.service().heal();
        place.service().fail_always(On::op(Op::Get).key("/backup/"), slow);
        let copy = Cluster::empty(&postgres, &place);
        let data = copy.data();
        outlives("restore", place.service(), copy.walden(&["backup-fetch", data.to_str().unwrap()]));
        copy.verify_backup();
    }
}

fn outlives(what: &str, s3: &S3, command: Walden) {
    s3.forget_requests();
    s3.assumed();
    let role = format!("{ROLE};session-name={what}");
    let began = Instant::now();
    command.env("WALDEN_ASSUME_ROLE", role).args(["--workers", if long().is_some() { "2" } else { "4" }]).run().code(0);
    let lived = began.elapsed().as_secs_f64() / life().as_secs_f64();
    // The archiver's own sessions are called otherwise.
    let asked = s3.assumed().iter().filter(|asked| asked["RoleSessionName"] == what).count();
    println!("{what}: {lived:.1} lives of a session, {asked} sessions");
    assert!(lived > 1.5, "the {what} was too quick: {lived} lives");
    // Renewed when a sixth of its life is left, or when the next request begins.
    assert!(asked >= 2 && asked as f64 <= 2.0 + lived * 1.3, "{asked} sessions in {lived} lives");
    let refused =
        s3.requests().into_iter().filter(|request| request.status.is_some_and(|status| status == 400)).count();
    assert_eq!(refused, 0, "no request was signed with a session that had ended");
}
