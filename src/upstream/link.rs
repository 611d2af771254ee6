//! The connection of one request: its own, or a stream of a shared one.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::connect::WorkerSocket;
use super::connection::WorkerConnection;
use super::http2::{self, Http2Stream};
use crate::clock::Nanos;
use crate::request::Payload;

/// Connection of one request.
#[derive(Debug)]
pub(crate) enum WorkerLink {
    /// HTTP/1.1: nobody else uses it.
    Own(Box<WorkerConnection>),
    /// HTTP/2: others use the connection too.
    Shared(Http2Stream),
}

impl WorkerLink {
    /// Sends a request and waits for the response head. If nothing was written, the error returns
    /// the request.
    pub(crate) async fn send(
        &mut self,
        mut request: Request<Payload>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Payload>>> {
        match self {
            Self::Own(link) => {
                http2::to_http1(&mut request);
                link.send(request).await
            }
            Self::Shared(stream) => stream.send(request).await,
        }
    }

    /// Polls the next frame of the response whose head [`WorkerLink::send`] returned.
    pub(crate) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self {
            Self::Own(link) => link.poll_frame(body, cx),
            Self::Shared(_) => Pin::new(body).poll_frame(cx),
        }
    }

    /// Returns `true` if no byte came since the last request was sent.
    pub(crate) fn is_unheard(&self) -> bool {
        match self {
            Self::Own(link) => link.is_unheard(),
            Self::Shared(stream) => stream.is_unheard(),
        }
    }

    /// Returns `true` if another request can be sent now.
    pub(crate) fn can_send(&mut self, now: Nanos) -> bool {
        match self {
            Self::Own(link) => link.check(now),
            Self::Shared(_) => true,
        }
    }

    /// Returns `true` if the connection is shared.
    pub(crate) const fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }

    /// Lets a shared connection take no new requests.
    pub(crate) fn retire(&self) {
        if let Self::Shared(stream) = self {
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
            Self::Shared(_) => None,
        }
    }
}
