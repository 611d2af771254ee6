//! Fairness between the callers of one class: a counter of virtual tokens for each.
//!
//! A caller's counter grows by what its requests cost, divided by its weight, when they are admitted; the caller with
//! the smallest counter is next. A caller that comes back after a pause is lifted to the virtual time, the counter of
//! the last one served, so nobody can save up idleness and spend it as a monopoly; one that worked while the others
//! paused owes nothing for it either. But a pause is not always wanted: with short waits a caller is absent most of the
//! time *because* it was just refused. Who asked in vain within the last seconds is therefore lifted only to the
//! virtual time of [`CREDIT`] ago, so that it is owed what it missed in that time and no more.
//!
//! **Memory.** A caller without waiting requests or seats whose counter is not above the virtual time is as good as
//! forgotten, and is. If ever more than [`REMEMBERED`] idle callers stand above it, the virtual time is raised to
//! their median: half of them are forgiven at most one request's worth.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Nanos;

/// Names a waiting request; never used twice by one gate. Later requests have greater ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(pub(super) u64);

/// How long a caller is owed what it asked for in vain. Longer would be fairer to it, but in the worst case it takes
/// everything for so long, divided by the number of callers.
const CREDIT: Duration = Duration::from_secs(10);
/// Marks of the virtual time that are kept in so much time.
const MARKS: usize = 10;

/// Idle callers remembered per class.
const REMEMBERED: usize = 65_536;
/// Below this many callers a sweep is not worth its time.
const SWEEP_FROM: usize = 1024;

/// The place of a request in its caller's line: earliest deadline first, then in order of arrival.
pub(super) type Place = (Nanos, WaiterId);

/// A caller's place among the others: counter, time of joining, slot.
type Rank = (u64, WaiterId, usize);

