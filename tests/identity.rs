//! Who Walden is to the store: sources of credentials, roles assumed one from the other, and what happens when they end.
//! The token service is that of the tests' own S3; tests/accounts.rs asks one that enforces policies.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use support::forge::Segment;
use support::patience::wait_until;
use support::s3::{Fault, On, Op};
use support::scene::{Scene, small};
use support::walden::{Ran, Walden};

const WRITER: &str = "arn:aws:iam::111111111111:role/wal-writer";
const HOP: &str = "arn:aws:iam::222222222222:role/path/hop";

fn push(scene: &Scene, number: u64) -> Walden {
    let name = scene.write(&small(number));
    scene.walden(&["wal-push", &format!("pg_wal/{name}")])
}

fn as_writer(scene: &Scene, number: u64) -> Walden {
    push(scene, number).env("WALDEN_ASSUME_ROLE", WRITER)
}

#[test]
fn two_variables_are_enough_to_work_in_another_account() {
    let scene = Scene::on_s3();
    scene.s3().require_external_id("walden-7d1f");
    as_writer(&scene, 1).env("WALDEN_EXTERNAL_ID", "walden-7d1f").run().code(0).stderr_is("");
    let asked = scene.s3().assumed();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0]["RoleArn"].as_str(), asked[0]["ExternalId"].as_str()), (WRITER, "walden-7d1f"));
    let name = &asked[0]["RoleSessionName"];
    assert!(name.starts_with("walden-") && name.ends_with(&format!("-{}", support::forge::SYSTEM_ID)), "{name}");
    assert!(!asked[0].contains_key("DurationSeconds"), "{asked:?}");
    let put = scene.s3().requests().into_iter().rfind(|request| request.op == Op::Put).unwrap();
    assert!(put.header("authorization").contains("Credential=ASIAWALDENTEST"), "{put:?}");
}

#[test]
fn each_role_of_a_chain_assumes_the_next_with_what_is_its_own() {
    let scene = Scene::on_s3();
    let last = format!("{WRITER};external-id=theirs;session-name=db1;duration=15m;tag:team=wal");
    push(&scene, 1).env("WALDEN_ASSUME_ROLE", format!("{HOP} {last}")).env("WALDEN_EXTERNAL_ID", "ours").run().code(0);
    let asked = scene.s3().assumed();
    let [hop, writer] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((hop["RoleArn"].as_str(), hop["ExternalId"].as_str()), (HOP, "ours"));
    assert_eq!((writer["RoleArn"].as_str(), writer["ExternalId"].as_str()), (WRITER, "theirs"));
    assert_eq!((writer["RoleSessionName"].as_str(), writer["DurationSeconds"].as_str()), ("db1", "900"));
    assert_eq!((writer["Tags.member.1.Key"].as_str(), writer["Tags.member.1.Value"].as_str()), ("team", "wal"));
    assert!(writer["Caller"].starts_with("ASIAWALDENTEST"), "the first role asks for the second: {writer:?}");

    // The same as flags, and in a file.
    scene.s3().assumed();
    let name = scene.write(&small(2));
    let path = format!("pg_wal/{name}");
    let flags = ["wal-push", &path, "--assume-role", HOP, "--assume-role", &last, "--external-id", "ours"];
    scene.walden(&flags).run().code(0);
    assert_eq!(scene.s3().assumed(), [], "the session of the variables is the same");
    let file = scene.data.path().join("walden.toml");
    fs::write(&file, format!("assume-role = [\"{HOP}\", \"{last}\"]\nexternal-id = \"other\"\n")).unwrap();
    push(&scene, 3).env("WALDEN_CONFIG", &file).run().code(0);
    let asked = scene.s3().assumed();
    assert_eq!((asked.len(), asked[0]["ExternalId"].as_str()), (2, "other"));
}

