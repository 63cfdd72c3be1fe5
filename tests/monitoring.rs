//! Monitoring by Prometheus: the exporter, the documentation of the metrics, the alert rules and the dashboard.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::cluster::{Cluster, Postgres};
use support::front::free_address;
use support::patience::wait_until;
use support::place::Place;
use support::s3::{Answer, Fault, On};
use support::scene::{Scene, small};
use support::stories::back_up;
use walden::metrics::table::TABLE;

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

/// promtool's verdict, with this on its standard input.
#[track_caller]
fn promtool(args: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    command
        .args(args)
        .current_dir(docs("monitoring"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool is missing: scripts/need promtool");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{args:?}\n{}{}", text(&output.stdout), text(&output.stderr));
    // Advice of `check metrics` counts as well.
    assert!(args[1] != "metrics" || output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn the_documentation_has_every_metric_with_its_meaning() {
    let (begin, end) = ("written by BLESS=1 cargo test --test monitoring -->\n", "<!-- end of metrics -->");
    let rows = TABLE.iter().map(|metric| {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (kind, source) = (metric.kind.word(), format!("{:?}", metric.source).to_lowercase());
        format!("| `{}` | {kind}, {source} | {} | {} |\n", metric.name, labels.join(", "), metric.help)
    });
    let table = format!("\n| Metric | Is | Labels | Meaning |\n|---|---|---|---|\n{}\n", rows.collect::<String>());
    let text = fs::read_to_string(docs("monitoring.md")).unwrap();
    let (head, rest) = text.split_once(begin).unwrap();
    let (written, tail) = rest.split_once(end).unwrap();
    if std::env::var_os("BLESS").is_some() {
        fs::write(docs("monitoring.md"), format!("{head}{begin}{table}{end}{tail}")).unwrap();
    } else {
        assert!(written == table, "docs/monitoring.md is out of date: BLESS=1 cargo test --test monitoring");
    }
}

#[test]
fn names_and_units_are_those_of_prometheus() {
    for metric in TABLE {
        let name = metric.name;
        assert!(name.starts_with("walden_") && !metric.help.ends_with('.'), "{name}");
        assert_eq!(name.ends_with("_total"), metric.kind.word() == "counter", "{name}");
        for wrong in ["_ms", "_mib", "_minutes", "_hours", "_days", "_count"] {
            assert!(!name.ends_with(wrong), "{name}");
        }
    }
    let names: BTreeSet<&str> = TABLE.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), TABLE.len());
}

#[test]
fn the_alert_rules_are_sound_and_fire_when_they_should() {
    promtool(&["check", "rules", "alerts.yml"], "");
    promtool(&["test", "rules", "alerts_test.yml"], "");
    // Each rule has a test.
    let text = |name: &str| fs::read_to_string(docs("monitoring").join(name)).unwrap();
    let (rules, tests) = (text("alerts.yml"), text("alerts_test.yml"));
    let mut alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).peekable();
    assert!(alerts.peek().is_some());
    for alert in alerts {
        let fires = tests.split("- eval_time:").skip(1).any(|test| test.contains(&format!("alertname: {alert}\n")));
        assert!(fires, "{alert} is never seen to fire");
    }
}

#[test]
fn rules_and_dashboard_name_metrics_that_there_are() {
    let known: BTreeSet<&str> = TABLE.iter().map(|metric| metric.name).collect();
    let named = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| word.starts_with("walden_")).map(str::to_owned).collect()
    };
    for name in ["alerts.yml", "alerts_test.yml", "dashboard.json"] {
        let text = fs::read_to_string(docs("monitoring").join(name)).unwrap();
        let named = named(&text);
        assert!(!named.is_empty());
        let unknown: Vec<&String> = named.iter().filter(|name| !known.contains(name.as_str())).collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
    }
}

