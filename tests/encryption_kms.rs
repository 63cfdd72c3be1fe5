//! Data keys that KMS wraps, on MiniStack: who needs which right, roles, refusals, and that an age key beside it opens the
//! same archive without KMS. The policies are those that docs/encryption.md prints.
//!
//! `scripts/test` starts the service. It does not evaluate conditions on the encryption context, so the conditions of the
//! page are compared with what is sent instead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::sync::OnceLock;

use serde_json::{Value, json};
use support::forge::{SYSTEM_ID, Segment};
use support::keys::Identity;
use support::ministack::{Account, Keys, Ministack, kms};
use support::place::Place;
use support::scene::{Scene, small};
use support::walden::{Ran, Walden};

const A: &str = "333333333333";
const B: &str = "444444444444";
const BUCKET: &str = "kms-backups";
const PREFIX: &str = "s3://kms-backups/main";

/// What the page prints for the key and the prefix.
const PRINTED_KEY: &str = "arn:aws:kms:eu-central-1:111111111111:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const PRINTED_PREFIX: &str = "s3://example-backups/main";

struct Stage {
    service: &'static Ministack,
    a: Account,
    b: Account,
}

fn stage() -> Option<&'static Stage> {
    static STAGE: OnceLock<Option<Stage>> = OnceLock::new();
    STAGE
        .get_or_init(|| {
            let service = Ministack::shared()?;
            let stage = Stage { service, a: service.account(A), b: service.account(B) };
            stage.a.make_bucket(BUCKET);
            Some(stage)
        })
        .as_ref()
}

/// A policy of the page, for this key.
fn printed(name: &str) -> Value {
    let page = include_str!("../docs/encryption.md");
    let block =
        page.split(&format!("<!-- block: {name} -->\n```json\n")).nth(1).unwrap().split("\n```").next().unwrap();
    serde_json::from_str(block).unwrap()
}

/// What may be done in the bucket, and what the page allows with this key.
fn policy(name: &str, key: &str) -> String {
    let mut policy = printed(name);
    let statement = &mut policy["Statement"][0];
    assert_eq!(statement["Resource"], PRINTED_KEY);
    statement["Resource"] = key.into();
    statement.as_object_mut().unwrap().remove("Condition");
    let bucket = json!({
        "Effect": "Allow",
        "Action": ["s3:PutObject", "s3:GetObject", "s3:ListBucket"],
        "Resource": [format!("arn:aws:s3:::{BUCKET}"), format!("arn:aws:s3:::{BUCKET}/*")],
    });
    policy["Statement"].as_array_mut().unwrap().push(bucket);
    policy.to_string()
}

/// The rights on a key that its own account's policies give.
fn key_policy() -> String {
    json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": { "AWS": format!("arn:aws:iam::{A}:root") }, "Action": "kms:*", "Resource": "*",
    }]})
    .to_string()
}

/// A key, and users who may write and read with it. Names are the test's own, for all share the service.
struct Users {
    key: String,
    writer: Keys,
    reader: Keys,
}

impl Stage {
    fn users(&self, test: &str) -> Users {
        let key = self.a.make_key(&key_policy());
        let writer = self.a.make_user(&format!("writer-{test}"), Some(&policy("kms-writer", &key)));
        let reader = self.a.make_user(&format!("reader-{test}"), Some(&policy("kms-reader", &key)));
        Users { key, writer, reader }
    }

    /// Forged files of a cluster of the test's own.
    fn scene(&self, system_id: u64) -> Scene {
        self.scene_at(PREFIX, system_id)
    }

    fn scene_at(&self, prefix: &str, system_id: u64) -> Scene {
        let mut env = self.service.env();
        env.push(("WALDEN_PREFIX", prefix.to_owned()));
        Scene::of(Place::Elsewhere(env), &segment(system_id, 1))
    }

    /// The cluster's key objects, as their bucket's owner reads them.
    fn key_objects(&self, system: u64) -> Vec<(String, Value)> {
        let root = self.a.root();
        let listed =
            self.service.s3(&root, "GET", &format!("{BUCKET}?list-type=2&prefix=main%2F{system}%2Fkeys%2F"), "");
        let listed = listed.unwrap();
        let keys = listed.split("<Key>").skip(1).map(|rest| rest.split('<').next().unwrap().to_owned());
        keys.map(|key| {
            let object = self.service.s3(&root, "GET", &format!("{BUCKET}/{key}"), "").unwrap();
            (key, serde_json::from_str(&object).unwrap())
        })
        .collect()
    }
}

fn segment(system_id: u64, number: u64) -> Segment {
    Segment { system_id, ..small(number) }
}

