//! From the AWS settings that everybody knows (environment, profile files, instance metadata) to a client.

use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};

use crate::config::value::{Addressing, Checksum};
use crate::error::{Context, Error, Kind, Result};
use crate::storage::memory::Memory;

/// How long a TCP or TLS connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where distributions keep all their root certificates in one file; reading it is much quicker than reading the
/// directory of single ones beside it.
const CA_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What the user chose for an S3 store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bucket's name.
    pub bucket: String,
    /// What all keys begin with, without slashes at its ends; may be empty.
    pub prefix: String,
    /// How the bucket's name gets into a request.
    pub addressing: Addressing,
    /// What the store is to verify on arrival.
    pub checksum: Checksum,
    /// The budget of the retries of one request.
    pub retry_timeout: Duration,
    /// What this machine knows of the store already.
    pub memory: Memory,
}

/// The endpoint that the environment names, if it does (AWS SDKs and Tools Reference Guide, "Service-specific endpoints").
pub fn endpoint() -> Option<String> {
    variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL"))
}

/// A client that sends each request once, and plain; and whom it talks to.
pub(super) async fn client(options: &Options) -> Result<(Client, String)> {
    let endpoint = endpoint();
    let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new());
    // A store of one's own seldom has regions, and asking the metadata service of a cloud that is not there takes seconds.
    let region = match endpoint.is_some() {
        true => region.or_else(Region::new("us-east-1")),
        false => region.or_else(ImdsRegionProvider::builder().build()),
    };
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build();
    let shared = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(region)
        .http_client(
            aws_smithy_http_client::Builder::new()
                .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
                .tls_context(tls_context()?)
                .build_https(),
        )
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        // Its bounds are ours: see `PATIENCE`.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .load()
        .await;
    let Some(region) = shared.region() else {
        return Err(Error::new(Kind::Config, "the region of the bucket is not set")
            .hint("Set AWS_REGION, or region in the profile that AWS_PROFILE names."));
    };
    let endpoint = endpoint.or_else(|| shared.endpoint_url().map(str::to_owned));
    let path_style = match options.addressing {
        Addressing::Path => true,
        Addressing::Virtual => false,
        // A dot in the bucket's name would not fit the wildcard of the server's certificate.
        Addressing::Auto => endpoint.is_some() || options.bucket.contains('.'),
    };
    let client = Client::from_conf(aws_sdk_s3::config::Builder::from(&shared).force_path_style(path_style).build());
    Ok((client, endpoint.unwrap_or_else(|| format!("that of Amazon S3 in {region}"))))
}

/// The root certificates: those of `AWS_CA_BUNDLE` or `SSL_CERT_FILE` alone where one is set, else the system's.
fn tls_context() -> Result<TlsContext> {
    let chosen = ["AWS_CA_BUNDLE", "SSL_CERT_FILE"].into_iter().find_map(|name| Some((name, variable(name)?)));
    let store = match chosen {
        Some((name, path)) => {
            let pem = std::fs::read(&path).during(|| format!("could not read the CA bundle \"{path}\""));
            TrustStore::empty().with_pem_certificate(pem.map_err(|error| {
                error.hint(format!("Correct {name}, or unset it to use the system's certificates."))
            })?)
        }
        None => match CA_BUNDLES.iter().find_map(|path| std::fs::read(path).ok()) {
            Some(pem) => TrustStore::empty().with_pem_certificate(pem),
            None => TrustStore::empty().with_native_roots(true),
        },
    };
    TlsContext::builder()
        .with_trust_store(store)
        .build()
        .map_err(|error| Error::new(Kind::Config, "could not prepare TLS").detail(error.to_string()))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
