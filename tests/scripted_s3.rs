//! The S3 of the tests (tests/support/s3.rs) is what the other tests take it for: asked through the SDK, without
//! retries, so that every fault is seen.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use base64::prelude::{BASE64_STANDARD, Engine};

use support::s3::{ACCESS_KEY, BUCKET, Fault, On, Op, REGION, S3, SECRET_KEY};
use support::sdk::PlainHttp;

fn config(s3: &S3, secret: &str) -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(s3.endpoint())
        .force_path_style(true)
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(ACCESS_KEY, secret, None, None, "the test"))
        .retry_config(RetryConfig::disabled())
        .http_client(PlainHttp::default())
}

fn client(s3: &S3) -> Client {
    let plain = config(s3, SECRET_KEY).request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
    Client::from_conf(plain.build())
}

/// Puts and says how it ended: `ok`, S3's error code, or the SDK's word for a connection that failed.
async fn put(client: &Client, key: &str, body: &[u8]) -> String {
    let put = client.put_object().bucket(BUCKET).key(key).if_none_match("*").body(ByteStream::from(body.to_vec()));
    match put.send().await {
        Ok(_) => "ok".into(),
        Err(error) => error.code().map_or_else(|| error.to_string(), str::to_owned),
    }
}

async fn get(client: &Client, key: &str) -> Result<Vec<u8>, String> {
    let got = client.get_object().bucket(BUCKET).key(key).send().await;
    let got = got.map_err(|error| error.code().map_or_else(|| error.to_string(), str::to_owned))?;
    Ok(got.body.collect().await.map_err(|error| error.to_string())?.to_vec())
}

#[tokio::test]
async fn a_create_only_put_is_refused_when_the_key_is_taken_and_a_missing_key_is_not_a_missing_bucket() {
    let s3 = S3::start();
    let client = client(&s3);
    assert_eq!(put(&client, "a/ü +%", b"one").await, "ok");
    assert_eq!(put(&client, "a/ü +%", b"two").await, "PreconditionFailed");
    assert_eq!(get(&client, "a/ü +%").await.unwrap(), b"one");
    assert_eq!(get(&client, "b").await.unwrap_err(), "NoSuchKey");
    let elsewhere = client.get_object().bucket("other-bucket").key("b").send().await;
    assert_eq!(elsewhere.unwrap_err().code(), Some("NoSuchBucket"));
}

#[tokio::test]
async fn a_wrong_secret_is_refused() {
    let s3 = S3::start();
    let stranger = Client::from_conf(config(&s3, "wrong").build());
    assert_eq!(put(&stranger, "a", b"one").await, "SignatureDoesNotMatch");
    assert!(s3.keys("").is_empty());
}

#[tokio::test]
async fn a_wrong_checksum_and_a_streamed_body_are_refused() {
    let s3 = S3::start();
    let put = || client(&s3).put_object().bucket(BUCKET).key("a").body(ByteStream::from_static(b"one"));
    let wrong = put().checksum_crc32_c("AAAAAA==").send().await.unwrap_err();
    assert_eq!(wrong.code(), Some("BadDigest"));
    let right = BASE64_STANDARD.encode(crc32c::crc32c(b"one").to_be_bytes());
    put().checksum_crc32_c(right).send().await.unwrap();

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"streamed").unwrap();
    let body = ByteStream::from_path(file.path()).await.unwrap();
    let streaming = Client::from_conf(config(&s3, SECRET_KEY).build());
    let streamed = streaming.put_object().bucket(BUCKET).key("b").body(body).send().await;
    assert_eq!(streamed.unwrap_err().code(), Some("NotImplemented"));
    assert_eq!(s3.keys(""), ["a"]);
}

