//! Rules: the tower adapter around [`RuleSet`], or around [`SharedRules`] if gateways share counts.
//!
//! A request is charged when it is admitted. The charge lives as long as the response body: when
//! the answer ends, token rules are settled by the tokens really used. A request that the inner
//! service refuses costs nothing.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arc_swap::ArcSwap;
use http::{Extensions, Request, Response, StatusCode, Uri};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::clock::{self, Clock, Nanos};
use crate::fleet::{Fleet, Pool};
use crate::layers::bill::FinalCharge;
use crate::layers::body::{BodyGuard, Guarded};
use crate::limit::rule::{Per, Rule};
use crate::limit::{Charge, Decision, Denial, ExpectedCost, Explained, RuleSet, Served, Subject};
use crate::metrics::{self, Metrics};
use crate::models::ModelRoute;
use crate::openai::dialect::Dialect;
use crate::openai::kinds;
use crate::redis::rules::{Holding, SharedRules};
use crate::refusal::{QuotaStatus, Refusal};
use crate::request::{Caller, DecodedPath, Explaining, Forwarding, RequestCost, RequestRecord};

/// Metrics of the rules of a rule set, by rule index.
#[derive(Debug)]
pub(crate) struct RuleMetrics {
    metrics: Arc<Metrics>,
    rules: Vec<Arc<metrics::RuleSeries>>,
    names: Vec<Arc<str>>,
}

impl RuleMetrics {
    /// Looks up the metrics of each rule of `rules`.
    #[must_use]
    pub(crate) fn new(metrics: Arc<Metrics>, rule_set: &RuleSet) -> Self {
        let rules = rule_set.rules().iter().map(|rule| metrics.rule(&rule.name)).collect();
        let names = rule_set.rules().iter().map(|rule| Arc::clone(&rule.name)).collect();
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
                    tracing::info!(rule = &**name, caller, "the rule would have refused the request");
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
    fn record_usage(&self, quotas: &[QuotaStatus], caller: &str) {
        for quota in quotas {
            // A linear search: there are few rules.
            let index = self.names.iter().position(|name| *name == quota.rule);
            if let Some(rule) = index.and_then(|index| self.rules.get(index)) {
                let left = quota.remaining as f64 / quota.limit.max(1) as f64;
                rule.used(1.0 - left, caller);
            }
        }
    }
}

/// The store of the rules' counts.
#[derive(Clone, Debug)]
pub(crate) enum RuleCounting {
    /// In this process.
    Memory(Arc<RuleSet>),
    /// In Redis.
    Shared(Arc<SharedRules>),
}

impl RuleCounting {
    /// Returns the rules.
    #[must_use]
    pub(crate) fn rules(&self) -> &RuleSet {
        match self {
            Self::Memory(rule_set) => rule_set,
            Self::Shared(rules) => rules.rule_set(),
        }
    }
}

/// Layer for [`Limit`].
#[derive(Clone, Debug)]
pub struct LimitLayer {
    counting: RuleCounting,
    clock: Clock,
    metrics: Option<Arc<RuleMetrics>>,
    /// `Some` if a rule depends on the model.
    fleet: Option<Arc<ArcSwap<Fleet>>>,
}

impl LimitLayer {
    /// Creates a layer that counts the rules of `rules` in this process.
    #[must_use]
    pub const fn new(rule_set: Arc<RuleSet>, clock: Clock) -> Self {
        Self::counting(RuleCounting::Memory(rule_set), clock)
    }

    /// Creates a layer with the rules and counts of `counting`.
    #[must_use]
    pub(crate) const fn counting(counting: RuleCounting, clock: Clock) -> Self {
        Self { counting, clock, metrics: None, fleet: None }
    }

