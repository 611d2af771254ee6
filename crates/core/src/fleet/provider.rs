//! The quota of an external worker: limits of its provider, and what the provider tells about them.
//!
//! All callers share it. Requests and tokens are counted by two token buckets that hold one period's
//! worth; tokens are reserved by estimate and corrected when the request leaves the worker. The
//! provider counts too, and others may use the same account: what its answers tell can lower the
//! buckets, never raise them. So a wrong or forged value only costs throughput, for an hour at most.
//!
//! **Trade-off.** Each gateway counts by itself. Several gateways with one account learn of each
//! other from the provider's answers, or are each given a part of the limits.

use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{Nanos, saturating_nanos};
use crate::limit::meter::{CellMark, Meter, Shortage};
use crate::limit::rule::Quota;
use crate::limit::token_bucket::TokenBucket;
use crate::shed::{ProviderLevel, ProviderQuota, QuotaUse};

/// Longest effect of anything that a provider tells.
const LONGEST: Duration = Duration::from_secs(3600);
/// Shortest time for which a worker is closed after it refused a request.
const SHORTEST: Duration = Duration::from_millis(100);
/// First and longest time for which a worker is closed if the provider gives no time.
const UNTOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Limits of a provider; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProviderLimits {
    /// Requests per period.
    pub requests: Option<Quota>,
    /// Tokens of prompts and answers per period.
    pub tokens: Option<Quota>,
}

/// What a provider's answer tells about the quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProviderNews {
    /// Requests left.
    pub requests: Option<u64>,
    /// Tokens left.
    pub tokens: Option<u64>,
    /// Time until there is quota again, if none is left.
    pub reset: Option<Duration>,
    /// `true` if the answer is a success.
    pub served: bool,
}

/// The quota of one external worker, which outlives reloads.
#[derive(Debug)]
pub struct ProviderState(Mutex<QuotaState>);

#[derive(Debug)]
struct QuotaState {
    limits: ProviderLimits,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    /// Nothing is sent before this time.
    closed_until: Nanos,
    /// Length of the last closure for which the provider gave no time.
    untold: Duration,
}

/// A token bucket that holds one period's worth.
#[derive(Debug)]
struct Bucket {
    meter: TokenBucket,
    quota: Quota,
    cell: u64,
}

impl Bucket {
    fn new(quota: Quota) -> Self {
        Self { meter: TokenBucket::new(quota), quota, cell: 0 }
    }

    /// Applies another limit; what was used stays used.
    fn with_quota(self, quota: Quota) -> Self {
        if quota == self.quota { self } else { Self { cell: self.cell, ..Self::new(quota) } }
    }

    /// Returns `amount`, at most the whole bucket: a larger request is sent when the bucket is full,
    /// and the provider decides.
    fn bounded(&self, amount: u64) -> u64 {
        amount.min(self.quota.burst)
    }

    fn opens_at(&self, amount: u64, now: Nanos) -> Option<Nanos> {
        match self.meter.shortage(&self.cell, self.bounded(amount), now)? {
            Shortage::Wait(wait) => Some(now + wait),
            Shortage::Never => Some(now + LONGEST),
        }
    }

    /// Changes a charge of `before` units to one of `after`; without a check, as both were sent.
    fn correct(&mut self, before: u64, after: u64, now: Nanos) {
        self.meter.correct(&mut self.cell, CellMark::default(), before, after, now);
    }

    fn left(&self, now: Nanos) -> u64 {
        self.meter.level(&self.cell, now).remaining
    }

    /// Lowers the level to `left` units, by at most the units that come back within [`LONGEST`].
    fn lower(&mut self, left: u64, now: Nanos) {
        let hourly = u128::from(self.quota.limit) * LONGEST.as_nanos()
            / u128::from(saturating_nanos(self.quota.period).max(1));
        let excess = self.left(now).saturating_sub(left).min(u64::try_from(hourly).unwrap_or(u64::MAX));
        self.correct(0, excess, now);
    }
}

impl ProviderState {
    /// Creates an unused quota.
    #[must_use]
    pub fn new(limits: ProviderLimits) -> Self {
        Self(Mutex::new(QuotaState {
            limits,
            requests: limits.requests.map(Bucket::new),
            tokens: limits.tokens.map(Bucket::new),
            closed_until: Nanos::ZERO,
            untold: Duration::ZERO,
        }))
    }

