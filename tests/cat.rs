//! Single files out of base backups: `backup-show --files` says which there are, `backup-cat` writes one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::fs;
use std::process::Output;

use support::cluster::{Cluster, Postgres};
use support::place::Place;
use support::s3::Op;
use support::stories::{back_up, restored};
use support::user::User;

/// What is printed, byte for byte.
fn cat(cluster: &Cluster, path: &str) -> Output {
    cluster.walden(&["backup-cat", "LATEST", path]).output()
}

/// A cluster with large and small relations, one of them in a tablespace, and a file that is empty.
fn backed_up(place: &Place) -> Cluster {
    let cluster = Cluster::primary(Postgres::each().last().unwrap(), place);
    let space = cluster.directory("space");
    cluster.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    cluster.sql("CREATE TABLE large AS SELECT i, md5(i::text) AS text FROM generate_series(1, 120000) i");
    cluster.sql("CREATE TABLE elsewhere TABLESPACE space AS SELECT * FROM large");
    let empty = cluster.data().join("empty.conf");
    fs::write(&empty, "").unwrap();
    if let Some(user) = User::for_servers() {
        user.owns(&empty);
    }
    back_up(&cluster);
    cluster
}

#[test]
fn every_file_that_is_listed_can_be_had_and_is_what_a_restore_writes() {
    for place in Place::each() {
        let cluster = backed_up(&place);
        let listed = cluster.walden(&["backup-show", "LATEST", "--files", "--json"]).run().code(0).json();
        let shown = cluster.walden(&["backup-show", "LATEST"]).run().code(0);
        assert!(shown.stdout.contains(&listed.as_array().unwrap().len().to_string()), "{shown}");
        let text = cluster.walden(&["backup-show", "LATEST", "--files"]).run().code(0).stdout;
        assert_eq!(text.lines().count(), listed.as_array().unwrap().len());

        let copy = restored(cluster.postgres(), &place, &["--tablespace-mapping", &mapping(&cluster)]);
        let large = [
            cluster.value("SELECT pg_relation_filepath('large')"),
            cluster.value("SELECT pg_relation_filepath('elsewhere')"),
        ];
        let small = ["PG_VERSION", "postgresql.conf", "empty.conf", "backup_label", "base/1/1259"].map(str::to_owned);
        for path in large.iter().chain(&small) {
            let file = listed.as_array().unwrap().iter().find(|file| file["path"] == **path).unwrap();
            assert!(text.contains(&format!("{:>12} {path}\n", file["size"])), "{path}");
            let output = cat(&cluster, path);
            assert!(output.status.success(), "{path}: {output:?}");
            assert_eq!(output.stdout.len() as u64, file["size"].as_u64().unwrap(), "{path}");
            assert!(output.stdout == fs::read(copy.data().join(path)).unwrap(), "{path} differs");
        }
        assert!(fs::metadata(copy.data().join(&large[0])).unwrap().len() > 4 << 20, "the large one has one frame only");
    }
}

/// The tablespace of the copy beside its original.
fn mapping(cluster: &Cluster) -> String {
    let space = cluster.data().with_file_name("space");
    format!("{}={}", space.display(), space.with_file_name("copied").display())
}

#[test]
fn only_what_the_file_takes_is_fetched() {
    let place = Place::s3();
    let cluster = backed_up(&place);
    place.service().forget_requests();
    assert!(cat(&cluster, "PG_VERSION").status.success());
    let gets = place.service().requests().into_iter().filter(|request| request.op == Op::Get);
    let parts: Vec<_> = gets.filter(|request| request.key.contains("/v")).collect();
    assert_eq!(parts.len(), 1, "{parts:?}");
    // PG_VERSION lies in one frame; the part has many, of up to 2 MiB each before they are compressed.
    let range = parts[0].header("range").strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let fetched = range.1.parse::<usize>().unwrap() + 1 - range.0.parse::<usize>().unwrap();
    let whole = place.get(&parts[0].key.replace("some/where/", "")).unwrap().len();
    assert!(fetched < whole / 2, "{fetched} of {whole}");
}

#[test]
fn a_file_that_is_not_there_is_absent_and_a_damaged_one_is_told() {
    let place = Place::directory();
    let cluster = backed_up(&place);
    let ran = cluster.walden(&["backup-cat", "LATEST", "nothing/here"]).run().code(1);
    ran.stderr_has("has no file \"nothing/here\"").stderr_has("--files");
    let path = cluster.value("SELECT pg_relation_filepath('large')");
    for key in place.keys().iter().filter(|key| key.contains("/v")) {
        place.corrupt(key, place.get(key).unwrap().len() / 2);
    }
    // Which frame is hit is not known; one of a file that fills most of the backup is.
    let damaged = ["base/1/1259", &path].iter().filter(|path| cat(&cluster, path).status.code() == Some(7)).count();
    assert!(damaged > 0);
}
