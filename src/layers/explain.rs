//! Explains to an administrator, in headers of the answer, what each rule decided on the request,
//! and which fallbacks took it.
//!
//! The layer is outside `rescue`, so that refusals are explained too. Without a token of the admin
//! port a request is served as if it had not asked. This port is public, so guessing is limited:
//! after some wrong tokens from one address, tokens from it are ignored for a minute.

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
use crate::request::network_of;
use crate::request::{Explaining, FallbackTaken, Peer, RequestRecord};
use crate::table::Table;

/// Request header that asks for an explanation (`1`); response header with a line per rule and
/// fallback.
const EXPLAIN: HeaderName = HeaderName::from_static("x-traffic-dam-explain");
/// Request header with a token of the admin port, besides the API key. Never sent to a worker.
const ADMIN_TOKEN: HeaderName = HeaderName::from_static("x-traffic-dam-admin-token");

/// Wrong tokens from one address (IPv6: one /64) after which tokens are ignored for [`FORGET`].
const GUESSES: u32 = 10;
const FORGET: Duration = Duration::from_secs(60);
/// Addresses whose wrong tokens are counted.
const ADDRESSES: usize = 4096;

/// Layer for [`Explain`].
#[derive(Clone, Debug)]
pub(crate) struct ExplainLayer(Arc<ExplainShared>);

#[derive(Debug)]
struct ExplainShared {
    digests: Box<[[u8; 32]]>,
    guesses: Table<WrongTokens>,
    hasher: RandomState,
    clock: Clock,
}

/// Wrong tokens from one address since a time.
#[derive(Clone, Copy, Debug, Default)]
struct WrongTokens {
    since: Nanos,
    count: u32,
}

impl ExplainLayer {
    /// Creates a layer that accepts the tokens with these SHA-256 digests.
    #[must_use]
    pub(crate) fn new(digests: impl IntoIterator<Item = [u8; 32]>, clock: Clock) -> Self {
        let (digests, guesses) = (digests.into_iter().collect(), Table::new(ADDRESSES));
        Self(Arc::new(ExplainShared { digests, guesses, hasher: RandomState::new(), clock }))
    }

    fn allows(&self, headers: &HeaderMap, from: IpAddr) -> bool {
        let Some(given) = headers.get(&ADMIN_TOKEN) else { return false };
        let ExplainShared { digests, guesses, hasher, clock } = &*self.0;
        let (place, now) = (hasher.hash_one(network_of(from)), clock.now());
        let is_over = |known: &WrongTokens| now.since(known.since) >= FORGET;
        let known = guesses.get(place).filter(|known| !is_over(known)).unwrap_or_default();
        if known.count >= GUESSES {
            return false;
        }
        let given: [u8; 32] = Sha256::digest(given.as_bytes()).into();
        // Compares all digests, so that the time does not reveal which one matches.
        let found = digests.iter().fold(Choice::from(0), |found, digest| found | digest.ct_eq(&given));
        let found = bool::from(found);
        if !found {
            guesses.update(place, |known| {
                if known.count == 0 || is_over(known) {
                    *known = WrongTokens { since: now, count: 0 };
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

/// Service that adds explanations of the rules to answers for administrators.
#[derive(Clone, Debug)]
pub(crate) struct Explain<S> {
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
        let record = request.extensions().get::<Arc<RequestRecord>>().filter(|_| allowed).cloned();
        if let Some(explaining) = &explaining {
            request.extensions_mut().insert(explaining.clone());
        }
        ExplainFuture { inner: self.inner.call(request), explaining, record }
    }
}

pin_project! {
    /// Future of [`Explain`].
    #[derive(Debug)]
    pub(crate) struct ExplainFuture<F> {
        #[pin]
        inner: F,
        explaining: Option<Explaining>,
        record: Option<Arc<RequestRecord>>,
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
            let fallbacks = this.record.iter().flat_map(|record| record.fallbacks());
            let lines = explaining.lines().map(str::to_owned).chain(fallbacks.map(|taken| line(&taken)));
            for line in lines.filter_map(|line| HeaderValue::try_from(line).ok()) {
                response.headers_mut().append(EXPLAIN, line);
            }
        }
        Poll::Ready(answer)
    }
}

/// Formats a fallback as an item of a structured field (RFC 9651).
fn line(taken: &FallbackTaken) -> String {
    // A string of such a field has only printable ASCII.
    let plain = |name: &str| -> String {
        let fits = |letter: &char| matches!(letter, ' '..='~') && !matches!(letter, '"' | '\\');
        name.chars().map(|letter| if fits(&letter) { letter } else { '?' }).collect()
    };
    let (model, to, pool) = (plain(&taken.entry), plain(&taken.to), plain(&taken.pool));
    format!("\"fallback\";model=\"{model}\";to=\"{to}\";pool=\"{pool}\";reason={}", taken.reason)
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
