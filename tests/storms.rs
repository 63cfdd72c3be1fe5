//! Storms: many pushes and fetches while the network and the service fail in every way at random. Whatever happens, exit 0
//! is the truth, no listed object is incomplete, and what failed succeeds once the storm is over.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use support::archiver;
use support::front::{Accident, Script, When};
use support::place::Place;
use support::random::Random;
use support::s3::{Fault, On};
use support::scene::{Scene, small};
use support::walden::Ran;

/// As many at once, each with an archive of its own: most of a storm is waiting.
const LANES: u64 = 4;

/// So many fetches belong to one recovery.
const STRETCH: u64 = 10;

/// As many files as wait for the archiver at a time.
const BACKLOG: u64 = 5;

#[test]
fn two_hundred_pushes_and_three_hundred_fetches_in_a_storm_never_lie() {
    let mut random = Random::announced();
    storm(random.next(), 200, 300);
}

#[test]
fn a_storm_that_is_known_never_lies() {
    storm(20261125, 40, 60);
}

fn storm(seed: u64, pushes: u64, fetches: u64) {
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            std::thread::spawn(move || {
                let mut lane = Lane {
                    scene: Scene::new(Place::fronted()),
                    random: Random::from_seed(seed.wrapping_add(lane)),
                    segments: BTreeMap::new(),
                    seen: Vec::new(),
                };
                lane.pushes(pushes / LANES);
                lane.fetches(fetches / LANES);
            })
        })
        .collect();
    let ends: Vec<_> = lanes.into_iter().map(std::thread::JoinHandle::join).collect();
    assert!(ends.iter().all(Result::is_ok), "a lane has failed");
}

struct Lane {
    scene: Scene,
    random: Random,
    /// The content of every segment by its name.
    segments: BTreeMap<String, Vec<u8>>,
    /// Names whose objects have been looked at: objects never change.
    seen: Vec<String>,
}

/// How long a call tries: not long where it may fail.
const IN_THE_STORM: &str = "1500ms";
const CALM: &str = "60s";

impl Lane {
    fn pushes(&mut self, count: u64) {
        for first in (1..=count).step_by(BACKLOG as usize) {
            for number in first..(first + BACKLOG).min(count + 1) {
                let segment = small(number);
                self.scene.write(&segment);
                archiver::offer(&self.scene, &segment.name());
                self.segments.insert(segment.name(), segment.bytes());
            }
            while let Some(name) = archiver::next(&self.scene) {
                // Three tries in the storm, as the archiver makes them, and one when it is over.
                let archived = (0..3).any(|_| {
                    self.brew();
                    self.push(&name, IN_THE_STORM).code == Some(0)
                });
                if !archived {
                    self.push(&name, CALM).code(0);
                }
            }
        }
        assert_eq!(self.scene.archived_names().len() as u64, count);
    }

    /// One call as the archiver makes it; the storm is over afterwards.
    fn push(&mut self, name: &str, patience: &str) -> Ran {
        let push = |name: &str| self.run(&["wal-push", &format!("pg_wal/{name}")], patience);
        let ran = archiver::archive(&self.scene, name, push);
        self.heal();
        assert!(matches!(ran.code, Some(0..=125)), "{ran}");
        if ran.code == Some(0) {
            assert!(self.scene.archived(name).is_some(), "{name} is not in the archive\n{ran}");
        }
        self.look_at_new_objects(&ran);
        ran
    }

    /// What is listed is complete, whether or not a push has said so.
    fn look_at_new_objects(&mut self, ran: &Ran) {
        for name in self.scene.archived_names() {
            if !self.seen.contains(&name) {
                assert!(self.scene.archived(&name).as_ref() == self.segments.get(&name), "{name} is wrong\n{ran}");
                self.seen.push(name);
            }
        }
    }

