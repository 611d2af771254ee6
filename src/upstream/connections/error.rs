//! Why a connection could not be made, or failed.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use super::http1::Http1Error;
use crate::net::tls_fault::handshake_fault;
use crate::upstream::deadline::TimedOutWait;

/// Error of a failed connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Timeout: neither accepted nor refused.
    #[error("it did not accept a connection within {0:?}")]
    TimedOut(Duration),
    /// Host name without an address.
    #[error("its host name has no address")]
    NoAddress,
    /// The system finds no address for the host name. The rest of its error may name servers.
    #[error("its host name cannot be resolved")]
    Name(#[source] io::Error),
    /// Error of the system. Only its kind is shown: the rest may name the address.
    #[error("connecting failed: {}", .0.kind())]
    Tcp(#[source] io::Error),
    /// Worker's certificate was rejected, or it speaks no TLS.
    #[error("its TLS handshake failed: {}", handshake_fault(.0))]
    Tls(#[source] io::Error),
    /// No TLS client in the settings.
    #[error("its URL is https, but no certificate authorities are configured")]
    NoTls,
    /// All HTTP/2 connections are in use, and there may be no more.
    #[error("all its HTTP/2 connections are in use")]
    NoStream,
    /// Its discovery source is away, and it did not show that it is still the same worker.
    #[error("its discovery source is away, and it does not answer for any of the models that it served")]
    Unverified,
    /// hyper rejected the connection.
    #[error("the HTTP connection could not be set up")]
    Http(#[source] hyper::Error),
}

/// Error of a connection.
#[derive(Debug)]
pub(crate) enum LinkError {
    /// HTTP/1.1.
    Http1(Http1Error),
    /// HTTP/2.
    Http2(hyper::Error),
}

/// Why an exchange brought no response head.
#[derive(Debug)]
pub(crate) enum ExchangeError {
    /// The connection failed, or the client's body, which it carried.
    Link(LinkError),
    /// The worker switched to a protocol that was not requested.
    Switched,
    /// The wait for the worker is over.
    Silent(TimedOutWait),
}

/// Returns `true` if the worker certainly did nothing with a request on an HTTP/2 connection: it
/// refused the stream, or closes the connection and the stream is not among those it still serves
/// (RFC 9113 §8.7).
pub(crate) fn is_unprocessed(error: &hyper::Error) -> bool {
    let Some(error) = error.source().and_then(|source| source.downcast_ref::<h2::Error>()) else {
        return false;
    };
    error.is_remote()
        && (error.is_go_away() || (error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)))
}

/// Describes how a connection failed, without content of the request or the address.
pub(crate) fn describe_break(error: &LinkError) -> &'static str {
    match error {
        LinkError::Http1(Http1Error::Malformed(_)) => "its answer is not valid HTTP",
        LinkError::Http1(Http1Error::Incomplete) => "it closed the connection in the middle of its answer",
        LinkError::Http2(error) if error.is_parse() => "its answer is not valid HTTP",
        LinkError::Http2(error) if error.is_incomplete_message() => {
            "it closed the connection in the middle of its answer"
        }
        LinkError::Http1(Http1Error::Io(_) | Http1Error::Payload(_) | Http1Error::WrongLength)
        | LinkError::Http2(_) => "the connection failed",
    }
}