#[test]
fn a_web_identity_with_a_role_of_its_own_is_where_the_chain_begins() {
    let scene = Scene::on_s3();
    as_writer(&scene, 1)
        .without(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
        .envs(scene.s3().web_identity(scene.data.path(), Duration::from_secs(3600)))
        .run()
        .code(0);
    let asked = scene.s3().assumed();
    let actions: Vec<(&str, &str)> = asked.iter().map(|asked| (&*asked["Action"], &*asked["RoleArn"])).collect();
    let source = ("AssumeRoleWithWebIdentity", "arn:aws:iam::123456789012:role/walden");
    assert_eq!(actions, [source, ("AssumeRole", WRITER)]);
}

#[test]
fn a_role_of_a_profile_comes_before_the_chain_too() {
    let scene = Scene::on_s3();
    let config = scene.data.path().join("aws-config");
    let text = format!(
        "[profile base]\naws_access_key_id = {}\naws_secret_access_key = {}\n\
         [profile db]\nsource_profile = base\nrole_arn = {HOP}\nexternal_id = of-the-profile\n",
        support::s3::ACCESS_KEY,
        support::s3::SECRET_KEY
    );
    fs::write(&config, text).unwrap();
    as_writer(&scene, 1)
        .without(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
        .env("AWS_CONFIG_FILE", &config)
        .env("AWS_PROFILE", "db")
        .run()
        .code(0);
    let asked = scene.s3().assumed();
    let roles: Vec<&str> = asked.iter().map(|asked| &*asked["RoleArn"]).collect();
    assert_eq!(roles, [HOP, WRITER]);
    assert_eq!(
        (asked[0].get("ExternalId").map(String::as_str), asked[1].get("ExternalId")),
        (Some("of-the-profile"), None)
    );
}

#[test]
fn a_thousandth_segment_asks_for_no_session_and_another_role_does() {
    let scene = Scene::on_s3();
    // WALDEN_TEST_SEGMENTS=1000 makes the name true.
    let count = std::env::var("WALDEN_TEST_SEGMENTS").map_or(5, |count| count.parse().unwrap());
    for number in 1..=count {
        as_writer(&scene, number).run().code(0);
    }
    assert_eq!(scene.s3().assumed().len(), 1);
    // Two of the puts ask whether the store honours conditions.
    assert_eq!(scene.s3().requests().len() as u64, count + 3);
    push(&scene, count + 1).env("WALDEN_ASSUME_ROLE", HOP).run().code(0);
    as_writer(&scene, count + 2).env("WALDEN_EXTERNAL_ID", "another").run().code(0);
    assert_eq!(scene.s3().assumed().len(), 2);
    // Neither a role's session nor the keys it came from may be read by others, and the keys are not there at all.
    let secret = support::s3::SECRET_KEY;
    for file in walk(&scene.data.path().join("cache")) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("ASIAWALDENTEST") || !text.contains(secret), "{}: {text}", file.display());
    }
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_role_that_is_refused_says_who_asked_whom_for_which_role_and_is_not_asked_again() {
    let scene = Scene::on_s3();
    scene.s3().require_external_id("right");
    let refused = |ran: Ran| {
        ran.code(4)
            .stderr_has(&format!("could not assume the role {WRITER}"))
            .stderr_has("AccessDenied: User: arn:aws:iam::123456789012:user/test is not authorized")
            .stderr_has(&format!("at {}", scene.s3().address()))
            .stderr_has("request id TEST")
    };
    refused(as_writer(&scene, 1).run()).stderr_has("set WALDEN_EXTERNAL_ID to it");
    refused(as_writer(&scene, 1).env("WALDEN_EXTERNAL_ID", "wrong").run()).stderr_has("check WALDEN_EXTERNAL_ID");
    assert_eq!(scene.s3().assumed().len(), 2, "once each");
    assert_eq!(scene.s3().count(Op::Put), 0);
    as_writer(&scene, 1).env("WALDEN_EXTERNAL_ID", "right").run().code(0);
}

#[test]
fn an_external_id_without_a_role_and_a_role_that_is_none_are_told_before_anything_is_asked() {
    let scene = Scene::on_s3();
    push(&scene, 1).env("WALDEN_EXTERNAL_ID", "abc").run().code(3).stderr_has("WALDEN_ASSUME_ROLE");
    push(&scene, 1).env("WALDEN_ASSUME_ROLE", "wal-writer").run().code(3).stderr_has("arn:aws:iam::ACCOUNT:role/NAME");
    let twice = format!("{WRITER};duration=1h;duration=2h");
    push(&scene, 1).env("WALDEN_ASSUME_ROLE", twice).run().code(3).stderr_has("duration is given twice");
    assert!(scene.s3().requests().is_empty());
}

#[test]
fn a_token_service_that_is_down_is_unreachable_and_not_a_refusal() {
    let scene = Scene::on_s3();
    scene.s3().fail_next(On::op(Op::Assume), Fault::Status(503, "ServiceUnavailable"));
    scene.s3().fail_next(On::op(Op::Assume), Fault::Reset);
    as_writer(&scene, 1).run().code(0);
    assert_eq!(scene.s3().faults_left(), 0);
    scene.s3().fail_always(On::op(Op::Assume), Fault::Reset);
    let role = format!("{WRITER};session-name=other");
    push(&scene, 2).env("WALDEN_ASSUME_ROLE", role).env("WALDEN_RETRY_TIMEOUT", "1s").run().code(5);
}

/// Many requests over sessions of seconds: what a backup of many hours meets with sessions of one.
#[test]
fn sessions_that_end_under_way_are_renewed_once_each_for_all_workers() {
    let scene = Scene::of(support::place::Place::s3(), &Segment::default());
    scene.s3().set_session_life(Duration::from_secs(3));
    for number in 1..=40 {
        scene.write(&small(number));
        let name = small(number).name();
        fs::write(scene.wal(&format!("archive_status/{name}.ready")), "").unwrap();
    }
    // Each put takes a while, so that the pushes ahead outlive several sessions.
    scene.s3().fail_always(On::op(Op::Put), Fault::StallBeforeAnswer(Duration::from_millis(1200)));
    let began = Instant::now();
    as_writer(&scene, 1).env("WALDEN_PUSH_AHEAD", "39").run().code(0).stderr_is("");
    let took = began.elapsed();
    let asked = scene.s3().assumed().len();
    let refused =
        scene.s3().requests().iter().filter(|request| request.status.is_some_and(|status| status == 400)).count();
    assert!(asked >= 2, "{asked} sessions in {took:?}");
    // Renewed when a sixth of its life is left.
    assert!(asked as f64 <= 2.0 + took.as_secs_f64() / 2.4, "{asked} sessions in {took:?}");
    assert_eq!(refused, 0, "no request was signed with a session that had ended");
}

#[test]
fn a_renewal_that_fails_does_not_end_what_the_old_session_can_still_do() {
    let scene = backfilled(220);
    // Renewed two seconds before its end, while sixteen puts begin every nine tenths of one.
    scene.s3().set_session_life(Duration::from_secs(12));
    scene.s3().fail_always(On::op(Op::Put), Fault::StallBeforeAnswer(Duration::from_millis(900)));
    let backfill =
        scene.walden(&["wal-backfill", "."]).env("WALDEN_ASSUME_ROLE", WRITER).env("WALDEN_RETRY_TIMEOUT", "30s");
    let running = std::thread::spawn(|| backfill.run());
    wait_until("a session is asked for", || scene.s3().assumed().len() == 1);
    scene.s3().fail_next(On::op(Op::Assume), Fault::Status(503, "ServiceUnavailable"));
    scene.s3().fail_next(On::op(Op::Assume), Fault::Reset);
    let ran = running.join().unwrap().code(0);
    ran.stderr_has("could not renew the session, which is still good for a while");
    assert!(!scene.s3().assumed().is_empty(), "renewed in the end");
    assert_eq!(scene.archived_names().len(), 220);
}

#[test]
fn many_requests_that_wait_for_a_refused_role_are_one_request_for_it() {
    let scene = backfilled(40);
    scene.s3().fail_always(On::op(Op::Assume), Fault::Status(403, "AccessDenied"));
    scene.walden(&["wal-backfill", "."]).env("WALDEN_ASSUME_ROLE", WRITER).run().code(4).stderr_has(WRITER);
    assert_eq!(scene.s3().count(Op::Assume), 1);
}

#[test]
fn a_token_that_was_rotated_is_read_again() {
    let scene = backfilled(40);
    scene.s3().fail_always(On::op(Op::Put), Fault::StallBeforeAnswer(Duration::from_millis(1500)));
    let identity = scene.s3().web_identity(scene.data.path(), Duration::from_secs(3));
    let token = identity.iter().find(|(name, _)| *name == "AWS_WEB_IDENTITY_TOKEN_FILE").unwrap().1.clone();
    let backfill = scene.walden(&["wal-backfill", "."]).without(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]);
    let running = backfill.envs(identity).spawn();
    let mut asked = Vec::new();
    wait_until("a session is asked for", || {
        asked.extend(scene.s3().assumed());
        !asked.is_empty()
    });
    fs::write(&token, "rotated.web.token").unwrap();
    assert!(running.wait_with_output().unwrap().status.success());
    asked.extend(scene.s3().assumed());
    let tokens: Vec<&str> = asked.iter().map(|asked| &*asked["WebIdentityToken"]).collect();
    assert_eq!((tokens[0], *tokens.last().unwrap()), ("a.web.token", "rotated.web.token"));
}

