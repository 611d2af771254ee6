//! What was charged to callers and other gateways do not know yet, and what they charged.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use crate::clock::Nanos;

use super::super::caller_tokens::{CallerDigest, MOST_TOLD};
use super::{CallerState, ClassCallers};

/// What a class needs for telling other gateways; nothing of it exists at a gateway that is alone.
#[derive(Debug, Default)]
pub(super) struct ToldCallers {
    /// Slots of callers. Attackers choose callers' names: the standard map has a keyed hash.
    by_digest: HashMap<CallerDigest, usize>,
    /// By slot, the tokens charged since the others were last told, less what was paid back. What is
    /// below zero is taken off later charges: other gateways are told of charges only.
    pending: HashMap<usize, i64>,
}

impl ToldCallers {
    fn of(callers: &HashMap<Arc<str>, usize>) -> Self {
        let mut told = Self::default();
        callers.iter().for_each(|(caller, slot)| told.enter(caller, *slot));
        told
    }

    /// Enters a new caller.
    pub(super) fn enter(&mut self, caller: &str, slot: usize) {
        self.by_digest.insert(CallerDigest::of(caller), slot);
    }

    /// Forgets the callers of slots that are empty.
    pub(super) fn forget_gone(&mut self, slots: &[Option<CallerState>]) {
        let is_used = |slot: usize| slots.get(slot).is_some_and(Option::is_some);
        self.by_digest.retain(|_, slot| is_used(*slot));
        self.pending.retain(|slot, _| is_used(*slot));
    }

    /// Keeps a change of what is charged to the caller in `slot`.
    pub(super) fn keep(&mut self, slot: usize, charged: u64, paid_back: u64) {
        // Costs are capped far below the range of either type.
        let change = charged.cast_signed().saturating_sub(paid_back.cast_signed());
        let pending = self.pending.entry(slot).or_default();
        *pending = pending.saturating_add(change);
    }

    /// Returns the most tokens that were kept for a caller, with their slots, and forgets all others.
    fn take_most(&mut self) -> Vec<(u64, usize)> {
        let charged = self.pending.iter().filter(|(_, tokens)| **tokens > 0);
        let mut most: Vec<_> = charged.map(|(slot, tokens)| (tokens.unsigned_abs(), *slot)).collect();
        self.pending.retain(|_, tokens| *tokens < 0);
        if most.len() > MOST_TOLD {
            most.select_nth_unstable_by_key(MOST_TOLD, |charge| Reverse(*charge));
            most.truncate(MOST_TOLD);
        }
        // The same order in every run, for the simulation.
        most.sort_unstable_by_key(|charge| Reverse(*charge));
        most
    }
}

impl ClassCallers {
    /// Returns the callers that were charged the most since the last call, and how much. The first
    /// call begins to keep charges.
    pub(in super::super) fn tokens_to_tell(&mut self) -> Vec<(CallerDigest, u64)> {
        let Self { told, slots, index, .. } = self;
        let Some(told) = told else {
            *told = Some(ToldCallers::of(index));
            return Vec::new();
        };
        let digest = |(tokens, slot): (u64, usize)| {
            let state = slots.get(slot)?.as_ref()?;
            Some((CallerDigest::of(&state.id), tokens))
        };
        told.take_most().into_iter().filter_map(digest).collect()
    }

    /// Keeps no more charges.
    pub(in super::super) fn stop_telling(&mut self) {
        self.told = None;
    }

    /// Charges what another gateway charged to a caller, if it is in a contest here. Returns `true` if
    /// that may change the order. Unknown callers begin like all others when they come.
    pub(in super::super) fn charge_elsewhere(
        &mut self,
        caller: CallerDigest,
        tokens: u64,
        now: Nanos,
    ) -> bool {
        if self.waiting == 0 && !self.contest.is_on(now) {
            return false;
        }
        let Some(&slot) = self.told.as_ref().and_then(|told| told.by_digest.get(&caller)) else {
            return false;
        };
        let (contest, mut charged) = (self.contest.number(), false);
        self.edit(slot, |state| charged = state.account.charge_elsewhere(tokens, contest, now));
        charged
    }
}
