//! Samples the gateway once a second for the admin page and the metrics.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::App;
use crate::clock::{Nanos, unix_millis};
use crate::fleet::heartbeat::DesiredState;
use crate::fleet::registry::QueueMember;
use crate::fleet::strangers::Stranger;
use crate::limit::rule::Mode;
use crate::metrics::{Sample, TTFT_BUCKETS};
use crate::refusal::Reason;
use crate::request::{Class, Ending};
use crate::server::admin::live::{
    CallerView, GatewayView, PoolView, RuleRates, SecondPoint, StrangerView, WorkerView,
};

/// Sampling interval.
const EVERY: Duration = Duration::from_secs(1);
/// Number of callers shown.
const CALLERS: usize = 10;
/// Number of strangers shown per pool.
const STRANGERS: usize = 16;
/// How long a rule shows its peak: a burst is over before anybody looks.
const PEAK_KEPT: Duration = Duration::from_secs(10);

/// The previous sample.
#[derive(Debug, Default)]
struct LastLook {
    at: Nanos,
    sample: Sample,
    rules: BTreeMap<Arc<str>, RuleSeen>,
}

#[derive(Debug, Default)]
struct RuleSeen {
    refusals: u64,
    /// Highest share used, the caller of that request, and its time.
    peak: Option<(f64, Arc<str>, Nanos)>,
}

impl App {
    /// Pushes a sample each second to the viewers.
    pub(super) async fn show(self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut seen =
            LastLook { at: self.0.clock.now(), sample: self.0.metrics.sample(), rules: BTreeMap::new() };
        loop {
            ticks.tick().await;
            let now = self.0.clock.now();
            let sample = self.0.metrics.sample();
            self.measure_factors(now);
            if let Some(lost) = self.0.lost_lines.get() {
                self.0.metrics.lines_lost(lost.load(Ordering::Relaxed));
            }
            let scene = self.scene(&mut seen, sample.reloads, now);
            let mut point = point(&seen.sample, &sample, now.since(seen.at));
            for pool in &scene.pools {
                point.in_flight += pool.in_flight;
                // A queue's workers are part of their side.
                let sides = pool.workers.iter().filter(|worker| worker.member_of.is_none());
                let open = sides.filter(|worker| worker.eligible);
                point.limit += open.map(|worker| u64::from(worker.limit)).sum::<u64>();
                for (class, waiting) in &pool.queue {
                    *point.queue.entry(Arc::clone(class)).or_default() += waiting;
                }
            }
            (seen.at, seen.sample) = (now, sample);
            self.0.shown.push(point, scene);
        }
    }

    fn scene(&self, seen: &mut LastLook, reloads: (u64, u64), now: Nanos) -> GatewayView {
        let inner = &*self.0;
        let live = inner.live.load();
        let callers = inner.metrics.top_callers(CALLERS).into_iter().map(|caller| CallerView {
            id: caller.id,
            requests: caller.requests,
            refused: caller.refused,
            tokens: caller.tokens,
        });
        GatewayView {
            version: env!("CARGO_PKG_VERSION").into(),
            phase: format!("{:?}", inner.drain.phase()).to_lowercase().into(),
            maintenance: inner.maintenance.in_maintenance(),
            gateways: self.gateways(),
            ttft_slo_ms: u64::try_from(live.settings.gate.ttft_slo.as_millis()).unwrap_or(u64::MAX),
            ttft_buckets: TTFT_BUCKETS.to_vec(),
            connections: inner.drain.connections() as u64,
            buffered_bytes: inner.buffers.used(),
            feed: self.feed_works(),
            redis: self.redis_works(),
            reloads,
            pools: self.pools(),
            hidden_workers: 0,
            callers: callers.collect(),
            rules: self.rules(seen, now),
        }
    }

    fn pools(&self) -> Vec<PoolView> {
        let live = self.0.live.load();
        let reports = self.0.fleet_sync.reports();
        let members = self.0.fleet_sync.registry.lock().queue_members();
        let now = self.0.clock.now();
        let colours = self.0.fleet_sync.colours(&live.settings);
        let pool = |(name, gate): (Arc<str>, crate::shed::GateSnapshot)| {
            let worker = |worker: &crate::shed::WorkerSnapshot| {
                let report = reports.get(&worker.id);
                WorkerView {
                    id: Arc::clone(&worker.id),
                    colour: self.colour_of(&worker.id),
                    light: super::report::light(worker, report),
                    why: super::why::why(worker, report),
                    in_flight: worker.in_flight,
                    limit: worker.limit,
                    eligible: worker.eligible,
                    leaving: worker.leaving,
                    kv_used: report.and_then(|report| report.beat.kv_used),
                    age_ms: report.map(|report| u64::try_from(report.age.as_millis()).unwrap_or(u64::MAX)),
                    version: report.and_then(|report| report.beat.version.clone()),
                    member_of: None,
                }
            };
            let workers: Vec<_> = gate
                .workers
                .iter()
                .map(worker)
                .flat_map(|side| {
                    let mine = members.iter().filter(|member| member.side_id == side.id);
                    let mine: Vec<_> = mine.map(|member| self::member(member, &side)).collect();
                    std::iter::once(side).chain(mine)
                })
                .collect();
            let sides: BTreeSet<_> = workers.iter().map(|worker| Arc::clone(&worker.colour)).collect();
            let queue = Class::ALL.iter().zip(gate.queue);
            PoolView {
                active: colours.of(&name).cloned(),
                strangers: self.strangers(&name, now),
                name,
                colours: sides.into_iter().collect(),
                in_flight: gate.in_flight(),
                ceiling: gate.ceiling,
                queue: queue.map(|(class, waiting)| (class.as_str().into(), waiting as u64)).collect(),
                workers,
            }
        };
        self.gates().into_iter().map(pool).collect()
    }

