//! Futures of layers that let most requests through unchanged.
//!
//! A layer that answers some requests itself does so in a boxed future. A request that passes needs
//! none: its future is the inner one, and its body is only wrapped.

use std::pin::Pin;

use futures_util::TryFutureExt as _;
use futures_util::future::{Either, MapOk};
use http::Response;

use crate::refusal::Refusal;

type Wrap<R, B> = fn(Response<R>) -> Response<B>;

/// The answer of the layer itself.
type Answered<B> = Pin<Box<dyn Future<Output = Result<Response<B>, Refusal>> + Send>>;

/// The inner service's answer with the body `R` wrapped as `B`, or one of the layer itself.
pub(super) type PassedOr<F, R, B> = Either<MapOk<F, Wrap<R, B>>, Answered<B>>;

/// Returns the future of a request that passes.
pub(super) fn passed<F, R, B>(inner: F, wrap: Wrap<R, B>) -> PassedOr<F, R, B>
where
    F: Future<Output = Result<Response<R>, Refusal>>,
{
    Either::Left(inner.map_ok(wrap))
}

/// Returns the future of a request that the layer answers.
pub(super) fn answered<F, R, B>(
    own: impl Future<Output = Result<Response<B>, Refusal>> + Send + 'static,
) -> PassedOr<F, R, B> {
    Either::Right(Box::pin(own))
}
