//! `walden doctor` on what people get wrong: each misconfiguration is found, and what its hint says, done word for word where
//! a machine can do it, makes it well again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;
use support::cluster::{Cluster, Postgres};
use support::forge::{self, control_file};
use support::place::Place;
use support::s3::{Answer, Fault, On, Op};
use support::small_disk::SmallDisk;
use support::stories::{back_up, restored, started};
use support::tls::TlsFront;
use support::user::User;
use support::walden::Ran;

/// A server that is well, the archive that it archives to, and how walden is called.
struct Ward {
    cluster: Cluster,
    place: Place,
    env: BTreeMap<&'static str, String>,
    operand: Option<PathBuf>,
    /// What must live as long as the misconfiguration.
    directory: tempfile::TempDir,
    tls: Option<TlsFront>,
    silent: Option<std::net::TcpListener>,
}

impl Ward {
    fn new(postgres: &Postgres) -> Ward {
        let place = Place::s3();
        let cluster = Cluster::primary(postgres, &place);
        cluster.archive_all();
        let directory = support::user::scratch_directory();
        Ward { cluster, place, env: BTreeMap::new(), operand: None, directory, tls: None, silent: None }
    }

    fn doctor(&self, words: &[&str]) -> Ran {
        let operand = self.operand.as_ref().map(|path| path.to_str().unwrap());
        let words: Vec<&str> = ["doctor"].iter().chain(words).copied().chain(operand).collect();
        self.cluster.walden(&words).envs(self.env.iter().map(|(name, value)| (*name, value.as_str()))).run()
    }

    fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.env.insert(name, value.into());
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        if let Some(user) = User::for_servers() {
            user.owns(path.parent().unwrap());
            user.owns(&path);
        }
        path.to_str().unwrap().to_owned()
    }

    fn configure(&mut self, lines: &str, restart: bool) {
        self.cluster.configure(&format!("{lines}\n"));
        if restart {
            self.cluster.stop();
            self.cluster.start();
        } else {
            self.cluster.sql("SELECT pg_reload_conf()");
        }
        for line in lines.lines().filter(|line| line.starts_with("archive_command")) {
            let value = line.split_once('=').unwrap().1.trim().trim_matches('\'').replace("''", "'");
            // Then the server shows no command at all.
            let off = |cluster: &Cluster| cluster.value("SHOW archive_mode") == "off";
            self.cluster.wait_until("the setting counts", |cluster| {
                off(cluster) || cluster.value("SHOW archive_command") == value
            });
        }
    }

    /// The archiver tries again a minute after three failures, or at once when it is started anew.
    fn archive_all(&mut self) {
        self.cluster.stop_at_once();
        self.cluster.start();
        self.cluster.archive_all();
    }

    /// Does what the hint says: settings of the server, grants, or another operand.
    fn obey(&mut self, hint: &str) {
        if let Some(grants) = hint.split_once("PGDATABASE names: ") {
            self.cluster.sql(grants.1);
        } else if let Some(words) = hint.strip_prefix("Run walden doctor \"") {
            self.operand = Some(words.strip_suffix("\".").unwrap().into());
        } else {
            let settings = hint.split("Set ").find(|sentence| sentence.contains(" in postgresql.conf")).expect(hint);
            let (lines, rest) = settings.split_once(" in postgresql.conf and ").expect(hint);
            self.configure(&lines.replace(" and archive_command", "\narchive_command"), rest.starts_with("restart"));
        }
    }
}

/// One way to get it wrong.
struct Mistake {
    what: &'static str,
    make: fn(&mut Ward),
    /// The check that finds it; none where walden does not even begin.
    check: &'static str,
    verdict: &'static str,
    code: i32,
    /// What is said, where `…` stands for anything, and what to do.
    found: &'static str,
    hint: &'static str,
    cure: Cure,
}

enum Cure {
    /// What the hint says is done word for word.
    Obey,
    /// What it says takes a person.
    Do(fn(&mut Ward)),
}

fn forget(ward: &mut Ward) {
    ward.env.clear();
    ward.operand = None;
    ward.place.service().heal();
}

fn refuse_all(ward: &mut Ward, answer: Answer) {
    ward.place.service().fail_always(On::any(), Fault::Answer(answer));
}

const UNLIKE: Mistake = Mistake {
    what: "",
    make: |_| {},
    check: "",
    verdict: "failed",
    code: 3,
    found: "",
    hint: "",
    cure: Cure::Do(forget),
};

