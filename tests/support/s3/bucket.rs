//! One bucket in memory, by the rules of Amazon S3 as far as Walden leans on them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use base64::Engine;
use hyper::HeaderMap;
use hyper::body::Bytes;
use md5::{Digest, Md5};
use s3s::checksum::ChecksumHasher;
use s3s::dto::*;
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, s3_error};

use super::BUCKET;

/// S3's own limit on the entries of a listing and on the keys of one DeleteObjects.
const PAGE: usize = 1000;

#[derive(Default)]
pub(super) struct Objects {
    objects: BTreeMap<String, Object>,
    /// Keys that may not be deleted.
    pub locked: BTreeSet<String>,
    /// A delete only marks: the answers say so.
    pub keeps_versions: bool,
    /// Puts are not asked for their conditions.
    pub ignores_conditions: bool,
    /// Headers of checksums are passed over.
    pub ignores_checksums: bool,
    /// Objects that can be listed and not be read: a million of them take no room.
    pub generated: Vec<Generated>,
}

/// Keys that are made when they are asked for.
pub(super) struct Generated {
    pub numbers: Range<u64>,
    /// Greater numbers have greater keys.
    pub key: Box<dyn Fn(u64) -> String + Send>,
}

impl Generated {
    /// The keys after this one.
    fn after(&self, after: &str) -> impl Iterator<Item = String> {
        let (mut low, mut high) = (self.numbers.start, self.numbers.end);
        while low < high {
            let middle = low + (high - low) / 2;
            if *(self.key)(middle) <= *after { low = middle + 1 } else { high = middle }
        }
        (low..self.numbers.end).map(&self.key)
    }
}

/// What a listing tells of an object.
struct Listed<'a> {
    key: Cow<'a, str>,
    size: usize,
    etag: &'a str,
    modified: SystemTime,
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    etag: String,
    modified: SystemTime,
    wishes: Wishes,
}

/// What the put of an object asked for beside its bytes.
#[derive(Clone, Default)]
pub(super) struct Wishes {
    class: Option<StorageClass>,
    /// The digest of a key that the service does not keep.
    customer_key: Option<String>,
    lock: Option<(ObjectLockMode, Timestamp)>,
    checksum: Option<String>,
}

impl Wishes {
    fn of(input: &PutObjectInput) -> S3Result<Wishes> {
        let lock = input.object_lock_mode.clone().zip(input.object_lock_retain_until_date.clone());
        if lock.is_some() && input.checksum_crc32c.is_none() && input.content_md5.is_none() {
            return Err(s3_error!(InvalidRequest, "a lock needs Content-MD5 or a checksum"));
        }
        Ok(Wishes {
            class: input.storage_class.clone(),
            customer_key: input.sse_customer_key_md5.clone(),
            lock,
            checksum: input.checksum_crc32c.clone(),
        })
    }

    /// Whoever reads has to bring the key that whoever wrote had.
    fn check_key(&self, theirs: Option<&String>) -> S3Result<()> {
        match (self.customer_key.as_ref(), theirs) {
            (None, None) => Ok(()),
            (Some(ours), Some(theirs)) if ours == theirs => Ok(()),
            (Some(_), Some(_)) => Err(s3_error!(AccessDenied, "it was encrypted with another key")),
            _ => Err(s3_error!(InvalidRequest, "the parameters of its encryption must be provided, and no others")),
        }
    }

    fn is_frozen(&self) -> bool {
        self.class.as_ref().is_some_and(|class| ["GLACIER", "DEEP_ARCHIVE"].contains(&class.as_str()))
    }

    fn is_locked(&self) -> bool {
        self.lock.as_ref().is_some_and(|(_, until)| *until > Timestamp::from(SystemTime::now()))
    }
}

