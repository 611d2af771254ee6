//! The results of a run, and the checks that decide whether the run counts.

use std::fmt;
use std::time::Duration;

use traffic_dam_lab::evidence::lateness::late_requests;
use traffic_dam_lab::evidence::stats::{quantile, sorted};

use crate::drive::Spent;
use crate::plan::PATIENCE;
use crate::sample::{Outcome, Sample};
use crate::scrape::{self, Histogram};
use crate::section::bare;

/// Above this share of a core the generator itself may be the bottleneck.
const BUSIEST_GENERATOR: f64 = 0.70;
/// A refusal for this reason waited in the queue; its time does not measure a refusal's speed.
const WAITED: &str = "queue_timeout";

/// Rate of good answers, of a worker at its peak or of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// Answers per second.
    pub(crate) requests: f64,
    /// Tokens per second.
    pub(crate) tokens: f64,
}

impl Rate {
    /// Returns the rate of the good answers that began within `measured` from `from` on. An answer
    /// counts when it begins, not when it was due: a queue that grows inside the worker is not
    /// goodput yet. It does not count when it ends, because long answers would then be missing at
    /// the start.
    pub(crate) fn of(samples: &[Sample], from: Duration, measured: Duration) -> Self {
        Self::counted(samples, from, measured, Sample::good_tokens)
    }

    /// Returns the same for all complete answers, however long their clients waited.
    pub(crate) fn complete(samples: &[Sample], from: Duration, measured: Duration) -> Self {
        Self::counted(samples, from, measured, Sample::tokens)
    }

    fn counted(samples: &[Sample], from: Duration, measured: Duration, count: fn(&Sample) -> u32) -> Self {
        let within = from..from + measured;
        let (mut requests, mut tokens) = (0.0, 0.0);
        for sample in samples.iter().filter(|sample| within.contains(&sample.begun())) {
            let count = count(sample);
            requests += if count > 0 { 1.0 } else { 0.0 };
            tokens += f64::from(count);
        }
        let seconds = measured.as_secs_f64();
        Self { requests: requests / seconds, tokens: tokens / seconds }
    }
}

/// Median and 99th percentile, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Times {
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
}

impl Times {
    /// Computes them from times measured by clients.
    pub(crate) fn of(times: impl Iterator<Item = Duration>) -> Self {
        let sorted = sorted(times.map(|time| time.as_secs_f64() * 1000.0));
        Self { p50: quantile(&sorted, 0.5), p99: quantile(&sorted, 0.99) }
    }

    /// Computes them from a histogram in seconds.
    fn read(histogram: &Histogram) -> Self {
        let millis = |q| histogram.quantile(q).map(|seconds| seconds * 1000.0);
        Self { p50: millis(0.5), p99: millis(0.99) }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.p50, self.p99) {
            (None, None) => f.write_str("–"),
            (p50, p99) => write!(f, "{} / {}", bare(p50), bare(p99)),
        }
    }
}

/// The gateway's own metrics at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    refusals: Histogram,
    /// Requests that the worker may run at once, set by the limit algorithm.
    limit: Option<f64>,
}

impl Reading {
    /// Parses the text of `/metrics`.
    pub(crate) fn of(metrics: &str) -> Self {
        Self {
            refusals: Histogram::read(metrics, "traffic_dam_refusal_seconds"),
            limit: scrape::sum(metrics, "traffic_dam_concurrency_limit"),
        }
    }
}

