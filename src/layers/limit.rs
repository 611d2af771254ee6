//! Rules: the tower adapter around [`Ladder`].
//!
//! A charge is made when the request is let through, and follows the response body: when the answer ends, token rules
//! are settled by what was really used. What the inner service refuses costs nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower::{Layer, Service};

use crate::clock::Clock;
use crate::layers::body::{Guarded, Tied};
use crate::limit::{Charge, Cost, Decision, Denial, Ladder, Subject};
use crate::metrics::{self, Metrics};
use crate::openai::headers;
use crate::refusal::Refusal;
use crate::request::{Caller, DecodedPath, Demand, Ending, Flight, Forwarding};

/// The series of a ladder's rules, by their index.
#[derive(Debug)]
pub struct RuleMetrics {
    metrics: Arc<Metrics>,
    rules: Vec<Arc<metrics::Rule>>,
}

impl RuleMetrics {
    /// Looks up the series of each rule of `ladder`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, ladder: &Ladder) -> Self {
        let rules = ladder.rules().iter().map(|rule| metrics.rule(&rule.name)).collect();
        Self { metrics, rules }
    }

    fn count(&self, decisions: &[(usize, Decision)]) {
        for (rule, decision) in decisions {
            let Some(rule) = self.rules.get(*rule) else { continue };
            match decision {
                Decision::Allowed => rule.allowed(),
                Decision::Refused => rule.refused(),
                Decision::WouldRefuse => rule.would_refuse(),
            }
        }
        if decisions.is_empty() {
            self.metrics.unmatched_request();
        }
    }
}

/// Makes [`Limit`].
#[derive(Clone, Debug)]
pub struct LimitLayer {
    ladder: Arc<Ladder>,
    clock: Clock,
    metrics: Option<Arc<RuleMetrics>>,
}

impl LimitLayer {
    /// A layer that applies `ladder` at the time of `clock`.
    #[must_use]
    pub const fn new(ladder: Arc<Ladder>, clock: Clock) -> Self {
        Self { ladder, clock, metrics: None }
    }

    /// The same layer, counting what the ladder's rules decide.
    #[must_use]
    pub fn counted(mut self, metrics: Arc<RuleMetrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limit<S>;

    fn layer(&self, inner: S) -> Limit<S> {
        Limit { shared: self.clone(), inner }
    }
}

/// Lets a request through when all its rules allow it, and refuses it otherwise.
///
/// Reads [`Caller`], [`Demand`], [`Forwarding`] and [`DecodedPath`] from the request's extensions; without them the
/// request is one anonymous call without tokens, of the path as it was sent.
#[derive(Clone, Debug)]
pub struct Limit<S> {
    shared: LimitLayer,
    inner: S,
}

impl<S> Limit<S> {
    /// Charges the rules for a request, or says why not.
    fn admit<B>(&self, request: &Request<B>) -> Result<Held, Refusal> {
        let LimitLayer { ladder, clock, metrics } = &self.shared;
        let extensions = request.extensions();
        let caller = extensions.get::<Caller>();
        let demand = extensions.get::<Demand>();
        let flight = extensions.get::<Arc<Flight>>();
        // A rule must see the path that was let through, however it was written.
        let path = extensions.get::<DecodedPath>().map_or(request.uri().path(), |decoded| &decoded.0);
        let subject = Subject {
            caller: caller.map_or("anonymous", |caller| &caller.id),
            ip: extensions.get::<Forwarding>().map(|forwarding| forwarding.client_ip),
            model: demand.and_then(|demand| demand.model.as_deref()),
            route: flight.and_then(|flight| flight.route()).map_or(path, |route| route),
            path,
            class: caller.map(|caller| caller.class).unwrap_or_default(),
        };
        let cost = demand.map_or_else(Cost::default, |demand| Cost {
            prompt_tokens: demand.prompt_tokens,
            expected_output: demand.expected_output,
            max_output: demand.max_tokens.map(|most| most.saturating_mul(demand.sequences.into())),
        });
        let verdict = ladder.admit(&subject, &cost, clock.now());
        let decisions = match &verdict {
            Ok(admission) => &admission.decisions,
            Err(denial) => &denial.decisions,
        };
        if let Some(metrics) = metrics {
            metrics.count(decisions);
        }
        let charge = verdict.map_err(Denial::into_refusal)?.charge;
        Ok(Held {
            charge: Some(charge),
            ladder: Arc::clone(ladder),
            clock: clock.clone(),
            flight: flight.cloned(),
            prompt_tokens: cost.prompt_tokens,
        })
    }
}

/// A charge on its way, settled when it is dropped.
#[derive(Debug)]
pub struct Held {
    charge: Option<Charge>,
    ladder: Arc<Ladder>,
    clock: Clock,
    flight: Option<Arc<Flight>>,
    prompt_tokens: u64,
}

impl Held {
    /// Gives everything back.
    fn refund(mut self) {
        if let Some(charge) = self.charge.take() {
            self.ladder.refund(charge, self.clock.now());
        }
    }
}

impl Tied for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        let (Some(charge), Some(flight)) = (self.charge.take(), self.flight.take()) else { return };
        let now = self.clock.now();
        let started = flight.first_token().is_some();
        match (flight.usage(), flight.ending()) {
            (Some((prompt, output)), _) => self.ladder.settle(charge, prompt.saturating_add(output), now),
            // The worker failed before it had given anything.
            (None, Ending::WorkerFailed | Ending::TimedOut | Ending::Refused) if !started => {
                self.ladder.refund(charge, now);
            }
            // Left before it was sent anywhere: the call counts, tokens were not used.
            (None, Ending::ClientGone) if flight.dispatched().is_none() => self.ladder.settle(charge, 0, now),
            (None, Ending::Complete) if flight.output_tokens() == 0 => {
                // A whole answer that says nothing of its usage: the estimate stays.
            }
            (None, _) => {
                self.ladder.settle(charge, self.prompt_tokens.saturating_add(flight.output_tokens()), now);
            }
        }
    }
}

impl<S, B, R> Service<Request<B>> for Limit<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<Refusal>,
    S::Future: Send + 'static,
{
    type Response = Response<Guarded<R, Held>>;
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Refusal>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let held = match self.admit(&request) {
            Ok(held) => held,
            Err(refusal) => return Box::pin(async move { Err(refusal) }),
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            match answer.await {
                Ok(mut response) => {
                    if let Some(charge) = &held.charge {
                        let standings = held.ladder.standings(charge, held.clock.now());
                        headers::standings(response.headers_mut(), &standings);
                    }
                    Ok(response.map(|body| Guarded::new(body, held)))
                }
                Err(refused) => {
                    held.refund();
                    Err(refused.into())
                }
            }
        })
    }
}