impl Objects {
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        self.objects.keys().filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.objects.get(key).map(|object| object.bytes.clone())
    }

    /// Stores the object and returns its ETag: S3 promises only that other bytes have another one.
    pub fn put(&mut self, key: &str, bytes: Bytes, wishes: Wishes) -> String {
        let etag = blake3::hash(&bytes).to_hex()[..32].to_owned();
        self.objects.insert(key.into(), Object { bytes, etag: etag.clone(), modified: SystemTime::now(), wishes });
        etag
    }

    /// Locks what is there, as a put with a lock does.
    pub fn lock_until(&mut self, key: &str, until: SystemTime) {
        let mode = ObjectLockMode::from_static(ObjectLockMode::COMPLIANCE);
        self.objects.get_mut(key).unwrap().wishes.lock = Some((mode, until.into()));
    }

    /// The object was stored so much earlier than it was.
    pub fn age(&mut self, key: &str, by: std::time::Duration) {
        let object = self.objects.get_mut(key).unwrap();
        object.modified -= by;
    }

    pub fn remove(&mut self, key: &str) -> bool {
        self.objects.remove(key).is_some()
    }

    fn find(&self, key: &str) -> S3Result<Object> {
        self.objects.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }

    /// All objects after this key, in order.
    fn after<'a>(&'a self, after: &'a str) -> impl Iterator<Item = Listed<'a>> {
        let real = self.objects.range::<str, _>((Bound::Excluded(after), Bound::Unbounded)).map(|(key, object)| {
            Listed { key: key.into(), size: object.bytes.len(), etag: &object.etag, modified: object.modified }
        });
        let generated = self.generated.iter().map(|generated| {
            let listed = |key: String| Listed { key: key.into(), size: 1, etag: "e", modified: SystemTime::UNIX_EPOCH };
            Box::new(generated.after(after).map(listed)) as Box<dyn Iterator<Item = Listed<'a>>>
        });
        let mut sources: Vec<_> =
            generated.chain([Box::new(real) as Box<dyn Iterator<Item = _>>]).map(Iterator::peekable).collect();
        std::iter::from_fn(move || {
            let keys = sources.iter_mut().map(|source| source.peek().map(|listed| listed.key.to_string()));
            let first = keys.enumerate().filter_map(|(index, key)| Some((key?, index))).min()?;
            sources[first.1].next()
        })
    }

    fn delete(&mut self, key: &str) -> S3Result<()> {
        if self.locked.contains(key) {
            return Err(s3_error!(AccessDenied, "the test has locked it"));
        }
        if self.objects.get(key).is_some_and(|object| object.wishes.is_locked()) {
            return Err(s3_error!(AccessDenied, "Access Denied because object protected by object lock."));
        }
        self.objects.remove(key);
        Ok(())
    }
}

pub(super) struct Bucket(pub Arc<Mutex<Objects>>);

impl Bucket {
    fn objects(&self, bucket: &str) -> S3Result<std::sync::MutexGuard<'_, Objects>> {
        if bucket != BUCKET {
            return Err(s3_error!(NoSuchBucket));
        }
        Ok(self.0.lock().unwrap())
    }
}

