//! The future of an answer with a charge tied to its body.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use super::charge::HeldCharge;
use crate::layers::body::Guarded;
use crate::refusal::Refusal;

pin_project! {
    /// Future of [`Limit`](super::Limit).
    pub struct ChargeFuture<F, R> {
        #[pin]
        state: ChargeState<F, R>,
    }
}

pin_project! {
    // A request that is charged in memory needs no box.
    #[project = ChargeStateProjection]
    enum ChargeState<F, R> {
        // `held` is taken with the answer.
        Admitted {
            #[pin]
            inner: F,
            held: Option<Box<HeldCharge>>,
        },
        // Charged in Redis, or refused.
        Other { other: OtherAnswer<R> },
    }
}

impl<F, R> ChargeFuture<F, R> {
    pub(super) const fn admitted(inner: F, held: Box<HeldCharge>) -> Self {
        Self { state: ChargeState::Admitted { inner, held: Some(held) } }
    }

    pub(super) const fn other(other: OtherAnswer<R>) -> Self {
        Self { state: ChargeState::Other { other } }
    }
}

/// The answer to a request that is not charged in memory.
pub(super) type OtherAnswer<R> =
    Pin<Box<dyn Future<Output = Result<Response<Guarded<R, Box<HeldCharge>>>, Refusal>> + Send>>;

impl<F, R> fmt::Debug for ChargeFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChargeFuture").finish_non_exhaustive()
    }
}

impl<F, R, E> Future for ChargeFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<Refusal>,
{
    type Output = Result<Response<Guarded<R, Box<HeldCharge>>>, Refusal>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            ChargeStateProjection::Admitted { inner, held } => {
                let answer = ready!(inner.poll(cx));
                // Polled after completion, which futures need not support: stays pending.
                held.take().map_or(Poll::Pending, |held| Poll::Ready(held.tie(answer)))
            }
            ChargeStateProjection::Other { other } => other.as_mut().poll(cx),
        }
    }
}
