//! Rules: pure decisions about quotas.
//!
//! A request meets all [`rule`]s on the [`ladder`]: one algorithm ([`token_bucket`], [`sliding_window`],
//! [`sliding_log`], each a [`meter`]) per rule, counted once for all or [`keyed`] by caller, address, model or route.
//! Everything is decided by the caller's time; nothing here waits, records or sends.
//!
//! **Failure mode.** Memory is bounded per rule. When a table is full of live keys, newcomers share one overflow limiter
//! and may be refused for each other's calls; they are never let through uncounted.
//!
//! **Trade-off.** Tokens are reserved by estimate and corrected when the answer has ended. Between the two a rule can be
//! wrong by the estimation errors of the calls under way; what was too little is kept as debt.

pub mod change;
pub mod charge;
mod counter;
pub mod denial;
pub mod denied;
mod explained;
pub mod keyed;
pub mod ladder;
pub(crate) mod line;
mod matcher;
pub mod meter;
pub mod own;
pub mod purse;
pub mod rule;
mod rung;
pub mod sliding_log;
pub mod sliding_window;
mod slots;
pub mod subject;
pub mod token_bucket;

#[cfg(test)]
mod properties;

pub use charge::{Admission, Charge, Decision, Decisions};
pub use denial::Denial;
pub use explained::{Explained, Seen};
pub use ladder::{Claim, Ladder};
pub use rung::Share;
pub use subject::{Cost, Served, Subject};
