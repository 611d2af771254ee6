//! Offered load before a dam before workers, in virtual time.
//!
//! Why: whether a law holds goodput at ten times the load cannot be argued, only tried, and a real fleet cannot be
//! tried twice under the same conditions. Here the gate, its queue, its laws, the choice of a worker and the learned
//! lengths of answers are the very code that the gateway runs ([`crate::shed`], [`crate::fleet`],
//! [`crate::openai::estimate`]); only the clients, the network and the GPUs are simulated
//! ([`crate::sim::physics`]). A run is a function of its scenario, its policy and its seed, bit for bit.
//!
//! * **Failure mode.** A model flatters what it leaves out: there is no network, step times do not vary, prompts are
//!   estimated exactly, and health reports do not exist. A law that fails here fails outside too; one that holds here
//!   still has to be measured outside.
//! * **Trade-off.** One thread, one event after the other: a run is simple to understand and repeats exactly. What
//!   runs side by side are seeds.

mod batch;
mod capacity;
mod figures;
mod offered;
mod policy;
pub mod scenario;
pub mod table;
mod world;

pub use self::batch::batch;
pub use self::capacity::{Capacity, Peak};
pub use self::figures::{ClassFigures, Figures, Outcome, Second};
pub use self::policy::Policy;
pub use self::scenario::Scenario;

use std::time::Duration;

use self::figures::tally;
use self::world::World;

impl Scenario {
    /// The promise for a prompt of so many tokens.
    pub(self) fn slo(&self, prompt: u64) -> Duration {
        let longer = self.promise.per_1k_prompt_tokens.0.as_secs_f64() * prompt as f64 / 1000.0;
        self.promise.ttft_slo.0.saturating_add(Duration::try_from_secs_f64(longer).unwrap_or(Duration::MAX))
    }
}

/// Lives through `scenario` once. `capacity` is that of the scenario.
#[must_use]
pub fn run(scenario: &Scenario, policy: Policy, seed: u64, capacity: &Capacity) -> Outcome {
    let mut world = World::new(scenario, policy, seed, capacity);
    world.run();
    let mut defects = Vec::new();
    let unended = world.calls.iter().filter(|call| !matches!(call.stage, world::Stage::Over(_))).count();
    if unended > 0 {
        defects.push(format!("{unended} requests have no end"));
    }
    if world.ended_twice > 0 {
        defects.push(format!("{} requests ended twice", world.ended_twice));
    }
    for gate in world.rest() {
        let waiting: usize = gate.queue.iter().sum();
        let worker = gate.workers.iter().find(|worker| worker.tokens > 0 || worker.prefill_tokens > 0);
        if gate.in_flight() > 0 || waiting > 0 || gate.queue_bytes > 0 || worker.is_some() {
            defects.push(format!("a gate is not at rest: {gate:?}"));
        }
    }
    let (figures, seconds) = tally(&world);
    Outcome { policy, seed, figures, seconds, defects }
}
