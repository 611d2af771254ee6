//! The requests that wait: bounded in number and bytes, strict by class, fair by caller, and never too old.
//!
//! Within a class the callers take turns by their virtual counters (`callers.rs`), and within a caller the earliest
//! deadline goes first. When the queue is full, the last in the line of the caller that would be served latest, in the lowest
//! class that waits, makes room for a newcomer that would be served before it; so a flood fills the queue only with
//! itself. Waiting costs a caller nothing: its counter moves when a request is admitted.

use std::collections::BTreeSet;
use std::time::Duration;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::clock::Nanos;
use crate::request::Class;

use super::ask::Ask;
use super::callers::{Callers, Place, WaiterId};
use super::gate::Gate;
use super::ledger::Load;

/// Virtual tokens of one token at weight 1: weights up to this divide without losing a single token.
const SCALE: u64 = 256;
/// Output is worth two prompt tokens: it is decoded one by one, while prompts are read many at once.
const OUTPUT_WEIGHT: u64 = 2;

/// Places of workers.
pub(super) type Tried = SmallVec<[usize; 2]>;

/// What an admitted request has cost its caller so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charge {
    class: Class,
    caller: usize,
    /// Stands for the caller in every class.
    pub(super) key: u64,
    admission: u64,
    weight: u32,
    sequences: u32,
    cost: u64,
}

/// A request in the queue, or just taken out of it.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) id: WaiterId,
    pub(super) class: Class,
    pub(super) load: Load,
    pub(super) session: Option<u64>,
    pub(super) stream: bool,
    /// Places of workers that have failed it: others only.
    pub(super) tried: Tried,
    /// What was asked, if the seat it gets may be taken away again.
    pub(super) ask: Option<Box<Ask>>,
    pub(super) since: Nanos,
    pub(super) expires: Nanos,
    bytes: u64,
    weight: u32,
    cost: u64,
    caller: usize,
    key: u64,
}

/// The bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) length: usize,
    pub(super) bytes: u64,
}

/// The queue of one pool.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    classes: [Callers; 3],
    waiting: HashMap<WaiterId, Waiting>,
    expiry: BTreeSet<Place>,
    bytes: u64,
    next: u64,
    /// Since when somebody of a class asks and nobody of it is admitted.
    wanting: [Option<Nanos>; 3],
}

impl FairQueue {
    /// Requests waiting in `class`.
    pub(super) fn depth(&self, class: Class) -> usize {
        self.class(class).waiting()
    }

