//! The frames of a response that were read and not yet passed on.

use std::collections::VecDeque;

use bytes::Bytes;
use http_body::Frame;

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
