//! A body that is forwarded as it arrives, and read along.

use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;

use crate::request::PayloadError;

/// Passes `rest` on, and shows each piece to `follow` first. What `follow` finds wrong ends the body.
pub(super) fn followed<B, E>(
    rest: B,
    mut follow: impl FnMut(&[u8]) -> Result<(), E> + Send + Unpin + 'static,
) -> UnsyncBoxBody<Bytes, PayloadError>
where
    B: Body<Data = Bytes, Error = PayloadError> + Send + Unpin + 'static,
    E: Display,
{
    let follow = move |data: &[u8]| follow(data).map_err(|fault| PayloadError::Malformed(fault.to_string()));
    FollowedBody { rest, follow }.boxed_unsync()
}

struct FollowedBody<B, F> {
    rest: B,
    follow: F,
}

impl<B, F> Body for FollowedBody<B, F>
where
    B: Body<Data = Bytes, Error = PayloadError> + Unpin,
    F: FnMut(&[u8]) -> Result<(), PayloadError> + Unpin,
{
    type Data = Bytes;
    type Error = PayloadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.rest).poll_frame(cx));
        let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        if let Some(Err(fault)) = data.map(|data| (this.follow)(data)) {
            return Poll::Ready(Some(Err(fault)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.rest.size_hint()
    }
}