#[derive(Debug)]
pub(super) struct CallerState {
    id: Arc<str>,
    counter: u64,
    joined: WaiterId,
    line: BTreeSet<Place>,
    /// Virtual cost and sequences of the line.
    cost: u64,
    sequences: u64,
    seats: u32,
    /// When it last asked in vain.
    missed: Option<Nanos>,
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
    virtual_time: u64,
    /// What the virtual time was at some moments of the last [`CREDIT`], the earliest first.
    marks: VecDeque<(Nanos, u64)>,
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
        self.mark(now);
        if let Some(&slot) = self.index.get(caller) {
            let counter = self.state(slot).map(|state| self.lifted(state, now));
            if let (Some(state), Some(counter)) = (self.state_mut(slot), counter) {
                state.counter = counter;
            }
            return slot;
        }
        if self.index.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.sweep(now);
        }
        let state = CallerState {
            id: Arc::clone(caller),
            counter: self.virtual_time,
            joined: WaiterId(0),
            line: BTreeSet::new(),
            cost: 0,
            sequences: 0,
            seats: 0,
            missed: None,
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

    /// A request leaves the line; `admitted` charges its caller.
    pub(super) fn leave(&mut self, slot: usize, place: Place, cost: u64, sequences: u32, admitted: bool) {
        let mut served = None;
        self.edit(slot, |state| {
            state.line.remove(&place);
            state.cost = state.cost.saturating_sub(cost);
            state.sequences = state.sequences.saturating_sub(u64::from(sequences));
            if admitted {
                served = Some(state.counter);
                state.counter = state.counter.saturating_add(cost);
                state.seats += 1;
            }
        });
        if let Some(counter) = served {
            self.virtual_time = self.virtual_time.max(counter);
        }
        self.sequences = self.sequences.saturating_sub(u64::from(sequences));
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// A request is admitted without having waited.
    pub(super) fn charge(&mut self, slot: usize, cost: u64) {
        let mut served = 0;
        self.edit(slot, |state| {
            served = state.counter;
            state.counter = state.counter.saturating_add(cost);
            state.seats += 1;
        });
        self.virtual_time = self.virtual_time.max(served);
    }

    /// A seat is given back: `charged` becomes `actual`.
    pub(super) fn settle(&mut self, slot: usize, charged: u64, actual: u64) {
        self.edit(slot, |state| {
            state.counter = state.counter.saturating_add(actual).saturating_sub(charged);
            state.seats = state.seats.saturating_sub(1);
        });
    }

    /// The first request of the caller that is next.
    pub(super) fn head(&self) -> Option<WaiterId> {
        let (_, _, slot) = self.order.first()?;
        self.state(*slot)?.line.first().map(|place| place.1)
    }

    /// A request of `caller` was refused. Callers that are not known have no credit to keep.
    pub(super) fn missed(&mut self, caller: &str, now: Nanos) {
        if let Some(slot) = self.index.get(caller).copied() {
            self.missed_at(slot, now);
        }
    }

    /// A request of the caller in `slot` was refused.
    pub(super) fn missed_at(&mut self, slot: usize, now: Nanos) {
        if let Some(state) = self.state_mut(slot) {
            state.missed = Some(now);
        }
    }

    /// Where a new request of `caller` would begin in virtual time: behind its own line.
    pub(super) fn start(&self, caller: &str, now: Nanos) -> u64 {
        let Some(state) = self.index.get(caller).and_then(|slot| self.state(*slot)) else {
            return self.virtual_time;
        };
        self.lifted(state, now).saturating_add(state.cost)
    }

    /// The counter of a caller that asks at `now`.
    fn lifted(&self, state: &CallerState, now: Nanos) -> u64 {
        if !state.line.is_empty() {
            return state.counter;
        }
        let since = now - CREDIT;
        let owed = state.missed.is_some_and(|missed| missed >= since);
        let mark = self.marks.iter().rev().find(|(at, _)| *at <= since).or(self.marks.front());
        let least = mark.filter(|_| owed).map_or(self.virtual_time, |(_, virtual_time)| *virtual_time);
        state.counter.max(least)
    }

    /// Remembers the virtual time now and then.
    fn mark(&mut self, now: Nanos) {
        if self.marks.back().is_some_and(|(at, _)| now.since(*at) < CREDIT / MARKS as u32) {
            return;
        }
        if self.marks.len() > MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back((now, self.virtual_time));
    }

    /// Sequences of this class that would be admitted before a new request of `caller`; stops counting at `enough`.
    ///
    /// The requests of one line are taken to cost the same, so the work is one step per caller that is ahead.
    pub(super) fn ahead(&self, caller: &str, place: Place, enough: u64, now: Nanos) -> u64 {
        let own = self.index.get(caller).and_then(|slot| Some((*slot, self.state(*slot)?)));
        let (mut start, mut sum, mut me) = (self.virtual_time, 0, usize::MAX);
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

    fn state_mut(&mut self, slot: usize) -> Option<&mut CallerState> {
        self.slots.get_mut(slot).and_then(Option::as_mut)
    }

    /// Changes a caller and keeps both orders true.
    fn edit(&mut self, slot: usize, change: impl FnOnce(&mut CallerState)) {
        let Some(state) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return };
        if !state.line.is_empty() {
            self.order.remove(&(state.counter, state.joined, slot));
            self.tails.remove(&(state.counter.saturating_add(state.cost), state.joined, slot));
        }
        change(state);
        if !state.line.is_empty() {
            self.order.insert((state.counter, state.joined, slot));
            self.tails.insert((state.counter.saturating_add(state.cost), state.joined, slot));
        }
    }

    fn sweep(&mut self, now: Nanos) {
        self.forget_up_to_virtual_time(now - CREDIT);
        let mut idle: Vec<u64> =
            self.slots.iter().flatten().filter(|state| state.is_idle()).map(|state| state.counter).collect();
        if idle.len() > REMEMBERED / 2 {
            let middle = idle.len() / 2;
            let (_, median, _) = idle.select_nth_unstable(middle);
            self.virtual_time = self.virtual_time.max(*median);
            self.forget_up_to_virtual_time(Nanos::MAX);
        }
        let left = self.index.len();
        self.sweep_at = left + left.clamp(SWEEP_FROM, REMEMBERED / 2);
    }

    /// Forgets idle callers that owe nothing and are owed nothing: who asked in vain before `owed_since`, or never.
    fn forget_up_to_virtual_time(&mut self, owed_since: Nanos) {
        let virtual_time = self.virtual_time;
        let settled = |state: &CallerState| {
            let owed = state.missed.is_some_and(|missed| missed >= owed_since);
            state.is_idle() && state.counter <= virtual_time && !owed
        };
        for (slot, place) in self.slots.iter_mut().enumerate() {
            if let Some(state) = place.take_if(|state| settled(state)) {
                self.index.remove(&state.id);
                self.free.push(slot);
            }
        }
    }
}

impl CallerState {
    fn is_idle(&self) -> bool {
        self.line.is_empty() && self.seats == 0
    }
}

/// `part` of `parts` equal shares of `whole`.
fn share(whole: u64, part: usize, parts: usize) -> u64 {
    if part >= parts { whole } else { whole / parts as u64 * part as u64 }
}
