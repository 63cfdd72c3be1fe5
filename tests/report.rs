//! `report`: the page is looked at in a real browser, light and dark, on a wide screen and on a telephone.
//!
//! `WALDEN_TEST_PICTURES=DIR` leaves pictures there, for a person to look at.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::browser::{Seen, View};
use support::cluster::Cluster;
use support::forge::{self, SYSTEM_ID, Segment};
use support::place::Place;
use support::stories::{back_up, each};
use support::walden::Ran;

const SIZE: u64 = 16 << 20;

/// What a person who means harm writes on a backup.
const HARM: &str =
    "</title></table><script>window.ran = 1</script><img src=http://127.0.0.1:9/x onerror='ran=1'>\u{202E}";

/// An archive that is made by hand. Times are hours before now.
struct Scene {
    place: Place,
    data: tempfile::TempDir,
    now: Timestamp,
}

/// What is different from a backup in which all is well.
#[derive(Default)]
struct Marks<'a> {
    label: Option<&'a str>,
    notes: Vec<(&'a str, &'a str)>,
    keep: bool,
    damaged: u64,
    gib: f64,
}

impl Scene {
    fn new() -> Scene {
        let scene = Scene { place: Place::directory(), data: tempfile::tempdir().unwrap(), now: Timestamp::now() };
        forge::data_directory(scene.data.path(), &Segment { size: SIZE, ..Segment::default() });
        scene.place.put("walden.json", seal("{\"format\":1,\n").as_bytes());
        scene
    }

    /// How many hours old a segment of a long archive is.
    fn age(number: u64) -> u64 {
        (26 * 200 - 1 - number) * 8760 / 5000
    }

    /// A year of a backup a day on one timeline after the other, and what looks like the WAL of it.
    fn long() -> Scene {
        let scene = Scene::new();
        for timeline in 1..=25u32 {
            let first = u64::from(timeline) * 200;
            if timeline > 1 {
                scene.history(timeline, timeline - 1, first, Scene::age(first));
            }
            for number in first..first + 200 {
                // Here and there one is lost.
                if number % 53 != 0 {
                    scene.put(
                        &format!("{SYSTEM_ID}/wal/{timeline:08X}/{}", scene.name(timeline, number)),
                        b"x",
                        Scene::age(number),
                    );
                }
            }
            for number in (first + 10..first + 200).step_by(15) {
                scene.backup(
                    timeline,
                    number,
                    Scene::age(number) as i64,
                    &Marks { label: Some(HARM), ..Marks::default() },
                );
            }
        }
        scene
    }

    fn walden(&self, args: &[&str]) -> Ran {
        self.place.walden(self.data.path()).env("WALDEN_RETRY_TIMEOUT", "2s").args(args).run()
    }

    /// The page in a file.
    fn page(&self) -> PathBuf {
        let page = self.data.path().join("report.html");
        self.walden(&["report", "--output", page.to_str().unwrap()]).code(0).stdout_is("").stderr_is("");
        page
    }

    fn name(&self, timeline: u32, number: u64) -> String {
        Segment { size: SIZE, timeline, number, ..Segment::default() }.name()
    }

    /// Objects with the names of segments, and nothing in them: whoever lists does not read. The last is `hours` old, each
    /// of the others an hour older than the next.
    fn names(&self, timeline: u32, numbers: std::ops::RangeInclusive<u64>, hours: u64) {
        let last = *numbers.end();
        for number in numbers {
            let name = self.name(timeline, number);
            self.put(&format!("{SYSTEM_ID}/wal/{timeline:08X}/{name}"), b"x", hours + last - number);
        }
    }

    fn put(&self, key: &str, content: &[u8], hours: u64) {
        self.place.put(key, content);
        self.place.age(key, Duration::from_secs(hours * 3600));
    }

    fn history(&self, timeline: u32, parent: u32, number: u64, hours: u64) {
        let (name, lsn) = (format!("{timeline:08X}.history"), lsn(number, 0x8000));
        let content = forge::history(&[(parent, &lsn, "before <b>2026</b>")]);
        fs::write(self.data.path().join("pg_wal").join(&name), content).unwrap();
        self.walden(&["wal-push", &format!("pg_wal/{name}")]).code(0);
        self.place.age(&format!("{SYSTEM_ID}/wal/{name}"), Duration::from_secs(hours * 3600));
    }

    fn ago(&self, hours: i64) -> Timestamp {
        self.now - SignedDuration::from_hours(hours)
    }

    fn id(&self, timeline: u32, number: u64, hours: i64) -> String {
        format!("{}-{}", self.ago(hours).strftime("%Y%m%dT%H%M%SZ"), self.name(timeline, number))
    }

