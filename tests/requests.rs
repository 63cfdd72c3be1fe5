//! What requests carry beyond their object: looked at where they arrive, and on SeaweedFS by what became of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use walden::config::requests::{LockMode, StorageClass};
use walden::config::value::{Addressing, Checksum, Value};
use walden::error::{Error, Kind};
use walden::storage::memory::Memory;
use walden::storage::s3::{Options, Wanted};
use walden::storage::{self, ListQuery, PutMode, Store};

use support::cluster::{Cluster, Postgres};
use support::forge::SYSTEM_ID;
use support::place::Place;
use support::s3::{BUCKET, Fault, Logged, On, Op, S3};
use support::scene::{Scene, small};
use support::seaweedfs::SeaweedFs;
use support::stories::{back_up, recovered, restore};
use support::tls::TlsFront;
use support::walden::Walden;

/// Headers that only a setting brings.
const CHOSEN: [&str; 12] = [
    "x-amz-checksum-mode",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-bucket-key-enabled",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-server-side-encryption-customer-key",
    "x-amz-acl",
    "x-amz-storage-class",
    "x-amz-tagging",
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
    "x-amz-request-payer",
];

/// Those of a request that are there.
fn chosen(request: &Logged) -> Vec<String> {
    let there = CHOSEN.iter().filter(|name| request.headers.contains_key(**name));
    there.map(|name| format!("{name}: {}", request.header(name))).collect()
}

/// The request of this kind for the key that ends so.
#[track_caller]
fn request(s3: &S3, op: Op, end: &str) -> Logged {
    let mut requests = s3.requests().into_iter().filter(|request| request.op == op && request.key.ends_with(end));
    requests.next_back().unwrap_or_else(|| panic!("no {op:?} of {end}"))
}

#[test]
fn what_was_not_chosen_is_not_sent() {
    let scene = Scene::on_s3();
    let name = scene.write(&small(1));
    for _ in 0..2 {
        scene.push(&name).code(0);
    }
    scene.fetch(&name).code(0);
    scene.walden(&["doctor"]).run();
    assert!(scene.s3().count(Op::Head) > 0);
    scene.walden(&["wal-verify"]).run();
    for request in scene.s3().requests() {
        assert_eq!(chosen(&request), [""; 0], "{request:?}");
    }
}

/// Everything that goes together.
const EVERYTHING: [(&str, &str); 9] = [
    ("WALDEN_S3_SSE", "aws:kms"),
    ("WALDEN_S3_SSE_KMS_KEY", "arn:aws:kms:eu-central-1:111111111111:alias/walden"),
    ("WALDEN_S3_SSE_BUCKET_KEY", "true"),
    ("WALDEN_S3_ACL", "bucket-owner-full-control"),
    ("WALDEN_S3_WAL_STORAGE_CLASS", "STANDARD_IA"),
    ("WALDEN_S3_BACKUP_STORAGE_CLASS", "GLACIER_IR"),
    ("WALDEN_S3_TAGS", "team=data base,env=prod"),
    ("WALDEN_S3_OBJECT_LOCK", "governance"),
    ("WALDEN_S3_WAL_LOCK", "2d"),
];

