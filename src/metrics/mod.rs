//! Prometheus metrics: every name, label and bucket in one place.
//!
//! The `prometheus` crate is not visible outside this module. Label values come from closed sets or
//! the configuration, never from a request, except the callers of observing rules. Each label holds
//! at most `LABEL_VALUES`; further values become `other`. Using a handle with resolved labels
//! costs a few nanoseconds, finding it several times as much: the request path keeps it ([`RouteSeries`],
//! [`PoolSeries`], [`RuleSeries`]) or indexes by an enum.
//!
//! State (queue depths, limits, lights), unlike events, is read at each scrape: a [`GatewayView`].
//! Encoding thousands of series takes milliseconds: call [`Metrics::encode`] on a blocking thread.

mod buckets;
mod callers;
mod catalogue;
mod described;
mod label;
mod reading;
mod redis;
mod sample;
mod series;

pub use catalogue::label_values;
pub use described::{Described, MetricKind};
pub use redis::RedisSeries;
pub(crate) use redis::{JobEnd, KeyUse, RedisOp};
pub(crate) use sample::{Sample, TTFT_BUCKETS};
pub(crate) use series::ProviderSeries;
pub use series::{InFlightSeries, PoolSeries, RouteSeries, RuleSeries};

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

use self::callers::TopCallers;
use self::label::{Family, OTHER};
use crate::request::Class;
use crate::view::GatewayView;

const NAMESPACE: &str = "traffic_dam";
/// Values of the label `direction`.
const DIRECTIONS: [&str; 2] = ["prompt", "output"];

