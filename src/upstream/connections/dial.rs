//! Connecting to one of a worker's addresses.
//!
//! A host name may have several addresses, and one that drops packets fails only at the deadline.
//! So the next is tried while earlier ones are pending, and the first connection wins.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;

use super::error::ConnectError;

/// Addresses tried per host name, in the order in which the system gives them.
pub(crate) const ADDRESSES_MAX: usize = 16;

/// Head start of an address before the next is tried, as RFC 8305 recommends.
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects with `connect_address` to the first address that accepts, within `wait` for all: the more there
/// are, the sooner the next is tried. After a failure the next is tried at once.
pub(crate) async fn dial<T, F: Future<Output = Result<T, ConnectError>>>(
    addresses: Vec<SocketAddr>,
    wait: Duration,
    reach: impl Fn(SocketAddr) -> F,
) -> Result<T, ConnectError> {
    let turns = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let head_start = HEAD_START.min(wait / turns);
    let mut ahead = addresses.into_iter();
    let mut tries = FuturesUnordered::new();
    let mut failed = ConnectError::NoAddress;
    loop {
        match ahead.next() {
            Some(address) => tries.push(reach(address)),
            None if tries.is_empty() => return Err(failed),
            None => {}
        }
        let ended = if ahead.len() == 0 {
            tries.next().await
        } else {
            let Ok(ended) = timeout(head_start, tries.next()).await else { continue };
            ended
        };
        match ended {
            Some(Ok(reached)) => return Ok(reached),
            // An address that answered as another server tells more than one that did not answer.
            Some(Err(error)) if !matches!(failed, ConnectError::Tls(_)) => failed = error,
            Some(Err(_)) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use tokio::time::Instant;

    const WAIT: Duration = Duration::from_secs(1);

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (0..count).map(|port| SocketAddr::from(([192, 0, 2, 1], port))).collect()
    }

    fn refused() -> ConnectError {
        ConnectError::Tcp(io::ErrorKind::ConnectionRefused.into())
    }

    /// Only the last of `count` addresses answers; returns when.
    async fn last_of(count: u16, wait: Duration) -> Duration {
        let began = Instant::now();
        let reached = dial(addresses(count), wait, |address| async move {
            if address.port() + 1 < count {
                std::future::pending::<()>().await;
            }
            Ok(address.port())
        });
        assert_eq!(reached.await.unwrap(), count - 1);
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_says_nothing_keeps_no_other_from_its_turn() {
        assert_eq!(last_of(1, WAIT).await, Duration::ZERO);
        assert_eq!(last_of(2, WAIT).await, Duration::from_millis(250));
        assert_eq!(last_of(3, WAIT).await, Duration::from_millis(500));
        assert!(last_of(16, WAIT).await < WAIT, "all have their turn");
        assert!(last_of(2, Duration::from_millis(80)).await < Duration::from_millis(80));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_refuses_makes_way_at_once() {
        let began = Instant::now();
        let reached = dial(addresses(3), WAIT, |address| async move {
            if address.port() < 2 { Err(refused()) } else { Ok(address.port()) }
        });
        assert_eq!(reached.await.unwrap(), 2);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_slow_is_not_given_up() {
        let began = Instant::now();
        let reached = dial(addresses(2), WAIT, |address| async move {
            if address.port() == 1 {
                return Err(refused());
            }
            tokio::time::sleep(Duration::from_millis(600)).await;
            Ok(address.port())
        });
        assert_eq!(reached.await.unwrap(), 0);
        assert_eq!(began.elapsed(), Duration::from_millis(600));
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_failures_the_one_that_got_furthest_is_told() {
        for first in [0, 1] {
            let reached = dial(addresses(2), WAIT, |address| async move {
                let answered = address.port() == first;
                Err::<(), _>(if answered {
                    ConnectError::Tls(io::ErrorKind::Other.into())
                } else {
                    refused()
                })
            });
            let told = reached.await.unwrap_err().to_string();
            assert_eq!(told, "its TLS handshake failed: the connection broke");
        }
        let nothing = dial(Vec::new(), WAIT, |_| async { Err::<(), _>(refused()) }).await;
        assert!(matches!(nothing, Err(ConnectError::NoAddress)));
    }
}