#[test]
fn what_was_chosen_goes_with_every_put_and_class_and_lock_with_what_they_are_for() {
    let scene = Scene::on_s3();
    let name = scene.write(&small(1));
    fs::write(scene.wal("00000002.history"), "1\t0/2000000\tno recovery target specified\n").unwrap();
    for file in [name.as_str(), "00000002.history"] {
        scene.walden(&["wal-push", &format!("pg_wal/{file}"), "--push-ahead", "0"]).envs(EVERYTHING).run().code(0);
    }
    let every = [
        "x-amz-server-side-encryption: aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id: arn:aws:kms:eu-central-1:111111111111:alias/walden",
        "x-amz-server-side-encryption-bucket-key-enabled: true",
        "x-amz-acl: bucket-owner-full-control",
        "x-amz-tagging: team=data%20base&env=prod",
    ];
    let class = "x-amz-storage-class: STANDARD_IA";
    let mode = "x-amz-object-lock-mode: GOVERNANCE";
    for (end, more) in
        [("walden-probe.txt", vec![]), (name.as_str(), vec![class, mode]), ("00000002.history", vec![mode])]
    {
        let request = request(scene.s3(), Op::Put, end);
        let sent = chosen(&request);
        let expected = every.iter().chain(&more);
        assert!(expected.clone().all(|header| sent.iter().any(|sent| sent == header)), "{end}: {sent:?}");
        let until = request.header("x-amz-object-lock-retain-until-date").to_owned();
        assert_eq!(sent.len(), expected.count() + usize::from(!until.is_empty()), "{end}: {sent:?}");
        assert_eq!(until.is_empty(), end == "walden-probe.txt", "{end}");
        if !until.is_empty() {
            let left = until.parse::<jiff::Timestamp>().unwrap().duration_since(jiff::Timestamp::now());
            assert!((2 * 86_400 - 300..=2 * 86_400 + 1).contains(&left.as_secs()), "{until}");
            // Without it S3 would refuse.
            assert!(!request.header("x-amz-checksum-crc32c").is_empty());
        }
    }
    // The doctor tries what will be done, with an object that is neither bulk nor worth a lock.
    scene.walden(&["doctor"]).envs(EVERYTHING).run();
    let sent = chosen(&request(scene.s3(), Op::Put, "walden-doctor.txt"));
    assert!(sent.len() == every.len() && every.iter().all(|header| sent.iter().any(|sent| sent == header)), "{sent:?}");
    // Who reads needs none of it.
    scene.s3().forget_requests();
    scene.fetch(&name).code(0);
    assert!(scene.s3().requests().iter().all(|request| chosen(request).is_empty()));
}

#[test]
fn the_objects_of_a_backup_get_what_they_are_for_and_the_backup_restores() {
    for postgres in Postgres::each() {
        let place = Place::s3();
        let mut primary = Cluster::initialized(&postgres, &place, &[]);
        for (name, value) in EVERYTHING {
            primary = primary.env(name, value);
        }
        let mut primary = primary.env("WALDEN_S3_BACKUP_LOCK", "1d").env("WALDEN_S3_REQUESTER_PAYS", "true");
        primary.start();
        primary.sql("CREATE TABLE t AS SELECT 42 AS answer");
        back_up(&primary);
        let s3 = place.service();
        let seen = |end: &str| {
            let request = request(s3, Op::Put, end);
            ["x-amz-storage-class", "x-amz-object-lock-mode"].map(|name| request.header(name).to_owned())
        };
        assert_eq!(seen("/v0/000000"), ["GLACIER_IR", "GOVERNANCE"]);
        assert_eq!(seen("/files"), ["", "GOVERNANCE"]);
        assert_eq!(seen("/backup.json"), ["", "GOVERNANCE"]);
        assert_eq!(seen("walden.json"), ["", ""]);
        let copy = Cluster::empty(&postgres, &place).env("WALDEN_S3_REQUESTER_PAYS", "true");
        restore(&copy, &[]).code(0);
        assert_eq!(recovered(copy).value("SELECT answer FROM t"), "42");
        for request in s3.requests() {
            assert_eq!(request.header("x-amz-request-payer"), "requester", "{request:?}");
        }
        for op in [Op::Put, Op::Get, Op::Head, Op::List] {
            assert!(op == Op::Head || s3.count(op) > 0, "{op:?}");
        }
    }
}

#[test]
fn whoever_pays_says_so_in_requests_of_every_kind() {
    let scene = Scene::on_s3();
    // Looks before and reads back after each put.
    scene.s3().ignore_conditions();
    let name = scene.write(&small(1));
    let pays = ("WALDEN_S3_REQUESTER_PAYS", "true");
    scene.walden(&["wal-push", &format!("pg_wal/{name}")]).envs([pays]).run().code(0);
    scene.walden(&["wal-show"]).envs([pays]).run().code(0);
    for op in [Op::Put, Op::Get, Op::Head, Op::List] {
        assert!(scene.s3().count(op) > 0, "{op:?}");
    }
    for request in scene.s3().requests() {
        assert_eq!(request.header("x-amz-request-payer"), "requester", "{request:?}");
    }
}

/// A scene behind TLS, with a key of its own in a file.
struct Keyed {
    scene: Scene,
    front: TlsFront,
    file: PathBuf,
}

impl Keyed {
    fn new() -> Keyed {
        let scene = Scene::on_s3();
        let address = scene.s3().address();
        Keyed { front: TlsFront::start(address), file: scene.data.path().join("key"), scene }.with_key(7)
    }

