//! The archiver of a real server with a backlog, and `archive_command`s that do more than call walden.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::collections::BTreeSet;
use std::fs;

use support::cluster::Cluster;
use support::stories::each;

const BACKLOG: usize = 200;

/// Walden, and then a second archive. While walden runs nobody but PostgreSQL may write to archive_status, and PostgreSQL
/// only adds files that are ready; anything else is noted in `disturbed`.
const CHAIN: &str = r#"
cd pg_wal/archive_status && ls >SCRATCH/before && cd ../..
WALDEN wal-push "$1" || exit
cd pg_wal/archive_status && ls >SCRATCH/after && cd ../..
(cd SCRATCH && comm -23 before after && comm -13 before after | grep -v '\.ready$') >>SCRATCH/disturbed
cp "$1" "SECOND/$2"
"#;

#[test]
fn a_chain_of_two_archives_gets_a_backlog_of_two_hundred_segments_whole_into_both() {
    each(|postgres, place| {
        let mut primary = Cluster::initialized(postgres, place, &["--wal-segsize=1"]);
        // Until there is a backlog, nothing is archived; checkpoints clear away in archive_status, and are put off.
        primary.configure("archive_command = 'false'\ncheckpoint_timeout = '1h'\nmax_wal_size = '2GB'\n");
        primary.start();
        let switch = "SELECT pg_create_restore_point('x'); SELECT pg_switch_wal();";
        primary.sql(&switch.repeat(BACKLOG));
        let ready = names(&primary, ".ready");
        assert!(ready.len() >= BACKLOG, "{ready:?}");

        let (second, script) = (primary.directory("second"), primary.socket().join("chain"));
        let words = [("WALDEN", primary.program_path()), ("SCRATCH", &primary.socket()), ("SECOND", &second)];
        let chain =
            words.iter().fold(CHAIN.to_owned(), |text, (word, path)| text.replace(word, path.to_str().unwrap()));
        fs::write(&script, chain).unwrap();
        primary.sql(&format!("ALTER SYSTEM SET archive_command = 'sh {} %p %f'", script.display()));
        primary.sql("SELECT pg_reload_conf()");
        primary.archive_all();

        let done = names(&primary, ".done");
        assert!(ready.is_subset(&done), "{:?}", ready.difference(&done));
        let archived: u64 = primary.value("SELECT archived_count FROM pg_stat_archiver").parse().unwrap();
        assert!(archived >= BACKLOG as u64, "{archived}");
        let disturbed = fs::read_to_string(primary.socket().join("disturbed")).unwrap();
        assert_eq!(disturbed, "", "walden has written to archive_status");
        let keys = place.keys();
        for name in &ready {
            let original = fs::read(primary.data().join("pg_wal").join(name)).unwrap();
            assert!(fs::read(second.join(name)).unwrap() == original, "{name} in the second archive");
            let key = keys.iter().find(|key| key.ends_with(&format!("/{name}"))).unwrap_or_else(|| panic!("{name}"));
            assert!(zstd::decode_all(&place.get(key).unwrap()[..]).unwrap() == original, "{name} in walden's archive");
        }
    });
}

/// The segments in archive_status that are in this state.
fn names(primary: &Cluster, state: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(primary.data().join("pg_wal/archive_status")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(state).map(str::to_owned)).collect()
}