/// A run's samples and what was measured beside them.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Requests that were due during the measurement.
    pub(crate) samples: Vec<Sample>,
    /// Rate of good answers that began during the measurement.
    pub(crate) good: Rate,
    pub(crate) measured: Duration,
    pub(crate) spent: Spent,
    /// The gateway's metrics at the start and at the end.
    pub(crate) readings: Option<(Reading, Reading)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// Requests per second.
    pub(crate) offered: f64,
    pub(crate) goodput: f64,
    /// Goodput divided by offered requests.
    pub(crate) of_offered: f64,
    /// Tokens of goodput divided by the worker's peak tokens. Answers differ in length, so counting
    /// requests would add some percent of noise.
    pub(crate) of_peak: f64,
    /// TTFT of admitted streams; if the client gave up, its patience counts as the TTFT.
    pub(crate) ttft: Times,
    /// Time to a refusal of a request that had not waited, measured by clients.
    pub(crate) refusal: Times,
    /// The same from the gateway's own histogram.
    pub(crate) own_refusal: Option<Times>,
    pub(crate) refused: usize,
    /// Refusals without a `Retry-After`.
    pub(crate) untold: usize,
    pub(crate) errors: usize,
    pub(crate) errors_by_kind: String,
    pub(crate) gave_up: usize,
    pub(crate) spent: Spent,
    pub(crate) limit: Option<f64>,
    /// Reasons why this run does not count; empty if it counts.
    pub(crate) faults: Vec<String>,
}

impl Run {
    pub(crate) fn figures(&self, peak: Rate) -> Figures {
        let Self { samples, good: rate, measured, spent, readings, .. } = self;
        let seconds = measured.as_secs_f64();
        let count = |is: fn(&Sample) -> bool| samples.iter().filter(|sample| is(sample)).count();
        let good = count(Sample::is_good) as f64;
        let admitted = samples.iter().filter(|sample| sample.arrival.streamed).filter_map(|sample| {
            sample.first().or_else(|| (sample.outcome == Outcome::GaveUp).then_some(PATIENCE))
        });
        let at_once = samples.iter().filter_map(|sample| match &sample.outcome {
            Outcome::Refused { took, reason, .. } if reason != WAITED => Some(*took),
            _ => None,
        });
        let own_refusal =
            readings.as_ref().map(|(before, after)| Times::read(&after.refusals.since(&before.refusals)));
        Figures {
            offered: samples.len() as f64 / seconds,
            goodput: rate.requests,
            of_offered: good / (samples.len() as f64).max(1.0),
            of_peak: rate.tokens / peak.tokens,
            ttft: Times::of(admitted),
            refusal: Times::of(at_once),
            own_refusal,
            refused: count(Sample::is_refused),
            untold: count(|sample| matches!(sample.outcome, Outcome::Refused { retry_after: false, .. })),
            errors: count(Sample::is_error),
            errors_by_kind: errors(samples),
            gave_up: count(|sample| sample.outcome == Outcome::GaveUp),
            spent: *spent,
            limit: readings.as_ref().and_then(|(_, after)| after.limit),
            faults: self.faults(),
        }
    }

    /// Returns the reasons why the run does not count.
    fn faults(&self) -> Vec<String> {
        let Self { samples, spent, .. } = self;
        let mut faults = Vec::new();
        if samples.is_empty() {
            faults.push("nothing was offered".to_owned());
        }
        if spent.generator > BUSIEST_GENERATOR {
            faults.push(format!("the generator took {:.0} % of a core", spent.generator * 100.0));
        }
        faults.extend(late_requests(samples.iter().map(|sample| sample.late.as_secs_f64() * 1000.0)));
        let unseen = |sample: &&Sample| {
            sample.arrival.streamed && matches!(sample.outcome, Outcome::Served { first: None, .. })
        };
        match samples.iter().filter(unseen).count() {
            0 => {}
            missing => faults.push(format!("the TTFT of {missing} streams is missing")),
        }
        faults
    }
}

