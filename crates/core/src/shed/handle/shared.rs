//! The gate behind a lock, and what its futures need beside it: slots for outcomes, and wakers.
//!
//! One lock per pool is held for one decision, never while a waker runs the executor's code. The
//! clock is read under the lock, so that the gate sees time in order. Each request that waits has a
//! slot, from the moment it waits until its [`Waiter`](super::Waiter) leaves.

use std::task::Waker;

use hashbrown::HashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::clock::{Clock, Nanos, TICK};
use crate::refusal::Refusal;
use crate::request::Ending;
use crate::shed::ask::PermitRequest;
use crate::shed::callers::WaiterId;
use crate::shed::gate::{Displaced, Gate, GateAnswer, GrantedPermit};
use crate::shed::permit_record::PermitId;

/// The slot where the gate leaves the outcome for a waiter.
#[derive(Debug, Default)]
struct WaiterSlot {
    outcome: Option<Result<GrantedPermit, Refusal>>,
    waker: Option<Waker>,
}

impl WaiterSlot {
    /// Stores the outcome; returns the waker to wake.
    fn settle(&mut self, outcome: Result<GrantedPermit, Refusal>) -> Option<Waker> {
        self.outcome = Some(outcome);
        self.waker.take()
    }
}

/// The gate of one pool, its clock, and the futures that it must answer.
pub(super) struct SharedGate {
    state: Mutex<GateState>,
    clock: Clock,
}

/// What the lock guards.
pub(super) struct GateState {
    pub(super) gate: Gate,
    waiter_slots: HashMap<WaiterId, WaiterSlot>,
    /// Revoked permits whose holders have not yet asked for the outcome: at most one per permit.
    displaced: HashMap<PermitId, Displaced>,
    /// Wakers to call when a permit is revoked.
    watchers: HashMap<PermitId, Waker>,
    /// The gate knows of the gateway's own pauses up to this time.
    paused_until: Nanos,
}

impl SharedGate {
    pub(super) fn new(gate: Gate, clock: Clock) -> Self {
        let state = Mutex::new(GateState {
            gate,
            waiter_slots: HashMap::new(),
            displaced: HashMap::new(),
            watchers: HashMap::new(),
            paused_until: Nanos::ZERO,
        });
        Self { state, clock }
    }

    pub(super) fn now(&self) -> Nanos {
        self.clock.now()
    }

    /// Runs `act` under the lock, then wakes the affected tasks outside it.
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut GateState, Nanos) -> R) -> R {
        let mut wakers = SmallVec::<[_; 4]>::new();
        let result = {
            let mut state = self.state.lock();
            let now = self.clock.now();
            state.notice_pause(&self.clock, now);
            let result = act(&mut state, now);
            let GateState { gate, waiter_slots, displaced, watchers, .. } = &mut *state;
            for event in gate.take_displaced() {
                if let Ok((id, _)) = event.next {
                    waiter_slots.insert(id, WaiterSlot::default());
                }
                wakers.extend(watchers.remove(&event.permit));
                displaced.insert(event.permit, event);
            }
            for (id, outcome) in gate.take_outcomes() {
                if let Some(slot) = waiter_slots.get_mut(&id) {
                    wakers.extend(slot.settle(outcome));
                }
            }
            result
        };
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    /// Asks the gate for a permit. A request that waits must be polled, and must leave in the end.
    pub(super) fn ask(&self, ask: &PermitRequest) -> Result<GateAnswer, Refusal> {
        self.with(|state, now| {
            let answer = state.gate.ask(ask, now);
            if let Ok(GateAnswer::Waiting { id, .. }) = answer {
                state.waiter_slots.insert(id, WaiterSlot::default());
            }
            answer
        })
    }

    /// Queues the request of a permit again; see [`Gate::resubmit`].
    pub(super) fn resubmit(
        &self,
        permit: PermitId,
        ask: &PermitRequest,
    ) -> Option<Result<(WaiterId, Nanos), Refusal>> {
        self.with(|state, now| {
            let next = state.gate.resubmit(permit, ask, now);
            if let Some(Ok((id, _))) = next {
                state.waiter_slots.insert(id, WaiterSlot::default());
            }
            next
        })
    }

    /// Takes the outcome of a waiting request; until there is one, `waker` will be woken by it.
    pub(super) fn poll_outcome(&self, id: WaiterId, waker: &Waker) -> Option<Result<GrantedPermit, Refusal>> {
        // Wakers are cloned and dropped outside the lock: they run code of the executor.
        let waker = waker.clone();
        let (outcome, _replaced) = self.with(|state, _| {
            let Some(slot) = state.waiter_slots.get_mut(&id) else { return (None, None) };
            match slot.outcome.take() {
                Some(outcome) => (Some(outcome), Some(waker)),
                None => (None, slot.waker.replace(waker)),
            }
        });
        outcome
    }

    /// Ends the wait of a request. Returns the refusal that was decided, or the one for waiting too
    /// long. A permit granted in the same moment is released.
    pub(super) fn give_up(&self, id: WaiterId) -> Refusal {
        self.with(|state, now| match state.waiter_slots.get_mut(&id).and_then(|slot| slot.outcome.take()) {
            Some(Err(refusal)) => refusal,
            Some(Ok(grant)) => {
                state.gate.release(grant.permit, Ending::Refused, 0, now);
                state.gate.waited_in_vain(grant.waited, now)
            }
            None => state.gate.give_up(id, now),
        })
    }

    /// Removes a request that waits, or whose outcome was not taken.
    pub(super) fn leave(&self, id: WaiterId) {
        let _slot = self.with(|state, now| {
            let mut slot = state.waiter_slots.remove(&id);
            // A permit granted but never fetched is released here: only this knows of it.
            match slot.as_mut().and_then(|slot| slot.outcome.take()) {
                Some(Ok(grant)) => state.gate.release(grant.permit, Ending::ClientGone, 0, now),
                Some(Err(_)) => {}
                None => state.gate.cancel(id, now),
            }
            slot
        });
    }

    /// Returns `true` if the permit was revoked; until then, `waker` will be woken by that.
    pub(super) fn poll_displaced(&self, permit: PermitId, waker: &Waker) -> bool {
        let waker = waker.clone();
        let (gone, _replaced) = self.with(|state, _| {
            if state.displaced.contains_key(&permit) {
                (true, None)
            } else {
                (false, state.watchers.insert(permit, waker))
            }
        });
        gone
    }

    /// Takes the outcome of a revoked permit.
    pub(super) fn take_displaced(&self, permit: PermitId) -> Option<Displaced> {
        self.with(|state, _| state.displaced.remove(&permit))
    }
}

impl GateState {
    /// Forgets a permit that nobody holds. Returns what its holder has not asked for, if it was revoked.
    pub(super) fn forget_permit(&mut self, permit: PermitId) -> Option<Displaced> {
        self.watchers.remove(&permit);
        self.displaced.remove(&permit)
    }

    /// Tells the gate about a pause of the gateway before it judges events that are therefore late.
    fn notice_pause(&mut self, clock: &Clock, now: Nanos) {
        let Some(pause) = clock.lag().pause(now) else { return };
        // An ongoing pause grows a little with each call until the next tick.
        if pause.pause_to > self.paused_until + TICK {
            let from = pause.pause_from.max(self.paused_until);
            self.gate.lagged(from, pause.pause_to, clock.lag().overlap(from, pause.pause_to));
            self.paused_until = pause.pause_to;
        }
    }
}
