//! Connections to the endpoint: directly or through a proxy, with or without TLS, and the first one ahead of its request.
//!
//! Root certificates are read when the first TLS connection is made, and once. Sends no request but the proxy's CONNECT.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use http::Uri;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::environment::variable;
use crate::error::{Context, Error, Kind, Result};

/// How long a connection may take to come up: name, TCP, proxy and TLS together.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that was made ahead and has not been used for so long may have been closed by the other side: servers
/// wait 5 seconds and more for the next request.
const EARLY_LIFE: Duration = Duration::from_secs(4);

/// Where distributions keep all their root certificates in one file; reading it is much quicker than reading the
/// directory of single ones beside it.
const CA_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Tcp = TokioIo<TcpStream>;
pub(super) type Connection = MaybeHttpsStream<Tcp>;

/// Makes connections; clones share what they know.
#[derive(Clone)]
pub(super) struct Dialer(Arc<Shared>);

struct Shared {
    tcp: HttpConnector,
    tls: OnceCell<Arc<ClientConfig>>,
    proxies: Matcher,
    early: Mutex<Option<Early>>,
}

/// A connection that was begun before its request was known.
struct Early {
    to: Uri,
    began: Instant,
    dialling: JoinHandle<Result<Connection, DialError>>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}

impl Dialer {
    /// With the proxies that `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` name.
    pub fn from_environment() -> Dialer {
        let mut tcp = HttpConnector::new();
        // TLS comes on top here.
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // Divided among the addresses of a name, so that one that is dead leaves time for the next.
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let shared = Shared { tcp, tls: OnceCell::new(), proxies: Matcher::from_env(), early: Mutex::default() };
        Dialer(Arc::new(shared))
    }

    /// Begins a connection for the first request to this address. Must be called within a runtime.
    pub fn dial_early(&self, to: &Uri) {
        let dialling = tokio::spawn(self.clone().dial(to.clone()));
        let early = Early { to: to.clone(), began: Instant::now(), dialling };
        *self.0.early.lock().unwrap_or_else(PoisonError::into_inner) = Some(early);
    }

    fn take_early(&self, to: &Uri) -> Option<JoinHandle<Result<Connection, DialError>>> {
        let mut early = self.0.early.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |early: &mut Early| early.to.scheme() == to.scheme() && early.to.authority() == to.authority();
        let early = early.take_if(fits)?;
        (early.began.elapsed() < EARLY_LIFE).then_some(early.dialling)
    }

    async fn connection(self, to: Uri) -> Result<Connection, DialError> {
        match self.take_early(&to) {
            Some(dialling) => {
                dialling.await.unwrap_or_else(|lost| Err(DialError::new(&to, Step::Connect, lost.into())))
            }
            None => self.dial(to).await,
        }
    }

    async fn dial(self, to: Uri) -> Result<Connection, DialError> {
        // The step in which it was when the time was over.
        let step = Mutex::new(Step::Connect);
        let enter = |next: Step| *step.lock().unwrap_or_else(PoisonError::into_inner) = next;
        let dialling = async {
            let tcp = match self.0.proxies.intercept(&to) {
                Some(proxy) => {
                    enter(Step::Proxy(proxy.uri().authority().map(ToString::to_string).unwrap_or_default()));
                    let tunnel = Tunnel::new(proxy.uri().clone(), self.0.tcp.clone());
                    let mut tunnel = match proxy.basic_auth() {
                        Some(auth) => tunnel.with_auth(auth.clone()),
                        None => tunnel,
                    };
                    tunnel.call(with_port(&to)?).await?
                }
                None => self.0.tcp.clone().call(to.clone()).await?,
            };
            if to.scheme_str() != Some("https") {
                return Ok(MaybeHttpsStream::Http(tcp));
            }
            enter(Step::Tls);
            let config = self.0.tls.get_or_try_init(async || tls_config().map(Arc::new)).await?;
            let host = to.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
            let name = ServerName::try_from(host.to_owned())?;
            let stream = TlsConnector::from(config.clone()).connect(name, TokioIo::new(tcp)).await?;
            Ok(MaybeHttpsStream::Https(TokioIo::new(stream)))
        };
        let outcome: Result<Connection, BoxError> = match tokio::time::timeout(CONNECT_TIMEOUT, dialling).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("it did not come up within {} s", CONNECT_TIMEOUT.as_secs()).into()),
        };
        outcome.map_err(|cause| DialError::new(&to, step.into_inner().unwrap_or_else(PoisonError::into_inner), cause))
    }
}

impl Service<Uri> for Dialer {
    type Response = Connection;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, DialError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut TaskContext<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        Box::pin(self.clone().connection(to))
    }
}

/// CONNECT takes a host and a port (RFC 9110, 9.3.6).
fn with_port(to: &Uri) -> Result<Uri, BoxError> {
    let port = to.port_u16().unwrap_or(if to.scheme_str() == Some("https") { 443 } else { 80 });
    let authority = format!("{}:{port}", to.host().unwrap_or_default());
    Ok(Uri::builder().scheme(to.scheme_str().unwrap_or("http")).authority(authority).path_and_query("/").build()?)
}

/// Which part of making a connection failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The name and TCP.
    Connect,
    /// The proxy at this address.
    Proxy(String),
    /// The handshake, certificates included.
    Tls,
}

/// A connection that did not come up.
#[derive(Debug)]
pub(super) struct DialError {
    to: String,
    pub step: Step,
    cause: BoxError,
}

impl DialError {
    fn new(to: &Uri, step: Step, cause: BoxError) -> DialError {
        DialError { to: to.authority().map(ToString::to_string).unwrap_or_default(), step, cause }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            Step::Connect => write!(f, "no connection to {}", self.to),
            Step::Proxy(proxy) => write!(f, "no connection to {} through the proxy {proxy}", self.to),
            Step::Tls => write!(f, "no TLS with {}", self.to),
        }
    }
}

impl std::error::Error for DialError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.cause)
    }
}

/// Trusts the authorities of `AWS_CA_BUNDLE` or `SSL_CERT_FILE` alone where one is set, else the system's.
fn tls_config() -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(Kind::Bug, "could not prepare TLS").detail(error.to_string()))?;
    let mut config = config.with_root_certificates(roots()?).with_no_client_auth();
    // S3 speaks no other version, and a connection for each upload is what we want.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots() -> Result<RootCertStore> {
    let chosen = ["AWS_CA_BUNDLE", "SSL_CERT_FILE"].into_iter().find_map(|name| Some((name, variable(name)?)));
    let mut roots = RootCertStore::empty();
    if let Some((name, path)) = chosen {
        let what = || format!("could not read the CA bundle \"{path}\"");
        let hint = format!("Correct {name}, or unset it to use the system's certificates.");
        let pem = std::fs::read(&path).during(what).map_err(|error| error.hint(hint.clone()))?;
        roots.add_parsable_certificates(certificates(&pem));
        if roots.is_empty() {
            return Err(Error::new(Kind::Config, what()).detail("there is no certificate in it").hint(hint));
        }
        return Ok(roots);
    }
    match CA_BUNDLES.iter().find_map(|path| std::fs::read(path).ok()) {
        Some(pem) => roots.add_parsable_certificates(certificates(&pem)),
        None => roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    };
    Ok(roots)
}

fn certificates(pem: &[u8]) -> impl Iterator<Item = CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect::<Vec<_>>().into_iter()
}
