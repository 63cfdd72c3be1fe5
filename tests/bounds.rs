//! What a base backup and its restore take of their host: memory, its page cache, its processors and disks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::fs::{self, File};
use std::io::IoSliceMut;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use support::cluster::{Cluster, Postgres};
use support::place::Place;
use support::user::User;
use support::walden::Ran;

/// The least that a backup with two workers takes.
const LIMIT: &str = "96MiB";
const LIMIT_BYTES: u64 = 96 << 20;

/// A number that can be made larger for a longer look.
fn scaled(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap())
}

/// Where the files of the database `postgres` lie. Those that are put there besides have no names of relations if they have
/// pages: these would be verified.
fn database(cluster: &Cluster) -> PathBuf {
    let oid = cluster.value("SELECT oid FROM pg_database WHERE datname = 'postgres'");
    cluster.data().join(format!("base/{oid}"))
}

/// Makes a file that the server's user owns.
fn make(path: &Path, fill: impl FnOnce(&File)) {
    let file = File::create(path).unwrap();
    fill(&file);
    drop(file);
    if let Some(user) = User::for_servers() {
        user.owns(path);
    }
}

fn primary(place: &Place) -> Cluster {
    Cluster::primary(Postgres::each().last().unwrap(), place)
}

fn backup(cluster: &Cluster, more: &[&str]) -> (Ran, u64) {
    let words = [&["backup-push", "--json", "--workers", "2", "--memory-limit", LIMIT], more].concat();
    let (ran, peak) = cluster.walden(&words).run_measured();
    (ran.code(0), peak)
}

#[test]
fn a_great_many_files_are_backed_up_and_restored_within_the_memory_limit() {
    let files = scaled("WALDEN_TEST_FILES", 60_000);
    let place = Place::directory();
    let cluster = primary(&place);
    let directory = database(&cluster);
    for number in 0..files {
        make(&directory.join((5_000_000 + number).to_string()), |file| file.set_len(number % 300).unwrap());
    }
    let (ran, peak) = backup(&cluster, &[]);
    let counted = ran.json()["files"].as_u64().unwrap();
    println!("{counted} files: {} MiB", peak >> 20);
    assert!(counted > files && peak < LIMIT_BYTES, "{peak}");

    let restored = Cluster::empty(cluster.postgres(), &place);
    let data = restored.data();
    let (ran, peak) = restored.walden(&["backup-fetch", data.to_str().unwrap(), "--workers", "2"]).run_measured();
    ran.code(0);
    println!("restored: {} MiB", peak >> 20);
    // docs/limits.md, for a machine of two cores, and what the code of a build for tests takes more.
    let promised = ((40 + 2 * 8 + 8) << 20) + 100 * counted;
    assert!(peak < promised, "{peak} of {promised}");
    let made = fs::read_dir(data.join(directory.strip_prefix(cluster.data()).unwrap())).unwrap().count();
    assert!(made as u64 > files, "{made}");
}

#[test]
fn a_huge_file_is_backed_up_and_restored_within_the_memory_limit() {
    let size = scaled("WALDEN_TEST_GIB", 24) << 30;
    let place = Place::directory();
    let cluster = primary(&place);
    let path = database(&cluster).join("stray");
    make(&path, |file| file.set_len(size).unwrap());
    let (ran, peak) = backup(&cluster, &[]);
    println!("{} GiB: {} MiB", size >> 30, peak >> 20);
    assert!(ran.json()["plain_size"].as_u64().unwrap() > size && peak < LIMIT_BYTES, "{peak}");

    let restored = Cluster::empty(cluster.postgres(), &place);
    let (ran, peak) = restored.walden(&["backup-fetch", restored.data().to_str().unwrap()]).run_measured();
    ran.code(0);
    println!("restored: {} MiB", peak >> 20);
    let made = restored.data().join(path.strip_prefix(cluster.data()).unwrap()).metadata().unwrap();
    assert_eq!(made.len(), size);
    // Zeros take no room on the disk.
    assert!(std::os::unix::fs::MetadataExt::blocks(&made) < 2048 && peak < LIMIT_BYTES, "{peak}");
}

