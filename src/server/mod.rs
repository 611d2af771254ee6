//! Listeners (TCP, TLS, HTTP/1.1, HTTP/2) and graceful shutdown.
//!
//! Peers are strangers here, so everything they can take is bounded: connections, size and time of
//! heads, streams, resets, idle time, and time without reading. Cheap refusals happen here, before
//! the layers. The price: they do not appear in the request metrics, because a connection closed at
//! once, or bytes that are no request, have no route, caller or class.
//!
//! | part | what it does |
//! | --- | --- |
//! | `listener` | accepts connections within the limits (`census`); TLS handshakes |
//! | `connection` | serves one connection; idle time, drain |
//! | `front` | adds the [`Peer`] to each request, refuses malformed framing, counts requests |
//! | `heads`, `framing`, `frames` | head timeout; where requests begin and end |
//! | `stall` | write timeouts |
//! | `tls` | certificates and their reload |
//! | `drain` | graceful shutdown |
//! | [`admin`] | the admin port |

pub mod admin;
mod bounds;
mod census;
mod connection;
mod drain;
mod frames;
mod framing;
mod front;
mod heads;
mod listener;
mod stall;
mod tls;

pub use bounds::Bounds;
pub use drain::{Drain, DrainGuard, Phase};
pub use listener::serve;
pub use tls::{TlsError, TlsHandle};

pub use crate::request::Peer;
