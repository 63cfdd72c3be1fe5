//! The token service beside the store: sessions for whoever brings a web identity token, and their end.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use hyper::{Response, StatusCode};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

use super::{ACCESS_KEY, SECRET_KEY, Sessions};

/// Sessions that were handed out: access keys with their ends.
#[derive(Default)]
pub(super) struct Issued {
    /// How long the next one lives.
    pub life: Option<Duration>,
    sessions: HashMap<String, SystemTime>,
}

impl Issued {
    /// Ends all sessions at once, as if somebody had revoked them.
    pub fn revoke(&mut self) {
        self.sessions.values_mut().for_each(|end| *end = SystemTime::UNIX_EPOCH);
    }

    /// The answer to AssumeRoleWithWebIdentity (AWS STS API Reference), whatever the token.
    fn assume(&mut self) -> String {
        let end = SystemTime::now() + self.life.unwrap_or(Duration::from_secs(3600));
        let key = format!("ASIAWALDENTEST{:06}", self.sessions.len());
        self.sessions.insert(key.clone(), end);
        let expiration = jiff::Timestamp::try_from(end).unwrap();
        format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
             <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{key}</AccessKeyId>\
             <SecretAccessKey>{SECRET_KEY}</SecretAccessKey><SessionToken>{key}-token</SessionToken>\
             <Expiration>{expiration}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
             <ResponseMetadata><RequestId>TEST</RequestId></ResponseMetadata></AssumeRoleWithWebIdentityResponse>"
        )
    }
}

/// Answers a request to the token service.
pub(super) fn answer(sessions: &Sessions, form: &Bytes) -> Response<s3s::Body> {
    let form = String::from_utf8_lossy(form);
    if !form.contains("Action=AssumeRoleWithWebIdentity") || !form.contains("WebIdentityToken=") {
        return super::fault::error_response(super::Op::Assume, StatusCode::BAD_REQUEST, "InvalidAction");
    }
    Response::new(s3s::Body::from(sessions.lock().unwrap().assume()))
}

/// The lasting key, and those of the sessions until they end.
pub(super) struct Keys(pub Sessions);

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == ACCESS_KEY {
            return Ok(SecretKey::from(SECRET_KEY));
        }
        match self.0.lock().unwrap().sessions.get(access_key) {
            None => Err(s3_error!(InvalidAccessKeyId)),
            Some(end) if *end <= SystemTime::now() => Err(s3_error!(ExpiredToken)),
            Some(_) => Ok(SecretKey::from(SECRET_KEY)),
        }
    }
}
