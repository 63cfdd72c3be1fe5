//! PostgreSQL's archiver on a forged data directory: what it does with `archive_status`, and in which order it asks
//! (src/backend/postmaster/pgarch.c).

use std::collections::BTreeSet;
use std::fs;

use super::scene::Scene;
use super::walden::Ran;

/// Marks a file as ready to be archived, as PostgreSQL does when it is complete.
pub fn offer(scene: &Scene, name: &str) {
    fs::write(scene.wal(&format!("archive_status/{name}.ready")), "").unwrap();
}

/// The name that the archiver asks for next: history files first, else in order (`ready_file_comparator`).
pub fn next(scene: &Scene) -> Option<String> {
    let ready = status(scene).into_iter().filter_map(|name| name.strip_suffix(".ready").map(str::to_owned));
    ready.min_by_key(|name| (!name.ends_with(".history"), name.clone()))
}

/// Archives one file: runs the command for it and, after a success, marks it as done. Whatever the command did, it has
/// left `archive_status` as it was.
pub fn archive(scene: &Scene, name: &str, command: impl FnOnce(&str) -> Ran) -> Ran {
    let before = status(scene);
    let ran = command(name);
    assert_eq!(status(scene), before, "archive_status belongs to PostgreSQL\n{ran}");
    if ran.code == Some(0) {
        let path = |state: &str| scene.wal(&format!("archive_status/{name}.{state}"));
        fs::rename(path("ready"), path("done")).unwrap();
    }
    ran
}

fn status(scene: &Scene) -> BTreeSet<String> {
    let entries = fs::read_dir(scene.wal("archive_status")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
