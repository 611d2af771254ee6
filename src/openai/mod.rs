//! What the bytes of the OpenAI protocol mean: requests, streams, errors and headers.
//!
//! Nothing in here waits, sends or records. The adapters hand in bytes as they come from the network and get facts
//! back: [`demand`] reads a request body, [`tap`] looks over the shoulder of an answer, [`estimate`] turns bytes into
//! expected tokens, [`tokenizer`] counts them where a
//! model has one, [`error`] and [`headers`] write what a client is told.
//!
//! Bodies and answers are read in place by one small JSON scanner (`scan`) and never rebuilt: a proxy that parses a
//! body into values and writes it again changes numbers, key order and spacing, and pays for a copy of every prompt.
//! The price is a scanner of our own; property tests hold it against `serde_json`.

pub mod demand;
pub mod error;
pub mod estimate;
pub mod headers;
mod scan;
pub mod tap;
pub mod tokenizer;
