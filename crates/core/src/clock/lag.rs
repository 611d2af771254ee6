//! Measures the gateway's own lateness.
//!
//! To a gateway that is stopped, suspended or short of CPU, all others look late. A runtime task
//! calls [`Lag::tick`] every [`TICK`]; a longer gap is a [`Pause`] of the gateway itself. Code that
//! judges a worker, another gateway or Redis by elapsed time first subtracts [`Lag::overlap`].
//!
//! **Bounds.** At most [`CREDIT`] in any [`WINDOW`] is subtracted, so that a gateway that is always
//! late still judges; [`RECENT`] pauses are remembered. Nothing is subtracted from a caller's
//! deadline or a wait in the queue: those are promises, not judgements of others.

use std::collections::VecDeque;
use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::Nanos;

/// Time between two ticks of a gateway that is not late.
pub const TICK: Duration = Duration::from_millis(10);
/// Length of a pause after which all state synchronized from elsewhere is stale.
pub const LONG_PAUSE: Duration = Duration::from_secs(3);
/// Least lateness of a tick for a pause. Timers of a busy runtime are some milliseconds late.
const PAUSE: Duration = Duration::from_millis(50);
/// Most time that is subtracted in any [`WINDOW`].
const CREDIT: Duration = Duration::from_secs(2);
/// Time span in which at most [`CREDIT`] is subtracted.
const WINDOW: Duration = Duration::from_secs(10);
/// Number of pauses remembered: some more than fit into a window.
const RECENT: usize = 256;

/// A time in which the gateway did not run, or ran late: from when a tick was due until it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// When the tick was due.
    pub pause_from: Nanos,
    /// When it came; the present if the pause still lasts.
    pub pause_to: Nanos,
}

impl Pause {
    /// Returns its length.
    #[must_use]
    pub const fn length(&self) -> Duration {
        self.pause_to.since(self.pause_from)
    }

    /// Returns how much of it lies within `from..to`.
    fn within(&self, from: Nanos, to: Nanos) -> Duration {
        self.pause_to.min(to).since(self.pause_from.max(from))
    }
}

/// The lateness of one gateway. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Lag(Arc<LagState>);

#[derive(Debug, Default)]
struct LagState {
    /// The latest tick; zero before the first.
    ticked: AtomicU64,
    /// Latest pause; `to` is zero before the first. `from` is written first, and pauses do not
    /// overlap: a reader of `to`, then `from`, sees one whole pause, or `from` later than `to`.
    from: AtomicU64,
    to: AtomicU64,
    recent: Mutex<VecDeque<CountedPause>>,
}

/// A pause, and how much of it is subtracted.
#[derive(Debug)]
struct CountedPause {
    pause: Pause,
    credit: Duration,
}

impl Lag {
    /// Records a tick of the runtime at `now`. Returns its lateness, zero for the first.
    pub fn tick(&self, now: Nanos) -> Duration {
        // Zero stands for no tick.
        let before = Nanos(self.0.ticked.swap(now.0.max(1), Ordering::AcqRel));
        if before == Nanos::ZERO {
            return Duration::ZERO;
        }
        if let Some(pause) = gap(before, now) {
            let mut recent = self.0.recent.lock();
            let credit = credit(&recent, pause);
            if recent.len() == RECENT {
                recent.pop_front();
            }
            recent.push_back(CountedPause { pause, credit });
            self.0.from.store(pause.pause_from.0, Ordering::Release);
            self.0.to.store(pause.pause_to.0, Ordering::Release);
        }
        now.since(before + TICK)
    }

    /// Stops the measurement: no later time counts as late until ticks come again.
    pub fn stop(&self) {
        self.0.ticked.store(0, Ordering::Release);
    }

    /// Returns the latest pause of at least 50 ms. A pause that no tick has ended counts up to
    /// `now`, so that the first task that runs after a pause knows of it.
    #[must_use]
    pub fn pause(&self, now: Nanos) -> Option<Pause> {
        self.going_on(now).or_else(|| self.ended())
    }

    /// Returns how long the gateway itself was late within `from..to`, as far as it is credited. A
    /// `to` in the future counts as the present.
    #[must_use]
    pub fn overlap(&self, from: Nanos, to: Nanos) -> Duration {
        let going_on = self.going_on(to);
        if going_on.is_none() && self.0.to.load(Ordering::Acquire) <= from.0 {
            return Duration::ZERO;
        }
        let recent = self.0.recent.lock();
        let present = going_on.map_or(Duration::ZERO, |pause| {
            // A tick may have counted it meanwhile.
            if recent.back().is_some_and(|last| last.pause.pause_to > pause.pause_from) {
                return Duration::ZERO;
            }
            pause.within(from, to).min(credit(&recent, pause))
        });
        let ended = recent.iter().rev().take_while(|counted| counted.pause.pause_to > from);
        present + ended.map(|counted| counted.pause.within(from, to).min(counted.credit)).sum::<Duration>()
    }

    fn going_on(&self, now: Nanos) -> Option<Pause> {
        match self.0.ticked.load(Ordering::Acquire) {
            0 => None,
            ticked => gap(Nanos(ticked), now),
        }
    }

