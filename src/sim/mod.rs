//! A simulated LLM worker that saturates as abruptly as a real one.
//!
//! [`worker`] serves [`traffic_dam_lab::engine`], a model in virtual time, over HTTP: a gateway, a
//! client or a load test meets queueing, batching, KV preemption and faults without a GPU.

pub mod worker;
