//! A response body with a guard that lives exactly as long as the body.
//!
//! A permit, a charge or a log line belongs to the *body*: the headers of a stream leave long
//! before its worker is free again. [`Guarded`] drops its guard when the body ends, fails, or is
//! dropped because the client left. The guard does its work in `Drop`, so exactly once.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// A guard that can be tied to a body.
pub(super) trait BodyGuard {
    /// Called for each piece of the answer; `waited` is `true` if the body waited for the worker.
    fn data(&mut self, waited: bool) {
        let _unused = waited;
    }
}

impl<T: BodyGuard> BodyGuard for Option<T> {
    fn data(&mut self, waited: bool) {
        if let Some(tied) = self {
            tied.data(waited);
        }
    }
}

impl<T: BodyGuard> BodyGuard for Box<T> {
    fn data(&mut self, waited: bool) {
        (**self).data(waited);
    }
}

pin_project! {
    /// The body `B`, and a guard that is dropped at its end.
    #[derive(Debug)]
    pub struct Guarded<B, G> {
        // Declared first, so dropped first: the guard reads the ending that the inner body records.
        #[pin]
        inner: B,
        guard: Option<G>,
        waited: bool,
    }
}

impl<B, G> Guarded<B, G> {
    /// Ties `guard` to the end of `inner`.
    pub(crate) const fn new(inner: B, guard: G) -> Self {
        Self { inner, guard: Some(guard), waited: false }
    }
}

impl<B: Body, G: BodyGuard> Body for Guarded<B, G> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let Poll::Ready(frame) = this.inner.poll_frame(cx) else {
            *this.waited = true;
            return Poll::Pending;
        };
        match &frame {
            Some(Ok(frame)) if frame.is_data() => this.guard.data(std::mem::take(this.waited)),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => *this.guard = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct LiveBodies(Arc<AtomicU32>);

    impl BodyGuard for LiveBodies {}

    impl Drop for LiveBodies {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn the_guard_goes_once_with_the_last_frame_or_with_the_body() {
        let drops = Arc::new(AtomicU32::new(0));
        let mut body = Guarded::new(Full::new(Bytes::from_static(b"x")), LiveBodies(Arc::clone(&drops)));
        assert!(body.frame().await.is_some());
        assert_eq!(drops.load(Ordering::Relaxed), 0, "data is not the end");
        assert!(body.frame().await.is_none());
        assert_eq!(drops.load(Ordering::Relaxed), 1, "the end is, even when the body is kept");
        drop(body);
        assert_eq!(drops.load(Ordering::Relaxed), 1);

        drop(Guarded::new(Full::new(Bytes::from_static(b"x")), LiveBodies(Arc::clone(&drops))));
        assert_eq!(drops.load(Ordering::Relaxed), 2, "a body nobody read has ended too");
    }
}
