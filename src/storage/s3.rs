//! Objects in an S3 bucket, through the AWS SDK.
//!
//! This room (with `s3/`) is the only one that names the SDK. Each put is one request with a plain Content-Length body:
//! no multipart uploads and no aws-chunked trailers, which stores other than AWS's often refuse. Retries are ours
//! (`storage::retry`), the SDK's are off.

mod body;
mod condition;
mod connect;
mod dial;
mod download;
mod examine;
mod failure;
mod http;
mod identity;
mod signing;
mod watch;

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ::http::Uri;
use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use jiff::Timestamp;

use self::body::{Write, digest, hashed, stream};
use self::condition::{Conditions, Verdict};
use self::connect::Connected;
pub use self::connect::{Options, endpoint};
use self::dial::Dialer;
use self::download::S3Chunks;
use self::failure::Action;
use self::identity::Identity;
use self::watch::Tracked;
use super::examination::Finding;
use super::progress::{Phase, Progress};
use super::retry::{Failure, Policy};
use super::{Body, Cursor, Download, End, ListQuery, ObjectInfo, PAGE_SIZE, Page, PutMode, Store};
use crate::config::value::Checksum;
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
    checksum: Checksum,
    conditions: Arc<Conditions>,
    progress: Progress,
}

impl S3Store {
    /// Reads the AWS configuration (environment, profile files, instance metadata) and prepares a client. Sends nothing
    /// to S3 yet.
    ///
    /// # Errors
    /// [`Kind::Config`] if the configuration is incomplete.
    pub async fn open(options: Options) -> Result<S3Store> {
        let Connected { client, dialer, identity, endpoint } = connect::connect(&options).await?;
        let Options { bucket, prefix, checksum, retry_timeout, strict, memory, .. } = options;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let url = format!("s3://{bucket}/{prefix}");
        let conditions = Conditions::of(&endpoint.to_string(), &url, connect::is_amazon(&endpoint), memory);
        Ok(S3Store {
            client,
            dialer,
            identity,
            endpoint,
            bucket,
            prefix,
            policy: Policy { strict, ..Policy::within(retry_timeout) },
            checksum,
            conditions: Arc::new(conditions),
            progress: Progress::default(),
        })
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Sends a request, each try bounded by the time that `bytes` may take, until the policy gives up.
    async fn send<T, E, F>(
        &self,
        action: Action,
        key: &str,
        bytes: u64,
        policy: Policy,
        mut request: impl FnMut(Tracked) -> F + Send,
    ) -> Result<T>
    where
        F: Future<Output = Result<Result<T, SdkError<E>>, Failure>> + Send,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let url = self.url(key);
        let running = self.progress.begin(action.doing(&url));
        let (mut tries, mut renewed) = (policy.carrying(bytes).begin(), false);
        loop {
            let began = Instant::now();
            running.enter(Phase::Credentials);
            let failure = tokio::select! {
                outcome = request(Tracked(running.clone())) => match outcome {
                    Ok(Ok(output)) => return Ok(output),
                    Ok(Err(error)) => {
                        let renew = !renewed && failure::is_stale_session(&error) && self.identity.discard(began).await;
                        match failure::classify(action, &url, error) {
                            Failure::Final(error) if renew => {
                                renewed = true;
                                Failure::Transient(error)
                            }
                            failure => failure,
                        }
                    }
                    Err(failure) => failure,
                },
                why = watch::too_long(&running, bytes, tries.left()) => {
                    Failure::Transient(failure::given_up(action, &url, why))
                }
            };
            let failure = self.as_whom(failure);
            let phase = running.phase();
            running.enter(Phase::Pausing);
            tries.again(failure).await.map_err(|error| match error.kind() {
                Kind::Unreachable => error.detail(format!("the endpoint is {}, the phase: {phase}", self.endpoint)),
                _ => error,
            })?;
        }
    }

