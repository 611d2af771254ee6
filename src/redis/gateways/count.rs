//! Number of gateways, filtered over time.

use super::LIVES;
use crate::clock::Nanos;

/// Number of gateways, filtered over time.
///
/// After Redis comes back empty, the first gateway sees only itself, and would take the whole
/// quota. So a higher count is believed at once, a lower one after all had the time to report.
#[derive(Debug, Default)]
pub(super) struct GatewayCount {
    known: u32,
    /// While a lower count is observed: the highest such count, and when the first was seen.
    fewer: Option<(u32, Nanos)>,
    /// When gateways were counted last; `None` if never.
    last: Option<Nanos>,
}

impl GatewayCount {
    /// Starts with the configured number.
    pub(super) fn new(known: u32) -> Self {
        Self { known, ..Self::default() }
    }

    /// Replaces the configured number, until gateways are counted. Returns the number that holds.
    pub(super) fn configure(&mut self, known: u32) -> u32 {
        if !self.has_counted() {
            self.known = known;
        }
        self.known
    }

    /// Returns `true` once gateways were counted.
    pub(super) const fn has_counted(&self) -> bool {
        self.last.is_some()
    }

    /// Records that `seen` gateways were found at `now`, and that `left` others said since the last look
    /// that they should not be counted any more. Returns the filtered count.
    pub(super) fn see(&mut self, seen: u32, left: u32, now: Nanos) -> u32 {
        // After such a long gap between looks no gateway can have reported.
        let before = self.last.replace(now);
        let fewer = self.fewer.take().filter(|_| before.is_some_and(|before| now.since(before) <= LIVES));
        if seen.saturating_add(left) >= self.known {
            self.known = seen;
            return seen;
        }
        let (most, since) = fewer.map_or((seen, now), |(most, since)| (most.max(seen), since));
        if now.since(since) > LIVES {
            self.known = most;
        } else {
            self.fewer = Some((most, since));
        }
        self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_are_believed_at_once_and_fewer_after_a_while() {
        let mut count = GatewayCount::new(1);
        for (second, seen, known) in [
            (1, 2, 2),
            (2, 3, 3),
            // One is missing, and seen again.
            (3, 2, 3),
            (5, 2, 3),
            (6, 3, 3),
            // One leaves, then another.
            (7, 2, 3),
            (8, 1, 3),
            (10, 1, 3),
            (11, 1, 2),
            (12, 1, 2),
            (15, 1, 2),
            (16, 1, 1),
        ] {
            assert_eq!(count.see(seen, 0, Nanos::from_secs(second)), known, "after {second} s");
        }
    }

    #[test]
    fn who_comes_back_first_does_not_take_itself_for_the_only_one() {
        let mut count = GatewayCount::new(3);
        assert_eq!(
            count.see(1, 0, Nanos::from_secs(1)),
            3,
            "at the start nobody knows better than the settings"
        );
        assert_eq!(count.see(3, 0, Nanos::from_secs(2)), 3);
        // For a minute, Redis is away again and again, and comes back empty each time.
        for second in (10..60).step_by(5) {
            assert_eq!(count.see(1, 0, Nanos::from_secs(second)), 3);
            assert_eq!(count.see(2, 0, Nanos::from_secs(second + 1)), 3);
        }
        // Redis stays.
        for (second, known) in [(60, 3), (62, 3), (63, 3), (64, 2)] {
            assert_eq!(count.see(2, 0, Nanos::from_secs(second)), known, "after {second} s");
        }
    }
}