#[test]
fn the_queries_of_the_dashboard_can_be_understood() {
    let dashboard: Value = serde_json::from_slice(&fs::read(docs("monitoring/dashboard.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let rules: Vec<String> = queries
        .enumerate()
        .map(|(number, query)| format!("- {{record: 'q{number}', expr: {}}}\n", query["expr"]))
        .collect();
    assert!(rules.len() > 10);
    let file = tempfile::NamedTempFile::new().unwrap();
    let rules: String = rules.iter().map(|rule| format!("  {rule}")).collect();
    fs::write(file.path(), format!("groups:\n- name: dashboard\n  rules:\n{rules}")).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()], "");
}

/// A running exporter, and where it listens.
struct Exporter {
    child: Child,
    port: u16,
}

impl Exporter {
    fn start(walden: support::walden::Walden) -> Exporter {
        let port = free_address().port();
        let child = walden.args(["--listen", &format!("127.0.0.1:{port}")]).spawn();
        let exporter = Exporter { child, port };
        wait_until("the exporter listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        wait_until("it has looked", || exporter.ask("GET /metrics").starts_with("HTTP/1.1 200 "));
        exporter
    }

    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The page, checked by promtool.
    fn page(&self) -> String {
        let answer = self.ask("GET /metrics");
        let (head, page) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/plain; version=0.0.4"), "{head}");
        page.to_owned()
    }

    fn value(&self, name: &str) -> Option<f64> {
        let page = self.page();
        let line = page.lines().find(|line| line.starts_with(&format!("{name}{{")))?;
        Some(line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_exporter_serves_what_status_finds_and_what_the_verbs_leave_and_turns_over_with_each_fault() {
    for postgres in Postgres::each() {
        let place = Place::s3();
        let scratch = tempfile::tempdir().unwrap();
        let primary = Cluster::primary(&postgres, &place);
        let metrics = primary.directory("metrics");
        primary.archive_all();
        back_up(&primary);
        let data = primary.data();
        primary.walden(&["wal-verify", "--metrics-dir", metrics.to_str().unwrap()]).run().code(0);
        let args = ["exporter", data.to_str().unwrap(), "--metrics-dir", metrics.to_str().unwrap()];
        let exporter = Exporter::start(primary.walden(&args).env("WALDEN_RETRY_TIMEOUT", "1s"));

        let page = exporter.page();
        promtool(&["check", "metrics"], &page);
        fs::write(scratch.path().join("page"), &page).unwrap();
        for name in [
            "walden_runs_total",
            "walden_last_verify_timestamp_seconds",
            "walden_last_backup_stored_bytes",
            "walden_recovery_window_end_timestamp_seconds",
            "walden_archiver_archived_total",
        ] {
            assert!(page.contains(&format!("\n{name}{{")), "{name}\n{page}");
        }
        assert!(page.contains("walden_archive_seen{") && exporter.value("walden_server_seen") == Some(1.0), "{page}");
        assert_eq!(exporter.value("walden_archiver_failing"), Some(0.0));

        place.service().fail_always(On::any(), Fault::Answer(Answer::refusal(403, "AccessDenied", "no")));
        primary.sql("SELECT pg_create_restore_point('switch')");
        primary.sql("SELECT pg_switch_wal()");
        wait_until("the archive is no longer seen", || exporter.value("walden_archive_seen") == Some(0.0));
        wait_until("a file fails", || exporter.value("walden_archiver_failing") == Some(1.0));
        assert!(exporter.value("walden_archiver_failing_since_timestamp_seconds").is_some());
        assert_eq!(exporter.value("walden_last_backup_stored_bytes"), None);
        promtool(&["check", "metrics"], &exporter.page());

        place.service().heal();
        primary.archive_all();
        wait_until("all is well again", || {
            exporter.value("walden_archive_seen") == Some(1.0) && exporter.value("walden_archiver_failing") == Some(0.0)
        });
    }
}

#[test]
fn the_exporter_answers_one_question_looks_seldom_and_is_not_held_up_by_those_who_say_nothing() {
    let scene = Scene::on_s3();
    let name = scene.write(&small(1));
    scene.push(&name).code(0);
    let exporter = Exporter::start(scene.walden(&["exporter"]));
    assert!(exporter.page().contains("walden_last_wal_timestamp_seconds"));
    for (request, code) in [("GET /", 200), ("GET /other", 404), ("POST /metrics", 405), ("nonsense", 400)] {
        let answer = exporter.ask(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{request}: {answer}");
    }
    scene.s3().forget_requests();
    for _ in 0..40 {
        exporter.page();
    }
    // A look takes several requests.
    assert!(scene.s3().requests().len() < 40, "{:?}", scene.s3().requests());
    // As many as may be there at once, and more.
    let mute: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(("127.0.0.1", exporter.port)).unwrap()).collect();
    wait_until("the mute ones are sent away", || {
        let mut stream = TcpStream::connect(("127.0.0.1", exporter.port)).unwrap();
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).is_ok() && answer.contains("walden_archive_seen")
    });
    drop(mute);

    // A second one at the same address says so.
    let again = scene.walden(&["exporter", "--listen", &format!("127.0.0.1:{}", exporter.port)]).run();
    again.code(10).stderr_has("could not listen at 127.0.0.1:");
    scene.walden(&["exporter", "--listen", "localhost"]).run().code(2).stderr_has("127.0.0.1:9762");
}
