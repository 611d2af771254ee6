//! Gauges of current state, read at each scrape.
//!
//! A [`StateReading`] is written directly as text. With gauges of the `prometheus` crate, each of a
//! thousand workers would need a lookup by labels, a set, a collect, a sort and a print at every
//! scrape.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use super::NAMESPACE;
use super::described::{Described, MetricKind};
use super::label::{LABEL_VALUES, OTHER};
use crate::fleet::Light;
use crate::request::Class;

/// Current state of one worker.
#[derive(Clone, Debug)]
pub struct WorkerReading {
    /// Id.
    pub id: Arc<str>,
    /// Blue/green side.
    pub colour: Arc<str>,
    /// Health.
    pub light: Light,
    /// `true` while ejected because it fails where others succeed, or on probation after that.
    pub ejected: bool,
    /// Maximum sequences in flight, and those in flight; `None` for a worker of a queue, which its
    /// side counts.
    pub load: Option<(f64, u64)>,
    /// Used share of its KV cache, 0…1, from its heartbeat.
    pub kv_used: Option<f64>,
    /// Age of its last heartbeat.
    pub heartbeat_age: Option<Duration>,
    /// Heartbeat intervals that have passed since its last heartbeat; `None` if none is due.
    pub heartbeats_missed: Option<f64>,
    /// What its provider's limits leave, in requests and tokens; `None` without a limit.
    pub provider_left: [Option<u64>; UNITS.len()],
    /// Time for which its provider is sent nothing; `None` if it is not external.
    pub provider_closed: Option<Duration>,
}

/// State of a gateway at one moment. Only contents are shown: a worker that left keeps no series.
#[derive(Clone, Debug, Default)]
pub struct StateReading {
    /// Connections open on the main listener.
    pub connections: u64,
    /// Requests waiting for a permit, by `Class as usize`.
    pub queue_depth: [u64; Class::ALL.len()],
    /// Keys in memory, by rule.
    pub limiter_keys: Vec<(Arc<str>, u64)>,
    /// The workers.
    pub workers: Vec<WorkerReading>,
    /// Requests that each pool has but cannot start, for an autoscaler.
    pub demand_waiting: Vec<(Arc<str>, u64)>,
    /// Asynchronous jobs of each pool that wait in Redis.
    pub jobs_waiting: Vec<(Arc<str>, u64)>,
    /// Wait of the oldest of those that may start.
    pub jobs_oldest: Vec<(Arc<str>, Duration)>,
    /// Processes that take jobs of each pool's queue which are not theirs.
    pub queue_strangers: Vec<(Arc<str>, u64)>,
    /// Number of versions of each colour of each pool's queue: pool, colour, versions.
    pub versions: Vec<(Arc<str>, Arc<str>, u64)>,
    /// Maximum total sequences of each pool's workers, if known.
    pub fleet_ceiling: Vec<(Arc<str>, f64)>,
    /// Scaling factor of each measured pool: configured, measured.
    pub fleet_factor: Vec<(Arc<str>, [f64; 2])>,
    /// Cached share of each pool's recent prompts, 0…1: estimated, reported.
    pub prefix_hits: Vec<(Arc<str>, [Option<f64>; 2])>,
    /// Redis reachable; `None` if Redis is not configured.
    pub redis_works: Option<bool>,
}

/// A gauge written as text. Labels are in alphabetical order.
struct StateGauge<const N: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; N],
}

const CONNECTIONS: StateGauge<0> = StateGauge { name: "connections", help: "Open connections.", labels: [] };
const QUEUE_DEPTH: StateGauge<1> =
    StateGauge { name: "queue_depth", help: "Requests waiting for a permit.", labels: ["class"] };
const LIMITER_KEYS: StateGauge<1> =
    StateGauge { name: "limiter_keys", help: "Keys of a rule in memory.", labels: ["rule"] };
