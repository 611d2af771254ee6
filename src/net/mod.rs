//! Listening sockets, addresses, header fields, and the gateway's own HTTP requests.

pub mod client;
pub(crate) mod fetch;
pub(crate) mod fields;
pub(crate) mod tls_fault;

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// Accept backlog. The standard library's 128 overflows when a few hundred clients connect at once;
/// the kernel drops the rest, and they retry a second later, which looks like a slow first token.
const BACKLOG: u32 = 4096;

/// Binds a listener with room for a burst of clients.
///
/// # Errors
/// If the address is taken or not local. Must be called inside a tokio runtime.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Wraps a listening socket that was opened before this process began.
///
/// # Errors
/// If the socket cannot be used without blocking. Must be called inside a tokio runtime.
pub(crate) fn inherited(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
