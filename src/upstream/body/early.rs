//! Starting a response before there is content.
//!
//! Proxies before the gateway close a connection that is silent for a while, and prefill of a long
//! prompt may take longer. So after `timeouts.hold` the head of a stream is sent, and then the
//! worker's comments and pings. Its first content is still held back, so that another worker can
//! take over before it without the client's notice. From then on an error is sent as an event,
//! because the status has been sent.

use bytes::Bytes;
use http::{HeaderValue, Response, response};
use http_body::Frame;
use parking_lot::Mutex;

use super::held::HeldFrames;
use super::observer::AnswerObserver;
use crate::clock::Nanos;
use crate::openai::error::StreamFormat;
use crate::openai::tap::{Pings, Split};

/// Data for the client before the first content, from the attempt loop to the response body.
#[derive(Debug, Default)]
pub(crate) struct EarlyLane(Mutex<EarlyData>);

#[derive(Debug, Default)]
struct EarlyData {
    begun: bool,
    head: Option<response::Parts>,
    keep_alive: Vec<u8>,
    stream_format: StreamFormat,
}

impl EarlyLane {
    /// Takes the head, if the response was started since the last call.
    pub(crate) fn head(&self) -> Option<response::Parts> {
        self.0.lock().head.take()
    }

    pub(super) fn take_keep_alive(&self) -> Option<Bytes> {
        let mut data = self.0.lock();
        (!data.keep_alive.is_empty()).then(|| std::mem::take(&mut data.keep_alive).into())
    }

    /// Returns the format of an error in the stream.
    pub(super) fn stream_format(&self) -> StreamFormat {
        self.0.lock().stream_format
    }
}

/// Parameters for starting a response before its content.
pub(crate) struct EarlyAnswer<'a> {
    /// Earliest time to start it.
    pub(crate) at: Nanos,
    pub(crate) lane: &'a EarlyLane,
    /// Head of the worker's response, unchanged.
    pub(crate) head: &'a response::Parts,
    pub(crate) id: &'a HeaderValue,
}

impl EarlyAnswer<'_> {
    pub(crate) fn has_begun(&self) -> bool {
        self.lane.0.lock().begun
    }

    /// Starts the response: prepares its head for the client and hands it over.
    pub(crate) fn begin(&self, observer: &AnswerObserver) {
        let (mut head, ()) = Response::new(()).into_parts();
        head.status = self.head.status;
        head.headers = self.head.headers.clone();
        observer.prepare_head(&mut head.headers, self.id);
        let mut data = self.lane.0.lock();
        (data.begun, data.head) = (true, Some(head));
        data.stream_format = observer.stream_format();
    }

    /// Passes keep-alive bytes to the client; `stream_format` is the stream's error format.
    pub(crate) fn hand_on(&self, keep_alive: Vec<u8>, stream_format: StreamFormat) {
        let mut data = self.lane.0.lock();
        data.stream_format = stream_format;
        if data.keep_alive.is_empty() {
            data.keep_alive = keep_alive;
        } else {
            data.keep_alive.extend_from_slice(&keep_alive);
        }
    }
}

/// Holds back a stream's content and lets comments and pings pass.
#[derive(Debug, Default)]
pub(crate) struct KeepAliveFilter {
    pings: Pings,
    kept: HeldFrames,
}

impl KeepAliveFilter {
    /// Keeps the content of these frames and returns their comments and pings.
    pub(crate) fn split(&mut self, mut frames: HeldFrames) -> Vec<u8> {
        let mut all_keep_alive = Vec::new();
        while let Some(frame) = frames.pop() {
            match frame.into_data() {
                Ok(data) => {
                    let Split { keep_alive, rest } = self.pings.split(&data);
                    all_keep_alive.extend_from_slice(&keep_alive);
                    if !rest.is_empty() {
                        self.kept.push(Frame::data(rest.into()));
                    }
                }
                Err(frame) => self.kept.push(frame),
            }
        }
        all_keep_alive
    }

    /// Memory held, in bytes.
    pub(crate) const fn cost(&self) -> usize {
        self.kept.cost() + self.pings.kept()
    }

    /// Returns the frames held back, followed by `frames`.
    pub(crate) fn with(self, mut frames: HeldFrames) -> HeldFrames {
        let Self { pings, mut kept } = self;
        let open = pings.finish();
        if !open.is_empty() {
            kept.push(Frame::data(open.into()));
        }
        while let Some(frame) = frames.pop() {
            kept.push(frame);
        }
        kept
    }
}
