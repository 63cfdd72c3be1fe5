//! Base backups that the server sends itself, over a replication connection.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod support;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::cluster::{Cluster, Postgres};
use support::front::{Front, Script, Way, free_address};
use support::load::{Load, audit, fill, open_books};
use support::place::Place;
use support::stories::{complete_backups, each, recovered, restored, started};
use support::user::User;
use support::walden::Walden;

fn push(cluster: &Cluster, options: &[&str]) -> Walden {
    cluster.walden(&[&["backup-push", "--remote"], options].concat())
}

fn newest(cluster: &Cluster) -> serde_json::Value {
    cluster.walden(&["backup-show", "LATEST", "--json"]).run().code(0).json()
}

/// A table in a tablespace of its own, and one that is larger than a frame.
fn spread_out(cluster: &Cluster) {
    let place = cluster.directory("space");
    cluster.sql(&format!("CREATE TABLESPACE fast LOCATION '{}'", place.display()));
    cluster.sql(
        "CREATE TABLE spaced TABLESPACE fast AS SELECT n, md5(n::text) AS filler FROM generate_series(1, 100000) n",
    );
    cluster.sql("CREATE UNLOGGED TABLE volatile AS SELECT 1 AS one");
}

#[test]
fn a_remote_backup_taken_under_load_restores_whole_with_every_archived_row() {
    each(|postgres, place| {
        let primary = Cluster::primary(postgres, place);
        open_books(&primary);
        spread_out(&primary);
        let load = Load::start(&primary);
        push(&primary, &["--label", "it's remote", "--part-size", "2MiB"]).run().code(0).stdout_is("");
        let booked = load.stop();
        primary.archive_all();

        let shown = newest(&primary);
        assert_eq!((&shown["method"], &shown["label"]), (&"remote".into(), &"it's remote".into()));
        assert_eq!(shown["tablespaces"].as_array().unwrap().len(), 1);
        assert!(shown["pages"]["checked"].as_u64().unwrap() > 1000 && shown["pages"]["damaged"] == 0, "{shown}");
        primary.walden(&["backup-show", "LATEST"]).run().code(0).stdout_has("remote: the server sent it");

        let copy = Cluster::empty(postgres, place);
        let (data, root) = (copy.data(), copy.directory("spaces"));
        let args = ["backup-fetch", data.to_str().unwrap(), "--tablespace-root", root.to_str().unwrap()];
        copy.walden(&args).run().code(0);
        copy.verify_backup();
        let copy = recovered(copy);
        assert_eq!(audit(&copy), booked);
        assert_eq!(copy.value("SELECT count(*) FROM spaced"), "100000");
        assert_eq!(copy.value("SELECT count(*) FROM volatile"), "0");
        copy.check_pages();
    });
}

/// Certificates of a server called `localhost`, and the authority that signed them.
const CERTIFICATES: &str = "
    set -e
    export OPENSSL_CONF=/dev/null
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -addext basicConstraints=critical,CA:TRUE \
        -keyout authority.key -out authority.crt
    echo subjectAltName=DNS:localhost >extensions
    openssl req -new -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr
    openssl x509 -req -in server.csr -CA authority.crt -CAkey authority.key -CAcreateserial -days 2 \
        -extfile extensions -out server.crt";

/// Has the server listen on TCP, with TLS if it can, where a role with nothing but `REPLICATION` is let in for replication
/// alone.
fn open_to_the_network(cluster: &mut Cluster) -> Network {
    let files = cluster.directory("tls");
    let tls = !cluster.program("postgres", &["-D", "data", "-C", "ssl_library"]).stdout.trim().is_empty();
    if tls {
        let made = std::process::Command::new("sh").args(["-c", CERTIFICATES]).current_dir(&files).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        owned(&files.join("server.key"), 0o600);
        let home = files.display();
        cluster
            .configure(&format!("ssl = on\nssl_cert_file = '{home}/server.crt'\nssl_key_file = '{home}/server.key'\n"));
    } else {
        println!("PostgreSQL {} is built without TLS here: it listens without", cluster.postgres().major);
    }
    let port = free_address().port();
    let kind = if tls { "hostssl" } else { "host" };
    let rules = format!(
        "local all postgres trust\nlocal replication ordinary trust\n\
         {kind} replication sender 127.0.0.1/32 scram-sha-256\n"
    );
    fs::write(cluster.data().join("pg_hba.conf"), rules).unwrap();
    // The name of the socket follows the port.
    std::os::unix::fs::symlink(format!(".s.PGSQL.{port}"), cluster.socket().join(".s.PGSQL.5432")).unwrap();
    let listen = ["-c", "listen_addresses=127.0.0.1", "-c", &format!("port={port}")].map(str::to_owned);
    cluster.options(&listen);
    Network { port, tls, files }
}

struct Network {
    port: u16,
    tls: bool,
    files: PathBuf,
}

fn owned(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    if let Some(user) = User::for_servers() {
        user.owns(path);
    }
}

