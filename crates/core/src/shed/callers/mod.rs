//! Fairness between the callers of one class: a counter of virtual tokens for each.
//!
//! Each admission adds the request's cost, divided by the caller's weight, to the caller's counter;
//! the caller with the smallest counter is next. A caller that returns after a pause is lifted to
//! the virtual time, the counter of the foremost caller served. So no caller can save up idle time
//! and spend it as a monopoly, and one that worked while the others paused owes nothing.
//!
//! * **Credit.** With short waits a caller is often absent *because* it was just refused. It gets
//!   credit for refused requests, but no more than the others got since its first refusal. For
//!   [`CREDIT`](super::contest::CREDIT) after the last refusal it is lifted by that much less.
//! * **Debt.** A caller that is ahead of the others pays for at most
//!   [`DEBT`](super::account::DEBT).
//! * **Contest.** Only what a caller takes while others want it counts (`contest.rs`).
//!
//! **The longest wait.** While a caller waits, others go first as long as their counters are
//! smaller. After `DEBT` its counter is at most one request above the mean at which the others are
//! admitted. They are below that mean by their credit, at most `CREDIT` of an equal share, and by
//! the estimates for their permits. So whatever happened before, a waiting caller is next within
//! `DEBT` plus `CREDIT`, the time of an answer, and two rounds of one request each.

mod memory;
mod told;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::clock::Nanos;

use self::told::ToldCallers;
use super::account::{Account, LOOK_EVERY};
use super::contest::Contest;

/// Identifies a waiting request; a gate never uses an id twice. Later requests have greater ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(pub(super) u64);

/// Position of a request in its caller's queue: by deadline, then by order of arrival.
pub(super) type WaiterPlace = (Nanos, WaiterId);

/// Position of a caller among the others: counter, time of joining, slot.
type CallerRank = (u64, WaiterId, usize);

#[derive(Debug)]
pub(super) struct CallerState {
    id: Arc<str>,
    account: Account,
    joined: WaiterId,
    waiting: BTreeSet<WaiterPlace>,
    /// Virtual cost and sequences of the requests in `line`.
    cost: u64,
    sequences: u64,
    permits: u32,
}

#[derive(Debug, Default)]
pub(super) struct ClassCallers {
    // Attackers choose callers' names: the standard map has a keyed hash.
    index: HashMap<Arc<str>, usize>,
    slots: Vec<Option<CallerState>>,
    free: Vec<usize>,
    /// Callers with waiting requests, the next to be served first.
    order: BTreeSet<CallerRank>,
    /// The same by counter plus cost of `line`; the last would be served latest.
    tails: BTreeSet<CallerRank>,
    contest: Contest,
    /// Last check of the debts of waiting callers.
    looked_at: Nanos,
    sequences: u64,
    waiting: usize,
    sweep_at: usize,
    /// `None` if no other gateway is told.
    told: Option<ToldCallers>,
}

impl ClassCallers {
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn sequences(&self) -> u64 {
        self.sequences
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.index.len()
    }

    /// Returns the slot of `caller`, creating it if needed; lifts a returning caller.
    pub(super) fn slot_for(&mut self, caller: &Arc<str>, now: Nanos) -> usize {
        self.contest.mark(now);
        if let Some(&slot) = self.index.get(caller) {
            let Self { slots, contest, .. } = self;
            let state = slots.get_mut(slot).and_then(Option::as_mut);
            if let Some(state) = state.filter(|state| state.waiting.is_empty()) {
                state.account.enter(contest, now);
            }
            return slot;
        }
        self.sweep_when_many(now);
        let state = CallerState {
            id: Arc::clone(caller),
            account: Account::new(&self.contest),
            joined: WaiterId(0),
            waiting: BTreeSet::new(),
            cost: 0,
            sequences: 0,
            permits: 0,
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(state);
        }
        self.index.insert(Arc::clone(caller), slot);
        if let Some(told) = &mut self.told {
            told.enter(caller, slot);
        }
        slot
    }

