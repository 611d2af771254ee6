//! A stand-in for an LLM worker, close enough to the real thing to have its hard edge.

pub mod physics;
