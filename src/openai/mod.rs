//! The protocols of model calls, OpenAI's and Anthropic's: requests, streams, errors and headers.
//!
//! Nothing here waits, sends or records. Adapters pass in bytes from the network and get facts
//! back: [`kinds`] says what each kind of call is, [`body`] and `form` read a request body, [`tap`]
//! observes a response, `tokenizer` counts tokens if the model has one. [`error`], `anthropic` and
//! [`headers`] write what the client gets, in the words of its API ([`dialect`]).
//!
//! Bodies and responses are read in place by one small JSON scanner (`scan`) and never rebuilt:
//! parsing and serializing a body changes numbers, key order and spacing, and copies every prompt.
//! The price is an own scanner, which property tests check against `serde_json`.

pub(crate) mod anthropic;
pub mod body;
pub mod dialect;
pub mod error;
pub(crate) mod form;
pub mod headers;
pub mod kinds;
pub(crate) mod model_list;
mod quota_headers;
pub(crate) mod response_id;
mod scan;
pub mod tap;
pub(crate) mod tokenizer;
