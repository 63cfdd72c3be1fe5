//! Backups while everything else happens too: relations, databases and tablespaces come, move and go. Each one restores to
//! the moment of its end, and what PostgreSQL's own tools can examine is sound.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use support::cluster::{Cluster, Postgres, query};
use support::load::{Load, audit, open_books};
use support::place::Place;
use support::random::{Random, times};
use support::stories::{in_turn, recovered, restored};

/// Purses that are moved from table to table, and what is in all of them together.
const PURSES: u64 = 2000;
const MONEY: u64 = PURSES * (PURSES + 1) / 2;

/// Tables that hold them.
const TABLES: [&str; 3] = ["left_purses", "right_purses", "far_purses"];

/// Where relations and databases move to and fro.
const SPACES: [&str; 3] = ["pg_default", "one", "two"];

fn lay_out(primary: &Cluster) {
    open_books(primary);
    for space in &SPACES[1..] {
        let place = primary.directory(space);
        primary.sql(&format!("CREATE TABLESPACE {space} LOCATION '{}'", place.display()));
    }
    for table in TABLES {
        primary.sql(&format!("CREATE TABLE {table} (id int PRIMARY KEY, money int NOT NULL, filler text)"));
    }
    primary.sql(&format!(
        "INSERT INTO left_purses SELECT n, n, repeat('x', 200) FROM generate_series(1, {PURSES}) n;\
         CREATE TABLE marks (mark int PRIMARY KEY);\
         CREATE UNLOGGED TABLE passing AS SELECT generate_series(1, 5000) AS n"
    ));
}

/// What a storm does next: each string is a transaction, or a statement that cannot be in one. `own` is a name that only
/// this part of the storm uses.
fn gust(random: &mut Random, own: &str, number: u64) -> Vec<String> {
    let table = *random.pick(&TABLES);
    let space = *random.pick(&SPACES);
    let rows = random.below(30_000) + 1;
    let filled = format!("{own} AS SELECT n, repeat('x', 300) AS filler FROM generate_series(1, {rows}) n");
    let database = format!("{own}{number}");
    let statements: &[&str] = match random.below(10) {
        0 => &[
            &format!("CREATE TABLE {filled}"),
            &format!("CREATE INDEX ON {own} (n)"),
            &format!("UPDATE {own} SET filler = filler || 'y' WHERE n % 3 = 0"),
            &format!("DELETE FROM {own} WHERE n > 10000"),
            &format!("VACUUM {own}"),
            &format!("TRUNCATE {own}"),
            &format!("DROP TABLE {own}"),
        ],
        1 => &[&format!("BEGIN; CREATE TABLE {filled}; ROLLBACK")],
        2 => &[
            &format!("CREATE UNLOGGED TABLE {filled}"),
            &format!("ALTER TABLE {own} SET LOGGED"),
            &format!("DROP TABLE {own}"),
        ],
        3 => &[&format!("ALTER TABLE {table} SET TABLESPACE {space}"), &format!("REINDEX TABLE {table}")],
        4 => &["VACUUM FULL accounts", "VACUUM FULL bookings"],
        5 => &[&format!("VACUUM FULL {table}"), &format!("ALTER INDEX {table}_pkey SET TABLESPACE {space}")],
        6 => &[
            &format!("CREATE DATABASE {database} TEMPLATE template0 TABLESPACE {space}"),
            &format!("DROP DATABASE {database}"),
        ],
        // No database moves: the backup would be refused.
        7 => &[
            &format!("CREATE DATABASE {database} TEMPLATE template0"),
            &format!("ALTER DATABASE {database} RENAME TO {database}_too"),
            &format!("DROP DATABASE {database}_too"),
        ],
        // The files of these are named by maps alone, one of the database and one of the cluster.
        8 => &["VACUUM FULL pg_proc", "VACUUM FULL pg_shdepend"],
        _ => &[
            "TRUNCATE passing",
            "INSERT INTO passing SELECT generate_series(1, 9000)",
            &format!("ALTER TABLE passing SET TABLESPACE {space}"),
            &format!("BEGIN; TRUNCATE {table}; ROLLBACK"),
        ],
    };
    statements.iter().map(|&statement| statement.to_owned()).collect()
}

