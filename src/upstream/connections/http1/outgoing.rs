//! A request on its way to a worker: its head, and the framing of its body.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{CONTENT_LENGTH, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, request};
use http_body::Body as _;
use smallvec::SmallVec;
use tokio::io::AsyncWrite;

use super::error::Http1Error;
use crate::net::fields::elements_of;
use crate::request::Payload;

/// A body in memory up to this size is copied behind the head: one write of one piece.
const COPIED_MAX: usize = 4 * 1024;
/// Usual length of a field, for the size of the head's buffer.
const FIELD: usize = 40;
/// Pieces of one write.
const PIECES: usize = 8;

/// How the body tells the worker where it ends.
#[derive(Debug)]
enum BodyFraming {
    /// This many bytes are missing.
    Length(u64),
    /// In chunks; with the names of the trailers that were announced.
    Chunked(SmallVec<[HeaderName; 2]>),
}

/// What is left of a request to be written.
#[derive(Debug)]
pub(super) struct OutgoingRequest {
    ready: VecDeque<Bytes>,
    flushed: bool,
    /// Rest of the body; `None` once all of it is in `ready`.
    body: Option<Payload>,
    framing: BodyFraming,
}

impl OutgoingRequest {
    /// Encodes the head, and a body that is in memory.
    pub(super) fn new(request: Request<Payload>) -> Self {
        let (head, body) = request.into_parts();
        let known = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
        // A method that seldom has a body says so itself if it has one of unknown length.
        let seldom = matches!(head.method, Method::GET | Method::HEAD | Method::CONNECT);
        let framing = match known {
            Some(length) => BodyFraming::Length(length),
            None if seldom && !head.headers.contains_key(TRANSFER_ENCODING) => BodyFraming::Length(0),
            None => BodyFraming::Chunked(announced(&head.headers)),
        };
        let mut this = Self { ready: VecDeque::new(), flushed: false, body: None, framing };
        let mut text = this.encode(&head, !body.is_end_stream());
        if matches!(this.framing, BodyFraming::Length(0)) {
            this.ready.push_back(text.into());
        } else if let Some(pieces) = body.pieces() {
            let length = pieces.iter().map(Bytes::len).sum::<usize>();
            if length <= COPIED_MAX {
                pieces.iter().for_each(|piece| text.extend_from_slice(piece));
                this.ready.push_back(text.into());
            } else {
                this.ready.push_back(text.into());
                this.ready.extend(pieces.iter().filter(|piece| !piece.is_empty()).cloned());
            }
        } else {
            this.ready.push_back(text.into());
            this.body = Some(body);
        }
        this
    }

    /// Encodes the head, with room for a small body behind it.
    fn encode(&self, head: &request::Parts, with_body: bool) -> Vec<u8> {
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let room = if with_body { COPIED_MAX / 4 } else { 0 };
        let mut text = Vec::with_capacity(target.len() + FIELD * (head.headers.len() + 2) + room);
        for part in [head.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            text.extend_from_slice(part.as_bytes());
        }
        for (name, value) in &head.headers {
            if name == CONTENT_LENGTH || name == TRANSFER_ENCODING {
                continue;
            }
            push_field(&mut text, name, value);
        }
        match self.framing {
            BodyFraming::Length(_) if !with_body => {}
            BodyFraming::Length(length) => {
                text.extend_from_slice(b"content-length: ");
                text.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
                text.extend_from_slice(b"\r\n");
            }
            BodyFraming::Chunked(_) => text.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        text.extend_from_slice(b"\r\n");
        text
    }

    /// Writes on; ready when all is written. Of the body it takes the next piece when the one before is
    /// written.
    ///
    /// # Errors
    /// If the socket or the body fails.
    pub(super) fn poll_write(
        &mut self,
        socket: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Http1Error>> {
        loop {
            while !self.ready.is_empty() {
                self.flushed = false;
                let written = ready!(self.poll_ready(socket, cx))?;
                if written == 0 {
                    return Poll::Ready(Err(Http1Error::Io(io::ErrorKind::WriteZero.into())));
                }
                self.advance(written);
            }
            if !self.flushed {
                ready!(Pin::new(&mut *socket).poll_flush(cx))?;
                self.flushed = true;
            }
            let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.push(data)?,
                    Err(frame) => self.end(frame.into_trailers().ok())?,
                },
                Some(Err(error)) => {
                    self.body = None;
                    return Poll::Ready(Err(Http1Error::Payload(error)));
                }
                None => self.end(None)?,
            }
        }
    }

    fn poll_ready(
        &self,
        socket: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let (Some(first), 1) = (self.ready.front(), self.ready.len()) {
            return Pin::new(socket).poll_write(cx, first);
        }
        let pieces: SmallVec<[IoSlice<'_>; PIECES]> =
            self.ready.iter().take(PIECES).map(|piece| IoSlice::new(piece)).collect();
        Pin::new(socket).poll_write_vectored(cx, &pieces)
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.ready.front_mut() {
            let here = written.min(first.len());
            first.advance(here);
            written -= here;
            if !first.is_empty() {
                break;
            }
            self.ready.pop_front();
        }
    }

    fn push(&mut self, data: Bytes) -> Result<(), Http1Error> {
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.framing {
            BodyFraming::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Http1Error::WrongLength)?;
                self.ready.push_back(data);
                if *left == 0 {
                    // The worker expects no more, even if the client does not say yet that it is done.
                    self.body = None;
                }
            }
            BodyFraming::Chunked(_) => {
                self.ready.push_back(format!("{:x}\r\n", data.len()).into());
                self.ready.push_back(data);
                self.ready.push_back(Bytes::from_static(b"\r\n"));
            }
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Http1Error> {
        self.body = None;
        match &self.framing {
            BodyFraming::Length(0) => Ok(()),
            BodyFraming::Length(_) => Err(Http1Error::WrongLength),
            BodyFraming::Chunked(announced) => {
                let mut text = b"0\r\n".to_vec();
                for (name, value) in trailers.iter().flatten().filter(|(name, _)| announced.contains(name)) {
                    push_field(&mut text, name, value);
                }
                text.extend_from_slice(b"\r\n");
                self.ready.push_back(text.into());
                Ok(())
            }
        }
    }
}

fn push_field(text: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
        text.extend_from_slice(part);
    }
}

/// Returns the names of the trailers that the head announces; a worker need not read others.
fn announced(headers: &HeaderMap) -> SmallVec<[HeaderName; 2]> {
    elements_of(headers, &TRAILER).filter_map(|name| HeaderName::from_bytes(name).ok()).collect()
}
