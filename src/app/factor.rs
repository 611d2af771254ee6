//! Measures how well the workers of each pool scale together, against the configured factor.
//!
//! Runs once a second on gate snapshots, off the request path. **Failure mode.** A measurement
//! holds for one set of settings and number of gateways: if either changes, it starts over. A
//! reload that changes only the configured factor does not reset it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::App;
use crate::clock::Nanos;
use crate::fleet::scaling::{KneeSample, Scaling};
use crate::shed::settings::GateSettings;
use crate::view::FactorView;

#[derive(Debug, Default)]
pub(super) struct Factors {
    measured_with: Option<(GateSettings, u32)>,
    pools: BTreeMap<Arc<str>, Scaling>,
}

impl App {
    /// Measures each pool. Call once a second.
    pub(super) fn measure_factors(&self, now: Nanos) {
        let gate = self.0.live.load().settings.gate.clone();
        let configured = gate.fleet_factor;
        // Without the factor: an operator who tries another one wants to keep the measurement.
        let under = Some((GateSettings { fleet_factor: 1.0, ..gate }, self.gateways()));
        let gates = self.gates();
        let mut factors = self.0.factors.lock();
        if factors.measured_with != under {
            *factors = Factors { measured_with: under, ..Factors::default() };
        }
        factors.pools.retain(|name, _| gates.iter().any(|(pool, _)| pool == name));
        for (pool, gate) in gates {
            let scaling = factors.pools.entry(Arc::clone(&pool)).or_default();
            scaling.look(KneeSample::at(&gate), now);
            if let Some(measured) = scaling.warning_due(configured) {
                tracing::warn!(
                    %pool,
                    configured,
                    measured = measured.factor,
                    workers = %json!(measured.sizes),
                    "concurrency.fleet_factor differs from the measured factor"
                );
            }
        }
    }

    /// Returns the factor of `pool`; `None` until it is measured.
    pub(super) fn fleet_factor(&self, pool: &str) -> Option<FactorView> {
        let configured = self.0.live.load().settings.gate.fleet_factor;
        let measured = self.0.factors.lock().pools.get(pool).and_then(Scaling::measured)?;
        Some(FactorView { configured, measured: measured.factor, workers: measured.sizes })
    }
}
