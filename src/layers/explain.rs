//! Tells an administrator, on the answer itself, how every rule stood to the request.
//!
//! It stands outside of `rescue`, so that a refusal is explained as well. Who shows no token of the admin port learns
//! nothing, and is served as if nothing had been asked.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tower::{Layer, Service};

use crate::request::Explaining;

/// Asks for it, with the value `1`, and carries it: once for each rule.
pub const EXPLAIN: HeaderName = HeaderName::from_static("x-traffic-dam-explain");
/// The token of the admin port, apart from the caller's own key. It never reaches a worker.
pub const ADMIN_TOKEN: HeaderName = HeaderName::from_static("x-traffic-dam-admin-token");

/// Makes [`Explain`].
#[derive(Clone, Debug)]
pub struct ExplainLayer(Arc<[[u8; 32]]>);

impl ExplainLayer {
    /// A layer for those who show a secret with one of these SHA-256.
    #[must_use]
    pub fn new(digests: impl IntoIterator<Item = [u8; 32]>) -> Self {
        Self(digests.into_iter().collect())
    }

    fn allows(&self, headers: &HeaderMap) -> bool {
        let Some(given) = headers.get(&ADMIN_TOKEN) else { return false };
        let given: [u8; 32] = Sha256::digest(given.as_bytes()).into();
        // Every one is compared, so that the time tells nothing about which it is.
        self.0.iter().fold(Choice::from(0), |found, digest| found | digest.ct_eq(&given)).into()
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
        let explaining = (asked && self.shared.allows(request.headers())).then(Explaining::default);
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