    /// Bytes of request bodies waiting.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Requests waiting.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Callers remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.classes.iter().map(Callers::remembered).sum()
    }

    /// Sequences of all waiting requests.
    pub(super) fn sequences(&self) -> u64 {
        self.classes.iter().map(Callers::sequences).sum()
    }

    /// Whether somebody of `class` or above waits.
    pub(super) fn blocks(&self, class: Class) -> bool {
        Class::ALL.into_iter().any(|other| other >= class && self.class(other).waiting() > 0)
    }

    /// Sequences that would be admitted before `ask`, counted as far as `enough`; `None` when there are fewer.
    pub(super) fn ahead(&self, ask: &Ask, expires: Nanos, enough: u64, now: Nanos) -> Option<u64> {
        let waiting = |other: &Class| self.class(*other).sequences();
        let above: u64 = Class::ALL.iter().filter(|other| **other > ask.class).map(waiting).sum();
        if above + waiting(&ask.class) < enough {
            return None;
        }
        let place = (expires, WaiterId(self.next));
        let beside = self.class(ask.class).ahead(&ask.caller, place, enough.saturating_sub(above), now);
        Some(above + beside).filter(|ahead| *ahead >= enough)
    }

    /// Whether `ask` fits; if not, those who must go for it, taken out. `None`: nobody is less deserving.
    pub(super) fn make_room(
        &mut self,
        ask: &Ask,
        bounds: Bounds,
        now: Nanos,
    ) -> Option<SmallVec<[Waiting; 1]>> {
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

    /// Takes out who would be served last, while the queue exceeds `bounds`.
    pub(super) fn pop_surplus(&mut self, bounds: Bounds, now: Nanos) -> Option<Waiting> {
        if self.waiting.len() <= bounds.length && self.bytes <= bounds.bytes {
            return None;
        }
        let lowest = self.classes.iter().find(|class| class.waiting() > 0)?;
        let last = lowest.last_line().and_then(|(_, mut line)| line.next())?;
        self.refuse(last, now)
    }

    /// Puts a request into the queue until `expires`.
    pub(super) fn push(&mut self, ask: &Ask, tried: Tried, expires: Nanos, now: Nanos) -> WaiterId {
        let id = WaiterId(self.next);
        self.next += 1;
        let load = ask.load();
        let cost = cost(load.prompt, load.output, load.sequences, ask.weight);
        let callers = self.class_mut(ask.class);
        callers.contend(now);
        let caller = callers.enter(&ask.caller, now);
        callers.join(caller, (expires, id), cost, load.sequences);
        self.expiry.insert((expires, id));
        self.bytes = self.bytes.saturating_add(ask.body_bytes);
        self.waiting.insert(
            id,
            Waiting {
                id,
                class: ask.class,
                load,
                session: ask.session,
                stream: ask.stream,
                tried,
                ask: Gate::may_yield(ask).then(|| Box::new(ask.clone())),
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

    /// Somebody of `class` asked and was not admitted at once.
    pub(super) fn wants(&mut self, class: Class, now: Nanos) {
        self.wanting[class as usize].get_or_insert(now);
    }

    /// Somebody of `class` was admitted.
    pub(super) fn served(&mut self, class: Class) {
        self.wanting[class as usize] = None;
    }

    /// Who is next: strictly by class, except that a class that nobody was admitted of for `promote` (zero: never)
    /// goes first once, so that it is not shut out for ever. That costs the others one seat in each such time.
    pub(super) fn head(&self, now: Nanos, promote: Duration) -> Option<&Waiting> {
        let starves = |since: &Option<Nanos>| {
            !promote.is_zero() && since.is_some_and(|since| now.since(since) >= promote)
        };
        let starving = self.classes.iter().zip(&self.wanting).filter(|(_, since)| starves(since));
        let first = starving.filter_map(|(class, _)| class.head()).next();
        let id = first.or_else(|| self.classes.iter().rev().find_map(Callers::head))?;
        self.waiting.get(&id)
    }

    /// Admits a waiting request and charges its caller.
    pub(super) fn admit(&mut self, id: WaiterId, now: Nanos) -> Option<(Waiting, Charge)> {
        let waiting = self.remove(id, now)?;
        let Waiting { class, caller, key, weight, cost, load, .. } = &waiting;
        let (class, caller, key, weight, cost, load) = (*class, *caller, *key, *weight, *cost, *load);
        let admission = self.class_mut(class).charge(caller, cost, now);
        Some((waiting, Charge { class, caller, key, admission, weight, sequences: load.sequences, cost }))
    }

    /// Charges the caller of a request that did not have to wait.
    pub(super) fn charge(&mut self, ask: &Ask, now: Nanos) -> Charge {
        let load = ask.load();
        let cost = cost(load.prompt, load.output, load.sequences, ask.weight);
        let callers = self.class_mut(ask.class);
        let caller = callers.enter(&ask.caller, now);
        let admission = callers.charge(caller, cost, now);
        let (class, key, weight) = (ask.class, ask.caller_key(), ask.weight);
        Charge { class, caller, key, admission, weight, sequences: load.sequences, cost }
    }

    /// Corrects a charge at the end: `used` is what the request really took, `None` nothing at all.
    pub(super) fn settle(&mut self, charge: Charge, used: Option<Load>) {
        let actual = used.map_or(0, |load| cost(load.prompt, load.output, charge.sequences, charge.weight));
        self.class_mut(charge.class).settle(charge.caller, charge.admission, charge.cost, actual);
    }

    /// A request was refused on arrival.
    pub(super) fn missed(&mut self, ask: &Ask, now: Nanos) {
        let load = ask.load();
        let cost = cost(load.prompt, load.output, load.sequences, ask.weight);
        let callers = self.class_mut(ask.class);
        callers.contend(now);
        callers.missed(&ask.caller, cost, now);
    }

    /// Takes a request out that is refused: its caller is owed something.
    pub(super) fn refuse(&mut self, id: WaiterId, now: Nanos) -> Option<Waiting> {
        let waiting = self.remove(id, now)?;
        self.class_mut(waiting.class).missed_at(waiting.caller, waiting.cost, now);
        Some(waiting)
    }

    /// Takes a request out of the queue.
    pub(super) fn remove(&mut self, id: WaiterId, now: Nanos) -> Option<Waiting> {
        let waiting = self.waiting.remove(&id)?;
        let place = (waiting.expires, id);
        self.expiry.remove(&place);
        self.bytes = self.bytes.saturating_sub(waiting.bytes);
        let sequences = waiting.load.sequences;
        self.class_mut(waiting.class).leave(waiting.caller, place, waiting.cost, sequences, now);
        Some(waiting)
    }

    /// Ends the debts of waiting callers whose time is over; `true`: the order of service may have changed.
    pub(super) fn forgive(&mut self, now: Nanos) -> bool {
        let mut any = false;
        for class in &mut self.classes {
            any |= class.forgive(now);
        }
        any
    }

    /// Takes out one whose time is over.
    pub(super) fn pop_expired(&mut self, now: Nanos) -> Option<Waiting> {
        let (expires, id) = *self.expiry.first()?;
        if expires > now { None } else { self.refuse(id, now) }
    }

    fn class(&self, class: Class) -> &Callers {
        &self.classes[class as usize]
    }

    fn class_mut(&mut self, class: Class) -> &mut Callers {
        &mut self.classes[class as usize]
    }
}

/// What a request costs its caller, in virtual tokens. One without tokens costs as many as it has sequences.
fn cost(prompt: u64, output: u64, sequences: u32, weight: u32) -> u64 {
    let tokens = prompt.saturating_add(output.saturating_mul(OUTPUT_WEIGHT));
    // Capped so that a nonsensical demand cannot drive a counter to its end.
    let tokens = tokens.max(u64::from(sequences)).min(u64::from(u32::MAX));
    (tokens * SCALE / u64::from(weight.max(1))).max(1)
}
