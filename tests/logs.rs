//! What is written to standard error: one line an event, in a form that people, programs and the journal can read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;

use serde_json::Value;
use support::s3::{Fault, On, Op};
use support::scene::{Scene, small};
use support::walden::{Ran, Walden};

fn lines(ran: &Ran) -> Vec<Value> {
    ran.stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn an_action_begins_and_ends_with_the_same_fields_and_errors_have_those_of_other_lines() {
    let scene = Scene::on_s3();
    let name = scene.write(&small(1));
    let logged = |walden: Walden| walden.env("WALDEN_LOG_LEVEL", "info").env("WALDEN_LOG_FORMAT", "json").run();
    let pushed = lines(&logged(scene.walden(&["wal-push", &format!("pg_wal/{name}")])).code(0));
    let (first, last) = (pushed.first().unwrap(), pushed.last().unwrap());
    assert_eq!(first["message"], "begins");
    assert_eq!(last["message"], "ends");
    for field in ["verb", "object"] {
        assert_eq!(first[field], last[field]);
    }
    assert_eq!((last["verb"].as_str(), last["object"].as_str()), (Some("wal-push"), Some(name.as_str())));
    assert_eq!(last["outcome"], "done");
    assert!(last["ms"].is_u64());
    for line in &pushed {
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    let refused = lines(&logged(scene.walden(&["wal-push", "pg_wal/000000010000000000000007"])));
    let [.., end, error] = &refused[..] else { panic!("{refused:?}") };
    assert_eq!(end["message"], "ends");
    assert_eq!(end["outcome"], error["kind"]);
    assert_eq!(error["level"], "ERROR");
    assert!(error["timestamp"].is_string() && error["message"].is_string() && error["detail"].is_string(), "{error}");
}

#[test]
fn a_probe_at_the_end_of_the_archive_is_one_line_at_level_info_and_none_by_default() {
    let scene = Scene::on_s3();
    let name = scene.write(&small(1));
    scene.push(&name).code(0);
    for signal in ["standby.signal", "recovery.signal"] {
        fs::write(scene.data.path().join(signal), "").unwrap();
        for absent in [small(9).name(), String::from("00000002.history")] {
            scene.fetch(&absent).code(1).stderr_is("");
            let told =
                scene.walden(&["--log-level", "info", "wal-fetch", &absent, "pg_wal/RECOVERYXLOG"]).run().code(1);
            let told = told.stderr_lacks("ERROR").stderr_lacks("WARN");
            let about: Vec<&str> = told.stderr.lines().filter(|line| line.contains("is not in the archive")).collect();
            assert_eq!(about.len(), 1, "{told}");
        }
        // What is no answer is an error as before.
        scene.s3().fail_always(On::any(), Fault::Status(403, "AccessDenied"));
        let denied =
            scene.walden(&["wal-fetch", &small(8).name(), "pg_wal/RECOVERYXLOG"]).env("WALDEN_CACHE_DIR", "other");
        denied.run().stderr_has("ERROR:  could not fetch");
        scene.s3().heal();
        fs::remove_file(scene.data.path().join(signal)).unwrap();
    }
    // Whoever asks by hand is told.
    scene.fetch(&small(9).name()).code(1).stderr_has("ERROR:  \"").stderr_has("is not in the archive");
}

#[test]
fn what_repeats_is_told_a_few_times_and_then_counted() {
    let scene = Scene::on_s3();
    let name = scene.write(&small(1));
    scene.s3().fail_always(On::op(Op::Put), Fault::Status(503, "ServiceUnavailable"));
    let push = scene.walden(&["--log-level", "info", "wal-push", &format!("pg_wal/{name}")]);
    let ran = push.env("WALDEN_RETRY_TIMEOUT", "8s").run().code(5);
    let told = ran.stderr.lines().filter(|line| line.contains("will try again")).count() as u64;
    let left_out = ran.stderr.lines().find_map(|line| line.split_once("were left out left_out=")).expect(&ran.stderr).1;
    let left_out: u64 = left_out.trim().parse().unwrap();
    assert_eq!(told, walden::observe::repeats::TOLD, "{ran}");
    // Each try but the last is followed by such a line.
    let tries = scene.s3().count(Op::Put) as u64;
    assert!(left_out > 0 && told + left_out < tries + 2, "{tries} tries\n{ran}");
}

#[test]
fn the_journal_gets_the_priority_of_each_line_and_other_streams_do_not() {
    let scene = Scene::on_s3();
    for (ours, expected) in
        [(true, ["<6>", "<3>ERROR:  ", "<3>DETAIL:  "]), (false, [" INFO", "ERROR:  ", "DETAIL:  "])]
    {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let stat = rustix::fs::fstat(writer.as_fd()).unwrap();
        let stream = format!("{}:{}", stat.st_dev, if ours { stat.st_ino } else { stat.st_ino + 1 });
        let mut command = std::process::Command::new(support::walden::program());
        command.current_dir(scene.data.path()).env_clear().envs(scene.place.env()).env("JOURNAL_STREAM", stream);
        command.args(["--log-level", "info", "wal-push", "pg_wal/000000010000000000000007"]).stderr(writer);
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        child.wait().unwrap();
        for start in expected {
            assert!(text.lines().any(|line| line.starts_with(start)), "{start:?}\n{text}");
        }
        assert_eq!(text.lines().all(|line| line.starts_with('<')), ours, "{text}");
    }
}
