//! Backups that cannot be completed, or come to their end before it: it is said early, clearly, and nothing of them is
//! listed as a backup.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::cluster::{Cluster, Postgres};
use support::front::{Front, Script, Way};
use support::load::{fill, open_books};
use support::place::Place;
use support::random::Random;
use support::s3::{Fault, On, Op};
use support::small_disk::SmallDisk;
use support::stories::{back_up, complete_backups, each};
use support::walden::{Ran, Walden};

/// MiB that each slow backup stores at least: more than the parts of 2 MiB that wait or are on their way at the same time,
/// so that the copying lasts as long as the storing.
const FILLING: u32 = 40;

/// Workers of each slow backup, so that what is on its way does not depend on the machine.
const WORKERS: &str = "2";

fn push(cluster: &Cluster, options: &[&str]) -> Walden {
    cluster.walden(&[&["backup-push", cluster.data().to_str().unwrap()], options].concat())
}

/// A server that changes its settings without a restart.
fn set(cluster: &Cluster, name: &str, value: &str) {
    cluster.sql(&format!("ALTER SYSTEM SET {name} = '{value}'"));
    cluster.sql("SELECT pg_reload_conf()");
    cluster.wait_until("the setting holds", |cluster| cluster.value(&format!("SHOW {name}")) == value);
}

/// Something happens in a new segment, and the archiver is called for it.
fn switch(cluster: &Cluster) {
    cluster.sql("SELECT pg_create_restore_point('switch'); SELECT pg_switch_wal()");
}

fn failures(cluster: &Cluster) -> u64 {
    cluster.value("SELECT failed_count FROM pg_stat_archiver").parse().unwrap()
}

fn wait_for_a_failure(cluster: &Cluster) {
    let before = failures(cluster);
    switch(cluster);
    cluster.wait_until("archiving fails", |cluster| failures(cluster) > before);
}

// ---- what can be known before ----

#[test]
fn a_server_whose_archiving_fails_is_refused_at_once_with_the_file_and_how_often() {
    each(|postgres, place| {
        let primary = Cluster::initialized(postgres, place, &[]);
        let works = primary.archive_command();
        let primary = support::stories::started(primary);
        set(&primary, "archive_command", "echo no such place >&2; false");
        wait_for_a_failure(&primary);
        let failed = primary.value("SELECT last_failed_wal FROM pg_stat_archiver");
        let refused = push(&primary, &[]).run().code(8).stderr_has("the server's archiving fails");
        let refused = refused.stderr_has(&format!("archiving {failed} last failed at ")).stderr_has("failed attempts");
        refused.stderr_has("no such place").stderr_has("in the server's log").stderr_has("pg_stat_archiver");
        assert_eq!(place.keys(), [""; 0]);

        set(&primary, "archive_command", &works);
        primary.archive_all();
        back_up(&primary).stderr_is("");
    });
}

#[test]
fn everything_that_a_server_lacks_is_said_in_one_error() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let mut primary = Cluster::initialized(&postgres, &place, &[]);
        primary.configure("archive_mode = off\nwal_level = minimal\nmax_wal_senders = 0\n");
        primary.start();
        let refused = push(&primary, &[]).run().code(8);
        let refused = refused.stderr_has("wal_level is minimal").stderr_has("archive_mode is off");
        refused.stderr_has("Set wal_level = replica").stderr_has("Set archive_mode = on");
        primary.stop();
        primary.configure("archive_mode = on\nwal_level = replica\narchive_command = ''\n");
        primary.start();
        let refused = push(&primary, &[]).run().code(8).stderr_has("neither archive_command nor archive_library");
        refused.stderr_has("pg_reload_conf()");

        let other = Cluster::primary(&postgres, &place);
        primary.walden(&["backup-push", other.data().to_str().unwrap()]).run().code(8).stderr_has("system identifier");
        let version = other.data().join("PG_VERSION");
        fs::set_permissions(&version, Permissions::from_mode(0o000)).unwrap();
        push(&other, &[]).run().code(4).stderr_has("PG_VERSION").stderr_has("sudo -u postgres");
        fs::set_permissions(&version, Permissions::from_mode(0o600)).unwrap();
        back_up(&other).stderr_is("");
    }
}