/// A data directory with so many segments that the archive has not.
fn backfilled(count: u64) -> Scene {
    let scene = Scene::on_s3();
    for number in 1..=count {
        let name = scene.write(&small(number));
        fs::write(scene.wal(&format!("archive_status/{name}.done")), "").unwrap();
    }
    scene
}

#[test]
fn the_doctor_shows_the_way_hop_by_hop_and_what_may_be_done() {
    let scene = Scene::on_s3();
    let chain = format!("{HOP} {WRITER}");
    let doctor = || scene.walden(&["doctor"]).env("WALDEN_ASSUME_ROLE", &chain);
    doctor()
        .run()
        .code(0)
        .stdout_has("arn:aws:iam::123456789012:user/test, from the environment")
        .stdout_has("arn:aws:sts::222222222222:assumed-role/path/hop/walden-")
        .stdout_has(&format!("from the role {WRITER}, until 20"))
        .stdout_has("empty: nothing was archived here yet")
        .stdout_has("If-None-Match is honoured");
    assert_eq!(scene.s3().keys(""), Vec::<String>::new(), "nothing is left");
    push(&scene, 1).run().code(0);
    let findings = doctor().args(["--json"]).run().code(0).json();
    let verdict = |check: &str| {
        let finding = findings.as_array().unwrap().iter().find(|finding| finding["check"] == check);
        finding.unwrap_or_else(|| panic!("{check} in {findings:#}"))["verdict"].clone()
    };
    for check in ["identity", "store", "clock", "list", "put", "create only", "get", "absence", "delete", "archive"] {
        assert_eq!(verdict(check), "ok", "{check}");
    }
}

