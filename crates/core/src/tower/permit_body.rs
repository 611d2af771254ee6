//! A response body that holds its permit to its end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::request::Ending;
use crate::shed::Permit;

pin_project! {
    /// The body `B` and the [`Permit`] of its request, which is released when the body ends, fails
    /// or is dropped. Each piece of a stream is reported as one token.
    #[derive(Debug)]
    pub struct PermitBody<B> {
        #[pin]
        inner: B,
        // `None` after the end.
        permit: Option<Permit>,
        streamed: bool,
        pieces: u64,
    }
}

impl<B: Body> PermitBody<B> {
    pub(super) fn new(inner: B, permit: Permit, streamed: bool) -> Self {
        let mut permit = Some(permit);
        if inner.is_end_stream() {
            end(&mut permit, Ending::Complete);
        }
        Self { inner, permit, streamed, pieces: 0 }
    }
}

fn end(permit: &mut Option<Permit>, ending: Ending) {
    if let Some(permit) = permit.take() {
        permit.end(ending);
    }
}

impl<B: Body> Body for PermitBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        match (&frame, this.permit.as_ref()) {
            (Some(Ok(frame)), Some(permit)) if *this.streamed && frame.is_data() => {
                *this.pieces += 1;
                if *this.pieces == 1 {
                    permit.first_token();
                }
                permit.tokens(*this.pieces);
            }
            (Some(Err(_)), _) => end(this.permit, Ending::WorkerFailed),
            _ => {}
        }
        // A server need not ask for the end of a body that says that it has ended.
        if frame.is_none() || this.inner.is_end_stream() {
            end(this.permit, Ending::Complete);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
