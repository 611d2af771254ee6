//! Rules: the tower adapter around [`Ladder`], or around [`SharedRules`] if gateways share counts.
//!
//! A request is charged when it is admitted. The charge lives as long as the response body: when
//! the answer ends, token rules are settled by the tokens really used. A request that the inner
//! service refuses costs nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use http::{Extensions, Request, Response, StatusCode, Uri};
use tower::{Layer, Service};

use crate::clock::{Clock, Nanos};
use crate::fleet::{Fleet, Pool};
use crate::layers::bill::Bill;
use crate::layers::body::{Guarded, Tied};
use crate::limit::rule::{Per, Rule};
use crate::limit::{Charge, Cost, Decision, Denial, Explained, Ladder, Served, Subject};
use crate::metrics::{self, Metrics};
use crate::openai::headers;
use crate::redis::rules::{Holding, SharedRules};
use crate::refusal::{Refusal, Standing};
use crate::request::{Caller, DecodedPath, Demand, Explaining, Flight, Forwarding};

/// Metrics of the rules of a rule set, by rule index.
#[derive(Debug)]
pub struct RuleMetrics {
    metrics: Arc<Metrics>,
    rules: Vec<Arc<metrics::Rule>>,
    names: Vec<Arc<str>>,
}

impl RuleMetrics {
    /// Looks up the metrics of each rule of `ladder`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, ladder: &Ladder) -> Self {
        let rules = ladder.rules().iter().map(|rule| metrics.rule(&rule.name)).collect();
        let names = ladder.rules().iter().map(|rule| Arc::clone(&rule.name)).collect();
        Self { metrics, rules, names }
    }

    /// Counts the decisions on a request of `caller`. A refusal that a rule in mode `observe` would
    /// have made is logged too, to show it for all callers; the metric names only some.
    fn count(&self, decisions: &[(usize, Decision)], caller: &str) {
        for (index, decision) in decisions {
            let (Some(rule), Some(name)) = (self.rules.get(*index), self.names.get(*index)) else { continue };
            match decision {
                Decision::Allowed => rule.allowed(),
                Decision::Refused => {
                    rule.refused();
                    rule.used(1.0, caller);
                }
                Decision::WouldRefuse => {
                    rule.would_refuse(caller);
                    rule.used(1.0, caller);
                    tracing::info!(rule = &**name, caller, "would have been refused");
                }
            }
        }
        if decisions.is_empty() {
            self.metrics.unmatched_request();
        }
    }
}

impl RuleMetrics {
    /// Records the used share of each quota after a request of `caller`.
    fn note(&self, standings: &[Standing], caller: &str) {
        for standing in standings {
            // A linear search: there are few rules.
            let index = self.names.iter().position(|name| *name == standing.rule);
            if let Some(rule) = index.and_then(|index| self.rules.get(index)) {
                let left = standing.remaining as f64 / standing.limit.max(1) as f64;
                rule.used(1.0 - left, caller);
            }
        }
    }
}

/// The store of the rules' counts.
#[derive(Clone, Debug)]
pub enum Counting {
    /// In this process.
    Memory(Arc<Ladder>),
    /// In Redis.
    Shared(Arc<SharedRules>),
}

impl Counting {
    /// Returns the rules.
    #[must_use]
    pub fn ladder(&self) -> &Ladder {
        match self {
            Self::Memory(ladder) => ladder,
            Self::Shared(rules) => rules.ladder(),
        }
    }
}

/// Layer for [`Limit`].
#[derive(Clone, Debug)]
pub struct LimitLayer {
    counting: Counting,
    clock: Clock,
    metrics: Option<Arc<RuleMetrics>>,
    /// `Some` if a rule depends on the model.
    fleet: Option<Arc<ArcSwap<Fleet>>>,
}

impl LimitLayer {
    /// Creates a layer that counts the rules of `ladder` in this process.
    #[must_use]
    pub const fn new(ladder: Arc<Ladder>, clock: Clock) -> Self {
        Self::counting(Counting::Memory(ladder), clock)
    }

