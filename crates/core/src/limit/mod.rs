//! Rate limits: pure decisions about quotas.
//!
//! A [`rule_set`] is a set of [`rule`]s; each request is charged by all that match it. A rule counts
//! with one algorithm ([`token_bucket`], [`sliding_window`], [`sliding_log`]; each is a [`meter`]),
//! either once for all requests or [`keyed`] by caller, team, address, model or route. The caller
//! passes the time; nothing here waits, logs or sends.
//!
//! **Failure mode.** Memory is bounded per rule. If a table is full of live keys, new keys share
//! one overflow limiter: one may be refused because of another's calls, but none passes uncounted.
//!
//! **Trade-off.** Tokens are reserved by estimate and corrected when the response ends. Until then
//! a rule can be wrong by the estimation errors of requests in flight. Underestimates become debt.

mod active_rule;
pub mod change;
pub mod charge;
mod counter;
pub mod denial;
pub mod denial_cache;
mod explained;
pub mod keyed;
pub mod lease;
mod matcher;
pub mod meter;
pub mod own_limits;
pub mod retry_queue;
pub mod rule;
pub mod rule_set;
pub mod sliding_log;
pub mod sliding_window;
mod slots;
pub mod subject;
pub mod token_bucket;

#[cfg(test)]
mod properties;

pub use active_rule::GatewayShare;
pub use charge::{Admission, Charge, Decision, Decisions};
pub use denial::Denial;
pub use explained::{Explained, RuleView};
pub use rule_set::{RuleCost, RuleSet};
pub use subject::{ExpectedCost, Served, Subject};
