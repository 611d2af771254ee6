//! The body of a request to a worker.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use smallvec::SmallVec;

use crate::refusal::{Reason, Refusal};

/// Why the client's body broke off while it was forwarded.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// The client's connection failed or sent a malformed body.
    #[error("the client's request body could not be read to its end: {0}")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The body exceeds `bounds.body`.
    #[error("the request body exceeds bounds.body ({limit} bytes)")]
    TooLarge {
        /// The bound, in bytes.
        limit: u64,
    },
    /// The total wait for the client exceeds `bounds.body_read`.
    #[error("the request body did not arrive within bounds.body_read")]
    TooSlow,
    /// The body is not what its head says; the text is a sentence for the client.
    #[error("{0}")]
    Malformed(String),
}

impl PayloadError {
    /// Returns what the client is told.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::TooLarge { limit } => Refusal::new(
                Reason::BodyTooLarge,
                format!("The request body exceeds bounds.body ({limit} bytes)."),
            ),
            Self::TooSlow => {
                Refusal::new(Reason::BodyTimeout, "The request body did not arrive within bounds.body_read.")
            }
            Self::Broken(_) => {
                Refusal::new(Reason::BadRequest, "The request body could not be read to its end.")
            }
            Self::Malformed(text) => Refusal::new(Reason::BadRequest, text.clone()),
        }
    }
}

/// Memory reserved for a body, until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct BodyReservation(pub Arc<dyn Any + Send + Sync>);

/// A request body: kept in memory, so that it can be sent again, or forwarded as it arrives.
#[derive(Debug)]
pub enum Payload {
    /// In memory, as pieces that are sent in order. A clone shares them.
    Buffered(SmallVec<[Bytes; 3]>),
    /// Forwarded as it arrives; it can be sent only once.
    Streaming(UnsyncBoxBody<Bytes, PayloadError>),
}

impl Payload {
    /// Creates an empty body.
    #[must_use]
    pub fn empty() -> Self {
        Self::Buffered(SmallVec::new())
    }

    /// Returns another body with the same bytes; `None` if they are not in memory.
    #[must_use]
    pub fn try_clone(&self) -> Option<Self> {
        match self {
            Self::Buffered(pieces) => Some(Self::Buffered(pieces.clone())),
            Self::Streaming(_) => None,
        }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::Buffered(SmallVec::from_iter((!bytes.is_empty()).then_some(bytes)))
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = PayloadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        match self.get_mut() {
            Self::Buffered(pieces) if pieces.is_empty() => Poll::Ready(None),
            Self::Buffered(pieces) => Poll::Ready(Some(Ok(Frame::data(pieces.remove(0))))),
            Self::Streaming(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Buffered(pieces) => pieces.is_empty(),
            Self::Streaming(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Buffered(pieces) => {
                SizeHint::with_exact(pieces.iter().map(|piece| piece.len() as u64).sum())
            }
            Self::Streaming(body) => body.size_hint(),
        }
    }
}
