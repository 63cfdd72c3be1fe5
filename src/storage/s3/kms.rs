//! Keys of AWS KMS, which wrap data keys and never leave it.
//!
//! Asked as the same identity as S3, in the region that a key's ARN names. Knows nothing of what its answers are for. What
//! it gives out in the clear is wiped when it is dropped; copies in the buffers of the SDK and of TLS are not ours to wipe.

use std::collections::{BTreeMap, HashMap};
use std::error::Error as StdError;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kms::Client;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::RequestId;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::DataKeySpec;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::causes::{causes, find};
use super::connect::{self, Options};
use super::failure;
use super::identity::Identity;
use crate::config::encryption::region_of_key;
use crate::crypt::{ExposeSecret, SecretSlice};
use crate::error::{Error, Kind, Result};
use crate::storage::retry::{Failure, Policy};

/// How long one try may take; KMS answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// What KMS binds a ciphertext to: it decrypts only where it is told the same again (AWS KMS Developer Guide, "Encryption
/// context"). It is no secret, and CloudTrail has it.
pub type Context = BTreeMap<String, String>;

/// KMS, as some identity sees it; clones are the same.
#[derive(Clone, Debug)]
pub struct Kms(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    /// By region; made when first needed.
    clients: Mutex<HashMap<String, Connected>>,
}

#[derive(Clone, Debug)]
struct Connected {
    client: Client,
    identity: Identity,
}

/// A new key of 32 bytes.
#[derive(Debug)]
pub struct Generated {
    /// In the clear.
    pub secret: SecretSlice<u8>,
    /// Wrapped.
    pub wrapped: Wrapped,
}

/// What KMS has wrapped.
#[derive(Debug)]
pub struct Wrapped {
    /// The ARN of the key that it is wrapped with.
    pub key: String,
    /// The ciphertext.
    pub ciphertext: Vec<u8>,
}

impl Kms {
    /// Nothing is asked yet.
    pub fn new(options: Options) -> Kms {
        Kms(Arc::new(Inner { options, clients: Mutex::default() }))
    }

    /// Makes a key (GenerateDataKey).
    ///
    /// # Errors
    /// [`Kind::Denied`] with what KMS said, [`Kind::Unreachable`] if it does not answer.
    pub async fn generate(&self, key: &str, context: &Context) -> Result<Generated> {
        let asked = Asked { action: "GenerateDataKey", doing: "could not make a data key", key };
        let output = self
            .send(&asked, |client| {
                let request = client.generate_data_key().key_id(key).key_spec(DataKeySpec::Aes256);
                request.set_encryption_context(Some(pairs(context))).send()
            })
            .await?;
        let (Some(plain), Some(ciphertext)) = (output.plaintext, output.ciphertext_blob) else {
            return Err(asked.incomplete());
        };
        let wrapped =
            Wrapped { key: output.key_id.unwrap_or_else(|| key.to_owned()), ciphertext: ciphertext.into_inner() };
        Ok(Generated { secret: plain.into_inner().into(), wrapped })
    }

    /// Wraps a key that is there (Encrypt).
    ///
    /// # Errors
    /// Those of [`Kms::generate`].
    pub async fn encrypt(&self, key: &str, secret: &SecretSlice<u8>, context: &Context) -> Result<Wrapped> {
        let asked = Asked { action: "Encrypt", doing: "could not wrap a data key", key };
        let output = self
            .send(&asked, |client| {
                let request = client.encrypt().key_id(key).plaintext(Blob::new(secret.expose_secret()));
                request.set_encryption_context(Some(pairs(context))).send()
            })
            .await?;
        let Some(ciphertext) = output.ciphertext_blob else { return Err(asked.incomplete()) };
        Ok(Wrapped { key: output.key_id.unwrap_or_else(|| key.to_owned()), ciphertext: ciphertext.into_inner() })
    }

    /// Unwraps a key (Decrypt).
    ///
    /// # Errors
    /// Those of [`Kms::generate`]; [`Kind::Corrupt`] if this was not wrapped by that key, or in another context.
    pub async fn decrypt(&self, key: &str, ciphertext: &[u8], context: &Context) -> Result<SecretSlice<u8>> {
        let asked = Asked { action: "Decrypt", doing: "could not open a data key", key };
        let output = self
            .send(&asked, |client| {
                let request = client.decrypt().key_id(key).ciphertext_blob(Blob::new(ciphertext));
                request.set_encryption_context(Some(pairs(context))).send()
            })
            .await?;
        output.plaintext.map(|plain| plain.into_inner().into()).ok_or_else(|| asked.incomplete())
    }

    async fn connected(&self, asked: &Asked<'_>) -> Result<Connected> {
        let region = region_of_key(asked.key).ok_or_else(|| {
            Error::new(Kind::Config, asked.what()).detail("it is not the ARN of a key of KMS, which names its region")
        })?;
        let mut clients = self.0.clients.lock().await;
        if let Some(connected) = clients.get(region) {
            return Ok(connected.clone());
        }
        let (shared, identity) = connect::service(region, &self.0.options).await;
        let config = aws_sdk_kms::config::Builder::from(&shared).credentials_provider(identity.clone());
        let connected = Connected { client: Client::from_conf(config.build()), identity };
        clients.insert(region.to_owned(), connected.clone());
        Ok(connected)
    }

