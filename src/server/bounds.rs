//! What one listener lets its peers take.

use std::time::Duration;

use ipnet::IpNet;

/// The bounds of a listener. They hold for connections accepted after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of a request's head; more is answered with 431. Less than 8 KiB counts as 8 KiB.
    pub headers: usize,
    /// The longest a head may take to arrive, and a TLS handshake.
    pub header_read: Duration,
    /// Connections open at once; beyond it a new one is closed at once.
    pub connections: usize,
    /// Connections open at once from one address (IPv6 by /64); 0 is unbounded.
    pub per_ip: usize,
    /// Networks to which `per_ip` does not apply: trusted proxies, behind which are many clients.
    pub per_ip_exempt: Vec<IpNet>,
    /// Requests under way at once on one HTTP/2 connection.
    pub h2_streams: u32,
    /// The longest a client may take nothing of what waits for it.
    pub client_stall: Duration,
    /// The longest a connection may rest between requests.
    pub idle: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            headers: 32 * 1024,
            header_read: Duration::from_secs(10),
            connections: 10_000,
            per_ip: 0,
            per_ip_exempt: Vec::new(),
            h2_streams: 100,
            client_stall: Duration::from_secs(30),
            // Longer than the 60 s for which common balancers keep a connection: who closes first must be the one
            // that sends, or a request meets a connection that is just being closed.
            idle: Duration::from_secs(75),
        }
    }
}