    /// Applies changed limits after a reload.
    pub(crate) fn reconfigure(&self, limits: ProviderLimits) {
        let mut state = self.0.lock();
        if state.limits == limits {
            return;
        }
        let change = |bucket: Option<Bucket>, quota: Option<Quota>| {
            quota.map(|quota| match bucket {
                Some(bucket) => bucket.with_quota(quota),
                None => Bucket::new(quota),
            })
        };
        state.requests = change(state.requests.take(), limits.requests);
        state.tokens = change(state.tokens.take(), limits.tokens);
        state.limits = limits;
    }

    /// Applies what an answer of the provider tells.
    pub fn learn(&self, news: &ProviderNews, now: Nanos) {
        let mut state = self.0.lock();
        let QuotaState { requests, tokens, .. } = &mut *state;
        for (bucket, left) in [(requests, news.requests), (tokens, news.tokens)] {
            if let Some((bucket, left)) = bucket.as_mut().zip(left) {
                bucket.lower(left, now);
            }
        }
        if let Some(reset) = news.reset {
            state.close(reset.min(LONGEST), now);
        }
        if news.served {
            state.untold = Duration::ZERO;
        }
    }
}

impl QuotaState {
    fn close(&mut self, wait: Duration, now: Nanos) {
        self.closed_until = self.closed_until.max(now + wait);
    }
}

impl ProviderQuota for ProviderState {
    fn opens_at(&self, tokens: u64, now: Nanos) -> Option<Nanos> {
        let state = self.0.lock();
        let closed = Some(state.closed_until).filter(|until| *until > now);
        let requests = state.requests.as_ref().and_then(|bucket| bucket.opens_at(1, now));
        let tokens = state.tokens.as_ref().and_then(|bucket| bucket.opens_at(tokens, now));
        closed.max(requests).max(tokens)
    }

    fn charge(&self, tokens: u64, now: Nanos) -> u64 {
        let mut state = self.0.lock();
        if let Some(bucket) = &mut state.requests {
            bucket.correct(0, 1, now);
        }
        let Some(bucket) = &mut state.tokens else { return 0 };
        let tokens = bucket.bounded(tokens);
        bucket.correct(0, tokens, now);
        tokens
    }

    fn settle(&self, charged: u64, used: QuotaUse, now: Nanos) {
        let mut state = self.0.lock();
        let tokens = match used {
            QuotaUse::Tokens(tokens) => tokens,
            QuotaUse::Unsent => {
                if let Some(bucket) = &mut state.requests {
                    bucket.correct(1, 0, now);
                }
                0
            }
        };
        if let Some(bucket) = &mut state.tokens {
            let tokens = bucket.bounded(tokens);
            bucket.correct(charged, tokens, now);
        }
    }

    fn refused(&self, wait: Option<Duration>, now: Nanos) {
        let mut state = self.0.lock();
        let wait = wait.map_or_else(
            || {
                // Answers to requests of the same moment add nothing.
                if state.closed_until <= now {
                    state.untold = (state.untold * 2).clamp(UNTOLD.0, UNTOLD.1);
                }
                state.untold
            },
            |wait| wait.clamp(SHORTEST, LONGEST),
        );
        state.close(wait, now);
    }