#[test]
fn the_doctor_tells_limits_from_failures() {
    let scene = Scene::on_s3();
    let doctor = || scene.walden(&["doctor"]).run();
    scene.s3().fail_always(On::op(Op::Delete), Fault::Status(403, "AccessDenied"));
    doctor().code(0).stdout_has("limited  delete").stdout_has("Allow s3:DeleteObject below the prefix");
    scene.s3().heal();
    for (op, check) in [(Op::List, "list"), (Op::Get, "get"), (Op::Put, "put")] {
        scene.s3().fail_always(On::op(op), Fault::Status(403, "AccessDenied"));
        doctor().code(0).stdout_has(&format!("limited  {check} ")).stdout_has("not allowed");
        scene.s3().heal();
    }
    scene.s3().ignore_conditions();
    doctor().code(0).stdout_has("limited  create only").stdout_has("If-None-Match is ignored");
    scene.s3().fail_always(On::any(), Fault::Status(404, "NoSuchBucket"));
    doctor().code(3).stdout_has("failed   bucket").stdout_has("hint: Create the bucket");
    scene.s3().heal();
    scene.s3().fail_always(On::op(Op::Assume), Fault::Status(403, "AccessDenied"));
    let refused = scene.walden(&["doctor", "--assume-role", WRITER]).run();
    refused.code(4).stdout_has("failed   identity").stderr_has("checks failed");
}

#[test]
fn the_doctor_examines_a_directory_too_and_leaves_nothing_there() {
    let scene = Scene::new(support::place::Place::directory());
    let doctor = || scene.walden(&["doctor"]).run();
    doctor().code(0).stdout_has("ok       put         allowed").stdout_has("ok       free space");
    assert_eq!(scene.place.keys(), Vec::<String>::new());
    // A file where the archive should be: it can be neither listed nor written.
    let nowhere = format!("file://{}", scene.wal("archive_status").with_file_name("x").display());
    fs::write(scene.wal("x"), "").unwrap();
    let failed = scene.walden(&["doctor", "--prefix", &nowhere]).run();
    failed.code(10).stdout_has("failed   put").stderr_has("checks failed");
}
