//! Leases: units of a shared quota that this gateway has charged in advance and not yet used.
//!
//! Leased units are already charged to the quota, so none is spent twice. Over all gateways a
//! window admits at most the quota plus the units that were leased before it. A lease is renewed
//! before it is used up, so that most requests need no round trip.
//!
//! **Trade-off.** A large lease saves round trips, but keeps units from a gateway that needs them;
//! [`lease_size`] computes the size.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::meter::Level;
use super::rule::Quota;
use crate::clock::{Nanos, saturating_nanos};

/// Time for which a full lease lasts at this gateway's part of the quota's rate.
const LASTS: Duration = Duration::from_millis(100);
const SHARDS: usize = 64;
/// Leases per shard; beyond that, units are leased request by request.
const PER_SHARD: usize = 1024;
/// Idle time after which a lease is dropped if there are too many.
const UNUSED: Duration = Duration::from_secs(10);
/// Pause after a failed renewal before the next one.
const RENEWAL_PAUSE: Duration = Duration::from_millis(100);

/// Returns the units that one of `gateways` gateways leases at once when it needs `amount` and
/// `remaining` are left: what the quota gives this gateway in 100 ms, at most a quarter of its part
/// of `remaining`, but never less than `amount`.
#[must_use]
pub fn lease_size(quota: &Quota, amount: u64, remaining: u64, gateways: u32) -> u64 {
    let gateways = u64::from(gateways.max(1));
    let rate = u128::from(quota.limit) * LASTS.as_nanos()
        / u128::from(saturating_nanos(quota.period).max(1))
        / u128::from(gateways);
    let rate = u64::try_from(rate).unwrap_or(u64::MAX);
    rate.min(remaining / (4 * gateways)).max(amount).max(1)
}

#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    /// Units that are leased and not used.
    have: u64,
    /// Units left in the quota when it last reported.
    remaining: u64,
    /// Time at which the quota is full again, as last reported.
    full_at: Nanos,
    /// Mark of the charge in Redis that gave the last units, for settlements.
    mark: u64,
    /// No renewal before this time: one is in flight, or the last one got nothing.
    no_renewal_before: Nanos,
    used_at: Nanos,
}

/// Result of [`Leases::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseTake {
    /// The units were taken. With a size, this caller must now lease that many more; no other
    /// caller is asked to until the renewal is recorded.
    Taken(Option<u64>),
    /// The lease has too few units and none was taken; the caller should lease this many.
    TooFew(u64),
}

/// Leases by key.
#[derive(Debug)]
pub struct Leases([Mutex<HashMap<u64, Lease>>; SHARDS]);

impl Default for Leases {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Leases {
    fn shard(&self, key: u64) -> &Mutex<HashMap<u64, Lease>> {
        &self.0[key as usize % SHARDS]
    }

    /// Takes `amount` units from a lease, if it has them.
    pub fn take(&self, key: u64, amount: u64, quota: &Quota, gateways: u32, now: Nanos) -> LeaseTake {
        let mut leases = self.shard(key).lock();
        let Some(lease) = leases.get_mut(&key) else { return LeaseTake::TooFew(amount) };
        lease.used_at = now;
        let size = lease_size(quota, amount, lease.remaining, gateways);
        if lease.have < amount {
            return LeaseTake::TooFew(size);
        }
        lease.have -= amount;
        // Renew at half: the rest lasts for the round trip, and nothing is requested too early.
        let fill = lease.have < size / 2 && lease.no_renewal_before <= now;
        if fill {
            lease.no_renewal_before = Nanos::MAX;
        }
        LeaseTake::Taken(fill.then_some(size))
    }

    /// Adds units to a lease, newly leased or unused ones. Returns `false` if the table is full.
    pub fn put(&self, key: u64, units: u64, now: Nanos) -> bool {
        self.with(key, now, |lease| lease.have = lease.have.saturating_add(units))
    }

    /// Adds units to a lease, up to `size` in total. Returns the number of units added.
    pub fn put_up_to(&self, key: u64, units: u64, size: u64, now: Nanos) -> u64 {
        let mut kept = 0;
        self.with(key, now, |lease| {
            kept = units.min(size.saturating_sub(lease.have));
            lease.have += kept;
        });
        kept
    }

    /// Records the level that the quota reported, and the mark of the lease if one was granted.
    pub fn record_level(&self, key: u64, level: Level, mark: Option<u64>, now: Nanos) {
        self.with(key, now, |lease| {
            lease.remaining = level.remaining;
            lease.full_at = now + level.reset;
            lease.mark = mark.unwrap_or(lease.mark);
            lease.no_renewal_before = if mark.is_some() { now } else { now + RENEWAL_PAUSE };
        });
    }

