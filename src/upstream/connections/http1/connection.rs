//! The connection.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, response};
use http_body::{Frame, SizeHint};
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer_head::{self, WorkerAnswerHead};
use super::decoder::BodyDecoder;
use super::error::Http1Error;
use super::outgoing::OutgoingRequest;
use crate::clock::Nanos;
use crate::net::fields::says_close;
use crate::request::Payload;

/// Bytes of one read, on the stack. Content that comes together is passed on together.
const READ: usize = 16 * 1024;
/// Largest head of an answer, in bytes.
const HEAD_MAX: usize = 64 * 1024;

/// A connection to a worker, over a socket `T`.
#[derive(Debug)]
pub(crate) struct WorkerConnection<T> {
    socket: T,
    /// The request being written; `None` once it is.
    outgoing: Option<OutgoingRequest>,
    /// Bytes read and not decoded: a head that is not complete, or what came behind one.
    input: BytesMut,
    decoder: BodyDecoder,
    /// Error that ended the answer after the content passed on.
    failed: Option<Http1Error>,
    /// `false` if the connection can carry no further request.
    kept: bool,
    switch: ProtocolSwitch,
    /// From this time on it takes no new requests.
    expires: Nanos,
}

/// State of a protocol switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ProtocolSwitch {
    #[default]
    Forbidden,
    Allowed,
    Done,
}

impl<T: AsyncRead + AsyncWrite + Unpin> WorkerConnection<T> {
    /// Creates an unused connection. Boxed: it is moved between the pool, futures and bodies.
    pub(crate) fn new(socket: T, expires: Nanos) -> Box<Self> {
        Box::new(Self {
            socket,
            outgoing: None,
            input: BytesMut::new(),
            decoder: BodyDecoder::Over,
            failed: None,
            kept: true,
            switch: ProtocolSwitch::Forbidden,
            expires,
        })
    }

    pub(crate) const fn socket(&self) -> &T {
        &self.socket
    }

    /// Returns `true` if another request can be sent at `now`: the connection is not too old, the last
    /// request is over on both sides and the worker has not closed.
    pub(crate) fn check(&mut self, now: Nanos) -> bool {
        now < self.expires && self.is_free()
    }

    /// Returns `true` if no request is under way and the worker has not closed. Nobody polls an idle
    /// connection, so only this notices its end.
    fn is_free(&mut self) -> bool {
        // The sender of the next request polls with its own waker, so none is registered here: it
        // would wake a task that is done with this connection.
        let mut cx = Context::from_waker(Waker::noop());
        let at_rest = self.kept && self.is_over() && self.outgoing.is_none();
        // Bytes that nobody asked for, an end, and an error are the same here.
        self.kept = at_rest && read(&mut self.socket, &mut cx, |_, _| ()).is_pending();
        self.kept
    }

    /// Allows the worker to switch protocols in its next response.
    pub(crate) const fn allow_switch(&mut self) {
        self.switch = ProtocolSwitch::Allowed;
    }

    pub(crate) const fn may_switch(&self) -> bool {
        matches!(self.switch, ProtocolSwitch::Allowed)
    }

    /// Returns the raw connection after a `101`, and the bytes read beyond the head.
    pub(crate) fn into_stream(self: Box<Self>) -> Option<(T, Bytes)> {
        (self.switch == ProtocolSwitch::Done).then(|| (self.socket, self.input.freeze()))
    }

