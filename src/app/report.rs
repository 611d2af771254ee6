//! What the admin port shows.

use std::sync::Arc;

use serde_json::{Value, json};

use super::App;
use crate::fleet::Worker;
use crate::metrics::{Light, Reading, WorkerReading};
use crate::redis::callers::StoredCallers;
use crate::request::Class;
use crate::server::admin::{AdminSource, Explanation};
use crate::shed::{GateSnapshot, WorkerSnapshot};

/// The light of a worker, from what the gate knows of it.
const fn light(worker: &WorkerSnapshot) -> Light {
    if !worker.eligible || worker.leaving || !worker.reachable {
        Light::Red
    } else if worker.in_flight >= worker.limit {
        Light::Yellow
    } else {
        Light::Green
    }
}

const fn light_name(light: Light) -> &'static str {
    match light {
        Light::Red => "red",
        Light::Yellow => "yellow",
        Light::Green => "green",
    }
}

impl App {
    fn gates(&self) -> Vec<(Arc<str>, GateSnapshot)> {
        let fleet = self.0.fleet.load();
        fleet.pools().iter().map(|pool| (Arc::clone(&pool.name), pool.gate.snapshot())).collect()
    }

    fn colour_of(&self, id: &str) -> Arc<str> {
        self.0
            .fleet
            .load()
            .worker(id)
            .map_or_else(Arc::default, |worker: &Arc<Worker>| Arc::clone(&worker.spec.colour))
    }

    fn reading(&self) -> Reading {
        let gates = self.gates();
        let live = self.0.live.load();
        let mut queue_depth = [0; Class::ALL.len()];
        for (_, gate) in &gates {
            for (depth, waiting) in queue_depth.iter_mut().zip(gate.queue) {
                *depth += waiting as u64;
            }
        }
        let rules = live.ladder.rules();
        Reading {
            connections: self.0.drain.connections() as u64,
            queue_depth,
            limiter_keys: live
                .ladder
                .keys()
                .filter_map(|(rule, keys)| Some((Arc::clone(&rules.get(rule)?.name), keys as u64)))
                .collect(),
            demand_waiting: gates
                .iter()
                .map(|(pool, gate)| (Arc::clone(pool), gate.queue.iter().sum::<usize>() as u64))
                .collect(),
            workers: gates
                .iter()
                .flat_map(|(_, gate)| &gate.workers)
                .map(|worker| WorkerReading {
                    id: Arc::clone(&worker.id),
                    colour: self.colour_of(&worker.id),
                    light: light(worker),
                    limit: f64::from(worker.limit),
                    in_flight: u64::from(worker.in_flight),
                })
                .collect(),
        }
    }
}

impl AdminSource for App {
    fn state(&self) -> Value {
        let live = self.0.live.load();
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
                            "light": light_name(light(worker)),
                            "in_flight": worker.in_flight,
                            "limit": worker.limit,
                            "tokens": worker.tokens,
                            "kv_tokens": worker.kv_tokens,
                            "leaving": worker.leaving,
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
                    "in_flight": gate.in_flight(),
                    "queue": queue,
                    "queue_bytes": gate.queue_bytes,
                    "workers": workers,
                })
            })
            .collect();
        let rules: Vec<Value> = live
            .ladder
            .keys()
            .filter_map(|(rule, keys)| {
                let rule = live.ladder.rules().get(rule)?;
                Some(json!({ "name": rule.name, "unit": rule.unit.as_str(), "keys": keys }))
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "phase": format!("{:?}", self.0.drain.phase()).to_lowercase(),
            "maintenance": self.0.door.in_maintenance(),
            "connections": self.0.drain.connections(),
            "buffered_bytes": self.0.buffers.used(),
            "pools": pools,
            "rules": rules,
            "dams": self.0.together.as_ref().map_or(live.settings.dams, |together| together.store.dams().count()),
        })
    }

    fn ready(&self) -> Result<(), String> {
        if !self.0.drain.is_ready() {
            return Err("the gateway is going down".to_owned());
        }
        if AdminSource::callers(self).is_some_and(|callers| !callers.is_read()) {
            return Err("the callers in Redis were not read yet".to_owned());
        }
        if self.0.fleet.load().workers().iter().any(|worker| worker.eligible) {
            Ok(())
        } else {
            Err("no worker may take work".to_owned())
        }
    }

    fn metrics(&self) -> String {
        self.0.metrics.encode(&self.reading())
    }

    fn set_maintenance(&self, on: bool) {
        self.0.door.set_maintenance(on);
    }

    fn explain(&self, query: String) -> Explanation {
        let app = self.clone();
        Box::pin(async move { app.explained(query).await })
    }

    fn callers(&self) -> Option<Arc<StoredCallers>> {
        self.0.together.as_ref()?.callers.clone()
    }
}
