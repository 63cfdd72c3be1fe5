//! Page checksums: damage is told, with its name and an exit code of its own, and nothing else is called damage.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use support::cluster::{Cluster, Postgres, query};
use support::failing_disk::FailingDisk;
use support::load::{Load, audit, open_books};
use support::place::{Place, files_below};
use support::random::Random;
use support::stories::{complete_backups, recovered, restored};
use support::user::User;
use support::walden::Ran;
use walden::postgres::page;
use walden::postgres::relation::DataFile;

const PAGE: usize = 8192;

/// What `initdb -k` leaves has more pages than this.
const PAGES_OF_INITDB: u64 = 2000;

fn back_up(cluster: &Cluster, options: &[&str]) -> Ran {
    cluster.walden(&[&["backup-push", "--json"], options].concat()).run()
}

/// A primary whose tables nobody touches but the test.
fn quiet(postgres: &Postgres, place: &Place) -> Cluster {
    quiet_with(postgres, place, "")
}

/// The same with more lines of configuration.
fn quiet_with(postgres: &Postgres, place: &Place, settings: &str) -> Cluster {
    let mut cluster = Cluster::initialized(postgres, place, &[]);
    cluster.configure(&format!("autovacuum = off\n{settings}"));
    cluster.start();
    cluster
}

/// The file that a relation of the database of the session begins in.
fn file_of(cluster: &Cluster, relation: &str) -> String {
    cluster.value(&format!("SELECT pg_relation_filepath('{relation}')"))
}

/// Changes a file of the cluster in place.
fn overwrite(cluster: &Cluster, path: &str, at: usize, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(cluster.data().join(path)).unwrap();
    file.write_all_at(bytes, at as u64).unwrap();
}

fn flip(cluster: &Cluster, path: &str, at: usize) {
    let byte = fs::read(cluster.data().join(path)).unwrap()[at];
    overwrite(cluster, path, at, &[byte ^ 0x10]);
}

/// The LSN so many bytes after this one, as a page has it: two words, the upper half first.
fn lsn_bytes(text: &str, further: u64) -> [u8; 8] {
    let (high, low) = text.split_once('/').unwrap();
    let half = |digits: &str| u64::from_str_radix(digits, 16).unwrap();
    let lsn = (half(high) << 32 | half(low)) + further;
    // Little-endian words, and the upper one first.
    lsn.rotate_left(32).to_le_bytes()
}

/// The manifest of the newest backup, as it lies in the archive.
fn manifest(place: &Place) -> Value {
    let key = place.keys().into_iter().filter(|key| key.ends_with("/backup.json")).max().unwrap();
    serde_json::from_slice(&place.get(&key).unwrap()).unwrap()
}

#[test]
fn every_page_of_a_real_cluster_is_sound() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let mut cluster = Cluster::primary(&postgres, &place);
        open_books(&cluster);
        cluster.sql("CREATE UNLOGGED TABLE passing AS SELECT 1; CREATE TABLE gone AS SELECT 1; DROP TABLE gone");
        cluster.sql("CREATE DATABASE other");
        cluster.sql("VACUUM");
        let load = Load::start(&cluster);
        let told = back_up(&cluster, &[]).code(0).json();
        load.stop();
        assert_eq!(told["pages"]["damaged"], 0);
        assert!(told["pages"]["checked"].as_u64().unwrap() > PAGES_OF_INITDB, "{}", told["pages"]);
        cluster.walden(&["backup-show", "LATEST"]).run().code(0).stdout_has("checksums     on, ");

        cluster.stop();
        let mut looked_at = 0;
        for path in files_below(&cluster.data()) {
            let name = path.rsplit('/').next().unwrap();
            let is_numbered = name.starts_with(|first: char| first.is_ascii_digit());
            let holds_pages = is_numbered && (path.starts_with("base/") || path.starts_with("global/"));
            let file = DataFile::parse(&path);
            assert_eq!(file.is_some(), holds_pages, "{path}");
            let content = fs::read(cluster.data().join(&path)).unwrap();
            for (index, page) in content.as_chunks::<PAGE>().0.iter().enumerate().filter(|_| holds_pages) {
                assert_eq!(page::fault(page, file.unwrap().first_block + index as u32), None, "{path} {index}");
                looked_at += 1;
            }
        }
        assert!(looked_at > PAGES_OF_INITDB);
    }
}