    /// A refusal says who was refused.
    fn as_whom(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Final(error) if error.kind() == Kind::Denied => Failure::Final(match self.identity.describe() {
                Some(who) => error.detail(format!("asked as {who}")),
                None => error,
            }),
            failure => failure,
        }
    }

    /// A create-only put to a store that honours the condition. That the name is taken can be our own doing, in a try
    /// whose answer was lost. Whoever may read finds out; for whoever may not, it counts as that.
    async fn create(&self, key: &str, write: &Write) -> Result<()> {
        let lost = AtomicBool::new(false);
        match self.write(key, write, Some(&lost), self.policy).await {
            Err(taken) if taken.kind() == Kind::AlreadyExists && lost.into_inner() => match self.head(key).await {
                Err(error) if error.kind() == Kind::Denied => {
                    tracing::warn!(
                        "{} is there, from an earlier try as it seems, whose answer was lost: that is not checked, for it \
                         may not be read",
                        self.url(key)
                    );
                    Ok(())
                }
                _ => Err(taken),
            },
            result => result,
        }
    }

    /// One put. With `new` it is create-only, and that says in the end whether the answer to a try was lost.
    async fn write(&self, key: &str, write: &Write, new: Option<&AtomicBool>, policy: Policy) -> Result<()> {
        let body = &write.body;
        self.send(Action::Put, key, body.size(), policy, |tracked| async {
            let request = self
                .client
                .put_object()
                .bucket(&self.bucket)
                .key(self.key(key))
                .content_length(body.size() as i64)
                .set_checksum_crc32_c(write.checksum.clone())
                .set_if_none_match(new.map(|_| "*".to_owned()))
                .body(stream(body).await.map_err(Failure::Final)?);
            let request = request.customize().interceptor(write.signing.clone()).interceptor(tracked);
            // A try that is given up is dropped here.
            let earlier = new.map(|lost| lost.swap(true, Ordering::Relaxed));
            let answer = request.send().await;
            if let (Some(lost), Some(earlier)) = (new, earlier) {
                lost.store(earlier || answer.as_ref().is_err_and(failure::may_have_arrived), Ordering::Relaxed);
            }
            match answer {
                Ok(output) => self.believe(key, write, &output).map(Ok),
                Err(error) => Ok(Err(error)),
            }
        })
        .await
    }

    /// Is what says that it stored the object a store? Something between here and there may answer 200 to anything.
    fn believe(&self, key: &str, write: &Write, output: &PutObjectOutput) -> Result<(), Failure> {
        let doubt = |why: &str| Err(Failure::Transient(failure::given_up(Action::Put, &self.url(key), why)));
        if output.e_tag().is_none_or(str::is_empty) {
            return doubt("the answer has no ETag, as that of a store has");
        }
        match (output.checksum_crc32_c(), &write.checksum) {
            (Some(theirs), Some(ours)) if theirs != ours => doubt("the store has other bytes than were sent"),
            _ => Ok(()),
        }
    }

    /// A create-only put to a store that ignores the condition: looks before, and reads back after. Of two writers at the
    /// same moment the later one may win, and the earlier one may not see it any more.
    async fn write_guarded(&self, key: &str, write: &Write) -> Result<()> {
        match self.head(key).await {
            Ok(_) => {
                return Err(Error::new(Kind::AlreadyExists, format!("{} exists already", self.url(key))));
            }
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.write(key, write, None, self.policy).await?;
        let ours = digest(write.body.clone(), blake3::Hasher::new(), hashed).await?.finalize();
        let mut there = blake3::Hasher::new();
        let mut download = self.get(key, None).await?;
        while let Some(chunk) = download.next().await? {
            there.update(&chunk);
        }
        match there.finalize() == ours {
            true => Ok(()),
            false => Err(Error::new(Kind::Conflict, format!("{} was overwritten while it was stored", self.url(key)))
                .detail("the store ignores If-None-Match, and another content is there now")
                .hint("Two servers may be archiving the same timeline: check which of them is the primary.")),
        }
    }

    /// Opens an object at an offset; `version` is the ETag that a resumed download insists on.
    async fn open_at(&self, key: &str, range: Option<Range<u64>>, version: Option<&str>) -> Result<GetObjectOutput> {
        let range = range.map(|range| format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        self.send(Action::Get, key, 0, self.policy, |tracked| async {
            let request = self.client.get_object().bucket(&self.bucket).key(self.key(key));
            let request = request.set_range(range.clone()).set_if_match(version.map(str::to_owned));
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

    async fn examine(&self) -> Vec<Finding> {
        examine::examine(self).await
    }

    async fn put(&self, key: &str, body: Body, mode: PutMode) -> Result<()> {
        let write = Write::prepare(self, &body).await?;
        match mode {
            PutMode::Replace => self.write(key, &write, None, self.policy).await,
            PutMode::New => match self.conditions.verdict(self).await {
                Verdict::Honoured | Verdict::Undecided => self.create(key, &write).await,
                Verdict::Ignored => self.write_guarded(key, &write).await,
            },
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
        let request = |tracked| async {
            let request = self.client.head_object().bucket(&self.bucket).key(self.key(key));
            Ok(request.customize().interceptor(tracked).send().await)
        };
        let output = self.send(Action::Head, key, 0, self.policy, request).await?;
        Ok(ObjectInfo {
            key: key.to_owned(),
            size: output.content_length.unwrap_or_default().max(0) as u64,
            modified: timestamp(output.last_modified),
        })
    }

    async fn list(&self, query: &ListQuery) -> Result<Page> {
        let request = |tracked| async {
            let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.key(&query.prefix));
            Ok(request
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

    async fn delete(&self, keys: &[String]) -> Result<()> {
        let mut refused = Vec::new();
        for batch in keys.chunks(PAGE_SIZE) {
            let identifiers = batch.iter().map(|key| ObjectIdentifier::builder().key(self.key(key)).build());
            let identifiers = identifiers.collect::<Result<Vec<_>, _>>().map_err(unbuildable)?;
            let delete = Delete::builder().set_objects(Some(identifiers)).quiet(true).build().map_err(unbuildable)?;
            let request = |tracked| async {
                let request = self.client.delete_objects().bucket(&self.bucket).delete(delete.clone());
                Ok(request.customize().interceptor(tracked).send().await)
            };
            let output = self.send(Action::Delete, &batch[0], 0, self.policy, request).await?;
            refused.extend(output.errors.unwrap_or_default());
        }
        // A reply of 200 can hold a refusal for each key.
        match refused.first() {
            None => Ok(()),
            Some(first) => {
                let key = first.key().unwrap_or_default();
                let url = self.url(key.strip_prefix(&self.prefix).unwrap_or(key));
                let error = failure::refused(Action::Delete, &url, first.code(), first.message());
                Err(error.detail(format!("{} objects could not be deleted", refused.len())))
            }
        }
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
