//! Stores that are older or plainer than Amazon's: the whole job on them, with default settings.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use support::archiver;
use support::cluster::{Cluster, Postgres};
use support::forge::Segment;
use support::place::Place;
use support::s3::{Answer, Fault, Logged, On, Op};
use support::scene::{Scene, small};
use support::stories;

/// How stores refuse a header that they do not know: Backblaze B2, Cloudflare R2, and others.
fn ways() -> [Answer; 3] {
    [
        Answer::refusal(
            400,
            "InvalidArgument",
            "Unsupported header 'x-amz-checksum-crc32c' received for this API call.",
        ),
        Answer::refusal(501, "NotImplemented", "Header 'x-amz-checksum-crc32c' with value '4waSgw==' not implemented"),
        Answer::refusal(400, "InvalidRequest", "Checksum algorithm is not supported"),
    ]
}

fn has_new_headers(request: &Logged) -> bool {
    request
        .headers
        .keys()
        .any(|name| name.as_str().starts_with("x-amz-checksum") || name == "x-amz-sdk-checksum-algorithm")
}

fn puts(scene: &Scene) -> Vec<Logged> {
    scene.s3().requests().into_iter().filter(|request| request.op == Op::Put).collect()
}

#[test]
fn a_store_that_refuses_headers_of_checksums_is_found_out_once_and_content_md5_covers_what_is_sent() {
    for way in ways() {
        let scene = Scene::on_s3();
        scene.s3().grow_old(way);
        scene.push(&scene.write(&small(1))).code(0);
        let refused = puts(&scene).iter().filter(|put| has_new_headers(put)).count();
        assert_eq!(refused, 1, "{:#?}", puts(&scene));
        scene.s3().forget_requests();
        scene.push(&scene.write(&small(2))).code(0).stderr_is("");
        let puts = puts(&scene);
        assert!(
            puts.len() == 1 && !has_new_headers(&puts[0]) && puts[0].header("content-md5").len() == 24,
            "{puts:#?}"
        );
        assert_eq!(puts[0].header("x-amz-content-sha256").len(), 64);
    }
}

#[test]
fn a_store_that_passes_over_checksums_is_found_out_by_its_silence() {
    let scene = Scene::on_s3();
    scene.s3().ignore_checksums();
    scene.push(&scene.write(&small(1))).code(0).stderr_is("");
    scene.s3().forget_requests();
    scene.push(&scene.write(&small(2))).code(0);
    let puts = puts(&scene);
    assert!(puts.len() == 1 && !has_new_headers(&puts[0]) && puts[0].header("content-md5").len() == 24, "{puts:#?}");
}

#[test]
fn a_put_that_is_refused_with_and_without_the_header_teaches_nothing() {
    let scene = Scene::on_s3();
    scene.push(&scene.write(&small(1))).code(0);
    scene.s3().forget_requests();
    scene.s3().fail_always(On::op(Op::Put), Answer::refusal(400, "InvalidArgument", "Invalid Argument").into());
    scene.push(&scene.write(&small(2))).code(3).stderr_has("InvalidArgument");
    assert_eq!(puts(&scene).iter().map(has_new_headers).collect::<Vec<_>>(), [true, false]);
    scene.s3().heal();
    scene.s3().forget_requests();
    scene.push(&small(2).name()).code(0);
    assert_eq!(puts(&scene).iter().map(has_new_headers).collect::<Vec<_>>(), [true]);
}

#[test]
fn the_settings_of_checksums_are_kept() {
    let scene = Scene::on_s3();
    scene.push(&scene.write(&small(1))).code(0);
    let push = |number: u64, how: &str| {
        let name = scene.write(&small(number));
        scene.s3().forget_requests();
        let ran = scene.walden(&["wal-push", "--s3-checksum", how, &format!("pg_wal/{name}")]).run();
        (ran, puts(&scene))
    };
    let (ran, sent) = push(2, "off");
    ran.code(0);
    assert!(sent.len() == 1 && !has_new_headers(&sent[0]) && sent[0].header("content-md5").is_empty());
    scene.s3().grow_old(ways()[0].clone());
    let (ran, sent) = push(3, "crc32c");
    ran.code(3).stderr_has("WALDEN_S3_CHECKSUM");
    assert_eq!(sent.len(), 1);
}

#[test]
fn wal_goes_and_comes_on_an_old_store_and_conflicts_are_told() {
    let scene = Scene::on_s3();
    scene.s3().grow_old(ways()[0].clone());
    let segment = small(1);
    let name = scene.write(&segment);
    scene.push(&name).code(0).stderr_has("ignores If-None-Match");
    scene.fetch(&name).code(0);
    assert!(scene.fetched().unwrap() == segment.bytes());
    scene.push(&name).code(0);
    scene.write(&Segment { seed: 99, ..small(1) });
    scene.push(&name).code(6).stderr_has("exists with other content");
    scene.fetch(&small(2).name()).code(1);
    archiver::offer(&scene, &scene.write(&small(2)));
    scene.walden(&["wal-backfill", scene.data.path().to_str().unwrap()]).run().code(0);
    scene.fetch(&small(2).name()).code(0);
    // Lost replies are told from conflicts there, too.
    scene.s3().fail_next(On::op(Op::Put), Fault::LoseReply);
    scene.push(&scene.write(&small(3))).code(0);
    assert_eq!(scene.s3().faults_left(), 0);
}

#[test]
fn a_cluster_is_backed_up_and_restored_on_an_old_store() {
    for postgres in Postgres::each() {
        let place = Place::s3();
        place.service().grow_old(ways()[1].clone());
        let primary = Cluster::primary(&postgres, &place);
        primary.sql("CREATE TABLE orders AS SELECT n AS id FROM generate_series(1, 1000) n");
        stories::back_up(&primary);
        assert_eq!(stories::complete_backups(&primary), 1);
        primary.sql("INSERT INTO orders SELECT generate_series(1001, 1500)");
        primary.archive_all();
        for verb in [&["wal-show"][..], &["wal-verify", "--deep"], &["backup-list"], &["backup-show", "LATEST"]] {
            primary.walden(verb).run().code(0);
        }
        let copy = stories::recovered(stories::restored(&postgres, &place, &[]));
        assert_eq!(copy.value("SELECT count(*) FROM orders"), "1500");
        let refused = place.service().requests().iter().filter(|request| has_new_headers(request)).count();
        assert!(refused <= 4, "{refused} requests had headers that the store does not know");
    }
}