    /// Returns the processes that take jobs of `pool` which are not theirs.
    pub(super) fn strangers(&self, pool: &str, now: Nanos) -> Vec<StrangerView> {
        let Some(jobs) = self.queue() else { return Vec::new() };
        let strangers = jobs.strangers().lock().of(pool, now);
        let view = |stranger: Stranger| StrangerView {
            why: stranger.what.sentence(&stranger.side).into(),
            worker: stranger.worker,
        };
        strangers.into_iter().take(STRANGERS).map(view).collect()
    }

    /// Returns the rules, those nearest to their quota first.
    fn rules(&self, seen: &mut LastLook, now: Nanos) -> Vec<RuleRates> {
        let live = self.0.live.load();
        let keys: BTreeMap<_, _> = live.rule_set.keys().collect();
        let rules = live.rule_set.rules();
        seen.rules.retain(|name, _| rules.iter().any(|rule| rule.name == *name));
        let rule = |(index, rule): (usize, &Arc<crate::limit::rule::Rule>)| {
            let series = self.0.metrics.rule(&rule.name);
            let before = seen.rules.entry(Arc::clone(&rule.name)).or_default();
            if before.peak.as_ref().is_some_and(|(.., at)| now.since(*at) > PEAK_KEPT) {
                before.peak = None;
            }
            if let Some((used, caller)) = series.take_peak()
                && before.peak.as_ref().is_none_or(|(fullest, ..)| used >= *fullest)
            {
                before.peak = Some((used, caller, now));
            }
            let refusals = series.refusals();
            let refused = refusals.saturating_sub(std::mem::replace(&mut before.refusals, refusals));
            RuleRates {
                name: Arc::clone(&rule.name),
                unit: rule.unit.as_str().into(),
                observes: rule.mode == Mode::Observe,
                keys: keys.get(&index).copied().unwrap_or_default() as u64,
                used: before.peak.as_ref().map(|(used, ..)| *used),
                caller: before.peak.as_ref().map(|(_, caller, _)| Arc::clone(caller)),
                refused,
            }
        };
        let mut shown: Vec<_> = rules.iter().enumerate().map(rule).collect();
        // In thousandths, because floats have no total order.
        shown.sort_by_key(|rule| Reverse(rule.used.map(|used| (used * 1000.0) as u64)));
        shown
    }
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
        eligible: side.eligible && !report.held,
        leaving: beat.state == DesiredState::Draining,
        kv_used: beat.kv_used,
        age_ms: Some(u64::try_from(report.age.as_millis()).unwrap_or(u64::MAX)),
        version: beat.version.clone(),
        member_of: Some(Arc::clone(&side.id)),
    }
}

/// Returns the difference between two samples.
fn point(before: &Sample, after: &Sample, took: Duration) -> SecondPoint {
    let ended = |ending: Ending| {
        let count = |sample: &Sample| sample.ended.get(ending as usize).copied().unwrap_or_default();
        count(after).saturating_sub(count(before))
    };
    let refused = Reason::ALL.iter().zip(before.refused.iter().zip(after.refused));
    SecondPoint {
        at_ms: unix_millis(),
        seconds: took.as_secs_f64(),
        offered: after.offered().saturating_sub(before.offered()),
        admitted: after.admitted.saturating_sub(before.admitted),
        good: after.good.saturating_sub(before.good),
        failed: ended(Ending::WorkerFailed) + ended(Ending::TimedOut),
        gone: ended(Ending::ClientGone),
        refused: refused
            .map(|(reason, (before, after))| (reason.as_str().into(), after.saturating_sub(*before)))
            .filter(|(_, count)| *count > 0)
            .collect(),
        ttft: before
            .ttft
            .iter()
            .zip(&after.ttft)
            .map(|(before, after)| after.saturating_sub(*before))
            .collect(),
        ..SecondPoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_what_happened_since() {
        let mut before = Sample { in_flight: 4, ttft: vec![5, 0, 1], ..Sample::default() };
        before.ended[Ending::Complete as usize] = 100;
        let mut after = before.clone();
        after.ended[Ending::Complete as usize] += 10;
        after.ended[Ending::Refused as usize] += 30;
        after.ended[Ending::TimedOut as usize] += 1;
        after.ended[Ending::ClientGone as usize] += 2;
        after.refused[Reason::Overloaded as usize] += 30;
        after.in_flight = 9;
        after.ttft = vec![5, 9, 2];
        let point = point(&before, &after, Duration::from_millis(1500));
        assert_eq!((point.offered, point.failed, point.gone, point.ttft), (48, 1, 2, vec![0, 9, 1]));
        assert_eq!(point.refused, BTreeMap::from([("overloaded".into(), 30)]));
        assert!((point.seconds - 1.5).abs() < 1e-9);
    }
}
