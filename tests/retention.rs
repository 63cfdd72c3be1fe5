//! `delete retain` and its kin on forged archives: what goes, what stays, what is said, and what is left when the store or a
//! kill ends it midway.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use support::archive::{Forged, segment, store_wal, wal_key, wal_keys};
use support::forge;
use support::place::Place;
use support::random::{Random, times};
use support::s3::{Fault, On, Op};
use support::scene::Scene;
use support::seaweedfs::SeaweedFs;
use support::walden::{Ran, Walden};

const SYSTEM: u64 = forge::SYSTEM_ID;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    fn walden(&self, place: &Place, args: &[&str]) -> Walden {
        place.walden(self.0.path()).env("WALDEN_RETRY_TIMEOUT", "2s").args(args)
    }
}

fn delete(place: &Place, args: &[&str]) -> Ran {
    let home = Home::new();
    home.walden(place, &[&["delete"], args].concat()).run()
}

/// All keys but what deletions leave word in, and what killed writers leave.
fn keys(place: &Place) -> BTreeSet<String> {
    let keys = place.keys().into_iter();
    keys.filter(|key| !key.ends_with("retention.json") && !key.contains(".walden-staged-")).collect()
}

fn set(parts: &[&[String]]) -> BTreeSet<String> {
    parts.concat().into_iter().collect()
}

fn ids(plan: &Value, goes: bool) -> Vec<&str> {
    let clusters = plan["clusters"].as_array().unwrap().iter();
    let backups = clusters.flat_map(|cluster| cluster["backups"].as_array().unwrap());
    backups.filter(|one| one["goes"] == goes).map(|one| one["id"].as_str().unwrap()).collect()
}

/// Five backups, of segments 10, 20, ..., a day apart.
fn five() -> Vec<Forged> {
    (1..=5).map(|number| Forged::new(SYSTEM, number * 10, (6 - number as i64) * 24)).collect()
}

fn store(place: &Place, backups: &[Forged]) {
    backups.iter().for_each(|backup| backup.store(place));
}

#[test]
fn old_backups_go_with_their_wal_and_nothing_else_does_and_only_when_that_is_confirmed() {
    for place in Place::each() {
        println!("-- {place:?}");
        let mut backups = five();
        backups[1].pinned = true;
        backups[1].stop = 21;
        store(&place, &backups);
        let wal = store_wal(&place, SYSTEM, 1, 1..=60);
        let beside = [
            wal_key(SYSTEM, 1, &format!("{}.00000028.backup", segment(1, 10))),
            wal_key(SYSTEM, 1, &format!("{}.00000028.backup", segment(1, 20))),
            wal_key(SYSTEM, 1, &format!("{}.partial", segment(1, 30))),
            wal_key(SYSTEM, 1, "notes.txt"),
            format!("{SYSTEM}/backup/{}/notes.txt", backups[0].id()),
        ];
        beside.iter().for_each(|key| place.put(key, b"x"));

        let before = keys(&place);
        let shown = delete(&place, &["retain", "2"]).code(0);
        shown.clone().stdout_has("--confirm").stdout_has("marked to be kept").stdout_has("one of the 2 newest");
        shown.stdout_has(&format!("WAL {} to {}", segment(1, 22), segment(1, 39)));
        let plan = delete(&place, &["retain", "FULL", "2", "--json"]).code(0).json();
        assert_eq!(ids(&plan, true), [backups[0].id(), backups[2].id()]);
        assert_eq!(ids(&plan, false), [1, 3, 4].map(|number: usize| backups[number].id()));
        assert_eq!((&plan["confirmed"], &plan["done"]), (&json!(false), &Value::Null));
        assert_eq!(place.keys().into_iter().collect::<BTreeSet<String>>(), before, "a plan changes nothing");

        let done = delete(&place, &["retain", "2", "--confirm", "--json"]).code(0).json();
        assert_eq!(done["done"][0]["deleted"], json!([backups[0].id(), backups[2].id()]));
        // 1 to 19 and 22 to 39, the .backup file of the first and the partial one.
        assert_eq!(
            (&done["done"][0]["wal_files"], &done["done"][0]["backup_objects"]),
            (&json!(19 + 18 + 2), &json!(10))
        );
        let stay = [&backups[1], &backups[3], &backups[4]].map(Forged::keys).concat();
        let expected = set(&[&stay, &wal[19..21], &wal[39..], &beside[1..2], &beside[3..]]);
        assert_eq!(keys(&place), expected);
        delete(&place, &["retain", "2", "--confirm"])
            .code(0)
            .stdout_has("deleted 0 backups (0 objects) and 0 WAL files");
        assert_eq!(keys(&place), expected);

        let last: Value = serde_json::from_slice(&place.get(&format!("{SYSTEM}/retention.json")).unwrap()).unwrap();
        assert_eq!((&last["command"], &last["deleting"], &last["kept"]), (&json!("retain 2"), &json!([]), &json!(3)));
        assert!(last["finished"].is_string());
    }
}

