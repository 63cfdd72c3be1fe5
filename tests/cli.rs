//! The command line as PostgreSQL and people meet it, on forged files: no server is needed here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::forge::{self, Segment};
use support::front::free_address;
use support::place::{Place, files_below};
use support::random::Random;
use support::s3::{Fault, On, Op};
use support::scene::{Scene, small};
use support::tls::TlsFront;
use support::walden::{Ran, Walden};

#[test]
fn segments_of_every_version_and_several_sizes_come_back_byte_for_byte() {
    let versions = (13..=18).map(|version| Segment { version, ..Segment::default() });
    let sizes = [1 << 20, 2 << 20, 64 << 20].map(|size| Segment { size, ..Segment::default() });
    for place in Place::each() {
        for (number, segment) in (1..).zip(versions.clone().chain(sizes.clone())) {
            let segment = Segment { number, system_id: number, ..segment };
            let (name, data) = (segment.name(), tempfile::tempdir().unwrap());
            forge::data_directory(data.path(), &segment);
            segment.write(data.path());
            let walden = |args: &[&str]| place.walden(data.path()).args(args).run();
            walden(&["wal-push", &format!("pg_wal/{name}")]).code(0).stdout_is("").stderr_is("");
            walden(&["wal-fetch", &name, "pg_wal/RECOVERYXLOG"]).code(0).stdout_is("").stderr_is("");
            assert!(fs::read(data.path().join("pg_wal/RECOVERYXLOG")).unwrap() == segment.bytes(), "{segment:?}");
        }
    }
}

#[test]
fn history_files_backup_labels_and_partial_segments_come_back_byte_for_byte() {
    for scene in Scene::each() {
        let segment = small(3);
        let others = [
            ("00000002.history".to_owned(), forge::history(&[(1, "0/5000000", "no reason")]).into_bytes()),
            (format!("{}.00000028.backup", segment.name()), b"START WAL LOCATION: 0/300028 (file x)\n".to_vec()),
            (format!("{}.partial", segment.name()), segment.bytes()),
        ];
        for (name, content) in others {
            fs::write(scene.wal(&name), &content).unwrap();
            scene.push(&name).code(0);
            scene.push(&name).code(0);
            scene.fetch(&name).code(0);
            assert!(scene.fetched().unwrap() == content, "{name}");
        }
    }
}

#[test]
fn the_same_segment_again_is_success_and_other_content_is_a_conflict_that_changes_nothing() {
    for scene in Scene::each() {
        let segment = small(1);
        let name = scene.write(&segment);
        scene.push(&name).code(0);
        let stored = scene.place.get(&scene.key(&name)).unwrap();
        scene.push(&name).code(0);
        scene.write(&Segment { seed: 99, ..segment.clone() });
        let conflict = scene.push(&name).code(6).stderr_has(&name);
        let digests = [segment.bytes(), Segment { seed: 99, ..segment }.bytes()].map(|bytes| blake3::hash(&bytes));
        for digest in digests {
            conflict.clone().stderr_has(&digest.to_hex()[..16]);
        }
        assert!(scene.place.get(&scene.key(&name)).unwrap() == stored);
    }
}

#[test]
fn of_racing_servers_with_different_content_one_wins_and_the_others_are_told() {
    for scene in Scene::each() {
        let others: Vec<Scene> = (0..6).map(|_| Scene::new(Place::directory())).collect();
        let name = small(1).name();
        let pushes: Vec<_> = (0u64..)
            .zip(&others)
            .map(|(seed, other)| {
                other.write(&Segment { seed: seed % 2, ..small(1) });
                let walden = scene.place.walden(other.data.path()).args(["wal-push", &format!("pg_wal/{name}")]);
                std::thread::spawn(move || walden.run().code.unwrap())
            })
            .collect();
        let codes: Vec<i32> = pushes.into_iter().map(|push| push.join().unwrap()).collect();
        let winner = codes.iter().position(|code| *code == 0).unwrap() % 2;
        for (seed, code) in codes.iter().enumerate() {
            assert_eq!(*code, if seed % 2 == winner { 0 } else { 6 }, "{codes:?}");
        }
        scene.fetch(&name).code(0);
        assert!(scene.fetched().unwrap() == Segment { seed: winner as u64, ..small(1) }.bytes());
    }
}