    /// Counts the decisions of the rules in `metrics`.
    #[must_use]
    pub(crate) fn with_metrics(mut self, metrics: Arc<RuleMetrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Resolves model names by `fleet`. Without it, each name in a request is a model of its own.
    #[must_use]
    pub(crate) fn with_fleet(mut self, fleet: &Arc<ArcSwap<Fleet>>) -> Self {
        let looks = |rule: &Arc<Rule>| rule.per.contains(&Per::Model) || rule.matches.model.is_some();
        let any = self.counting.rules().rules().iter().any(looks);
        self.fleet = any.then(|| Arc::clone(fleet));
        self
    }

    fn served(&self, extensions: &Extensions) -> ServedBy {
        let route = extensions.get::<Arc<ModelRoute>>();
        let by = self.fleet.as_ref().map(|fleet| {
            let request_cost = extensions.get::<RequestCost>();
            // A request that calls no model counts under the empty name.
            let names_model = |cost: &&RequestCost| kinds::row(cost.kind).names_model();
            let Some(request_cost) = request_cost.filter(names_model) else {
                return ("".into(), None);
            };
            served_by(&fleet.load(), request_cost.model.as_deref(), route.map(|route| &**route))
        });
        ServedBy { by, route: route.cloned() }
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
/// Reads [`Caller`], [`RequestCost`], [`Forwarding`] and [`DecodedPath`] from the request's extensions.
/// Without them the request counts as an anonymous call without tokens, to the path as sent.
#[derive(Clone, Debug)]
pub struct Limit<S> {
    shared: LimitLayer,
    inner: S,
}

/// Returns the name under which a model counts, and the pool that serves it. An alias counts as its
/// entry, which may have several names. What the caller may not use counts like an unknown name.
#[must_use]
pub(crate) fn served_by(
    fleet: &Fleet,
    asked: Option<&str>,
    route: Option<&ModelRoute>,
) -> (Arc<str>, Option<Arc<Pool>>) {
    let Some(route) = route else { return fleet.served(asked) };
    if !route.is_allowed() {
        return Fleet::unserved();
    }
    let (counted, pool) = fleet.served(route.served().map_or(asked, |served| Some(&**served)));
    (route.alias().cloned().unwrap_or(counted), pool)
}

/// The name under which a request's model counts, and the pool that serves it.
struct ServedBy {
    by: Option<(Arc<str>, Option<Arc<Pool>>)>,
    route: Option<Arc<ModelRoute>>,
}

impl ServedBy {
    fn served(&self) -> Served<'_> {
        let Some((counted, pool)) = &self.by else { return Served::AS_ASKED };
        let unnamed = pool.as_ref().map_or(&[][..], |pool| &pool.models);
        let names = self.route.as_ref().map_or(&[][..], |route| route.names());
        Served { counted_as: Some(counted), default_models: unnamed, names }
    }
}

/// Input of the rules for one request.
struct RuleQuestion<'a> {
    subject: Subject<'a>,
    cost: ExpectedCost,
    record: Option<Arc<RequestRecord>>,
    /// `Some` if an administrator asked for an explanation.
    explaining: Option<&'a Explaining>,
    dialect: Dialect,
}

impl<'a> RuleQuestion<'a> {
    fn of(uri: &'a Uri, extensions: &'a Extensions, served: &'a ServedBy) -> Self {
        let caller = extensions.get::<Caller>();
        let request_cost = extensions.get::<RequestCost>();
        let record = extensions.get::<Arc<RequestRecord>>();
        // Rules match the decoded path, so that escapes do not lead past a rule.
        let path = extensions.get::<DecodedPath>().map_or(uri.path(), |decoded| &decoded.0);
        let subject = Subject {
            caller: caller.map_or("anonymous", |caller| &caller.id),
            team: caller.and_then(|caller| caller.team.as_deref()),
            ip: extensions.get::<Forwarding>().map(|forwarding| forwarding.client_ip),
            model: request_cost.and_then(|request_cost| request_cost.model.as_deref()),
            served: served.served(),
            route: record.and_then(|record| record.route()).map_or(path, |route| route),
            path,
            class: caller.map(|caller| caller.class).unwrap_or_default(),
            own: caller.and_then(|caller| caller.limits.as_ref()),
        };
        let cost = request_cost.map_or_else(ExpectedCost::default, ExpectedCost::from);
        Self {
            subject,
            cost,
            record: record.cloned(),
            explaining: extensions.get::<Explaining>(),
            dialect: extensions.get::<Dialect>().copied().unwrap_or_default(),
        }
    }

