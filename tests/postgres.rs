//! PostgreSQL's side: sessions with real servers, and data directories, real and forged.
//!
//! The live tests take the newest PostgreSQL below /usr/lib/postgresql, or the programs in the directory that `PG_BIN`
//! names. Without one they say so and pass, except under `CI`. Root runs the servers as the user `PG_TEST_USER`
//! (default: postgres), for PostgreSQL refuses to run as root.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::front::free_address;
use tempfile::TempDir;
use walden::error::{Error, Kind, Recovery};
use walden::postgres::client::{ArchiveMode, Archiving, Client, Environment};
use walden::postgres::control::{CONTROL_FILE, ControlFile, SystemId};
use walden::postgres::datadir::{self, Walk};
use walden::postgres::label::BackupLabel;
use walden::postgres::lsn::Lsn;
use walden::wal::segment::SegmentSize;
use walden::wal::timeline::Timeline;

// ---- a live cluster ----

struct Cluster {
    home: TempDir,
    bin: PathBuf,
    port: u16,
}

/// Settings that every cluster here has; `{home}` and `{port}` are filled in.
const SETTINGS: &str = "
    port = {port}
    listen_addresses = '127.0.0.1'
    unix_socket_directories = '{home}'
    fsync = off
    autovacuum = off
    max_wal_senders = 2
";

const RULES: &str = "
    local all,replication postgres trust
    local all all scram-sha-256
    hostssl all only_tls 127.0.0.1/32 scram-sha-256
    hostnossl all only_plain 127.0.0.1/32 scram-sha-256
    host all either 127.0.0.1/32 scram-sha-256
";

impl Cluster {
    /// A running cluster with these further settings, or `None` if there is no PostgreSQL here.
    fn start(settings: &str, initdb: &[&str]) -> Option<Cluster> {
        let Some(bin) = programs() else {
            assert!(std::env::var_os("CI").is_none(), "CI has no PostgreSQL");
            eprintln!("SKIPPED: no PostgreSQL found; set PG_BIN to the directory of its programs");
            return None;
        };
        let mut cluster = Cluster::new(bin);
        cluster.run("initdb", &[&["-U", "postgres", "-A", "trust", "--no-sync"], initdb].concat());
        cluster.append("data/postgresql.conf", settings);
        fs::write(cluster.path("data/pg_hba.conf"), RULES).unwrap();
        cluster.boot();
        Some(cluster)
    }

    /// A standby of this cluster, running.
    fn start_standby(&self) -> Cluster {
        let mut standby = Cluster::new(self.bin.clone());
        let target = standby.data();
        self.run("pg_basebackup", &["-D", target.to_str().unwrap(), "-R", "-c", "fast", "--no-sync"]);
        standby.boot();
        standby
    }

    fn new(bin: PathBuf) -> Cluster {
        let home = tempfile::Builder::new().prefix("walden-pg").tempdir().unwrap();
        fs::set_permissions(home.path(), Permissions::from_mode(0o777)).unwrap();
        // The port is another one when it starts; initdb only wants it to be one.
        Cluster { home, bin, port: 5432 }
    }

    fn boot(&mut self) {
        // No sooner: whoever else asks for a port is given this one until it is taken.
        self.port = free_address().port();
        let settings = SETTINGS.replace("{home}", self.home()).replace("{port}", &self.port.to_string());
        self.append("data/postgresql.conf", &settings);
        self.control("start");
    }

    fn home(&self) -> &str {
        self.home.path().to_str().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.path("data")
    }

    fn append(&self, name: &str, text: &str) {
        fs::OpenOptions::new().append(true).open(self.path(name)).unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// A directory that belongs to the server's user.
    fn make_directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        assert!(as_server("mkdir").arg(&path).status().unwrap().success());
        path
    }

    fn program(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = as_server(self.bin.join(name).to_str().unwrap());
        command.args(arguments).current_dir(self.home.path()).env("PGHOST", self.home()).env("PGUSER", "postgres");
        command.env("PGPORT", self.port.to_string()).env("PGDATA", self.data()).stderr(Stdio::piped());
        command
    }

