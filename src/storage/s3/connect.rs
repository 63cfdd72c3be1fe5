//! From the AWS settings that everybody knows (environment, profile files, instance metadata) to a client.

use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::endpoint::{DefaultResolver, Params, ParamsBuilder, ResolveEndpoint};
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_types::service_config::ServiceConfigKey;
use http::Uri;

use super::dial::{CONNECT_TIMEOUT, Dialer};
use super::environment::{endpoint, variable};
use super::http::Http;
use super::identity::Identity;
use super::request::Wanted;
use crate::config;
use crate::config::role::AssumedRole;
use crate::config::value::{Addressing, Checksum};
use crate::error::{Error, Kind, Result};
use crate::storage::memory::Memory;

/// What the user chose for an S3 store.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the bucket's name gets into a request.
    pub addressing: Addressing,
    /// Whether requests go through Amazon's edge.
    pub accelerate: bool,
    /// What the store is to verify on arrival.
    pub checksum: Checksum,
    /// What else goes with requests.
    pub wanted: Wanted,
    /// The budget of the retries of one request.
    pub retry_timeout: Duration,
    /// Whether that bounds the try that is running, too, as somebody who waits for one small object wants it. Otherwise a
    /// try may end for as long as it moves.
    pub strict: bool,
    /// The roles to assume, each from the one before it, the first one from what the environment has.
    pub roles: Vec<AssumedRole>,
    /// What the sessions of roles are called that say nothing else.
    pub session_name: String,
    /// What this machine knows of the store already.
    pub memory: Memory,
}

/// A client that sends each request once, and plain, with what lies below it.
pub(super) struct Connected {
    pub client: Client,
    pub dialer: Dialer,
    pub identity: Identity,
    /// Whom the client talks to.
    pub endpoint: Uri,
}

/// Reads the settings of AWS and puts the client together. Sends nothing to the store.
pub(super) async fn connect(bucket: &str, options: &Options) -> Result<Connected> {
    let dialer = Dialer::from_environment();
    let http = Http::new(dialer.clone());
    let access_point = config::region_of_access_point(bucket);
    let shared = shared(region(access_point, &http).await?, &http).await;
    let custom = endpoint().or_else(|| endpoint_of_profile(&shared));
    let path_style = match options.addressing {
        Addressing::Path => true,
        Addressing::Virtual => false,
        // An access point is a host of its own.
        Addressing::Auto if access_point.is_some() => false,
        // A dot in the bucket's name would not fit the wildcard of the server's certificate.
        Addressing::Auto => custom.is_some() || bucket.contains('.'),
    };
    let asked = Params::builder()
        .bucket(bucket)
        .set_region(shared.region().map(ToString::to_string))
        .set_endpoint(custom)
        .force_path_style(path_style)
        .accelerate(options.accelerate)
        .use_arn_region(true)
        .set_use_fips(shared.use_fips())
        .set_use_dual_stack(shared.use_dual_stack());
    let endpoint = resolve(asked).await?;
    let identity = Identity::of_environment(shared.clone(), http, options);
    let config = aws_sdk_s3::config::Builder::from(&shared).force_path_style(path_style);
    let config = config.accelerate(options.accelerate).use_arn_region(true);
    let client = Client::from_conf(config.credentials_provider(identity.clone()).build());
    Ok(Connected { client, dialer, identity, endpoint })
}

/// How another service of Amazon's is reached in this region, as the same identity.
pub(super) async fn service(region: &str, options: &Options) -> (SdkConfig, Identity) {
    let http = Http::new(Dialer::from_environment());
    let shared = shared(Region::new(region.to_owned()), &http).await;
    let identity = Identity::of_environment(shared.clone(), http, options);
    (shared, identity)
}

/// The region that the environment or the profile names, else that of the access point, else that of the machine.
async fn region(access_point: Option<&str>, http: &Http) -> Result<Region> {
    // The SDK would take an empty variable for a region.
    let named = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
    let region = RegionProviderChain::first_try(named.map(Region::new))
        .or_else(ProfileFileRegionProvider::new())
        .or_else(access_point.map(|region| Region::new(region.to_owned())));
    // A store of one's own seldom has regions, and asking the metadata service of a cloud that is not there takes seconds.
    let region = match endpoint().is_some() {
        true => region.or_else(Region::new("us-east-1")),
        false => {
            let config = ProviderConfig::without_region().with_http_client(http.clone());
            region.or_else(ImdsRegionProvider::builder().configure(&config).build())
        }
    };
    region.region().await.ok_or_else(|| {
        Error::new(Kind::Config, "the region of the bucket is not set")
            .hint("Set AWS_REGION, or region in the profile that AWS_PROFILE names.")
    })
}

