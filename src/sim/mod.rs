//! A stand-in for an LLM worker, close enough to the real thing to have its hard edge.
//!
//! [`physics`] is the machine itself, in virtual time; [`worker`] serves it over HTTP, so that a gateway, a client
//! or a load test meets queueing, batching, KV preemption and faults without a GPU.

pub mod physics;
pub mod worker;
