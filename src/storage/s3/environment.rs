//! The variables of the AWS SDKs that are read here and not by the SDK.

/// The endpoint that the environment names, if it does (AWS SDKs and Tools Reference Guide, "Service-specific endpoints").
pub fn endpoint() -> Option<String> {
    variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL"))
}

/// A variable that is set, and not to nothing.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
