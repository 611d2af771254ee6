//! The lease of a canary: who judges renews it, and every gateway goes back if nobody does.
//!
//! * **Failure mode.** While Redis does not answer, the time stands still: the share stays as it is,
//!   and nobody is promoted.

use std::time::Duration;

use serde_json::{Value, json};

use super::heartbeat::{SigningKey, sign_if_keyed, verify_if_keyed};
use crate::clock::Nanos;

/// Time without a renewal after which a gateway goes back. A second less than the 15 s within which
/// all must be back, for the readers that look twice a second.
pub const LEASE: Duration = Duration::from_secs(14);
/// Longest time between two looks that counts: beyond it, Redis or the gateway was away.
const LOOK: Duration = Duration::from_secs(2);

/// The text of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseText {
    /// Epoch of the canary.
    pub epoch: u64,
    /// Epoch of the switch before it.
    pub old_epoch: u64,
    /// Counts the renewals.
    pub beat: u64,
}

impl LeaseText {
    /// Formats it for the Redis key `place`, signed if there is a key.
    #[must_use]
    pub fn write(&self, place: &str, key: Option<&SigningKey>) -> String {
        let Self { epoch, old_epoch, beat } = self;
        let text = json!({ "v": 1, "epoch": epoch, "old_epoch": old_epoch, "beat": beat }).to_string();
        sign_if_keyed(key, place, text)
    }

    /// Reads it from the Redis key `place`; `None` if it is not valid.
    #[must_use]
    pub fn read(text: &[u8], place: &str, key: Option<&SigningKey>) -> Option<Self> {
        let text = verify_if_keyed(key, place, text).ok()?;
        let value: Value = serde_json::from_slice(text).ok()?;
        let number = |field: &str| value.get(field).and_then(Value::as_u64);
        if number("v") != Some(1) {
            return None;
        }
        Some(Self { epoch: number("epoch")?, old_epoch: number("old_epoch")?, beat: number("beat")? })
    }
}

/// A lease as a gateway sees it.
#[derive(Clone, Copy, Debug)]
pub struct SeenLease {
    epoch: u64,
    beat: Option<u64>,
    looked: Nanos,
    silent: Duration,
}

impl SeenLease {
    /// Begins to watch the lease of the canary `epoch`.
    #[must_use]
    pub const fn new(epoch: u64, now: Nanos) -> Self {
        Self { epoch, beat: None, looked: now, silent: Duration::ZERO }
    }

    /// Returns the epoch of the canary.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes what Redis has; `None` if there is no valid lease. Returns `true` if it has lapsed. Not
    /// called while Redis does not answer.
    pub fn look(&mut self, text: Option<LeaseText>, now: Nanos) -> bool {
        let since = now.since(std::mem::replace(&mut self.looked, now));
        let beat = text.filter(|text| text.epoch == self.epoch).map(|text| text.beat);
        // An older text may have been put back.
        if beat > self.beat {
            self.beat = beat;
            self.silent = Duration::ZERO;
        } else {
            self.silent += since.min(LOOK);
        }
        self.silent >= LEASE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(epoch: u64, beat: u64) -> Option<LeaseText> {
        Some(LeaseText { epoch, old_epoch: epoch - 1, beat })
    }

    #[test]
    fn a_lease_that_nobody_renews_lapses_within_fifteen_seconds() {
        let mut seen = SeenLease::new(5, Nanos::ZERO);
        let at = |half: u64| Nanos::from_millis(500 * half);
        for half in 0..40 {
            assert!(!seen.look(text(5, half), at(half)), "renewed");
        }
        // Others' leases, older ones and none are no renewals.
        let stale = [text(5, 39), text(4, 99), None, text(5, 3)];
        let lapsed = (40..100).find(|half| seen.look(stale[*half as usize % 4], at(*half))).unwrap();
        let after = at(lapsed).since(at(39));
        assert!(after <= Duration::from_secs(15) && after >= LEASE, "{after:?}");
    }

    #[test]
    fn time_without_redis_does_not_count() {
        let mut seen = SeenLease::new(5, Nanos::ZERO);
        assert!(!seen.look(text(5, 1), Nanos::from_secs(1)));
        assert!(!seen.look(text(5, 1), Nanos::from_secs(600)), "two seconds at most");
        assert!(!seen.look(text(5, 2), Nanos::from_secs(601)));
        assert!(!seen.look(None, Nanos::from_secs(602)));
    }

    #[test]
    fn a_lease_is_read_only_with_its_signature() {
        let key = SigningKey::new("k");
        let lease = LeaseText { epoch: 5, old_epoch: 4, beat: 7 };
        let signed = lease.write("dam:pool:chat:canary", Some(&key));
        let read = |place| LeaseText::read(signed.as_bytes(), place, Some(&key));
        assert_eq!(read("dam:pool:chat:canary"), Some(lease));
        assert_eq!(read("dam:pool:other:canary"), None);
        let plain = lease.write("dam:pool:chat:canary", None);
        assert_eq!(LeaseText::read(plain.as_bytes(), "dam:pool:chat:canary", Some(&key)), None);
        assert_eq!(LeaseText::read(signed.as_bytes(), "", None), Some(lease));
        assert_eq!(LeaseText::read(b"{\"v\":2,\"epoch\":5,\"old_epoch\":4,\"beat\":7}", "", None), None);
    }
}
