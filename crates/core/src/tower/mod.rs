//! Tower layers for any HTTP service: [`LimitLayer`] for quotas, [`ShedLayer`] for a gate with a fair
//! queue. The crate's README shows both around an axum service.
//!
//! Both take a function that returns whose request it is and what it is expected to cost. They answer
//! what they refuse: with 429, 503 or 400, the header `x-traffic-dam-reason`, `Retry-After` if the
//! time is known, and a sentence for the client. Bodies of the inner service must carry [`bytes::Bytes`].
//!
//! **Failure mode.** [`ShedLayer`] has no timer, because this crate has no async runtime: without
//! calls to [`expire`](crate::shed::GateHandle::expire), a request that waits is refused only when
//! another request asks or ends.

mod answer;
mod limit;
mod permit_body;
mod shed;

pub use answer::LayerBody;
pub use limit::{Limit, LimitFuture, LimitLayer};
pub use permit_body::PermitBody;
pub use shed::{Shed, ShedLayer};

/// The examples of the README, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
