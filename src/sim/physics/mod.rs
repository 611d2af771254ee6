//! How an LLM worker behaves under load, as an event-driven machine in virtual time.
//!
//! Why: the gateway exists because a worker has an edge. Up to its batch slots and its KV cache it gets more done
//! with more requests; past them the time to first token jumps like a step, and preempted sequences are computed
//! twice. The model has what makes that edge, and nothing else:
//!
//! * work goes in *steps*, as with chunked prefill: each decoding sequence yields one token, and what is left of the
//!   step's token budget is spent on prompts, oldest first;
//! * a step takes a base time, a little more for each sequence in it, and the time its prompt tokens need;
//! * beyond `slots` sequences wait, first come first served;
//! * when the next step's tokens do not fit into `kv_tokens`, the youngest sequence loses its cache, goes to the
//!   head of the line, and must prefill its prompt and all it had generated again.
//!
//! A request may instead bring the time to its first token with it ([`Engine::submit_timed`]): prompts are then read
//! apart from the steps, as where other machines do it, each holding a slot meanwhile. [`FirstTokens`] draws such
//! times: a constant, jitter, spikes, or a mix of cached and new prompts.
//!
//! Left out: prefix caching of real text, speculative decoding, KV transfer, and any noise in step times; a run is a
//! function of its inputs. Nothing here reads a clock: the same engine serves a discrete-event simulation and the HTTP worker.

mod engine;
mod first_tokens;
mod lengths;
mod sequence;
mod spec;

pub use engine::{Engine, Event, TooLong};
pub use first_tokens::{FirstTokenSpread, FirstTokens};
pub use lengths::Lengths;
pub use spec::Spec;

#[cfg(test)]
mod tests;