/// A purse, or many at once, from one table to another.
fn move_purses(random: &mut Random) -> String {
    let from = random.below(3) as usize;
    let to = (from + 1 + random.below(2) as usize) % 3;
    let (first, count) = (random.below(PURSES), *random.pick(&[1, 1, 1, 10, 200]));
    format!(
        "WITH moved AS (DELETE FROM {} WHERE id BETWEEN {first} AND {} RETURNING *) INSERT INTO {} SELECT * FROM moved",
        TABLES[from],
        first + count,
        TABLES[to]
    )
}

/// Threads that go on until they are told to stop.
struct Storm {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Statements of each thread so far.
    done: Vec<Arc<AtomicU64>>,
}

impl Storm {
    fn rise(primary: &Cluster, random: &mut Random) -> Storm {
        let mut storm = Storm { stop: Arc::default(), threads: Vec::new(), done: Vec::new() };
        for own in ["north", "south"] {
            let mut random = Random::from_seed(random.next());
            storm.blow(primary, move |number| gust(&mut random, own, number));
        }
        let mut random = Random::from_seed(random.next());
        storm.blow(primary, move |_| vec![move_purses(&mut random)]);
        storm
    }

    fn blow(&mut self, primary: &Cluster, mut step: impl FnMut(u64) -> Vec<String> + Send + 'static) {
        let (socket, stop, done) = (primary.socket(), self.stop.clone(), Arc::new(AtomicU64::new(0)));
        self.done.push(done.clone());
        self.threads.push(std::thread::spawn(move || {
            for number in 1.. {
                for statement in step(number) {
                    query(&socket, 5432, &statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        }));
    }

    fn done(&self) -> Vec<u64> {
        self.done.iter().map(|done| done.load(Ordering::Relaxed)).collect()
    }

    /// Waits until every thread has gone on.
    fn goes_on(&self, primary: &Cluster) {
        let before = self.done();
        primary.wait_until("the storm goes on", |_| self.done().iter().zip(&before).all(|(now, then)| now > then));
    }

    fn settle(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        println!("statements of the storm: {:?}", self.done());
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What a backup may hold, and what it must.
struct Taken {
    id: String,
    mark: usize,
    /// Bookings before it began, and after its end.
    bookings: (u64, u64),
}

fn bookings(primary: &Cluster) -> u64 {
    primary.value("SELECT count(*) FROM bookings").parse().unwrap()
}

fn take(primary: &Cluster, mark: usize) -> Taken {
    primary.sql(&format!("INSERT INTO marks VALUES ({mark})"));
    let before = bookings(primary);
    let told = primary.walden(&["backup-push", primary.data().to_str().unwrap(), "--json"]).run().code(0);
    assert_eq!(told.json()["pages"]["damaged"], 0, "{told}");
    let id = told.json()["id"].as_str().unwrap().to_owned();
    Taken { id, mark, bookings: (before, bookings(primary)) }
}

/// A copy with the tablespaces beside it, started, and examined from end to end.
fn examined(postgres: &Postgres, place: &Place, options: &[&str], examine: impl Fn(&Cluster)) {
    let copy = restored(postgres, place, &[options, &["--tablespace-root", "spaces"]].concat());
    copy.verify_backup();
    let mut copy = recovered(copy);
    examine(&copy);
    let purses = TABLES.map(|table| format!("SELECT * FROM {table}")).join(" UNION ALL ");
    let whole = format!("{PURSES}:{PURSES}:{MONEY}");
    let found = format!("SELECT concat_ws(':', count(*), count(DISTINCT id), sum(money)) FROM ({purses}) AS purses");
    assert_eq!(copy.value(&found), whole);
    assert_eq!(copy.value("SELECT count(*) FROM passing"), "0", "unlogged tables are empty after a recovery");
    copy.check_relations();
    copy.stop();
    copy.verify_checksums();
}

#[test]
fn every_backup_taken_in_a_storm_restores_to_its_end_with_the_books_balanced_and_each_page_sound() {
    let mut random = Random::announced();
    in_turn(|postgres, place| {
        let primary = Cluster::primary(postgres, place);
        lay_out(&primary);
        let load = Load::start(&primary);
        let storm = Storm::rise(&primary, &mut random);
        let taken: Vec<Taken> = (1..=times(5))
            .map(|mark| {
                storm.goes_on(&primary);
                take(&primary, mark)
            })
            .collect();
        storm.settle();
        let booked = load.stop();
        primary.archive_all();
        println!("{booked} bookings, {} backups", taken.len());

        for backup in &taken {
            let moment = ["--target-immediate", "--target-action", "promote"];
            examined(postgres, place, &[&[backup.id.as_str()], &moment[..]].concat(), |copy| {
                let found = audit(copy);
                let (least, most) = backup.bookings;
                assert!((least..=most).contains(&found), "{found} bookings, not {least} to {most}");
                let marks = copy.value("SELECT concat_ws(':', count(*), max(mark)) FROM marks");
                assert_eq!(marks, format!("{0}:{0}", backup.mark));
            });
        }
        examined(postgres, place, &[], |copy| assert_eq!(audit(copy), booked));
    });
}

/// The `init` fork of an index on an unlogged table comes when the index is built. A server does not start that recovers
/// with a main fork that was there before its `init` fork.
#[test]
fn indexes_of_unlogged_tables_that_are_built_during_a_backup_do_not_stop_its_recovery() {
    in_turn(|postgres, place| {
        let primary = Cluster::primary(postgres, place);
        let gate = primary.directory("gate");
        let elsewhere = primary.directory("elsewhere");
        primary.sql(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", elsewhere.display()));
        primary.sql(&format!(
            "CREATE FUNCTION gated(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN \
             WHILE (pg_stat_file('{}/open', true)).size IS NULL LOOP PERFORM pg_sleep(0.01); END LOOP; \
             RETURN n; END $$;\
             CREATE UNLOGGED TABLE passing AS SELECT generate_series(1, 1000) AS n;\
             CREATE TABLE noise AS SELECT sha256(n::text::bytea) AS bytes FROM generate_series(1, 300000) n",
            gate.display()
        ));
        let building: Vec<JoinHandle<()>> =
            ["near ON passing (gated(n))", "far ON passing (gated(n)) TABLESPACE elsewhere"]
                .map(|index| {
                    let socket = primary.socket();
                    std::thread::spawn(move || drop(query(&socket, 5432, &format!("CREATE INDEX {index}")).unwrap()))
                })
                .into();
        primary.wait_until("the indexes are being built", |primary| {
            primary.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "2"
        });
        let data = primary.data();
        let slowly = ["backup-push", data.to_str().unwrap(), "--part-size", "1MiB", "--max-rate", "4MiB"];
        let backup = primary.walden(&slowly);
        let backup = std::thread::spawn(move || backup.run());
        primary.wait_until("files are being copied", |_| place.keys().iter().any(|key| key.contains("/v0/")));
        std::fs::write(gate.join("open"), "").unwrap();
        building.into_iter().for_each(|built| built.join().unwrap());
        assert!(!backup.is_finished(), "the indexes were built too late");
        backup.join().unwrap().code(0);
        primary.archive_all();

        for moment in [&["--target-immediate", "--target-action", "promote"][..], &[]] {
            let copy = restored(postgres, place, &[moment, &["--tablespace-root", "spaces"]].concat());
            copy.verify_backup();
            let copy = recovered(copy);
            copy.sql("INSERT INTO passing SELECT generate_series(1, 500)");
            let found = copy.value("SET enable_seqscan = off; SELECT count(*) FROM passing WHERE gated(n) > 0");
            assert_eq!(found, "500");
            copy.check_relations();
        }
    });
}
