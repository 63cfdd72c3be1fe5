//! Live PostgreSQL servers in scratch directories, one directory each, gone at the end of the test whatever its end.
//!
//! The majors in `PG_VERSIONS` ("15 18"; default 15) are looked for where scripts/install-postgres puts them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::SimpleQueryMessage;

use super::patience::PATIENCE;
use super::place::Place;
use super::user::{User, reachable, scratch_directory};
use super::walden::{Ran, Walden, program};

/// Names the socket, which lies in each cluster's own directory; nothing listens on TCP.
const PORT: u16 = 5432;

/// The programs of one major version.
#[derive(Clone, Debug)]
pub struct Postgres {
    pub major: u16,
    /// The directory above `bin`.
    home: PathBuf,
}

impl Postgres {
    /// One for each major version that the tests are to run on.
    pub fn each() -> Vec<Postgres> {
        let majors = std::env::var("PG_VERSIONS").unwrap_or_else(|_| "15".into());
        majors.split_whitespace().map(|major| Postgres::find(major.parse().unwrap())).collect()
    }

    fn find(major: u16) -> Postgres {
        Postgres::installed(major)
            .unwrap_or_else(|| panic!("PostgreSQL {major} is missing: scripts/install-postgres {major}"))
    }

    /// This version, if it is there.
    pub fn installed(major: u16) -> Option<Postgres> {
        let places = [
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/postgres/{major}")),
            PathBuf::from(format!("/usr/lib/postgresql/{major}")),
        ];
        let home = places.into_iter().find(|home| home.join("bin/postgres").exists())?;
        Some(Postgres { major, home })
    }

    /// The path of a program, whether or not this installation has it.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.home.join("bin").join(name)
    }

    /// A program that looks at files alone: this version's, or else, for versions that have the same control file and
    /// manifest (13 to 16), that of the distribution. Says so where neither is there.
    fn offline_tool(&self, name: &str) -> Option<PathBuf> {
        let other = Path::new("/usr/lib/postgresql/15/bin").join(name);
        let tool = match self.major <= 16 && !self.tool(name).exists() {
            true => other,
            false => self.tool(name),
        };
        if !tool.exists() {
            eprintln!("SKIPPED: PostgreSQL {} comes without {name}", self.major);
        }
        tool.exists().then_some(tool)
    }
}

/// A data directory with its server.
pub struct Cluster {
    postgres: Postgres,
    /// Holds `data`, the sockets, `log` and, where it cannot be reached in its own place, the walden program.
    scratch: tempfile::TempDir,
    walden: PathBuf,
    env: Vec<(String, String)>,
    options: Vec<String>,
    server: Option<Child>,
    runtime: tokio::runtime::Runtime,
}

