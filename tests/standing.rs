//! `status`, its verdict and its metrics: each fault of the list turns them over, and each repair turns them back. Nothing
//! is measured: the state is looked at after the fault.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::cluster::{Cluster, Postgres};
use support::patience::wait_until;
use support::place::Place;
use support::s3::{Answer, Fault, On, Op};
use support::scene::{Scene, small};
use support::stories::{back_up, each, in_turn};
use support::walden::{Ran, Walden};

/// A primary with a backup, and WAL after it.
fn archived(postgres: &Postgres, place: &Place) -> Cluster {
    let primary = Cluster::primary(postgres, place);
    primary.sql("CREATE TABLE marks (mark int)");
    primary.archive_all();
    back_up(&primary);
    primary.archive_all();
    primary
}

fn status(primary: &Cluster, args: &[&str]) -> Walden {
    let data = primary.data();
    let args = [&["status", data.to_str().unwrap(), "--retry-timeout", "1s"], args].concat();
    primary.walden(&args)
}

fn check(primary: &Cluster) -> Ran {
    status(primary, &["--check"]).run()
}

/// The one cluster that is shown.
fn shown(primary: &Cluster) -> Value {
    let all = status(primary, &["--json"]).run().code(0).json();
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
    all[0].clone()
}

/// One line, as Nagios wants it.
#[track_caller]
fn verdict(ran: Ran, code: i32, word: &str) -> Ran {
    let ran = ran.code(code).stdout_has(&format!("WALDEN {word}: ")).stderr_is("");
    assert_eq!(ran.stdout.lines().count(), 1, "{ran}");
    ran
}

fn set(primary: &Cluster, setting: &str) {
    primary.sql(&format!("ALTER SYSTEM SET {setting}"));
    primary.sql("SELECT pg_reload_conf()");
    let name = setting.split(' ').next().unwrap();
    let value = setting.split_once('\'').unwrap().1.trim_end_matches('\'').to_owned();
    primary.wait_until("the server has the setting", |cluster| {
        cluster.value(&format!("SELECT current_setting('{name}')")) == value
    });
}

fn switch(primary: &Cluster) {
    primary.sql("SELECT pg_create_restore_point('switch')");
    primary.sql("SELECT pg_switch_wal()");
}

fn failed(primary: &Cluster) -> bool {
    primary.value("SELECT last_failed_time > last_archived_time FROM pg_stat_archiver") == "t"
}

#[test]
fn an_archiver_that_fails_waits_or_is_off_is_told_and_is_well_again_afterwards() {
    each(|postgres, place| {
        let primary = archived(postgres, place);
        verdict(check(&primary), 0, "OK")
            .stdout_has("last good backup")
            .stdout_has(" | wal_age=")
            .stdout_has("backup_age=");
        let well = shown(&primary);
        assert_eq!(
            (&well["archiving"]["ready"]["files"], &well["archiving"]["failing"]),
            (&0.into(), &Value::Null),
            "{well}"
        );
        assert_eq!((&well["not_seen"], &well["last_backup"]["good"]), (&Value::Array(vec![]), &true.into()), "{well}");

        let command = primary.archive_command();
        set(&primary, "archive_command = 'false'");
        switch(&primary);
        primary.wait_until("a file fails", failed);
        verdict(check(&primary), 1, "WARNING").stdout_has(" fails: the server's log says why");
        let ill = shown(&primary);
        assert_eq!(ill["archiving"]["ready"]["files"], 1, "{ill}");
        assert!(ill["archiving"]["ready"]["bytes"].as_u64().unwrap() >= 1 << 20, "{ill}");
        assert_eq!(ill["archiving"]["failing"]["since"], Value::Null, "{ill}");
        status(&primary, &[]).run().code(0).stdout_has("\nfailing       0000").stdout_has("the server's log says why");

        // An archiver that hangs does not fail, and yet nothing is archived.
        set(&primary, "archive_command = 'sleep 600'");
        primary.archive_stops();
        wait_until("what waits is too old", || {
            let ran = status(&primary, &["--check", "--critical-wal-age", "1s"]).run();
            ran.code == Some(2) && ran.stdout.contains("WAL files wait, the oldest for")
        });

        set(&primary, "archive_command = ''");
        verdict(check(&primary), 2, "CRITICAL").stdout_has("does not archive: neither archive_command nor");
        assert!(shown(&primary)["archiving"]["off"].is_string());

        set(&primary, &format!("archive_command = '{command}'"));
        primary.end_archive_command();
        primary.archive_all();
        verdict(check(&primary), 0, "OK");
    });
}

