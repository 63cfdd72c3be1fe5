//! What the S3 room promises to those who call the program: distrust of stores, bounds in time, and few requests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use support::forge::{self, SYSTEM_ID, Segment};
use support::front::free_address;
use support::patience::wait_until;
use support::place::Place;
use support::s3::{BUCKET, Fault, On, Op, S3};
use support::tls::TlsFront;
use support::walden::{Ran, Walden};

/// A data directory and an archive in a scripted S3.
struct Scene {
    place: Place,
    data: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        Scene::beside(Place::s3())
    }

    fn beside(place: Place) -> Scene {
        let data = tempfile::tempdir().unwrap();
        forge::data_directory(data.path(), &segment(1));
        Scene { place, data }
    }

    fn s3(&self) -> &S3 {
        let Place::S3(s3) = &self.place else { panic!("not on S3") };
        s3
    }

    fn walden(&self, args: &[&str]) -> Walden {
        self.place.walden(self.data.path()).env("WALDEN_RETRY_TIMEOUT", "10s").args(args)
    }

    /// A push of this segment that is to be run.
    fn pushing(&self, segment: &Segment) -> Walden {
        segment.write(self.data.path());
        self.walden(&["wal-push", &format!("pg_wal/{}", segment.name())])
    }

    fn push(&self, segment: &Segment) -> Ran {
        self.pushing(segment).run()
    }

    fn fetch(&self, segment: &Segment) -> Ran {
        self.walden(&["wal-fetch", &segment.name(), "pg_wal/RECOVERYXLOG"]).run()
    }

    fn key(&self, segment: &Segment) -> String {
        format!("some/where/{SYSTEM_ID}/wal/00000001/{}", segment.name())
    }

    /// The operations that the store has seen since this was last asked.
    fn requests(&self) -> Vec<(Op, String)> {
        let requests = self.s3().requests().into_iter().map(|request| (request.op, request.key)).collect();
        self.s3().forget_requests();
        requests
    }

    fn forget(&self) {
        fs::remove_dir_all(self.data.path().join("cache")).unwrap();
    }

    fn remembered(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.data.path().join("cache"));
        entries.into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    }
}

fn segment(number: u64) -> Segment {
    Segment { size: 1 << 20, number, seed: number, ..Segment::default() }
}

const PROBE: &str = "some/where/walden-probe.txt";

#[test]
fn a_store_is_asked_once_whether_it_honours_conditions_and_then_a_push_is_one_request() {
    let scene = Scene::new();
    scene.push(&segment(1)).code(0).stderr_is("");
    let put = |key: &str| (Op::Put, key.to_owned());
    assert_eq!(scene.requests(), [put(PROBE), put(PROBE), put(&scene.key(&segment(1)))]);
    scene.push(&segment(2)).code(0);
    assert_eq!(scene.requests(), [put(&scene.key(&segment(2)))]);
    // Another machine finds the object of the first one's probe.
    scene.forget();
    scene.push(&segment(3)).code(0);
    assert_eq!(scene.requests(), [put(PROBE), put(&scene.key(&segment(3)))]);
    let text = String::from_utf8(scene.s3().get(PROBE).unwrap()).unwrap();
    assert!(text.contains("If-None-Match"), "{text}");
    // Whoever only reads asks nothing.
    scene.forget();
    scene.fetch(&segment(2)).code(0);
    assert_eq!(scene.requests(), [(Op::Get, scene.key(&segment(2)))]);
}

#[test]
fn a_store_that_ignores_conditions_is_warned_of_once_and_guarded_by_looking_before_and_after() {
    let scene = Scene::new();
    scene.s3().ignore_conditions();
    scene.push(&segment(1)).code(0).stderr_has("ignores If-None-Match");
    scene.requests();
    scene.push(&segment(2)).code(0).stderr_is("");
    let key = scene.key(&segment(2));
    assert_eq!(scene.requests(), [(Op::Head, key.clone()), (Op::Put, key.clone()), (Op::Get, key.clone())]);

    scene.push(&segment(2)).code(0).stderr_is("");
    let before = scene.s3().get(&key);
    scene.push(&Segment { seed: 99, ..segment(2) }).code(6).stderr_has("exists with other content");
    assert!(scene.s3().get(&key) == before && scene.s3().count(Op::Put) == 0);
}

