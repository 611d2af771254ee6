//! Reading a request's body within its bounds: bytes, time, and the memory of all bodies together.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::refusal::{Reason, Refusal};
use crate::request::PayloadError;

/// The memory that all buffered request bodies share.
#[derive(Debug)]
pub struct Buffers {
    used: AtomicU64,
    most: AtomicU64,
}

impl Buffers {
    /// Room for `most` bytes.
    #[must_use]
    pub const fn new(most: u64) -> Self {
        Self { used: AtomicU64::new(0), most: AtomicU64::new(most) }
    }

    /// Changes the bound; what is held stays held.
    pub fn resize(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Bytes held now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes room for `bytes`, or nothing when there is not so much.
    #[must_use]
    pub fn hold(self: &Arc<Self>, bytes: u64) -> Option<Hold> {
        let mut hold = Hold { buffers: Arc::clone(self), bytes: 0 };
        hold.grow(bytes).then_some(hold)
    }
}

/// Room in [`Buffers`], given back when dropped.
#[derive(Debug)]
pub struct Hold {
    buffers: Arc<Buffers>,
    bytes: u64,
}

impl Hold {
    fn grow(&mut self, more: u64) -> bool {
        let most = self.buffers.most.load(Ordering::Relaxed);
        let grown = self.buffers.used.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |used| {
            used.checked_add(more).filter(|sum| *sum <= most)
        });
        if grown.is_ok() {
            self.bytes += more;
        }
        grown.is_ok()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.buffers.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// The bounds of one body.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most bytes (`bounds.body`).
    pub bytes: u64,
    /// The longest time to read it (`bounds.body_read`).
    pub time: Duration,
}

fn too_large(limit: u64) -> Refusal {
    Refusal::new(Reason::BodyTooLarge, format!("The request body exceeds {limit} bytes (`bounds.body`)."))
}

fn too_slow(limit: Duration) -> Refusal {
    Refusal::new(
        Reason::BodyTimeout,
        format!("The request body did not arrive within {limit:?} (`bounds.body_read`)."),
    )
}

fn no_room() -> Refusal {
    Refusal::new(
        Reason::Overloaded,
        "The gateway holds as many request bodies as it may (`bounds.buffered`).",
    )
    .with_retry_after(Duration::from_secs(1))
}

/// Reads a whole body into one piece of memory. A body that came in one frame is not copied.
///
/// # Errors
/// `body_too_large`, `body_timeout`, `overloaded` when all bodies together take too much, `bad_request` when it
/// breaks off.
pub async fn read<B>(body: B, limits: Limits, buffers: &Arc<Buffers>) -> Result<(Bytes, Hold), Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let told = body.size_hint();
    if told.lower() > limits.bytes {
        return Err(too_large(limits.bytes));
    }
    // What a client announces is held at once, so that many slow senders cannot fill memory between them.
    let mut hold = buffers.hold(told.lower()).ok_or_else(no_room)?;
    let whole = async {
        let mut body = pin!(body);
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|broken| {
                Refusal::new(Reason::BadRequest, format!("The request body broke off: {broken}."))
            })?;
            // Trailers of a request say nothing the gateway or a worker of these kinds reads.
            let Ok(data) = frame.into_data() else { continue };
            let length = (first.len() + rest.len() + data.len()) as u64;
            if length > limits.bytes {
                return Err(too_large(limits.bytes));
            }
            if length > hold.bytes && !hold.grow(length - hold.bytes) {
                return Err(no_room());
            }
            if first.is_empty() && rest.is_empty() {
                first = data;
            } else {
                if rest.is_empty() {
                    rest.reserve(usize::try_from(told.lower()).unwrap_or(0).max(first.len() + data.len()));
                    rest.extend_from_slice(&std::mem::take(&mut first));
                }
                rest.extend_from_slice(&data);
            }
        }
        Ok(if rest.is_empty() { first } else { rest.freeze() })
    };
    match timeout(limits.time, whole).await {
        Ok(read) => Ok((read?, hold)),
        Err(_) => Err(too_slow(limits.time)),
    }
}

pin_project! {
    /// A body that is passed on as it arrives, within the same bounds: bytes in all, and silence between frames.
    #[derive(Debug)]
    pub struct Bounded<B> {
        #[pin]
        inner: B,
        #[pin]
        silence: Sleep,
        waiting: bool,
        left: u64,
        limits: Limits,
    }
}

