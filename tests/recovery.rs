//! Recovery honesty: what real servers make of wal-fetch's answers. The four cases, a recovery or a standby that meets an
//! outage or the true end of the archive, for each kind of outage and each major version in `PG_VERSIONS`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::time::Duration;

use support::cluster::{Cluster, Postgres};
use support::patience::wait_until;
use support::place::Place;
use support::s3::{Fault, On, Op};
use support::stories::{back_up, restored, started, wait_for_promotion};

const MARKS: &str = "SELECT count(*) FROM marks";

/// The segments that are archived after the backup, with one marked row each.
const SEGMENTS: usize = 8;

/// The one that the outage keeps back.
const LOST: usize = 4;

/// How a service is out of reach.
#[derive(Clone, Copy, Debug)]
enum Outage {
    Throttled,
    Denied,
    /// It takes the request, and then nothing comes any more.
    Stalled,
    /// Connections are cut, and new ones refused.
    Down,
}

struct Story {
    postgres: Postgres,
    place: Place,
    primary: Cluster,
    /// The name of the segment that the outage keeps back.
    lost: String,
}

/// For each major version: a backup and then [`SEGMENTS`] segments in an archive.
fn each(story: impl Fn(&Story)) {
    for postgres in Postgres::each() {
        println!("-- PostgreSQL {}", postgres.major);
        let place = Place::fronted();
        let primary = Cluster::primary(&postgres, &place);
        primary.sql("CREATE TABLE marks (mark int)");
        back_up(&primary);
        let mut lost = String::new();
        for mark in 1..=SEGMENTS {
            primary.sql(&format!("INSERT INTO marks VALUES ({mark})"));
            if mark == LOST {
                lost = primary.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
            }
            primary.archive_all();
        }
        story(&Story { postgres, place, primary, lost });
    }
}

impl Story {
    /// The requests for the lost segment from now on fail. The rest is as it was, so that all servers come to this point.
    fn begin(&self, outage: Outage) {
        let fault = match outage {
            Outage::Throttled => Fault::Status(503, "SlowDown"),
            Outage::Denied => Fault::Status(403, "AccessDenied"),
            Outage::Stalled | Outage::Down => Fault::Stall(Duration::from_secs(3600)),
        };
        self.place.service().forget_requests();
        self.place.service().fail_always(On::op(Op::Get).key(&self.lost), fault);
    }

    fn asked(&self) -> usize {
        let requests = self.place.service().requests();
        requests.iter().filter(|request| request.key.contains(&self.lost)).count()
    }

    /// For a service that is to go down: it does so when the lost segment is asked for, in the midst of the answer.
    fn go_down(&self, outage: Outage, ended: impl Fn() -> bool) {
        if let Outage::Down = outage {
            wait_until("the lost segment is asked for", || self.asked() > 0 || ended());
            self.place.front().close();
        }
    }

    fn end(&self, outage: Outage) {
        self.place.service().heal();
        if let Outage::Down = outage {
            self.place.front().open();
        }
    }

    fn has_second_timeline(&self) -> bool {
        self.place.keys().iter().any(|key| key.ends_with("00000002.history"))
    }
}

/// No copy of an archive may archive into it.
fn copy(story: &Story, options: &[&str]) -> Cluster {
    let copy = restored(&story.postgres, &story.place, options);
    copy.configure("archive_mode = off\n");
    copy
}

fn rows(server: &Cluster) -> usize {
    server.value(MARKS).parse().unwrap()
}

/// A recovery that meets an outage stops; started again when it is over, it ends with every row.
fn recovery_stops_and_goes_on(outage: Outage) {
    each(|story| {
        let mut recovery = copy(story, &[]).env("WALDEN_RETRY_TIMEOUT", "1s");
        story.begin(outage);
        let code = std::thread::scope(|scope| {
            let server = scope.spawn(|| recovery.run_to_its_end());
            story.go_down(outage, || server.is_finished());
            server.join().unwrap()
        });
        assert_eq!(code, Some(1), "{}", recovery.log());
        assert!(recovery.log().contains("exit code 200"), "{}", recovery.log());
        assert!(recovery.data().join("recovery.signal").exists(), "it was not promoted");

        story.end(outage);
        // A busy machine is no outage.
        let recovery = started(recovery.env("WALDEN_RETRY_TIMEOUT", "60s"));
        wait_for_promotion(&recovery);
        assert_eq!(rows(&recovery), SEGMENTS);
    });
}

/// A standby that meets an outage stays up, and catches up when it is over.
fn standby_stays_and_catches_up(outage: Outage) {
    each(|story| {
        let standby = copy(story, &["--standby"]).env("WALDEN_RETRY_TIMEOUT", "1s");
        story.begin(outage);
        let mut standby = started(standby);
        story.go_down(outage, || false);
        let failures =
            |standby: &Cluster| standby.log().matches(&format!("could not fetch \"{}\"", story.lost)).count();
        standby.wait_until("the standby meets the outage", |standby| failures(standby) >= 2);
        assert!(standby.is_running() && standby.is_in_recovery());
        assert!(rows(&standby) < SEGMENTS);
        assert!(!standby.log().contains("FATAL:  could not restore"), "{}", standby.log());

        story.end(outage);
        standby.wait_until("the standby catches up", |standby| rows(standby) == SEGMENTS);
        assert!(standby.is_running() && standby.is_in_recovery());
        story.primary.sql("INSERT INTO marks VALUES (0)");
        story.primary.archive_all();
        standby.wait_until("the standby follows", |standby| rows(standby) == SEGMENTS + 1);
        assert!(!story.has_second_timeline());
    });
}

#[test]
fn a_recovery_that_is_throttled_stops_and_goes_on() {
    recovery_stops_and_goes_on(Outage::Throttled);
}

#[test]
fn a_recovery_that_is_denied_stops_and_goes_on() {
    recovery_stops_and_goes_on(Outage::Denied);
}

#[test]
fn a_recovery_whose_service_stalls_stops_and_goes_on() {
    recovery_stops_and_goes_on(Outage::Stalled);
}

#[test]
fn a_recovery_whose_service_goes_down_stops_and_goes_on() {
    recovery_stops_and_goes_on(Outage::Down);
}

#[test]
fn a_standby_that_is_throttled_stays_and_catches_up() {
    standby_stays_and_catches_up(Outage::Throttled);
}

#[test]
fn a_standby_that_is_denied_stays_and_catches_up() {
    standby_stays_and_catches_up(Outage::Denied);
}

#[test]
fn a_standby_whose_service_stalls_stays_and_catches_up() {
    standby_stays_and_catches_up(Outage::Stalled);
}

#[test]
fn a_standby_whose_service_goes_down_stays_and_catches_up() {
    standby_stays_and_catches_up(Outage::Down);
}

#[test]
fn at_the_true_end_of_the_archive_a_recovery_opens_with_every_row_and_a_standby_waits_for_more() {
    each(|story| {
        let recovery = started(copy(story, &[]));
        wait_for_promotion(&recovery);
        assert_eq!(rows(&recovery), SEGMENTS);
        let standby = started(copy(story, &["--standby"]));
        standby.wait_until("the standby has all rows", |standby| rows(standby) == SEGMENTS);
        story.primary.sql("INSERT INTO marks VALUES (0)");
        story.primary.archive_all();
        standby.wait_until("the standby follows", |standby| rows(standby) == SEGMENTS + 1);
        assert!(standby.is_in_recovery());
    });
}
