//! `wal-show` and `wal-verify` on forged archives: what is there, what is missing, what is damaged, and what cannot be told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::cluster::{Cluster, Postgres};
use support::forge::{self, SYSTEM_ID, Segment};
use support::patience::wait_until;
use support::place::Place;
use support::s3::{Fault, On, Op, S3};
use support::walden::Ran;

const MIB: u64 = 1 << 20;

/// An archive that is made by hand, and a data directory to push from.
struct Scene {
    place: Place,
    data: tempfile::TempDir,
    system: u64,
    size: u64,
}

impl Scene {
    fn new(place: Place) -> Scene {
        let scene = Scene { place, data: tempfile::tempdir().unwrap(), system: SYSTEM_ID, size: MIB };
        forge::data_directory(scene.data.path(), &scene.segment(1, 1));
        scene.marker();
        scene
    }

    fn each() -> [Scene; 2] {
        Place::each().map(Scene::new)
    }

    fn on_s3() -> Scene {
        Scene::new(Place::s3())
    }

    fn s3(&self) -> &S3 {
        self.place.service()
    }

    fn walden(&self, args: &[&str]) -> Ran {
        self.place.walden(self.data.path()).env("WALDEN_RETRY_TIMEOUT", "5s").args(args).run()
    }

    fn verify(&self) -> Ran {
        self.walden(&["wal-verify"])
    }

    fn report(&self, code: i32, args: &[&str]) -> Value {
        self.walden(&[&["wal-verify", "--json"], args].concat()).code(code).json()
    }

    fn segment(&self, timeline: u32, number: u64) -> Segment {
        Segment { size: self.size, system_id: self.system, timeline, number, seed: number, ..Segment::default() }
    }

    fn key(&self, name: &str) -> String {
        format!("{}/wal/{}/{name}", self.system, &name[..8])
    }

    /// Objects with the names of these segments, and nothing in them: whoever lists does not read.
    fn names(&self, timeline: u32, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            self.place.put(&self.key(&self.segment(timeline, number).name()), b"x");
        }
    }

    /// A true segment.
    fn push(&self, segment: &Segment) {
        self.push_file(&segment.name(), &segment.bytes());
    }

    fn push_file(&self, name: &str, content: &[u8]) {
        let path = self.data.path().join("pg_wal").join(name);
        fs::write(&path, content).unwrap();
        self.walden(&["wal-push", &format!("pg_wal/{name}")]).code(0);
        fs::remove_file(path).unwrap();
    }

    /// A true history file: which timelines were left, and where, in segments.
    fn history(&self, timeline: u32, ancestors: &[(u32, f64)]) {
        let lines: Vec<(u32, String)> = ancestors.iter().map(|&(timeline, at)| (timeline, self.lsn(at))).collect();
        let lines: Vec<(u32, &str, &str)> =
            lines.iter().map(|(timeline, at)| (*timeline, at.as_str(), "no recovery target specified")).collect();
        self.push_file(&format!("{timeline:08X}.history"), forge::history(&lines).as_bytes());
    }

    fn lsn(&self, segments: f64) -> String {
        let lsn = (segments * self.size as f64) as u64;
        format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
    }

    fn marker(&self) {
        let content = "{\"format\":1,\n";
        self.place.put("walden.json", seal(content).as_bytes());
    }

    /// The short manifest of a backup that needs the WAL from one place to another, in segments.
    fn backup(&self, timeline: u32, start: f64, stop: f64) -> String {
        let first = self.segment(timeline, start as u64).name();
        let id = format!("20261121T01{:02}{timeline:02}Z-{first}", start as u64 % 60);
        let manifest = json!({
            "format": 1, "walden": "0.1.0", "id": id, "system_id": self.system.to_string(), "postgres": 15,
            "started": "2026-11-21T01:00:00Z", "finished": "2026-11-21T01:10:00Z", "timeline": timeline,
            "start": self.lsn(start), "stop": self.lsn(stop), "segment_size": self.size, "data_checksums": true,
            "directory_mode": 448, "files": 0, "plain_size": 0, "stored_size": 0, "tablespaces": [],
            "files_blake3": "00",
        });
        let text = manifest.to_string();
        let content = seal(&format!("{},\n", text.trim_end_matches('}')));
        self.place.put(&format!("{}/backup/{id}/backup.json", self.system), content.as_bytes());
        id
    }
}

