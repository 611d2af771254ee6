//! A simulated LLM worker that saturates as abruptly as a real one.
//!
//! [`engine`] models the engine in virtual time. [`simulate`] runs the gateway's own decisions in
//! front of it, also in virtual time. [`worker`] serves it over HTTP, so that a gateway, a client
//! or a load test meets queueing, batching, KV preemption and faults without a GPU.

pub mod engine;
pub mod simulate;
pub mod worker;
