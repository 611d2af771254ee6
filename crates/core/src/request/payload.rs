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
    /// The body exceeds its bound.
    #[error("the request body exceeds {setting} ({limit} bytes)")]
    TooLarge {
        /// The bound, in bytes.
        limit: u64,
        /// The setting that it is.
        setting: &'static str,
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
            Self::TooLarge { limit, setting } => Refusal::new(
                Reason::BodyTooLarge,
                format!("The request body exceeds {limit} bytes (`{setting}`)."),
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

/// A request body: pieces in memory, and what follows them as it arrives.
#[derive(Debug)]
pub struct Payload {
    /// Sent first, in order. A clone shares them.
    start: SmallVec<[Bytes; 3]>,
    /// Forwarded as it arrives; it can be sent only once. `None` if the body is in memory.
    rest: Option<UnsyncBoxBody<Bytes, PayloadError>>,
}

impl Payload {
    /// Creates an empty body.
    #[must_use]
    pub fn empty() -> Self {
        Self::buffered(SmallVec::new())
    }

    /// Creates a body in memory, as pieces that are sent in order.
    #[must_use]
    pub const fn buffered(start: SmallVec<[Bytes; 3]>) -> Self {
        Self { start, rest: None }
    }

    /// Creates a body of which `start` is in memory, and `rest` still arrives.
    #[must_use]
    pub const fn streaming(start: SmallVec<[Bytes; 3]>, rest: UnsyncBoxBody<Bytes, PayloadError>) -> Self {
        Self { start, rest: Some(rest) }
    }

    /// Returns the pieces of a body that is in memory; `None` for any other.
    #[must_use]
    pub fn pieces(&self) -> Option<&SmallVec<[Bytes; 3]>> {
        self.rest.is_none().then_some(&self.start)
    }

    /// Returns a piece of what is in memory.
    pub fn piece_mut(&mut self, index: usize) -> Option<&mut Bytes> {
        self.start.get_mut(index)
    }

    /// Changes what still arrives. Returns `false` if the body is in memory.
    pub fn map_rest(
        &mut self,
        change: impl FnOnce(UnsyncBoxBody<Bytes, PayloadError>) -> UnsyncBoxBody<Bytes, PayloadError>,
    ) -> bool {
        self.rest = self.rest.take().map(change);
        self.rest.is_some()
    }

    /// Returns another body with the same bytes; `None` if they are not all in memory.
    #[must_use]
    pub fn try_clone(&self) -> Option<Self> {
        self.pieces().cloned().map(Self::buffered)
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::buffered(SmallVec::from_iter((!bytes.is_empty()).then_some(bytes)))
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = PayloadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        let this = self.get_mut();
        if !this.start.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(this.start.remove(0)))));
        }
        this.rest.as_mut().map_or(Poll::Ready(None), |rest| Pin::new(rest).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.start.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let start = self.start.iter().map(|piece| piece.len() as u64).sum();
        let Some(rest) = self.rest.as_ref().map(Body::size_hint) else { return SizeHint::with_exact(start) };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(start));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(start));
        }
        hint
    }
}
