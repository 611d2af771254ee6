//! One worker, as its pool's gate sees it.

use std::sync::Arc;

use siphasher::sip::SipHasher13;

use crate::clock::Nanos;

use super::algorithm::{self, LimitAlgorithm};
use super::answer_pace::Pace;
use super::first_tokens::{FirstTokens, Suspicion};
use super::health::WorkerHealth;
use super::ledger::{Ledger, RequestLoad};
use super::outcomes::Outcomes;
use super::permit_record::PermitRecord;
use super::prefill::Prefill;
use super::provider::QuotaHandle;
use super::report::{KeptReport, KnownLoad};
use super::settings::{GateSettings, LimitSource};
use super::stall::Stalls;
use super::stream_activity::StreamActivity;
use super::unanswered::UnansweredRequests;
use super::worker_ejection::{WorkerEjection, WorkerTrouble};

/// One worker, as the fleet describes it to a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolMember {
    /// The worker's id.
    pub id: Arc<str>,
    /// Requests it decodes at once; `None` if neither configured nor reported.
    pub slots: Option<u32>,
    /// KV cache size in tokens; `None` if neither configured nor reported.
    pub kv_tokens: Option<u64>,
    /// `true` if it may take new work.
    pub eligible: bool,
    /// Its provider's quota, if it is external.
    pub external: Option<QuotaHandle>,
    /// `true` if it is on trial: it gets only the canary's share.
    pub canary: bool,
}

impl PoolMember {
    /// Returns its size, the sequences that it decodes at once; `None` if unknown.
    pub(super) fn size(&self, settings: &GateSettings) -> Option<u32> {
        match settings.limit {
            LimitSource::Fixed(limit) => Some(limit),
            LimitSource::Slots | LimitSource::Adaptive => self.slots,
        }
    }
}

/// Share of the KV cache to fill: beyond it a worker preempts requests and computes tokens twice.
const KV_FILL: (u64, u64) = (9, 10);

/// A member and the gate's state about it.
#[derive(Debug)]
pub(super) struct GateWorker {
    pub(super) member: PoolMember,
    pub(super) law: Box<dyn LimitAlgorithm>,
    pub(super) health: WorkerHealth,
    pub(super) outcomes: Outcomes,
    /// Ejection or pause because of its answers.
    pub(super) aside: WorkerEjection,
    /// It does not accept the gateway's credentials, until it serves a request.
    pub(super) rejects: bool,
    pub(super) ledger: Ledger,
    pub(super) prefill: Prefill,
    /// Streams without a first token.
    pub(super) first_tokens: FirstTokens,
    /// Requests that have left it since it last sent anything.
    pub(super) unanswered: UnansweredRequests,
    pub(super) reported: Option<KeptReport>,
    pub(super) flow: StreamActivity,
    pub(super) stalls: Stalls,
    /// A first token that is overdue while other streams flow, until that is certain.
    pub(super) suspicion: Option<Suspicion>,
    /// Output tokens streamed in total.
    pub(super) streamed: u64,
    /// Factor on the limit, 0 to 1; normally 1.
    pub(super) weight: f64,
    /// Last check for overdue first tokens.
    pub(super) looked_at: Nanos,
    /// Hash of the id, for the choice by session.
    pub(super) key: u64,
    /// Its part of the pool totals; `None` while it takes no work.
    pub(super) counted: Option<WorkerShare>,
    /// `true` if a reload removed it; it is deleted once its ledger is empty.
    pub(super) leaving: bool,
    /// Duration of its non-streamed answers.
    pub(super) pace: Pace,
    /// Load known here, to compare with its reports.
    pub(super) known: KnownLoad,
    /// Share of the expected cached tokens that it has reported to have: 1 until it reports.
    pub(super) cache_trust: f64,
    /// Mean number of sequences in flight here when a request is sent.
    pub(super) usual_in_flight: f64,
    /// Tokens that this gateway may have in flight here.
    kv_budget: Option<u64>,
}

