//! Tests of a gate in virtual time.

mod abandoned;
mod canary;
mod course;
mod debts;
mod displacing;
mod ejecting;
mod exchange;
mod fairness;
mod prefixes;
mod provider;
mod queueing;
mod random;
mod reading;
mod silence;

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use crate::clock::Nanos;
use crate::refusal::{Reason, Refusal};
use crate::request::{Class, Ending};
use crate::shed::settings::{GateSettings, LimitSource};
use crate::shed::{
    Candidate, Gate, GateAnswer, GrantedPermit, PermitId, PermitRequest, Pick, PoolMember, WaiterId,
};

/// Returns the first of the least loaded candidates that fit.
fn least_loaded(candidates: &[Candidate], _random: &mut Rng) -> Option<usize> {
    let fitting = candidates.iter().enumerate().filter(|(_, worker)| worker.fits);
    fitting.min_by_key(|(_, worker)| worker.tokens).map(|(index, _)| index)
}

/// A predictable policy; sessions go to the least loaded worker, too.
const PICK: Pick = Pick { any: least_loaded, rank: |_, _| 0, below_session_share: |_, _| true };

pub(in crate::shed) fn settings() -> GateSettings {
    GateSettings { queue_length: 16, queue_bytes: 1 << 20, fleet_factor: 1.0, ..GateSettings::default() }
}

pub(in crate::shed) fn member(id: &str, slots: u32) -> PoolMember {
    PoolMember {
        id: Arc::from(id),
        slots: Some(slots),
        kv_tokens: None,
        eligible: true,
        external: None,
        canary: false,
    }
}

pub(in crate::shed) fn gate(settings: GateSettings, members: &[PoolMember]) -> Gate {
    let mut gate = Gate::new(Arc::from("default"), settings, PICK, 7);
    gate.rebuild(gate.settings.clone(), members.to_vec(), Nanos::ZERO);
    gate
}

pub(in crate::shed) fn ask(caller: &str) -> PermitRequest {
    PermitRequest {
        caller: Arc::from(caller),
        weight: 1,
        class: Class::Interactive,
        prompt_tokens: 100,
        expected_output: 50,
        sequences: 1,
        stream: true,
        repeatable: false,
        body_bytes: 1000,
        session: None,
        prefix: None,
        deadline: None,
        worker: None,
        external: false,
    }
}

pub(in crate::shed) fn at(millis: u64) -> Nanos {
    Nanos::from_millis(millis)
}

fn granted(gate: &mut Gate, ask: &PermitRequest, now: Nanos) -> GrantedPermit {
    match gate.ask(ask, now) {
        Ok(GateAnswer::Granted(grant)) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

fn waiting(gate: &mut Gate, ask: &PermitRequest, now: Nanos) -> WaiterId {
    match gate.ask(ask, now) {
        Ok(GateAnswer::Waiting { id, .. }) => id,
        other => panic!("not waiting: {other:?}"),
    }
}

fn refused(gate: &mut Gate, ask: &PermitRequest, now: Nanos) -> Refusal {
    match gate.ask(ask, now) {
        Err(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// The outcomes of waiting requests: the reason of a refusal, or `None` for a permit.
fn outcomes(gate: &mut Gate) -> Vec<(WaiterId, Option<Reason>)> {
    gate.take_outcomes().map(|(id, outcome)| (id, outcome.err().map(|refusal| refusal.reason))).collect()
}

/// Serves one request from `from` to `to`.
fn serve_one(gate: &mut Gate, ask: &PermitRequest, from: Nanos, to: Nanos) {
    let grant = granted(gate, ask, from);
    gate.dispatched(grant.permit, from);
    gate.release(grant.permit, Ending::Complete, 50, to);
}
