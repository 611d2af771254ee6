//! The attempt loop: sends one request to workers until a response can be committed.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http::header::{HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, request, response};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;
use smallvec::SmallVec;

use super::UpstreamInner;
use super::beside::BesidePlace;
use super::body::{AnswerTimeouts, OpenBody};
use super::deadline::Deadline;
use super::early::{EarlyAnswer, EarlyLane};
use super::endpoints::Endpoint;
use super::error::{
    AttemptError, RepeatSafety, TimedOutWait, fallback_reason, is_repeatable, refusal_status,
};
use super::exchange::exchange;
use super::first_token::FirstTokenWait;
use super::form::BodyForm;
use super::headers::{self, AnswerNames, ForwardedFacts};
use super::lazy_timer::LazyTimer;
use super::link::WorkerLink;
use super::linking::Linker;
use super::location;
use super::observer::{AnswerObserver, AnswerReading};
use super::provider;
use super::queue::QueueExchange;
use super::settings::{UpstreamSettings, UpstreamTimeouts};
use super::source::{AnswerSource, HttpSource};
use super::tunnel::tunnel;
use super::upload::{self, Upload};
use crate::clock::Nanos;
use crate::fleet::FleetWorker;
use crate::models::{FallbackReason, ModelRoute};
use crate::openai::kinds;
use crate::redis::jobs::{JobTicket, SessionTurn};
use crate::refusal::{Reason, Refusal};
use crate::request::{
    AnswerHeaders, BodyReservation, Caller, Ending, Forwarding, GatewayRequest, Kind, ModelPart, Payload,
    RequestCost, RequestRecord, RouteTimeouts, ToWorker, UpgradeTo, UsageInjected,
};
use crate::shed::{HeldPermit, Permit, PermitRequest, Waiter, WorkerFailure};

/// Closing connections on which one request is tried in vain, before it goes to another worker.
const UNSENT_MAX: u32 = 3;

/// A request being forwarded, with its state across attempts.
pub(crate) struct Forward<'a> {
    pub(super) upstream: &'a UpstreamInner,
    /// Slot for a response that starts before its content; `None` if that is not allowed.
    lane: Option<&'a EarlyLane>,
    /// Start of the first attempt.
    began: Option<Nanos>,
    /// Memory reserved for the request body, released on drop.
    _room: Option<BodyReservation>,
    pub(super) settings: &'a UpstreamSettings,
    pub(super) timeouts: UpstreamTimeouts,
    /// Deadline of `timeouts.total`.
    pub(super) total_deadline: Nanos,
    pub(super) head: request::Parts,
    /// Taken by the attempt that may be the last.
    pub(super) payload: Option<Payload>,
    /// State of a streamed request body; `None` if the body is empty or in memory.
    upload: Option<Upload>,
    /// `true` if a GET, HEAD or OPTIONS has a body, which a worker may take for the next request.
    unexpected_body: bool,
    pub(super) kind: Kind,
    pub(super) stream: bool,
    pub(super) repeatable: bool,
    pub(super) injected: bool,
    /// Requested protocol upgrade: the protocol and the client's connection.
    switch: Option<(UpgradeTo, OnUpgrade)>,
    pub(super) record: Arc<RequestRecord>,
    pub(super) permit: Option<Permit>,
    /// What `shed` holds; a fallback replaces the permit in it.
    pub(super) held: Option<HeldPermit>,
    /// Fallbacks of the model.
    pub(super) route: Option<Arc<ModelRoute>>,
    /// Piece of the body that names the model.
    pub(super) model_part: Option<ModelPart>,
    /// Caller and request cost, for asking the gate again.
    pub(super) caller_and_cost: Option<(Caller, RequestCost)>,
    /// Queue job assigned to the request before it came here.
    pub(super) ticket: Option<JobTicket>,
    /// Turn in its session; it ends with the answer.
    pub(super) turn: Option<Arc<SessionTurn>>,
    id: HeaderValue,
    retries: u32,
    /// Workers that failed the request, and how.
    pub(super) failed_at: SmallVec<[(Arc<str>, WorkerFailure); 2]>,
    /// Workers of earlier pools that failed it so that it counts against them.
    pub(super) failed_before: usize,
    /// `true` if it was sent again after an idle connection had ended.
    resent: bool,
    /// Random first index among the workers, for a request without a permit.
    start: usize,
    /// Pool to choose a worker from, for a request without a permit; `None` for any pool.
    beside: Option<GatewayRequest>,
    /// Place at the worker, for a request without a permit whose kind has a bound.
    place: Option<Box<BesidePlace>>,
    /// The only worker that can serve the request.
    to_worker: Option<ToWorker>,
}