fn walden(scene: &Scene, keys: &Keys, args: &[&str]) -> Walden {
    scene.walden(args).envs(keys.env()).env("WALDEN_PUSH_AHEAD", "0").env("WALDEN_PREFETCH", "0")
}

fn push(scene: &Scene, keys: &Keys, to: &str, segment: &Segment) -> Ran {
    let name = scene.write(segment);
    walden(scene, keys, &["wal-push", &format!("pg_wal/{name}")]).env("WALDEN_ENCRYPT_TO", to).run()
}

fn fetch(scene: &Scene, keys: &Keys, segment: &Segment) -> Walden {
    // A memory of its own: a reader is another host.
    let walden = walden(scene, keys, &["wal-fetch", &segment.name(), "pg_wal/RECOVERYXLOG"]);
    walden.env("WALDEN_CACHE_DIR", scene.data.path().join("reader"))
}

#[test]
fn a_writer_makes_one_key_and_cannot_read_and_a_reader_needs_no_setting() {
    let Some(stage) = stage() else { return };
    let (users, system) = (stage.users("one"), SYSTEM_ID + 1);
    let scene = stage.scene(system);
    for number in 1..=3 {
        push(&scene, &users.writer, &users.key, &segment(system, number)).code(0).stderr_is("");
    }
    let objects = stage.key_objects(system);
    assert_eq!(objects.len(), 1, "{objects:?}");
    let envelope = &objects[0].1["wrapped"][0];
    assert_eq!(envelope["kms"], users.key);
    // The conditions of both policies are true of what was sent.
    for name in ["kms-writer", "kms-reader"] {
        let condition = printed(name)["Statement"][0]["Condition"]["StringEquals"].clone();
        for (key, value) in condition.as_object().unwrap() {
            let sent = &envelope["context"][key.strip_prefix("kms:EncryptionContext:").unwrap()];
            assert_eq!(value.as_str().unwrap().replace(PRINTED_PREFIX, PREFIX), sent.as_str().unwrap());
        }
    }
    assert_eq!(envelope["context"]["walden-system-id"], system.to_string());
    fetch(&scene, &users.reader, &segment(system, 2)).run().code(0).stderr_is("");
    assert!(scene.fetched().unwrap() == segment(system, 2).bytes());
    let denied = fetch(&scene, &users.writer, &segment(system, 2)).run().code(4);
    denied.stderr_has("AccessDenied").stderr_has("kms:Decrypt").stderr_has(&users.key);
    // A restore that may not read is stopped, and does not end early.
    std::fs::write(scene.data.path().join("recovery.signal"), "").unwrap();
    fetch(&scene, &users.writer, &segment(system, 2)).run().code(200);
    let denied = push(&scene, &users.reader, &users.key, &segment(system, 4));
    assert_eq!(denied.code, Some(0), "the data key is remembered\n{denied}");
}

#[test]
fn what_kms_refuses_stores_nothing() {
    let Some(stage) = stage() else { return };
    let (users, system) = (stage.users("refused"), SYSTEM_ID + 2);
    let scene = stage.scene(system);
    let denied = push(&scene, &users.reader, &users.key, &segment(system, 1)).code(4);
    denied.stderr_has("AccessDenied").stderr_has("kms:GenerateDataKey").stderr_has("could not make a data key");
    let region = "arn:aws:kms:eu-central-1:333333333333:key/00000000-0000-0000-0000-000000000000";
    let absent = push(&scene, &users.writer, region, &segment(system, 1));
    assert!(matches!(absent.code, Some(3 | 4)), "{absent}");
    assert!(stage.key_objects(system).is_empty());

    push(&scene, &users.writer, &users.key, &segment(system, 1)).code(0);
    let body = json!({ "KeyId": users.key });
    kms(stage.service, &stage.a.root(), "DisableKey", &body).unwrap();
    let disabled = fetch(&scene, &users.reader, &segment(system, 1)).run().code(4);
    disabled.stderr_has("Disabled").stderr_has("Enable");
    kms(stage.service, &stage.a.root(), "EnableKey", &body).unwrap();
    fetch(&scene, &users.reader, &segment(system, 1)).run().code(0);
    scene.fetched();
    // Nobody is there to ask.
    let nobody = fetch(&scene, &users.reader, &segment(system, 1)).env("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:9");
    nobody.env("WALDEN_RETRY_TIMEOUT", "1s").run().code(5).stderr_has("could not open a data key");
}

