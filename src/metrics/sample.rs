//! Sums of all counts at one moment, from which time series are built.

use prometheus::Histogram;
use prometheus::core::Metric;

use super::{Metrics, buckets};
use crate::refusal::Reason;
use crate::request::Ending;
use crate::view::CallerView;

/// Counts since the start. The difference of two samples is what happened between them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// Requests that ended, by `Ending as usize`.
    pub ended: [u64; Ending::ALL.len()],
    /// Refused requests, by `Reason as usize`.
    pub refused: [u64; Reason::ALL.len()],
    /// Requests in flight now, including waiting ones.
    pub in_flight: u64,
    /// Requests that a worker began to answer.
    pub admitted: u64,
    /// Streams that completed within the TTFT SLO.
    pub good: u64,
    /// Histogram of TTFT: counts per bucket of [`TTFT_BUCKETS`], and one beyond.
    pub ttft: Vec<u64>,
}

/// Upper bounds of [`Sample::ttft`], in seconds.
pub(crate) const TTFT_BUCKETS: &[f64] = buckets::TTFT;

impl Sample {
    /// Returns the number of requests received.
    #[must_use]
    pub(crate) fn offered(&self) -> u64 {
        self.ended.iter().sum::<u64>() + self.in_flight
    }
}

impl Metrics {
    /// Sums everything up. Costs some microseconds per route and pool.
    #[must_use]
    pub(crate) fn sample(&self) -> Sample {
        let mut sample = Sample {
            in_flight: u64::try_from(self.in_flight.get()).unwrap_or_default(),
            admitted: self.queue_wait.iter().map(Histogram::get_sample_count).sum(),
            ttft: vec![0; TTFT_BUCKETS.len() + 1],
            ..Sample::default()
        };
        self.routes.each(|route| route.add_to(&mut sample));
        self.pools.each(|pool| {
            sample.good += pool.goodput.get();
            pool.ttft.iter().for_each(|histogram| add_up(histogram, &mut sample.ttft));
        });
        sample
    }

    /// Counts a finished request of `caller`.
    pub fn caller(&self, caller: &std::sync::Arc<str>, refused: bool, tokens: u64) {
        self.callers.count(caller, refused, tokens);
    }

    /// Returns the `most` busiest callers. Call once a second: the rates assume it.
    #[must_use]
    pub(crate) fn top_callers(&self, most: usize) -> Vec<CallerView> {
        self.callers.decay_and_top(most)
    }
}

/// Adds the counts of a histogram's buckets, which Prometheus keeps as cumulative sums.
fn add_up(histogram: &Histogram, counts: &mut [u64]) {
    let metric = histogram.metric();
    let histogram = metric.get_histogram();
    let sums = histogram.get_bucket().iter().map(|bucket| bucket.cumulative_count());
    let mut below = 0;
    for (count, sum) in counts.iter_mut().zip(sums.chain([histogram.get_sample_count()])) {
        *count += sum.saturating_sub(below);
        below = sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Class, SloOutcome};
    use std::time::Duration;

    #[test]
    fn a_sample_adds_up_routes_pools_and_classes() {
        let metrics = Metrics::new();
        let ms = Duration::from_millis;
        for route in ["/a", "/b"] {
            let route = metrics.route(route);
            route.count(Class::Batch, Ending::Complete, None, ms(5));
            route.count(Class::Critical, Ending::Refused, Some(Reason::Overloaded), ms(5));
            route.count(Class::Batch, Ending::WorkerFailed, Some(Reason::UpstreamUnreachable), ms(5));
        }
        for (pool, class, took) in
            [("p", Class::Batch, 1), ("p", Class::Critical, 180), ("q", Class::Batch, 61_000)]
        {
            metrics.pool(pool).ttft(class, ms(took));
        }
        metrics.pool("q").ended(SloOutcome::Kept);
        metrics.pool("q").ended(SloOutcome::Late);
        metrics.queue_wait(Class::Batch, ms(1));
        let _under_way = metrics.enter();

        let sample = metrics.sample();
        assert_eq!((sample.offered(), sample.admitted, sample.good), (7, 1, 1));
        assert_eq!(sample.ended[Ending::Complete as usize], 2);
        assert_eq!(sample.refused[Reason::Overloaded as usize], 2);
        assert_eq!(sample.refused[Reason::UpstreamUnreachable as usize], 0, "failures are no refusals");
        let filled: Vec<_> = sample.ttft.iter().enumerate().filter(|(_, count)| **count > 0).collect();
        assert_eq!(filled, [(0, &1), (9, &1), (TTFT_BUCKETS.len(), &1)], "1 ms, 200 ms, and beyond");
    }
}
