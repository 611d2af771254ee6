//! `traffic-dam health`: a liveness probe for container images without a shell or `curl`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode, Uri};
use http_body_util::Empty;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::time::timeout;
use traffic_dam::config;
use traffic_dam::net::client::{self, ClientError};

use super::{CommandError, admin_port, runtime};

/// Time for the whole check: a slower gateway is unhealthy.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The gateway's configuration file, to find the admin port and whether it uses TLS
    #[arg(short, long, conflicts_with_all = ["admin", "tls"])]
    config: Option<PathBuf>,
    /// The admin port: a URL, or a host and a port
    #[arg(long, default_value = admin_port::USUAL, value_parser = admin_port::read)]
    admin: Uri,
    /// The admin port uses TLS, as with an `https` URL
    #[arg(long)]
    tls: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), CommandError> {
    let (admin, tls) = match &arguments.config {
        Some(file) => config::admin_port(file).map_err(|faults| CommandError::Usage(faults.to_string()))?,
        None => {
            let tls = arguments.tls || arguments.admin.scheme_str() == Some("https");
            (resolve(&arguments.admin, tls)?, tls)
        }
    };
    let admin = from_here(admin);
    let asked = runtime()?.block_on(async { timeout(PATIENCE, probe(admin, tls)).await });
    match asked {
        Ok(Ok(StatusCode::OK)) => Ok(()),
        Ok(Ok(status)) => Err(CommandError::Unhealthy(format!("{admin} answered: {status}"))),
        Ok(Err(error)) => Err(CommandError::Unhealthy(format!("{admin} does not answer: {error}"))),
        Err(_) => Err(CommandError::Unhealthy(format!("{admin} did not answer within {PATIENCE:?}"))),
    }
}

/// Returns the first address of a URL's host.
fn resolve(url: &Uri, tls: bool) -> Result<SocketAddr, CommandError> {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let mut found = (host, port)
        .to_socket_addrs()
        .map_err(|error| CommandError::Unhealthy(format!("{host} cannot be resolved: {error}")))?;
    found.next().ok_or_else(|| CommandError::Unhealthy(format!("{host} has no address")))
}

/// Returns the address to connect to: loopback if `listener` is unspecified (`0.0.0.0` or `::`).
fn from_here(listener: SocketAddr) -> SocketAddr {
    let host: IpAddr = match listener.ip() {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    SocketAddr::new(host, listener.port())
}

/// Asks for `/healthz`, and returns the status.
async fn probe(admin: SocketAddr, tls: bool) -> Result<StatusCode, ClientError> {
    let scheme = if tls { "https" } else { "http" };
    let target =
        Uri::builder().scheme(scheme).authority(admin.to_string()).path_and_query("/healthz").build();
    let target = target.map_err(io::Error::other)?;
    let request = Request::get("/healthz").header(HOST, admin.to_string()).body(Empty::<Bytes>::new());
    let tls = tls.then(accepting_any_certificate).transpose().map_err(io::Error::other)?;
    let answer = client::send(&target, tls.as_ref(), request.map_err(io::Error::other)?).await?;
    Ok(answer.status())
}

fn accepting_any_certificate() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Accepts any certificate: a certificate seldom names this machine's own address, and the probe
/// sends no secret. It only asks whether a local process is alive. Signatures are still checked.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
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
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