/// docs/format.md, "Sealed objects".
fn seal(content: &str) -> String {
    let digest: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{content}\"sha256\":\"{digest}\"}}\n")
}

/// The gaps of a way, as text.
fn gaps(way: &Value) -> Vec<String> {
    let gaps = way["gaps"].as_array().unwrap().iter();
    gaps.map(|gap| format!("{}..{}", gap["first"].as_str().unwrap(), gap["last"].as_str().unwrap())).collect()
}

#[test]
fn a_complete_archive_is_verified_and_says_how_far_it_reaches() {
    for scene in Scene::each() {
        scene.names(1, 2..=9);
        let id = scene.backup(1, 2.5, 3.5);
        scene
            .verify()
            .code(0)
            .stderr_is("")
            .stdout_has(&id)
            .stdout_has("complete")
            .stdout_has("not looked at: the content");
        let report = &scene.report(0, &[])[0];
        assert_eq!(report["system_id"], SYSTEM_ID.to_string());
        let backup = &report["backups"][0];
        assert_eq!((&backup["id"], &backup["timeline"]), (&json!(id), &json!(1)));
        let way = &backup["ways"][0];
        assert_eq!((&way["from"], &way["to"], &way["segments"]), (&json!("0/200000"), &json!("0/A00000"), &json!(8)));
        assert_eq!((&way["latest"], &way["missing"]), (&json!(true), &json!(0)));
        let window = &way["window"];
        assert_eq!((&window["start"], &window["end"]), (&json!("0/380000"), &json!("0/A00000")));
        assert_eq!(window["start_time"], "2026-11-21T01:10:00Z");
        assert!(window["end_time"].as_str().unwrap().ends_with('Z'), "{window}");
        assert_eq!(
            (&report["damaged"], &report["deep"], &report["missing_histories"]),
            (&json!([]), &Value::Null, &json!([]))
        );
    }
}

#[test]
fn a_gap_is_named_wherever_it_is_with_a_command_that_fills_it() {
    let cases: [(&str, &[u64], &[&str], bool); 6] = [
        ("at the start", &[3, 4, 5, 6], &["000000010000000000000002..000000010000000000000002"], false),
        ("within the backup", &[2, 5, 6], &["000000010000000000000003..000000010000000000000004"], false),
        (
            "in the middle",
            &[2, 3, 4, 6, 9],
            &[
                "000000010000000000000005..000000010000000000000005",
                "000000010000000000000007..000000010000000000000008",
            ],
            true,
        ),
        ("before the end", &[2, 3, 4, 5, 7], &["000000010000000000000006..000000010000000000000006"], true),
        ("at the end of the backup", &[2, 3], &["000000010000000000000004..000000010000000000000004"], false),
        ("everywhere", &[], &["000000010000000000000002..000000010000000000000004"], false),
    ];
    for place in [Place::directory, Place::s3] {
        for (title, numbers, expected, restorable) in cases {
            let scene = Scene::new(place());
            scene.names(1, numbers.iter().copied());
            // What lies before the backup is nobody's business.
            scene.names(1, [0]);
            let id = scene.backup(1, 2.0, 4.5);
            let report = &scene.report(9, &[])[0];
            let way = &report["backups"][0]["ways"][0];
            assert_eq!(gaps(way), expected, "{title}");
            assert_eq!(way["window"].is_object(), restorable, "{title}: {way}");
            let first = expected[0].split('.').next().unwrap();
            scene
                .verify()
                .code(9)
                .stdout_has(&format!("missing: {first}"))
                .stderr_has(&id)
                .stderr_has(first)
                .stderr_has("walden wal-backfill PGDATA")
                .stderr_has("walden backup-push");
        }
    }
}

