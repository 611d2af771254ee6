//! Rate limit for log lines about refused heartbeats.
//!
//! Thousands may come a second. The metrics count all; the log reports each kind every 10 s.

use std::time::Duration;

use crate::clock::Nanos;
use crate::fleet::registry::HeartbeatRefusal;

/// Least time between two lines about the same kind.
const PAUSE: Duration = Duration::from_secs(10);

/// Time of the last log line of each kind.
#[derive(Debug, Default)]
pub(super) struct LogLimit([Option<Nanos>; HeartbeatRefusal::NAMES.len()]);

impl LogLimit {
    /// Logs `refused`, unless this kind was logged recently.
    pub(super) fn about(&mut self, refused: &HeartbeatRefusal, now: Nanos) {
        if self.is_due(refused, now) {
            let kind = refused.as_str();
            tracing::warn!(kind, "rejected a heartbeat: {refused}");
        }
    }

    fn is_due(&mut self, refused: &HeartbeatRefusal, now: Nanos) -> bool {
        let place = HeartbeatRefusal::NAMES.iter().position(|name| *name == refused.as_str());
        let Some(logged_at) = place.and_then(|place| self.0.get_mut(place)) else { return false };
        let due = logged_at.is_none_or(|logged_at| now.since(logged_at) >= PAUSE);
        if due {
            *logged_at = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_of_now_and_then() {
        let mut log_limit = LogLimit::default();
        let at = Nanos::from_secs;
        assert!(log_limit.is_due(&HeartbeatRefusal::Full, at(1)));
        assert!(!log_limit.is_due(&HeartbeatRefusal::Full, at(10)));
        assert!(log_limit.is_due(&HeartbeatRefusal::Replaced, at(10)));
        assert!(log_limit.is_due(&HeartbeatRefusal::Full, at(11)));
    }
}
