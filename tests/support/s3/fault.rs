//! The ways in which a service or the network between fails.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame};
use hyper::{Request, Response, StatusCode};

use super::load::Load;
use super::{Logged, Op};

/// What happens instead of an honest answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The request is not carried out and is answered with this HTTP status and S3 error code.
    Status(u16, &'static str),
    /// The same with the code `SlowDown` and a header that asks to come again after so many seconds.
    RetryAfter(u16, u64),
    /// The request is not carried out, and this is the answer.
    Answer(Answer),
    /// The request is not carried out; the connection is reset before its body is read.
    Reset,
    /// The same, after this many bytes of its body, or after all of a shorter one.
    ResetInBody(usize),
    /// The same, after all of its body.
    ResetAfterBody,
    /// The request is left lying, its body unread, for so long and then carried out, unless the client has hung up by
    /// then.
    Stall(Duration),
    /// The same, after this many bytes of its body.
    StallInBody(usize, Duration),
    /// The request is carried out, but its answer comes so much later.
    StallBeforeAnswer(Duration),
    /// The request is carried out, but its answer stands still for so long after this many bytes of its body.
    StallInAnswer(usize, Duration),
    /// The answer is honest, but the connection ends after this many bytes of its body.
    CutBody(usize),
    /// The answer, its head too, is honest, but takes so long for each byte.
    Trickle(Duration),
    /// The request is not carried out and is answered with this status and half of an XML document.
    TruncatedXml(u16),
    /// The request is carried out, but only half of the XML document that answers it is sent, as if it were all.
    HalfAnswer,
    /// The request is not carried out, but answered with 200 before its body was read, and the connection is closed.
    OkThenClose,
    /// The request is carried out, but the connection is closed without a word of answer.
    LoseReply,
}

/// An answer in full.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Answer {
    /// An error as S3 writes it.
    pub fn refusal(status: u16, code: &str, message: &str) -> Answer {
        Answer::refusal_with(status, code, message, "")
    }

    /// The same with more elements, which some codes have.
    pub fn refusal_with(status: u16, code: &str, message: &str, elements: &str) -> Answer {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message>{elements}\
             <RequestId>4442587FB7D0A2F9</RequestId><HostId>host id</HostId></Error>"
        );
        Answer { status, headers: Vec::new(), body }
            .header("content-type", "application/xml")
            .header("x-amz-request-id", "4442587FB7D0A2F9")
    }

    /// A page for a browser.
    pub fn page(status: u16, title: &str) -> Answer {
        let body =
            format!("<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>");
        Answer { status, headers: Vec::new(), body }.header("content-type", "text/html; charset=utf-8")
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn response(self) -> Response<s3s::Body> {
        let mut response = Response::builder().status(self.status);
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        response.body(s3s::Body::from(self.body)).unwrap()
    }
}

impl From<Answer> for Fault {
    fn from(answer: Answer) -> Fault {
        Fault::Answer(answer)
    }
}

impl Fault {
    /// All that end or recover by themselves within a second or two, for storms. Stalls and trickles are as long as
    /// `pause`, or that long for each byte.
    pub fn each(pause: Duration) -> Vec<Fault> {
        vec![
            Fault::Status(500, "InternalError"),
            Fault::Status(503, "SlowDown"),
            Fault::Status(429, "TooManyRequests"),
            Fault::Status(409, "ConditionalRequestConflict"),
            Fault::Status(400, "RequestTimeout"),
            Fault::RetryAfter(503, 1),
            Fault::RetryAfter(429, 1),
            Fault::Reset,
            Fault::ResetInBody(1000),
            Fault::ResetAfterBody,
            Fault::Stall(pause),
            Fault::StallInBody(1000, pause),
            Fault::StallBeforeAnswer(pause),
            Fault::StallInAnswer(100, pause),
            Fault::CutBody(100),
            Fault::Trickle(pause / 1000),
            Fault::TruncatedXml(400),
            Fault::TruncatedXml(500),
            Fault::HalfAnswer,
            Fault::OkThenClose,
            Fault::LoseReply,
        ]
    }
}

/// Which request a fault waits for.
#[derive(Clone, Debug, Default)]
pub struct On {
    op: Option<Op>,
    key_part: String,
}

impl On {
    pub fn any() -> On {
        On::default()
    }

    /// Requests of this kind.
    pub fn op(op: Op) -> On {
        On { op: Some(op), key_part: String::new() }
    }

    /// Only if the key contains this.
    pub fn key(mut self, part: &str) -> On {
        self.key_part = part.into();
        self
    }

    fn fits(&self, request: &Logged) -> bool {
        self.op.is_none_or(|op| op == request.op) && request.key.contains(&self.key_part)
    }
}

/// How often each request (operation, key and query) has come in.
type Seen = HashMap<(Op, String, String), usize>;

#[derive(Default)]
pub(super) struct Faults {
    pub queue: VecDeque<(On, Fault)>,
    /// Those that are never used up.
    pub lasting: Vec<(On, Fault)>,
    /// The fault for first tries, and how often each operation on each key was tried.
    pub first_tries: Option<(Fault, Seen)>,
    /// What it does with the rest.
    pub load: Option<Load>,
}