#[test]
fn what_does_not_compress_stays_within_the_memory_limit_too() {
    let place = Place::s3();
    let cluster = primary(&place);
    let mut random = support::random::Random::announced();
    for number in 0..6 {
        let bytes: Vec<u8> = (0..(24 << 20) / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        make(&database(&cluster).join(format!("stray.{number}")), |mut file| {
            std::io::Write::write_all(&mut file, &bytes).unwrap();
        });
    }
    let (ran, peak) = backup(&cluster, &[]);
    println!("{} MiB", peak >> 20);
    assert!(ran.json()["stored_size"].as_u64().unwrap() > 6 * (24 << 20) && peak < LIMIT_BYTES, "{peak}");
}

#[test]
fn a_level_that_needs_more_than_the_limit_is_refused_before_anything_is_done() {
    let place = Place::directory();
    let cluster = primary(&place);
    let words = ["backup-push", "--memory-limit", LIMIT, "--backup-compression", "19"];
    let ran = cluster.walden(&words).run().code(3);
    ran.stderr_has("compression level 19 takes").stderr_has("--memory-limit or WALDEN_MEMORY_LIMIT");
    assert!(place.keys().iter().all(|key| !key.contains("/backup/")), "{:?}", place.keys());
}

/// How many of the file's pages, looked at one in sixteen, are in memory. `None` where the file system does not say.
fn cached(path: &Path) -> Option<usize> {
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    fadvise(&file, 0, None, Advice::Random).unwrap();
    let mut found = 0;
    // Looking brings in what is looked at: so not where walden looks, whose answer it would be.
    for offset in (32 << 10..size).step_by(64 << 10) {
        match preadv2(&file, &mut [IoSliceMut::new(&mut [0])], offset, ReadWriteFlags::NOWAIT) {
            Ok(_) => found += 1,
            Err(Errno::AGAIN) => {}
            Err(Errno::OPNOTSUPP) => return None,
            Err(error) => panic!("{error}"),
        }
    }
    Some(found)
}

#[test]
fn a_backup_leaves_the_page_cache_as_it_found_it() {
    let place = Place::directory();
    let cluster = primary(&place);
    let [cold, warm] = ["cold", "warm"].map(|name| database(&cluster).join(name));
    for path in [&cold, &warm] {
        let bytes: Vec<u8> = (0..16u32 << 18).flat_map(u32::to_le_bytes).collect();
        make(path, |mut file| {
            std::io::Write::write_all(&mut file, &bytes).unwrap();
            file.sync_all().unwrap();
        });
    }
    let all = (16 << 20) / (64 << 10);
    if cached(&warm).is_none() {
        return println!("this file system does not say what is in memory");
    }
    let evict = || fadvise(File::open(&cold).unwrap(), 0, NonZeroU64::new(16 << 20), Advice::DontNeed).unwrap();
    let began = Instant::now();
    let is_cold = || {
        evict();
        cached(&cold).unwrap() < all / 10
    };
    // The kernel passes over pages that it is busy with.
    while !is_cold() {
        assert!(began.elapsed() < Duration::from_secs(60), "the file does not leave the page cache");
    }
    evict();
    backup(&cluster, &[]);
    let found = cached(&cold).unwrap();
    assert!(found < all / 10, "{found}");
    // The kernel may have taken a page back by itself.
    let found = cached(&warm).unwrap();
    assert!(found > all * 9 / 10, "{found}");
}

#[test]
fn a_backup_reads_no_faster_than_it_may() {
    let place = Place::directory();
    let cluster = primary(&place);
    make(&database(&cluster).join("stray"), |file| file.set_len(24 << 20).unwrap());
    let began = Instant::now();
    let (ran, _) = backup(&cluster, &["--max-rate", "8MiB"]);
    let bytes = ran.json()["plain_size"].as_u64().unwrap();
    // The first few MiB pass at once.
    let least = Duration::from_secs_f64((bytes - (4 << 20)) as f64 / f64::from(8 << 20));
    assert!(began.elapsed() >= least, "{:?} for {bytes} bytes", began.elapsed());
}

#[test]
fn a_nice_backup_is_nice_in_all_its_threads() {
    let place = Place::directory();
    let cluster = primary(&place);
    make(&database(&cluster).join("stray"), |file| file.set_len(24 << 20).unwrap());
    let mut child = cluster.walden(&["backup-push", "--nice", "7", "--max-rate", "8MiB"]).spawn();
    let tasks = PathBuf::from(format!("/proc/{}/task", child.id()));
    let nice = || -> Vec<String> {
        let threads = fs::read_dir(&tasks).map(|threads| threads.flatten().collect()).unwrap_or(Vec::new());
        let stat = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("stat")).ok();
        let stats: Vec<String> = threads.into_iter().filter_map(stat).collect();
        // The 19th field of proc(5); the second one ends with the last parenthesis.
        let field =
            |stat: &String| stat.rsplit_once(") ").and_then(|(_, rest)| Some(rest.split(' ').nth(16)?.to_owned()));
        stats.iter().filter(|stat| stat.contains("pack-")).filter_map(field).collect()
    };
    let began = Instant::now();
    let mut seen = nice();
    while seen.len() < 2 && child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(60), "no worker was seen");
        std::thread::sleep(Duration::from_millis(5));
        seen = nice();
    }
    assert!(!seen.is_empty() && seen.iter().all(|nice| nice == "7"), "{seen:?}");
    assert!(child.wait().unwrap().success());
}
