//! A model of an LLM worker under load: an event-driven engine in virtual time.
//!
//! Why: the gateway exists because a worker has an edge. Up to its batch slots and its KV cache,
//! more requests get more done. Past them, TTFT jumps like a step, and preempted sequences are
//! computed twice. The model has only what causes that edge:
//!
//! * Work is done in *steps*, as with chunked prefill: each decoding sequence yields one token, and
//!   the rest of the step's token budget goes to prompts, oldest first.
//! * A step takes a base time, plus a little per sequence, plus the time for its prompt tokens.
//! * Sequences beyond `slots` wait, first come, first served.
//! * When a step's tokens do not fit into `kv_tokens`, the youngest sequence loses its cache, moves
//!   to the queue's head, and must prefill its prompt and all its generated tokens again.
//! * With `prefix_cache`, a worker keeps the latest used blocks of the texts that it has read or
//!   written, and a prompt that begins with some of them costs only the rest.
//!
//! A request may instead bring its own time to first token (`EngineModel::submit_timed`). Its prompt
//! is then read outside the steps, as with separate prefill machines, while it holds a slot.
//! [`FirstTokens`] draws such times: constant, jittered, spiky, or a mix of cached and new prompts.
//!
//! Left out: speculative decoding, KV transfer, noise in step times. A
//! run is a function of its inputs. No code here reads a clock: the same engine serves a
//! discrete-event simulation and the HTTP worker.

mod first_tokens;
mod lengths;
mod model;
mod prefix_cache;
mod sequence;
mod spec;

pub use first_tokens::{FirstTokenSpread, FirstTokens};
pub use lengths::Lengths;
pub use model::{EngineModel, NewSequence, PromptTooLong, SequenceEvent};
pub use prefix_cache::BLOCK_TOKENS;
pub use spec::EngineSpec;

#[cfg(test)]
mod tests;
