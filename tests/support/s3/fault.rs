//! The ways in which a service or the network between fails.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use hyper::{Response, StatusCode};

use super::{Logged, Op};

/// What happens instead of an honest answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The request is not carried out and is answered with this HTTP status and S3 error code.
    Status(u16, &'static str),
    /// The request is not carried out; the connection is reset.
    Reset,
    /// The answer is honest, but the connection ends after this many bytes of its body.
    CutBody(usize),
    /// The request is left lying for so long and then carried out, unless the client has hung up by then.
    Stall(Duration),
    /// The request is carried out, but the connection is closed without a word of answer.
    LoseReply,
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
        let (fault, tries) = self.first_tries.as_mut()?;
        let tries = tries.entry((request.op, request.key.clone(), request.query.clone())).or_default();
        *tries += 1;
        (*tries == 1).then(|| fault.clone())
    }
}

/// An error answer as S3 writes it.
pub(super) fn error_response(status: StatusCode, code: &str) -> Response<s3s::Body> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>as the test ordered</Message>\
         <RequestId>TEST</RequestId></Error>"
    );
    let mut response = Response::new(s3s::Body::from(xml));
    *response.status_mut() = status;
    response
}

/// The answer with its end cut off.
pub(super) async fn cut(response: Response<s3s::Body>, size: usize) -> Response<s3s::Body> {
    let (parts, mut body) = response.into_parts();
    let mut bytes = body.store_all_limited(usize::MAX).await.unwrap();
    assert!(size < bytes.len(), "a body of {} bytes cannot be cut after {size}", bytes.len());
    bytes.truncate(size);
    // Content-Length, set by the service, still promises the whole body.
    Response::from_parts(parts, s3s::Body::http_body_unsync(CutBody { bytes: Some(bytes), pause: None }))
}

/// Some bytes, a moment in which they get onto the wire, and then the end of the connection.
struct CutBody {
    bytes: Option<Bytes>,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Body for CutBody {
    type Data = Bytes;
    type Error = Hangup;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Hangup>>> {
        if let Some(bytes) = self.bytes.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(Duration::from_millis(20))));
        ready!(pause.as_mut().poll(context));
        Poll::Ready(Some(Err(Hangup::Close)))
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
