//! Data for the admin port.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::App;
use super::promote::Backlog;
use crate::clock::unix_millis;
use crate::fleet::registry::{QueueMember, WorkerReport};
use crate::fleet::{FleetWorker, Light};
use crate::limit::rule::Rule;
use crate::metrics::{StateReading, WorkerReading};
use crate::redis::callers::StoredCallers;
use crate::redis::jobs::JobQueue;
use crate::request::Class;
use crate::server::admin::live::Live as Shown;
use crate::server::admin::{AdminSource, Changed, Explanation, LimitChange, Switched};
use crate::shed::{GateSnapshot, ProviderLevel, WorkerSnapshot, WorkerTrouble};

/// Light of a worker: the worse of the gate's view and its report, even if its colour is not
/// active. Without a report, an ineligible worker is red.
pub(super) fn light(worker: &WorkerSnapshot, report: Option<&WorkerReport>) -> Light {
    let seen = if worker.leaving || worker.trouble.is_some() || !worker.reachable {
        Light::Red
    } else if worker.in_flight >= worker.limit || worker.provider.is_some_and(|level| level.is_used_up()) {
        Light::Yellow
    } else {
        Light::Green
    };
    match report {
        Some(report) => seen.min(report.light),
        None if !worker.eligible => Light::Red,
        None => seen,
    }
}

/// Latest report of a worker as JSON.
fn said(report: &WorkerReport) -> Value {
    let beat = &report.beat;
    json!({
        "state": beat.state.as_str(),
        "age_ms": u64::try_from(report.age.as_millis()).unwrap_or(u64::MAX),
        "at_ms": beat.at_ms,
        "version": beat.version,
        "slots": beat.slots,
        "running": beat.running,
        "waiting": beat.waiting,
        "kv_used": beat.kv_used,
        "ttft_p90_ms": beat.ttft_p90.map(|length| length.as_secs_f64() * 1000.0),
        "itl_p90_ms": beat.itl_p90.map(|length| length.as_secs_f64() * 1000.0),
        "checks": beat.checks,
    })
}

/// Converts one worker of a queue for the metrics. What it has in flight its side counts.
fn member_reading(member: QueueMember) -> WorkerReading {
    let report = member.report;
    WorkerReading {
        id: Arc::clone(&report.beat.worker),
        colour: member.side,
        light: report.light,
        ejected: false,
        load: None,
        kv_used: report.beat.kv_used,
        heartbeat_age: Some(report.age),
        heartbeats_missed: report.intervals_since(),
        provider_left: [None; 2],
        provider_closed: None,
    }
}

/// What a provider's limits leave as JSON.
fn left(level: ProviderLevel) -> Value {
    json!({
        "requests": level.requests,
        "tokens": level.tokens,
        "closed_ms": u64::try_from(level.closed_for.as_millis()).unwrap_or(u64::MAX),
    })
}

impl App {
    pub(super) fn gates(&self) -> Vec<(Arc<str>, GateSnapshot)> {
        let fleet = self.0.fleet.load();
        fleet.pools().iter().map(|pool| (Arc::clone(&pool.name), pool.gate.snapshot())).collect()
    }

    pub(super) fn colour_of(&self, id: &str) -> Arc<str> {
        self.0
            .fleet
            .load()
            .worker(id)
            .map_or_else(Arc::default, |worker: &Arc<FleetWorker>| Arc::clone(&worker.spec.colour))
    }

    /// Number of gateways that share quotas or workers, as far as known.
    pub(super) fn gateways(&self) -> u32 {
        let told = self.0.live.load().settings.gateways;
        self.0.together.as_ref().map_or(told, |together| together.store.gateways().count())
    }

    /// Returns the number of strangers of each pool whose workers take from a queue.
    fn stranger_counts(&self) -> Vec<(Arc<str>, u64)> {
        let Some(jobs) = self.queue() else { return Vec::new() };
        let (fleet, now) = (self.0.fleet.load(), self.0.clock.now());
        let strangers = jobs.strangers().lock();
        let count = |pool: &Arc<str>| (Arc::clone(pool), strangers.of(pool, now).len() as u64);
        fleet.pools().iter().map(|pool| count(&pool.name)).collect()
    }