#[test]
fn a_role_without_rights_is_told_the_grants_that_it_needs_and_they_are_enough() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let primary = Cluster::primary(&postgres, &place);
        primary.sql("CREATE ROLE \"night shift\" LOGIN");
        let attempt = || push(&primary, &[]).env("PGUSER", "night shift").run();
        let refused = attempt().code(4).stderr_has("the user \"night shift\" may not take backups");
        assert_eq!(place.keys(), [""; 0]);
        let (_, grants) = refused.stderr.split_once("names: ").unwrap();
        let settings = grants.split_inclusive(';').next().unwrap();
        primary.sql(settings);
        let refused = attempt().code(4);
        let (_, grants) = refused.stderr.split_once("names: ").unwrap();
        assert!(!grants.contains("pg_read_all_settings"), "{refused}");
        primary.sql(grants);
        attempt().code(0).stderr_is("");
    }
}

#[test]
fn a_server_that_archives_elsewhere_is_warned_of_before_the_wait_in_vain() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let primary = Cluster::primary(&postgres, &place);
        set(&primary, "archive_command", "true");
        primary.archive_all();
        let ran = push(&primary, &["--wal-timeout", "1s"]).run().code(9);
        ran.stderr_has("the server has archived").stderr_has("wait for its WAL in vain");
        assert_eq!(complete_backups(&primary), 0);
    }
}

// ---- what happens meanwhile ----

/// A primary with enough to copy, whose backups take this front's time.
struct Slow {
    place: Place,
    primary: Cluster,
    front: Front,
}

impl Slow {
    /// With connections, four as a rule, of so many bytes a second each.
    fn of(postgres: &Postgres, bandwidth: u64) -> Slow {
        let place = Place::s3();
        let primary = Cluster::primary(postgres, &place);
        fill(&primary, FILLING);
        primary.archive_all();
        let front = Front::start(place.service().address());
        front.always(Script { up: Way { bandwidth: Some(bandwidth), ..Way::default() }, ..Script::default() });
        Slow { place, primary, front }
    }

    /// The backups of which parts have come to the store's door.
    fn seen(&self) -> BTreeSet<String> {
        let requests = self.place.service().requests();
        let of_parts = requests.iter().filter(|request| request.op == Op::Put && request.key.contains("/v"));
        of_parts.filter_map(|request| Some(request.key.rsplit('/').nth(2)?.to_owned())).collect()
    }

    /// Begins a backup, and returns when its first parts are on their way.
    fn begin(&self, options: &[&str]) -> JoinHandle<Ran> {
        let before = self.seen();
        let slow = push(&self.primary, &[&["--part-size", "2MiB", "--workers", WORKERS], options].concat());
        let slow = slow.env("AWS_ENDPOINT_URL", self.front.endpoint());
        let slow = std::thread::spawn(move || slow.run());
        self.primary.wait_until("parts are on their way", |_| !self.seen().is_subset(&before));
        slow
    }
}

/// How the process ended, which it does long before the copying could have: that takes 50 s.
fn ended_early(slow: JoinHandle<Ran>, began: Instant) -> Ran {
    let ran = slow.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{ran}");
    ran
}

#[test]
fn a_backup_outlasts_every_timeout_that_the_server_sets_for_sessions() {
    for postgres in Postgres::each() {
        let slow = Slow::of(&postgres, 500_000);
        let mut settings = vec!["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"];
        settings.extend((postgres.major >= 14).then_some("idle_session_timeout"));
        settings.extend((postgres.major >= 17).then_some("transaction_timeout"));
        for setting in settings {
            slow.primary.sql(&format!("ALTER ROLE postgres SET {setting} = '2s'"));
        }
        let began = Instant::now();
        slow.begin(&[]).join().unwrap().code(0).stderr_is("");
        assert!(began.elapsed() > Duration::from_secs(4), "the copying was too quick to prove anything");
        assert_eq!(complete_backups(&slow.primary), 1);
    }
}

