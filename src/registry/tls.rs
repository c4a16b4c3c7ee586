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
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

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
        Trust::Verified => {
            let certificates = trusted(extra_roots, folders)?;
            match TrustedCertificates::new(certificates, provider) {
                Some(verifier) => builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(verifier)),
                None => builder.with_root_certificates(RootCertStore::empty()),
            }
        }
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

/// Every certificate that is trusted: the system's, and those of files and folders.
fn trusted(
    extra_roots: &[PathBuf],
    folders: &[PathBuf],
) -> Result<Vec<CertificateDer<'static>>, ErrorKind> {
    // Honours SSL_CERT_FILE and SSL_CERT_DIR. Its errors are those of single files; if nothing
    // is left, that shows as an unknown issuer, with a hint.
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::debug!("a CA certificate was not loaded: {error}");
    }
    let mut trusted = native.certs;
    for path in extra_roots {
        trusted.extend(usable_certificates(path)?);
    }
    for folder in folders {
        for path in files_with_extension(folder, "crt")? {
            trusted.extend(usable_certificates(&path)?);
        }
    }
    Ok(trusted)
}

/// The certificates of a file that someone named: unlike the system's, each must be usable.
fn usable_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ErrorKind> {
    let certificates = certificates(path)?;
    for certificate in &certificates {
        RootCertStore::empty()
            .add(certificate.clone())
            .map_err(|error| unusable(path, &error))?;
    }
    Ok(certificates)
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

/// Takes certificates that lead to a trusted one, and trusted ones themselves.
///
/// The second half is for registries with the self-signed certificate that `openssl req -x509`
/// makes: it is marked as a CA's, so it may not stand for a server by the rules of chains,
/// and yet it is the very certificate that was declared trusted.
#[derive(Debug)]
struct TrustedCertificates {
    chains: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl TrustedCertificates {
    /// `None` if there are no usable certificates at all.
    fn new(trusted: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Option<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let chains = builder.build().ok()?;
        Some(Self { chains, trusted })
    }
}

impl ServerCertVerifier for TrustedCertificates {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chains = &self.chains;
        let outcome = chains.verify_server_cert(certificate, intermediates, name, ocsp, now);
        match outcome {
            Err(error) if is_ca_as_server(&error) => {
                if !self.trusted.contains(certificate) {
                    return Err(CertificateError::UnknownIssuer.into());
                }
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Whether all that was wrong with a certificate is that it is a CA's. Its dates have been
/// checked by then: they come first.
fn is_ca_as_server(error: &rustls::Error) -> bool {
    match error {
        // The cause's type belongs to a crate that is not for us to name; its text is stable.
        rustls::Error::InvalidCertificate(CertificateError::Other(cause)) => {
            format!("{:?}", cause.0).contains("CaUsedAsEndEntity")
        }
        _ => false,
    }
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
        assert!(TrustedCertificates::new(Vec::new(), provider).is_none());
    }

    /// A certificate for `registry.test` that signs itself, made by openssl; `None` with the
    /// reason printed where that is not installed.
    fn certificate(folder: &Path, constraints: &str) -> Option<rustls::ServerConfig> {
        let made = std::process::Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args(["-subj", "/CN=registry.test"])
            .args(["-addext", "subjectAltName=DNS:registry.test"])
            .args(["-addext", &format!("basicConstraints={constraints}")])
            .args(["-keyout", "server.key", "-out", "ca.crt"])
            .current_dir(folder)
            .output();
        match made {
            Ok(output) if output.status.success() => {}
            other => {
                println!("skipped: cannot run openssl: {other:?}");
                return None;
            }
        }
        let chain = certificates(&folder.join("ca.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&fs::read(folder.join("server.key")).unwrap());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key.unwrap());
        Some(server.unwrap())
    }

    fn handshake(
        client: ClientConfig,
        server: &rustls::ServerConfig,
        name: &str,
    ) -> Result<(), rustls::Error> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(client), name)?;
        let mut server = rustls::ServerConnection::new(Arc::new(server.clone()))?;
        while client.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(())
    }

    #[test]
    fn only_trusted_certificates_with_the_right_name_are_believed() {
        for constraints in ["CA:TRUE", "CA:FALSE"] {
            let folder = tempfile::tempdir().unwrap();
            let Some(server) = certificate(folder.path(), constraints) else {
                return;
            };
            let folders = [folder.path().to_owned()];
            let file = [folder.path().join("ca.crt")];
            for (trust, roots, folders, name, expected) in [
                (Trust::Verified, &[][..], &[][..], "registry.test", false),
                (Trust::Verified, &file[..], &[][..], "registry.test", true),
                (
                    Trust::Verified,
                    &[][..],
                    &folders[..],
                    "registry.test",
                    true,
                ),
                (Trust::Verified, &file[..], &[][..], "other.test", false),
                (Trust::Unverified, &[][..], &[][..], "other.test", true),
            ] {
                let client = configure(trust, roots, folders).unwrap();
                let outcome = handshake(client, &server, name);
                let shown = format!("{constraints} {trust:?} {name}: {outcome:?}");
                assert_eq!(outcome.is_ok(), expected, "{shown}");
            }
        }
    }

    #[test]
    fn a_trusted_certificate_that_has_expired_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        if certificate(folder.path(), "CA:TRUE").is_none() {
            return;
        }
        let trusted = certificates(&folder.path().join("ca.crt")).unwrap();
        let certificate = trusted[0].clone();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = TrustedCertificates::new(trusted, provider).unwrap();
        let name = ServerName::try_from("registry.test").unwrap();
        let verify = |time| verifier.verify_server_cert(&certificate, &[], &name, &[], time);
        assert!(verify(UnixTime::now()).is_ok());
        let day = std::time::Duration::from_secs(86_400);
        let later = UnixTime::since_unix_epoch(
            std::time::Duration::from_secs(UnixTime::now().as_secs()) + 3 * day,
        );
        assert!(verify(later).is_err());
    }

    #[test]
    fn a_client_certificate_needs_its_key() {
        let folder = tempfile::tempdir().unwrap();
        if certificate(folder.path(), "CA:TRUE").is_none() {
            return;
        }
        let folders = [folder.path().to_owned()];
        let at = |name: &str| folder.path().join(name);
        fs::copy(at("ca.crt"), at("client.cert")).unwrap();
        let error = configure(Trust::Verified, &[], &folders).unwrap_err();
        assert!(error.to_string().contains("client.key"), "{error}");
        fs::rename(at("server.key"), at("client.key")).unwrap();
        configure(Trust::Verified, &[], &folders).unwrap();
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
