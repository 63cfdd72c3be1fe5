//! The SeaweedFS that scripts/seaweedfs starts, with the AWS SDK as a witness of what lies there.

use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use jiff::Timestamp;

use super::sdk::PlainHttp;

const REGION: &str = "us-east-1";

/// What `scripts/seaweedfs start` prints.
pub struct SeaweedFs {
    prefix: String,
    endpoint: String,
    access_key: String,
    secret_key: String,
}

impl SeaweedFs {
    /// `None`, with a word about it, where none runs; CI must not do without.
    pub fn running() -> Option<SeaweedFs> {
        let variable = |name: &str| std::env::var(format!("SEAWEEDFS_{name}")).ok();
        let Some(prefix) = variable("PREFIX") else {
            assert!(std::env::var_os("CI").is_none(), "CI must not skip SeaweedFS");
            eprintln!(
                "SKIPPED: no SeaweedFS; run scripts/test, or set SEAWEEDFS_PREFIX as scripts/seaweedfs prints it"
            );
            return None;
        };
        let [endpoint, access_key, secret_key] =
            ["ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY"].map(|name| variable(name).unwrap());
        Some(SeaweedFs { prefix, endpoint, access_key, secret_key })
    }

    /// A place in the bucket that is always there which nobody has used.
    pub fn fresh_prefix(&self) -> String {
        format!("{}/{}", self.prefix, Timestamp::now().as_nanosecond())
    }

    /// Where it listens.
    pub fn address(&self) -> std::net::SocketAddr {
        self.endpoint.trim_start_matches("http://").parse().unwrap()
    }

    /// What a client needs in its environment.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint.clone()),
            ("AWS_ACCESS_KEY_ID", self.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_key.clone()),
            ("AWS_REGION", REGION.into()),
        ]
    }

    /// The witness.
    pub fn client(&self) -> Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&self.endpoint)
            .force_path_style(true)
            .region(Region::new(REGION))
            .credentials_provider(Credentials::new(&self.access_key, &self.secret_key, None, None, "the test"))
            .http_client(PlainHttp::default());
        Client::from_conf(config.build())
    }

    /// A new bucket that keeps versions, with Object Lock or without.
    pub async fn versioned_bucket(&self, lock: bool) -> String {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let bucket = format!("versions-{}-{number}", Timestamp::now().as_nanosecond());
        let create = self.client().create_bucket().bucket(&bucket);
        create.set_object_lock_enabled_for_bucket(lock.then_some(true)).send().await.unwrap();
        if !lock {
            let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
            let enable = self.client().put_bucket_versioning().bucket(&bucket);
            enable.versioning_configuration(enabled).send().await.unwrap();
        }
        bucket
    }
}
