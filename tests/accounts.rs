//! docs/aws.md, run as it is printed: every policy and every setting on the page, taken from it and put to work on
//! MiniStack, and what each identity must not do refused.
//!
//! `scripts/test` starts the service.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard};

use support::forge::Segment;
use support::ministack::{Account, Keys, Ministack, kms};
use support::place::Place;
use support::scene::Scene;
use support::walden::{Ran, Walden};

/// The accounts of the page.
const A: &str = "111111111111";
const B: &str = "222222222222";
const BUCKET: &str = "example-backups";

/// The named blocks of the page: policies and settings.
fn page() -> BTreeMap<String, String> {
    let text = include_str!("../docs/aws.md");
    let blocks = text.split("<!-- block: ").skip(1).map(|rest| {
        let (name, rest) = rest.split_once(" -->\n```").unwrap();
        let (_, rest) = rest.split_once('\n').unwrap();
        (name.to_owned(), rest.split_once("\n```").unwrap().0.to_owned())
    });
    blocks.collect()
}

fn block(name: &str) -> String {
    page().remove(name).unwrap_or_else(|| panic!("docs/aws.md has no block {name}"))
}

/// A block of settings, one a line.
fn settings(name: &str) -> Vec<(String, String)> {
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap();
    block(name).lines().map(pair).collect()
}

/// The accounts as the page makes them, one time for all tests.
struct Accounts {
    service: &'static Ministack,
    a: Account,
    b: Account,
}

/// MiniStack forgets sessions that have ended when somebody takes another one, and then does not know their keys.
static SESSIONS: RwLock<()> = RwLock::new(());

/// The accounts, while sessions are taken as one likes.
fn accounts() -> Option<(&'static Accounts, RwLockReadGuard<'static, ()>)> {
    Some((made()?, SESSIONS.read().unwrap_or_else(PoisonError::into_inner)))
}

fn made() -> Option<&'static Accounts> {
    static MADE: OnceLock<Option<Accounts>> = OnceLock::new();
    MADE.get_or_init(|| {
        let service = Ministack::shared()?;
        let made = Accounts { service, a: service.account(A), b: service.account(B) };
        made.a.make_bucket(BUCKET);
        made.a.make_role("walden-reader", &block("trust-reader"), &block("reader"));
        made.a.make_role("walden-writer", &block("trust-writer"), &block("writer"));
        Some(made)
    })
    .as_ref()
}

impl Accounts {
    /// A server of the cluster `system` that has these settings of the page and these keys.
    fn server(&self, system: u64, named: &str, keys: &Keys) -> Server {
        let mut env = self.service.env();
        // Settings of the page go over those of the service, whose region is the same.
        let printed: Vec<(String, String)> = settings(named);
        assert!(printed.contains(&("AWS_REGION".to_owned(), support::ministack::REGION.to_owned())));
        env.extend(printed.into_iter().map(|(name, value)| (&*name.leak(), value)));
        env.extend(keys.env());
        Server::new(system, env)
    }

    /// Whether these keys may delete an object of the archive.
    fn may_delete(&self, keys: &Keys) -> bool {
        match self.service.s3(keys, "DELETE", &format!("{BUCKET}/main/nothing"), "") {
            Ok(_) => true,
            Err(error) => {
                assert!(error.contains("AccessDenied"), "{error}");
                false
            }
        }
    }
}

/// Forged files of one cluster, and walden under one identity.
struct Server(Scene, u64);

