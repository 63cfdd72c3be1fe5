//! Which host a request goes to, and where it names the bucket: asked of the program, through a proxy that writes down
//! what it is asked for and lets nothing out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use support::walden::{Ran, Walden};

/// What came in on one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Asked {
    /// What CONNECT asked for.
    server: String,
    /// The first line and the Host of the request behind it, where that is plain http.
    line: String,
    host: String,
}

/// A proxy that answers each request itself, with 403.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Proxy {
    fn start() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let log = asked.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                answer(&mut stream, |asked| log.lock().unwrap().push(asked));
            }
        });
        Proxy { address, asked }
    }
}

/// Writes down what is asked for before it answers: whoever has the answer may look.
fn answer(stream: &mut TcpStream, note: impl FnOnce(Asked)) {
    let head = read_head(stream);
    let server = head.split(' ').nth(1).unwrap_or_default().to_owned();
    assert!(head.starts_with("CONNECT "), "{head}");
    if server.ends_with(":443") {
        // There is no certificate for Amazon's names here. Refused as proxies do it.
        note(Asked { server, ..Asked::default() });
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").unwrap();
        return;
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let head = read_head(stream);
    let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default().to_owned();
    let body = "<Error><Code>AccessDenied</Code><Message>seen</Message></Error>";
    let answer = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    note(Asked { server, line: head.lines().next().unwrap_or_default().to_owned(), host });
    stream.write_all(answer.as_bytes()).unwrap();
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap() == 0 {
            break;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Reads the archive at this prefix through the proxy, with these variables more.
fn ask(prefix: &str, variables: &[(&str, &str)]) -> (Vec<Asked>, Ran) {
    let proxy = Proxy::start();
    let scratch = tempfile::tempdir().unwrap();
    let through = format!("http://{}", proxy.address);
    let walden = Walden::new(scratch.path())
        .args(["backup-list", "--prefix", prefix, "--system-id", "1"])
        .env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("AWS_REGION", "eu-central-1")
        .env("WALDEN_RETRY_TIMEOUT", "0s")
        .env("HTTPS_PROXY", &through)
        .env("HTTP_PROXY", &through);
    let ran = walden.envs(variables.iter().copied()).run();
    let asked = proxy.asked.lock().unwrap().clone();
    (asked, ran)
}

/// The only server that was asked for.
#[track_caller]
fn server(prefix: &str, variables: &[(&str, &str)]) -> String {
    let (asked, ran) = ask(prefix, variables);
    let mut servers: Vec<String> = asked.into_iter().map(|asked| asked.server).collect();
    servers.dedup();
    assert_eq!(servers.len(), 1, "{servers:?}\n{ran}");
    ran.code(5).stderr_has("through the proxy");
    servers.remove(0)
}

#[test]
fn amazons_endpoints_are_found_by_region_and_by_amazons_own_variables() {
    let dual_stack = ("AWS_USE_DUALSTACK_ENDPOINT", "true");
    let fips = ("AWS_USE_FIPS_ENDPOINT", "true");
    let fast = ("WALDEN_S3_ACCELERATE", "true");
    let path = ("WALDEN_S3_ADDRESSING", "path");
    for (bucket, variables, expected) in [
        ("wal", vec![], "wal.s3.eu-central-1.amazonaws.com"),
        ("wal", vec![("AWS_REGION", "us-west-2")], "wal.s3.us-west-2.amazonaws.com"),
        ("wal", vec![("AWS_REGION", "cn-north-1")], "wal.s3.cn-north-1.amazonaws.com.cn"),
        ("wal", vec![path], "s3.eu-central-1.amazonaws.com"),
        ("wal.db", vec![], "s3.eu-central-1.amazonaws.com"),
        ("wal", vec![dual_stack], "wal.s3.dualstack.eu-central-1.amazonaws.com"),
        ("wal", vec![("AWS_REGION", "us-east-1"), fips], "wal.s3-fips.us-east-1.amazonaws.com"),
        ("wal", vec![("AWS_REGION", "us-east-1"), fips, dual_stack], "wal.s3-fips.dualstack.us-east-1.amazonaws.com"),
        ("wal", vec![fast], "wal.s3-accelerate.amazonaws.com"),
        ("wal", vec![fast, dual_stack], "wal.s3-accelerate.dualstack.amazonaws.com"),
    ] {
        assert_eq!(
            server(&format!("s3://{bucket}/p"), &variables),
            format!("{expected}:443"),
            "{bucket} {variables:?}"
        );
    }
}

#[test]
fn a_profile_says_the_same_as_the_variables() {
    let scratch = tempfile::tempdir().unwrap();
    let config = scratch.path().join("config");
    std::fs::write(&config, "[default]\nregion = us-east-1\nuse_fips_endpoint = true\nuse_dualstack_endpoint = true\n")
        .unwrap();
    let variables = [("AWS_CONFIG_FILE", config.to_str().unwrap()), ("AWS_REGION", "")];
    assert_eq!(server("s3://wal/p", &variables), "wal.s3-fips.dualstack.us-east-1.amazonaws.com:443");
}

#[test]
fn an_access_point_is_reached_by_its_arn_in_the_region_of_the_arn_or_by_its_alias() {
    let arn = "s3://arn:aws:s3:us-west-2:111111111111:accesspoint/wal/p";
    let host = "wal-111111111111.s3-accesspoint.us-west-2.amazonaws.com:443";
    assert_eq!(server(arn, &[]), host);
    assert_eq!(server(arn, &[("AWS_REGION", "")]), host);
    assert_eq!(server(&arn.replace("point/", "point:"), &[]), host);
    let dual_stack = host.replace("accesspoint.", "accesspoint.dualstack.");
    assert_eq!(server(arn, &[("AWS_USE_DUALSTACK_ENDPOINT", "true")]), dual_stack);
    let alias = "wal-hrzrlukc5m36ft7okagglf3gmwluquse1b-s3alias";
    assert_eq!(server(&format!("s3://{alias}/p"), &[]), format!("{alias}.s3.eu-central-1.amazonaws.com:443"));
}

#[test]
fn a_vpc_endpoint_is_asked_with_the_bucket_in_the_path_or_before_its_name() {
    let vpc = "bucket.vpce-1a2b3c4d-5e6f.s3.eu-central-1.vpce.amazonaws.com";
    let url = format!("https://{vpc}");
    let endpoint = ("AWS_ENDPOINT_URL_S3", url.as_str());
    assert_eq!(server("s3://wal/p", &[endpoint]), format!("{vpc}:443"));
    assert_eq!(server("s3://wal/p", &[endpoint, ("WALDEN_S3_ADDRESSING", "virtual")]), format!("wal.{vpc}:443"));
    let point = "accesspoint.vpce-1a2b3c4d-5e6f.s3.eu-central-1.vpce.amazonaws.com";
    let url = format!("https://{point}");
    let arn = "s3://arn:aws:s3:eu-central-1:111111111111:accesspoint/wal/p";
    assert_eq!(server(arn, &[("AWS_ENDPOINT_URL_S3", &url)]), format!("wal-111111111111.{point}:443"));
}

#[test]
fn a_store_of_ones_own_finds_the_bucket_in_the_path_or_in_the_host() {
    let endpoint = ("AWS_ENDPOINT_URL_S3", "http://store.example:9000");
    let sent = |variables: &[(&str, &str)]| {
        let (asked, ran) = ask("s3://wal/p", variables);
        ran.code(4).stderr_has("AccessDenied: seen");
        asked.first().cloned().unwrap()
    };
    for variables in [vec![endpoint], vec![endpoint, ("WALDEN_S3_ADDRESSING", "path")]] {
        let asked = sent(&variables);
        assert_eq!((asked.server.as_str(), asked.host.as_str()), ("store.example:9000", "store.example:9000"));
        assert!(asked.line.starts_with("GET /wal/?") || asked.line.starts_with("GET /wal?"), "{asked:?}");
    }
    for addressing in [("WALDEN_S3_ADDRESSING", "virtual"), ("AWS_S3_FORCE_PATH_STYLE", "false")] {
        let asked = sent(&[endpoint, addressing]);
        assert_eq!((asked.server.as_str(), asked.host.as_str()), ("wal.store.example:9000", "wal.store.example:9000"));
        assert!(asked.line.starts_with("GET /?"), "{asked:?}");
    }
}

#[test]
fn a_profile_can_name_a_store_for_s3_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let config = scratch.path().join("config");
    let services = "[default]\nservices = own\n[services own]\ns3 =\n  endpoint_url = http://store.example:9000\n";
    std::fs::write(&config, services).unwrap();
    let (asked, _) = ask("s3://wal/p", &[("AWS_CONFIG_FILE", config.to_str().unwrap())]);
    assert_eq!(asked[0].server, "store.example:9000");
    assert!(asked[0].line.starts_with("GET /wal"), "{asked:?}");
}

#[test]
fn addresses_that_contradict_each_other_are_refused_before_anybody_is_asked() {
    let fast = ("WALDEN_S3_ACCELERATE", "true");
    let fips = ("AWS_USE_FIPS_ENDPOINT", "true");
    let dual_stack = ("AWS_USE_DUALSTACK_ENDPOINT", "true");
    let own = ("AWS_ENDPOINT_URL_S3", "https://store.example");
    let arn = "s3://arn:aws:s3:eu-central-1:111111111111:accesspoint/wal/p";
    let path = ("WALDEN_S3_ADDRESSING", "path");
    for (prefix, variables, setting) in [
        ("s3://wal/p", vec![fast, own], "WALDEN_S3_ACCELERATE"),
        ("s3://wal/p", vec![fast, fips], "WALDEN_S3_ACCELERATE"),
        ("s3://wal/p", vec![fast, path], "WALDEN_S3_ACCELERATE"),
        ("s3://wal.db/p", vec![fast], "WALDEN_S3_ACCELERATE"),
        (arn, vec![fast], "WALDEN_S3_ACCELERATE"),
        (arn, vec![path], "WALDEN_S3_ADDRESSING"),
        ("s3://wal/p", vec![own, fips], "AWS_USE_FIPS_ENDPOINT"),
        ("s3://wal/p", vec![own, dual_stack], "AWS_USE_DUALSTACK_ENDPOINT"),
    ] {
        let (asked, ran) = ask(prefix, &variables);
        assert!(asked.is_empty(), "{asked:?}");
        ran.code(3).stderr_has(setting);
    }
    let (asked, ran) = ask("s3://arn:aws:s3::111111111111:accesspoint/mfzwi23gnjvgw.mrap/p", &[]);
    assert!(asked.is_empty());
    ran.code(2).stderr_has("multi-region");
}