#[test]
fn a_policy_comes_from_the_settings_and_any_rule_keeps() {
    let place = Place::directory();
    let backups = five();
    store(&place, &backups);
    store_wal(&place, SYSTEM, 1, 1..=60);
    let home = Home::new();
    home.walden(&place, &["delete", "policy"]).run().code(3).stderr_has("WALDEN_RETAIN");
    let policy = |retain: &str, window: &str| {
        let walden = home.walden(&place, &["delete", "policy", "--json"]);
        let plan = walden.env("WALDEN_RETAIN", retain).env("WALDEN_RETAIN_WINDOW", window).run().code(0).json();
        ids(&plan, false).len()
    };
    // One that ended more than 60 hours ago is where recoveries to 60 hours ago begin.
    assert_eq!([policy("1", "60h"), policy("4", "60h"), policy("5", "1h"), policy("2", "1h")], [3, 4, 5, 2]);
    home.walden(&place, &["delete", "policy", "--confirm"]).env("WALDEN_RETAIN", "4").run().code(0);
    assert!(place.get(backups[0].keys().last().unwrap()).is_none());
    assert!(place.get(backups[1].keys().last().unwrap()).is_some());
}

#[test]
fn before_a_time_or_a_backup_keeps_what_leads_there_and_later() {
    let place = Place::directory();
    let backups = five();
    store(&place, &backups);
    store_wal(&place, SYSTEM, 1, 1..=60);
    let plan = |args: &[&str]| {
        let plan = delete(&place, &[&["before"], args, &["--json"]].concat()).code(0).json();
        ids(&plan, true).len()
    };
    assert_eq!(plan(&[&backups[3].id()]), 3);
    assert_eq!(plan(&["LATEST", "--min", "3"]), 2);
    // To a moment between the third and the fourth the third one leads.
    let between = (backups[3].started() - jiff::SignedDuration::from_hours(3)).to_string();
    assert_eq!(plan(&[&between]), 2);
    delete(&place, &["before", "20200101T000000Z-000000010000000000000001"]).code(1).stderr_has("backup-list");
}

#[test]
fn damaged_backups_stand_for_no_other_and_unreadable_ones_stay_with_their_wal() {
    let place = Place::directory();
    let mut backups = five();
    backups[3].damaged = true;
    store(&place, &backups);
    let wal = store_wal(&place, SYSTEM, 1, 1..=60);
    let manifest = backups[0].keys().pop().unwrap();
    place.corrupt(&manifest, 100);
    let plan = delete(&place, &["retain", "2", "--json"]).code(0).json();
    assert_eq!(ids(&plan, true), [backups[1].id()]);
    delete(&place, &["retain", "2", "--confirm"]).code(0).stdout_has("cannot be read");
    assert!(wal[9..].iter().all(|key| place.get(key).is_some()) && place.get(&wal[8]).is_none());
    // By its name it goes.
    delete(&place, &["backup", &backups[0].id(), "--confirm"]).code(0);
    assert!(backups[0].keys().iter().all(|key| place.get(key).is_none()));
    assert!(wal[29..].iter().all(|key| place.get(key).is_some()) && place.get(&wal[28]).is_none());
}

