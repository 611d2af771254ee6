//! The connection of one request: its own, or a stream of a shared one.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::connect::OwnConnection;
use super::error::LinkError;
use super::http2::{self, Http2Stream};
use super::socket::WorkerSocket;
use crate::clock::Nanos;
use crate::request::Payload;

/// Connection of one request.
#[derive(Debug)]
pub(crate) enum WorkerLink {
    /// HTTP/1.1: nobody else uses it.
    Own(Box<OwnConnection>),
    /// HTTP/2: others use the connection too. With the body of the answer, once there is one.
    Shared(Http2Stream, Option<Incoming>),
}

impl WorkerLink {
    /// Sends a request and waits for the response head. If nothing was written, the error returns
    /// the request.
    pub(crate) async fn send(
        &mut self,
        mut request: Request<Payload>,
    ) -> Result<response::Parts, (LinkError, Option<Box<Request<Payload>>>)> {
        match self {
            Self::Own(link) => {
                http2::to_http1(&mut request);
                link.socket().forget_heard();
                link.send(request).await.map_err(|(error, unsent)| (LinkError::Http1(error), unsent))
            }
            Self::Shared(stream, body) => match stream.send(request).await {
                Ok(answer) => {
                    let (head, answer) = answer.into_parts();
                    *body = Some(answer);
                    Ok(head)
                }
                Err(mut error) => {
                    let unsent = error.take_message().map(Box::new);
                    Err((LinkError::Http2(error.into_error()), unsent))
                }
            },
        }
    }

    /// Polls the next frame of the response whose head [`WorkerLink::send`] returned.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LinkError>>> {
        match self {
            Self::Own(link) => link.poll_frame(cx).map(|frame| Some(frame?.map_err(LinkError::Http1))),
            Self::Shared(_, Some(body)) => {
                Pin::new(body).poll_frame(cx).map(|frame| Some(frame?.map_err(LinkError::Http2)))
            }
            Self::Shared(_, None) => Poll::Ready(None),
        }
    }

    /// Returns `true` if the response was read to its end.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Own(link) => link.is_over(),
            Self::Shared(_, body) => body.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(link) => link.size_hint(),
            Self::Shared(_, body) => body.as_ref().map_or_else(SizeHint::default, Body::size_hint),
        }
    }

    /// Returns `true` if no byte came since the last request was sent.
    pub(crate) fn is_unheard(&self) -> bool {
        match self {
            Self::Own(link) => link.socket().is_unheard(),
            Self::Shared(stream, _) => stream.is_unheard(),
        }
    }

    /// Returns `true` if another request can be sent now.
    pub(crate) fn can_send(&mut self, now: Nanos) -> bool {
        match self {
            Self::Own(link) => link.check(now),
            Self::Shared(..) => true,
        }
    }

    /// Returns `true` if the connection is shared.
    pub(crate) const fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(..))
    }

    /// Lets a shared connection take no new requests.
    pub(crate) fn retire(&self) {
        if let Self::Shared(stream, _) = self {
            stream.retire();
        }
    }

    /// Allows the worker to switch protocols in its next response; HTTP/2 has no such thing.
    pub(crate) fn allow_switch(&mut self) {
        if let Self::Own(link) = self {
            link.allow_switch();
        }
    }

    pub(crate) fn may_switch(&self) -> bool {
        matches!(self, Self::Own(link) if link.may_switch())
    }

    /// Returns the raw connection after a `101`, and the bytes read beyond the head.
    pub(crate) fn into_stream(self) -> Option<(WorkerSocket, Bytes)> {
        match self {
            Self::Own(link) => link.into_stream(),
            Self::Shared(..) => None,
        }
    }
}