#[test]
fn a_push_that_fails_leaves_word_of_the_reason_which_status_tells_until_one_gets_through() {
    let place = Place::s3();
    for postgres in Postgres::each() {
        let primary = archived(&postgres, &place);
        let refusal = Answer::refusal(403, "AccessDenied", "the archivist is on holiday");
        place.service().fail_always(On::op(Op::Put), Fault::Answer(refusal));
        switch(&primary);
        primary.wait_until("a file fails", failed);
        verdict(check(&primary), 1, "WARNING").stdout_has("on holiday");
        let failing = shown(&primary)["archiving"]["failing"].clone();
        assert!(failing["reason"].as_str().unwrap().contains("on holiday"), "{failing}");
        assert!(failing["attempts"].as_u64().unwrap() >= 1 && failing["since"].is_string(), "{failing}");
        status(&primary, &[]).run().code(0).stdout_has("on holiday");
        assert!(primary.data().join("pg_wal/.walden/failing").exists());

        place.service().heal();
        primary.archive_all();
        assert!(!primary.data().join("pg_wal/.walden/failing").exists());
        verdict(check(&primary), 0, "OK");
    }
}

#[test]
fn an_archive_with_a_gap_an_old_backup_or_damage_is_told_and_so_is_a_store_that_cannot_be_seen() {
    in_turn(|postgres, place| {
        let primary = archived(postgres, place);
        let metrics = primary.directory("metrics");
        let value = |name: &str| {
            let _ = status(&primary, &["--metrics-dir", metrics.to_str().unwrap()]).run();
            metric(&metrics, name)
        };
        assert_eq!((value("walden_archive_seen"), value("walden_wal_missing_segments")), (Some(1.0), Some(0.0)));
        assert_eq!(value("walden_server_archives"), Some(1.0));

        // A gap after the last backup.
        let gone = primary.value("SELECT last_archived_wal FROM pg_stat_archiver");
        primary.archive_all();
        let key = place.keys().into_iter().find(|key| key.ends_with(&gone)).unwrap();
        let content = place.get(&key).unwrap();
        place.remove(&key);
        verdict(check(&primary), 2, "CRITICAL")
            .stdout_has("WAL is missing after the last good backup")
            .stdout_has(&gone);
        assert_eq!(value("walden_wal_missing_segments"), Some(1.0));
        // With a newer backup the same gap takes away less.
        back_up(&primary);
        verdict(check(&primary), 1, "WARNING").stdout_has("WAL is missing after an older backup");
        place.put(&key, &content);
        verdict(check(&primary), 0, "OK");
        assert_eq!(value("walden_wal_missing_segments"), Some(0.0));

        // Backups that are too old.
        wait_until("the backup is two seconds old", || shown(&primary)["last_backup"]["age"].as_i64().unwrap() > 1);
        let old = status(&primary, &["--check", "--warn-backup-age", "1s"]).run();
        verdict(old, 1, "WARNING").stdout_has("the last good backup is ");
        let old = status(&primary, &["--check", "--critical-backup-age", "1s"]).run();
        verdict(old, 2, "CRITICAL").stdout_has("the last good backup is ");

        // A manifest that is damaged.
        let key = place.keys().into_iter().rev().find(|key| key.ends_with("backup.json")).unwrap();
        place.corrupt(&key, 9);
        verdict(check(&primary), 2, "CRITICAL").stdout_has("cannot be used");
        assert_eq!(value("walden_damaged_objects"), Some(1.0));
        place.corrupt(&key, 9);
        verdict(check(&primary), 0, "OK");
    });
}