#[test]
fn the_last_sound_backup_and_pinned_ones_go_only_by_the_words_for_that() {
    let place = Place::directory();
    let mut backups = five();
    backups.truncate(2);
    backups[0].pinned = true;
    store(&place, &backups);
    let wal = store_wal(&place, SYSTEM, 1, 1..=30);
    delete(&place, &["backup", &backups[0].id(), "--confirm"]).code(8).stderr_has("--no-keep");
    backups[0].pinned = false;
    backups[0].damaged = true;
    store(&place, &backups[..1]);
    let before = keys(&place);
    for args in [vec!["backup", &backups[1].id(), "--confirm"], vec!["everything", "--confirm"]] {
        delete(&place, &args).code(8).stderr_has("--even-the-last").stderr_has(&backups[1].id());
    }
    assert_eq!(keys(&place), before);
    delete(&place, &["retain", "1", "--confirm"]).code(0);
    assert_eq!(keys(&place), set(&[&backups[1].keys(), &wal[19..]]));
    // A new one may be being taken: WAL stays where only a backup was meant.
    delete(&place, &["backup", &backups[1].id(), "--even-the-last", "--confirm"]).code(0).stdout_has("first one");
    assert_eq!(keys(&place), set(&[&wal[19..]]));
    delete(&place, &["everything", "--confirm"]).code(0);
    assert!(place.keys().is_empty(), "{:?}", place.keys());
}

#[test]
fn everything_leaves_what_is_pinned_and_what_is_being_taken() {
    for place in Place::each() {
        let mut backups = five();
        backups[2].pinned = true;
        store(&place, &backups[..4]);
        let wal = store_wal(&place, SYSTEM, 1, 1..=60);
        let underway = backups[4].keys();
        underway[..2].iter().for_each(|key| place.put(key, b"x"));
        delete(&place, &["everything", "--even-the-last", "--confirm"]).code(0).stdout_has("may be being taken");
        let expected = set(&[&backups[2].keys(), &underway[..2], &wal[29..30], &wal[49..]]);
        assert_eq!(keys(&place), expected);
        assert!(place.get(&format!("{SYSTEM}/retention.json")).is_some());
    }
}

/// wal-g#636: by their names the backups of timeline 5 would be newer.
#[test]
fn after_an_upgrade_the_order_is_that_of_time_and_clusters_that_live_beside_each_other_are_counted_apart() {
    for (born_hours_ago, upgraded) in [(30, true), (400, false)] {
        let place = Place::directory();
        let now = jiff::Timestamp::now().as_second() as u64;
        let new_system = (now - born_hours_ago * 3600) << 32 | 7;
        let old: Vec<Forged> = (1..=3)
            .map(|number| Forged { timeline: 5, ..Forged::new(SYSTEM, number * 10, 100 - number as i64 * 20) })
            .collect();
        let new: Vec<Forged> = (1..=3)
            .map(|number| Forged { postgres: 18, ..Forged::new(new_system, number * 10, 24 - number as i64 * 5) })
            .collect();
        store(&place, &old);
        store(&place, &new);
        let (old_wal, new_wal) = (store_wal(&place, SYSTEM, 5, 5..=40), store_wal(&place, new_system, 1, 1..=40));
        for key in &old_wal {
            place.age(key, Duration::from_secs(30 * 3600));
        }
        for key in &new_wal {
            place.age(key, Duration::from_secs(19 * 3600));
        }
        delete(&place, &["retain", "2", "--confirm"]).code(0);
        let new_stays = [new[1].keys(), new[2].keys(), new_wal[19..].to_vec()].concat();
        let expected = match upgraded {
            true => set(&[&new_stays]),
            false => set(&[&new_stays, &old[1].keys(), &old[2].keys(), &old_wal[15..]]),
        };
        assert_eq!(keys(&place), expected, "upgraded: {upgraded}");
    }
}

