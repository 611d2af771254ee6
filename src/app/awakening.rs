//! Reads all shared state again after a long pause, before any request is admitted.
//!
//! A gateway that was stopped, or whose machine was suspended, for seconds knows only old workers,
//! colours, leases and refusals. It reads them again while requests wait, for at most one second: a
//! Redis that does not answer must not block them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::App;
use super::fleet::FIRST_WORD;
use crate::clock::{LONG, Lag, Nanos};
use crate::layers::limit::Counting;

/// Poll interval until everything is read.
const LOOK: Duration = Duration::from_millis(10);

/// Latest long pause and latest reading after one.
#[derive(Debug)]
pub(super) struct Awakening {
    /// Start of the latest long pause, in nanoseconds of the clock.
    missed: AtomicU64,
    /// Notified after a long pause.
    woken: Notify,
    /// Start of the latest complete reading. No reading starts within a pause, so each pause that
    /// started earlier is over.
    read: watch::Sender<Nanos>,
}

impl Default for Awakening {
    fn default() -> Self {
        Self { missed: AtomicU64::new(0), woken: Notify::new(), read: watch::Sender::new(Nanos::ZERO) }
    }
}

impl Awakening {
    /// Records a long pause that started at `from` and is over now.
    pub(super) fn wake(&self, from: Nanos) {
        self.missed.fetch_max(from.0, Ordering::AcqRel);
        self.woken.notify_one();
    }

    fn missed(&self) -> Nanos {
        Nanos(self.missed.load(Ordering::Acquire))
    }

    /// Returns the start of the latest long pause if not everything has been read since. Includes a
    /// pause that the ticker has not recorded yet.
    pub(super) fn is_behind(&self, now: Nanos, lag: &Lag) -> Option<Nanos> {
        let paused = lag.pause(now).filter(|pause| pause.length() >= LONG).map(|pause| pause.from);
        let missed = self.missed().max(paused.unwrap_or_default());
        // Every request runs this: it takes no lock if there never was a pause.
        (missed > Nanos::ZERO && missed >= *self.read.borrow()).then_some(missed)
    }

    /// Waits until everything was read after the pause that began at `missed`.
    pub(super) async fn caught_up(&self, missed: Nanos) {
        let mut read = self.read.subscribe();
        // Reading takes no longer than that, and the sender lives as long as the gateway.
        timeout(FIRST_WORD * 2, read.wait_for(|read| *read > missed)).await.map(drop).unwrap_or_default();
    }
}

/// Detects that the machine was suspended.
#[derive(Debug)]
pub(super) struct Suspension(Duration);

impl Suspension {
    /// `suspended` is the total time in suspension so far.
    pub(super) const fn new(suspended: Duration) -> Self {
        Self(suspended)
    }

    /// Returns `true` if the machine was suspended for long since the last call.
    pub(super) fn was_long(&mut self, suspended: Duration) -> bool {
        suspended.saturating_sub(std::mem::replace(&mut self.0, suspended)) >= LONG
    }
}

impl App {
    /// Reads everything again after each long pause.
    pub(super) async fn awake(self) {
        let awakening = &self.0.awakening;
        loop {
            awakening.woken.notified().await;
            let began = self.0.clock.now();
            if awakening.missed() < *awakening.read.borrow() {
                continue;
            }
            tracing::warn!("the gateway was paused for seconds; what it follows is read anew");
            self.0.following.anew.notify_one();
            if let Some(together) = &self.0.together {
                together.store.link().renew();
            }
            if let Counting::Shared(rules) = &self.0.live.load().counting {
                rules.forget();
            }
            let read = async {
                while !self.is_current_since(began) {
                    sleep(LOOK).await;
                }
            };
            if timeout(FIRST_WORD, read).await.is_err() {
                tracing::warn!("Redis does not answer; serving by what was known before the pause");
            }
            awakening.read.send_replace(began);
        }
    }

    /// Detects pauses that only the clock of Redis shows.
    pub(super) async fn heed_redis(self) {
        let Some(together) = &self.0.together else { return };
        loop {
            together.store.link().overtaken().await;
            self.0.awakening.wake(self.0.clock.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Nanos {
        Nanos::from_millis(millis)
    }

    #[test]
    fn a_long_pause_is_missed_until_all_is_read() {
        let (awakening, lag) = (Awakening::default(), Lag::default());
        lag.tick(at(1000));
        assert_eq!(awakening.is_behind(at(4009), &lag), None, "not long enough");
        assert_eq!(awakening.is_behind(at(5000), &lag), Some(at(1010)), "before the ticker has run");
        lag.tick(at(5001));
        awakening.wake(at(1010));
        // A short pause after it does not hide it.
        lag.tick(at(5101));
        assert_eq!(awakening.is_behind(at(5102), &lag), Some(at(1010)));
        awakening.read.send_replace(at(5001));
        assert_eq!(awakening.is_behind(at(5103), &lag), None);
        awakening.wake(at(9000));
        assert_eq!(awakening.is_behind(at(9001), &lag), Some(at(9000)), "a machine that was suspended");
    }

    #[test]
    fn only_long_suspensions_count_and_each_once() {
        let mut suspension = Suspension::new(Duration::from_secs(100));
        for (suspended, long) in [(100, false), (102, false), (105, true), (105, false), (3705, true)] {
            assert_eq!(suspension.was_long(Duration::from_secs(suspended)), long, "{suspended} s in all");
        }
    }

    #[tokio::test]
    async fn who_waits_goes_on_when_all_is_read() {
        let awakening = Awakening::default();
        awakening.wake(at(5000));
        let reads = async {
            awakening.woken.notified().await;
            awakening.read.send_replace(at(8000));
        };
        tokio::join!(awakening.caught_up(at(5000)), reads);
        awakening.caught_up(at(7999)).await;
        assert_eq!(awakening.is_behind(at(9000), &Lag::default()), None);
    }
}