    /// The same before another service.
    fn before(address: std::net::SocketAddr) -> Keyed {
        Keyed { front: TlsFront::start(address), ..Keyed::new() }
    }

    fn with_key(self, byte: u8) -> Keyed {
        fs::write(&self.file, STANDARD.encode([byte; 32])).unwrap();
        fs::set_permissions(&self.file, fs::Permissions::from_mode(0o600)).unwrap();
        self
    }

    fn walden(&self, args: &[&str]) -> Walden {
        let walden = self.scene.walden(args).env("AWS_ENDPOINT_URL", self.front.endpoint());
        walden.env("AWS_CA_BUNDLE", self.front.authority()).env("WALDEN_S3_SSE_C_KEY_FILE", &self.file)
    }
}

#[test]
fn a_key_of_ones_own_goes_with_each_put_get_and_head_and_is_shown_to_nobody() {
    let keyed = Keyed::new();
    let scene = &keyed.scene;
    scene.s3().ignore_conditions();
    let name = scene.write(&small(1));
    let mut logs = Vec::new();
    for args in
        [["wal-push", &format!("pg_wal/{name}")].as_slice(), &["wal-fetch", &name, "pg_wal/RECOVERYXLOG"], &["config"]]
    {
        logs.push(keyed.walden(args).env("WALDEN_LOG_LEVEL", "debug").run().code(0).to_string());
    }
    assert!(scene.fetched().is_some());
    let (key, md5) = (STANDARD.encode([7; 32]), "y4HAEFCYWuvAXWFTtA1Qpg==");
    for op in [Op::Put, Op::Get, Op::Head] {
        let request = request(scene.s3(), op, &name);
        assert_eq!(request.header("x-amz-server-side-encryption-customer-algorithm"), "AES256", "{op:?}");
        assert_eq!(request.header("x-amz-server-side-encryption-customer-key"), key, "{op:?}");
        assert!(request.headers.contains_key("x-amz-server-side-encryption-customer-key-md5"), "{op:?}");
    }
    for log in &logs {
        assert!(!log.contains(&key) && !log.contains(md5) && !log.contains(&"\u{7}".repeat(32)), "{log}");
    }
    // The service keeps no key: another one, or none, does not open the object.
    let keyed = keyed.with_key(8);
    keyed.walden(&["wal-fetch", &name, "pg_wal/RECOVERYXLOG"]).run().code(4);
    keyed.scene.fetch(&name);
    assert!(keyed.scene.fetched().is_none());
}

#[test]
fn a_cluster_that_is_restored_knows_the_file_with_the_key() {
    let postgres = &Postgres::each()[0];
    let place = Place::s3();
    let front = TlsFront::start(place.service().address());
    let keys = support::user::scratch_directory();
    let file = keys.path().join("key");
    fs::write(&file, [9; 32]).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let bundle = keys.path().join("authority.crt");
    fs::copy(front.authority(), &bundle).unwrap();
    if let Some(user) = support::user::User::for_servers() {
        user.owns(&file);
        user.owns(&bundle);
    }
    let behind = |cluster: Cluster| {
        let cluster = cluster.env("AWS_ENDPOINT_URL", &front.endpoint());
        cluster.env("AWS_CA_BUNDLE", bundle.to_str().unwrap())
    };
    let mut primary = behind(Cluster::initialized(postgres, &place, &[]));
    primary = primary.env("WALDEN_S3_SSE_C_KEY_FILE", file.to_str().unwrap());
    primary.start();
    primary.sql("CREATE TABLE t AS SELECT 42 AS answer");
    back_up(&primary);
    // Of the copy's server nobody has told the file but restore_command.
    let copy = behind(Cluster::empty(postgres, &place));
    restore(&copy, &["--s3-sse-c-key-file", file.to_str().unwrap()]).code(0);
    assert_eq!(recovered(copy).value("SELECT answer FROM t"), "42");
}

