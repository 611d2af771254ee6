//! Wraps a connection for hyper: its HTTP version, head timeout, error messages and lingering close.
//!
//! Hyper's header timeout also runs on idle keep-alive connections, so ten seconds for a head would
//! close them after ten seconds. Here it runs only while the first head is expected or a head has
//! begun; on HTTP/2, until a preface or block of header fields is complete. Hyper answers a head it
//! cannot parse with a bare status; this adds the reason. Closing a socket that still receives
//! resets it and loses the answer: so if a body is refused midway, input is read and dropped
//! briefly.
//!
//! The version is found here, and not by hyper-util: there, the first read gives hyper as many bytes as
//! the preface of HTTP/2 has, and for the rest hyper doubles its buffer for good.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::{self, Finding, FramingScanner, HeadExcess};
use super::service::{ConnectionState, OwnError};
use super::write_timeout::LazySleep;
use crate::openai::anthropic::REQUEST_ID;
use crate::openai::dialect::Dialect;
use crate::refusal::Reason;

/// Maximum bytes of hyper's bare answer: status line, length, `connection`, maybe a date. Ours are
/// longer.
const LONGEST_BARE_ANSWER: usize = 160;

/// First bytes of a connection over HTTP/2 (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a read before the version is known.
const FIRST_READ: usize = 4 * 1024;

/// HTTP version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WireVersion {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// How long input is dropped on a connection that the gateway closes.
const LINGER: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct HeadTimeout<T> {
    inner: T,
    link: Arc<ConnectionState>,
    scanner: FramingScanner,
    timer: LazySleep,
    patience: Duration,
    pending_answer: Bytes,
    lingering: bool,
    /// Read before the version was known, and not yet by hyper.
    early: Bytes,
}

impl<T: AsyncRead + AsyncWrite + Unpin> HeadTimeout<T> {
    pub(super) fn new(inner: T, patience: Duration, link: Arc<ConnectionState>) -> Self {
        let scanner = FramingScanner::new();
        let (timer, pending_answer) = (LazySleep::default(), Bytes::new());
        Self { inner, link, scanner, timer, patience, pending_answer, lingering: false, early: Bytes::new() }
    }

    /// Reads until the version of the connection is known.
    ///
    /// # Errors
    /// If the connection fails, or no head comes in time.
    pub(super) async fn version(&mut self) -> io::Result<WireVersion> {
        while PREFACE.starts_with(&self.early) && self.early.len() < PREFACE.len() {
            let read = poll_fn(|cx| self.poll_early(cx)).await?;
            if read.is_empty() {
                break;
            }
            self.early =
                if self.early.is_empty() { read } else { [&self.early[..], &read[..]].concat().into() };
        }
        Ok(if self.early.starts_with(PREFACE) { WireVersion::Http2 } else { WireVersion::Http1 })
    }

    /// Reads once, on the stack: a buffer of the task would stay with it.
    fn poll_early(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let mut room = [MaybeUninit::uninit(); FIRST_READ];
        let mut buffer = ReadBuf::uninit(&mut room);
        ready!(self.poll_socket(cx, &mut buffer))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
    }

