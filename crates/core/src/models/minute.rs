//! Events of the last minute.

use parking_lot::Mutex;

use crate::clock::Nanos;

/// Length of the window, in seconds.
const SECONDS: u64 = 60;

/// Number of events in the last minute, in steps of a second: the window is 59 to 60 s long.
#[derive(Debug)]
pub(super) struct MinuteCount(Mutex<SecondCells>);

#[derive(Debug)]
struct SecondCells {
    /// The latest second that has a cell.
    second: u64,
    sum: u64,
    cells: [u64; SECONDS as usize],
}

impl Default for MinuteCount {
    fn default() -> Self {
        Self(Mutex::new(SecondCells { second: 0, sum: 0, cells: [0; SECONDS as usize] }))
    }
}

impl MinuteCount {
    pub(super) fn add(&self, now: Nanos) {
        self.0.lock().at(now).add();
    }

    pub(super) fn sum(&self, now: Nanos) -> u64 {
        self.0.lock().at(now).sum
    }

    /// Counts an event if there are fewer than `most`; returns `false` otherwise.
    pub(super) fn add_below(&self, most: u64, now: Nanos) -> bool {
        let mut cells = self.0.lock();
        let free = cells.at(now).sum < most;
        if free {
            cells.add();
        }
        free
    }

    /// Uncounts an event that was counted at `then`.
    pub(super) fn undo(&self, then: Nanos) {
        let mut cells = self.0.lock();
        let second = seconds(then);
        if second <= cells.second && cells.second - second < SECONDS {
            let SecondCells { sum, cells, .. } = &mut *cells;
            if let Some(cell) = cells.get_mut((second % SECONDS) as usize).filter(|cell| **cell > 0) {
                *cell -= 1;
                *sum -= 1;
            }
        }
    }
}

impl SecondCells {
    /// Forgets what is older than a minute at `now`.
    fn at(&mut self, now: Nanos) -> &mut Self {
        let second = seconds(now);
        let passed = second.saturating_sub(self.second).min(SECONDS);
        for ahead in 1..=passed {
            if let Some(cell) = self.cells.get_mut(((self.second + ahead) % SECONDS) as usize) {
                self.sum -= std::mem::take(cell);
            }
        }
        self.second = self.second.max(second);
        self
    }

    fn add(&mut self) {
        if let Some(cell) = self.cells.get_mut((self.second % SECONDS) as usize) {
            *cell += 1;
            self.sum += 1;
        }
    }
}

const fn seconds(now: Nanos) -> u64 {
    now.0 / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const WINDOW: Duration = Duration::from_secs(SECONDS);

    #[test]
    fn an_event_counts_for_a_minute_and_can_be_taken_back_that_long() {
        let count = MinuteCount::default();
        let start = Nanos::from_secs(100);
        count.add(start);
        count.add(start + Duration::from_secs(30));
        assert_eq!(count.sum(start + WINDOW - Duration::from_secs(1)), 2);
        assert_eq!(count.sum(start + WINDOW), 1);
        count.undo(start);
        assert_eq!(count.sum(start + WINDOW), 1, "it was forgotten already");
        count.undo(start + Duration::from_secs(30));
        count.undo(start + Duration::from_secs(30));
        assert_eq!(count.sum(start + WINDOW), 0);
    }

    proptest! {
        #[test]
        fn the_count_is_that_of_a_list_of_times(steps in prop::collection::vec((0u64..40, 0u64..9), 1..60)) {
            let count = MinuteCount::default();
            let (mut now, mut times): (_, Vec<u64>) = (Nanos::from_secs(7), Vec::new());
            for (wait, most) in steps {
                now = now + Duration::from_secs(wait);
                times.retain(|then| then + SECONDS > seconds(now));
                prop_assert_eq!(count.sum(now), times.len() as u64);
                let fits = (times.len() as u64) < most;
                prop_assert_eq!(count.add_below(most, now), fits);
                if fits {
                    times.push(seconds(now));
                }
            }
        }
    }
}
