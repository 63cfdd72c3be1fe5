//! A store from before 2022, when checksums came into headers: strict, and not to be reasoned with.

use hyper::{Method, Request};

use super::Answer;

/// What it says to this request at once, if it does not like it; `way` is how it refuses a header that it does not know.
pub(super) fn refuses<B>(request: &Request<B>, way: Answer) -> Option<Answer> {
    let has = |name: &str| request.headers().contains_key(name);
    let is_new =
        |name: &str| name.starts_with("x-amz-checksum-") || name.starts_with("x-amz-sdk-") || name == "x-amz-trailer";
    let query = request.uri().query().unwrap_or_default();
    if matches!(*request.method(), Method::PUT | Method::POST) && !has("content-length") {
        let message = "You must provide the Content-Length HTTP header.";
        return Some(Answer::refusal(411, "MissingContentLength", message));
    }
    if request.headers().keys().any(|name| is_new(name.as_str())) {
        return Some(way);
    }
    if query.starts_with("delete") && !has("content-md5") {
        return Some(Answer::refusal(400, "InvalidRequest", "Missing required header for this request: Content-MD5"));
    }
    None
}