#[test]
fn another_context_than_the_one_it_was_wrapped_in_does_not_open_it() {
    let Some(stage) = stage() else { return };
    let (users, system) = (stage.users("context"), SYSTEM_ID + 3);
    let scene = stage.scene(system);
    push(&scene, &users.writer, &users.key, &segment(system, 1)).code(0);
    let [(key, _)] = stage.key_objects(system).try_into().unwrap();
    let root = stage.a.root();
    let text = stage.service.s3(&root, "GET", &format!("{BUCKET}/{key}"), "").unwrap();
    let body = text.split("\"sha256\":").next().unwrap().replace(PREFIX, "s3://another/place");
    let sealed = walden::layout::sealed::seal(body);
    stage.service.s3(&root, "PUT", &format!("{BUCKET}/{key}"), &String::from_utf8(sealed).unwrap()).unwrap();
    fetch(&scene, &users.reader, &segment(system, 1)).run().code(7).stderr_has("InvalidCiphertext");
}

#[test]
fn an_age_key_beside_kms_opens_the_archive_without_it_and_rekeying_brings_kms_in() {
    let Some(stage) = stage() else { return };
    let (users, system) = (stage.users("both"), SYSTEM_ID + 4);
    let scene = stage.scene(system);
    let safe = Identity::make(scene.data.path(), "safe");
    let both = format!("{} {}", users.key, safe.public);
    push(&scene, &users.writer, &both, &segment(system, 1)).code(0);
    let offline = |number| {
        let walden = fetch(&scene, &users.reader, &segment(system, number)).env("WALDEN_IDENTITY_FILE", safe.path());
        walden.env("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:9").run()
    };
    offline(1).code(0);
    scene.fetched();
    fetch(&scene, &users.reader, &segment(system, 1)).run().code(0);
    scene.fetched();

    push(&scene, &users.writer, &safe.public, &segment(system, 2)).code(0);
    fetch(&scene, &users.reader, &segment(system, 2)).run().code(3).stderr_has(&safe.public);
    let mut rights: Value = serde_json::from_str(&policy("kms-writer", &users.key)).unwrap();
    rights["Statement"][0]["Action"] = json!(["kms:Encrypt", "kms:Decrypt"]);
    let rekeyer = stage.a.make_user("rekeyer", Some(&rights.to_string()));
    let args = ["rekey", "--confirm", "--system-id", &system.to_string()];
    let rekey = walden(&scene, &rekeyer, &args).env("WALDEN_ENCRYPT_TO", &both);
    rekey.env("WALDEN_IDENTITY_FILE", safe.path()).run().code(0).stdout_has("1 wrapped anew");
    fetch(&scene, &users.reader, &segment(system, 2)).run().code(0);
    scene.fetched();
    offline(2).code(0);
}

#[test]
fn a_role_of_another_account_reads_through_kms_and_says_so_where_it_may_not() {
    let Some(stage) = stage() else { return };
    let (users, system) = (stage.users("role"), SYSTEM_ID + 5);
    let scene = stage.scene(system);
    push(&scene, &users.writer, &users.key, &segment(system, 1)).code(0);
    let trust = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": { "AWS": format!("arn:aws:iam::{B}:root") }, "Action": "sts:AssumeRole",
    }]});
    let role = stage.a.make_role("kms-reader", &trust.to_string(), &policy("kms-reader", &users.key));
    let assume = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Action": "sts:AssumeRole", "Resource": role,
    }]});
    let standby = stage.b.make_user("standby", Some(&assume.to_string()));
    let read = || fetch(&scene, &standby, &segment(system, 1)).env("WALDEN_ASSUME_ROLE", &role).run();
    read().code(0);
    scene.fetched().unwrap();
    stage.a.set_role_policy("kms-reader", &policy("kms-writer", &users.key));
    read().code(4).stderr_has("kms:Decrypt").stderr_has("assumed-role/kms-reader");
}

#[test]
fn the_doctor_tries_kms_on_both_sides() {
    let Some(stage) = stage() else { return };
    let (users, system) = (stage.users("doctor"), SYSTEM_ID + 6);
    // Elsewhere than the other tests, whose keys this reader may not use.
    let scene = stage.scene_at(&format!("s3://{BUCKET}/doctor"), system);
    push(&scene, &users.writer, &users.key, &segment(system, 1)).code(0);
    let examined = |keys: &Keys| {
        let data = scene.data.path().to_str().unwrap().to_owned();
        let walden = walden(&scene, keys, &["doctor", "--json", &data]).env("WALDEN_ENCRYPT_TO", &users.key);
        let found = walden.run().json();
        let verdict = |check: &str| {
            let found = found.as_array().unwrap().iter().find(|finding| finding["check"] == check);
            found.map_or("none".to_owned(), |finding| finding["verdict"].as_str().unwrap().to_owned())
        };
        (verdict("encrypting"), verdict("decrypting"))
    };
    assert_eq!(examined(&users.writer), ("ok".to_owned(), "limited".to_owned()));
    assert_eq!(examined(&users.reader), ("failed".to_owned(), "ok".to_owned()));
}
