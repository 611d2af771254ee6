//! What came out of a run.

mod fair;
mod recovery;
mod tally;
mod verdict;

use std::collections::BTreeMap;
use std::time::Duration;

pub(super) use self::tally::tally;

use super::Policy;
use crate::request::Class;

/// A run and what came out of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What decided.
    pub policy: Policy,
    /// The start of all randomness.
    pub seed: u64,
    /// The figures.
    pub figures: Figures,
    /// Second by second.
    pub seconds: Vec<Second>,
    /// Why the figures cannot be believed: a request with no end or two, a ledger that is not empty, which would be
    /// defects of the program, or more requests than a run can hold.
    pub defects: Vec<String>,
}

/// The figures of a run, counted after the warm-up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Requests that asked, those that came back included.
    pub offered: u64,
    /// Requests that got a worker.
    pub admitted: u64,
    /// Requests that got their first token within the promise and came to their end.
    pub good: u64,
    /// Requests that were let in and failed.
    pub failed: u64,
    /// Those of them that had not had a first token.
    pub failed_early: u64,
    /// Requests that were refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Good requests per second.
    pub goodput: f64,
    /// Good requests of those offered.
    pub goodput_of_offered: Option<f64>,
    /// Good work per second, of the most that the workers that were alive could do.
    pub goodput_of_peak: Option<f64>,
    /// Percentiles 50, 95 and 99 of the time from the arrival to the first token of what was let in.
    pub ttft: Option<[Duration; 3]>,
    /// By `Class as usize`: the 99th percentile, and good requests of those offered.
    pub by_class: [Option<ClassFigures>; 3],
    /// Jain's index of the weighted tokens of those callers that wanted more than they got.
    pub jain: Option<f64>,
    /// What all callers but the greediest got of what was theirs: an equal share, or what they asked if that is less.
    pub light_share: Option<f64>,
    /// Sequences that workers threw out of their cache.
    pub preemptions: u64,
    /// Of the clients that came back when they had been told to, while no more was offered than can be served, those
    /// that were let in.
    pub retry_kept: Option<f64>,
    /// The mean time after which refused requests were told to come back, in seconds.
    pub retry_wait: Option<f64>,
    /// From the last disturbance until all was as good as it can be. Infinite when that never came.
    pub recovery: Option<f64>,
    /// Of the requests that events added, those that were good.
    pub extra_good: Option<f64>,
}

/// The figures of one class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassFigures {
    /// The 99th percentile of the time to the first token.
    pub ttft_p99: Option<Duration>,
    /// Good requests of those offered.
    pub goodput_of_offered: f64,
}

/// One second of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Second {
    /// Requests that asked.
    pub offered: u64,
    /// Of those, the ones that got a worker.
    pub admitted: u64,
    /// Of those, the good ones.
    pub good: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Good work that was done, of the most that could be.
    pub of_peak: f64,
    /// Sequences that may be in flight, at its end.
    pub limit: u64,
    /// Sequences in flight, at its end.
    pub in_flight: u64,
    /// Requests in the queues, at its end.
    pub waiting: u64,
    /// The median time to the first token of the requests that asked in it.
    pub ttft_p50: Option<Duration>,
}

impl Figures {
    /// The names by which scenarios expect figures.
    pub const NAMES: [&'static str; 22] = [
        "goodput",
        "goodput_of_offered",
        "goodput_of_peak",
        "ttft_p50",
        "ttft_p95",
        "ttft_p99",
        "jain",
        "light_share",
        "preemptions",
        "retry_kept",
        "retry_wait",
        "recovery",
        "extra_good",
        "failed",
        "failed_early",
        "refused",
        "ttft_p99_batch",
        "ttft_p99_interactive",
        "ttft_p99_critical",
        "goodput_of_offered_batch",
        "goodput_of_offered_interactive",
        "goodput_of_offered_critical",
    ];

    /// The figure of that name; durations in seconds. None when the run has none.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        let ttft = |place: usize| self.ttft.map(|percentiles| percentiles[place].as_secs_f64());
        Some(match name {
            "goodput" => self.goodput,
            "goodput_of_offered" => self.goodput_of_offered?,
            "goodput_of_peak" => self.goodput_of_peak?,
            "ttft_p50" => ttft(0)?,
            "ttft_p95" => ttft(1)?,
            "ttft_p99" => ttft(2)?,
            "jain" => self.jain?,
            "light_share" => self.light_share?,
            "preemptions" => self.preemptions as f64,
            "retry_kept" => self.retry_kept?,
            "retry_wait" => self.retry_wait?,
            "recovery" => self.recovery?,
            "extra_good" => self.extra_good?,
            "failed" => self.failed as f64,
            "failed_early" => self.failed_early as f64,
            "refused" => self.refused.values().sum::<u64>() as f64,
            _ => {
                let (figure, class) = name.rsplit_once('_')?;
                let class = self.by_class[Class::parse(class)? as usize]?;
                match figure {
                    "ttft_p99" => class.ttft_p99?.as_secs_f64(),
                    "goodput_of_offered" => class.goodput_of_offered,
                    _ => return None,
                }
            }
        })
    }
}
