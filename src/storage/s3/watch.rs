//! What is attached to every request, and looked for in every answer.

use std::fmt;
use std::time::{Duration, Instant};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;

use super::refusal::is_page;
use crate::storage::progress::Running;

/// How long one try may stand still, and how long it may take beyond the transfer of its bytes.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// The slowest transfer that is not given up, in bytes a second.
pub(super) const SLOWEST: u64 = 128 << 10;

/// Why a try has taken too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooLong {
    /// It stands still.
    Still,
    /// It moves too slowly for its bytes.
    Slow,
    /// It has used up what was left of the budget.
    OutOfTime,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TooLong::Still => write!(f, "nothing has moved for {} s", PATIENCE.as_secs()),
            TooLong::Slow => write!(f, "less than {} KiB a second were moving", SLOWEST >> 10),
            TooLong::OutOfTime => f.write_str("the time for it is used up"),
        }
    }
}

/// Returns when a try with so many bytes, for which so much of the budget is `left`, has taken too long.
pub(super) async fn too_long(running: &Running, bytes: u64, left: Option<Duration>) -> TooLong {
    let began = Instant::now();
    let total = PATIENCE + Duration::from_secs(bytes / SLOWEST);
    let bound = left.map_or(total, |left| left.min(total));
    loop {
        let (elapsed, idle) = (began.elapsed(), running.idle());
        if idle >= PATIENCE {
            return TooLong::Still;
        }
        if elapsed >= bound {
            return if bound < total { TooLong::OutOfTime } else { TooLong::Slow };
        }
        tokio::time::sleep((PATIENCE - idle).min(bound - elapsed)).await;
    }
}

/// Ties a request to its [`Running`], and believes no answer that was cut.
#[derive(Clone, Debug)]
pub(super) struct Tracked(pub Running);

#[dyn_dispatch_hint]
impl Intercept for Tracked {
    fn name(&self) -> &'static str {
        "Tracked"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        context.request_mut().add_extension(self.0.clone());
        Ok(())
    }

    /// The SDK takes the end of the bytes for the end of the document: of a listing that was cut it would report the
    /// half that came, and of a refused delete nothing. And it takes any 200 for that of a store.
    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        if !response.status().is_success() {
            return Ok(());
        }
        if response.headers().get("content-type").is_some_and(is_page) {
            return Err("it is a page for a browser".into());
        }
        // The body of an object is a stream, and not in memory.
        match response.body().bytes() {
            Some(bytes) if !is_whole(bytes) => Err("the document ends early".into()),
            _ => Ok(()),
        }
    }
}

/// Does an XML document end with the end of its first element? What is no XML is none of our business here.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    if !text.starts_with('<') {
        return true;
    }
    let Some(root) = text.split('<').skip(1).find(|tag| !tag.starts_with(['?', '!'])) else { return false };
    let name = root.split(|c: char| c.is_whitespace() || "/>".contains(c)).next().unwrap_or_default();
    // <Root ...>...</Root>, or <Root .../> and nothing after it.
    text.ends_with(&format!("</{name}>")) || (root.ends_with("/>") && text.ends_with(root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LISTING: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3\"><Name>b</Name>\
         <Contents><Key>a&lt;</Key></Contents></ListBucketResult>\n";

    proptest! {
        #[test]
        fn no_beginning_of_a_document_is_taken_for_all_of_it(end in 1..LISTING.trim_end().len()) {
            prop_assert!(!is_whole(&LISTING.as_bytes()[..end]), "{}", &LISTING[..end]);
        }

        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), text in "[<>/?! a]{0,20}") {
            let _ = (is_whole(&bytes), is_whole(text.as_bytes()));
        }
    }

    #[test]
    fn whole_documents_and_other_bodies_pass() {
        for text in
            [LISTING, "", "plain", "<DeleteResult/>", "<?xml version=\"1.0\"?><DeleteResult xmlns=\"x\"/>", "<a></a>"]
        {
            assert!(is_whole(text.as_bytes()), "{text}");
        }
    }
}