impl GateWorker {
    pub(super) fn new(member: PoolMember, settings: &GateSettings) -> Self {
        // Unkeyed, so that every gateway computes the same order of workers for a session.
        let key = SipHasher13::new().hash(member.id.as_bytes());
        Self {
            law: algorithm::create(settings, member.slots),
            health: WorkerHealth::default(),
            outcomes: Outcomes::default(),
            aside: WorkerEjection::default(),
            rejects: false,
            ledger: Ledger::default(),
            prefill: Prefill::default(),
            first_tokens: FirstTokens::default(),
            unanswered: UnansweredRequests::default(),
            reported: None,
            flow: StreamActivity::default(),
            stalls: Stalls::default(),
            suspicion: None,
            streamed: 0,
            weight: 1.0,
            looked_at: Nanos::ZERO,
            key,
            counted: None,
            leaving: false,
            pace: Pace::default(),
            known: KnownLoad::default(),
            cache_trust: 1.0,
            usual_in_flight: 0.0,
            kv_budget: kv_budget(&member, settings),
            member,
        }
    }

    /// Applies a reload; the ledger, the health and everything learned stay.
    pub(super) fn reconfigure(&mut self, member: PoolMember, before: &GateSettings, settings: &GateSettings) {
        algorithm::reconfigure(&mut self.law, before, settings, member.slots);
        self.kv_budget = kv_budget(&member, settings);
        self.leaving = false;
        self.member = member;
    }

    /// Returns the tokens of the largest prompt that it can hold.
    pub(super) fn largest_prompt(&self) -> u64 {
        self.member.kv_tokens.unwrap_or(u64::MAX)
    }

    /// Returns `true` if it may take new work once it is reachable.
    pub(super) fn takes_work(&self) -> bool {
        self.member.eligible && !self.leaving
    }

    /// Returns `true` if it fails requests and is not ejected.
    pub(super) fn is_failing(&self) -> bool {
        self.aside.trouble() == Some(WorkerTrouble::Failing)
    }

    /// Returns `true` if it takes new work now.
    pub(super) fn takes_work_now(&self, now: Nanos) -> bool {
        self.takes_work() && self.is_reachable(now) && self.weight > 0.0
    }

    /// Returns `true` if its recent behaviour allows sending it requests.
    pub(super) fn is_reachable(&self, now: Nanos) -> bool {
        self.health.reachable(now) && self.aside.is_open(now)
    }

    /// Returns when it may be tried again; `None` if it may be tried now.
    pub(super) fn closed_until(&self, now: Nanos) -> Option<Nanos> {
        self.health.cooling_until(now).max(self.aside.closed_until(now))
    }

    pub(super) fn trouble(&self) -> Option<WorkerTrouble> {
        let rejects = self.rejects.then_some(WorkerTrouble::Rejects);
        self.health.trouble().or(rejects).or_else(|| self.aside.trouble())
    }

    /// Returns `true` if it was removed and has nothing in flight.
    pub(super) fn is_gone(&self) -> bool {
        self.leaving && self.ledger == Ledger::default()
    }

    /// Returns the number of sequences that may be in flight now.
    pub(super) fn limit(&self) -> u32 {
        let weighed = (f64::from(self.law.limit()) * self.weight) as u32;
        let left = self.known.room().map_or(weighed, |room| room.min(weighed));
        // A silent worker is tried beside the requests that hang there, which may end much later.
        let limit = self.unanswered.bound(self.health.bound(left)).max(1).saturating_add(self.flow.hung());
        self.aside.limit_with_trial(limit, self.ledger.in_flight())
    }

    /// Returns its part of the totals over the pool.
    pub(super) fn share(&self) -> WorkerShare {
        WorkerShare { by_class: self.ledger.by_class(), limit: self.limit() }
    }

    /// Returns the limit; 0 while it takes no work.
    pub(super) fn room(&self, now: Nanos) -> u32 {
        if self.takes_work_now(now) { self.limit() } else { 0 }
    }

    /// Returns `true` if it is external.
    pub(super) const fn is_external(&self) -> bool {
        self.member.external.is_some()
    }

