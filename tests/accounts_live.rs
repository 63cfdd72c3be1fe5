//! WAL from account A feeds a standby in account B: real servers, on MiniStack, with roles that are taken away and given
//! back, and sessions of seconds.
//!
//! `scripts/test` starts the service.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use serde_json::{Value, json};

use support::cluster::{Cluster, Postgres};
use support::front::{Front, Script, Way};
use support::load::{Load, audit, open_books};
use support::ministack::{Account, Keys, Ministack};
use support::place::Place;
use support::stories::{back_up, recovered, restored, started};

const EXTERNAL_ID: &str = "walden-e2e";

/// Two accounts, their bucket, and the two ways to it.
struct Story {
    service: &'static Ministack,
    a: Account,
    b: Account,
    bucket: String,
    writer: Keys,
    reader: Keys,
}

impl Story {
    /// The accounts are this story's alone.
    fn begin(a: &'static str, b: &'static str) -> Option<Story> {
        let service = Ministack::shared()?;
        let (a, b) = (service.account(a), service.account(b));
        let bucket = format!("story-{}", a.id);
        a.make_bucket(&bucket);
        let story = |role: &str, user: &str, policy: &Value| {
            let role = a.make_role(role, &trust(b.id, EXTERNAL_ID), &policy.to_string());
            b.make_user(user, Some(&may_assume(&role).to_string()))
        };
        let writer = story("writer", "primary", &objects(&bucket, &["s3:PutObject", "s3:GetObject"]));
        let reader = story("reader", "standby", &objects(&bucket, &["s3:GetObject"]));
        Some(Story { service, a, b, bucket, writer, reader })
    }

    /// The archive of this version's clusters, to whoever has these keys and takes on this role, with more of what a role
    /// can have.
    fn place(&self, postgres: &Postgres, keys: &Keys, role: &str, more: &str) -> Place {
        let mut env = self.service.env();
        env.extend(keys.env());
        env.push(("WALDEN_PREFIX", format!("s3://{}/main/{}", self.bucket, postgres.major)));
        env.push(("WALDEN_ASSUME_ROLE", format!("arn:aws:iam::{}:role/{role}{more}", self.a.id)));
        env.push(("WALDEN_EXTERNAL_ID", EXTERNAL_ID.to_owned()));
        Place::Elsewhere(env)
    }

    fn sessions(&self, keys: &Keys) -> usize {
        self.service.asked_for_tokens(keys, &self.b)
    }
}

fn policy(statements: Value) -> Value {
    json!({"Version": "2012-10-17", "Statement": statements})
}

fn trust(account: &str, external_id: &str) -> String {
    let condition = json!({"StringEquals": {"sts:ExternalId": external_id}});
    let principal = json!({"AWS": format!("arn:aws:iam::{account}:root")});
    policy(json!([{"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole", "Condition": condition}]))
        .to_string()
}

