//! Objects in an S3 bucket, through the AWS SDK.
//!
//! This room (with `s3/`) is the only one that names the SDK. Each put is one request with a plain Content-Length body:
//! no multipart uploads and no aws-chunked trailers, which stores other than AWS's often refuse. Retries are ours
//! (`storage::retry`), the SDK's are off.

mod body;
mod causes;
mod checksum;
mod condition;
mod connect;
mod customer;
mod dial;
mod download;
mod environment;
mod examine;
mod failure;
mod http;
mod identity;
pub mod kms;
mod locked;
mod put;
mod refusal;
mod request;
mod send;
mod signing;
mod throttle;
mod watch;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::http::Uri;
use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::operation::list_objects_v2::builders::ListObjectsV2FluentBuilder;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ChecksumMode, Delete, ObjectIdentifier};
use jiff::Timestamp;

use self::body::Write;
use self::checksum::{Checksums, ContentMd5};
use self::condition::{Conditions, Verdict};
use self::connect::Connected;
pub use self::connect::Options;
use self::dial::Dialer;
use self::download::S3Chunks;
pub use self::environment::endpoint;
use self::examine::witness::{Watching, Witness};
use self::failure::Action;
use self::identity::Identity;
use self::request::Carried;
pub use self::request::Wanted;
use self::throttle::Throttle;
use super::examination::Finding;
use super::progress::Progress;
use super::retry::Policy;
use super::{Body, Cursor, Download, End, ListQuery, ObjectInfo, PAGE_SIZE, Page, PutMode, Removed, Signer, Store};
use crate::error::{Error, Kind, Result};

/// Pages of one listing that are asked for at the same time. S3 answers a page of a thousand keys in some 100 ms, and takes
/// 5500 reads a second for one prefix ("Best practices design patterns: optimizing Amazon S3 performance").
const PAGES_AT_ONCE: usize = 8;

/// A part of a bucket as a store.
#[derive(Clone, Debug)]
pub struct S3Store {
    client: Client,
    dialer: Dialer,
    identity: Identity,
    endpoint: Uri,
    bucket: String,
    /// Empty, or ends in `/`.
    prefix: String,
    policy: Policy,
    checksums: Arc<Checksums>,
    carried: Arc<Carried>,
    conditions: Arc<Conditions>,
    throttle: Throttle,
    progress: Progress,
    /// Has it been said that deleting frees no room?
    told_of_versions: Arc<AtomicBool>,
}

impl S3Store {
    /// Reads the AWS configuration (environment, profile files, instance metadata) and prepares a client. Sends nothing
    /// to S3 yet. All keys will begin with `prefix`, which has no slashes at its ends and may be empty.
    ///
    /// # Errors
    /// [`Kind::Config`] if the configuration is incomplete or contradicts itself.
    pub async fn open(bucket: String, prefix: &str, options: Options) -> Result<S3Store> {
        let Connected { client, dialer, identity, endpoint } = connect::connect(&bucket, &options).await?;
        let Options { checksum, wanted, retry_timeout, strict, memory, .. } = options;
        let carried = Carried::plan(wanted, checksum, &endpoint)?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let url = format!("s3://{bucket}/{prefix}");
        let (server, amazon) = (endpoint.to_string(), connect::is_amazon(&endpoint));
        let checksums = Checksums::of(checksum, &server, &url, amazon, memory.clone());
        let conditions = Conditions::of(&server, &url, amazon, memory);
        Ok(S3Store {
            client,
            dialer,
            identity,
            endpoint,
            bucket,
            prefix,
            policy: Policy { strict, ..Policy::within(retry_timeout) },
            checksums: Arc::new(checksums),
            carried: Arc::new(carried),
            conditions: Arc::new(conditions),
            throttle: Throttle::default(),
            progress: Progress::default(),
            told_of_versions: Arc::default(),
        })
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The key without the store's prefix.
    fn relative<'a>(&self, key: &'a str) -> &'a str {
        key.strip_prefix(&self.prefix).unwrap_or(key)
    }

    /// The request for a listing.
    fn listing(&self, prefix: &str) -> ListObjectsV2FluentBuilder {
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.key(prefix));
        request.set_request_payer(self.carried.payer())
    }

    /// What the store tells of an object without sending it. To be told its checksum takes a right more where KMS encrypts
    /// (`kms:Decrypt`), and other stores may not know the header that asks for it.
    async fn look(&self, key: &str, checksum: Option<ChecksumMode>) -> Result<HeadObjectOutput> {
        let request = |tracked| async {
            let request = self.client.head_object().bucket(&self.bucket).key(self.key(key));
            let request = self.carried.head(request).set_checksum_mode(checksum.clone());
            Ok(request.customize().interceptor(tracked).send().await)
        };
        self.send(Action::Head, key, 0, self.policy, request).await
    }

    /// Opens an object at an offset; `version` is the ETag that a resumed download insists on.
    async fn open_at(&self, key: &str, range: Option<Range<u64>>, version: Option<&str>) -> Result<GetObjectOutput> {
        let range = range.map(|range| format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        self.send(Action::Get, key, 0, self.policy, |tracked| async {
            let request = self.client.get_object().bucket(&self.bucket).key(self.key(key));
            let request = request.set_range(range.clone()).set_if_match(version.map(str::to_owned));
            let request = self.carried.get(request);
            Ok(request.customize().interceptor(tracked).send().await)
        })
        .await
    }
}

