//! Results of a run.

mod fair;
mod recovery;
mod tally;
mod verdict;

use std::collections::BTreeMap;
use std::time::Duration;

pub(super) use self::tally::tally;

use super::Policy;
use traffic_dam_core::request::Class;

/// A run and its results.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedRun {
    /// Policy of the run.
    pub policy: Policy,
    /// Seed of all randomness.
    pub seed: u64,
    /// Figures after the warm-up.
    pub figures: RunFigures,
    /// One entry per second of the run.
    pub seconds: Vec<Second>,
    /// Reasons not to trust the figures. A request without an end or with two, or a gate that is
    /// not empty, is a defect of the program; too many requests exceed what a run can hold.
    pub defects: Vec<String>,
}

/// The figures of a run, counted after the warm-up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunFigures {
    /// Requests that asked, including repeated ones.
    pub offered: u64,
    /// Requests that got a worker.
    pub admitted: u64,
    /// Requests that met the TTFT SLO and were answered in full.
    pub good: u64,
    /// Requests that were admitted and failed.
    pub failed: u64,
    /// Failed requests without a first token.
    pub(crate) failed_early: u64,
    /// Refused requests by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Good requests per second.
    pub goodput: f64,
    /// Good requests as a share of those offered.
    pub(crate) goodput_of_offered: Option<f64>,
    /// Good work as a share of the most that the live workers could do.
    pub(crate) goodput_of_peak: Option<f64>,
    /// Percentiles 50, 95 and 99 of TTFT from arrival, of admitted requests.
    pub ttft: Option<[Duration; 3]>,
    /// The same of requests that begin a conversation, or stand alone.
    pub(crate) ttft_first: Option<[Duration; 3]>,
    /// Cached share of the prompt tokens of workers that have prefix caches.
    pub(crate) hit_ratio: Option<f64>,
    /// Figures per class, by `Class as usize`.
    pub by_class: [Option<ClassFigures>; 3],
    /// Jain's index of weighted tokens, over callers that wanted more than the fair level.
    pub jain: Option<f64>,
    /// Share of their due that all callers but the greediest got. The due of a caller is its demand, at
    /// most an equal share.
    pub(crate) light_share: Option<f64>,
    /// Number of preemptions by workers.
    pub preemptions: u64,
    /// Share admitted of clients that came back after `Retry-After`, at loads within capacity.
    pub retry_kept: Option<f64>,
    /// Mean `Retry-After` of refused requests, in seconds.
    pub retry_wait: Option<f64>,
    /// Seconds from the last disturbance until good work is normal again. Infinite if it never is.
    pub(crate) recovery: Option<f64>,
    /// Share of good requests among those that events added.
    pub(crate) extra_good: Option<f64>,
}

/// Figures of one class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassFigures {
    /// The 99th percentile of TTFT.
    pub(crate) ttft_p99: Option<Duration>,
    /// Good requests as a share of those offered.
    pub(crate) goodput_of_offered: f64,
}

/// One second of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Second {
    /// Requests that asked.
    pub offered: u64,
    /// Requests of this second that got a worker.
    pub admitted: u64,
    /// Good requests of this second.
    pub good: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Good work as a share of the maximum.
    pub of_peak: f64,
    /// Sum of the workers' limits at its end, in sequences.
    pub limit: u64,
    /// Sequences in flight, at its end.
    pub in_flight: u64,
    /// Requests in the queues, at its end.
    pub waiting: u64,
    /// Median TTFT of the requests that asked in this second.
    pub(crate) ttft_p50: Option<Duration>,
}

impl RunFigures {
    /// Returns a figure by name, durations in seconds. `None` if the run does not have it.
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
            "ttft_first_p50" => self.ttft_first?[0].as_secs_f64(),
            "ttft_first_p99" => self.ttft_first?[2].as_secs_f64(),
            "hit_ratio" => self.hit_ratio?,
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