fn of_settings() -> Vec<Mistake> {
    vec![
        Mistake {
            what: "a misspelt variable",
            make: |ward| ward.set("WALDEN_PREFX", "s3://b"),
            found: "unknown variable WALDEN_PREFX",
            hint: "Did you mean WALDEN_PREFIX?",
            ..UNLIKE
        },
        Mistake {
            what: "an unknown key in the file",
            make: |ward| {
                let file = ward.file("walden.toml", "part_size = '1MiB'\n");
                ward.set("WALDEN_CONFIG", file);
            },
            found: "unknown key part_size in ",
            hint: "Did you mean part-size?",
            cure: Cure::Do(|ward| drop(ward.file("walden.toml", "part-size = '1MiB'\n"))),
            ..UNLIKE
        },
        Mistake {
            what: "an impossible value",
            make: |ward| ward.set("WALDEN_PART_SIZE", "2GiB"),
            found: "2GiB is more than 1GiB",
            hint: "Write 1MiB to 1GiB.",
            cure: Cure::Do(|ward| ward.set("WALDEN_PART_SIZE", "1GiB")),
            ..UNLIKE
        },
        Mistake {
            what: "two tools' settings that contradict each other",
            make: |ward| {
                ward.set("WALDEN_PREFIX", "");
                ward.set("WALG_S3_PREFIX", "s3://one/place");
                ward.set("WALG_FILE_PREFIX", "/another");
            },
            found: "variables WALG_S3_PREFIX and WALG_FILE_PREFIX disagree about prefix",
            hint: "Unset one of them, or set WALDEN_PREFIX",
            cure: Cure::Do(|ward| {
                let prefix = ward.place.prefix();
                ward.set("WALDEN_PREFIX", prefix);
            }),
            ..UNLIKE
        },
    ]
}