#[test]
fn every_branch_that_passes_through_a_backup_is_followed_and_an_abandoned_one_is_not() {
    for scene in Scene::each() {
        // Timeline 2 left 1 within segment 5; 3 left 1 within segment 7; 4 left 2 at the beginning of segment 8.
        scene.history(2, &[(1, 5.5)]);
        scene.history(3, &[(1, 7.25)]);
        scene.history(4, &[(1, 5.5), (2, 8.0)]);
        scene.backup(1, 2.0, 3.5);
        scene.names(1, [2, 3, 4, 5, 6, 8]);
        scene.names(2, [5, 6, 7, 9]);
        scene.names(3, [7, 8]);
        scene.names(4, [8, 9]);
        let report = &scene.report(0, &[])[0];
        let ways = report["backups"][0]["ways"].as_array().unwrap();
        let told: Vec<_> =
            ways.iter().map(|way| json!([way["timeline"], way["latest"], way["to"], way["segments"]])).collect();
        assert_eq!(told, [json!([3, false, "0/900000", 7]), json!([4, true, "0/A00000", 8])]);

        // On the old timeline, before the switch: a gap of both ways.
        scene.place.remove(&scene.key("000000010000000000000004"));
        let report = &scene.report(9, &[])[0];
        for way in report["backups"][0]["ways"].as_array().unwrap() {
            assert_eq!(gaps(way), ["000000010000000000000004..000000010000000000000004"]);
        }
        scene.names(1, [4]);
        // The segment that holds the switch is read from the new timeline; the old one's does not make up for it.
        scene.place.remove(&scene.key("000000020000000000000005"));
        let report = &scene.report(9, &[])[0];
        let ways = report["backups"][0]["ways"].as_array().unwrap();
        assert_eq!(gaps(&ways[0]), [""; 0]);
        assert_eq!(gaps(&ways[1]), ["000000020000000000000005..000000020000000000000005"]);
        assert_eq!(ways[1]["window"]["end"], "0/500000");
    }
}

#[test]
fn a_backup_on_an_abandoned_branch_is_verified_along_that_branch_and_said_not_to_lead_further() {
    for scene in Scene::each() {
        scene.history(2, &[(1, 5.5)]);
        scene.backup(1, 6.0, 6.5);
        scene.names(1, [6, 7]);
        scene.names(2, [5]);
        let report = &scene.report(0, &[])[0];
        let ways = report["backups"][0]["ways"].as_array().unwrap();
        assert_eq!((ways.len(), &ways[0]["timeline"], &ways[0]["latest"]), (1, &json!(1), &json!(false)));
        let skipped = report["skipped"].to_string();
        assert!(skipped.contains("timelines that no backup leads to: 2"), "{skipped}");
        assert!(skipped.contains("latest timeline, 2, which does not pass through it"), "{skipped}");
    }
}

#[test]
fn a_timeline_without_its_history_is_a_gap() {
    for scene in Scene::each() {
        scene.backup(1, 2.0, 3.5);
        scene.push(&scene.segment(1, 2));
        scene.names(1, 3..=5);
        scene.names(2, [5, 6]);
        assert_eq!(scene.report(9, &[])[0]["missing_histories"], json!([2]));
        scene.verify().code(9).stdout_has("missing: 00000002.history").stderr_has("00000002.history is missing");
        scene.walden(&["wal-show"]).code(0).stdout_has("missing");
        scene.history(2, &[(1, 5.5)]);
        scene.verify().code(0);
        // The third is known by its own file alone, and the second is no longer there to be probed.
        scene.place.remove(&format!("{SYSTEM_ID}/wal/00000002.history"));
        scene.history(3, &[(1, 5.5), (2, 6.5)]);
        scene.names(3, [6]);
        assert_eq!(scene.report(9, &[])[0]["missing_histories"], json!([2]));
        // One that is older than every backup is not needed.
        let other = Scene::new(Place::directory());
        other.history(3, &[(1, 5.5), (2, 6.5)]);
        other.names(3, [6, 7]);
        other.backup(3, 7.0, 7.5);
        other.verify().code(0);
    }
}