    fn run(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.program(name, arguments).stdout(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn control(&self, action: &str) {
        let log = self.path("log");
        // Not through run(): the server would keep the pipe open.
        let mut command = self.program("pg_ctl", &["-w", "-m", "fast", "-l", log.to_str().unwrap(), action]);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "pg_ctl {action}: {}", fs::read_to_string(&log).unwrap_or_default());
    }

    fn major(&self) -> u32 {
        self.sql("SHOW server_version_num").parse::<u32>().unwrap() / 10_000
    }

    fn sql(&self, sql: &str) -> String {
        self.run("psql", &["-XAtqc", sql])
    }

    /// The variables of the superuser at the socket, and `changes` to them.
    fn environment(&self, changes: &[(&str, &str)]) -> Environment {
        let port = self.port.to_string();
        let socket = [("PGHOST", self.home()), ("PGPORT", &port), ("PGUSER", "postgres")];
        socket.iter().chain(changes).map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    async fn connect(&self, changes: &[(&str, &str)]) -> Result<Client, Error> {
        Client::connect(&self.environment(changes)).await
    }

    async fn refusal(&self, changes: &[(&str, &str)]) -> Error {
        self.connect(changes).await.err().unwrap()
    }

    /// Connects with these variables by TCP and asks the server whether the session is encrypted.
    async fn is_encrypted(&self, changes: &[(&str, &str)]) -> bool {
        let over_tcp =
            [("PGHOST", "localhost"), ("PGPASSWORD", "secret"), ("PGUSER", "either"), ("PGAPPNAME", "asked")];
        let client = self.connect(&[&over_tcp, changes].concat()).await.unwrap();
        let told =
            self.sql("SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'asked'");
        drop(client);
        let began = Instant::now();
        while self.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'asked'") != "0" {
            assert!(began.elapsed() < Duration::from_secs(60), "the session outlives its client");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        told == "t"
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.program("pg_ctl", &["-m", "immediate", "stop"]).stdout(Stdio::null()).status();
    }
}

fn programs() -> Option<PathBuf> {
    let newest = || {
        let versions =
            fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
        versions.filter(|bin| bin.join("initdb").exists()).max_by_key(|bin| bin.as_os_str().to_owned())
    };
    std::env::var_os("PG_BIN").map(PathBuf::from).or_else(newest)
}

fn as_server(program: &str) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let user = std::env::var("PG_TEST_USER").unwrap_or_else(|_| "postgres".into());
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups", program]);
    command
}

// ---- sessions ----

#[tokio::test]
async fn sessions_open_as_libpq_would_open_them() {
    let Some(cluster) = Cluster::start("", &[]) else { return };
    cluster.sql("CREATE ROLE either LOGIN PASSWORD 'se:cr\\et'");
    let tcp = [("PGHOST", "localhost"), ("PGUSER", "either")];
    let with = |changes: &[(&'static str, &'static str)]| [tcp.as_slice(), changes].concat();

    cluster.connect(&[]).await.unwrap();
    cluster.connect(&with(&[("PGPASSWORD", "se:cr\\et")])).await.unwrap();
    let list = format!("{}/absent,127.0.0.1", cluster.home());
    cluster.connect(&[("PGHOST", &list), ("PGUSER", "either"), ("PGPASSWORD", "se:cr\\et")]).await.unwrap();

    let wrong = cluster.refusal(&with(&[("PGPASSWORD", "wrong")])).await;
    assert_eq!(wrong.kind(), Kind::Denied);
    assert!(wrong.cause().unwrap().contains("SQLSTATE 28P01"), "{wrong:?}");
    assert!(wrong.advice().unwrap().contains("PGPASSWORD"));
    let missing = cluster.refusal(&tcp).await;
    assert_eq!(missing.kind(), Kind::Denied);
    assert!(missing.advice().unwrap().contains(".pgpass"), "{missing:?}");
    let no_rule = cluster.refusal(&[("PGHOST", "127.0.0.1"), ("PGPASSWORD", "x")]).await;
    assert_eq!(no_rule.kind(), Kind::Denied);
    assert!(no_rule.cause().unwrap().contains("no pg_hba.conf entry"), "{no_rule:?}");
    let database = cluster.refusal(&[("PGDATABASE", "absent")]).await;
    assert_eq!(database.kind(), Kind::Config);
    assert!(database.advice().unwrap().contains("PGDATABASE"));
}

#[tokio::test]
async fn the_password_file_serves_hosts_and_sockets() {
    let Some(cluster) = Cluster::start("", &[]) else { return };
    cluster.sql("CREATE ROLE either LOGIN PASSWORD 'se:cr\\et'");
    let file = cluster.path(".pgpass");
    let lines = format!(
        "localhost:{0}:postgres:either:se\\:cr\\\\et\n{1}:*:*:either:se\\:cr\\\\et\n",
        cluster.port,
        cluster.home()
    );
    fs::write(&file, lines).unwrap();

    for (host, variable, value) in
        [("localhost", "PGPASSFILE", file.to_str().unwrap()), (cluster.home(), "HOME", cluster.home())]
    {
        let changes = [("PGHOST", host), ("PGUSER", "either"), (variable, value)];
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(cluster.refusal(&changes).await.kind(), Kind::Denied, "a file that others can read, for {host}");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        cluster.connect(&changes).await.unwrap();
    }
}

#[tokio::test]
async fn every_ssl_mode_encrypts_and_verifies_what_libpq_says() {
    let Some(cluster) = Cluster::start("", &[]) else { return };
    for role in ["either", "only_tls", "only_plain"] {
        cluster.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'"));
    }
    let plain = [("PGHOST", "localhost"), ("PGPASSWORD", "secret"), ("PGUSER", "either"), ("PGSSLMODE", "require")];
    let refused = cluster.refusal(&plain).await;
    assert_eq!(refused.kind(), Kind::Denied);
    assert!(refused.advice().unwrap().contains("PGSSLMODE"), "{refused:?}");

    certificates(&cluster);
    serve_with(&cluster, "server");
    let (authority, other) = (cluster.path("authority.crt"), cluster.path("other.crt"));
    let (authority, other) = (authority.to_str().unwrap(), other.to_str().unwrap());
    let modes = |mode: &'static str, user: &'static str| [("PGSSLMODE", mode), ("PGUSER", user)];

    for mode in ["prefer", "require"] {
        assert!(cluster.is_encrypted(&[("PGSSLMODE", mode)]).await, "{mode}");
    }
    for mode in ["disable", "allow"] {
        assert!(!cluster.is_encrypted(&[("PGSSLMODE", mode)]).await, "{mode}");
    }
    assert!(cluster.is_encrypted(&modes("allow", "only_tls")).await);
    assert!(!cluster.is_encrypted(&modes("prefer", "only_plain")).await);
    for (mode, user) in [("disable", "only_tls"), ("require", "only_plain")] {
        let refused = cluster.refusal(&[&plain[..2], &modes(mode, user)].concat()).await;
        assert_eq!(refused.kind(), Kind::Denied, "{mode}: {refused:?}");
    }

    for (mode, host, roots, accepted) in [
        ("verify-full", "localhost", authority, true),
        ("verify-full", "127.0.0.1", authority, false),
        ("verify-ca", "127.0.0.1", authority, true),
        ("verify-ca", "localhost", other, false),
        ("require", "localhost", authority, true),
        ("require", "localhost", other, false),
        ("verify-full", "localhost", "system", false),
    ] {
        let changes = [("PGHOST", host), ("PGSSLMODE", mode), ("PGSSLROOTCERT", roots)];
        if accepted {
            assert!(cluster.is_encrypted(&changes).await, "{mode} {host} {roots}");
        } else {
            let refused = cluster.refusal(&[plain.as_slice(), &changes].concat()).await;
            assert_eq!(refused.kind(), Kind::Denied, "{mode} {host} {roots}: {refused:?}");
            assert!(refused.cause().unwrap().contains("certificate"), "{refused:?}");
            assert!(refused.advice().unwrap().contains("PGSSLROOTCERT"), "{refused:?}");
        }
    }
    let home = cluster.make_directory(".postgresql");
    fs::copy(other, home.join("root.crt")).unwrap();
    let refused = cluster.refusal(&[plain.as_slice(), &[("HOME", cluster.home())]].concat()).await;
    assert_eq!(refused.kind(), Kind::Denied, "~/.postgresql/root.crt is not looked at: {refused:?}");
}

#[tokio::test]
async fn a_self_signed_certificate_is_its_own_authority_until_it_expires() {
    let Some(cluster) = Cluster::start("", &[]) else { return };
    cluster.sql("CREATE ROLE either LOGIN PASSWORD 'secret'");
    certificates(&cluster);
    let [own, expired] = ["authority", "expired"].map(|name| format!("{}/{name}.crt", cluster.home()));
    let login = [("PGUSER", "either"), ("PGPASSWORD", "secret"), ("PGSSLMODE", "verify-full")];

    serve_with(&cluster, "authority");
    assert!(cluster.is_encrypted(&[("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", &own)]).await);
    let by_address = [login.as_slice(), &[("PGHOST", "127.0.0.1"), ("PGSSLROOTCERT", &own)]].concat();
    assert_eq!(cluster.refusal(&by_address).await.kind(), Kind::Denied);

    serve_with(&cluster, "expired");
    let out_of_date = [login.as_slice(), &[("PGHOST", "localhost"), ("PGSSLROOTCERT", &expired)]].concat();
    let refused = cluster.refusal(&out_of_date).await;
    assert_eq!(refused.kind(), Kind::Denied);
    assert!(refused.cause().unwrap().contains("xpired"), "{refused:?}");
}

/// Makes `server` (for localhost, signed by `authority`), `authority` and `other` (self-signed), and `expired` (the same,
/// out of date).
fn certificates(cluster: &Cluster) {
    let script = "
        set -e
        export OPENSSL_CONF=/dev/null
        self() { openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
            -addext basicConstraints=critical,CA:TRUE -keyout $1.key -out $1.crt; }
        self authority; self other
        echo subjectAltName=DNS:localhost > extensions
        openssl req -new -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr
        openssl x509 -req -in server.csr -CA authority.crt -CAkey authority.key -CAcreateserial -days 2 -extfile extensions -out server.crt
        openssl req -new -newkey rsa:2048 -nodes -subj /CN=localhost -keyout expired.key -out expired.csr
        openssl x509 -req -in expired.csr -signkey expired.key -days -1 -extfile extensions -out expired.crt
        chmod 600 *.key";
    let output = as_server("sh").args(["-c", script]).current_dir(cluster.home.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn serve_with(cluster: &Cluster, certificate: &str) {
    let home = cluster.home();
    cluster.append(
        "data/postgresql.conf",
        &format!("ssl = on\nssl_cert_file = '{home}/{certificate}.crt'\nssl_key_file = '{home}/{certificate}.key'\n"),
    );
    cluster.control("restart");
}

#[tokio::test]
async fn no_server_and_a_silent_server_are_unreachable_within_the_timeout() {
    let directory = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().port().to_string();
    let closed = free_address().port().to_string();
    let socket = directory.path().to_str().unwrap();
    for (host, port, variable) in
        [(socket, "5432", "PGHOST"), ("127.0.0.1", &closed, "PGPORT"), ("127.0.0.1", &silent, "PGCONNECT_TIMEOUT")]
    {
        let variables = [("PGHOST", host), ("PGPORT", port), ("PGUSER", "ann"), ("PGCONNECT_TIMEOUT", "1")];
        let environment: Environment = variables.map(|(name, value)| (name.into(), value.into())).into();
        let begin = Instant::now();
        let error = Client::connect(&environment).await.err().unwrap();
        assert_eq!(error.kind(), Kind::Unreachable, "{error:?}");
        assert!(error.advice().unwrap().contains(variable), "{error:?}");
        assert!(error.what().contains(host) && error.what().contains("ann"), "{error:?}");
        // The default is 10 s.
        assert!(begin.elapsed() < Duration::from_secs(9));
    }
}

#[tokio::test]
async fn the_time_limits_of_a_role_do_not_end_a_session() {
    let Some(cluster) = Cluster::start("", &[]) else { return };
    let limits = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"];
    let known = |limit: &&&str| cluster.sql(&format!("SELECT count(*) FROM pg_settings WHERE name = '{limit}'")) == "1";
    let set = |limit: &&str| format!("ALTER ROLE postgres SET {limit} = '300ms';");
    // In one session: the next one is bound by what is set.
    cluster.sql(&limits.iter().filter(known).map(set).collect::<String>());
    let client = cluster.connect(&[]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!client.is_closed());
    client.server().await.unwrap();
}

// ---- what a backup asks of a server ----

#[tokio::test]
async fn a_server_tells_what_its_control_file_and_its_settings_say() {
    let Some(cluster) = Cluster::start("archive_mode = on\narchive_command = 'false'", &["--wal-segsize=1", "-k"])
    else {
        return;
    };
    let client = cluster.connect(&[]).await.unwrap();
    let server = client.server().await.unwrap();
    let (control, bytes) = datadir::read_control(&cluster.data()).unwrap();

    assert_eq!(ControlFile::parse(&bytes).unwrap(), control);
    assert_eq!(server.system_id, control.system_id);
    assert_eq!((server.major, server.timeline), (control.version, control.timeline));
    assert_eq!(server.version_num.to_string(), cluster.sql("SHOW server_version_num"));
    assert_eq!(server.version, cluster.sql("SHOW server_version"));
    assert_eq!(server.data_directory, cluster.data());
    assert_eq!(server.segment_size, SegmentSize::new(1 << 20).unwrap());
    assert_eq!(server.segment_size, control.segment_size);
    assert!(server.data_checksums && control.data_checksums);
    assert!(!server.in_recovery);
    assert_eq!(server.wal_level, "replica");
    assert_eq!((server.archive_mode, server.archiving), (ArchiveMode::On, Archiving::Command("false".into())));

    let name = cluster.sql("SELECT pg_walfile_name(pg_switch_wal())");
    let failed = loop {
        let archiver = client.archiver().await.unwrap();
        if archiver.failed_count > 0 {
            break archiver;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((failed.archived_count, failed.last_archived_wal), (0, None));
    assert!(failed.last_failed_wal.unwrap() <= name);
    assert!(failed.last_failed_time.unwrap().duration_since(jiff::Timestamp::now()).abs().as_secs() < 60);
}

#[tokio::test]
async fn a_role_with_the_grants_of_the_hint_can_run_a_backup() {
    let Some(cluster) = Cluster::start("", &[]) else { return };
    cluster.sql("CREATE ROLE \"night shift\" LOGIN PASSWORD 'secret'");
    let role = [("PGHOST", "localhost"), ("PGUSER", "night shift"), ("PGPASSWORD", "secret")];
    cluster.append("data/pg_hba.conf", "host all \"night shift\" 127.0.0.1/32 scram-sha-256\n");
    cluster.control("reload");
    let client = cluster.connect(&role).await.unwrap();
    let denied = client.server().await.unwrap_err();
    assert_eq!(denied.kind(), Kind::Denied);
    assert_eq!(client.backup_start("x").await.unwrap_err().kind(), Kind::Denied);
    assert!(denied.cause().unwrap().contains("SQLSTATE 42501"), "{denied:?}");

    let (_, grants) = denied.advice().unwrap().split_once(": ").unwrap();
    cluster.sql(grants);

    client.server().await.unwrap();
    client.archiver().await.unwrap();
    let start = client.backup_start("night").await.unwrap();
    let stop = client.backup_stop().await.unwrap();
    let label = BackupLabel::parse(&stop.label_file).unwrap();
    assert_eq!((label.start, label.timeline), (start, Timeline(1)));
    assert!(start < stop.stop && start <= label.checkpoint && label.checkpoint < stop.stop);
    assert!(stop.label_file.contains("LABEL: night\n"));
    assert_eq!(stop.tablespace_map, "");
    assert_eq!(label.segment.start(SegmentSize::DEFAULT), Some(Lsn(start.0 & !0xFF_FFFF)));
}

#[tokio::test]
async fn a_backup_names_the_tablespaces_and_cannot_be_ended_twice() {
    let Some(cluster) = Cluster::start("", &[]) else { return };
    let place = cluster.make_directory("space");
    cluster.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", place.display()));
    let client = cluster.connect(&[]).await.unwrap();
    client.backup_start("x").await.unwrap();
    let stop = client.backup_stop().await.unwrap();
    assert!(stop.tablespace_map.ends_with(&format!(" {}\n", place.display())), "{}", stop.tablespace_map);
    let again = client.backup_stop().await.unwrap_err();
    assert_eq!(again.kind(), Kind::Refused, "{again:?}");
}

#[tokio::test]
async fn a_restart_of_the_server_is_noticed_at_once_and_voids_the_backup() {
    let Some(cluster) = Cluster::start("", &[]) else { return };
    let client = cluster.connect(&[]).await.unwrap();
    client.backup_start("x").await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), client.closed()).await.is_err(), "closed too early");
    assert!(!client.is_closed());

    cluster.control("restart");

    let lost = tokio::time::timeout(Duration::from_secs(5), client.closed()).await.unwrap();
    assert_eq!(lost.kind(), Kind::Unreachable);
    assert!(lost.cause().unwrap().contains("57P01"), "{lost:?}");
    assert!(client.is_closed());
    let void = client.backup_stop().await.unwrap_err();
    assert_eq!(void.kind(), Kind::Unreachable);
    assert!(void.cause().unwrap().contains("57P01"), "{void:?}");
    assert!(void.advice().unwrap().contains("pg_isready"), "{void:?}");
}

#[tokio::test]
async fn a_standby_says_so_and_its_promotion_voids_the_backup() {
    let Some(primary) = Cluster::start("", &[]) else { return };
    let standby = primary.start_standby();
    let client = standby.connect(&[]).await.unwrap();
    let before = client.server().await.unwrap();
    assert!(before.in_recovery);
    assert_eq!(before.system_id, primary.connect(&[]).await.unwrap().server().await.unwrap().system_id);
    assert_eq!(before.timeline, Timeline(1));
    assert_eq!((before.archive_mode, before.archiving), (ArchiveMode::Off, Archiving::Nothing));
    client.backup_start("x").await.unwrap();
    client.backup_stop().await.unwrap();

    client.backup_start("x").await.unwrap();
    standby.control("promote");

    let void = client.backup_stop().await.unwrap_err();
    assert_eq!(void.kind(), Kind::Refused);
    assert!(void.cause().unwrap().contains("promoted"), "{void:?}");
    let after = client.server().await.unwrap();
    assert!(!after.in_recovery);
    assert_eq!(after.timeline, Timeline(2));
}

// ---- the walk, beside PostgreSQL's own ----

#[test]
fn the_walk_finds_what_pg_basebackup_sends() {
    let wal = tempfile::tempdir().unwrap();
    fs::set_permissions(wal.path(), Permissions::from_mode(0o777)).unwrap();
    let wal = wal.path().join("wal");
    let Some(cluster) = Cluster::start("", &["-X", wal.to_str().unwrap()]) else {
        return;
    };
    let data = &cluster.data();
    let mut session = populate(&cluster);

    let walk = datadir::walk(data, &datadir::read_control(data).unwrap().0).unwrap();
    let mut ours = sent(&walk);
    let mut theirs = base_backup(&cluster);
    if cluster.major() >= 15 {
        // PostgreSQL 15 leaves these out of its own backups: they are made for its tests.
        let relation = cluster.sql("SELECT pg_relation_filepath('in_place')");
        assert!(ours.contains_key(&relation), "{relation}");
        let (directory, _) = relation.split_once("/PG_").unwrap();
        ours.retain(|path, _| !path.starts_with(directory));
        theirs.retain(|path, _| !path.starts_with(directory));
    }
    let differences: Vec<_> = symmetric_difference(&ours, &theirs);
    assert!(differences.is_empty(), "{differences:#?}");
    let spaces: Vec<String> =
        walk.tablespaces.iter().map(|space| format!("{}|{}", space.oid, space.location.display())).collect();
    let known =
        "SELECT oid, pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname IN ('outside', 'inside') ORDER BY 1";
    assert_eq!(spaces.join("\n"), cluster.sql(known));
    assert_eq!(spaces.len(), 2);
    let skipped: Vec<&str> = walk.skipped.iter().map(|skipped| skipped.path.as_str()).collect();
    assert_eq!(skipped, ["linked.conf"]);
    for path in ["pg_wal", "pg_wal/archive_status", "pg_replslot", CONTROL_FILE] {
        assert!(ours.contains_key(path), "{path}");
    }
    assert!(walk.files.iter().any(|(path, _)| path.ends_with("_init")), "no unlogged table was there");
    session.kill().unwrap();
    session.wait().unwrap();
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    is_directory: bool,
    size: u64,
    mode: u32,
}

/// What a backup of these would send.
fn sent(walk: &Walk) -> BTreeMap<String, Sent> {
    let files = walk.files.iter().map(|(path, size)| {
        let mode = fs::metadata(walk.root.join(&path)).unwrap().permissions().mode() & 0o7777;
        (path, Sent { is_directory: false, size, mode })
    });
    let directories = walk.directories.iter();
    files
        .chain(directories.map(|dir| (dir.path.clone(), Sent { is_directory: true, size: 0, mode: dir.mode })))
        .collect()
}

/// Puts in everything that makes a walk hard. The session keeps a temporary table.
fn populate(cluster: &Cluster) -> Child {
    let (outside, inside) = (cluster.make_directory("space"), cluster.make_directory("data/inner"));
    cluster.sql(&format!("CREATE TABLESPACE outside LOCATION '{}'", outside.display()));
    cluster.sql(&format!("CREATE TABLESPACE inside LOCATION '{}'", inside.display()));
    if cluster.major() >= 15 {
        cluster.append("data/postgresql.conf", "allow_in_place_tablespaces = on\n");
        cluster.control("reload");
        cluster.sql("CREATE TABLESPACE in_place LOCATION ''");
        cluster.sql("CREATE TABLE in_place TABLESPACE in_place AS SELECT 1 AS a");
    }
    cluster.sql("CREATE UNLOGGED TABLE unlogged (a int PRIMARY KEY, b text)");
    cluster.sql("INSERT INTO unlogged SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i");
    cluster.sql("CREATE UNLOGGED TABLE elsewhere TABLESPACE outside AS SELECT 1 AS a");
    cluster.sql("CREATE TABLE logged TABLESPACE outside AS SELECT generate_series(1, 20000) AS a");
    cluster.sql("CREATE TABLE within TABLESPACE inside AS SELECT 1 AS a");
    cluster.sql("CREATE DATABASE other TABLESPACE outside");
    make_stray_files(&cluster.path("data"), &outside);
    let mut session = cluster.program("psql", &["-XAtq"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let statements =
        "CREATE TEMP TABLE t AS SELECT generate_series(1, 9999) AS a;\nVACUUM t;\nSELECT pg_relation_filepath('t');\n";
    session.stdin.as_mut().unwrap().write_all(statements.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(session.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let name = Path::new(line.trim()).file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with('t') && cluster.data().join(line.trim()).exists(), "{line}");
    cluster.sql("CHECKPOINT");
    session
}

/// Files that a server leaves here and there, and some that it would not.
fn make_stray_files(data: &Path, tablespace: &Path) {
    for name in [
        "backup_label.old",
        "postgresql.auto.conf.tmp",
        "current_logfiles.tmp",
        "base/pgsql_tmp/pgsql_tmp1.0",
        "base/pgsql_tmp2",
        "pg_stat_tmp/global.stat",
        "pg_notify/0001",
        "global/pg_internal.init.42",
        "extension/pg_replslot/file",
        "extension/t1_2",
        "extension/1_init",
        "extension/1",
    ] {
        write_as_server(&data.join(name));
    }
    // The directory of another major version, as between pg_upgrade and the removal of the old cluster.
    write_as_server(&tablespace.join("PG_9.6_201608131/1/1"));
    symlink("/etc/hostname", data.join("linked.conf")).unwrap();
}

fn write_as_server(path: &Path) {
    let script = "umask 0077; mkdir -p \"${0%/*}\"; echo content > \"$0\"";
    assert!(as_server("sh").args(["-c", script]).arg(path).status().unwrap().success());
}

/// What PostgreSQL sends for a base backup, without the two files that it makes for it.
fn base_backup(cluster: &Cluster) -> BTreeMap<String, Sent> {
    let target = cluster.path("backup");
    cluster.run("pg_basebackup", &["-D", target.to_str().unwrap(), "-Ft", "-X", "none", "-c", "fast", "--no-sync"]);
    let mut entries = BTreeMap::new();
    for file in fs::read_dir(&target).unwrap() {
        let file = file.unwrap().path();
        let Some(name) = file.file_name().unwrap().to_str().unwrap().strip_suffix(".tar") else { continue };
        let prefix = if name == "base" { String::new() } else { format!("pg_tblspc/{name}/") };
        read_tar(&file, &prefix, &mut entries);
    }
    for name in ["backup_label", "tablespace_map"] {
        assert!(entries.remove(name).is_some(), "{name}");
    }
    entries
}

fn read_tar(file: &Path, prefix: &str, entries: &mut BTreeMap<String, Sent>) {
    let mut archive = tar::Archive::new(fs::File::open(file).unwrap());
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().trim_end_matches('/').trim_start_matches("./").to_owned();
        let header = entry.header();
        let is_directory = match header.entry_type() {
            tar::EntryType::Directory => true,
            tar::EntryType::Regular => false,
            other => panic!("{path} is {other:?}"),
        };
        let sent = Sent { is_directory, size: header.size().unwrap(), mode: header.mode().unwrap() & 0o7777 };
        entries.insert(format!("{prefix}{path}"), sent);
    }
}

fn symmetric_difference(ours: &BTreeMap<String, Sent>, theirs: &BTreeMap<String, Sent>) -> Vec<String> {
    let paths: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let differing = paths.into_iter().filter(|path| ours.get(*path) != theirs.get(*path));
    differing.map(|path| format!("{path}: ours {:?}, theirs {:?}", ours.get(path), theirs.get(path))).collect()
}

// ---- forged directories ----

fn control(version: u16) -> ControlFile {
    ControlFile {
        system_id: SystemId(7),
        version,
        catalog_version: 202_209_061,
        redo: Lsn(0),
        timeline: Timeline(1),
        segment_size: SegmentSize::DEFAULT,
        page_size: 8192,
        relation_segment_pages: 131_072,
        data_checksums: true,
        shut_down: false,
    }
}

/// A directory with these files, each containing its own name.
fn forge(files: &[&str]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for file in files {
        let path = directory.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    directory
}

/// Directories, then files.
fn paths(walk: &Walk) -> Vec<String> {
    let directories = walk.directories.iter().map(|directory| directory.path.clone());
    directories.chain(walk.files.iter().map(|(path, _)| path)).collect()
}

#[test]
fn directories_come_before_their_content_and_files_in_the_order_of_their_names() {
    let directory = forge(&["base.old/1", "base/5/1259", "base/5/1259_fsm", "PG_VERSION", CONTROL_FILE]);
    let walk = datadir::walk(directory.path(), &control(15)).unwrap();
    assert_eq!(
        paths(&walk),
        [
            "base",
            "base/5",
            "base.old",
            "global",
            "PG_VERSION",
            "base/5/1259",
            "base/5/1259_fsm",
            "base.old/1",
            CONTROL_FILE
        ]
    );
    let number = (0..walk.files.len()).find(|&number| walk.files.path(number) == "base/5/1259").unwrap();
    assert_eq!(walk.files.size(number), 11);
    assert_eq!(fs::read_to_string(walk.root.join(walk.files.path(number))).unwrap(), "base/5/1259");
}

#[test]
fn wal_summaries_have_a_directory_from_17_on_and_wal_itself_stays() {
    let directory = forge(&["pg_wal/000000010000000000000001", "pg_wal/.walden/spool/x", "pg_wal/summaries/y"]);
    let walk = |version| datadir::walk(directory.path(), &control(version)).unwrap();
    assert_eq!(paths(&walk(16)), ["pg_wal", "pg_wal/archive_status"]);
    assert_eq!(paths(&walk(17)), ["pg_wal", "pg_wal/archive_status", "pg_wal/summaries"]);
}

#[test]
fn signal_files_say_nothing_of_the_restored_server_and_stay() {
    let directory = forge(&["standby.signal", "recovery.signal", "base/5/1"]);
    assert_eq!(paths(&datadir::walk(directory.path(), &control(15)).unwrap()), ["base", "base/5", "base/5/1"]);
}

#[test]
fn a_link_to_an_emptied_directory_becomes_a_directory() {
    let directory = forge(&["elsewhere/file"]);
    fs::set_permissions(directory.path(), Permissions::from_mode(0o750)).unwrap();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, Permissions::from_mode(0o750)).unwrap();
    symlink("../elsewhere", data.join("pg_stat_tmp")).unwrap();
    let walk = datadir::walk(&data, &control(15)).unwrap();
    let [directory] = walk.directories.as_slice() else { panic!("{walk:?}") };
    assert_eq!((directory.path.as_str(), directory.mode), ("pg_stat_tmp", 0o750));
    assert!(walk.files.is_empty());
}

#[test]
fn what_is_neither_file_nor_directory_is_reported() {
    let directory = forge(&["real.conf", "pg_tblspc/file"]);
    symlink("real.conf", directory.path().join("linked.conf")).unwrap();
    symlink("..", directory.path().join("pg_tblspc/loop")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("socket")).unwrap();
    let walk = datadir::walk(directory.path(), &control(15)).unwrap();
    assert_eq!(paths(&walk), ["pg_tblspc", "pg_tblspc/file", "real.conf"]);
    let skipped: Vec<(&str, &str)> = walk.skipped.iter().map(|skipped| (skipped.path.as_str(), skipped.why)).collect();
    assert_eq!(
        skipped,
        [
            ("linked.conf", "it is a symbolic link"),
            ("pg_tblspc/loop", "it is a symbolic link that is no tablespace"),
            ("socket", "it is neither a file nor a directory"),
        ]
    );
}

#[test]
fn a_tablespace_that_is_not_mounted_is_an_error() {
    let directory = forge(&["pg_tblspc/x", "mount/PG_14_202107181/5/1"]);
    for target in ["../mount", "../absent"] {
        let link = directory.path().join("pg_tblspc/16385");
        symlink(target, &link).unwrap();
        let error = datadir::walk(directory.path(), &control(15)).unwrap_err();
        assert_eq!(error.kind(), Kind::Incomplete, "{target}");
        assert!(error.cause().unwrap().contains("PG_15_202209061") && error.what().contains(target), "{error:?}");
        fs::remove_file(link).unwrap();
    }
}

#[test]
fn endless_nesting_and_foreign_names_are_refused() {
    let directory = forge(&[&"deep/".repeat(64), "x"].map(|path| path.trim_end_matches('/')));
    datadir::walk(directory.path(), &control(15)).unwrap();
    let directory = forge(&[&format!("{}x", "deep/".repeat(65))]);
    assert_eq!(datadir::walk(directory.path(), &control(15)).unwrap_err().kind(), Kind::Refused);

    let directory = forge(&["base/5/1"]);
    let name = std::ffi::OsStr::from_bytes(b"base/5/\xff");
    fs::write(directory.path().join(name), "").unwrap();
    let error = datadir::walk(directory.path(), &control(15)).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.what().contains("base/5/"), "{error:?}");
}

#[test]
fn what_may_not_be_read_is_denied_before_the_backup_begins() {
    if rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: root may read everything");
    }
    for path in ["base/5/1", "base/5"] {
        let directory = forge(&["base/5/1"]);
        let hidden = directory.path().join(path);
        fs::set_permissions(&hidden, Permissions::from_mode(0o000)).unwrap();
        let error = datadir::walk(directory.path(), &control(15)).unwrap_err();
        fs::set_permissions(&hidden, Permissions::from_mode(0o700)).unwrap();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.what().contains(path), "{error:?}");
    }
}

#[test]
fn files_that_come_and_go_do_not_disturb_a_walk() {
    let directory = forge(&["base/5/1"]);
    let root = directory.path().to_owned();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let churn = std::thread::spawn(move || {
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            for number in 0..50 {
                fs::create_dir_all(root.join(format!("base/{number}9"))).unwrap();
                fs::write(root.join(format!("base/{number}9/1")), "").unwrap();
            }
            for number in 0..50 {
                fs::remove_dir_all(root.join(format!("base/{number}9"))).unwrap();
            }
        }
    });
    for _ in 0..200 {
        let walk = datadir::walk(directory.path(), &control(15)).unwrap();
        assert!(paths(&walk).contains(&"base/5/1".to_owned()));
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    churn.join().unwrap();
}

#[test]
fn files_whose_init_fork_comes_after_the_walk_are_found() {
    let late = ["base/5/16384", "base/5/16384.1", "base/5/16384_fsm"];
    let others = ["base/5/16385", "base/5/163840", "base/6/16384", "global/16384", "base/5/note"];
    let directory = forge(&[&late[..], &others].concat());
    let walk = datadir::walk(directory.path(), &control(15)).unwrap();
    let found = || datadir::reset_by_now(directory.path(), &control(15), &walk.files).unwrap();
    assert!(found().is_empty());
    for init in ["base/5/16384_init", "global/16384_init"] {
        fs::write(directory.path().join(init), "").unwrap();
    }
    assert_eq!(found(), late.map(str::to_owned).into());
    fs::remove_dir_all(directory.path().join("base/5")).unwrap();
    assert!(found().is_empty());
}

#[test]
fn a_directory_without_a_control_file_is_refused_and_a_damaged_one_is_read_again() {
    let directory = forge(&["PG_VERSION"]);
    let refused = datadir::read_control(directory.path()).unwrap_err();
    assert_eq!(refused.kind(), Kind::Refused);
    assert!(refused.what().contains(CONTROL_FILE));

    let (whole, torn) = (
        control_bytes(1),
        control_bytes(2)[..100].iter().chain(&control_bytes(1)[100..]).copied().collect::<Vec<u8>>(),
    );
    let path = directory.path().join(CONTROL_FILE);
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, &torn).unwrap();
    assert_eq!(datadir::read_control(directory.path()).unwrap_err().kind(), Kind::Corrupt);
    let writer = std::thread::spawn({
        let (path, whole) = (path.clone(), whole.clone());
        move || {
            // Longer than PostgreSQL's own programs look.
            std::thread::sleep(Duration::from_millis(200));
            fs::write(path.with_extension("new"), whole).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }
    });
    let (control, bytes) = datadir::read_control(directory.path()).unwrap();
    writer.join().unwrap();
    assert_eq!((control.system_id, bytes), (SystemId(1), whole));
}

