//! Response bodies of the admin port: a complete text, or a stream of events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

/// Response body of the admin port.
pub enum AdminBody {
    /// A complete body.
    Whole(Full<Bytes>),
    /// Server-sent events, until the viewer disconnects.
    Events(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl AdminBody {
    pub(super) fn events(events: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self::Events(Box::pin(events))
    }
}

impl std::fmt::Debug for AdminBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminBody").finish_non_exhaustive()
    }
}

impl Default for AdminBody {
    fn default() -> Self {
        Self::Whole(Full::default())
    }
}

impl From<Bytes> for AdminBody {
    fn from(text: Bytes) -> Self {
        Self::Whole(Full::new(text))
    }
}

impl Body for AdminBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Events(events) => {
                events.as_mut().poll_next(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Events(_) => SizeHint::default(),
        }
    }
}
