//! TLS in front of a service that speaks plain: what comes in is decrypted and passed on, byte for byte.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A front on a port of its own; it ends when this is dropped.
pub struct TlsFront {
    address: SocketAddr,
    directory: tempfile::TempDir,
    runtime: Option<tokio::runtime::Runtime>,
}

/// Two authorities; the server's certificate, for `localhost`, is signed by the first.
const CERTIFICATES: &str = "
    set -e
    export OPENSSL_CONF=/dev/null
    for name in authority stranger; do
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=$name -addext basicConstraints=critical,CA:TRUE \
            -keyout $name.key -out $name.crt
    done
    echo subjectAltName=DNS:localhost >extensions
    openssl req -new -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr
    openssl x509 -req -in server.csr -CA authority.crt -CAkey authority.key -CAcreateserial -days 2 \
        -extfile extensions -out server.crt";

impl TlsFront {
    /// Before the service at `behind`.
    pub fn start(behind: SocketAddr) -> TlsFront {
        let directory = tempfile::tempdir().unwrap();
        let made = Command::new("sh").args(["-c", CERTIFICATES]).current_dir(directory.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let certificate = CertificateDer::from_pem_file(directory.path().join("server.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_file(directory.path().join("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();

        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        runtime.spawn(async move {
            while let Ok((incoming, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that does not trust us hangs up, which is its right.
                    let Ok(mut incoming) = acceptor.accept(incoming).await else { return };
                    let mut outgoing = TcpStream::connect(behind).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut incoming, &mut outgoing).await;
                });
            }
        });
        TlsFront { address, directory, runtime: Some(runtime) }
    }

    /// Where it listens, as a URL with the name in its certificate.
    pub fn endpoint(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// The certificate of the authority that signed the server's.
    pub fn authority(&self) -> std::path::PathBuf {
        self.directory.path().join("authority.crt")
    }

    /// The certificate of another authority.
    pub fn stranger(&self) -> std::path::PathBuf {
        self.directory.path().join("stranger.crt")
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
