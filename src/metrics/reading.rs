//! Gauges of current state, read at each scrape.
//!
//! A [`GatewayView`] is written directly as text. With gauges of the `prometheus` crate, each of a
//! thousand workers would need a lookup by labels, a set, a collect, a sort and a print at every
//! scrape. Only contents are shown: a worker that left keeps no series.

use std::fmt::Write;

use super::NAMESPACE;
use super::described::{Described, MetricKind};
use super::label::{LABEL_VALUES, OTHER};
use crate::request::Class;
use crate::view::{CanaryState, GatewayView, HeartbeatView, PoolView, WorkerView};

/// Values of the label `kind`.
pub(super) const FACTOR_KINDS: [&str; 2] = ["configured", "measured"];
/// Values of the label `source`.
pub(super) const HIT_SOURCES: [&str; 2] = ["estimated", "reported"];
/// Values of the label `unit`.
pub(super) const UNITS: [&str; 2] = ["requests", "tokens"];

/// Returns all gauges for the documentation.
pub(super) fn described() -> Vec<Described> {
    let mut gauges = StateGauges { out: &mut String::new(), described: Some(Vec::new()) };
    gauges.all(&GatewayView::default());
    gauges.described.unwrap_or_default()
}

/// Appends the gauges to the text of a scrape.
pub(super) fn write(view: &GatewayView, out: &mut String) {
    StateGauges { out, described: None }.all(view);
}

/// Writes gauges, and describes them if asked to.
struct StateGauges<'a> {
    out: &'a mut String,
    described: Option<Vec<Described>>,
}

