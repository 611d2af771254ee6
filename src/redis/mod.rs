//! Redis: what gateways and workers share. The only place that talks to it.
//!
//! Commands of requests go over one [`link`], which bounds their time and stops asking a server that does not answer;
//! what is only listened to, or asked for by an operator, has connections of its own.
//!
//! **Failure mode.** Redis may be away, slow, or come back empty. Nothing here makes a request wait longer than the link's
//! bound, or fail: who asks is told at once ([`link::Loss`]) and decides by itself, or goes on with what was known last.

pub mod callers;
pub mod changes;
mod connect;
pub mod consumer;
pub mod control;
pub mod dams;
pub mod feed;
pub mod jobs;
pub mod link;
mod pushes;
pub mod rules;
pub mod sealing;
pub mod settings;
pub mod speaker;
