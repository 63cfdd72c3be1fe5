//! An S3 service inside the test process: real SigV4, real rules, objects in memory, and faults on command.
//!
//! A test sees every request ([`S3::requests`]), reaches the objects behind the service's back ([`S3::corrupt`] and
//! others) and queues faults ([`S3::fail_next`]). An empty queue means an honest service.

mod bucket;
mod fault;
mod load;
mod old;
mod token;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};

use super::random::Random;
use bucket::Objects;
pub use fault::{Answer, Fault, On};
use fault::{Faults, Gate, Hangup};
use load::Load;
pub use token::Assumed;
use token::{Issued, Keys};
use wire::{Pace, Wire};

/// The one bucket that exists.
pub const BUCKET: &str = "walden-test";
pub const ACCESS_KEY: &str = "AKIAWALDENTEST000000";
pub const SECRET_KEY: &str = "test/secret/test/secret/test/secret/test";
pub const REGION: &str = "eu-central-1";

/// A running service; it ends when this is dropped.
pub struct S3 {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

type Sessions = Arc<Mutex<Issued>>;

struct Shared {
    objects: Arc<Mutex<Objects>>,
    sessions: Sessions,
    faults: Mutex<Faults>,
    /// How an old store refuses what is new.
    old: Mutex<Option<Answer>>,
    requests: Mutex<Vec<Logged>>,
    service: S3Service,
}

/// What a request asks for, as far as the tests tell requests apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    Put,
    Get,
    Head,
    List,
    Delete,
    /// A request to the token service, which shares the address.
    Assume,
    Other,
}

/// One request as it came in.
#[derive(Clone, Debug)]
pub struct Logged {
    pub op: Op,
    /// The key as it stands in the URL (escaped), without the bucket; empty for requests to the bucket itself.
    pub key: String,
    pub query: String,
    pub headers: HeaderMap,
    /// `None` while it is being answered, and for ever if the connection was cut instead.
    pub status: Option<StatusCode>,
}

impl Logged {
    /// A header's value; empty if the header is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl S3 {
    pub fn start() -> S3 {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let objects = Arc::new(Mutex::new(Objects::default()));
        let mut service = S3ServiceBuilder::new(bucket::Bucket(objects.clone()));
        let sessions = Sessions::default();
        service.set_auth(Keys(sessions.clone()));
        let service = service.build();
        let (faults, old, requests) = (Mutex::default(), Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { objects, sessions, faults, old, requests, service });
        // Bound by std: start may be called from within a test's own runtime, where block_on is not allowed.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(accept(listener, shared.clone()));
        S3 { address, shared, runtime: Some(runtime) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as a URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What a client needs in its environment.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
            ("AWS_REGION", REGION.into()),
        ]
    }