    fn fetches(&mut self, count: u64) {
        let (mut number, mut recovery) = (1, "");
        for turn in 0..count {
            if turn % STRETCH == 0 {
                recovery = self.begin(recovery);
            }
            // Mostly the next one, as a recovery asks.
            let next = self.random.below(4) > 0;
            number = if next { number + 1 } else { self.random.below(self.segments.len() as u64) + 1 };
            self.brew();
            let name = small(number).name();
            let ran = self.fetch(&name, recovery, IN_THE_STORM);
            if ran.code != Some(0) && self.segments.contains_key(&name) {
                self.fetch(&name, recovery, CALM).code(0);
            }
        }
        self.end(recovery);
        self.scene.wait_until_nothing_runs();
        assert!(!self.scene.wal(".walden/fetched").exists(), "after a recovery nothing is left of it");
    }

    /// From one kind of recovery, or none, to another.
    fn begin(&mut self, before: &str) -> &'static str {
        self.end(before);
        let recovery = self.random.pick(&["", "recovery.signal", "standby.signal"]);
        if !recovery.is_empty() {
            fs::write(self.scene.data.path().join(recovery), "").unwrap();
        }
        recovery
    }

    fn end(&self, recovery: &str) {
        if !recovery.is_empty() {
            fs::remove_file(self.scene.data.path().join(recovery)).unwrap();
        }
    }

    /// One call as the startup process makes it, in this kind of recovery; the storm is over afterwards.
    fn fetch(&mut self, name: &str, recovery: &str, patience: &str) -> Ran {
        let ran = self.run(&["wal-fetch", name, "pg_wal/RECOVERYXLOG"], patience);
        self.heal();
        let (there, fetched) = (self.segments.get(name), self.scene.fetched());
        match ran.code {
            Some(0) => assert!(fetched.is_some() && fetched.as_ref() == there, "wrong content\n{ran}"),
            Some(1) => assert!(there.is_none(), "it is in the archive\n{ran}"),
            Some(200) => assert_eq!(recovery, "recovery.signal", "{ran}"),
            Some(2..=125) => assert_ne!(recovery, "recovery.signal", "{ran}"),
            _ => panic!("{ran}"),
        }
        assert!(ran.code == Some(0) || fetched.is_none(), "a failure hands nothing over\n{ran}");
        ran
    }

    fn run(&self, args: &[&str], patience: &str) -> Ran {
        self.scene.walden(args).env("WALDEN_RETRY_TIMEOUT", patience).run()
    }

    /// Orders what goes wrong next: nothing, or up to three things.
    fn brew(&mut self) {
        for _ in 0..self.random.below(4) {
            if self.random.below(2) == 0 {
                let script = self.network();
                self.scene.place.front().next(script);
            } else {
                let fault = self.service();
                self.scene.s3().fail_next(On::any(), fault);
            }
        }
    }

    fn network(&mut self) -> Script {
        // An object of these segments has some 300 kB.
        let inside = When::Bytes(self.random.below(350_000));
        match self.random.below(100) {
            0..15 => Script::up(When::Bytes(0), Accident::Reset),
            15..30 => Script::up(inside, Accident::Reset),
            30..45 => Script::up(inside, Accident::Cut),
            45..60 => Script::down(When::Bytes(0), Accident::Reset),
            60..75 => Script::down(inside, Accident::Cut),
            75..85 => Script::down(When::AnswerEnds, Accident::Cut),
            85..98 => Script::round_trip(Duration::from_millis(self.random.below(50))),
            // These cost as much time as Walden has patience.
            98 => Script::up(inside, Accident::Stall),
            _ => Script::down(inside, Accident::Trickle(Duration::from_millis(500))),
        }
    }

    fn service(&mut self) -> Fault {
        // Refusals too: they are final for a call, but not for the next one.
        let refusals = [Fault::Status(403, "AccessDenied"), Fault::Status(412, "PreconditionFailed")];
        let faults = [Fault::each(Duration::from_millis(200)), refusals.to_vec()].concat();
        self.random.pick(&faults).clone()
    }

    fn heal(&self) {
        self.scene.place.front().heal();
        self.scene.s3().heal();
    }
}
