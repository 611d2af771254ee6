//! Connection limits: in total and per address.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::ListenerBounds;
use crate::request::network_of;

/// Counts the connections of one listener. Drops addresses without one, so its size is bounded.
#[derive(Debug, Default)]
pub(super) struct ConnectionLimits(Mutex<ConnectionCounts>);

#[derive(Debug, Default)]
struct ConnectionCounts {
    open: usize,
    by_ip: HashMap<IpAddr, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionRefused {
    All,
    Address,
}

impl ConnectionRefused {
    pub(super) const fn bound(&self) -> &'static str {
        match self {
            Self::All => "bounds.connections",
            Self::Address => "bounds.per_ip",
        }
    }
}

/// Permit of a connection; released on drop.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    connection_limits: Arc<ConnectionLimits>,
    ip: Option<IpAddr>,
}

impl ConnectionLimits {
    /// Returns a permit for a connection from `ip`, or the limit that is reached.
    pub(super) fn acquire(
        self: &Arc<Self>,
        ip: IpAddr,
        bounds: &ListenerBounds,
    ) -> Result<ConnectionPermit, ConnectionRefused> {
        let counted = bounds.per_ip > 0 && !bounds.per_ip_exempt.iter().any(|net| net.contains(&ip));
        let ip = counted.then(|| network_of(ip));
        let mut counts = self.0.lock();
        if counts.open >= bounds.connections {
            return Err(ConnectionRefused::All);
        }
        if let Some(ip) = ip {
            let here = counts.by_ip.entry(ip).or_default();
            if *here >= bounds.per_ip {
                return Err(ConnectionRefused::Address);
            }
            *here += 1;
        }
        counts.open += 1;
        Ok(ConnectionPermit { connection_limits: Arc::clone(self), ip })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut counts = self.connection_limits.0.lock();
        counts.open = counts.open.saturating_sub(1);
        if let Some(ip) = self.ip
            && let Some(here) = counts.by_ip.get_mut(&ip)
        {
            *here -= 1;
            if *here == 0 {
                counts.by_ip.remove(&ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_address_and_given_back() {
        let connection_limits = Arc::new(ConnectionLimits::default());
        let bounds = ListenerBounds {
            connections: 4,
            per_ip: 1,
            per_ip_exempt: vec!["10.0.0.0/8".parse().unwrap()],
            ..ListenerBounds::default()
        };
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = connection_limits.acquire(ip("2001:db8::1"), &bounds).unwrap();
        assert_eq!(
            connection_limits.acquire(ip("2001:db8::ffff"), &bounds).unwrap_err(),
            ConnectionRefused::Address
        );
        let proxy = [
            connection_limits.acquire(ip("10.1.2.3"), &bounds),
            connection_limits.acquire(ip("10.1.2.3"), &bounds),
        ];
        assert!(proxy.iter().all(Result::is_ok));
        let last = connection_limits.acquire(ip("2001:db8:0:1::1"), &bounds).unwrap();
        assert_eq!(connection_limits.acquire(ip("192.0.2.1"), &bounds).unwrap_err(), ConnectionRefused::All);
        drop((first, proxy, last));
        let counts = connection_limits.0.lock();
        assert_eq!((counts.open, counts.by_ip.len()), (0, 0));
    }
}