    /// What a client needs in its environment that has no keys but may ask the token service for some: sessions that
    /// live for so long. The token lies in a file below `directory`.
    pub fn web_identity(&self, directory: &Path, life: Duration) -> Vec<(&'static str, String)> {
        self.shared.sessions.lock().unwrap().life = Some(life);
        let token = directory.join("web-identity-token");
        std::fs::write(&token, "a.web.token").unwrap();
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_REGION", REGION.into()),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/walden".into()),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap().into()),
        ]
    }

    /// From now on sessions live for so long.
    pub fn set_session_life(&self, life: Duration) {
        self.shared.sessions.lock().unwrap().life = Some(life);
    }

    /// From now on roles are given only to those who name this.
    pub fn require_external_id(&self, id: &str) {
        self.shared.sessions.lock().unwrap().external_id = Some(id.to_owned());
    }

    /// The requests for sessions so far that reached the token service's judgement, and forgets them.
    pub fn assumed(&self) -> Vec<Assumed> {
        std::mem::take(&mut self.shared.sessions.lock().unwrap().asked)
    }

    /// Ends all sessions before their time.
    pub fn revoke_sessions(&self) {
        self.shared.sessions.lock().unwrap().revoke();
    }

    /// From now on a put overwrites whatever it is told: the service knows no If-None-Match, as some do not.
    pub fn ignore_conditions(&self) {
        self.objects().ignores_conditions = true;
    }

    /// The next request that fits gets this fault instead of an honest answer. Faults queue up: each is used once, the
    /// oldest that fits first.
    pub fn fail_next(&self, on: On, fault: Fault) {
        self.shared.faults.lock().unwrap().queue.push_back((on, fault));
    }

    /// From now on the first request for each operation on each key gets this fault; its repetition does not.
    pub fn fail_first_tries(&self, fault: Fault) {
        self.shared.faults.lock().unwrap().first_tries = Some((fault, HashMap::new()));
    }

    /// Every request that fits gets this fault until [`S3::heal`].
    pub fn fail_always(&self, on: On, fault: Fault) {
        self.shared.faults.lock().unwrap().lasting.push((on, fault));
    }

    /// From now on it is under load: of the next `rough` requests it refuses three in ten at random, and after those all
    /// above `rate`, so many in a window of this length.
    pub fn burden(&self, random: Random, rough: usize, rate: (usize, Duration)) {
        self.shared.faults.lock().unwrap().load = Some(Load::new(random, rough, rate));
    }

    /// From now on it is one of the stores that were made before checksums had headers: it refuses those in this way, as
    /// well as bodies without a length, knows no If-None-Match, and wants Content-MD5 for deletes of many keys.
    pub fn grow_old(&self, way: Answer) {
        self.ignore_conditions();
        *self.shared.old.lock().unwrap() = Some(way);
    }

    /// From now on headers of checksums are passed over, as some stores do.
    pub fn ignore_checksums(&self) {
        self.objects().ignores_checksums = true;
    }

    /// Takes back all faults.
    pub fn heal(&self) {
        *self.shared.faults.lock().unwrap() = Faults::default();
    }

    /// Faults that no request has met yet. A test that expects its faults to bite asserts 0.
    pub fn faults_left(&self) -> usize {
        self.shared.faults.lock().unwrap().queue.len()
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Logged> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// How many requests of this kind have come in.
    pub fn count(&self, op: Op) -> usize {
        self.shared.requests.lock().unwrap().iter().filter(|request| request.op == op).count()
    }

    pub fn forget_requests(&self) {
        self.shared.requests.lock().unwrap().clear();
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.shared.objects.lock().unwrap()
    }

    /// The keys that begin with `prefix`, in order.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        self.objects().keys(prefix)
    }

    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.objects().get(key).map(|bytes| bytes.to_vec())
    }

    pub fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        self.objects().put(key, bytes.into(), Default::default());
    }

    /// Adds objects that are listed and cannot be read, for so many numbers: a million of them take no room. A greater
    /// number must have a greater key.
    pub fn generate(&self, numbers: std::ops::Range<u64>, key: impl Fn(u64) -> String + Send + 'static) {
        self.objects().generated.push(bucket::Generated { numbers, key: Box::new(key) });
    }

    pub fn remove(&self, key: &str) {
        assert!(self.objects().remove(key), "{key} is not there");
    }

    /// Flips one bit of the byte at `at`.
    pub fn corrupt(&self, key: &str, at: usize) {
        let mut bytes = self.get(key).unwrap();
        bytes[at] ^= 0x10;
        self.put(key, bytes);
    }

    /// Keeps only the first `size` bytes.
    pub fn truncate(&self, key: &str, size: usize) {
        let mut bytes = self.get(key).unwrap();
        assert!(size < bytes.len());
        bytes.truncate(size);
        self.put(key, bytes);
    }

    /// The object was stored so much earlier than it was.
    pub fn age(&self, key: &str, by: Duration) {
        self.objects().age(key, by);
    }

    /// From now on deletes answer as those of a bucket that keeps versions.
    pub fn keep_versions(&self) {
        self.objects().keeps_versions = true;
    }

    /// The object is locked for so long.
    pub fn lock_until(&self, key: &str, time: Duration) {
        self.objects().lock_until(key, std::time::SystemTime::now() + time);
    }

    /// Deletes of this key are refused from now on, whoever asks.
    pub fn lock(&self, key: &str) {
        self.objects().locked.insert(key.into());
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        tokio::spawn(serve(stream, shared.clone()));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let pace = Pace::default();
    let wire = TokioIo::new(Wire::new(stream, pace.clone()));
    let answer = service_fn(move |request| {
        let (shared, pace) = (shared.clone(), pace.clone());
        Box::pin(async move { shared.answer(request, &pace).await })
    });
    let mut connection = http1::Builder::new().serve_connection(wire, answer);
    let ended = std::future::poll_fn(|context| connection.poll_without_shutdown(context)).await;
    if ended.is_err_and(|error| Hangup::Reset.caused(&error)) {
        connection.into_parts().io.into_inner().into_stream().set_zero_linger().unwrap();
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>, pace: &Pace) -> Result<Response<s3s::Body>, Hangup> {
        let logged = Logged::of(&request);
        let request = request.map(s3s::Body::from);
        let fault = self.faults.lock().unwrap().take(&logged);
        let index = {
            let mut requests = self.requests.lock().unwrap();
            requests.push(logged);
            requests.len() - 1
        };
        let response = match fault {
            None => self.honest(request).await,
            Some(fault) => self.faulty(request, fault, pace).await?,
        };
        if let Some(logged) = self.requests.lock().unwrap().get_mut(index) {
            logged.status = Some(response.status());
        }
        Ok(response)
    }

    async fn honest(&self, request: Request<s3s::Body>) -> Response<s3s::Body> {
        let old = self.old.lock().unwrap().clone();
        if let Some(answer) = old.and_then(|way| old::refuses(&request, way)) {
            fault::read(request).await;
            return answer.response();
        }
        if is_streamed(request.headers()) {
            return refuse(request, StatusCode::NOT_IMPLEMENTED, "NotImplemented").await;
        }
        if Logged::of(&request).op == Op::Assume {
            let headers = request.headers().clone();
            let form = request.into_body().store_all_limited(usize::MAX).await.unwrap_or_default();
            return token::answer(&self.sessions, &headers, &form);
        }
        self.service.call(request).await.unwrap()
    }

    async fn faulty(
        &self,
        request: Request<s3s::Body>,
        fault: Fault,
        pace: &Pace,
    ) -> Result<Response<s3s::Body>, Hangup> {
        match fault {
            Fault::Status(status, code) => Ok(refuse(request, StatusCode::from_u16(status).unwrap(), code).await),
            Fault::RetryAfter(status, seconds) => {
                let mut response = refuse(request, StatusCode::from_u16(status).unwrap(), "SlowDown").await;
                response.headers_mut().insert("retry-after", seconds.into());
                Ok(response)
            }
            Fault::Answer(answer) => {
                fault::read(request).await;
                Ok(answer.response())
            }
            Fault::Reset => Err(Hangup::Reset),
            Fault::ResetInBody(size) => {
                fault::read(fault::gated(request, Gate::EndAfter(size))).await;
                Err(Hangup::Reset)
            }
            Fault::ResetAfterBody => {
                fault::read(request).await;
                Err(Hangup::Reset)
            }
            Fault::Stall(time) => {
                tokio::time::sleep(time).await;
                Ok(self.honest(request).await)
            }
            Fault::StallInBody(size, time) => {
                Ok(self.honest(fault::gated(request, Gate::PauseAfter(size, time))).await)
            }
            Fault::StallBeforeAnswer(time) => {
                let response = self.honest(request).await;
                tokio::time::sleep(time).await;
                Ok(response)
            }
            Fault::StallInAnswer(size, time) => Ok(fault::paused(self.honest(request).await, size, time).await),
            Fault::CutBody(size) => Ok(fault::cut(self.honest(request).await, size).await),
            Fault::Trickle(time) => {
                let response = self.honest(request).await;
                *pace.lock().unwrap() = Some(time);
                Ok(response)
            }
            Fault::TruncatedXml(status) => {
                let status = StatusCode::from_u16(status).unwrap();
                Ok(fault::halved(refuse(request, status, "InternalError").await).await)
            }
            Fault::HalfAnswer => Ok(fault::halved(self.honest(request).await).await),
            Fault::OkThenClose => {
                let mut response = Response::new(s3s::Body::empty());
                response.headers_mut().insert("connection", "close".parse().unwrap());
                Ok(response)
            }
            Fault::LoseReply => {
                self.honest(request).await;
                Err(Hangup::Close)
            }
        }
    }
}

