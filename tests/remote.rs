//! Base backups that the server sends itself, over a replication connection.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use support::cluster::{Cluster, Postgres};
use support::load::{Load, audit, open_books};
use support::place::Place;
use support::stories::{complete_backups, each, recovered, restored};
use support::walden::Walden;

fn push(cluster: &Cluster, options: &[&str]) -> Walden {
    cluster.walden(&[&["backup-push", "--remote"], options].concat())
}

fn newest(cluster: &Cluster) -> serde_json::Value {
    cluster.walden(&["backup-show", "LATEST", "--json"]).run().code(0).json()
}

/// A table in a tablespace of its own, and one that is larger than a frame.
fn spread_out(cluster: &Cluster) {
    let place = cluster.directory("space");
    cluster.sql(&format!("CREATE TABLESPACE fast LOCATION '{}'", place.display()));
    cluster.sql("CREATE TABLE spaced TABLESPACE fast AS SELECT n, md5(n::text) AS filler FROM generate_series(1, 100000) n");
    cluster.sql("CREATE UNLOGGED TABLE volatile AS SELECT 1 AS one");
}

#[test]
fn a_remote_backup_taken_under_load_restores_whole_with_every_archived_row() {
    each(|postgres, place| {
        let primary = Cluster::primary(postgres, place);
        open_books(&primary);
        spread_out(&primary);
        let load = Load::start(&primary);
        push(&primary, &["--label", "it's remote", "--part-size", "2MiB"]).run().code(0).stdout_is("");
        let booked = load.stop();
        primary.archive_all();

        let shown = newest(&primary);
        assert_eq!((&shown["method"], &shown["label"]), (&"remote".into(), &"it's remote".into()));
        assert_eq!(shown["tablespaces"].as_array().unwrap().len(), 1);
        assert!(shown["pages"]["checked"].as_u64().unwrap() > 1000 && shown["pages"]["damaged"] == 0, "{shown}");
        primary.walden(&["backup-show", "LATEST"]).run().code(0).stdout_has("remote: the server sent it");

        let copy = Cluster::empty(postgres, place);
        let (data, root) = (copy.data(), copy.directory("spaces"));
        let args = ["backup-fetch", data.to_str().unwrap(), "--tablespace-root", root.to_str().unwrap()];
        copy.walden(&args).run().code(0);
        copy.verify_backup();
        let copy = recovered(copy);
        assert_eq!(audit(&copy), booked);
        assert_eq!(copy.value("SELECT count(*) FROM spaced"), "100000");
        assert_eq!(copy.value("SELECT count(*) FROM volatile"), "0");
        copy.check_pages();
    });
}