fn may_assume(role: &str) -> Value {
    policy(json!([{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": role}]))
}

fn objects(bucket: &str, actions: &[&str]) -> Value {
    policy(json!([
        {"Effect": "Allow", "Action": actions, "Resource": format!("arn:aws:s3:::{bucket}/main/*")},
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": format!("arn:aws:s3:::{bucket}")},
    ]))
}

fn nothing() -> String {
    policy(json!([{"Effect": "Deny", "Action": "*", "Resource": "*"}])).to_string()
}

fn marks(cluster: &Cluster) -> usize {
    cluster.value("SELECT count(*) FROM marks").parse().unwrap()
}

/// One more row, in the archive.
fn mark(primary: &Cluster) -> usize {
    primary.sql("INSERT INTO marks VALUES (1)");
    primary.archive_all();
    marks(primary)
}

/// A standby that has met a trouble which its log names in this way; it stays what it is.
fn meets(standby: &mut Cluster, trouble: &str) {
    let before = standby.log().len();
    standby.wait_until(trouble, |standby| standby.log()[before..].matches(trouble).count() >= 2);
    assert!(standby.is_running() && standby.is_in_recovery());
    assert!(!standby.log().contains("FATAL:  could not restore"), "{}", standby.log());
}

#[test]
fn a_standby_of_another_account_follows_outlives_every_refusal_and_catches_up() {
    let Some(story) = Story::begin("411111111111", "422222222222") else { return };
    for postgres in Postgres::each() {
        println!("-- PostgreSQL {}", postgres.major);
        let primary = Cluster::primary(&postgres, &story.place(&postgres, &story.writer, "writer", ""));
        primary.sql("CREATE TABLE marks (mark int)");
        back_up(&primary).stderr_is("");
        // No session of the standby outlives the call that began it, so that each refusal is met at once.
        let standby =
            restored(&postgres, &story.place(&postgres, &story.reader, "reader", ";duration=3s"), &["--standby"]);
        let mut standby = started(standby);
        let caught_up = |standby: &Cluster, rows: usize| {
            standby.wait_until("the standby follows", |standby| {
                standby.try_sql("SELECT FROM marks").is_ok() && marks(standby) == rows
            });
        };
        caught_up(&standby, mark(&primary));

        // A takes the role from B.
        story.a.set_trust("reader", &trust(story.b.id, "another"));
        let rows = mark(&primary);
        meets(&mut standby, "not authorized to perform: sts:AssumeRole");
        story.a.set_trust("reader", &trust(story.b.id, EXTERNAL_ID));
        caught_up(&standby, rows);

        // B takes it from its standby.
        story.b.set_user_policy("standby", &nothing());
        let rows = mark(&primary);
        meets(&mut standby, "HINT:  Allow");
        story
            .b
            .set_user_policy("standby", &may_assume(&format!("arn:aws:iam::{}:role/reader", story.a.id)).to_string());
        caught_up(&standby, rows);

        // The role may no longer do what it is there for.
        story.a.set_role_policy("reader", &nothing());
        let rows = mark(&primary);
        meets(&mut standby, "s3:GetObject");
        story.a.set_role_policy("reader", &objects(&story.bucket, &["s3:GetObject"]).to_string());
        caught_up(&standby, rows);
        assert!(standby.is_in_recovery());
    }
}

#[test]
fn an_archiver_that_is_refused_fails_is_counted_and_goes_on_by_itself() {
    let Some(story) = Story::begin("431111111111", "432222222222") else { return };
    for postgres in Postgres::each() {
        let primary = Cluster::primary(&postgres, &story.place(&postgres, &story.writer, "writer", ";duration=3s"));
        primary.sql("CREATE TABLE marks (mark int)");
        mark(&primary);
        story.a.set_trust("writer", &trust(story.b.id, "another"));
        primary.sql("INSERT INTO marks VALUES (1); SELECT pg_switch_wal()");
        primary.wait_until("failures are counted", |primary| {
            primary.value("SELECT failed_count > 0 FROM pg_stat_archiver") == "t"
        });
        assert!(primary.log().contains("failed with exit code 4"), "{}", primary.log());
        story.a.set_trust("writer", &trust(story.b.id, EXTERNAL_ID));
        mark(&primary);
    }
}

#[test]
fn one_session_serves_many_processes() {
    let Some(story) = Story::begin("441111111111", "442222222222") else { return };
    let postgres = &Postgres::each()[0];
    let primary = Cluster::primary(postgres, &story.place(postgres, &story.writer, "writer", ""));
    primary.sql("CREATE TABLE marks (mark int)");
    back_up(&primary);
    for _ in 0..20 {
        mark(&primary);
    }
    // The server's environment and that of whoever takes the backup are two, and do not know of each other.
    assert_eq!(story.sessions(&story.writer), 2);
    let standby = started(restored(postgres, &story.place(postgres, &story.reader, "reader", ""), &["--standby"]));
    standby.wait_until("the standby follows", |standby| marks(standby) == 20);
    assert_eq!(story.sessions(&story.reader), 2);
}

#[test]
fn sessions_of_seconds_are_renewed_in_the_middle_of_a_backup_and_of_a_restore() {
    let Some(story) = Story::begin("451111111111", "452222222222") else { return };
    let postgres = &Postgres::each()[0];
    let primary = Cluster::primary(postgres, &story.place(postgres, &story.writer, "writer", ""));
    open_books(&primary);
    primary.archive_all();
    let briefly = |keys: &Keys, role: &str| story.place(postgres, keys, role, ";duration=3s");

    // A backup that has to wait for its WAL.
    let gate = primary.directory("gate").join("open");
    let held = format!("archive_command = 'test -e {} && {}'\n", gate.display(), primary.archive_command());
    primary.configure(&held);
    primary.sql("SELECT pg_reload_conf()");
    let load = Load::start(&primary);
    let before = story.sessions(&story.writer);
    let data = primary.data();
    let push = ["backup-push", data.to_str().unwrap(), "--workers", "4"];
    let push = primary.walden(&push).envs(briefly(&story.writer, "writer").env());
    let pushed = std::thread::spawn(|| push.run());
    primary
        .wait_until("the session is renewed", |_| pushed.is_finished() || story.sessions(&story.writer) >= before + 4);
    std::fs::write(&gate, "").unwrap();
    // Wakes the archiver, which has given up for a minute.
    primary.archive_all();
    let pushed = pushed.join().unwrap().code(0);
    // It may have seen the archiver fail, and says so then.
    assert!(
        pushed.stderr.lines().all(|line| line.contains("WARN the backup waits for its WAL, and archiving")),
        "{pushed}"
    );
    let booked = load.stop();
    primary.archive_all();

    // A restore that is slow.
    let front = Front::start(story.service.address());
    front.always(Script { down: Way { bandwidth: Some(128 << 10), ..Way::default() }, ..Script::default() });
    let before = story.sessions(&story.reader);
    let place = briefly(&story.reader, "reader");
    let copy = Cluster::empty(postgres, &place);
    let copied = copy.data();
    let fetch = copy.walden(&["backup-fetch", copied.to_str().unwrap(), "--workers", "1"]);
    fetch.envs(place.env()).env("AWS_ENDPOINT_URL", front.endpoint()).run().code(0).stderr_is("");
    let sessions = story.sessions(&story.reader) - before;
    assert!((2..=30).contains(&sessions), "{sessions} sessions for the restore");
    assert_eq!(audit(&recovered(copy)), booked);
}