/// 1 ── 2 (left at segment 25) ── 4 (left at 45), and 3, which left 1 at 35 and is dead.
#[test]
fn wal_stays_along_every_timeline_that_a_backup_leads_to_and_histories_as_long_as_they_are_asked_for() {
    let scene = Scene::new(Place::directory());
    let place = &scene.place;
    for (timeline, lines) in [
        (2, vec![(1, "0/19000100", "x")]),
        (3, vec![(1, "0/23000100", "x")]),
        (4, vec![(1, "0/19000100", "x"), (2, "0/2D000100", "x")]),
    ] {
        let name = format!("{timeline:08X}.history");
        std::fs::write(scene.wal(&name), forge::history(&lines)).unwrap();
        scene.push(&name).code(0);
    }
    let backup = |timeline, start, hours| Forged { timeline, ..Forged::new(SYSTEM, start, hours) };
    let backups = [backup(1, 10, 96), backup(1, 20, 72), backup(2, 40, 48), backup(4, 50, 24)];
    store(place, &backups);
    let one = store_wal(place, SYSTEM, 1, 1..=40);
    let two = store_wal(place, SYSTEM, 2, 25..=50);
    let three = store_wal(place, SYSTEM, 3, 35..=60);
    let four = store_wal(place, SYSTEM, 4, 45..=60);
    let history = |timeline: u32| format!("{SYSTEM}/wal/{timeline:08X}.history");
    let histories = [2, 3, 4].map(history);

    delete(place, &["retain", "3", "--confirm"]).code(0);
    assert_eq!(
        keys(place),
        set(&[
            &backups[1..].iter().flat_map(Forged::keys).collect::<Vec<_>>(),
            &one[19..],
            &two,
            &three,
            &four,
            &histories
        ])
    );
    // From here on nothing leads to timelines 1 and 3.
    delete(place, &["retain", "2", "--confirm"]).code(0);
    assert_eq!(
        keys(place),
        set(&[&backups[2..].iter().flat_map(Forged::keys).collect::<Vec<_>>(), &two[15..], &four, &histories])
    );
    // 4 descends from 2; 3 is nobody's any more.
    delete(place, &["retain", "1", "--confirm"]).code(0);
    assert_eq!(keys(place), set(&[&backups[3].keys(), &four[5..], &histories[..1], &histories[2..]]));
}

#[test]
fn a_backup_whose_manifest_cannot_be_deleted_stays_whole_and_what_else_is_locked_stays_with_its_wal() {
    let place = Place::s3();
    let backups = five();
    store(&place, &backups);
    let wal = store_wal(&place, SYSTEM, 1, 1..=60);
    let manifest = backups[1].keys().pop().unwrap();
    place.service().lock(&format!("some/where/{manifest}"));
    let locked_part = backups[2].keys().remove(1);
    place.service().lock(&format!("some/where/{locked_part}"));
    place.service().lock(&format!("some/where/{}", wal[0]));
    let ran = delete(&place, &["retain", "1", "--confirm"]).code(4);
    ran.stderr_has("3 objects could not be deleted")
        .stderr_has("backup.json")
        .stdout_has("3 objects could not be deleted");
    let expected =
        set(&[&backups[1].keys(), &backups[4].keys(), std::slice::from_ref(&locked_part), &wal[..1], &wal[19..]]);
    assert_eq!(keys(&place), expected);
    let last: Value = serde_json::from_slice(&place.get(&format!("{SYSTEM}/retention.json")).unwrap()).unwrap();
    assert_eq!((&last["refused"], &last["deleting"]), (&json!(3), &json!([backups[2].id()])));
    assert!(last["failure"].is_string());
}

