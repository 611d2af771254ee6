//! Who asks most: a table of callers, bounded, in which what was done fades.
//!
//! Exact counts of every caller would grow without a bound, and a label per caller would flood whoever scrapes. Here
//! at most [`ROOM`] callers are known. When the table is full, who is new is not counted until the next fading, which
//! makes room by forgetting the lesser half: whoever asks often is in again within a second and stays, and a flood of
//! names, however many, costs a request one look-up.

use std::cmp::Reverse;
use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use parking_lot::Mutex;

/// Callers known at once: far more than are shown, so that those shown are the right ones.
const ROOM: usize = 512;
/// What is left of a count after a second: half of it is gone in 14 s, so a number follows what happens within a
/// breath and does not flicker.
const KEPT: f64 = 0.95;
/// Less than this is not worth a place: one request, after a minute.
const LEAST: f64 = 0.05;

/// What one caller does, per second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallerRate {
    /// Its namespaced id.
    pub id: Arc<str>,
    /// Requests, refused ones included.
    pub requests: f64,
    /// Refused requests.
    pub refused: f64,
    /// Prompt and output tokens of answered requests.
    pub tokens: f64,
}

/// The callers that ask most.
#[derive(Debug, Default)]
pub(super) struct Callers(Mutex<HashMap<Arc<str>, CallerRate>>);

impl Callers {
    /// A request of `caller` ended.
    pub(super) fn count(&self, caller: &Arc<str>, refused: bool, tokens: u64) {
        let mut known = self.0.lock();
        let is_full = known.len() >= ROOM;
        let rate = match known.entry(Arc::clone(caller)) {
            Entry::Vacant(_) if is_full => return,
            Entry::Vacant(place) => {
                let id = Arc::clone(caller);
                place.insert(CallerRate { id, ..CallerRate::default() })
            }
            Entry::Occupied(known) => known.into_mut(),
        };
        rate.requests += 1.0;
        rate.refused += f64::from(u8::from(refused));
        rate.tokens += tokens as f64;
    }

    /// Fades by a second, and returns the `most` who ask most.
    pub(super) fn fade(&self, most: usize) -> Vec<CallerRate> {
        let mut known = self.0.lock();
        let mut rates: Vec<_> = known
            .drain()
            .map(|(_, rate)| CallerRate {
                requests: rate.requests * KEPT,
                refused: rate.refused * KEPT,
                tokens: rate.tokens * KEPT,
                id: rate.id,
            })
            .filter(|rate| rate.requests >= LEAST)
            .collect();
        // In millis, because floats have no order.
        rates.sort_by_key(|rate| (Reverse((rate.requests * 1000.0) as u64), Arc::clone(&rate.id)));
        if rates.len() > ROOM / 2 {
            rates.truncate(ROOM / 2);
        }
        known.extend(rates.iter().map(|rate| (Arc::clone(&rate.id), rate.clone())));
        rates.truncate(most);
        // A count that fades so comes to rest at rate · KEPT / (1 − KEPT).
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
        let callers = Callers::default();
        let heavy: Arc<str> = "key:heavy".into();
        let mut shown = Vec::new();
        for _ in 0..200 {
            (0..30).for_each(|index| callers.count(&heavy, index % 3 == 0, 10));
            shown = callers.fade(10);
        }
        let near = |have: f64, want: f64| assert!((have - want).abs() < want / 100.0, "{have} is not {want}");
        near(shown[0].requests, 30.0);
        near(shown[0].refused, 10.0);
        near(shown[0].tokens, 300.0);
        (0..400).for_each(|_| drop(callers.fade(10)));
        assert!(callers.fade(10).is_empty());
    }

    #[test]
    fn a_flood_of_names_hides_nobody_who_asks_often() {
        let callers = Callers::default();
        let heavy: Arc<str> = "ip:192.0.2.1".into();
        for second in 0..5 {
            for index in 0..5000 {
                callers.count(&format!("ip:2001:db8:{second}:{index}::/64").into(), true, 0);
                if index % 10 == 0 {
                    callers.count(&heavy, false, 0);
                }
            }
            assert_eq!(callers.0.lock().len(), ROOM);
            assert_eq!(callers.fade(1)[0].id, heavy);
        }
    }
}