#[test]
fn who_may_only_put_archives_and_overwrites_nothing_on_a_store_that_ignores_conditions() {
    let scene = Scene::new();
    let only_put = |scene: &Scene| {
        for op in [Op::Get, Op::Head, Op::List, Op::Delete] {
            scene.s3().fail_always(On::op(op), Fault::Status(403, "AccessDenied"));
        }
    };
    only_put(&scene);
    scene.push(&segment(1)).code(0).stderr_is("");
    scene.s3().fail_always(On::op(Op::Put).key("walden-probe"), Fault::Status(403, "AccessDenied"));
    scene.forget();
    scene.push(&segment(2)).code(0).stderr_is("");
    assert!(scene.requests().iter().all(|(op, _)| *op == Op::Put));

    let scene = Scene::new();
    scene.s3().ignore_conditions();
    scene.push(&segment(1)).code(0);
    only_put(&scene);
    scene.push(&segment(2)).code(4).stderr_has("has to look first").stderr_has("s3:GetObject");
    assert_eq!(scene.s3().get(&scene.key(&segment(2))), None);
}

#[test]
fn a_list_of_two_hundred_backups_takes_a_request_for_each_and_a_few_more() {
    let scene = Scene::new();
    let system = format!("some/where/{SYSTEM_ID}");
    for day in 0..200 {
        let id = format!("2026{:02}{:02}T010000Z-000000010000000000000002", 1 + day / 28, 1 + day % 28);
        let content = format!(
            "{{\"format\":1,\"walden\":\"0.1.0\",\"id\":\"{id}\",\"system_id\":\"{SYSTEM_ID}\",\"postgres\":15,\
             \"started\":\"2026-11-21T01:00:00Z\",\"finished\":\"2026-11-21T01:10:00Z\",\"timeline\":1,\"start\":\"0/2000028\",\
             \"stop\":\"0/2000130\",\"segment_size\":16777216,\"data_checksums\":true,\"directory_mode\":448,\"files\":0,\
             \"plain_size\":0,\"stored_size\":0,\"tablespaces\":[],\"files_blake3\":\"00\",\n"
        );
        let seal: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        scene.s3().put(&format!("{system}/backup/{id}/backup.json"), format!("{content}\"sha256\":\"{seal}\"}}\n"));
    }
    scene.s3().generate(0..1_000_000, move |number| format!("{system}/wal/00000001/00000001{number:016X}"));
    let listed = scene.walden(&["backup-list", "--json"]).run().code(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 200);
    let (lists, gets) = (scene.s3().count(Op::List), scene.s3().count(Op::Get));
    assert!(lists <= 5 && gets == 200 && scene.s3().requests().len() == lists + gets, "{lists} lists, {gets} gets");
}

#[test]
fn on_a_store_that_ignores_conditions_whoever_was_overwritten_is_told() {
    let scene = Scene::new();
    scene.s3().ignore_conditions();
    scene.push(&segment(1)).code(0);
    let stolen = Scene::new();
    stolen.push(&Segment { seed: 99, ..segment(2) }).code(0);
    let other = stolen.s3().get(&stolen.key(&segment(2))).unwrap();

    let key = scene.key(&segment(2));
    scene.s3().fail_next(On::op(Op::Put).key(&segment(2).name()), Fault::StallBeforeAnswer(Duration::from_secs(15)));
    let push = scene.pushing(&segment(2)).env("WALDEN_RETRY_TIMEOUT", "60s");
    let push = std::thread::spawn(move || push.run());
    wait_until("it is stored", || scene.s3().get(&key).is_some());
    scene.s3().put(&key, other);
    push.join().unwrap().code(6).stderr_has("was overwritten while it was stored");
}

