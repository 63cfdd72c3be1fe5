//! Objects in an S3 bucket, through the AWS SDK.
//!
//! This room (with `s3/`) is the only one that names the SDK. Each put is one request with a plain Content-Length body:
//! no multipart uploads and no aws-chunked trailers, which stores other than AWS's often refuse. Retries are ours
//! (`storage::retry`), the SDK's are off.

mod connect;
mod failure;
mod signing;

use std::future::Future;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime, Length};
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use base64::Engine;
use bytes::Bytes;
use jiff::Timestamp;

pub use self::connect::{Options, endpoint};
use self::failure::Action;
use self::signing::PayloadSigning;
use super::retry::{Failure, Policy};
use super::{Body, Chunks, Cursor, Download, End, ListQuery, ObjectInfo, PAGE_SIZE, Page, PutMode, Store};
use crate::config::value::Checksum;
use crate::error::{Context, Error, Kind, Result};

/// How long one try may take beyond the transfer of its bytes, and how long a download may stand still.
const PATIENCE: Duration = Duration::from_secs(20);

/// The slowest transfer that is not given up, in bytes a second.
const SLOWEST: u64 = 128 << 10;

/// Pages of one listing that are asked for at the same time. S3 answers a page of a thousand keys in some 100 ms, and takes
/// 5500 reads a second for one prefix ("Best practices design patterns: optimizing Amazon S3 performance").
const PAGES_AT_ONCE: usize = 8;

/// A part of a bucket as a store.
#[derive(Clone, Debug)]
pub struct S3Store {
    client: Client,
    /// Whom the client talks to, for messages.
    endpoint: String,
    bucket: String,
    /// Empty, or ends in `/`.
    prefix: String,
    policy: Policy,
    checksum: Checksum,
}

impl S3Store {
    /// Reads the AWS configuration (environment, profile files, instance metadata) and prepares a client. Sends nothing
    /// to S3 yet.
    ///
    /// # Errors
    /// [`Kind::Config`] if the configuration is incomplete or a file that it names cannot be read.
    pub async fn open(options: Options) -> Result<S3Store> {
        let (client, endpoint) = connect::client(&options).await?;
        let prefix = if options.prefix.is_empty() { String::new() } else { format!("{}/", options.prefix) };
        let policy = Policy::within(options.retry_timeout);
        Ok(S3Store { client, endpoint, bucket: options.bucket, prefix, policy, checksum: options.checksum })
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
        mut request: impl FnMut() -> F + Send,
    ) -> Result<T>
    where
        F: Future<Output = Result<Result<T, SdkError<E>>>> + Send,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let url = self.url(key);
        let bound = PATIENCE + Duration::from_secs(bytes / SLOWEST);
        let mut tries = self.policy.begin();
        loop {
            let failure = match tokio::time::timeout(bound, request()).await {
                Ok(Ok(Ok(output))) => return Ok(output),
                Ok(Ok(Err(error))) => failure::classify(action, &url, error),
                Ok(Err(error)) => Failure::Final(error),
                Err(_) => Failure::Transient(failure::timed_out(action, &url, bound)),
            };
            tries.again(failure).await.map_err(|error| match error.kind() {
                Kind::Unreachable => error.detail(format!("the endpoint is {}", self.endpoint)),
                _ => error,
            })?;
        }
    }

    /// Opens an object at an offset; `version` is the ETag that a resumed download insists on.
    async fn open_at(&self, key: &str, range: Option<Range<u64>>, version: Option<&str>) -> Result<GetObjectOutput> {
        let range = range.map(|range| format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        self.send(Action::Get, key, 0, || async {
            Ok(self
                .client
                .get_object()
                .bucket(&self.bucket)
                .key(self.key(key))
                .set_range(range.clone())
                .set_if_match(version.map(str::to_owned))
                .send()
                .await)
        })
        .await
    }
}

#[async_trait]
impl Store for S3Store {
    fn url(&self, key: &str) -> String {
        format!("s3://{}/{}", self.bucket, self.key(key))
    }

    async fn put(&self, key: &str, body: Body, mode: PutMode) -> Result<()> {
        let checksum = match self.checksum {
            Checksum::Crc32c => Some(checksum(body.clone()).await?),
            Checksum::Off => None,
        };
        let signing = PayloadSigning::prepare(&body).await?;
        self.send(Action::Put, key, body.size(), || async {
            let request = self
                .client
                .put_object()
                .bucket(&self.bucket)
                .key(self.key(key))
                .content_length(body.size() as i64)
                .set_checksum_crc32_c(checksum.clone())
                .set_if_none_match((mode == PutMode::New).then(|| "*".to_owned()))
                .body(stream(&body).await?);
            Ok(request.customize().interceptor(signing.clone()).send().await)
        })
        .await
        .map(drop)
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
        let chunks =
            S3Chunks { store: self.clone(), key: key.to_owned(), version: output.e_tag, body: output.body, range };
        Ok(Download::new(size, Box::new(chunks)))
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        let request = || async { Ok(self.client.head_object().bucket(&self.bucket).key(self.key(key)).send().await) };
        let output = self.send(Action::Head, key, 0, request).await?;
        Ok(ObjectInfo {
            key: key.to_owned(),
            size: output.content_length.unwrap_or_default().max(0) as u64,
            modified: timestamp(output.last_modified),
        })
    }

