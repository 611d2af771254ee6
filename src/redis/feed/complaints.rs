//! What the log says about heartbeats that are not taken.
//!
//! Whoever may publish can publish thousands a second; the metrics count them all, the log tells of each kind now and
//! then.

use std::time::Duration;

use crate::clock::Nanos;
use crate::fleet::roster::Refused;

/// Between two lines about the same kind.
const PAUSE: Duration = Duration::from_secs(10);

/// When each kind was last told of.
#[derive(Debug, Default)]
pub(super) struct Complaints([Option<Nanos>; Refused::NAMES.len()]);

impl Complaints {
    /// Tells of `refused`, if this kind has not been told of lately.
    pub(super) fn about(&mut self, refused: &Refused, now: Nanos) {
        if self.is_due(refused, now) {
            let kind = refused.as_str();
            tracing::warn!(kind, "a heartbeat was not taken: {refused}");
        }
    }

    fn is_due(&mut self, refused: &Refused, now: Nanos) -> bool {
        let place = Refused::NAMES.iter().position(|name| *name == refused.as_str());
        let Some(told) = place.and_then(|place| self.0.get_mut(place)) else { return false };
        let due = told.is_none_or(|told| now.since(told) >= PAUSE);
        if due {
            *told = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_of_now_and_then() {
        let mut complaints = Complaints::default();
        let at = Nanos::from_secs;
        assert!(complaints.is_due(&Refused::Full, at(1)));
        assert!(!complaints.is_due(&Refused::Full, at(10)));
        assert!(complaints.is_due(&Refused::Replaced, at(10)));
        assert!(complaints.is_due(&Refused::Full, at(11)));
    }
}