    /// Adds a request to the queue of the caller in `slot`.
    pub(super) fn join(&mut self, slot: usize, place: WaiterPlace, cost: u64, sequences: u32) {
        self.edit(slot, |state| {
            if state.waiting.is_empty() {
                state.joined = place.1;
            }
            state.waiting.insert(place);
            state.cost = state.cost.saturating_add(cost);
            state.sequences += u64::from(sequences);
        });
        self.sequences += u64::from(sequences);
        self.waiting += 1;
    }

    /// Removes a request from its caller's queue.
    pub(super) fn leave(&mut self, slot: usize, place: WaiterPlace, cost: u64, sequences: u32, now: Nanos) {
        self.edit(slot, |state| {
            state.waiting.remove(&place);
            state.cost = state.cost.saturating_sub(cost);
            state.sequences = state.sequences.saturating_sub(u64::from(sequences));
        });
        self.sequences = self.sequences.saturating_sub(u64::from(sequences));
        self.waiting = self.waiting.saturating_sub(1);
        self.contest.continues(now);
    }

    /// Charges an admitted request. Returns the number of the admission, for [`ClassCallers::settle`].
    pub(super) fn charge(&mut self, slot: usize, cost: u64, now: Nanos) -> u64 {
        let (mut admission, mut counter, mut level) = (0, 0, 0);
        self.edit(slot, |state| {
            counter = state.account.counter();
            (admission, level) = state.account.admit(cost, now);
            state.permits += 1;
        });
        self.contest.served(counter, level);
        if let Some(told) = &mut self.told {
            told.keep(slot, cost, 0);
        }
        admission
    }

    /// Corrects the charge of a released permit from `charged` to `actual`.
    pub(super) fn settle(&mut self, slot: usize, admission: u64, charged: u64, actual: u64) {
        self.edit(slot, |state| {
            state.permits = state.permits.saturating_sub(1);
            state.account.settle(admission, charged, actual);
        });
        if let Some(told) = &mut self.told {
            told.keep(slot, actual, charged);
        }
    }

    /// Ends expired debts of waiting callers. Returns `true` if there were any. Callers without a
    /// waiting request are checked when they ask.
    pub(super) fn forgive(&mut self, now: Nanos) -> bool {
        if now.since(self.looked_at) < LOOK_EVERY {
            return false;
        }
        self.looked_at = now;
        let bounded = |(counter, _, slot): &CallerRank| {
            let bounded = self.state(*slot)?.account.bounded(&self.contest, now);
            (bounded < *counter).then_some((*slot, bounded))
        };
        let forgiven: Vec<(usize, u64)> = self.order.iter().filter_map(bounded).collect();
        for (slot, counter) in &forgiven {
            self.edit(*slot, |state| state.account.forgive(*counter));
        }
        !forgiven.is_empty()
    }

    /// Returns the first request of the caller that is next.
    pub(super) fn head(&self) -> Option<WaiterId> {
        let (_, _, slot) = self.order.first()?;
        self.state(*slot)?.waiting.first().map(|place| place.1)
    }

    /// Records that a request has to wait or is refused.
    pub(super) fn contend(&mut self, now: Nanos) {
        if self.waiting > 0 { self.contest.continues(now) } else { self.contest.begin(now) }
    }

    /// Records a refused request of `caller`. Unknown callers have no credit to keep.
    pub(super) fn record_refusal(&mut self, caller: &str, cost: u64, now: Nanos) {
        if let Some(slot) = self.index.get(caller).copied() {
            self.missed_at(slot, cost, now);
        }
    }

    /// Records a refused request of the caller in `slot`.
    pub(super) fn missed_at(&mut self, slot: usize, cost: u64, now: Nanos) {
        let Self { slots, contest, .. } = self;
        if let Some(state) = slots.get_mut(slot).and_then(Option::as_mut) {
            state.account.miss(cost, contest, now);
        }
    }

    /// Returns the virtual time at which a new request of `caller` would start: behind its others.
    pub(super) fn start(&self, caller: &str, now: Nanos) -> u64 {
        let Some(state) = self.index.get(caller).and_then(|slot| self.state(*slot)) else {
            return self.contest.virtual_time();
        };
        self.lifted(state, now).saturating_add(state.cost)
    }

