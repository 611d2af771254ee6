//! Keeps a copy of an answer over HTTP, for repeats of its request.
//!
//! The client's last bytes wait until the copy is stored, so that a client which repeats a request
//! after its answer gets that answer. An answer that breaks off, or whose client leaves, frees the
//! key: a repeat runs again.
//!
//! **Trade-off.** The copy is in memory until the answer is complete, within `bounds.buffered`.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::{StatusCode, response};
use http_body::{Body, Frame};
use tokio::sync::oneshot;
use tokio::time::{Timeout, timeout};

use crate::layers::buffers::{BufferHold, Buffers};
use crate::redis::jobs::{KeyClaim, LONGEST_ANSWER, StoredAnswer, caller_hash, write_head};
use crate::request::{Caller, Ending, RequestRecord};

/// How long the end of an answer waits at most until it is stored.
const PATIENCE: Duration = Duration::from_millis(250);

/// Returns `true` if an answer with this status is that of all repeats. Clients repeat a request
/// after the others, so that it runs again.
pub(super) fn is_final(status: StatusCode) -> bool {
    let asks_again =
        [StatusCode::REQUEST_TIMEOUT, StatusCode::CONFLICT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
    !(asks_again || status.is_server_error())
}

/// Copies an answer while the client reads it.
pub(super) struct AnswerKeeper {
    trial: Arc<KeyClaim>,
    record: Arc<RequestRecord>,
    answer: StoredAnswer,
    /// The body so far, and its memory; `None` once it is too long, or if it may not be stored.
    copy: Option<(Vec<u8>, BufferHold)>,
    end: CopyEnd,
}

/// How far the copy of an answer is.
enum CopyEnd {
    /// The answer goes on.
    Open,
    /// It is complete. Its last frame, if any, waits until it is stored.
    Storing(Pin<Box<Timeout<oneshot::Receiver<()>>>>, Option<Frame<Bytes>>),
    /// It is stored, or will not be.
    Over,
}

impl fmt::Debug for AnswerKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerKeeper").field("trial", &self.trial).finish_non_exhaustive()
    }
}

impl AnswerKeeper {
    /// Copies the answer with this head, for repeats of the request of `trial`.
    pub(super) fn new(
        head: &response::Parts,
        trial: Arc<KeyClaim>,
        record: Arc<RequestRecord>,
        (caller, stream): (&Caller, bool),
        buffers: &Arc<Buffers>,
    ) -> Self {
        let answer =
            StoredAnswer { caller: caller_hash(&caller.id), stream, head: write_head(head), body: None };
        // A stored head says nothing of a coding, and not every client that repeats may read it.
        let copy = !head.headers.contains_key(CONTENT_ENCODING);
        let copy = copy.then(|| (Vec::new(), buffers.enter(&caller.id)));
        Self { trial, record, answer, copy, end: CopyEnd::Open }
    }

    fn copy(&mut self, data: &[u8]) {
        let Some((copy, room)) = &mut self.copy else { return };
        let fits = copy.len() + data.len() <= LONGEST_ANSWER;
        if fits && room.grow(data.len() as u64) {
            copy.extend_from_slice(data);
        } else {
            self.copy = None;
        }
    }

    /// Stores the answer if it is complete, and ends the copy.
    fn finish(&mut self) -> Option<oneshot::Receiver<()>> {
        let was = std::mem::replace(&mut self.end, CopyEnd::Over);
        if !matches!(was, CopyEnd::Open) || self.record.ending() != Ending::Complete {
            return None;
        }
        let body = self.copy.take().map(|(copy, _room)| Bytes::from(copy));
        Some(self.trial.keep(StoredAnswer { body, ..self.answer.clone() }))
    }

    /// Polls for the next frame of `inner`, and copies it.
    pub(super) fn poll_frame<B: Body<Data = Bytes>>(
        &mut self,
        mut inner: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        loop {
            if let CopyEnd::Storing(stored, last) = &mut self.end {
                // Without an answer of Redis the client gets its own all the same.
                let _stored = ready!(stored.as_mut().poll(cx));
                let last = last.take();
                self.end = CopyEnd::Over;
                return Poll::Ready(last.map(Ok));
            }
            let frame = ready!(inner.as_mut().poll_frame(cx));
            let last = match frame {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.copy(data);
                    }
                    if !inner.is_end_stream() {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    Some(frame)
                }
                Some(Err(error)) => {
                    self.end = CopyEnd::Over;
                    return Poll::Ready(Some(Err(error)));
                }
                None => None,
            };
            match self.finish() {
                Some(stored) => self.end = CopyEnd::Storing(Box::pin(timeout(PATIENCE, stored)), last),
                None => return Poll::Ready(last.map(Ok)),
            }
        }
    }

    /// Returns `true` if no frame is held back.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.end, CopyEnd::Over)
    }
}

impl Drop for AnswerKeeper {
    /// A client may close at the last event of a stream, which is complete then.
    fn drop(&mut self) {
        drop(self.finish());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_try_again_is_nobodys_answer() {
        for (status, kept) in [
            (200, true),
            (400, true),
            (404, true),
            (422, true),
            (408, false),
            (409, false),
            (429, false),
            (500, false),
            (503, false),
            (529, false),
        ] {
            assert_eq!(is_final(StatusCode::from_u16(status).unwrap()), kept, "{status}");
        }
    }
}
