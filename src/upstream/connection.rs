//! One HTTP/1.1 connection, driven by the task that uses it.
//!
//! hyper expects a task for each connection, which costs a hop between tasks, often between
//! threads, for every request and frame. Here the request's future, then the response body, polls
//! the connection: a byte from the worker wakes the client's task directly, and dropping the future
//! or the body closes the socket at once. The price: nobody polls an idle connection, so its
//! closing is noticed only when it is taken out again ([`WorkerConnection::check`]) or swept.

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

use super::connect::WorkerSocket;
use super::relay::QuietWaker;
use crate::clock::Nanos;
use crate::request::Payload;

/// A connection and its sender.
#[derive(Debug)]
pub(crate) struct WorkerConnection {
    sender: SendRequest<Payload>,
    /// `None` once it has ended, with or without an error.
    connection: Option<Connection<TokioIo<WorkerSocket>, Payload>>,
    /// `true` if a byte came since the last request was sent.
    received: Arc<AtomicBool>,
    /// Whether the worker may switch protocols, then the switched connection.
    switch: ProtocolSwitch,
    waker: QuietWaker,
    /// From this time on it takes no new requests.
    expires: Nanos,
}

/// State of a protocol switch.
#[derive(Debug, Default)]
enum ProtocolSwitch {
    #[default]
    Forbidden,
    Allowed,
    Done(Box<Connection<TokioIo<WorkerSocket>, Payload>>),
}

/// Returns a context that wakes nobody: hyper's two halves are polled here in turn and need no
/// waker. What the connection waits for outside (socket, request body) holds the caller's.
fn noop_context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl WorkerConnection {
    /// Creates an unused connection. Boxed: it is moved between the pool, futures and bodies. The
    /// stream sets `received` when something comes.
    pub(crate) fn new(
        sender: SendRequest<Payload>,
        connection: Connection<TokioIo<WorkerSocket>, Payload>,
        heard: Arc<AtomicBool>,
        expires: Nanos,
    ) -> Box<Self> {
        Box::new(Self {
            sender,
            connection: Some(connection),
            received: heard,
            switch: ProtocolSwitch::Forbidden,
            waker: QuietWaker::new(),
            expires,
        })
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        let mut cx = Context::from_waker(self.waker.on_behalf_of(cx.waker()));
        if let Some(connection) = &mut self.connection
            && let Poll::Ready(ended) = Pin::new(connection).poll(&mut cx)
        {
            let connection = self.connection.take();
            match ended {
                Ok(()) if matches!(self.switch, ProtocolSwitch::Allowed) => {
                    self.switch = connection
                        .map_or(ProtocolSwitch::Forbidden, |left| ProtocolSwitch::Done(Box::new(left)));
                }
                Ok(()) => {}
                Err(error) => tracing::trace!(%error, "a worker's connection ended"),
            }
        }
    }

    /// Returns `true` if another request can be sent at `now`: it is not too old, the last request is
    /// over on both sides and the worker has not closed. The sender of the next request polls with its own waker, so none is
    /// registered here: it would wake a task that is done with this connection.
    pub(crate) fn check(&mut self, now: Nanos) -> bool {
        self.drive(&mut noop_context());
        now < self.expires && self.connection.is_some() && self.sender.is_ready()
    }

    /// Allows the worker to switch protocols in its next response.
    pub(crate) fn allow_switch(&mut self) {
        self.switch = ProtocolSwitch::Allowed;
    }

    pub(crate) const fn may_switch(&self) -> bool {
        matches!(self.switch, ProtocolSwitch::Allowed)
    }

    /// Returns the raw connection after a `101`, and the bytes read beyond the head.
    pub(crate) fn into_stream(mut self: Box<Self>) -> Option<(WorkerSocket, Bytes)> {
        self.drive(&mut noop_context());
        match self.switch {
            ProtocolSwitch::Done(connection) => {
                let parts = connection.into_parts();
                Some((parts.io.into_inner(), parts.read_buf))
            }
            ProtocolSwitch::Forbidden | ProtocolSwitch::Allowed => None,
        }
    }

    /// Sends a request and waits for the response head. If nothing was written, the error returns
    /// the request. Dropping the future before the end leaves the link unusable.
    pub(crate) async fn send(
        &mut self,
        request: Request<Payload>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Payload>>> {
        self.received.store(false, Ordering::Relaxed);
        // Without budget tokio would defer this and wake the no-op waker: the task would hang.
        let mut answer = pin!(unconstrained(self.sender.try_send_request(request)));
        std::future::poll_fn(|cx| {
            self.drive(cx);
            answer.as_mut().poll(&mut noop_context())
        })
        .await
    }

    /// Returns `true` if no byte came since the last request was sent.
    pub(crate) fn is_unheard(&self) -> bool {
        !self.received.load(Ordering::Relaxed)
    }

    /// Polls the next frame of the response whose head [`WorkerConnection::send`] returned.
    pub(crate) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // Frames already read come first; asking tells the connection that there is room for more.
        // The next call drives the connection: this makes up for a wake missed with a frame.
        if let (Poll::Ready(frame), _) =
            self.waker.run_muted(|| Pin::new(&mut *body).poll_frame(&mut noop_context()))
        {
            return Poll::Ready(frame);
        }
        self.drive(cx);
        let (frame, missed) = self.waker.run_muted(|| Pin::new(body).poll_frame(&mut noop_context()));
        if missed && frame.is_pending() {
            cx.waker().wake_by_ref();
        }
        frame
    }
}
