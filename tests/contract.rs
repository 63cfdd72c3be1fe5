//! What `Store` promises, on every kind of store: a directory, the scripted S3, SeaweedFS.
//!
//! Each test is one promise on one store: a scratch directory, or what `CONTRACT_PREFIX` names with the AWS variables
//! beside it. Since those belong to a whole process, the tests of the other stores run this program once more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::collections::BTreeSet;
use std::io::{Seek, SeekFrom, Write};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinSet;
use walden::config::Location;
use walden::config::value::{Addressing, Checksum};
use walden::error::Kind;
use walden::layout::Key;
use walden::storage::memory::Memory;
use walden::storage::s3::{Options, Wanted};
use walden::storage::{self, Body, Leftovers, ListQuery, PAGE_SIZE, PutMode, Store};

use support::random::Random;
use support::s3::{Answer, BUCKET, S3};
use support::seaweedfs::SeaweedFs;

/// A part of the store that only this test uses.
struct Part {
    store: Arc<dyn Store>,
    _directory: Option<tempfile::TempDir>,
    _cache: tempfile::TempDir,
}

async fn part(name: &str) -> Part {
    let (location, directory) = match std::env::var("CONTRACT_PREFIX") {
        Ok(prefix) => {
            let (bucket, folder) = prefix.strip_prefix("s3://").unwrap().split_once('/').unwrap();
            (Location::Bucket { name: bucket.into(), prefix: format!("{folder}/{name}") }, None)
        }
        Err(_) => {
            let directory = tempfile::tempdir().unwrap();
            (Location::Directory(directory.path().join(name)), Some(directory))
        }
    };
    let cache = tempfile::tempdir().unwrap();
    let options = Options {
        retry_timeout: Duration::from_secs(20),
        strict: false,
        addressing: Addressing::Auto,
        accelerate: false,
        checksum: Checksum::Auto,
        wanted: Wanted::default(),
        roles: Vec::new(),
        session_name: String::new(),
        memory: Memory::at(Some(cache.path().join("memory"))),
    };
    Part { store: storage::open(location, options).await.unwrap(), _directory: directory, _cache: cache }
}

impl Part {
    async fn put(&self, key: &str, body: &[u8]) -> Result<(), Kind> {
        put(&*self.store, key, body.to_vec().into(), PutMode::New).await
    }

    async fn get(&self, key: &str) -> Result<Vec<u8>, Kind> {
        let download = self.store.get(key, None).await.map_err(|error| error.kind())?;
        download.read_all(64 << 20).await.map_err(|error| error.kind())
    }

    /// All keys but the probe's and all folded prefixes of a listing, and the number of its pages.
    async fn list(&self, mut query: ListQuery) -> (Vec<String>, Vec<String>, usize) {
        let (mut keys, mut prefixes, mut pages) = (Vec::new(), Vec::new(), 0);
        loop {
            let page = self.store.list(&query).await.unwrap();
            assert!(page.objects.len() + page.prefixes.len() <= PAGE_SIZE);
            let probe = Key::Probe.to_string();
            keys.extend(page.objects.into_iter().map(|object| object.key).filter(|key| *key != probe));
            prefixes.extend(page.prefixes);
            pages += 1;
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => return (keys, prefixes, pages),
            }
        }
    }
}

async fn put(store: &dyn Store, key: &str, body: Body, mode: PutMode) -> Result<(), Kind> {
    store.put(key, body, mode).await.map_err(|error| error.kind())
}

fn below(prefix: &str) -> ListQuery {
    ListQuery { prefix: prefix.into(), ..ListQuery::default() }
}

fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut random = Random::from_seed(seed);
    (0..size).map(|_| random.next() as u8).collect()
}

