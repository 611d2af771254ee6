//! The requests that wait: bounded in number, bytes and time, strict by class, fair by caller.
//!
//! Within a class the callers take turns by their virtual counters (`callers.rs`), within a caller
//! the earliest deadline goes first. In a full queue, a newcomer displaces the last request of the
//! caller that would be served latest, in the lowest waiting class, if it would be served before
//! that. So a flood fills the queue only with itself. Waiting is free: a caller's counter moves at
//! admissions.

use std::collections::BTreeSet;
use std::time::Duration;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::clock::Nanos;
use crate::request::Class;

use super::ask::{Affinity, PermitRequest};
use super::callers::{ClassCallers, WaiterId, WaiterPlace};
use super::ledger::RequestLoad;

/// Virtual tokens per token at weight 1: weights up to this divide without losing a token.
const SCALE: u64 = 256;
/// An output token costs two prompt tokens: outputs are decoded one by one, prompts in bulk.
const OUTPUT_WEIGHT: u64 = 2;

/// Indexes of workers that have had a request.
pub(super) type TriedWorkers = SmallVec<[usize; 2]>;

#[derive(Clone, Copy, Debug)]
pub(super) struct CallerCharge {
    class: Class,
    caller: usize,
    /// Hash of the caller's id, the same in every class.
    pub(super) key: u64,
    admission: u64,
    weight: u32,
    sequences: u32,
    cost: u64,
}

