//! The service that the listeners call: the stack of the moment.

use std::convert::Infallible;
use std::task::{Context, Poll};

use http::Request;
use hyper::body::Incoming;
use tower::Service;

use super::App;
use crate::stack::Stack;

/// Takes each request into the stack that the latest settings came to.
#[derive(Clone, Debug)]
pub struct Entrance(App);

impl App {
    /// The service for the listeners.
    #[must_use]
    pub fn entrance(&self) -> Entrance {
        Entrance(self.clone())
    }
}

impl Service<Request<Incoming>> for Entrance {
    type Response = <Stack as Service<Request<Incoming>>>::Response;
    type Error = Infallible;
    type Future = <Stack as Service<Request<Incoming>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The layers decide in `call`.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        self.0.0.live.load().stack.clone().call(request)
    }
}
