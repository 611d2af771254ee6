//! How many bytes of answers a gateway may store for repeats of their requests.
//!
//! Redis deletes an answer when its time is over. So the bytes that are there are those of the last
//! such time, which are counted in slots of a 24th of it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::clock::{Nanos, saturating_nanos};

/// Slots in the time for which an answer is kept.
const SLOTS: u64 = 24;
/// Callers counted apart in each slot; all others share one count.
const CALLERS: usize = 1024;

/// Bytes that this gateway has stored in the last 24 slots, by caller.
#[derive(Debug, Default)]
pub(super) struct StoredBytes(VecDeque<Slot>);

#[derive(Debug)]
struct Slot {
    number: u64,
    callers: HashMap<String, u64>,
}

impl StoredBytes {
    /// Takes `bytes` of `most` for an answer of `caller` that is kept for `keep`; returns `false` if
    /// there is no room. A caller may have as much as it leaves to others: half of all, if alone.
    pub(super) fn take(
        &mut self,
        (caller, bytes): (&str, u64),
        (most, keep): (u64, Duration),
        now: Nanos,
    ) -> bool {
        let length = (keep / SLOTS as u32).max(Duration::from_millis(1));
        let number = saturating_nanos(now.since(Nanos::default())) / saturating_nanos(length);
        self.0.retain(|slot| slot.number + SLOTS >= number && slot.number <= number);
        let all: u64 = self.0.iter().flat_map(|slot| slot.callers.values()).sum();
        let own: u64 = self.0.iter().filter_map(|slot| slot.callers.get(slot.named(caller))).sum();
        if all.saturating_add(bytes) > most || own + bytes > most - all {
            return false;
        }
        if self.0.back().is_none_or(|slot| slot.number != number) {
            self.0.push_back(Slot { number, callers: HashMap::new() });
        }
        if let Some(slot) = self.0.back_mut() {
            let name = slot.named(caller).to_owned();
            *slot.callers.entry(name).or_default() += bytes;
        }
        true
    }
}

impl Slot {
    /// Returns the name under which the bytes of `caller` are counted here.
    fn named<'a>(&self, caller: &'a str) -> &'a str {
        if self.callers.len() < CALLERS || self.callers.contains_key(caller) { caller } else { "" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(24);

    #[test]
    fn a_caller_leaves_as_much_as_it_has_and_gets_it_back_with_time() {
        let mut stored = StoredBytes::default();
        let mut take =
            |caller, bytes, second| stored.take((caller, bytes), (100, KEEP), Nanos::from_secs(second));
        assert!(take("a", 50, 0));
        assert!(!take("a", 1, 0), "it leaves 50");
        assert!(take("b", 25, 10));
        assert!(!take("b", 1, 10));
        assert!(!take("c", 26, 10), "there are 25 left");
        assert!(!take("a", 1, 24), "its answer may still be there");
        assert!(take("a", 37, 25));
    }

    #[test]
    fn what_is_counted_is_bounded_whoever_calls() {
        let mut stored = StoredBytes::default();
        for number in 0..3 * CALLERS {
            assert!(stored.take((&number.to_string(), 1), (1 << 20, KEEP), Nanos::from_secs(1)));
        }
        assert_eq!((stored.0.len(), stored.0[0].callers.len()), (1, CALLERS + 1));
        assert_eq!(stored.0[0].callers[""], 2 * CALLERS as u64);
    }
}