#[test]
fn a_damaged_history_or_manifest_is_damage_and_the_rest_is_verified_all_the_same() {
    for scene in Scene::each() {
        let id = scene.backup(1, 2.0, 3.5);
        let lost = scene.backup(1, 4.0, 4.5);
        // The one that wal-show asks first tells it nothing.
        scene.names(1, [2, 4, 5]);
        scene.push(&scene.segment(1, 3));
        scene.history(2, &[(1, 5.5)]);
        scene.place.corrupt(&format!("{SYSTEM_ID}/wal/00000002.history"), 300);
        scene.place.corrupt(&format!("{SYSTEM_ID}/backup/{lost}/backup.json"), 40);
        let report = &scene.report(7, &[])[0];
        assert_eq!(report["damaged"].as_array().unwrap().len(), 2, "{report}");
        assert_eq!(report["missing_histories"], json!([]));
        assert_eq!(report["backups"][0]["id"], json!(id));
        scene.verify().code(7).stdout_has("damaged: 00000002.history").stdout_has(&lost);
        scene.walden(&["wal-show"]).code(0).stdout_has("damaged: 00000002.history");
    }
}

#[test]
fn several_clusters_with_segments_of_several_sizes_lie_apart() {
    for mut scene in Scene::each() {
        for (system, size) in [(1, MIB), (2, 16 * MIB), (3, 64 * MIB)] {
            (scene.system, scene.size) = (system, size);
            let per_log = (4 << 30) / size;
            scene.names(1, per_log - 2..per_log + 2);
            scene.backup(1, per_log as f64 - 2.0, per_log as f64 - 1.5);
        }
        let reports = scene.report(0, &[]);
        assert_eq!(reports.as_array().unwrap().len(), 3);
        for (report, to) in reports.as_array().unwrap().iter().zip(["1/200000", "1/2000000", "1/8000000"]) {
            assert_eq!(report["backups"][0]["ways"][0]["to"], to);
        }
        scene.place.remove("2/wal/00000001/000000010000000100000000");
        let reports = scene.report(9, &[]);
        assert_eq!(gaps(&reports[1]["backups"][0]["ways"][0]), ["000000010000000100000000..000000010000000100000000"]);
        scene.walden(&["wal-verify", "--system-id", "1"]).code(0);
        scene.walden(&["wal-verify", "--system-id", "2"]).code(9).stderr_has("cluster 2");
        scene.walden(&["wal-verify", "--system-id", "4"]).code(1).stderr_has("cluster 4 has no complete backup");
    }
}

#[test]
fn an_archive_with_nothing_to_restore_is_not_called_complete() {
    for scene in Scene::each() {
        scene.verify().code(1).stderr_has("the archive is empty");
        scene.walden(&["wal-show"]).code(0).stdout_is("\n");
        scene.walden(&["wal-show", "--json"]).code(0).stdout_is("[]\n");
        scene.names(1, 1..=3);
        scene.verify().code(1).stderr_has("no complete backup").stderr_has("walden backup-push");
        // The last segment of a timeline that ended in a promotion cannot be recovered from.
        scene.place.remove(&scene.key("000000010000000000000003"));
        scene.place.put(&scene.key("000000010000000000000003.partial"), b"x");
        scene.backup(1, 3.0, 3.5);
        assert_eq!(gaps(&scene.report(9, &[])[0]["backups"][0]["ways"][0])[0][..24], *"000000010000000000000003");
        scene.place.put(&format!("{SYSTEM_ID}/backup/20261122T000000Z-000000010000000000000001/v0/000000"), b"x");
        let report = &scene.report(9, &[])[0];
        assert_eq!(report["incomplete_backups"], json!(["20261122T000000Z-000000010000000000000001"]));
        assert!(report["skipped"].to_string().contains("1 incomplete backup,"), "{report}");
    }
    for place in Place::each() {
        let nowhere = tempfile::tempdir().unwrap();
        for args in
            [&["wal-verify"][..], &["wal-show"], &["wal-verify", "--system-id", "7"], &["wal-show", "--system-id", "7"]]
        {
            place.walden(nowhere.path()).args(args).run().code(3).stdout_is("").stderr_has("there is no archive");
        }
    }
}