const CONCURRENCY_LIMIT: StateGauge<1> = StateGauge {
    name: "concurrency_limit",
    help: "Maximum sequences in flight of a worker.",
    labels: ["worker"],
};
const FLEET_CEILING: StateGauge<1> = StateGauge {
    name: "fleet_ceiling",
    help: "Maximum total sequences of a pool's workers; absent if no worker's size is configured or reported.",
    labels: ["pool"],
};
const FLEET_FACTOR: StateGauge<2> = StateGauge {
    name: "fleet_factor",
    help: "Throughput of a pool's workers relative to the sum of each alone; absent until measured.",
    labels: ["kind", "pool"],
};
/// Values of the label `kind`.
pub(super) const FACTOR_KINDS: [&str; 2] = ["configured", "measured"];
const PREFIX_HIT_RATIO: StateGauge<2> = StateGauge {
    name: "prefix_hit_ratio",
    help: "Cached share of the prompt tokens of a pool's last few hundred requests with a prefix; reported: only of those whose worker reports it.",
    labels: ["pool", "source"],
};
/// Values of the label `source`.
pub(super) const HIT_SOURCES: [&str; 2] = ["estimated", "reported"];
const WORKER_LIGHT: StateGauge<2> = StateGauge {
    name: "worker_light",
    help: "Health of a worker: 2 green, 1 yellow, 0 red; the label colour is its blue/green colour.",
    labels: ["colour", "worker"],
};
const WORKER_EJECTED: StateGauge<1> = StateGauge {
    name: "worker_ejected",
    help: "1 while a worker is ejected because it fails where others succeed, until a request succeeds there.",
    labels: ["worker"],
};
const WORKER_IN_FLIGHT: StateGauge<1> = StateGauge {
    name: "worker_in_flight",
    help: "Current sequences in flight of a worker.",
    labels: ["worker"],
};
const DEMAND_WAITING: StateGauge<1> = StateGauge {
    name: "demand_waiting",
    help: "Requests that a pool cannot start: those that wait, callers refused for lack of room in the last 10 s, and this gateway's share of the jobs that wait. Scale on the sum over the gateways.",
    labels: ["pool"],
};
const JOBS_WAITING: StateGauge<1> = StateGauge {
    name: "jobs_waiting",
    help: "Asynchronous jobs that wait in Redis. Every gateway reads the same: use the maximum over the gateways.",
    labels: ["pool"],
};
const JOBS_OLDEST: StateGauge<1> = StateGauge {
    name: "jobs_oldest_seconds",
    help: "Wait of the oldest asynchronous job that may start; 0 without one. Every gateway reads the same: use the maximum.",
    labels: ["pool"],
};
const QUEUE_STRANGERS: StateGauge<1> = StateGauge {
    name: "queue_strangers",
    help: "Processes that take jobs of a pool without being workers of that colour or version; the page names them.",
    labels: ["pool"],
};
const VERSIONS: StateGauge<2> = StateGauge {
    name: "versions",
    help: "Versions among the queue workers of a colour; more than 1 share its jobs.",
    labels: ["colour", "pool"],
};
const WORKER_KV_USED: StateGauge<1> = StateGauge {
    name: "worker_kv_used",
    help: "Used share of a worker's KV cache, as reported by the worker.",
    labels: ["worker"],
};
const WORKER_HEARTBEAT_AGE: StateGauge<1> = StateGauge {
    name: "worker_heartbeat_age_seconds",
    help: "Age of a worker's last heartbeat, not counting outages of Redis.",
    labels: ["worker"],
};
const WORKER_HEARTBEATS_MISSED: StateGauge<1> = StateGauge {
    name: "worker_heartbeats_missed",
    help: "Heartbeat intervals since a worker's last heartbeat; above 3 it is red. Absent after the worker announced that it leaves.",
    labels: ["worker"],
};
const PROVIDER_LEFT: StateGauge<2> = StateGauge {
    name: "provider_remaining",
    help: "Requests and tokens that the limits of an external worker's provider leave now.",
    labels: ["unit", "worker"],
};
/// Values of the label `unit`.
pub(super) const UNITS: [&str; 2] = ["requests", "tokens"];
const PROVIDER_CLOSED: StateGauge<1> = StateGauge {
    name: "provider_closed_seconds",
    help: "Time for which an external worker gets no requests, because its provider asked for it.",
    labels: ["worker"],
};
const REDIS_UP: StateGauge<0> = StateGauge {
    name: "redis_up",
    help: "1 if Redis is reachable, otherwise 0; absent if Redis is not configured.",
    labels: [],
};

