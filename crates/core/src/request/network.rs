//! The network of a client, which counts as one client.

use std::net::{IpAddr, Ipv6Addr};

/// Returns the network of one subscriber: for IPv4 the address, also if IPv4-mapped; for IPv6 the
/// /64, in which a client could use a new address for each request.
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address => address,
    }
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
