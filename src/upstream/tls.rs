//! TLS client configuration for workers.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{ClientConfig, RootCertStore};

use crate::net::tls_fault::pem_fault;

/// Names of the protocols in a TLS handshake (ALPN).
pub(crate) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Error of [`client_config`].
#[derive(Debug, thiserror::Error)]
pub enum TlsClientError {
    /// Neither the system nor the settings name a certificate authority.
    #[error("no trusted certificate authority: the system has none, and none is configured")]
    NoRoots,
    /// A configured authority is not a usable certificate.
    #[error("the configured certificate authority is not usable: {0}")]
    BadAuthority(#[source] rustls::Error),
    /// The crypto provider supports none of the protocol versions.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[source] rustls::Error),
}

/// Creates a TLS client that trusts the system's and `extra` authorities. Blocks to read files.
///
/// # Errors
/// [`TlsClientError`] if an extra authority is unusable, or there is no authority at all.
pub fn client_config(
    extra: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<Arc<ClientConfig>, TlsClientError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "a certificate authority of the system could not be read");
    }
    // A system's store may hold certificates that rustls rejects; the others still count.
    let (_, ignored) = roots.add_parsable_certificates(system.certs);
    if ignored > 0 {
        tracing::debug!(ignored, "certificate authorities of the system that cannot be parsed are ignored");
    }
    for authority in extra {
        roots.add(authority).map_err(TlsClientError::BadAuthority)?;
    }
    if roots.is_empty() {
        return Err(TlsClientError::NoRoots);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsClientError::Setup)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP1.to_vec()];
    Ok(Arc::new(config))
}

/// Reads a file of certificate authorities (PEM).
///
/// # Errors
/// What is wrong if the file cannot be read, or has no certificate: then only the system's authorities
/// would count, which is not what the file was named for.
pub(crate) fn authorities_in(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let found =
        found.and_then(|found| if found.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(found) });
    found.map_err(|error| pem_fault(&error, "no certificate in it"))
}

/// Returns the same TLS client, which prefers HTTP/2 to HTTP/1.1. Both share their sessions.
pub(crate) fn offering_http2(config: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(config);
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    Arc::new(config)
}
