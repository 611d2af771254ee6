//! Simulates offered load, gateways and workers in virtual time.
//!
//! Why: only experiments show if a limit algorithm holds goodput at ten times the load, and a real
//! fleet cannot be tried twice under equal conditions. The gate, its queue and limit algorithms,
//! the choice of a worker and the learned answer lengths are the gateway's own code
//! ([`traffic_dam_core::shed`], [`traffic_dam_core::fleet`], [`traffic_dam_core::estimate`]). Only clients, network and GPUs
//! are simulated ([`crate::engine`]). Scenario, policy and seed determine a run bit for bit.
//!
//! * **Failure mode.** The model is kinder than reality: clients never leave, there is no network,
//!   step times do not vary, prompts are estimated exactly, health reports do not exist. An
//!   algorithm that fails here fails outside; one that holds here must still be measured outside.
//! * **Trade-off.** A run is one thread, one event after the other: simple, and exactly repeatable.
//!   Only different seeds run in parallel.

mod batch;
mod capacity;
mod conversation;
mod driver;
mod figures;
mod offered;
pub mod plot;
mod policy;
pub mod scenario;
pub mod table;

pub use self::batch::batch;
pub use self::capacity::Capacity;
pub use self::figures::{ClassFigures, RunFigures, Second, SimulatedRun};
pub use self::policy::Policy;
pub use self::scenario::Scenario;

use self::driver::Simulation;
use self::figures::tally;

/// Runs `scenario` once. `capacity` must be measured on the same scenario.
#[must_use]
pub fn run(scenario: &Scenario, policy: Policy, seed: u64, capacity: &Capacity) -> SimulatedRun {
    let mut world = Simulation::new(scenario, policy, seed, capacity);
    world.run();
    let mut defects = Vec::new();
    let unended = world.calls.iter().filter(|call| !matches!(call.stage, driver::Stage::Over(_))).count();
    if unended > 0 {
        defects.push(format!("{unended} requests never ended"));
    }
    if world.ended_twice > 0 {
        defects.push(format!("{} requests ended twice", world.ended_twice));
    }
    if world.is_full() {
        defects.push(format!("{} requests are too many for one run", world.calls.len()));
    }
    for gate in world.rest() {
        let waiting: usize = gate.queue.iter().sum();
        let worker = gate.workers.iter().find(|worker| worker.tokens > 0 || worker.prefill_tokens > 0);
        if gate.in_flight() > 0 || waiting > 0 || gate.queue_bytes > 0 || worker.is_some() {
            defects.push(format!("a gate is not empty after the run: {gate:?}"));
        }
    }
    let (figures, seconds) = tally(&world);
    SimulatedRun { policy, seed, figures, seconds, defects }
}