fn of_the_store() -> Vec<Mistake> {
    vec![
        Mistake {
            what: "a bucket that is not there",
            make: |ward| ward.set("WALDEN_PREFIX", "s3://no-such-bucket/some/where"),
            check: "bucket",
            found: "NoSuchBucket",
            hint: "Create the bucket",
            ..UNLIKE
        },
        Mistake {
            what: "a wrong region",
            make: |ward| {
                let message =
                    "The authorization header is malformed; the region 'eu-central-1' is wrong; expecting 'eu-west-3'";
                let wrong = "<Region>eu-west-3</Region>";
                let answer = Answer::refusal_with(400, "AuthorizationHeaderMalformed", message, wrong);
                refuse_all(ward, answer.header("x-amz-bucket-region", "eu-west-3"));
            },
            check: "bucket",
            found: "eu-west-3",
            hint: "AWS_REGION",
            ..UNLIKE
        },
        Mistake {
            what: "a wrong secret",
            make: |ward| ward.set("AWS_SECRET_ACCESS_KEY", "wrong"),
            check: "bucket",
            code: 4,
            found: "SignatureDoesNotMatch",
            hint: "AWS_SECRET_ACCESS_KEY",
            ..UNLIKE
        },
        Mistake {
            what: "a key that the store does not know",
            make: |ward| ward.set("AWS_ACCESS_KEY_ID", "AKIASTRANGER"),
            check: "bucket",
            code: 4,
            found: "InvalidAccessKeyId",
            hint: "AWS_ACCESS_KEY_ID",
            ..UNLIKE
        },
        Mistake {
            what: "an address where nothing listens",
            make: |ward| ward.set("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
            check: "store",
            code: 5,
            found: "127.0.0.1:1",
            hint: "AWS_ENDPOINT_URL",
            ..UNLIKE
        },
        Mistake {
            what: "an address that never answers",
            make: |ward| {
                let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                ward.set("AWS_ENDPOINT_URL", format!("http://{}", silent.local_addr().unwrap()));
                ward.silent = Some(silent);
            },
            check: "store",
            code: 5,
            found: "http://127.0.0.1:",
            hint: "AWS_ENDPOINT_URL",
            ..UNLIKE
        },
        Mistake {
            what: "an authority that is not trusted",
            make: |ward| {
                let tls = TlsFront::start(ward.place.service().address());
                ward.set("AWS_ENDPOINT_URL", tls.endpoint());
                ward.tls = Some(tls);
            },
            check: "store",
            code: 5,
            found: "UnknownIssuer",
            hint: "AWS_CA_BUNDLE",
            cure: Cure::Do(|ward| {
                let authority = fs::read_to_string(ward.tls.as_ref().unwrap().authority()).unwrap();
                let file = ward.file("authority.pem", &authority);
                ward.set("AWS_CA_BUNDLE", file);
            }),
            ..UNLIKE
        },
        Mistake {
            what: "a clock that is 20 minutes off",
            make: |ward| {
                let skewed = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(20);
                let date = skewed.to_zoned(jiff::tz::TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
                refuse_all(ward, Answer::refusal(403, "RequestTimeTooSkewed", "too large").header("date", date));
            },
            check: "clock",
            // And some seconds more, until the store has answered.
            found: "clock is 12… s ahead of the store's",
            hint: "timedatectl set-ntp true",
            ..UNLIKE
        },
        Mistake {
            what: "a role that may not be assumed",
            make: |ward| {
                ward.set("WALDEN_ASSUME_ROLE", "arn:aws:iam::222222222222:role/walden");
                ward.place.service().fail_always(On::op(Op::Assume), Fault::Status(403, "AccessDenied"));
            },
            check: "identity",
            code: 4,
            found: "AccessDenied",
            hint: "role",
            ..UNLIKE
        },
        Mistake {
            what: "an external id without a role",
            make: |ward| ward.set("WALDEN_EXTERNAL_ID", "walden-7d1f"),
            check: "store",
            found: "no role to assume",
            hint: "unset WALDEN_EXTERNAL_ID",
            ..UNLIKE
        },
        Mistake {
            what: "an identity that may not list",
            make: |ward| ward.place.service().fail_always(On::op(Op::List), Fault::Status(403, "AccessDenied")),
            check: "list",
            verdict: "limited",
            code: 0,
            found: "not allowed",
            hint: "Allow s3:ListBucket",
            ..UNLIKE
        },
        Mistake {
            what: "a prefix of another cluster",
            make: |ward| {
                ward.place.put("elsewhere/42/wal/00000001/000000010000000000000001", b"x");
                ward.set("WALDEN_PREFIX", format!("{}/elsewhere", ward.place.prefix()));
            },
            check: "archived WAL",
            code: 3,
            found: "/elsewhere/",
            hint: "WALDEN_PREFIX",
            ..UNLIKE
        },
    ]
}

fn of_the_server() -> Vec<Mistake> {
    vec![
        Mistake {
            what: "a server that cannot be reached",
            make: |ward| ward.set("PGHOST", "/nonexistent"),
            check: "server",
            code: 5,
            found: "/nonexistent",
            hint: "PGHOST",
            ..UNLIKE
        },
        Mistake {
            what: "a server that never answers",
            make: |ward| {
                let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                ward.set("PGHOST", "127.0.0.1");
                ward.set("PGPORT", silent.local_addr().unwrap().port().to_string());
                ward.silent = Some(silent);
            },
            check: "server",
            code: 5,
            found: "127.0.0.1",
            hint: "PGHOST",
            ..UNLIKE
        },
        Mistake {
            what: "a database that is not there",
            make: |ward| ward.set("PGDATABASE", "nowhere"),
            check: "server",
            found: "nowhere",
            hint: "PGDATABASE",
            ..UNLIKE
        },
        Mistake {
            what: "a role that is not there",
            make: |ward| ward.set("PGUSER", "nobody_here"),
            check: "server",
            code: 4,
            found: "nobody_here",
            hint: "PGUSER",
            ..UNLIKE
        },
        Mistake {
            what: "a role without rights",
            make: |ward| {
                ward.cluster.sql("CREATE ROLE weak LOGIN");
                ward.set("PGUSER", "weak");
            },
            check: "role",
            code: 4,
            found: "the user \"weak\" may not take backups",
            hint: "GRANT pg_read_all_settings TO \"weak\";",
            cure: Cure::Obey,
            ..UNLIKE
        },
        Mistake {
            what: "archive_mode is off",
            make: |ward| {
                forget(ward);
                ward.configure("archive_mode = off", true);
            },
            check: "archive_mode",
            code: 8,
            found: "archive_mode is off",
            hint: "restart the server",
            cure: Cure::Obey,
            ..UNLIKE
        },
        Mistake {
            what: "wal_level is minimal",
            make: |ward| ward.configure("archive_mode = off\nwal_level = minimal\nmax_wal_senders = 0", true),
            check: "wal_level",
            code: 8,
            found: "wal_level is minimal",
            hint: "Set wal_level = replica in postgresql.conf",
            cure: Cure::Do(|ward| {
                ward.obey("Set wal_level = replica in postgresql.conf and restart the server.");
                let mode = finding(&ward.doctor(&["--json"]), "archive_mode");
                ward.obey(mode["hint"].as_str().unwrap());
                let senders = finding(&ward.doctor(&["--json"]), "max_wal_senders");
                ward.obey(senders["hint"].as_str().unwrap());
            }),
            ..UNLIKE
        },
        Mistake {
            what: "archive_command is empty",
            make: |ward| ward.configure("archive_command = ''", false),
            check: "archive_command",
            code: 8,
            found: "does not archive",
            hint: "wal-push %p' in postgresql.conf",
            cure: Cure::Obey,
            ..UNLIKE
        },
        Mistake {
            what: "another tool archives",
            make: |ward| {
                ward.configure("archive_command = 'cp %p /dev/null'", false);
                ward.cluster.archive_all();
            },
            check: "archive_command",
            code: 3,
            found: "archive_command = 'cp %p /dev/null'",
            hint: "wal-push %p' in postgresql.conf",
            cure: Cure::Do(|ward| {
                let command = finding(&ward.doctor(&["--json"]), "archive_command");
                ward.obey(command["hint"].as_str().unwrap());
                // What went elsewhere stays there; what follows does not.
                ward.cluster.archive_all();
            }),
            ..UNLIKE
        },
        Mistake {
            what: "a program that is not there",
            make: |ward| ward.configure("archive_command = '/opt/walden/walden wal-push %p'", false),
            check: "archive_command",
            found: "there is no \"/opt/walden/walden\"",
            hint: "Set archive_command = '",
            cure: Cure::Obey,
            ..UNLIKE
        },
        Mistake {
            what: "a program that is in no directory of the server's PATH",
            make: |ward| ward.configure("archive_command = 'walden wal-push %p'", false),
            check: "archive_command",
            found: "\"walden\" is in no directory of the PATH",
            hint: "Set archive_command = '",
            cure: Cure::Obey,
            ..UNLIKE
        },
        Mistake {
            what: "an archive_command that names no file",
            make: |ward| {
                let command = format!("{} wal-push", ward.cluster.program_path().display());
                ward.configure(&format!("archive_command = '{command}'"), false);
            },
            check: "archive_command",
            found: "%p is not handed on",
            hint: "wal-push %p' in postgresql.conf",
            cure: Cure::Obey,
            ..UNLIKE
        },
        Mistake {
            what: "an archive_command with another archive, which fails",
            make: |ward| {
                let program = ward.cluster.program_path().display().to_string();
                let elsewhere = "--retry-timeout 0s --prefix s3://no-such-bucket/x";
                ward.configure(&format!("archive_command = '{program} {elsewhere} wal-push %p'"), false);
                ward.cluster.sql("SELECT pg_create_restore_point('x')");
                ward.cluster.sql("SELECT pg_switch_wal()");
                ward.cluster.wait_until("archiving fails", |cluster| {
                    cluster.value(
                        "SELECT coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) \
                         FROM pg_stat_archiver",
                    ) == "t"
                });
            },
            check: "archiver",
            code: 3,
            found: "last failed at 20",
            hint: "Repair what the other findings name",
            cure: Cure::Do(|ward| {
                let command = finding(&ward.doctor(&["--json"]), "archive_command");
                assert!(command["found"].as_str().unwrap().contains("another archive, s3://no-such-bucket/x"));
                let restored = format!("archive_command = '{}'", ward.cluster.archive_command());
                ward.configure(&restored, false);
                ward.archive_all();
            }),
            ..UNLIKE
        },
        Mistake {
            what: "a misspelt name in the directory of variables that archive_command reads",
            make: |ward| {
                ward.file("env/WALDEN_PREFX", &ward.place.prefix());
                let directory = ward.directory.path().join("env");
                let program = ward.cluster.program_path().display().to_string();
                let command = format!("{program} --envdir {} wal-push %p", directory.display());
                ward.configure(&format!("archive_command = '{command}'"), false);
            },
            check: "archive_command",
            found: "unknown variable WALDEN_PREFX",
            hint: "Did you mean WALDEN_PREFIX?",
            cure: Cure::Do(|ward| {
                let env = ward.directory.path().join("env");
                fs::rename(env.join("WALDEN_PREFX"), env.join("WALDEN_PREFIX")).unwrap();
            }),
            ..UNLIKE
        },
    ]
}

fn of_the_host() -> Vec<Mistake> {
    vec![
        Mistake {
            what: "a misspelt variable of the AWS SDK",
            make: |ward| ward.set("AWS_REGOIN", "eu-west-3"),
            check: "environment",
            verdict: "limited",
            code: 0,
            found: "nobody reads AWS_REGOIN",
            hint: "Did you mean AWS_REGION?",
            ..UNLIKE
        },
        Mistake {
            what: "a directory that is no data directory",
            make: |ward| ward.operand = Some(ward.directory.path().to_owned()),
            check: "data directory",
            code: 8,
            found: "this is not the data directory of a PostgreSQL cluster",
            hint: "Run walden doctor \"",
            cure: Cure::Obey,
            ..UNLIKE
        },
        Mistake {
            what: "the data directory of another cluster",
            make: |ward| {
                let data = ward.directory.path().join("other");
                forge::data_directory(&data, &support::scene::small(1));
                ward.operand = Some(data);
            },
            check: "data directory",
            code: 8,
            found: "is not the server's data directory",
            hint: "The server's is \"",
            ..UNLIKE
        },
        Mistake {
            what: "a data directory of an old version",
            make: |ward| {
                let data = ward.directory.path().join("old");
                forge::data_directory(&data, &support::scene::small(1));
                let mut control = control_file(13, 42, 1 << 20);
                // PostgreSQL 12's pg_control_version and catalog_version_no.
                control[8..12].copy_from_slice(&1201u32.to_le_bytes());
                control[12..16].copy_from_slice(&201909212u32.to_le_bytes());
                fs::write(data.join("global/pg_control"), control).unwrap();
                ward.operand = Some(data);
            },
            check: "data directory",
            code: 8,
            found: "this is not the data directory of PostgreSQL 13 to 18",
            hint: "Run walden doctor \"",
            cure: Cure::Obey,
            ..UNLIKE
        },
        Mistake {
            what: "a data directory that this user may not read",
            make: |ward| {
                let data = ward.directory.path().join("closed");
                forge::data_directory(&data, &support::scene::small(1));
                // Root's, where root runs the tests, and nobody's to read.
                fs::set_permissions(&data, fs::Permissions::from_mode(0o000)).unwrap();
                ward.operand = Some(data);
            },
            check: "data directory",
            code: 4,
            found: "ermission denied",
            hint: "Run it as the server's user: sudo -u postgres walden doctor",
            ..UNLIKE
        },
    ]
}

#[track_caller]
fn finding(ran: &Ran, check: &str) -> Value {
    let findings = ran.json();
    let found = findings.as_array().unwrap().iter().find(|finding| finding["check"] == check);
    found.unwrap_or_else(|| panic!("{check} is not there\n{ran}")).clone()
}

#[track_caller]
fn expect(ran: &Ran, mistake: &Mistake) -> String {
    let ran = ran.clone().code(mistake.code);
    if mistake.check.is_empty() {
        ran.stderr_has(mistake.found).stderr_has(mistake.hint);
        return String::new();
    }
    let findings = ran.json();
    let finding = findings
        .as_array()
        .unwrap()
        .iter()
        .find(|finding| finding["check"] == mistake.check && finding["verdict"] == mistake.verdict);
    let finding = finding.unwrap_or_else(|| panic!("{} is not {}\n{ran}", mistake.check, mistake.verdict));
    let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    assert!(mistake.found.split('…').all(|part| text("found").contains(part)), "{finding:#}\n{ran}");
    assert!(text("hint").contains(mistake.hint) && !text("hint").is_empty(), "{finding:#}\n{ran}");
    text("hint")
}

fn meet(ward: &mut Ward, mistakes: Vec<Mistake>) {
    ward.doctor(&[]).code(0);
    for mistake in mistakes {
        println!("-- {}", mistake.what);
        (mistake.make)(ward);
        let hint = expect(&ward.doctor(&["--json"]), &mistake);
        match mistake.cure {
            Cure::Obey => ward.obey(&hint),
            Cure::Do(cure) => cure(ward),
        }
        let well = ward.doctor(&["--json"]).code(0);
        if !mistake.check.is_empty() {
            // Not even a limit is left of it.
            let verdict = finding_if_any(&well, mistake.check);
            assert!(matches!(verdict.as_deref(), None | Some("ok")), "{}\n{well}", mistake.what);
        }
        forget(ward);
    }
}

fn finding_if_any(ran: &Ran, check: &str) -> Option<String> {
    let findings = ran.json();
    let found = findings.as_array().unwrap().iter().find(|finding| finding["check"] == check)?;
    Some(found["verdict"].as_str().unwrap().to_owned())
}

#[test]
fn what_is_wrong_with_settings_and_the_store_is_found_and_the_hint_mends_it() {
    let mut ward = Ward::new(&Postgres::each()[0]);
    meet(&mut ward, of_settings());
    meet(&mut ward, of_the_store());
}

#[test]
fn what_is_wrong_with_the_server_and_the_host_is_found_and_the_hint_mends_it() {
    for postgres in Postgres::each() {
        let mut ward = Ward::new(&postgres);
        meet(&mut ward, of_the_server());
        meet(&mut ward, of_the_host());
    }
}

#[test]
fn a_standby_without_restore_command_is_found_and_the_hint_mends_it() {
    let postgres = &Postgres::each()[0];
    let place = Place::directory();
    let primary = Cluster::primary(postgres, &place);
    back_up(&primary);
    let standby = started(restored(postgres, &place, &["--standby"]));
    // Takes away what backup-fetch wrote.
    standby.sql("ALTER SYSTEM RESET restore_command");
    standby.sql("SELECT pg_reload_conf()");
    standby.wait_until("the setting counts", |cluster| cluster.value("SHOW restore_command").is_empty());
    let ill = standby.walden(&["doctor", "--json"]).run().code(3);
    let found = finding(&ill, "restore_command");
    assert!(found["found"].as_str().unwrap().starts_with("this standby gets no WAL"), "{ill}");
    let mut ward = Ward {
        cluster: standby,
        place,
        env: BTreeMap::new(),
        operand: None,
        directory: support::user::scratch_directory(),
        tls: None,
        silent: None,
    };
    ward.obey(found["hint"].as_str().unwrap());
    ward.cluster
        .wait_until("the setting counts", |cluster| cluster.value("SHOW restore_command").contains("wal-fetch"));
    let well = ward.doctor(&["--json"]).code(0);
    assert_eq!(finding(&well, "restore_command")["verdict"], "ok", "{well}");
    assert!(finding(&well, "server")["found"].as_str().unwrap().contains("a standby on timeline 1"), "{well}");
}

#[test]
fn a_file_system_that_is_about_to_be_full_is_found_and_room_on_it_mends_it() {
    let Some(disk) = SmallDisk::of(400 << 20) else { return };
    let postgres = &Postgres::each()[0];
    let place = Place::directory();
    let wal = disk.directory();
    if let Some(user) = User::for_servers() {
        user.owns(wal.path());
    }
    let waldir = format!("--waldir={}", wal.path().display());
    let mut cluster = Cluster::initialized(postgres, &place, &[&waldir]);
    cluster.start();
    cluster.archive_all();
    let doctor = || cluster.walden(&["doctor", "--json"]).run();
    assert_eq!(finding(&doctor().code(0), "space for WAL")["verdict"], "ok");
    disk.fill_up_to(100 << 20);
    let limited = finding(&doctor().code(0), "space for WAL");
    assert_eq!(limited["verdict"], "limited", "{limited:#}");
    disk.free();
    disk.fill_up_to(20 << 20);
    let found = finding(&doctor().code(10), "space for WAL");
    assert!(found["found"].as_str().unwrap().starts_with("the server is about to stop"), "{found:#}");
    assert!(found["hint"].as_str().unwrap().contains("df -h"), "{found:#}");
    disk.free();
    doctor().code(0);
}

#[test]
fn what_was_not_looked_at_is_told_with_how_to_have_it_looked_at_and_is_no_failure() {
    let scene = support::scene::Scene::on_s3();
    let ran = scene.walden(&["doctor"]).env("PGPORT", "1").run().code(0);
    let ran =
        ran.stdout_has("  unseen   server").stdout_has("hint: Start the server, or set PGHOST, PGPORT and PGUSER");
    ran.stdout_has("  unseen   data directory").stdout_has("hint: Name it: walden doctor /var/lib/postgresql/15/main");
    // Files tell what they can without a server.
    let data = scene.data.path().to_str().unwrap();
    let ran = scene.walden(&["doctor", "--json", data]).env("PGPORT", "1").run().code(0);
    assert_eq!(finding(&ran, "server")["verdict"], "unseen");
    for check in ["data directory", "user", "spool", "memory"] {
        assert_eq!(finding(&ran, check)["verdict"], "ok", "{ran}");
    }
}