impl Faults {
    /// The fault for this request, taken from the queue if it comes from there.
    pub fn take(&mut self, request: &Logged) -> Option<Fault> {
        if let Some(at) = self.queue.iter().position(|(on, _)| on.fits(request)) {
            return self.queue.remove(at).map(|(_, fault)| fault);
        }
        if let Some((_, fault)) = self.lasting.iter().find(|(on, _)| on.fits(request)) {
            return Some(fault.clone());
        }
        if let Some((fault, tries)) = self.first_tries.as_mut() {
            let tries = tries.entry((request.op, request.key.clone(), request.query.clone())).or_default();
            *tries += 1;
            return (*tries == 1).then(|| fault.clone());
        }
        self.load.as_mut()?.refuse(Instant::now())
    }
}

/// An error answer as S3 writes it, or the token service.
pub(super) fn error_response(op: Op, status: StatusCode, code: &str) -> Response<s3s::Body> {
    let error = format!("<Code>{code}</Code><Message>as the test ordered</Message>");
    let xml = match op {
        Op::Assume => format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>{error}\
             </Error><RequestId>TEST</RequestId></ErrorResponse>"
        ),
        _ => format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>{error}<RequestId>TEST</RequestId></Error>"),
    };
    let mut response = Response::new(s3s::Body::from(xml));
    *response.status_mut() = status;
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, "application/xml".parse().unwrap());
    response
}

/// The request with its body behind `gate`.
pub(super) fn gated(request: Request<s3s::Body>, gate: Gate) -> Request<s3s::Body> {
    request.map(|inner| s3s::Body::http_body_unsync(Gated { inner, gate }))
}

/// Reads the body up to the gate, or to its end.
pub(super) async fn read(request: Request<s3s::Body>) {
    let _ = request.into_body().store_all_limited(usize::MAX).await;
}

/// The answer with its end cut off.
pub(super) async fn cut(response: Response<s3s::Body>, size: usize) -> Response<s3s::Body> {
    let (parts, bytes) = whole(response).await;
    // Content-Length, set by the service, still promises the whole body.
    Response::from_parts(parts, pieces(bytes.slice(..size.min(bytes.len())), Duration::from_millis(20), End::Hangup))
}

/// The answer with a pause in its body.
pub(super) async fn paused(response: Response<s3s::Body>, size: usize, pause: Duration) -> Response<s3s::Body> {
    let (parts, mut bytes) = whole(response).await;
    let first = bytes.split_to(size.min(bytes.len()));
    Response::from_parts(parts, pieces(first, pause, End::More(bytes)))
}

/// Half of an XML document as if it were all; other answers as they are.
pub(super) async fn halved(response: Response<s3s::Body>) -> Response<s3s::Body> {
    let kind = response.headers().get(hyper::header::CONTENT_TYPE);
    if !kind.is_some_and(|kind| kind.to_str().is_ok_and(|kind| kind.contains("xml"))) {
        return response;
    }
    let (mut parts, bytes) = whole(response).await;
    parts.headers.remove(hyper::header::CONTENT_LENGTH);
    Response::from_parts(parts, s3s::Body::from(bytes.slice(..bytes.len() / 2)))
}

async fn whole(response: Response<s3s::Body>) -> (hyper::http::response::Parts, Bytes) {
    let (parts, mut body) = response.into_parts();
    (parts, body.store_all_limited(usize::MAX).await.unwrap())
}

fn pieces(first: Bytes, pause: Duration, end: End) -> s3s::Body {
    s3s::Body::http_body_unsync(Pieces { first: Some(first), pause, sleep: None, end: Some(end) })
}

/// What comes after the pause.
enum End {
    More(Bytes),
    Hangup,
}

/// Some bytes, a pause in which they get onto the wire, and then the rest or the end of the connection.
struct Pieces {
    first: Option<Bytes>,
    pause: Duration,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    end: Option<End>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Hangup;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Hangup>>> {
        if let Some(bytes) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if self.end.is_some() {
            let pause = self.pause;
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
            ready!(sleep.as_mut().poll(context));
        }
        Poll::Ready(match self.end.take() {
            Some(End::More(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(End::Hangup) => Some(Err(Hangup::Close)),
            None => None,
        })
    }
}

/// Where a request's body stops for a while, or for good.
pub(super) enum Gate {
    Open,
    /// It ends here.
    EndAfter(usize),
    /// It goes on after so long.
    PauseAfter(usize, Duration),
    Paused(Pin<Box<tokio::time::Sleep>>),
}

struct Gated {
    inner: s3s::Body,
    gate: Gate,
}

impl Body for Gated {
    type Data = Bytes;
    type Error = s3s::StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.gate {
            Gate::Open => {}
            Gate::EndAfter(0) => return Poll::Ready(None),
            Gate::PauseAfter(0, pause) => self.gate = Gate::Paused(Box::pin(tokio::time::sleep(*pause))),
            Gate::EndAfter(_) | Gate::PauseAfter(..) | Gate::Paused(_) => {}
        }
        if let Gate::Paused(sleep) = &mut self.gate {
            ready!(sleep.as_mut().poll(context));
            self.gate = Gate::Open;
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Gate::EndAfter(left) | Gate::PauseAfter(left, _) = &mut self.gate
            && let Some(Ok(frame)) = &frame
        {
            *left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(frame)
    }
}

/// How the service ends a connection out of turn. Hyper closes it on any error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hangup {
    Reset,
    Close,
}

impl Hangup {
    pub fn caused(self, error: &hyper::Error) -> bool {
        std::error::Error::source(error).and_then(|cause| cause.downcast_ref()) == Some(&self)
    }
}

impl fmt::Display for Hangup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}, as the test ordered")
    }
}

impl std::error::Error for Hangup {}
