//! Limits of one listener for its peers.

use std::time::Duration;

use ipnet::IpNet;

/// Limits of a listener. Changes apply to connections accepted afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerBounds {
    /// Maximum bytes of a request head; more gets 431. Less than 8 KiB counts as 8 KiB.
    pub headers: usize,
    /// Maximum time for a request head, and for a TLS handshake.
    pub header_read: Duration,
    /// Maximum open connections; further ones are closed at once.
    pub connections: usize,
    /// Maximum open connections from one address (IPv6: /64); 0 is unlimited.
    pub per_ip: usize,
    /// Networks exempt from `per_ip`: trusted proxies with many clients behind them.
    pub per_ip_exempt: Vec<IpNet>,
    /// Maximum concurrent requests on one HTTP/2 connection.
    pub h2_streams: u32,
    /// Maximum time that a client may accept no bytes while a write waits.
    pub client_stall: Duration,
    /// Maximum idle time of a connection between requests.
    pub idle: Duration,
}

impl Default for ListenerBounds {
    fn default() -> Self {
        Self {
            headers: 32 * 1024,
            header_read: Duration::from_secs(10),
            connections: 10_000,
            per_ip: 0,
            per_ip_exempt: Vec::new(),
            h2_streams: 100,
            client_stall: Duration::from_secs(30),
            // Longer than the 60 s for which common balancers keep a connection: if the gateway
            // closed first, a request could meet a closing connection.
            idle: Duration::from_secs(75),
        }
    }
}
