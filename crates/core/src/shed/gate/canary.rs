//! A gate with workers on trial: which requests go to them, and what became of those.
//!
//! A request of the share goes to a worker on trial if one has room, else to the others, and counts
//! as one that the trial could not serve. The other requests never go to a worker on trial. So the
//! trial harms at most its share, and holds up nobody else when it is full. When the others are full,
//! the share waits in the same queue as they do.
//!
//! * **What counts as failed.** A failure at a worker of the request's own side, and an answer with
//!   an error status. Clients' own errors are among these: both sides get the same.
//! * **Before a canary**, the times per token at each load are remembered: the side on trial has less to
//!   do than the old one has now, but maybe not less than it had.
//! * **Trade-off.** The limits of the workers on trial are found under a smaller load than theirs
//!   will be.

use std::time::Duration;

use crate::clock::Nanos;
use crate::request::Ending;
use crate::shed::ask::PermitRequest;
use crate::shed::canary_counts::{CanaryCounts, CanaryShare, LoadSide, MomentsByLoad};
use crate::shed::ledger::RequestLoad;
use crate::shed::permit_record::{PermitId, PermitRecord};
use crate::shed::pick::CandidateSums;
use crate::shed::settings::GateSettings;
use crate::shed::worker::PoolMember;

use super::Gate;

/// Durations in a class of load beyond which earlier ones fade.
const REMEMBERED: u64 = 2000;

/// Outcome of one request at its last worker.
enum SideOutcome {
    Served { good: bool, ttft: Option<Duration>, pace: Option<Duration>, whole: Option<Duration> },
    Failed,
    Spilled,
}

impl Gate {
    /// Returns the counts of the canary under way, and its epoch.
    #[must_use]
    pub fn canary_counts(&self) -> Option<(u64, CanaryCounts)> {
        self.settings.canary.map(|share| (share.epoch, self.canary))
    }

    /// Begins the counts anew if another canary is under way, and forgets times of workers that are no
    /// longer the usual ones.
    pub(super) fn begin_canary(&mut self, before: Option<CanaryShare>, members: &[PoolMember]) {
        let usual = |member: &PoolMember| member.eligible && !member.canary;
        let known = |id: &str| {
            let mut workers = self.workers.iter().flatten().map(|worker| &worker.member);
            workers.any(|member| usual(member) && *member.id == *id)
        };
        if !members.iter().filter(|member| usual(member)).any(|member| known(&member.id)) {
            self.pace_history = MomentsByLoad::default();
        }
        if before.map(|share| share.epoch) != self.settings.canary.map(|share| share.epoch) {
            self.canary = CanaryCounts { earlier: self.pace_history, ..CanaryCounts::default() };
        }
    }

    /// Returns the load of a request, and the workers that it may go to.
    pub(super) fn load_of(&self, ask: &PermitRequest) -> RequestLoad {
        RequestLoad { side: self.side_of(ask), ..ask.load() }
    }

    fn side_of(&self, ask: &PermitRequest) -> LoadSide {
        let key = || ask.session.unwrap_or_else(|| ask.caller_key());
        match self.settings.canary {
            // The named worker may be on either side.
            _ if ask.worker.is_some() => LoadSide::Any,
            Some(share) if share.takes(key()) => LoadSide::Canary,
            _ => LoadSide::Usual,
        }
    }

    /// Returns the sums over the workers that may take `load`.
    pub(super) fn whole(&self, load: &RequestLoad) -> CandidateSums {
        if self.settings.canary.is_none() {
            return CandidateSums { in_flight: self.sums.in_flight(), limit: self.sums.limit };
        }
        let open = self.sums.open.iter().filter_map(|place| self.workers.get(*place)?.as_ref());
        open.filter(|worker| worker.may_take(load)).fold(
            CandidateSums { in_flight: 0, limit: 0 },
            |sums, worker| CandidateSums {
                in_flight: sums.in_flight + u64::from(worker.ledger.in_flight()),
                limit: sums.limit + u64::from(worker.limit()),
            },
        )
    }

    /// Counts a request that got no permit.
    pub(super) fn count_refused(&mut self, side: LoadSide) {
        if let Some(canary) = side.counts_for_canary().filter(|_| self.settings.canary.is_some()) {
            self.canary.side(canary).refused += 1;
        }
    }

    /// Counts a permit that is about to be released, or that is given up for another.
    pub(super) fn count_ended(&mut self, id: PermitId, ending: Ending, now: Nanos) {
        let Some(permit) = self.permits.get(&id) else { return };
        let Some(canary) = permit.side.counts_for_canary() else { return };
        let worker = self.workers.get(permit.worker).and_then(Option::as_ref);
        let own = worker.is_some_and(|worker| worker.member.canary == canary);
        // The others' requests are not seen, but there are about as many of each gateway.
        let others = worker.map_or(0.0, |worker| worker.usual_in_flight)
            * f64::from(self.settings.gateways.saturating_sub(1));
        let load = permit.in_flight_at_dispatch().saturating_add(others.round() as u32);
        let Some(outcome) = permit.outcome(own, ending, &self.settings, now) else { return };
        if self.settings.canary.is_none() {
            if let SideOutcome::Served { pace: Some(pace), .. } = outcome {
                self.pace_history.record(load, pace);
                self.pace_history.fade(REMEMBERED);
            }
            return;
        }
        let side = self.canary.side(canary);
        match outcome {
            SideOutcome::Failed => side.failed += 1,
            SideOutcome::Spilled => side.spilled += 1,
            SideOutcome::Served { good, ttft, pace, whole } => {
                side.served += 1;
                side.good += u64::from(good);
                for (moments, length) in
                    [(&mut side.ttft, ttft), (&mut side.pace, pace), (&mut side.whole, whole)]
                {
                    length.into_iter().for_each(|length| moments.record(load, length));
                }
            }
        }
    }
}

impl PermitRecord {
    /// Returns what became of the request; `None` if it says nothing about its side. `own`: its
    /// last worker is of its side.
    fn outcome(&self, own: bool, ending: Ending, settings: &GateSettings, now: Nanos) -> Option<SideOutcome> {
        if self.has_failed_by_side() {
            return Some(SideOutcome::Failed);
        }
        let elapsed = now.since(self.dispatched_at()?);
        let slo = settings.slo(self.load.prompt);
        match ending {
            Ending::Refused => None,
            // Whoever waits for longer than promised and leaves was not served in time.
            Ending::ClientGone if own && self.stream && self.ttft().is_none() && elapsed > slo => {
                Some(SideOutcome::Served { good: false, ttft: Some(elapsed), pace: None, whole: None })
            }
            Ending::ClientGone => None,
            _ if !own => Some(SideOutcome::Spilled),
            Ending::WorkerFailed | Ending::TimedOut => Some(SideOutcome::Failed),
            Ending::Complete if self.has_failed() => Some(SideOutcome::Failed),
            Ending::Complete => {
                let per = |length: Duration, tokens: u64| (tokens > 0).then(|| length.div_f64(tokens as f64));
                let (pace, whole) = match self.ttft() {
                    Some(ttft) => {
                        (per(elapsed.saturating_sub(ttft), self.seen_tokens().saturating_sub(1)), None)
                    }
                    None if self.stream => (None, None),
                    None => (None, per(elapsed, self.seen_tokens())),
                };
                let good = self.ttft().is_none_or(|ttft| ttft <= slo);
                Some(SideOutcome::Served { good, ttft: self.ttft(), pace, whole })
            }
        }
    }
}
