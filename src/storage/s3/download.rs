//! A download that goes on where it was cut.

use std::ops::Range;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use super::S3Store;
use super::failure::Action;
use super::watch::{PATIENCE, SLOWEST};
use crate::error::{Error, Kind, Result};
use crate::storage::retry::Failure;
use crate::storage::{Chunks, Store};

/// How often a download that moves too slowly is begun again before it is given up: another connection may lead to
/// another server.
const SLOW_CONNECTIONS: u32 = 3;

/// The bytes of an object that are still to come.
pub(super) struct S3Chunks {
    store: S3Store,
    key: String,
    version: Option<String>,
    body: ByteStream,
    range: Range<u64>,
    /// How long this connection was waited for, and what came of it. Time in which nobody asked does not count.
    waited: Duration,
    received: u64,
    slow: u32,
}

impl S3Chunks {
    /// What `output` is the answer for: the bytes of `range`.
    pub fn new(store: S3Store, key: &str, range: Range<u64>, output: GetObjectOutput) -> S3Chunks {
        let GetObjectOutput { e_tag: version, body, .. } = output;
        S3Chunks { store, key: key.to_owned(), version, body, range, waited: Duration::ZERO, received: 0, slow: 0 }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Failure> {
        let attempt = self.store.attempt(Action::Get, &self.key);
        let left = self.range.end - self.range.start;
        let given_up = |why: String| Failure::Transient(attempt.given_up(why));
        let began = Instant::now();
        let next = tokio::time::timeout(PATIENCE, self.body.next()).await;
        self.waited += began.elapsed();
        let chunk = match next {
            Ok(None) if left == 0 => return Ok(None),
            Ok(None) => return Err(given_up(format!("the download ended {left} bytes early"))),
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(error))) => {
                return Err(given_up(format!("the download was cut with {left} bytes left: {error}")));
            }
            Err(_) => {
                return Err(given_up(format!("nothing has moved for {} s, {left} bytes left", PATIENCE.as_secs())));
            }
        };
        if chunk.len() as u64 > left {
            return Err(Failure::Final(Error::new(
                Kind::Corrupt,
                format!("{} was sent with more bytes than announced", self.store.url(&self.key)),
            )));
        }
        self.range.start += chunk.len() as u64;
        self.received += chunk.len() as u64;
        Ok(Some(chunk))
    }

    /// Does this connection, so far, bring less than the slowest that is borne?
    fn is_slow(&self) -> bool {
        self.waited > PATIENCE + Duration::from_secs(self.received / SLOWEST)
    }

    /// Asks for the rest, of the same version of the object.
    async fn resume(&mut self) -> Result<()> {
        let (range, version) = (self.range.clone(), self.version.clone());
        self.body = self.store.open_at(&self.key, Some(range), version.as_deref()).await?.body;
        (self.waited, self.received) = (Duration::ZERO, 0);
        Ok(())
    }

    async fn leave_slow_connection(&mut self) -> Result<()> {
        self.slow += 1;
        if self.slow > SLOW_CONNECTIONS {
            let why = format!("{} connections in turn brought less than {} KiB a second", self.slow, SLOWEST >> 10);
            return Err(self.store.attempt(Action::Get, &self.key).given_up(why));
        }
        self.resume().await
    }
}

#[async_trait]
impl Chunks for S3Chunks {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.is_slow() && !self.range.is_empty() {
            self.leave_slow_connection().await?;
        }
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
