//! The callers with the most requests: a bounded table with exponentially decaying counts.
//!
//! Exact counts of every caller would grow without bound, and a label per caller would flood
//! scrapers. This table holds at most [`ROOM`] callers. If it is full, new callers are not counted
//! until the next decay, which drops the lesser half. A frequent caller is in again within a second
//! and stays; a flood of names costs each request one lookup.

use std::cmp::Reverse;
use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use parking_lot::Mutex;

use crate::view::CallerView;

/// Maximum callers in the table: far more than are shown, so that the right ones are shown.
const ROOM: usize = 512;
/// Decay factor per second: half of a count is gone in 14 s, so a rate follows changes within
/// seconds and does not flicker.
const KEPT: f64 = 0.95;
/// Minimum count to stay in the table: one request decays to it in a minute.
const LEAST: f64 = 0.05;

/// Table of the most active callers.
#[derive(Debug, Default)]
pub(super) struct TopCallers(Mutex<HashMap<Arc<str>, CallerView>>);

impl TopCallers {
    pub(super) fn count(&self, caller: &Arc<str>, refused: bool, tokens: u64) {
        let mut known = self.0.lock();
        let is_full = known.len() >= ROOM;
        let rate = match known.entry(Arc::clone(caller)) {
            Entry::Vacant(_) if is_full => return,
            Entry::Vacant(place) => {
                let id = Arc::clone(caller);
                place.insert(CallerView { id, ..CallerView::default() })
            }
            Entry::Occupied(known) => known.into_mut(),
        };
        rate.requests += 1.0;
        rate.refused += f64::from(u8::from(refused));
        rate.tokens += tokens as f64;
    }

    /// Decays by one second and returns the `most` callers with the highest request rates.
    pub(super) fn decay_and_top(&self, most: usize) -> Vec<CallerView> {
        let mut known = self.0.lock();
        let mut rates: Vec<_> = known
            .drain()
            .map(|(_, rate)| CallerView {
                requests: rate.requests * KEPT,
                refused: rate.refused * KEPT,
                tokens: rate.tokens * KEPT,
                id: rate.id,
            })
            .filter(|rate| rate.requests >= LEAST)
            .collect();
        // In thousandths, because floats have no total order.
        rates.sort_by_key(|rate| (Reverse((rate.requests * 1000.0) as u64), Arc::clone(&rate.id)));
        if rates.len() > ROOM / 2 {
            rates.truncate(ROOM / 2);
        }
        known.extend(rates.iter().map(|rate| (Arc::clone(&rate.id), rate.clone())));
        rates.truncate(most);
        // At a steady rate the decaying count converges to rate · KEPT / (1 − KEPT).
        let second = (1.0 - KEPT) / KEPT;
        for rate in &mut rates {
            rate.requests *= second;
            rate.refused *= second;
            rate.tokens *= second;
        }
        rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_caller_shows_its_rate_and_fades_when_it_stops() {
        let callers = TopCallers::default();
        let heavy: Arc<str> = "key:heavy".into();
        let mut shown = Vec::new();
        for _ in 0..200 {
            (0..30).for_each(|index| callers.count(&heavy, index % 3 == 0, 10));
            shown = callers.decay_and_top(10);
        }
        let near = |have: f64, want: f64| assert!((have - want).abs() < want / 100.0, "{have} is not {want}");
        near(shown[0].requests, 30.0);
        near(shown[0].refused, 10.0);
        near(shown[0].tokens, 300.0);
        (0..400).for_each(|_| drop(callers.decay_and_top(10)));
        assert!(callers.decay_and_top(10).is_empty());
    }

    #[test]
    fn a_flood_of_names_hides_nobody_who_asks_often() {
        let callers = TopCallers::default();
        let heavy: Arc<str> = "ip:192.0.2.1".into();
        for second in 0..5 {
            for index in 0..5000 {
                callers.count(&format!("ip:2001:db8:{second}:{index}::/64").into(), true, 0);
                if index % 10 == 0 {
                    callers.count(&heavy, false, 0);
                }
            }
            assert_eq!(callers.0.lock().len(), ROOM);
            assert_eq!(callers.decay_and_top(1)[0].id, heavy);
        }
    }
}
