//! One worker, as its pool's gate sees it.

use std::sync::Arc;

use siphasher::sip::SipHasher13;

use crate::clock::Nanos;

use super::health::Health;
use super::law::{Fixed, Law};
use super::ledger::{Ledger, Load};
use super::settings::GateSettings;

/// What the fleet tells a gate about one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The worker's id.
    pub id: Arc<str>,
    /// Requests it decodes at once, when told.
    pub slots: Option<u32>,
    /// Tokens its KV cache holds, when told.
    pub kv_tokens: Option<u64>,
    /// Whether it may take new work.
    pub eligible: bool,
}

/// Share of the KV cache that is filled: beyond it a worker preempts and computes the same tokens twice.
const KV_FILL: (u64, u64) = (9, 10);

/// A member with what the gate keeps about it.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) member: Member,
    pub(super) law: Box<dyn Law>,
    pub(super) health: Health,
    pub(super) ledger: Ledger,
    /// Hash of the id, for the choice by session.
    pub(super) key: u64,
    /// Removed by a reload; it goes when its ledger is empty.
    pub(super) leaving: bool,
    /// Tokens that this gateway may have in flight here.
    kv_budget: Option<u64>,
}

impl Worker {
    pub(super) fn new(member: Member, settings: &GateSettings) -> Self {
        // Without a key, so that every gateway computes the same order of workers for a session.
        let key = SipHasher13::new().hash(member.id.as_bytes());
        Self {
            law: Box::new(Fixed::new(settings, member.slots)),
            health: Health::default(),
            ledger: Ledger::default(),
            key,
            leaving: false,
            kv_budget: kv_budget(&member, settings),
            member,
        }
    }

    /// Takes over what a reload says; the ledger and the health stay.
    pub(super) fn retell(&mut self, member: Member, settings: &GateSettings) {
        self.law = Box::new(Fixed::new(settings, member.slots));
        self.kv_budget = kv_budget(&member, settings);
        self.leaving = false;
        self.member = member;
    }

    /// Whether it may take new work once it can be reached.
    pub(super) fn takes_work(&self) -> bool {
        self.member.eligible && !self.leaving
    }

    /// Whether it takes new work now.
    pub(super) fn open(&self, now: Nanos) -> bool {
        self.takes_work() && self.health.reachable(now)
    }

    /// Whether it was removed and has nothing left to do.
    pub(super) fn is_gone(&self) -> bool {
        self.leaving && self.ledger == Ledger::default()
    }

    /// Sequences that may be in flight now.
    pub(super) fn limit(&self) -> u32 {
        self.health.bound(self.law.limit()).max(1)
    }

    /// Sequences that it takes in all: its limit, or none while it takes no work.
    pub(super) fn room(&self, now: Nanos) -> u32 {
        if self.open(now) { self.limit() } else { 0 }
    }

    /// Whether there is room for `load`. An idle worker takes whatever its KV cache can hold at all: a request
    /// heavier than every limit would otherwise wait for ever.
    pub(super) fn fits(&self, load: &Load) -> bool {
        if self.ledger.in_flight() == 0 {
            return self.can_hold(load);
        }
        self.ledger.in_flight().saturating_add(load.sequences) <= self.limit()
            && self
                .kv_budget
                .is_none_or(|budget| self.ledger.tokens().saturating_add(load.tokens()) <= budget)
    }

    /// Whether the prompt alone fits into the KV cache; true when its size was not told.
    pub(super) fn can_hold(&self, load: &Load) -> bool {
        self.member.kv_tokens.is_none_or(|kv| load.prompt <= kv)
    }
}

fn kv_budget(member: &Member, settings: &GateSettings) -> Option<u64> {
    let share = |kv: u64| kv.saturating_mul(KV_FILL.0) / KV_FILL.1 / u64::from(settings.dams.max(1));
    member.kv_tokens.map(share)
}
