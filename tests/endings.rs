//! How a process ends is a word to PostgreSQL, however it comes to its end: signals, no memory, nobody who listens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::forge::{self, Segment};
use support::patience::wait_until;
use support::place::Place;
use support::s3::{Fault, On, Op};
use support::scene::{Scene, small};
use support::walden::program;

/// One segment in the archive, and one beside it; their names.
fn scene() -> (Scene, String, String) {
    let scene = Scene::on_s3();
    let names = [1, 2].map(|number| scene.write(&small(number)));
    scene.push(&names[0]).code(0);
    let [there, other] = names;
    (scene, there, other)
}

/// Runs the verb in the middle of a request that the store leaves lying, sends the signal, and returns how it ended.
fn ended_by(scene: &Scene, words: &[&str], signal: Signal) -> (Option<i32>, Option<i32>) {
    scene.s3().forget_requests();
    scene.s3().fail_always(On::any(), Fault::Stall(Duration::from_secs(600)));
    let mut running = scene.walden(words).spawn();
    wait_until("the store is asked", || !scene.s3().requests().is_empty());
    kill_process(Pid::from_child(&running), signal).unwrap();
    let status = running.wait().unwrap();
    scene.s3().heal();
    (status.code(), status.signal())
}

#[test]
fn a_push_that_is_ended_by_a_signal_ends_in_a_code_that_postgresql_counts_and_leaves_nothing() {
    let (scene, _, name) = scene();
    let before = scene.place.keys();
    for signal in [Signal::TERM, Signal::HUP, Signal::QUIT] {
        let path = format!("pg_wal/{name}");
        assert_eq!(ended_by(&scene, &["wal-push", &path], signal), (Some(11), None), "{signal:?}");
        assert_eq!(scene.place.keys(), before);
    }
    scene.push(&name).code(0);
}

#[test]
fn a_fetch_dies_of_sigterm_as_postgresql_expects_and_leaves_nothing() {
    let (scene, name, _) = scene();
    let fetch = ["wal-fetch", &name, "pg_wal/RECOVERYXLOG"];
    assert_eq!(ended_by(&scene, &fetch, Signal::TERM), (None, Some(Signal::TERM.as_raw())));
    assert_eq!(scene.fetched(), None);
    scene.fetch(&name).code(0);
}

/// Runs a line of shell, with `walden` as `$0` and in the scene's environment, and returns the exit code.
fn shell(scene: &Scene, line: &str) -> i32 {
    let mut command = Command::new("sh");
    command.args(["-c", line]).arg(program()).current_dir(scene.data.path()).env_clear().stdin(Stdio::null());
    command.env("HOME", scene.data.path()).env("PATH", "/usr/bin:/bin").env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("WALDEN_CACHE_DIR", scene.data.path().join("cache")).envs(scene.place.env());
    command.output().unwrap().status.code().unwrap()
}

#[test]
fn where_nobody_listens_the_answer_is_the_same() {
    let (scene, there, other) = scene();
    for nowhere in ["2>&-", ">&- 2>&-", "2>/dev/full", ">/dev/full 2>/dev/full"] {
        let run = |words: &str| shell(&scene, &format!("\"$0\" --log-level debug {words} {nowhere}"));
        assert_eq!(run(&format!("wal-push pg_wal/{other}")), 0, "{nowhere}");
        assert_eq!(run(&format!("wal-fetch {there} pg_wal/RECOVERYXLOG")), 0, "{nowhere}");
        assert!(scene.fetched().is_some());
        assert_eq!(run("wal-fetch 00000009.history pg_wal/RECOVERYHISTORY"), 1, "{nowhere}");
        assert_eq!(run("wal-push pg_wal/nothing"), 2, "{nowhere}");
    }
}

#[test]
fn without_memory_the_code_is_one_that_postgresql_understands_rightly() {
    let (scene, _, other) = scene();
    let limited = |words: &str, kib: u32| shell(&scene, &format!("ulimit -v {kib}; \"$0\" {words}"));
    // With less than this it is the system that cannot even load the program, or give it a stack.
    let least = (1..).map(|mib| mib << 10).find(|kib| limited("--version", *kib) == 0).unwrap() + 1024;
    let codes = |words: &str| (0..60).map(|step| limited(words, least + step * 256)).collect::<Vec<i32>>();

    let push = codes(&format!("wal-push pg_wal/{other}"));
    assert!(push.iter().all(|code| (0..=125).contains(code)) && push.contains(&10), "{push:?}");
    // Its decoder needs a window of 4 MiB, more than it takes to start the program.
    let wide = Segment { size: 16 << 20, ..small(3) };
    forge::data_directory(scene.data.path(), &wide);
    let wide = scene.write(&wide);
    scene.walden(&["wal-push", "--wal-compression", "9", &format!("pg_wal/{wide}")]).run().code(0);
    let fetch = |signal: &str| {
        let signal = scene.data.path().join(signal);
        fs::write(&signal, "").unwrap();
        let codes = codes(&format!("wal-fetch {wide} pg_wal/RECOVERYXLOG --prefetch 0"));
        fs::remove_file(signal).unwrap();
        codes
    };
    let standby = fetch("standby.signal");
    assert!(standby.iter().all(|code| [0, 10].contains(code)) && standby.contains(&10), "{standby:?}");
    let recovery = fetch("recovery.signal");
    assert!(recovery.iter().all(|code| [0, 200].contains(code)) && recovery.contains(&200), "{recovery:?}");
}

#[test]
fn on_error_overrides_what_the_signal_files_ask_for() {
    let (scene, there, _) = scene();
    let fetch = |how: &str, name: &str| {
        scene.walden(&["wal-fetch", name, "pg_wal/RECOVERYXLOG"]).env("WALDEN_ON_ERROR", how).run()
    };
    let signal = |name: &str| scene.data.path().join(name);
    scene.s3().fail_always(On::op(Op::Get).key(&there), Fault::Status(403, "AccessDenied"));
    fetch("auto", &there).code(4);
    fetch("abort", &there).code(200);
    fs::write(signal("recovery.signal"), "").unwrap();
    fetch("auto", &there).code(200);
    fetch("missing", &there).code(4);
    fs::rename(signal("recovery.signal"), signal("standby.signal")).unwrap();
    fetch("auto", &there).code(4);
    fetch("abort", &there).code(200);
    // Certain absence is the same whatever is asked for.
    for how in ["auto", "missing", "abort"] {
        fetch(how, "000000010000000000000009").code(1);
    }
    fetch("perhaps", &there).code(3).stderr_has("auto, missing or abort");
}

#[test]
fn a_push_gives_up_in_time_and_says_where_it_was() {
    let scene = Scene::new(Place::s3());
    let name = scene.write(&small(1));
    let faults = [
        Fault::Stall(Duration::from_secs(600)),
        Fault::StallInBody(1000, Duration::from_secs(600)),
        Fault::StallBeforeAnswer(Duration::from_secs(600)),
        Fault::Trickle(Duration::from_secs(1)),
    ];
    for fault in faults {
        scene.s3().fail_always(On::op(Op::Put).key(&name), fault);
        let push = scene.walden(&["wal-push", &format!("pg_wal/{name}")]).env("WALDEN_PUSH_TIMEOUT", "2s").run();
        push.code(5).stderr_has(&scene.s3().endpoint()).stderr_has("WALDEN_PUSH_TIMEOUT");
        scene.s3().heal();
    }
    scene.push(&name).code(0);
}
