//! Series with their labels resolved, for what requests touch.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use super::fixed;
use crate::refusal::Reason;
use crate::request::{Class, Ending};

/// The label `reason` of what was not refused.
pub(super) const NO_REASON: &str = "none";
/// The label `decision`.
pub(super) const DECISIONS: [&str; 3] = ["allowed", "refused", "would_refuse"];
const ENDINGS: usize = Ending::ALL.len();
const REASONS: usize = Reason::ALL.len() + 1;

/// A request under way; dropping it is its end.
#[derive(Debug)]
pub struct InFlight(IntGauge);

impl InFlight {
    pub(super) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The series of one route. A combination of class, outcome and reason becomes a series when it first happens.
#[derive(Debug)]
pub struct Route {
    name: Arc<str>,
    requests: IntCounterVec,
    seconds: HistogramVec,
    counted: Box<[OnceLock<IntCounter>]>,
    timed: [OnceLock<Histogram>; ENDINGS],
}

impl Route {
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

    /// A request ended, after `took` since its head had been read.
    pub fn finished(&self, class: Class, ending: Ending, reason: Option<Reason>, took: Duration) {
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
}

/// The series of one pool.
#[derive(Debug)]
pub struct Pool {
    ttft: [Histogram; Class::ALL.len()],
    itl: Histogram,
    goodput: IntCounter,
}

impl Pool {
    pub(super) fn new(name: &str, ttft: &HistogramVec, itl: &HistogramVec, goodput: &IntCounterVec) -> Self {
        Self {
            ttft: Class::ALL.map(|class| fixed(ttft.get_metric_with_label_values(&[name, class.as_str()]))),
            itl: fixed(itl.get_metric_with_label_values(&[name])),
            goodput: fixed(goodput.get_metric_with_label_values(&[name])),
        }
    }

    /// The first content of a stream came.
    pub fn ttft(&self, class: Class, took: Duration) {
        if let Some(histogram) = self.ttft.get(class as usize) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// Further content of a stream came.
    pub fn itl(&self, since_the_last: Duration) {
        self.itl.observe(since_the_last.as_secs_f64());
    }

    /// A stream completed whose first content had come within the promise.
    pub fn good(&self) {
        self.goodput.inc();
    }
}

/// The series of one rule.
#[derive(Debug)]
pub struct Rule {
    allowed: IntCounter,
    refused: IntCounter,
    would_refuse: IntCounter,
}

impl Rule {
    pub(super) fn new(name: &str, checks: &IntCounterVec) -> Self {
        let of = |decision| fixed(checks.get_metric_with_label_values(&[name, decision]));
        let [allowed, refused, would_refuse] = DECISIONS.map(of);
        Self { allowed, refused, would_refuse }
    }

    /// It let a request through.
    pub fn allowed(&self) {
        self.allowed.inc();
    }

    /// It refused one.
    pub fn refused(&self) {
        self.refused.inc();
    }

    /// It only observes, and would have refused one.
    pub fn would_refuse(&self) {
        self.would_refuse.inc();
    }
}
