//! Redis: what several gateways share. The only place that talks to it.
//!
//! **Failure mode.** Redis may be away, slow, or come back empty. Nothing here makes a request wait or fail because of
//! it: whoever asks goes on with what was known last.

pub mod control;
pub mod feed;
pub mod settings;
pub mod speaker;
