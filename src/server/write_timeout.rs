//! Write timeouts for clients that stop reading.
//!
//! A client that stops reading must not keep a worker's slot. A stall shows in two places:
//! [`WriteTimeout`] ends a connection whose socket accepts no byte for `client_stall` while a write waits,
//! [`StreamExecutor`] ends an HTTP/2 stream whose window stays shut for as long on a live connection. Both
//! measure lack of *progress*: a slow reader is not affected.
//!
//! [`WriteTimeout`] sits below TLS, where progress is visible: above it, a flush of a full TLS buffer
//! looks stalled until its last byte. The listener sets `TCP_USER_TIMEOUT` to the same time for
//! bytes already in the kernel.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Lazy timer: allocates once, when first armed.
#[derive(Debug, Default)]
pub(super) struct LazySleep {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl LazySleep {
    /// Starts the timer unless it runs.
    pub(super) fn arm(&mut self, length: Duration) {
        if self.armed {
            return;
        }
        self.armed = true;
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(Instant::now() + length),
            none => *none = Some(Box::pin(sleep(length))),
        }
    }

    pub(super) fn disarm(&mut self) {
        self.armed = false;
    }

    /// Ready when the time is over; pending while stopped.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sleep {
            Some(sleep) if self.armed => sleep.as_mut().poll(cx),
            _ => Poll::Pending,
        }
    }
}

/// A socket that fails with [`io::ErrorKind::TimedOut`] if its peer accepts nothing for too long.
///
/// It owns `permit`, the connection's permits, which are thus released with the socket, also after an
/// upgrade.
#[derive(Debug)]
pub(super) struct WriteTimeout<T, S> {
    inner: T,
    patience: Duration,
    timer: LazySleep,
    _permit: S,
}

impl<T, S> WriteTimeout<T, S> {
    pub(super) fn new(inner: T, patience: Duration, permit: S) -> Self {
        Self { inner, patience, timer: LazySleep::default(), _permit: permit }
    }

    fn judge<R>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if outcome.is_ready() {
            self.timer.disarm();
            return outcome;
        }
        self.timer.arm(self.patience);
        ready!(self.timer.poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer read no bytes within bounds.client_stall",
        )))
    }
}

impl<T: AsyncRead + Unpin, S: Unpin> AsyncRead for WriteTimeout<T, S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin, S: Unpin> AsyncWrite for WriteTimeout<T, S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.inner).poll_write(cx, buf);
        this.judge(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.judge(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket's flush does nothing: it must not stop a timer that a write started.
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// Tells whether an HTTP/2 answer waits for its client. Written by its body, read by its sender.
///
/// Upper bits: number of frames handed over. Lowest bit: set while the body has nothing to send.
#[derive(Debug, Default)]
pub(super) struct StreamProgress(AtomicU64);

impl StreamProgress {
    /// The body returned a frame: the client must accept it.
    pub(super) fn handed(&self) {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store((before | 1).wrapping_add(1), Ordering::Relaxed);
    }

    /// The body has no frame yet: the client is not the cause of the wait.
    pub(super) fn idle(&self) {
        self.0.store(self.0.load(Ordering::Relaxed) | 1, Ordering::Relaxed);
    }
}

tokio::task_local! {
    static TURN: Arc<StreamProgress>;
}

/// Returns the state of the current task's stream; `None` if it is no HTTP/2 stream of this server.
pub(super) fn current_turn() -> Option<Arc<StreamProgress>> {
    TURN.try_with(Arc::clone).ok()
}

/// Runs hyper's HTTP/2 streams, and drops one whose client leaves its window shut.
///
/// Hyper does not poll a body whose stream has no window, so a timer inside the body could not
/// fire. Therefore this wraps the sending task. Dropping it frees the body and all it holds, and h2
/// resets the stream.
#[derive(Clone, Debug)]
pub(super) struct StreamExecutor {
    pub(super) patience: Duration,
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let turn = Arc::new(StreamProgress::default());
        // Before its first frame a stream waits for the application, not for the client.
        turn.idle();
        let watched = TimedStream {
            stream: TURN.scope(Arc::clone(&turn), stream),
            turn,
            seen: 0,
            timer: LazySleep::default(),
            patience: self.patience,
        };
        tokio::spawn(watched);
    }
}

pin_project! {
    struct TimedStream<F> {
        #[pin]
        stream: F,
        turn: Arc<StreamProgress>,
        seen: u64,
        timer: LazySleep,
        patience: Duration,
    }
}

impl<F: Future<Output = ()>> Future for TimedStream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let turn = this.turn.0.load(Ordering::Relaxed);
        if turn != *this.seen {
            *this.seen = turn;
            this.timer.disarm();
        }
        if turn & 1 == 1 {
            return Poll::Pending;
        }
        this.timer.arm(*this.patience);
        ready!(this.timer.poll(cx));
        tracing::debug!("HTTP/2 stream reset: its client read nothing for bounds.client_stall");
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn only_a_peer_that_takes_nothing_is_given_up() {
        let (near, mut far) = duplex(64);
        let mut near = WriteTimeout::new(near, PATIENCE, ());
        let writer = tokio::spawn(async move {
            let fault = near.write_all(&[0; 4096]).await.unwrap_err();
            (fault.kind(), Instant::now())
        });
        // A slow reader: 64 bytes every 20 s are progress.
        let mut piece = [0; 64];
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            far.read_exact(&mut piece).await.unwrap();
        }
        let stopped = Instant::now();
        let (kind, when) = writer.await.unwrap();
        assert_eq!((kind, when - stopped), (io::ErrorKind::TimedOut, PATIENCE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_waits_for_its_client_only_while_a_frame_is_handed_over() {
        let (ended, mut end) = tokio::sync::oneshot::channel::<()>();
        StreamExecutor { patience: PATIENCE }.execute(async move {
            let _ended = ended;
            let turn = current_turn().unwrap();
            // A slow application: an hour before, and an hour between frames.
            tokio::time::sleep(Duration::from_secs(3600)).await;
            for _ in 0..5 {
                turn.handed();
                tokio::time::sleep(PATIENCE - Duration::from_secs(1)).await;
            }
            turn.idle();
            tokio::time::sleep(Duration::from_secs(3600)).await;
            turn.handed();
            std::future::pending::<()>().await;
        });
        let start = Instant::now();
        assert!((&mut end).await.is_err());
        assert_eq!(
            start.elapsed(),
            Duration::from_secs(7200) + 5 * (PATIENCE - Duration::from_secs(1)) + PATIENCE
        );
    }
}
