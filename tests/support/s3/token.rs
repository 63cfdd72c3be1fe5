//! The token service beside the store: sessions for whoever brings a web identity token or assumes a role, and their end.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use hyper::{HeaderMap, Response, StatusCode};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

use super::{ACCESS_KEY, SECRET_KEY, Sessions};

/// A request for a session: its parameters, and `Caller`, the access key that signed it.
pub type Assumed = HashMap<String, String>;

/// Sessions that were handed out: access keys with their ends.
#[derive(Default)]
pub(super) struct Issued {
    /// How long the next one lives.
    pub life: Option<Duration>,
    /// What every role asks its users to name.
    pub external_id: Option<String>,
    pub asked: Vec<Assumed>,
    sessions: HashMap<String, Session>,
}

struct Session {
    end: SystemTime,
    arn: String,
}

impl Issued {
    /// Ends all sessions at once, as if somebody had revoked them.
    pub fn revoke(&mut self) {
        self.sessions.values_mut().for_each(|session| session.end = SystemTime::UNIX_EPOCH);
    }

    /// Who signs with this key, if anybody may.
    fn arn(&self, key: &str) -> Option<String> {
        match key {
            ACCESS_KEY => Some("arn:aws:iam::123456789012:user/test".to_owned()),
            _ => self
                .sessions
                .get(key)
                .filter(|session| session.end > SystemTime::now())
                .map(|session| session.arn.clone()),
        }
    }

    /// The answers to AssumeRole and AssumeRoleWithWebIdentity (AWS STS API Reference).
    fn assume(&mut self, action: &str, asked: &Assumed) -> String {
        let end = SystemTime::now() + self.life.unwrap_or(Duration::from_secs(3600));
        let key = format!("ASIAWALDENTEST{:06}", self.sessions.len());
        let role = asked["RoleArn"].replace(":iam:", ":sts:").replace(":role/", ":assumed-role/");
        let arn = format!("{role}/{}", asked.get("RoleSessionName").map_or("", String::as_str));
        self.sessions.insert(key.clone(), Session { end, arn: arn.clone() });
        let expiration = jiff::Timestamp::try_from(end).unwrap();
        document(
            action,
            &format!(
                "<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{SECRET_KEY}</SecretAccessKey>\
                 <SessionToken>{key}-token</SessionToken><Expiration>{expiration}</Expiration></Credentials>\
                 <AssumedRoleUser><AssumedRoleId>AROATEST:x</AssumedRoleId><Arn>{arn}</Arn></AssumedRoleUser>"
            ),
        )
    }
}

fn document(action: &str, result: &str) -> String {
    format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>{result}</{action}Result>\
         <ResponseMetadata><RequestId>TEST</RequestId></ResponseMetadata></{action}Response>"
    )
}

fn refusal(code: &str, message: &str) -> Response<s3s::Body> {
    let text = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code>\
         <Message>{message}</Message></Error><RequestId>TEST</RequestId></ErrorResponse>"
    );
    let mut response = Response::new(s3s::Body::from(text));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response.headers_mut().insert("x-amzn-requestid", "TEST".parse().unwrap());
    response
}

/// Answers a request to the token service.
pub(super) fn answer(sessions: &Sessions, headers: &HeaderMap, form: &Bytes) -> Response<s3s::Body> {
    let mut asked: Assumed = form_urlencoded::parse(form).into_owned().collect();
    let action = asked.get("Action").cloned().unwrap_or_default();
    let mut issued = sessions.lock().unwrap();
    if action != "AssumeRoleWithWebIdentity" {
        let key = caller(headers);
        let Some(arn) = issued.arn(&key) else {
            return refusal("InvalidClientTokenId", "The security token included in the request is invalid.");
        };
        if action == "GetCallerIdentity" {
            let result = format!("<Arn>{arn}</Arn><UserId>AIDATEST</UserId><Account>123456789012</Account>");
            return Response::new(s3s::Body::from(document(&action, &result)));
        }
        asked.insert("Caller".to_owned(), key);
        let role = asked.get("RoleArn").cloned().unwrap_or_default();
        issued.asked.push(asked.clone());
        if issued.external_id.is_some() && issued.external_id.as_ref() != asked.get("ExternalId") {
            let message = format!("User: {arn} is not authorized to perform: sts:AssumeRole on resource: {role}");
            return refusal("AccessDenied", &message);
        }
    } else if !asked.contains_key("WebIdentityToken") {
        return refusal("InvalidIdentityToken", "There is no token.");
    } else {
        issued.asked.push(asked.clone());
    }
    Response::new(s3s::Body::from(issued.assume(&action, &asked)))
}

/// Whose signature it is (AWS Signature Version 4); that the signature is right is not looked at.
fn caller(headers: &HeaderMap) -> String {
    let header = headers.get("authorization").map_or("", |value| value.to_str().unwrap());
    let credential = header.split("Credential=").nth(1).unwrap_or_default();
    credential.split('/').next().unwrap_or_default().to_owned()
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
            Some(session) if session.end <= SystemTime::now() => Err(s3_error!(ExpiredToken)),
            Some(_) => Ok(SecretKey::from(SECRET_KEY)),
        }
    }
}
