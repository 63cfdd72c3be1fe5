//! Labels, notes and the mark of what is kept: written with a backup or later, shown everywhere, and nothing else changes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use serde_json::{Value, json};
use support::cluster::{Cluster, Postgres};
use support::place::Place;
use support::s3::{Fault, On, Op};
use support::stories::{each, restored};

/// The manifest of the only backup: its key, and what it says.
fn manifest(place: &Place) -> (String, Value) {
    let mut keys = place.keys();
    keys.retain(|key| key.ends_with("/backup.json"));
    let [key] = keys.as_slice() else { panic!("{keys:?}") };
    (key.clone(), serde_json::from_slice(&place.get(key).unwrap()).unwrap())
}

/// Without what a mark changes.
fn unmarked(mut manifest: Value) -> Value {
    for name in ["label", "notes", "keep", "sha256"] {
        manifest.as_object_mut().unwrap().remove(name);
    }
    manifest
}

#[test]
fn what_is_written_on_a_backup_is_shown_and_changed_and_nothing_else_is() {
    each(|postgres, place| {
        let primary = Cluster::primary(postgres, place);
        let push =
            ["backup-push", "--label", "before the upgrade", "--note", "ticket=OPS-1", "--note", "by=a=b", "--keep"];
        primary.walden(&push).run().code(0).stdout_is("");
        let (key, before) = manifest(place);
        let marks = |shown: &Value| json!([shown["label"], shown["notes"], shown["keep"]]);
        let first = json!(["before the upgrade", { "ticket": "OPS-1", "by": "a=b" }, true]);
        assert_eq!(marks(&before), first);

        let show = || primary.walden(&["backup-show", "LATEST", "--json"]).run().code(0).json();
        let id = show()["id"].as_str().unwrap().to_owned();
        assert_eq!(marks(&show()), first);
        let listed = primary.walden(&["backup-list"]).run().code(0);
        listed.stdout_has("complete, kept").stdout_has("before the upgrade");
        let shown = primary.walden(&["backup-show", &id]).run().code(0);
        shown.stdout_has("note          by=a=b\n").stdout_has("kept          for good\n");

        let mark = |options: &[&str]| primary.walden(&[&["backup-mark", &id], options].concat()).run();
        mark(&["--note", "ticket=", "--note", "checked=yes"]).code(0).stdout_is("");
        assert_eq!(marks(&show()), json!(["before the upgrade", { "by": "a=b", "checked": "yes" }, true]));
        mark(&["--no-keep", "--label", "", "--json"]).code(0).stdout_has("\"keep\": false");
        assert_eq!(marks(&show()), json!([null, { "by": "a=b", "checked": "yes" }, false]));
        assert_eq!(unmarked(manifest(place).1), unmarked(before));
        assert_eq!(manifest(place).0, key);

        let copy = restored(postgres, place, &[]);
        copy.verify_backup();
        let label = std::fs::read_to_string(copy.data().join("backup_label")).unwrap();
        assert!(label.contains("LABEL: before the upgrade\n"), "{label}");
    });
}

#[test]
fn a_mark_that_cannot_be_made_changes_nothing() {
    for postgres in Postgres::each() {
        let place = Place::s3();
        let primary = Cluster::primary(&postgres, &place);
        primary.walden(&["backup-push"]).run().code(0);
        let (key, _) = manifest(&place);
        let content = place.get(&key).unwrap();
        let mark = |options: &[&str]| primary.walden(&[&["backup-mark"], options].concat()).run();
        mark(&["LATEST"]).code(2).stderr_has("--label");
        mark(&["LATEST", "--keep", "--no-keep"]).code(2);
        mark(&["LATEST", "--note", "no value"]).code(2).stderr_has("KEY=VALUE");
        mark(&["20261121T013005Z-0000000100000000000000AB", "--keep"]).code(1);
        place.service().fail_always(On::op(Op::Put), Fault::Status(403, "AccessDenied"));
        mark(&["LATEST", "--keep"]).code(4).stderr_has("s3:PutObject");
        place.service().heal();
        // What is so already is not written again.
        place.service().forget_requests();
        mark(&["LATEST", "--no-keep"]).code(0);
        assert_eq!(place.service().count(Op::Put), 0);
        assert_eq!(place.get(&key).unwrap(), content);

        // The manifest of a newer version, with a seal that is right.
        let text = String::from_utf8(content).unwrap();
        let body = text[..text.rfind("\"sha256\"").unwrap()].replacen("{", "{\"newer\": 1,", 1);
        let newer = walden::layout::sealed::seal(body);
        place.put(&key, &newer);
        mark(&["LATEST", "--keep"]).code(8).stderr_has("a newer version of walden");
        assert_eq!(place.get(&key).unwrap(), newer);
        primary.walden(&["backup-show", "LATEST"]).run().code(0);
    }
}
