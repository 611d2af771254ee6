//! Evaluates runs under load, and checks that the data support conclusions.
//!
//! A load generator writes two files per run: facts ([`record::RunFacts`]) and one line per request
//! ([`record::RecordedRequest`]). `validity` looks for what makes the data worthless, [`figures`] computes
//! figures with intervals, and [`report`] compares the arms. All of it is pure: text in, text out; the same files give the same report.
//!
//! **Failure mode.** Numbers can always be computed, even from data without the figure that
//! matters; this once cost a week of measurements. So a report contains either figures of sound
//! data or the errors in the data.

pub mod chart;
pub mod fairness;
pub mod figures;
pub mod lateness;
pub mod markdown;
pub mod record;
pub mod report;
pub mod stats;
pub(crate) mod validity;

#[cfg(test)]
mod planted;