/// Transport of one attempt.
enum Transport {
    /// HTTP connection.
    Site(Arc<Endpoint>),
    /// Queue that the worker takes jobs from.
    Queue(Box<QueueExchange>),
}

impl Transport {
    fn worker(&self) -> &Arc<str> {
        match self {
            Self::Site(endpoint) => &endpoint.spec().id,
            Self::Queue(task) => &task.worker.spec.id,
        }
    }
}

/// Returns how many of these failures count against their workers.
pub(super) fn counted(failed_at: &[(Arc<str>, WorkerFailure)]) -> usize {
    failed_at.iter().filter(|(_, failure)| failure.counts()).count()
}

/// Why a pool gave no answer.
struct PoolFault {
    refusal: Refusal,
    /// How far a worker may have got with the request.
    trouble: RepeatSafety,
    /// The worker that failed, if one did.
    worker: Option<Arc<str>>,
}

impl From<Refusal> for PoolFault {
    /// Wraps a refusal of the gate, before another attempt.
    fn from(refusal: Refusal) -> Self {
        Self { refusal, trouble: RepeatSafety::NeverSent, worker: None }
    }
}

/// Response whose head has arrived.
pub(crate) struct WorkerAnswer {
    pub(super) head: response::Parts,
    pub(super) body: Box<OpenBody>,
    /// Wait for the content that lets the response be committed.
    pub(super) first_token_wait: FirstTokenWait,
}

impl<'a> Forward<'a> {
    /// Takes the extensions that earlier layers set on the request, and rewrites its headers.
    pub(crate) fn begin(
        upstream: &'a UpstreamInner,
        settings: &'a UpstreamSettings,
        request: Request<Payload>,
        lane: Option<&'a EarlyLane>,
    ) -> Result<Self, Refusal> {
        let (mut head, payload) = request.into_parts();
        let mut facts = std::mem::take(&mut head.extensions);
        let record = facts.remove::<Arc<RequestRecord>>().ok_or_else(|| {
            Refusal::new(Reason::InternalError, "Internal error: the request has no request record.")
        })?;
        let id = HeaderValue::from_str(&record.id).map_err(|_error| {
            Refusal::new(Reason::InternalError, "Internal error: the request id is not a valid header value.")
        })?;
        let request_cost = facts.get::<RequestCost>();
        let (kind, stream, retryable) = request_cost.map_or((Kind::Path, false, false), |request_cost| {
            (request_cost.kind, request_cost.stream, request_cost.retryable)
        });
        ForwardedFacts {
            kind,
            forwarding: facts.get::<Forwarding>(),
            forward_authorization: settings.forward_authorization,
            id: &id,
            trace: record.trace,
        }
        .apply(&mut head);
        let strip = facts.get::<Forwarding>().map_or(&[][..], |forwarding| &forwarding.strip);
        let uncalled =
            !payload.is_end_stream() && matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let (payload, upload) = upload::observe(payload, strip);
        let switch = facts.remove::<UpgradeTo>().zip(facts.remove::<OnUpgrade>());
        if let Some((UpgradeTo(protocol), _)) = &switch {
            headers::switch_to(&mut head.headers, protocol.clone());
        }
        let timeouts = settings.timeouts.for_route(facts.get::<RouteTimeouts>());
        let now = upstream.clock.now();
        upstream.budget.request(now);
        let mut forward = Self {
            upstream,
            lane,
            began: None,
            _room: facts.remove::<BodyReservation>(),
            settings,
            timeouts,
            total_deadline: now + timeouts.total,
            repeatable: is_repeatable(&head.method, retryable),
            head,
            payload: Some(payload),
            upload,
            unexpected_body: uncalled,
            kind,
            stream,
            injected: facts.get::<UsageInjected>().is_some(),
            switch,
            record,
            caller_and_cost: facts.remove::<Caller>().zip(facts.remove::<RequestCost>()),
            permit: facts.remove::<Permit>(),
            held: facts.remove::<HeldPermit>(),
            route: facts.remove::<Arc<ModelRoute>>(),
            model_part: facts.remove::<ModelPart>(),
            ticket: facts.remove::<JobTicket>(),
            turn: facts.remove::<Arc<SessionTurn>>(),
            id,
            retries: 0,
            failed_at: SmallVec::new(),
            failed_before: 0,
            resent: false,
            start: fastrand::usize(..),
            beside: facts.remove::<GatewayRequest>(),
            place: None,
            to_worker: facts.remove::<ToWorker>(),
        };
        // The pool of another model may have admitted the request.
        if let Some(taken) = forward.record.fallbacks().last() {
            forward.name_model(&taken.served);
        }
        Ok(forward)
    }

