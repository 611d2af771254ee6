//! Measures the scheduling delay of the gateway.

use tokio::time::{MissedTickBehavior, interval};

use super::App;
use super::pause_recovery::Suspension;
use crate::clock::{Clock, LONG_PAUSE, TICK, suspended};

/// Stops the measurement with the task: a clock without ticks would look late forever.
struct Ticking(Clock);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.lag().stop();
    }
}

impl App {
    /// Ticks as long as the gateway serves.
    pub(super) async fn tick(self) {
        let clock = Ticking(self.0.clock.clone());
        let mut suspension = Suspension::new(suspended());
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = clock.0.now();
            let late = clock.0.lag().tick(now);
            if late >= LONG_PAUSE {
                self.0.pause_recovery.wake(now - late);
            }
            if suspension.was_long(suspended()) {
                self.0.pause_recovery.wake(now);
            }
            self.0.metrics.event_loop_lag(late);
        }
    }
}
