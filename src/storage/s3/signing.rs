//! How a put's payload is covered by its signature.

use aws_runtime::auth::PayloadSigningOverride;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use sha2::{Digest, Sha256};

use super::body::digest;
use crate::error::Result;
use crate::storage::Body;

/// Decides, once the address of a request is known, how its payload is signed: over https not at all, for TLS protects it
/// and without SHA instructions a SHA-256 costs more than the compression; over http by its SHA-256, which AWS requires
/// there (Amazon S3 API Reference, "Authenticating Requests").
#[derive(Clone, Debug)]
pub(super) struct PayloadSigning {
    /// The SHA-256 of a body that the SDK cannot see because it lies in a file.
    spooled: Option<String>,
}

impl PayloadSigning {
    pub(super) async fn prepare(body: &Body) -> Result<PayloadSigning> {
        let spooled = match body {
            Body::Memory(_) => None,
            Body::File(..) => {
                let update = |mut hasher: Sha256, bytes: &[u8]| {
                    hasher.update(bytes);
                    hasher
                };
                let sum = digest(body.clone(), Sha256::new(), update).await?.finalize();
                Some(sum.iter().map(|byte| format!("{byte:02x}")).collect())
            }
        };
        Ok(PayloadSigning { spooled })
    }
}

#[dyn_dispatch_hint]
impl Intercept for PayloadSigning {
    fn name(&self) -> &'static str {
        "PayloadSigning"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let secure = context.request().uri().starts_with("https:");
        match (secure, &self.spooled) {
            (true, _) => config.interceptor_state().store_put(PayloadSigningOverride::unsigned_payload()),
            (false, Some(sum)) => {
                config.interceptor_state().store_put(PayloadSigningOverride::Precomputed(sum.clone()))
            }
            (false, None) => return Ok(()),
        };
        Ok(())
    }
}
