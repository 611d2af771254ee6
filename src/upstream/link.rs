//! One HTTP/1.1 connection, driven by whoever uses it.
//!
//! hyper expects its connection future to run in a task of its own, which costs a hop between tasks, often between
//! threads, for every request and every frame. Here the request's own future polls it, and so does the response body:
//! a byte from the worker wakes the client's connection task directly, and dropping the future or the body closes the
//! socket at once, without a message to anybody. The price: an idle connection is polled by nobody, so its closing is
//! noticed when it is taken out again ([`Link::check`]) or swept, not when it happens.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::unconstrained;

use super::connect::Stream;
use super::relay::QuietWaker;
use crate::request::Payload;

/// A connection and its sender.
#[derive(Debug)]
pub(crate) struct Link {
    sender: SendRequest<Payload>,
    /// Gone when it ended, well or badly.
    connection: Option<Connection<TokioIo<Stream>, Payload>>,
    /// Whether anything came since the last request was sent.
    heard: Arc<AtomicBool>,
    /// Whether the worker may leave HTTP, and then the connection that it left HTTP on.
    switch: Switch,
    waker: QuietWaker,
}

/// Leaving HTTP for another protocol.
#[derive(Debug, Default)]
enum Switch {
    #[default]
    Forbidden,
    Allowed,
    Done(Box<Connection<TokioIo<Stream>, Payload>>),
}

/// What hyper's two halves tell each other needs no waker: both are polled here, one after the other, and what the
/// connection waits for outside (socket, request body) holds the caller's own.
fn silent() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl Link {
    /// A connection nobody used yet. In a box: it is moved between the pool, futures and bodies.
    /// `heard` is what its stream sets when something comes.
    pub(crate) fn new(
        sender: SendRequest<Payload>,
        connection: Connection<TokioIo<Stream>, Payload>,
        heard: Arc<AtomicBool>,
    ) -> Box<Self> {
        Box::new(Self {
            sender,
            connection: Some(connection),
            heard,
            switch: Switch::Forbidden,
            waker: QuietWaker::new(),
        })
    }

    /// Lets the connection do what it can do now.
    fn drive(&mut self, cx: &mut Context<'_>) {
        let mut cx = Context::from_waker(self.waker.on_behalf_of(cx.waker()));
        if let Some(connection) = &mut self.connection
            && let Poll::Ready(ended) = Pin::new(connection).poll(&mut cx)
        {
            let connection = self.connection.take();
            match ended {
                Ok(()) if matches!(self.switch, Switch::Allowed) => {
                    self.switch = connection.map_or(Switch::Forbidden, |left| Switch::Done(Box::new(left)));
                }
                Ok(()) => {}
                Err(error) => tracing::trace!(%error, "a worker's connection ended"),
            }
        }
    }

    /// Whether another request can be sent now: the last one is over on both sides and the worker has not hung up.
    /// Whoever sends the next one drives the connection with a waker of its own, so none is left in it here: it would
    /// wake a task that is through with this connection.
    pub(crate) fn check(&mut self) -> bool {
        self.drive(&mut silent());
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Lets the worker leave HTTP when it answers the next request.
    pub(crate) fn allow_switch(&mut self) {
        self.switch = Switch::Allowed;
    }

    pub(crate) const fn may_switch(&self) -> bool {
        matches!(self.switch, Switch::Allowed)
    }

    /// The bare connection after a `101 Switching Protocols`, and what was read from it beyond the head.
    pub(crate) fn into_stream(mut self: Box<Self>) -> Option<(Stream, Bytes)> {
        self.drive(&mut silent());
        match self.switch {
            Switch::Done(connection) => {
                let parts = connection.into_parts();
                Some((parts.io.into_inner(), parts.read_buf))
            }
            Switch::Forbidden | Switch::Allowed => None,
        }
    }

    /// Sends a request and waits for the head of its answer. When nothing was written the error gives the request
    /// back. Dropping the future in between leaves the link unusable.
    pub(crate) async fn send(
        &mut self,
        request: Request<Payload>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Payload>>> {
        self.heard.store(false, Ordering::Relaxed);
        // Out of its budget tokio would put the answer off and wake the silent waker for it, that is, nobody.
        let mut answer = pin!(unconstrained(self.sender.try_send_request(request)));
        std::future::poll_fn(|cx| {
            self.drive(cx);
            answer.as_mut().poll(&mut silent())
        })
        .await
    }

    /// Whether not one byte came since the last request was sent.
    pub(crate) fn is_unheard(&self) -> bool {
        !self.heard.load(Ordering::Relaxed)
    }

    /// The next frame of the answer whose head [`Link::send`] returned.
    pub(crate) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // Frames already read come first; asking also tells the connection that there is room for more. A wake that
        // is missed with a frame is made up for by the next call, which drives the connection.
        if let (Poll::Ready(frame), _) = self.waker.quietly(|| Pin::new(&mut *body).poll_frame(&mut silent()))
        {
            return Poll::Ready(frame);
        }
        self.drive(cx);
        let (frame, missed) = self.waker.quietly(|| Pin::new(body).poll_frame(&mut silent()));
        if missed && frame.is_pending() {
            cx.waker().wake_by_ref();
        }
        frame
    }
}
