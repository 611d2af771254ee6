//! Listeners: TCP and TLS, HTTP/1.1 and HTTP/2, and the way down.
//!
//! This is where a peer is a stranger, so everything it may take is bounded: connections, heads and the time for
//! them, streams, resets, resting time, and the patience with one that does not read. What is cheap to refuse is
//! refused here, before the layers see it. The price is that such refusals do not appear in the request metrics: a
//! connection that is closed at once, or bytes that are no request, have no route, caller or class.
//!
//! | part | what it does |
//! | --- | --- |
//! | `listener` | accepts, within the caps; TLS handshakes |
//! | `connection` | serves one connection; idle time, drain |
//! | `front` | gives each request its [`Peer`], refuses malformed framing, counts what is under way |
//! | `heads`, `framing`, `frames` | the time for a head; where requests begin and end |
//! | `stall` | clients that stop reading |
//! | `tls` | certificates and their reload |
//! | `drain` | the way down |
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
