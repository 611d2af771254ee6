//! Many runs in parallel.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{Capacity, Policy, Scenario, SimulatedRun, run};

/// Runs `scenario` once per policy and seed, on all processors. Outcomes are in that order.
#[must_use]
pub fn batch(scenario: &Scenario, policies: &[Policy], seeds: Range<u64>) -> Vec<SimulatedRun> {
    let capacity = Capacity::measure(scenario);
    let jobs: Vec<(Policy, u64)> =
        policies.iter().flat_map(|policy| seeds.clone().map(|seed| (*policy, seed))).collect();
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::with_capacity(jobs.len()));
    let work = || {
        while let Some((place, &(policy, seed))) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|place| Some((place, jobs.get(place)?)))
        {
            let outcome = run(scenario, policy, seed, &capacity);
            outcomes.lock().push((place, outcome));
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 1..threads.min(jobs.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut outcomes = outcomes.into_inner();
    outcomes.sort_unstable_by_key(|(place, _)| *place);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}
