//! Walden in the place of WAL-E and of WAL-G: their command lines, variables and files, where they mean the same; and a
//! refusal by name where they cannot be honoured.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::legacy::{secretstream, through};
use support::place::Place;
use support::s3::{BUCKET, S3};
use support::scene::{Scene, small};
use support::walden::{Ran, Walden};

/// A data directory, and a store that it knows only by the words of another tool.
struct Stage {
    scene: Scene,
}

impl Stage {
    fn new() -> Stage {
        Stage { scene: Scene::on_s3() }
    }

    fn s3(&self) -> &S3 {
        self.scene.s3()
    }

    fn address(&self) -> String {
        self.s3().address().to_string()
    }

    fn key(&self) -> [(&'static str, String); 3] {
        let own = self.s3().env();
        let value = |name: &str| own.iter().find(|(own, _)| *own == name).unwrap().1.clone();
        ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"].map(|name| (name, value(name)))
    }

    fn walden(&self, variables: &[(&str, String)], args: &[&str]) -> Walden {
        let walden = Walden::new(self.scene.data.path()).env("WALDEN_RETRY_TIMEOUT", "10s");
        walden.envs(variables.iter().map(|(name, value)| (*name, value))).args(args)
    }

    /// Pushes and fetches one segment, and finds it where it belongs.
    fn story(&self, number: u64, walden: impl Fn(&[&str]) -> Ran) {
        let segment = small(number);
        let name = self.scene.write(&segment);
        walden(&["wal-push", &format!("pg_wal/{name}")]).code(0).stderr_is("");
        assert!(self.scene.archived(&name).unwrap() == segment.bytes());
        walden(&["wal-fetch", &name, "pg_wal/RECOVERYXLOG"]).code(0).stderr_is("");
        assert!(self.scene.fetched().unwrap() == segment.bytes());
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.scene.data.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

fn envdir(at: &Path, variables: &[(&str, String)]) -> PathBuf {
    let directory = at.join("wal-e-env");
    fs::create_dir(&directory).unwrap();
    for (name, value) in variables {
        fs::write(directory.join(name), format!("{value}\nnot read\n")).unwrap();
    }
    directory
}

#[test]
fn the_variables_of_wal_e_are_enough_in_the_environment_and_in_a_directory() {
    let stage = Stage::new();
    let mut variables = vec![
        ("WALE_S3_PREFIX", format!("s3://{BUCKET}/some/where/")),
        ("WALE_S3_ENDPOINT", format!("http+path://{}", stage.address())),
        ("WALE_RETRIES", String::from("7")),
        ("WALE_LOG_DESTINATION", String::from("stderr")),
    ];
    variables.extend(stage.key());
    stage.story(1, |args| stage.walden(&variables, args).run());
    let directory = envdir(stage.scene.data.path(), &variables);
    let before = ["--envdir", directory.to_str().unwrap()];
    stage.story(2, |args| stage.walden(&[], &[&before, args].concat()).run());
    stage.story(3, |args| stage.walden(&[], &[&["--terse"], args, &before].concat()).run());
    // Its own flags win over its variables.
    let other = format!("s3://{BUCKET}/nowhere");
    let absent = small(1).name();
    let elsewhere = [&before[..], &["--s3-prefix", &other, "wal-fetch", &absent, "x"]].concat();
    stage.walden(&[], &elsewhere).run().code(3).stderr_has("nowhere");
    stage
        .walden(&variables, &["--aws-instance-profile", "wal-push", "pg_wal/x"])
        .run()
        .code(2)
        .stderr_has("AWS_ACCESS_KEY_ID");
}

#[test]
fn the_files_of_wal_g_are_read_in_json_and_yaml_and_the_environment_wins_over_them() {
    let stage = Stage::new();
    let pairs: Vec<(String, String)> = [
        ("WALG_S3_PREFIX", format!("s3://{BUCKET}/some/where")),
        ("AWS_ENDPOINT", format!("http://{}", stage.address())),
        ("AWS_S3_FORCE_PATH_STYLE", String::from("true")),
        ("WALG_COMPRESSION_METHOD", String::from("brotli")),
        ("WALG_DELTA_MAX_STEPS", String::from("0")),
    ]
    .into_iter()
    .chain(stage.key())
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    let json: serde_json::Map<String, serde_json::Value> =
        pairs.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    let json = stage.file("walg.json", &serde_json::Value::from(json).to_string());
    let yaml: String = pairs.iter().map(|(name, value)| format!("{}: {value}\n", name.to_lowercase())).collect();
    let yaml = stage.file("walg.yaml", &format!("# WAL-G\n{yaml}"));
    for (number, path) in (1..).zip([&json, &yaml]) {
        let path = path.to_str().unwrap();
        stage.story(2 * number, |args| stage.walden(&[], &[&["--config", path], args].concat()).run());
        let variable = [("WALG_CONFIG_PATH", path.to_owned())];
        stage.story(2 * number + 1, |args| stage.walden(&variable, args).run());
        let other = [("WALG_S3_PREFIX", format!("s3://{BUCKET}/nowhere"))];
        let args = ["--config", path, "wal-fetch", &small(2).name(), "x"];
        stage.walden(&other, &args).run().code(3).stderr_has("nowhere");
    }
    let broken = stage.file("broken.yaml", "WALG_S3_PREFIX:\n  nested: hunter2\n");
    let ran = stage.walden(&[], &["--config", broken.to_str().unwrap(), "config"]).run();
    ran.code(3).stderr_has("broken.yaml").stderr_lacks("hunter2");
    stage.walden(&[], &["--config", "missing.json", "config"]).run().code(10).stderr_has("missing.json");
}

#[test]
fn a_directory_is_an_archive_for_both_of_them() {
    for (variable, form) in [
        ("WALG_FILE_PREFIX", "PATH"),
        ("WALG_FILE_PREFIX", "file://PATH"),
        ("WALE_FILE_PREFIX", "file://localhostPATH"),
    ] {
        let scene = Scene::new(Place::directory());
        let path = scene.place.prefix().strip_prefix("file://").unwrap().to_owned();
        let name = scene.write(&small(1));
        let walden = Walden::new(scene.data.path()).env(variable, form.replace("PATH", &path));
        walden.args(["wal-push", &format!("pg_wal/{name}")]).run().code(0);
        assert!(scene.archived(&name).is_some(), "{variable}={form}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name_before_anything_is_stored() {
    let scene = Scene::new(Place::directory());
    let path = scene.place.prefix().strip_prefix("file://").unwrap().to_owned();
    let name = scene.write(&small(1));
    let push = ["wal-push", &format!("pg_wal/{name}")];
    for (variable, args) in [
        ("WALG_LIBSODIUM_KEY", &push[..]),
        ("WALG_PGP_KEY_PATH", &push),
        ("WALE_GPG_KEY_ID", &push),
        ("WALG_CSE_KMS_ID", &push),
        ("WALG_GS_PREFIX", &push),
        ("WALE_SWIFT_PREFIX", &["backup-list"]),
        ("WALG_STORAGE_PREFIX", &["wal-fetch", &name, "x"]),
        ("S3_RETENTION_PERIOD", &push),
        ("WALG_FAILOVER_STORAGES", &["daemon", "."]),
        ("WALG_DELTA_MAX_STEPS", &["backup-push"]),
    ] {
        let value = if variable == "WALG_PGP_KEY_PATH" { "/hunter2" } else { "7hunter2" };
        let walden = Walden::new(scene.data.path()).env("WALG_FILE_PREFIX", &path).env(variable, value);
        walden.args(args).run().code(3).stderr_has(&format!("{variable} cannot be honoured")).stderr_lacks("hunter2");
    }
    assert_eq!(scene.place.keys(), [""; 0]);
    // A recovery must not take that for the end of the WAL.
    fs::write(scene.data.path().join("recovery.signal"), "").unwrap();
    let fetch = ["wal-fetch", &name, "x"];
    let walden = Walden::new(scene.data.path()).env("WALG_FILE_PREFIX", &path).env("WALG_GS_PREFIX", "gs://b");
    walden.args(fetch).run().code(200);
}

#[test]
fn keys_that_are_refused_for_writing_read_what_was_written_with_them() {
    let scene = Scene::new(Place::directory());
    let (segment, key) = (small(5), b"a key of libsodium for the tests");
    let name = scene.write(&small(1));
    scene.push(&name).code(0);
    let stored = secretstream(&through(&["brotli", "-c"], &segment.bytes()), *key);
    scene.place.put(&format!("wal_005/{}.br", segment.name()), &stored);
    let text = str::from_utf8(key).unwrap();
    let with_key = |args: &[&str]| scene.walden(args).env("WALG_LIBSODIUM_KEY", text).run();
    with_key(&["wal-fetch", &segment.name(), "pg_wal/RECOVERYXLOG"]).code(0);
    assert!(scene.fetched().unwrap() == segment.bytes());
    with_key(&["wal-push", &format!("pg_wal/{name}")]).code(3).stderr_has("WALG_LIBSODIUM_KEY");
}

#[test]
fn words_of_both_tools_are_understood_where_they_mean_the_same() {
    let scene = Scene::new(Place::directory());
    let name = scene.write(&small(1));
    scene.push(&name).code(0);
    for line in [
        "delete --confirm retain 5",
        "delete retain FULL 5 --confirm",
        "delete --dry-run retain 5",
        "delete -n before FIND_FULL LATEST",
        "--terse backup-list",
        "backup-list --json",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let ran = scene.walden(&args).run();
        assert!(matches!(ran.code, Some(0 | 1)), "{line}: {ran}");
    }
    for line in [
        "delete --dry-run --confirm retain 5",
        "backup-list --detail",
        "wal-push -p 8 pg_wal/x",
        "backup-push --delta-from-name base_1",
        "backup-fetch --blind-restore x LATEST",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        scene.walden(&args).run().code(2);
    }
    // As far as the next thing that is missing: a server, or a backup.
    for line in ["backup-push --full --verify --permanent .", "backup-push -f --pool-size 2 ."] {
        let args: Vec<&str> = line.split(' ').collect();
        let ran = scene.walden(&args).env("PGHOST", "/nowhere").run();
        assert!(matches!(ran.code, Some(5)), "{line}: {ran}");
    }
    scene.walden(&["backup-fetch", "there", "LATEST", "--reverse-unpack", "--pool-size", "2"]).run().code(1);
}

#[test]
fn a_migrated_file_says_what_the_old_one_said_and_no_secret() {
    let stage = Stage::new();
    let mut variables = vec![
        ("WALG_S3_PREFIX", format!("s3://{BUCKET}/some/where")),
        ("AWS_ENDPOINT", format!("http://{}", stage.address())),
        ("WALG_S3_SSE", String::from("AES256")),
        ("WALG_LIBSODIUM_KEY", String::from("hunter2hunter2hunter2hunter2")),
        ("WALG_UPLOAD_CONCURRENCY", String::from("16")),
        ("WALG_UPLAOD_QUEUE", String::from("2")),
    ];
    variables.extend(stage.key());
    let directory = envdir(stage.scene.data.path(), &variables);
    let lines: String = variables.iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect();
    let lines = stage.file("wal-g.sh", &lines);
    let json: serde_json::Map<String, serde_json::Value> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect();
    let json = stage.file("wal-g.json", &serde_json::Value::from(json).to_string());
    let printed = [
        stage.walden(&[], &["--envdir", directory.to_str().unwrap(), "migrate-config"]),
        stage.walden(&[], &["migrate-config", "--from", lines.to_str().unwrap()]),
        stage.walden(&[], &["migrate-config", "--from", json.to_str().unwrap()]),
    ];
    for walden in printed {
        let text = walden.run().code(0).stderr_is("").stdout;
        let secret = &stage.key()[1].1;
        assert!(!text.contains("hunter2") && !text.contains(secret), "{text}");
        for part in [
            "prefix = \"s3://",
            "s3-sse = \"AES256\"",
            "AWS_ENDPOINT_URL_S3=http://",
            "AWS_SECRET_ACCESS_KEY (its value is secret",
            "WALG_LIBSODIUM_KEY: it asks for encryption",
            "WALG_UPLOAD_CONCURRENCY: ",
            "#   WALG_UPLAOD_QUEUE\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        // It can be used once it is decided what is to be encrypted, with the variables that it says stay variables.
        let file = stage.file("walden.toml", &text);
        let config = ["--config", file.to_str().unwrap(), "config"];
        stage.walden(&[], &config).run().code(3).stderr_has("encrypt-to");
        stage.file("walden.toml", &text.replace("encrypt-to = [\"to-be-decided\"]\n", ""));
        stage.walden(&[], &config).run().code(0).stdout_has("s3://").stdout_has("AES256");
    }
    stage.walden(&[], &["migrate-config", "--from", "missing"]).run().code(10).stderr_has("missing");
    let broken = stage.file("broken.sh", "this is no assignment hunter2\n");
    let ran = stage.walden(&[], &["migrate-config", "--from", broken.to_str().unwrap()]).run();
    ran.code(3).stderr_has("line 1").stderr_lacks("hunter2");
}

/// The one key of WAL-G's file that has keys of its own.
#[test]
fn a_file_with_other_stores_is_read_and_refused_for_writing_alone() {
    let stage = Stage::new();
    let name = stage.scene.write(&small(1));
    let own = Place::directory();
    let path = own.prefix().replace("file://", "");
    let yaml =
        format!("WALG_FILE_PREFIX: {path}\nWALG_FAILOVER_STORAGES:\n  other:\n    AWS_SECRET_ACCESS_KEY: hunter2\n");
    let file = stage.file("walg.yaml", &yaml);
    let walden = |args: &[&str]| stage.walden(&[], &[&["--config", file.to_str().unwrap()], args].concat()).run();
    walden(&["wal-push", &format!("pg_wal/{name}")])
        .code(3)
        .stderr_has("WALG_FAILOVER_STORAGES cannot be honoured")
        .stderr_lacks("hunter2");
    walden(&["config"]).code(0);
    let printed = stage.walden(&[], &["migrate-config", "--from", file.to_str().unwrap()]).run().code(0);
    assert!(!printed.stdout.contains("hunter2"));
    printed.stdout_has("WALG_FAILOVER_STORAGES");
}

#[test]
fn a_key_of_theirs_is_for_reading_once_it_is_said_what_is_encrypted_and_the_doctor_says_so_before() {
    let stage = Stage::new();
    let scene = &stage.scene;
    let sodium = ("WALG_LIBSODIUM_KEY", "a key of libsodium for the tests");
    let doctor = scene.walden(&["doctor", "--json", scene.data.path().to_str().unwrap()]).env(sodium.0, sodium.1);
    let found = doctor.run().json();
    let writing = found.as_array().unwrap().iter().find(|one| one["check"] == "writing").unwrap();
    assert!(writing["found"].as_str().unwrap().contains("WALG_LIBSODIUM_KEY cannot be honoured"), "{writing:#}");
    let public = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
    let name = scene.write(&small(1));
    let push = || scene.walden(&["wal-push", &format!("pg_wal/{name}")]).env(sodium.0, sodium.1);
    push().run().code(3);
    push().env("WALDEN_ENCRYPT_TO", public).run().code(0);
    let object = scene.place.get(&scene.key(&name)).unwrap();
    assert!(object.windows(21).any(|window| window == b"age-encryption.org/v1"));
    // WAL-E's option of this name is a number of segments.
    let ahead = scene.walden(&["wal-fetch", "--prefetch", "8", &name, "pg_wal/RECOVERYXLOG"]).run();
    ahead.code(2).stderr_has("not a number of segments");
}
