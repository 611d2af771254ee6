//! What runs under load come to, and whether anything may be concluded from them.
//!
//! A generator leaves two files per run: facts ([`record::RunFacts`]) and one line for each request
//! ([`record::Request`]). [`sound`] looks for what makes such data worthless, [`figures`] condenses them with intervals,
//! [`report`] puts the arms beside each other, and [`scaling`] says what more workers would give. All of it is pure:
//! text in, text out, and the same files give the same report.
//!
//! **Failure mode.** Numbers can always be computed, also from data in which the figure that matters is missing; that
//! has cost a week of measurements before. So a report is made of sound data only, and otherwise of what is wrong with
//! them.

pub mod chart;
pub mod figures;
pub mod record;
pub mod report;
pub mod scaling;
pub mod sound;
pub mod stats;

#[cfg(test)]
mod planted;