#[test]
fn whoever_may_not_delete_or_not_write_is_told_so() {
    let place = Place::s3();
    store(&place, &five());
    let before = keys(&place);
    place.service().fail_always(On::op(Op::Delete), Fault::Status(403, "AccessDenied"));
    delete(&place, &["retain", "2", "--confirm"]).code(4).stderr_has("s3:DeleteObject");
    assert_eq!(keys(&place), before);
    place.service().heal();
    place.service().fail_always(On::op(Op::Put), Fault::Status(403, "AccessDenied"));
    delete(&place, &["retain", "2", "--confirm"]).code(0).stderr_has("not noted");
    assert_eq!(keys(&place).len(), 10);
    place.service().heal();
    // What cannot be seen is not taken for absent.
    place.service().fail_always(On::op(Op::List), Fault::Status(403, "AccessDenied"));
    delete(&place, &["retain", "1", "--confirm"]).code(4);
}

#[test]
fn in_a_bucket_that_keeps_versions_it_is_said_how_many_objects_are_only_marked() {
    let place = Place::s3();
    place.service().keep_versions();
    store(&place, &five());
    store_wal(&place, SYSTEM, 1, 1..=60);
    let ran = delete(&place, &["retain", "1", "--confirm"]).code(0).stdout_has("69 of these objects are only marked");
    assert_eq!(ran.stderr.matches("NoncurrentVersionExpiration").count(), 1, "{ran}");
}

#[test]
fn a_lock_is_told_before_anything_goes_and_what_is_locked_stays_whole() {
    let place = Place::s3();
    let backups = five();
    store(&place, &backups);
    let wal = store_wal(&place, SYSTEM, 1, 1..=60);
    let manifest = backups[0].keys().pop().unwrap();
    place.service().lock_until(&format!("some/where/{manifest}"), Duration::from_secs(86_400));
    let shown = delete(&place, &["retain", "4"]).code(0).stdout_has("; locked until 20").stdout_has("(COMPLIANCE)");
    assert_eq!(shown.stdout.matches("locked").count(), 1);
    delete(&place, &["retain", "4", "--confirm"]).code(4).stderr_has("locked are").stderr_has("(COMPLIANCE)");
    assert_eq!(keys(&place), set(&[&backups.iter().flat_map(Forged::keys).collect::<Vec<_>>(), &wal[9..]]));
}

/// Whatever is listed is whole, and has its WAL.
fn check(there: &BTreeSet<String>, backups: &[Forged], wal: &[String]) {
    for backup in backups {
        let all = backup.keys();
        if there.contains(all.last().unwrap()) {
            assert!(all.iter().all(|key| there.contains(key)), "backup {} is listed and not whole", backup.id());
            let needed = &wal[backup.start as usize - 1..backup.stop as usize];
            assert!(needed.iter().all(|key| there.contains(key)), "backup {} has lost its WAL", backup.id());
        }
    }
}

/// Kills `retain 2` until it gets through; what is left then.
fn kill_and_finish(
    walden: &dyn Fn() -> Walden,
    look: &dyn Fn() -> BTreeSet<String>,
    backups: &[Forged],
    wal: &[String],
) -> BTreeSet<String> {
    let mut random = Random::announced();
    let (mut interrupted, mut midway) = (0, 0);
    for _ in 0..200 {
        let before = look().len();
        let mut running = walden().spawn();
        std::thread::sleep(Duration::from_micros(random.below(60_000)));
        running.kill().unwrap();
        let ended = running.wait().unwrap().success();
        let there = look();
        check(&there, backups, wal);
        interrupted += usize::from(!ended);
        midway += usize::from(!ended && there.len() < before);
        if ended {
            break;
        }
    }
    println!("{interrupted} were killed, {midway} of them while they deleted");
    walden().run().code(0);
    look()
}

const RETAIN_2: [&str; 4] = ["delete", "retain", "2", "--confirm"];