    /// Drops all leases. Their units stay charged and are lost.
    pub fn clear(&self) {
        self.0.iter().for_each(|shard| shard.lock().clear());
    }

    /// Returns the units left in a lease.
    pub fn units_left(&self, key: u64) -> u64 {
        self.shard(key).lock().get(&key).map_or(0, |lease| lease.have)
    }

    /// Returns the mark of a key's last lease.
    pub fn mark(&self, key: u64) -> u64 {
        self.shard(key).lock().get(&key).map_or(0, |lease| lease.mark)
    }

    /// Records a renewal that failed without a report of the quota.
    pub fn record_failure(&self, key: u64, now: Nanos) {
        self.with(key, now, |lease| lease.no_renewal_before = now + RENEWAL_PAUSE);
    }

    /// Returns the last reported level of the quota plus the leased units, if known.
    pub fn level(&self, key: u64, now: Nanos) -> Option<Level> {
        let lease = *self.shard(key).lock().get(&key)?;
        Some(Level { remaining: lease.remaining.saturating_add(lease.have), reset: lease.full_at.since(now) })
    }

    /// Takes up to `amount` units from a lease. Returns the number of units taken.
    pub fn take_up_to(&self, key: u64, amount: u64) -> u64 {
        let mut leases = self.shard(key).lock();
        let Some(lease) = leases.get_mut(&key) else { return 0 };
        let taken = lease.have.min(amount);
        lease.have -= taken;
        taken
    }

    fn with(&self, key: u64, now: Nanos, change: impl FnOnce(&mut Lease)) -> bool {
        let mut leases = self.shard(key).lock();
        if leases.len() >= PER_SHARD && !leases.contains_key(&key) {
            leases.retain(|_, lease| lease.used_at + UNUSED > now);
            if leases.len() >= PER_SHARD {
                return false;
            }
        }
        let lease = leases.entry(key).or_default();
        lease.used_at = now;
        change(lease);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { limit: 1000, period: Duration::from_secs(1), burst: 1000 };
    const NOW: Nanos = Nanos::from_secs(5);

    fn level(remaining: u64) -> Level {
        Level { remaining, reset: Duration::from_secs(1) }
    }

    #[test]
    fn a_lease_is_a_tenth_of_a_second_and_never_more_than_its_part_of_the_rest() {
        assert_eq!(lease_size(&QUOTA, 1, 1000, 1), 100);
        assert_eq!(lease_size(&QUOTA, 1, 1000, 2), 50);
        assert_eq!(lease_size(&QUOTA, 1, 80, 2), 10);
        assert_eq!(lease_size(&QUOTA, 1, 0, 2), 1);
        assert_eq!(lease_size(&QUOTA, 300, 80, 2), 300);
        assert_eq!(lease_size(&Quota { limit: u64::MAX, ..QUOTA }, 0, u64::MAX, 0), u64::MAX / 10);
    }

    #[test]
    fn a_lease_is_renewed_before_it_is_used_up_by_one_caller_at_a_time() {
        let leases = Leases::default();
        let take = |amount| leases.take(1, amount, &QUOTA, 1, NOW);
        assert_eq!(take(1), LeaseTake::TooFew(1), "an unknown lease asks for no more than is needed");
        leases.record_level(1, level(400), Some(77), NOW);
        assert!(leases.put(1, 100, NOW));
        assert_eq!(take(50), LeaseTake::Taken(None));
        assert_eq!(take(1), LeaseTake::Taken(Some(100)));
        assert_eq!(take(1), LeaseTake::Taken(None), "another caller renews it");
        assert_eq!(leases.level(1, NOW).map(|level| level.remaining), Some(448));
        leases.record_level(1, level(0), None, NOW);
        assert_eq!(leases.mark(1), 77);
        assert_eq!(take(1), LeaseTake::Taken(None), "the renewal got nothing");
        assert_eq!(leases.put_up_to(1, 10, 50, NOW), 3);
        assert_eq!(leases.take_up_to(1, 1000), 50);
        assert_eq!(take(3), LeaseTake::TooFew(3));
    }

    #[test]
    fn a_full_table_drops_only_leases_that_are_not_used() {
        let leases = Leases::default();
        for key in 0..PER_SHARD as u64 {
            assert!(leases.put(key * SHARDS as u64, 1, NOW));
        }
        let newcomer = (PER_SHARD * SHARDS) as u64;
        assert!(!leases.put(newcomer, 1, NOW + Duration::from_secs(9)));
        assert!(leases.put(newcomer, 1, NOW + UNUSED));
    }
}