    /// Returns `true` if the request may go to this kind of worker, and to its side.
    pub(super) const fn may_take(&self, load: &RequestLoad) -> bool {
        (load.external || !self.is_external()) && load.side.may_take(self.member.canary)
    }

    /// Returns when its quota has room for `load`; `None` if it has room now, or no quota.
    pub(super) fn quota_opens_at(&self, load: &RequestLoad, now: Nanos) -> Option<Nanos> {
        self.member.external.as_ref()?.0.opens_at(load.tokens(), now)
    }

    /// Charges its quota with a request that comes.
    pub(super) fn charge_quota(&self, permit: &mut PermitRecord, now: Nanos) {
        if let Some(quota) = &self.member.external {
            permit.quota_charge = quota.0.charge(permit.load.tokens(), now);
        }
    }

    /// Corrects its quota for a request that goes.
    pub(super) fn settle_quota(&self, permit: &PermitRecord, now: Nanos) {
        if let Some(quota) = &self.member.external {
            quota.0.settle(permit.quota_charge, permit.quota_use(), now);
        }
    }

    /// Returns `true` if there is room for `load`: a place in the batch, KV cache, time to read the
    /// prompt, and for an external worker quota. An idle worker takes any prompt that its KV cache can hold: otherwise a request
    /// above every limit would wait forever.
    pub(super) fn fits(&self, load: &RequestLoad, settings: &GateSettings, now: Nanos) -> bool {
        if !self.may_take(load) || self.quota_opens_at(load, now).is_some() {
            return false;
        }
        if self.ledger.in_flight() == 0 {
            return self.can_hold(load);
        }
        self.has_place(load.sequences)
            && self.kv_budget.is_none_or(|budget| self.kv(now).saturating_add(load.tokens()) <= budget)
            && self.reads_in_time(load, settings)
            && !self.first_tokens.are_stalled(now)
    }

    /// Returns `true` if the batch has a place. A request of several sequences needs one for the
    /// first: the others wait inside the worker behind it and delay no other request, whereas
    /// waiting for all places at once would leave places empty. At most half the limit may wait so.
    fn has_place(&self, sequences: u32) -> bool {
        let (in_flight, limit) = (self.ledger.in_flight(), self.limit());
        in_flight < limit && in_flight.saturating_add(sequences) <= limit.saturating_add(limit / 2).max(limit)
    }

    /// Returns the tokens that are or will be in its KV cache: the larger of ledger and report.
    fn kv(&self, now: Nanos) -> u64 {
        let reported = self.reported.and_then(|reported| reported.kv(now)).unwrap_or(0);
        self.ledger.tokens().max(reported)
    }

    /// Returns `true` if the prompt, sent now, is read within half its TTFT SLO. The other half
    /// covers errors of the estimate. With no prompt ahead, waiting gains nothing.
    fn reads_in_time(&self, load: &RequestLoad, settings: &GateSettings) -> bool {
        let ahead = self.ledger.prefill().saturating_mul(u64::from(settings.gateways.max(1)));
        ahead == 0
            || !self.prefill.is_known()
            || self
                .prefill
                .reading(ahead, load.unread())
                .is_none_or(|time| time <= settings.slo(load.prompt) / 2)
    }

    /// Returns `true` if the prompt fits into the KV cache, or if its size is unknown.
    pub(super) fn can_hold(&self, load: &RequestLoad) -> bool {
        self.member.kv_tokens.is_none_or(|kv| load.prompt <= kv)
    }
}

/// One worker's part of the totals over its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WorkerShare {
    /// Sequences in flight, by class number.
    pub(super) by_class: [u32; 3],
    /// Sequences that may be in flight.
    pub(super) limit: u32,
}

fn kv_budget(member: &PoolMember, settings: &GateSettings) -> Option<u64> {
    let share = |kv: u64| kv.saturating_mul(KV_FILL.0) / KV_FILL.1 / u64::from(settings.gateways.max(1));
    member.kv_tokens.map(share)
}
