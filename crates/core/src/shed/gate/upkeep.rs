//! The operator's side of a gate: reloads, snapshots, and the retry times of refusals.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Nanos;
use crate::request::Class;
use crate::shed::fair_queue::QueueBounds;
use crate::shed::ledger::RequestLoad;
use crate::shed::prefix::PrefixIndex;
use crate::shed::refuse;
use crate::shed::settings::GateSettings;
use crate::shed::snapshot::{GateSnapshot, WorkerSnapshot};
use crate::shed::worker::{GateWorker, PoolMember};

use super::Gate;

/// Retry time before anything was measured.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest retry time.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// Shortest and longest retry time while no worker takes requests. Most outages are a restart of
/// unknown length: a client too early costs a refusal, one a minute late a minute of goodput.
const AWAY_RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(5));

/// Shortest time over which the clients are spread that wait for a provider's quota.
const QUOTA_SPREAD: Duration = Duration::from_secs(1);

impl Gate {
    /// Applies settings and workers. Workers keep their ledger, removed ones until it is empty.
    pub fn rebuild(&mut self, settings: GateSettings, members: Vec<PoolMember>, now: Nanos) {
        let before = std::mem::replace(&mut self.settings, settings);
        self.begin_canary(before.canary, &members);
        for worker in self.workers.iter_mut().flatten() {
            worker.leaving = true;
        }
        for member in members {
            let kept = self.workers.iter_mut().flatten().find(|worker| worker.member.id == member.id);
            if let Some(worker) = kept {
                worker.reconfigure(member, &before, &self.settings);
                continue;
            }
            let mut worker = GateWorker::new(member, &self.settings);
            if let Some(ejection) = self.ejected.take(&worker.member.id) {
                worker.aside = ejection;
            }
            match self.workers.iter().position(Option::is_none) {
                Some(free) => {
                    self.prefixes.forget(free);
                    if let Some(place) = self.workers.get_mut(free) {
                        *place = Some(worker);
                    }
                }
                None => self.workers.push(Some(worker)),
            }
        }
        for (place, worker) in self.workers.iter_mut().enumerate() {
            if let Some(gone) = worker.take_if(|worker| worker.is_gone()) {
                self.ejected.remember(&gone);
                self.prefixes.forget(place);
            }
        }
        if self.settings.prefix.is_none() {
            self.prefixes = PrefixIndex::default();
        }
        self.sums.stale = true;
        while let Some(waiting) = self.queue.pop_surplus(self.bounds(), now) {
            self.count_refused(waiting.load.side);
            let retry = self.retry_after(now);
            self.settled.push((waiting.id, Err(refuse::displaced(&self.pool, retry))));
        }
        self.process_timeouts(now);
        self.serve(now);
    }

    /// Returns when a client refused now should retry, at most 60 s: the time until all waiting
    /// requests have a permit, plus a random part, so that clients do not return together. That is
    /// up to half of the time, or up to the time in which all clients recently told to retry find
    /// room. While no worker takes requests nothing can be predicted: 2 to 5 s, at random.
    pub(super) fn retry_after(&mut self, now: Nanos) -> Duration {
        if !self.is_open(now) {
            let (shortest, longest) = AWAY_RETRY;
            return shortest + (longest - shortest).mul_f64(self.random.f64());
        }
        let others = self.retry_spread.record_refusal(now);
        let sequences = self.queue.sequences() + 1;
        let base = self.drain.time_to_free(sequences, self.in_flight, now).unwrap_or(FIRST_RETRY);
        let base = base.clamp(Duration::from_millis(1), LONGEST_RETRY);
        let least = RequestLoad { sequences: 1, external: true, ..RequestLoad::default() };
        if let Some(wait) =
            self.quota_opens_at(&least, now).map(|at| at.since(now)).filter(|wait| *wait > base)
        {
            return self.after_quota(wait);
        }
        let others = self.drain.time_to_free(others, self.in_flight, now).unwrap_or_default();
        let spread = (base / 2).max(others.min(LONGEST_RETRY));
        (base + spread.mul_f64(self.retry_spread.position(self.random.f64()))).min(LONGEST_RETRY)
    }

    /// Returns when to retry if a provider has quota again in `wait`: a little later, at random, so
    /// that clients do not return together.
    pub(super) fn after_quota(&mut self, wait: Duration) -> Duration {
        let spread = (wait / 10).max(QUOTA_SPREAD);
        wait + spread.mul_f64(self.retry_spread.position(self.random.f64()))
    }

    /// Returns the ids of workers that should get no request now if others can: those that take no
    /// work, and those in trouble, which only requests with a permit test.
    #[must_use]
    pub fn workers_to_avoid(&self, now: Nanos) -> Vec<Arc<str>> {
        let workers = self.workers.iter().flatten();
        let avoided = workers.filter(|worker| worker.trouble().is_some() || !worker.takes_work_now(now));
        avoided.map(|worker| Arc::clone(&worker.member.id)).collect()
    }

    /// Returns the current state of the gate.
    #[must_use]
    pub fn snapshot(&self, now: Nanos) -> GateSnapshot {
        let workers = self.workers.iter().flatten().map(|worker| WorkerSnapshot {
            id: Arc::clone(&worker.member.id),
            in_flight: worker.ledger.in_flight(),
            limit: worker.limit(),
            prefill_tokens: worker.ledger.prefill(),
            idle_ttft: worker.prefill.learned().collect(),
            tokens: worker.ledger.tokens(),
            kv_tokens: worker.member.kv_tokens,
            streamed: worker.streamed,
            eligible: worker.member.eligible && !worker.leaving,
            reachable: worker.is_reachable(now),
            trouble: worker.trouble(),
            weight: worker.weight,
            answered: worker.health.answered_at().map(|at| now.since(at)),
            leaving: worker.leaving,
            provider: worker.member.external.as_ref().map(|quota| quota.0.level(now)),
        });
        GateSnapshot {
            workers: workers.collect(),
            ceiling: self.fleet_ceiling(now),
            queue: Class::ALL.map(|class| self.queue.depth(class)),
            queue_bytes: self.queue.bytes(),
            cached: self.cached.figures(),
        }
    }

    pub(super) fn bounds(&self) -> QueueBounds {
        QueueBounds { length: self.settings.queue_length, bytes: self.settings.queue_bytes }
    }
}
