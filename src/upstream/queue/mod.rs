//! Forwarding over a queue: an admitted request becomes a job, the job's output the response.
//!
//! From the response head on all is as over HTTP: holding until the first content, observing,
//! freeing the permit, ending a failed stream. Dropping the request's future or body cancels the
//! job.
//!
//! **Failure mode.** If a worker dies, another claims its unanswered jobs after three missed
//! renewals. The client gets the new response if it has seen nothing of the first.

mod source;

pub(crate) use source::JobSource;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::response;
use tokio::time::Instant;

use super::alarm::Alarm;
use super::body::Open;
use super::fault::Fault;
use super::journey::{Answer, Journey};
use super::settings::QueueSettings;
use super::source::Source;
use super::vigil::Vigil;
use crate::fleet::Worker;
use crate::redis::jobs::{
    self, Awaited, Entry, Job, Jobs, Kind, Request, Side, Ticket, for_worker, nameless, read_head,
};
use crate::refusal::{Reason, Refusal};
use crate::request::Payload;

/// A request about to enter a queue.
pub(crate) struct Errand {
    /// Pool and colour, as the gate knows them.
    pub(super) worker: Arc<Worker>,
    settings: QueueSettings,
    jobs: Jobs,
    pieces: Vec<Bytes>,
}

impl Journey<'_> {
    /// Collects what is needed to put this request into the queue of `worker`.
    pub(super) fn errand(&self, settings: &QueueSettings, worker: &Arc<Worker>) -> Result<Errand, Refusal> {
        let Some(jobs) = &self.upstream.jobs else {
            return Err(Refusal::new(
                Reason::UpstreamUnreachable,
                "Workers take from a queue only after a restart of the gateway.",
            ));
        };
        let pieces = match &self.payload {
            Some(Payload::Buffered(pieces)) if self.kind.has_demand() => pieces.to_vec(),
            _ => {
                return Err(Refusal::new(
                    Reason::Unsupported,
                    "Workers of a queue take model calls only; this path needs `workers.mode: http`.",
                ));
            }
        };
        Ok(Errand { worker: Arc::clone(worker), settings: settings.clone(), jobs: jobs.clone(), pieces })
    }

    /// Puts the request into the queue and waits for the response head.
    pub(super) async fn queue(&mut self, errand: &Errand) -> Result<Answer, Fault> {
        let clock = &self.upstream.clock;
        let spec = &errand.worker.spec;
        let side = Side { pool: Arc::clone(&spec.pool), colour: Arc::clone(&spec.colour) };
        // Without configured or reported slots, only the limit algorithm sets a bound.
        let ceiling = spec.slots.unwrap_or(u32::MAX);
        let mut awaited = self.put(errand, &side, ceiling).await.map_err(Fault::NotQueued)?;
        let sent = clock.now();
        self.flight.set_dispatched(sent);
        if let Some(permit) = &self.permit {
            permit.dispatched();
        }
        let (deadline, wait) = self.until(sent, self.stream);
        let mut alarm = Alarm::new(deadline.due(Duration::ZERO), sent);
        let mut head = None;
        let begun = poll_fn(|cx| {
            if let Poll::Ready(begun) = poll_begin(&mut awaited, &mut head, cx) {
                return Poll::Ready(begun);
            }
            ready!(alarm.poll_overdue(&deadline, clock, cx));
            awaited.expire();
            Poll::Ready(Err(Fault::Silent(deadline.ended(wait, clock.now()))))
        });
        let (head, first) = begun.await?;
        let watch = self.watch(&head, &spec.id);
        // There is no other worker to move to: any worker of the queue takes the job over.
        let vigil = Vigil::new(self.until(sent, watch.is_stream()), None, clock.now());
        let source = Source::Job(Box::new(JobSource::new(awaited, first)));
        let body = Open::new(Some(source), watch, alarm, clock.clone(), self.limits());
        Ok(Answer { head, body, vigil })
    }

    /// Puts the request into the queue: as a new job, or as the job that it already is.
    async fn put(&mut self, errand: &Errand, side: &Side, ceiling: u32) -> Result<Awaited, jobs::Refused> {
        let until = Instant::now() + errand.settings.wait;
        let within = self.over.since(self.upstream.clock.now());
        let caller = self.asker.as_ref().map(|(caller, _)| nameless(&caller.id)).unwrap_or_default();
        let (job, trial) = match &self.ticket {
            Some(Ticket::Pending(job)) => {
                return errand.jobs.promote(*job, &caller, side, ceiling, (until, within)).await;
            }
            Some(Ticket::Repeatable(trial)) => (trial.job(), Some(Arc::clone(trial))),
            None => (Job::random().ok_or(jobs::Refused::NoName)?, None),
        };
        let request = Request {
            path: self.head.uri.path().to_owned(),
            headers: for_worker(&self.head.headers),
            body: errand.pieces.concat(),
            caller,
            class: self.asker.as_ref().map_or("", |(caller, _)| caller.class.as_str()),
            stream: self.stream,
            within,
            trial,
            key: errand.settings.key.clone(),
        };
        errand.jobs.submit(job, side, ceiling, until, &request).await
    }
}

/// Reads the head and the entry after it. The head of a later run replaces that of an earlier one,
/// of which nothing was sent yet.
fn poll_begin(
    awaited: &mut Awaited,
    head: &mut Option<response::Parts>,
    cx: &mut std::task::Context<'_>,
) -> Poll<Result<(response::Parts, Entry), Fault>> {
    loop {
        let entry = ready!(awaited.poll_entry(cx));
        match entry.kind {
            Kind::Head => match read_head(&entry.data) {
                Some(read) => *head = Some(read),
                None => {
                    return Poll::Ready(Err(Fault::Job(jobs::Fault::broke("its answer has no proper head"))));
                }
            },
            Kind::Error => return Poll::Ready(Err(Fault::Job(jobs::Fault::read(&entry.data)))),
            Kind::Data | Kind::End => {
                let begun =
                    head.take().ok_or_else(|| Fault::Job(jobs::Fault::broke("its answer has no head")));
                return Poll::Ready(begun.map(|head| (head, entry)));
            }
        }
    }
}
