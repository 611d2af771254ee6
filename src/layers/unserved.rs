//! Counts the callers refused lately for lack of room: demand that no queue shows.
//!
//! An autoscaler must see the load that was turned away. A client that is refused asks again and
//! again, so its requests say little: each caller counts once, however often it asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Nanos;
use crate::refusal::{Reason, Refusal};

/// How long a refused caller counts.
const COUNTS: Duration = Duration::from_secs(10);
/// Most callers that are remembered.
const MOST: usize = 4096;

/// Times of the last refusals, by pool and caller.
type LastRefusals = BTreeMap<(Arc<str>, Arc<str>), Nanos>;

/// Callers that were refused in the last 10 s because there was no room, by pool.
#[derive(Debug, Default)]
pub(crate) struct UnservedCallers(Mutex<LastRefusals>);

impl UnservedCallers {
    /// Records a refusal of a request of `caller` to `pool` at `now`. Only those for lack of room
    /// count: more workers would not help against the others.
    pub(crate) fn refused(&self, pool: &Arc<str>, caller: &Arc<str>, refusal: &Refusal, now: Nanos) {
        if !matches!(refusal.reason, Reason::Overloaded | Reason::QueueTimeout | Reason::NoWorker) {
            return;
        }
        let mut callers = self.0.lock();
        let key = (Arc::clone(pool), Arc::clone(caller));
        if callers.len() >= MOST && !callers.contains_key(&key) {
            callers.retain(|_, at| now.since(*at) < COUNTS);
            if callers.len() >= MOST {
                return;
            }
        }
        callers.insert(key, now);
    }

    /// Returns the number of callers of `pool` that were refused in the 10 s before `now`.
    #[must_use]
    pub(crate) fn count(&self, pool: &str, now: Nanos) -> u64 {
        let callers = self.0.lock();
        let counts = callers.iter().filter(|((of, _), at)| **of == *pool && now.since(**at) < COUNTS);
        counts.count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_counts_once_and_for_ten_seconds() {
        let unserved = UnservedCallers::default();
        let pool: Arc<str> = "chat".into();
        let refused = |caller: &str, reason, second| {
            let refusal = Refusal::new(reason, "no room");
            unserved.refused(&pool, &caller.into(), &refusal, Nanos::from_secs(second));
        };
        for second in 1..5 {
            refused("a", Reason::Overloaded, second);
        }
        refused("b", Reason::QueueTimeout, 5);
        refused("c", Reason::RateLimited, 5);
        let count = |second| unserved.count("chat", Nanos::from_secs(second));
        assert_eq!((count(5), count(13), count(14), count(15)), (2, 2, 1, 0));
        assert_eq!(unserved.count("other", Nanos::from_secs(5)), 0);
    }

    #[test]
    fn there_are_only_so_many_callers() {
        let unserved = UnservedCallers::default();
        let (pool, refusal): (Arc<str>, _) = ("chat".into(), Refusal::new(Reason::NoWorker, "none"));
        for caller in 0..2 * MOST {
            unserved.refused(&pool, &format!("c{caller}").into(), &refusal, Nanos::from_secs(1));
        }
        assert_eq!(unserved.count("chat", Nanos::from_secs(1)), MOST as u64);
        unserved.refused(&pool, &"late".into(), &refusal, Nanos::from_secs(12));
        assert_eq!(unserved.count("chat", Nanos::from_secs(12)), 1);
    }
}
