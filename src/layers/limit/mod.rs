//! Rules: the tower adapter around [`RuleSet`], or around [`SharedRules`] if gateways share counts.
//!
//! A request is charged when it is admitted. The charge lives as long as the response body: when
//! the answer ends, token rules are settled by the tokens really used. A request that the inner
//! service refuses costs nothing.

mod charge;
mod future;
mod question;
mod rule_metrics;
mod served;

use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use http::{Extensions, Request, Response, Uri};
use tower::{Layer, Service};

use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::layers::body::Guarded;
use crate::limit::rule::{Per, Rule};
use crate::limit::{Decision, Denial, RuleSet};
use crate::models::ModelRoute;
use crate::openai::kinds;
use crate::redis::rules::SharedRules;
use crate::refusal::Refusal;
use crate::request::RequestCost;

use self::charge::TakenCharge;
use self::question::RuleQuestion;
use self::served::ServedBy;

pub use self::charge::HeldCharge;
pub use self::future::ChargeFuture;
pub(crate) use self::rule_metrics::RuleMetrics;
pub(crate) use self::served::served_by;

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
/// Reads [`Caller`](crate::request::Caller), [`RequestCost`], [`Forwarding`](crate::request::Forwarding)
/// and [`DecodedPath`](crate::request::DecodedPath) from the request's extensions. Without them the
/// request counts as an anonymous call without tokens, to the path as sent.
#[derive(Clone, Debug)]
pub struct Limit<S> {
    shared: LimitLayer,
    inner: S,
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

    /// Builds the guard that settles `charge` when the answer ends.
    fn held(&self, charge: TakenCharge, question: RuleQuestion<'_>) -> Box<HeldCharge> {
        // Boxed: it passes through every layer outside of this one, and each would move it.
        Box::new(HeldCharge {
            charge: Some(charge),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            record: question.record,
            cost: question.cost,
            status: None,
            dialect: question.dialect,
        })
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
        Ok(self.held(TakenCharge::Memory(Arc::clone(rule_set), charge), question))
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
        Ok(self.held(TakenCharge::Shared(Box::new(holding)), question))
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
