//! Which of the workers with room gets a request.
//!
//! Sessions go by rendezvous hashing: every gateway ranks the workers of a session alike, a worker that leaves moves
//! only its own sessions, and no table is kept. A worker whose load exceeds 1.25 times its share is passed over for
//! the next in rank, so that a popular session costs a cache miss instead of a queue. All else goes to the less
//! loaded of two at random: nearly as even as the least loaded of all, and gateways that do not know of each other do
//! not all run to the same worker.

use fastrand::Rng;

use crate::shed::Candidate;

/// How much of its share a worker may carry before sessions pass it over, in percent.
const LOAD_FACTOR: u128 = 125;

/// Chooses among `candidates` for a request of `session`: the index of one that fits.
#[must_use]
pub fn pick(candidates: &[Candidate], session: Option<u64>, random: &mut Rng) -> Option<usize> {
    match session {
        Some(session) => rendezvous(candidates, session),
        None => two_choices(candidates, random),
    }
}

fn rendezvous(candidates: &[Candidate], session: u64) -> Option<usize> {
    let load: u64 = candidates.iter().map(|worker| u64::from(worker.in_flight)).sum();
    let limit: u64 = candidates.iter().map(|worker| u64::from(worker.limit)).sum();
    let bounded = |worker: &Candidate| {
        // Its share of all load, this request included, in proportion to its limit; rounded up.
        let share = u128::from(load + 1) * u128::from(worker.limit) * LOAD_FACTOR;
        u128::from(worker.in_flight) < share.div_ceil(u128::from(limit.max(1)) * 100)
    };
    let ranked = candidates.iter().enumerate().filter(|(_, worker)| worker.fits);
    ranked.max_by_key(|(_, worker)| (bounded(worker), mix(session ^ worker.key))).map(|(index, _)| index)
}

fn two_choices(candidates: &[Candidate], random: &mut Rng) -> Option<usize> {
    let mut fitting = candidates.iter().enumerate().filter(|(_, worker)| worker.fits);
    let count = fitting.clone().count();
    if count < 2 {
        return fitting.next().map(|(index, _)| index);
    }
    let low = random.usize(..count - 1);
    let high = random.usize(low + 1..count);
    let (one, first) = fitting.nth(low)?;
    let (other, second) = fitting.nth(high - low - 1)?;
    Some(if relative_load(second, first) < relative_load(first, second) { other } else { one })
}

/// What `worker` carries, made comparable with `other` by its limit: tokens first, then sequences.
fn relative_load(worker: &Candidate, other: &Candidate) -> (u128, u64) {
    (
        u128::from(worker.tokens) * u128::from(other.limit),
        u64::from(worker.in_flight) * u64::from(other.limit),
    )
}

/// Spreads the bits of `value` (the finaliser of SplitMix64, Steele et al. 2014).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
