//! `exporter`: one page over HTTP, for Prometheus.
//!
//! Knows connections, and how often what it serves is made anew; what is on the page is its caller's business. Meant for
//! the loopback: it asks nobody who he is.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::error::{Context, Result};

/// Pages are not made more often than this, however many ask: each costs the store a few requests.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// How long an answer waits for a new page before it is given the last one. Prometheus waits 10 s (`scrape_timeout`).
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// Connections at once: more than one Prometheus and some people are nobody's need.
const CONNECTIONS: usize = 16;

/// How long a whole conversation may take: an answer, and as much again for sending it.
const CONVERSATION: Duration = Duration::from_secs(30);

/// How long the head of a request may take.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// How long to wait when no connection can be accepted, for want of file descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The text format of Prometheus ("Exposition formats").
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page, and when its making began.
#[derive(Debug)]
struct Page {
    began: Instant,
    text: String,
}

/// The last page, and whether a new one is being made.
struct Pages<M> {
    make: M,
    last: watch::Sender<Option<Arc<Page>>>,
    underway: AtomicBool,
}

/// A place where pages are served.
#[derive(Debug)]
pub struct Exporter {
    listener: TcpListener,
}

impl Exporter {
    /// Listens at this address.
    ///
    /// # Errors
    /// If that is not possible.
    pub async fn listen(address: SocketAddr) -> Result<Exporter> {
        let listener = TcpListener::bind(address).await.during(|| format!("could not listen at {address}"))?;
        Ok(Exporter { listener })
    }

    /// Where it listens; tells the port that the system chose for port 0.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().during(|| "could not find out where the exporter listens")
    }

    /// Serves `/metrics` until the process ends, made by `make` whenever somebody asks and the last one is old.
    pub async fn serve<M, F>(self, make: M) -> Infallible
    where
        M: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = String> + Send + 'static,
    {
        let pages = Arc::new(Pages { make, last: watch::Sender::new(None), underway: AtomicBool::new(false) });
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = self.listener.accept().await;
            match (accepted, room.clone().try_acquire_owned()) {
                (Ok((stream, _)), Ok(place)) => {
                    let pages = pages.clone();
                    tokio::spawn(async move {
                        converse(stream, pages).await;
                        drop(place);
                    });
                }
                // Closed at once: whoever is one too many asks again.
                (Ok(_), Err(_)) => tracing::debug!("more than {CONNECTIONS} connections"),
                (Err(error), _) => {
                    tracing::warn!("could not accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn converse<M, F>(stream: TcpStream, pages: Arc<Pages<M>>)
where
    M: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = String> + Send + 'static,
{
    let service = service_fn(|request| answer(request, pages.clone()));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).keep_alive(false);
    let served = timeout(CONVERSATION, server.serve_connection(TokioIo::new(stream), service)).await;
    if let Ok(Err(error)) = served {
        tracing::debug!("a connection ended early: {error}");
    }
}

async fn answer<M, F, B>(request: Request<B>, pages: Arc<Pages<M>>) -> Result<Response<Body>, Infallible>
where
    M: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = String> + Send + 'static,
{
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match Pages::current(pages).await {
            Some(page) => (StatusCode::OK, page.text.clone()),
            None => (StatusCode::SERVICE_UNAVAILABLE, "the first look takes longer; ask again\n".to_owned()),
        },
        (&Method::GET | &Method::HEAD, "/") => (StatusCode::OK, "walden: see /metrics\n".to_owned()),
        (&Method::GET | &Method::HEAD, _) => (StatusCode::NOT_FOUND, "see /metrics\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "ask with GET\n".to_owned()),
    };
    let mut response = Response::new(Body::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(TEXT));
    Ok(response)
}

impl<M, F> Pages<M>
where
    M: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = String> + Send + 'static,
{
    /// A page that is new enough; else the last one, if a new one takes longer than an answer may.
    async fn current(self: Arc<Self>) -> Option<Arc<Page>> {
        let fresh = |page: &Option<Arc<Page>>| page.as_ref().is_some_and(|page| page.began.elapsed() < LOOK_EVERY);
        let mut last = self.last.subscribe();
        let is_fresh = fresh(&last.borrow());
        if !is_fresh {
            if !self.underway.swap(true, Ordering::AcqRel) {
                tokio::spawn(Underway(self.clone()).make());
            }
            let _ = timeout(ANSWER_WITHIN, last.wait_for(|page| fresh(page))).await;
        }
        last.borrow().clone()
    }
}

/// The making of a page. When this is dropped, however that comes, the next one can begin.
struct Underway<M>(Arc<Pages<M>>);

impl<M, F> Underway<M>
where
    M: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = String> + Send + 'static,
{
    async fn make(self) {
        let began = Instant::now();
        let text = (self.0.make)().await;
        self.0.last.send_replace(Some(Arc::new(Page { began, text })));
    }
}

impl<M> Drop for Underway<M> {
    fn drop(&mut self) {
        self.0.underway.store(false, Ordering::Release);
    }
}

/// A body that is there as a whole.
#[derive(Debug)]
struct Body(Option<Bytes>);

impl Body {
    fn new(bytes: Bytes) -> Body {
        Body(Some(bytes))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(http_body::Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
