//! Tells an administrator, on the answer itself, how every rule stood to the request.
//!
//! It stands outside of `rescue`, so that a refusal is explained as well. Who shows no token of the admin port learns
//! nothing, and is served as if nothing had been asked. This is where strangers come, so guesses are few: after some wrong
//! tokens from one address none from there is looked at for a minute.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tower::{Layer, Service};

use crate::clock::{Clock, Nanos};
use crate::net::network_of;
use crate::request::{Explaining, Peer};
use crate::table::Table;

/// Asks for it, with the value `1`, and carries it: once for each rule.
pub const EXPLAIN: HeaderName = HeaderName::from_static("x-traffic-dam-explain");
/// The token of the admin port, apart from the caller's own key. It never reaches a worker.
pub const ADMIN_TOKEN: HeaderName = HeaderName::from_static("x-traffic-dam-admin-token");

/// Wrong tokens from one address (of IPv6: one /64) after which none is looked at any more, until [`FORGET`] is over.
const GUESSES: u32 = 10;
const FORGET: Duration = Duration::from_secs(60);
/// Addresses that are remembered.
const ADDRESSES: usize = 4096;

/// Makes [`Explain`].
#[derive(Clone, Debug)]
pub struct ExplainLayer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    digests: Box<[[u8; 32]]>,
    guesses: Table<Guesses>,
    hasher: RandomState,
    clock: Clock,
}

/// Wrong tokens of one address, since when.
#[derive(Clone, Copy, Debug, Default)]
struct Guesses {
    since: Nanos,
    count: u32,
}

impl ExplainLayer {
    /// A layer for those who show a secret with one of these SHA-256.
    #[must_use]
    pub fn new(digests: impl IntoIterator<Item = [u8; 32]>, clock: Clock) -> Self {
        let (digests, guesses) = (digests.into_iter().collect(), Table::new(ADDRESSES));
        Self(Arc::new(Shared { digests, guesses, hasher: RandomState::new(), clock }))
    }

    fn allows(&self, headers: &HeaderMap, from: IpAddr) -> bool {
        let Some(given) = headers.get(&ADMIN_TOKEN) else { return false };
        let Shared { digests, guesses, hasher, clock } = &*self.0;
        let (place, now) = (hasher.hash_one(network_of(from)), clock.now());
        let is_over = |known: &Guesses| now.since(known.since) >= FORGET;
        let known = guesses.get(place).filter(|known| !is_over(known)).unwrap_or_default();
        if known.count >= GUESSES {
            return false;
        }
        let given: [u8; 32] = Sha256::digest(given.as_bytes()).into();
        // Every one is compared, so that the time tells nothing about which it is.
        let found = digests.iter().fold(Choice::from(0), |found, digest| found | digest.ct_eq(&given));
        let found = bool::from(found);
        if !found {
            guesses.update(place, |known| {
                if known.count == 0 || is_over(known) {
                    *known = Guesses { since: now, count: 0 };
                }
                known.count += 1;
            });
        }
        found
    }
}

impl<S> Layer<S> for ExplainLayer {
    type Service = Explain<S>;

    fn layer(&self, inner: S) -> Explain<S> {
        Explain { shared: self.clone(), inner }
    }
}

/// Has the rules explained to those who may ask.
#[derive(Clone, Debug)]
pub struct Explain<S> {
    shared: ExplainLayer,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Explain<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ExplainFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let asked = request.headers().get(&EXPLAIN).is_some_and(|value| value == "1");
        let peer = request.extensions().get::<Peer>().copied().unwrap_or_default();
        let allowed = asked && self.shared.allows(request.headers(), peer.addr.ip());
        let explaining = allowed.then(Explaining::default);
        if let Some(explaining) = &explaining {
            request.extensions_mut().insert(explaining.clone());
        }
        ExplainFuture { inner: self.inner.call(request), explaining }
    }
}

pin_project! {
    /// The answer of [`Explain`].
    #[derive(Debug)]
    pub struct ExplainFuture<F> {
        #[pin]
        inner: F,
        explaining: Option<Explaining>,
    }
}

impl<F, R, E> Future for ExplainFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut answer = ready!(this.inner.poll(cx));
        if let (Ok(response), Some(explaining)) = (&mut answer, &*this.explaining) {
            let lines = explaining.told().iter().filter_map(|line| HeaderValue::from_str(line).ok());
            for line in lines {
                response.headers_mut().append(EXPLAIN, line);
            }
        }
        Poll::Ready(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_from_one_address_are_few_and_forgotten_after_a_while() {
        let clock = Clock::manual(Nanos::ZERO);
        let layer = ExplainLayer::new([Sha256::digest("right").into()], clock.clone());
        let ask = |token: &str, from: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ADMIN_TOKEN, HeaderValue::from_str(token).unwrap());
            layer.allows(&headers, from.parse().unwrap())
        };
        assert!(ask("right", "192.0.2.1"));
        for _ in 0..GUESSES {
            assert!(!ask("wrong", "192.0.2.1") && !ask("wrong", "2001:db8::1"));
        }
        assert!(!ask("right", "192.0.2.1"), "nothing is looked at any more");
        assert!(!ask("right", "2001:db8::2"), "of IPv6 the network counts");
        assert!(ask("right", "192.0.2.2") && ask("right", "2001:db8:0:1::1"));
        clock.advance(FORGET);
        assert!(ask("right", "192.0.2.1"));
    }
}
