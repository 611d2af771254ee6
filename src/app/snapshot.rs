//! Takes the state of the gateway: once a second for viewers, and whenever somebody asks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::App;
use super::promote::Backlog;
use super::sampler::RuleUse;
use super::why::why;
use crate::clock::{Nanos, unix_millis};
use crate::fleet::heartbeat::DesiredState;
use crate::fleet::registry::{QueueMember, WorkerReport};
use crate::fleet::strangers::Stranger;
use crate::fleet::{FleetWorker, Light};
use crate::limit::rule::{Mode, Rule};
use crate::metrics::TTFT_BUCKETS;
use crate::request::Class;
use crate::shed::{GateSnapshot, ProviderLevel, WorkerSnapshot, WorkerTrouble};
use crate::view::{
    GatewayView, HeartbeatView, IdleTtftView, JobsView, PoolView, ProviderView, RuleUseView, StrangerView,
    WorkerView,
};

/// Light of a worker: the worse of the gate's view and its report, even if its colour is not
/// active. Without a report, an ineligible worker is red.
fn light(worker: &WorkerSnapshot, report: Option<&WorkerReport>) -> Light {
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

fn said(report: &WorkerReport) -> HeartbeatView {
    let beat = &report.beat;
    HeartbeatView {
        state: beat.state.as_str().into(),
        age_ms: u64::try_from(report.age.as_millis()).unwrap_or(u64::MAX),
        missed: report.intervals_since().filter(|_| !report.scraped),
        scraped: report.scraped,
        at_ms: beat.at_ms,
        version: beat.version.clone(),
        slots: beat.slots,
        running: beat.running,
        waiting: beat.waiting,
        kv_used: beat.kv_used,
        ttft_p90_ms: beat.ttft_p90.map(|length| length.as_secs_f64() * 1000.0),
        itl_p90_ms: beat.itl_p90.map(|length| length.as_secs_f64() * 1000.0),
        checks: beat.checks.clone(),
    }
}

fn left(level: ProviderLevel) -> ProviderView {
    ProviderView {
        requests: level.requests,
        tokens: level.tokens,
        closed_ms: u64::try_from(level.closed_for.as_millis()).unwrap_or(u64::MAX),
    }
}

fn idle_ttft(&(prompt_tokens, ttft): &(u64, Duration)) -> IdleTtftView {
    IdleTtftView { prompt_tokens, ms: (ttft.as_secs_f64() * 1e4).round() / 10.0 }
}

/// Returns the line of one worker of a queue, whose side has the line `side`.
fn member(member: &QueueMember, side: &WorkerView) -> WorkerView {
    let (report, beat) = (&member.report, &member.report.beat);
    WorkerView {
        id: Arc::clone(&beat.worker),
        colour: Arc::clone(&member.side),
        light: report.light,
        why: report.reason().map(|(_, why)| why.into()),
        in_flight: beat.running.unwrap_or(0),
        limit: beat.slots.unwrap_or(0),
        weight: report.weight,
        eligible: side.eligible && !report.held,
        leaving: beat.state == DesiredState::Draining,
        said: Some(said(report)),
        member_of: Some(Arc::clone(&side.id)),
        ..WorkerView::default()
    }
}

impl App {
    pub(super) fn view(&self) -> GatewayView {
        let inner = &*self.0;
        // Not within the value below, where the lock would be held while the rules take it again.
        let callers = inner.second.lock().callers.clone();
        GatewayView {
            version: env!("CARGO_PKG_VERSION").into(),
            phase: format!("{:?}", inner.drain.phase()).to_lowercase().into(),
            maintenance: inner.maintenance.in_maintenance(),
            gateways: self.gateways(),
            ttft_slo_ms: u64::try_from(inner.live.load().settings.gate.ttft_slo.as_millis())
                .unwrap_or(u64::MAX),
            ttft_buckets: TTFT_BUCKETS.to_vec(),
            connections: inner.drain.connections() as u64,
            buffered_bytes: inner.buffers.used(),
            feed: self.feed_works(),
            discovery: self.discovery_sources(),
            redis: self.redis_works(),
            reloads: inner.metrics.reloads(),
            pools: self.pools(),
            hidden_workers: 0,
            callers,
            rules: self.rules_in_use(),
        }
    }

    pub(super) fn gates(&self) -> Vec<(Arc<str>, GateSnapshot)> {
        let fleet = self.0.fleet.load();
        fleet.pools().iter().map(|pool| (Arc::clone(&pool.name), pool.gate.snapshot())).collect()
    }

    /// Number of gateways that share quotas or workers, as far as known.
    pub(super) fn gateways(&self) -> u32 {
        let configured = self.0.live.load().settings.gateways;
        self.0.redis_parts.as_ref().map_or(configured, |redis_parts| redis_parts.store.gateways().count())
    }

    fn colour_of(&self, id: &str) -> Arc<str> {
        self.0
            .fleet
            .load()
            .worker(id)
            .map_or_else(Arc::default, |worker: &Arc<FleetWorker>| Arc::clone(&worker.spec.colour))
    }

    /// Returns the requests of `pool` that have no worker yet: those that wait here, the callers that
    /// were refused for lack of room, and this gateway's share of the jobs that may start.
    fn demand(&self, pool: &Arc<str>, gate: &GateSnapshot, backlog: Option<&Backlog>) -> u64 {
        let jobs = backlog.map_or(0, |backlog| backlog.due);
        let unserved = self.0.unserved.count(pool, self.0.clock.now());
        let waiting = gate.queue.iter().sum::<usize>() as u64;
        waiting + unserved + jobs.div_ceil(u64::from(self.gateways().max(1)))
    }

    fn pools(&self) -> Vec<PoolView> {
        let live = self.0.live.load();
        let reports = self.0.fleet_sync.reports();
        let (members, versions) = {
            let registry = self.0.fleet_sync.registry.lock();
            (registry.queue_members(), registry.versions())
        };
        let now = self.0.clock.now();
        let colours = self.0.fleet_sync.colours(&live.settings);
        let backlog = self.0.backlog.lock().clone();
        let worker = |worker: &WorkerSnapshot| {
            let report = reports.get(&worker.id);
            WorkerView {
                id: Arc::clone(&worker.id),
                colour: self.colour_of(&worker.id),
                light: light(worker, report),
                why: why(worker, report),
                trouble: worker.trouble.map(|trouble| trouble.as_str().into()),
                ejected: worker.trouble == Some(WorkerTrouble::Ejected),
                in_flight: worker.in_flight,
                limit: worker.limit,
                weight: worker.weight,
                idle_ttft: worker.idle_ttft.iter().map(idle_ttft).collect(),
                tokens: worker.tokens,
                kv_tokens: worker.kv_tokens,
                eligible: worker.eligible,
                leaving: worker.leaving,
                provider: worker.provider.map(left),
                said: report.map(said),
                member_of: None,
            }
        };
        let with_members = |side: WorkerView| {
            let mine = members.iter().filter(|member| member.side_id == side.id);
            let mine: Vec<_> = mine.map(|one| member(one, &side)).collect();
            std::iter::once(side).chain(mine)
        };
        let pool = |(name, gate): (Arc<str>, GateSnapshot)| {
            let workers: Vec<_> = gate.workers.iter().map(worker).flat_map(with_members).collect();
            let sides: BTreeSet<_> = workers.iter().map(|worker| Arc::clone(&worker.colour)).collect();
            let queue = Class::ALL.iter().zip(gate.queue);
            let jobs = backlog.get(&name);
            let versions = versions.iter().filter(|(pool, ..)| *pool == name);
            PoolView {
                active: colours.of(&name).cloned(),
                colours: sides.into_iter().collect(),
                in_flight: gate.in_flight(),
                ceiling: gate.ceiling,
                queue: queue.map(|(class, waiting)| (class.as_str().into(), waiting as u64)).collect(),
                queue_bytes: gate.queue_bytes,
                demand: self.demand(&name, &gate, jobs),
                jobs: jobs.map(|jobs| JobsView {
                    waiting: jobs.waiting,
                    oldest_ms: jobs.since_ms.map_or(0, |since| unix_millis().saturating_sub(since)),
                }),
                fleet_factor: self.fleet_factor(&name),
                prefix_hit_ratio: gate.cached,
                versions: versions.map(|(_, colour, count)| (Arc::clone(colour), *count)).collect(),
                workers,
                strangers: self.strangers(&name, now),
                canary: self.canary_view(&name),
                name,
            }
        };
        self.gates().into_iter().map(pool).collect()
    }

    /// Returns the processes that take jobs of `pool` which are not theirs; `None` without a queue.
    fn strangers(&self, pool: &str, now: Nanos) -> Option<Vec<StrangerView>> {
        let strangers = self.queue()?.strangers().lock().of(pool, now);
        let view = |stranger: Stranger| StrangerView {
            why: stranger.what.sentence(&stranger.side).into(),
            worker: stranger.worker,
        };
        Some(strangers.into_iter().map(view).collect())
    }

    /// Returns the rules, those nearest to their quota first.
    fn rules_in_use(&self) -> Vec<RuleUseView> {
        let live = self.0.live.load();
        let second = self.0.second.lock();
        let keys: BTreeMap<_, _> = live.rule_set.keys().collect();
        let rule = |(index, rule): (usize, &Arc<Rule>)| {
            let RuleUse { refused, peak, .. } = second.rules.get(&rule.name).cloned().unwrap_or_default();
            RuleUseView {
                name: Arc::clone(&rule.name),
                unit: rule.unit.as_str().into(),
                observes: rule.mode == Mode::Observe,
                keys: keys.get(&index).copied().unwrap_or_default() as u64,
                used: peak.as_ref().map(|(used, ..)| *used),
                caller: peak.map(|(_, caller, _)| caller),
                refused,
            }
        };
        let mut shown: Vec<_> = live.rule_set.rules().iter().enumerate().map(rule).collect();
        // In thousandths, because floats have no total order.
        shown.sort_by_key(|rule| Reverse(rule.used.map(|used| (used * 1000.0) as u64)));
        shown
    }
}
