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
use crate::clock::{LONG_PAUSE, Lag, Nanos};
use crate::layers::limit::RuleCounting;

/// Poll interval until everything is read.
const LOOK: Duration = Duration::from_millis(10);

/// Latest long pause and latest reading after one.
#[derive(Debug)]
pub(super) struct PauseRecovery {
    /// Start of the latest long pause, in nanoseconds of the clock.
    missed: AtomicU64,
    /// Notified after a long pause.
    woken: Notify,
    /// Start of the latest complete reading. No reading starts within a pause, so each pause that
    /// started earlier is over.
    read: watch::Sender<Nanos>,
}

impl Default for PauseRecovery {
    fn default() -> Self {
        Self { missed: AtomicU64::new(0), woken: Notify::new(), read: watch::Sender::new(Nanos::ZERO) }
    }
}

impl PauseRecovery {
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
    pub(super) fn unread_pause(&self, now: Nanos, lag: &Lag) -> Option<Nanos> {
        let paused =
            lag.pause(now).filter(|pause| pause.length() >= LONG_PAUSE).map(|pause| pause.pause_from);
        let missed = self.missed().max(paused.unwrap_or_default());
        // Every request runs this: it takes no lock if there never was a pause.
        (missed > Nanos::ZERO && missed >= *self.read.borrow()).then_some(missed)
    }

    /// Waits until everything was read after the pause that began at `missed`.
    pub(super) async fn wait_until_read(&self, missed: Nanos) {
        let mut read = self.read.subscribe();
        // Reading takes no longer than that, and the sender lives as long as the gateway.
        timeout(FIRST_WORD * 2, read.wait_for(|read| *read > missed)).await.map(drop).unwrap_or_default();
    }
}

#[derive(Debug)]
pub(super) struct Suspension(Duration);

impl Suspension {
    /// `suspended` is the total time in suspension so far.
    pub(super) const fn new(suspended: Duration) -> Self {
        Self(suspended)
    }

    /// Returns `true` if the machine was suspended for long since the last call.
    pub(super) fn was_long(&mut self, suspended: Duration) -> bool {
        suspended.saturating_sub(std::mem::replace(&mut self.0, suspended)) >= LONG_PAUSE
    }
}

impl App {
    /// Reads everything again after each long pause.
    pub(super) async fn awake(self) {
        let pause_recovery = &self.0.pause_recovery;
        loop {
            pause_recovery.woken.notified().await;
            let began = self.0.clock.now();
            if pause_recovery.missed() < *pause_recovery.read.borrow() {
                continue;
            }
            tracing::warn!("the gateway was paused for seconds; reading shared state again");
            self.0.fleet_sync.anew.notify_one();
            if let Some(redis_parts) = &self.0.redis_parts {
                redis_parts.store.link().renew();
            }
            if let RuleCounting::Shared(rules) = &self.0.live.load().counting {
                rules.forget();
            }
            let read = async {
                while !self.is_current_since(began) {
                    sleep(LOOK).await;
                }
            };
            if timeout(FIRST_WORD, read).await.is_err() {
                tracing::warn!("Redis does not answer; continuing with the state known before the pause");
            }
            pause_recovery.read.send_replace(began);
        }
    }

    /// Detects pauses that only the clock of Redis shows.
    pub(super) async fn watch_redis_clock(self) {
        let Some(redis_parts) = &self.0.redis_parts else { return };
        loop {
            redis_parts.store.link().pause_detected().await;
            self.0.pause_recovery.wake(self.0.clock.now());
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
        let (pause_recovery, lag) = (PauseRecovery::default(), Lag::default());
        lag.tick(at(1000));
        assert_eq!(pause_recovery.unread_pause(at(4009), &lag), None, "not long enough");
        assert_eq!(pause_recovery.unread_pause(at(5000), &lag), Some(at(1010)), "before the ticker has run");
        lag.tick(at(5001));
        pause_recovery.wake(at(1010));
        // A short pause after it does not hide it.
        lag.tick(at(5101));
        assert_eq!(pause_recovery.unread_pause(at(5102), &lag), Some(at(1010)));
        pause_recovery.read.send_replace(at(5001));
        assert_eq!(pause_recovery.unread_pause(at(5103), &lag), None);
        pause_recovery.wake(at(9000));
        assert_eq!(
            pause_recovery.unread_pause(at(9001), &lag),
            Some(at(9000)),
            "a machine that was suspended"
        );
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
        let pause_recovery = PauseRecovery::default();
        pause_recovery.wake(at(5000));
        let reads = async {
            pause_recovery.woken.notified().await;
            pause_recovery.read.send_replace(at(8000));
        };
        tokio::join!(pause_recovery.wait_until_read(at(5000)), reads);
        pause_recovery.wait_until_read(at(7999)).await;
        assert_eq!(pause_recovery.unread_pause(at(9000), &Lag::default()), None);
    }
}
