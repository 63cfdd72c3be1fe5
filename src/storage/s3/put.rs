//! Puts: what makes an object count, whatever the store makes of headers and conditions.
//!
//! Overwrites nothing but where it is told to, and believes no answer that a store would not give.

use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::types::ChecksumMode;
use jiff::Timestamp;

use super::S3Store;
use super::body::{Write, digest, hashed, stream};
use super::checksum::Cover;
use super::failure::{self, Action};
use crate::error::{Error, Kind, Result};
use crate::storage::Store;
use crate::storage::retry::{Failure, Policy};

/// How a put ended.
pub(super) struct Written {
    pub outcome: Result<PutObjectOutput>,
    /// Whether the store may have refused it for a header that it does not know.
    suspect: bool,
}

impl S3Store {
    /// A create-only put to a store that honours the condition. That the name is taken can be our own doing, in a try
    /// whose answer was lost: whoever called compares contents.
    pub(super) async fn create(&self, key: &str, write: &Write) -> Result<()> {
        match self.write(key, write, true, self.policy).await.outcome {
            Err(taken) if taken.kind() == Kind::AlreadyExists && self.carried.freezes(key) => {
                // Nobody can read it to do so.
                if self.is_the_same_unread(key, write).await? { Ok(()) } else { Err(taken) }
            }
            outcome => outcome.map(drop),
        }
    }

    /// A create-only put to a store that ignores the condition: looks before, and reads back after. Of two writers at the
    /// same moment the later one may win, and the earlier one may not see it any more.
    pub(super) async fn write_guarded(&self, key: &str, write: &Write) -> Result<()> {
        match self.head(key).await {
            Ok(_) => {
                return Err(Error::new(Kind::AlreadyExists, format!("{} exists already", self.url(key))));
            }
            Err(error) if error.kind() == Kind::NotFound => {}
            // Blindly, an object could be overwritten that somebody needs.
            Err(error) => return Err(error.detail("the store ignores If-None-Match: who puts has to look first")),
        }
        self.write(key, write, false, self.policy).await.outcome?;
        let ours = digest(write.body.clone(), blake3::Hasher::new(), hashed).await?.finalize();
        let mut there = blake3::Hasher::new();
        let mut download = self.get(key, None).await?;
        while let Some(chunk) = download.next().await? {
            there.update(&chunk);
        }
        match there.finalize() == ours {
            true => Ok(()),
            false => Err(Error::new(Kind::Conflict, format!("{} was overwritten while it was stored", self.url(key)))
                .detail("the store ignores If-None-Match, and another content is there now")
                .hint("Two servers may be archiving the same timeline: check which of them is the primary.")),
        }
    }

    /// One put, with its condition or without.
    pub(super) async fn write(&self, key: &str, write: &Write, only_new: bool, policy: Policy) -> Written {
        let written = self.write_as_is(key, write, only_new, policy).await;
        if written.outcome.is_ok() || !written.suspect || !self.checksums.may_do_without(&write.cover) {
            return written;
        }
        let other = match write.covered_by_md5().await {
            Ok(other) => other,
            Err(error) => return Written { outcome: Err(error), ..written },
        };
        // The header is to blame only if the same put without it is well.
        let again = self.write_as_is(key, &other, only_new, policy).await;
        match &again.outcome {
            Err(error) if error.kind() != Kind::AlreadyExists => written,
            _ => {
                self.checksums.learn("refuses");
                again
            }
        }
    }

    /// A put with just this cover.
    async fn write_as_is(&self, key: &str, write: &Write, only_new: bool, policy: Policy) -> Written {
        let suspect = AtomicBool::new(false);
        let put = |tracked| async {
            let body = stream(&write.body).await.map_err(Failure::Final)?;
            let request = self.putting(key, write, only_new).body(body).customize();
            match request.interceptor(write.signing.clone()).interceptor(tracked).send().await {
                Ok(output) => {
                    self.believe(key, write, &output)?;
                    Ok(Ok(output))
                }
                Err(error) => {
                    let header = failure::refusal(&error).is_some_and(|refusal| refusal.may_mean_a_header());
                    suspect.store(header, Ordering::Relaxed);
                    Ok(Err(error))
                }
            }
        };
        let outcome = self.send(Action::Put, key, write.body.size(), policy, put).await;
        Written { outcome, suspect: suspect.into_inner() }
    }

    /// The request for a put, without its body.
    fn putting(&self, key: &str, write: &Write, only_new: bool) -> PutObjectFluentBuilder {
        let request = self.client.put_object().bucket(&self.bucket).key(self.key(key));
        let request = request
            .content_length(write.body.size() as i64)
            .set_checksum_crc32_c(write.cover.crc32c_header())
            .set_content_md5(write.cover.md5_header())
            .set_if_none_match(only_new.then(|| "*".to_owned()));
        self.carried.put(request, key, Timestamp::now())
    }

    /// Is what says that it stored the object a store? Something between here and there may answer 200 to anything.
    fn believe(&self, key: &str, write: &Write, output: &PutObjectOutput) -> Result<(), Failure> {
        let doubt = |why: &str| Err(Failure::Transient(self.attempt(Action::Put, key).given_up(why)));
        if output.e_tag().is_none_or(str::is_empty) {
            return doubt("the answer has no ETag, as that of a store has");
        }
        match (output.checksum_crc32_c(), &write.cover) {
            (Some(theirs), Cover::Crc32c(ours)) if theirs != ours => doubt("the store has other bytes than were sent"),
            // A store that verified it says so (Amazon S3 API Reference, "PutObject").
            (None, Cover::Crc32c(_)) => {
                self.checksums.learn("passes over");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// An object that cannot be read at once, under a key that is taken: is it the one that was to be stored?
    async fn is_the_same_unread(&self, key: &str, write: &Write) -> Result<bool> {
        let there = self.look(key, Some(ChecksumMode::Enabled)).await?;
        let size = u64::try_from(there.content_length().unwrap_or(-1)).ok();
        let Cover::Crc32c(ours) = &write.cover else { return Ok(false) };
        Ok(size == Some(write.body.size()) && there.checksum_crc32_c() == Some(ours))
    }
}
