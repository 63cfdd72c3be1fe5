//! A standby that follows its primary from the archive of WAL-E or WAL-G into ours, on real servers, and never notices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::fs;

use support::cluster::Cluster;
use support::legacy::CODECS;
use support::place::Place;
use support::stories::in_turn;

/// What WAL-G's `archive_command` does, in a directory: one object a file, compressed, under its key.
const OLD_ARCHIVER: &str = r#"
read -r extension program <SCRATCH/codec
[ "$extension" != none ] || extension=
mkdir -p OLD/wal_005
$program <"$1" >"OLD/wal_005/$2$extension.tmp" && mv "OLD/wal_005/$2$extension.tmp" "OLD/wal_005/$2$extension"
"#;

/// Segments for each codec.
const SEGMENTS: usize = 2;

#[test]
fn a_standby_follows_from_the_old_archive_into_ours_without_a_change_of_restore_command() {
    in_turn(|postgres, place| {
        let old = Place::directory();
        let old_directory = old.prefix().strip_prefix("file://").unwrap().to_owned();
        let mut primary = Cluster::initialized(postgres, place, &["--wal-segsize=1"]);
        let script = primary.socket().join("old-archiver");
        let scratch = primary.socket().to_str().unwrap().to_owned();
        fs::write(&script, OLD_ARCHIVER.replace("SCRATCH", &scratch).replace("OLD", &old_directory)).unwrap();
        let codec = primary.socket().join("codec");
        let write_codec = |number: usize| {
            let (extension, program) = CODECS[number];
            let extension = if extension.is_empty() { "none" } else { extension };
            fs::write(&codec, format!("{extension} {}\n", program.join(" "))).unwrap();
        };
        write_codec(0);
        primary.configure(&format!("archive_command = 'sh {} %p %f'\n", script.display()));
        primary.start();
        primary.sql("CREATE TABLE marks (mark int)");

        let mut standby = Cluster::empty(postgres, place).env("WALDEN_LEGACY_PREFIX", &old.prefix());
        let (socket, data) = (primary.socket(), standby.data());
        let copy = ["-h", socket.to_str().unwrap(), "-U", "postgres", "-D", data.to_str().unwrap(), "-X", "none"];
        primary.program("pg_basebackup", &[&copy[..], &["--checkpoint=fast"]].concat());
        standby.configure(&format!("archive_mode = off\nrestore_command = '{}'\n", standby.restore_command()));
        fs::write(standby.data().join("standby.signal"), "").unwrap();
        own(&standby);

        let mut mark = 0;
        let mut go_on = |primary: &Cluster| {
            for _ in 0..SEGMENTS {
                mark += 1;
                primary.sql(&format!("INSERT INTO marks VALUES ({mark})"));
                primary.archive_all();
            }
            mark
        };
        go_on(&primary);
        standby.start();
        for number in 1..CODECS.len() {
            write_codec(number);
            let last = go_on(&primary);
            has(&standby, last);
        }
        // The cut-over: from here on walden archives. Its own archive begins with what comes next.
        let before = fs::read_dir(format!("{old_directory}/wal_005")).unwrap().count();
        primary.sql(&format!("ALTER SYSTEM SET archive_command = '{}'", primary.archive_command()));
        primary.sql("SELECT pg_reload_conf()");
        let last = go_on(&primary);
        has(&standby, last);
        assert_eq!(fs::read_dir(format!("{old_directory}/wal_005")).unwrap().count(), before);
        assert!(place.keys().iter().any(|key| key.contains("/wal/")));

        // What it has replayed by then came from both, and the second time it is fetched ahead.
        standby.stop();
        standby.start();
        let last = go_on(&primary);
        has(&standby, last);
        standby.promote();
        standby.wait_until("it is promoted", |standby| !standby.is_in_recovery());
        assert_eq!(standby.value("SELECT count(*) FROM marks"), last.to_string());
        standby.check_pages();
    });
}

fn has(standby: &Cluster, mark: usize) {
    let wanted = mark.to_string();
    standby.wait_until("the standby has what was archived", |standby| {
        standby.value("SELECT coalesce(max(mark), 0) FROM marks") == wanted
    });
}

/// What the test has written into a data directory belongs to the server's user.
fn own(cluster: &Cluster) {
    if let Some(user) = support::user::User::for_servers() {
        user.owns(&cluster.data().join("standby.signal"));
    }
}
