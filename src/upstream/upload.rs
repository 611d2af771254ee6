//! A request body that is streamed as it arrives.
//!
//! If the connection to the worker ends while the client still owes part of the body, the worker is
//! not to blame: it may close the connection after a timeout of its own.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::headers;
use crate::refusal::Refusal;
use crate::request::{Payload, PayloadError};

/// State of a streamed request body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upload(Arc<UploadState>);

#[derive(Debug, Default)]
struct UploadState {
    /// `true` if the last poll of the body returned nothing: the client has to send more.
    owed: AtomicBool,
    without_trailers: AtomicBool,
    /// Why the body failed. Kept here because an HTTP/2 exchange fails with another error.
    fault: Mutex<Option<Refusal>>,
}

impl Upload {
    /// Returns `true` if the client owes the next part of its body.
    pub(crate) fn is_owed(&self) -> bool {
        self.0.owed.load(Ordering::Relaxed)
    }

    /// Returns why the body failed, if it did.
    pub(crate) fn fault(&self) -> Option<Refusal> {
        self.0.fault.lock().clone()
    }

    pub(crate) fn drop_trailers(&self) {
        self.0.without_trailers.store(true, Ordering::Relaxed);
    }
}

/// Observes a streamed body and removes forbidden trailers, among them the fields `strip`, which
/// carry the gateway's secrets. The second value is `None` for a body that is in memory or empty.
pub(crate) fn observe(mut payload: Payload, strip: &[HeaderName]) -> (Payload, Option<Upload>) {
    if payload.is_end_stream() {
        // An empty body can be sent any number of times.
        return (Payload::empty(), None);
    }
    let upload = Upload::default();
    let streams = payload.map_rest(|inner| {
        let strip = strip.iter().cloned().collect();
        ObservedBody { inner, upload: upload.clone(), strip }.boxed_unsync()
    });
    (payload, streams.then_some(upload))
}

struct ObservedBody {
    inner: UnsyncBoxBody<Bytes, PayloadError>,
    upload: Upload,
    strip: SmallVec<[HeaderName; 2]>,
}

impl Body for ObservedBody {
    type Data = Bytes;
    type Error = PayloadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.inner).poll_frame(cx);
        this.upload.0.owed.store(frame.is_pending(), Ordering::Relaxed);
        frame.map(|frame| {
            let mut frame = frame?;
            if let Err(fault) = &frame {
                *this.upload.0.fault.lock() = Some(fault.refusal());
            }
            if let Ok(frame) = &mut frame
                && let Some(fields) = frame.trailers_mut()
            {
                if this.upload.0.without_trailers.load(Ordering::Relaxed) {
                    fields.clear();
                }
                headers::request_trailers(fields, &this.strip);
            }
            Some(frame)
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