#[test]
fn wal_show_draws_the_tree_of_timelines_with_what_there_is_of_each() {
    for scene in Scene::each() {
        scene.history(2, &[(1, 5.5)]);
        scene.history(3, &[(1, 7.25)]);
        scene.history(4, &[(1, 5.5), (2, 8.0)]);
        scene.push(&scene.segment(1, 2));
        scene.names(1, [3, 4, 7]);
        scene.place.put(&scene.key("000000010000000000000007.partial"), b"12345");
        scene.place.put(&scene.key("000000010000000000000002.00000028.backup"), b"123");
        scene.place.put(&scene.key("000000010000000000000002.tmp"), b"foreign");
        scene.names(2, [5, 6, 7]);
        scene.names(4, [8]);
        scene.names(6, [9]);
        let shown = scene.walden(&["wal-show"]).code(0).stderr_is("");
        let columns = |line: &str| {
            line.split("  ").map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        let rows: Vec<Vec<String>> = shown.stdout.lines().map(columns).collect();
        assert_eq!(rows[0], [format!("cluster {SYSTEM_ID}, segments of 1.00 MiB")]);
        assert_eq!(
            rows[2],
            ["timeline", "left", "history", "segments", "stored", "first", "last", "gaps", "other files"]
        );
        let beginnings: Vec<String> = rows[3..8].iter().map(|row| row[0].clone()).collect();
        assert_eq!(beginnings, ["1", "├─ 2", "└─ 4", "└─ 3", "6"], "{shown}");
        assert_eq!(rows[4][1..4], ["1 at 0/580000: no recovery target specified", "present", "3"]);
        assert_eq!(
            rows[3][5..],
            ["000000010000000000000007", "2 missing", "1 partial, 1 backup history, 1 not WAL of this size"]
        );
        assert_eq!(rows[7][1..3], ["missing", "1"]);
        assert_eq!(rows[8], ["missing: 000000010000000000000005 to 000000010000000000000006 (2 segments)"]);

        let json = &scene.walden(&["wal-show", "--json"]).code(0).json()[0];
        assert_eq!((&json["system_id"], &json["segment_size"]), (&json!(SYSTEM_ID.to_string()), &json!(MIB)));
        let stored = json["timelines"][0]["stored_size"].as_u64().unwrap();
        let expected = json!({
            "timeline": 1, "parent": null, "left_at": null, "reason": null, "history": "none", "segments": 4,
            "stored_size": stored, "first": "000000010000000000000002", "last": "000000010000000000000007",
            "gaps": [{"timeline": 1, "first": "000000010000000000000005", "last": "000000010000000000000006", "segments": 2}],
            "partial": 1, "backup_histories": 1, "foreign": 1,
        });
        assert_eq!(json["timelines"][0], expected);
        let object = scene.place.get(&scene.key("000000010000000000000002")).unwrap();
        assert_eq!(stored, object.len() as u64 + 3 + 5 + 3);
        assert_eq!(json["timelines"][2]["left_at"], "0/800000");
        assert_eq!(json["timelines"][4]["history"], "missing");
    }
}

#[test]
fn thousands_of_keys_are_listed_in_pages_and_a_hole_in_any_of_them_is_found() {
    for scene in Scene::each() {
        scene.backup(1, 1.0, 1.5);
        scene.names(1, (1..=5300).filter(|number| ![1000, 1001, 2002, 4999].contains(number)));
        let way = &scene.report(9, &[])[0]["backups"][0]["ways"][0];
        assert_eq!((&way["segments"], &way["missing"]), (&json!(5296), &json!(4)));
        let expected = ["0000000003E8..0000000003E9", "0000000007D2..0000000007D2", "000000001387..000000001387"];
        let name = |number: u64| scene.segment(1, number).name();
        let expected: Vec<String> = [(1000, 1001), (2002, 2002), (4999, 4999)]
            .iter()
            .zip(expected)
            .map(|((first, last), _)| format!("{}..{}", name(*first), name(*last)))
            .collect();
        assert_eq!(gaps(way), expected);
    }
}

#[test]
fn an_outage_or_a_refusal_is_never_taken_for_a_gap() {
    let scene = Scene::on_s3();
    scene.backup(1, 2.0, 3.5);
    scene.names(1, 2..=5);
    scene.s3().fail_first_tries(Fault::Status(503, "SlowDown"));
    scene.verify().code(0);
    scene.s3().heal();
    let faults = [(Fault::Status(500, "InternalError"), 5), (Fault::Reset, 5), (Fault::Status(403, "AccessDenied"), 4)];
    for (fault, code) in faults {
        for op in [Op::List, Op::Get, Op::Head] {
            scene.s3().fail_always(On::op(op), fault.clone());
            scene.verify().code(code).stdout_is("");
            scene.s3().heal();
        }
    }
    scene.verify().code(0);
}

/// A backup and eight true segments.
fn sound(scene: &Scene) -> Vec<String> {
    scene.backup(1, 2.0, 3.5);
    let segments = (2..10).map(|number| scene.segment(1, number));
    segments.map(|segment| (scene.push(&segment), segment.name()).1).collect()
}

#[test]
fn a_deep_verification_finds_every_kind_of_damage_and_reads_on_behind_it() {
    for mut scene in Scene::each() {
        let names = sound(&scene);
        let report = &scene.report(0, &["--deep"])[0];
        assert_eq!(report["deep"], json!({"sound": 8, "sound_before": 0, "damaged": 0, "vanished": []}));

        let bytes_of = |scene: &Scene, name: &str| scene.place.get(&scene.key(name)).unwrap();
        // A flipped bit, in the middle of the payload.
        scene.place.corrupt(&scene.key(&names[1]), bytes_of(&scene, &names[1]).len() / 2);
        // An object that was cut.
        let cut = bytes_of(&scene, &names[2]);
        scene.place.put(&scene.key(&names[2]), &cut[..cut.len() - 1]);
        // A sound object under another's name.
        let other = bytes_of(&scene, &names[0]);
        scene.place.put(&scene.key(&names[3]), &other);
        // A page from elsewhere, which was wrong before it was archived.
        let mut bytes = scene.segment(1, 6).bytes();
        bytes[5 * 8192 + 9] ^= 1;
        scene.place.remove(&scene.key(&names[4]));
        scene.push_file(&names[4], &bytes);
        // Another cluster's segment.
        let (own, key) = (scene.system, scene.key(&names[5]));
        scene.system = 42;
        forge::data_directory(scene.data.path(), &scene.segment(1, 1));
        scene.push(&scene.segment(1, 7));
        let foreign = bytes_of(&scene, &names[5]);
        scene.system = own;
        scene.place.put(&key, &foreign);
        // Segments of another size: the listing cannot tell.
        scene.size = 2 * MIB;
        let (name, key) = (scene.segment(1, 8).name(), scene.key(&names[6]));
        forge::data_directory(scene.data.path(), &scene.segment(1, 8));
        scene.place.remove(&key);
        scene.push(&scene.segment(1, 8));
        assert_eq!(name, names[6]);

        let cluster = SYSTEM_ID.to_string();
        // Nothing of this shows in a listing.
        scene.walden(&["wal-verify", "--system-id", &cluster]).code(0);
        let report = scene.report(7, &["--deep", "--system-id", &cluster])[0].clone();
        let damaged: Vec<&str> =
            report["damaged"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(damaged, names[1..7], "{report}");
        assert_eq!((&report["deep"]["sound"], &report["deep"]["damaged"]), (&json!(2), &json!(6)));
        assert_eq!(report["backups"][0]["ways"][0]["damaged"], json!(names[1..7]));
        let detail = |index: usize| report["damaged"][index]["detail"].as_str().unwrap().to_owned();
        for (index, words) in [
            "checksum",
            "bytes",
            "it holds \"000000010000000000000002\"",
            "the page at offset 40960",
            "system identifier 42",
        ]
        .iter()
        .enumerate()
        {
            assert!(detail(index).contains(words), "{words}: {}", detail(index));
        }
        // Of two clusters, the one with the damage gives the verdict, and the other has no backup.
        let ran = scene
            .walden(&["wal-verify", "--deep"])
            .code(7)
            .stdout_has("no complete backup")
            .stderr_has("6 objects")
            .stderr_has(&names[1]);
        assert_eq!(ran.stdout.lines().filter(|line| line.starts_with("damaged: ")).count(), 6, "{ran}");
    }
}

#[test]
fn a_segment_that_vanishes_between_the_listing_and_the_reading_is_a_gap() {
    let scene = Scene::on_s3();
    let names = sound(&scene);
    scene.s3().fail_next(On::op(Op::Get).key(&names[4]), Fault::Status(404, "NoSuchKey"));
    let report = &scene.report(9, &["--deep"])[0];
    assert_eq!(report["deep"]["vanished"], json!([names[4]]));
}

#[test]
fn an_interrupted_deep_verification_goes_on_where_it_was_and_a_finished_one_begins_again() {
    let scene = Scene::on_s3();
    let names = sound(&scene);
    let s3 = scene.s3();
    let reads = || {
        let count = s3.requests().iter().filter(|one| one.op == Op::Get && one.key.contains("/wal/")).count();
        s3.forget_requests();
        count
    };
    let deep = ["wal-verify", "--deep", "--workers", "1", "--json"];
    reads();
    // By an outage, on the way.
    s3.fail_always(On::op(Op::Get).key(&names[5]), Fault::Status(503, "SlowDown"));
    scene.walden(&deep).code(5).stderr_has("it goes on where it was");
    s3.heal();
    reads();
    let report = scene.walden(&deep).code(0).json();
    assert_eq!(report[0]["deep"], json!({"sound": 3, "sound_before": 5, "damaged": 0, "vanished": []}));
    assert_eq!(reads(), 3);
    // To its end: the next one reads everything.
    scene.walden(&deep).code(0);
    assert_eq!(reads(), 8);

    // By a kill.
    s3.fail_always(On::op(Op::Get).key(&names[5]), Fault::Stall(Duration::from_secs(600)));
    let mut running = scene.place.walden(scene.data.path()).args(deep).spawn();
    wait_until("it has come so far", || s3.requests().iter().any(|one| one.key.contains(&names[5])));
    running.kill().unwrap();
    running.wait().unwrap();
    s3.heal();
    reads();
    let report = scene.walden(&deep).code(0).json();
    let before = report[0]["deep"]["sound_before"].as_u64().unwrap();
    assert!((1..=5).contains(&before), "{report}");
    assert_eq!(reads() as u64, 8 - before);
}

#[test]
fn damage_that_was_found_before_an_interruption_is_found_again() {
    let scene = Scene::on_s3();
    let names = sound(&scene);
    scene.place.corrupt(&scene.key(&names[1]), 2000);
    scene.s3().fail_always(On::op(Op::Get).key(&names[5]), Fault::Status(503, "SlowDown"));
    scene.walden(&["wal-verify", "--deep", "--workers", "1"]).code(5);
    scene.s3().heal();
    let report = &scene.report(7, &["--deep"])[0];
    assert_eq!(report["damaged"][0]["name"], json!(names[1]));
    assert_eq!((&report["deep"]["sound"], &report["deep"]["sound_before"]), (&json!(3), &json!(4)));
}

#[test]
fn a_million_segments_are_counted_in_few_requests_and_the_same_memory() {
    let scene = Scene::on_s3();
    scene.backup(1, 1.0, 1.5);
    scene.push(&scene.segment(1, 1));
    let (prefix, count) = (format!("some/where/{SYSTEM_ID}/wal/00000001/00000001"), million());
    if count >= 1_000_000 {
        // What Amazon S3 takes for a page.
        scene.s3().fail_always(On::op(Op::List), Fault::Stall(Duration::from_millis(100)));
    }
    // A hole in the middle.
    let name = move |number: u64| format!("{prefix}{:08X}{:08X}", number >> 12, number & 0xFFF);
    let hole = count / 2;
    scene.s3().generate(2..hole, name.clone());
    scene.s3().generate(hole + 1..count, name);
    for (verb, code) in [("wal-show", 0), ("wal-verify", 9)] {
        scene.s3().forget_requests();
        let began = Instant::now();
        let (ran, peak) = scene.place.walden(scene.data.path()).args([verb, "--json"]).run_measured();
        let pages = scene.s3().count(Op::List) as u64;
        println!("{verb} of {count} segments: {:?}, {} KiB, {pages} listings", began.elapsed(), peak >> 10);
        let json = ran.code(code).json();
        let told = if verb == "wal-show" { &json[0]["timelines"][0] } else { &json[0]["backups"][0]["ways"][0] };
        assert_eq!((&told["segments"], told["gaps"].as_array().unwrap().len()), (&json!(count - 2), 1));
        assert!((count / 1000..count / 1000 * 5 / 4 + 25).contains(&pages), "{pages} pages");
        // The runtime, the SDK and eight pages on their way; debug builds are the fatter ones.
        assert!(peak < 96 << 20, "{peak} bytes");
    }
}

/// `WALDEN_TEST_SEGMENTS=1000000` measures what docs/benchmarks.md says.
fn million() -> u64 {
    std::env::var("WALDEN_TEST_SEGMENTS").map_or(50_000, |count| count.parse().unwrap())
}

#[test]
fn the_archive_of_a_real_failover_is_complete_and_an_object_that_is_removed_is_missed() {
    for postgres in Postgres::each() {
        for place in Place::each() {
            println!("-- PostgreSQL {} with {place:?}", postgres.major);
            let mut primary = Cluster::primary(&postgres, &place);
            primary.sql("CREATE TABLE marks AS SELECT generate_series(1, 1000) AS mark");
            primary.walden(&["backup-push", primary.data().to_str().unwrap()]).run().code(0);
            primary.walden(&["wal-verify", "--deep"]).run().code(0).stderr_is("");
            let mut standby = Cluster::empty(&postgres, &place);
            standby.walden(&["backup-fetch", standby.data().to_str().unwrap(), "--standby"]).run().code(0);
            standby.start();
            for mark in 1..=3 {
                primary.sql(&format!("INSERT INTO marks SELECT {mark} FROM generate_series(1, 20000)"));
                primary.archive_all();
            }
            standby.wait_until("the standby follows", |standby| standby.value("SELECT count(*) FROM marks") == "61000");
            primary.kill();
            standby.promote();
            standby.wait_until("it is promoted", |standby| !standby.is_in_recovery());
            standby.sql("INSERT INTO marks SELECT 4 FROM generate_series(1, 20000)");
            standby.archive_all();

            let ran = standby.walden(&["wal-verify", "--deep", "--json"]).run().code(0);
            let report = &ran.json()[0];
            let way = &report["backups"][0]["ways"][0];
            assert_eq!((&way["timeline"], &way["latest"]), (&json!(2), &json!(true)), "{ran}");
            assert!(report["deep"]["sound"].as_u64() >= Some(4), "{ran}");
            let shown = standby.walden(&["wal-show", "--json"]).run().code(0).json();
            assert_eq!(
                (&shown[0]["timelines"][1]["timeline"], &shown[0]["timelines"][1]["parent"]),
                (&json!(2), &json!(1))
            );

            // The newest segment of timeline 1 that the way needs, and then the history.
            let lost =
                place.keys().into_iter().filter(|key| key.contains("/wal/00000001/") && key.len() == 20 + 13 + 24);
            let switch = way["last"].as_str().unwrap()[8..].to_owned();
            let lost = lost.filter(|key| key[key.len() - 16..] < *switch).max().unwrap();
            let object = place.get(&lost).unwrap();
            place.remove(&lost);
            standby.walden(&["wal-verify"]).run().code(9).stderr_has(&lost[lost.len() - 24..]);
            place.put(&lost, &object);
            standby.walden(&["wal-verify"]).run().code(0);
            place.corrupt(&lost, object.len() - 100);
            standby.walden(&["wal-verify", "--deep"]).run().code(7).stdout_has(&lost[lost.len() - 24..]);
            let history = place.keys().into_iter().find(|key| key.ends_with("/wal/00000002.history")).unwrap();
            place.remove(&history);
            standby.walden(&["wal-verify"]).run().code(9).stderr_has("00000002.history");
        }
    }
}