#[test]
fn a_role_that_may_replicate_and_nothing_else_is_enough_over_tls_with_a_password_file() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let mut primary = Cluster::initialized(&postgres, &place, &[]);
        let Network { port, tls, files } = open_to_the_network(&mut primary);
        primary.configure("password_encryption = 'scram-sha-256'\n");
        primary.start();
        primary.sql("CREATE ROLE sender LOGIN REPLICATION PASSWORD 'to:be\\kept'; CREATE ROLE ordinary LOGIN");
        primary.sql("CREATE TABLE kept AS SELECT n FROM generate_series(1, 1000) n");
        let passwords = files.join("passwords");
        fs::write(&passwords, format!("localhost:{port}:replication:sender:to\\:be\\\\kept\n")).unwrap();
        owned(&passwords, 0o600);
        let network = |user: &str| {
            let walden = push(&primary, &["--json"]).env("PGHOST", "localhost").env("PGPORT", port.to_string());
            walden
                .env("PGUSER", user)
                .env("PGSSLMODE", if tls { "verify-full" } else { "disable" })
                .env("PGSSLROOTCERT", files.join("authority.crt"))
        };
        let told = network("sender").env("PGPASSFILE", &passwords).run().code(0).json();
        assert_eq!((&told["method"], &told["from_standby"]), (&"remote".into(), &false.into()));
        let copy = restored(&postgres, &place, &[]);
        copy.verify_backup();
        assert_eq!(recovered(copy).value("SELECT count(*) FROM kept"), "1000");

        // The same by a service file.
        let mode = if tls { "verify-full" } else { "disable" };
        let service = files.join("services");
        let said = format!(
            "[main]\nhost=localhost\nport={port}\nuser=sender\npassfile={}\nsslmode={mode}\n",
            passwords.display()
        );
        fs::write(&service, said).unwrap();
        owned(&service, 0o644);
        let named = |name: &str| push(&primary, &[]).env("PGSERVICEFILE", &service).env("PGSERVICE", name);
        named("main").env("PGSSLROOTCERT", files.join("authority.crt")).run().code(0);
        named("mian").run().code(3).stderr_has("there is no service \"mian\"").stderr_has(service.to_str().unwrap());
        assert_eq!(complete_backups(&primary), 2);

        network("sender").run().code(4).stderr_has("asks for a password").stderr_has("~/.pgpass");
        network("sender").env("PGPASSWORD", "wrong").run().code(4).stderr_has("28P01");
        network("stranger").env("PGPASSWORD", "x").run().code(4).stderr_has("\"host replication stranger ADDRESS");
        if tls {
            network("sender").env("PGPASSFILE", &passwords).env("PGSSLMODE", "disable").run().code(4);
        } else {
            let wanted = network("sender").env("PGPASSFILE", &passwords).env("PGSSLROOTCERT", "");
            wanted.env("PGSSLMODE", "require").run().code(4).stderr_has("does not support TLS");
        }
        let refused = push(&primary, &[]).env("PGUSER", "ordinary").run().code(4);
        refused.stderr_has("ALTER ROLE \"ordinary\" REPLICATION");
        assert_eq!(complete_backups(&primary), 2);
    }
}

#[test]
fn a_standby_can_send_the_backup() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let mut primary = Cluster::initialized(&postgres, &place, &[]);
        primary.configure("archive_timeout = '1s'\n");
        primary.start();
        open_books(&primary);
        push(&primary, &[]).run().code(0);
        let load = Load::start(&primary);
        let standby = started(restored(&postgres, &place, &["--standby"]));
        push(&standby, &[]).run().code(0);
        std::thread::sleep(Duration::from_secs(1));
        let booked = load.stop();
        primary.archive_all();
        let shown = newest(&primary);
        assert_eq!((&shown["from_standby"], &shown["method"]), (&true.into(), &"remote".into()));
        let copy = restored(&postgres, &place, &[shown["id"].as_str().unwrap()]);
        copy.verify_backup();
        let copy = recovered(copy);
        assert_eq!(audit(&copy), booked);
        copy.check_pages();
    }
}

#[test]
fn the_end_of_the_server_in_the_middle_is_told_within_seconds_and_leaves_no_backup() {
    for postgres in Postgres::each() {
        let place = Place::s3();
        let mut primary = Cluster::initialized(&postgres, &place, &[]);
        primary.start();
        fill(&primary, 40);
        for session in [true, false] {
            // More than can be on its way at the same time, so that the sending lasts.
            let front = Front::start(place.service().address());
            front.always(Script { up: Way { bandwidth: Some(400_000), ..Way::default() }, ..Script::default() });
            if !session {
                primary.sql("CREATE ROLE sender LOGIN REPLICATION; ALTER ROLE sender CONNECTION LIMIT 1");
            }
            let user = if session { "postgres" } else { "sender" };
            let slow = push(&primary, &["--part-size", "2MiB", "--workers", "2"]).env("PGUSER", user);
            let slow = slow.env("AWS_ENDPOINT_URL", front.endpoint());
            let slow = std::thread::spawn(move || slow.run());
            primary.wait_until("parts are on their way", |_| front.bytes().0 > 400_000);
            primary.stop_at_once();
            let stopped = Instant::now();
            let ran = slow.join().unwrap();
            // Before all is sent, which takes at least 24 s over that connection.
            assert!(stopped.elapsed() < Duration::from_secs(20), "{ran}");
            ran.code(5).stderr_has("could not take backup").stderr_has("pg_isready");
            primary.start();
            assert_eq!(complete_backups(&primary), 0);
        }
        push(&primary, &[]).run().code(0);
        assert_eq!(complete_backups(&primary), 1);
    }
}