#[test]
fn settings_that_contradict_each_other_are_refused_before_the_first_request() {
    let scene = Scene::on_s3();
    let name = scene.write(&small(1));
    let file = scene.data.path().join("key");
    fs::write(&file, [7; 32]).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let file = file.to_str().unwrap();
    let key = ("WALDEN_S3_SSE_C_KEY_FILE", file);
    for (variables, part) in [
        (vec![key], "would be sent in the clear"),
        (vec![key, ("WALDEN_S3_SSE", "AES256")], "not with both"),
        (vec![("WALG_S3_SSE_C", "hunter2hunter2hunter2hunter2hunt")], "WALDEN_S3_SSE_C_KEY_FILE"),
        (vec![("WALDEN_S3_SSE_C_KEY_FILE", "key")], "absolute"),
        (vec![("WALDEN_S3_SSE_KMS_KEY", "alias/walden")], "WALDEN_S3_SSE"),
        (vec![("WALDEN_S3_SSE", "AES256"), ("WALDEN_S3_SSE_BUCKET_KEY", "true")], "s3-sse-bucket-key"),
        (vec![("WALDEN_S3_SSE", "kms")], "AES256, aws:kms or aws:kms:dsse"),
        (vec![("WALDEN_S3_ACL", "public-read")], "bucket-owner-full-control"),
        (vec![("WALDEN_S3_OBJECT_LOCK", "compliance")], "WALDEN_S3_WAL_LOCK"),
        (vec![("WALDEN_S3_WAL_LOCK", "1d")], "WALDEN_S3_OBJECT_LOCK"),
        (
            vec![("WALDEN_S3_WAL_LOCK", "1d"), ("WALDEN_S3_OBJECT_LOCK", "compliance"), ("WALDEN_S3_CHECKSUM", "off")],
            "WALDEN_S3_CHECKSUM",
        ),
        (vec![("WALDEN_S3_WAL_STORAGE_CLASS", "GLACIER")], "lifecycle"),
        (vec![("WALG_S3_STORAGE_CLASS", "DEEP_ARCHIVE")], "lifecycle"),
        (vec![("WALDEN_S3_TAGS", "team")], "KEY=VALUE"),
    ] {
        let ran = scene.walden(&["wal-push", &format!("pg_wal/{name}")]).envs(variables).run();
        ran.code(3).stderr_has(part).stderr_has("HINT").stderr_lacks("hunter2");
    }
    let front = TlsFront::start(scene.s3().address());
    let push = scene.walden(&["wal-push", &format!("pg_wal/{name}")]).envs([key]);
    let push = push.env("AWS_ENDPOINT_URL", front.endpoint()).env("AWS_CA_BUNDLE", front.authority());
    push.run().code(3).stderr_has("is open to others").stderr_has("chmod 600");
    assert!(scene.s3().requests().is_empty());
}

#[test]
fn wal_gs_variables_mean_what_they_mean_there() {
    let scene = Scene::on_s3();
    let name = scene.write(&small(1));
    let push = scene.walden(&["wal-push", &format!("pg_wal/{name}")]);
    let wal_g =
        [("WALG_S3_SSE", "aws:kms"), ("WALG_S3_SSE_KMS_ID", "alias/w"), ("WALG_S3_STORAGE_CLASS", "STANDARD_IA")];
    push.envs(wal_g).run().code(0);
    let sent = chosen(&request(scene.s3(), Op::Put, &name));
    let expected = [
        "x-amz-server-side-encryption: aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id: alias/w",
        "x-amz-storage-class: STANDARD_IA",
    ];
    assert_eq!(sent, expected);
}

/// Tells the story in a process that has the variables of an S3, which belong to a whole process: this program once more,
/// with this test alone.
fn in_a_process_of_its_own(title: &str, prepare: impl FnOnce(&S3), story: impl Future<Output = ()>) {
    if std::env::var_os("TELL_THE_STORY").is_some() {
        return tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(story);
    }
    let s3 = S3::start();
    prepare(&s3);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", title, "--nocapture"]).envs(s3.env()).env("TELL_THE_STORY", "1");
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    println!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{title}");
}

async fn store(wanted: Wanted) -> std::sync::Arc<dyn Store> {
    let options = Options {
        retry_timeout: Duration::from_secs(20),
        strict: false,
        addressing: Addressing::Auto,
        accelerate: false,
        checksum: Checksum::Crc32c,
        wanted,
        roles: Vec::new(),
        session_name: String::new(),
        memory: Memory::at(Some(tempfile::tempdir().unwrap().path().join("memory"))),
    };
    storage::open(format!("s3://{BUCKET}/p").parse().unwrap(), options).await.unwrap()
}

