//! One worker, as its pool's gate sees it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use siphasher::sip::SipHasher13;

use crate::clock::Nanos;

use super::abandoned::{KnownLoad, Pace};
use super::aside::{Aside, WorkerTrouble};
use super::health::Health;
use super::law::{self, Law};
use super::ledger::{Ledger, Load};
use super::outcomes::Outcomes;
use super::prefill::Prefill;
use super::report::Reported;
use super::roll::Share;
use super::seat::SeatId;
use super::settings::GateSettings;
use super::silence::Flow;
use super::stall::Stalls;

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
    /// What became of the last requests.
    pub(super) outcomes: Outcomes,
    /// Whether it is put aside for what it answers.
    pub(super) aside: Aside,
    pub(super) ledger: Ledger,
    /// How long it takes to read prompts.
    pub(super) prefill: Prefill,
    /// Streams without a first token, in the order of their dispatch.
    pub(super) unread: BTreeMap<(Nanos, SeatId), Patience>,
    /// What it reported last.
    pub(super) reported: Option<Reported>,
    /// What came of its streams.
    pub(super) flow: Flow,
    /// When nothing came of any of them.
    pub(super) stalls: Stalls,
    /// A first token that is overdue while others flow, until it is certain.
    pub(super) suspicion: Option<Suspicion>,
    /// Tokens that it has streamed in all.
    pub(super) streamed: u64,
    /// How much of its limit it may have: 1 while nothing speaks against it.
    pub(super) weight: f64,
    /// When the latest request was sent that has had its first token.
    pub(super) answered: Nanos,
    /// When it was last looked at for overdue first tokens.
    pub(super) looked_at: Nanos,
    /// Hash of the id, for the choice by session.
    pub(super) key: u64,
    /// What it has in the sums of the roll; nothing while it takes no work.
    pub(super) counted: Option<Share>,
    /// Removed by a reload; it goes when its ledger is empty.
    pub(super) leaving: bool,
    /// How long its whole answers take.
    pub(super) pace: Pace,
    /// What is known of its load.
    pub(super) known: KnownLoad,
    /// Tokens that this gateway may have in flight here.
    kv_budget: Option<u64>,
}

impl Worker {
    pub(super) fn new(member: Member, settings: &GateSettings) -> Self {
        // Without a key, so that every gateway computes the same order of workers for a session.
        let key = SipHasher13::new().hash(member.id.as_bytes());
        Self {
            law: law::of(settings, member.slots),
            health: Health::default(),
            outcomes: Outcomes::default(),
            aside: Aside::default(),
            ledger: Ledger::default(),
            prefill: Prefill::default(),
            unread: BTreeMap::new(),
            reported: None,
            flow: Flow::default(),
            stalls: Stalls::default(),
            suspicion: None,
            streamed: 0,
            weight: 1.0,
            answered: Nanos::ZERO,
            looked_at: Nanos::ZERO,
            key,
            counted: None,
            leaving: false,
            pace: Pace::default(),
            known: KnownLoad::default(),
            kv_budget: kv_budget(&member, settings),
            member,
        }
    }

    /// Takes over what a reload says; the ledger, the health and what was learned stay.
    pub(super) fn retell(&mut self, member: Member, before: &GateSettings, settings: &GateSettings) {
        law::retell(&mut self.law, before, settings, member.slots);
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
        self.takes_work() && self.is_reachable(now) && self.weight > 0.0
    }

    /// Whether it may be sent anything, as far as what it did of late goes.
    pub(super) fn is_reachable(&self, now: Nanos) -> bool {
        self.health.reachable(now) && self.aside.is_open(now)
    }

    /// When it may be tried again, while it may not.
    pub(super) fn closed_until(&self, now: Nanos) -> Option<Nanos> {
        self.health.cooling_until(now).max(self.aside.closed_until(now))
    }

    /// What is wrong with it.
    pub(super) fn trouble(&self) -> Option<WorkerTrouble> {
        self.health.trouble().or_else(|| self.aside.trouble())
    }

    /// Whether it was removed and has nothing left to do.
    pub(super) fn is_gone(&self) -> bool {
        self.leaving && self.ledger == Ledger::default()
    }

    /// Sequences that may be in flight now.
    pub(super) fn limit(&self) -> u32 {
        let weighed = (f64::from(self.law.limit()) * self.weight) as u32;
        let left = self.known.room.map_or(weighed, |room| room.min(weighed));
        // A silent worker is tried beside what hangs there, which may end much later.
        let limit = self.health.bound(left).max(1).saturating_add(self.flow.hung);
        self.aside.bound(limit, self.ledger.in_flight())
    }

    /// Sequences that it takes in all: its limit, or none while it takes no work.
    pub(super) fn room(&self, now: Nanos) -> u32 {
        if self.open(now) { self.limit() } else { 0 }
    }

    /// Whether there is room for `load`: a place in the batch, in the KV cache, and the time to read its prompt. An
    /// idle worker takes whatever its KV cache can hold at all: a request heavier than every limit would otherwise
    /// wait for ever.
    pub(super) fn fits(&self, load: &Load, settings: &GateSettings, now: Nanos) -> bool {
        if self.ledger.in_flight() == 0 {
            return self.can_hold(load);
        }
        self.has_place(load.sequences)
            && self.kv_budget.is_none_or(|budget| self.kv(now).saturating_add(load.tokens()) <= budget)
            && self.reads_in_time(load, settings)
            && !self.is_stalled(now)
    }