/// Returns all of them for the documentation.
pub(super) fn described() -> Vec<Described> {
    vec![
        CONNECTIONS.described(),
        QUEUE_DEPTH.described(),
        LIMITER_KEYS.described(),
        CONCURRENCY_LIMIT.described(),
        FLEET_CEILING.described(),
        FLEET_FACTOR.described(),
        PREFIX_HIT_RATIO.described(),
        WORKER_LIGHT.described(),
        WORKER_EJECTED.described(),
        WORKER_IN_FLIGHT.described(),
        DEMAND_WAITING.described(),
        JOBS_WAITING.described(),
        JOBS_OLDEST.described(),
        QUEUE_STRANGERS.described(),
        VERSIONS.described(),
        WORKER_KV_USED.described(),
        WORKER_HEARTBEAT_AGE.described(),
        WORKER_HEARTBEATS_MISSED.described(),
        PROVIDER_LEFT.described(),
        PROVIDER_CLOSED.described(),
        REDIS_UP.described(),
    ]
}

/// Appends the gauges to the text of a scrape.
pub(super) fn write(reading: &StateReading, out: &mut String) {
    let workers = &reading.workers;
    CONNECTIONS.write(out, [([], reading.connections as f64)]);
    let queue = Class::ALL.map(|class| {
        let depth = reading.queue_depth.get(class as usize).copied().unwrap_or_default();
        ([class.as_str()], depth as f64)
    });
    QUEUE_DEPTH.write(out, queue);
    LIMITER_KEYS.write_sums(out, reading.limiter_keys.iter().map(|(rule, keys)| (&**rule, *keys as f64)));
    DEMAND_WAITING.write_sums(out, reading.demand_waiting.iter().map(|(pool, n)| (&**pool, *n as f64)));
    FLEET_CEILING.write_sums(out, reading.fleet_ceiling.iter().map(|(pool, ceiling)| (&**pool, *ceiling)));
    JOBS_WAITING.write_sums(out, reading.jobs_waiting.iter().map(|(pool, n)| (&**pool, *n as f64)));
    let oldest = reading.jobs_oldest.iter().take(LABEL_VALUES);
    JOBS_OLDEST.write(out, oldest.map(|(pool, wait)| ([&**pool], wait.as_secs_f64())));
    QUEUE_STRANGERS.write_sums(out, reading.queue_strangers.iter().map(|(pool, n)| (&**pool, *n as f64)));
    let loads = || workers.iter().filter_map(|worker| Some((&*worker.id, worker.load?)));
    CONCURRENCY_LIMIT.write_sums(out, loads().map(|(id, (limit, _))| (id, limit)));
    WORKER_IN_FLIGHT.write_sums(out, loads().map(|(id, (_, in_flight))| (id, in_flight as f64)));
    // These cannot be summed: values beyond the bound are left out.
    let factors = reading.fleet_factor.iter().take(LABEL_VALUES).flat_map(|(pool, values)| {
        FACTOR_KINDS.into_iter().zip(values).map(move |(kind, value)| ([kind, &**pool], *value))
    });
    FLEET_FACTOR.write(out, factors);
    let versions = reading.versions.iter().take(LABEL_VALUES);
    VERSIONS.write(out, versions.map(|(pool, colour, count)| ([&**colour, &**pool], *count as f64)));
    let hits = reading.prefix_hits.iter().take(LABEL_VALUES).flat_map(|(pool, shares)| {
        let shares = HIT_SOURCES.into_iter().zip(shares);
        shares.filter_map(move |(source, share)| Some(([&**pool, source], (*share)?)))
    });
    PREFIX_HIT_RATIO.write(out, hits);
    let named = || workers.iter().take(LABEL_VALUES);
    let light = |worker: &WorkerReading| f64::from(worker.light as u8);
    WORKER_LIGHT.write(out, named().map(|worker| ([&*worker.colour, &*worker.id], light(worker))));
    let ejected = |worker: &WorkerReading| f64::from(u8::from(worker.ejected));
    WORKER_EJECTED.write(out, named().map(|worker| ([&*worker.id], ejected(worker))));
    WORKER_KV_USED.write(out, named().filter_map(|worker| Some(([&*worker.id], worker.kv_used?))));
    let age = |worker: &WorkerReading| worker.heartbeat_age.map(|age| age.as_secs_f64());
    WORKER_HEARTBEAT_AGE.write(out, named().filter_map(|worker| Some(([&*worker.id], age(worker)?))));
    let missed = |worker: &WorkerReading| worker.heartbeats_missed;
    WORKER_HEARTBEATS_MISSED.write(out, named().filter_map(|worker| Some(([&*worker.id], missed(worker)?))));
    let left = named().flat_map(|worker| {
        let left = UNITS.into_iter().zip(worker.provider_left);
        left.filter_map(|(unit, left)| Some(([unit, &*worker.id], left? as f64)))
    });
    PROVIDER_LEFT.write(out, left);
    let closed = |worker: &WorkerReading| worker.provider_closed.map(|closed| closed.as_secs_f64());
    PROVIDER_CLOSED.write(out, named().filter_map(|worker| Some(([&*worker.id], closed(worker)?))));
    REDIS_UP.write(out, reading.redis_works.map(|works| ([], f64::from(u8::from(works)))));
}

