//! Reports of workers about their own load, and what is known here to compare them with.
//!
//! A report is late and may be older than many decisions here, so it can only lower what local
//! measurement allows. The KV cache holds the larger of the local count and the reported one plus
//! all tokens sent since. Reported work unknown here is from others and uses up slots. An expired
//! report has no effect.

use std::time::Duration;

use crate::clock::Nanos;

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
    /// Keeps a report that came now.
    pub(super) fn new(report: &LoadReport, now: Nanos) -> Self {
        Self { kv_used: report.kv_used, at: now, until: now + report.valid_for, sent_since: 0 }
    }

    /// Returns when it came.
    pub(super) fn at(&self) -> Nanos {
        self.at
    }

    /// Returns the tokens in the KV cache by a valid report and the requests since.
    pub(super) fn kv(&self, now: Nanos) -> Option<u64> {
        self.kv_used.filter(|_| now < self.until).map(|used| used.saturating_add(self.sent_since))
    }

    /// Adds the tokens of an admitted request.
    pub(super) fn sent(&mut self, tokens: u64) {
        self.sent_since = self.sent_since.saturating_add(tokens);
    }
}

/// Load of a worker that is known here, to compare with its reports. A report is late: load in it
/// may have ended, and load missing in it may have been sent since.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KnownLoad {
    /// Sequences in flight whose clients have left.
    abandoned: u32,
    /// Maximum in flight since the last report, and between the two reports before.
    most: u32,
    most_before: u32,
    /// Minimum in flight since the last report, without abandoned sequences.
    least: u32,
    /// Sequences that this gateway may have in flight beside those of others, by the last report;
    /// `None` if it shows none of others.
    room: Option<u32>,
    /// End of the validity of that report.
    until: Nanos,
}

impl KnownLoad {
    pub(super) fn note(&mut self, in_flight: u32) {
        self.most = self.most.max(in_flight);
        self.least = self.least.min(in_flight.saturating_sub(self.abandoned));
    }

    /// Records that the client of `sequences` in flight has left.
    pub(super) fn abandon(&mut self, sequences: u32) {
        self.abandoned = self.abandoned.saturating_add(sequences);
    }

    /// Records the end of `sequences` whose client had left.
    pub(super) fn end_abandoned(&mut self, sequences: u32) {
        self.abandoned = self.abandoned.saturating_sub(sequences);
    }

    /// Returns the sequences that this gateway may have in flight beside those of others.
    pub(super) fn room(&self) -> Option<u32> {
        self.room
    }

    /// Forgets what an expired report said of the load of others.
    pub(super) fn expire(&mut self, now: Nanos) {
        if self.until <= now {
            self.room = None;
        }
    }

    /// Returns when a report expires that shows load of others.
    pub(super) fn room_until(&self) -> Option<Nanos> {
        self.room.map(|_| self.until)
    }

    /// Compares a report with the load that is known here, `in_flight` sequences at present. `size` is
    /// that of the worker, if known, which as many `gateways` share. Returns how many abandoned
    /// sequences have ended; `None` if the report does not say.
    pub(super) fn compare(
        &mut self,
        report: &LoadReport,
        size: Option<u32>,
        gateways: u32,
        in_flight: u32,
        now: Nanos,
    ) -> Option<u32> {
        self.room = None;
        let running = report.running?;
        if let Some(size) = size {
            // Load that other gateways may have sent is their share.
            let gateways = gateways.max(1);
            let beyond = self.others(running).saturating_sub(size - size / gateways);
            self.room = (beyond > 0).then(|| size.saturating_sub(beyond) / gateways);
        }
        self.until = now + report.valid_for;
        let ended = self.ended(running.saturating_add(report.waiting.unwrap_or(0)));
        self.turn(in_flight);
        Some(ended)
    }

    /// Returns how many of `running` reported sequences are not known here.
    fn others(&self, running: u32) -> u32 {
        running.saturating_sub(self.most.max(self.most_before))
    }

    /// Returns how many abandoned sequences have ended if the worker has `all` in flight.
    fn ended(&self, all: u32) -> u32 {
        self.least.saturating_add(self.abandoned).saturating_sub(all)
    }

    /// Starts the interval up to the next report, with `in_flight` sequences.
    fn turn(&mut self, in_flight: u32) {
        (self.most_before, self.most) = (self.most, in_flight);
        self.least = in_flight.saturating_sub(self.abandoned);
    }
}
