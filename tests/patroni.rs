//! Walden below Patroni: two nodes and an etcd on this machine. A replica is made from the archive, the leader is killed,
//! the replica takes over, the old leader comes back, and the archive has everything; so much that a new cluster, of
//! which Patroni knows nothing, begins with it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use support::cluster::{Postgres, query};
use support::front::free_addresses;
use support::place::Place;
use support::user::{User, reachable, scratch_directory};
use support::walden::{Walden, program};

/// The longest wait for anything that Patroni is to do.
const PATIENCE: Duration = Duration::from_secs(180);

/// Patroni 3.0, as Debian 12 has it, knows no newer one.
const NEWEST: u16 = 15;

/// Ports of 127.0.0.1 that nobody uses.
fn free_ports<const N: usize>() -> [u16; N] {
    free_addresses().map(|address| address.port())
}

fn wait_until(what: &str, logs: &[&Path], condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        let log = |path: &&Path| format!("--- {}\n{}", path.display(), fs::read_to_string(path).unwrap_or_default());
        let logs = || logs.iter().map(log).collect::<String>();
        assert!(began.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}\n{}", logs());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A service of another program's, as the servers' user, with its output in `log`.
fn spawn(mut command: Command, directory: &Path) -> Child {
    let log = File::options().create(true).append(true).open(directory.join("log")).unwrap();
    command.current_dir(directory).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", directory).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    if let Some(user) = User::for_servers() {
        user.runs(&mut command);
    }
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}: scripts/need etcd patroni"))
}

struct Etcd {
    client: u16,
    scratch: tempfile::TempDir,
    process: Child,
}