    /// Writes a line on each rule's quota status and on the decision that it made, if any.
    fn explain(&self, explaining: &Explaining, rules: &[Explained], decided: &[(usize, Decision)]) {
        explaining.set(rules.iter().map(|rule| {
            let said = decided.iter().find(|(index, _)| *index == rule.index).map(|(_, decision)| *decision);
            rule.line(&self.subject, said)
        }));
    }

    /// Builds the guard that settles `charge` when the answer ends.
    fn held(self, charge: TakenCharge, layer: &LimitLayer) -> Box<HeldCharge> {
        let (clock, metrics) = (layer.clock.clone(), layer.metrics.clone());
        // Boxed: it passes through every layer outside of this one, and each would move it.
        Box::new(HeldCharge {
            charge: Some(charge),
            clock,
            metrics,
            record: self.record,
            cost: self.cost,
            status: None,
            dialect: self.dialect,
        })
    }
}

impl LimitLayer {
    /// Refuses a request before its body is read if the rules refuse it whatever the body says, so
    /// that the body takes no memory. A request to be explained passes here: it is refused later,
    /// after all rules are evaluated.
    ///
    /// # Errors
    /// Refusal by a rule that does not need the body: it counts requests and ignores the model.
    pub(super) fn check_before_body(&self, uri: &Uri, extensions: &Extensions) -> Result<(), Refusal> {
        // Rules that depend on the model are evaluated later, so the pool is not needed here.
        let served = ServedBy { by: None, route: None };
        let question = RuleQuestion::of(uri, extensions, &served);
        if question.explaining.is_some() {
            return Ok(());
        }
        let subject = &question.subject;
        let refused = match &self.counting {
            RuleCounting::Memory(rule_set) => {
                let now = self.clock.now();
                rule_set.refusal_before_body(subject, now).map(|mut denial| {
                    let decisions = std::mem::take(&mut denial.decisions);
                    (decisions, rule_set.join_retry_queue(denial, now).into_refusal())
                })
            }
            RuleCounting::Shared(rules) => {
                rules.refusal_unread(subject).map(|refused| (refused.decisions, refused.refusal))
            }
        };
        let Some((decisions, refusal)) = refused else { return Ok(()) };
        self.count(&decisions, subject.caller);
        Err(refusal)
    }

    /// Charges the rules in memory, or returns the refusal.
    fn admit(&self, rule_set: &Arc<RuleSet>, question: RuleQuestion<'_>) -> Result<Box<HeldCharge>, Refusal> {
        let verdict = rule_set.admit(&question.subject, &question.cost, self.clock.now());
        let decisions = match &verdict {
            Ok(admission) => &admission.decisions,
            Err(denial) => &denial.decisions,
        };
        self.count(decisions, question.subject.caller);
        if let Some(explaining) = question.explaining {
            let rules = rule_set.explain(&question.subject, &question.cost, self.clock.now());
            question.explain(explaining, &rules, decisions);
        }
        let refusal = |denial: Denial| rule_set.join_retry_queue(denial, self.clock.now()).into_refusal();
        let charge = verdict.map_err(refusal)?.charge;
        Ok(question.held(TakenCharge::Memory(Arc::clone(rule_set), charge), self))
    }

    /// Charges the rules in Redis, or returns the refusal.
    async fn admit_shared(
        &self,
        rules: &Arc<SharedRules>,
        question: RuleQuestion<'_>,
    ) -> Result<Box<HeldCharge>, Refusal> {
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
        Ok(question.held(TakenCharge::Shared(Box::new(holding)), self))
    }
}

#[derive(Debug)]
enum TakenCharge {
    Memory(Arc<RuleSet>, Charge),
    // Boxed because it is large. The round trip to Redis costs a hundred times as much as a box.
    Shared(Box<Holding>),
}

impl TakenCharge {
    fn settle(self, tokens: u64, now: Nanos) {
        match self {
            Self::Memory(rule_set, charge) => rule_set.settle(charge, tokens, now),
            Self::Shared(holding) => holding.settle(tokens),
        }
    }

