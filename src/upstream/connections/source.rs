//! A response on its connection as body frames.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::endpoints::Endpoint;
use super::error::LinkError;
use super::link::WorkerLink;

/// Rest of a response and its connection.
#[derive(Debug)]
pub(crate) struct HttpSource {
    link: WorkerLink,
    endpoint: Arc<Endpoint>,
    /// `true` if both sides agree on where the next response begins.
    reusable: bool,
}

impl HttpSource {
    pub(crate) const fn new(link: WorkerLink, endpoint: Arc<Endpoint>, reusable: bool) -> Self {
        Self { link, endpoint, reusable }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LinkError>>> {
        self.link.poll_frame(cx)
    }

    /// Returns `true` if the response was read to its end.
    pub(crate) fn is_over(&self) -> bool {
        self.link.is_over()
    }

    /// Returns the connection of a fully read response to the pool.
    pub(crate) fn give_back(self) {
        if let Self { link: WorkerLink::Own(link), endpoint, reusable: true } = self {
            endpoint.put(link);
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.link.size_hint()
    }
}