#[test]
fn what_is_not_in_the_archive_is_exit_code_1_and_leaves_no_file() {
    for scene in Scene::each() {
        let present = scene.write(&small(1));
        scene.push(&present).code(0);
        for name in ["000000010000000000000002", "00000002.history", "000000020000000000000001"] {
            scene.fetch(name).code(1);
            assert_eq!(scene.fetched(), None);
        }
    }
}

#[test]
fn files_that_are_not_what_their_name_says_are_refused_before_anything_is_sent() {
    for scene in Scene::each() {
        let name = scene.write(&small(1));
        fs::copy(scene.wal(&name), scene.wal(&small(2).name())).unwrap();
        scene.push(&small(2).name()).code(7);
        fs::write(scene.wal(&small(3).name()), &small(3).bytes()[..1000]).unwrap();
        scene.push(&small(3).name()).code(7);
        fs::write(scene.wal(&small(4).name()), vec![0; 1 << 20]).unwrap();
        scene.push(&small(4).name()).code(7);
        scene.write(&Segment { system_id: 7, ..small(5) });
        scene.push(&small(5).name()).code(8).stderr_has("7710427967336607753");
        fs::write(scene.wal("xlogtemp.42"), "x").unwrap();
        scene.push("xlogtemp.42").code(2);
        let wal: Vec<String> = scene.place.keys().into_iter().filter(|key| key.contains("/wal/")).collect();
        assert!(wal.is_empty(), "{wal:?}");
    }
}

#[test]
fn a_damaged_or_cut_object_is_corrupt_and_never_a_short_file() {
    for scene in Scene::each() {
        let name = scene.write(&small(1));
        scene.push(&name).code(0);
        let whole = scene.place.get(&scene.key(&name)).unwrap();
        let mut random = Random::announced();
        for _ in 0..12 {
            let at = random.below(whole.len() as u64) as usize;
            scene.place.put(&scene.key(&name), &whole);
            scene.place.corrupt(&scene.key(&name), at);
            scene.fetch(&name).code(7);
            assert_eq!(scene.fetched(), None, "byte {at} damaged");
            scene.place.put(&scene.key(&name), &whole[..at]);
            scene.fetch(&name).code(7);
            assert_eq!(scene.fetched(), None, "cut to {at}");
        }
        scene.place.put(&scene.key(&name), &[&whole[..], b"more"].concat());
        scene.fetch(&name).code(7);
        scene.place.put(&scene.key(&name), &whole);
        scene.fetch(&name).code(0);
    }
}

#[test]
fn a_targeted_recovery_is_stopped_by_any_failure_but_absence_and_a_standby_by_none() {
    let scene = Scene::on_s3();
    let name = scene.write(&small(1));
    scene.push(&name).code(0);
    scene.s3().corrupt(&format!("some/where/{}", scene.key(&name)), 200);
    let signal = |name: &str| fs::write(scene.data.path().join(name), "").unwrap();
    let absent = small(2).name();

    scene.fetch(&name).code(7);
    signal("recovery.signal");
    scene.fetch(&name).code(200);
    scene.fetch(&absent).code(1);
    scene.s3().fail_always(On::op(Op::Get), Fault::Status(403, "AccessDenied"));
    scene.fetch(&absent).code(200);
    scene.walden(&["wal-fetch", "--no-such-flag", &absent, "pg_wal/RECOVERYXLOG"]).run().code(200);
    scene.s3().heal();
    signal("standby.signal");
    scene.fetch(&name).code(7);
    scene.fetch(&absent).code(1);
    scene.s3().fail_always(On::op(Op::Get), Fault::Status(403, "AccessDenied"));
    scene.fetch(&absent).code(4);
    assert_eq!(scene.fetched(), None);
}

