//! One attempt over a queue: the job that is put into it, and the wait for the head of its answer.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};

use tokio::time::Instant;

use super::{Forward, WorkerAnswer};
use crate::fleet::FleetWorker;
use crate::redis::jobs::{self, AwaitedJob, Job, JobRequest, JobTicket, Side, caller_hash, for_worker};
use crate::refusal::{Reason, Refusal};
use crate::request::Payload;
use crate::upstream::body::{AnswerSource, OpenBody};
use crate::upstream::error::AttemptError;
use crate::upstream::first_token::FirstTokenWait;
use crate::upstream::lazy_timer::LazyTimer;
use crate::upstream::queue::{JobSource, QueueExchange, poll_begin};
use crate::upstream::settings::QueueSettings;

impl Forward<'_> {
    /// Collects what is needed to put this request into the queue of `worker`.
    pub(super) fn task(
        &self,
        settings: &QueueSettings,
        worker: &Arc<FleetWorker>,
    ) -> Result<QueueExchange, Refusal> {
        let Some(jobs) = &self.upstream.jobs else {
            return Err(Refusal::new(
                Reason::UpstreamUnreachable,
                "This gateway was started without a queue; restart it to use `workers.mode: queue`.",
            ));
        };
        let pieces = match self.payload.as_ref().and_then(Payload::pieces) {
            Some(pieces) if self.kind.has_demand() => pieces.to_vec(),
            _ => {
                return Err(Refusal::new(
                    Reason::Unsupported,
                    "Queue workers accept model calls only; this path needs `workers.mode: http`.",
                ));
            }
        };
        Ok(QueueExchange {
            worker: Arc::clone(worker),
            settings: settings.clone(),
            jobs: jobs.clone(),
            pieces,
        })
    }

    /// Puts the request into the queue and waits for the response head.
    pub(super) async fn queue(&mut self, task: &QueueExchange) -> Result<WorkerAnswer, AttemptError> {
        let clock = &self.upstream.clock;
        let spec = &task.worker.spec;
        let side = Side { pool: Arc::clone(&spec.pool), colour: Arc::clone(&spec.colour) };
        // Without configured or reported slots, only the limit algorithm sets a bound.
        let ceiling = spec.slots.unwrap_or(u32::MAX);
        let mut awaited = self.put(task, &side, ceiling).await.map_err(AttemptError::NotQueued)?;
        let sent = clock.now();
        self.record.set_dispatched(sent);
        if let Some(permit) = &self.permit {
            permit.dispatched();
            if let Some(wait) = awaited.wait_for_worker() {
                permit.waits_for_session(wait);
            }
        }
        let (deadline, wait) = self.response_deadline(sent, self.stream);
        let mut timer = LazyTimer::default();
        let mut head = None;
        let begun = poll_fn(|cx| {
            if let Poll::Ready(begun) = poll_begin(&mut awaited, &mut head, cx) {
                return Poll::Ready(begun.map_err(AttemptError::Job));
            }
            ready!(timer.poll_overdue(&deadline, clock, cx));
            awaited.expire();
            Poll::Ready(Err(AttemptError::Silent(deadline.ended(wait, clock.now()))))
        });
        let ((head, by), first) = begun.await?;
        task.note_answer(&by, clock.now());
        if let (Some(permit), Some(wait)) = (&self.permit, awaited.wait_for_worker())
            && let Some(waited) = by.waited_alone(wait)
        {
            permit.session_begun_after(waited);
        }
        // Only a worker that names its side reads a stream of its own.
        if let (Some(turn), Some(worker), Some(_)) = (&self.turn, &by.worker, &by.colour) {
            turn.answered_by(worker);
        }
        // The side only gave the permit: the worker that answered is the one to name.
        let observer = self.observer(&head, by.worker.as_ref().unwrap_or(&spec.id));
        // There is no other worker to move to: any worker of the queue takes the job over.
        let first_token_wait =
            FirstTokenWait::new(self.response_deadline(sent, observer.is_stream()), None, clock.now());
        let source = AnswerSource::Job(Box::new(JobSource::new(awaited, first)));
        let body = OpenBody::new(Some(source), observer, timer, clock.clone(), self.limits());
        Ok(WorkerAnswer { head, body, first_token_wait })
    }

    /// Puts the request into the queue: as a new job, or as the job that it already is.
    async fn put(
        &mut self,
        task: &QueueExchange,
        side: &Side,
        ceiling: u32,
    ) -> Result<AwaitedJob, jobs::SubmitRefused> {
        let until = Instant::now() + task.settings.wait;
        let within = self.total_deadline.since(self.upstream.clock.now());
        let caller =
            self.caller_and_cost.as_ref().map(|(caller, _)| caller_hash(&caller.id)).unwrap_or_default();
        let (job, trial) = match &self.ticket {
            Some(JobTicket::Pending(job)) => {
                return task.jobs.promote(*job, &caller, side, ceiling, (until, within)).await;
            }
            Some(JobTicket::Repeatable(trial)) => (trial.job(), Some(Arc::clone(trial))),
            None => (Job::random().ok_or(jobs::SubmitRefused::NoName)?, None),
        };
        let request = JobRequest {
            path: self.head.uri.path().to_owned(),
            headers: for_worker(&self.head.headers),
            body: task.pieces.concat(),
            caller,
            class: self.caller_and_cost.as_ref().map_or("", |(caller, _)| caller.class.as_str()),
            stream: self.stream,
            within,
            trial,
            key: task.settings.key.clone(),
        };
        let before = self.turn.as_ref().and_then(|turn| turn.before());
        let own = before.and_then(|worker| task.jobs.own_stream(worker, side));
        let own = own.map(|own| (own, task.settings.sticky_wait));
        let mut awaited = task.jobs.submit(job, side, (ceiling, until), own, &request).await?;
        awaited.hold(self.turn.clone());
        Ok(awaited)
    }
}
