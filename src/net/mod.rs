//! Listening sockets, addresses, header fields, and the gateway's own HTTP requests.

pub mod client;
pub mod fetch;
pub mod fields;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Accept backlog. The standard library's 128 overflows when a few hundred clients connect at once;
/// the kernel drops the rest, and they retry a second later, which looks like a slow first token.
const BACKLOG: u32 = 4096;

/// Returns the network of one subscriber: for IPv4 the address, also if IPv4-mapped; for IPv6 the
/// /64, in which a client could use a new address for each request.
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address => address,
    }
}

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
pub fn inherited(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_subscriber_is_one_network() {
        for (address, network) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            let ip = |text: &str| text.parse::<IpAddr>().unwrap();
            assert_eq!(network_of(ip(address)), ip(network), "{address}");
        }
    }
}