#[test]
fn what_kills_at_random_moments_leave_is_whole_and_the_same_command_finishes_it() {
    for place in (0..times(4)).flat_map(|_| Place::each()) {
        println!("-- {place:?}");
        let mut backups = five();
        backups.iter_mut().for_each(|backup| backup.parts = 150);
        store(&place, &backups);
        let wal = store_wal(&place, SYSTEM, 1, 1..=400);
        let home = Home::new();
        let left = kill_and_finish(&|| home.walden(&place, &RETAIN_2), &|| keys(&place), &backups, &wal);
        let stay: Vec<String> = backups[3..].iter().flat_map(Forged::keys).collect();
        assert_eq!(left, set(&[&stay, &wal[39..]]));
    }
}

#[test]
fn the_same_holds_on_seaweedfs() {
    let Some(seaweedfs) = SeaweedFs::running() else { return };
    let (runtime, client, url) =
        (tokio::runtime::Runtime::new().unwrap(), seaweedfs.client(), seaweedfs.fresh_prefix());
    let (bucket, prefix) = url.strip_prefix("s3://").unwrap().split_once('/').unwrap();
    let mut backups = five();
    backups.iter_mut().for_each(|backup| backup.parts = 20);
    let wal = wal_keys(SYSTEM, 1, 1..=80);
    let objects = backups.iter().flat_map(Forged::objects).chain(wal.iter().map(|key| (key.clone(), b"x".to_vec())));
    for (key, content) in objects {
        let put = client.put_object().bucket(bucket).key(format!("{prefix}/{key}")).body(content.into());
        runtime.block_on(put.send()).unwrap();
    }
    let look = || {
        let list = client.list_objects_v2().bucket(bucket).prefix(format!("{prefix}/"));
        let listed = runtime.block_on(list.send()).unwrap();
        let keys = listed.contents().iter().map(|object| object.key().unwrap()[prefix.len() + 1..].to_owned());
        keys.filter(|key| !key.ends_with("retention.json") && !key.ends_with(".txt")).collect::<BTreeSet<String>>()
    };
    let home = Home::new();
    let walden = || {
        let walden = Walden::new(home.0.path()).envs(seaweedfs.env()).env("WALDEN_PREFIX", &url);
        walden.args(RETAIN_2)
    };
    let stay: Vec<String> = backups[3..].iter().flat_map(Forged::keys).collect();
    assert_eq!(kill_and_finish(&walden, &look, &backups, &wal), set(&[&stay, &wal[39..]]));
}

#[test]
fn a_hundred_thousand_objects_go_in_batches_and_in_bounded_memory() {
    let place = Place::s3();
    let backups = five();
    store(&place, &backups);
    let wal = store_wal(&place, SYSTEM, 1, 1..=60);
    // Far behind, on a dead timeline that no backup leads to.
    let scene = Scene::new(place);
    let place = &scene.place;
    std::fs::write(scene.wal("00000002.history"), forge::history(&[(1, "0/1000100", "x")])).unwrap();
    scene.push("00000002.history").code(0);
    let dead = store_wal(place, SYSTEM, 2, 1..=100_000);
    for key in [&dead[..], &wal[..1]].concat() {
        place.age(&key, Duration::from_secs(86_400));
    }
    place.service().forget_requests();
    let home = Home::new();
    let (ran, peak) = home.walden(place, &["delete", "retain", "3", "--confirm", "--json"]).run_measured();
    let done = ran.code(0).json();
    assert_eq!(done["done"][0]["wal_files"], json!(100_000 + 29));
    let expected: Vec<String> = backups[2..].iter().flat_map(Forged::keys).collect();
    let history = [format!("{SYSTEM}/wal/00000002.history")];
    assert_eq!(keys(place), set(&[&expected, &wal[29..], &history]));
    let deletes = place.service().requests().iter().filter(|one| one.query.contains("delete")).count();
    assert!(deletes <= 120, "{deletes} requests");
    println!("peak of memory: {} MiB", peak >> 20);
    assert!(peak < 40 << 20, "{peak} bytes");
}
