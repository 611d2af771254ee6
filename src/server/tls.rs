//! TLS with rustls: one certificate chain and its key, replaceable at run time.
//!
//! A pair is loaded and checked completely before it replaces the old one, so a half-written file
//! or a key of another certificate changes nothing. Open connections keep their pair.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::net::tls_fault::{pair_fault, pem_fault};

/// Why a certificate and key were rejected.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read or is not PEM.
    #[error("{}: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Both files are readable but unusable: a broken certificate, or the key of another one.
    #[error("{} and {} cannot be used together: {reason}", cert.display(), key.display())]
    Pair {
        /// The certificate chain.
        cert: PathBuf,
        /// The private key.
        key: PathBuf,
        /// What is wrong with them.
        reason: String,
    },
}

/// Certificate and key for new connections, shared by clones.
#[derive(Clone, Debug)]
pub struct TlsHandle(Arc<ArcSwap<Loaded>>);

#[derive(Debug)]
struct Loaded {
    cert: PathBuf,
    key: PathBuf,
    config: Arc<ServerConfig>,
}

impl TlsHandle {
    /// Loads a PEM certificate chain (leaf first) and its PEM private key (PKCS#8, PKCS#1 or SEC1).
    ///
    /// # Errors
    /// Names the file that is unreadable or lacks PEM of its kind, or the pair that does not match.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, CertificateError> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(Loaded::read(cert, key)?))))
    }

    /// Reads the same files again.
    ///
    /// # Errors
    /// As [`TlsHandle::load`]; the old pair stays.
    pub fn reload(&self) -> Result<(), CertificateError> {
        let now = self.0.load();
        self.replace(&now.cert, &now.key)
    }

    /// Switches to another pair of files.
    ///
    /// # Errors
    /// As [`TlsHandle::load`]; the old pair stays.
    pub(crate) fn replace(&self, cert: &Path, key: &Path) -> Result<(), CertificateError> {
        self.0.store(Arc::new(Loaded::read(cert, key)?));
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0.load().config))
    }
}

impl Loaded {
    fn read(cert: &Path, key: &Path) -> Result<Self, CertificateError> {
        let chain: Vec<_> = CertificateDer::pem_file_iter(cert)
            .and_then(Iterator::collect)
            .map_err(|error| unreadable(cert, &error, "no certificate in it"))?;
        if chain.is_empty() {
            return Err(unreadable(cert, &pem::Error::NoItemsFound, "no certificate in it"));
        }
        let secret = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| unreadable(key, &error, "no private key in it"))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|versions| versions.with_no_client_auth().with_single_cert(chain, secret))
            .map_err(|error| CertificateError::Pair {
                cert: cert.to_owned(),
                key: key.to_owned(),
                reason: pair_fault(&error),
            })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), config: Arc::new(config) })
    }
}

fn unreadable(file: &Path, error: &pem::Error, empty: &str) -> CertificateError {
    CertificateError::File { file: file.to_owned(), reason: pem_fault(error, empty) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (cert, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (cert, key)
    }

    #[test]
    fn a_bad_pair_names_its_fault_and_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = pair(folder.path(), "a");
        let (_, other) = pair(folder.path(), "b");
        let handle = TlsHandle::load(&cert, &key).unwrap();
        let before = Arc::as_ptr(&handle.0.load().config);

        let fault = |result: Result<(), CertificateError>| result.unwrap_err().to_string();
        assert!(
            fault(handle.replace(&cert, &other))
                .ends_with("together: the key is not that of the certificate")
        );
        assert!(fault(handle.replace(&key, &key)).contains("no certificate in it"));
        assert!(fault(handle.replace(&cert, &cert)).contains("no private key in it"));
        assert!(fault(handle.replace(&folder.path().join("none"), &key)).contains("none: "));
        std::fs::write(&cert, "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n").unwrap();
        assert!(fault(handle.reload()).contains("not valid PEM"));
        std::fs::write(&cert, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(fault(handle.reload()).ends_with("together: the certificate cannot be parsed"));

        assert_eq!(Arc::as_ptr(&handle.0.load().config), before);
    }
}