#[tokio::test]
async fn what_was_put_is_got_byte_for_byte_whatever_its_size() {
    let part = part("sizes").await;
    for size in [0, 1, 4095, 70_000, 5 << 20] {
        let (key, body) = (format!("body-{size}"), noise(size as u64, size));
        part.put(&key, &body).await.unwrap();
        assert!(part.get(&key).await.unwrap() == body, "{size} bytes");
        let download = part.store.get(&key, None).await.unwrap();
        assert_eq!(download.object_size, size as u64);
        let info = part.store.head(&key).await.unwrap();
        assert_eq!((info.key, info.size), (key, size as u64));
    }
}

#[tokio::test]
async fn a_body_in_a_file_is_sent_from_its_beginning_and_may_be_sent_again() {
    let part = part("files").await;
    let content = noise(7, 3 << 20);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    file.seek(SeekFrom::Start(12345)).unwrap();
    let body = Body::File(Arc::new(file), content.len() as u64);
    for key in ["once", "twice"] {
        put(&*part.store, key, body.clone(), PutMode::New).await.unwrap();
        assert!(part.get(key).await.unwrap() == content, "{key}");
    }
}

#[tokio::test]
async fn the_age_of_an_object_is_that_of_its_put() {
    let part = part("age").await;
    let before = Timestamp::now();
    part.put("x", b"x").await.unwrap();
    let modified = part.store.head("x").await.unwrap().modified;
    // HTTP dates have whole seconds.
    let slack = SignedDuration::from_secs(2);
    assert!(before - slack <= modified && modified <= Timestamp::now() + slack, "{modified}");
    let listed = part.store.list(&below("x")).await.unwrap().objects.remove(0).modified;
    assert!(listed.duration_since(modified).abs() <= slack, "{listed} {modified}");
}

#[tokio::test]
async fn a_store_tells_the_time_by_the_clock_of_its_objects() {
    let part = part("clock").await;
    part.put("x", b"x").await.unwrap();
    let (stored, now) = (part.store.head("x").await.unwrap().modified, part.store.now().await.unwrap());
    // HTTP dates have whole seconds.
    let slack = SignedDuration::from_secs(2);
    assert!(stored - slack <= now && now <= Timestamp::now() + slack, "{stored} {now}");
}

#[tokio::test]
async fn leftovers_are_never_objects() {
    let part = part("leftovers").await;
    part.put("x", b"x").await.unwrap();
    let later = Timestamp::now() + SignedDuration::from_hours(1);
    assert_eq!(part.store.leftovers(later).await.unwrap(), Leftovers::default());
    assert_eq!(part.store.remove_leftovers(later).await.unwrap(), Leftovers::default());
    assert_eq!(part.get("x").await.unwrap(), b"x");
}

#[tokio::test]
async fn a_range_is_exactly_those_bytes_and_the_size_is_still_the_whole_objects() {
    let part = part("ranges").await;
    let body = noise(3, 3 << 20);
    part.put("x", &body).await.unwrap();
    let size = body.len() as u64;
    for range in [0..1, 0..size, size - 1..size, 1000..2_500_000, size / 2..size] {
        let download = part.store.get("x", Some(range.clone())).await.unwrap();
        assert_eq!(download.object_size, size);
        let got = download.read_all(body.len()).await.unwrap();
        assert!(got == body[range.start as usize..range.end as usize], "{range:?}");
    }
}

#[tokio::test]
async fn a_range_that_reaches_beyond_the_object_is_an_error_and_not_a_short_answer() {
    let part = part("beyond").await;
    part.put("x", b"0123456789").await.unwrap();
    for range in [5..11, 10..12, 20..30] {
        let got = match part.store.get("x", Some(range.clone())).await {
            Ok(download) => download.read_all(100).await,
            Err(error) => Err(error),
        };
        assert!(got.is_err(), "{range:?} gave {got:?}");
    }
}

