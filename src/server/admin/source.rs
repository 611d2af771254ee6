//! What the admin port asks of the application.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::live::Live;
use super::switches::{SwitchRequest, Switched};
use crate::limit::change::Change;
use crate::limit::rule::Rule;
use crate::redis::callers::StoredCallers;
use crate::redis::jobs::JobQueue;
use crate::view::CanaryView;

/// State of every rule for a request, or an error message about the query.
pub type Explanation = Pin<Box<dyn Future<Output = Result<Value, String>> + Send>>;

/// Data source of the admin port.
pub trait AdminSource: Send + Sync + 'static {
    /// Returns the object for `/api/v1/state`. Must be fast: it runs in the request's task.
    fn state(&self) -> Value;

    /// Returns `Ok` if balancers should send requests to this gateway.
    ///
    /// # Errors
    /// The reason why not, in words.
    fn ready(&self) -> Result<(), String>;

    /// Returns the metrics as Prometheus text. Runs on a blocking thread, never twice at once.
    fn metrics(&self) -> String;

    /// Refuses new requests if `on`, or admits them again.
    fn set_maintenance(&self, on: bool);

    /// Makes a colour the active one of a pool, at once or after a canary.
    fn set_active(&self, request: SwitchRequest) -> Pin<Box<dyn Future<Output = Switched> + Send>>;

    /// Returns the canary of `pool`: the one under way, else the last one known here.
    fn canary(&self, _pool: &str) -> Option<CanaryView> {
        None
    }

    /// Records that the client of the canary `epoch` of `pool` is still there; returns the canary.
    fn attend_canary(&self, _pool: &str, _epoch: u64) -> Option<CanaryView> {
        None
    }

    /// Ends the canary of `pool`: the old side gets everything.
    fn end_canary(&self, _pool: String) -> Pin<Box<dyn Future<Output = Switched> + Send>> {
        Box::pin(std::future::ready(Switched::NoCanary))
    }

    /// Returns the state of every rule for the request that the query describes.
    fn explain(&self, query: String) -> Explanation;

    /// Changes a rule for all requests; `None` restores the configured rule.
    fn change_limit(
        &self,
        _rule: String,
        _change: Option<LimitChange>,
    ) -> Pin<Box<dyn Future<Output = Changed> + Send>> {
        Box::pin(std::future::ready(Changed::NoRule))
    }

    /// Returns the rules in force.
    fn rules(&self) -> Vec<Arc<Rule>> {
        Vec::new()
    }

    /// Returns the data for live viewers; `None` if there is none.
    fn live(&self) -> Option<Arc<Live>> {
        None
    }

    /// Returns the jobs and the pools that may have some; `None` without a queue.
    fn jobs(&self) -> Option<(JobQueue, Vec<Arc<str>>)> {
        None
    }

    /// Returns the callers stored in Redis; `None` if they are not stored there.
    fn callers(&self) -> Option<Arc<StoredCallers>> {
        None
    }
}

/// Change of a rule at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitChange {
    /// New values.
    pub(crate) change: Change,
    /// Lifetime; `None` until it is reverted.
    pub(crate) lasts: Option<Duration>,
    /// `true` for all gateways, `false` for this one only.
    pub(crate) fleet: bool,
}

/// Outcome of a change of a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Changed {
    /// Done; the response body.
    Done(Value),
    /// No such rule.
    NoRule,
    /// There was no change to revert.
    NoChange,
    /// The change does not fit the rule, for this reason.
    Invalid(&'static str),
    /// This gateway shares no state with others.
    NoSharedState,
    /// Redis is unreachable.
    Unavailable,
}
