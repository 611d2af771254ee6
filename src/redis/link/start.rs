//! Whether Redis was there when the gateway started.

use std::sync::OnceLock;
use std::time::Duration;

use crate::clock::Nanos;

/// How long after its start a gateway may hear Redis for the first time and count as started with it. A connection takes
/// this long at the most.
const SOON: Duration = super::CONNECT;

/// The start of a gateway, and the first answer of Redis.
#[derive(Debug)]
pub(super) struct Start {
    at: Nanos,
    first: OnceLock<Nanos>,
}

impl Start {
    pub(super) const fn new(at: Nanos) -> Self {
        Self { at, first: OnceLock::new() }
    }

    /// Redis answered at `now`.
    pub(super) fn answered(&self, now: Nanos) {
        self.first.get_or_init(|| now);
    }

    /// When the gateway started, if Redis was away then. That is known from the first moment on, and taken back when
    /// Redis is heard soon.
    pub(super) fn alone(&self) -> Option<Nanos> {
        let with_redis = self.first.get().is_some_and(|first| first.since(self.at) <= SOON);
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
            let start = Start::new(started);
            if let Some(first) = first {
                start.answered(started + Duration::from_millis(first));
                start.answered(started + Duration::from_secs(60));
            }
            assert_eq!(start.alone(), alone.then_some(started), "first heard after {first:?}");
        }
    }
}
