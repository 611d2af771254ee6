//! The worker's answer as it is read, and what was read but not yet handed on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use super::link::Link;
use super::pool::Site;

/// The rest of an answer and the connection it comes on. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Source {
    link: Box<Link>,
    body: Incoming,
    site: Arc<Site>,
}

impl Source {
    /// The body of an answer whose head came on `link`.
    pub(crate) const fn new(link: Box<Link>, body: Incoming, site: Arc<Site>) -> Self {
        Self { link, body, site }
    }

    /// The next frame as the worker sent it.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.link.poll_frame(&mut self.body, cx)
    }

    /// Whether the answer was read to its end.
    pub(crate) fn is_over(&self) -> bool {
        self.body.is_end_stream()
    }

    /// Gives the connection of an answer that was read to its end back.
    pub(crate) fn give_back(self) {
        let Self { link, body, site } = self;
        // hyper takes the connection for busy as long as the body exists.
        drop(body);
        site.put(link);
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Frames read and not yet handed on, in order. One is the common case and costs no allocation.
#[derive(Debug, Default)]
pub(crate) struct Held {
    first: Option<Frame<Bytes>>,
    rest: VecDeque<Frame<Bytes>>,
    bytes: usize,
    cost: usize,
}

impl Held {
    pub(crate) fn push(&mut self, frame: Frame<Bytes>) {
        let length = frame.data_ref().map_or(0, Bytes::len);
        self.bytes += length;
        self.cost += length + size_of::<Frame<Bytes>>();
        if self.first.is_none() && self.rest.is_empty() {
            self.first = Some(frame);
        } else {
            self.rest.push_back(frame);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Frame<Bytes>> {
        let frame = self.first.take().or_else(|| self.rest.pop_front())?;
        self.bytes -= frame.data_ref().map_or(0, Bytes::len);
        Some(frame)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }

    /// Bytes of data held now.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory all frames took that were ever pushed, their bookkeeping included.
    pub(crate) const fn cost(&self) -> usize {
        self.cost
    }
}
