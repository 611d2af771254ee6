//! A worker, and what may befall it.

use std::time::Duration;

use crate::clock::Nanos;
use crate::sim::physics::{Engine, FirstTokens, Spec};
use crate::sim::simulate::capacity::Remaining;
use crate::sim::simulate::scenario::Group;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MachineState {
    Alive,
    /// Refuses connections.
    Dead,
    /// Takes requests and never answers.
    Zombie,
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) group: usize,
    pub(super) state: MachineState,
    pub(super) engine: Engine,
    /// The size and speed it has when healthy.
    spec: Spec,
    pub(super) first_tokens: FirstTokens,
    /// The next of its steps that the agenda knows of.
    pub(super) planned: Option<Nanos>,
    pub(super) preempted: u64,
}

impl Machine {
    pub(super) fn new(group: usize, kind: &Group, seed: u64) -> Self {
        let spec = kind.spec();
        let first_tokens = FirstTokens::new(kind.first_token.spread(), seed);
        let engine = Engine::new(spec.clone());
        Self { group, state: MachineState::Alive, engine, spec, first_tokens, planned: None, preempted: 0 }
    }

    /// Empty, in this state, with these shares of itself.
    pub(super) fn restart(&mut self, state: MachineState, shares: Remaining) {
        self.state = state;
        self.planned = None;
        let (kv_tokens, slots) = (self.kv_tokens(shares.kv), shares.slots_of(self.spec.slots));
        self.engine = Engine::new(Spec { kv_tokens, slots, ..self.spec.clone() });
    }

    /// Stands still for `length`.
    pub(super) fn pause(&mut self, length: Duration, now: Nanos) {
        self.engine.pause(length, now);
        self.planned = None;
    }

    pub(super) fn set_slots(&mut self, shares: Remaining) {
        self.engine.set_slots(shares.slots_of(self.spec.slots));
    }

    pub(super) fn kv_tokens(&self, share: f64) -> u64 {
        (self.spec.kv_tokens as f64 * share) as u64
    }

    /// The next step, when the agenda does not know of it.
    pub(super) fn plan(&mut self) -> Option<Nanos> {
        if self.state != MachineState::Alive {
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
