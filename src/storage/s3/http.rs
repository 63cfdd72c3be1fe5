//! The HTTP client below the SDK: hyper-util's, on connections of our own, with every byte of a body counted.
//!
//! What a request does is told to its [`Running`], which an interceptor has attached to it. Decides only two things: an
//! answer that praises a request before all of it was sent is no answer, and one that repeats itself says it once.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::dial::{CONNECT_TIMEOUT, Dialer};
use crate::storage::progress::{Phase, Running};

/// How much of a body is handed to the connection at a time, and counted when it asks for more.
const PIECE: usize = 64 << 10;

/// hyper-util's client; clones share its connections.
#[derive(Clone, Debug)]
pub(super) struct Http(Client<Dialer, Outgoing>);

impl Http {
    pub fn new(dialer: Dialer) -> Http {
        Http(Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(dialer))
    }
}

impl HttpClient for Http {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        // Those that look for a metadata service give up sooner than the dialer does.
        let connect = settings.connect_timeout().filter(|timeout| *timeout < CONNECT_TIMEOUT);
        SharedHttpConnector::new(Connector { http: self.clone(), connect, read: settings.read_timeout() })
    }
}

/// The client with the timeouts of one of its users.
#[derive(Debug)]
struct Connector {
    http: Http,
    connect: Option<Duration>,
    read: Option<Duration>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (client, connect, read) = (self.http.0.clone(), self.connect, self.read);
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let running = request.extensions().get::<Running>().cloned();
            if let Some(running) = &running {
                running.enter(Phase::Connecting);
            }
            let (request, complete) = outgoing(request, running.clone());
            let mut response = within(read, send(&client, request, running.as_ref(), connect)).await??;
            say_once(response.headers_mut());
            if response.status().is_success() && !complete.load(Ordering::Acquire) {
                return Err(ConnectorError::io("the answer came before the request was sent".into()));
            }
            let response = response.map(|inner| SdkBody::from_body_1_x(Answer { inner, running, received: 0 }));
            HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// Sends the request, and notes when it has its connection.
async fn send(
    client: &Client<Dialer, Outgoing>,
    mut request: http::Request<Outgoing>,
    running: Option<&Running>,
    connect: Option<Duration>,
) -> Result<http::Response<Incoming>, ConnectorError> {
    let mut captured = capture_connection(&mut request);
    let size = request.body().size;
    let mut response = pin!(client.request(request));
    let answered = within(connect, async {
        tokio::select! {
            biased;
            response = &mut response => Some(response),
            _ = captured.wait_for_connection_metadata() => None,
        }
    });
    let response = match answered.await? {
        Some(response) => response,
        None => {
            if let Some(running) = running.filter(|running| running.phase() == Phase::Connecting) {
                running.enter(if size == 0 { Phase::Waiting } else { Phase::Sending(0, size) });
            }
            response.await
        }
    };
    response.map_err(|error| ConnectorError::io(error.into()))
}

/// SeaweedFS 4.48 sends the digest of a key of one's own twice, its name written in two ways; the SDK takes one alone.
fn say_once(headers: &mut HeaderMap) {
    let repeats = |name: &&HeaderName| {
        let mut values = headers.get_all(*name).iter();
        let first = values.next();
        let rest: Vec<_> = values.collect();
        !rest.is_empty() && rest.into_iter().all(|value| Some(value) == first)
    };
    let repeated: Vec<HeaderName> = headers.keys().filter(repeats).cloned().collect();
    for name in repeated {
        if let Some(value) = headers.get(&name).cloned() {
            headers.insert(name, value);
        }
    }
}

async fn within<T>(bound: Option<Duration>, work: impl Future<Output = T>) -> Result<T, ConnectorError> {
    match bound {
        None => Ok(work.await),
        Some(bound) => {
            let late = |_| ConnectorError::timeout(format!("no answer within {} ms", bound.as_millis()).into());
            tokio::time::timeout(bound, work).await.map_err(late)
        }
    }
}

/// The request with its body counted, and a flag that is set when the connection has taken all of it.
fn outgoing(request: http::Request<SdkBody>, running: Option<Running>) -> (http::Request<Outgoing>, Arc<AtomicBool>) {
    let size = request.body().content_length().unwrap_or(0);
    let complete = Arc::new(AtomicBool::new(size == 0));
    let (rest, sent, flag) = (Bytes::new(), 0, complete.clone());
    (request.map(|inner| Outgoing { inner, rest, sent, size, running, complete: flag }), complete)
}

/// A request's body on its way.
#[derive(Debug)]
struct Outgoing {
    inner: SdkBody,
    /// Of the last frame, what has not been handed on yet.
    rest: Bytes,
    sent: u64,
    size: u64,
    running: Option<Running>,
    complete: Arc<AtomicBool>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        while self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    self.complete.store(true, Ordering::Release);
                    return Poll::Ready(None);
                }
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let size = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(size);
        self.sent += size as u64;
        let all = self.sent >= self.size;
        if all {
            self.complete.store(true, Ordering::Release);
        }
        if let Some(running) = &self.running {
            running.enter(if all { Phase::Waiting } else { Phase::Sending(self.sent, self.size) });
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.inner.content_length() {
            Some(left) => SizeHint::with_exact(left + self.rest.len() as u64),
            None => SizeHint::default(),
        }
    }
}

/// An answer's body on its way.
struct Answer {
    inner: Incoming,
    running: Option<Running>,
    received: u64,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            self.received += frame.data_ref().map_or(0, Bytes::len) as u64;
            if let Some(running) = &self.running {
                running.enter(Phase::Receiving(self.received));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_is_said_twice_counts_once_and_what_contradicts_itself_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("a", "1"), ("a", "1"), ("a", "1"), ("b", "1"), ("b", "2"), ("c", "1")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        say_once(&mut headers);
        let all = |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<String>();
        assert_eq!((all("a").as_str(), all("b").as_str(), all("c").as_str()), ("1", "12", "1"));
    }
}