/// What clients of all of Amazon's services have in common here.
async fn shared(region: Region, http: &Http) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(region)
        .http_client(http.clone())
        .no_credentials()
        // Its place is taken by the identity's own.
        .identity_cache(IdentityCache::no_cache())
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
        // Its bounds are ours: see `watch`.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .load()
        .await
}

/// The endpoint that the profile names for S3, or for every service. Whether a store is Amazon's hangs on it.
fn endpoint_of_profile(shared: &SdkConfig) -> Option<String> {
    let key =
        ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url").build().ok()?;
    let own = shared.service_config().and_then(|config| config.load_config(key));
    own.or_else(|| shared.endpoint_url().map(str::to_owned))
}

/// The address that the SDK will send requests for this bucket to, by its own rules.
async fn resolve(asked: ParamsBuilder) -> Result<Uri> {
    let unusable = |cause: String| {
        let hint = remedy(&cause);
        Error::new(Kind::Config, "the address of the store cannot be used").detail(cause).hint(hint)
    };
    let params = asked.build().map_err(|error| unusable(error.to_string()))?;
    let resolver = DefaultResolver::new();
    let endpoint = ResolveEndpoint::resolve_endpoint(&resolver, &params).await;
    let url = endpoint.map_err(|error| unusable(error.to_string()))?.url().to_owned();
    let uri: Uri = url.parse().map_err(|error| unusable(format!("\"{url}\": {error}")))?;
    match (uri.scheme(), uri.authority()) {
        (Some(scheme), Some(server)) if ["http", "https"].contains(&scheme.as_str()) => {
            let server = Uri::builder().scheme(scheme.clone()).authority(server.clone()).path_and_query("/");
            server.build().map_err(|error| unusable(error.to_string()))
        }
        _ => Err(unusable(format!("\"{url}\" is not the URL of a server"))),
    }
}

/// What to do about an address that the SDK does not make, by the words in which it says so.
fn remedy(cause: &str) -> &'static str {
    let cause = cause.to_ascii_lowercase();
    let about = |word: &str| cause.contains(word);
    if about("accelerate") {
        "Unset s3-accelerate (--s3-accelerate, WALDEN_S3_ACCELERATE): it goes with Amazon's own endpoint and the bucket's \
         name in the host alone, so not with AWS_ENDPOINT_URL_S3, AWS_USE_FIPS_ENDPOINT, access points or --s3-addressing \
         path."
    } else if about("path-style") {
        "Set s3-addressing to auto or virtual (--s3-addressing, WALDEN_S3_ADDRESSING): an access point is a host of its own."
    } else if about("fips") {
        "Unset AWS_USE_FIPS_ENDPOINT (use_fips_endpoint in the profile), or AWS_ENDPOINT_URL_S3: Amazon's own endpoints \
         alone have others with FIPS, and not in every region."
    } else if about("dual-stack") || about("dualstack") {
        "Unset AWS_USE_DUALSTACK_ENDPOINT (use_dualstack_endpoint in the profile), or AWS_ENDPOINT_URL_S3, which can name \
         an address with IPv6 itself."
    } else {
        "Correct AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL (http://host:port or https://host), or AWS_REGION."
    }
}

/// Is this one of Amazon's own endpoints (AWS General Reference, "Amazon S3 endpoints and quotas")?
pub(super) fn is_amazon(endpoint: &Uri) -> bool {
    let host = endpoint.host().unwrap_or_default().to_ascii_lowercase();
    [".amazonaws.com", ".amazonaws.com.cn"].iter().any(|domain| host.ends_with(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amazons_own_endpoints_are_known_and_no_others() {
        for (url, own) in [
            ("https://s3.eu-central-1.amazonaws.com", true),
            ("https://bucket.s3.eu-central-1.amazonaws.com/", true),
            ("https://bucket.S3.cn-north-1.AMAZONAWS.com.cn", true),
            ("https://bucket.vpce-1a2b.s3.us-east-1.vpce.amazonaws.com", true),
            ("http://127.0.0.1:8333", false),
            ("https://s3.amazonaws.com.example.org", false),
            ("https://fakeamazonaws.com", false),
        ] {
            assert_eq!(is_amazon(&url.parse().unwrap()), own, "{url}");
        }
    }
}
