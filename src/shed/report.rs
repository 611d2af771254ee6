//! What a worker says about itself, and how far it is believed.
//!
//! A report is late by the time it comes and may be older than many decisions of this gateway. So it can only lower
//! what local measurement allows: the KV cache is as full as the fuller of the two accounts says, with all that was
//! sent since the report added to the worker's; a queue that the worker reports cuts its limit; what it works on beyond
//! what is known here takes so much of its slots; a weight scales the limit down. A report that is out of date says nothing any more.

use std::time::Duration;

use crate::clock::Nanos;

use super::gate::Gate;
use super::law::Sample;
use super::member::Worker;

/// What a worker reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Tokens in its KV cache.
    pub kv_used: Option<u64>,
    /// Requests that it works on, whoever sent them.
    pub running: Option<u32>,
    /// Requests waiting inside it.
    pub waiting: Option<u32>,
    /// How long the report counts.
    pub valid_for: Duration,
}

/// A report as the gate keeps it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reported {
    kv_used: Option<u64>,
    at: Nanos,
    until: Nanos,
    /// Tokens of requests granted since.
    sent_since: u64,
}

impl Reported {
    /// Tokens in the KV cache as far as the report knows, while it counts.
    pub(super) fn kv(&self, now: Nanos) -> Option<u64> {
        self.kv_used.filter(|_| now < self.until).map(|used| used.saturating_add(self.sent_since))
    }

    /// A request was granted a seat.
    pub(super) fn sent(&mut self, tokens: u64) {
        self.sent_since = self.sent_since.saturating_add(tokens);
    }
}

impl Gate {
    /// Takes in what the worker `id` reported. Unknown workers are ignored: their report came before or after them.
    pub fn report(&mut self, id: &str, report: Report, now: Nanos) {
        let Some((place, worker)) = self.worker_mut(id) else { return };
        let (kv_used, until) = (report.kv_used, now + report.valid_for);
        let before = worker.reported.replace(Reported { kv_used, at: now, until, sent_since: 0 });
        if let Some(waiting) = report.waiting {
            worker.law.observe(Sample::Report { waiting }, now);
        }
        self.compare(place, &report, before.map(|before| before.at), now);
        self.recount(place, now);
        self.advance(now);
        self.serve(now);
    }

    /// Scales what the worker `id` may have: 1 leaves it as local measurement has it, 0 takes it out of service until
    /// it is told otherwise.
    pub fn weigh(&mut self, id: &str, weight: f64, now: Nanos) {
        let Some((_, worker)) = self.worker_mut(id) else { return };
        // A weight that is no number is no reason to take a worker out.
        worker.weight = if weight.is_nan() { 1.0 } else { weight.clamp(0.0, 1.0) };
        self.roll.stale = true;
        self.advance(now);
        self.serve(now);
    }

    fn worker_mut(&mut self, id: &str) -> Option<(usize, &mut Worker)> {
        let mut workers = self.workers.iter_mut().enumerate();
        workers.find_map(|(place, worker)| {
            Some((place, worker.as_mut().filter(|worker| &*worker.member.id == id)?))
        })
    }
}
