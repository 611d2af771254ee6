//! The service behind the listeners: forwards to the current stack.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::Request;
use hyper::body::Incoming;
use tower::Service;

use super::App;
use crate::stack::Stack;

/// Passes each request to the stack of the latest settings.
#[derive(Clone, Debug)]
pub(crate) struct StackService(App);

impl App {
    /// Returns the service for the listeners.
    #[must_use]
    pub(super) fn entrance(&self) -> StackService {
        StackService(self.clone())
    }
}

type StackResponse = <Stack as Service<Request<Incoming>>>::Response;
type StackFuture = <Stack as Service<Request<Incoming>>>::Future;

impl Service<Request<Incoming>> for StackService {
    type Response = StackResponse;
    type Error = Infallible;
    type Future =
        Either<StackFuture, Pin<Box<dyn Future<Output = Result<StackResponse, Infallible>> + Send>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The layers decide in `call`.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let inner = &*self.0.0;
        let Some(missed) = inner.pause_recovery.unread_pause(inner.clock.now(), inner.clock.lag()) else {
            return Either::Left(inner.live.load().stack.clone().call(request));
        };
        let app = self.0.clone();
        Either::Right(Box::pin(async move {
            app.0.pause_recovery.wait_until_read(missed).await;
            let mut stack = app.0.live.load().stack.clone();
            stack.call(request).await
        }))
    }
}
