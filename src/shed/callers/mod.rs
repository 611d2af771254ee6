//! Fairness between the callers of one class: a counter of virtual tokens for each.
//!
//! A caller's counter grows by the cost of its requests, divided by its weight, when they are admitted; the
//! caller with the smallest counter is next. A caller that comes back after a pause is lifted to the virtual
//! time, the counter of the foremost of those served. So nobody can save up idleness and spend it as a
//! monopoly, and a caller that worked while the others paused owes nothing for it.
//!
//! * **Credit.** With short waits a caller is often absent *because* it was just refused. It is owed the
//!   refused requests, but no more than the others got since it began to ask in vain. For
//!   [`CREDIT`](super::contest::CREDIT) after the last refusal it is lifted by so much less.
//! * **Debt.** A caller that is ahead of the others pays for at most [`DEBT`](super::account::DEBT).
//! * **Contest.** Only what is taken while others want it counts (`contest.rs`).
//!
//! **The longest wait.** While a caller waits, requests of others go first as long as their counters are
//! smaller. After `DEBT` its counter is at most one request above the mean at which the others are admitted.
//! The others are below that mean by what they are owed, at most `CREDIT` of an equal share, and by the
//! estimates for their seats under way. So whatever happened before, a caller that waits is next within `DEBT
//! + CREDIT`, the time of an answer, and two rounds of one request each.

mod memory;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::clock::Nanos;

use super::account::{Account, LOOK_EVERY};
use super::contest::Contest;

/// Names a waiting request; never used twice by one gate. Later requests have greater ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(pub(super) u64);

/// The place of a request in its caller's line: earliest deadline first, then in order of arrival.
pub(super) type Place = (Nanos, WaiterId);

/// A caller's place among the others: counter, time of joining, slot.
type Rank = (u64, WaiterId, usize);

#[derive(Debug)]
pub(super) struct CallerState {
    id: Arc<str>,
    account: Account,
    joined: WaiterId,
    line: BTreeSet<Place>,
    /// Virtual cost and sequences of the line.
    cost: u64,
    sequences: u64,
    seats: u32,
}

/// The callers of one class.
#[derive(Debug, Default)]
pub(super) struct Callers {
    // Attackers choose callers' names: the standard map has a keyed hash.
    index: HashMap<Arc<str>, usize>,
    slots: Vec<Option<CallerState>>,
    free: Vec<usize>,
    /// Callers with a line, the next to be served first.
    order: BTreeSet<Rank>,
    /// The same by counter plus cost of the line: the last is who would be served latest.
    tails: BTreeSet<Rank>,
    contest: Contest,
    /// When the debts of waiting callers were last looked at.
    looked_at: Nanos,
    sequences: u64,
    waiting: usize,
    sweep_at: usize,
}

impl Callers {
    /// Requests waiting.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Sequences of all waiting requests.
    pub(super) fn sequences(&self) -> u64 {
        self.sequences
    }

