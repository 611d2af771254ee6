//! Synthetic runs for tests: sound ones, into which a test plants an error.

use super::record::{Arm, Cpu, RecordedOutcome, RecordedRequest, RecordedRun, RunFacts};

pub(crate) const CAPACITY: f64 = 30.0;

pub(crate) fn facts(arm: Arm, load: f64, workers: u32) -> RunFacts {
    RunFacts {
        arm,
        load,
        workers,
        round: 1,
        capacity: CAPACITY * f64::from(workers),
        ttft_slo_ms: 1000.0,
        warm_s: 5.0,
        measured_s: 20.0,
        wall_s: 28.0,
        cores: 2,
        cpu: Cpu { generator: 6.0, gateway: 3.0, workers: 6.0, machine: 16.0 },
        gateway_mib: 20.0,
        dropped: 0,
    }
}

/// A steady run. With the gateway, requests up to the capacity are served in time and the rest
/// refused. Without it, above capacity, all wait too long.
pub(crate) fn run(arm: Arm, load: f64, workers: u32) -> RecordedRun {
    let facts = facts(arm, load, workers);
    let rate = load * facts.capacity;
    let length = facts.warm_s + facts.measured_s + 1.0;
    let mut random = fastrand::Rng::with_seed(workers.into());
    let requests = (0..(rate * length) as u32)
        .map(|n| {
            let at = (f64::from(n) + random.f64()) / rate * 1000.0;
            let served = random.f64() < 1.0 / load;
            let (prompt, tokens) = (random.u64(100..2000), random.u64(10..70));
            let (outcome, ttft, reason) = match (arm, served) {
                (_, true) if load <= 1.0 || arm == Arm::Gateway => {
                    (RecordedOutcome::Admitted, Some(80.0 + 200.0 * random.f64()), "")
                }
                (Arm::Gateway, _) => (RecordedOutcome::Refused, None, "overloaded"),
                (Arm::Direct, true) => (RecordedOutcome::Admitted, Some(3000.0 + 500.0 * random.f64()), ""),
                (Arm::Direct, false) => (RecordedOutcome::GaveUp, None, ""),
            };
            let end = ttft.map_or(4.0, |ttft| ttft + 1000.0);
            let (start, wall) = (at + 100.0, (at + 1_700_000_000_000.0).floor());
            RecordedRequest {
                at,
                late: 0.5,
                start,
                wall,
                outcome,
                ttft,
                end,
                reason: reason.to_owned(),
                prompt,
                tokens,
            }
        })
        .collect();
    RecordedRun { name: format!("{arm} at {load}"), facts, requests }
}

/// A sound experiment: both arms with one worker at half and twice the capacity, and the gateway
/// with two and three workers.
pub(crate) fn experiment() -> Vec<RecordedRun> {
    let mut runs = Vec::new();
    for load in [0.5, 2.0] {
        for round in 1..=2 {
            for arm in [Arm::Direct, Arm::Gateway] {
                let mut run = run(arm, load, 1);
                run.facts.round = round;
                runs.push(run);
            }
        }
    }
    runs.extend([2, 3].map(|workers| run(Arm::Gateway, 2.0, workers)));
    runs
}