#[test]
fn a_server_that_stops_ends_the_backup_within_seconds_and_the_next_one_succeeds() {
    for postgres in Postgres::each() {
        let mut slow = Slow::of(&postgres, 200_000);
        for way in [Signal::INT, Signal::QUIT, Signal::KILL] {
            let running = slow.begin(&[]);
            let began = Instant::now();
            match way {
                Signal::INT => slow.primary.stop(),
                Signal::QUIT => slow.primary.stop_at_once(),
                _ => slow.primary.kill(),
            }
            let ran = ended_early(running, began).code(5).stderr_has("the session with PostgreSQL has ended");
            ran.stderr_has("pg_isready");
            slow.primary.start();
            assert_eq!(complete_backups(&slow.primary), 0);
        }
        let running = slow.begin(&[]);
        let began = Instant::now();
        let ended = slow.primary.value(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE application_name = 'walden'",
        );
        assert_eq!(ended, "1");
        ended_early(running, began).code(5).stderr_has("terminating connection due to administrator command");
        assert_eq!(complete_backups(&slow.primary), 0);
        back_up(&slow.primary);
        assert_eq!(complete_backups(&slow.primary), 1);
    }
}

/// The server's process is stopped while it has nothing to do, so that the end of the copying waits for it.
#[test]
fn a_session_that_is_lost_between_the_copying_and_the_end_of_the_backup_mode_leaves_no_backup() {
    for postgres in Postgres::each() {
        let slow = Slow::of(&postgres, 800_000);
        let running = slow.begin(&[]);
        let pid = slow.primary.value("SELECT pid FROM pg_stat_activity WHERE application_name = 'walden'");
        let session = Pid::from_raw(pid.parse().unwrap()).unwrap();
        kill_process(session, Signal::STOP).unwrap();
        let parts = || slow.place.keys().iter().filter(|key| key.contains("/backup/")).count();
        let mut last = (parts(), Instant::now());
        while last.1.elapsed() < Duration::from_secs(6) {
            std::thread::sleep(Duration::from_millis(50));
            if parts() != last.0 {
                last = (parts(), Instant::now());
            }
        }
        assert!(!running.is_finished() && last.0 > 8, "{} parts", last.0);
        kill_process(session, Signal::TERM).unwrap();
        kill_process(session, Signal::CONT).unwrap();
        running.join().unwrap().code(5).stderr_has("terminating connection due to administrator command");
        assert_eq!(complete_backups(&slow.primary), 0);
        back_up(&slow.primary);
    }
}

#[test]
fn sessions_that_are_ended_at_random_moments_leave_complete_backups_or_none() {
    for postgres in Postgres::each() {
        let mut random = Random::announced();
        let place = Place::directory();
        let primary = Cluster::primary(&postgres, &place);
        open_books(&primary);
        back_up(&primary);
        let mut complete = 1;
        for _ in 0..12 {
            let running = push(&primary, &[]);
            let running = std::thread::spawn(move || running.run());
            std::thread::sleep(Duration::from_millis(random.below(1200)));
            primary.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'walden'");
            let ran = running.join().unwrap();
            complete += usize::from(ran.code == Some(0));
            assert!(matches!(ran.code, Some(0 | 5)), "{ran}");
            assert_eq!(complete_backups(&primary), complete, "{ran}");
        }
        back_up(&primary);
    }
}

#[test]
fn a_backup_whose_wal_cannot_be_archived_says_so_while_it_waits_and_in_its_end() {
    for postgres in Postgres::each() {
        let slow = Slow::of(&postgres, 500_000);
        let running = slow.begin(&["--wal-timeout", "20s"]);
        set(&slow.primary, "archive_command", "false");
        let ran = running.join().unwrap().code(9).stderr_has("WARN the backup waits for its WAL, and archiving");
        let (_, end) = ran.stderr.split_once("ERROR:").unwrap();
        assert!(end.contains("last failed at") && end.contains("failed attempts"), "{ran}");
        assert_eq!(complete_backups(&slow.primary), 0);
    }
}