#[test]
fn an_outage_a_refusal_and_a_missing_bucket_are_told_apart_from_absence() {
    let scene = Scene::on_s3();
    let name = scene.write(&small(1));
    let quick = |args: &[&str]| scene.walden(args).env("WALDEN_RETRY_TIMEOUT", "1s");
    let path = format!("pg_wal/{name}");

    let nowhere = free_address().to_string();
    let unreachable = |args: &[&str]| quick(args).env("AWS_ENDPOINT_URL", format!("http://{nowhere}")).run();
    unreachable(&["wal-push", &path]).code(5).stderr_has("gave up after");
    unreachable(&["wal-fetch", &name, "pg_wal/RECOVERYXLOG"]).code(5).stderr_has(&nowhere);

    let denied = |args: &[&str]| quick(args).env("AWS_SECRET_ACCESS_KEY", "wrong").run();
    denied(&["wal-push", &path]).code(4);
    denied(&["wal-fetch", &name, "pg_wal/RECOVERYXLOG"]).code(4);

    let elsewhere = |args: &[&str]| quick(args).env("WALDEN_PREFIX", "s3://no-such-bucket/x").run();
    for ran in [elsewhere(&["wal-push", &path]), elsewhere(&["wal-fetch", &name, "pg_wal/RECOVERYXLOG"])] {
        assert!(![Some(0), Some(1)].contains(&ran.code), "{ran}");
        ran.stderr_has("no-such-bucket");
    }

    scene.s3().fail_always(On::any(), Fault::Status(503, "SlowDown"));
    quick(&["wal-push", &path]).run().code(5);
    quick(&["wal-fetch", &name, "pg_wal/RECOVERYXLOG"]).run().code(5);
    scene.s3().heal();
    quick(&["wal-push", &path]).run().code(0);
}

#[test]
fn every_request_survives_one_failure_of_every_kind() {
    let faults = [
        Fault::Status(503, "SlowDown"),
        Fault::Status(500, "InternalError"),
        Fault::Status(429, "TooManyRequests"),
        Fault::Status(409, "ConditionalRequestConflict"),
        Fault::Reset,
        Fault::LoseReply,
    ];
    for fault in faults {
        let scene = Scene::on_s3();
        scene.s3().fail_first_tries(fault.clone());
        let segment = small(1);
        let name = scene.write(&segment);
        scene.push(&name).code(0);
        scene.s3().fail_first_tries(fault.clone());
        scene.fetch(&name).code(0);
        assert!(scene.fetched().unwrap() == segment.bytes(), "{fault:?}");
        scene.fetch(&small(2).name()).code(1);
    }
}

#[test]
fn a_download_that_is_cut_goes_on_or_begins_again() {
    let scene = Scene::on_s3();
    let segment = small(1);
    let name = scene.write(&segment);
    scene.push(&name).code(0);
    for size in [1, 100, 5000, 50_000] {
        scene.s3().fail_next(On::op(Op::Get).key("/wal/"), Fault::CutBody(size));
        scene.fetch(&name).code(0);
        assert!(scene.fetched().unwrap() == segment.bytes(), "cut after {size}");
        assert_eq!(scene.s3().faults_left(), 0);
    }
}

#[test]
fn a_push_that_says_ok_has_stored_the_segment_whatever_the_network_did() {
    let scene = Scene::on_s3();
    let mut random = Random::announced();
    for number in 1..=40 {
        let segment = small(number);
        let name = scene.write(&segment);
        for _ in 0..random.below(4) {
            let fault = match random.below(5) {
                0 => Fault::Status(400, "RequestTimeout"),
                1 => Fault::Status(503, "SlowDown"),
                2 => Fault::Reset,
                3 => Fault::LoseReply,
                _ => Fault::Stall(Duration::from_millis(100)),
            };
            scene.s3().fail_next(On::any(), fault);
        }
        let ran = scene.push(&name);
        scene.s3().heal();
        assert!((0..=125).contains(&ran.code.expect("no signal")), "{ran}");
        if ran.code != Some(0) {
            scene.push(&name).code(0);
        }
        scene.fetch(&name).code(0);
        assert!(scene.fetched().unwrap() == segment.bytes(), "{ran}");
    }
}

#[test]
fn a_push_or_fetch_killed_at_any_moment_leaves_nothing_wrong_and_the_next_one_succeeds() {
    let mut random = Random::announced();
    for scene in Scene::each() {
        // An archive that holds something, so that what is absent is absent from it.
        let first = scene.write(&small(100));
        scene.push(&first).code(0);
        for number in 1..=25 {
            let segment = small(number);
            let name = scene.write(&segment);
            let mut push = scene.walden(&["wal-push", &format!("pg_wal/{name}")]).spawn();
            std::thread::sleep(Duration::from_micros(random.below(40_000)));
            push.kill().unwrap();
            push.wait().unwrap();
            let ran = scene.fetch(&name);
            assert!([Some(0), Some(1)].contains(&ran.code), "{ran}");
            assert!(scene.fetched().is_none_or(|content| content == segment.bytes()));
            scene.push(&name).code(0);

            let mut fetch = scene.walden(&["wal-fetch", &name, "pg_wal/RECOVERYXLOG"]).spawn();
            std::thread::sleep(Duration::from_micros(random.below(40_000)));
            fetch.kill().unwrap();
            fetch.wait().unwrap();
            assert!(scene.fetched().is_none_or(|content| content == segment.bytes()));
            scene.fetch(&name).code(0);
            assert!(scene.fetched().unwrap() == segment.bytes());
        }
        let wal = scene.place.keys().into_iter().filter(|key| key.contains("/wal/") && !key.contains('~'));
        assert!(wal.count() >= 25);
    }
}