#[tokio::test]
async fn of_sixteen_racing_creators_one_wins() {
    let s3 = S3::start();
    let client = client(&s3);
    let tries = (0u8..16).map(|number| {
        let client = client.clone();
        tokio::spawn(async move { put(&client, "contested", &[number]).await == "ok" })
    });
    let mut winners = Vec::new();
    for (number, winner) in tries.collect::<Vec<_>>().into_iter().enumerate() {
        if winner.await.unwrap() {
            winners.push(number as u8);
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(s3.get("contested").unwrap(), winners);
}

#[tokio::test]
async fn each_fault_bites_once_and_in_order_and_then_the_service_is_honest() {
    let s3 = S3::start();
    let client = client(&s3);
    s3.fail_next(On::op(Op::Put).key("x"), Fault::Status(503, "SlowDown"));
    s3.fail_next(On::op(Op::Put).key("x"), Fault::Reset);
    s3.fail_next(On::op(Op::Put).key("x"), Fault::LoseReply);
    s3.fail_next(On::op(Op::Get), Fault::CutBody(3));
    s3.fail_next(On::op(Op::Get), Fault::Stall(Duration::from_millis(300)));

    assert_eq!(put(&client, "y", b"untouched").await, "ok");
    assert_eq!(put(&client, "x", b"first").await, "SlowDown");
    assert_eq!(put(&client, "x", b"first").await, "dispatch failure");
    assert_eq!(s3.get("x"), None);
    assert_eq!(put(&client, "x", b"first").await, "dispatch failure");
    assert_eq!(s3.get("x").unwrap(), b"first");
    assert_eq!(put(&client, "x", b"first").await, "PreconditionFailed");

    assert!(get(&client, "x").await.is_err());
    let before = Instant::now();
    assert_eq!(get(&client, "x").await.unwrap(), b"first");
    assert!(before.elapsed() >= Duration::from_millis(300));
    assert_eq!((s3.faults_left(), s3.count(Op::Put), s3.count(Op::Get)), (0, 5, 2));

    s3.fail_first_tries(Fault::Status(500, "InternalError"));
    assert_eq!(get(&client, "x").await.unwrap_err(), "InternalError");
    assert_eq!(get(&client, "x").await.unwrap(), b"first");
    assert_eq!(get(&client, "y").await.unwrap_err(), "InternalError");
}

#[tokio::test]
async fn listings_come_in_pages_with_folded_prefixes_counted_as_entries() {
    let s3 = S3::start();
    for number in 0..25 {
        s3.put(&format!("a/{number:02}/x"), "1");
        s3.put(&format!("a/{number:02}/y"), "1");
        s3.put(&format!("a/{number:02}-file"), "1");
    }
    s3.put("b", "1");
    let (mut entries, mut token) = (Vec::new(), None);
    loop {
        let list = client(&s3).list_objects_v2().bucket(BUCKET).prefix("a/").delimiter("/").max_keys(7);
        let page = list.set_continuation_token(token).send().await.unwrap();
        assert!(page.key_count().unwrap() <= 7);
        entries.extend(page.contents().iter().map(|object| object.key().unwrap().to_owned()));
        entries.extend(page.common_prefixes().iter().map(|folded| folded.prefix().unwrap().to_owned()));
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    entries.sort();
    let expected = (0..25).flat_map(|number| [format!("a/{number:02}-file"), format!("a/{number:02}/")]);
    assert_eq!(entries, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_refused_key_is_named_inside_a_successful_bulk_delete() {
    let s3 = S3::start();
    s3.put("free", "1");
    s3.put("locked", "1");
    s3.lock("locked");
    let keys = ["free", "locked", "absent"];
    let keys = keys.map(|key| ObjectIdentifier::builder().key(key).build().unwrap()).to_vec();
    let delete = Delete::builder().set_objects(Some(keys)).build().unwrap();
    let reply = client(&s3).delete_objects().bucket(BUCKET).delete(delete).send().await.unwrap();
    assert_eq!(reply.deleted().len(), 2);
    assert_eq!(reply.errors()[0].key(), Some("locked"));
    assert_eq!(s3.keys(""), ["locked"]);
}

#[tokio::test]
async fn damage_behind_the_services_back_is_served_as_if_it_were_right() {
    let s3 = S3::start();
    s3.put("x", "abc");
    s3.corrupt("x", 1);
    s3.truncate("x", 2);
    assert_eq!(get(&client(&s3), "x").await.unwrap(), b"ar");
}

#[test]
fn a_reset_is_a_reset_and_a_lost_reply_is_an_orderly_end() {
    let s3 = S3::start();
    s3.fail_next(On::any(), Fault::Reset);
    s3.fail_next(On::any(), Fault::LoseReply);
    let ask = || {
        let mut stream = TcpStream::connect(s3.endpoint().trim_start_matches("http://")).unwrap();
        stream.write_all(b"GET /walden-test/x HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).map_err(|error| error.kind())
    };
    assert_eq!(ask(), Err(ErrorKind::ConnectionReset));
    assert_eq!(ask(), Ok(0));
}

/// The answer to a raw request, and how the connection ended.
fn exchange(s3: &S3, request: &[u8]) -> (Vec<u8>, Option<ErrorKind>) {
    let mut stream = TcpStream::connect(s3.address()).unwrap();
    let _ = stream.write_all(request);
    let mut reply = Vec::new();
    let ended = stream.read_to_end(&mut reply).err().map(|error| error.kind());
    (reply, ended)
}

#[tokio::test]
async fn resets_come_before_inside_and_after_the_body_and_store_nothing() {
    let s3 = S3::start();
    let body = vec![7; 3 << 20];
    for fault in [Fault::Reset, Fault::ResetInBody(1 << 20), Fault::ResetAfterBody] {
        s3.fail_next(On::op(Op::Put), fault.clone());
        assert_eq!(put(&client(&s3), "x", &body).await, "dispatch failure", "{fault:?}");
        assert_eq!((s3.get("x"), s3.faults_left()), (None, 0), "{fault:?}");
    }
    assert_eq!(put(&client(&s3), "x", &body).await, "ok");
}

#[tokio::test]
async fn stalls_in_every_phase_last_as_long_as_they_say_and_then_all_is_well() {
    let s3 = S3::start();
    let (body, pause) = (vec![7; 3 << 20], Duration::from_millis(200));
    let faults = [Fault::Stall(pause), Fault::StallInBody(1 << 20, pause), Fault::StallBeforeAnswer(pause)];
    for (number, fault) in faults.into_iter().enumerate() {
        s3.fail_next(On::op(Op::Put), fault);
        let before = Instant::now();
        assert_eq!(put(&client(&s3), &format!("x{number}"), &body).await, "ok");
        assert!(before.elapsed() >= pause);
    }
    s3.fail_next(On::op(Op::Get), Fault::StallInAnswer(1000, pause));
    let before = Instant::now();
    assert!(get(&client(&s3), "x0").await.unwrap() == body);
    assert!(before.elapsed() >= pause);
    assert_eq!(s3.faults_left(), 0);
}

#[tokio::test]
async fn a_trickle_takes_its_time_for_each_byte_of_the_answer() {
    let s3 = S3::start();
    s3.put("x", "0123456789");
    s3.fail_next(On::op(Op::Get), Fault::Trickle(Duration::from_millis(1)));
    let before = Instant::now();
    assert_eq!(get(&client(&s3), "x").await.unwrap(), b"0123456789");
    assert!(before.elapsed() >= Duration::from_millis(100), "head and body have more than 100 bytes");
}

#[tokio::test]
async fn half_a_document_is_sent_as_if_it_were_whole() {
    let s3 = S3::start();
    s3.put("x", "1");
    s3.fail_next(On::op(Op::Put), Fault::TruncatedXml(500));
    let failed = put(&client(&s3), "y", b"1").await;
    assert!(failed != "ok" && s3.get("y").is_none(), "{failed}");
    s3.fail_next(On::op(Op::List), Fault::HalfAnswer);
    let listed = client(&s3).list_objects_v2().bucket(BUCKET).send().await;
    // The SDK takes the end of the bytes for the end of the document.
    assert!(listed.is_ok_and(|listed| listed.contents().is_empty()));
    s3.fail_next(On::op(Op::Get), Fault::HalfAnswer);
    assert_eq!(get(&client(&s3), "x").await.unwrap(), b"1");
}

#[test]
fn an_early_ok_is_sent_before_the_body_and_stores_nothing() {
    let s3 = S3::start();
    s3.fail_next(On::op(Op::Put), Fault::OkThenClose);
    let (reply, _) = exchange(&s3, b"PUT /walden-test/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nsome");
    let reply = String::from_utf8(reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 OK") && !reply.to_lowercase().contains("etag"), "{reply}");
    assert_eq!(s3.get("x"), None);
}

#[test]
fn whoever_is_to_come_again_later_is_told_when() {
    let s3 = S3::start();
    s3.fail_next(On::any(), Fault::RetryAfter(503, 7));
    let (reply, _) = exchange(&s3, b"GET /walden-test/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let reply = String::from_utf8(reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 503") && reply.contains("retry-after: 7"), "{reply}");
}

#[tokio::test]
async fn a_store_that_ignores_conditions_overwrites() {
    let s3 = S3::start();
    s3.ignore_conditions();
    assert_eq!(put(&client(&s3), "x", b"one").await, "ok");
    assert_eq!(put(&client(&s3), "x", b"two").await, "ok");
    assert_eq!(s3.get("x").unwrap(), b"two");
}

#[tokio::test]
async fn sessions_are_given_for_a_token_and_end() {
    let s3 = S3::start();
    let assume = || {
        let form = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&WebIdentityToken=t&RoleArn=r&RoleSessionName=s";
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", form.len());
        let reply = String::from_utf8(exchange(&s3, format!("{head}{form}").as_bytes()).0).unwrap();
        reply.split_once("<AccessKeyId>").unwrap().1.split_once('<').unwrap().0.to_owned()
    };
    let session = |key: &str| {
        let credentials = Credentials::new(key, SECRET_KEY, Some(format!("{key}-token")), None, "the test");
        let plain = config(&s3, SECRET_KEY).request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
        Client::from_conf(plain.credentials_provider(credentials).build())
    };
    let scratch = tempfile::tempdir().unwrap();
    s3.web_identity(scratch.path(), Duration::from_secs(60));
    let (one, two) = (assume(), assume());
    assert!(one != two && s3.count(Op::Assume) == 2);
    assert_eq!(put(&session(&one), "x", b"1").await, "ok");
    s3.revoke_sessions();
    assert_eq!(put(&session(&two), "y", b"1").await, "ExpiredToken");
    assert_eq!(put(&session("ASIASTRANGER"), "y", b"1").await, "InvalidAccessKeyId");
}
