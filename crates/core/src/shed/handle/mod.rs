//! A gate that many tasks share, and its futures.
//!
//! [`GateHandle::ask`] makes a [`Permit`] or a [`Waiter`], which becomes one. Both tell the gate when
//! they are dropped.

mod held;
mod permit;
mod requeue;
mod shared;
#[cfg(test)]
mod tests;
mod waiter;

use std::fmt;
use std::sync::Arc;

use crate::clock::{Clock, Nanos};
use crate::refusal::Refusal;

pub use self::held::HeldPermit;
pub use self::permit::Permit;
pub use self::waiter::Waiter;

use self::shared::{GateState, SharedGate};
use super::ask::PermitRequest;
use super::caller_tokens::CallerTokens;
use super::canary_counts::CanaryCounts;
use super::gate::{Gate, GateAnswer};
use super::report::LoadReport;
use super::settings::GateSettings;
use super::snapshot::GateSnapshot;
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

impl GateHandle {
    /// Shares `gate`; `clock` gives the time of its decisions.
    #[must_use]
    pub fn new(gate: Gate, clock: Clock) -> Self {
        Self { shared: Arc::new(SharedGate::new(gate, clock)) }
    }

    /// Asks for a permit.
    ///
    /// # Errors
    /// As [`Gate::ask`].
    pub fn ask(&self, ask: PermitRequest) -> Result<GateEntry, Refusal> {
        let shared = || Arc::clone(&self.shared);
        Ok(match self.shared.ask(&ask)? {
            GateAnswer::Granted(grant) => GateEntry::Admitted(Permit::new(shared(), grant)),
            GateAnswer::Waiting { id, expires_at } => {
                GateEntry::Waiting(Waiter::new(shared(), id, expires_at))
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

    /// Returns the workers for which a request without a permit is too much; see
    /// [`Gate::workers_to_avoid`].
    #[must_use]
    pub fn workers_to_avoid(&self) -> Vec<Arc<str>> {
        self.with(|state, now| state.gate.workers_to_avoid(now))
    }

    /// Returns the counts of the canary under way; see [`Gate::canary_counts`].
    #[must_use]
    pub fn canary_counts(&self) -> Option<(u64, CanaryCounts)> {
        self.with(|state, _| state.gate.canary_counts())
    }

    /// Returns what was charged to callers since the last call; see [`Gate::tokens_to_tell`].
    #[must_use]
    pub fn tokens_to_tell(&self) -> Vec<CallerTokens> {
        self.with(|state, _| state.gate.tokens_to_tell())
    }

    /// Keeps no more charges to tell; see [`Gate::stop_telling`].
    pub fn stop_telling(&self) {
        self.with(|state, _| state.gate.stop_telling());
    }

    /// Charges what another gateway told; see [`Gate::hear_tokens`].
    pub fn hear_tokens(&self, told: &[CallerTokens]) {
        self.with(|state, now| state.gate.hear_tokens(told, now));
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

    fn with<R>(&self, act: impl FnOnce(&mut GateState, Nanos) -> R) -> R {
        self.shared.with(act)
    }
}

impl fmt::Debug for GateHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GateHandle").finish_non_exhaustive()
    }
}
