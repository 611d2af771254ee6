//! Where the rest of a response comes from: a connection, or a queue.

use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::upstream::connections::HttpSource;
use crate::upstream::error::AnswerBreak;
use crate::upstream::queue::JobSource;

/// Source of the rest of a response. Dropping it tells the worker that nobody waits.
#[derive(Debug)]
pub(crate) enum AnswerSource {
    /// HTTP connection.
    Http(HttpSource),
    /// Queue. Boxed because it is larger, and most gateways have none.
    Job(Box<JobSource>),
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