#[test]
fn of_eight_racing_pushers_all_succeed_with_the_same_content_and_one_content_survives_of_two() {
    for ignores in [false, true] {
        let scene = Scene::new();
        if ignores {
            scene.s3().ignore_conditions();
        }
        let others: Vec<Scene> = (0..8).map(|_| Scene::beside(Place::directory())).collect();
        let race = |number: u64, variants: u64| {
            let pushes = (0u64..).zip(&others).map(|(pusher, other)| {
                let segment = Segment { seed: pusher % variants, ..segment(number) };
                segment.write(other.data.path());
                let push = scene.place.walden(other.data.path());
                let push = push.args(["wal-push", &format!("pg_wal/{}", segment.name())]);
                std::thread::spawn(move || push.run())
            });
            let pushes: Vec<_> = pushes.collect();
            pushes.into_iter().map(|push| push.join().unwrap()).collect::<Vec<Ran>>()
        };
        for ran in race(1, 1) {
            ran.code(0);
        }
        if !ignores {
            let codes: Vec<i32> = race(2, 2).into_iter().map(|ran| ran.code.unwrap()).collect();
            let winner = codes.iter().position(|code| *code == 0).unwrap() % 2;
            let expected: Vec<i32> = (0..8).map(|pusher| if pusher % 2 == winner { 0 } else { 6 }).collect();
            assert_eq!(codes, expected);
        }
    }
}

#[test]
fn a_probe_that_fails_decides_nothing_and_is_made_again_by_the_next_push() {
    let scene = Scene::new();
    for fault in [Fault::Status(403, "AccessDenied"), Fault::Status(503, "SlowDown"), Fault::Reset] {
        scene.s3().fail_always(On::op(Op::Put).key("walden-probe"), fault);
        scene.push(&segment(1)).code(0).stderr_is("");
        let puts = scene.requests();
        assert!(puts.len() >= 2 && puts[0].1 == PROBE, "{puts:?}");
        assert!(scene.remembered().is_empty());
        scene.s3().heal();
    }
    scene.push(&segment(2)).code(0);
    assert_eq!(scene.remembered().len(), 1);
}

#[test]
fn an_answer_that_no_store_gives_is_not_believed() {
    let scene = Scene::new();
    scene.push(&segment(1)).code(0);
    for (number, fault) in [(2, Fault::OkThenClose), (3, Fault::TruncatedXml(500)), (4, Fault::ResetInBody(1000))] {
        scene.s3().fail_next(On::op(Op::Put), fault.clone());
        scene.push(&segment(number)).code(0);
        assert!(scene.s3().get(&scene.key(&segment(number))).is_some(), "{fault:?}");
        assert_eq!(scene.s3().faults_left(), 0);
    }
    scene.s3().fail_always(On::op(Op::Put), Fault::OkThenClose);
    scene.push(&segment(5)).code(5);
}

#[test]
fn a_listing_that_was_cut_is_asked_for_again_and_never_taken_for_a_short_one() {
    let scene = Scene::new();
    scene.push(&segment(1)).code(0);
    scene.s3().fail_next(On::op(Op::List), Fault::HalfAnswer);
    // The listing proves that there is an archive in which the segment is absent.
    scene.fetch(&segment(2)).code(1);
    // What is absent is looked for in an older archive, too.
    assert_eq!((scene.s3().faults_left(), scene.s3().count(Op::List)), (0, 3));
    scene.s3().fail_always(On::op(Op::List), Fault::HalfAnswer);
    // What was found is remembered, and would not be asked for again.
    fs::remove_dir_all(scene.data.path().join("cache")).unwrap();
    scene.fetch(&segment(2)).code(5).stderr_has("the document ends early");
}

#[test]
fn whoever_is_asked_to_come_again_later_comes_later() {
    let scene = Scene::new();
    scene.push(&segment(1)).code(0);
    for status in [503, 429] {
        scene.s3().fail_next(On::op(Op::Put), Fault::RetryAfter(status, 2));
        let log = scene.pushing(&segment(u64::from(status))).env("WALDEN_LOG_LEVEL", "info").run().code(0);
        let pause = log.stderr.split("pause_ms=").nth(1).expect("a try that failed").lines().next().unwrap();
        assert_eq!(pause, "2000", "{log}");
    }
    // What is longer than the budget is no reason to give up.
    scene.s3().fail_next(On::op(Op::Put), Fault::RetryAfter(503, 3600));
    scene.push(&segment(2)).code(0);
}

