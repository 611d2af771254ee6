//! Reports of workers about their own load, and how far the gate trusts them.
//!
//! A report is late and may be older than many decisions here, so it can only lower what local
//! measurement allows. The KV cache holds the larger of the local count and the reported one plus
//! all tokens sent since. A reported queue cuts the limit. Reported work unknown here uses up
//! slots. A weight scales the limit down. An expired report has no effect.

use std::time::Duration;

use crate::clock::Nanos;

use super::algorithm::WorkerSample;
use super::gate::Gate;
use super::worker::GateWorker;

/// A worker's report about its load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadReport {
    /// Tokens in its KV cache.
    pub kv_used: Option<u64>,
    /// Requests that it works on, from all senders.
    pub running: Option<u32>,
    /// Requests waiting inside it.
    pub waiting: Option<u32>,
    /// How long the report is valid.
    pub valid_for: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct KeptReport {
    kv_used: Option<u64>,
    at: Nanos,
    until: Nanos,
    /// Tokens of requests granted since.
    sent_since: u64,
}

impl KeptReport {
    /// Returns the tokens in the KV cache by a valid report and the requests since.
    pub(super) fn kv(&self, now: Nanos) -> Option<u64> {
        self.kv_used.filter(|_| now < self.until).map(|used| used.saturating_add(self.sent_since))
    }

    /// Adds the tokens of an admitted request.
    pub(super) fn sent(&mut self, tokens: u64) {
        self.sent_since = self.sent_since.saturating_add(tokens);
    }
}

impl Gate {
    /// Applies a report of the worker `id`; ignores a worker not yet added or already removed.
    pub fn report(&mut self, id: &str, report: LoadReport, now: Nanos) {
        let Some((place, worker)) = self.worker_mut(id) else { return };
        let (kv_used, until) = (report.kv_used, now + report.valid_for);
        let before = worker.reported.replace(KeptReport { kv_used, at: now, until, sent_since: 0 });
        if let Some(waiting) = report.waiting {
            worker.law.observe(WorkerSample::Report { waiting }, now);
        }
        self.reconcile_report(place, &report, before.map(|before| before.at), now);
        self.update_sums(place, now);
        self.process_timeouts(now);
        self.serve(now);
    }

    /// Scales the limit of the worker `id`: 1 leaves it as measured, 0 takes the worker out of
    /// service until the next call.
    pub fn weigh(&mut self, id: &str, weight: f64, now: Nanos) {
        let Some((_, worker)) = self.worker_mut(id) else { return };
        // A NaN weight is no reason to take a worker out.
        worker.weight = if weight.is_nan() { 1.0 } else { weight.clamp(0.0, 1.0) };
        self.sums.stale = true;
        self.process_timeouts(now);
        self.serve(now);
    }

    fn worker_mut(&mut self, id: &str) -> Option<(usize, &mut GateWorker)> {
        let mut workers = self.workers.iter_mut().enumerate();
        workers.find_map(|(place, worker)| {
            Some((place, worker.as_mut().filter(|worker| &*worker.member.id == id)?))
        })
    }
}
