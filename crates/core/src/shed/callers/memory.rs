//! Which callers are forgotten.
//!
//! A caller without waiting requests and permits whose counter is not above the virtual time is
//! like a new one, and is forgotten. If more than [`REMEMBERED`] idle callers are above it, the
//! virtual time rises to their median: half of them are forgiven at most one request's worth.

use crate::clock::Nanos;

use super::{CallerState, ClassCallers};

/// Idle callers remembered per class.
const REMEMBERED: usize = 65_536;
/// Below this many callers a sweep is not worth its time.
const SWEEP_FROM: usize = 1024;

impl ClassCallers {
    /// Forgets callers from time to time, to make room for one more.
    pub(super) fn sweep_when_many(&mut self, now: Nanos) {
        if self.index.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.sweep(now);
        }
    }

    fn sweep(&mut self, now: Nanos) {
        self.forget_up_to_virtual_time(Some(now));
        let idle = self.slots.iter().flatten().filter(|state| state.is_idle());
        let mut idle: Vec<u64> = idle.map(|state| state.account.counter()).collect();
        if idle.len() > REMEMBERED / 2 {
            let middle = idle.len() / 2;
            let (_, median, _) = idle.select_nth_unstable(middle);
            self.contest.reach(*median);
            self.forget_up_to_virtual_time(None);
        }
        let left = self.index.len();
        self.sweep_at = left + left.clamp(SWEEP_FROM, REMEMBERED / 2);
    }

    /// Forgets idle callers without debt, and without credit at `now`; `None` ignores credit.
    fn forget_up_to_virtual_time(&mut self, now: Option<Nanos>) {
        let virtual_time = self.contest.virtual_time();
        let settled = |state: &CallerState| {
            let owed = now.is_some_and(|now| state.account.is_owed(now));
            state.is_idle() && state.account.counter() <= virtual_time && !owed
        };
        for (slot, place) in self.slots.iter_mut().enumerate() {
            if let Some(state) = place.take_if(|state| settled(state)) {
                self.index.remove(&state.id);
                self.free.push(slot);
            }
        }
        if let Some(told) = &mut self.told {
            told.forget_gone(&self.slots);
        }
    }
}
