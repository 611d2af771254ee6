//! A worker's response as it is read, and the frames not yet passed on.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::connections::{HttpSource, LinkError};
use super::queue::JobSource;
use crate::redis::jobs;

/// Source of the rest of a response. Dropping it tells the worker that nobody waits.
#[derive(Debug)]
pub(crate) enum AnswerSource {
    /// HTTP connection.
    Http(HttpSource),
    /// Queue. Boxed because it is larger, and most gateways have none.
    Job(Box<JobSource>),
}

/// Error that broke a response off.
#[derive(Debug)]
pub(crate) enum AnswerBreak {
    /// Connection failed.
    Http(LinkError),
    /// Job failed.
    Job(jobs::JobError),
}

impl AnswerSource {
    /// Polls the next frame from the worker.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerBreak>>> {
        match self {
            Self::Http(source) => source.poll_frame(cx).map(|frame| Some(frame?.map_err(AnswerBreak::Http))),
            Self::Job(source) => source.poll_frame(cx).map(|frame| Some(frame?.map_err(AnswerBreak::Job))),
        }
    }

    /// Returns `true` if the response was read to its end.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Http(source) => source.is_over(),
            Self::Job(source) => source.is_over(),
        }
    }

    /// Returns the connection of a fully read response to the pool.
    pub(crate) fn give_back(self) {
        if let Self::Http(source) = self {
            source.give_back();
        }
    }

    /// Tells a job that its time is over.
    pub(crate) fn expire(&mut self) {
        if let Self::Job(source) = self {
            source.expire();
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http(source) => source.size_hint(),
            Self::Job(_) => SizeHint::default(),
        }
    }
}

/// Frames read and not yet passed on, in order. One is the common case and costs no allocation.
#[derive(Debug, Default)]
pub(crate) struct HeldFrames {
    first: Option<Frame<Bytes>>,
    rest: VecDeque<Frame<Bytes>>,
    bytes: usize,
    cost: usize,
}

impl HeldFrames {
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

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory in bytes of all frames ever pushed, bookkeeping included.
    pub(crate) const fn cost(&self) -> usize {
        self.cost
    }
}