    fn ended(&self) -> Option<Pause> {
        loop {
            let to = Nanos(self.0.to.load(Ordering::Acquire));
            let from = Nanos(self.0.from.load(Ordering::Acquire));
            if to == Nanos::ZERO {
                return None;
            }
            if from < to {
                return Some(Pause { pause_from: from, pause_to: to });
            }
            spin_loop();
        }
    }
}

/// Returns the pause between a tick and the next one, or the present.
fn gap(tick: Nanos, now: Nanos) -> Option<Pause> {
    let pause = Pause { pause_from: tick + TICK, pause_to: now };
    (pause.length() >= PAUSE).then_some(pause)
}

/// Returns how much of `pause` may be subtracted after the `recent` ones.
fn credit(recent: &VecDeque<CountedPause>, pause: Pause) -> Duration {
    let window = recent.iter().rev().take_while(|counted| counted.pause.pause_to + WINDOW > pause.pause_from);
    let given = window.map(|counted| counted.credit).sum();
    pause.length().min(CREDIT.saturating_sub(given))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Nanos {
        Nanos::from_millis(millis)
    }

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Ticks on time from `from` until `to`, in milliseconds.
    fn run(lag: &Lag, from: u64, to: u64) {
        for tick in (from..=to).step_by(10) {
            lag.tick(at(tick));
        }
    }

    #[test]
    fn nothing_is_late_before_the_first_tick_and_after_the_last() {
        let lag = Lag::default();
        assert_eq!((lag.pause(at(9000)), lag.overlap(Nanos::ZERO, at(9000))), (None, Duration::ZERO));
        assert_eq!(lag.tick(at(9000)), Duration::ZERO);
        run(&lag, 9010, 10_000);
        lag.stop();
        assert_eq!((lag.pause(at(60_000)), lag.overlap(at(9000), at(60_000))), (None, Duration::ZERO));
        assert_eq!((lag.tick(at(60_000)), lag.pause(at(60_000))), (Duration::ZERO, None));
    }

    #[test]
    fn a_late_tick_is_a_pause_from_fifty_milliseconds_on() {
        let lag = Lag::default();
        lag.tick(at(100));
        assert_eq!((lag.tick(at(159)), lag.pause(at(159))), (ms(49), None));
        assert_eq!(
            (lag.tick(at(219)), lag.pause(at(219))),
            (ms(50), Some(Pause { pause_from: at(169), pause_to: at(219) }))
        );
        run(&lag, 229, 5229);
        assert_eq!(
            lag.pause(at(5229)),
            Some(Pause { pause_from: at(169), pause_to: at(219) }),
            "the latest stays known"
        );
    }

    #[test]
    fn who_runs_before_the_ticker_sees_the_pause() {
        let lag = Lag::default();
        run(&lag, 100, 200);
        assert_eq!(lag.pause(at(259)), None);
        assert_eq!(lag.pause(at(1200)), Some(Pause { pause_from: at(210), pause_to: at(1200) }));
        assert_eq!(lag.overlap(at(100), at(1200)), ms(990));
        assert_eq!(lag.overlap(at(1000), at(1200)), ms(200));
        lag.tick(at(1210));
        assert_eq!(lag.pause(at(1200)), Some(Pause { pause_from: at(210), pause_to: at(1210) }));
        assert_eq!(lag.overlap(at(100), at(1200)), ms(990), "once, not twice");
    }

    #[test]
    fn only_what_lies_within_is_taken_off() {
        let lag = Lag::default();
        run(&lag, 100, 200);
        run(&lag, 1210, 2000);
        run(&lag, 2310, 3000);
        for (from, to, overlap) in [
            (0, 3000, 1000 + 300),
            (300, 400, 100),
            (1200, 3000, 10 + 300),
            (1210, 2010, 0),
            (2310, 3000, 0),
            (5000, 4000, 0),
        ] {
            assert_eq!(lag.overlap(at(from), at(to)), ms(overlap), "{from}..{to}");
        }
    }

    #[test]
    fn two_seconds_in_ten_are_taken_off_at_most() {
        let lag = Lag::default();
        run(&lag, 100, 200);
        assert_eq!(lag.overlap(at(100), at(7210)), ms(2000), "of a pause that goes on");
        lag.tick(at(7210));
        assert_eq!(lag.overlap(at(100), at(7210)), ms(2000));
        // Late by one second in every two: only the rest of the last ten seconds' credit counts.
        let late = |tick: u64| lag.tick(at(tick + 1010));
        for tick in (7210..33_000).step_by(2020) {
            late(tick);
            run(&lag, tick + 1020, tick + 2020);
        }
        for end in (10_000..33_000).step_by(500) {
            let credit = lag.overlap(at(end - 10_000), at(end));
            assert!(credit <= ms(2000), "{credit:?} in the ten seconds before {end}");
        }
        assert_eq!(lag.overlap(at(7210), at(33_000)), ms(4000), "the credit comes again");
    }

    #[test]
    fn pauses_beyond_the_bound_are_forgotten() {
        let lag = Lag::default();
        for tick in 1..=4000 {
            lag.tick(at(tick * 60));
        }
        assert_eq!(lag.0.recent.lock().len(), RECENT);
        assert_eq!(lag.overlap(Nanos::ZERO, at(1000)), Duration::ZERO);
    }
}
