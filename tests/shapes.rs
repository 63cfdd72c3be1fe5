//! Clusters of every shape: relations of several files, tablespaces, WAL that lies elsewhere, no checksums, access for the
//! group, very many relations. Each is restored beside its original, and in its place.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use support::cluster::{Cluster, Postgres};
use support::place::Place;
use support::random::times;
use support::stories::{back_up, in_turn, recovered, restored};

/// PostgreSQL begins a new file of a relation after so many bytes: `RELSEG_SIZE` pages of 8 kB.
const FILE: u64 = 1 << 30;

/// Rows that are written at once.
const ROWS: u64 = 3000;

/// Makes the files of a table longer, as a server does that dies before it has written anything there: pages of zeros. They
/// take no room on the disk.
fn lengthen(cluster: &mut Cluster, file: &str, size: u64) {
    cluster.stop();
    fs::OpenOptions::new().write(true).open(cluster.data().join(file)).unwrap().set_len(size).unwrap();
    cluster.start();
}

/// Rows at the end of the table.
fn append(cluster: &Cluster, number: u64) {
    cluster.sql(&format!(
        "INSERT INTO large SELECT {number}, n, repeat('x', 400) FROM generate_series(1, {ROWS}) n; CHECKPOINT"
    ));
}

#[test]
fn a_relation_of_several_files_comes_back_with_the_rows_at_their_ends_and_with_its_holes() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let mut primary = Cluster::initialized(&postgres, &place, &[]);
        // The pages of zeros are to stay where they are.
        primary.configure("autovacuum = off\n");
        primary.start();
        primary.sql("CREATE TABLE large (part int, n int, filler text)");
        append(&primary, 0);
        let path = primary.value("SELECT pg_relation_filepath('large')");
        let mut files = vec![path.clone()];
        for number in 1..=times(1) as u64 {
            // A few pages are left in the last file, and the next rows go on into the next one.
            lengthen(&mut primary, files.last().unwrap(), FILE - 5 * 8192);
            append(&primary, number);
            files.push(format!("{path}.{number}"));
        }
        let lengths = |cluster: &Cluster| -> Vec<u64> {
            files.iter().map(|file| cluster.data().join(file).metadata().unwrap().len()).collect()
        };
        assert_eq!(lengths(&primary)[..files.len() - 1], vec![FILE; files.len() - 1]);
        back_up(&primary);
        primary.archive_all();

        let copy = restored(&postgres, &place, &[]);
        assert_eq!(lengths(&copy), lengths(&primary));
        let taken: u64 = files.iter().map(|file| blocks(&copy.data().join(file))).sum();
        assert!(taken < FILE / 20, "{taken} bytes on the disk");
        copy.verify_backup();
        let mut copy = recovered(copy);
        let rows = "SELECT part, count(*), sum(n) FROM large GROUP BY part ORDER BY part";
        let sum = ROWS * (ROWS + 1) / 2;
        let expected = (0..files.len()).map(|part| [part.to_string(), ROWS.to_string(), sum.to_string()].to_vec());
        assert_eq!(copy.sql(rows), expected.collect::<Vec<_>>());
        copy.stop();
        copy.verify_checksums();
    }
}

/// Bytes that a file takes on the disk.
fn blocks(path: &Path) -> u64 {
    path.metadata().unwrap().blocks() * 512
}

const SPACES: [&str; 3] = ["one", "two", "three"];

/// Relations in the first tablespace.
const RELATIONS: usize = 1200;

/// WAL elsewhere, access for the group, three tablespaces, very many relations in one of them.
fn odd_cluster(postgres: &Postgres, place: &Place, checksums: bool) -> (Cluster, Vec<PathBuf>) {
    let mut primary = match checksums {
        true => Cluster::initialized(postgres, place, &["-g"]),
        false => Cluster::without_checksums(postgres, place, &["-g"]),
    };
    let wal = primary.socket().join("wal");
    fs::rename(primary.data().join("pg_wal"), &wal).unwrap();
    symlink(&wal, primary.data().join("pg_wal")).unwrap();
    primary.start();
    let places: Vec<PathBuf> = SPACES.iter().map(|name| primary.directory(name)).collect();
    for (name, path) in SPACES.iter().zip(&places) {
        primary.sql(&format!("CREATE TABLESPACE {name} LOCATION '{}'", path.display()));
        primary.sql(&format!("CREATE TABLE in_{name} TABLESPACE {name} AS SELECT generate_series(1, 5000) AS n"));
    }
    primary.sql(&format!(
        "DO $$ BEGIN FOR n IN 1..{RELATIONS} LOOP \
         EXECUTE format('CREATE TABLE many_%s TABLESPACE one AS SELECT %s AS n', n, n); END LOOP; END $$"
    ));
    back_up(&primary);
    primary.archive_all();
    (primary, places)
}

/// Everything is there, may be read by the group, and is where the server says that it is.
fn is_whole(copy: Cluster, below: &Path, checksums: bool) {
    copy.verify_backup();
    let mode = copy.data().metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o750);
    let mut copy = recovered(copy);
    for name in SPACES {
        assert_eq!(copy.value(&format!("SELECT sum(n) FROM in_{name}")), "12502500");
        let at = copy.value(&format!("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = '{name}'"));
        assert!(Path::new(&at).starts_with(below), "{at}");
    }
    let tables = (1..=RELATIONS).map(|n| format!("SELECT n FROM many_{n}")).collect::<Vec<_>>();
    // Not all in one query, for each takes a lock.
    let sum: u64 = tables
        .chunks(200)
        .map(|part| copy.value(&format!("SELECT sum(n) FROM ({}) AS part", part.join(" UNION ALL "))))
        .map(|sum| sum.parse::<u64>().unwrap())
        .sum();
    assert_eq!(sum, (RELATIONS * (RELATIONS + 1) / 2) as u64);
    assert_eq!(copy.value("SHOW data_checksums"), if checksums { "on" } else { "off" });
    copy.check_relations();
    copy.stop();
    if checksums {
        copy.verify_checksums();
    }
}

#[test]
fn an_odd_cluster_comes_back_beside_its_original_and_in_its_place() {
    let mut checksums = false;
    in_turn(|postgres, place| {
        checksums = !checksums;
        let (mut primary, places) = odd_cluster(postgres, place, checksums);
        let beside = restored(postgres, place, &["--tablespace-root", "spaces", "--waldir", "wal"]);
        assert_eq!(fs::read_link(beside.data().join("pg_wal")).unwrap(), beside.socket().join("wal"));
        let own = beside.socket();
        is_whole(beside, &own, checksums);

        primary.stop();
        for path in &places {
            assert!(fs::read_dir(path).unwrap().count() > 0);
            fs::remove_dir_all(path).unwrap();
        }
        let in_place = restored(postgres, place, &[]);
        assert!(!in_place.data().join("pg_wal").is_symlink());
        is_whole(in_place, &primary.socket(), checksums);
    });
}
