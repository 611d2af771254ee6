//! Sockets that listen, what addresses and header fields mean, and requests beside the gateway's work.

pub mod client;
pub mod fetch;
pub mod fields;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Connections that may wait to be accepted. The standard library's 128 overflow when a few hundred clients come at
/// once; the kernel drops the rest, and they try again a second later, which looks like a slow first token.
const BACKLOG: u32 = 4096;

/// What one subscriber has: of IPv4 an address, however it is written, and of IPv6 a /64, where a client could use a new
/// address for each request.
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
/// When the address is taken, or not ours. Must be called inside a tokio runtime.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
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
