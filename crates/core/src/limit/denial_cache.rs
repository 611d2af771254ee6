//! A cache of refusals, so that a client that retries too early causes no round trip.
//!
//! A quota kept elsewhere refuses the same amount until the retry time, unless units are returned:
//! a request used less than reserved, or was not served. A return here removes the refusal; returns
//! elsewhere are unknown. So a refusal is trusted for a second, then the quota is asked again.
//!
//! **Failure mode.** A full table caches no new refusal: the quota is asked each time.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::meter::Level;
use crate::clock::Nanos;

const SHARDS: usize = 64;
/// About 5 MB in all: 65 000 callers that are refused at the same time.
const PER_SHARD: usize = 1024;
/// How long a refusal is trusted without asking again, even if its wait is an hour.
const BELIEVED: Duration = Duration::from_secs(1);

/// A cached refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedDenial {
    /// Remaining wait.
    pub wait: Duration,
    /// Last known level of the quota.
    pub level: Level,
}

#[derive(Clone, Copy, Debug)]
struct DenialEntry {
    /// Refused amount; larger ones are refused, too.
    amount: u64,
    until: Nanos,
    /// Time from which the quota is asked again.
    recheck_at: Nanos,
    remaining: u64,
    full_at: Nanos,
}

impl DenialEntry {
    fn denied(&self, now: Nanos) -> CachedDenial {
        let level = Level { remaining: self.remaining, reset: self.full_at.since(now) };
        CachedDenial { wait: self.until.since(now), level }
    }
}

/// Refusals by key. Keys are hashes that outsiders cannot compute.
#[derive(Debug)]
pub struct Denials([Mutex<HashMap<u64, DenialEntry>>; SHARDS]);

impl Default for Denials {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Denials {
    fn shard(&self, key: u64) -> &Mutex<HashMap<u64, DenialEntry>> {
        // The map hashes the key again; any bits will do here.
        &self.0[key as usize % SHARDS]
    }

    /// Returns the refusal of `amount` units, if known and the quota need not be asked again.
    pub fn find(&self, key: u64, amount: u64, now: Nanos) -> Option<CachedDenial> {
        let entry = *self.shard(key).lock().get(&key)?;
        (amount >= entry.amount && now < entry.until.min(entry.recheck_at)).then(|| entry.denied(now))
    }

    /// Returns a refusal until `grace` after its wait, no matter when the quota was last asked.
    pub fn find_within(&self, key: u64, amount: u64, grace: Duration, now: Nanos) -> Option<CachedDenial> {
        let entry = *self.shard(key).lock().get(&key)?;
        (amount >= entry.amount && now < entry.until + grace).then(|| entry.denied(now))
    }

    /// Records that `amount` units were refused at `now`, for `wait`, at this level.
    pub fn remember(&self, key: u64, amount: u64, wait: Duration, level: Level, now: Nanos) {
        let mut entries = self.shard(key).lock();
        if entries.len() >= PER_SHARD && !entries.contains_key(&key) {
            entries.retain(|_, entry| now < entry.until);
            if entries.len() >= PER_SHARD {
                return;
            }
        }
        let until = now + wait;
        let (believed_until, whole) = (now + BELIEVED, now + level.reset);
        let entry = DenialEntry {
            amount,
            until,
            recheck_at: believed_until,
            remaining: level.remaining,
            full_at: whole,
        };
        entries.insert(key, entry);
    }

    /// Removes all refusals.
    pub fn clear(&self) {
        self.0.iter().for_each(|shard| shard.lock().clear());
    }

    /// Removes the refusal of a key.
    pub fn forget(&self, key: u64) {
        self.shard(key).lock().remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Level = Level { remaining: 2, reset: Duration::from_secs(9) };

    #[test]
    fn a_refusal_holds_for_its_amount_and_its_time() {
        let denials = Denials::default();
        let (now, wait) = (Nanos::from_secs(10), Duration::from_secs(3));
        denials.remember(7, 5, wait, EMPTY, now);
        let later = Nanos::from_millis(10_999);
        let level = Level { remaining: 2, reset: Duration::from_millis(8_001) };
        assert_eq!(
            denials.find(7, 5, later),
            Some(CachedDenial { wait: Duration::from_millis(2_001), level })
        );
        assert!(denials.find(7, 9, later).is_some() && denials.find(7, 4, later).is_none());
        assert!(denials.find(8, 5, later).is_none() && denials.find(7, 5, now + wait).is_none());
        let (grace, over) = (Duration::from_millis(100), now + wait + Duration::from_millis(99));
        assert_eq!(denials.find_within(7, 5, grace, over).unwrap().wait, Duration::ZERO);
        assert!(denials.find_within(7, 4, grace, over).is_none());
        assert!(denials.find_within(7, 5, grace, now + wait + grace).is_none());
        denials.forget(7);
        assert!(denials.find(7, 5, later).is_none());
    }

    #[test]
    fn a_quota_that_refused_for_an_hour_is_asked_again_each_second() {
        let denials = Denials::default();
        let hour = Duration::from_secs(3600);
        for second in 10..15 {
            let (at, until) = (Nanos::from_secs(second), Nanos::from_secs(second) + BELIEVED);
            assert!(denials.find(7, 5, at).is_none());
            denials.remember(7, 5, hour, EMPTY, at);
            let known = denials.find(7, 5, Nanos(until.0 - 1)).unwrap();
            assert!(known.wait > hour - BELIEVED, "the wait that is told is the quota's");
            assert!(denials.find_within(7, 5, Duration::ZERO, until).is_some(), "while nobody can be asked");
        }
    }

    #[test]
    fn a_full_table_makes_room_only_of_what_is_over() {
        let denials = Denials::default();
        let keys = |count: usize| (0..count).map(|index| (index * SHARDS) as u64);
        for key in keys(PER_SHARD) {
            denials.remember(key, 1, Duration::from_secs(1), EMPTY, Nanos::from_secs(1));
        }
        let newcomer = (PER_SHARD * SHARDS) as u64;
        denials.remember(newcomer, 1, Duration::from_secs(5), EMPTY, Nanos::from_millis(1_900));
        assert!(denials.find(newcomer, 1, Nanos::from_millis(1_900)).is_none());
        assert!(keys(PER_SHARD).all(|key| denials.find(key, 1, Nanos::from_millis(1_900)).is_some()));
        denials.remember(newcomer, 1, Duration::from_secs(5), EMPTY, Nanos::from_secs(2));
        assert!(denials.find(newcomer, 1, Nanos::from_secs(2)).is_some());
        assert_eq!(denials.shard(0).lock().len(), 1);
    }
}