#[test]
fn a_backup_whose_server_goes_away_while_it_waits_goes_on_looking_in_the_archive() {
    for postgres in Postgres::each() {
        let mut slow = Slow::of(&postgres, 500_000);
        let works = slow.primary.archive_command();
        let running = slow.begin(&["--wal-timeout", "100s"]);
        set(&slow.primary, "archive_command", "false");
        slow.front.heal();
        let ended = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walden' \
            AND query LIKE '%pg_stat_archiver%'";
        slow.primary.wait_until("the backup waits for its WAL", |primary| primary.value(ended) == "1");
        slow.primary.stop();
        slow.primary.start();
        assert!(!running.is_finished());
        set(&slow.primary, "archive_command", &works);
        slow.primary.archive_all();
        let ran = running.join().unwrap().code(0);
        ran.stderr_has("the server can no longer be asked, only the archive");
        assert_eq!(complete_backups(&slow.primary), 1);
    }
}

#[test]
fn of_two_backups_at_once_the_second_is_told_of_the_first() {
    for postgres in Postgres::each() {
        // A minute and more, for the second one waits a while for its turn.
        let slow = Slow::of(&postgres, 150_000);
        let first = slow.begin(&[]);
        let pid = slow.primary.value("SELECT pid FROM pg_stat_activity WHERE application_name = 'walden'");
        for database in ["postgres", "template1"] {
            let refused = push(&slow.primary, &[]).env("PGDATABASE", database).run().code(8);
            let refused = refused.stderr_has("another backup of this server is being taken");
            refused
                .stderr_has(&format!("process {pid} (\"walden\"), connected since 2"))
                .stderr_has("terminate_backend");
        }
        slow.front.heal();
        first.join().unwrap().code(0).stderr_is("");
        back_up(&slow.primary).stderr_is("");
        assert_eq!(complete_backups(&slow.primary), 2);
    }
}

// ---- what fails on the way ----

#[test]
fn a_part_or_a_manifest_that_the_store_refuses_leaves_no_backup() {
    for postgres in Postgres::each() {
        let place = Place::s3();
        let primary = Cluster::primary(&postgres, &place);
        open_books(&primary);
        for (complete, key) in ["/v0/000000", "/files", "/backup.json"].into_iter().enumerate() {
            place.service().fail_always(On::op(Op::Put).key(key), Fault::Status(403, "AccessDenied"));
            push(&primary, &[]).run().code(4).stderr_has(key).stderr_has("s3:PutObject");
            place.service().heal();
            assert_eq!(complete_backups(&primary), complete, "{key}");
            back_up(&primary);
            assert_eq!(complete_backups(&primary), complete + 1, "{key}");
        }
    }
}

#[test]
fn a_file_that_may_not_be_read_ends_the_backup_with_its_name() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let primary = Cluster::primary(&postgres, &place);
        open_books(&primary);
        primary.sql("CHECKPOINT");
        let path = primary.value("SELECT pg_relation_filepath('accounts')");
        let file: PathBuf = primary.data().join(&path);
        fs::set_permissions(&file, Permissions::from_mode(0o000)).unwrap();
        push(&primary, &[]).run().code(4).stderr_has(&path).stderr_has("ermission denied");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(complete_backups(&primary), 0);
        back_up(&primary);
    }
}

#[test]
fn an_archive_that_is_full_ends_the_backup_and_with_some_room_the_next_one_succeeds() {
    let Some(disk) = SmallDisk::of(200 << 20) else { return };
    for postgres in Postgres::each() {
        let place = Place::Directory(disk.directory());
        let primary = Cluster::primary(&postgres, &place);
        fill(&primary, FILLING);
        primary.archive_all();
        disk.fill_up_to(8 << 20);
        let ran = push(&primary, &["--part-size", "2MiB"]).run().code(10);
        ran.stderr_has("No space left on device").stderr_has("Free some space");
        assert_eq!(complete_backups(&primary), 0);
        disk.free();
        primary.archive_all();
        back_up(&primary);
        assert_eq!(complete_backups(&primary), 1);
    }
}
