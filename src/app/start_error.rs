//! Errors of a start or a reload.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::server::CertificateError;
use crate::upstream::tls::TlsClientError as WorkerTlsError;

/// Why the gateway could not start, or a reload was refused.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("{setting}: cannot listen on {address}: {source}")]
    Bind {
        /// The setting that names the address.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The service manager handed over a socket that no setting names.
    #[error(
        "the service manager handed over a socket on {address}; it must be `listen` ({listen}) or \
         `admin.listen` ({admin})"
    )]
    HandedOver {
        /// The socket's address.
        address: SocketAddr,
        /// The configured address for callers.
        listen: SocketAddr,
        /// The configured address of the admin port.
        admin: SocketAddr,
    },
    /// A certificate or key cannot be used.
    #[error("{setting}: {source}")]
    Tls {
        /// The setting that names the files.
        setting: &'static str,
        /// The cause.
        source: CertificateError,
    },
    /// The file of certificate authorities for workers cannot be read.
    #[error("workers.ca: {}: {problem}", file.display())]
    WorkerCa {
        /// The file.
        file: PathBuf,
        /// The cause.
        problem: String,
    },
    /// The file of certificate authorities for Redis cannot be read.
    #[error("redis.ca: {}: {source}", file.display())]
    RedisCa {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The keys that verify tokens cannot be used.
    #[error("callers.jwt.jwks: {}: {problem}", file.display())]
    TokenKeys {
        /// The file.
        file: PathBuf,
        /// The cause.
        problem: String,
    },
    /// A model's tokenizer cannot be used.
    #[error("models[{index}].tokenizer: {}: {problem}", file.display())]
    Tokenizer {
        /// Index of the model, from 0.
        index: usize,
        /// The file.
        file: PathBuf,
        /// The cause.
        problem: String,
    },
    /// The certificate authorities for the token issuer cannot be used.
    #[error("callers.jwt.ca: {0}")]
    TokenCa(String),
    /// The certificate authorities for workers cannot be used.
    #[error("workers.ca: {0}")]
    WorkerTls(#[from] WorkerTlsError),
    /// The system has no certificate authorities for an encrypted collector.
    #[error("tracing.otlp: {0}")]
    SpanTls(#[source] WorkerTlsError),
    /// The collector cannot be used.
    #[error("tracing.otlp: {0}")]
    Spans(String),
    /// The admin port would be open to others.
    #[error("{0}")]
    OpenAdmin(String),
}