impl Server {
    fn new(system: u64, env: Vec<(&'static str, String)>) -> Server {
        Server(Scene::of(Place::Elsewhere(env), &segment(system, 1)), system)
    }

    fn with(self, name: &'static str, value: &str) -> Server {
        let Place::Elsewhere(mut env) = self.0.place else { unreachable!() };
        env.push((name, value.to_owned()));
        Server::new(self.1, env)
    }

    fn walden(&self, args: &[&str]) -> Walden {
        // With this budget a refusal that is tried again ends with the test's deadline, not with its answer.
        self.0.walden(args).env("WALDEN_RETRY_TIMEOUT", "1h").env("WALDEN_PUSH_TIMEOUT", "1h")
    }

    fn push(&self, number: u64) -> Ran {
        let name = self.0.write(&segment(self.1, number));
        self.walden(&["wal-push", &format!("pg_wal/{name}")]).run()
    }

    fn fetch(&self, number: u64) -> Ran {
        self.walden(&["wal-fetch", &segment(self.1, number).name(), "pg_wal/RECOVERYXLOG"]).run()
    }

    /// Fetches it, and has got what the primary pushed.
    fn gets(&self, number: u64) {
        self.fetch(number).code(0);
        assert!(self.0.fetched().unwrap() == segment(self.1, number).bytes());
    }
}

fn segment(system_id: u64, number: u64) -> Segment {
    Segment { size: 1 << 20, number, seed: number, system_id, ..Segment::default() }
}

#[test]
fn every_block_of_the_page_is_used_here() {
    let used: BTreeSet<String> = include_str!("accounts.rs")
        .split(['(', ' '])
        .filter_map(|word| word.strip_prefix('"')?.split_once('"').map(|(name, _)| name.to_owned()))
        .collect();
    let printed = page();
    assert!(printed.len() >= 12, "{printed:?}");
    let unused: Vec<_> = printed.keys().filter(|name| !used.contains(*name)).collect();
    assert!(unused.is_empty(), "{unused:?}");
    // A policy without a name would be one that nobody has tried.
    assert_eq!(
        include_str!("../docs/aws.md").matches("```json").count(),
        printed.values().filter(|text| text.starts_with('{')).count()
    );
}

#[test]
fn in_one_account_the_writer_archives_the_reader_reads_and_neither_does_more() {
    let Some((accounts, _sessions)) = accounts() else { return };
    let writer = accounts.a.make_user("writer", Some(&block("writer")));
    let reader = accounts.a.make_user("reader", Some(&block("reader")));
    let primary = accounts.server(1001, "here", &writer);
    primary.push(1).code(0).stderr_is("");
    primary.gets(1);
    // The same again is compared, which takes the right to read.
    primary.push(1).code(0);

    let standby = accounts.server(1001, "here", &reader);
    standby.gets(1);
    standby.fetch(2).code(1);
    standby.walden(&["backup-list", "--system-id", "1001"]).run().code(0);
    explained(standby.push(3).code(4), "s3:PutObject");
    assert!(!accounts.may_delete(&writer) && !accounts.may_delete(&reader));

    let elsewhere = accounts.server(1001, "here", &writer).with("WALDEN_PREFIX", "s3://example-backups/other");
    elsewhere.push(1).code(4).stderr_has("s3://example-backups/other/");
    elsewhere.fetch(1).code(4);
}

#[test]
fn the_janitor_deletes_and_does_not_write() {
    let Some((accounts, _sessions)) = accounts() else { return };
    let writer = accounts.a.make_user("janitors-writer", Some(&block("writer")));
    let janitor = accounts.a.make_user("janitor", Some(&block("janitor")));
    let primary = accounts.server(1002, "here", &writer);
    primary.push(1).code(0);
    primary.push(2).code(0);
    let tidy = accounts.server(1002, "here", &janitor);
    tidy.gets(1);
    tidy.push(3).code(4).stderr_has("s3:PutObject");
    let object = format!("{BUCKET}/main/1002/wal/00000001/{}", segment(1002, 1).name());
    accounts.service.s3(&janitor, "DELETE", &object, "").unwrap();
    tidy.fetch(1).code(1);
    // Without a backup nothing goes; that it has looked it may write down.
    tidy.walden(&["delete", "retain", "1", "--confirm", "--system-id", "1002"]).run().code(0).stderr_lacks("not noted");
}

#[test]
fn a_standby_of_another_account_reads_with_the_role_and_the_external_id_and_does_not_write() {
    let Some((accounts, _sessions)) = accounts() else { return };
    let writer = accounts.a.make_user("standbys-primary", Some(&block("writer")));
    let primary = accounts.server(1003, "here", &writer);
    primary.push(1).code(0);

    let keys = accounts.b.make_user("standby", Some(&block("assume-reader")));
    let standby = accounts.server(1003, "standby", &keys);
    standby.gets(1);
    standby.fetch(2).code(1);
    standby.push(3).code(4).stderr_has("s3:PutObject");
    // The session is the second call's, too.
    primary.push(2).code(0);
    standby.gets(2);

    let seen = standby.walden(&["doctor"]).run().code(0);
    seen.stdout_has("user/standby, from the environment").stdout_has("assumed-role/walden-reader/").stdout_has("404");
    let itself = accounts.server(1003, "here", &keys);
    itself.fetch(1).code(4);
}

#[test]
fn the_primary_of_another_account_writes_with_the_role_and_does_not_take_another() {
    let Some((accounts, _sessions)) = accounts() else { return };
    let keys = accounts.b.make_user("primary", Some(&block("assume-writer")));
    let primary = accounts.server(1004, "primary", &keys);
    primary.push(1).code(0);
    primary.gets(1);
    // B did not allow it this one, whatever A would.
    accounts.server(1004, "standby", &keys).fetch(1).code(4).stderr_has("arn:aws:iam::111111111111:role/walden-reader");
}

#[test]
fn the_primary_of_another_account_writes_directly_once_the_bucket_says_so_as_well() {
    let Some((accounts, _sessions)) = accounts() else { return };
    let keys = accounts.b.make_user("direct", Some(&block("writer")));
    let primary = accounts.server(1005, "here", &keys);
    primary.push(1).code(4).stderr_has("s3:PutObject");
    accounts.a.set_bucket_policy(BUCKET, &block("bucket"));
    primary.push(1).code(0);
    primary.gets(1);
    primary.fetch(2).code(1);
    assert!(!accounts.may_delete(&keys));
    let acl = "bucket-owner-full-control";
    accounts.server(1005, "here", &keys).with("WALDEN_S3_ACL", acl).push(3).code(0).stderr_is("");
    // The bucket's word alone is not enough either.
    let nobody = accounts.b.make_user("nobody", None);
    accounts.server(1005, "here", &nobody).fetch(1).code(4);
    // What B stored belongs to A, with nothing more to be done.
    let owner = accounts.a.make_user("owner", Some(&block("reader")));
    accounts.server(1005, "here", &owner).gets(1);
}

#[test]
fn a_primary_that_can_only_put_archives() {
    let Some((accounts, _sessions)) = accounts() else { return };
    let keys = accounts.a.make_user("putter", Some(&block("put-only")));
    let primary = accounts.server(1006, "here", &keys);
    for number in 1..=3 {
        primary.push(number).code(0).stderr_is("");
    }
    explained(primary.fetch(1).code(4), "s3:GetObject");
    explained(primary.push(1).code(4), "exists, and may not be read to compare it");
    assert!(!accounts.may_delete(&keys));
    let reader = accounts.a.make_user("putters-reader", Some(&block("reader")));
    let standby = accounts.server(1006, "here", &reader);
    (1..=3).for_each(|number| standby.gets(number));
}

#[test]
fn the_key_serves_the_two_roles_and_each_for_its_own() {
    let Some((accounts, _sessions)) = accounts() else { return };
    let key = accounts.a.make_key(&block("key"));
    accounts.a.make_bucket("encrypted");
    accounts.a.encrypt_bucket("encrypted", &key);
    let user = accounts.b.make_user("encrypting", Some(&block("assume-writer")));
    let session = |role: &str, named: &str| {
        let id = settings(named).into_iter().find(|(name, _)| name == "WALDEN_EXTERNAL_ID").unwrap().1;
        let root = accounts.b.root();
        accounts.service.assume(&root, &format!("arn:aws:iam::{A}:role/{role}"), &id, 900).unwrap()
    };
    let may = |keys: &Keys, operation: &str, body: serde_json::Value| {
        kms(accounts.service, keys, operation, &body)
            .inspect_err(|error| assert!(error.contains("AccessDenied"), "{error}"))
    };
    let new = serde_json::json!({ "KeyId": key, "KeySpec": "AES_256" });
    let (writer, reader) = (session("walden-writer", "primary"), session("walden-reader", "standby"));
    let made = may(&writer, "GenerateDataKey", new.clone()).unwrap();
    let old = serde_json::json!({ "KeyId": key, "CiphertextBlob": made["CiphertextBlob"] });
    may(&writer, "Decrypt", old.clone()).unwrap();
    may(&reader, "Decrypt", old.clone()).unwrap();
    may(&reader, "GenerateDataKey", new.clone()).unwrap_err();
    may(&user, "GenerateDataKey", new).unwrap_err();
    may(&user, "Decrypt", old).unwrap_err();
}

/// The message has this, and the page says what it means.
fn explained(ran: Ran, message: &str) -> Ran {
    let table = include_str!("../docs/aws.md").split_once("## What goes wrong").unwrap().1;
    assert!(table.contains(message), "{message} is not in the table of docs/aws.md");
    ran.stderr_has(message)
}

/// That the token service said no, and to whom about what.
fn is_refused(ran: Ran, caller: &str, role: &str) -> Ran {
    ran.code(4).stderr_has(role).stderr_has(caller).stderr_has("AccessDenied").stderr_has("127.0.0.1")
}

const READER: &str = "arn:aws:iam::111111111111:role/walden-reader";

#[test]
fn a_wrong_or_missing_external_id_is_refused_at_once_and_the_message_says_by_whom() {
    let Some((accounts, _sessions)) = accounts() else { return };
    let keys = accounts.b.make_user("mistyping", Some(&block("assume-reader")));
    let wrong = accounts.server(1007, "standby", &keys).with("WALDEN_EXTERNAL_ID", "walden-standby-7f3b");
    explained(is_refused(wrong.fetch(1), &keys.id, READER), "is not authorized to perform: sts:AssumeRole")
        .stderr_has("check WALDEN_EXTERNAL_ID")
        .stderr_has("request id");
    let missing = accounts.server(1007, "standby", &keys).with("WALDEN_EXTERNAL_ID", "");
    is_refused(missing.fetch(1), &keys.id, READER).stderr_has("set WALDEN_EXTERNAL_ID");
    // In a recovery PostgreSQL is stopped, and a standby asked to come again.
    let data = wrong.0.data.path();
    std::fs::write(data.join("recovery.signal"), "").unwrap();
    wrong.fetch(1).code(200);
    std::fs::write(data.join("standby.signal"), "").unwrap();
    wrong.fetch(1).code(4);
}

#[test]
fn a_user_who_may_not_assume_the_role_is_refused_at_once() {
    let Some((accounts, _sessions)) = accounts() else { return };
    let mallory = accounts.b.make_user("mallory", None);
    let standby = accounts.server(1008, "standby", &mallory);
    explained(is_refused(standby.fetch(1), &mallory.id, "walden-reader"), "because no identity-based policy allows");
    standby.push(1).code(4).stderr_has("sts:AssumeRole");
    let unknown = Keys { id: "AKIANOSUCHKEY0000000".to_owned(), ..mallory.clone() };
    let ran = accounts.server(1008, "standby", &unknown).fetch(1).code(4).stderr_has("AWS_ACCESS_KEY_ID");
    explained(ran, "InvalidClientTokenId");
    let forger = Keys { secret: "wrong".to_owned(), ..mallory };
    let ran = accounts.server(1008, "standby", &forger).fetch(1).code(4).stderr_has("AWS_SECRET_ACCESS_KEY");
    explained(ran, "SignatureDoesNotMatch");
}

#[test]
fn a_session_that_has_ended_is_no_source_for_a_role() {
    let Some(accounts) = made() else { return };
    let _no_others = SESSIONS.write().unwrap_or_else(PoisonError::into_inner);
    let trust = block("trust-reader").replace("222222222222", A);
    let role = accounts.a.make_role("short", &trust, &block("assume-reader"));
    let session = accounts.service.assume(&accounts.a.root(), &role, "walden-standby-7f3a", 1).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    let standby = accounts.server(1009, "standby", &session);
    explained(standby.fetch(1).code(4), "ExpiredToken").stderr_has("AWS_SESSION_TOKEN");
    // The store says so as well, where there is no role in between.
    accounts.server(1009, "here", &session).fetch(1).code(4).stderr_has("ExpiredToken").stderr_has("AWS_SESSION_TOKEN");
}

#[test]
fn a_chain_of_roles_goes_through_a_third_account() {
    let Some((accounts, _sessions)) = accounts() else { return };
    let hub = accounts.service.account("333333333333");
    let open = |account: &str, id: Option<&str>| {
        let condition =
            id.map_or(serde_json::json!({}), |id| serde_json::json!({"StringEquals": {"sts:ExternalId": id}}));
        serde_json::json!({"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{account}:root")},
            "Action": "sts:AssumeRole", "Condition": condition,
        }]})
    };
    hub.make_role(
        "hub",
        &open(B, None).to_string(),
        &block("assume-reader").replace("walden-reader", "walden-hub-reader"),
    );
    accounts.a.make_role(
        "walden-hub-reader",
        &open("333333333333", Some("walden-hub-90de")).to_string(),
        &block("reader"),
    );
    let writer = accounts.a.make_user("chains-primary", Some(&block("writer")));
    accounts.server(1010, "here", &writer).push(1).code(0);

    let allowed = block("assume-reader").replace(READER, "arn:aws:iam::333333333333:role/hub");
    let keys = accounts.b.make_user("chained", Some(&allowed));
    let standby = accounts.server(1010, "chain", &keys);
    standby.gets(1);
    // Who is refused on the second step is the role of the first.
    accounts.a.set_trust("walden-hub-reader", &open("333333333333", Some("another")).to_string());
    let later = accounts.server(1010, "chain", &keys);
    later.fetch(1).code(4).stderr_has("assumed-role/hub/walden-").stderr_has("role/walden-hub-reader");
}

#[test]
fn tags_are_taken_by_a_role_whose_policy_says_so() {
    let Some((accounts, _sessions)) = accounts() else { return };
    accounts.a.make_role("walden-tagged", &block("trust-tagged"), &block("reader"));
    let keys = accounts.b.make_user("tagging", Some(&block("assume-tagged")));
    let writer = accounts.a.make_user("taggers-primary", Some(&block("writer")));
    accounts.server(1011, "here", &writer).push(1).code(0);
    let role = "arn:aws:iam::111111111111:role/walden-tagged;tag:team=databases";
    let tagged = accounts.server(1011, "standby", &keys).with("WALDEN_ASSUME_ROLE", role);
    tagged.gets(1);
    accounts.a.set_trust("walden-tagged", &block("trust-reader"));
    let later = accounts.server(1011, "standby", &keys).with("WALDEN_ASSUME_ROLE", role);
    explained(later.fetch(1).code(4), "sts:TagSession");
}
