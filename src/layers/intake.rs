//! Reads request bodies within bounds: bytes, time, and the memory of all bodies ([`Buffers`]).

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};

use super::buffers::{BufferHold, Buffers};
use crate::refusal::{Reason, Refusal, with_jitter};
use crate::request::PayloadError;

/// The bounds of one body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IntakeBounds {
    /// Maximum size in bytes.
    pub bytes: u64,
    /// Setting that is the maximum.
    pub setting: &'static str,
    /// Maximum time to read it (`bounds.body_read`).
    pub time: Duration,
}

fn too_large(IntakeBounds { bytes: limit, setting, .. }: IntakeBounds) -> PayloadError {
    PayloadError::TooLarge { limit, setting }
}

fn too_slow(limit: Duration) -> Refusal {
    Refusal::new(
        Reason::BodyTimeout,
        format!("The request body did not arrive within {limit:?} (`bounds.body_read`)."),
    )
}

pub(super) fn no_room() -> Refusal {
    Refusal::new(
        Reason::Overloaded,
        "Request bodies use all buffer memory, or this caller's share of it (`bounds.buffered`).",
    )
    .with_retry_after(with_jitter(Duration::from_secs(1)))
}

/// Maximum ratio of buffer capacity to bytes received: the bytes announced may never come.
const GROWTH: usize = 8;

/// Reads a whole body of `caller` into one piece of memory. A body in one frame is not copied.
///
/// # Errors
/// `body_too_large`; `body_timeout`; `overloaded` if all bodies, or those of this caller, take too
/// much memory; `bad_request` if the body ends early or is malformed.
pub(crate) async fn read<B>(
    body: B,
    limits: IntakeBounds,
    buffers: &Arc<Buffers>,
    caller: &Arc<str>,
) -> Result<(Bytes, BufferHold), Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let size_hint = body.size_hint();
    if size_hint.lower() > limits.bytes {
        return Err(too_large(limits).refusal());
    }
    let announced = usize::try_from(size_hint.lower()).unwrap_or(0);
    let mut hold = buffers.enter(caller);
    let whole = async {
        let mut body = pin!(body);
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|broken| {
                Refusal::new(
                    Reason::BadRequest,
                    format!("The request body could not be read to its end: {broken}."),
                )
            })?;
            // Drops trailers: for buffered requests, neither the gateway nor a worker reads them.
            let Ok(data) = frame.into_data() else { continue };
            let length = first.len() + rest.len() + data.len();
            if length as u64 > limits.bytes {
                return Err(too_large(limits).refusal());
            }
            if !hold.grow(data.len() as u64) {
                return Err(no_room());
            }
            if first.is_empty() && rest.is_empty() {
                first = data;
            } else {
                if rest.capacity() < length {
                    let ready = announced.min(length.saturating_mul(GROWTH)).max(length);
                    rest.reserve(ready - rest.len());
                }
                if rest.is_empty() {
                    rest.extend_from_slice(&std::mem::take(&mut first));
                }
                rest.extend_from_slice(&data);
            }
        }
        Ok(if rest.is_empty() { first } else { rest.freeze() })
    };
    match within(limits.time, whole).await {
        Some(read) => Ok((read?, hold)),
        None => Err(too_slow(limits.time)),
    }
}

/// Waits for `work`; returns `None` if it takes longer than `time`.
///
/// A small body has arrived with its head, and the connection gives it out once it is asked: then
/// `work` is done when it is polled again. So the timer, which would cost more than all of this, is
/// started only then.
async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut timer = pin!(None);
    let mut first = true;
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        if std::mem::take(&mut first) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if timer.is_none() {
            timer.set(Some(sleep(time)));
        }
        match timer.as_mut().as_pin_mut() {
            Some(timer) => timer.poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}

pin_project! {
    /// A body that is forwarded as it arrives, within [`IntakeBounds`]. Only waits for the client
    /// count towards the time bound, not waits for a slow worker.
    #[derive(Debug)]
    pub(super) struct BoundedBody<B> {
        #[pin]
        inner: B,
        #[pin]
        patience: Sleep,
        // Start of the current wait for the client.
        waiting: Option<Instant>,
        // Rest of the time bound, at the start of the current wait.
        time: Duration,
        left: u64,
        limits: IntakeBounds,
    }
}

impl<B: Body> BoundedBody<B> {
    /// Applies `limits` to `inner`.
    ///
    /// # Errors
    /// `body_too_large` if `inner` announces more than `limits.bytes`.
    pub(crate) fn new(inner: B, limits: IntakeBounds) -> Result<Self, Refusal> {
        if inner.size_hint().lower() > limits.bytes {
            return Err(too_large(limits).refusal());
        }
        let (time, patience) = (limits.time, sleep(limits.time));
        Ok(Self { inner, patience, waiting: None, time, left: limits.bytes, limits })
    }
}