    /// Returns the counter of a caller that asks at `now`.
    fn lifted(&self, state: &CallerState, now: Nanos) -> u64 {
        if state.waiting.is_empty() {
            state.account.lifted(&self.contest, now)
        } else {
            state.account.counter()
        }
    }

    /// Returns the sequences of this class that would be admitted before a new request of `caller`,
    /// counted up to `enough`. Assumes equal costs within a caller's queue, so that the work is one
    /// step per caller ahead.
    pub(super) fn ahead(&self, caller: &str, place: WaiterPlace, enough: u64, now: Nanos) -> u64 {
        let own = self.index.get(caller).and_then(|slot| Some((*slot, self.state(*slot)?)));
        let (mut start, mut sum, mut me) = (self.contest.virtual_time(), 0, usize::MAX);
        if let Some((slot, state)) = own {
            let before = if place.0 == Nanos::MAX {
                state.waiting.len()
            } else {
                state.waiting.range(..=place).count()
            };
            let cost = share(state.cost, before, state.waiting.len());
            sum = share(state.sequences, before, state.waiting.len());
            start = self.lifted(state, now).saturating_add(cost);
            me = slot;
        }
        for (counter, _, slot) in self.order.range(..(start, WaiterId(0), 0)) {
            if sum >= enough {
                break;
            }
            let Some(state) = self.state(*slot).filter(|_| *slot != me) else { continue };
            let length = state.waiting.len() as u64;
            if length == 1 {
                sum += state.sequences;
                continue;
            }
            let each = (state.cost / length.max(1)).max(1);
            let earlier = ((start - counter).div_ceil(each)).min(length);
            sum +=
                share(state.sequences, usize::try_from(earlier).unwrap_or(usize::MAX), state.waiting.len());
        }
        sum
    }

    /// Returns the queue that would be served last: its end in virtual time, and its requests from
    /// last to first.
    pub(super) fn last_line(&self) -> Option<(u64, impl Iterator<Item = WaiterId> + '_)> {
        let (tail, _, slot) = self.tails.last()?;
        Some((*tail, self.state(*slot)?.waiting.iter().rev().map(|place| place.1)))
    }

    fn state(&self, slot: usize) -> Option<&CallerState> {
        self.slots.get(slot).and_then(Option::as_ref)
    }

    /// Changes a caller and updates both orders.
    fn edit(&mut self, slot: usize, change: impl FnOnce(&mut CallerState)) {
        let Some(state) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return };
        if !state.waiting.is_empty() {
            self.order.remove(&state.rank(slot));
            self.tails.remove(&state.tail(slot));
        }
        change(state);
        if !state.waiting.is_empty() {
            self.order.insert(state.rank(slot));
            self.tails.insert(state.tail(slot));
        }
    }
}

impl CallerState {
    /// Returns its position in the order of service.
    fn rank(&self, slot: usize) -> CallerRank {
        (self.account.counter(), self.joined, slot)
    }

    /// Returns the position of the end of its queue.
    fn tail(&self, slot: usize) -> CallerRank {
        (self.account.counter().saturating_add(self.cost), self.joined, slot)
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.permits == 0
    }
}

/// Returns `part` of `parts` equal shares of `whole`.
fn share(whole: u64, part: usize, parts: usize) -> u64 {
    if part >= parts { whole } else { whole / parts as u64 * part as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contest_goes_on_while_somebody_waits_and_five_seconds_longer() {
        let mut callers = ClassCallers::default();
        let contend = |callers: &mut ClassCallers, seconds| {
            callers.contend(Nanos::from_secs(seconds));
            callers.contest.number()
        };
        let first = contend(&mut callers, 1);
        let slot = callers.slot_for(&Arc::from("a"), Nanos::from_secs(1));
        let place = (Nanos::MAX, WaiterId(1));
        callers.join(slot, place, 100, 1);
        assert_eq!(contend(&mut callers, 60), first, "one waits");
        callers.leave(slot, place, 100, 1, Nanos::from_secs(100));
        assert_eq!(contend(&mut callers, 105), first, "one has just waited");
        assert_ne!(contend(&mut callers, 111), first, "six seconds of calm");
    }
}