    /// Makes attempts until a response can be committed or no further attempt is allowed.
    pub(crate) async fn run(&mut self) -> Result<Response<Box<OpenBody>>, Refusal> {
        let answer = self.find_answer().await;
        self.tell_failures(answer.as_ref().ok());
        Ok(self.commit(answer?))
    }

    /// Reports failed workers. A request that fails at two would fail at any: it blames neither.
    fn tell_failures(&self, answer: Option<&WorkerAnswer>) {
        let Some(permit) = &self.permit else { return };
        let well = answer.is_some_and(|answer| answer.head.status.is_success());
        if answer.is_some() && !well {
            permit.answered_with_error();
        }
        if self.fails_anywhere() {
            return;
        }
        for (worker, failure) in &self.failed_at {
            if well {
                permit.convict(worker, *failure);
            } else {
                permit.suspect(worker, *failure);
            }
        }
    }

    /// Returns `true` if at least two workers failed the request.
    pub(super) fn fails_anywhere(&self) -> bool {
        self.failed_before + counted(&self.failed_at) > 1
    }

    /// Finds an answer in the first pool or, if that cannot serve the request, in those of fallbacks.
    async fn find_answer(&mut self) -> Result<WorkerAnswer, Refusal> {
        loop {
            let PoolFault { refusal, trouble, worker } = match self.find_in_pool().await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            if Box::pin(self.fall_back(FallbackReason::of(refusal.reason), trouble)).await {
                if let Some(route) = &self.route {
                    route.keep_refusal(&refusal);
                }
                continue;
            }
            if let Some(worker) = &worker {
                self.record.set_worker(worker);
            }
            return Err(self.first_refusal(refusal));
        }
    }

    /// Makes attempts at the workers of one pool.
    ///
    /// Futures of rare cases are boxed, here and below: otherwise each request would carry their size.
    async fn find_in_pool(&mut self) -> Result<WorkerAnswer, PoolFault> {
        loop {
            let way = self.way()?;
            let fault = match self.attempt_unless_preempted(&way).await {
                Some(Ok(Some(answer))) => {
                    if self.permit.as_ref().is_none_or(Permit::make_irrevocable) {
                        return Ok(answer);
                    }
                    Box::pin(self.requeue_preempted()).await?;
                    continue;
                }
                Some(Ok(None)) => continue,
                Some(Err(AttemptError::ColourSwitched)) => {
                    Box::pin(self.move_to_active_colour(way.worker())).await?;
                    continue;
                }
                Some(Err(fault)) => fault.blame_client_upload(self.upload.as_ref()),
                None => {
                    Box::pin(self.requeue_preempted()).await?;
                    continue;
                }
            };
            let worker = way.worker();
            tracing::debug!(%worker, request = %self.record.id, fault = fault.as_str(), "an attempt failed");
            if let Some(failure) = fault.blame() {
                self.blame(worker, failure);
            }
            if self.may_ask_another(fault.trouble()) {
                continue;
            }
            let trouble = fault.trouble();
            let again = match self.resubmit(trouble) {
                Ok(Some(waiter)) => Box::pin(self.wait(waiter)).await.map(|()| true),
                Ok(None) => Ok(false),
                Err(refusal) => Err(refusal),
            };
            match again {
                Ok(true) => continue,
                Ok(false) => {}
                Err(refusal) => return Err(PoolFault { refusal, trouble, worker: None }),
            }
            if let Some(permit) = &self.permit {
                permit.end(Ending::Refused);
            }
            let refusal = fault.into_refusal(worker);
            return Err(PoolFault { refusal, trouble, worker: Some(Arc::clone(worker)) });
        }
    }

