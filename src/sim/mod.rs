//! A stand-in for an LLM worker, close enough to the real thing to have its hard edge.
//!
//! [`physics`] is the machine itself, in virtual time; [`simulate`] puts the gateway's own decisions before it, in
//! virtual time too; [`worker`] serves it over HTTP, so that a gateway, a client or a load test meets queueing,
//! batching, KV preemption and faults without a GPU.

pub mod physics;
pub mod simulate;
pub mod worker;
