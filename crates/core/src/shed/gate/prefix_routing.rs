//! The gate's use of the index of prefixes: where prompts go, what is expected to be cached, what was.

use crate::clock::Nanos;
use crate::request::PromptPrefix;
use crate::shed::ask::{Affinity, PermitRequest};
use crate::shed::ledger::RequestLoad;
use crate::shed::permit_record::{PermitId, PermitRecord};
use crate::shed::pick::CandidateSums;
use crate::shed::prefix::{LEAST_BLOCKS, PrefixOption, best, blocks_of};
use crate::shed::worker::GateWorker;

use super::Gate;
use super::placing::{DRAWS, FEW};

/// Seconds per prompt token of workers that nothing is known of: 8000 tokens per second.
const UNKNOWN_PACE: f64 = 1.0 / 8000.0;
/// Share of the distance that one report moves the trust in what is expected to be cached.
const TRUST_STEP: f64 = 0.3;
/// Trust below which a worker that has nothing cached is taken to have lost everything.
const LOST: f64 = 0.5;

/// A prompt on its way to a worker.
struct RoutedPrompt<'a> {
    load: RequestLoad,
    prefix: &'a PromptPrefix,
    /// Number of first blocks that soon all workers have, so that no worker is preferred for them.
    common: usize,
    /// Key by which workers are ranked: the session, or else the first block that no worker has.
    home: u64,
    whole: CandidateSums,
    now: Nanos,
}

impl Gate {
    /// Returns what may bind a request to some of the workers.
    pub(super) fn affinity(&self, ask: &PermitRequest) -> Affinity {
        let prefix = ask.prefix.clone().filter(|_| self.settings.prefix.is_some());
        Affinity { session: ask.session, prefix }
    }

    /// Returns `load` with what the worker at `place` probably has cached.
    pub(super) fn load_at(&self, place: usize, load: RequestLoad, affinity: &Affinity) -> RequestLoad {
        let Some(prefix) = affinity.prefix.as_deref() else { return load };
        let depth = self.prefixes.depth_at(place, &prefix.blocks);
        self.with_cached(place, load, prefix, depth)
    }

    /// Returns `load` with what the worker that has most of the prompt probably has cached.
    pub(super) fn load_anywhere(&self, load: RequestLoad, affinity: &Affinity) -> RequestLoad {
        let Some(prefix) = affinity.prefix.as_deref() else { return load };
        let depth = self.prefixes.depth(&prefix.blocks);
        let Some(place) = self.prefixes.nearest(&prefix.blocks, depth).first().copied() else { return load };
        self.with_cached(place, load, prefix, depth)
    }

    fn with_cached(
        &self,
        place: usize,
        load: RequestLoad,
        prefix: &PromptPrefix,
        depth: usize,
    ) -> RequestLoad {
        let trust = self.worker_at(place).map_or(0.0, |worker| worker.cache_trust);
        let cached = (prefix.tokens_in(depth, load.prompt) as f64 * trust) as u64;
        RequestLoad { cached, ..load }
    }

    /// Records that the worker of a permit will read its prompt.
    pub(super) fn enter_prefix(&mut self, permit: &mut PermitRecord) {
        let Some(prefix) = &permit.prefix else { return };
        permit.known_blocks = self.prefixes.depth_at(permit.worker, &prefix.blocks);
        let depth = self.prefixes.depth(&prefix.blocks);
        self.prefixes.branch(&prefix.blocks, depth);
        permit.reported_cached = None;
        self.cached.estimate(permit.load.cached, permit.load.prompt);
        self.remember(permit.worker, prefix);
    }

    fn remember(&mut self, place: usize, prefix: &PromptPrefix) {
        let kv_tokens = self.worker_at(place).and_then(|worker| worker.member.kv_tokens);
        let tokens = self.settings.prefix.and_then(|settings| settings.capacity).or(kv_tokens);
        // The other gateways' prompts take the rest of it.
        let capacity = (blocks_of(tokens) / self.settings.gateways.max(1) as usize).max(1);
        self.prefixes.add(place, &prefix.blocks, capacity);
    }

    /// Records that a worker had `cached` tokens of a permit's prompt, as it reports in `usage`.
    pub fn report_cached(&mut self, id: PermitId, cached: u64) {
        let Some((permit, worker)) = self.seat_and_worker(id) else { return };
        let Some(prefix) = permit.prefix.clone() else { return };
        if permit.reported_cached.replace(cached.min(permit.load.prompt)).is_some() {
            return;
        }
        let (place, prompt) = (permit.worker, permit.load.prompt);
        let expected = prefix.tokens_in(permit.known_blocks, prompt);
        let mut lost = false;
        if permit.known_blocks >= LEAST_BLOCKS {
            let share = (cached as f64 / expected.max(1) as f64).min(1.0);
            worker.cache_trust += TRUST_STEP * (share - worker.cache_trust);
            lost = cached == 0 && worker.cache_trust < LOST;
        }
        self.cached.report(cached.min(prompt), prompt);
        if lost {
            self.prefixes.forget(place);
            self.remember(place, &prefix);
        }
    }