    /// Makes one attempt, until its response can be committed. `None` if the permit was taken away
    /// meanwhile: dropping the attempt closes its connection, which tells the worker.
    async fn attempt_unless_preempted(
        &mut self,
        way: &Transport,
    ) -> Option<Result<Option<WorkerAnswer>, AttemptError>> {
        let yielding = self.permit.as_ref().filter(|permit| permit.yields()).cloned();
        let mut step = pin!(self.attempt_until_commit(way));
        poll_fn(|cx| {
            if let Some(permit) = &yielding
                && permit.poll_displaced(cx).is_ready()
            {
                return Poll::Ready(None);
            }
            step.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// Makes one attempt, until its response can be committed. Returns `None` if the worker refused
    /// the request and the permit was moved to another worker.
    async fn attempt_until_commit(&mut self, way: &Transport) -> Result<Option<WorkerAnswer>, AttemptError> {
        let began = *self.began.get_or_insert(self.upstream.clock.now());
        let mut answer = match way {
            Transport::Site(endpoint) => self.send_http(endpoint).await?,
            Transport::Queue(task) => Box::pin(self.queue(task)).await?,
        };
        let owed = self.upload.as_ref().is_some_and(Upload::is_owed);
        if let Transport::Site(endpoint) = way {
            self.hear_provider(endpoint, &mut answer.head)?;
        }
        if matches!(way, Transport::Site(_))
            && let Some(failure) = refusal_status(&answer.head).filter(|_| !owed)
        {
            self.blame(way.worker(), failure);
            let reason = fallback_reason(&answer.head);
            if self.may_ask_another(RepeatSafety::MaybeBegun)
                || Box::pin(self.fall_back(reason, RepeatSafety::MaybeBegun)).await
            {
                return Ok(None);
            }
        }
        if self.kind.has_demand()
            && answer.head.status.is_success()
            && BodyForm::of(&answer.head.headers) == BodyForm::Page
        {
            return Err(AttemptError::Unusable("a web page instead of an answer"));
        }
        if headers::is_coded(&answer.head.headers) {
            return Err(AttemptError::Unusable("a transfer coding that was not requested"));
        }
        let WorkerAnswer { head, body, first_token_wait } = &mut answer;
        let (at, id) = (began + self.timeouts.hold, &self.id);
        let early = self.lane.map(|lane| EarlyAnswer { at, lane, head, id });
        poll_fn(|cx| body.poll_open(first_token_wait, early.as_ref(), cx)).await?;
        Ok(Some(answer))
    }

    /// Learns from the answer of an external worker, and leaves in it only what concerns the client.
    fn hear_provider(&self, endpoint: &Endpoint, head: &mut response::Parts) -> Result<(), AttemptError> {
        let Some(quota) = endpoint.quota() else { return Ok(()) };
        let (worker, status) = (&endpoint.spec().id, head.status);
        let (mut news, refused) = (provider::news(head), provider::refused(head));
        if let Some(WorkerFailure::Busy(Some(_))) = refused {
            // It says when to come back, which may be before the limit is full again.
            news.reset = None;
        }
        quota.learn(&news, self.upstream.clock.now());
        let Some(failure) = refused else {
            provider::keep_content(&mut head.headers);
            return Ok(());
        };
        if let Some(metrics) = self.upstream.metrics.get() {
            metrics.provider(worker).count(failure == WorkerFailure::Rejected);
        }
        if let WorkerFailure::Busy(wait) = failure {
            return Err(AttemptError::Exhausted(wait));
        }
        tracing::error!(%worker, %status, "the provider rejects the gateway's credentials; check the worker's `headers`");
        Err(AttemptError::Rejected(status))
    }

    /// Waits for another permit after a critical request took this one's.
    async fn requeue_preempted(&mut self) -> Result<(), Refusal> {
        let lost = || {
            Refusal::new(
                Reason::InternalError,
                "The request lost its permit and cannot be sent again: its body is gone.",
            )
        };
        let permit = self.permit.as_ref().filter(|_| self.payload.is_some()).ok_or_else(lost)?;
        let waiter = permit.waiter()?.ok_or_else(lost)?;
        self.wait(waiter).await
    }

    /// Queues the request at the gate again if it may be retried but all other workers are full.
    fn resubmit(&mut self, trouble: RepeatSafety) -> Result<Option<Waiter>, Refusal> {
        let Some((permit, (caller, request_cost))) = self.permit.as_ref().zip(self.caller_and_cost.as_ref())
        else {
            return Ok(None);
        };
        let now = self.upstream.clock.now();
        if !self.may_retry(trouble, now) {
            return Ok(None);
        }
        let waiter = permit.resubmit(&PermitRequest::of(caller, request_cost))?;
        match waiter {
            Some(_) => self.retries += 1,
            None => self.upstream.budget.give_back(now),
        }
        Ok(waiter)
    }

    /// Moves to a worker of the newly active colour. Nothing was sent, so this is no retry.
    async fn move_to_active_colour(&mut self, from: &str) -> Result<(), Refusal> {
        let Some(permit) = &self.permit else { return Ok(()) };
        if permit.reassign().is_some() {
            return Ok(());
        }
        let waiter = match &self.caller_and_cost {
            Some((caller, request_cost)) => permit.resubmit(&PermitRequest::of(caller, request_cost))?,
            None => None,
        };
        let Some(waiter) = waiter else {
            permit.end(Ending::Refused);
            return Err(AttemptError::ColourSwitched.into_refusal(from));
        };
        self.wait(waiter).await
    }

    /// Returns `true` if the worker's colour is still active: the pool may have been switched while
    /// the connection was being made.
    fn is_active(&self, endpoint: &Endpoint) -> bool {
        let fleet = self.upstream.fleet.load();
        fleet.worker(&endpoint.spec().id).is_none_or(|worker| worker.active)
    }

    /// Waits for a permit and takes it over.
    async fn wait(&mut self, mut waiter: Waiter) -> Result<(), Refusal> {
        let since = self.upstream.clock.now();
        let budget = waiter.expires_at().since(since);
        let outcome = match tokio::time::timeout(budget, &mut waiter).await {
            Ok(outcome) => outcome,
            Err(_) => Err(waiter.give_up()),
        };
        if let Some(permit) = &self.permit {
            self.record.set_queued(permit.waited() + self.upstream.clock.now().since(since));
            permit.take_over(&outcome?);
        }
        Ok(())
    }

    /// Returns the transport to the worker of the next attempt.
    fn way(&mut self) -> Result<Transport, Refusal> {
        let fleet = self.upstream.fleet.load();
        let worker = match (&self.permit, &self.to_worker) {
            (Some(permit), _) => fleet.worker(&permit.worker()),
            (None, Some(ToWorker(worker))) => fleet.worker(worker),
            // No permit, no load: any worker will do, and the next one if it fails.
            (None, None) => {
                let beside = &self.beside;
                let meant = |pool: &str| beside.as_ref().is_none_or(|GatewayRequest(meant)| **meant == *pool);
                // Nobody pays an external worker for such a request.
                let serves = |worker: &&Arc<FleetWorker>| worker.eligible && worker.spec.external.is_none();
                let eligible =
                    || fleet.workers().iter().filter(serves).filter(|worker| meant(&worker.spec.pool));
                let count = eligible().count();
                let first = self.start.wrapping_add(self.retries as usize) % count.max(1);
                let mut in_turn = eligible().cycle().skip(first).take(count);
                match kinds::row(self.kind).beside {
                    None => in_turn.next(),
                    Some(bounds) => {
                        // The attempt before has left its worker.
                        self.place = None;
                        let ids = in_turn.map(|worker| &worker.spec.id);
                        let place = self.upstream.beside.enter(ids, bounds.per_worker)?;
                        let worker = place.as_ref().and_then(|place| fleet.worker(place.worker()));
                        self.place = place.map(Box::new);
                        worker
                    }
                }
            }
        };
        let worker = worker
            .ok_or_else(|| Refusal::new(Reason::NoWorker, "No worker is available for this request."))?;
        if let Some(settings) = &self.settings.queue {
            return self.task(settings, worker).map(|task| Transport::Queue(Box::new(task)));
        }
        self.upstream.endpoints.of(worker, &fleet, &self.upstream.clock).map(Transport::Site).map_err(
            |error| {
                tracing::error!(%error, "a worker cannot be used: its settings are wrong");
                Refusal::new(
                    Reason::UpstreamUnreachable,
                    format!("Worker {} is misconfigured.", worker.spec.id),
                )
            },
        )
    }

    fn blame(&mut self, worker: &Arc<str>, failure: WorkerFailure) {
        if let Some(permit) = &self.permit {
            permit.worker_failed(failure);
            self.failed_at.push((Arc::clone(worker), failure));
        }
    }

    /// Returns `true` if one more attempt makes sense after `trouble`.
    fn allows_retry(&self, trouble: RepeatSafety) -> bool {
        trouble.allows_another(self.repeatable)
            && self.to_worker.is_none()
            && self.payload.is_some()
            && self.retries < self.settings.retry.max
            && !self.fails_anywhere()
    }

    /// Returns `true` if one more attempt is allowed after `trouble`, and charges the retry budget.
    fn may_retry(&self, trouble: RepeatSafety, now: Nanos) -> bool {
        self.allows_retry(trouble) && self.upstream.budget.spend(self.settings.retry.budget, now)
    }

    /// Returns `true` if the request goes to another worker; its permit has then moved there.
    fn may_ask_another(&mut self, trouble: RepeatSafety) -> bool {
        let now = self.upstream.clock.now();
        if !self.may_retry(trouble, now) {
            return false;
        }
        let there_is_one = match &self.permit {
            Some(permit) => permit.reassign().is_some(),
            None => self.upstream.fleet.load().workers().len() > 1,
        };
        if !there_is_one {
            self.upstream.budget.give_back(now);
            return false;
        }
        self.retries += 1;
        true
    }

    /// Sends the request to one worker and waits for the response head.
    async fn send_http(&mut self, endpoint: &Arc<Endpoint>) -> Result<WorkerAnswer, AttemptError> {
        let clock = &self.upstream.clock;
        let (mut link, mut reused) = self.linker().link(endpoint, true).await?;
        if !self.is_active(endpoint) {
            return Err(AttemptError::ColourSwitched);
        }
        let mut request = self.message(endpoint);
        let mut spare =
            if reused || link.is_shared() { self.clone_request(&request, link.is_shared()) } else { None };
        // A shared connection may be closing, and so may the next.
        let mut unsent_left = UNSENT_MAX;
        loop {
            let sent = clock.now();
            self.record.set_dispatched(sent);
            if let Some(permit) = &self.permit {
                permit.dispatched();
            }
            let mut first_token_wait = self.first_token_wait(sent, self.stream);
            let mut timer = LazyTimer::default();
            if self.switch.is_some() {
                link.allow_switch();
            }
            let (fault, unsent) =
                match exchange(&mut link, request, &mut timer, &mut first_token_wait, clock).await {
                    Ok(answer) => return Ok(self.receive(endpoint, link, answer, timer, sent)),
                    Err(failed) => failed,
                };
            request = match (unsent, &fault) {
                (Some(unsent), _) if link.is_shared() && unsent_left > 0 => {
                    unsent_left -= 1;
                    link.retire();
                    *unsent
                }
                (Some(unsent), _) if reused => {
                    endpoint.count_stale();
                    *unsent
                }
                (Some(unsent), _) => {
                    self.restore_unsent(*unsent, endpoint);
                    return Err(fault);
                }
                (None, AttemptError::Unprocessed) => match self.resend(endpoint, &mut spare, true) {
                    Some(request) => request,
                    None => {
                        if let Some(spare) = spare.take() {
                            self.restore_unsent(spare, endpoint);
                        }
                        return Err(fault);
                    }
                },
                // The client's body failed, which ends its stream and no connection.
                (None, _) if self.upload.as_ref().is_some_and(|upload| upload.fault().is_some()) => {
                    return Err(fault);
                }
                (None, _) if reused && self.ended_idle(&fault, &link, sent) => {
                    // The worker closed the idle connection while the request was being written.
                    link.retire();
                    if !link.is_shared() {
                        endpoint.count_stale();
                    }
                    self.resend(endpoint, &mut spare, false).ok_or_else(|| fault.stale())?
                }
                (None, _) => return Err(fault),
            };
            tracing::debug!(
                worker = %endpoint.spec().id,
                request = %self.record.id,
                "the worker closed the connection or refused the stream; sending the request again"
            );
            drop(link);
            (link, reused) = match self.linker().link(endpoint, false).await {
                Ok(linked) => linked,
                Err(error) => {
                    self.restore_unsent(request, endpoint);
                    return Err(error.into());
                }
            };
            if !self.is_active(endpoint) {
                self.restore_unsent(request, endpoint);
                return Err(AttemptError::ColourSwitched);
            }
        }
    }

    fn linker(&self) -> Linker<'_> {
        Linker {
            clock: &self.upstream.clock,
            settings: self.settings,
            wait: self.timeouts.connect,
            total: (self.timeouts.total, self.total_deadline),
            upgrade: self.switch.is_some(),
        }
    }

    /// Returns `true` if a reused connection ended for having been idle: before any byte came back
    /// and within the connect timeout. One that ends later was working on the request.
    fn ended_idle(&self, fault: &AttemptError, link: &WorkerLink, sent: Nanos) -> bool {
        let clock = &self.upstream.clock;
        let now = clock.now();
        let late = now.since(sent).saturating_sub(clock.lag().overlap(sent, now));
        matches!(fault, AttemptError::Broke(_)) && link.is_unheard() && late < self.timeouts.connect
    }

    /// Copies a request that may be sent again, unless [`Forward::message`] can build it again. On a
    /// `shared` connection the worker may refuse any request before it begins.
    fn clone_request(&self, request: &Request<Payload>, shared: bool) -> Option<Request<Payload>> {
        if !(self.repeatable || shared) || self.resent || self.payload.is_some() {
            return None;
        }
        let mut spare = Request::new(request.body().try_clone()?);
        spare.method_mut().clone_from(request.method());
        spare.uri_mut().clone_from(request.uri());
        spare.headers_mut().clone_from(request.headers());
        Some(spare)
    }

    /// Returns the request again for the same worker: once, and only if it is repeatable or the
    /// worker did not begin it (`unbegun`). No worker failed, so this is no retry and needs no budget.
    fn resend(
        &mut self,
        endpoint: &Endpoint,
        spare: &mut Option<Request<Payload>>,
        unbegun: bool,
    ) -> Option<Request<Payload>> {
        if !(self.repeatable || unbegun) || std::mem::replace(&mut self.resent, true) {
            return None;
        }
        spare.take().or_else(|| self.payload.is_some().then(|| self.message(endpoint)))
    }

    /// Builds the request for this worker. Keeps what another attempt needs, if there can be one.
    fn message(&mut self, endpoint: &Endpoint) -> Request<Payload> {
        let elsewhere =
            self.retries < self.settings.retry.max && self.upstream.fleet.load().workers().len() > 1;
        let later = self.permit.as_ref().is_some_and(Permit::yields);
        let falls_back = self.route.as_ref().is_some_and(|route| route.has_fallback());
        let external = endpoint.quota().is_some();
        let another = (self.repeatable || endpoint.may_refuse()) && (elsewhere || later || falls_back);
        let copy = if another { self.payload.as_ref().and_then(Payload::try_clone) } else { None };
        let (mut fields, payload) = match copy {
            Some(payload) => (self.head.headers.clone(), payload),
            None => {
                // A provider gets only some of the fields; another worker would get all.
                let fields =
                    if external { self.head.headers.clone() } else { std::mem::take(&mut self.head.headers) };
                (fields, self.payload.take().unwrap_or_else(Payload::empty))
            }
        };
        if external {
            provider::keep_allowed(&mut fields);
            if let Some(upload) = &self.upload {
                upload.drop_trailers();
            }
        }
        fields.insert(HOST, endpoint.authority.clone());
        if !payload.is_end_stream() && payload.size_hint().exact().is_none() {
            // Without this field a GET has no body for the HTTP client.
            fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        for (name, value) in &endpoint.spec().headers {
            fields.insert(name, value.clone());
        }
        let mut request = Request::new(payload);
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = endpoint.target_of(&self.head.uri);
        *request.headers_mut() = fields;
        request
    }

    /// Restores headers and body from a message that was never written, for another worker. A
    /// client's field that the worker's own replaced is lost. If a copy was kept, nothing changes.
    fn restore_unsent(&mut self, unsent: Request<Payload>, endpoint: &Endpoint) {
        if self.payload.is_some() {
            return;
        }
        let (mut head, payload) = unsent.into_parts();
        for name in endpoint.spec().headers.keys() {
            head.headers.remove(name);
        }
        if endpoint.quota().is_none() {
            self.head.headers = head.headers;
        }
        self.payload = Some(payload);
    }

    /// Creates the wait for a request dispatched at `sent`; a movable one may leave early.
    fn first_token_wait(&self, sent: Nanos, stream: bool) -> FirstTokenWait {
        let movable = stream && self.allows_retry(RepeatSafety::MaybeBegun);
        let permit = self.permit.clone().filter(|_| movable);
        FirstTokenWait::new(self.response_deadline(sent, stream), permit, self.upstream.clock.now())
    }

    /// Returns the deadline of a request dispatched at `sent`, and the timeout that sets it.
    pub(super) fn response_deadline(&self, sent: Nanos, stream: bool) -> (Deadline, TimedOutWait) {
        let UpstreamTimeouts { first_token, total, .. } = self.timeouts;
        let deadline = Deadline { since: sent, wait: first_token, total: (total, self.total_deadline) };
        if stream && sent + first_token < self.total_deadline {
            (deadline, TimedOutWait::FirstToken(first_token))
        } else {
            (Deadline { wait: self.total_deadline.since(sent), ..deadline }, TimedOutWait::Total(total))
        }
    }

    /// Builds the answer from a response head, or starts the tunnel after a protocol switch.
    fn receive(
        &mut self,
        endpoint: &Arc<Endpoint>,
        link: WorkerLink,
        mut head: response::Parts,
        timer: LazyTimer,
        sent: Nanos,
    ) -> WorkerAnswer {
        let reusable = !self.unexpected_body && !headers::says_two_lengths(&head.headers);
        location::relocate(&mut head.headers, &endpoint.authority, endpoint.prefix());
        let observer = self.observer(&head, &endpoint.spec().id);
        let first_token_wait = self.first_token_wait(sent, observer.is_stream());
        if let Some(permit) = self.permit.as_ref().filter(|_| observer.is_stream() && !self.stream) {
            permit.answered_as_stream();
        }
        let (limits, clock) = (self.limits(), self.upstream.clock.clone());
        let body = if head.status == StatusCode::SWITCHING_PROTOCOLS {
            if let (Some((_, client)), Some(worker)) = (self.switch.take(), link.into_stream()) {
                tokio::spawn(tunnel(client, worker, self.timeouts.idle, self.permit.clone(), clock.clone()));
            }
            OpenBody::new(None, observer, timer, clock, limits)
        } else {
            let source = AnswerSource::Http(HttpSource::new(link, Arc::clone(endpoint), reusable));
            OpenBody::new(Some(source), observer, timer, clock, limits)
        };
        WorkerAnswer { head, body, first_token_wait }
    }

    /// Creates the observer of a response with this head.
    pub(super) fn observer(&self, head: &response::Parts, worker: &Arc<str>) -> AnswerObserver {
        let reading = self.reading(head.status, BodyForm::of(&head.headers));
        let sequences = self.caller_and_cost.as_ref().map_or(1, |(_, request_cost)| request_cost.sequences);
        let closing = self.upstream.closing.clone();
        let caller = self.caller_and_cost.as_ref().map(|(caller, _)| caller);
        let shown = caller.and_then(|caller| caller.answer_headers).unwrap_or(self.settings.answer_headers);
        let observer = AnswerObserver::new(
            Arc::clone(&self.record),
            self.permit.clone(),
            worker,
            reading,
            sequences,
            closing,
        );
        if shown == AnswerHeaders::default() {
            return observer;
        }
        let asked = || self.record.asked().and_then(|asked| asked.model.clone());
        let model = self.record.served().or_else(asked);
        observer.with_names(AnswerNames::of(shown, model.as_deref(), worker))
    }

    fn reading(&self, status: StatusCode, form: BodyForm) -> AnswerReading {
        if !status.is_success() {
            return AnswerReading::Opaque;
        }
        let row = kinds::row(self.kind);
        match (self.kind.has_demand(), form) {
            (true, BodyForm::Events { encoded: false }) => {
                AnswerReading::Stream { filtered: self.injected, format: row.events }
            }
            (true, BodyForm::Lines { encoded: false }) => AnswerReading::Lines,
            (true, BodyForm::Events { encoded: true } | BodyForm::Lines { encoded: true }) => {
                AnswerReading::Unread
            }
            // The client asked for a stream; the worker sends one in a format of its own.
            (true, BodyForm::Other) if self.stream || row.begins_with_first_byte => AnswerReading::Unread,
            (true, BodyForm::Document { encoded: false } | BodyForm::Page | BodyForm::Other) => {
                AnswerReading::Json
            }
            (false, BodyForm::Events { encoded }) => AnswerReading::OtherStream { events: !encoded },
            (false, BodyForm::Lines { .. }) => AnswerReading::OtherStream { events: false },
            (true, BodyForm::Document { encoded: true }) | (false, _) => AnswerReading::Opaque,
        }
    }

    pub(super) const fn limits(&self) -> AnswerTimeouts {
        AnswerTimeouts { idle: self.timeouts.idle, total: (self.timeouts.total, self.total_deadline) }
    }

    fn commit(&mut self, answer: WorkerAnswer) -> Response<Box<OpenBody>> {
        let WorkerAnswer { mut head, mut body, .. } = answer;
        body.keep(self.place.take());
        // HTTP versions are per connection: the client's may stay open where the worker's closes.
        head.version = Version::HTTP_11;
        self.record.set_worker(body.worker());
        let switched = head.headers.get(UPGRADE).cloned();
        body.observer().prepare_head(&mut head.headers, &self.id);
        if let (StatusCode::SWITCHING_PROTOCOLS, Some(protocol)) = (head.status, switched) {
            headers::switch_to(&mut head.headers, protocol);
        }
        body.commit();
        Response::from_parts(head, body)
    }
}