    /// Creates a layer with the rules and counts of `counting`.
    #[must_use]
    pub const fn counting(counting: Counting, clock: Clock) -> Self {
        Self { counting, clock, metrics: None, fleet: None }
    }

    /// Counts the decisions of the rules in `metrics`.
    #[must_use]
    pub fn counted(mut self, metrics: Arc<RuleMetrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Resolves model names by `fleet`. Without it, each name in a request is a model of its own.
    #[must_use]
    pub fn before(mut self, fleet: &Arc<ArcSwap<Fleet>>) -> Self {
        let looks = |rule: &Arc<Rule>| rule.per.contains(&Per::Model) || rule.matches.model.is_some();
        let any = self.counting.ladder().rules().iter().any(looks);
        self.fleet = any.then(|| Arc::clone(fleet));
        self
    }

    fn served(&self, extensions: &Extensions) -> ServedBy {
        let served = self.fleet.as_ref().map(|fleet| {
            let demand = extensions.get::<Demand>();
            let served = fleet.load().served(demand.and_then(|demand| demand.model.as_deref()));
            // A request that calls no model counts under the empty name.
            if demand.is_some_and(|demand| demand.kind.has_demand()) { served } else { ("".into(), None) }
        });
        ServedBy(served)
    }

    fn count(&self, decisions: &[(usize, Decision)], caller: &str) {
        if let Some(metrics) = &self.metrics {
            metrics.count(decisions, caller);
        }
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limit<S>;

    fn layer(&self, inner: S) -> Limit<S> {
        Limit { shared: self.clone(), inner }
    }
}

/// Service that admits a request if all its rules allow it, and refuses it otherwise.
///
/// Reads [`Caller`], [`Demand`], [`Forwarding`] and [`DecodedPath`] from the request's extensions.
/// Without them the request counts as an anonymous call without tokens, to the path as sent.
#[derive(Clone, Debug)]
pub struct Limit<S> {
    shared: LimitLayer,
    inner: S,
}

/// The name under which a request's model counts, and the pool that serves it.
struct ServedBy(Option<(Arc<str>, Option<Arc<Pool>>)>);

impl ServedBy {
    fn served(&self) -> Served<'_> {
        let Some((counted, pool)) = &self.0 else { return Served::AS_ASKED };
        let unnamed = pool.as_ref().map_or(&[][..], |pool| &pool.models);
        Served { counted: Some(counted), unnamed }
    }
}

/// Input of the rules for one request.
struct Question<'a> {
    subject: Subject<'a>,
    cost: Cost,
    flight: Option<Arc<Flight>>,
    /// `Some` if an administrator asked for an explanation.
    explaining: Option<&'a Explaining>,
}

impl<'a> Question<'a> {
    fn of(uri: &'a Uri, extensions: &'a Extensions, served: &'a ServedBy) -> Self {
        let caller = extensions.get::<Caller>();
        let demand = extensions.get::<Demand>();
        let flight = extensions.get::<Arc<Flight>>();
        // Rules match the decoded path, so that escapes do not lead past a rule.
        let path = extensions.get::<DecodedPath>().map_or(uri.path(), |decoded| &decoded.0);
        let subject = Subject {
            caller: caller.map_or("anonymous", |caller| &caller.id),
            team: caller.and_then(|caller| caller.team.as_deref()),
            ip: extensions.get::<Forwarding>().map(|forwarding| forwarding.client_ip),
            model: demand.and_then(|demand| demand.model.as_deref()),
            served: served.served(),
            route: flight.and_then(|flight| flight.route()).map_or(path, |route| route),
            path,
            class: caller.map(|caller| caller.class).unwrap_or_default(),
            own: caller.and_then(|caller| caller.limits.as_ref()),
        };
        let cost = demand.map_or_else(Cost::default, |demand| Cost {
            prompt_tokens: demand.prompt_tokens,
            expected_output: demand.expected_output,
            max_output: demand.max_tokens.map(|most| most.saturating_mul(demand.sequences.into())),
        });
        Self { subject, cost, flight: flight.cloned(), explaining: extensions.get::<Explaining>() }
    }

