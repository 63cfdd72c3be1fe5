//! A connection of the service that can be made to trickle.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How long each byte of what is sent from now on takes; `None` for as quick as it can be.
pub(super) type Pace = Arc<Mutex<Option<Duration>>>;

pub(super) struct Wire {
    stream: TcpStream,
    pace: Pace,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    pub fn new(stream: TcpStream, pace: Pace) -> Wire {
        Wire { stream, pace, sleep: None }
    }

    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let pace = *self.pace.lock().unwrap();
        let Some(pace) = pace else { return Pin::new(&mut self.stream).poll_write(context, bytes) };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(pace)));
        ready!(sleep.as_mut().poll(context));
        self.sleep = None;
        let first = &bytes[..bytes.len().min(1)];
        Pin::new(&mut self.stream).poll_write(context, first)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