fn wal(number: u32) -> String {
    format!("{SYSTEM_ID}/wal/00000001/0000000100000000{number:08X}")
}

fn part(number: u32) -> String {
    format!("{SYSTEM_ID}/backup/20261121T013005Z-0000000100000000000000AB/v0/{number:06}")
}

async fn put(store: &dyn Store, key: &str, content: &str) -> Result<(), Error> {
    store.put(key, content.as_bytes().to_vec().into(), PutMode::New).await
}

#[test]
fn a_refused_delete_says_which_objects_stay_until_when_and_deletes_the_others() {
    in_a_process_of_its_own(
        "a_refused_delete_says_which_objects_stay_until_when_and_deletes_the_others",
        |_| {},
        async {
            let day = Duration::from_secs(86_400);
            let locking = Wanted { lock: Some(LockMode::Compliance), wal_lock: Some(day), ..Wanted::default() };
            let locking = store(locking).await;
            let keys: Vec<String> = (1..=3).map(wal).chain((1..=2).map(part)).collect();
            for key in &keys {
                put(&*locking, key, "x").await.unwrap();
            }
            let error = locking.delete(&keys).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Denied);
            let cause = error.cause().unwrap();
            assert!(cause.contains("3 objects could not be deleted") && cause.contains("(COMPLIANCE)"), "{cause}");
            for number in 1..=3 {
                let until = cause.split(&format!("{} until ", wal(number))).nth(1).expect("it is named");
                let until: jiff::Timestamp = until.split(' ').next().unwrap().parse().unwrap();
                let left = until.duration_since(jiff::Timestamp::now()).as_secs();
                assert!((86_400 - 300..=86_401).contains(&left), "{cause}");
            }
            assert!(error.advice().unwrap().contains("s3:BypassGovernanceRetention"), "{error:?}");
            let left = locking.list(&ListQuery::default()).await.unwrap().objects;
            let left: Vec<String> = left.into_iter().map(|object| object.key).filter(|key| key.contains('/')).collect();
            assert_eq!(left, keys[..3]);
            // A lock in its time does not keep anything for ever, and none keeps what was not locked.
            let free = store(Wanted::default()).await;
            put(&*free, &wal(9), "x").await.unwrap();
            free.delete(&[wal(9)]).await.unwrap();
        },
    );
}

#[test]
fn a_refusal_that_is_no_lock_names_the_right_that_is_missing() {
    let title = "a_refusal_that_is_no_lock_names_the_right_that_is_missing";
    in_a_process_of_its_own(title, |s3| s3.lock(&format!("p/{}", wal(1))), async {
        let store = store(Wanted::default()).await;
        put(&*store, &wal(1), "x").await.unwrap();
        put(&*store, &wal(2), "x").await.unwrap();
        let error = store.delete(&[wal(1), wal(2)]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.cause().unwrap().contains("1 objects could not be deleted"), "{error:?}");
        assert!(error.advice().unwrap().contains("s3:DeleteObject"), "{error:?}");
        assert_eq!(store.head(&wal(2)).await.unwrap_err().kind(), Kind::NotFound);
    });
}

#[test]
fn a_part_that_lies_too_deep_to_be_read_is_compared_unread_when_its_put_is_made_again() {
    let title = "a_part_that_lies_too_deep_to_be_read_is_compared_unread_when_its_put_is_made_again";
    let lose = |s3: &S3| s3.fail_next(On::op(Op::Put).key("/v0/000001"), Fault::LoseReply);
    in_a_process_of_its_own(title, lose, async {
        let class = Some(StorageClass::read("DEEP_ARCHIVE").unwrap());
        let store = store(Wanted { backup_class: class, ..Wanted::default() }).await;
        put(&*store, &part(1), "content").await.unwrap();
        assert_eq!(store.head(&part(1)).await.unwrap().size, 7);
        for other in ["CONTENT", "other"] {
            assert_eq!(put(&*store, &part(1), other).await.unwrap_err().kind(), Kind::AlreadyExists, "{other}");
        }
        let error = store.get(&part(1), None).await.map(drop).unwrap_err();
        assert!(error.cause().unwrap().contains("InvalidObjectState"), "{error:?}");
        assert!(error.advice().unwrap().contains("restore-object"), "{error:?}");
        assert_ne!(error.kind(), Kind::NotFound);
    });
}