/// What is told of a damaged page.
#[derive(Debug, PartialEq)]
struct Damage {
    database: Value,
    relation: Value,
    fork: String,
    block: u64,
    path: String,
}

impl Damage {
    fn read(page: &Value) -> Damage {
        let text = |field: &str| page[field].as_str().unwrap().to_owned();
        let (database, relation) = (page["database"].clone(), page["relation"].clone());
        Damage { database, relation, fork: text("fork"), block: page["block"].as_u64().unwrap(), path: text("path") }
    }
}

/// A cluster with damage of every kind, and what is to be told of it.
fn damaged(postgres: &Postgres, place: &Place) -> (Cluster, Vec<Damage>) {
    let mut cluster = quiet(postgres, place);
    let directory = cluster.directory("space");
    let rows = "SELECT n, repeat('x', 500) AS filler FROM generate_series(1, 2000) n";
    cluster.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", directory.display()));
    for name in ["low", "\"High one\"", "within", "spacious TABLESPACE space"] {
        cluster.sql(&format!("CREATE TABLE {name} AS {rows}"));
    }
    cluster.sql("VACUUM low");
    cluster.sql("CREATE DATABASE other");
    let low = file_of(&cluster, "low");
    let (high, within) = (file_of(&cluster, "\"High one\""), file_of(&cluster, "within"));
    let (spacious, shared) = (file_of(&cluster, "spacious"), file_of(&cluster, "pg_shdescription"));
    let ours = low.split('/').nth(1).unwrap();
    let theirs = cluster.value("SELECT oid FROM pg_database WHERE datname = 'other'");
    // A new database is a copy of template1, whose catalogues have the same file numbers.
    let elsewhere = file_of(&cluster, "pg_description").replace(&format!("base/{ours}/"), &format!("base/{theirs}/"));
    let now = cluster.value("SELECT pg_current_wal_insert_lsn()");
    cluster.stop();

    flip(&cluster, &low, 5000);
    flip(&cluster, &low, 3 * PAGE + 9);
    flip(&cluster, &format!("{low}_fsm"), PAGE + 4000);
    overwrite(&cluster, &high, 2 * PAGE, &[0xFF; 8]);
    overwrite(&cluster, &within, 7 * PAGE, &lsn_bytes(&now, 16 << 20));
    flip(&cluster, &spacious, 100 * PAGE + 8191);
    flip(&cluster, &elsewhere, 6000);
    // A header that is empty, on a page that is not.
    overwrite(&cluster, &shared, 0, &[0; 24]);
    cluster.start();

    let own = |relation: &str| (Value::from("postgres"), Value::from(relation));
    let mut expected = Vec::new();
    let mut expect = |(database, relation), fork: &str, block, path: &str| {
        expected.push(Damage { database, relation, fork: fork.to_owned(), block, path: path.to_owned() });
    };
    expect(own("public.low"), "main", 0, &low);
    expect(own("public.low"), "main", 3, &low);
    expect(own("public.low"), "fsm", 1, &format!("{low}_fsm"));
    expect(own("public.\"High one\""), "main", 2, &high);
    expect(own("public.within"), "main", 7, &within);
    expect(own("public.spacious"), "main", 100, &spacious);
    expect((Value::from("other"), Value::Null), "main", 0, &elsewhere);
    expect((Value::Null, Value::from("pg_catalog.pg_shdescription")), "main", 0, &shared);
    expected.sort_by(|one, other| (&one.path, one.block).cmp(&(&other.path, other.block)));
    (cluster, expected)
}