#[async_trait]
impl Store for S3Store {
    fn url(&self, key: &str) -> String {
        format!("s3://{}/{}", self.bucket, self.key(key))
    }

    fn prepare(&self) {
        self.dialer.dial_early(&self.endpoint);
        let identity = self.identity.clone();
        // Whoever needs them finds them, or the error: it is asked for again.
        tokio::spawn(async move { identity.credentials().await.map(drop) });
    }

    fn progress(&self) -> Option<String> {
        Some(format!("{}; the endpoint is {}", self.progress.describe()?, self.endpoint))
    }

    fn signer(&self) -> Option<Signer> {
        self.identity.signer()
    }

    async fn examine(&self, findings: &mut Vec<Finding>) {
        examine::examine(self, findings).await
    }

    async fn put(&self, key: &str, body: Body, mode: PutMode) -> Result<()> {
        // First of all: what it finds out of the store, the put can use.
        let verdict = match mode {
            PutMode::Replace => None,
            PutMode::New => Some(self.conditions.verdict(self).await),
        };
        let write = Write::prepare(self, &body).await?;
        match verdict {
            None => self.write(key, &write, false, self.policy).await.outcome.map(drop),
            Some(Verdict::Honoured | Verdict::Undecided) => self.create(key, &write).await,
            Some(Verdict::Ignored) => self.write_guarded(key, &write).await,
        }
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Download> {
        let output = self.open_at(key, range.clone(), None).await?;
        let size = object_size(&output)
            .ok_or_else(|| Error::new(Kind::Corrupt, format!("{} was sent without its size", self.url(key))))?;
        let range = range.unwrap_or(0..size);
        if output.content_length() != Some((range.end - range.start) as i64) {
            return Err(Error::new(Kind::Corrupt, format!("{} has only {size} bytes", self.url(key)))
                .detail(format!("the bytes {}..{} were asked for", range.start, range.end)));
        }
        let chunks = S3Chunks::new(self.clone(), key, range, output);
        Ok(Download::new(size, Box::new(chunks)))
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        let output = self.look(key, None).await?;
        Ok(ObjectInfo {
            key: key.to_owned(),
            size: output.content_length.unwrap_or_default().max(0) as u64,
            modified: timestamp(output.last_modified),
        })
    }

    async fn list(&self, query: &ListQuery) -> Result<Page> {
        let request = |tracked| async {
            Ok(self
                .listing(&query.prefix)
                .set_start_after(query.after.as_deref().map(|after| self.key(after)))
                .set_continuation_token(query.cursor.as_ref().and_then(token))
                .set_delimiter(query.fold.then(|| "/".to_owned()))
                .max_keys(PAGE_SIZE as i32)
                .customize()
                .interceptor(tracked)
                .send()
                .await)
        };
        let output = self.send(Action::List, &query.prefix, 0, self.policy, request).await?;
        let relative = |key: &str| key.strip_prefix(&self.prefix).map(str::to_owned);
        let objects = output.contents().iter().filter_map(|object| {
            Some(ObjectInfo {
                key: relative(object.key()?)?,
                size: object.size().unwrap_or_default().max(0) as u64,
                modified: timestamp(object.last_modified().copied()),
            })
        });
        let prefixes = output.common_prefixes().iter().filter_map(|folded| relative(folded.prefix()?));
        Ok(Page {
            objects: objects.collect(),
            prefixes: prefixes.collect(),
            next: output
                .next_continuation_token()
                .filter(|_| output.is_truncated() == Some(true))
                .map(|token| Cursor(End::S3(token.to_owned()))),
        })
    }

    fn pages_at_once(&self) -> usize {
        PAGES_AT_ONCE
    }

    async fn remove(&self, keys: &[String]) -> Result<Removed> {
        let (mut refused, mut marked) = (Vec::new(), 0);
        for batch in keys.chunks(PAGE_SIZE) {
            let identifiers = batch.iter().map(|key| ObjectIdentifier::builder().key(self.key(key)).build());
            let identifiers = identifiers.collect::<Result<Vec<_>, _>>().map_err(unbuildable)?;
            let delete = Delete::builder().set_objects(Some(identifiers)).build().map_err(unbuildable)?;
            let request = |tracked| async {
                let request = self.client.delete_objects().bucket(&self.bucket).delete(delete.clone());
                let request = request.set_request_payer(self.carried.payer());
                Ok(request.customize().interceptor(ContentMd5).interceptor(tracked).send().await)
            };
            let output = self.send(Action::Delete, &batch[0], 0, self.policy, request).await?;
            marked += output.deleted().iter().filter(|deleted| deleted.delete_marker() == Some(true)).count();
            refused.extend(output.errors.unwrap_or_default());
        }
        if marked > 0 && !self.told_of_versions.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "what is deleted of {} is only marked, and still takes room: the bucket keeps versions, until a lifecycle \
                 rule (NoncurrentVersionExpiration) removes those that are not current",
                self.url("")
            );
        }
        // A reply of 200 can hold a refusal for each key.
        let keys = refused.iter().map(|one| self.relative(one.key().unwrap_or_default()).to_owned()).collect();
        Ok(Removed { refused: keys, refusal: locked::judge(self, &refused).await.err(), marked: marked as u64 })
    }

    async fn lock(&self, key: &str) -> Option<String> {
        locked::lock(self, key).await
    }

    async fn now(&self) -> Result<Timestamp> {
        let witness = Arc::new(Witness::default());
        let request = |tracked| async {
            let request = self.listing("").max_keys(1).customize();
            Ok(request.interceptor(Watching(witness.clone())).interceptor(tracked).send().await)
        };
        self.send(Action::List, "", 0, self.policy, request).await?;
        // RFC 9110, 6.6.1: an answer has a Date, of a server that has a clock.
        Ok(witness.seen().and_then(|seen| seen.date).unwrap_or_else(Timestamp::now))
    }
}

fn unbuildable(error: impl std::fmt::Display) -> Error {
    Error::new(Kind::Bug, "could not build a request").detail(error.to_string())
}

/// The whole object's size: for a ranged reply from Content-Range (RFC 9110, 14.4), else the Content-Length.
fn object_size(output: &GetObjectOutput) -> Option<u64> {
    match output.content_range() {
        Some(range) => range.rsplit_once('/')?.1.parse().ok(),
        None => output.content_length()?.try_into().ok(),
    }
}

fn token(cursor: &Cursor) -> Option<String> {
    match &cursor.0 {
        End::S3(token) => Some(token.clone()),
        End::Local(_) => None,
    }
}

fn timestamp(time: Option<DateTime>) -> Timestamp {
    // Every store sends it; one that does not merely shows objects as very old.
    time.and_then(|time| Timestamp::from_second(time.secs()).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}