/// The metrics of one gateway. They are not global: a process may have several.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    ttft: HistogramVec,
    itl: HistogramVec,
    goodput: IntCounterVec,
    streams: IntCounterVec,
    limit_checks: IntCounterVec,
    would_refuse: IntCounterVec,
    fallbacks: IntCounterVec,
    known_fallbacks: Family<IntCounter>,
    routes: Family<RouteSeries>,
    pools: Family<PoolSeries>,
    rules: Family<RuleSeries>,
    providers: Family<ProviderSeries>,
    provider_refusals: IntCounterVec,
    queue_wait: [Histogram; Class::ALL.len()],
    overhead: Histogram,
    refusal: Histogram,
    estimate_error: Histogram,
    event_loop_lag: Histogram,
    prompt_tokens: IntCounter,
    output_tokens: IntCounter,
    unmatched: IntCounter,
    heartbeats: IntCounterVec,
    reloads_taken: IntCounter,
    reloads_refused: IntCounter,
    config_current: IntGauge,
    lines_lost: IntCounter,
    in_flight: IntGauge,
    callers: TopCallers,
    catalogue: Mutex<Vec<Described>>,
    redis: OnceLock<RedisSeries>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Creates metrics, including the build's version.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let made = Mutex::default();
        let make = Maker { registry: &registry, made: &made };
        let build = make.opts(
            "build_info",
            "Always 1; the label version is the version of this build.",
            MetricKind::Gauge,
            &["version"],
        );
        make.keep(IntGauge::with_opts(build.const_label("version", env!("CARGO_PKG_VERSION")))).set(1);
        let queue_wait = make.histograms(
            "queue_wait_seconds",
            "Time that admitted requests waited for a permit.",
            &["class"],
            buckets::WAIT,
        );
        let tokens = make.counters(
            "tokens_total",
            "Tokens of answered requests, as reported or counted.",
            &["direction"],
        );
        let reloads =
            make.counters("config_reloads_total", "Reloads of changed settings, by result.", &["result"]);
        let counted = Self {
            requests: make.counters(
                "requests_total",
                "Requests by outcome; refused ones with the reason.",
                &["route", "class", "outcome", "reason"],
            ),
            request_seconds: make.histograms(
                "request_duration_seconds",
                "Time from the head of a request to the last byte of its answer.",
                &["route", "outcome"],
                buckets::DURATION,
            ),
            ttft: make.histograms(
                "ttft_seconds",
                "Time from the last byte of a request to the first content of its stream, queue wait included.",
                &["pool", "class"],
                buckets::TTFT,
            ),
            itl: make.histograms(
                "itl_seconds",
                "Time between two pieces of content of a stream.",
                &["pool"],
                buckets::ITL,
            ),
            goodput: make.counters(
                "goodput_total",
                "Completed streams whose first content came within the TTFT SLO.",
                &["pool"],
            ),
            streams: make.counters(
                "streams_total",
                "Ended streams, by TTFT SLO result.",
                &["pool", "promise"],
            ),
            limit_checks: make.counters(
                "limit_checks_total",
                "Decisions of each rule: allowed, refused, or would_refuse for an observe-only rule.",
                &["rule", "decision"],
            ),
            would_refuse: make.counters(
                "would_refuse_total",
                "Requests that an observe-only rule would have refused, by caller.",
                &["rule", "caller"],
            ),
            fallbacks: make.counters(
                "fallback_total",
                "Requests that a fallback (to) took from an entry of `models`, for overloaded, no_worker or failed.",
                &["model", "to", "reason"],
            ),
            known_fallbacks: Family::default(),
            routes: Family::default(),
            pools: Family::default(),
            rules: Family::default(),
            providers: Family::default(),
            provider_refusals: make.counters(
                "provider_refusals_total",
                "Requests that the provider of an external worker refused: for want of quota, or because it rejects the gateway's credentials.",
                &["cause", "worker"],
            ),
            queue_wait: Class::ALL
                .map(|class| fixed(queue_wait.get_metric_with_label_values(&[class.as_str()]))),
            overhead: make.histogram(
                "overhead_seconds",
                "The gateway's own time for a request: from its last byte until it is sent to a worker, without queue wait.",
                buckets::OWN,
            ),
            refusal: make.histogram(
                "refusal_seconds",
                "Time from the head of a refused request to its refusal, without queue wait.",
                buckets::OWN,
            ),
            estimate_error: make.histogram(
                "token_estimate_error_ratio",
                "Estimated over actual tokens of settled requests; 1 is exact.",
                buckets::RATIO,
            ),
            event_loop_lag: make.histogram(
                "event_loop_lag_seconds",
                "Delay of the gateway's own timers, measured every 10 ms; above 0.05 the gateway was paused.",
                buckets::LAG,
            ),
            prompt_tokens: fixed(tokens.get_metric_with_label_values(&[DIRECTIONS[0]])),
            output_tokens: fixed(tokens.get_metric_with_label_values(&[DIRECTIONS[1]])),
            unmatched: make.counter("unmatched_requests_total", "Requests that no limit rule applies to."),
            heartbeats: make.counters(
                "heartbeats_total",
                "Heartbeats of workers: taken, or the reason why they were refused.",
                &["result"],
            ),
            reloads_taken: fixed(reloads.get_metric_with_label_values(&["taken"])),
            reloads_refused: fixed(reloads.get_metric_with_label_values(&["refused"])),
            config_current: make.count(
                "config_current",
                "1 while the settings in use are those of the file; 0 from a refused reload until a successful one.",
            ),
            lines_lost: make.counter(
                "log_lines_lost_total",
                "Log lines that were lost because the reader was too slow.",
            ),
            in_flight: make.count("in_flight", "Requests in progress, waiting ones included."),
            callers: TopCallers::default(),
            catalogue: Mutex::new(reading::described()),
            redis: OnceLock::new(),
            registry: registry.clone(),
        };
        // At the start, the settings in force are those of the file.
        counted.config_current.set(1);
        counted.catalogue.lock().append(&mut made.into_inner());
        counted
    }

    /// Adds `process_*` metrics (CPU, memory, files, threads, start time), on Linux only.
    pub(crate) fn watch_process(&self) {
        #[cfg(target_os = "linux")]
        fixed(self.registry.register(Box::new(ProcessCollector::for_self())));
    }

    /// Returns a description of every metric created so far, sorted by name.
    #[must_use]
    pub fn catalogue(&self) -> Vec<Described> {
        let mut catalogue = self.catalogue.lock().clone();
        catalogue.sort_by(|one, other| one.name.cmp(&other.name));
        catalogue
    }

    /// Returns the metrics of a route: a kind's path or a configured pattern. Look up only once.
    #[must_use]
    pub fn route(&self, name: &str) -> Arc<RouteSeries> {
        self.routes.get(name, |name| RouteSeries::new(name, &self.requests, &self.request_seconds))
    }

    /// Returns the metrics of a pool. Look up once and keep.
    #[must_use]
    pub fn pool(&self, name: &str) -> Arc<PoolSeries> {
        self.pools
            .get(name, |name| PoolSeries::new(name, &self.ttft, &self.itl, &self.goodput, &self.streams))
    }

    /// Returns the metrics of a rule. Look up once and keep.
    #[must_use]
    pub fn rule(&self, name: &str) -> Arc<RuleSeries> {
        self.rules.get(name, |name| RuleSeries::new(name, &self.limit_checks, &self.would_refuse))
    }

    /// Returns the metrics of an external worker. Look up once and keep, or after a refusal.
    #[must_use]
    pub(crate) fn provider(&self, worker: &str) -> Arc<ProviderSeries> {
        self.providers.get(worker, |worker| ProviderSeries::new(worker, &self.provider_refusals))
    }

    /// Returns the metrics of Redis. Created on first use: absent in a gateway without Redis.
    #[must_use]
    pub fn redis(&self) -> &RedisSeries {
        self.redis
            .get_or_init(|| RedisSeries::new(&Maker { registry: &self.registry, made: &self.catalogue }))
    }

    /// Counts a request in flight until the result is dropped.
    #[must_use]
    pub fn enter(&self) -> InFlightSeries {
        InFlightSeries::new(&self.in_flight)
    }

    /// Records how long an admitted request waited for its permit.
    pub fn queue_wait(&self, class: Class, wait: Duration) {
        if let Some(histogram) = self.queue_wait.get(class as usize) {
            histogram.observe(wait.as_secs_f64());
        }
    }

    /// Records the time spent in the gateway for a request that reached a worker.
    pub fn overhead(&self, own: Duration) {
        self.overhead.observe(own.as_secs_f64());
    }

    /// Records the time from reading a request head to its refusal.
    pub(crate) fn refusal(&self, took: Duration) {
        self.refusal.observe(took.as_secs_f64());
    }

    /// Records how late a timer of the gateway fired.
    pub(crate) fn event_loop_lag(&self, late: Duration) {
        self.event_loop_lag.observe(late.as_secs_f64());
    }

    /// Adds the tokens of an answered request.
    pub fn tokens(&self, prompt: u64, output: u64) {
        self.prompt_tokens.inc_by(prompt);
        self.output_tokens.inc_by(output);
    }

    /// Records estimated and actual tokens of a settled request; ignored if `actual` is 0.
    pub fn token_estimate(&self, estimated: u64, actual: u64) {
        if actual > 0 {
            self.estimate_error.observe(estimated as f64 / actual as f64);
        }
    }

    /// Counts a request that no limit rule matches.
    pub(crate) fn unmatched_request(&self) {
        self.unmatched.inc();
    }

    /// Counts a heartbeat; `result` is from a closed list.
    pub(crate) fn heartbeat(&self, result: &'static str) {
        fixed(self.heartbeats.get_metric_with_label_values(&[result])).inc();
    }

    /// Counts a request that a fallback took; all three are names from the settings.
    pub(crate) fn fallback(&self, model: &str, to: &str, reason: &'static str) {
        let name = format!("{model}\n{to}\n{reason}");
        let make = |known: &str| {
            let labels = if known == name { [model, to, reason] } else { [OTHER, OTHER, reason] };
            fixed(self.fallbacks.get_metric_with_label_values(&labels))
        };
        self.known_fallbacks.get(&name, make).inc();
    }

    /// Counts a reload of settings, applied (`taken`) or refused.
    pub(crate) fn config_reload(&self, taken: bool) {
        if taken { &self.reloads_taken } else { &self.reloads_refused }.inc();
        self.config_current.set(taken.into());
    }

    /// Returns the reloads since the start: applied, refused.
    #[must_use]
    pub(crate) fn reloads(&self) -> (u64, u64) {
        (self.reloads_taken.get(), self.reloads_refused.get())
    }

    /// Sets the number of log lines lost since the start.
    pub(crate) fn lines_lost(&self, lost: u64) {
        self.lines_lost.inc_by(lost.saturating_sub(self.lines_lost.get()));
    }

    /// Encodes everything as Prometheus text, with the state in `view`.
    #[must_use]
    pub fn encode(&self, view: &GatewayView) -> String {
        let families = self.registry.gather();
        let mut text = prometheus::TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
            tracing::error!(%error, "the metrics cannot be encoded");
            String::new()
        });
        reading::write(view, &mut text);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Creates and registers metrics. Names and labels are constants here, so only a mistake in this