    /// Reads from the socket, for at most as long as a head may take.
    fn poll_socket(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.inner).poll_read(cx, buf);
        if self.link.is_upgraded() {
            self.scanner.stop();
        }
        if outcome.is_pending() {
            return self.poll_head_time(cx).map(Err);
        }
        match self.scanner.scan(buf.filled().get(before..).unwrap_or_default()) {
            Finding::None => {}
            found => self.link.note_framing(found),
        }
        if !self.scanner.in_head() {
            self.timer.disarm();
        }
        outcome
    }

    fn poll_head_time(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.scanner.in_head() && !self.scanner.is_first() {
            return Poll::Pending;
        }
        self.timer.arm(self.patience);
        ready!(self.timer.poll(cx));
        if self.scanner.in_head() && self.scanner.is_first() {
            // Nothing was written here before, so this cannot land inside another answer. One
            // attempt is enough: the socket's buffer is empty.
            let message = "the request's head did not arrive within bounds.header_read";
            let answer = explain("408 Request Timeout", Reason::BadRequest, message, self.scanner.dialect());
            if Pin::new(&mut self.inner).poll_write(cx, &answer).is_ready() {
                drop(Pin::new(&mut self.inner).poll_flush(cx));
            }
        }
        let message = "no request head within bounds.header_read";
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, message))
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut nothing = [0; 4096];
        while self.scanner.may_have_more() {
            self.timer.arm(LINGER);
            if self.timer.poll(cx).is_ready() {
                break;
            }
            let mut buf = ReadBuf::new(&mut nothing);
            match ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {
                    self.scanner.scan(buf.filled());
                }
                _ => break,
            }
        }
        Poll::Ready(())
    }

    fn poll_owed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending_answer.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.pending_answer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending_answer.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for HeadTimeout<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.early.is_empty() {
            let here = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early.split_to(here));
            return Poll::Ready(Ok(()));
        }
        this.poll_socket(cx, buf)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for HeadTimeout<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_owed(cx))?;
        if let Some(answer) = explained(buf, &this.scanner) {
            this.pending_answer = answer;
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut this.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_owed(cx))?;
        if let [only] = bufs
            && let Some(answer) = explained(only, &this.scanner)
        {
            this.pending_answer = answer;
            return Poll::Ready(Ok(only.len()));
        }
        Pin::new(&mut this.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_owed(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.lingering {
            ready!(this.poll_owed(cx))?;
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
            this.lingering = true;
            this.timer.disarm();
        }
        this.poll_linger(cx).map(Ok)
    }
}

/// Returns the full answer that replaces `written` if this is a bare one of hyper. `scanner` has read
/// the head that it answers.
fn explained(written: &[u8], scanner: &FramingScanner) -> Option<Bytes> {
    if written.len() > LONGEST_BARE_ANSWER || !written.starts_with(b"HTTP/1.1 4") {
        return None;
    }
    let text = std::str::from_utf8(written).ok()?;
    let mut lines = text.strip_suffix("\r\n\r\n")?.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?;
    let bare = lines.clone().any(|line| line == "content-length: 0")
        && lines.clone().any(|line| line == "connection: close")
        && lines.all(|line| {
            line.starts_with("date: ")
                || line.starts_with("content-length: ")
                || line.starts_with("connection: ")
        });
    let (status, reason, message) = match (status.get(..3)?, scanner.excess()) {
        // Hyper does not tell a long body from a long head.
        ("431", Some(HeadExcess::Length)) => {
            ("413 Payload Too Large", Reason::BodyTooLarge, framing::LARGE_BODY)
        }
        ("400", _) => (
            status,
            Reason::BadRequest,
            "the request is not valid HTTP: its request line, a header field or its framing is malformed",
        ),
        ("414", _) => (status, Reason::BadRequest, "the request's path is too long"),
        ("431", Some(HeadExcess::Fields)) => (status, Reason::BadRequest, framing::MANY_FIELDS),
        ("431", None) => (status, Reason::BadRequest, framing::LONG_HEAD),
        _ => return None,
    };
    bare.then(|| explain(status, reason, message, scanner.dialect()))
}