    /// A backup that began in this segment and ended in it, and took as many minutes as it has GiB.
    fn backup(&self, timeline: u32, number: u64, hours: i64, marks: &Marks<'_>) -> String {
        let id = self.id(timeline, number, hours);
        let gib = if marks.gib > 0.0 { marks.gib } else { 40.0 };
        let plain = (gib * f64::from(1 << 30)) as u64;
        let finished = self.ago(hours) + SignedDuration::from_secs((gib * 60.0) as i64);
        let mut manifest = json!({
            "format": 1, "walden": "0.1.0", "id": id, "system_id": SYSTEM_ID.to_string(), "postgres": 15,
            "started": self.ago(hours), "finished": finished, "timeline": timeline,
            "start": lsn(number, 0x28), "stop": lsn(number, 0x9000), "segment_size": SIZE, "data_checksums": true,
            "directory_mode": 448, "files": 1000, "plain_size": plain, "stored_size": plain / 3, "tablespaces": [],
            "files_blake3": "00", "keep": marks.keep,
            "notes": marks.notes.iter().map(|(key, value)| (key.to_string(), json!(value))).collect::<serde_json::Map<_, _>>(),
            "pages": { "checked": 5000, "damaged": marks.damaged },
        });
        if let Some(label) = marks.label {
            manifest["label"] = label.into();
        }
        let text = manifest.to_string();
        let content = seal(&format!("{},\n", text.trim_end_matches('}')));
        self.put(&format!("{SYSTEM_ID}/backup/{id}/backup.json"), content.as_bytes(), hours as u64);
        id
    }

    /// What a failed backup leaves.
    fn remains(&self, timeline: u32, number: u64, hours: i64) -> String {
        let id = self.id(timeline, number, hours);
        self.put(&format!("{SYSTEM_ID}/backup/{id}/v0/000000"), b"x", hours as u64);
        id
    }

    /// Twelve days of everything that can happen to an archive.
    fn eventful() -> Scene {
        let scene = Scene::new();
        // A segment an hour; segments 101 to 110 were lost five days after the first.
        scene.names(1, 1..=100, 190);
        scene.names(1, 111..=200, 90);
        scene.history(2, 1, 200, 90);
        scene.names(2, 200..=289, 0);
        let segment = |hours: u64| 290 - hours;
        for day in 0..12u64 {
            let hours = 12 * 24 - 2 - day * 24;
            let timeline = if hours < 88 { 2 } else { 1 };
            let gib = 38.0 + day as f64 * 1.5;
            let marks = match day {
                1 => Marks {
                    label: Some("before the upgrade"),
                    notes: vec![("ticket", "OPS-1234")],
                    keep: true,
                    gib,
                    ..Marks::default()
                },
                6 => Marks { damaged: 3, gib, ..Marks::default() },
                9 => Marks { label: Some(HARM), notes: vec![(HARM, HARM)], gib, ..Marks::default() },
                _ => Marks { gib, ..Marks::default() },
            };
            match day {
                3 => drop(scene.remains(1, segment(hours), hours as i64)),
                _ => drop(scene.backup(timeline, segment(hours), hours as i64, &marks)),
            }
        }
        scene
    }
}

fn lsn(number: u64, offset: u64) -> String {
    let lsn = number * SIZE + offset;
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

/// docs/format.md, "Sealed objects".
fn seal(content: &str) -> String {
    let digest: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{content}\"sha256\":\"{digest}\"}}\n")
}

/// Looks at a page in each of the ways in which people do, and leaves pictures where they are wanted.
fn each_view(name: &str, page: &Path) -> Vec<Seen> {
    views(name, page, &[(1280, false), (1280, true), (360, false), (360, true), (800, false)])
}

fn views(name: &str, page: &Path, views: &[(u32, bool)]) -> Vec<Seen> {
    let pictures = std::env::var_os("WALDEN_TEST_PICTURES").map(PathBuf::from);
    let look = |&(width, dark): &(u32, bool)| {
        let view = View { page, width, dark };
        let seen = view.look();
        if let Some(pictures) = &pictures {
            let high = seen.measured["high"].as_u64().unwrap() as u32;
            view.picture(high, &pictures.join(format!("{name}-{width}-{}.png", if dark { "dark" } else { "light" })));
        }
        println!(
            "{name} at {width}, dark {dark}: {} bytes, loaded in {} ms",
            fs::metadata(page).unwrap().len(),
            seen.measured["loaded"]
        );
        seen
    };
    views.iter().map(look).collect()
}