    fn level(&self, now: Nanos) -> ProviderLevel {
        let state = self.0.lock();
        ProviderLevel {
            closed_for: state.closed_until.since(now),
            requests: state.requests.as_ref().map(|bucket| bucket.left(now)),
            tokens: state.tokens.as_ref().map(|bucket| bucket.left(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Nanos {
        Nanos::from_secs(1000 + seconds)
    }

    const fn per_minute(limit: u64) -> Quota {
        Quota { limit, period: MINUTE, burst: limit }
    }

    fn state(requests: u64, tokens: u64) -> ProviderState {
        ProviderState::new(ProviderLimits {
            requests: Some(per_minute(requests)),
            tokens: Some(per_minute(tokens)),
        })
    }

    fn left(state: &ProviderState, now: Nanos) -> (u64, u64) {
        let level = state.level(now);
        (level.requests.unwrap(), level.tokens.unwrap())
    }

    #[test]
    fn requests_and_tokens_are_reserved_and_settled() {
        let state = state(60, 6000);
        let charged = state.charge(2000, at(0));
        assert_eq!((charged, left(&state, at(0))), (2000, (59, 4000)));
        state.settle(charged, QuotaUse::Tokens(500), at(0));
        assert_eq!(left(&state, at(0)), (59, 5500));
        let unsent = state.charge(1000, at(0));
        state.settle(unsent, QuotaUse::Unsent, at(0));
        assert_eq!(left(&state, at(0)), (59, 5500));
        assert_eq!(state.opens_at(5500, at(0)), None);
        assert_eq!(state.opens_at(5600, at(0)), Some(at(1)), "100 tokens come back in a second");
    }

    #[test]
    fn a_request_above_the_whole_limit_waits_for_a_full_bucket() {
        let state = state(60, 6000);
        assert_eq!(state.opens_at(1_000_000, at(0)), None);
        assert_eq!(state.charge(1_000_000, at(0)), 6000);
        assert_eq!(state.opens_at(1_000_000, at(0)), Some(at(60)));
        state.settle(6000, QuotaUse::Tokens(u64::MAX), at(0));
        assert_eq!(left(&state, at(60)), (60, 6000));
    }

    #[test]
    fn the_provider_lowers_the_level_and_never_raises_it() {
        let state = state(60, 6000);
        state
            .learn(&ProviderNews { requests: Some(10), tokens: Some(u64::MAX), ..Default::default() }, at(0));
        assert_eq!(left(&state, at(0)), (10, 6000));
        state.learn(&ProviderNews { requests: Some(50), tokens: Some(60), ..Default::default() }, at(0));
        assert_eq!(left(&state, at(0)), (10, 60));
        state.learn(&ProviderNews { requests: Some(0), reset: Some(MINUTE), ..Default::default() }, at(0));
        assert_eq!(state.opens_at(1, at(30)), Some(at(60)));
        assert_eq!(state.opens_at(1, at(60)), None);
    }

    #[test]
    fn nothing_that_is_told_counts_for_longer_than_an_hour() {
        let state = ProviderState::new(ProviderLimits {
            requests: Some(Quota { limit: 2400, period: Duration::from_secs(86_400), burst: 2400 }),
            tokens: None,
        });
        state.learn(&ProviderNews { requests: Some(0), ..Default::default() }, at(0));
        assert_eq!(state.level(at(0)).requests, Some(2300), "100 come back in an hour");
        let mad = ProviderNews { reset: Some(Duration::MAX), ..Default::default() };
        state.learn(&mad, at(0));
        state.refused(Some(Duration::MAX), at(0));
        assert_eq!(state.opens_at(1, at(0)), Some(at(3600)));
    }

    #[test]
    fn a_refusal_closes_it_for_the_time_told_or_twice_as_long_each_time() {
        let state = ProviderState::new(ProviderLimits::default());
        state.refused(Some(Duration::from_secs(7)), at(0));
        assert_eq!((state.opens_at(1, at(6)), state.opens_at(1, at(7))), (Some(at(7)), None));
        state.refused(Some(Duration::ZERO), at(10));
        assert_eq!(state.opens_at(1, at(10)), Some(at(10) + SHORTEST));
        let mut now = at(20);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            state.refused(None, now);
            state.refused(None, now);
            let opens_at = now + Duration::from_secs(seconds);
            assert_eq!(state.opens_at(1, now), Some(opens_at));
            now = opens_at;
        }
        state.learn(&ProviderNews { served: true, ..Default::default() }, now);
        state.refused(None, now);
        assert_eq!(state.opens_at(1, now), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn a_reload_keeps_what_was_used() {
        let state = state(60, 6000);
        let charged = state.charge(6000, at(0));
        state.reconfigure(ProviderLimits { requests: None, tokens: Some(per_minute(12_000)) });
        assert_eq!(state.level(at(0)).requests, None);
        assert_eq!(state.level(at(0)).tokens, Some(0), "an empty bucket stays empty");
        state.settle(charged, QuotaUse::Tokens(6000), at(0));
        assert_eq!(state.level(at(60)).tokens, Some(12_000));
    }
}