    /// Callers remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.index.len()
    }

    /// The slot of `caller`, made if there is none; a returning caller is lifted.
    pub(super) fn enter(&mut self, caller: &Arc<str>, now: Nanos) -> usize {
        self.contest.mark(now);
        if let Some(&slot) = self.index.get(caller) {
            let Self { slots, contest, .. } = self;
            let state = slots.get_mut(slot).and_then(Option::as_mut);
            if let Some(state) = state.filter(|state| state.line.is_empty()) {
                state.account.enter(contest, now);
            }
            return slot;
        }
        self.sweep_when_many(now);
        let state = CallerState {
            id: Arc::clone(caller),
            account: Account::new(&self.contest),
            joined: WaiterId(0),
            line: BTreeSet::new(),
            cost: 0,
            sequences: 0,
            seats: 0,
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
        slot
    }

    /// A request takes its place in the line of `slot`.
    pub(super) fn join(&mut self, slot: usize, place: Place, cost: u64, sequences: u32) {
        self.edit(slot, |state| {
            if state.line.is_empty() {
                state.joined = place.1;
            }
            state.line.insert(place);
            state.cost = state.cost.saturating_add(cost);
            state.sequences += u64::from(sequences);
        });
        self.sequences += u64::from(sequences);
        self.waiting += 1;
    }

    /// A request leaves the line.
    pub(super) fn leave(&mut self, slot: usize, place: Place, cost: u64, sequences: u32, now: Nanos) {
        self.edit(slot, |state| {
            state.line.remove(&place);
            state.cost = state.cost.saturating_sub(cost);
            state.sequences = state.sequences.saturating_sub(u64::from(sequences));
        });
        self.sequences = self.sequences.saturating_sub(u64::from(sequences));
        self.waiting = self.waiting.saturating_sub(1);
        self.contest.continues(now);
    }

    /// A request gets a seat. Returns the number of the admission, for [`Callers::settle`].
    pub(super) fn charge(&mut self, slot: usize, cost: u64, now: Nanos) -> u64 {
        let (mut admission, mut counter, mut level) = (0, 0, 0);
        self.edit(slot, |state| {
            counter = state.account.counter();
            (admission, level) = state.account.admit(cost, now);
            state.seats += 1;
        });
        self.contest.served(counter, level);
        admission
    }

    /// A seat is given back: `charged` becomes `actual`.
    pub(super) fn settle(&mut self, slot: usize, admission: u64, charged: u64, actual: u64) {
        self.edit(slot, |state| {
            state.seats = state.seats.saturating_sub(1);
            state.account.settle(admission, charged, actual);
        });
    }

    /// Ends the debts of waiting callers whose time is over. Returns `true` if there were any. Callers
    /// without a waiting request are looked at when they ask.
    pub(super) fn forgive(&mut self, now: Nanos) -> bool {
        if now.since(self.looked_at) < LOOK_EVERY {
            return false;
        }
        self.looked_at = now;
        let bounded = |(counter, _, slot): &Rank| {
            let bounded = self.state(*slot)?.account.bounded(&self.contest, now);
            (bounded < *counter).then_some((*slot, bounded))
        };
        let forgiven: Vec<(usize, u64)> = self.order.iter().filter_map(bounded).collect();
        for (slot, counter) in &forgiven {
            self.edit(*slot, |state| state.account.forgive(*counter));
        }
        !forgiven.is_empty()
    }

    /// The first request of the caller that is next.
    pub(super) fn head(&self) -> Option<WaiterId> {
        let (_, _, slot) = self.order.first()?;
        self.state(*slot)?.line.first().map(|place| place.1)
    }

    /// A request has to wait or is refused.
    pub(super) fn contend(&mut self, now: Nanos) {
        if self.waiting > 0 { self.contest.continues(now) } else { self.contest.begin(now) }
    }

    /// A request of `caller` was refused. Callers that are not known have no credit to keep.
    pub(super) fn missed(&mut self, caller: &str, cost: u64, now: Nanos) {
        if let Some(slot) = self.index.get(caller).copied() {
            self.missed_at(slot, cost, now);
        }
    }

    /// A request of the caller in `slot` was refused.
    pub(super) fn missed_at(&mut self, slot: usize, cost: u64, now: Nanos) {
        let Self { slots, contest, .. } = self;
        if let Some(state) = slots.get_mut(slot).and_then(Option::as_mut) {
            state.account.miss(cost, contest, now);
        }
    }

    /// Where a new request of `caller` would begin in virtual time: behind its own line.
    pub(super) fn start(&self, caller: &str, now: Nanos) -> u64 {
        let Some(state) = self.index.get(caller).and_then(|slot| self.state(*slot)) else {
            return self.contest.virtual_time();
        };
        self.lifted(state, now).saturating_add(state.cost)
    }

    /// The counter of a caller that asks at `now`.
    fn lifted(&self, state: &CallerState, now: Nanos) -> u64 {
        if state.line.is_empty() { state.account.lifted(&self.contest, now) } else { state.account.counter() }
    }

    /// Sequences of this class that would be admitted before a new request of `caller`; stops counting at `enough`.
    ///
    /// The requests of one line are taken to cost the same, so the work is one step per caller that is ahead.
    pub(super) fn ahead(&self, caller: &str, place: Place, enough: u64, now: Nanos) -> u64 {
        let own = self.index.get(caller).and_then(|slot| Some((*slot, self.state(*slot)?)));
        let (mut start, mut sum, mut me) = (self.contest.virtual_time(), 0, usize::MAX);
        if let Some((slot, state)) = own {
            let before =
                if place.0 == Nanos::MAX { state.line.len() } else { state.line.range(..=place).count() };
            let cost = share(state.cost, before, state.line.len());
            sum = share(state.sequences, before, state.line.len());
            start = self.lifted(state, now).saturating_add(cost);
            me = slot;
        }
        for (counter, _, slot) in self.order.range(..(start, WaiterId(0), 0)) {
            if sum >= enough {
                break;
            }
            let Some(state) = self.state(*slot).filter(|_| *slot != me) else { continue };
            let length = state.line.len() as u64;
            if length == 1 {
                sum += state.sequences;
                continue;
            }
            let each = (state.cost / length.max(1)).max(1);
            let earlier = ((start - counter).div_ceil(each)).min(length);
            sum += share(state.sequences, usize::try_from(earlier).unwrap_or(usize::MAX), state.line.len());
        }
        sum
    }

    /// The line that would be served last, its requests from the last to the first, and where it ends in virtual
    /// time.
    pub(super) fn last_line(&self) -> Option<(u64, impl Iterator<Item = WaiterId> + '_)> {
        let (tail, _, slot) = self.tails.last()?;
        Some((*tail, self.state(*slot)?.line.iter().rev().map(|place| place.1)))
    }

    fn state(&self, slot: usize) -> Option<&CallerState> {
        self.slots.get(slot).and_then(Option::as_ref)
    }

    /// Changes a caller and keeps both orders true.
    fn edit(&mut self, slot: usize, change: impl FnOnce(&mut CallerState)) {
        let Some(state) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return };
        if !state.line.is_empty() {
            self.order.remove(&state.rank(slot));
            self.tails.remove(&state.tail(slot));
        }
        change(state);
        if !state.line.is_empty() {
            self.order.insert(state.rank(slot));
            self.tails.insert(state.tail(slot));
        }
    }
}

