//! What is to be simulated, as a file says it.
//!
//! Everything has a default, so that a file names only what it is about. Unknown keys are faults: a misspelt setting
//! that is silently ignored would be believed to have been simulated.

mod amount;
mod check;
mod expect;
mod fleet;
mod load;

use std::collections::BTreeMap;

use serde::Deserialize;

pub use amount::{Span, Spread, SpreadShape};
pub use expect::Bound;
pub use fleet::{Dam, FirstToken, Group, Promise};
pub use load::{Arrivals, EqualCallers, Extra, OfferedLoad, Requests, ScenarioEvent, StallEvent};

/// A scenario: a fleet, a promise, a dam, and what is offered to it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name in tables; the file's when it has none.
    #[serde(default)]
    pub name: String,
    /// One line that says what it shows.
    #[serde(default)]
    pub about: String,
    /// For how long load is offered.
    #[serde(default = "default_duration")]
    pub duration: Span,
    /// What happens before is not counted; `0s` for a cold start.
    #[serde(default = "default_warm_up")]
    pub warm_up: Span,
    /// What users are promised.
    #[serde(default)]
    pub promise: Promise,
    /// The fleet, in groups of equal workers, named `w1`, `w2`, … throughout.
    #[serde(default = "default_workers")]
    pub workers: Vec<Group>,
    /// What stands before it.
    #[serde(default)]
    pub dam: Dam,
    /// How much is offered.
    #[serde(default)]
    pub load: OfferedLoad,
    /// What a request is like.
    #[serde(default)]
    pub requests: Requests,
    /// Who asks, in groups of equal callers.
    #[serde(default = "default_callers")]
    pub callers: Vec<EqualCallers>,
    /// What happens on the way.
    #[serde(default)]
    pub events: Vec<ScenarioEvent>,
    /// What must come out of every run.
    #[serde(default)]
    pub expect: BTreeMap<String, Bound>,
    /// What must come out on average of all runs: a figure of a few seconds has chance in it.
    #[serde(default)]
    pub expect_mean: BTreeMap<String, Bound>,
}

fn default_duration() -> Span {
    Span::secs(60)
}

fn default_warm_up() -> Span {
    Span::secs(15)
}

fn default_workers() -> Vec<Group> {
    vec![Group::default()]
}

fn default_callers() -> Vec<EqualCallers> {
    vec![EqualCallers::default()]
}

/// Why a scenario cannot be simulated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file is no scenario: where, and what would be right.
    #[error("{0}")]
    Syntax(String),
    /// Values that cannot be meant, each with its field.
    #[error("{}", .0.join("\n"))]
    Values(Vec<String>),
}

impl Scenario {
    /// Reads a scenario from the text of a file. `name` is used when the file gives none.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Self, Fault> {
        let mut scenario: Self = toml::from_str(text).map_err(|error| Fault::Syntax(error.to_string()))?;
        if scenario.name.is_empty() {
            name.clone_into(&mut scenario.name);
        }
        scenario.events.sort_by_key(|event| event.at);
        let faults = scenario.check();
        if faults.is_empty() { Ok(scenario) } else { Err(Fault::Values(faults)) }
    }

    /// How many workers there are.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        self.workers.iter().map(|group| group.count as usize).sum()
    }

    /// The group of each worker, in the order of their names.
    pub fn worker_groups(&self) -> impl Iterator<Item = usize> + '_ {
        self.workers.iter().enumerate().flat_map(|(group, workers)| (0..workers.count).map(move |_| group))
    }

    /// What the worker at `place` is called: `w1` is at 0.
    #[must_use]
    pub fn worker_name(place: usize) -> String {
        format!("w{}", place + 1)
    }

    /// The place of the worker of that name.
    #[must_use]
    pub fn worker_place(&self, name: &str) -> Option<usize> {
        let number: usize = name.strip_prefix('w')?.parse().ok()?;
        (1..=self.worker_count()).contains(&number).then(|| number - 1)
    }
}