impl<const N: usize> StateGauge<N> {
    fn described(&self) -> Described {
        Described {
            name: self.name.to_owned(),
            kind: MetricKind::Gauge,
            labels: self.labels.map(str::to_owned).to_vec(),
            help: self.help.to_owned(),
            buckets: Vec::new(),
        }
    }

    fn write<'v>(&self, out: &mut String, values: impl IntoIterator<Item = ([&'v str; N], f64)>) {
        let name = self.name;
        for (index, (labels, value)) in values.into_iter().enumerate() {
            // Writing to a string cannot fail.
            if index == 0 {
                let help = self.help;
                write!(out, "# HELP {NAMESPACE}_{name} {help}\n# TYPE {NAMESPACE}_{name} gauge\n")
                    .unwrap_or_default();
            }
            write!(out, "{NAMESPACE}_{name}").unwrap_or_default();
            for (place, (label, text)) in self.labels.iter().zip(labels).enumerate() {
                out.push(if place == 0 { '{' } else { ',' });
                out.push_str(label);
                out.push_str("=\"");
                escape(out, text);
                out.push('"');
            }
            out.push_str(if N > 0 { "} " } else { " " });
            writeln!(out, "{value}").unwrap_or_default();
        }
    }
}

impl StateGauge<1> {
    /// Writes the values; those beyond the bound are summed as `other`.
    fn write_sums<'v>(&self, out: &mut String, mut values: impl Iterator<Item = (&'v str, f64)>) {
        let mut named: Vec<_> =
            values.by_ref().take(LABEL_VALUES).map(|(name, value)| ([name], value)).collect();
        let rest = values.map(|(_, value)| value).reduce(|sum, value| sum + value);
        named.extend(rest.map(|rest| ([OTHER], rest)));
        self.write(out, named);
    }
}

/// Escapes a label value for the text format.
fn escape(out: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            letter => out.push(letter),
        }
    }
}
