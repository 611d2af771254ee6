//! The OpenAI protocol: requests, streams, errors and headers.
//!
//! Nothing here waits, sends or records. Adapters pass in bytes from the network and get facts
//! back: [`body`] reads a request body, [`tap`] observes a response, [`tokenizer`] counts tokens if the
//! model has one, [`error`] and [`headers`] write what the client gets.
//!
//! Bodies and responses are read in place by one small JSON scanner (`scan`) and never rebuilt:
//! parsing and serializing a body changes numbers, key order and spacing, and copies every prompt.
//! The price is an own scanner, which property tests check against `serde_json`.

pub mod body;
pub mod error;
pub mod headers;
mod scan;
pub mod tap;
pub mod tokenizer;
