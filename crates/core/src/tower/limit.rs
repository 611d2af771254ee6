//! Quotas: a layer around a rule set.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body_util::Either;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::answer::{LayerBody, answer};
use crate::clock::Clock;
use crate::limit::{Charge, ExpectedCost, RuleSet, Served, Subject};
use crate::refusal::Refusal;
use crate::request::{Caller, RequestCost};

/// Layer for [`Limit`].
#[derive(Clone)]
pub struct LimitLayer<F> {
    rules: Arc<RuleSet>,
    clock: Clock,
    describe: F,
}

impl<F> LimitLayer<F> {
    /// Creates a layer that counts the rules of `rules`. `describe` returns whose request it is, and
    /// what it is expected to cost.
    #[must_use]
    pub const fn new<B>(rules: Arc<RuleSet>, clock: Clock, describe: F) -> Self
    where
        F: Fn(&Request<B>) -> (Caller, RequestCost),
    {
        Self { rules, clock, describe }
    }
}

impl<S, F: Clone> Layer<S> for LimitLayer<F> {
    type Service = Limit<S, F>;

    fn layer(&self, inner: S) -> Limit<S, F> {
        Limit { layer: self.clone(), inner }
    }
}

impl<F> fmt::Debug for LimitLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitLayer").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// Service that admits a request if all rules that apply to it allow it, and refuses it otherwise.
///
/// An admitted request stays charged with its expected cost, except if the inner service fails: then
/// it is charged nothing. Rules match the path as it was sent, also for the route. The layer knows no
/// addresses: in a rule that counts per address, all requests count together.
#[derive(Clone, Debug)]
pub struct Limit<S, F> {
    layer: LimitLayer<F>,
    inner: S,
}

impl<S, F, B, R> Service<Request<B>> for Limit<S, F>
where
    S: Service<Request<B>, Response = Response<R>>,
    F: Fn(&Request<B>) -> (Caller, RequestCost),
{
    type Response = Response<LayerBody<R>>;
    type Error = S::Error;
    type Future = LimitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let LimitLayer { rules, clock, describe } = &self.layer;
        let (caller, cost) = describe(&request);
        let path = request.uri().path();
        let subject = Subject {
            caller: &caller.id,
            team: caller.team.as_deref(),
            ip: None,
            model: cost.model.as_deref(),
            served: Served::AS_ASKED,
            route: path,
            path,
            class: caller.class,
            own: caller.limits.as_ref(),
        };
        let now = clock.now();
        let state = match rules.admit(&subject, &ExpectedCost::from(&cost), now) {
            Ok(admission) => {
                let (rules, clock) = (Arc::clone(rules), clock.clone());
                let charge = RefundableCharge { charge: admission.charge, rules, clock };
                LimitState::Admitted { inner: self.inner.call(request), charge: Some(charge) }
            }
            Err(denial) => {
                let refusal = rules.join_retry_queue(denial, now).into_refusal();
                LimitState::Refused { refusal: Some(Box::new(refusal)) }
            }
        };
        LimitFuture { state }
    }
}

#[derive(Debug)]
struct RefundableCharge {
    charge: Charge,
    rules: Arc<RuleSet>,
    clock: Clock,
}

pin_project! {
    /// Future of [`Limit`].
    #[derive(Debug)]
    pub struct LimitFuture<F> {
        #[pin]
        state: LimitState<F>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = LimitStateProjection]
    enum LimitState<F> {
        Admitted {
            #[pin]
            inner: F,
            charge: Option<RefundableCharge>,
        },
        // `None` after the answer.
        Refused { refusal: Option<Box<Refusal>> },
    }
}

impl<F, R, E> Future for LimitFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<LayerBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            LimitStateProjection::Admitted { inner, charge } => {
                let result = ready!(inner.poll(cx));
                if let (Err(_), Some(RefundableCharge { charge, rules, clock })) = (&result, charge.take()) {
                    rules.refund(charge, clock.now());
                }
                Poll::Ready(result.map(|response| response.map(Either::Left)))
            }
            LimitStateProjection::Refused { refusal } => match refusal.take() {
                Some(refusal) => Poll::Ready(Ok(answer(*refusal))),
                None => Poll::Pending,
            },
        }
    }
}