#[async_trait::async_trait]
impl S3 for Bucket {
    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let mut input = request.input;
        drop(self.objects(&input.bucket)?);
        let body = input.body.take().map(s3s::Body::from).unwrap_or_default();
        let bytes = collect(body, input.content_length).await?;
        check_md5(&input, &bytes)?;
        let wishes = Wishes::of(&input)?;
        // One lock over the question and the answer: of racing creators one wins.
        let mut objects = self.objects(&input.bucket)?;
        let verified = !objects.ignores_checksums;
        if verified {
            check_sums(&input, &bytes)?;
        }
        let there = objects.objects.get(&input.key).map(|object| object.etag.clone());
        if !objects.ignores_conditions {
            check_preconditions(there.as_deref(), input.if_match.as_ref(), input.if_none_match.as_ref())?;
        }
        let etag = objects.put(&input.key, bytes, wishes);
        // What was verified is told (Amazon S3 API Reference, "PutObject").
        let checksum_crc32c = input.checksum_crc32c.filter(|_| verified);
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(ETag::Strong(etag)), checksum_crc32c, ..Default::default() }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let object = self.objects(&input.bucket)?.find(&input.key)?;
        object.wishes.check_key(input.sse_customer_key_md5.as_ref())?;
        if object.wishes.is_frozen() {
            return Err(s3_error!(InvalidObjectState, "The operation is not valid for the object's storage class"));
        }
        check_preconditions(Some(&object.etag), input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let size = object.bytes.len();
        let (bytes, content_range) = match input.range {
            None => (object.bytes, None),
            Some(range) => {
                let range = range.check(size as u64).map_err(|_| s3_error!(InvalidRange))?;
                let content_range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                (object.bytes.slice(range.start as usize..range.end as usize), Some(content_range))
            }
        };
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".into()),
            content_length: Some(bytes.len() as i64),
            content_range,
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified.into()),
            body: Some(StreamingBlob::from(s3s::Body::from(bytes))),
            ..Default::default()
        }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        let object = self.objects(&input.bucket)?.find(&input.key)?;
        object.wishes.check_key(input.sse_customer_key_md5.as_ref())?;
        let (mode, until) = object.wishes.lock.unzip();
        Ok(S3Response::new(HeadObjectOutput {
            checksum_crc32c: object.wishes.checksum.filter(|_| input.checksum_mode.is_some()),
            object_lock_mode: mode,
            object_lock_retain_until_date: until,
            storage_class: object.wishes.class,
            accept_ranges: Some("bytes".into()),
            content_length: Some(object.bytes.len() as i64),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified.into()),
            ..Default::default()
        }))
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        drop(self.objects(&request.input.bucket)?);
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        if input.encoding_type.is_some() {
            return Err(s3_error!(NotImplemented, "encoding-type"));
        }
        list(&*self.objects(&input.bucket)?, input).map(S3Response::new)
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.objects(&request.input.bucket)?.delete(&request.input.key)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        require_checksum(&request.headers)?;
        let DeleteObjectsInput { bucket, delete, .. } = request.input;
        if delete.objects.len() > PAGE {
            return Err(s3_error!(MalformedXML));
        }
        let mut objects = self.objects(&bucket)?;
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for ObjectIdentifier { key, .. } in delete.objects {
            match objects.delete(&key) {
                Ok(()) if delete.quiet == Some(true) => {}
                Ok(()) => {
                    let delete_marker = objects.keeps_versions.then_some(true);
                    deleted.push(DeletedObject { key: Some(key), delete_marker, ..Default::default() });
                }
                Err(error) => errors.push(refusal(key, &error)),
            }
        }
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), ..Default::default() }))
    }
}

async fn collect(mut body: s3s::Body, promised: Option<i64>) -> S3Result<Bytes> {
    let bytes = body.store_all_limited(usize::MAX).await.map_err(|_| s3_error!(RequestTimeout))?;
    match promised {
        None => Err(s3_error!(MissingContentLength)),
        Some(size) if size != bytes.len() as i64 => Err(s3_error!(IncompleteBody)),
        Some(_) => Ok(bytes),
    }
}

/// s3s hands these headers through unread.
fn check_sums(input: &PutObjectInput, bytes: &[u8]) -> S3Result<()> {
    let promised = [&input.checksum_crc32, &input.checksum_crc32c, &input.checksum_crc64nvme, &input.checksum_sha256];
    let mut hasher = ChecksumHasher {
        crc32: promised[0].as_ref().map(|_| Default::default()),
        crc32c: promised[1].as_ref().map(|_| Default::default()),
        crc64nvme: promised[2].as_ref().map(|_| Default::default()),
        sha256: promised[3].as_ref().map(|_| Default::default()),
        ..Default::default()
    };
    hasher.update(bytes);
    let found = hasher.finalize();
    let found = [&found.checksum_crc32, &found.checksum_crc32c, &found.checksum_crc64nvme, &found.checksum_sha256];
    if promised == found { Ok(()) } else { Err(s3_error!(BadDigest)) }
}

fn check_md5(input: &PutObjectInput, bytes: &[u8]) -> S3Result<()> {
    let Some(promised) = &input.content_md5 else { return Ok(()) };
    let found = base64::engine::general_purpose::STANDARD.encode(Md5::digest(bytes));
    if *promised == found { Ok(()) } else { Err(s3_error!(BadDigest)) }
}