impl CallerState {
    /// Its place in the order of service, at `slot`.
    fn rank(&self, slot: usize) -> Rank {
        (self.account.counter(), self.joined, slot)
    }

    /// The place of the end of its line.
    fn tail(&self, slot: usize) -> Rank {
        (self.account.counter().saturating_add(self.cost), self.joined, slot)
    }

    fn is_idle(&self) -> bool {
        self.line.is_empty() && self.seats == 0
    }
}

/// `part` of `parts` equal shares of `whole`.
fn share(whole: u64, part: usize, parts: usize) -> u64 {
    if part >= parts { whole } else { whole / parts as u64 * part as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contest_goes_on_while_somebody_waits_and_five_seconds_longer() {
        let mut callers = Callers::default();
        let contend = |callers: &mut Callers, seconds| {
            callers.contend(Nanos::from_secs(seconds));
            callers.contest.number()
        };
        let first = contend(&mut callers, 1);
        let slot = callers.enter(&Arc::from("a"), Nanos::from_secs(1));
        let place = (Nanos::MAX, WaiterId(1));
        callers.join(slot, place, 100, 1);
        assert_eq!(contend(&mut callers, 60), first, "one waits");
        callers.leave(slot, place, 100, 1, Nanos::from_secs(100));
        assert_eq!(contend(&mut callers, 105), first, "one has just waited");
        assert_ne!(contend(&mut callers, 111), first, "six seconds of calm");
    }
}
