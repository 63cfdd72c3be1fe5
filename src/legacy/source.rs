//! A download as a blocking source: one side waits for the store, the other one, on a thread of its own, reads.

use std::future::Future;
use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::codec::carrying;
use crate::error::{Error, Kind, Result};
use crate::storage::Download;

/// So many pieces of a download, which have a few MiB at most, wait to be read.
const WAITING: usize = 4;

/// The download as what feeds it, to be awaited, and what reads it, on another thread. Feeding ends when nobody reads any
/// more.
pub fn of(download: Download) -> (impl Future<Output = ()> + Send, Pieces) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (feed(download, sender), Pieces { receiver, piece: Bytes::new(), ended: false })
}

async fn feed(mut download: Download, pieces: Sender<Result<Option<Bytes>>>) {
    loop {
        let piece = download.next().await;
        let last = !matches!(piece, Ok(Some(_)));
        if pieces.send(piece).await.is_err() || last {
            return;
        }
    }
}

/// What reads a download.
pub struct Pieces {
    receiver: Receiver<Result<Option<Bytes>>>,
    piece: Bytes,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Ok(Some(piece))) => self.piece = piece,
                Some(Ok(None)) => self.ended = true,
                Some(Err(error)) => return Err(carrying(error)),
                // Without its last word it was not the end.
                None => return Err(carrying(Error::new(Kind::Unreachable, "the download was given up"))),
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