    /// Returns the requests of `pool` that have no worker yet: those that wait here, the callers that
    /// were refused for lack of room, and this gateway's share of the jobs that may start.
    fn demand(&self, pool: &Arc<str>, gate: &GateSnapshot, backlog: &BTreeMap<Arc<str>, Backlog>) -> u64 {
        let jobs = backlog.get(pool).map_or(0, |backlog| backlog.due);
        let unserved = self.0.unserved.count(pool, self.0.clock.now());
        let waiting = gate.queue.iter().sum::<usize>() as u64;
        waiting + unserved + jobs.div_ceil(u64::from(self.gateways().max(1)))
    }

    fn reading(&self) -> StateReading {
        let gates = self.gates();
        let live = self.0.live.load();
        let backlog = self.0.backlog.lock().clone();
        let reports = self.0.fleet_sync.reports();
        let (members, versions) = {
            let registry = self.0.fleet_sync.registry.lock();
            (registry.queue_members(), registry.versions())
        };
        let mut queue_depth = [0; Class::ALL.len()];
        for (_, gate) in &gates {
            for (depth, waiting) in queue_depth.iter_mut().zip(gate.queue) {
                *depth += waiting as u64;
            }
        }
        let rules = live.rule_set.rules();
        StateReading {
            connections: self.0.drain.connections() as u64,
            queue_depth,
            limiter_keys: live
                .rule_set
                .keys()
                .filter_map(|(rule, keys)| Some((Arc::clone(&rules.get(rule)?.name), keys as u64)))
                .collect(),
            demand_waiting: gates
                .iter()
                .map(|(pool, gate)| (Arc::clone(pool), self.demand(pool, gate, &backlog)))
                .collect(),
            jobs_waiting: backlog.iter().map(|(pool, jobs)| (Arc::clone(pool), jobs.waiting)).collect(),
            jobs_oldest: backlog
                .iter()
                .map(|(pool, jobs)| {
                    let age = jobs.since_ms.map_or(0, |since| unix_millis().saturating_sub(since));
                    (Arc::clone(pool), Duration::from_millis(age))
                })
                .collect(),
            fleet_ceiling: gates
                .iter()
                .filter_map(|(pool, gate)| Some((Arc::clone(pool), gate.ceiling?)))
                .collect(),
            fleet_factor: self.fleet_factors(),
            prefix_hits: gates
                .iter()
                .map(|(pool, gate)| (Arc::clone(pool), [gate.cached.estimated, gate.cached.reported]))
                .collect(),
            workers: gates
                .iter()
                .flat_map(|(_, gate)| &gate.workers)
                .map(|worker| {
                    let report = reports.get(&worker.id);
                    WorkerReading {
                        id: Arc::clone(&worker.id),
                        colour: self.colour_of(&worker.id),
                        light: light(worker, report),
                        ejected: worker.trouble == Some(WorkerTrouble::Ejected),
                        load: Some((f64::from(worker.limit), u64::from(worker.in_flight))),
                        kv_used: report.and_then(|report| report.beat.kv_used),
                        heartbeat_age: report.map(|report| report.age),
                        heartbeats_missed: report.and_then(WorkerReport::intervals_since),
                        provider_left: worker
                            .provider
                            .map_or([None; 2], |level| [level.requests, level.tokens]),
                        provider_closed: worker.provider.map(|level| level.closed_for),
                    }
                })
                .chain(members.into_iter().map(member_reading))
                .collect(),
            queue_strangers: self.stranger_counts(),
            versions,
            redis_works: self.redis_works(),
        }
    }
}

