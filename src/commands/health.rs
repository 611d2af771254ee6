//! `traffic-dam health`: a liveness probe for container images without a shell or `curl`.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use traffic_dam::config;

use super::{CommandError, admin_port};

/// Timeout of the connect, and of each read and write: a slower gateway is unhealthy.
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
    match probe(admin, tls) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => Ok(()),
        Ok(answer) => Err(CommandError::Unhealthy(format!(
            "{admin} answered: {}",
            answer.lines().next().unwrap_or("nothing")
        ))),
        Err(error) => Err(CommandError::Unhealthy(format!("{admin} does not answer: {error}"))),
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

fn probe(admin: SocketAddr, tls: bool) -> std::io::Result<String> {
    let socket = TcpStream::connect_timeout(&admin, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    if !tls {
        return ask(socket, admin);
    }
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider)))
        .with_no_client_auth();
    let session = ClientConnection::new(Arc::new(config), ServerName::from(admin.ip()));
    ask(StreamOwned::new(session.map_err(std::io::Error::other)?, socket), admin)
}

/// Requests `/healthz`, and returns the answer's status line, possibly with some text after it.
fn ask(mut connection: impl Read + Write, admin: SocketAddr) -> std::io::Result<String> {
    write!(connection, "GET /healthz HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n")?;
    connection.flush()?;
    let mut answer = Vec::new();
    let mut piece = [0; 512];
    while !answer.contains(&b'\n') && answer.len() < 4096 {
        match connection.read(&mut piece)? {
            0 => break,
            read => answer.extend_from_slice(piece.get(..read).unwrap_or_default()),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
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