/// module can make it fail: the first test that creates [`Metrics`] finds it.
struct Maker<'a> {
    registry: &'a Registry,
    made: &'a Mutex<Vec<Described>>,
}

#[expect(
    clippy::expect_used,
    reason = "names and labels are constants of this module; a test makes them all"
)]
fn fixed<T>(result: prometheus::Result<T>) -> T {
    result.expect("a constant name, label and bucket list")
}

impl Maker<'_> {
    fn keep<T: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<T>) -> T {
        let made = fixed(made);
        fixed(self.registry.register(Box::new(made.clone())));
        made
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.keep(IntCounter::with_opts(self.opts(name, help, MetricKind::Counter, &[])))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.keep(IntCounterVec::new(self.opts(name, help, MetricKind::Counter, labels), labels))
    }

    fn count(&self, name: &str, help: &str) -> IntGauge {
        self.keep(IntGauge::with_opts(self.opts(name, help, MetricKind::Gauge, &[])))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.keep(Histogram::with_opts(self.observed(name, help, &[], buckets)))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.keep(HistogramVec::new(self.observed(name, help, labels, buckets), labels))
    }

    fn observed(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramOpts {
        self.describe(name, help, MetricKind::Histogram, labels, buckets);
        HistogramOpts::new(name, help).namespace(NAMESPACE).buckets(buckets.to_vec())
    }

    fn opts(&self, name: &str, help: &str, kind: MetricKind, labels: &[&str]) -> Opts {
        self.describe(name, help, kind, labels, &[]);
        Opts::new(name, help).namespace(NAMESPACE)
    }

    fn describe(&self, name: &str, help: &str, kind: MetricKind, labels: &[&str], buckets: &[f64]) {
        self.made.lock().push(Described {
            name: name.to_owned(),
            kind,
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
            help: help.to_owned(),
            buckets: buckets.to_vec(),
        });
    }
}

#[cfg(test)]
mod tests;
