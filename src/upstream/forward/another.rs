//! Whether and where a request is sent once more: another worker, another permit, the active colour.

use std::sync::Arc;

use super::{Forward, Transport};
use crate::clock::Nanos;
use crate::fleet::FleetWorker;
use crate::openai::kinds;
use crate::refusal::{Reason, Refusal};
use crate::request::{Ending, GatewayRequest, ToWorker};
use crate::shed::{PermitRequest, Waiter, WorkerFailure};
use crate::upstream::connections::Endpoint;
use crate::upstream::error::{AttemptError, RepeatSafety};

impl Forward<'_> {
    /// Waits for another permit after a critical request took this one's.
    pub(super) async fn requeue_preempted(&mut self) -> Result<(), Refusal> {
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
    pub(super) fn resubmit(&mut self, trouble: RepeatSafety) -> Result<Option<Waiter>, Refusal> {
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
    pub(super) async fn move_to_active_colour(&mut self, from: &str) -> Result<(), Refusal> {
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
    pub(super) fn is_active(&self, endpoint: &Endpoint) -> bool {
        let fleet = self.upstream.fleet.load();
        fleet.worker(&endpoint.spec().id).is_none_or(|worker| worker.active)
    }

    /// Waits for a permit and takes it over.
    pub(super) async fn wait(&mut self, mut waiter: Waiter) -> Result<(), Refusal> {
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
    pub(super) fn way(&mut self) -> Result<Transport, Refusal> {
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
                // Such a request is not worth a failure: only those with a permit test a worker.
                let pools = fleet.pools().iter().filter(|pool| meant(&pool.name));
                let avoided: Vec<_> = pools.flat_map(|pool| pool.gate.workers_to_avoid()).collect();
                let is_well = |worker: &&Arc<FleetWorker>| !avoided.contains(&worker.spec.id);
                let any_is_well = eligible().any(|worker| is_well(&worker));
                let usable = || eligible().filter(|worker| !any_is_well || is_well(worker));
                let count = usable().count();
                let first = self.start.wrapping_add(self.retries as usize) % count.max(1);
                let mut in_turn = usable().cycle().skip(first).take(count);
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

    pub(super) fn blame(&mut self, worker: &Arc<str>, failure: WorkerFailure) {
        if let Some(permit) = &self.permit {
            permit.worker_failed(failure);
            self.failed_at.push((Arc::clone(worker), failure));
        }
    }

    /// Returns `true` if one more attempt makes sense after `trouble`.
    pub(super) fn allows_retry(&self, trouble: RepeatSafety) -> bool {
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
    pub(super) fn may_ask_another(&mut self, trouble: RepeatSafety) -> bool {
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
}
