//! Tells whether Redis could count rules when the gateway started.

use std::sync::OnceLock;
use std::time::Duration;

use crate::clock::Nanos;

/// A gateway counts as started with Redis if the first script runs within this time, the longest
/// that connecting takes.
const STARTUP_GRACE: Duration = super::CONNECT;

/// Start of the gateway, and the first script that Redis ran.
#[derive(Debug)]
pub(super) struct GatewayStart {
    at: Nanos,
    first: OnceLock<Nanos>,
}

impl GatewayStart {
    pub(super) const fn new(at: Nanos) -> Self {
        Self { at, first: OnceLock::new() }
    }

    /// Records that Redis ran a script; only the first time counts.
    pub(super) fn answered(&self, now: Nanos) {
        self.first.get_or_init(|| now);
    }

    /// Returns the start of the gateway if Redis was away then: assumed until Redis answers soon.
    pub(super) fn alone(&self) -> Option<Nanos> {
        let with_redis = self.first.get().is_some_and(|first| first.since(self.at) <= STARTUP_GRACE);
        (!with_redis).then_some(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hears_redis_soon_started_with_it() {
        let started = Nanos::from_secs(10);
        for (first, alone) in [(None, true), (Some(0), false), (Some(3000), false), (Some(3001), true)] {
            let start = GatewayStart::new(started);
            if let Some(first) = first {
                start.answered(started + Duration::from_millis(first));
                start.answered(started + Duration::from_secs(60));
            }
            assert_eq!(start.alone(), alone.then_some(started), "first heard after {first:?}");
        }
    }
}