impl<B: Body> Bounded<B> {
    /// Bounds `inner`.
    ///
    /// # Errors
    /// `body_too_large` when it announces more than it may.
    pub fn new(inner: B, limits: Limits) -> Result<Self, Refusal> {
        if inner.size_hint().lower() > limits.bytes {
            return Err(too_large(limits.bytes));
        }
        Ok(Self { inner, silence: sleep(limits.time), waiting: false, left: limits.bytes, limits })
    }
}

impl<B> Body for Bounded<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = PayloadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        let mut this = self.project();
        let Poll::Ready(frame) = this.inner.poll_frame(cx) else {
            if !*this.waiting {
                *this.waiting = true;
                this.silence.as_mut().reset(Instant::now() + this.limits.time);
            }
            ready!(this.silence.poll(cx));
            return Poll::Ready(Some(Err(PayloadError::TooSlow)));
        };
        *this.waiting = false;
        Poll::Ready(match frame {
            None => None,
            Some(Err(broken)) => Some(Err(PayloadError::Broken(broken.into()))),
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                match this.left.checked_sub(length) {
                    Some(left) => {
                        *this.left = left;
                        Some(Ok(frame))
                    }
                    None => Some(Err(PayloadError::TooLarge { limit: this.limits.bytes })),
                }
            }
        })
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
    use futures_util::stream;
    use http_body_util::{Full, StreamBody};
    use std::convert::Infallible;

    const LIMITS: Limits = Limits { bytes: 10, time: Duration::from_secs(15) };

    fn pieces(lengths: &[usize]) -> impl Body<Data = Bytes, Error = Infallible> + use<> {
        let frames: Vec<_> = lengths.iter().map(|n| Ok(Frame::data(Bytes::from(vec![b'x'; *n])))).collect();
        StreamBody::new(stream::iter(frames))
    }

    #[tokio::test]
    async fn a_body_of_one_frame_is_not_copied() {
        let sent = Bytes::from(vec![b'x'; 10]);
        let buffers = Arc::new(Buffers::new(100));
        let (read, hold) = read(Full::new(sent.clone()), LIMITS, &buffers).await.expect("fits");
        assert_eq!((read.as_ptr(), buffers.used()), (sent.as_ptr(), 10));
        drop(hold);
        assert_eq!(buffers.used(), 0);
    }

    #[tokio::test]
    async fn bounds_hold_and_everything_is_given_back() {
        let buffers = Arc::new(Buffers::new(12));
        for (lengths, reason) in
            [(&[5usize, 6][..], Reason::BodyTooLarge), (&[4, 4, 4, 4], Reason::BodyTooLarge)]
        {
            let refusal = read(pieces(lengths), LIMITS, &buffers).await.expect_err("too large");
            assert_eq!((refusal.reason, buffers.used()), (reason, 0));
        }
        let (bytes, first) = read(pieces(&[4, 4]), LIMITS, &buffers).await.expect("fits");
        assert_eq!(bytes.len(), 8);
        let refusal = read(pieces(&[4, 4]), LIMITS, &buffers).await.expect_err("no room beside the first");
        assert_eq!((refusal.reason, buffers.used()), (Reason::Overloaded, 8));
        assert!(refusal.retry_after.is_some());
        drop(first);
        assert_eq!(buffers.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_body() {
        let buffers = Arc::new(Buffers::new(100));
        let silent = || StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let refusal = read(silent(), LIMITS, &buffers).await.expect_err("never comes");
        assert_eq!(refusal.reason, Reason::BodyTimeout);
        let bounded = Bounded::new(silent(), LIMITS).expect("announces nothing");
        let error = pin!(bounded).frame().await.expect("an error").expect_err("silence");
        assert!(matches!(error, PayloadError::TooSlow));
    }

    #[tokio::test]
    async fn a_passed_on_body_is_cut_at_its_bound() {
        let mut body = pin!(Bounded::new(pieces(&[6, 6]), LIMITS).expect("announces nothing"));
        assert!(body.frame().await.expect("first").is_ok());
        assert!(matches!(body.frame().await, Some(Err(PayloadError::TooLarge { limit: 10 }))));
    }
}