#[test]
fn damage_is_told_with_database_relation_fork_and_block_and_the_backup_is_marked() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let (cluster, expected) = damaged(&postgres, &place);
        let ran = back_up(&cluster, &[]).code(12);
        let told = ran.json();
        let list = told["pages"]["list"].as_array().unwrap();
        let found: Vec<Damage> = list.iter().map(Damage::read).collect();
        assert_eq!(found, expected, "{ran}");
        assert_eq!((&told["pages"]["damaged"], &told["state"]), (&Value::from(8), &Value::from("damaged")));

        // The last lines say it, however long the log before them.
        let error = &ran.stderr[ran.stderr.find("ERROR:  ").unwrap()..];
        let id = told["id"].as_str().unwrap();
        assert!(
            error.starts_with(&format!("ERROR:  backup {id} is complete, and has 8 damaged pages\nDETAIL:  block "))
        );
        assert!(error.contains("; and 3 more\nHINT:  Run walden backup-show"), "{ran}");
        for place in ["block 3 of public.low, main fork, in \"base/", "of database \"postgres\": its checksum is "] {
            assert!(ran.stderr.contains(place), "{place}: {ran}");
        }
        assert_eq!(ran.stderr.matches("damaged page: block ").count(), 8, "{ran}");

        let mut stored = manifest(&place);
        assert_eq!(stored["pages"], told["pages"]);
        assert!(stored["sha256"].take().is_string());
        cluster.walden(&["backup-list"]).run().code(0).stdout_has("damaged pages: 8");
        let shown = cluster.walden(&["backup-show", id]).run().code(0);
        assert!(shown.stdout.contains(" pages verified, 8 damaged pages\n"), "{shown}");
        assert_eq!(shown.stdout.matches("\ndamaged       block ").count(), 8, "{shown}");
        let listed = cluster.walden(&["backup-list", "--json"]).run().code(0).json();
        assert_eq!(listed[0]["state"], "damaged");

        // It can be restored all the same, with a warning.
        let copy = Cluster::empty(&postgres, &place);
        let options = ["--tablespace-mapping", &format!("{}={}", space(&cluster), copy.directory("space").display())];
        support::stories::restore(&copy, &options).code(0).stderr_has(&format!("backup {id} has 8 damaged pages"));
    }
}

fn space(cluster: &Cluster) -> String {
    cluster.value("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'")
}

#[test]
fn where_damage_is_to_fail_there_is_no_backup_and_the_server_leaves_its_backup_mode() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let (cluster, _) = damaged(&postgres, &place);
        let ran = back_up(&cluster, &["--on-corruption", "fail"]).code(12).stdout_is("");
        ran.stderr_has("ERROR:  could not take backup ")
            .stderr_has("DETAIL:  the cluster has 8 damaged pages: block ")
            .stderr_has("WALDEN_ON_CORRUPTION=warn");
        assert_eq!(complete_backups(&cluster), 0);
        assert!(!place.keys().iter().any(|key| key.ends_with("/backup.json")));
        let sessions =
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%_backup(%' AND pid <> pg_backend_pid()";
        cluster.wait_until("its session is gone", |cluster| cluster.value(sessions) == "0");
        cluster.walden(&["backup-push"]).env("WALDEN_ON_CORRUPTION", "fail").run().code(12);
        cluster.walden(&["backup-push"]).env("WALDEN_ON_CORRUPTION", "warn").run().code(12);
        assert_eq!(manifest(&place)["pages"]["damaged"], 8);
    }
}

#[test]
fn without_checksums_nothing_is_verified_and_that_is_said() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let mut cluster = Cluster::without_checksums(&postgres, &place, &[]);
        cluster.start();
        cluster.sql("CREATE TABLE one AS SELECT 1 AS n");
        let path = file_of(&cluster, "one");
        cluster.stop();
        flip(&cluster, &path, 8191);
        cluster.start();
        let told = back_up(&cluster, &[]).code(0).json();
        assert_eq!((&told["data_checksums"], told.get("pages")), (&Value::from(false), None));
        cluster.walden(&["backup-show", "LATEST"]).run().code(0).stdout_has("checksums     off\n");
    }
}

/// PostgreSQL's checksum, after src/include/storage/checksum_impl.h and not with Walden's code.
fn seal(page: &mut [u8], block: u32) {
    const OFFSETS: [u32; 32] = [
        0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C, 0xF8D4474F,
        0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB, 0xE58F764B, 0x187636BC,
        0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4, 0x783125BB, 0x6CA8EAA2, 0xE407EAC6,
        0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
    ];
    page[8..10].fill(0);
    let mut sums = OFFSETS;
    let words = page.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    for (index, word) in words.chain([0; 64]).enumerate() {
        let mixed = sums[index % 32] ^ word;
        sums[index % 32] = mixed.wrapping_mul(16777619) ^ (mixed >> 17);
    }
    let checksum = (sums.iter().fold(block, |all, sum| all ^ sum) % 65535 + 1) as u16;
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
}

