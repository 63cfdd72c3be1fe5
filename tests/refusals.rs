//! What is printed when a store says no: what was tried, on which bucket and key, as whom, what the service said, and
//! what can be done about it. `tests/refusals.txt` has all of it; `BLESS=1` writes it anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use support::front::free_address;
use support::s3::{Answer, Fault, On, Op, SECRET_KEY};
use support::scene::{Scene, small};
use support::walden::Walden;

/// One failure: its name, what goes wrong, and who meets it.
struct Case {
    name: &'static str,
    fault: Option<Fault>,
    verb: Verb,
    env: Vec<(&'static str, String)>,
    /// One try is enough for what may pass.
    patience: &'static str,
}

#[derive(Clone, Copy)]
enum Verb {
    Push,
    Fetch,
    List,
}

fn case(name: &'static str, verb: Verb, fault: impl Into<Fault>) -> Case {
    Case { name, fault: Some(fault.into()), verb, env: Vec::new(), patience: "60s" }
}

fn setting(name: &'static str, verb: Verb, variable: &'static str, value: impl Into<String>) -> Case {
    Case { name, fault: None, verb, env: vec![(variable, value.into())], patience: "60s" }
}

impl Case {
    fn once(self) -> Case {
        Case { patience: "0s", ..self }
    }
}

fn denied(message: &str) -> Answer {
    Answer::refusal(403, "AccessDenied", message)
}

const WHO: &str = "User: arn:aws:sts::111111111111:assumed-role/walden/primary is not authorized to perform:";

/// What rights are missing.
fn rights() -> Vec<Case> {
    use Verb::{Fetch, List, Push};
    let say = |rest: &str| denied(&format!("{WHO} {rest}"));
    vec![
        case("no right to put", Push, denied("Access Denied")),
        case("no right to get, or to list what is not there", Fetch, denied("Access Denied")),
        case("no right to list", List, denied("Access Denied")),
        case(
            "an identity without the right, as Amazon words it",
            Push,
            say(
                "s3:PutObject on resource: &quot;arn:aws:s3:::walden-test/some/where/x&quot; because no identity-based policy \
                 allows the s3:PutObject action",
            ),
        ),
        case(
            "another account's bucket",
            Fetch,
            say(
                "s3:GetObject on resource: &quot;arn:aws:s3:::walden-test/some/where/x&quot; because no resource-based policy \
                 allows the s3:GetObject action",
            ),
        ),
        case(
            "an explicit deny",
            Push,
            say(
                "s3:PutObject on resource: &quot;arn:aws:s3:::walden-test/some/where/x&quot; with an explicit deny in an \
                 identity-based policy",
            ),
        ),
        case(
            "a key that may not encrypt",
            Push,
            say("kms:GenerateDataKey on resource: arn:aws:kms:eu-central-1:111111111111:key/0123 because no \
                 resource-based policy allows the kms:GenerateDataKey action"),
        ),
        case(
            "a key that may not decrypt",
            Fetch,
            say(
                "kms:Decrypt on resource: arn:aws:kms:eu-central-1:111111111111:key/0123 because no identity-based policy \
                 allows the kms:Decrypt action",
            ),
        ),
        case(
            "a key that is disabled",
            Push,
            Answer::refusal(400, "KMS.DisabledException", "arn:aws:kms:x:1:key/0 is disabled."),
        ),
    ]
}

/// Who asks, and when.
fn identities() -> Vec<Case> {
    use Verb::{Fetch, Push};
    let skewed = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(20);
    let date = skewed.to_zoned(jiff::tz::TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    vec![
        setting("a wrong secret", Push, "AWS_SECRET_ACCESS_KEY", "wrong"),
        Case {
            env: ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| (name, String::new())).to_vec(),
            ..setting("nobody to ask as", Push, "", "")
        },
        setting("a key that the store does not know", Push, "AWS_ACCESS_KEY_ID", "AKIASTRANGER"),
        case("a session that has ended", Push, Answer::refusal(400, "ExpiredToken", "The provided token has expired.")),
        case(
            "a token that is none",
            Fetch,
            Answer::refusal(400, "InvalidToken", "The provided token is malformed or otherwise invalid."),
        ),
        case(
            "a clock that is wrong",
            Push,
            Answer::refusal(
                403,
                "RequestTimeTooSkewed",
                "The difference between the request time and the current time is too large.",
            )
            .header("date", date),
        ),
    ]
}

/// Where the bucket lies, and whether it does.
fn places() -> Vec<Case> {
    use Verb::{Fetch, List, Push};
    let elsewhere = "The bucket you are attempting to access must be addressed using the specified endpoint. Please send \
                     all future requests to this endpoint.";
    vec![
        setting("a bucket that does not exist", Push, "WALDEN_PREFIX", "s3://no-such-bucket/some/where"),
        case(
            "another region, by a redirect",
            Push,
            Answer::refusal_with(
                301,
                "PermanentRedirect",
                elsewhere,
                "<Endpoint>walden-test.s3.eu-west-1.amazonaws.com</Endpoint>",
            )
            .header("x-amz-bucket-region", "eu-west-1"),
        ),
        case(
            "another region, by the signature",
            Fetch,
            Answer::refusal_with(
                400,
                "AuthorizationHeaderMalformed",
                "The authorization header is malformed; the region &apos;eu-central-1&apos; is wrong; expecting &apos;eu-west-1&apos;",
                "<Region>eu-west-1</Region>",
            ),
        ),
        case(
            "a region that is not told",
            List,
            Answer::refusal(
                400,
                "IllegalLocationConstraintException",
                "The unspecified location constraint is incompatible for the region specific endpoint this request was sent to.",
            ),
        ),
        case(
            "an access point that does not exist",
            Push,
            Answer::refusal(404, "NoSuchAccessPoint", "The specified accesspoint does not exist"),
        ),
    ]
}

/// What a store does not do.
fn abilities() -> Vec<Case> {
    use Verb::{Fetch, Push};
    let sse_c = "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to \
                 retrieve the object.";
    vec![
        Case {
            env: vec![("WALDEN_S3_CHECKSUM", "crc32c".to_owned())],
            ..case(
                "a header of a checksum",
                Push,
                Answer::refusal(
                    400,
                    "InvalidArgument",
                    "Unsupported header &#39;x-amz-checksum-crc32c&#39; received for this API call.",
                ),
            )
        },
        case(
            "something that is not implemented",
            Push,
            Answer::refusal(
                501,
                "NotImplemented",
                "A header you provided implies functionality that is not implemented",
            ),
        ),
        case("an object that the customer's key encrypts", Fetch, Answer::refusal(400, "InvalidRequest", sse_c)),
        case(
            "an object in Glacier",
            Fetch,
            Answer::refusal(
                403,
                "InvalidObjectState",
                "The operation is not valid for the object&apos;s storage class",
            ),
        ),
        case(
            "an object that is too large",
            Push,
            Answer::refusal(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size"),
        ),
        case(
            "a storage class of another store",
            Push,
            Answer::refusal(400, "InvalidStorageClass", "The storage class you specified is not valid"),
        ),
        case(
            "a bucket without ACLs",
            Push,
            Answer::refusal(400, "AccessControlListNotSupported", "The bucket does not allow ACLs"),
        ),
        case("a quota", Push, Answer::refusal(403, "QuotaExceeded", "Bucket quota exceeded")),
    ]
}

/// What may pass.
fn passing() -> Vec<Case> {
    use Verb::{Fetch, Push};
    vec![
        case("too many requests", Push, Answer::refusal(503, "SlowDown", "Please reduce your request rate.")),
        case("too many requests, by a proxy", Fetch, Answer::page(429, "Too Many Requests")),
        case(
            "a store that is out of order",
            Fetch,
            Answer::refusal(500, "InternalError", "We encountered an internal error. Please try again."),
        ),
        case("a load balancer without a store", Push, Answer::page(502, "502 Bad Gateway")),
        case(
            "a body that did not come",
            Push,
            Answer::refusal(
                400,
                "RequestTimeout",
                "Your socket connection to the server was not read from or written to within the timeout period.",
            ),
        ),
        case(
            "a body that was damaged",
            Push,
            Answer::refusal(400, "BadDigest", "The Content-MD5 you specified did not match what we received."),
        ),
    ]
}

/// What is no store at all.
fn strangers() -> Vec<Case> {
    use Verb::{Fetch, List, Push};
    vec![
        case("a page for whoever has to log in first", Push, Answer::page(200, "Welcome to the guest network")),
        case("a page instead of an object", Fetch, Answer::page(200, "Welcome to the guest network")),
        case("a page instead of a listing", List, Answer::page(200, "Welcome to the guest network")),
        case("a proxy that blocks", Push, Answer::page(403, "Blocked by policy")),
        case("a web server that has no such page", Fetch, Answer::page(404, "404 Not Found")),
        case(
            "a server that has nothing and says nothing",
            Fetch,
            Answer { status: 404, headers: Vec::new(), body: String::new() },
        ),
    ]
}

/// Where nobody answers in a way that can be understood.
fn silent() -> Vec<Case> {
    use Verb::{Fetch, Push};
    let at = |name, verb, endpoint: String| setting(name, verb, "AWS_ENDPOINT_URL", endpoint);
    vec![
        at("something that speaks another protocol", Push, format!("http://{}", speaks_smtp())),
        at("nobody", Fetch, format!("http://{}", free_address())),
        at("a name that does not exist", Push, "http://no-such-host.invalid".to_owned()),
    ]
}

/// A server that answers, and not in HTTP.
fn speaks_smtp() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0]);
                let _ = stream.write_all(b"500 command not recognized\r\n");
                std::thread::sleep(Duration::from_secs(5));
            });
        }
    });
    address
}

