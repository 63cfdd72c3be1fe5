//! The way to an identity, one hop after the other, for whoever wants to see it.

use aws_credential_types::provider::error::CredentialsError;
use jiff::Timestamp;

use super::{Identity, Taken, origin, roles};

/// One identity on the way.
#[derive(Debug)]
pub(in crate::storage::s3) struct Hop {
    /// Its ARN, or why the token service does not tell.
    pub who: Result<String, String>,
    /// The id of its access key.
    pub key: String,
    /// Where it comes from, in words.
    pub origin: String,
    /// When it ends, if it does.
    pub expires: Option<Timestamp>,
}

impl Hop {
    fn of(taken: &Taken, who: Result<String, String>, origin: String) -> Hop {
        let expires = taken.credentials.expiry().and_then(|end| Timestamp::try_from(end).ok());
        Hop { who, key: taken.credentials.access_key_id().to_owned(), origin, expires }
    }
}

impl Identity {
    /// Goes the whole way anew, without what was remembered: the hops that were reached, and why not the next.
    pub async fn trace(&self) -> (Vec<Hop>, Option<CredentialsError>) {
        let mut hops = Vec::new();
        let mut taken = match self.source().await {
            Ok(taken) => taken,
            Err(error) => return (hops, Some(error)),
        };
        let who = roles::caller(&self.0.base, &taken.credentials).await;
        let origin = origin(&taken.credentials).to_owned();
        // The role's owner should read an ARN, if we have it.
        taken.who = who.clone().unwrap_or(taken.who);
        hops.push(Hop::of(&taken, who, origin));
        for role in &self.0.roles {
            taken = match roles::assume(&self.0.base, role, &self.0.session_name, &taken).await {
                Ok(taken) => taken,
                Err(error) => return (hops, Some(CredentialsError::provider_error(error))),
            };
            hops.push(Hop::of(&taken, Ok(taken.who.clone()), format!("the role {}", role.arn)));
        }
        (hops, None)
    }
}
