//! A worker, and what may befall it.

use crate::clock::Nanos;
use crate::sim::physics::{Engine, Spec};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Alive,
    /// Refuses connections.
    Dead,
    /// Takes requests and never answers.
    Zombie,
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) group: usize,
    pub(super) state: State,
    pub(super) engine: Engine,
    /// The size and speed it has when healthy.
    spec: Spec,
    /// The next of its steps that the agenda knows of.
    pub(super) planned: Option<Nanos>,
    pub(super) preempted: u64,
}

impl Machine {
    pub(super) fn new(group: usize, spec: Spec) -> Self {
        let engine = Engine::new(spec.clone());
        Self { group, state: State::Alive, engine, spec, planned: None, preempted: 0 }
    }

    /// Empty, in this state, with a share `kv` of its cache.
    pub(super) fn restart(&mut self, state: State, kv: f64) {
        self.state = state;
        self.planned = None;
        self.engine = Engine::new(Spec { kv_tokens: self.kv_tokens(kv), ..self.spec.clone() });
    }

    pub(super) fn kv_tokens(&self, share: f64) -> u64 {
        (self.spec.kv_tokens as f64 * share) as u64
    }

    /// The next step, when the agenda does not know of it.
    pub(super) fn plan(&mut self) -> Option<Nanos> {
        if self.state != State::Alive {
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