fn check_preconditions(
    there: Option<&str>,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<()> {
    let is = |condition: &ETagCondition| match condition {
        ETagCondition::Any => there.is_some(),
        ETagCondition::ETag(etag) => there == Some(etag.value()),
    };
    if if_match.is_some_and(|condition| !is(condition)) || if_none_match.is_some_and(is) {
        return Err(s3_error!(PreconditionFailed));
    }
    Ok(())
}

/// S3 refuses a DeleteObjects whose body is not covered by a checksum.
fn require_checksum(headers: &HeaderMap) -> S3Result<()> {
    let covered = headers.keys().any(|name| name == "content-md5" || name.as_str().starts_with("x-amz-checksum-"));
    if covered { Ok(()) } else { Err(s3_error!(InvalidRequest, "Missing required header: Content-MD5")) }
}

fn refusal(key: String, error: &S3Error) -> Error {
    Error {
        key: Some(key),
        code: Some(error.code().as_str().into()),
        message: error.message().map(str::to_owned),
        ..Default::default()
    }
}

/// ListObjectsV2. A continuation token is the last entry of the page before, which skips everything below it if it is
/// a common prefix; start-after is compared with keys alone, so that keys after it are folded even if their common
/// prefix lies before it.
fn list(objects: &Objects, input: ListObjectsV2Input) -> S3Result<ListObjectsV2Output> {
    let prefix = input.prefix.clone().unwrap_or_default();
    let delimiter = input.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
    let limit = usize::try_from(input.max_keys.unwrap_or(PAGE as i32)).map_err(|_| s3_error!(InvalidArgument))?;
    let limit = limit.min(PAGE);
    let token = input.continuation_token.as_deref().map(read_token).transpose()?;
    let after = token.clone().or_else(|| input.start_after.clone()).unwrap_or_default();
    let skipped = token.filter(|token| delimiter.is_some_and(|delimiter| token.ends_with(delimiter)));

    let (mut contents, mut folded): (Vec<s3s::dto::Object>, Vec<String>) = (Vec::new(), Vec::new());
    let mut last = None;
    let mut truncated = false;
    // Keys before the prefix are skipped in one step, those after it end the listing.
    let begin = if after.as_str() < prefix.as_str() { just_before(&prefix) } else { after };
    let listed = objects.after(&begin).skip_while(|listed| !listed.key.starts_with(&prefix) && *listed.key < *prefix);
    for listed in listed.take_while(|listed| listed.key.starts_with(&prefix)) {
        let key = &*listed.key;
        let fold = delimiter.and_then(|delimiter| {
            let end = key[prefix.len()..].find(delimiter)? + prefix.len() + delimiter.len();
            Some(&key[..end])
        });
        let seen = fold.is_some_and(|fold| folded.last().is_some_and(|last| last == fold));
        if seen || skipped.as_deref().is_some_and(|skipped| key.starts_with(skipped)) {
            continue;
        }
        if contents.len() + folded.len() == limit {
            truncated = limit > 0;
            break;
        }
        last = Some(fold.unwrap_or(key).to_owned());
        match fold {
            Some(fold) => folded.push(fold.to_owned()),
            None => contents.push(entry(&listed)),
        }
    }
    let common_prefixes: Vec<_> = folded.into_iter().map(|prefix| CommonPrefix { prefix: Some(prefix) }).collect();
    Ok(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(prefix),
        delimiter: input.delimiter,
        start_after: input.start_after,
        max_keys: Some(limit as i32),
        key_count: Some((contents.len() + common_prefixes.len()) as i32),
        is_truncated: Some(truncated),
        next_continuation_token: last.filter(|_| truncated).map(|last| write_token(&last)),
        continuation_token: input.continuation_token,
        contents: Some(contents),
        common_prefixes: Some(common_prefixes),
        ..Default::default()
    })
}

fn entry(listed: &Listed<'_>) -> s3s::dto::Object {
    s3s::dto::Object {
        key: Some(listed.key.to_string()),
        size: Some(listed.size as i64),
        e_tag: Some(ETag::Strong(listed.etag.into())),
        last_modified: Some(listed.modified.into()),
        ..Default::default()
    }
}

/// A key that comes before everything that begins with `prefix`, and after most of the rest.
fn just_before(prefix: &str) -> String {
    prefix[..prefix.len().saturating_sub(1)].to_owned()
}

/// Reversed, so that nobody takes a token for a key.
fn write_token(last: &str) -> String {
    format!("t:{}", last.chars().rev().collect::<String>())
}

fn read_token(token: &str) -> S3Result<String> {
    let reversed = token.strip_prefix("t:").ok_or_else(|| s3_error!(InvalidArgument, "bad continuation token"))?;
    Ok(reversed.chars().rev().collect())
}