fn explain(status: &str, reason: Reason, message: &'static str, dialect: Dialect) -> Bytes {
    let OwnError { body, id } = OwnError::new(dialect, reason, message);
    let id = id.map(|id| format!("{REQUEST_ID}: {id}\r\nx-request-id: {id}\r\n")).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{id}\
         x-traffic-dam-reason: {reason}\r\nconnection: close\r\n\r\n",
        body.len(),
    );
    [head.as_bytes(), &body[..]].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_error_is_explained() {
        let fresh = FramingScanner::new();
        let date = "date: Sat, 21 Nov 2026 10:00:00 GMT\r\n\r\n";
        let bare =
            |status: &str| format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n{date}");
        for status in ["400 Bad Request", "414 URI Too Long", "431 Request Header Fields Too Large"] {
            let answer = explained(bare(status).as_bytes(), &fresh).unwrap();
            let answer = std::str::from_utf8(&answer).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
            assert!(answer.contains("\"code\":\"bad_request\""), "{answer}");
        }
        assert!(explained(bare("404 Not Found").as_bytes(), &fresh).is_none());
        assert!(explained(bare("200 OK").as_bytes(), &fresh).is_none());
        let ours = format!(
            "HTTP/1.1 400 Bad Request\r\nconnection: close\r\nx-request-id: a\r\ncontent-length: 0\r\n{date}"
        );
        assert!(explained(ours.as_bytes(), &fresh).is_none());
    }

    #[test]
    fn the_reason_is_the_one_that_the_head_gave() {
        let answer = |fields: &str, bare: &str| {
            let mut scanner = FramingScanner::new();
            scanner.scan(format!("POST / HTTP/1.1\r\n{fields}").as_bytes());
            let bare = format!("HTTP/1.1 {bare}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            let answer = explained(bare.as_bytes(), &scanner).unwrap();
            String::from_utf8(answer.to_vec()).unwrap()
        };
        const TOO_LARGE: &str = "431 Request Header Fields Too Large";
        let many = |number: usize| "a: b\r\n".repeat(number);
        for (fields, bare, status, words) in [
            ("a: b\r\n".to_owned(), TOO_LARGE, "431", "exceeds bounds.headers"),
            (many(100) + "\r\n", TOO_LARGE, "431", "exceeds bounds.headers"),
            (many(101) + "\r\n", TOO_LARGE, "431", "more than 100 header fields"),
            (many(100) + "a: b", TOO_LARGE, "431", "more than 100 header fields"),
            ("content-length: 18446744073709551615\r\n\r\n{}".to_owned(), TOO_LARGE, "413", "body_too_large"),
            ("Content-Length: 18446744073709551614\r\n\r\n".to_owned(), TOO_LARGE, "413", "body_too_large"),
            (
                "content-length: 18446744073709551616\r\n\r\n".to_owned(),
                "400 Bad Request",
                "400",
                "not valid HTTP",
            ),
            ("content-length: 0x10\r\n\r\n".to_owned(), "400 Bad Request", "400", "not valid HTTP"),
            ("content-length: +1\r\n\r\n".to_owned(), "400 Bad Request", "400", "not valid HTTP"),
        ] {
            let answer = answer(&fields, bare);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert!(answer.contains(words), "{answer}");
        }
        assert!(framing::MANY_FIELDS.contains(&framing::MAX_FIELDS.to_string()));
    }

    #[test]
    fn a_messages_client_is_told_in_its_own_form() {
        let bare =
            "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        for (read, messages) in [
            ("POST /v1/messages HTTP/1.1\r\nx-a: aaa", true),
            ("POST /v1/messages/count_tokens?beta=true HTTP/1.1\r\n", true),
            ("POST /v1/messages/batches", true),
            ("POST /v1/messages2 HTTP/1.1\r\n", false),
            ("POST /v1/chat/completions HTTP/1.1\r\n", false),
            ("POST /v1/messages HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n", false),
            ("", false),
        ] {
            let mut scanner = FramingScanner::new();
            scanner.scan(read.as_bytes());
            let answer = explained(bare.as_bytes(), &scanner).unwrap();
            let answer = std::str::from_utf8(&answer).unwrap();
            assert_eq!(answer.contains("\r\nrequest-id: "), messages, "{read}: {answer}");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{answer}");
            assert_eq!(body.starts_with("{\"type\":\"error\""), messages, "{read}: {answer}");
        }
    }
}
