//! The laboratory of Traffic Dam: experiments with the gateway's decisions, and their results.
//!
//! [`engine`] models an LLM worker in virtual time. [`simulate`] runs the gateway's own decisions in
//! front of such workers, also in virtual time. [`evidence`] evaluates measured runs of the real
//! gateway. Nothing here serves a request: the simulated worker that answers over HTTP is part of
//! the gateway's program, and uses the same [`engine`].
//!
//! `simulate` imports from `engine` and `evidence`, which do not know each other. All draw from [`draw`].

pub mod draw;
pub mod engine;
pub mod evidence;
pub mod simulate;