/// What holds of every page: all of it lies within its width and can be read, and nothing was fetched or ran.
#[track_caller]
fn is_sound(seen: &Seen) {
    let measured = &seen.measured;
    assert_eq!((&measured["outside"], &measured["faint"]), (&json!([]), &json!([])), "{measured:#}");
    assert_eq!(measured["spills"], json!([]), "{measured:#}");
    assert!(measured["scrolls"].as_u64() <= measured["wide"].as_u64(), "{measured:#}");
    assert_eq!((&measured["fetched"], &measured["ran"]), (&json!([]), &Value::Null), "{measured:#}");
    assert_eq!((&measured["scripts"], &measured["foreign"], &measured["unnamed"]), (&0.into(), &0.into(), &0.into()));
    assert_eq!(seen.console, Vec::<String>::new());
}

#[test]
fn the_page_can_be_read_on_a_screen_and_on_a_telephone_by_day_and_by_night() {
    let scene = Scene::eventful();
    let page = scene.page();
    let seen = each_view("eventful", &page);
    for (one, wide) in seen.iter().zip([1280, 1280, 360, 360, 800]) {
        is_sound(one);
        assert_eq!(one.measured["wide"], wide);
        let text = one.measured["text"].as_str().unwrap();
        for part in [
            &format!("{SYSTEM_ID}"),
            "WARNING",
            "A recovery can stop at any time from",
            "All times are UTC",
            "walden 0.1.0",
            "before the upgrade",
            "ticket=OPS-1234",
            "3 damaged pages",
            "good, kept",
            "incomplete",
            "before <b>2026</b>",
            "1 at 0/C8008000",
            "(10 segments)",
            "timeline 2 (latest)",
            &scene.place.prefix(),
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        let marks = &one.measured["marks"];
        assert_eq!(
            (&marks["kept"], &marks["incomplete"], &marks["damaged"]),
            (&json!(1), &json!(1), &json!(1)),
            "{marks}"
        );
        assert_eq!((&marks["gap"], &marks["hole"], &marks["fork"]), (&json!(1), &json!(1), &json!(1)), "{marks}");
        assert_eq!(marks["bar"], 11 * 3 + 10, "{marks}");
    }
    assert_ne!(seen[0].measured["paper"], seen[1].measured["paper"]);
}

#[test]
fn whatever_is_wrong_with_a_page_is_seen() {
    let scratch = tempfile::tempdir().unwrap();
    let page = scratch.path().join("page.html");
    let wrong = "<!doctype html><html lang=en><body style='margin:0'><p style='width:900px;color:#999'>wide and faint</p>\
                 <li style='width:20px'>overflowing</li>\
                 <script>window.ran = 1; console.error('loud')</script><img alt='' src='http://127.0.0.1:9/x'><svg width=9 height=9></svg>";
    fs::write(&page, wrong).unwrap();
    let seen = View { page: &page, width: 360, dark: false }.look();
    let measured = &seen.measured;
    assert_eq!((&measured["scrolls"], &measured["ran"], &measured["scripts"]), (&900.into(), &1.into(), &1.into()));
    assert_eq!((&measured["unnamed"], &measured["foreign"]), (&1.into(), &1.into()), "{measured:#}");
    for found in ["outside", "spills", "faint", "fetched"] {
        assert_eq!(measured[found].as_array().unwrap().len(), 1, "{found}: {measured:#}");
    }
    assert!(seen.console.iter().any(|line| line.contains("loud")), "{:?}", seen.console);
}

#[test]
fn a_page_stays_small_and_sound_however_much_there_is() {
    let scene = Scene::long();
    let page = scene.page();
    let bytes = fs::metadata(&page).unwrap().len();
    assert!(bytes < 256 << 10, "{bytes}");
    for seen in views("long", &page, &[(1280, true), (360, false)]) {
        is_sound(&seen);
        let text = seen.measured["text"].as_str().unwrap();
        for part in [
            "The last 7 days",
            "older timelines not drawn",
            "older backups not listed",
            "more: walden wal-verify --json",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        let merged = seen.measured["titles"]
            .as_array()
            .unwrap()
            .iter()
            .any(|title| title.as_str().unwrap().contains(" backups, "));
        assert!(merged, "{:#}", seen.measured["titles"]);
    }
}

#[test]
fn the_data_of_the_page_is_printed_as_json() {
    let scene = Scene::eventful();
    let data = scene.walden(&["report", "--json"]).code(0).json();
    assert_eq!((&data["verdict"], &data["archive"]), (&json!("WARNING"), &json!(scene.place.prefix())));
    let cluster = &data["clusters"][0];
    assert_eq!(cluster["system_id"], SYSTEM_ID.to_string());
    let backups = cluster["backups"].as_array().unwrap();
    let states: Vec<&str> = backups.iter().map(|backup| backup["state"].as_str().unwrap()).collect();
    assert_eq!((states.len(), states[3], states[6]), (12, "incomplete", "damaged"));
    assert_eq!((&backups[9]["label"], &backups[9]["notes"][HARM]), (&json!(HARM), &json!(HARM)));
    assert_eq!((&backups[0]["seconds"], &backups[0]["wal_per_hour"]), (&json!(38.0 * 60.0), &Value::Null));
    assert_eq!(backups[1]["wal_per_hour"], json!(SIZE as f64));
    let line = &cluster["recoverable"][0];
    assert_eq!((&line["timeline"], &line["latest"], &line["broken"]), (&json!(2), &json!(true), &json!(false)));
    assert_eq!((line["windows"].as_array().unwrap().len(), &line["gaps"][0]["segments"]), (2, &json!(10)));
    let branch = &cluster["timelines"][1];
    assert_eq!(
        (&branch["parent"], &branch["left_at"], &branch["segments"]),
        (&json!(1), &json!("0/C8008000"), &json!(90))
    );
}

#[test]
fn an_archive_without_a_backup_is_a_page_too() {
    let scene = Scene::new();
    scene.names(1, 1..=3, 0);
    let page = scene.page();
    for seen in views("bare", &page, &[(360, true)]) {
        is_sound(&seen);
        let text = seen.measured["text"].as_str().unwrap();
        for part in ["CRITICAL", "there is no good backup", "Nothing can be recovered", "There is no backup."] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }
}

#[test]
fn an_archive_that_cannot_be_seen_is_told_on_the_page_and_by_the_exit_status() {
    let scene = Scene::new();
    let page = scene.data.path().join("report.html");
    let report = |args: &[&str]| {
        let walden = scene.place.walden(scene.data.path()).env("WALDEN_RETRY_TIMEOUT", "1s");
        let walden = walden.env("WALDEN_PREFIX", "s3://bucket/gone").env("AWS_REGION", "us-east-1");
        let walden = walden.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "y");
        walden.env("AWS_ENDPOINT_URL", "http://127.0.0.1:9").args(args).run()
    };
    report(&["report", "--output", page.to_str().unwrap()]).code(5).stdout_is("").stderr_has("ERROR:");
    for seen in views("unseen", &page, &[(1280, false)]) {
        is_sound(&seen);
        let text = seen.measured["text"].as_str().unwrap();
        for part in ["UNKNOWN", "s3://bucket/gone", "the archive: "] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assert!(!text.contains("Nothing is wrong") && !text.contains("no backup"), "{text}");
    }
    report(&["report"]).code(5).stdout_has("<!DOCTYPE html>").stdout_has("UNKNOWN");
}

#[test]
fn a_page_takes_the_place_of_the_one_before_in_one_step_or_leaves_it() {
    let scene = Scene::new();
    scene.names(1, 1..=3, 0);
    let page = scene.page();
    let before = fs::read(&page).unwrap();
    scene.names(1, 4..=4, 0);
    assert_ne!(fs::read(scene.page()).unwrap(), before);
    let nowhere = scene.data.path().join("nowhere/report.html");
    let ran = scene.walden(&["report", "--output", nowhere.to_str().unwrap()]);
    ran.code(10).stderr_has("could not write \"").stderr_has("nowhere/report.html");
    assert!(!nowhere.exists());
}

#[test]
fn a_server_that_does_not_archive_is_on_the_page() {
    each(|postgres, place| {
        let primary = Cluster::primary(postgres, place);
        back_up(&primary);
        // What marks the end of the backup is archived after its WAL.
        primary.archive_all();
        let data = primary.data();
        let report = || primary.walden(&["report", data.to_str().unwrap(), "--retry-timeout", "1s"]).run().code(0);
        report().stdout_has("Nothing is wrong").stdout_has("No WAL waits to be archived.");
        primary.sql("ALTER SYSTEM SET archive_command = 'false'");
        primary.sql("SELECT pg_reload_conf()");
        primary.sql("SELECT pg_create_restore_point('switch')");
        primary.sql("SELECT pg_switch_wal()");
        primary.wait_until("a file fails", |cluster| {
            cluster.value("SELECT last_failed_time > last_archived_time FROM pg_stat_archiver") == "t"
        });
        report().stdout_has("Fails: ").stdout_has("1 WAL file of ").stdout_has("<span class=\"badge\">WARNING</span>");
    });
}
