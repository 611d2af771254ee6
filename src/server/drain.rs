//! Graceful shutdown.
//!
//! Balancers learn late that a gateway goes away. So it first is only unready ([`DrainPhase::Draining`]:
//! 503, requests are still served), then refuses new requests, and ends with the last stream or a
//! timeout. Phases never go back. Listeners, application and admin port share one [`Drain`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// Phase of the shutdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum DrainPhase {
    /// Serving.
    #[default]
    Running = 0,
    /// Still serving, but not ready: balancers should use other gateways.
    Draining = 1,
    /// Refuses new requests; those in flight continue.
    Refusing = 2,
    /// All connections are closed.
    Closed = 3,
}

/// State of the shutdown, shared by clones.
#[derive(Clone, Debug)]
pub struct Drain(Arc<DrainState>);

#[derive(Debug)]
struct DrainState {
    // The same value twice: the atomic for each request, the channel for waiting tasks.
    level: AtomicU8,
    phase: watch::Sender<DrainPhase>,
    open: AtomicUsize,
    tracked: AtomicUsize,
    last_left: Notify,
}

/// Counts an open connection or other work until it is dropped.
#[derive(Debug)]
pub(crate) struct DrainGuard {
    drain: Arc<DrainState>,
    awaited: bool,
    connections: usize,
}

impl Drain {
    /// Creates the state of a running gateway.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(DrainState {
            level: AtomicU8::new(DrainPhase::Running as u8),
            phase: watch::Sender::new(DrainPhase::Running),
            open: AtomicUsize::new(0),
            tracked: AtomicUsize::new(0),
            last_left: Notify::new(),
        }))
    }

    /// Returns the current phase.
    #[must_use]
    pub(crate) fn phase(&self) -> DrainPhase {
        match self.0.level.load(Ordering::Acquire) {
            0 => DrainPhase::Running,
            1 => DrainPhase::Draining,
            2 => DrainPhase::Refusing,
            _ => DrainPhase::Closed,
        }
    }

    /// Returns `true` if balancers should send requests to this gateway.
    #[must_use]
    pub(crate) fn is_ready(&self) -> bool {
        self.phase() == DrainPhase::Running
    }

    /// Returns `true` if new requests are refused.
    #[must_use]
    pub fn is_refusing(&self) -> bool {
        self.phase() >= DrainPhase::Refusing
    }

    /// Waits until the gateway reaches `phase`.
    pub async fn reached(&self, phase: DrainPhase) {
        // The sender lives as long as `self`, so this cannot fail before the phase is reached.
        drop(self.0.phase.subscribe().wait_for(|now| *now >= phase).await);
    }

    /// Subscribes to further phases.
    #[must_use]
    pub(super) fn phases(&self) -> watch::Receiver<DrainPhase> {
        self.0.phase.subscribe()
    }

    /// Counts a connection. While requests are refused, the drain does not wait for new ones.
    #[must_use]
    pub(crate) fn hold(&self) -> DrainGuard {
        self.held(1)
    }

    /// Counts work without a connection: the drain waits for it too.
    #[must_use]
    pub(crate) fn track_work(&self) -> DrainGuard {
        self.held(0)
    }

    fn held(&self, connections: usize) -> DrainGuard {
        self.0.open.fetch_add(connections, Ordering::AcqRel);
        let awaited = !self.is_refusing();
        if awaited {
            self.0.tracked.fetch_add(1, Ordering::AcqRel);
        }
        DrainGuard { drain: Arc::clone(&self.0), awaited, connections }
    }

    /// Returns the number of open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.open.load(Ordering::Acquire)
    }

    /// Drains: not ready for `delay`, then refusing until the last connection has ended or for
    /// `timeout`, then closed. Returns the number of connections that were cut off.
    pub async fn run(&self, delay: Duration, timeout: Duration) -> usize {
        self.advance(DrainPhase::Draining);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = self.reached(DrainPhase::Closed) => {}
        }
        self.advance(DrainPhase::Refusing);
        tokio::select! {
            () = self.empty() => {}
            () = tokio::time::sleep(timeout) => {}
            () = self.reached(DrainPhase::Closed) => {}
        }
        let cut_off = self.0.tracked.load(Ordering::Acquire);
        self.advance(DrainPhase::Closed);
        cut_off
    }

    /// Closes everything at once; a running [`Drain::run`] returns.
    pub(crate) fn close(&self) {
        self.advance(DrainPhase::Closed);
    }

    async fn empty(&self) {
        loop {
            let left = self.0.last_left.notified();
            tokio::pin!(left);
            // Registered before the count is read, so that no drop in between is missed.
            left.as_mut().enable();
            if self.0.tracked.load(Ordering::Acquire) == 0 {
                return;
            }
            left.await;
        }
    }

    fn advance(&self, to: DrainPhase) {
        self.0.level.fetch_max(to as u8, Ordering::AcqRel);
        self.0.phase.send_if_modified(|now| {
            let further = to > *now;
            *now = (*now).max(to);
            further
        });
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        self.drain.open.fetch_sub(self.connections, Ordering::AcqRel);
        if self.awaited && self.drain.tracked.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.drain.last_left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn it_serves_unready_then_refuses_then_closes_when_the_last_one_has_left() {
        let drain = Drain::new();
        let (held, job) = (drain.hold(), drain.track_work());
        assert!(drain.is_ready());
        let run = tokio::spawn({
            let drain = drain.clone();
            async move { drain.run(Duration::from_secs(5), LONG).await }
        });
        drain.reached(DrainPhase::Draining).await;
        assert!(!drain.is_ready() && !drain.is_refusing());
        drain.reached(DrainPhase::Refusing).await;
        // A new connection gets its refusal but does not delay the end.
        let late = drain.hold();
        assert_eq!(drain.connections(), 2);
        drop(held);
        assert_eq!((drain.phase(), drain.connections()), (DrainPhase::Refusing, 1), "a job goes on");
        drop(job);
        assert_eq!(run.await.unwrap(), 0);
        assert_eq!(drain.phase(), DrainPhase::Closed);
        drop(late);
        assert_eq!(drain.connections(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_outstays_the_timeout_is_cut_off_and_counted() {
        let drain = Drain::new();
        let _held = drain.hold();
        let start = tokio::time::Instant::now();
        assert_eq!(drain.run(Duration::from_secs(5), LONG).await, 1);
        assert_eq!(start.elapsed(), Duration::from_secs(65));
    }

    #[tokio::test(start_paused = true)]
    async fn closing_ends_every_wait_and_is_never_taken_back() {
        let drain = Drain::new();
        let _held = drain.hold();
        let run = tokio::spawn({
            let drain = drain.clone();
            async move { drain.run(LONG, LONG).await }
        });
        drain.reached(DrainPhase::Draining).await;
        let start = tokio::time::Instant::now();
        drain.close();
        run.await.unwrap();
        assert_eq!((drain.phase(), start.elapsed()), (DrainPhase::Closed, Duration::ZERO));
    }
}
