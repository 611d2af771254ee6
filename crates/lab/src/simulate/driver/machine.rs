//! A simulated worker that can fail.

use std::time::Duration;

use crate::engine::{EngineModel, EngineSpec, FirstTokens};
use crate::simulate::capacity::RemainingShares;
use crate::simulate::scenario::WorkerGroup;
use traffic_dam_core::clock::Nanos;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VirtualWorkerState {
    Alive,
    Dead,
    /// Accepts requests and never answers.
    Zombie,
}

#[derive(Debug)]
pub(super) struct VirtualWorker {
    pub(super) group: usize,
    pub(super) state: VirtualWorkerState,
    pub(super) engine: EngineModel,
    /// Size and speed when healthy.
    spec: EngineSpec,
    pub(super) first_tokens: FirstTokens,
    /// Time of its next step that is in the agenda.
    pub(super) planned: Option<Nanos>,
    pub(super) preempted: u64,
}

impl VirtualWorker {
    pub(super) fn new(group: usize, kind: &WorkerGroup, seed: u64) -> Self {
        let spec = kind.spec();
        let first_tokens = FirstTokens::new(kind.first_token.spread(), seed);
        let engine = EngineModel::new(spec.clone());
        Self {
            group,
            state: VirtualWorkerState::Alive,
            engine,
            spec,
            first_tokens,
            planned: None,
            preempted: 0,
        }
    }

    /// Restarts it empty, in this state, with these shares of its size.
    pub(super) fn restart(&mut self, state: VirtualWorkerState, shares: RemainingShares) {
        self.state = state;
        self.planned = None;
        let (kv_tokens, slots) = (self.kv_tokens(shares.kv), shares.slots_of(self.spec.slots));
        self.engine = EngineModel::new(EngineSpec { kv_tokens, slots, ..self.spec.clone() });
    }

    pub(super) fn pause(&mut self, length: Duration, now: Nanos) {
        self.engine.pause(length, now);
        self.planned = None;
    }

    pub(super) fn set_slots(&mut self, shares: RemainingShares) {
        self.engine.set_slots(shares.slots_of(self.spec.slots));
    }

    pub(super) fn kv_tokens(&self, share: f64) -> u64 {
        (self.spec.kv_tokens as f64 * share) as u64
    }

    /// Returns the time of the next step if the agenda does not have it yet.
    pub(super) fn plan(&mut self) -> Option<Nanos> {
        if self.state != VirtualWorkerState::Alive {
            return None;
        }
        let next = self.engine.next_event()?;
        if self.planned.is_some_and(|planned| planned <= next) {
            return None;
        }
        self.planned = Some(next);
        Some(next)
    }
}