/// What the program prints, with everything that differs from run to run replaced.
fn told(scene: &Scene, case: Case) -> String {
    let segment = small(1).name();
    let walden = match case.verb {
        Verb::Push => scene.walden(&["wal-push", &format!("pg_wal/{}", small(2).name())]),
        Verb::Fetch => scene.walden(&["wal-fetch", &segment, "pg_wal/RECOVERYXLOG"]),
        Verb::List => scene.walden(&["backup-list"]),
    };
    if let Some(fault) = case.fault {
        scene.s3().fail_always(On::any(), fault);
    }
    scene.s3().forget_requests();
    let ran = walden.env("WALDEN_RETRY_TIMEOUT", case.patience).envs(case.env).run();
    scene.s3().heal();
    // What will not pass is told at once, whatever the budget: asked twice at most, without a header that may be why.
    assert!(ran.code == Some(5) || scene.s3().requests().len() <= 2, "{ran}\n{:#?}", scene.s3().requests());
    let text = format!("== {}\n{}exit code {}\n", case.name, ran.stderr, ran.code.unwrap());
    normal(&text, scene)
}

fn normal(text: &str, scene: &Scene) -> String {
    let text = text.replace(&scene.s3().address().to_string(), "HOST:PORT");
    let lines = text.lines().map(|line| {
        let line = replaced(line, "gave up after ", ", for", "N attempts in S s");
        // In the words of whoever resolves names here.
        let line = replaced(&line, "lookup address information: ", ";", "REASON");
        let line = replaced(&line, "http://127.0.0.1:", "/", "PORT");
        replaced(&line, "no connection to 127.0.0.1:", ":", "PORT")
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// The line with what stands between these words replaced.
fn replaced(line: &str, from: &str, to: &str, by: &str) -> String {
    let Some((before, rest)) = line.split_once(from) else { return line.to_owned() };
    let end = rest.find(to).unwrap_or(rest.len());
    format!("{before}{from}{by}{}", &rest[end..])
}

#[test]
fn every_refusal_reads_as_it_was_written_down() {
    let scene = Scene::on_s3();
    let name = scene.write(&small(1));
    scene.push(&name).code(0);
    scene.write(&small(2));
    let cases = [rights(), identities(), places(), abilities(), strangers()].into_iter().flatten();
    let cases = cases.chain([passing(), silent()].into_iter().flatten().map(Case::once));
    let told: Vec<String> = cases.map(|case| told(&scene, case)).collect();
    let told = told.join("\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refusals.txt");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &told).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    for (told, written) in told.split("\n\n").zip(written.split("\n\n")) {
        assert_eq!(told, written, "BLESS=1 cargo test --test refusals writes tests/refusals.txt anew");
    }
    assert_eq!(told.len(), written.len());
}

#[test]
fn a_page_that_was_not_found_never_ends_a_recovery() {
    let scene = Scene::on_s3();
    scene.push(&scene.write(&small(1))).code(0);
    fs::write(scene.data.path().join("recovery.signal"), "").unwrap();
    let absent = small(2).name();
    scene.fetch(&absent).code(1);
    let empty = Answer { status: 404, headers: Vec::new(), body: String::new() };
    let halved = Fault::TruncatedXml(404);
    for fault in [Answer::page(404, "404 Not Found").into(), empty.into(), halved] {
        scene.s3().fail_always(On::op(Op::Get), fault);
        scene
            .walden(&["wal-fetch", &absent, "pg_wal/RECOVERYXLOG"])
            .env("WALDEN_RETRY_TIMEOUT", "300ms")
            .run()
            .code(200);
        scene.s3().heal();
    }
}

#[test]
fn no_secret_is_in_any_log_at_any_level() {
    let scene = Scene::on_s3();
    let data = scene.data.path();
    let segment = scene.write(&small(1));
    let path = format!("pg_wal/{segment}");
    let server = data.to_str().unwrap();
    let verbs: [&[&str]; 11] = [
        &["wal-push", &path],
        &["wal-fetch", &segment, "pg_wal/RECOVERYXLOG"],
        &["wal-fetch", &small(9).name(), "pg_wal/RECOVERYXLOG"],
        &["wal-backfill", server],
        &["wal-show"],
        &["wal-verify"],
        &["backup-list"],
        &["backup-show", "LATEST"],
        &["backup-push", server],
        &["backup-fetch", "restored"],
        &["config"],
    ];
    let mut said = String::new();
    let mut run = |walden: Walden| {
        let ran = walden
            .env("WALDEN_LOG_LEVEL", "debug")
            .env("WALDEN_RETRY_TIMEOUT", "200ms")
            .env("PGHOST", "/nowhere")
            .run();
        said.push_str(&format!("{}{}", ran.stdout, ran.stderr));
    };
    let string_to_sign = Answer::refusal_with(
        403,
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match",
        "<StringToSign>AWS4-HMAC-SHA256</StringToSign>",
    );
    let weathers: [Option<Fault>; 5] = [
        None,
        Some(string_to_sign.into()),
        Some(Fault::Status(503, "SlowDown")),
        Some(Fault::Reset),
        Some(Answer::page(403, "Blocked").into()),
    ];
    for weather in weathers {
        if let Some(fault) = weather {
            scene.s3().fail_always(On::any(), fault);
        }
        for verb in verbs {
            run(scene.walden(verb));
            let _ = fs::remove_dir_all(data.join("cache"));
            run(scene
                .walden(verb)
                .without(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
                .envs(scene.s3().web_identity(data, Duration::from_secs(3600)))
                .env("WALDEN_LOG_FORMAT", "json"));
        }
        scene.s3().heal();
    }
    let requests = scene.s3().requests();
    let of = |name: &'static str, after: &'static str| {
        let values = requests.iter().map(move |request| request.header(name));
        values.filter_map(move |value| Some(value.split_once(after)?.1.to_owned())).filter(|value| !value.is_empty())
    };
    let mut secrets: Vec<String> = of("authorization", "Signature=").chain(of("x-amz-security-token", "")).collect();
    assert!(secrets.len() > 50 && secrets.iter().any(|secret| secret.ends_with("-token")), "{}", secrets.len());
    secrets.extend([SECRET_KEY.to_owned(), "a.web.token".to_owned()]);
    for secret in secrets {
        assert!(!said.contains(&secret), "{secret} was told");
    }
    // The log is there, and an access key's id is no secret.
    assert!(said.contains("could not") && said.contains("access key ASIAWALDENTEST"));
}
