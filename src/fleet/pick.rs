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
    let drawn = random.usize(..count);
    let second = random.usize(..count - 1);
    let second = second + usize::from(second >= drawn);
    let (one, low) = fitting.nth(drawn.min(second))?;
    let (other, high) = fitting.nth(drawn.abs_diff(second) - 1)?;
    // Of equals the one drawn first, so that idle workers share alike.
    let order = relative_load(high, low).cmp(&relative_load(low, high));
    let takes_other = order.then_with(|| second.cmp(&drawn)).is_lt();
    Some(if takes_other { other } else { one })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(key: u64, in_flight: u32, tokens: u64) -> Candidate {
        Candidate { key: mix(key), in_flight, limit: 10, tokens, fits: in_flight < 10 }
    }

    #[test]
    fn of_two_the_less_loaded_by_its_limit_is_chosen() {
        let mut random = Rng::with_seed(1);
        let mut pair = [worker(0, 2, 900), worker(1, 2, 500)];
        assert_eq!(pick(&pair, None, &mut random), Some(1));
        // Twice the limit carries 900 as easily as 450.
        pair[0].limit = 20;
        assert_eq!(pick(&pair, None, &mut random), Some(0));
        pair[0].fits = false;
        assert_eq!(pick(&pair, None, &mut random), Some(1));
        pair[1].fits = false;
        assert_eq!(pick(&pair, None, &mut random), None);
        assert_eq!(pick(&pair, Some(3), &mut random), None);
    }

    #[test]
    fn every_pair_that_fits_is_drawn_alike_and_nothing_else() {
        let mut random = Rng::with_seed(1);
        let mut workers: Vec<_> = (0..5).map(|i| worker(i, 0, i)).collect();
        workers[2].fits = false;
        let mut drawn = [0; 5];
        for _ in 0..6000 {
            drawn[pick(&workers, None, &mut random).unwrap()] += 1;
        }
        // Of the six pairs of four workers the least loaded wins three, the next two, then one, then none.
        for (count, expected) in drawn.into_iter().zip([3000_i32, 2000, 0, 1000, 0]) {
            assert!((count - expected).abs() < 200, "{drawn:?}");
        }
        let idle: Vec<_> = (0..4).map(|i| worker(i, 0, 0)).collect();
        let mut drawn = [0; 4];
        for _ in 0..6000 {
            drawn[pick(&idle, None, &mut random).unwrap()] += 1;
        }
        assert!(drawn.iter().all(|count| (1350..1650).contains(count)), "{drawn:?}");
    }

    #[test]
    fn a_session_stays_and_only_those_of_a_lost_worker_move() {
        let mut random = Rng::with_seed(1);
        let workers: Vec<_> = (0..5).map(|i| worker(i, 0, 0)).collect();
        let fewer = &workers[..4];
        let mut per_worker = [0; 5];
        for session in (0..1000).map(mix) {
            let home = pick(&workers, Some(session), &mut random).unwrap();
            assert_eq!(pick(&workers, Some(session), &mut random), Some(home));
            if home < 4 {
                assert_eq!(pick(fewer, Some(session), &mut random), Some(home));
            }
            per_worker[home] += 1;
        }
        assert!(per_worker.iter().all(|count| (140..260).contains(count)), "{per_worker:?}");
    }

    #[test]
    fn a_session_passes_over_a_worker_that_carries_more_than_its_share() {
        let mut random = Rng::with_seed(1);
        let mut workers: Vec<_> = (0..4).map(|i| worker(i, 4, 0)).collect();
        let home = pick(&workers, Some(99), &mut random).unwrap();
        // Seventeen in flight, ours included, are 4.25 each: the bound is 5.3, so up to 5 it stays and then moves.
        workers[home].in_flight = 5;
        assert_eq!(pick(&workers, Some(99), &mut random), Some(home));
        workers[home].in_flight = 7;
        let next = pick(&workers, Some(99), &mut random).unwrap();
        assert_ne!(next, home);
        // When all others are full, room matters more than the share.
        workers.iter_mut().enumerate().for_each(|(i, worker)| worker.fits = i == home);
        assert_eq!(pick(&workers, Some(99), &mut random), Some(home));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let mut random = Rng::with_seed(1);
        let huge = Candidate { key: 1, in_flight: u32::MAX, limit: u32::MAX, tokens: u64::MAX, fits: true };
        assert!(pick(&[huge; 3], Some(1), &mut random).is_some());
        assert!(pick(&[huge; 3], None, &mut random).is_some());
    }
}