    fn refund(self, now: Nanos) {
        match self {
            Self::Memory(rule_set, charge) => rule_set.refund(charge, now),
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

    fn with_statuses(&self, now: Nanos, then: impl FnOnce(&[QuotaStatus])) {
        match self {
            Self::Memory(rule_set, charge) => then(&rule_set.quota_statuses(charge, now)),
            Self::Shared(holding) => then(holding.quotas()),
        }
    }
}

/// Guard of a charge: settles it when dropped.
#[derive(Debug)]
pub struct HeldCharge {
    charge: Option<TakenCharge>,
    clock: Clock,
    metrics: Option<Arc<RuleMetrics>>,
    record: Option<Arc<RequestRecord>>,
    cost: ExpectedCost,
    /// Status of the answer; `None` before there is an answer.
    status: Option<StatusCode>,
    /// In whose words the client is told of its quota.
    dialect: Dialect,
}

impl HeldCharge {
    fn refund(mut self) {
        if let Some(charge) = self.charge.take() {
            charge.refund(self.clock.now());
        }
    }

    /// Ties the charge to the body of the answer. Refunds it on an error.
    fn tie<R, E: Into<Refusal>>(
        mut self: Box<Self>,
        answer: Result<Response<R>, E>,
    ) -> Result<Response<Guarded<R, Box<Self>>>, Refusal> {
        match answer {
            Ok(mut response) => {
                self.status = Some(response.status());
                if let Some(charge) = &self.charge {
                    charge.with_statuses(self.clock.now(), |quotas| {
                        self.dialect.quota_headers(response.headers_mut(), quotas, clock::wall);
                        let caller = self.record.as_ref().and_then(|record| record.caller());
                        if let (Some(metrics), Some(caller)) = (&self.metrics, caller) {
                            metrics.record_usage(quotas, &caller.id);
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

impl BodyGuard for HeldCharge {}

impl Drop for HeldCharge {
    fn drop(&mut self) {
        let Some(charge) = self.charge.take() else { return };
        let Some(record) = self.record.take() else { return charge.keep() };
        let now = self.clock.now();
        match FinalCharge::of(&record, self.status, &self.cost) {
            FinalCharge::Nothing => charge.refund(now),
            FinalCharge::Tokens(tokens) => charge.settle(tokens, now),
            FinalCharge::Reserved => charge.keep(),
        }
    }
}

pin_project! {
    /// Future of [`Limit`].
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
    const fn admitted(inner: F, held: Box<HeldCharge>) -> Self {
        Self { state: ChargeState::Admitted { inner, held: Some(held) } }
    }

    const fn other(other: OtherAnswer<R>) -> Self {
        Self { state: ChargeState::Other { other } }
    }
}

/// The answer to a request that is not charged in memory.
type OtherAnswer<R> =
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

impl<S, B, R: 'static> Service<Request<B>> for Limit<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<Refusal>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<Guarded<R, Box<HeldCharge>>>;
    type Error = Refusal;
    type Future = ChargeFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match &self.shared.counting {
            RuleCounting::Memory(rule_set) => {
                let served = self.shared.served(request.extensions());
                let question = RuleQuestion::of(request.uri(), request.extensions(), &served);
                match self.shared.admit(rule_set, question) {
                    Ok(held) => ChargeFuture::admitted(self.inner.call(request), held),
                    Err(refusal) => ChargeFuture::other(Box::pin(async move { Err(refusal) })),
                }
            }
            RuleCounting::Shared(rules) => {
                let (shared, rules) = (self.shared.clone(), Arc::clone(rules));
                // The service that was made ready is the one to call; its clone takes its place.
                let fresh = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, fresh);
                ChargeFuture::other(Box::pin(async move {
                    // Split because `B` need not be `Sync` and `question` lives across an await.
                    let (parts, body) = request.into_parts();
                    let served = shared.served(&parts.extensions);
                    let question = RuleQuestion::of(&parts.uri, &parts.extensions, &served);
                    let held = shared.admit_shared(&rules, question).await?;
                    held.tie(inner.call(Request::from_parts(parts, body)).await)
                }))
            }
        }
    }
}