/// A listener that does this with each connection, until the test ends.
fn listen(serve: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().flatten().for_each(serve));
    address
}

#[test]
fn what_keeps_a_connection_from_coming_up_reads_well() {
    let scene = Scene::new();
    let push = |endpoint: &str| {
        let push = scene.pushing(&segment(1)).env("AWS_ENDPOINT_URL", endpoint).env("WALDEN_RETRY_TIMEOUT", "0s");
        push.env("AWS_CA_BUNDLE", "").run()
    };
    push("http://no-such-host.invalid:80").code(5).stderr_has("no-such-host.invalid:80").stderr_has("AWS_ENDPOINT_URL");
    let nobody = free_address();
    push(&format!("http://{nobody}")).code(5).stderr_has(&format!("no connection to {nobody}")).stderr_has("refused");
    let plain = format!("https://{}", scene.s3().address());
    push(&plain).code(5).stderr_has("no TLS with 127.0.0.1").stderr_has("http://");
    let front = TlsFront::start(scene.s3().address());
    push(&front.endpoint()).code(5).stderr_has("AWS_CA_BUNDLE").stderr_has("certificate");
    push("ftp://example.org").code(3).stderr_has("AWS_ENDPOINT_URL");
    push("nonsense").code(3).stderr_has("AWS_ENDPOINT_URL");
}

#[test]
fn a_proxy_is_used_for_what_it_is_meant_for_and_its_refusal_reads_well() {
    let scene = Scene::new();
    let front = TlsFront::start(scene.s3().address());
    let behind = front.endpoint().trim_start_matches("https://localhost").to_owned();
    let read_head = |stream: &mut TcpStream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    };
    let proxy = listen(move |mut stream| {
        let head = read_head(&mut stream);
        assert!(head.starts_with(&format!("CONNECT localhost{behind} HTTP/1.1")), "{head}");
        let mut target = TcpStream::connect(format!("localhost{behind}")).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let (mut up, mut down) = (stream.try_clone().unwrap(), target.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut up, &mut down));
        let _ = std::io::copy(&mut target, &mut stream);
    });
    let refusing = listen(move |mut stream| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").unwrap();
    });
    let push = |proxy: SocketAddr| {
        let push = scene.pushing(&segment(1)).env("AWS_ENDPOINT_URL", front.endpoint());
        push.env("AWS_CA_BUNDLE", front.authority()).env("HTTPS_PROXY", format!("http://{proxy}"))
    };
    push(refusing)
        .env("WALDEN_RETRY_TIMEOUT", "0s")
        .run()
        .code(5)
        .stderr_has("through the proxy")
        .stderr_has("NO_PROXY");
    assert!(scene.requests().is_empty());
    push(proxy).run().code(0);
    push(refusing).env("NO_PROXY", "localhost").run().code(0);
}

#[test]
fn a_bundle_without_certificates_is_named_and_is_not_read_for_http() {
    let scene = Scene::new();
    let front = TlsFront::start(scene.s3().address());
    let bundle = scene.data.path().join("bundle.pem");
    fs::write(&bundle, "nothing").unwrap();
    let push =
        |endpoint: String| scene.pushing(&segment(1)).env("AWS_ENDPOINT_URL", endpoint).env("AWS_CA_BUNDLE", &bundle);
    push(front.endpoint()).run().code(3).stderr_has("bundle.pem").stderr_has("AWS_CA_BUNDLE");
    push(scene.s3().endpoint()).run().code(0);
}

/// A push that has no keys but may ask for a session.
fn with_session(scene: &Scene, number: u64, life: Duration) -> Walden {
    let push = scene.pushing(&segment(number)).without(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]);
    push.envs(scene.s3().web_identity(scene.data.path(), life))
}