#[test]
fn a_store_that_refuses_or_does_not_answer_is_not_seen_and_the_server_is_told_of_all_the_same() {
    for postgres in Postgres::each() {
        let place = Place::s3();
        let primary = archived(&postgres, &place);
        let metrics = primary.directory("metrics");
        let seen = || metric(&metrics, "walden_archive_seen");
        let well = || {
            verdict(check(&primary), 0, "OK");
            status(&primary, &["--metrics-dir", metrics.to_str().unwrap()]).run().code(0);
            assert_eq!(seen(), Some(1.0));
            assert!(metric(&metrics, "walden_last_backup_timestamp_seconds").is_some());
        };
        well();
        for (name, value, code) in
            [("AWS_SECRET_ACCESS_KEY", "wrong", 4), ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", 5)]
        {
            let ran = |args: &[&str]| status(&primary, args).env(name, value).run();
            verdict(ran(&["--check"]), 3, "UNKNOWN").stdout_has("the archive could not be seen");
            ran(&[]).code(code).stdout_has("no WAL waits").stdout_has("not seen: the archive: ");
            let shown = ran(&["--json", "--metrics-dir", metrics.to_str().unwrap()]).code(code).json();
            assert_eq!((&shown[0]["archive_seen"], &shown[0]["last_backup"]), (&false.into(), &Value::Null), "{shown}");
            assert_eq!(shown[0]["archiving"]["ready"]["files"], 0, "{shown}");
            assert_eq!(seen(), Some(0.0));
            assert_eq!(metric(&metrics, "walden_last_backup_timestamp_seconds"), None);
            well();
        }
    }
}

/// The value of a metric that has one in this directory.
fn metric(directory: &Path, name: &str) -> Option<f64> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let file = files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "prom"))?;
    value_of(&fs::read_to_string(file).unwrap(), name)
}

fn value_of(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")))?;
    Some(line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

#[test]
fn a_server_that_is_gone_is_not_taken_for_one_that_archives() {
    in_turn(|postgres, place| {
        let mut primary = archived(postgres, place);
        primary.stop();
        let told = verdict(check(&primary), 3, "UNKNOWN");
        told.stdout_has("not seen: the server: ");
        let shown = shown(&primary);
        assert_eq!(shown["archiving"]["archived_count"], Value::Null, "{shown}");
        assert!(shown["last_backup"]["id"].is_string(), "{shown}");
        // Where nobody has said that there is a server, the archive alone is judged.
        let elsewhere = || primary.walden(&["status", "--check"]).without(&["PGHOST"]);
        verdict(elsewhere().run(), 0, "OK");
        wait_until("the last WAL is two seconds old", || {
            let shown = elsewhere().run().stdout;
            shown.split("wal_age=").nth(1).unwrap().split('s').next().unwrap().parse::<u64>().unwrap() > 1
        });
        let old = elsewhere().args(["--warn-wal-age", "1s"]).run();
        verdict(old, 1, "WARNING").stdout_has("the last WAL, 0000");
        primary.start();
        verdict(check(&primary), 0, "OK");
    });
}

#[test]
fn a_check_that_cannot_be_made_is_unknown_in_one_line() {
    for scene in Scene::each() {
        verdict(scene.walden(&["status", "--check", "--no-such-flag"]).run(), 3, "UNKNOWN");
        verdict(scene.walden(&["status", "--check"]).env("WALDEN_NO_SUCH_SETTING", "x").run(), 3, "UNKNOWN");
        verdict(scene.walden(&["status", "--check"]).run(), 3, "UNKNOWN").stdout_has("there is no archive");
        // The codes of people stay what they are.
        scene.walden(&["status"]).run().code(3);
        scene.walden(&["status", "--no-such-flag"]).run().code(2);
    }
}

#[test]
fn the_last_verification_from_this_machine_is_told() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let primary = archived(&postgres, &place);
        assert_eq!(shown(&primary)["last_verification"], Value::Null);
        primary.walden(&["wal-verify", "--deep"]).run().code(0);
        let last = shown(&primary)["last_verification"].clone();
        assert_eq!((&last["deep"], &last["failure"]), (&true.into(), &Value::Null), "{last}");
        let segment = place.keys().into_iter().rfind(|key| key.contains("/wal/") && key.len() > 50).unwrap();
        let size = place.get(&segment).unwrap().len();
        place.corrupt(&segment, size - 9);
        primary.walden(&["wal-verify", "--deep"]).run().code(7);
        assert!(shown(&primary)["last_verification"]["failure"].is_string());
        verdict(check(&primary), 1, "WARNING").stdout_has("the last wal-verify found: ");
    }
}