#[test]
fn a_push_is_one_plain_put_and_a_fetch_one_get() {
    let scene = Scene::on_s3();
    let name = scene.write(&small(1));
    scene.push(&name).code(0);
    scene.s3().forget_requests();
    let name = scene.write(&small(2));
    scene.push(&name).code(0);
    let requests = scene.s3().requests();
    let puts: Vec<_> = requests.iter().filter(|request| request.op == Op::Put).collect();
    assert_eq!(puts.len(), 1, "{requests:#?}");
    let put = puts[0];
    assert!(put.key.ends_with(&scene.key(&name)), "{}", put.key);
    assert_eq!(put.header("if-none-match"), "*");
    let size = scene.place.get(&scene.key(&name)).unwrap().len();
    assert_eq!(put.header("content-length"), size.to_string());
    assert_eq!(put.header("x-amz-checksum-crc32c").len(), 8);
    // Signed, as always over http.
    assert_eq!(put.header("x-amz-content-sha256").len(), 64);

    scene.s3().forget_requests();
    scene.fetch(&name).code(0);
    assert_eq!((scene.s3().count(Op::Get), scene.s3().requests().len()), (1, 1), "{:#?}", scene.s3().requests());
    scene.s3().forget_requests();
    scene.fetch(&small(3).name()).code(1);
    // The last request proves that there is an archive in which the segment is absent, the one before it that there is no
    // other one beside it, of WAL-E or WAL-G.
    let counts = || (scene.s3().count(Op::Get), scene.s3().count(Op::List), scene.s3().requests().len());
    assert_eq!(counts(), (1, 2, 3), "{:#?}", scene.s3().requests());
    scene.s3().forget_requests();
    scene.fetch(&small(4).name()).code(1);
    scene.fetch("00000002.history").code(1);
    assert_eq!(counts(), (2, 0, 2), "{:#?}", scene.s3().requests());
    // It is remembered of this archive alone.
    let elsewhere = scene.walden(&["wal-fetch", &small(3).name(), "pg_wal/RECOVERYXLOG"]);
    elsewhere.env("WALDEN_PREFIX", format!("s3://{}/some/where/else", support::s3::BUCKET)).run().code(3);
}

#[test]
fn over_https_payloads_go_unsigned_and_only_the_named_authority_is_trusted() {
    let scene = Scene::on_s3();
    let front = TlsFront::start(scene.s3().address());
    let name = scene.write(&small(1));
    let path = format!("pg_wal/{name}");
    let push = |authority: &Path| {
        let walden = scene.walden(&["wal-push", &path]).env("AWS_ENDPOINT_URL", front.endpoint());
        walden.env("AWS_CA_BUNDLE", authority).run()
    };
    push(&front.stranger()).code(5).stderr_has("AWS_CA_BUNDLE");
    push(Path::new("/no/such/file")).code(10).stderr_has("AWS_CA_BUNDLE");
    assert_eq!(scene.s3().requests().len(), 0);

    push(&front.authority()).code(0);
    for request in scene.s3().requests() {
        assert_eq!(request.header("x-amz-content-sha256"), "UNSIGNED-PAYLOAD");
        // The store checks what came all the same.
        assert_eq!(request.header("x-amz-checksum-crc32c").len(), 8);
    }
    assert_eq!(scene.s3().requests().last().map(|put| put.op), Some(Op::Put));
    let fetch = scene.walden(&["wal-fetch", &name, "pg_wal/RECOVERYXLOG"]).env("AWS_ENDPOINT_URL", front.endpoint());
    fetch.env("AWS_CA_BUNDLE", front.authority()).run().code(0);
    assert_eq!(scene.fetched().unwrap(), small(1).bytes());
}

#[test]
fn in_an_archive_that_is_not_there_nothing_is_absent() {
    for scene in Scene::each() {
        let name = scene.write(&small(1));
        scene.fetch(&name).code(3).stderr_has("there is no archive at");
        fs::write(scene.data.path().join("recovery.signal"), "").unwrap();
        scene.fetch(&name).code(200);
        scene.push(&name).code(0);
        scene.fetch(&small(2).name()).code(1);
    }
}

