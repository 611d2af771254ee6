//! Sockets that listen, and requests beside the gateway's work.

pub mod client;
pub mod fetch;

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// Connections that may wait to be accepted. The standard library's 128 overflow when a few hundred clients come at
/// once; the kernel drops the rest, and they try again a second later, which looks like a slow first token.
const BACKLOG: u32 = 4096;

/// Binds a listener with room for a burst of clients.
///
/// # Errors
/// When the address is taken, or not ours. Must be called inside a tokio runtime.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
