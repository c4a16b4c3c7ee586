//! TLS for registries: which certificates are trusted, and which are shown.
//!
//! The provider (ring) is given to each configuration by hand, so that nothing depends on a
//! process-wide default. A machine without any CA certificate is no error until an HTTPS
//! registry is asked: plain HTTP must work in an image that holds nothing but this program.
//!
//! For a host with a folder in one of the certificate folders (`/etc/docker/certs.d/HOST`,
//! as Docker and Podman lay it out), `*.crt` are CA certificates trusted for that host, and
//! `NAME.cert` with `NAME.key` is the client certificate shown to it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::error::ErrorKind;

/// How much is believed about the other side.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Trust {
    /// Its certificate must lead to a trusted CA and name the host.
    Verified,
    /// Any certificate will do: loopback and hosts listed as insecure.
    Unverified,
}

/// The TLS side of a connection, with the certificates of `folders` added.
pub(super) fn configure(
    trust: Trust,
    extra_roots: &[PathBuf],
    folders: &[PathBuf],
) -> Result<ClientConfig, ErrorKind> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| ErrorKind::Setup(error.to_string()))?;
    let builder = match trust {
        Trust::Verified => builder.with_root_certificates(roots(extra_roots, folders)?),
        Trust::Unverified => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))),
    };
    let mut config = match client_certificate(folders)? {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| ErrorKind::Setup(format!("invalid client certificate: {error}")))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(extra_roots: &[PathBuf], folders: &[PathBuf]) -> Result<RootCertStore, ErrorKind> {
    let mut store = RootCertStore::empty();
    // Honours SSL_CERT_FILE and SSL_CERT_DIR. Its errors are those of single files; a store
    // left empty by them shows as an unknown issuer, with a hint.
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::debug!("a CA certificate was not loaded: {error}");
    }
    store.add_parsable_certificates(native.certs);
    for path in extra_roots {
        add_roots(&mut store, path)?;
    }
    for folder in folders {
        for path in files_with_extension(folder, "crt")? {
            add_roots(&mut store, &path)?;
        }
    }
    Ok(store)
}

fn add_roots(store: &mut RootCertStore, path: &Path) -> Result<(), ErrorKind> {
    for certificate in certificates(path)? {
        store
            .add(certificate)
            .map_err(|error| unusable(path, &error))?;
    }
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ErrorKind> {
    let pem = fs::read(path).map_err(|error| unusable(path, &error))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(unusable(path, &"it holds no PEM certificate"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unusable(path, &error)),
    }
}

fn unusable(path: &Path, reason: &dyn std::fmt::Display) -> ErrorKind {
    ErrorKind::Setup(format!(
        "cannot use certificate `{}`: {reason}",
        path.display()
    ))
}

type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(folders: &[PathBuf]) -> Result<Option<ClientCertificate>, ErrorKind> {
    for folder in folders {
        if let Some(path) = files_with_extension(folder, "cert")?.first() {
            let key_path = path.with_extension("key");
            let pem = fs::read(&key_path).map_err(|error| unusable(&key_path, &error))?;
            let key = PrivateKeyDer::from_pem_slice(&pem)
                .map_err(|_| unusable(&key_path, &"it holds no PEM private key"))?;
            return Ok(Some((certificates(path)?, key)));
        }
    }
    Ok(None)
}

fn files_with_extension(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, ErrorKind> {
    let listed = fs::read_dir(folder).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()
    });
    let mut paths = listed.map_err(|error| unusable(folder, &error))?;
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    Ok(paths)
}

/// Takes any certificate, but still checks that the other side holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_trust_can_be_configured() {
        for trust in [Trust::Verified, Trust::Unverified] {
            let config = configure(trust, &[], &[]).unwrap();
            assert_eq!(
                config.alpn_protocols,
                [b"h2".to_vec(), b"http/1.1".to_vec()]
            );
        }
    }

    #[test]
    fn no_trusted_certificate_at_all_is_not_an_error_yet() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
    }

    #[test]
    fn a_broken_certificate_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.crt");
        fs::write(&path, "no certificate").unwrap();
        let folders = [folder.path().to_owned()];
        let error = configure(Trust::Verified, &[], &folders).unwrap_err();
        assert!(error.to_string().contains("ca.crt"), "{error}");
    }
}
