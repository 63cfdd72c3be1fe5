//! The head of one answer, whatever its status: the store's clock, its region, and how quick it was.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

/// What one answer told beside its content; made when the request is, and asked when it has been answered.
#[derive(Debug, Default)]
pub(in super::super) struct Witness {
    seen: Mutex<Option<Seen>>,
    began: Mutex<Option<Instant>>,
}

impl Witness {
    /// What was seen, if there was an answer.
    pub fn seen(&self) -> Option<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub(in super::super) struct Seen {
    /// When it came, by our clock.
    pub at: Timestamp,
    /// How long after the request.
    pub took: Duration,
    /// The same moment by the store's clock.
    pub date: Option<Timestamp>,
    /// Where the bucket is.
    pub region: Option<String>,
}

/// Reads the head of an answer, whatever its status.
#[derive(Debug)]
pub(in super::super) struct Watching(pub Arc<Witness>);

#[dyn_dispatch_hint]
impl Intercept for Watching {
    fn name(&self) -> &'static str {
        "Watching"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *self.0.began.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.response().headers();
        let began = *self.0.began.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = Seen {
            at: Timestamp::now(),
            took: began.map(|began| began.elapsed()).unwrap_or_default(),
            date: headers.get("date").and_then(|date| DateTimeParser::new().parse_timestamp(date).ok()),
            region: headers.get("x-amz-bucket-region").map(str::to_owned),
        };
        *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        Ok(())
    }
}