/// Refuses when all of the request is in: a client that is still sending might not see an earlier answer.
async fn refuse(request: Request<s3s::Body>, status: StatusCode, code: &str) -> Response<s3s::Body> {
    let op = Logged::of(&request).op;
    fault::read(request).await;
    fault::error_response(op, status, code)
}

impl Logged {
    fn of<B>(request: &Request<B>) -> Logged {
        let path = request.uri().path().trim_start_matches('/');
        let key = path.split_once('/').map_or("", |(_bucket, key)| key);
        let query = request.uri().query().unwrap_or_default();
        let op = match *request.method() {
            Method::PUT => Op::Put,
            Method::HEAD => Op::Head,
            Method::GET if query.contains("list-type=2") => Op::List,
            Method::GET => Op::Get,
            Method::DELETE => Op::Delete,
            Method::POST if query.starts_with("delete") => Op::Delete,
            Method::POST if path.is_empty() => Op::Assume,
            _ => Op::Other,
        };
        Logged { op, key: key.into(), query: query.into(), headers: request.headers().clone(), status: None }
    }
}

/// Many stores refuse what the SDKs send by default since 2025: a body in aws-chunked form with its checksum in a
/// trailer. Walden promises plain bodies.
fn is_streamed(headers: &HeaderMap) -> bool {
    let has = |name: &str, text: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains(text))
    };
    has("content-encoding", "aws-chunked")
        || has("x-amz-content-sha256", "STREAMING-")
        || has("transfer-encoding", "chunked")
}
