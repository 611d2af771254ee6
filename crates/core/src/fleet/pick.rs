//! Chooses a worker with room for a request.
//!
//! Requests with a session use rendezvous hashing: every gateway ranks the workers of a session
//! alike, a worker that leaves moves only its own sessions, and no table has to be shared. A worker
//! that is nearly full and has more than 1.25 times its share is skipped for the next in rank, so
//! that a popular session costs a cache miss instead of a queue. One that is not nearly full is
//! never skipped: chance alone often lifts a worker above 1.25 times its share, and each session
//! that is moved for that loses its cached prefix for nothing. All other requests go to the less
//! loaded of two random workers: nearly as even as the least loaded of all, and gateways that do
//! not know of each other do not all choose the same worker.

use fastrand::Rng;

use crate::shed::{Candidate, CandidateSums, Pick};

/// Load from which sessions skip a worker, in percent of its share.
const LOAD_FACTOR: u128 = 125;
/// Load from which a worker is nearly full, in percent of its limit.
const NEARLY_FULL: u64 = 90;

/// The functions by which a gateway chooses a worker.
pub const PICK: Pick = Pick { any: two_choices, rank, below_session_share: bounded };

/// Hash of a session and a worker's key.
const fn rank(session: u64, key: u64) -> u64 {
    mix(session ^ key)
}

/// Returns `true` if `worker` is not nearly full, or below the bound on its share of all load. The
/// share is proportional to its limit and includes the next request; the bound is rounded up.
fn bounded(worker: &Candidate, whole: &CandidateSums) -> bool {
    let share = u128::from(whole.in_flight.saturating_add(1)) * u128::from(worker.limit) * LOAD_FACTOR;
    u64::from(worker.in_flight) * 100 < u64::from(worker.limit) * NEARLY_FULL
        || u128::from(worker.in_flight) < share.div_ceil(u128::from(whole.limit.max(1)) * 100)
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
    // On a tie the one drawn first, so that idle workers get equal shares.
    let order = relative_load(high, low).cmp(&relative_load(low, high));
    let takes_other = order.then_with(|| second.cmp(&drawn)).is_lt();
    Some(if takes_other { other } else { one })
}

/// Returns the load of `worker`, scaled to compare with `other`: tokens first, then sequences.
fn relative_load(worker: &Candidate, other: &Candidate) -> (u128, u64) {
    (
        u128::from(worker.tokens) * u128::from(other.limit),
        u64::from(worker.in_flight) * u64::from(other.limit),
    )
}

/// Spreads the bits of `value` (the finaliser of SplitMix64, Steele et al. 2014).
const fn mix(value: u64) -> u64 {
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
        assert_eq!(two_choices(&pair, &mut random), Some(1));
        // Twice the limit carries 900 as easily as 450.
        pair[0].limit = 20;
        assert_eq!(two_choices(&pair, &mut random), Some(0));
        pair[0].fits = false;
        assert_eq!(two_choices(&pair, &mut random), Some(1));
        pair[1].fits = false;
        assert_eq!(two_choices(&pair, &mut random), None);
    }

    #[test]
    fn every_pair_that_fits_is_drawn_alike_and_nothing_else() {
        let mut random = Rng::with_seed(1);
        let mut workers: Vec<_> = (0..5).map(|i| worker(i, 0, i)).collect();
        workers[2].fits = false;
        let mut drawn = [0; 5];
        for _ in 0..6000 {
            drawn[two_choices(&workers, &mut random).unwrap()] += 1;
        }
        // Of the six pairs of four workers the least loaded wins three, then two, one and none.
        for (count, expected) in drawn.into_iter().zip([3000_i32, 2000, 0, 1000, 0]) {
            assert!((count - expected).abs() < 200, "{drawn:?}");
        }
        let idle: Vec<_> = (0..4).map(|i| worker(i, 0, 0)).collect();
        let mut drawn = [0; 4];
        for _ in 0..6000 {
            drawn[two_choices(&idle, &mut random).unwrap()] += 1;
        }
        assert!(drawn.iter().all(|count| (1350..1650).contains(count)), "{drawn:?}");
    }

    #[test]
    fn ranks_spread_sessions_evenly() {
        let workers: Vec<_> = (0..5).map(|i| worker(i, 0, 0)).collect();
        let mut per_worker = [0; 5];
        for session in (0..1000).map(mix) {
            let home = (0..5).max_by_key(|i| rank(session, workers[*i].key)).unwrap();
            per_worker[home] += 1;
        }
        assert!(per_worker.iter().all(|count| (140..260).contains(count)), "{per_worker:?}");
    }

    #[test]
    fn a_worker_is_passed_over_that_carries_more_than_its_share() {
        // 29 in flight with ours are 7.25 for each of four: the bound is 9.06, rounded up to 10.
        let whole = |in_flight| CandidateSums { in_flight, limit: 40 };
        assert!(bounded(&worker(0, 9, 0), &whole(28)));
        // 25 are 6.25 each, and the bound is 8; but a worker is nearly full only from 9 of 10.
        assert!(bounded(&worker(0, 8, 0), &whole(24)));
        assert!(!bounded(&worker(0, 9, 0), &whole(24)));
        // An idle fleet takes anything.
        assert!(bounded(&worker(0, 0, 0), &CandidateSums { in_flight: 0, limit: 0 }));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let mut random = Rng::with_seed(1);
        let huge = Candidate { key: 1, in_flight: u32::MAX, limit: u32::MAX, tokens: u64::MAX, fits: true };
        assert!(two_choices(&[huge; 3], &mut random).is_some());
        assert!(bounded(&huge, &CandidateSums { in_flight: u64::MAX, limit: u64::MAX }));
    }
}