    /// Whether there is a place in the batch. A request of several sequences needs one for the first of them: the others
    /// wait inside the worker behind it and for nobody else, where waiting for as many places at once would keep them
    /// empty meanwhile. Half the limit is the most that may wait so.
    fn has_place(&self, sequences: u32) -> bool {
        let (in_flight, limit) = (self.ledger.in_flight(), self.limit());
        in_flight < limit && in_flight.saturating_add(sequences) <= limit.saturating_add(limit / 2).max(limit)
    }

    /// Tokens that are or will be in its KV cache, as the fuller of the two accounts has it.
    fn kv(&self, now: Nanos) -> u64 {
        let reported = self.reported.and_then(|reported| reported.kv(now)).unwrap_or(0);
        self.ledger.tokens().max(reported)
    }

    /// Whether a prompt that is sent now is read within half its promise; the other half is for what the estimate
    /// does not know. Without prompts before it nothing is gained by waiting.
    fn reads_in_time(&self, load: &Load, settings: &GateSettings) -> bool {
        let ahead = self.ledger.prefill().saturating_mul(u64::from(settings.dams.max(1)));
        ahead == 0
            || !self.prefill.is_known()
            || self
                .prefill
                .reading(ahead, load.prompt)
                .is_none_or(|time| time <= settings.slo(load.prompt) / 2)
    }

    /// Whether the worker took requests and has answered none of them, nor any sent later, for so long that what is
    /// sent now would break its promise too.
    fn is_stalled(&self, now: Nanos) -> bool {
        self.first_in_line().is_some_and(|(_, patience)| now >= patience.stalled_at)
    }

    /// Whether it has a prompt to read that may well take until now.
    pub(super) fn may_be_reading(&self, now: Nanos) -> bool {
        self.first_in_line().is_some_and(|(_, patience)| now < patience.stalled_at)
    }

    /// Whether a first token is missing for so long after everything that is known of the worker said it should be there.
    pub(super) fn is_overdue_for(&self, length: Duration, now: Nanos) -> bool {
        let overdue = |(_, patience): (_, &Patience)| now >= patience.stalled_at + length;
        self.prefill.is_known() && self.first_in_line().is_some_and(overdue)
    }

    /// The first token that is overdue: when its request was sent.
    pub(super) fn overdue(&self, now: Nanos) -> Option<Nanos> {
        self.first_in_line().filter(|(_, patience)| now >= patience.late_at).map(|((sent, _), _)| *sent)
    }

    /// When the oldest request was sent that has no first token yet.
    pub(super) fn oldest_unread(&self) -> Option<Nanos> {
        self.unread.first_key_value().map(|((sent, _), _)| *sent)
    }

    /// When the prompt should have been read that is next in line; `None` when there is none.
    pub(super) fn reads_until(&self) -> Option<Nanos> {
        self.first_in_line().map(|(_, patience)| patience.read_at)
    }

    /// The stream that should have its first token next. One that was overtaken by a later one is not in line: it is
    /// lost or special, and says nothing about the others.
    fn first_in_line(&self) -> Option<(&(Nanos, SeatId), &Patience)> {
        let overtaken = (self.answered, SeatId(u64::MAX));
        self.unread.range((Bound::Excluded(overtaken), Bound::Unbounded)).next()
    }

    /// Until when the first token of a prompt may take that is sent at `now` behind `ahead` others.
    pub(super) fn patience(&self, ahead: u64, prompt: u64, settings: &GateSettings, now: Nanos) -> Patience {
        let slo = settings.slo(prompt);
        match self.prefill.reading(ahead, prompt) {
            None => Patience { read_at: Nanos::MAX, late_at: Nanos::MAX, stalled_at: now + slo },
            Some(reading) => {
                let late = (reading + slo.mul_f64(law::SLACK)).max(self.prefill.usual(reading));
                let late_at = now + late.min(reading + slo.mul_f64(LATEST));
                let stalled_at = late_at.max(now + reading + slo / 2);
                Patience { read_at: now + reading, late_at, stalled_at }
            }
        }
    }

    /// Whether the prompt alone fits into the KV cache; true when its size was not told.
    pub(super) fn can_hold(&self, load: &Load) -> bool {
        self.member.kv_tokens.is_none_or(|kv| load.prompt <= kv)
    }
}

/// How long a first token is waited for before something is concluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    /// When the prompt should have been read.
    read_at: Nanos,
    /// Later than reading prompts explains: the worker has a queue of its own.
    late_at: Nanos,
    /// So late that nothing more should be sent until something comes back.
    stalled_at: Nanos,
}

impl Patience {
    /// So much of the time was not the worker's.
    pub(super) fn extend(&mut self, length: Duration) {
        self.read_at = self.read_at + length;
        self.late_at = self.late_at + length;
        self.stalled_at = self.stalled_at + length;
    }
}

/// A worker is searched for overdue first tokens at most this often.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Share of the promise after which a first token is overdue, however late first tokens usually are.
const LATEST: f64 = 0.6;

/// A first token that is overdue while others flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspicion {
    /// When it was noticed.
    pub(super) since: Nanos,
    /// The most sequences that flowed since.
    pub(super) flowing: u32,
}

fn kv_budget(member: &Member, settings: &GateSettings) -> Option<u64> {
    let share = |kv: u64| kv.saturating_mul(KV_FILL.0) / KV_FILL.1 / u64::from(settings.dams.max(1));
    member.kv_tokens.map(share)
}
