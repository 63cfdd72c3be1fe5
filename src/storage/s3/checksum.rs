//! What a store verifies an object with when it arrives: a CRC-32C in a header where it takes one, else Content-MD5.
//!
//! Some stores refuse headers of checksums that they do not know, others pass over them. Nobody is asked: the first put
//! finds out, and what it found out is remembered. Amazon's own take the CRC-32C (Amazon S3 User Guide, "Checking object
//! integrity"). Decides nothing about what comes back: that is digested by whoever reads it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use base64::Engine;
use md5::{Digest, Md5};

use super::body::digest;
use crate::config::value::Checksum;
use crate::error::Result;
use crate::storage::Body;
use crate::storage::memory::Memory;

/// How long a store is believed not to verify a CRC-32C. An upgrade may bring it, and finding out costs one request.
const UNKNOWN_FOR: Duration = Duration::from_secs(86_400);

/// What covers a body on its way, as its header has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cover {
    /// `x-amz-checksum-crc32c`.
    Crc32c(String),
    /// `Content-MD5` (RFC 1864), which S3 has had from its beginning.
    Md5(String),
    /// Nothing but the signature, where that covers the payload.
    Nothing,
}

impl Cover {
    /// The body's CRC-32C: four bytes, big-endian, in Base64.
    async fn crc32c(body: &Body) -> Result<Cover> {
        Ok(Cover::Crc32c(base64(digest(body.clone(), 0, crc32c::crc32c_append).await?.to_be_bytes())))
    }

    /// The body's MD5.
    pub async fn md5(body: &Body) -> Result<Cover> {
        let update = |hasher: Md5, bytes: &[u8]| hasher.chain_update(bytes);
        Ok(Cover::Md5(base64(digest(body.clone(), Md5::new(), update).await?.finalize())))
    }

    pub fn crc32c_header(&self) -> Option<String> {
        match self {
            Cover::Crc32c(sum) => Some(sum.clone()),
            _ => None,
        }
    }

    pub fn md5_header(&self) -> Option<String> {
        match self {
            Cover::Md5(sum) => Some(sum.clone()),
            _ => None,
        }
    }
}

/// What is known of one store.
#[derive(Debug)]
pub(super) struct Checksums {
    choice: Checksum,
    memory: Memory,
    /// Under which it is remembered; `None` where there is nothing to find out.
    key: Option<String>,
    /// Whether the store verifies a CRC-32C, once the memory has been asked.
    known: Mutex<Option<bool>>,
}

impl Checksums {
    /// Of a store below `url`; `amazon` if its endpoint is one of Amazon's own.
    pub fn of(choice: Checksum, endpoint: &str, url: &str, amazon: bool, memory: Memory) -> Checksums {
        let open = choice == Checksum::Auto && !amazon;
        let key = open.then(|| format!("checksum\n{endpoint}\n{url}"));
        Checksums { choice, memory, key, known: Mutex::default() }
    }

    /// What the store is to verify this body with.
    pub async fn cover(&self, body: &Body) -> Result<Cover> {
        match self.choice {
            Checksum::Off => Ok(Cover::Nothing),
            Checksum::Auto | Checksum::Crc32c if self.verifies_crc32c() => Cover::crc32c(body).await,
            Checksum::Auto | Checksum::Crc32c => Cover::md5(body).await,
        }
    }

    /// What covers objects here, as far as a put has shown it.
    pub fn describe(&self) -> &'static str {
        match self.choice {
            Checksum::Off => "none: s3-checksum is off",
            _ if self.verifies_crc32c() => "CRC-32C, verified on arrival",
            _ => "Content-MD5, for the store does not verify CRC-32C",
        }
    }

    /// Is a put worth another try without this header, now that it was refused?
    pub fn may_do_without(&self, cover: &Cover) -> bool {
        self.key.is_some() && matches!(cover, Cover::Crc32c(_))
    }

    /// The store refuses the header, or passes over it.
    pub fn learn(&self, what: &str) {
        let Some(key) = &self.key else { return };
        if self.known().replace(false) != Some(false) {
            tracing::info!("the store {what} x-amz-checksum-crc32c: Content-MD5 covers what is sent from now on");
            self.memory.remember(key, "md5", UNKNOWN_FOR);
        }
    }

    fn verifies_crc32c(&self) -> bool {
        let Some(key) = &self.key else { return true };
        *self.known().get_or_insert_with(|| self.memory.recall(key).is_none())
    }

    fn known(&self) -> MutexGuard<'_, Option<bool>> {
        // No code that can panic runs under this lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Covers a request by Content-MD5 instead of by the checksum that the SDK has chosen: deletes of many keys have to be
/// covered, and every store knows this header.
#[derive(Clone, Copy, Debug)]
pub(super) struct ContentMd5;

#[dyn_dispatch_hint]
impl Intercept for ContentMd5 {
    fn name(&self) -> &'static str {
        "ContentMd5"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let sum = Md5::digest(request.body().bytes().ok_or("the body is not in memory")?);
        let headers = request.headers_mut();
        let is_other = |name: &str| name.starts_with("x-amz-checksum-") || name == "x-amz-sdk-checksum-algorithm";
        let others: Vec<String> =
            headers.iter().map(|(name, _)| name).filter(|name| is_other(name)).map(str::to_owned).collect();
        for other in others {
            headers.remove(other);
        }
        headers.insert("content-md5", base64(sum));
        Ok(())
    }
}

fn base64(sum: impl AsRef<[u8]>) -> String {
    base64::engine::general_purpose::STANDARD.encode(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksums(choice: Checksum, amazon: bool, memory: &Memory) -> Checksums {
        Checksums::of(choice, "http://e", "s3://b/", amazon, memory.clone())
    }

    #[tokio::test]
    async fn what_a_store_does_not_verify_is_remembered_of_it_and_never_of_amazons() {
        let scratch = tempfile::tempdir().unwrap();
        let memory = Memory::at(Some(scratch.path().join("memory")));
        let body = Body::from(b"123456789".to_vec());
        // The check value of CRC-32C, 0xe3069283, and what md5sum(1) says.
        let (crc, md5) = (Cover::Crc32c("4waSgw==".into()), Cover::Md5("JfnnlDI7RTiF9RgfG2JNCw==".into()));
        for (choice, amazon) in [(Checksum::Auto, true), (Checksum::Crc32c, false)] {
            let own = checksums(choice, amazon, &memory);
            assert!(!own.may_do_without(&crc));
            own.learn("refuses");
            assert_eq!(own.cover(&body).await.unwrap(), crc);
        }
        let other = checksums(Checksum::Auto, false, &memory);
        assert_eq!(other.cover(&body).await.unwrap(), crc);
        assert!(other.may_do_without(&crc) && !other.may_do_without(&md5));
        other.learn("refuses");
        assert_eq!(other.cover(&body).await.unwrap(), md5);
        assert_eq!(checksums(Checksum::Auto, false, &memory).cover(&body).await.unwrap(), md5);
        assert_eq!(checksums(Checksum::Off, false, &memory).cover(&body).await.unwrap(), Cover::Nothing);
    }
}