const HOUR: Duration = Duration::from_secs(3600);

/// The one file of the memory that holds a session.
fn session_file(scene: &Scene) -> PathBuf {
    let files = scene.remembered();
    let mut files = files.into_iter().filter(|path| fs::read_to_string(path).unwrap().contains("ASIAWALDENTEST"));
    let file = files.next().expect("a session is remembered");
    assert!(files.next().is_none());
    file
}

#[test]
fn two_pushes_in_a_row_ask_for_one_session_and_nobody_else_can_read_it() {
    let scene = Scene::new();
    for number in 1..=3 {
        with_session(&scene, number, HOUR).run().code(0);
    }
    assert_eq!(scene.s3().count(Op::Assume), 1);
    let file = session_file(&scene);
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    assert_eq!(file.parent().unwrap().metadata().unwrap().mode() & 0o777, 0o700);
    let log = with_session(&scene, 4, HOUR).env("WALDEN_LOG_LEVEL", "debug").run().code(0);
    let session: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let session: serde_json::Value = serde_json::from_str(session["value"].as_str().unwrap()).unwrap();
    for secret in ["secret_access_key", "session_token"] {
        assert!(!log.stderr.contains(session[secret].as_str().unwrap()), "{secret} is in the log");
    }
}

#[test]
fn a_session_of_another_identity_or_in_a_file_that_others_could_have_written_is_not_used() {
    let scene = Scene::new();
    with_session(&scene, 1, HOUR).run().code(0);
    let assumed = || scene.s3().count(Op::Assume);
    with_session(&scene, 2, HOUR).env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/other").run().code(0);
    assert_eq!(assumed(), 2);
    scene.forget();
    with_session(&scene, 3, HOUR).run().code(0);
    assert_eq!(assumed(), 3);

    let file = session_file(&scene);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    with_session(&scene, 4, HOUR).run().code(0);
    assert_eq!(assumed(), 4, "of another mode");
    let elsewhere = scene.data.path().join("elsewhere");
    fs::rename(session_file(&scene), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
    with_session(&scene, 5, HOUR).run().code(0);
    assert_eq!(assumed(), 5, "behind a link");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(session_file(&scene), Some(65534), None).unwrap();
        with_session(&scene, 6, HOUR).run().code(0);
        assert_eq!(assumed(), 6, "of another owner");
    }
}

#[test]
fn sessions_of_half_a_minute_work_and_are_not_remembered() {
    let scene = Scene::new();
    for number in 1..=2 {
        with_session(&scene, number, Duration::from_secs(30)).run().code(0);
        assert_eq!(scene.s3().count(Op::Assume), number as usize);
    }
    // What is remembered is what the probe found out.
    assert_eq!(scene.remembered().len(), 1);
}

#[test]
fn a_session_that_was_ended_before_its_time_is_replaced_within_the_same_push() {
    let scene = Scene::new();
    with_session(&scene, 1, HOUR).run().code(0);
    scene.s3().revoke_sessions();
    with_session(&scene, 2, HOUR).run().code(0).stderr_is("");
    assert_eq!(scene.s3().count(Op::Assume), 2);
    with_session(&scene, 3, HOUR).run().code(0);
    assert_eq!(scene.s3().count(Op::Assume), 2);
    // Keys without an end are not asked for again.
    scene.requests();
    scene.pushing(&segment(4)).env("AWS_ACCESS_KEY_ID", "AKIASTRANGER").run().code(4).stderr_has("InvalidAccessKeyId");
    assert_eq!(scene.s3().count(Op::Assume), 0);
    assert!(scene.requests().len() <= 2);
}

