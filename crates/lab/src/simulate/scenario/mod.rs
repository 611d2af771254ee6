//! Scenarios: what to simulate.
//!
//! Everything has a default, so a file names only what it is about. The gateway reads scenarios as
//! it reads its settings, by the schema of these types.

mod amount;
mod check;
mod expect;
mod fleet;
mod load;
mod session;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

pub use amount::{ScenarioDuration, Spread, SpreadShape};
pub use expect::Bound;
pub use fleet::{FirstToken, GatewaySection, ScenarioSlo, WorkerGroup};
pub use load::{Arrivals, EqualCallers, ExtraRequest, OfferedLoad, RequestShape, ScenarioEvent, StallEvent};
pub use session::Sessions;
/// A scenario: a fleet, its SLOs, a gateway, and the offered load.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name in tables; the file's name by default.
    #[serde(default)]
    pub name: String,
    /// One line about its purpose.
    #[serde(default)]
    pub about: String,
    /// Length of the offered load.
    #[serde(default = "default_duration")]
    pub duration: ScenarioDuration,
    /// Time at the start that does not count; `0s` for a cold start.
    #[serde(default = "default_warm_up")]
    pub warm_up: ScenarioDuration,
    /// Latency SLOs.
    #[serde(default)]
    pub promise: ScenarioSlo,
    /// The fleet in groups of equal workers. Names run on over the groups: `w1`, `w2`, ….
    #[serde(default = "default_workers")]
    pub workers: Vec<WorkerGroup>,
    /// The gateway in front of the fleet.
    #[serde(default)]
    pub dam: GatewaySection,
    /// Amount and timing of requests.
    #[serde(default)]
    pub load: OfferedLoad,
    /// Properties of requests.
    #[serde(default)]
    pub requests: RequestShape,
    /// Callers, in groups of equal ones.
    #[serde(default = "default_callers")]
    #[schemars(length(min = 1))]
    pub callers: Vec<EqualCallers>,
    /// Events during the run, sorted by time.
    #[serde(default)]
    pub events: Vec<ScenarioEvent>,
    /// Expected range of each named figure, for every run.
    #[serde(default)]
    pub expect: BTreeMap<String, Bound>,
    /// Expected range of a figure's mean over all runs: figures of a few seconds vary by chance.
    #[serde(default)]
    pub(crate) expect_mean: BTreeMap<String, Bound>,
}

fn default_duration() -> ScenarioDuration {
    ScenarioDuration::secs(60)
}

fn default_warm_up() -> ScenarioDuration {
    ScenarioDuration::secs(15)
}

fn default_workers() -> Vec<WorkerGroup> {
    vec![WorkerGroup::default()]
}

fn default_callers() -> Vec<EqualCallers> {
    vec![EqualCallers::default()]
}

/// An error of a scenario: the field, and what is wrong with it.
pub(crate) type ScenarioError = (String, String);

impl Scenario {
    /// Checks values against each other, and sorts the events. The schema checks single values.
    /// `name` is used if the scenario has none.
    ///
    /// # Errors
    /// All errors, each with its field.
    pub fn checked(mut self, name: &str) -> Result<Self, Vec<ScenarioError>> {
        if self.name.is_empty() {
            name.clone_into(&mut self.name);
        }
        let faults = self.check();
        self.events.sort_by_key(|event| event.at);
        if faults.is_empty() { Ok(self) } else { Err(faults) }
    }

    /// Returns the number of workers.
    #[must_use]
    pub(crate) fn worker_count(&self) -> usize {
        self.workers.iter().map(|group| group.count as usize).sum()
    }

    /// Returns the group of each worker, in order of their names.
    pub(crate) fn worker_groups(&self) -> impl Iterator<Item = usize> + '_ {
        self.workers.iter().enumerate().flat_map(|(group, workers)| (0..workers.count).map(move |_| group))
    }

    /// Returns the name of the worker at `place`: `w1` is at 0.
    #[must_use]
    pub(crate) fn worker_name(place: usize) -> String {
        format!("w{}", place + 1)
    }

    /// Returns the place of the worker of that name.
    #[must_use]
    pub(crate) fn worker_place(&self, name: &str) -> Option<usize> {
        let number: usize = name.strip_prefix('w')?.parse().ok()?;
        (1..=self.worker_count()).contains(&number).then(|| number - 1)
    }
}
