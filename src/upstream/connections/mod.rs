//! Workers over HTTP: their connections, and the exchanges on them.
//!
//! | file | content |
//! | --- | --- |
//! | `connect` `dial` | opening a connection: addresses, TLS, the choice of HTTP |
//! | `socket` | its byte stream |
//! | `http1` | connections that one request uses at a time |
//! | `http2` `http2_pool` | connections that requests share |
//! | `endpoints` `reuse` | connections kept, per worker |
//! | `link` `linking` | the connection of one request, and how it is found |
//! | `verify` | whether a new connection leads to the worker that was discovered |
//! | `exchange` `source` | a request up to the response head, and the rest of the response |
//! | `tunnel` | the connection after an upgrade |
//! | `error` | what can go wrong |
//!
//! What is above, the attempts and the body of a response, is the same for workers that take requests
//! from a queue.

mod connect;
mod dial;
mod endpoints;
mod error;
mod exchange;
mod http1;
mod http2;
mod http2_pool;
mod link;
mod linking;
mod reuse;
mod socket;
mod source;
mod tunnel;
mod verify;

pub(crate) use endpoints::{Endpoint, Endpoints};
pub(crate) use error::{ConnectError, ExchangeError, LinkError, describe_break, is_unprocessed};
pub(crate) use exchange::exchange;
pub(crate) use http1::Http1Error;
pub(crate) use link::WorkerLink;
pub(crate) use linking::Linker;
pub(crate) use source::HttpSource;
pub(crate) use tunnel::tunnel;
