//! The worker's answer as it is read, and what was read but not yet handed on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use super::link::Link;
use super::pool::Site;
use super::queue::JobSource;
use crate::redis::jobs;

/// Where the rest of an answer comes from. Dropping it tells the worker that nobody waits for more.
#[derive(Debug)]
pub(crate) enum Source {
    /// A connection.
    Http(HttpSource),
    /// A queue. Boxed, because it is the larger of the two, and most gateways have none.
    Job(Box<JobSource>),
}

/// Why an answer broke off.
#[derive(Debug)]
pub(crate) enum Break {
    /// The connection failed.
    Http(hyper::Error),
    /// The job did.
    Job(jobs::Fault),
}

impl Source {
    /// The next frame as the worker sent it.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Break>>> {
        match self {
            Self::Http(source) => {
                source.link.poll_frame(&mut source.body, cx).map(|frame| Some(frame?.map_err(Break::Http)))
            }
            Self::Job(source) => source.poll_frame(cx).map(|frame| Some(frame?.map_err(Break::Job))),
        }
    }

    /// Whether the answer was read to its end.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Http(source) => source.body.is_end_stream(),
            Self::Job(source) => source.is_over(),
        }
    }

    /// Gives back what an answer that was read to its end came on.
    pub(crate) fn give_back(self) {
        if let Self::Http(HttpSource { link, body, site, reusable }) = self {
            // hyper takes the connection for busy as long as the body exists.
            drop(body);
            if reusable {
                site.put(link);
            }
        }
    }

    /// Its time is over.
    pub(crate) fn expire(&mut self) {
        if let Self::Job(source) = self {
            source.expire();
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http(source) => source.body.size_hint(),
            Self::Job(_) => SizeHint::default(),
        }
    }
}

/// The rest of an answer and the connection it comes on.
#[derive(Debug)]
pub(crate) struct HttpSource {
    link: Box<Link>,
    body: Incoming,
    site: Arc<Site>,
    /// Whether both sides agree on where the next answer begins.
    reusable: bool,
}

impl HttpSource {
    /// The body of an answer whose head came on `link`.
    pub(crate) const fn new(link: Box<Link>, body: Incoming, site: Arc<Site>, reusable: bool) -> Self {
        Self { link, body, site, reusable }
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