#[test]
fn an_archived_segment_opens_with_the_zstd_program() {
    for scene in Scene::each() {
        let segment = small(1);
        let name = scene.write(&segment);
        scene.push(&name).code(0);
        assert!(unzstd(&scene.place.get(&scene.key(&name)).unwrap()) == segment.bytes());
    }
}

fn unzstd(object: &[u8]) -> Vec<u8> {
    let mut zstd = Command::new("zstd").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = zstd.stdin.take().unwrap();
    let object = object.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&object).unwrap());
    let output = zstd.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn archive_status_and_the_source_are_left_as_they_are() {
    for scene in Scene::each() {
        let name = scene.write(&small(1));
        fs::write(scene.wal(&format!("archive_status/{name}.ready")), "").unwrap();
        let before = files_below(&scene.data.path().join("pg_wal"));
        scene.push(&name).code(0);
        assert_eq!(files_below(&scene.data.path().join("pg_wal")), before);
    }
}

#[test]
fn two_clusters_on_one_prefix_lie_apart() {
    for scene in Scene::each() {
        let other = Scene::new(Place::directory());
        let (one, two) = (small(1), Segment { system_id: 42, version: 17, seed: 5, ..small(1) });
        forge::data_directory(other.data.path(), &two);
        let name = scene.write(&one);
        scene.push(&name).code(0);
        two.write(other.data.path());
        scene.place.walden(other.data.path()).args(["wal-push", &format!("pg_wal/{name}")]).run().code(0);
        scene.fetch(&name).code(0);
        assert!(scene.fetched().unwrap() == one.bytes());
    }
}

/// Neither a place nor a data directory.
fn bare(args: &[&str]) -> Ran {
    let directory = tempfile::tempdir().unwrap();
    Walden::new(directory.path()).args(args).run()
}

#[test]
fn words_that_cannot_be_understood_are_exit_code_2_and_settings_3() {
    bare(&[]).code(2);
    bare(&["wal-pull"]).code(2).stderr_has("wal-push");
    bare(&["wal-push"]).code(2);
    bare(&["wal-push", "--no-such-flag", "x"]).code(2);
    bare(&["backup-list"]).code(3).stderr_has("--prefix").stderr_has("WALDEN_PREFIX");
    bare(&["--prefix", "ftp://x", "backup-list"]).stderr_has("ftp://x");
    let directory = tempfile::tempdir().unwrap();
    let misspelt = Walden::new(directory.path()).env("WALDEN_PREFX", "s3://x").args(["backup-list"]).run();
    misspelt.code(3).stderr_has("WALDEN_PREFX").stderr_has("WALDEN_PREFIX");
    let contrary = Walden::new(directory.path()).env("WALG_S3_PREFIX", "s3://x").env("WALE_S3_PREFIX", "s3://y");
    contrary.args(["backup-list"]).run().code(3).stderr_has("WALG_S3_PREFIX").stderr_has("WALE_S3_PREFIX");
}

#[test]
fn help_has_an_example_for_each_caller() {
    bare(&["--help"]).code(0).stderr_is("").stdout_has("archive_command").stdout_has("restore_command");
    for verb in [
        "wal-push",
        "wal-fetch",
        "wal-backfill",
        "wal-show",
        "wal-verify",
        "backup-push",
        "backup-fetch",
        "backup-list",
        "backup-show",
        "delete",
        "daemon",
        "status",
        "exporter",
        "config",
    ] {
        bare(&[verb, "--help"]).code(0).stdout_has(&format!("walden {verb}"));
    }
    bare(&["--version"]).code(0).stdout_has(env!("CARGO_PKG_VERSION"));
}

#[test]
fn settings_come_from_flag_variable_envdir_and_file_in_this_order() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("walden.toml"), "prefix = \"file:///from/file\"\nretry-timeout = \"11s\"\n").unwrap();
    fs::create_dir(at("env")).unwrap();
    fs::write(at("env/WALDEN_RETRY_TIMEOUT"), "22s\n").unwrap();
    let config = |args: &[&str], variable: Option<&str>| {
        let mut walden = Walden::new(directory.path()).args(["--config", "walden.toml"]).args(args).args(["config"]);
        if let Some(value) = variable {
            walden = walden.env("WALDEN_RETRY_TIMEOUT", value);
        }
        walden.run().code(0)
    };
    config(&[], None).stdout_has("file:///from/file").stdout_has("11s");
    config(&["--envdir", "env"], None).stdout_has("22s");
    config(&[], Some("33s")).stdout_has("33s").stdout_has("WALDEN_RETRY_TIMEOUT");
    config(&["--retry-timeout", "44s"], Some("33s")).stdout_has("44s");
    assert!(Walden::new(directory.path()).args(["config", "--json"]).run().code(0).json().is_array());
}