impl StateGauges<'_> {
    fn all(&mut self, view: &GatewayView) {
        self.write("connections", "Open connections.", [], [([], view.connections as f64)]);
        let depth = |class: Class| {
            view.pools.iter().filter_map(move |pool| pool.queue.get(class.as_str())).sum::<u64>()
        };
        let queue = Class::ALL.map(|class| ([class.as_str()], depth(class) as f64));
        self.write("queue_depth", "Requests waiting for a permit.", ["class"], queue);
        let keys = view.rules.iter().map(|rule| (&*rule.name, rule.keys as f64));
        self.sums("limiter_keys", "Keys of a rule in memory.", "rule", keys);
        self.pools(&view.pools);
        let workers: Vec<&WorkerView> = view.pools.iter().flat_map(|pool| &pool.workers).collect();
        self.workers(&workers);
        self.write(
            "discovery_age_seconds",
            "Time since a discovery source last answered, for the one of its names or services for which that is longest. While it does not answer, its workers stay as they were.",
            ["source"],
            view.discovery.iter().map(|source| ([&*source.source], seconds(source.age_ms))),
        );
        let redis = view.redis.map(|works| ([], f64::from(u8::from(works))));
        self.write(
            "redis_up",
            "1 if Redis is reachable, otherwise 0; absent if Redis is not configured.",
            [],
            redis,
        );
    }

    fn pools(&mut self, pools: &[PoolView]) {
        let jobs = || pools.iter().filter_map(|pool| Some((&*pool.name, pool.jobs?)));
        self.sums(
            "demand_waiting",
            "Requests that a pool cannot start: those that wait, callers refused for lack of room in the last 10 s, and this gateway's share of the jobs that wait. Scale on the sum over the gateways.",
            "pool",
            pools.iter().map(|pool| (&*pool.name, pool.demand as f64)),
        );
        self.sums(
            "fleet_ceiling",
            "Maximum total sequences of a pool's workers; absent if no worker's size is configured or reported.",
            "pool",
            pools.iter().filter_map(|pool| Some((&*pool.name, pool.ceiling?))),
        );
        self.sums(
            "jobs_waiting",
            "Asynchronous jobs that wait in Redis. Every gateway reads the same: use the maximum over the gateways.",
            "pool",
            jobs().map(|(pool, jobs)| (pool, jobs.waiting as f64)),
        );
        self.sums(
            "queue_strangers",
            "Processes that take jobs of a pool without being workers of that colour or version; the page names them.",
            "pool",
            pools.iter().filter_map(|pool| Some((&*pool.name, pool.strangers.as_ref()?.len() as f64))),
        );
        // The others cannot be summed: values beyond the bound are left out.
        self.write(
            "jobs_oldest_seconds",
            "Wait of the oldest asynchronous job that may start; 0 without one. Every gateway reads the same: use the maximum.",
            ["pool"],
            jobs().take(LABEL_VALUES).map(|(pool, jobs)| ([pool], seconds(jobs.oldest_ms))),
        );
        let factors = pools.iter().filter_map(|pool| Some((&*pool.name, pool.fleet_factor.as_ref()?)));
        self.write(
            "fleet_factor",
            "Throughput of a pool's workers relative to the sum of each alone; absent until measured.",
            ["kind", "pool"],
            factors.take(LABEL_VALUES).flat_map(|(pool, factor)| {
                let values = FACTOR_KINDS.into_iter().zip([factor.configured, factor.measured]);
                values.map(move |(kind, value)| ([kind, pool], value))
            }),
        );
        let versions = pools
            .iter()
            .flat_map(|pool| pool.versions.iter().map(move |(colour, count)| (pool, colour, *count)));
        self.write(
            "versions",
            "Versions among the queue workers of a colour; more than 1 share its jobs.",
            ["colour", "pool"],
            versions.take(LABEL_VALUES).map(|(pool, colour, count)| ([&**colour, &*pool.name], count as f64)),
        );
        let canaries = pools.iter().filter_map(|pool| {
            let canary = pool.canary.as_ref().filter(|canary| canary.state == CanaryState::UnderWay)?;
            Some((pool, canary))
        });
        self.write(
            "canary_share",
            "Share of the pool's requests that goes to a colour on trial, 0 to 1; absent without a canary.",
            ["colour", "pool"],
            canaries.take(LABEL_VALUES).map(|(pool, canary)| ([&*canary.new, &*pool.name], canary.share)),
        );
        self.write(
            "prefix_hit_ratio",
            "Cached share of the prompt tokens of a pool's last few hundred requests with a prefix; reported: only of those whose worker reports it.",
            ["pool", "source"],
            pools.iter().take(LABEL_VALUES).flat_map(|pool| {
                let shares = [pool.prefix_hit_ratio.estimated, pool.prefix_hit_ratio.reported];
                let shares = HIT_SOURCES.into_iter().zip(shares);
                shares.filter_map(|(source, share)| Some(([&*pool.name, source], share?)))
            }),
        );
    }

    fn workers(&mut self, workers: &[&WorkerView]) {
        // What a worker of a queue has in flight its side counts.
        let loads = || workers.iter().filter(|worker| worker.member_of.is_none());
        self.sums(
            "concurrency_limit",
            "Maximum sequences in flight of a worker.",
            "worker",
            loads().map(|worker| (&*worker.id, f64::from(worker.limit))),
        );
        self.sums(
            "worker_in_flight",
            "Current sequences in flight of a worker.",
            "worker",
            loads().map(|worker| (&*worker.id, f64::from(worker.in_flight))),
        );
        let named = || workers.iter().take(LABEL_VALUES);
        self.write(
            "worker_light",
            "Health of a worker: 2 green, 1 yellow, 0 red; the label colour is its blue/green colour.",
            ["colour", "worker"],
            named().map(|worker| ([&*worker.colour, &*worker.id], f64::from(worker.light as u8))),
        );
        self.write(
            "worker_ejected",
            "1 while a worker is ejected because it fails where others succeed, until a request succeeds there.",
            ["worker"],
            named().map(|worker| ([&*worker.id], f64::from(u8::from(worker.ejected)))),
        );
        let mut said = |name, help, value: fn(&HeartbeatView) -> Option<f64>| {
            let values = named().filter_map(|worker| Some(([&*worker.id], value(worker.said.as_ref()?)?)));
            self.write(name, help, ["worker"], values);
        };
        said("worker_kv_used", "Used share of a worker's KV cache, as reported by the worker.", |said| {
            said.kv_used
        });
        said(
            "worker_heartbeat_age_seconds",
            "Age of a worker's last heartbeat, not counting outages of Redis.",
            |said| (!said.scraped).then(|| seconds(said.age_ms)),
        );
        said(
            "worker_heartbeats_missed",
            "Heartbeat intervals since a worker's last heartbeat; above 3 it is red. Absent after the worker announced that it leaves.",
            |said| said.missed,
        );
        let providers = || named().filter_map(|worker| Some((&*worker.id, worker.provider?)));
        self.write(
            "provider_remaining",
            "Requests and tokens that the limits of an external worker's provider leave now.",
            ["unit", "worker"],
            providers().flat_map(|(id, provider)| {
                let left = UNITS.into_iter().zip([provider.requests, provider.tokens]);
                left.filter_map(move |(unit, left)| Some(([unit, id], left? as f64)))
            }),
        );
        self.write(
            "provider_closed_seconds",
            "Time for which an external worker gets no requests, because its provider asked for it.",
            ["worker"],
            providers().map(|(id, provider)| ([id], seconds(provider.closed_ms))),
        );
    }

    /// Writes a gauge. Labels are in alphabetical order.
    fn write<'v, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        values: impl IntoIterator<Item = ([&'v str; N], f64)>,
    ) {
        if let Some(described) = &mut self.described {
            described.push(Described {
                name: name.to_owned(),
                kind: MetricKind::Gauge,
                labels: labels.map(str::to_owned).to_vec(),
                help: help.to_owned(),
                buckets: Vec::new(),
            });
        }
        let out = &mut *self.out;
        for (index, (values, value)) in values.into_iter().enumerate() {
            // Writing to a string cannot fail.
            if index == 0 {
                write!(out, "# HELP {NAMESPACE}_{name} {help}\n# TYPE {NAMESPACE}_{name} gauge\n")
                    .unwrap_or_default();
            }
            write!(out, "{NAMESPACE}_{name}").unwrap_or_default();
            for (place, (label, text)) in labels.iter().zip(values).enumerate() {
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

    /// Writes a gauge whose values beyond the bound of the label are summed as `other`.
    fn sums<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        mut values: impl Iterator<Item = (&'v str, f64)>,
    ) {
        let mut named: Vec<_> =
            values.by_ref().take(LABEL_VALUES).map(|(name, value)| ([name], value)).collect();
        let rest = values.map(|(_, value)| value).reduce(|sum, value| sum + value);
        named.extend(rest.map(|rest| ([OTHER], rest)));
        self.write(name, help, [label], named);
    }
}

fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
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
