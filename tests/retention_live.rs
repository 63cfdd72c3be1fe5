//! `delete retain` on archives of real servers: what stays restores, to its end and to moments in between.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::fs;

use serde_json::Value;
use support::cluster::{Cluster, Postgres};
use support::place::Place;
use support::stories::{back_up, recovered, restore, restored, wait_for_promotion};
use support::walden::Ran;

fn marks(cluster: &Cluster) -> String {
    cluster.value("SELECT coalesce(string_agg(mark::text, ' ' ORDER BY mark), '') FROM marks")
}

/// Writes a number, and returns where that ended.
fn mark(cluster: &Cluster, mark: u32) -> String {
    cluster.sql(&format!("INSERT INTO marks VALUES ({mark})"));
    let lsn = cluster.value("SELECT pg_current_wal_insert_lsn()");
    cluster.archive_all();
    lsn
}

/// Goes on, on a new timeline.
fn advance(cluster: &mut Cluster) {
    cluster.stop();
    fs::write(cluster.data().join("standby.signal"), "").unwrap();
    cluster.start();
    cluster.promote();
    wait_for_promotion(cluster);
}

/// The ids of the complete backups, oldest first.
fn ids(cluster: &Cluster) -> Vec<String> {
    let listed = cluster.walden(&["backup-list", "--json"]).run().code(0).json();
    let complete = listed.as_array().unwrap().iter().filter(|one| one["state"] == "complete");
    complete.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

fn backup(cluster: &Cluster) -> String {
    let before = ids(cluster);
    back_up(cluster);
    ids(cluster).into_iter().find(|id| !before.contains(id)).unwrap()
}

fn system(cluster: &Cluster) -> String {
    cluster.value("SELECT system_identifier FROM pg_control_system()")
}

/// The marks of a restored copy, which does not archive.
fn found(postgres: &Postgres, place: &Place, options: &[&str]) -> String {
    marks(&recovered(restored(postgres, place, options)))
}

fn delete(cluster: &Cluster, args: &[&str]) -> Ran {
    cluster.walden(&[&["delete"], args].concat()).run()
}

/// Puts the server of `old`, which is stopped, under the programs of the other version.
fn upgrade(old: &Cluster, postgres: &Postgres, place: &Place) -> Cluster {
    let new = Cluster::initialized(postgres, place, &[]);
    let bin = |cluster: &Cluster| cluster.postgres().tool("postgres").parent().unwrap().to_str().unwrap().to_owned();
    let (old_data, new_data, socket) = (old.data(), new.data(), new.socket());
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let args = ["-b", &bin(old), "-B", &bin(&new), "-d", &path(&old_data), "-D", &path(&new_data), "-U", "postgres"];
    new.program("pg_upgrade", &[&args[..], &["-s", &path(&socket)]].concat());
    new
}

/// wal-g#636 and its kin: three backups on timeline 5, a side timeline, a pinned backup, an upgrade, three more backups, and
/// one that is being taken.
#[test]
fn what_stays_restores_over_timelines_a_fork_and_an_upgrade() {
    let (Some(old_version), Some(new_version)) = (Postgres::installed(15), Postgres::installed(18)) else {
        assert!(std::env::var_os("CI").is_none(), "CI must not skip the upgrade");
        eprintln!("SKIPPED: it takes PostgreSQL 15 and 18; run scripts/install-postgres 15 18");
        return;
    };
    for place in Place::each() {
        println!("-- {place:?}");
        let mut old = Cluster::primary(&old_version, &place);
        old.sql("CREATE TABLE marks (mark int)");
        mark(&old, 1);
        let pinned = backup(&old);
        old.walden(&["backup-mark", &pinned, "--keep"]).run().code(0);
        for number in 2..=5 {
            mark(&old, number);
            advance(&mut old);
        }
        assert_eq!(old.value("SELECT timeline_id FROM pg_control_checkpoint()"), "5");
        let first = backup(&old);
        let between = mark(&old, 6);
        mark(&old, 7);
        let second = backup(&old);
        mark(&old, 8);

        // A copy that was opened for writing and archived: timeline 6, beside timeline 5.
        let mut side = Cluster::empty(&old_version, &place);
        restore(&side, &[&second, "--target-immediate", "--target-action", "promote"]).code(0);
        side.start();
        wait_for_promotion(&side);
        mark(&side, 100);
        side.stop();
        let third = backup(&old);
        mark(&old, 9);

        delete(&old, &["retain", "3"]).code(0).stdout_has("marked to be kept").stdout_has("--confirm");
        delete(&old, &["retain", "3", "--confirm"]).code(0);
        assert_eq!(ids(&old), [pinned.clone(), first.clone(), second.clone(), third.clone()]);
        let five = ["--target-timeline", "5"];
        assert_eq!(found(&old_version, &place, &[&[first.as_str()], &five[..]].concat()), "1 2 3 4 5 6 7 8 9");
        let to = [&first, "--target-lsn", &between, "--target-action", "promote", "--target-timeline", "5"];
        assert_eq!(found(&old_version, &place, &to), "1 2 3 4 5 6");
        assert_eq!(found(&old_version, &place, &[&second, "--target-timeline", "6"]), "1 2 3 4 5 6 7 100");
        assert_eq!(found(&old_version, &place, &[&[third.as_str()], &five[..]].concat()), "1 2 3 4 5 6 7 8 9");
        let end = ["--target-immediate", "--target-action", "promote"];
        assert_eq!(found(&old_version, &place, &[&[pinned.as_str()], &end[..]].concat()), "1");
        // Of the others on timeline 1 to 4 nothing is left but what makes the pinned one consistent.
        let old_system = system(&old);
        let left =
            |timeline: u32| place.keys().iter().filter(|key| key.contains(&format!("/wal/{timeline:08X}/"))).count();
        assert_eq!([left(2), left(3), left(4)], [0, 0, 0], "{:?}", place.keys());

        old.stop();
        let mut new = upgrade(&old, &new_version, &place);
        new.start();
        let new_system = system(&new);
        assert_ne!(new_system, old_system);
        let restore_new =
            |options: &[&str]| found(&new_version, &place, &[&["--system-id", &new_system], options].concat());
        mark(&new, 10);
        let fourth = backup(&new);
        mark(&new, 11);
        let fifth = backup(&new);
        let between = mark(&new, 12);
        mark(&new, 13);
        let sixth = backup(&new);
        mark(&new, 14);
        let segment = new.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        let underway = format!("{new_system}/backup/{now}-{segment}/v0/000000");
        place.put(&underway, b"of a backup that is being taken");

        let before = place.keys();
        let plan = delete(&new, &["retain", "2", "--json"]).code(0).json();
        assert_eq!(place.keys(), before);
        let goes = |plan: &Value| -> Vec<String> {
            let clusters = plan["clusters"].as_array().unwrap().iter();
            let backups = clusters.flat_map(|cluster| cluster["backups"].as_array().unwrap());
            let mut goes: Vec<String> =
                backups.filter(|one| one["goes"] == true).map(|one| one["id"].as_str().unwrap().to_owned()).collect();
            goes.sort();
            goes
        };
        assert_eq!(goes(&plan), [first, second, third, fourth], "{plan:#}");
        delete(&new, &["retain", "2", "--confirm"]).code(0);
        assert_eq!(ids(&new), [&pinned, &fifth, &sixth].map(String::clone));
        assert!(place.get(&underway).is_some());

        let all = "1 2 3 4 5 6 7 8 9 10 11 12 13 14";
        assert_eq!(restore_new(&[&fifth]), all);
        assert_eq!(restore_new(&[&sixth]), all);
        let to = [&fifth, "--target-lsn", &between, "--target-action", "promote"];
        assert_eq!(restore_new(&to), "1 2 3 4 5 6 7 8 9 10 11 12");
        let end = ["--system-id", &old_system, &pinned, "--target-immediate", "--target-action", "promote"];
        assert_eq!(found(&old_version, &place, &end), "1");
        // What was archived since goes on: the next backup is taken, and leads on.
        mark(&new, 15);
        let seventh = backup(&new);
        delete(&new, &["retain", "1", "--confirm", "--system-id", &new_system]).code(0);
        assert_eq!(restore_new(&[&seventh]), format!("{all} 15"));
        delete(&new, &["retain", "1", "--confirm"]).code(0).stdout_has("deleted 0 backups");
    }
}
