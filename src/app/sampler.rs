//! Samples the gateway once a second for the admin page and the metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::App;
use crate::clock::{Nanos, unix_millis};
use crate::metrics::Sample;
use crate::refusal::Reason;
use crate::request::Ending;
use crate::server::admin::live::SecondPoint;
use crate::view::CallerView;

/// Sampling interval.
const EVERY: Duration = Duration::from_secs(1);
/// Number of callers shown.
const CALLERS: usize = 10;
/// Time for which a rule shows its peak, because a burst is over before anybody looks.
const PEAK_KEPT: Duration = Duration::from_secs(10);

/// Measurements of the last second.
#[derive(Debug, Default)]
pub(super) struct LastSecond {
    /// The callers with the most requests.
    pub(super) callers: Vec<CallerView>,
    pub(super) rules: BTreeMap<Arc<str>, RuleUse>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct RuleUse {
    /// Refusals since the start.
    refusals: u64,
    /// Those of the last second.
    pub(super) refused: u64,
    /// Highest share used, the caller of that request, and its time.
    pub(super) peak: Option<(f64, Arc<str>, Nanos)>,
}

impl App {
    /// Pushes a sample each second to the viewers.
    pub(super) async fn show(self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let (mut at, mut before) = (self.0.clock.now(), self.0.metrics.sample());
        loop {
            ticks.tick().await;
            let now = self.0.clock.now();
            let sample = self.0.metrics.sample();
            self.measure_factors(now);
            if let Some(lost) = self.0.lost_lines.get() {
                self.0.metrics.lines_lost(lost.load(Ordering::Relaxed));
            }
            self.measure_second(now);
            let view = self.view();
            let mut point = point(&before, &sample, now.since(at));
            for pool in &view.pools {
                point.in_flight += pool.in_flight;
                // A queue's workers are part of their side.
                let sides = pool.workers.iter().filter(|worker| worker.member_of.is_none());
                let open = sides.filter(|worker| worker.eligible);
                point.limit += open.map(|worker| u64::from(worker.limit)).sum::<u64>();
                for (class, waiting) in &pool.queue {
                    *point.queue.entry(Arc::clone(class)).or_default() += waiting;
                }
            }
            (at, before) = (now, sample);
            self.0.shown.push(point, view);
        }
    }

    /// Measures callers and rules. Call once a second.
    fn measure_second(&self, now: Nanos) {
        let mut second = self.0.second.lock();
        second.callers = self.0.metrics.top_callers(CALLERS);
        let live = self.0.live.load();
        let rules = live.rule_set.rules();
        second.rules.retain(|name, _| rules.iter().any(|rule| rule.name == *name));
        for rule in rules {
            let series = self.0.metrics.rule(&rule.name);
            let seen = second.rules.entry(Arc::clone(&rule.name)).or_default();
            if seen.peak.as_ref().is_some_and(|(.., at)| now.since(*at) > PEAK_KEPT) {
                seen.peak = None;
            }
            if let Some((used, caller)) = series.take_peak()
                && seen.peak.as_ref().is_none_or(|(fullest, ..)| used >= *fullest)
            {
                seen.peak = Some((used, caller, now));
            }
            let refusals = series.refusals();
            seen.refused = refusals.saturating_sub(std::mem::replace(&mut seen.refusals, refusals));
        }
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
