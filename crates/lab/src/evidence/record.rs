//! The files of one run: facts in `run.json`, one line per request of a client in `requests.jsonl`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Path of the load to the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// Straight to the workers.
    Direct,
    /// Through the gateway.
    #[serde(rename = "dam")]
    Gateway,
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "no gateway",
            Self::Gateway => "Traffic Dam",
        })
    }
}

/// CPU seconds used during a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// Generator.
    pub generator: f64,
    /// Gateway; zero without one.
    pub gateway: f64,
    /// All workers.
    pub workers: f64,
    /// Everything on the machine.
    pub machine: f64,
}

/// Facts of a run besides its requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFacts {
    /// With or without the gateway.
    pub arm: Arm,
    /// Offered load, in multiples of the capacity of these workers.
    pub load: f64,
    /// Number of workers.
    pub workers: u32,
    /// Number of the repetition.
    pub round: u32,
    /// Good answers per second of these workers at their best.
    pub capacity: f64,
    /// TTFT SLO, in milliseconds.
    pub ttft_slo_ms: f64,
    /// Warm-up, in seconds.
    pub(crate) warm_s: f64,
    /// Measured time, in seconds.
    pub(crate) measured_s: f64,
    /// Time over which CPU time was measured, in seconds.
    pub(crate) wall_s: f64,
    /// Cores of the machine.
    pub cores: u32,
    /// CPU time by process.
    pub cpu: Cpu,
    /// Peak memory of the gateway, in MiB.
    pub(crate) gateway_mib: f64,
    /// Arrivals that the generator skipped because it could not keep up.
    pub dropped: u64,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedOutcome {
    /// Answered in full.
    Admitted,
    /// Refused, to be retried later.
    Refused,
    /// The client disconnected without any content.
    GaveUp,
    /// Any other end.
    Failed,
}

/// One request, as its client saw it. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedRequest {
    /// Due time, since the load began.
    pub at: f64,
    /// Delay of the generator after the due time.
    pub late: f64,
    /// Time of sending by the monotonic clock.
    pub start: f64,
    /// Time of sending by the wall clock.
    pub wall: f64,
    /// How it ended.
    pub outcome: RecordedOutcome,
    /// Time from sending to the first content.
    pub ttft: Option<f64>,
    /// Time from sending to the end.
    pub end: f64,
    /// Reason of a refusal or failure.
    #[serde(default)]
    pub reason: String,
    /// Bytes of its prompt. Equal loads have equal prompt bytes and `tokens`.
    pub prompt: u64,
    /// Tokens asked for.
    pub tokens: u64,
}

impl RecordedRequest {
    /// Returns `true` if the answer is complete and its first content met the TTFT SLO.
    #[must_use]
    pub fn is_good(&self, facts: &RunFacts) -> bool {
        self.outcome == RecordedOutcome::Admitted && self.ttft.is_some_and(|ttft| ttft <= facts.ttft_slo_ms)
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct RecordedRun {
    /// Source, for messages.
    pub name: String,
    /// Contents of `run.json`.
    pub facts: RunFacts,
    /// All requests, including the warm-up.
    pub requests: Vec<RecordedRequest>,
}

impl RecordedRun {
    /// Parses the texts of both files.
    pub fn read(name: &str, facts: &str, requests: &str) -> Result<Self, String> {
        let facts = serde_json::from_str(facts).map_err(|error| format!("{name}/run.json: {error}"))?;
        let requests = requests
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.is_empty())
            .map(|(index, line)| {
                let place = |error| format!("{name}/requests.jsonl, line {}: {error}", index + 1);
                serde_json::from_str(line).map_err(place)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { name: name.to_owned(), facts, requests })
    }

    /// Returns the measured requests: due after the warm-up and within the measured time.
    pub fn measured(&self) -> impl Iterator<Item = &RecordedRequest> {
        let from = self.facts.warm_s * 1000.0;
        let window = from..from + self.facts.measured_s * 1000.0;
        self.requests.iter().filter(move |request| window.contains(&request.at))
    }

    /// Returns the measured requests by the second in which they were due, including empty seconds.
    #[must_use]
    pub fn seconds(&self) -> Vec<Vec<&RecordedRequest>> {
        let mut seconds = vec![Vec::new(); self.facts.measured_s.max(0.0) as usize];
        for request in self.measured() {
            let second = (request.at / 1000.0 - self.facts.warm_s) as usize;
            if let Some(place) = seconds.get_mut(second) {
                place.push(request);
            }
        }
        seconds
    }

    /// Returns the cell in which runs are pooled: workers, load and arm.
    #[must_use]
    pub fn cell(&self) -> ExperimentCell {
        ExperimentCell { workers: self.facts.workers, load: self.facts.load, arm: self.facts.arm }
    }
}

/// A cell of the experiment. Its repetitions are pooled.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct ExperimentCell {
    /// Number of workers.
    pub workers: u32,
    /// Offered load, in multiples of their capacity.
    pub load: f64,
    /// With or without the gateway.
    pub arm: Arm,
}

impl fmt::Display for ExperimentCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workers, load, arm } = self;
        let workers = if *workers == 1 { String::new() } else { format!(", {workers} workers") };
        write!(f, "{arm} at {load}×{workers}")
    }
}

/// Returns the cells of an experiment in order, each with its runs.
#[must_use]
pub fn cells(runs: &[RecordedRun]) -> Vec<(ExperimentCell, Vec<&RecordedRun>)> {
    let mut cells: Vec<(ExperimentCell, Vec<&RecordedRun>)> = Vec::new();
    for run in runs {
        match cells.iter_mut().find(|(cell, _)| *cell == run.cell()) {
            Some((_, runs)) => runs.push(run),
            None => cells.push((run.cell(), vec![run])),
        }
    }
    cells.sort_by(|(a, _), (b, _)| {
        a.workers.cmp(&b.workers).then(a.load.total_cmp(&b.load)).then(a.arm.cmp(&b.arm))
    });
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::planted;

    #[test]
    fn a_fault_in_a_file_is_named_with_its_place() {
        let facts = serde_json::to_string(&planted::facts(Arm::Gateway, 2.0, 1)).unwrap();
        let good = r#"{"at":1,"late":0,"start":1,"wall":2,"outcome":"gave_up","ttft":null,"end":5,"prompt":9,"tokens":9}"#;
        assert_eq!(RecordedRun::read("r", &facts, &format!("{good}\n\n{good}\n")).unwrap().requests.len(), 2);
        let fault = RecordedRun::read("r", &facts, &format!("{good}\n{{\"at\":1}}")).unwrap_err();
        assert!(fault.starts_with("r/requests.jsonl, line 2: missing field"), "{fault}");
        assert!(RecordedRun::read("r", "{}", good).unwrap_err().starts_with("r/run.json: missing field"));
        // An invalid number must not become zero.
        assert!(RecordedRun::read("r", &facts, &good.replace("\"end\":5", "\"end\":null")).is_err());
    }

    #[test]
    fn only_the_measured_seconds_count() {
        let run = planted::run(Arm::Gateway, 1.0, 1);
        let RunFacts { warm_s, measured_s, .. } = run.facts;
        assert!(run.requests.len() > run.measured().count());
        assert!(run.measured().all(|request| request.at >= warm_s * 1000.0));
        assert_eq!(run.seconds().len(), measured_s as usize);
        assert_eq!(run.seconds().iter().map(Vec::len).sum::<usize>(), run.measured().count());
    }
}