impl Cluster {
    /// No data directory yet: something to restore into. Its servers, and what they call, know `place`.
    pub fn empty(postgres: &Postgres, place: &Place) -> Cluster {
        let scratch = scratch_directory();
        let postgres = Postgres { home: reachable(&postgres.home, scratch.path()), ..postgres.clone() };
        let walden = reachable(program(), scratch.path());
        let env = place.env().into_iter().map(|(name, value)| (name.to_owned(), value));
        let cache = scratch.path().join("cache").to_str().unwrap().to_owned();
        let own = [("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned()), ("WALDEN_CACHE_DIR".to_owned(), cache)];
        let env = env.chain(own).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Cluster { postgres, scratch, walden, env, options: Vec::new(), server: None, runtime }
    }

    /// A running primary that archives into `place`.
    pub fn primary(postgres: &Postgres, place: &Place) -> Cluster {
        let mut cluster = Cluster::initialized(postgres, place, &[]);
        cluster.start();
        cluster
    }

    /// The same, not started, and with more options for initdb.
    pub fn initialized(postgres: &Postgres, place: &Place, options: &[&str]) -> Cluster {
        Cluster::made(postgres, place, &[&["-k"], options].concat())
    }

    /// The same without page checksums, which 18 has unless it is told otherwise.
    pub fn without_checksums(postgres: &Postgres, place: &Place, options: &[&str]) -> Cluster {
        let none: &[&str] = if postgres.major < 18 { &[] } else { &["--no-data-checksums"] };
        Cluster::made(postgres, place, &[none, options].concat())
    }

    fn made(postgres: &Postgres, place: &Place, options: &[&str]) -> Cluster {
        let cluster = Cluster::empty(postgres, place);
        let initdb = ["-A", "trust", "-U", "postgres", "--no-sync", "-D", "data"];
        cluster.program("initdb", &[&initdb, options].concat());
        cluster.configure(&format!(
            "archive_mode = on\narchive_command = '{}'\nmax_wal_size = 200MB\nshared_buffers = 32MB\n\
             wal_retrieve_retry_interval = 200ms\nautovacuum_naptime = 5s\n",
            cluster.archive_command()
        ));
        cluster
    }

    /// The walden that the servers' user can run.
    pub fn program_path(&self) -> &Path {
        &self.walden
    }

    /// What archives.
    pub fn archive_command(&self) -> String {
        format!("{} wal-push %p", self.walden.display())
    }

    /// What fetches, where no restore has written one.
    pub fn restore_command(&self) -> String {
        format!("{} wal-fetch %f \"%p\"", self.walden.display())
    }

    /// Another setting for walden, and for the servers that call it.
    pub fn env(mut self, name: &str, value: &str) -> Cluster {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// More words for the server's command line.
    pub fn options(&mut self, options: &[String]) {
        self.options = options.to_vec();
    }

    /// The programs that it runs.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    pub fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// A directory for something else, such as a tablespace, owned by the server's user.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.scratch.path().join(name);
        fs::create_dir(&path).unwrap();
        if let Some(user) = User::for_servers() {
            user.owns(&path);
        }
        path
    }

    /// Adds lines to postgresql.conf.
    pub fn configure(&self, lines: &str) {
        let mut file = fs::OpenOptions::new().append(true).open(self.data().join("postgresql.conf")).unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }

    /// A walden that runs as the server's user, finds the server and knows the place.
    pub fn walden(&self, args: &[&str]) -> Walden {
        let walden = Walden::at(&self.walden, self.scratch.path()).user(User::for_servers());
        let env = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        walden.envs(env).env("PGHOST", self.scratch.path()).env("PGUSER", "postgres").args(args)
    }

    /// Starts the server and waits until it answers.
    pub fn start(&mut self) {
        self.launch();
        let began = Instant::now();
        while self.try_sql("SELECT 1").is_err() {
            if let Some(status) = self.server.as_mut().unwrap().try_wait().unwrap() {
                panic!("the server ended with {status}\n{}", self.log());
            }
            assert!(began.elapsed() < PATIENCE, "the server does not answer\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts a server that is to end by itself; its exit code.
    pub fn run_to_its_end(&mut self) -> Option<i32> {
        self.launch();
        self.wait_for_end()
    }

    fn launch(&mut self) {
        assert!(self.server.is_none());
        let sockets = format!("unix_socket_directories={}", self.scratch.path().display());
        let mut command = self.command(&self.postgres.tool("postgres"));
        // Servers are killed here, machines are not: nothing needs fsync.
        command.args(["-D", "data", "-c", "listen_addresses=", "-c", "fsync=off", "-c", &sockets]);
        command.args(&self.options);
        let log = fs::OpenOptions::new().create(true).append(true).open(self.scratch.path().join("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.server = Some(command.spawn().unwrap());
    }

    /// A fast shutdown, which waits for the archiver.
    pub fn stop(&mut self) {
        self.signal(Signal::INT);
        self.wait_for_end();
    }

    /// An immediate shutdown: sessions and archiver end at once.
    pub fn stop_at_once(&mut self) {
        self.signal(Signal::QUIT);
        self.wait_for_end();
    }

    /// kill -9 of the postmaster; the other processes notice and end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_for_end();
        self.wait_until("the server's processes are gone", |cluster| !cluster.has_processes());
    }

    fn has_processes(&self) -> bool {
        let data = self.data();
        let mut processes = fs::read_dir("/proc").unwrap();
        processes.any(|process| fs::read_link(process.unwrap().path().join("cwd")).is_ok_and(|cwd| cwd == data))
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.server.as_ref().expect("the server runs"));
        kill_process(pid, signal).unwrap();
    }

    fn wait_for_end(&mut self) -> Option<i32> {
        let mut server = self.server.take().expect("the server runs");
        let began = Instant::now();
        loop {
            if let Some(status) = server.try_wait().unwrap() {
                return status.code();
            }
            if began.elapsed() > PATIENCE {
                self.server = Some(server);
                panic!("the server does not end\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the condition holds; `what` is said where it never does.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Cluster) -> bool) {
        let began = Instant::now();
        while !condition(self) {
            assert!(began.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs SQL, one transaction unless it says otherwise, and returns the rows as text, NULL as an empty one.
    pub fn sql(&self, sql: &str) -> Vec<Vec<String>> {
        self.try_sql(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}\n{}", self.log()))
    }

    pub fn try_sql(&self, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
        self.runtime.block_on(ask(&self.socket(), PORT, "postgres", sql))
    }

    /// The same in another database.
    pub fn sql_in(&self, database: &str, sql: &str) -> Vec<Vec<String>> {
        let asked = self.runtime.block_on(ask(&self.socket(), PORT, database, sql));
        asked.unwrap_or_else(|error| panic!("{sql}: {error:?}\n{}", self.log()))
    }

    /// The first column of the first row.
    pub fn value(&self, sql: &str) -> String {
        self.sql(sql).first().and_then(|row| row.first()).unwrap_or_else(|| panic!("{sql}: no rows")).clone()
    }

    /// The directory of the server's socket.
    pub fn socket(&self) -> PathBuf {
        self.scratch.path().to_path_buf()
    }

    /// Switches to a new WAL segment and waits until the old one is in the archive.
    pub fn archive_all(&self) {
        // Writes something, for a switch in an empty segment does nothing.
        let segment = self.value("SELECT pg_walfile_name(pg_create_restore_point('switch'))");
        self.sql("SELECT pg_switch_wal()");
        self.wait_until("everything is archived", |cluster| {
            cluster.value("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver") >= segment
        });
    }

    /// Waits until the server runs `sleep` as its archive_command.
    pub fn archive_stops(&self) {
        self.wait_until("the archiver hangs", |cluster| !cluster.sleepers().is_empty());
    }

    /// Ends such a command: PostgreSQL asks again.
    pub fn end_archive_command(&self) {
        for sleeper in self.sleepers() {
            let _ = kill_process(sleeper, Signal::TERM);
        }
    }

    fn sleepers(&self) -> Vec<Pid> {
        let data = self.data();
        let ours = |process: PathBuf| {
            let command = fs::read(process.join("cmdline")).ok()?;
            let sleeps = command.starts_with(b"sleep\0") && fs::read_link(process.join("cwd")).ok()? == data;
            Pid::from_raw(process.file_name()?.to_str()?.parse().ok()?).filter(|_| sleeps)
        };
        fs::read_dir("/proc").unwrap().filter_map(|process| ours(process.unwrap().path())).collect()
    }

    pub fn is_in_recovery(&self) -> bool {
        self.value("SELECT pg_is_in_recovery()") == "t"
    }

    pub fn promote(&self) {
        self.sql("SELECT pg_promote()");
    }

    pub fn is_running(&mut self) -> bool {
        self.server.as_mut().is_some_and(|server| server.try_wait().unwrap().is_none())
    }

    /// Every index and every heap page agree with each other.
    pub fn check_pages(&self) {
        let databases = self.sql("SELECT datname FROM pg_database WHERE datallowconn");
        assert!(!databases.is_empty());
        self.sql("CREATE EXTENSION IF NOT EXISTS amcheck");
        self.sql(
            "SELECT bt_index_check(i.indexrelid, true) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
             JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relpersistence = 'p' AND i.indisvalid",
        );
        if self.postgres.major >= 14 {
            let damage = self.sql(
                "SELECT c.relname, v.msg FROM pg_class c, verify_heapam(c.oid) v \
                 WHERE c.relkind IN ('r', 'm', 't') AND c.relpersistence = 'p'",
            );
            assert!(damage.is_empty(), "{damage:?}");
        }
    }

    /// pg_amcheck on every database, with every row looked for in every index; where it cannot be had, what it does on
    /// this database.
    pub fn check_relations(&self) {
        match self.postgres.major >= 14 && self.postgres.tool("pg_amcheck").exists() {
            true => {
                let socket = self.socket();
                let server = ["-h", socket.to_str().unwrap(), "-U", "postgres"];
                let how = ["--all", "--install-missing", "--heapallindexed", "--no-strict-names"];
                self.program("pg_amcheck", &[server, how].concat()).stdout_is("");
            }
            false => self.check_pages(),
        }
    }

    /// pg_verifybackup on the restored directory, before its server has changed anything. Says so where the tool is
    /// missing.
    pub fn verify_backup(&self) {
        let Some(tool) = self.postgres.offline_tool("pg_verifybackup") else { return };
        // What restoring adds is not in the manifest. The marker stays where a restore was killed right after its commit.
        let added = ["postgresql.auto.conf", "recovery.signal", "standby.signal", ".walden-restore"];
        let ignored: Vec<String> = added.iter().map(|name| format!("--ignore={name}")).collect();
        let mut args = vec!["--no-parse-wal", "data"];
        args.extend(ignored.iter().map(String::as_str));
        self.run(&tool, &args);
    }

    /// pg_checksums on the cluster, whose server has stopped in good order and is not started again. Says so where the tool
    /// is missing.
    pub fn verify_checksums(&self) {
        let Some(tool) = self.postgres.offline_tool("pg_checksums") else { return };
        if tool != self.postgres.tool("pg_checksums") {
            self.name_tablespaces_for_15();
        }
        let told = self.run(&tool, &["--check", "-D", "data"]);
        told.stdout_has("Bad checksums:  0");
    }

    /// In a tablespace each version looks below a name of its own.
    fn name_tablespaces_for_15(&self) {
        for space in fs::read_dir(self.data().join("pg_tblspc")).unwrap().map(|entry| entry.unwrap().path()) {
            let own = fs::read_dir(&space).unwrap().next().unwrap().unwrap().path();
            std::os::unix::fs::symlink(own, space.join("PG_15_202209061")).unwrap();
        }
    }

    /// Runs one of PostgreSQL's programs to its successful end.
    pub fn program(&self, name: &str, args: &[&str]) -> Ran {
        self.run(&self.postgres.tool(name), args)
    }

    fn run(&self, program: &Path, args: &[&str]) -> Ran {
        let mut command = self.command(program);
        let output = command.args(args).output().unwrap();
        Ran::of(format!("{command:?}"), &output).code(0)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.scratch.path()).stdin(Stdio::null()).env_clear().env("PATH", "/usr/bin:/bin");
        command.envs(self.env.iter().map(|(name, value)| (name, value))).env("LC_ALL", "C").env("TZ", "UTC");
        if let Some(user) = User::for_servers() {
            user.runs(&mut command);
        }
        command
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        let log = fs::read(self.scratch.path().join("log")).unwrap_or_default();
        format!("--- the server's log\n{}", String::from_utf8_lossy(&log))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.log());
        }
        if let Some(mut server) = self.server.take() {
            // An immediate shutdown: the postmaster takes all its processes with it, which SIGKILL would not.
            let _ = kill_process(Pid::from_child(&server), Signal::QUIT);
            let _ = server.wait();
        }
    }
}

/// Runs SQL on the server with this socket: rows as text, NULL as an empty one.
pub fn query(socket: &Path, port: u16, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(ask(socket, port, "postgres", sql))
}

async fn ask(socket: &Path, port: u16, database: &str, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
    let client = connect_to(socket, port, database).await?;
    let messages = client.simple_query(sql).await?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
        }
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

/// A connection through the socket in this directory.
pub async fn connect(socket: &Path) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    connect_to(socket, PORT, "postgres").await
}

async fn connect_to(socket: &Path, port: u16, database: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host_path(socket).port(port).user("postgres").dbname(database).connect_timeout(Duration::from_secs(10));
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