/// A request in the queue, or just taken out of it.
#[derive(Clone, Debug)]
pub(super) struct WaitingRequest {
    pub(super) id: WaiterId,
    pub(super) class: Class,
    pub(super) load: RequestLoad,
    pub(super) affinity: Affinity,
    pub(super) stream: bool,
    /// Indexes of workers that failed it; they are excluded.
    pub(super) tried: TriedWorkers,
    /// The request's parameters, if its permit may be revoked later.
    pub(super) ask: Option<Box<PermitRequest>>,
    pub(super) since: Nanos,
    pub(super) expires: Nanos,
    bytes: u64,
    weight: u32,
    cost: u64,
    caller: usize,
    key: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct QueueBounds {
    pub(super) length: usize,
    pub(super) bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct FairQueue {
    classes: [ClassCallers; 3],
    waiting: HashMap<WaiterId, WaitingRequest>,
    expiry: BTreeSet<WaiterPlace>,
    bytes: u64,
    next: u64,
    /// By class: since when it has had requests without an admission.
    wanting: [Option<Nanos>; 3],
}

impl FairQueue {
    /// Returns the number of requests that wait in `class`.
    pub(super) fn depth(&self, class: Class) -> usize {
        self.class(class).waiting()
    }

    /// Returns the bytes of request bodies that wait.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.classes.iter().map(ClassCallers::remembered).sum()
    }

    pub(super) fn sequences(&self) -> u64 {
        self.classes.iter().map(ClassCallers::sequences).sum()
    }

    /// Returns `true` if a request of `class` or above waits.
    pub(super) fn has_waiting_at_or_above(&self, class: Class) -> bool {
        Class::ALL.into_iter().any(|other| other >= class && self.class(other).waiting() > 0)
    }

    /// Returns the sequences to be admitted before `ask`, counted up to `enough`; `None` if fewer.
    pub(super) fn ahead(&self, ask: &PermitRequest, expires: Nanos, enough: u64, now: Nanos) -> Option<u64> {
        let waiting = |other: &Class| self.class(*other).sequences();
        let above: u64 = Class::ALL.iter().filter(|other| **other > ask.class).map(waiting).sum();
        if above + waiting(&ask.class) < enough {
            return None;
        }
        let place = (expires, WaiterId(self.next));
        let beside = self.class(ask.class).ahead(&ask.caller, place, enough.saturating_sub(above), now);
        Some(above + beside).filter(|ahead| *ahead >= enough)
    }

    /// Makes room for `ask`; returns the requests removed for it, `None` if none may be displaced.
    pub(super) fn make_room(
        &mut self,
        ask: &PermitRequest,
        bounds: QueueBounds,
        now: Nanos,
    ) -> Option<SmallVec<[WaitingRequest; 1]>> {
        let mut length = self.waiting.len() + 1;
        let mut bytes = self.bytes.saturating_add(ask.body_bytes);
        let mut victims: SmallVec<[WaiterId; 1]> = SmallVec::new();
        if length > bounds.length || bytes > bounds.bytes {
            let lowest = Class::ALL.into_iter().find(|class| self.class(*class).waiting() > 0)?;
            let start = (lowest == ask.class).then(|| self.class(lowest).start(&ask.caller, now));
            if lowest > ask.class {
                return None;
            }
            let (mut tail, line) = self.class(lowest).last_line()?;
            for id in line {
                let victim = self.waiting.get(&id)?;
                tail = tail.saturating_sub(victim.cost);
                if start.is_some_and(|start| start >= tail) {
                    return None;
                }
                victims.push(id);
                length -= 1;
                bytes = bytes.saturating_sub(victim.bytes);
                if length <= bounds.length && bytes <= bounds.bytes {
                    break;
                }
            }
        }
        if length > bounds.length || bytes > bounds.bytes {
            return None;
        }
        Some(victims.into_iter().filter_map(|id| self.refuse(id, now)).collect())
    }

    /// Removes the request that would be served last, if the queue exceeds `bounds`.
    pub(super) fn pop_surplus(&mut self, bounds: QueueBounds, now: Nanos) -> Option<WaitingRequest> {
        if self.waiting.len() <= bounds.length && self.bytes <= bounds.bytes {
            return None;
        }
        let lowest = self.classes.iter().find(|class| class.waiting() > 0)?;
        let last = lowest.last_line().and_then(|(_, mut line)| line.next())?;
        self.refuse(last, now)
    }

    /// Queues a request with the expected `load` until `expires`.
    pub(super) fn push(
        &mut self,
        ask: &PermitRequest,
        load: &RequestLoad,
        affinity: Affinity,
        tried: TriedWorkers,
        expires: Nanos,
        now: Nanos,
    ) -> WaiterId {
        let id = WaiterId(self.next);
        self.next += 1;
        let cost = cost(load, load.sequences, ask.weight);
        let callers = self.class_mut(ask.class);
        callers.contend(now);
        let caller = callers.slot_for(&ask.caller, now);
        callers.join(caller, (expires, id), cost, load.sequences);
        self.expiry.insert((expires, id));
        self.bytes = self.bytes.saturating_add(ask.body_bytes);
        self.waiting.insert(
            id,
            WaitingRequest {
                id,
                class: ask.class,
                load: *load,
                affinity,
                stream: ask.stream,
                tried,
                ask: ask.is_revocable().then(|| Box::new(ask.clone())),
                since: now,
                expires,
                bytes: ask.body_bytes,
                weight: ask.weight,
                cost,
                caller,
                key: ask.caller_key(),
            },
        );
        id
    }

    /// Records that a request of `class` was not admitted at once.
    pub(super) fn mark_starving(&mut self, class: Class, now: Nanos) {
        self.wanting[class as usize].get_or_insert(now);
    }

    /// Records that a request of `class` was admitted.
    pub(super) fn served(&mut self, class: Class) {
        self.wanting[class as usize] = None;
    }

    /// Returns the next request, strictly by class. A class without an admission for `promote`
    /// (zero: never) goes first once, so that it does not starve; the others lose one permit per
    /// `promote`.
    pub(super) fn head(&self, now: Nanos, promote: Duration) -> Option<&WaitingRequest> {
        let starves = |since: &Option<Nanos>| {
            !promote.is_zero() && since.is_some_and(|since| now.since(since) >= promote)
        };
        let starving = self.classes.iter().zip(&self.wanting).filter(|(_, since)| starves(since));
        let first = starving.filter_map(|(class, _)| class.head()).next();
        let id = first.or_else(|| self.classes.iter().rev().find_map(ClassCallers::head))?;
        self.waiting.get(&id)
    }

    pub(super) fn admit(&mut self, id: WaiterId, now: Nanos) -> Option<(WaitingRequest, CallerCharge)> {
        let waiting = self.remove(id, now)?;
        let WaitingRequest { class, caller, key, weight, cost, load, .. } = &waiting;
        let (class, caller, key, weight, cost, load) = (*class, *caller, *key, *weight, *cost, *load);
        let admission = self.class_mut(class).charge(caller, cost, now);
        Some((
            waiting,
            CallerCharge { class, caller, key, admission, weight, sequences: load.sequences, cost },
        ))
    }

    pub(super) fn charge(&mut self, ask: &PermitRequest, load: &RequestLoad, now: Nanos) -> CallerCharge {
        let cost = cost(load, load.sequences, ask.weight);
        let callers = self.class_mut(ask.class);
        let caller = callers.slot_for(&ask.caller, now);
        let admission = callers.charge(caller, cost, now);
        let (class, key, weight) = (ask.class, ask.caller_key(), ask.weight);
        CallerCharge { class, caller, key, admission, weight, sequences: load.sequences, cost }
    }

    /// Corrects a charge at the end: `used` is the load really caused; `None` means none.
    pub(super) fn settle(&mut self, charge: CallerCharge, used: Option<RequestLoad>) {
        let actual = used.map_or(0, |load| cost(&load, charge.sequences, charge.weight));
        self.class_mut(charge.class).settle(charge.caller, charge.admission, charge.cost, actual);
    }

    /// Records that a request was refused on arrival.
    pub(super) fn missed(&mut self, ask: &PermitRequest, load: &RequestLoad, now: Nanos) {
        let cost = cost(load, load.sequences, ask.weight);
        let callers = self.class_mut(ask.class);
        callers.contend(now);
        callers.record_refusal(&ask.caller, cost, now);
    }

    /// Removes a request that is refused, and credits its caller.
    pub(super) fn refuse(&mut self, id: WaiterId, now: Nanos) -> Option<WaitingRequest> {
        let waiting = self.remove(id, now)?;
        self.class_mut(waiting.class).missed_at(waiting.caller, waiting.cost, now);
        Some(waiting)
    }

    pub(super) fn remove(&mut self, id: WaiterId, now: Nanos) -> Option<WaitingRequest> {
        let waiting = self.waiting.remove(&id)?;
        let place = (waiting.expires, id);
        self.expiry.remove(&place);
        self.bytes = self.bytes.saturating_sub(waiting.bytes);
        let sequences = waiting.load.sequences;
        self.class_mut(waiting.class).leave(waiting.caller, place, waiting.cost, sequences, now);
        Some(waiting)
    }

    /// Ends expired debts of waiting callers. Returns `true` if that may change the order.
    pub(super) fn forgive(&mut self, now: Nanos) -> bool {
        let mut any = false;
        for class in &mut self.classes {
            any |= class.forgive(now);
        }
        any
    }

    /// Removes one request whose wait is over.
    pub(super) fn pop_expired(&mut self, now: Nanos) -> Option<WaitingRequest> {
        let (expires, id) = *self.expiry.first()?;
        if expires > now { None } else { self.refuse(id, now) }
    }

    fn class(&self, class: Class) -> &ClassCallers {
        &self.classes[class as usize]
    }

    pub(super) fn class_mut(&mut self, class: Class) -> &mut ClassCallers {
        &mut self.classes[class as usize]
    }
}

/// Returns the cost of a request in virtual tokens; cached ones cost nothing. Its tokens count at
/// least one per sequence.
fn cost(load: &RequestLoad, sequences: u32, weight: u32) -> u64 {
    let tokens = load.unread().saturating_add(load.output.saturating_mul(OUTPUT_WEIGHT));
    // Capped, so that an absurd estimate cannot drive a counter to its maximum.
    let tokens = tokens.max(u64::from(sequences)).min(u64::from(u32::MAX));
    (tokens * SCALE / u64::from(weight.max(1))).max(1)
}