#[tokio::test]
async fn an_absent_object_is_not_found_even_where_its_key_begins_another_or_another_begins_it() {
    let part = part("absent").await;
    assert_eq!(part.get("x").await, Err(Kind::NotFound), "in a store that nothing was put into");
    part.put("a/b/c", b"x").await.unwrap();
    for key in ["x", "a", "a/b", "a/b/c/d", "a/b/cc", "z/y"] {
        assert_eq!(part.get(key).await, Err(Kind::NotFound), "get {key}");
        assert_eq!(part.store.head(key).await.unwrap_err().kind(), Kind::NotFound, "head {key}");
        let range = part.store.get(key, Some(0..1)).await.map(|_| ());
        assert_eq!(range.unwrap_err().kind(), Kind::NotFound, "range of {key}");
    }
}

#[tokio::test]
async fn a_taken_key_refuses_a_new_object_and_keeps_the_old_one() {
    let part = part("taken").await;
    part.put("x", b"first").await.unwrap();
    assert_eq!(part.put("x", b"second").await, Err(Kind::AlreadyExists));
    assert_eq!(part.put("x", b"first").await, Err(Kind::AlreadyExists));
    assert_eq!(part.get("x").await.unwrap(), b"first");
}

#[tokio::test]
async fn a_replacement_replaces_and_needs_nothing_to_replace() {
    let part = part("replace").await;
    for body in ["first", "the second is longer", "3"] {
        put(&*part.store, "x", body.as_bytes().to_vec().into(), PutMode::Replace).await.unwrap();
        assert_eq!(part.get("x").await.unwrap(), body.as_bytes());
    }
    assert_eq!(part.list(below("")).await.0, ["x"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_sixteen_racing_creators_one_wins_and_its_bytes_are_there() {
    let part = part("race").await;
    for round in 0..5 {
        let mut race = JoinSet::new();
        for racer in 0u8..16 {
            let (store, key) = (part.store.clone(), format!("contested-{round}"));
            let body = Body::Memory(Bytes::from(vec![racer; 200_000]));
            race.spawn(async move { (racer, put(&*store, &key, body, PutMode::New).await) });
        }
        let results = race.join_all().await;
        let winners: Vec<u8> = results.iter().filter(|(_, result)| result.is_ok()).map(|(racer, _)| *racer).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        let losers = results.iter().filter(|(racer, _)| !winners.contains(racer));
        assert!(losers.clone().all(|(_, result)| *result == Err(Kind::AlreadyExists)), "{results:?}");
        assert!(part.get(&format!("contested-{round}")).await.unwrap() == vec![winners[0]; 200_000]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_object_is_whole_whenever_it_is_listed_or_read() {
    let part = part("whole").await;
    let size = |number: u8| 50_000 + usize::from(number) * 1000;
    let done = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, done) = (part.store.clone(), done.clone());
        async move {
            for number in 0u8..60 {
                let body = || Body::from(vec![number; size(number)]);
                put(&*store, &format!("new/{number}"), body(), PutMode::New).await.unwrap();
                put(&*store, "replaced", body(), PutMode::Replace).await.unwrap();
            }
            done.store(true, Ordering::Relaxed);
        }
    });
    while !done.load(Ordering::Relaxed) && !writer.is_finished() {
        for object in part.store.list(&below("new/")).await.unwrap().objects {
            let number = object.key["new/".len()..].parse().unwrap();
            assert_eq!(object.size, size(number) as u64, "{}", object.key);
        }
        match part.get("replaced").await {
            Ok(body) => assert!(body == vec![body[0]; size(body[0])], "a mixture of two objects"),
            Err(kind) => assert_eq!(kind, Kind::NotFound),
        }
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn keys_with_characters_that_urls_and_xml_escape_keep_them() {
    let part = part("characters").await;
    let keys = ["a b", "a%20b", "a+b", "a&b=c;d", "ü/é~!'()*", "x?y#z", "<tag>\"q\"", "@:,$", "a%2Fb"];
    for key in keys {
        part.put(key, key.as_bytes()).await.unwrap_or_else(|kind| panic!("{key:?}: {kind:?}"));
    }
    let mut sorted = keys.map(str::to_owned);
    sorted.sort();
    assert_eq!(part.list(below("")).await.0, sorted);
    for key in keys {
        assert_eq!(part.get(key).await.unwrap(), key.as_bytes());
        assert_eq!(part.list(below(key)).await.0, [key]);
    }
    part.store.delete(&sorted).await.unwrap();
    assert!(part.list(below("")).await.0.is_empty());
}

/// A part with a small tree.
async fn tree(name: &str) -> Part {
    let part = part(name).await;
    for key in ["f/a", "f/b/1", "f/b/2/3", "f/c/1", "fg/1", "g"] {
        part.put(key, b"x").await.unwrap();
    }
    part
}

#[tokio::test]
async fn a_listing_begins_with_its_prefix_whatever_that_ends_in() {
    let part = tree("prefix").await;
    let keys = async |prefix: &str| part.list(below(prefix)).await.0.join(" ");
    assert_eq!(keys("").await, "f/a f/b/1 f/b/2/3 f/c/1 fg/1 g");
    assert_eq!(keys("f").await, "f/a f/b/1 f/b/2/3 f/c/1 fg/1");
    assert_eq!(keys("f/").await, "f/a f/b/1 f/b/2/3 f/c/1");
    assert_eq!(keys("f/b").await, "f/b/1 f/b/2/3");
    assert_eq!(keys("f/b/2/3").await, "f/b/2/3");
    assert_eq!(keys("f/b/2/3/").await, "");
    assert_eq!(keys("nothing/").await, "");
}

#[tokio::test]
async fn a_folded_listing_folds_at_the_next_slash_after_its_prefix() {
    let part = tree("fold").await;
    let fold = async |prefix: &str| {
        let (keys, prefixes, _) = part.list(ListQuery { fold: true, ..below(prefix) }).await;
        format!("{} | {}", keys.join(" "), prefixes.join(" "))
    };
    assert_eq!(fold("").await, "g | f/ fg/");
    assert_eq!(fold("f").await, " | f/ fg/");
    assert_eq!(fold("f/").await, "f/a | f/b/ f/c/");
    assert_eq!(fold("f/b").await, " | f/b/");
}

#[tokio::test]
async fn names_that_go_on_with_a_character_below_the_slash_come_before_what_lies_below_the_slash() {
    let part = part("order").await;
    let keys = ["2.history", "2/1", "2/2", "3-x/1", "3/1"];
    for key in keys {
        part.put(key, b"x").await.unwrap();
    }
    assert_eq!(part.list(below("")).await.0, keys);
    let after = ListQuery { after: Some("2.history".into()), ..below("") };
    assert_eq!(part.list(after).await.0, keys[1..]);
}

#[tokio::test]
async fn a_listing_may_begin_behind_a_key_that_is_not_there() {
    let part = part("between").await;
    for key in ["a/1", "a/2", "a/3"] {
        part.put(key, b"x").await.unwrap();
    }
    let after = async |key: &str| part.list(ListQuery { after: Some(key.into()), ..below("a/") }).await.0.join(" ");
    assert_eq!(after("a/0").await, "a/1 a/2 a/3");
    assert_eq!(after("a/15").await, "a/2 a/3");
    assert_eq!(after("a/2!").await, "a/3");
    assert_eq!(after("a/4").await, "");
}

#[tokio::test]
async fn thousands_of_objects_are_listed_in_order_page_by_page_and_deleted_in_one_call() {
    let part = part("many").await;
    let keys: BTreeSet<String> = (0..1250).flat_map(|n| [format!("{n:04}/a"), format!("{n:04}/b")]).collect();
    let keys: Vec<String> = keys.into_iter().collect();
    let mut puts = JoinSet::new();
    for (number, key) in keys.iter().cloned().enumerate() {
        let store = part.store.clone();
        puts.spawn(async move { put(&*store, &key, b"x".to_vec().into(), PutMode::New).await.unwrap() });
        if number >= 32 {
            puts.join_next().await.unwrap().unwrap();
        }
    }
    puts.join_all().await;

    let (listed, _, pages) = part.list(below("")).await;
    assert!(listed == keys && pages == 3, "{} keys in {pages} pages", listed.len());
    let after = ListQuery { after: Some(keys[1111].clone()), ..below("") };
    assert!(part.list(after).await.0 == keys[1112..]);

    let (none, prefixes, pages) = part.list(ListQuery { fold: true, ..below("") }).await;
    assert!(none.is_empty());
    assert_eq!(prefixes, (0..1250).map(|n| format!("{n:04}/")).collect::<Vec<_>>());
    assert_eq!(pages, 2);

    let mut doomed = vec!["absent".to_owned(), "0000/absent".to_owned()];
    doomed.extend(keys[1..].iter().cloned());
    part.store.delete(&doomed).await.unwrap();
    assert_eq!(part.list(below("")).await.0, keys[..1]);
    part.store.delete(&doomed).await.unwrap();
    part.store.delete(&[]).await.unwrap();
    part.store.delete(&keys[..1]).await.unwrap();
    assert!(part.list(below("")).await.0.is_empty());
    part.put(&keys[0], b"again").await.unwrap();
}

#[tokio::test]
async fn an_address_is_what_a_person_would_write() {
    let part = part("url").await;
    let prefix = std::env::var("CONTRACT_PREFIX").unwrap_or_else(|_| "file:///".into());
    let url = part.store.url("a/b");
    assert!(url.starts_with(&prefix) && url.ends_with("/url/a/b"), "{url}");
}

/// Runs all other tests of this program on the bucket that these variables name.
fn the_rest_runs_on(prefix: &str, variables: impl IntoIterator<Item = (&'static str, String)>, skip: &[&str]) {
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--skip", "the_same_promises"]).args(skip.iter().flat_map(|title| ["--skip", title]));
    again.env("CONTRACT_PREFIX", prefix).envs(variables);
    let output = again.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    println!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !stdout.contains(" 0 passed"), "not all of the suite passes on {prefix}");
}

#[test]
fn the_same_promises_hold_on_the_scripted_s3() {
    let s3 = S3::start();
    the_rest_runs_on(&format!("s3://{BUCKET}/contract"), s3.env(), &[]);
}

#[test]
fn the_same_promises_hold_on_an_old_store_but_for_races() {
    let s3 = S3::start();
    s3.grow_old(Answer::refusal(400, "InvalidRequest", "Unsupported header"));
    the_rest_runs_on(&format!("s3://{BUCKET}/contract"), s3.env(), &["of_sixteen_racing_creators"]);
}

/// SeaweedFS lists what lies in a directory where the directory's name without the slash belongs. Walden must not lean on
/// the order of S3 there.
const KNOWN_OF_SEAWEEDFS: [&str; 1] = ["names_that_go_on_with_a_character_below_the_slash"];

/// In a bucket that keeps versions, SeaweedFS gives each object a directory, and takes a name that goes on behind its key for
/// something in there. Walden asks for what follows a segment, or a shorter name, and never a longer one.
const KNOWN_OF_ITS_VERSIONS: [&str; 2] = [KNOWN_OF_SEAWEEDFS[0], "a_listing_may_begin_behind_a_key_that_is_not_there"];

/// `scripts/test` starts the server and sets the variables.
#[test]
fn the_same_promises_hold_on_seaweedfs() {
    let Some(seaweedfs) = SeaweedFs::running() else { return };
    the_rest_runs_on(&seaweedfs.fresh_prefix(), seaweedfs.env(), &KNOWN_OF_SEAWEEDFS);
}

#[test]
fn the_same_promises_hold_in_a_bucket_that_keeps_versions() {
    let Some(seaweedfs) = SeaweedFs::running() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // One with Object Lock, which brings versions along.
    let bucket = runtime.block_on(seaweedfs.versioned_bucket(true));
    the_rest_runs_on(&format!("s3://{bucket}/contract"), seaweedfs.env(), &KNOWN_OF_ITS_VERSIONS);
}