#[test]
fn a_bucket_that_keeps_versions_says_that_what_was_deleted_still_takes_room() {
    let title = "a_bucket_that_keeps_versions_says_that_what_was_deleted_still_takes_room";
    in_a_process_of_its_own(title, S3::keep_versions, async {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt().with_writer({
            let log = log.clone();
            move || log.clone()
        });
        let _guard = tracing::subscriber::set_default(subscriber.finish());
        let store = store(Wanted::default()).await;
        put(&*store, &wal(1), "x").await.unwrap();
        store.delete(&[wal(1), wal(2)]).await.unwrap();
        let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(said.contains("WARN") && said.contains("only marked") && said.contains("NoncurrentVersion"), "{said}");
        // The name is free again.
        put(&*store, &wal(1), "y").await.unwrap();
    });
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn on_seaweedfs_objects_have_the_class_the_tags_and_the_lock_that_were_chosen() {
    let Some(seaweedfs) = SeaweedFs::running() else { return };
    let scene = Scene::new(Place::directory());
    let name = scene.write(&small(1));
    let bucket = seaweedfs.versioned_bucket(true).await;
    let push = Walden::new(scene.data.path()).args(["wal-push", &format!("pg_wal/{name}")]);
    let push = push.envs(seaweedfs.env()).env("WALDEN_PREFIX", format!("s3://{bucket}/p"));
    let push = push.envs(EVERYTHING.into_iter().filter(|(name, _)| !name.starts_with("WALDEN_S3_SSE")));
    push.run().code(0).stderr_is("");

    let client = seaweedfs.client();
    let key = format!("p/{}", scene.key(&name));
    let there = client.head_object().bucket(&bucket).key(&key).send().await.unwrap();
    assert_eq!(there.storage_class().map(|class| class.as_str()), Some("STANDARD_IA"));
    assert_eq!(there.object_lock_mode().map(|mode| mode.as_str()), Some("GOVERNANCE"));
    let left = there.object_lock_retain_until_date().unwrap().secs() - jiff::Timestamp::now().as_second();
    assert!((2 * 86_400 - 300..=2 * 86_400 + 1).contains(&left), "{left}");
    let tags = client.get_object_tagging().bucket(&bucket).key(&key).send().await.unwrap();
    let mut tags: Vec<_> = tags.tag_set().iter().map(|tag| (tag.key(), tag.value())).collect();
    tags.sort();
    assert_eq!(tags, [("env", "prod"), ("team", "data base")]);

    // Locked is a version; a mark may be laid over it, and taken away again.
    let version = there.version_id().unwrap();
    let delete = client.delete_object().bucket(&bucket).key(&key).version_id(version).send().await;
    assert!(delete.is_err(), "the lock holds nothing");
    client.delete_object().bucket(&bucket).key(&key).send().await.unwrap();
    let kept = client.get_object().bucket(&bucket).key(&key).version_id(version).send().await.unwrap();
    assert!(!kept.body.collect().await.unwrap().to_vec().is_empty());
}

#[test]
fn on_seaweedfs_a_key_of_ones_own_opens_what_it_closed_and_nothing_else_does() {
    let Some(seaweedfs) = SeaweedFs::running() else { return };
    let keyed = Keyed::before(seaweedfs.address());
    let scene = &keyed.scene;
    let name = scene.write(&small(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bucket = runtime.block_on(seaweedfs.versioned_bucket(false));
    let walden = |args: &[&str]| {
        let walden = keyed.walden(args).envs(seaweedfs.env()).env("WALDEN_PREFIX", format!("s3://{bucket}/p"));
        walden.env("AWS_ENDPOINT_URL", keyed.front.endpoint())
    };
    walden(&["wal-push", &format!("pg_wal/{name}")]).run().code(0);
    walden(&["wal-fetch", &name, "pg_wal/RECOVERYXLOG"]).run().code(0);
    assert_eq!(scene.fetched(), Some(fs::read(scene.wal(&name)).unwrap()));
    let get = seaweedfs.client().get_object().bucket(&bucket).key(format!("p/{}", scene.key(&name)));
    assert!(runtime.block_on(get.send()).is_err());
}