#[test]
fn a_damaged_page_is_told_with_its_name_and_an_exit_code_of_its_own() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let mut primary = Cluster::initialized(&postgres, &place, &[]);
        primary.configure("autovacuum = off\n");
        primary.start();
        primary.sql("CREATE TABLE hurt AS SELECT n, md5(n::text) FROM generate_series(1, 60000) n");
        let path = primary.value("SELECT pg_relation_filepath('hurt')");
        primary.stop();
        let file = fs::OpenOptions::new().read(true).write(true).open(primary.data().join(&path)).unwrap();
        for block in [3, 300] {
            let (mut byte, at) = ([0], block * 8192 + 5000);
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        }
        primary.start();
        let ran = push(&primary, &["--json"]).run().code(12);
        assert!(ran.stderr.contains("damaged page: block 3 of public.hurt, main fork"), "{ran}");
        let told = ran.json();
        assert_eq!(told["pages"]["damaged"], 2, "{told}");
        let list = told["pages"]["list"].as_array().unwrap();
        let named = |index: usize| (list[index]["block"].as_u64().unwrap(), list[index]["relation"].as_str().unwrap());
        assert_eq!((named(0), named(1)), ((3, "public.hurt"), (300, "public.hurt")));
        push(&primary, &["--on-corruption", "fail"]).run().code(12).stderr_has("the cluster has 2 damaged pages");
        assert_eq!(newest(&primary)["id"], told["id"]);
    }
}

#[test]
fn a_data_directory_and_a_remote_backup_exclude_each_other() {
    let place = Place::directory();
    let directory = tempfile::tempdir().unwrap();
    let walden = place.walden(directory.path()).args(["backup-push", "--remote", "/srv/data"]);
    walden.run().code(2).stderr_has("--remote");
}

/// PostgreSQL itself would lose such a database: see the test of backups of files.
#[test]
fn a_database_that_moves_meanwhile_refuses_the_backup() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let primary = Cluster::primary(&postgres, &place);
        primary.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", primary.directory("space").display()));
        primary.sql("CREATE DATABASE moving");
        let running = push(&primary, &["--max-rate", "2MiB"]);
        let running = std::thread::spawn(move || running.run());
        let sending = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE backup_streamed > 0";
        primary.wait_until("the server sends", |primary| primary.value(sending) == "1");
        primary.sql("ALTER DATABASE moving SET TABLESPACE space");
        running
            .join()
            .unwrap()
            .code(8)
            .stderr_has("moved to another tablespace during the backup")
            .stderr_has("\"moving\"");
        assert_eq!(complete_backups(&primary), 0);
    }
}

/// Servers before version 16 leave out of what they send a tablespace that lies in their data directory.
#[test]
fn a_tablespace_in_the_data_directory_is_in_the_backup_or_refuses_it() {
    for postgres in Postgres::each().into_iter().filter(|postgres| postgres.major >= 15) {
        let place = Place::directory();
        let mut primary = Cluster::initialized(&postgres, &place, &[]);
        primary.configure("allow_in_place_tablespaces = on\n");
        primary.start();
        primary.sql("CREATE TABLESPACE \"with\"\"in\" LOCATION ''");
        primary.sql("CREATE TABLE inner_numbers TABLESPACE \"with\"\"in\" AS SELECT generate_series(1, 100) AS n");
        let ran = push(&primary, &[]).run();
        if postgres.major < 16 {
            ran.code(8).stderr_has("does not send").stderr_has("with\"in").stderr_has("without --remote");
            assert_eq!(complete_backups(&primary), 0);
            primary.sql("DROP TABLE inner_numbers");
            primary.sql("DROP TABLESPACE \"with\"\"in\"");
            push(&primary, &[]).run().code(0);
            continue;
        }
        ran.code(0);
        let copy = restored(&postgres, &place, &[]);
        copy.verify_backup();
        assert_eq!(recovered(copy).value("SELECT sum(n) FROM inner_numbers"), "5050");
    }
}

#[test]
fn what_the_server_compresses_is_stored_and_restored_as_ever() {
    for postgres in Postgres::each() {
        let place = Place::directory();
        let primary = Cluster::primary(&postgres, &place);
        spread_out(&primary);
        let asked = push(&primary, &["--remote-compression", "zstd"]).run();
        // Older ones do not know how to, others are built without zstd.
        if postgres.major < 15 || asked.stderr.contains("does not support compression with ZSTD") {
            asked.code(8).stderr_has("Set remote-compression to none");
            continue;
        }
        asked.code(0);
        let copy = restored(&postgres, &place, &["--tablespace-root", primary.directory("spaces").to_str().unwrap()]);
        copy.verify_backup();
        assert_eq!(recovered(copy).value("SELECT sum(n) FROM spaced"), "5000050000");
    }
}
