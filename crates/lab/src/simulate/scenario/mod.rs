//! Scenario files: what to simulate.
//!
//! Everything has a default, so a file names only what it is about. Unknown keys are errors: a
//! silently ignored misspelt setting would be believed to have been simulated.

mod amount;
mod check;
mod expect;
mod fleet;
mod load;
mod session;

use std::collections::BTreeMap;

use serde::Deserialize;

pub use amount::{ScenarioDuration, Spread, SpreadShape};
pub use expect::Bound;
pub use fleet::{FirstToken, GatewaySection, ScenarioSlo, WorkerGroup};
pub use load::{Arrivals, EqualCallers, ExtraRequest, OfferedLoad, RequestShape, ScenarioEvent, StallEvent};
pub use session::Sessions;

/// A scenario: a fleet, its SLOs, a gateway, and the offered load.
#[derive(Clone, Debug, Deserialize)]
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
    pub callers: Vec<EqualCallers>,
    /// Events during the run, sorted by time.
    #[serde(default)]
    pub events: Vec<ScenarioEvent>,
    /// Expected range of each named figure, for every run.
    #[serde(default)]
    pub expect: BTreeMap<String, Bound>,
    /// Expected range of a figure's mean over all runs: figures of a few seconds vary by chance.
    #[serde(default)]
    pub expect_mean: BTreeMap<String, Bound>,
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

/// Why a scenario file is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be parsed: position and reason.
    #[error("{0}")]
    Syntax(String),
    /// Invalid values, each with its field.
    #[error("{}", .0.join("\n"))]
    Values(Vec<String>),
}

impl Scenario {
    /// Parses a scenario file. `name` is used if the file gives none.
    ///
    /// # Errors
    /// All errors of the file.
    pub fn parse(name: &str, text: &str) -> Result<Self, ScenarioError> {
        let mut scenario: Self =
            toml::from_str(text).map_err(|error| ScenarioError::Syntax(error.to_string()))?;
        if scenario.name.is_empty() {
            name.clone_into(&mut scenario.name);
        }
        scenario.events.sort_by_key(|event| event.at);
        let faults = scenario.check();
        if faults.is_empty() { Ok(scenario) } else { Err(ScenarioError::Values(faults)) }
    }

    /// Returns the number of workers.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        self.workers.iter().map(|group| group.count as usize).sum()
    }

    /// Returns the group of each worker, in order of their names.
    pub fn worker_groups(&self) -> impl Iterator<Item = usize> + '_ {
        self.workers.iter().enumerate().flat_map(|(group, workers)| (0..workers.count).map(move |_| group))
    }

    /// Returns the name of the worker at `place`: `w1` is at 0.
    #[must_use]
    pub fn worker_name(place: usize) -> String {
        format!("w{}", place + 1)
    }

    /// Returns the place of the worker of that name.
    #[must_use]
    pub fn worker_place(&self, name: &str) -> Option<usize> {
        let number: usize = name.strip_prefix('w')?.parse().ok()?;
        (1..=self.worker_count()).contains(&number).then(|| number - 1)
    }
}
