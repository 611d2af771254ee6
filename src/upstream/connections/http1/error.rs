//! Errors of a connection.

use std::io;

use crate::request::PayloadError;

/// Why a request or its answer failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Http1Error {
    /// The answer breaks the rules of HTTP/1.1, or a bound of this module; says which.
    #[error("the answer is not valid HTTP: {0}")]
    Malformed(&'static str),
    /// The worker closed the connection before the end of its answer.
    #[error("the connection was closed before the end of the answer")]
    Incomplete,
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client's request body failed.
    #[error(transparent)]
    Payload(PayloadError),
    /// The client's request body has fewer or more bytes than it announced.
    #[error("the request body does not have the length that it announced")]
    WrongLength,
}