    /// Chooses a worker with room that has read the prompt first, itself and all before it.
    pub(super) fn by_prefix(
        &mut self,
        load: &RequestLoad,
        session: Option<u64>,
        prefix: &PromptPrefix,
        tried: &[usize],
        now: Nanos,
    ) -> Option<usize> {
        let depth = self.prefixes.depth(&prefix.blocks);
        // What many prompts have in common must not have one home for all of them.
        let diverges = depth.max(LEAST_BLOCKS - 1).min(prefix.blocks.len().saturating_sub(1));
        let home = session.or_else(|| prefix.blocks.get(diverges).copied()).unwrap_or_default();
        let whole = self.whole(load);
        let common = if self.prefixes.is_common(&prefix.blocks, depth) { depth } else { 0 };
        let prompt = RoutedPrompt { load: *load, prefix, common, home, whole, now };
        let few = self.sums.open.len() <= FEW;
        let mut options = std::mem::take(&mut self.options);
        options.clear();
        if few {
            let open = self.sums.open.iter().filter(|place| !tried.contains(place));
            options.extend(open.filter_map(|place| self.option(*place, &prompt)));
        } else {
            self.draw_options(&prompt, depth, tried, &mut options);
        }
        let chosen = best(&options);
        self.options = options;
        if chosen.is_some() || few { chosen } else { self.anywhere(load, tried, now) }
    }

    /// Collects some of many workers: those that have most of the prompt, its home, and two at
    /// random that have room.
    fn draw_options(
        &mut self,
        prompt: &RoutedPrompt<'_>,
        depth: usize,
        tried: &[usize],
        options: &mut Vec<PrefixOption>,
    ) {
        let known = |options: &[PrefixOption], place: usize| {
            tried.contains(&place) || options.iter().any(|option| option.place == place)
        };
        let (rank, keys) = (self.pick.rank, &self.sums.keys);
        let home = keys.iter().enumerate().max_by_key(|(_, key)| rank(prompt.home, **key));
        let home = home.and_then(|(index, _)| self.sums.open.get(index).copied());
        let mut places = self.prefixes.nearest(&prompt.prefix.blocks, depth);
        places.extend(home);
        for place in places {
            let open = self.worker_at(place).is_some_and(|worker| worker.counted.is_some());
            if open && !known(options, place) {
                options.extend(self.option(place, prompt));
            }
        }
        let mut wanted = 2;
        for _ in 0..DRAWS {
            let drawn = self.random.usize(..self.sums.open.len().max(1));
            let Some(place) = self.sums.open.get(drawn).copied() else { return };
            if !known(options, place)
                && let Some(option) = self.option(place, prompt)
            {
                options.push(option);
                wanted -= 1;
            }
            if wanted == 0 {
                return;
            }
        }
    }

    /// Returns the worker at `place` as an option for the prompt, if it has room.
    fn option(&self, place: usize, prompt: &RoutedPrompt<'_>) -> Option<PrefixOption> {
        let worker = self.worker_at(place)?;
        let depth = self.prefixes.depth_at(place, &prompt.prefix.blocks);
        let load = self.with_cached(place, prompt.load, prompt.prefix, depth);
        let candidate = self.candidate(place, &load, prompt.now).filter(|candidate| candidate.fits)?;
        let depth = depth.max(prompt.common);
        let load = self.with_cached(place, prompt.load, prompt.prefix, depth);
        // Neither a cache nor a home is a reason to go where requests fail.
        let (depth, rank) =
            if worker.is_failing() { (0, 0) } else { (depth, (self.pick.rank)(prompt.home, worker.key)) };
        let prefill = self.load_seen(worker, |worker| worker.ledger.prefill());
        let others = prefill.saturating_mul(u64::from(self.settings.gateways.max(1)));
        Some(PrefixOption {
            place,
            depth,
            seconds: others.saturating_add(load.unread()) as f64 * self.pace_of(worker),
            bounded: (self.pick.below_session_share)(&candidate, &prompt.whole),
            rank,
        })
    }

    /// Returns a worker's seconds per prompt token; of an unknown one those of another.
    fn pace_of(&self, worker: &GateWorker) -> f64 {
        let pace = |worker: &GateWorker| {
            Some(worker.prefill.pace()).filter(|pace| worker.prefill.is_known() && *pace > 0.0)
        };
        let usual = || self.sums.open.iter().take(FEW).find_map(|place| pace(self.worker_at(*place)?));
        pace(worker).or_else(usual).unwrap_or(UNKNOWN_PACE)
    }

    fn worker_at(&self, place: usize) -> Option<&GateWorker> {
        self.workers.get(place)?.as_ref()
    }
}