/// A control file of PostgreSQL 15.
fn control_bytes(system_id: u64) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    bytes[..8].copy_from_slice(&system_id.to_le_bytes());
    for (at, number) in [(8, 1300), (12, 202_209_061), (48, 1), (228, 16 << 20)] {
        bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(number));
    }
    let crc = crc32c::crc32c(&bytes[..288]);
    bytes[288..292].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn standby_signal_wins_over_recovery_signal() {
    for (files, expected) in [
        (&["x"][..], Recovery::None),
        (&["recovery.signal"], Recovery::Targeted),
        (&["standby.signal"], Recovery::Standby),
        (&["recovery.signal", "standby.signal"], Recovery::Standby),
    ] {
        assert_eq!(datadir::recovery_mode(forge(files).path()), expected, "{files:?}");
    }
}

#[test]
fn the_data_directory_of_a_wal_path_is_two_levels_up_also_where_pg_wal_is_a_link() {
    let directory = forge(&["data/global/pg_control", "wal/000000010000000000000001"]);
    let data = directory.path().join("data");
    symlink("../wal", data.join("pg_wal")).unwrap();
    assert_eq!(datadir::data_directory_of(&data.join("pg_wal/000000010000000000000001")), Some(data.clone()));
    assert_eq!(datadir::data_directory_of(&data.join("pg_wal/not/there")), None);
    assert_eq!(datadir::data_directory_of(&directory.path().join("wal/000000010000000000000001")), None);
    for name in ["000000010000000000000001", "pg_wal/000000010000000000000001", "/x", ""] {
        assert_eq!(datadir::data_directory_of(Path::new(name)), None, "{name}: this directory is no data directory");
    }
}

#[test]
fn a_server_runs_if_the_process_of_its_pid_file_lives() {
    let directory = forge(&["PG_VERSION"]);
    let pid_file = directory.path().join("postmaster.pid");
    let running = || datadir::running_server(directory.path());
    assert_eq!(running().unwrap(), None);

    let mut process = Command::new("sleep").arg("60").spawn().unwrap();
    let id = process.id();
    for line in [format!("{id}\n/data\n"), format!("-{id}\n")] {
        fs::write(&pid_file, line).unwrap();
        assert_eq!(running().unwrap(), Some(id));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(running().unwrap(), None);

    fs::write(&pid_file, std::process::id().to_string()).unwrap();
    assert_eq!(running().unwrap(), None);
    for nonsense in ["", "x\n", "0\n", "99999999999\n"] {
        fs::write(&pid_file, nonsense).unwrap();
        assert_eq!(running().unwrap_err().kind(), Kind::Refused, "{nonsense:?}");
    }
}