    /// Writes a line on each rule's quota status and on the decision that it made, if any.
    fn explain(&self, explaining: &Explaining, rules: &[Explained], decided: &[(usize, Decision)]) {
        explaining.tell(rules.iter().map(|rule| {
            let said = decided.iter().find(|(index, _)| *index == rule.index).map(|(_, decision)| *decision);
            rule.line(&self.subject, said)
        }));
    }

    /// Builds the guard that settles `charge` when the answer ends.
    fn held(self, charge: Taken, layer: &LimitLayer) -> Held {
        let (clock, metrics) = (layer.clock.clone(), layer.metrics.clone());
        Held { charge: Some(charge), clock, metrics, flight: self.flight, cost: self.cost, status: None }
    }
}

impl LimitLayer {
    /// Refuses a request before its body is read if the rules refuse it whatever the body says, so
    /// that the body takes no memory. A request to be explained passes here: it is refused later,
    /// after all rules are evaluated.
    ///
    /// # Errors
    /// Refusal by a rule that does not need the body: it counts requests and ignores the model.
    pub(super) fn check_unread(&self, uri: &Uri, extensions: &Extensions) -> Result<(), Refusal> {
        // Rules that depend on the model are evaluated later, so the pool is not needed here.
        let served = ServedBy(None);
        let question = Question::of(uri, extensions, &served);
        if question.explaining.is_some() {
            return Ok(());
        }
        let subject = &question.subject;
        let refused = match &self.counting {
            Counting::Memory(ladder) => {
                let now = self.clock.now();
                ladder.refusal_unread(subject, now).map(|mut denial| {
                    let decisions = std::mem::take(&mut denial.decisions);
                    (decisions, ladder.in_line(denial, now).into_refusal())
                })
            }
            Counting::Shared(rules) => {
                rules.refusal_unread(subject).map(|refused| (refused.decisions, refused.refusal))
            }
        };
        let Some((decisions, refusal)) = refused else { return Ok(()) };
        self.count(&decisions, subject.caller);
        Err(refusal)
    }

    /// Charges the rules in memory, or returns the refusal.
    fn admit(&self, ladder: &Arc<Ladder>, question: Question<'_>) -> Result<Held, Refusal> {
        let verdict = ladder.admit(&question.subject, &question.cost, self.clock.now());
        let decisions = match &verdict {
            Ok(admission) => &admission.decisions,
            Err(denial) => &denial.decisions,
        };
        self.count(decisions, question.subject.caller);
        if let Some(explaining) = question.explaining {
            let rules = ladder.explain(&question.subject, &question.cost, self.clock.now());
            question.explain(explaining, &rules, decisions);
        }
        let refusal = |denial: Denial| ladder.in_line(denial, self.clock.now()).into_refusal();
        let charge = verdict.map_err(refusal)?.charge;
        Ok(question.held(Taken::Memory(Arc::clone(ladder), charge), self))
    }

    /// Charges the rules in Redis, or returns the refusal.
    async fn admit_shared(&self, rules: &Arc<SharedRules>, question: Question<'_>) -> Result<Held, Refusal> {
        let verdict = rules.admit(&question.subject, &question.cost).await;
        let decisions = match &verdict {
            Ok(admitted) => &admitted.decisions,
            Err(refused) => &refused.decisions,
        };
        self.count(decisions, question.subject.caller);
        if let Some(explaining) = question.explaining {
            let together = rules.explain(&question.subject, &question.cost).await;
            question.explain(explaining, &together.unwrap_or_else(|alone| alone), decisions);
        }
        let holding = verdict.map_err(|refused| refused.refusal)?.holding;
        Ok(question.held(Taken::Shared(Box::new(holding)), self))
    }
}

/// A charge and the store that has it.
#[derive(Debug)]
enum Taken {
    Memory(Arc<Ladder>, Charge),
    // Boxed because it is large. The round trip to Redis costs a hundred times as much as a box.
    Shared(Box<Holding>),
}

