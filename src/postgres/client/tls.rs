//! TLS to the server, and what libpq's SSL modes verify of its certificate.
//!
//! Everything cryptographic is rustls's; this only decides which of its verdicts count. Never asks for a client
//! certificate of ours (the variables for it are refused in `parameters`).

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio_postgres_rustls::MakeRustlsConnect;
use x509_cert::der::Decode;
use x509_cert::der::oid::db::rfc5912::{
    ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, SHA_1_WITH_RSA_ENCRYPTION, SHA_256_WITH_RSA_ENCRYPTION,
    SHA_384_WITH_RSA_ENCRYPTION, SHA_512_WITH_RSA_ENCRYPTION,
};

use crate::error::{Error, Kind, Result};
use crate::postgres::client::parameters::{RootCertificates, SslMode};

/// Makes what tokio-postgres needs to speak TLS in this mode.
///
/// `verify-full` checks the chain of certificates and the server's name, `verify-ca` the chain alone. The modes below
/// them check the chain if there are root certificates, and otherwise nothing: that keeps listeners out, not impostors.
///
/// # Errors
/// [`Kind::Config`] if the root certificates that are needed or named cannot be read.
pub(super) fn connector(mode: SslMode, roots: &RootCertificates) -> Result<MakeRustlsConnect> {
    config(mode, roots).map(MakeRustlsConnect::new)
}

/// The same for a connection of our own.
///
/// # Errors
/// Those of [`connector`].
pub(super) fn config(mode: SslMode, roots: &RootCertificates) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trust = match root_certificates(mode, roots)? {
        Some(certificates) => Some(Trust::new(certificates, mode == SslMode::VerifyFull, provider.clone())?),
        None => None,
    };
    let verifier = Verifier { algorithms: provider.signature_verification_algorithms, trust };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(Kind::Bug, "could not set up TLS").detail(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// What binds an authentication to this connection: the digest of the server's certificate with the hash function of its
/// signature, SHA-256 in place of weaker ones (`tls-server-end-point`, RFC 5929, section 4.1). `None` where that names no
/// hash function, as for Ed25519.
pub(super) fn end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    Some(match parsed.signature_algorithm.oid {
        SHA_1_WITH_RSA_ENCRYPTION | SHA_256_WITH_RSA_ENCRYPTION | ECDSA_WITH_SHA_256 => {
            Sha256::digest(certificate).to_vec()
        }
        SHA_384_WITH_RSA_ENCRYPTION | ECDSA_WITH_SHA_384 => Sha384::digest(certificate).to_vec(),
        SHA_512_WITH_RSA_ENCRYPTION => Sha512::digest(certificate).to_vec(),
        _ => return None,
    })
}

/// The certificates to verify against; `None` if there is nothing to verify. Stricter than libpq in one point: a file
/// that `PGSSLROOTCERT` names must be there in every mode.
fn root_certificates(mode: SslMode, roots: &RootCertificates) -> Result<Option<Vec<CertificateDer<'static>>>> {
    match roots {
        RootCertificates::System => system_certificates().map(Some),
        RootCertificates::File(path) => read_certificates(path).map(Some),
        RootCertificates::Default(Some(path)) if path.exists() => read_certificates(path).map(Some),
        RootCertificates::Default(_) if mode < SslMode::VerifyCa => Ok(None),
        RootCertificates::Default(path) => {
            let tried =
                path.as_ref().map_or("HOME is not set".to_owned(), |path| format!("{} is not there", path.display()));
            Err(Error::new(Kind::Config, "there is no root certificate to verify the server's with").detail(tried).hint(
                "Set PGSSLROOTCERT to the file of the certificate authority, or to \"system\" for those that the system trusts.",
            ))
        }
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let problem = match certificates {
        Ok(certificates) if !certificates.is_empty() => return Ok(certificates),
        Ok(_) => "it has no certificate".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Error::new(Kind::Config, format!("could not read root certificates from \"{}\"", path.display()))
        .detail(problem)
        .hint("Set PGSSLROOTCERT to a readable PEM file that begins with -----BEGIN CERTIFICATE-----."))
}

fn system_certificates() -> Result<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let problems: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(Error::new(Kind::Config, "the system has no root certificates")
            .detail(problems.join("; "))
            .hint("Install the package ca-certificates, or set PGSSLROOTCERT to the file of your own authority."));
    }
    Ok(found.certs)
}

/// Root certificates, and whether the server's name counts.
#[derive(Debug)]
struct Trust {
    webpki: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
    name_counts: bool,
}

impl Trust {
    fn new(
        certificates: Vec<CertificateDer<'static>>,
        name_counts: bool,
        provider: Arc<CryptoProvider>,
    ) -> Result<Trust> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(certificates.iter().cloned());
        let webpki = WebPkiServerVerifier::builder_with_provider(store.into(), provider).build().map_err(|error| {
            Error::new(Kind::Config, "none of the root certificates can be used")
                .detail(error.to_string())
                .hint("Set PGSSLROOTCERT to a PEM file with the certificate authority's X.509 certificate.")
        })?;
        Ok(Trust { webpki, certificates, name_counts })
    }

    fn verify(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{Expired, ExpiredContext, NotValidForName, NotValidForNameContext};
        use CertificateError::{NotValidYet, NotValidYetContext};

        let verdict = self.webpki.verify_server_cert(server, intermediates, name, &[], now);
        let Err(rustls::Error::InvalidCertificate(reason)) = &verdict else { return verdict };
        match reason {
            // webpki looks at the name last: all else is well.
            NotValidForName | NotValidForNameContext { .. } if !self.name_counts => Ok(ServerCertVerified::assertion()),
            NotValidForName | NotValidForNameContext { .. } => verdict,
            // webpki looks at the dates first.
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. } => verdict,
            // The server's own self-signed certificate is the trusted one: PostgreSQL's documentation makes such
            // certificates, OpenSSL takes them, and webpki does not, as they call themselves an authority.
            _ if self.certificates.contains(server) => {
                if self.name_counts {
                    verify_server_name(&ParsedCertificate::try_from(server)?, name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            _ => verdict,
        }
    }
}

#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    trust: Option<Trust>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.trust {
            Some(trust) => trust.verify(end_entity, intermediates, server_name, now),
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(mode: SslMode, roots: RootCertificates) -> Error {
        connector(mode, &roots).err().unwrap()
    }

    #[test]
    fn root_certificates_are_needed_to_verify_and_only_then() {
        let absent = RootCertificates::Default(Some("/absent/root.crt".into()));
        assert!(connector(SslMode::Require, &absent).is_ok());
        assert!(failure(SslMode::VerifyCa, absent.clone()).cause().unwrap().contains("/absent/root.crt"));
        assert!(failure(SslMode::VerifyFull, RootCertificates::Default(None)).cause().unwrap().contains("HOME"));
    }

    #[test]
    fn a_named_file_must_hold_certificates() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("root.crt");
        for content in ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&path, content).unwrap();
            let error = failure(SslMode::Require, RootCertificates::File(path.clone()));
            assert_eq!(error.kind(), Kind::Config, "{content:?}");
            assert!(error.advice().unwrap().contains("PGSSLROOTCERT"));
        }
        let error = failure(SslMode::Prefer, RootCertificates::File(directory.path().join("absent")));
        assert!(error.what().contains("absent"));
    }
}