    async fn list(&self, query: &ListQuery) -> Result<Page> {
        let request = || async {
            let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.key(&query.prefix));
            Ok(request
                .set_start_after(query.after.as_deref().map(|after| self.key(after)))
                .set_continuation_token(query.cursor.as_ref().and_then(token))
                .set_delimiter(query.fold.then(|| "/".to_owned()))
                .max_keys(PAGE_SIZE as i32)
                .send()
                .await)
        };
        let output = self.send(Action::List, &query.prefix, 0, request).await?;
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
            let request =
                || async { Ok(self.client.delete_objects().bucket(&self.bucket).delete(delete.clone()).send().await) };
            let output = self.send(Action::Delete, &batch[0], 0, request).await?;
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

/// The body of one try.
async fn stream(body: &Body) -> Result<ByteStream> {
    match body {
        Body::Memory(bytes) => Ok(ByteStream::from(bytes.clone())),
        Body::File(file, size) => {
            let what = || "could not read a spooled object";
            let mut file: std::fs::File = file.try_clone().during(what)?;
            file.seek(SeekFrom::Start(0)).during(what)?;
            ByteStream::read_from()
                .file(tokio::fs::File::from_std(file))
                .length(Length::Exact(*size))
                .buffer_size(1 << 18)
                .build()
                .await
                .map_err(|error| Error::new(Kind::Local, what()).detail(error.to_string()))
        }
    }
}

/// The body's CRC-32C as `x-amz-checksum-crc32c` has it: four bytes, big-endian, in Base64.
async fn checksum(body: Body) -> Result<String> {
    let crc = digest(body, 0, crc32c::crc32c_append).await?;
    Ok(base64::engine::general_purpose::STANDARD.encode(crc.to_be_bytes()))
}

/// Folds the body's bytes; a file is read on a thread where blocking is fine.
async fn digest<D: Send + 'static>(body: Body, start: D, update: impl Fn(D, &[u8]) -> D + Send + 'static) -> Result<D> {
    let file = match body {
        Body::Memory(bytes) => return Ok(update(start, &bytes)),
        Body::File(file, _) => file,
    };
    let read = move || {
        let mut reader: &std::fs::File = &file;
        reader.seek(SeekFrom::Start(0))?;
        let (mut digest, mut buffer) = (start, vec![0; 1 << 18]);
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok::<D, std::io::Error>(digest),
                size => digest = update(digest, &buffer[..size]),
            }
        }
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(result) => result.during(|| "could not read a spooled object"),
        Err(lost) => Err(Error::new(Kind::Bug, "a reading thread ended early").detail(lost.to_string())),
    }
}

/// A download that goes on where it was cut.
struct S3Chunks {
    store: S3Store,
    key: String,
    version: Option<String>,
    body: ByteStream,
    /// What is still to come.
    range: Range<u64>,
}

impl S3Chunks {
    async fn read(&mut self) -> Result<Option<Bytes>, Failure> {
        let url = self.store.url(&self.key);
        let chunk = match tokio::time::timeout(PATIENCE, self.body.next()).await {
            Ok(None) if self.range.is_empty() => return Ok(None),
            Ok(None) => return Err(Failure::Transient(failure::cut(&url, self.range.end - self.range.start))),
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(error))) => {
                let left = self.range.end - self.range.start;
                return Err(Failure::Transient(failure::cut(&url, left).detail(error.to_string())));
            }
            Err(_) => return Err(Failure::Transient(failure::timed_out(Action::Get, &url, PATIENCE))),
        };
        if chunk.len() as u64 > self.range.end - self.range.start {
            return Err(Failure::Final(Error::new(
                Kind::Corrupt,
                format!("{url} was sent with more bytes than announced"),
            )));
        }
        self.range.start += chunk.len() as u64;
        Ok(Some(chunk))
    }

    /// Asks for the rest, of the same version of the object.
    async fn resume(&mut self) -> Result<()> {
        let (range, version) = (self.range.clone(), self.version.clone());
        self.body = self.store.open_at(&self.key, Some(range), version.as_deref()).await?.body;
        Ok(())
    }
}

#[async_trait]
impl Chunks for S3Chunks {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let mut tries = self.store.policy.begin();
        loop {
            match self.read().await {
                Ok(chunk) => return Ok(chunk),
                Err(failure) => tries.again(failure).await?,
            }
            self.resume().await?;
        }
    }
}
