//! Data for the admin port.

use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;

use super::App;
use crate::limit::rule::Rule;
use crate::redis::callers::StoredCallers;
use crate::redis::jobs::JobQueue;
use crate::server::admin::live::Live as Shown;
use crate::server::admin::{AdminSource, Changed, Explanation, LimitChange, SwitchRequest, Switched};
use crate::view::CanaryView;

impl AdminSource for App {
    fn state(&self) -> Value {
        // Plain data with text keys always serializes.
        serde_json::to_value(self.view()).unwrap_or_default()
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
        if let Some(target) = self.0.fleet_sync.registry.lock().awaited_targets().first() {
            let (source, name) = (target.source.as_str(), &target.name);
            return Err(format!("discovery: {source} has not answered for `{name}` yet"));
        }
        // With discovery, requests may wait for the first worker.
        let may_come = self.0.live.load().settings.workers_may_join();
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
        self.0.metrics.encode(&self.view())
    }

    fn set_maintenance(&self, on: bool) {
        self.0.maintenance.set_maintenance(on);
    }

    fn set_active(&self, request: SwitchRequest) -> Pin<Box<dyn Future<Output = Switched> + Send>> {
        let app = self.clone();
        Box::pin(async move { app.switch(&request).await })
    }

    fn canary(&self, pool: &str) -> Option<CanaryView> {
        self.canary_view(pool)
    }

    fn attend_canary(&self, pool: &str, epoch: u64) -> Option<CanaryView> {
        self.attend(pool, epoch)
    }

    fn end_canary(&self, pool: String) -> Pin<Box<dyn Future<Output = Switched> + Send>> {
        let app = self.clone();
        Box::pin(async move { app.cancel_canary(&pool).await })
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
        let jobs = self.0.redis_parts.as_ref()?.jobs.clone()?;
        let fleet = self.0.fleet.load();
        Some((jobs, fleet.pools().iter().map(|pool| Arc::clone(&pool.name)).collect()))
    }

    fn callers(&self) -> Option<Arc<StoredCallers>> {
        self.0.redis_parts.as_ref()?.callers.clone()
    }
}