#[test]
fn a_token_service_that_refuses_is_not_asked_again_and_again() {
    let scene = Scene::new();
    scene.s3().fail_always(On::op(Op::Assume), Fault::Status(403, "AccessDenied"));
    with_session(&scene, 1, HOUR).run().code(4).stderr_has("AccessDenied").stderr_has("AWS_ROLE_ARN");
    assert!(scene.s3().count(Op::Assume) <= 3, "{:?}", scene.requests());
    scene.s3().heal();
    // One that is out of order is.
    scene.s3().fail_next(On::op(Op::Assume), Fault::Status(500, "InternalFailure"));
    scene.s3().fail_next(On::op(Op::Assume), Fault::Reset);
    with_session(&scene, 1, HOUR).run().code(0);
    assert_eq!(scene.s3().faults_left(), 0);
}

#[test]
fn a_process_that_gives_credentials_with_an_end_runs_once() {
    let scene = Scene::new();
    let home = scene.data.path();
    let script = home.join("credentials.sh");
    let text = format!(
        "#!/bin/sh\necho run >>{}/runs\necho '{{\"Version\":1,\"AccessKeyId\":\"{}\",\"SecretAccessKey\":\"{}\",\
         \"Expiration\":\"2099-01-01T00:00:00Z\"}}'\n",
        home.display(),
        support::s3::ACCESS_KEY,
        support::s3::SECRET_KEY
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(home.join(".aws")).unwrap();
    let profile = |more: &str| {
        let text = format!("[default]\ncredential_process = {}\n{more}", script.display());
        fs::write(home.join(".aws/config"), text).unwrap();
    };
    profile("");
    let runs = || fs::read_to_string(home.join("runs")).unwrap().lines().count();
    let push = |number| {
        let push = scene.pushing(&segment(number)).without(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]);
        push.run().code(0);
    };
    (1..=3).for_each(push);
    assert_eq!(runs(), 1);
    profile("# changed\n");
    push(4);
    assert_eq!(runs(), 2);
}

#[test]
fn a_store_that_accepts_and_never_answers_is_given_up_with_the_endpoint_and_the_phase() {
    let scene = Scene::new();
    scene.push(&segment(1)).code(0);
    let phases = [
        (Fault::Stall(HOUR), "the phase: "),
        (Fault::StallInBody(1000, HOUR), "the phase: "),
        (Fault::StallBeforeAnswer(HOUR), "the phase: waiting for the answer"),
        (Fault::Trickle(Duration::from_secs(1)), "the phase: waiting for the answer"),
    ];
    for (number, (fault, phase)) in (2..).zip(phases) {
        scene.s3().fail_always(On::op(Op::Put), fault);
        let ran = scene.pushing(&segment(number)).env("WALDEN_RETRY_TIMEOUT", "2s").run().code(5);
        ran.stderr_has(&scene.s3().endpoint()).stderr_has(phase);
        scene.s3().heal();
    }
    // A listener that accepts, or does not even do that.
    let mute = listen(std::mem::forget);
    let push = |endpoint: String| {
        let push = scene.pushing(&segment(9)).env("AWS_ENDPOINT_URL", endpoint).env("WALDEN_RETRY_TIMEOUT", "2s");
        push.run().code(5)
    };
    push(format!("http://{mute}")).stderr_has("waiting for the answer");
    push(format!("https://{mute}")).stderr_has("the phase: connecting");
    scene.push(&segment(9)).code(0);
}

#[test]
fn a_bucket_that_is_not_walden_test_is_not_probed_into_being() {
    let scene = Scene::new();
    let push = scene.pushing(&segment(1)).env("WALDEN_PREFIX", "s3://another-bucket/x").run();
    push.code(3).stderr_has("another-bucket");
    assert!(scene.s3().keys("").is_empty() && BUCKET != "another-bucket");
    assert!(scene.remembered().is_empty());
}

#[test]
fn the_memory_is_where_the_setting_says() {
    let scene = Scene::new();
    let elsewhere = scene.data.path().join("deep/er");
    scene.pushing(&segment(1)).env("WALDEN_CACHE_DIR", &elsewhere).run().code(0);
    assert!(scene.remembered().is_empty() && fs::read_dir(&elsewhere).unwrap().count() == 1);
    let not_a_directory = Path::new("/dev/null/x");
    scene.pushing(&segment(2)).env("WALDEN_CACHE_DIR", not_a_directory).run().code(0).stderr_is("");
}
