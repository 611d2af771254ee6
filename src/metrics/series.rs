//! Metric handles with resolved labels, for the request path.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use super::label::Family;
use super::{Sample, fixed};
use crate::refusal::Reason;
use crate::request::{Class, Ending, SloOutcome};

/// Value of the label `reason` if there was no refusal or failure.
pub(super) const NO_REASON: &str = "none";
/// Values of the label `decision`.
pub(super) const DECISIONS: [&str; 3] = ["allowed", "refused", "would_refuse"];
const ENDINGS: usize = Ending::ALL.len();
/// Maximum callers that an observing rule tells apart; further ones are only in the log. There may
/// be many rules, and a rule that would refuse many callers needs no names.
pub(super) const OBSERVED_CALLERS: usize = 100;
const REASONS: usize = Reason::ALL.len() + 1;

/// A request in flight, until it is dropped.
#[derive(Debug)]
pub struct InFlightSeries(IntGauge);

impl InFlightSeries {
    pub(super) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlightSeries {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Metrics of one route. Combinations of class, outcome and reason appear at first use.
#[derive(Debug)]
pub struct RouteSeries {
    name: Arc<str>,
    requests: IntCounterVec,
    seconds: HistogramVec,
    counted: Box<[OnceLock<IntCounter>]>,
    timed: [OnceLock<Histogram>; ENDINGS],
}

impl RouteSeries {
    pub(super) fn new(name: &str, requests: &IntCounterVec, seconds: &HistogramVec) -> Self {
        let combinations = Class::ALL.len() * ENDINGS * REASONS;
        Self {
            name: name.into(),
            requests: requests.clone(),
            seconds: seconds.clone(),
            counted: (0..combinations).map(|_| OnceLock::new()).collect(),
            timed: Default::default(),
        }
    }

    /// Counts a finished request; `took` is the time since its head was read.
    pub fn count(&self, class: Class, ending: Ending, reason: Option<Reason>, took: Duration) {
        let column = reason.map_or(0, |reason| reason as usize + 1);
        let index = (class as usize * ENDINGS + ending as usize) * REASONS + column;
        if let Some(counter) = self.counted.get(index) {
            counter
                .get_or_init(|| {
                    let reason = reason.map_or(NO_REASON, Reason::as_str);
                    let labels = [&*self.name, class.as_str(), ending.as_str(), reason];
                    fixed(self.requests.get_metric_with_label_values(&labels))
                })
                .inc();
        }
        if let Some(histogram) = self.timed.get(ending as usize) {
            histogram
                .get_or_init(|| {
                    fixed(self.seconds.get_metric_with_label_values(&[&*self.name, ending.as_str()]))
                })
                .observe(took.as_secs_f64());
        }
    }

    pub(super) fn add_to(&self, sample: &mut Sample) {
        for (index, count) in self.counted.iter().enumerate() {
            let Some(count) = count.get().map(IntCounter::get) else { continue };
            if let Some(ended) = sample.ended.get_mut(index / REASONS % ENDINGS) {
                *ended += count;
            }
            // A worker's failure has a reason too, but is no refusal.
            if index / REASONS % ENDINGS != Ending::Refused as usize {
                continue;
            }
            // Column 0 is for no reason.
            if let Some(refused) = (index % REASONS).checked_sub(1).and_then(|at| sample.refused.get_mut(at))
            {
                *refused += count;
            }
        }
    }
}

/// Values of the label `cause`.
pub(super) const REFUSAL_CAUSES: [&str; 2] = ["credentials", "quota"];

/// Refusals of one external worker. Both exist from the start, at zero, for alerts.
#[derive(Debug)]
pub(crate) struct ProviderSeries {
    refusals: [IntCounter; REFUSAL_CAUSES.len()],
}

impl ProviderSeries {
    pub(super) fn new(worker: &str, refusals: &IntCounterVec) -> Self {
        let refusals =
            REFUSAL_CAUSES.map(|cause| fixed(refusals.get_metric_with_label_values(&[cause, worker])));
        Self { refusals }
    }

    /// Counts a refused request: for its `credentials`, or else for want of quota.
    pub(crate) fn count(&self, credentials: bool) {
        let [by_credentials, by_quota] = &self.refusals;
        if credentials { by_credentials } else { by_quota }.inc();
    }
}

/// Metrics of one pool. All exist from the start, at zero: an event that never occurred must not
/// look like a missing metric.
#[derive(Debug)]
pub struct PoolSeries {
    pub(super) ttft: [Histogram; Class::ALL.len()],
    itl: Histogram,
    pub(super) goodput: IntCounter,
    streams: [IntCounter; SloOutcome::ALL.len()],
}

impl PoolSeries {
    pub(super) fn new(
        name: &str,
        ttft: &HistogramVec,
        itl: &HistogramVec,
        goodput: &IntCounterVec,
        streams: &IntCounterVec,
    ) -> Self {
        Self {
            ttft: Class::ALL.map(|class| fixed(ttft.get_metric_with_label_values(&[name, class.as_str()]))),
            itl: fixed(itl.get_metric_with_label_values(&[name])),
            goodput: fixed(goodput.get_metric_with_label_values(&[name])),
            streams: SloOutcome::ALL
                .map(|promise| fixed(streams.get_metric_with_label_values(&[name, promise.as_str()]))),
        }
    }

    /// Records the first content of a stream.
    pub fn ttft(&self, class: Class, took: Duration) {
        if let Some(histogram) = self.ttft.get(class as usize) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// Records further content of a stream.
    pub fn itl(&self, since_the_last: Duration) {
        self.itl.observe(since_the_last.as_secs_f64());
    }

    /// Counts a stream that ended, by whether it kept the TTFT SLO.
    pub(crate) fn ended(&self, promise: SloOutcome) {
        if let Some(counter) = self.streams.get(promise as usize) {
            counter.inc();
        }
        if promise == SloOutcome::Kept {
            self.goodput.inc();
        }
    }
}

/// Metrics of one rule.
#[derive(Debug)]
pub struct RuleSeries {
    allowed: IntCounter,
    refused: IntCounter,
    would_refuse: IntCounter,
    name: Arc<str>,
    by_caller: IntCounterVec,
    callers: Family<IntCounter>,
    peak: QuotaPeak,
}

/// Highest used share of a quota that requests found since the last reading.
#[derive(Debug, Default)]
struct QuotaPeak {
    /// In thousandths, so that an atomic comparison suffices.
    used: AtomicU32,
    caller: Mutex<Option<Arc<str>>>,
}

impl RuleSeries {
    pub(super) fn new(name: &str, checks: &IntCounterVec, by_caller: &IntCounterVec) -> Self {
        let of = |decision| fixed(checks.get_metric_with_label_values(&[name, decision]));
        let [allowed, refused, would_refuse] = DECISIONS.map(of);
        Self {
            allowed,
            refused,
            would_refuse,
            name: name.into(),
            by_caller: by_caller.clone(),
            callers: Family::of(OBSERVED_CALLERS),
            peak: QuotaPeak::default(),
        }
    }

    /// Counts a request that the rule allowed.
    pub fn allowed(&self) {
        self.allowed.inc();
    }

    /// Counts a request that the rule refused.
    pub(crate) fn refused(&self) {
        self.refused.inc();
    }

    /// Counts a request of `caller` that this observing rule would have refused.
    pub(crate) fn would_refuse(&self, caller: &str) {
        self.would_refuse.inc();
        let make = |caller: &str| fixed(self.by_caller.get_metric_with_label_values(&[&self.name, caller]));
        self.callers.get(caller, make).inc();
    }

    /// Records the used share of the quota, 0…1, after a request of `caller`.
    pub fn used(&self, share: f64, caller: &str) {
        let thousandths = (share.clamp(0.0, 1.0) * 1000.0) as u32;
        if thousandths > self.peak.used.load(Ordering::Relaxed)
            && thousandths > self.peak.used.fetch_max(thousandths, Ordering::Relaxed)
        {
            *self.peak.caller.lock() = Some(caller.into());
        }
    }

    /// Takes the highest share since the last call, and the caller of that request.
    pub(crate) fn take_peak(&self) -> Option<(f64, Arc<str>)> {
        let caller = self.peak.caller.lock().take()?;
        Some((f64::from(self.peak.used.swap(0, Ordering::Relaxed)) / 1000.0, caller))
    }

    /// Returns the number of requests refused so far, or that would have been in observe mode.
    #[must_use]
    pub(crate) fn refusals(&self) -> u64 {
        self.refused.get() + self.would_refuse.get()
    }
}