/// Writes the pages of a table that nobody else touches again and again, each in two halves with a pause in between, as
/// a server can be seen to write by whoever reads at that moment. Every version is a whole page of later WAL.
struct Injector {
    socket: PathBuf,
    file: fs::File,
    pages: Vec<u8>,
    random: Random,
}

impl Injector {
    /// Until it is told to stop; no page is torn then.
    fn tear(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.next_version();
            let first = *self.random.pick(&[0, PAGE / 2]);
            self.write_halves(first);
            // Shorter and longer than the copying waits.
            let torn = *self.random.pick(&[5, 20, 100, 200]);
            self.pause(torn);
            self.write_halves(PAGE / 2 - first);
            self.pause(20);
        }
    }

    fn pause(&mut self, most: u64) {
        std::thread::sleep(Duration::from_millis(self.random.below(most)));
    }

    fn next_version(&mut self) {
        // A server finishes the pages of earlier WAL before a backup begins; this injector does not wait for that.
        let lsn = query(&self.socket, 5432, "SELECT pg_current_wal_insert_lsn()").unwrap();
        for (block, page) in (0..).zip(self.pages.chunks_mut(PAGE)) {
            page[..8].copy_from_slice(&lsn_bytes(&lsn[0][0], 100 << 20));
            page[PAGE - 100] ^= 1;
            seal(page, block);
        }
    }

    fn write_halves(&self, from: usize) {
        for (block, page) in self.pages.chunks(PAGE).enumerate() {
            self.file.write_all_at(&page[from..from + PAGE / 2], (block * PAGE + from) as u64).unwrap();
        }
    }
}

/// Runs `meanwhile` beside a thread that goes on until it is told to stop.
fn beside(thread: impl FnOnce(&AtomicBool) + Send, meanwhile: impl FnOnce()) {
    /// Stops the thread also where an assertion fails.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| thread(&stop));
        let _stop = Stop(&stop);
        meanwhile();
    });
}

#[test]
fn a_page_that_is_read_while_it_is_written_is_no_damage() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let cluster = quiet(&postgres, &place);
        cluster.sql("CREATE TABLE torn AS SELECT n, repeat('x', 500) AS filler FROM generate_series(1, 600) n");
        cluster.sql("CHECKPOINT");
        let path = cluster.data().join(file_of(&cluster, "torn"));
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        // Behind its rows a table may have empty pages already, which stay as they are.
        let content = fs::read(&path).unwrap();
        let pages: Vec<&[u8]> = content.chunks(PAGE).take_while(|page| page.iter().any(|&byte| byte != 0)).collect();
        let pages = pages.concat();
        let injector = Injector { socket: cluster.socket(), file, pages, random: Random::announced() };
        let (mut torn, mut doubted) = (0, 0);
        beside(
            |stop| injector.tear(stop),
            || {
                // At least 20, and more until it was tried in earnest.
                for run in 0..200 {
                    let ran = back_up(&cluster, &["--log-level", "debug"]).code(0);
                    assert_eq!(ran.json()["pages"]["damaged"], 0, "run {run}: {ran}");
                    torn += ran.stderr.matches("do not match their checksums; they are read again").count();
                    doubted += ran.stderr.matches("is looked at again at the end").count();
                    if run >= 19 && torn > 0 && doubted > 0 {
                        break;
                    }
                }
            },
        );
        println!("torn pages were met in {torn} runs; {doubted} pages were in doubt until the end");
        assert!(torn > 0 && doubted > 0);
    }
}

#[test]
fn a_control_file_that_is_read_while_it_is_written_is_stored_whole() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let cluster = quiet_with(&postgres, &place, "log_min_duration_statement = 0\n");
        let path = cluster.data().join("global/pg_control");
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        // A byte of mock_authentication_nonce, which never changes, so the server's own writes do not matter.
        let (at, byte) = (270, fs::read(&path).unwrap()[270]);
        let mut random = Random::announced();
        for _ in 0..3 {
            let mut torn = 0;
            let logged = cluster.log().len();
            let tear = |stop: &AtomicBool| {
                // The server reads the file itself before a backup begins and once after that, and not as patiently. Then the
                // session has nothing to do for as long as the copying takes.
                let copying = || {
                    let log = cluster.log();
                    let from = |function: &str| log[logged..].rfind(function).map(|at| &log[logged + at..]);
                    let begun = from("SELECT pg_backup_start(").or_else(|| from("SELECT pg_start_backup("));
                    begun.is_some_and(|then| {
                        then.lines().any(|line| line.contains(" execute ") && line.contains("pg_control_"))
                    })
                };
                while !copying() && !stop.load(Ordering::Relaxed) {}
                while !stop.load(Ordering::Relaxed) {
                    file.write_all_at(&[byte ^ 1], at).unwrap();
                    std::thread::sleep(Duration::from_millis(random.below(6)));
                    file.write_all_at(&[byte], at).unwrap();
                    std::thread::sleep(Duration::from_millis(random.below(4)));
                    torn += 1;
                }
            };
            beside(tear, || drop(back_up(&cluster, &["--max-rate", "16MiB"]).code(0)));
            assert!(torn > 0, "the backup was too quick");
            // No server starts with a control file whose CRC is wrong.
            recovered(restored(&postgres, &place, &[]));
        }
    }
}

