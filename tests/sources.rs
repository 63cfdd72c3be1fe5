//! Who we are before any role: the role of an instance, and the identity of a pod, each followed by a chain of roles.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use support::metadata::Metadata;
use support::s3::ACCESS_KEY;
use support::scene::{Scene, small};
use support::walden::Walden;

const ROLE: &str = "arn:aws:iam::111111111111:role/wal-writer";

fn push(scene: &Scene, number: u64, source: Vec<(&'static str, String)>) -> Walden {
    let name = scene.write(&small(number));
    let push = scene.walden(&["wal-push", &format!("pg_wal/{name}")]).env("WALDEN_ASSUME_ROLE", ROLE);
    push.without(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]).envs(source)
}

/// The first call asks the source, then for the role in the source's name; the second call finds the session.
fn leads_to_the_role(scene: &Scene, metadata: &Metadata, source: Vec<(&'static str, String)>) {
    push(scene, 1, source.clone()).run().code(0).stderr_is("");
    let asked = scene.s3().assumed();
    assert_eq!((asked.len(), &*asked[0]["RoleArn"], &*asked[0]["Caller"]), (1, ROLE, ACCESS_KEY));
    let before = metadata.log();
    push(scene, 2, source).run().code(0).stderr_is("");
    assert_eq!((scene.s3().assumed().len(), metadata.log()), (0, before));
}

#[test]
fn the_role_of_an_instance_is_asked_for_with_a_token_and_the_chain_comes_after_it() {
    let (scene, metadata) = (Scene::on_s3(), Metadata::start());
    leads_to_the_role(&scene, &metadata, metadata.instance());
    let log = metadata.log();
    assert_eq!(log[0], "PUT /latest/api/token 200");
    assert_eq!(log.last().unwrap(), "GET /latest/meta-data/iam/security-credentials/instance-role 200");
    assert!(!log.iter().any(|request| request.ends_with("401")), "{log:?}");
}

#[test]
fn the_identity_of_a_pod_is_asked_for_with_its_token_and_the_chain_comes_after_it() {
    let (scene, metadata) = (Scene::on_s3(), Metadata::start());
    leads_to_the_role(&scene, &metadata, metadata.pod(scene.data.path()));
    assert_eq!(metadata.log(), ["GET /pod 200"]);
}

#[test]
fn a_pod_whose_token_is_refused_is_told_so_and_nothing_is_assumed() {
    let (scene, metadata) = (Scene::on_s3(), Metadata::start());
    let source = metadata.pod(scene.data.path());
    std::fs::write(scene.data.path().join("pod-token"), "another").unwrap();
    push(&scene, 1, source).run().code(4).stderr_has("401").stderr_has("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    // Once each for the preparation, for the question whether the store honours conditions, and for the put.
    assert!(metadata.log().len() <= 3, "{:?}", metadata.log());
    assert_eq!(scene.s3().assumed(), []);
}