    /// Sends a request and waits for the response head. If nothing was written, the error returns
    /// the request. Dropping the future before the end leaves the connection unusable.
    pub(crate) async fn send(
        &mut self,
        request: Request<Payload>,
    ) -> Result<response::Parts, (Http1Error, Option<Box<Request<Payload>>>)> {
        if !self.is_free() {
            return Err((Http1Error::Incomplete, Some(Box::new(request))));
        }
        let method = request.method().clone();
        let closes = says_close(request.headers());
        self.outgoing = Some(OutgoingRequest::new(request));
        // Until the answer says otherwise: a future dropped before that leaves its answer behind.
        self.kept = false;
        let WorkerAnswerHead { parts, framing, kept } =
            poll_fn(|cx| self.poll_head(&method, cx)).await.map_err(|error| (error, None))?;
        self.decoder = framing.into();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            if self.may_switch() {
                self.switch = ProtocolSwitch::Done;
            }
        } else {
            self.switch = ProtocolSwitch::Forbidden;
            // What comes behind an answer without a body belongs to no request.
            self.kept = kept && !closes && (self.input.is_empty() || !self.decoder.is_over());
        }
        Ok(parts)
    }

    fn poll_head(
        &mut self,
        method: &Method,
        cx: &mut Context<'_>,
    ) -> Poll<Result<WorkerAnswerHead, Http1Error>> {
        let broken = match self.poll_outgoing(cx) {
            Poll::Ready(Err(error @ Http1Error::Io(_))) => error,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => return self.poll_answer(method, cx),
        };
        // The worker may have answered before it closed: then it wants no more of the request.
        let answer = match self.poll_answer(method, cx) {
            Poll::Ready(Ok(answer)) => Ok(WorkerAnswerHead { kept: false, ..answer }),
            Poll::Ready(Err(_)) | Poll::Pending => Err(broken),
        };
        Poll::Ready(answer)
    }

    /// Writes on, and forgets the request when it is written or cannot be.
    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Http1Error>> {
        let Some(outgoing) = &mut self.outgoing else { return Poll::Ready(Ok(())) };
        let written = ready!(outgoing.poll_write(&mut self.socket, cx));
        self.kept &= written.is_ok();
        self.outgoing = None;
        Poll::Ready(written)
    }

    fn poll_answer(
        &mut self,
        method: &Method,
        cx: &mut Context<'_>,
    ) -> Poll<Result<WorkerAnswerHead, Http1Error>> {
        let Self { socket, input, .. } = self;
        loop {
            let found = ready!(read(socket, cx, |bytes, ended| {
                if ended {
                    return Err(Http1Error::Incomplete);
                }
                if input.is_empty() {
                    let (head, rest) = first_head(bytes, method)?;
                    input.extend_from_slice(rest);
                    return Ok(head);
                }
                let before = input.len();
                input.extend_from_slice(bytes);
                if !may_be_whole(input, before) && input.len() < HEAD_MAX {
                    return Ok(None);
                }
                let (head, rest) = first_head(input, method)?;
                // Not a part of the same memory, which would stay for as long as the connection.
                let rest = BytesMut::from(rest);
                *input = rest;
                Ok(head)
            }))?;
            if let Some(head) = found? {
                return Poll::Ready(Ok(head));
            }
        }
    }

    /// Returns `true` if the response has been read to its end.
    pub(crate) fn is_over(&self) -> bool {
        self.decoder.is_over() && self.failed.is_none()
    }

    /// Returns the bytes that are missing, as far as is known.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.decoder {
            BodyDecoder::Over => SizeHint::with_exact(0),
            BodyDecoder::Length(left) => SizeHint::with_exact(left),
            BodyDecoder::Chunked(_)
            | BodyDecoder::UntilClose
            | BodyDecoder::Trailers(_)
            | BodyDecoder::ChunksEnded => SizeHint::default(),
        }
    }

    /// Polls the next frame of the response whose head [`WorkerConnection::send`] returned.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Http1Error>>> {
        // A worker that no longer reads may still answer.
        if let Poll::Ready(Err(error)) = self.poll_outgoing(cx)
            && !matches!(error, Http1Error::Io(_))
        {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            if let Some(error) = self.failed.take() {
                self.kept = false;
                return Poll::Ready(Some(Err(error)));
            }
            if !self.input.is_empty() {
                let input = std::mem::take(&mut self.input);
                if let Some(data) = self.content(&input) {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                continue;
            }
            if let Some(trailers) = self.decoder.take_trailers() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            if self.decoder.is_over() || self.decoder.take_end() {
                return Poll::Ready(None);
            }
            let Self { socket, decoder, kept, failed, .. } = self;
            let data = ready!(read(socket, cx, |bytes, ended| {
                if ended {
                    *kept = false;
                    *failed = decoder.close().err();
                    return None;
                }
                content(decoder, bytes, kept, failed)
            }));
            match data {
                Ok(Some(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(None) => {}
                Err(error) => self.failed = Some(error.into()),
            }
        }
    }

    fn content(&mut self, bytes: &[u8]) -> Option<Bytes> {
        content(&mut self.decoder, bytes, &mut self.kept, &mut self.failed)
    }
}

/// Reads once, onto the stack, and gives the bytes and whether the connection has ended to `then`.
fn read<R>(
    socket: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    then: impl FnOnce(&[u8], bool) -> R,
) -> Poll<std::io::Result<R>> {
    let mut room = [MaybeUninit::uninit(); READ];
    let mut buffer = ReadBuf::uninit(&mut room);
    ready!(Pin::new(socket).poll_read(cx, &mut buffer))?;
    let bytes = buffer.filled();
    Poll::Ready(Ok(then(bytes, bytes.is_empty())))
}

/// Returns the first head that is not interim, and the bytes behind it; without one, those of a head
/// that is not complete.
fn first_head<'b>(
    mut bytes: &'b [u8],
    method: &Method,
) -> Result<(Option<WorkerAnswerHead>, &'b [u8]), Http1Error> {
    loop {
        let parsed = if bytes.is_empty() { None } else { answer_head::parse(bytes, method)? };
        let Some((length, head)) = parsed else {
            if bytes.len() >= HEAD_MAX {
                return Err(Http1Error::Malformed("its head is too long"));
            }
            return Ok((None, bytes));
        };
        bytes = bytes.get(length..).unwrap_or_default();
        if !head.parts.status.is_informational() || head.parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok((Some(head), bytes));
        }
    }
}

/// Returns `true` if the bytes from `before` on may end a head. So one that comes byte by byte is not parsed
/// as often.
fn may_be_whole(bytes: &[u8], before: usize) -> bool {
    const EMPTY_LINE: &[u8] = b"\n\r\n";
    let new = bytes.get(before.saturating_sub(EMPTY_LINE.len())..).unwrap_or_default();
    memmem::find(new, EMPTY_LINE).is_some() || memmem::find(new, b"\n\n").is_some()
}

/// Takes all content of `bytes`. Bytes behind the end of the body belong to no request: the connection
/// carries no other.
fn content(
    decoder: &mut BodyDecoder,
    mut bytes: &[u8],
    kept: &mut bool,
    failed: &mut Option<Http1Error>,
) -> Option<Bytes> {
    let most = bytes.len();
    let mut next = || {
        decoder.next(&mut bytes).unwrap_or_else(|error| {
            *failed = Some(error);
            None
        })
    };
    let first = next();
    let data = match (first, first.and_then(|_| next())) {
        (Some(first), Some(second)) => {
            let mut all = Vec::with_capacity(most);
            all.extend_from_slice(first);
            all.extend_from_slice(second);
            while let Some(more) = next() {
                all.extend_from_slice(more);
            }
            Some(all.into())
        }
        (first, _) => first.map(Bytes::copy_from_slice),
    };
    *kept &= failed.is_none() && bytes.is_empty();
    data
}
