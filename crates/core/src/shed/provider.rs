//! The quota of an external worker, as the gate uses it.
//!
//! An external worker belongs to somebody else, such as a paid API, who limits requests and tokens
//! per minute for all of the gateway's callers together. The gate asks the quota before it chooses
//! the worker, charges it with each permit, and corrects the charge when the request leaves the
//! worker. The module `fleet` depends on this one, so it passes its quotas in as trait objects.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Nanos;

/// Quota of an external worker. Its methods lock for a few instructions, never across an await.
pub trait ProviderQuota: fmt::Debug + Send + Sync {
    /// Returns when a request of `tokens` tokens fits; `None` if it fits now.
    fn opens_at(&self, tokens: u64, now: Nanos) -> Option<Nanos>;

    /// Charges one request of `tokens` tokens; returns the tokens charged.
    fn charge(&self, tokens: u64, now: Nanos) -> u64;

    /// Corrects a charge of one request and `charged` tokens.
    fn settle(&self, charged: u64, used: QuotaUse, now: Nanos);

    /// Closes the worker for `wait`, for which the provider asked when it refused a request; without
    /// a time for one second, and twice as long each time until a request succeeds.
    fn refused(&self, wait: Option<Duration>, now: Nanos);

    /// Returns the level of the quota.
    fn level(&self, now: Nanos) -> ProviderLevel;
}

/// Usage of an external worker by one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaUse {
    /// The request was never sent.
    Unsent,
    /// The request was sent and took this many tokens.
    Tokens(u64),
}

/// Level of a provider's quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProviderLevel {
    /// Time for which nothing is sent to the worker.
    pub closed_for: Duration,
    /// Requests left; `None` without a limit.
    pub requests: Option<u64>,
    /// Tokens left; `None` without a limit.
    pub tokens: Option<u64>,
}

impl ProviderLevel {
    /// Returns `true` if nothing can be sent now.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        !self.closed_for.is_zero() || self.requests == Some(0) || self.tokens == Some(0)
    }
}

/// A quota that the gate and the forwarder share; equal only to itself.
#[derive(Clone, Debug)]
pub struct QuotaHandle(pub Arc<dyn ProviderQuota>);

impl PartialEq for QuotaHandle {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for QuotaHandle {}