    /// Sends a request, again where that may help, within the budget of the store's requests.
    async fn send<T, E, F>(&self, asked: &Asked<'_>, request: impl Fn(&Client) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, SdkError<E>>>,
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let Connected { client, identity } = self.connected(asked).await?;
        let Options { retry_timeout, strict, .. } = self.0.options;
        let mut tries = Policy { strict, ..Policy::within(retry_timeout) }.begin();
        let mut renewed = false;
        loop {
            let began = Instant::now();
            let failure = match timeout(tries.left().map_or(PATIENCE, |left| left.min(PATIENCE)), request(&client))
                .await
            {
                Ok(Ok(output)) => return Ok(output),
                Ok(Err(error)) => match asked.judge(&error, identity.describe().as_deref()) {
                    Failure::Final(error) if !renewed && is_stale(&error) && identity.discard(began).await => {
                        renewed = true;
                        Failure::Transient(error)
                    }
                    failure => failure,
                },
                Err(_) => Failure::Transient(asked.unreachable(format!("no answer within {} s", PATIENCE.as_secs()))),
            };
            tokio::time::sleep(tries.pause(failure)?).await;
        }
    }
}

fn pairs(context: &Context) -> HashMap<String, String> {
    context.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Has the session ended that the request was signed with?
fn is_stale(error: &Error) -> bool {
    error.cause().is_some_and(|cause| cause.starts_with("ExpiredToken") || cause.starts_with("UnrecognizedClient"))
}

/// A request as messages tell of it.
struct Asked<'a> {
    /// The action that it needs (Service Authorization Reference, "Actions defined by AWS Key Management Service").
    action: &'static str,
    doing: &'static str,
    key: &'a str,
}

impl Asked<'_> {
    fn what(&self) -> String {
        format!("{} with the KMS key {}", self.doing, self.key)
    }

    fn incomplete(&self) -> Error {
        Error::new(Kind::Corrupt, self.what()).detail("the answer of KMS has not all that it should")
    }

    fn unreachable(&self, cause: String) -> Error {
        Error::new(Kind::Unreachable, self.what())
            .detail(cause)
            .hint("Check AWS_ENDPOINT_URL_KMS, AWS_ENDPOINT_URL and the network.")
    }

    /// What becomes of a request that has failed.
    fn judge<E>(&self, error: &SdkError<E>, who: Option<&str>) -> Failure
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        if let SdkError::ServiceError(service) = error {
            let status = service.raw().status().as_u16();
            let code = service.err().code().unwrap_or("no error code");
            let message = service.err().message().unwrap_or_default();
            let id = service.err().meta().request_id().map_or(String::new(), |id| format!(", request id {id}"));
            let cause = format!("{code}: {message}; HTTP status {status}{id}");
            return self.refused(status, code, cause, who);
        }
        match find::<CredentialsError>(error) {
            Some(credentials) => failure::nobody(credentials, self.what()),
            None => Failure::Transient(self.unreachable(causes(error))),
        }
    }

    /// By the codes of the AWS KMS API Reference ("Common errors", and those of the three actions).
    fn refused(&self, status: u16, code: &str, cause: String, who: Option<&str>) -> Failure {
        let error = |kind| {
            let error = Error::new(kind, self.what()).detail(cause.clone());
            who.iter().fold(error, |error, who| error.detail(format!("asked as {who}")))
        };
        let (key, action) = (self.key, self.action);
        match code.rsplit('#').next().unwrap_or(code) {
            "AccessDeniedException" | "AccessDenied" => Failure::Final(error(Kind::Denied).hint(format!(
                "Allow kms:{action} on {key} in the identity's policies and in the key's own, in the encryption context of \
                 this archive (docs/encryption.md)."
            ))),
            "InvalidCiphertextException" | "IncorrectKeyException" => Failure::Final(error(Kind::Corrupt)),
            "NotFoundException" if action == "Decrypt" => Failure::Final(error(Kind::Config).hint(
                "That key is gone from KMS: name the identity of another holder with --identity-file; walden keys prints them.",
            )),
            "NotFoundException" => Failure::Final(
                error(Kind::Config).hint("Check the ARN in encrypt-to (--encrypt-to, WALDEN_ENCRYPT_TO) and its region."),
            ),
            "DisabledException" | "KMSInvalidStateException" => Failure::Final(
                error(Kind::Denied).hint(format!("Enable {key} again, or cancel its deletion: without it nothing can be opened.")),
            ),
            "ThrottlingException" | "LimitExceededException" | "DependencyTimeoutException" | "KeyUnavailableException" => {
                Failure::Transient(error(Kind::Unreachable))
            }
            _ if status >= 500 => Failure::Transient(error(Kind::Unreachable)),
            _ => Failure::Final(error(Kind::Denied)),
        }
    }
}