#[test]
fn secrets_are_never_printed() {
    let scene = Scene::on_s3();
    for args in [&["config"][..], &["config", "--json"], &["backup-list"], &["--log-level", "debug", "backup-list"]] {
        let ran = scene.walden(args).run();
        assert!(!format!("{ran}").replace(&ran.command, "").contains(support::s3::SECRET_KEY), "{args:?}");
    }
}

#[test]
fn an_archive_without_backups_lists_none_and_no_archive_is_an_error() {
    for scene in Scene::each() {
        scene.walden(&["backup-list"]).run().code(3).stderr_has("there is no archive at");
        scene.push(&scene.write(&small(1))).code(0);
        scene.walden(&["backup-list"]).run().code(0);
        let list = scene.walden(&["backup-list", "--json"]).run().code(0);
        assert_eq!(list.json(), serde_json::json!([]));
        scene.walden(&["backup-show", "LATEST"]).run().code(1);
    }
}

#[test]
fn a_backfill_stores_what_the_server_has_and_the_archive_has_not() {
    for scene in Scene::each() {
        let names: Vec<String> = (1..=6).map(|number| scene.write(&small(number))).collect();
        scene.push(&names[0]).code(0);
        // 1 was archived; 2 and 3 were received by a standby, 4 waits; 5 and 6 are not complete.
        for (name, status) in names.iter().zip(["done", "done", "done", "ready"]) {
            fs::write(scene.wal(&format!("archive_status/{name}.{status}")), "").unwrap();
        }
        let history = forge::history(&[(1, "0/400028", "no reason")]);
        fs::write(scene.wal("00000002.history"), &history).unwrap();
        fs::copy(scene.wal(&names[3]), scene.wal(&format!("{}.partial", names[3]))).unwrap();
        let data = scene.data.path().to_str().unwrap().to_owned();
        let before = files_below(&scene.wal("archive_status"));

        let done = scene.walden(&["wal-backfill", &data, "--json"]).run().code(0).json();
        let mut archived: Vec<String> = serde_json::from_value(done["archived"].clone()).unwrap();
        assert_eq!(archived[0], "00000002.history");
        archived.sort();
        let partial = format!("{}.partial", names[3]);
        let expected = [&names[1], &names[2], &names[3], &partial, "00000002.history"].map(str::to_owned);
        assert_eq!(archived, expected);
        assert_eq!((&done["already"], &done["passed_over"]), (&1.into(), &serde_json::json!(names[4..])));
        assert_eq!(files_below(&scene.wal("archive_status")), before);
        for (name, number) in names[..4].iter().zip(1..) {
            scene.fetch(name).code(0);
            assert!(scene.fetched().unwrap() == small(number).bytes(), "{name}");
        }

        scene.walden(&["wal-backfill", &data]).run().code(0).stdout_has("0 files archived, 6 were in the archive");
        scene.walden(&["wal-backfill", "/nowhere"]).run().code(8);
    }
}

#[test]
fn a_file_that_cannot_be_backfilled_does_not_keep_the_others_back() {
    let scene = Scene::on_s3();
    let names: Vec<String> = (1..=4).map(|number| scene.write(&small(number))).collect();
    for name in &names {
        fs::write(scene.wal(&format!("archive_status/{name}.done")), "").unwrap();
    }
    fs::write(scene.wal(&names[1]), "no segment").unwrap();
    let data = scene.data.path().to_str().unwrap().to_owned();
    scene.walden(&["wal-backfill", &data]).run().code(7).stderr_has(&names[1]);
    for name in [&names[0], &names[2], &names[3]] {
        scene.fetch(name).code(0);
    }
    // Who may only put is heard all the same.
    scene.write(&small(2));
    scene.s3().fail_always(On::op(Op::List), Fault::Status(403, "AccessDenied"));
    scene.walden(&["wal-backfill", &data]).run().code(0).stderr_has("every file is offered");
    scene.s3().heal();
    scene.fetch(&names[1]).code(0);
}