impl AdminSource for App {
    fn state(&self) -> Value {
        let live = self.0.live.load();
        let reports = self.0.fleet_sync.reports();
        let members = self.0.fleet_sync.registry.lock().queue_members();
        let now = self.0.clock.now();
        let colours = self.0.fleet_sync.colours(&live.settings);
        let pools: Vec<Value> = self
            .gates()
            .iter()
            .map(|(pool, gate)| {
                let workers: Vec<Value> = gate
                    .workers
                    .iter()
                    .map(|worker| {
                        json!({
                            "id": worker.id,
                            "colour": self.colour_of(&worker.id),
                            "light": light(worker, reports.get(&worker.id)),
                            "trouble": worker.trouble.map(WorkerTrouble::as_str),
                            "eligible": worker.eligible,
                            "weight": worker.weight,
                            "in_flight": worker.in_flight,
                            "limit": worker.limit,
                            "tokens": worker.tokens,
                            "kv_tokens": worker.kv_tokens,
                            "leaving": worker.leaving,
                            "provider": worker.provider.map(left),
                            "said": reports.get(&worker.id).map(said),
                            "members": members
                                .iter()
                                .filter(|member| member.side_id == worker.id)
                                .map(|member| json!({
                                    "id": member.report.beat.worker,
                                    "light": member.report.light,
                                    "said": said(&member.report),
                                }))
                                .collect::<Vec<_>>(),
                        })
                    })
                    .collect();
                let queue: serde_json::Map<String, Value> = Class::ALL
                    .iter()
                    .zip(gate.queue)
                    .map(|(class, waiting)| (class.to_string(), json!(waiting)))
                    .collect();
                json!({
                    "name": pool,
                    "active": colours.of(pool),
                    "in_flight": gate.in_flight(),
                    "fleet_factor": self.fleet_factor(pool),
                    "queue": queue,
                    "queue_bytes": gate.queue_bytes,
                    "prefix_hit_ratio": { "estimated": gate.cached.estimated, "reported": gate.cached.reported },
                    "workers": workers,
                    "strangers": self.strangers(pool, now),
                })
            })
            .collect();
        let rules: Vec<Value> = live
            .rule_set
            .keys()
            .filter_map(|(rule, keys)| {
                let rule = live.rule_set.rules().get(rule)?;
                Some(json!({ "name": rule.name, "unit": rule.unit.as_str(), "keys": keys }))
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "phase": format!("{:?}", self.0.drain.phase()).to_lowercase(),
            "maintenance": self.0.maintenance.in_maintenance(),
            "connections": self.0.drain.connections(),
            "buffered_bytes": self.0.buffers.used(),
            "heartbeats": self.feed_works().map(|works| if works { "heard" } else { "lost; keeping the last known fleet" }),
            "pools": pools,
            "rules": rules,
            "dams": self.gateways(),
        })
    }

    fn ready(&self) -> Result<(), String> {
        if !self.0.drain.is_ready() {
            return Err("the gateway is shutting down".to_owned());
        }
        if AdminSource::callers(self).is_some_and(|callers| !callers.is_read()) {
            return Err("the callers in Redis were not read yet".to_owned());
        }
        if self.0.key_source.borrow().as_ref().is_some_and(|source| !source.is_read()) {
            return Err("the keys that verify callers' tokens were not fetched yet".to_owned());
        }
        // With discovery, requests may wait for the first worker.
        let may_come = self.0.live.load().settings.discovery.is_some();
        if may_come || self.0.fleet.load().workers().iter().any(|worker| worker.eligible) {
            Ok(())
        } else {
            Err("no eligible worker".to_owned())
        }
    }

    fn metrics(&self) -> String {
        // Creates each pool's series before its first stream: alerts need an existing series.
        let fleet = self.0.fleet.load();
        for pool in fleet.pools() {
            drop(self.0.metrics.pool(&pool.name));
        }
        for worker in fleet.workers().iter().filter(|worker| worker.quota.is_some()) {
            drop(self.0.metrics.provider(&worker.spec.id));
        }
        self.0.metrics.encode(&self.reading())
    }

    fn set_maintenance(&self, on: bool) {
        self.0.maintenance.set_maintenance(on);
    }

    fn set_active(
        &self,
        pool: String,
        colour: String,
        version: Option<String>,
    ) -> Pin<Box<dyn Future<Output = Switched> + Send>> {
        let app = self.clone();
        Box::pin(async move { app.switch(&pool, &colour, version.as_deref()).await })
    }

    fn explain(&self, query: String) -> Explanation {
        let app = self.clone();
        Box::pin(async move { app.explained(query).await })
    }

    fn change_limit(
        &self,
        rule: String,
        change: Option<LimitChange>,
    ) -> Pin<Box<dyn Future<Output = Changed> + Send>> {
        Box::pin(self.clone().changed_limit(rule, change))
    }

    fn rules(&self) -> Vec<Arc<Rule>> {
        self.0.live.load().rule_set.rules().to_vec()
    }

    fn live(&self) -> Option<Arc<Shown>> {
        Some(Arc::clone(&self.0.shown))
    }

    fn jobs(&self) -> Option<(JobQueue, Vec<Arc<str>>)> {
        let jobs = self.0.together.as_ref()?.jobs.clone()?;
        let fleet = self.0.fleet.load();
        Some((jobs, fleet.pools().iter().map(|pool| Arc::clone(&pool.name)).collect()))
    }

    fn callers(&self) -> Option<Arc<StoredCallers>> {
        self.0.together.as_ref()?.callers.clone()
    }
}
