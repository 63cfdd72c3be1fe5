//! Something for a server to do while it is backed up: four writers whose transactions keep the books balanced.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::cluster::{Cluster, connect};
use super::random::Random;

const ACCOUNTS: u64 = 20_000;
const WRITERS: u64 = 4;

/// Makes the tables, with some data in them.
pub fn open_books(cluster: &Cluster) {
    cluster.sql(&format!(
        "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL, filler text NOT NULL);\
         CREATE TABLE bookings (id bigserial PRIMARY KEY, account int NOT NULL, amount bigint NOT NULL);\
         INSERT INTO accounts SELECT n, 0, repeat(md5(n::text), 8) FROM generate_series(1, {ACCOUNTS}) n"
    ));
}

/// Fills so many MiB with what no compression makes smaller, so that a backup has that much to store.
pub fn fill(cluster: &Cluster, mebibytes: u32) {
    cluster.sql(&format!(
        "CREATE TABLE filler (noise bytea); ALTER TABLE filler ALTER COLUMN noise SET STORAGE EXTERNAL;\
         INSERT INTO filler SELECT decode(string_agg(md5(random()::text), ''), 'hex') \
         FROM generate_series(1, {mebibytes}) AS mebibyte, generate_series(1, 65536) GROUP BY mebibyte"
    ));
}

/// Whatever moment is restored, an account's balance is the sum of its bookings. Returns the number of bookings.
pub fn audit(cluster: &Cluster) -> u64 {
    let accounts = cluster.value("SELECT count(*) FROM accounts");
    assert_eq!(accounts, ACCOUNTS.to_string());
    let wrong = cluster.sql(
        "SELECT id, balance, booked FROM accounts LEFT JOIN \
         (SELECT account, sum(amount) AS booked FROM bookings GROUP BY account) b ON account = id \
         WHERE balance <> coalesce(booked, 0) LIMIT 5",
    );
    assert!(wrong.is_empty(), "accounts that do not balance: {wrong:?}");
    cluster.value("SELECT count(*) FROM bookings").parse().unwrap()
}

/// Writers at work; they end with this value.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Load {
    pub fn start(cluster: &Cluster) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..WRITERS).map(|seed| {
            let (socket, stop) = (cluster.socket(), stop.clone());
            std::thread::spawn(move || write(socket, seed, &stop))
        });
        Load { threads: threads.collect(), stop }
    }

    /// Stops the writers and returns how many bookings the server has acknowledged.
    pub fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).map(|thread| thread.join().unwrap()).sum()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn write(socket: PathBuf, seed: u64, stop: &AtomicBool) -> u64 {
    let client = connect(&socket).await.unwrap();
    let mut random = Random::from_seed(seed);
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let (account, amount) = (random.below(ACCOUNTS) + 1, random.below(1000));
        let booking = format!(
            "BEGIN; UPDATE accounts SET balance = balance + {amount} WHERE id = {account};\
             INSERT INTO bookings (account, amount) VALUES ({account}, {amount}); COMMIT"
        );
        client.batch_execute(&booking).await.unwrap();
        written += 1;
        // Load enough, and some CPU is left for what is tested.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    written
}
