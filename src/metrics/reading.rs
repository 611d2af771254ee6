//! States, read when somebody scrapes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{Gauge, GaugeVec, Opts};

use super::label::{LABEL_VALUES, OTHER};
use super::{Maker, fixed};
use crate::request::Class;

/// How a worker is, as shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Light {
    /// It receives nothing.
    Red,
    /// It is doubtful.
    Yellow,
    /// It is well.
    Green,
}

/// One worker, as it is now.
#[derive(Clone, Debug)]
pub struct WorkerReading {
    /// Its id.
    pub id: Arc<str>,
    /// The blue/green side it is on.
    pub colour: Arc<str>,
    /// How it is.
    pub light: Light,
    /// Sequences it may have at once.
    pub limit: f64,
    /// Sequences it has.
    pub in_flight: u64,
    /// Share of its KV cache in use, as it says.
    pub kv_used: Option<f64>,
    /// How old its last heartbeat is.
    pub heartbeat_age: Option<Duration>,
}

/// The state of a gateway at one moment. What it does not name is not shown: a worker that went leaves no series.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Connections open on the main listener.
    pub connections: u64,
    /// Requests waiting for a permit, by `Class as usize`.
    pub queue_depth: [u64; Class::ALL.len()],
    /// Keys that each rule remembers.
    pub limiter_keys: Vec<(Arc<str>, u64)>,
    /// The workers.
    pub workers: Vec<WorkerReading>,
    /// Requests that each pool has and cannot start, for an autoscaler.
    pub demand_waiting: Vec<(Arc<str>, u64)>,
    /// Whether all that is used of Redis works; nothing when nothing is.
    pub redis_works: Option<bool>,
}

/// The gauges behind a [`Reading`].
#[derive(Debug)]
pub(super) struct Gauges {
    // Held from the first gauge set to the last encoded, so that two scrapes do not mix their readings.
    turn: Mutex<()>,
    connections: Gauge,
    queue_depth: GaugeVec,
    limiter_keys: GaugeVec,
    concurrency_limit: GaugeVec,
    worker_light: GaugeVec,
    worker_in_flight: GaugeVec,
    demand_waiting: GaugeVec,
    worker_kv_used: GaugeVec,
    worker_heartbeat_age: GaugeVec,
    redis_up: GaugeVec,
}

impl Gauges {
    pub(super) fn new(make: &Maker<'_>) -> Self {
        Self {
            turn: Mutex::new(()),
            connections: make.gauge(Opts::new("connections", "Connections open.")),
            queue_depth: make.gauges("queue_depth", "Requests waiting for a permit.", &["class"]),
            limiter_keys: make.gauges("limiter_keys", "Keys that a rule remembers.", &["rule"]),
            concurrency_limit: make.gauges(
                "concurrency_limit",
                "Sequences that a worker may have at once.",
                &["worker"],
            ),
            worker_light: make.gauges(
                "worker_light",
                "How a worker is: 2 green, 1 yellow, 0 red; colour is its blue/green side.",
                &["worker", "colour"],
            ),
            worker_in_flight: make.gauges("worker_in_flight", "Sequences that a worker has.", &["worker"]),
            demand_waiting: make.gauges(
                "demand_waiting",
                "Requests that a pool has and cannot start: what an autoscaler should follow.",
                &["pool"],
            ),
            worker_kv_used: make.gauges(
                "worker_kv_used",
                "Share of its KV cache that a worker uses, as it says.",
                &["worker"],
            ),
            worker_heartbeat_age: make.gauges(
                "worker_heartbeat_age_seconds",
                "How old a worker's last heartbeat is, outages of Redis not counted.",
                &["worker"],
            ),
            redis_up: make.gauges("redis_up", "Whether what is used of Redis works.", &[]),
        }
    }

    /// Sets every gauge to `reading`, and does `then` before another reading is set.
    pub(super) fn set_and<T>(&self, reading: &Reading, then: impl FnOnce() -> T) -> T {
        let _turn = self.turn.lock();
        self.connections.set(reading.connections as f64);
        for class in Class::ALL {
            let depth = reading.queue_depth.get(class as usize).copied().unwrap_or_default();
            fixed(self.queue_depth.get_metric_with_label_values(&[class.as_str()])).set(depth as f64);
        }
        show(&self.limiter_keys, reading.limiter_keys.iter().map(|(rule, keys)| (&**rule, *keys as f64)));
        show(
            &self.demand_waiting,
            reading.demand_waiting.iter().map(|(pool, waiting)| (&**pool, *waiting as f64)),
        );
        let workers = reading.workers.iter();
        show(&self.concurrency_limit, workers.clone().map(|worker| (&*worker.id, worker.limit)));
        show(&self.worker_in_flight, workers.clone().map(|worker| (&*worker.id, worker.in_flight as f64)));
        self.redis_up.reset();
        if let Some(works) = reading.redis_works {
            fixed(self.redis_up.get_metric_with_label_values::<&str>(&[])).set(f64::from(u8::from(works)));
        }
        // Neither can be added up; those beyond the bound are left out.
        let named = || workers.clone().take(LABEL_VALUES);
        show(&self.worker_kv_used, named().filter_map(|worker| Some((&*worker.id, worker.kv_used?))));
        let age = |worker: &'_ WorkerReading| worker.heartbeat_age.map(|age| age.as_secs_f64());
        show(&self.worker_heartbeat_age, named().filter_map(|worker| Some((&*worker.id, age(worker)?))));
        self.worker_light.reset();
        // A light is no quantity: those beyond the bound cannot be added up, and are left out.
        for worker in workers.take(LABEL_VALUES) {
            let light = self.worker_light.get_metric_with_label_values(&[&*worker.id, &*worker.colour]);
            fixed(light).set(f64::from(worker.light as u8));
        }
        then()
    }
}

/// Shows exactly these values; those beyond the bound are added up as `other`.
fn show<'a>(gauge: &GaugeVec, values: impl Iterator<Item = (&'a str, f64)>) {
    gauge.reset();
    for (index, (name, value)) in values.enumerate() {
        let name = if index < LABEL_VALUES { name } else { OTHER };
        fixed(gauge.get_metric_with_label_values(&[name])).add(value);
    }
}