#[test]
fn files_that_come_shrink_and_go_while_they_are_read_are_no_damage() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let cluster = Cluster::primary(&postgres, &place);
        open_books(&cluster);
        let load = Load::start(&cluster);
        let socket = cluster.socket();
        let churn = |stop: &AtomicBool| {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let statements = [
                    "CREATE TABLE churn AS SELECT n, repeat('x', 300) AS filler FROM generate_series(1, 30000) n"
                        .into(),
                    "UPDATE churn SET filler = filler || 'y' WHERE n % 3 = 0".into(),
                    "DELETE FROM churn WHERE n > 10000".into(),
                    "VACUUM churn".into(),
                    "VACUUM FULL accounts".into(),
                    "TRUNCATE churn".into(),
                    "DROP TABLE churn".into(),
                    format!("CREATE DATABASE d{number}"),
                    format!("DROP DATABASE d{number}"),
                ];
                for statement in statements {
                    query(&socket, 5432, &statement).unwrap();
                }
            }
        };
        beside(churn, || {
            for run in 0..5 {
                let ran = back_up(&cluster, &[]).code(0);
                assert_eq!(ran.json()["pages"]["damaged"], 0, "run {run}: {ran}");
            }
        });
        let booked = load.stop();
        cluster.archive_all();
        let copy = restored(&postgres, &place, &[]);
        copy.verify_backup();
        let mut copy = recovered(copy);
        assert_eq!(audit(&copy), booked);
        copy.check_pages();
        copy.stop();
        for path in files_below(&copy.data()) {
            let Some(file) = DataFile::parse(&path) else { continue };
            let content = fs::read(copy.data().join(&path)).unwrap();
            for (block, page) in (file.first_block..).zip(content.as_chunks::<PAGE>().0) {
                assert_eq!(page::fault(page, block), None, "{path}, block {block}");
            }
        }
    }
}

#[test]
fn a_data_file_that_may_not_be_read_leaves_no_backup() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let cluster = quiet(&postgres, &place);
        cluster.sql("CREATE TABLE closed AS SELECT 1");
        cluster.sql("CHECKPOINT");
        let path = file_of(&cluster, "closed");
        fs::set_permissions(cluster.data().join(&path), fs::Permissions::from_mode(0o000)).unwrap();
        back_up(&cluster, &[]).code(4).stdout_is("").stderr_has(&path).stderr_has("Permission denied");
        assert_eq!(complete_backups(&cluster), 0);
    }
}

#[test]
fn a_disk_that_breaks_under_a_data_file_leaves_no_backup() {
    for postgres in Postgres::each() {
        let Some(disk) = FailingDisk::mounted() else { return };
        let place = Place::directory();
        let cluster = quiet(&postgres, &place);
        let space = disk.path().join("space");
        fs::create_dir(&space).unwrap();
        if let Some(user) = User::for_servers() {
            user.owns(&space);
        }
        cluster.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
        let rows = "SELECT n, repeat('x', 500) AS filler FROM generate_series(1, 20000) n";
        cluster.sql(&format!("CREATE TABLE lost TABLESPACE space AS {rows}"));
        cluster.sql("CHECKPOINT");
        let path = file_of(&cluster, "lost");
        back_up(&cluster, &[]).code(0);
        disk.break_under(&cluster.data().join(&path));
        back_up(&cluster, &[]).code(10).stdout_is("").stderr_has(&path).stderr_has("Input/output error");
        assert_eq!(complete_backups(&cluster), 1);
    }
}
