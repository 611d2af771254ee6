//! The queue as the gate uses it: which requests may wait, and how their wait ends without a permit.

use std::time::Duration;

use crate::clock::Nanos;
use crate::refusal::Refusal;
use crate::shed::ask::PermitRequest;
use crate::shed::callers::WaiterId;
use crate::shed::fair_queue::TriedWorkers;
use crate::shed::ledger::RequestLoad;
use crate::shed::refuse;

use super::Gate;

impl Gate {
    /// Queues a request of `load`; returns its id and the end of its wait, or the refusal.
    pub(super) fn enqueue(
        &mut self,
        ask: &PermitRequest,
        load: RequestLoad,
        tried: TriedWorkers,
        now: Nanos,
    ) -> Result<(WaiterId, Nanos), Refusal> {
        let open = self.is_open(now);
        let wait = if open { self.settings.queue_wait } else { self.settings.wait_no_worker };
        let expires_at = ask.deadline.map_or(now + wait, |deadline| deadline.min(now + wait));
        let may_wait = expires_at > now && self.settings.queue_length > 0;
        if !open && !may_wait {
            let retry = self.retry_after(now);
            return Err(refuse::no_worker(&self.pool, retry));
        }
        if !may_wait {
            let retry = self.retry_after(now);
            return Err(refuse::no_queue(self.fullness(now), retry));
        }
        let opens_at = self.quota_opens_at(&load, now);
        if let Some(opens_at) = opens_at.filter(|opens_at| *opens_at >= expires_at) {
            let retry = self.after_quota(opens_at.since(now));
            return Err(refuse::no_quota(&self.pool, retry));
        }
        if open && let Some(predicted) = self.too_long(ask, expires_at, now) {
            let retry = self.retry_after(now);
            return Err(refuse::predicted(self.fullness(now), predicted, expires_at.since(now), retry));
        }
        let Some(displaced) = self.queue.make_room(ask, self.bounds(), now) else {
            let (waiting, bytes) = (self.queue.len(), self.queue.bytes());
            let retry = self.retry_after(now);
            return Err(refuse::queue_full(self.fullness(now), waiting, bytes, retry));
        };
        for waiting in displaced {
            self.count_refused(waiting.load.side);
            let retry = self.retry_after(now);
            self.settled.push((waiting.id, Err(refuse::displaced(&self.pool, retry))));
        }
        let affinity = self.affinity(ask);
        let load = self.load_anywhere(load, &affinity);
        let id = self.queue.push(ask, &load, affinity, tried, expires_at, now);
        // The new head may be smaller than the one that did not fit.
        if self.queue.head(now, self.settings.promote).is_some_and(|head| head.id == id) {
            self.serve(now);
        }
        Ok((id, expires_at))
    }

    /// Returns the predicted wait if it is too long. A request that would be next is never refused
    /// for it: a freed place would then unfairly go to whichever request comes first.
    fn too_long(&self, ask: &PermitRequest, expires_at: Nanos, now: Nanos) -> Option<Duration> {
        let budget = expires_at.since(now);
        let rate = self.drain.rate(self.in_flight, now)?;
        // With fewer ahead than this, the wait is within the budget; more do not change the answer.
        let enough = (rate * budget.as_secs_f64()) as u64 + 1;
        let ahead = self.queue.ahead(ask, expires_at, enough, now)?;
        let predicted = self.drain.time_to_free(ahead, self.in_flight, now)?;
        (predicted > budget).then_some(predicted)
    }

    /// Returns the refusal of a request that has waited.
    pub(in crate::shed) fn waited_in_vain(&mut self, waited: Duration, now: Nanos) -> Refusal {
        let retry = self.retry_after(now);
        if self.is_open(now) {
            refuse::queue_timeout(&self.pool, waited, retry)
        } else {
            refuse::no_worker(&self.pool, retry)
        }
    }
}