impl Etcd {
    fn start() -> Etcd {
        let scratch = scratch_directory();
        let [client, peer] = free_ports();
        let (client_url, peer_url) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut command = Command::new("etcd");
        command.args(["--name", "one", "--data-dir", "data", "--unsafe-no-fsync"]);
        command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        command.args(["--initial-cluster", &format!("one={peer_url}")]);
        let process = spawn(command, scratch.path());
        let etcd = Etcd { client, scratch, process };
        wait_until("etcd answers", &[&etcd.scratch.path().join("log")], || status(client, "/health") == "200");
        etcd
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The HTTP status of a GET.
fn status(port: u16, path: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}", &format!("http://127.0.0.1:{port}{path}")]);
    String::from_utf8(curl.output().unwrap().stdout).unwrap()
}

/// A node: one Patroni and its server.
struct Node {
    scratch: tempfile::TempDir,
    walden: PathBuf,
    server: u16,
    rest: u16,
    patroni: Option<Child>,
}

impl Node {
    /// `scope` is the cluster that it belongs to, `method` how it begins if it is the first one there.
    fn new(scope: &str, name: &str, method: &str, postgres: &Postgres, etcd: &Etcd, place: &Place) -> Node {
        let scratch = scratch_directory();
        let [server, rest] = free_ports();
        let node = Node { walden: reachable(program(), scratch.path()), scratch, server, rest, patroni: None };
        fs::create_dir(node.path("env")).unwrap();
        for (variable, value) in place.env() {
            fs::write(node.path("env").join(variable), value).unwrap();
        }
        fs::write(node.path("patroni.yml"), node.configuration(scope, name, method, postgres, etcd)).unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn configuration(&self, scope: &str, name: &str, method: &str, postgres: &Postgres, etcd: &Etcd) -> String {
        let bin = postgres.tool("postgres");
        let words = [
            ("SCOPE", scope.to_owned()),
            ("NAME", name.to_owned()),
            ("METHOD", method.to_owned()),
            ("REST", format!("127.0.0.1:{}", self.rest)),
            ("ETCD", format!("127.0.0.1:{}", etcd.client)),
            ("SERVER", format!("127.0.0.1:{}", self.server)),
            ("SCRATCH", self.scratch.path().display().to_string()),
            ("BIN", bin.parent().unwrap().display().to_string()),
            ("WALDEN", format!("{} --envdir {}", self.walden.display(), self.path("env").display())),
        ];
        words.iter().fold(CONFIGURATION.to_owned(), |text, (word, value)| text.replace(word, value))
    }

    fn start(&mut self) {
        let mut command = Command::new("patroni");
        command.arg("patroni.yml");
        self.patroni = Some(spawn(command, self.scratch.path()));
    }

    /// kill -9 of everything, as when the power goes.
    fn kill(&mut self) {
        let mut patroni = self.patroni.take().unwrap();
        patroni.kill().unwrap();
        patroni.wait().unwrap();
        kill_process(self.postmaster().unwrap(), Signal::KILL).unwrap();
        wait_until("the server's processes are gone", &[], || !self.has_processes());
    }

    fn postmaster(&self) -> Option<Pid> {
        let file = fs::read_to_string(self.path("data/postmaster.pid")).ok()?;
        Pid::from_raw(file.lines().next()?.parse().ok()?)
    }

    fn has_processes(&self) -> bool {
        let data = self.path("data");
        let mut processes = fs::read_dir("/proc").unwrap();
        processes.any(|process| fs::read_link(process.unwrap().path().join("cwd")).is_ok_and(|cwd| cwd == data))
    }

    /// Waits until Patroni says that the node is this: `primary`, or `replica`, and that it runs.
    fn wait_for(&self, role: &str) {
        // Patroni calls a node primary when it has told it to become one.
        let in_recovery = if role == "primary" { "f" } else { "t" };
        let path = format!("/{role}");
        let is_it = || self.sql("SELECT pg_is_in_recovery()").is_ok_and(|rows| rows[0][0] == in_recovery);
        wait_until(role, &[&self.path("log")], || status(self.rest, &path) == "200" && is_it());
    }

    fn sql(&self, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
        query(self.scratch.path(), self.server, sql)
    }

    fn mark(&self, mark: u32) {
        self.sql(&format!("INSERT INTO marks VALUES ({mark}); SELECT pg_switch_wal()")).unwrap();
    }

    fn wait_for_marks(&self, expected: &str) {
        let marks = || self.sql("SELECT string_agg(mark::text, ' ' ORDER BY mark) FROM marks");
        let has = || marks().is_ok_and(|rows| rows[0][0] == expected);
        wait_until(&format!("the marks {expected}"), &[&self.path("log")], has);
    }

    fn walden(&self, args: &[&str]) -> Walden {
        let walden = Walden::at(&self.walden, self.scratch.path()).user(User::for_servers());
        let walden = walden.env("PGHOST", self.scratch.path()).env("PGPORT", self.server.to_string());
        walden.env("PGUSER", "postgres").args(["--envdir", "env"]).args(args)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", fs::read_to_string(self.path("log")).unwrap_or_default());
        }
        if let Some(mut patroni) = self.patroni.take() {
            let _ = patroni.kill();
            let _ = patroni.wait();
            if let Some(postmaster) = self.postmaster() {
                let _ = kill_process(postmaster, Signal::QUIT);
            }
        }
    }
}

const CONFIGURATION: &str = "
scope: SCOPE
name: NAME
restapi:
  listen: REST
  connect_address: REST
etcd3:
  hosts: ETCD
bootstrap:
  dcs:
    ttl: 30
    loop_wait: 1
    retry_timeout: 10
    postgresql:
      use_pg_rewind: true
      parameters:
        archive_mode: always
        wal_retrieve_retry_interval: 500ms
        fsync: 'off'
  method: METHOD
  walden:
    command: WALDEN backup-fetch SCRATCH/data
    no_params: true
    keep_existing_recovery_conf: true
  initdb: [data-checksums, {encoding: UTF8}, {auth: trust}]
postgresql:
  listen: SERVER
  connect_address: SERVER
  data_dir: SCRATCH/data
  bin_dir: BIN
  pgpass: SCRATCH/pgpass
  authentication:
    superuser: {username: postgres, password: x}
    replication: {username: replicator, password: x}
  pg_hba: [local all all trust, host all all 127.0.0.1/32 trust, host replication all 127.0.0.1/32 trust]
  parameters:
    unix_socket_directories: SCRATCH
    archive_command: WALDEN wal-push %p
  recovery_conf:
    restore_command: WALDEN wal-fetch %f \"%p\"
  create_replica_methods: [walden]
  walden:
    command: WALDEN backup-fetch SCRATCH/data --standby
    no_params: true
    no_leader: true
";

#[test]
fn a_replica_made_from_the_archive_takes_over_the_old_leader_comes_back_and_a_new_cluster_begins_from_it() {
    for postgres in Postgres::each() {
        if postgres.major > NEWEST || !postgres.tool("pg_rewind").exists() {
            eprintln!("SKIPPED: Patroni does not run PostgreSQL {} as it is here", postgres.major);
            continue;
        }
        let (etcd, place) = (Etcd::start(), Place::s3());
        let mut one = Node::new("first", "one", "initdb", &postgres, &etcd, &place);
        let mut two = Node::new("first", "two", "initdb", &postgres, &etcd, &place);
        one.start();
        one.wait_for("primary");
        one.sql("CREATE TABLE marks (mark int)").unwrap();
        one.walden(&["backup-push", "data"]).run().code(0);
        one.mark(1);

        two.start();
        two.wait_for("replica");
        let log = fs::read_to_string(two.path("log")).unwrap();
        assert!(log.contains("replica has been created using walden"), "{log}");
        for mark in 2..=4 {
            one.mark(mark);
        }
        two.wait_for_marks("1 2 3 4");

        one.kill();
        two.wait_for("primary");
        two.mark(5);
        one.start();
        one.wait_for("replica");
        two.mark(6);
        one.wait_for_marks("1 2 3 4 5 6");

        two.sql("SELECT pg_create_restore_point('the end')").unwrap();
        let last = two.sql("SELECT pg_walfile_name(pg_switch_wal())").unwrap()[0][0].clone();
        wait_until("the last segment is archived", &[&two.path("log")], || names(&place).contains(&last));
        has_no_gap(&names(&place), &["00000001", "00000002"]);

        one.kill();
        two.kill();
        let mut three = Node::new("second", "three", "walden", &postgres, &etcd, &place);
        three.start();
        three.wait_for("primary");
        three.wait_for_marks("1 2 3 4 5 6");
        let last = three.sql("SELECT pg_walfile_name(pg_switch_wal())").unwrap()[0][0].clone();
        wait_until("the new cluster archives", &[&three.path("log")], || names(&place).contains(&last));
        has_no_gap(&names(&place), &["00000001", "00000002", "00000003"]);
        three.walden(&["wal-verify"]).run().code(0);
    }
}

/// The WAL files in the archive, in order.
fn names(place: &Place) -> Vec<String> {
    let keys = place.keys().into_iter().filter(|key| key.contains("/wal/"));
    keys.map(|key| key.rsplit('/').next().unwrap().to_owned()).collect()
}

/// These timelines, each without a gap, all but the first with their histories.
fn has_no_gap(names: &[String], timelines: &[&str]) {
    for timeline in &timelines[1..] {
        assert!(names.contains(&format!("{timeline}.history")), "{names:?}");
    }
    for timeline in timelines {
        let segments = names.iter().filter(|name| name.len() == 24 && name.starts_with(timeline));
        let numbers: Vec<u64> = segments.map(|name| u64::from_str_radix(&name[16..], 16).unwrap()).collect();
        assert!(!numbers.is_empty() && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{names:?}");
    }
}
