//! Reading a request's body within its bounds: bytes, time, and the memory of all bodies together.

use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::refusal::{Reason, Refusal};
use crate::request::PayloadError;

/// The memory that all buffered request bodies share.
///
/// Bytes count when they have arrived, not when they are announced. A caller with one body may fill whatever is left.
/// With several it may hold no more than it leaves to the others: half of all when it is alone, a third beside another
/// such caller, and so on. So no caller can take all of it, and there is always room for one who comes new.
#[derive(Debug)]
pub struct Buffers {
    most: AtomicU64,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    bytes: u64,
    /// Callers with a body under way: as many as such requests at the most.
    callers: HashMap<Arc<str>, Share>,
}

/// What one caller holds.
#[derive(Debug, Default)]
struct Share {
    bodies: u64,
    bytes: u64,
}

impl Buffers {
    /// Room for `most` bytes.
    #[must_use]
    pub fn new(most: u64) -> Self {
        Self { most: AtomicU64::new(most), used: Mutex::default() }
    }

    /// Changes the bound; what is held stays held.
    pub fn resize(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Bytes held now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.lock().bytes
    }

    /// Begins a body of `caller`, of which nothing is there yet.
    #[must_use]
    pub fn enter(self: &Arc<Self>, caller: &Arc<str>) -> Hold {
        self.used.lock().callers.entry(Arc::clone(caller)).or_default().bodies += 1;
        Hold { buffers: Arc::clone(self), caller: Arc::clone(caller), bytes: 0 }
    }
}

/// Room in [`Buffers`], given back when dropped.
#[derive(Debug)]
pub struct Hold {
    buffers: Arc<Buffers>,
    caller: Arc<str>,
    bytes: u64,
}

impl Hold {
    fn grow(&mut self, more: u64) -> bool {
        let most = self.buffers.most.load(Ordering::Relaxed);
        let mut used = self.buffers.used.lock();
        let Some(left) = used.bytes.checked_add(more).and_then(|sum| most.checked_sub(sum)) else {
            return false;
        };
        let Some(share) = used.callers.get_mut(&self.caller) else { return false };
        if share.bodies > 1 && share.bytes + more > left {
            return false;
        }
        share.bytes += more;
        used.bytes += more;
        self.bytes += more;
        true
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut used = self.buffers.used.lock();
        used.bytes = used.bytes.saturating_sub(self.bytes);
        if let Some(share) = used.callers.get_mut(&self.caller) {
            share.bodies = share.bodies.saturating_sub(1);
            share.bytes = share.bytes.saturating_sub(self.bytes);
            if share.bodies == 0 {
                used.callers.remove(&self.caller);
            }
        }
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
        "The gateway holds as many request bodies as it may, of all callers or of this one (`bounds.buffered`).",
    )
    .with_retry_after(Duration::from_secs(1))
}

/// How much memory is made ready for a body of which this part is there: what is announced need not come.
const READY: usize = 8;

/// Reads a whole body of `caller` into one piece of memory. A body that came in one frame is not copied.
///
/// # Errors
/// `body_too_large`, `body_timeout`, `overloaded` when all bodies together, or those of this caller, take too much,
/// `bad_request` when it breaks off.
pub async fn read<B>(
    body: B,
    limits: Limits,
    buffers: &Arc<Buffers>,
    caller: &Arc<str>,
) -> Result<(Bytes, Hold), Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let told = body.size_hint();
    if told.lower() > limits.bytes {
        return Err(too_large(limits.bytes));
    }
    let announced = usize::try_from(told.lower()).unwrap_or(0);
    let mut hold = buffers.enter(caller);
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
            let length = first.len() + rest.len() + data.len();
            if length as u64 > limits.bytes {
                return Err(too_large(limits.bytes));
            }
            if !hold.grow(data.len() as u64) {
                return Err(no_room());
            }
            if first.is_empty() && rest.is_empty() {
                first = data;
            } else {
                if rest.capacity() < length {
                    let ready = announced.min(length.saturating_mul(READY)).max(length);
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
    match timeout(limits.time, whole).await {
        Ok(read) => Ok((read?, hold)),
        Err(_) => Err(too_slow(limits.time)),
    }
}

pin_project! {
    /// A body that is passed on as it arrives, within the same bounds: bytes in all, and the time for which its sender
    /// was waited for. The time that a slow worker takes is not the sender's.
    #[derive(Debug)]
    pub struct Bounded<B> {
        #[pin]
        inner: B,
        #[pin]
        patience: Sleep,
        // Since when the sender is waited for.
        waiting: Option<Instant>,
        // How long it may still be waited for.
        time: Duration,
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
        let (time, patience) = (limits.time, sleep(limits.time));
        Ok(Self { inner, patience, waiting: None, time, left: limits.bytes, limits })
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
        let bounded = Bounded::new(silent(), LIMITS).expect("announces nothing");
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
        let limits = Limits { bytes: 1_000_000, time: Duration::from_secs(15) };
        let start = Instant::now();
        let mut body =
            pin!(Bounded::new(trickle(Duration::from_secs(1)), limits).expect("announces nothing"));
        let error = loop {
            match body.frame().await.expect("no end") {
                Ok(_) => assert!(start.elapsed() <= limits.time),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, PayloadError::TooSlow));
        assert_eq!(start.elapsed(), limits.time);

        // A worker that takes its time costs the sender nothing.
        let mut body =
            pin!(Bounded::new(trickle(Duration::from_millis(10)), limits).expect("announces nothing"));
        for _ in 0..100 {
            sleep(Duration::from_secs(10)).await;
            assert!(body.frame().await.expect("no end").is_ok());
        }
    }

    #[tokio::test]
    async fn what_is_announced_takes_no_room_and_a_caller_with_many_bodies_leaves_some() {
        const ROOM: u64 = 100;
        let limits = Limits { bytes: ROOM, time: Duration::from_secs(15) };
        let buffers = Arc::new(Buffers::new(ROOM));
        let (greedy, other) = (somebody(), Arc::from("key:b"));
        let entered: Vec<_> = (0..50).map(|_| buffers.enter(&greedy)).collect();
        assert_eq!(buffers.used(), 0);
        let mut held: Vec<_> = Vec::new();
        for mut hold in entered {
            if hold.grow(10) {
                held.push(hold);
            }
        }
        assert_eq!(buffers.used(), ROOM / 2, "of all that there is, one caller gets half");
        // Whoever comes new still has room for a whole body.
        let whole = Full::new(Bytes::from(vec![b'x'; 50]));
        let (_, hold) = read(whole, limits, &buffers, &other).await.expect("there is room");
        assert_eq!(buffers.used(), ROOM);
        drop((held, hold));
        assert_eq!((buffers.used(), buffers.used.lock().callers.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together_whatever_it_announced() {
        let limits = Limits { bytes: 1 << 20, time: Duration::from_secs(15) };
        let buffers = Arc::new(Buffers::new(1 << 20));
        let lengths: Vec<usize> = (1..200).collect();
        let (bytes, hold) = read(pieces(&lengths), limits, &buffers, &somebody()).await.expect("fits");
        assert_eq!(bytes.len(), lengths.iter().sum::<usize>());
        assert_eq!(buffers.used(), bytes.len() as u64);
        drop(hold);
    }

    #[tokio::test]
    async fn a_passed_on_body_is_cut_at_its_bound() {
        let mut body = pin!(Bounded::new(pieces(&[6, 6]), LIMITS).expect("announces nothing"));
        assert!(body.frame().await.expect("first").is_ok());
        assert!(matches!(body.frame().await, Some(Err(PayloadError::TooLarge { limit: 10 }))));
    }
}