impl<B> Body for BoundedBody<B>
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
            if this.waiting.is_none() {
                let now = Instant::now();
                *this.waiting = Some(now);
                this.patience.as_mut().reset(now + *this.time);
            }
            ready!(this.patience.poll(cx));
            return Poll::Ready(Some(Err(PayloadError::TooSlow)));
        };
        if let Some(since) = this.waiting.take() {
            *this.time = this.time.saturating_sub(since.elapsed());
        }
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
                    None => Some(Err(too_large(*this.limits))),
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

    const LIMITS: IntakeBounds =
        IntakeBounds { bytes: 10, time: Duration::from_secs(15), setting: "bounds.body" };

    fn somebody() -> Arc<str> {
        "key:a".into()
    }

    fn pieces(lengths: &[usize]) -> impl Body<Data = Bytes, Error = Infallible> + use<> {
        let frames: Vec<_> = lengths.iter().map(|n| Ok(Frame::data(Bytes::from(vec![b'x'; *n])))).collect();
        StreamBody::new(stream::iter(frames))
    }

    #[tokio::test]
    async fn a_body_of_one_frame_is_not_copied() {
        let sent = Bytes::from(vec![b'x'; 10]);
        let buffers = Arc::new(Buffers::new(100));
        let (read, hold) = read(Full::new(sent.clone()), LIMITS, &buffers, &somebody()).await.expect("fits");
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
            let refusal = read(pieces(lengths), LIMITS, &buffers, &somebody()).await.expect_err("too large");
            assert_eq!((refusal.reason, buffers.used()), (reason, 0));
        }
        let (bytes, first) = read(pieces(&[4, 4]), LIMITS, &buffers, &somebody()).await.expect("fits");
        assert_eq!(bytes.len(), 8);
        let refusal =
            read(pieces(&[4, 4]), LIMITS, &buffers, &somebody()).await.expect_err("no room beside the first");
        assert_eq!((refusal.reason, buffers.used()), (Reason::Overloaded, 8));
        assert!(refusal.retry_after.is_some());
        drop(first);
        assert_eq!(buffers.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_body() {
        let buffers = Arc::new(Buffers::new(100));
        let silent = || StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let refusal = read(silent(), LIMITS, &buffers, &somebody()).await.expect_err("never comes");
        assert_eq!(refusal.reason, Reason::BodyTimeout);
        let bounded = BoundedBody::new(silent(), LIMITS).expect("announces nothing");
        let error = pin!(bounded).frame().await.expect("an error").expect_err("silence");
        assert!(matches!(error, PayloadError::TooSlow));
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_ends_when_it_was_waited_for_long_enough_in_all() {
        let trickle = |pause: Duration| {
            StreamBody::new(stream::unfold((), move |()| async move {
                sleep(pause).await;
                Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x"))), ()))
            }))
        };
        let limits = IntakeBounds { bytes: 1_000_000, ..LIMITS };
        let start = Instant::now();
        let mut body =
            pin!(BoundedBody::new(trickle(Duration::from_secs(1)), limits).expect("announces nothing"));
        let error = loop {
            match body.frame().await.expect("no end") {
                Ok(_) => assert!(start.elapsed() <= limits.time),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, PayloadError::TooSlow));
        assert_eq!(start.elapsed(), limits.time);

        // The time of a slow worker does not count.
        let mut body =
            pin!(BoundedBody::new(trickle(Duration::from_millis(10)), limits).expect("announces nothing"));
        for _ in 0..100 {
            sleep(Duration::from_secs(10)).await;
            assert!(body.frame().await.expect("no end").is_ok());
        }
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together_whatever_it_announced() {
        let limits = IntakeBounds { bytes: 1 << 20, ..LIMITS };
        let buffers = Arc::new(Buffers::new(1 << 20));
        let lengths: Vec<usize> = (1..200).collect();
        let (bytes, hold) = read(pieces(&lengths), limits, &buffers, &somebody()).await.expect("fits");
        assert_eq!(bytes.len(), lengths.iter().sum::<usize>());
        assert_eq!(buffers.used(), bytes.len() as u64);
        drop(hold);
    }

    #[tokio::test]
    async fn a_passed_on_body_is_cut_at_its_bound() {
        let mut body = pin!(BoundedBody::new(pieces(&[6, 6]), LIMITS).expect("announces nothing"));
        assert!(body.frame().await.expect("first").is_ok());
        assert!(matches!(body.frame().await, Some(Err(PayloadError::TooLarge { limit: 10, .. }))));
    }
}
