//! Measures how well the workers of each pool work together, beside what is configured.
//!
//! Once a second, from the gates' pictures; nothing of it is on a request's way. **Failure mode.** What is measured
//! under one set of settings or with one number of gateways says nothing under another, so a change of either begins
//! anew; a reload that changes nothing else may change the configured factor.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::App;
use crate::clock::Nanos;
use crate::fleet::scaling::{Look, Scaling};
use crate::shed::settings::GateSettings;

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Factors {
    /// The settings and the number of gateways that it was measured with.
    under: Option<(GateSettings, u32)>,
    pools: BTreeMap<Arc<str>, Scaling>,
}

impl App {
    /// Looks at each pool. To be called once a second.
    pub(super) fn measure_factors(&self, now: Nanos) {
        let gate = self.0.live.load().settings.gate.clone();
        let configured = gate.fleet_factor;
        // Whoever tries another factor wants to see what the same workers do with it.
        let under = Some((GateSettings { fleet_factor: 1.0, ..gate }, self.dams()));
        let gates = self.gates();
        let mut factors = self.0.factors.lock();
        if factors.under != under {
            *factors = Factors { under, ..Factors::default() };
        }
        factors.pools.retain(|name, _| gates.iter().any(|(pool, _)| pool == name));
        for (pool, gate) in gates {
            let scaling = factors.pools.entry(Arc::clone(&pool)).or_default();
            scaling.look(Look::at(&gate), now);
            if let Some(measured) = scaling.misfit(configured) {
                tracing::warn!(
                    %pool,
                    configured,
                    measured = measured.factor,
                    workers = %json!(measured.sizes),
                    "concurrency.fleet_factor is not what the workers do together"
                );
            }
        }
    }

    /// The factor of `pool`, for people; null until it was measured.
    pub(super) fn fleet_factor(&self, pool: &str) -> Value {
        let configured = self.0.live.load().settings.gate.fleet_factor;
        let measured = self.0.factors.lock().pools.get(pool).and_then(Scaling::measured);
        measured.map_or(Value::Null, |measured| {
            json!({ "configured": configured, "measured": measured.factor, "workers": measured.sizes })
        })
    }

    /// The factors that were measured, each after the configured one.
    pub(super) fn fleet_factors(&self) -> Vec<(Arc<str>, [f64; 2])> {
        let configured = self.0.live.load().settings.gate.fleet_factor;
        let factors = self.0.factors.lock();
        let factor = |(pool, scaling): (&Arc<str>, &Scaling)| {
            Some((Arc::clone(pool), [configured, scaling.measured()?.factor]))
        };
        factors.pools.iter().filter_map(factor).collect()
    }
}
