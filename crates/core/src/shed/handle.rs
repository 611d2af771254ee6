//! A gate that many tasks share.
//!
//! One lock per pool is held for one decision, never while a waker runs the executor's code. The
//! clock is read under the lock, so that the gate sees time in order.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use hashbrown::HashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::clock::{Clock, Nanos, TICK};
use crate::refusal::Refusal;

use super::ask::PermitRequest;
use super::callers::WaiterId;
use super::canary_counts::CanaryCounts;
use super::gate::{Displaced, Gate, GateAnswer, GrantedPermit};
use super::permit::Permit;
use super::permit_record::PermitId;
use super::report::LoadReport;
use super::settings::GateSettings;
use super::snapshot::GateSnapshot;
use super::waiter::{Waiter, WaiterSlot};
use super::worker::PoolMember;

/// The result for a request that is not refused.
#[derive(Debug)]
pub enum GateEntry {
    /// A permit.
    Admitted(Permit),
    /// A place in the queue.
    Waiting(Waiter),
}

/// The shared gate of one pool; clones refer to the same gate.
#[derive(Clone)]
pub struct GateHandle {
    shared: Arc<SharedGate>,
}

struct SharedGate {
    state: Mutex<GateState>,
    clock: Clock,
}

pub(super) struct GateState {
    pub(super) gate: Gate,
    pub(super) waiter_slots: HashMap<WaiterId, WaiterSlot>,
    /// Revoked permits whose holders have not yet asked for the outcome: at most one per permit.
    pub(super) displaced: HashMap<PermitId, Displaced>,
    /// Wakers to call when a permit is revoked.
    pub(super) watchers: HashMap<PermitId, Waker>,
    /// The gate knows of the gateway's own pauses up to this time.
    paused_until: Nanos,
}

impl GateHandle {
    /// Shares `gate`; `clock` gives the time of its decisions.
    #[must_use]
    pub fn new(gate: Gate, clock: Clock) -> Self {
        let state = Mutex::new(GateState {
            gate,
            waiter_slots: HashMap::new(),
            displaced: HashMap::new(),
            watchers: HashMap::new(),
            paused_until: Nanos::ZERO,
        });
        Self { shared: Arc::new(SharedGate { state, clock }) }
    }

    /// Asks for a permit.
    ///
    /// # Errors
    /// As [`Gate::ask`].
    pub fn ask(&self, ask: PermitRequest) -> Result<GateEntry, Refusal> {
        let answer = self.with(|state, now| {
            let answer = state.gate.ask(&ask, now);
            if let Ok(GateAnswer::Waiting { id, .. }) = answer {
                state.waiter_slots.insert(id, WaiterSlot::default());
            }
            answer
        });
        Ok(match answer? {
            GateAnswer::Granted(grant) => GateEntry::Admitted(self.permit(grant)),
            GateAnswer::Waiting { id, expires_at } => {
                GateEntry::Waiting(Waiter::new(self.clone(), id, expires_at))
            }
        })
    }

    /// Refuses requests whose wait is over, and reopens workers whose cool-down is over. A ticker
    /// calls it; every other call does it too.
    pub fn expire(&self) {
        self.with(|state, now| state.gate.process_timeouts(now));
    }

    /// Returns the current state of the gate.
    #[must_use]
    pub fn snapshot(&self) -> GateSnapshot {
        self.with(|state, now| state.gate.snapshot(now))
    }

    /// Returns the counts of the canary under way; see [`Gate::canary_counts`].
    #[must_use]
    pub fn canary_counts(&self) -> Option<(u64, CanaryCounts)> {
        self.with(|state, _| state.gate.canary_counts())
    }

    /// Applies new settings and workers; see [`Gate::rebuild`].
    pub fn rebuild(&self, settings: GateSettings, members: Vec<PoolMember>) {
        self.with(|state, now| state.gate.rebuild(settings, members, now));
    }

    /// Applies a worker's report; see [`Gate::report`].
    pub fn report(&self, id: &str, report: LoadReport) {
        self.with(|state, now| state.gate.report(id, report, now));
    }

    /// Scales a worker's limit; see [`Gate::weigh`].
    pub fn weigh(&self, id: &str, weight: f64) {
        self.with(|state, now| state.gate.weigh(id, weight, now));
    }

    pub(super) fn permit(&self, grant: GrantedPermit) -> Permit {
        Permit::new(self.clone(), grant)
    }

    pub(super) fn now(&self) -> Nanos {
        self.shared.clock.now()
    }

    /// Runs `act` under the lock, then wakes the affected tasks outside it.
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut GateState, Nanos) -> R) -> R {
        let mut wakers = SmallVec::<[_; 4]>::new();
        let result = {
            let mut state = self.shared.state.lock();
            let now = self.shared.clock.now();
            state.notice_pause(&self.shared.clock, now);
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
}

impl GateState {
    /// Tells the gate about a pause of the gateway before it judges events that are therefore late.
    fn notice_pause(&mut self, clock: &Clock, now: Nanos) {
        let Some(pause) = clock.lag().pause(now) else { return };
        // An ongoing pause grows a little with each call until the next tick.
        if pause.pause_to > self.paused_until + TICK {
            self.gate.lagged(pause.pause_from.max(self.paused_until), pause.pause_to);
            self.paused_until = pause.pause_to;
        }
    }
}

impl fmt::Debug for GateHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GateHandle").finish_non_exhaustive()
    }
}
