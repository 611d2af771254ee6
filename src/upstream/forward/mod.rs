//! The attempt loop: sends one request to workers until a response can be committed.
//!
//! | file | content |
//! | --- | --- |
//! | `begin` | what the request brings |
//! | `send` | one attempt over HTTP |
//! | `queue` | one attempt over a queue |
//! | `receive` | from the head of a response to the answer |
//! | `another` | whether and where the request is sent once more |
//! | `fallback` | another model when the first cannot serve the request |

mod another;
mod begin;
mod fallback;
mod queue;
mod receive;
mod send;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http::{HeaderValue, Response, request, response};
use hyper::upgrade::OnUpgrade;
use smallvec::SmallVec;

use super::UpstreamInner;
use super::beside::BesidePlace;
use super::body::{EarlyAnswer, EarlyLane, OpenBody};
use super::connections::Endpoint;
use super::error::{AttemptError, RepeatSafety};
use super::first_token::FirstTokenWait;
use super::headers;
use super::provider;
use super::queue::QueueExchange;
use super::settings::{UpstreamSettings, UpstreamTimeouts};
use super::status::{fallback_reason, refusal_status};
use super::upload::Upload;
use crate::clock::Nanos;
use crate::models::{FallbackReason, ModelRoute};
use crate::redis::jobs::{JobTicket, SessionTurn};
use crate::refusal::Refusal;
use crate::request::{
    BodyReservation, Caller, Ending, GatewayRequest, Kind, ModelPart, Payload, RequestCost, RequestRecord,
    ToWorker, UpgradeTo,
};
use crate::shed::{HeldPermit, Permit, WorkerFailure};

/// A request being forwarded, with its state across attempts.
pub(crate) struct Forward<'a> {
    upstream: &'a UpstreamInner,
    /// Slot for a response that starts before its content; `None` if that is not allowed.
    lane: Option<&'a EarlyLane>,
    /// Start of the first attempt.
    began: Option<Nanos>,
    /// Memory reserved for the request body, released on drop.
    _room: Option<BodyReservation>,
    settings: &'a UpstreamSettings,
    timeouts: UpstreamTimeouts,
    /// Deadline of `timeouts.total`.
    total_deadline: Nanos,
    head: request::Parts,
    /// Taken by the attempt that may be the last.
    payload: Option<Payload>,
    /// State of a streamed request body; `None` if the body is empty or in memory.
    upload: Option<Upload>,
    /// `true` if a GET, HEAD or OPTIONS has a body, which a worker may take for the next request.
    unexpected_body: bool,
    kind: Kind,
    stream: bool,
    repeatable: bool,
    injected: bool,
    /// Requested protocol upgrade: the protocol and the client's connection.
    switch: Option<(UpgradeTo, OnUpgrade)>,
    record: Arc<RequestRecord>,
    permit: Option<Permit>,
    /// What `shed` holds; a fallback replaces the permit in it.
    held: Option<HeldPermit>,
    /// Fallbacks of the model.
    route: Option<Arc<ModelRoute>>,
    /// Piece of the body that names the model.
    model_part: Option<ModelPart>,
    /// Caller and request cost, for asking the gate again.
    caller_and_cost: Option<(Caller, RequestCost)>,
    /// Queue job assigned to the request before it came here.
    ticket: Option<JobTicket>,
    /// Turn in its session; it ends with the answer.
    turn: Option<Arc<SessionTurn>>,
    id: HeaderValue,
    retries: u32,
    /// Workers that failed the request, and how.
    failed_at: SmallVec<[(Arc<str>, WorkerFailure); 2]>,
    /// Workers of earlier pools that failed it so that it counts against them.
    failed_before: usize,
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
fn counted(failed_at: &[(Arc<str>, WorkerFailure)]) -> usize {
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
struct WorkerAnswer {
    head: response::Parts,
    body: Box<OpenBody>,
    /// Wait for the content that lets the response be committed.
    first_token_wait: FirstTokenWait,
}

impl<'a> Forward<'a> {
    /// Makes attempts until a response can be committed or no further attempt is allowed.
    pub(crate) async fn run(&mut self) -> Result<Response<Box<OpenBody>>, Refusal> {
        let answer = self.find_answer().await;
        self.tell_failures(answer.as_ref().ok());
        Ok(self.commit(answer?))
    }

    /// Reports failed workers. A request that fails at two would fail at any: it blames neither.
    fn tell_failures(&self, answer: Option<&WorkerAnswer>) {
        let Some(permit) = &self.permit else { return };
        let well = answer.is_some_and(|answer| {
            answer.head.status.is_success() && !answer.body.observer().begins_with_error()
        });
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
    fn fails_anywhere(&self) -> bool {
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
        if let Some(instead) = self.no_answer(&answer.head).filter(|_| !owed) {
            return Err(AttemptError::Unusable(instead));
        }
        if headers::is_coded(&answer.head.headers) {
            return Err(AttemptError::Unusable("a transfer coding that was not requested"));
        }
        let WorkerAnswer { head, body, first_token_wait } = &mut answer;
        let (at, id) = (began + self.timeouts.hold, &self.id);
        let early = self.lane.map(|lane| EarlyAnswer { at, lane, head, id });
        poll_fn(|cx| body.poll_open(first_token_wait, early.as_ref(), cx)).await?;
        if answer.body.observer().begins_with_error() && !owed {
            // Like an error status: another worker may do better, and else the client reads this one.
            self.blame(way.worker(), WorkerFailure::Error);
            if self.may_ask_another(RepeatSafety::MaybeBegun)
                || Box::pin(self.fall_back(Some(FallbackReason::Failed), RepeatSafety::MaybeBegun)).await
            {
                self.record.forget_error();
                return Ok(None);
            }
        }
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
}