/// Lists the errors, the most frequent first; empty if there were none.
fn errors(samples: &[Sample]) -> String {
    let mut kinds: Vec<(String, usize)> = Vec::new();
    for sample in samples {
        let kind = match &sample.outcome {
            Outcome::Failed(kind) => kind.trim(),
            Outcome::Cut { first: None } => "cut before a token",
            Outcome::Cut { first: Some(_) } => "cut after a token",
            _ => continue,
        };
        match kinds.iter_mut().find(|(known, _)| known == kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((kind.to_owned(), 1)),
        }
    }
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    kinds.iter().map(|(kind, count)| format!("{count} × {kind}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::{sample, served};

    const PEAK: Rate = Rate { requests: 2.0, tokens: 20.0 };

    fn refused(reason: &str, ms: u64, retry_after: bool) -> Sample {
        let took = Duration::from_millis(ms);
        sample(true, Outcome::Refused { took, reason: reason.to_owned(), retry_after, wait: None })
    }

    fn run(samples: Vec<Sample>) -> Run {
        let measured = Duration::from_secs(2);
        let good = Rate::of(&samples, Duration::ZERO, measured);
        Run { samples, good, measured, spent: Spent::default(), readings: None }
    }

    #[test]
    fn each_request_counts_once_and_where_it_belongs() {
        let failed = sample(true, Outcome::Failed("status 502".to_owned()));
        let cut = sample(true, Outcome::Cut { first: Some(Duration::from_millis(100)) });
        let all = vec![
            sample(true, served(400)),
            sample(true, served(1500)),
            refused("overloaded", 3, true),
            refused("queue_timeout", 250, true),
            refused("", 1, false),
            failed,
            cut,
            sample(true, Outcome::GaveUp),
        ];
        let figures = run(all).figures(PEAK);
        assert!((figures.offered - 4.0).abs() < 1e-9);
        assert!((figures.goodput - 0.5).abs() < 1e-9);
        assert!((figures.of_offered - 0.125).abs() < 1e-9);
        assert!((figures.of_peak - 0.25).abs() < 1e-9);
        assert_eq!((figures.refused, figures.untold, figures.errors, figures.gave_up), (3, 1, 2, 1));
        assert_eq!(figures.refusal.p99, Some(3.0));
        assert_eq!(figures.errors_by_kind, "1 × status 502, 1 × cut after a token");
        // 100, 400, 1500, and the client that gave up.
        assert_eq!(
            (figures.ttft.p50, figures.ttft.p99),
            (Some(400.0), Some(PATIENCE.as_secs_f64() * 1000.0))
        );
        assert!(figures.faults.is_empty(), "{:?}", figures.faults);
    }

    #[test]
    fn goodput_is_counted_where_it_began() {
        // All due at 1 s; first tokens after 400 ms and 700 ms.
        let samples = [sample(true, served(400)), sample(true, served(700)), sample(true, served(1500))];
        let (from, half) = (Duration::from_secs(1), Duration::from_millis(500));
        assert!((Rate::of(&samples, from, half).requests - 2.0).abs() < 1e-9);
        assert!((Rate::of(&samples, from + half, half).tokens - 20.0).abs() < 1e-9);
        assert!(Rate::of(&samples, from + half * 2, half).requests < 1e-9);
    }

    #[test]
    fn a_run_that_measured_the_generator_does_not_count() {
        let spent = Spent { generator: 0.71, ..Spent::default() };
        let figures = Run { spent, ..run(vec![sample(true, served(1))]) }.figures(PEAK);
        assert!(figures.faults[0].contains("71 %"), "{:?}", figures.faults);

        let late = Sample { late: Duration::from_millis(51), ..sample(true, served(1)) };
        let mut samples = vec![sample(true, served(1)); 99];
        samples.push(late.clone());
        assert!(run(samples.clone()).figures(PEAK).faults.is_empty());
        samples.push(late);
        assert!(run(samples).figures(PEAK).faults[0].contains("2 of 101"));
        assert!(!run(Vec::new()).figures(PEAK).faults.is_empty());
    }

    #[test]
    fn a_success_without_its_ttft_is_no_run() {
        let unseen = |streamed| {
            sample(streamed, Outcome::Served { first: None, took: Duration::from_millis(5), tokens: 1 })
        };
        assert!(run(vec![unseen(true)]).figures(PEAK).faults[0].contains("TTFT"));
        assert!(run(vec![unseen(false)]).figures(PEAK).faults.is_empty());
    }
}
