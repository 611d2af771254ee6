//! Listeners (TCP, TLS, HTTP/1.1, HTTP/2) and graceful shutdown.
//!
//! Peers are strangers here, so everything they can take is bounded: connections, size and time of
//! heads, streams, resets, idle time, and time without reading. Cheap refusals happen here, before
//! the layers. The price: they do not appear in the request metrics, because a connection closed at
//! once, or bytes that are no request, have no route, caller or class.
//!
//! | part | what it does |
//! | --- | --- |
//! | `listener` | accepts connections within the limits (`connection_limits`); TLS handshakes |
//! | `connection`, `aside` | serves one connection; idle time, drain |
//! | `service` | adds the [`Peer`] to each request, refuses malformed framing, counts requests |
//! | `head_timeout`, `framing`, `frames` | head timeout; where requests begin and end |
//! | `write_timeout` | write timeouts |
//! | `tls` | certificates and their reload |
//! | `drain` | graceful shutdown |
//! | [`admin`] | the admin port |

pub mod admin;
mod aside;
mod bounds;
mod connection;
mod connection_limits;
mod drain;
mod frames;
mod framing;
mod head_timeout;
mod listener;
mod service;
mod tls;
mod write_timeout;

pub use bounds::ListenerBounds;
pub use drain::{Drain, DrainPhase};
pub use listener::serve;
pub use tls::{CertificateError, TlsHandle};

pub use crate::request::Peer;