#[test]
fn each_run_is_counted_in_a_file_that_everybody_can_read() {
    for scene in Scene::each() {
        let metrics = tempfile::tempdir().unwrap();
        let walden = |args: &[&str]| scene.walden(args).env("WALDEN_METRICS_DIR", metrics.path());
        let (one, absent) = (scene.write(&small(1)), small(9).name());
        for _ in 0..2 {
            walden(&["wal-push", &format!("pg_wal/{one}")]).run().code(0);
        }
        walden(&["wal-push", &format!("pg_wal/{absent}")]).run().code(10);
        walden(&["wal-fetch", &absent, "pg_wal/RECOVERYXLOG"]).run().code(1);
        walden(&["config"]).run().code(0);
        let entry = fs::read_dir(metrics.path()).unwrap().map(|entry| entry.unwrap().path());
        let file = entry.into_iter().find(|path| path.extension().unwrap() == "prom").unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let runs = |verb: &str, result: &str| {
            let labels = format!("archive=\"{}\",verb=\"{verb}\",result=\"{result}\"", scene.place.prefix());
            let line = text.lines().find(|line| line.starts_with(&format!("walden_runs_total{{{labels}}} ")));
            line.map(|line| line.rsplit_once(' ').unwrap().1.to_owned())
        };
        assert_eq!(runs("wal-push", "ok").as_deref(), Some("2"), "{text}");
        assert_eq!(runs("wal-push", "local").as_deref(), Some("1"), "{text}");
        assert_eq!(runs("wal-fetch", "not-found").as_deref(), Some("1"), "{text}");
        assert!(!text.contains("verb=\"config\""), "{text}");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);

        // Metrics that cannot be written change nothing but the log.
        let push =
            scene.walden(&["wal-push", &format!("pg_wal/{one}")]).env("WALDEN_METRICS_DIR", metrics.path().join("no"));
        push.run().code(0).stderr_has("no metrics are left");
    }
}

#[test]
fn as_whom_the_store_is_asked_is_told_with_the_end_of_a_session_and_a_check_is_no_json() {
    let scene = Scene::on_s3();
    let name = scene.write(&small(1));
    scene.push(&name).code(0);
    let metrics = tempfile::tempdir().unwrap();
    let lasting = scene.walden(&["status", "--json"]).run().code(0).json();
    assert_eq!(lasting[0]["credentials"]["expires"], Value::Null, "{lasting}");
    assert!(lasting[0]["credentials"]["who"].as_str().unwrap().starts_with("access key "), "{lasting}");
    let session = scene.s3().web_identity(scene.data.path(), std::time::Duration::from_secs(3600));
    let args = ["status", "--json", "--metrics-dir", metrics.path().to_str().unwrap()];
    let session = scene.walden(&args).without(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]).envs(session);
    let session = session.run().code(0).json();
    let expires: jiff::Timestamp = session[0]["credentials"]["expires"].as_str().unwrap().parse().unwrap();
    let metric = metric(metrics.path(), "walden_credentials_expiry_timestamp_seconds").unwrap();
    assert_eq!(metric as i64, expires.as_second());
    // A check is one line; JSON is another question.
    verdict(scene.walden(&["status", "--check", "--json"]).run(), 3, "UNKNOWN");
}

#[test]
fn a_retention_that_fails_is_told_until_one_succeeds() {
    let place = Place::s3();
    for postgres in Postgres::each() {
        let primary = archived(&postgres, &place);
        let metrics = primary.directory("metrics");
        let failed = || {
            status(&primary, &["--metrics-dir", metrics.to_str().unwrap()]).run().code(0);
            metric(&metrics, "walden_last_retention_failed")
        };
        back_up(&primary);
        assert_eq!((&shown(&primary)["last_retention"], failed()), (&Value::Null, None));
        let system = shown(&primary)["system_id"].as_str().unwrap().to_owned();
        let delete =
            || primary.walden(&["delete", "retain", "1", "--confirm", "--system-id", &system, "--retry-timeout", "1s"]);

        let refusal = Answer::refusal(403, "AccessDenied", "nothing goes today");
        place.service().fail_always(On::op(Op::Delete), Fault::Answer(refusal));
        delete().run().code(4);
        place.service().heal();
        verdict(check(&primary), 1, "WARNING").stdout_has("the last walden delete retain 1 failed: ");
        assert!(shown(&primary)["last_retention"]["failure"].is_string());
        assert_eq!(failed(), Some(1.0));

        delete().run().code(0);
        verdict(check(&primary), 0, "OK");
        let last = shown(&primary)["last_retention"].clone();
        assert_eq!((&last["failure"], &last["kept"]), (&Value::Null, &1.into()), "{last}");
        assert_eq!(failed(), Some(0.0));
        status(&primary, &[]).run().code(0).stdout_has("\nretention     retain 1, ");
    }
}
