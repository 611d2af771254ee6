//! The files of one run: `run.json`, its facts, and `requests.jsonl`, a line for each request as its client saw it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How the load met the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// Straight at the workers.
    Direct,
    /// Through the gateway.
    Dam,
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "no gateway",
            Self::Dam => "Traffic Dam",
        })
    }
}

/// CPU seconds that were spent during a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// By the generator.
    pub generator: f64,
    /// By the gateway; zero without one.
    pub gateway: f64,
    /// By all workers.
    pub workers: f64,
    /// By everything on the machine.
    pub machine: f64,
}

/// What is known of a run besides its requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFacts {
    /// The arm.
    pub arm: Arm,
    /// Offered load, in multiples of the capacity of these workers.
    pub load: f64,
    /// How many workers there were.
    pub workers: u32,
    /// Which repetition it was.
    pub round: u32,
    /// Good answers per second of these workers at their best.
    pub capacity: f64,
    /// The promise, in milliseconds.
    pub ttft_slo_ms: f64,
    /// Seconds before the ones that count.
    pub warm_s: f64,
    /// Seconds that count.
    pub measured_s: f64,
    /// Seconds over which CPU time was taken.
    pub wall_s: f64,
    /// Cores of the machine.
    pub cores: u32,
    /// CPU time.
    pub cpu: Cpu,
    /// The most memory that the gateway had, in MiB.
    pub gateway_mib: f64,
    /// Arrivals that the generator left out because it could not keep up.
    pub dropped: u64,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered to the end.
    Admitted,
    /// Told to come back.
    Refused,
    /// The client went away, because nothing came.
    GaveUp,
    /// Anything else.
    Failed,
}

/// One request, as its client saw it. Times are milliseconds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// When it was due, since the load began.
    pub at: f64,
    /// How much later than due its turn came.
    pub late: f64,
    /// When it was sent by the clock that never steps.
    pub start: f64,
    /// When it was sent by the clock that people read.
    pub wall: f64,
    /// What became of it.
    pub outcome: Outcome,
    /// From sending to the first content.
    pub ttft: Option<f64>,
    /// From sending to the end.
    pub end: f64,
    /// Why it was refused, or how it failed.
    #[serde(default)]
    pub reason: String,
    /// Bytes of its prompt, and tokens it asked for: what makes two loads the same load.
    pub prompt: u64,
    /// Tokens asked for.
    pub tokens: u64,
}

impl Request {
    /// Complete, with its first content within the promise.
    #[must_use]
    pub fn is_good(&self, facts: &RunFacts) -> bool {
        self.outcome == Outcome::Admitted && self.ttft.is_some_and(|ttft| ttft <= facts.ttft_slo_ms)
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Where it came from, for messages.
    pub name: String,
    /// Its facts.
    pub facts: RunFacts,
    /// All its requests, those of the warm-up too.
    pub requests: Vec<Request>,
}

impl Run {
    /// Reads the texts of both files.
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

    /// The requests that count: due after the warm-up, within the seconds that are measured.
    pub fn measured(&self) -> impl Iterator<Item = &Request> {
        let from = self.facts.warm_s * 1000.0;
        let window = from..from + self.facts.measured_s * 1000.0;
        self.requests.iter().filter(move |request| window.contains(&request.at))
    }

    /// The same, by the second of the measured time in which they were due; also those seconds in which none was.
    #[must_use]
    pub fn seconds(&self) -> Vec<Vec<&Request>> {
        let mut seconds = vec![Vec::new(); self.facts.measured_s.max(0.0) as usize];
        for request in self.measured() {
            let second = (request.at / 1000.0 - self.facts.warm_s) as usize;
            if let Some(place) = seconds.get_mut(second) {
                place.push(request);
            }
        }
        seconds
    }

    /// What runs are put together by: how the load met how many workers, and how much of it.
    #[must_use]
    pub fn cell(&self) -> ExperimentCell {
        ExperimentCell { workers: self.facts.workers, load: self.facts.load, arm: self.facts.arm }
    }
}

/// One cell of the experiment: its repetitions are pooled.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct ExperimentCell {
    /// How many workers.
    pub workers: u32,
    /// Offered load, in multiples of their capacity.
    pub load: f64,
    /// The arm.
    pub arm: Arm,
}

impl fmt::Display for ExperimentCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workers, load, arm } = self;
        let workers = if *workers == 1 { String::new() } else { format!(", {workers} workers") };
        write!(f, "{arm} at {load}×{workers}")
    }
}

/// The cells of an experiment in order, each with its runs.
#[must_use]
pub fn cells(runs: &[Run]) -> Vec<(ExperimentCell, Vec<&Run>)> {
    let mut cells: Vec<(ExperimentCell, Vec<&Run>)> = Vec::new();
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
        let facts = serde_json::to_string(&planted::facts(Arm::Dam, 2.0, 1)).unwrap();
        let good = r#"{"at":1,"late":0,"start":1,"wall":2,"outcome":"gave_up","ttft":null,"end":5,"prompt":9,"tokens":9}"#;
        assert_eq!(Run::read("r", &facts, &format!("{good}\n\n{good}\n")).unwrap().requests.len(), 2);
        let fault = Run::read("r", &facts, &format!("{good}\n{{\"at\":1}}")).unwrap_err();
        assert!(fault.starts_with("r/requests.jsonl, line 2: missing field"), "{fault}");
        assert!(Run::read("r", "{}", good).unwrap_err().starts_with("r/run.json: missing field"));
        // A figure that is no number must not become zero.
        assert!(Run::read("r", &facts, &good.replace("\"end\":5", "\"end\":null")).is_err());
    }

    #[test]
    fn only_the_measured_seconds_count() {
        let run = planted::run(Arm::Dam, 1.0, 1);
        let RunFacts { warm_s, measured_s, .. } = run.facts;
        assert!(run.requests.len() > run.measured().count());
        assert!(run.measured().all(|request| request.at >= warm_s * 1000.0));
        assert_eq!(run.seconds().len(), measured_s as usize);
        assert_eq!(run.seconds().iter().map(Vec::len).sum::<usize>(), run.measured().count());
    }
}