impl Taken {
    fn settle(self, tokens: u64, now: Nanos) {
        match self {
            Self::Memory(ladder, charge) => ladder.settle(charge, tokens, now),
            Self::Shared(holding) => holding.settle(tokens),
        }
    }

    fn refund(self, now: Nanos) {
        match self {
            Self::Memory(ladder, charge) => ladder.refund(charge, now),
            Self::Shared(holding) => holding.refund(),
        }
    }

    /// Leaves the charge at its estimate.
    fn keep(self) {
        match self {
            Self::Memory(..) => {}
            Self::Shared(holding) => holding.keep(),
        }
    }

    /// Calls `then` with the quota status of the charged rules.
    fn stand(&self, now: Nanos, then: impl FnOnce(&[Standing])) {
        match self {
            Self::Memory(ladder, charge) => then(&ladder.standings(charge, now)),
            Self::Shared(holding) => then(holding.standings()),
        }
    }
}

/// Guard of a charge: settles it when dropped.
#[derive(Debug)]
pub struct Held {
    charge: Option<Taken>,
    clock: Clock,
    metrics: Option<Arc<RuleMetrics>>,
    flight: Option<Arc<Flight>>,
    cost: Cost,
    /// Status of the answer; `None` before there is an answer.
    status: Option<StatusCode>,
}

impl Held {
    fn refund(mut self) {
        if let Some(charge) = self.charge.take() {
            charge.refund(self.clock.now());
        }
    }

    /// Awaits the answer and ties the charge to its body. Refunds the charge on an error.
    async fn follow<F, R, E>(mut self, answer: F) -> Result<Response<Guarded<R, Self>>, Refusal>
    where
        F: Future<Output = Result<Response<R>, E>>,
        E: Into<Refusal>,
    {
        match answer.await {
            Ok(mut response) => {
                self.status = Some(response.status());
                if let Some(charge) = &self.charge {
                    charge.stand(self.clock.now(), |standings| {
                        headers::standings(response.headers_mut(), standings);
                        let caller = self.flight.as_ref().and_then(|flight| flight.caller());
                        if let (Some(metrics), Some(caller)) = (&self.metrics, caller) {
                            metrics.note(standings, &caller.id);
                        }
                    });
                }
                Ok(response.map(|body| Guarded::new(body, self)))
            }
            Err(refused) => {
                self.refund();
                Err(refused.into())
            }
        }
    }
}

impl Tied for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(charge) = self.charge.take() else { return };
        let Some(flight) = self.flight.take() else { return charge.keep() };
        let now = self.clock.now();
        match Bill::of(&flight, self.status, &self.cost) {
            Bill::Nothing => charge.refund(now),
            Bill::Tokens(tokens) => charge.settle(tokens, now),
            Bill::Reserved => charge.keep(),
        }
    }
}

impl<S, B, R: 'static> Service<Request<B>> for Limit<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<Refusal>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<Guarded<R, Held>>;
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Refusal>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match &self.shared.counting {
            Counting::Memory(ladder) => {
                let served = self.shared.served(request.extensions());
                let question = Question::of(request.uri(), request.extensions(), &served);
                match self.shared.admit(ladder, question) {
                    Ok(held) => Box::pin(held.follow(self.inner.call(request))),
                    Err(refusal) => Box::pin(async move { Err(refusal) }),
                }
            }
            Counting::Shared(rules) => {
                let (shared, rules) = (self.shared.clone(), Arc::clone(rules));
                // The service that was made ready is the one to call; its clone takes its place.
                let fresh = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, fresh);
                Box::pin(async move {
                    // Split because `B` need not be `Sync` and `question` lives across an await.
                    let (parts, body) = request.into_parts();
                    let served = shared.served(&parts.extensions);
                    let question = Question::of(&parts.uri, &parts.extensions, &served);
                    let held = shared.admit_shared(&rules, question).await?;
                    held.follow(inner.call(Request::from_parts(parts, body))).await
                })
            }
        }
    }
}
