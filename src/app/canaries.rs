//! Canaries: counts what each side does, judges, and goes on or back.
//!
//! The gateway that was asked for a canary judges it: it renews the lease, adds up what all gateways
//! have counted, and publishes the end as the next switch. Every gateway watches the lease, and goes
//! back if nobody renews it. Whoever publishes first decides, as the next epoch exists only once.
//!
//! **Failure mode.** While Redis does not answer, the share stays as it is, the time of the canary
//! stands still, and nobody is promoted. If the judge is gone, or the client that attends the canary,
//! all are back on the old side within 15 s.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::App;
use super::colours::FOLLOWING;
use super::fleet::key;
use crate::clock::Nanos;
use crate::fleet::colour::ColourSwitch;
use crate::fleet::judge::{Verdict, judge};
use crate::fleet::{LeaseText, SeenLease};
use crate::redis::RedisResult;
use crate::redis::canaries::CanaryStore;
use crate::redis::control::Control;
use crate::redis::settings::RedisSettings;
use crate::server::admin::{CanaryRequest, Switched};
use crate::shed::{CanaryCounts, SideCounts, WHOLE};
use crate::view::{CanaryState, CanaryView, SideView};

/// Interval of renewals and looks.
const LOOK: Duration = Duration::from_millis(500);
/// Longest time between two looks that counts: beyond it, Redis or the gateway was away.
const LONGEST_LOOK: Duration = Duration::from_secs(2);
/// Time without a call after which the client of an attended canary is gone.
const ATTENDED: Duration = Duration::from_secs(6);

/// The canaries that this gateway judges, or judged last, by pool.
#[derive(Debug, Default)]
pub(super) struct Canaries(Mutex<BTreeMap<Arc<str>, JudgedCanary>>);

#[derive(Clone, Debug)]
struct JudgedCanary {
    switch: ColourSwitch,
    judge: Duration,
    /// Last call of its client; `None` if nobody needs to attend it.
    attended: Option<Nanos>,
    /// Time in which the counts of all gateways could be read.
    elapsed: Duration,
    looked: Nanos,
    /// Renewals of the lease.
    beat: u64,
    counts: CanaryCounts,
    gateways: usize,
    state: CanaryState,
    why: Option<String>,
    /// How this gateway ends it. It is told once the gate follows.
    ending: Option<CanaryEnd>,
}

/// How a canary ends, and why.
type CanaryEnd = (CanaryState, String);

impl App {
    /// Begins to judge the canary of `switch`.
    pub(super) fn judge_canary(&self, switch: &ColourSwitch, request: &CanaryRequest) {
        let now = self.0.clock.now();
        let judged = JudgedCanary {
            switch: switch.clone(),
            judge: request.judge,
            attended: request.attended.then_some(now),
            elapsed: Duration::ZERO,
            looked: now,
            beat: 0,
            counts: CanaryCounts::default(),
            gateways: 1,
            state: CanaryState::UnderWay,
            why: None,
            ending: None,
        };
        self.0.canaries.0.lock().insert(Arc::clone(&switch.pool), judged);
    }

    /// Counts, judges and ends canaries.
    pub(super) async fn keep_canaries(self) {
        let mut store: Option<(RedisSettings, CanaryStore)> = None;
        let mut seen = BTreeMap::new();
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.note_ended();
            let under_way = self.canaries_under_way();
            seen.retain(|pool, _| under_way.iter().any(|switch| switch.pool == *pool));
            if under_way.is_empty() {
                store = None;
                continue;
            }
            let Some(redis) = self.redis() else {
                for switch in &under_way {
                    let own = self.own_counts(switch);
                    self.decide(switch, own, 1).await;
                }
                continue;
            };
            if store.as_ref().is_none_or(|(settings, _)| *settings != redis) {
                let opened = CanaryStore::open(&redis, key(&self.0.live.load().settings)).await;
                store = opened.ok().map(|opened| (redis.clone(), opened));
            }
            let Some((_, open)) = &mut store else { continue };
            for switch in &under_way {
                if let Err(error) = self.look_at_canary(switch, open, &mut seen).await {
                    tracing::debug!(%error, "cannot read how a canary is doing");
                    store = None;
                    break;
                }
            }
        }
    }

    fn canaries_under_way(&self) -> Vec<ColourSwitch> {
        let switches = self.0.fleet_sync.switches.lock();
        switches.all().filter(|switch| switch.canary.is_some()).collect()
    }

    /// Counts and reads counts in Redis, and goes on or back.
    async fn look_at_canary(
        &self,
        switch: &ColourSwitch,
        store: &mut CanaryStore,
        seen: &mut BTreeMap<Arc<str>, SeenLease>,
    ) -> RedisResult<()> {
        let (pool, epoch, id) = (&switch.pool, switch.epoch, self.0.fleet_sync.id());
        let own = self.own_counts(switch);
        store.tell_counts(pool, id, epoch, own).await?;
        if let Some(beat) = self.next_beat(switch) {
            let (mut counts, others) = store.other_counts(pool, id, epoch).await?;
            counts.add(&own);
            let old_epoch = switch.canary.as_ref().map_or(0, |canary| canary.old_epoch);
            store.renew(pool, LeaseText { epoch, old_epoch, beat }).await?;
            self.decide(switch, counts, others + 1).await;
        }
        let lease = store.lease(pool).await?;
        let now = self.0.clock.now();
        let watched = seen.entry(Arc::clone(pool)).or_insert_with(|| SeenLease::new(epoch, now));
        if watched.epoch() != epoch {
            *watched = SeenLease::new(epoch, now);
        }
        if watched.look(lease, now) {
            let why = "the gateway that judged it is gone".to_owned();
            self.end_canary(switch, (CanaryState::Reverted, why)).await;
        }
        Ok(())
    }

    /// Returns what this gateway has counted.
    fn own_counts(&self, switch: &ColourSwitch) -> CanaryCounts {
        let fleet = self.0.fleet.load();
        let pool = fleet.pools().iter().find(|pool| pool.name == switch.pool);
        let counted = pool.and_then(|pool| pool.gate.canary_counts());
        counted.filter(|(epoch, _)| *epoch == switch.epoch).map(|(_, counts)| counts).unwrap_or_default()
    }

    /// Returns the number of the next renewal, if this gateway judges the canary of `switch`.
    fn next_beat(&self, switch: &ColourSwitch) -> Option<u64> {
        let mut canaries = self.0.canaries.0.lock();
        let judged = canaries.get_mut(&switch.pool).filter(|judged| judged.is_of(switch))?;
        judged.beat += 1;
        Some(judged.beat)
    }

    /// Judges by the counts of all gateways.
    async fn decide(&self, switch: &ColourSwitch, counts: CanaryCounts, gateways: usize) {
        let now = self.0.clock.now();
        let end = {
            let mut canaries = self.0.canaries.0.lock();
            let Some(judged) = canaries.get_mut(&switch.pool).filter(|judged| judged.is_of(switch)) else {
                return;
            };
            let since = now.since(std::mem::replace(&mut judged.looked, now));
            judged.elapsed += since.min(LONGEST_LOOK);
            (judged.counts, judged.gateways) = (counts, gateways);
            judged.end(now)
        };
        match end {
            Some((CanaryState::Promoted, _)) if !self.is_ready_for(switch) => {
                let why = "no worker of the new side is ready".to_owned();
                self.end_canary(switch, (CanaryState::Reverted, why)).await;
            }
            Some(end) => {
                self.end_canary(switch, end).await;
            }
            None => {}
        }
    }

    fn is_ready_for(&self, switch: &ColourSwitch) -> bool {
        switch
            .canary
            .as_ref()
            .is_some_and(|canary| self.has_ready(&switch.pool, &canary.colour, canary.version.as_deref()))
    }

    /// Ends a canary for all gateways, unless another one was faster. Without Redis it goes on.
    async fn end_canary(&self, switch: &ColourSwitch, (state, why): CanaryEnd) -> Switched {
        let Some(next) = switch.ended(state == CanaryState::Promoted) else { return Switched::NoCanary };
        if let Some(redis) = self.redis() {
            let published = async {
                let mut control = Control::open(&redis).await?;
                self.publish(&mut control, &next).await
            };
            match published.await {
                Ok(true) => {}
                Ok(false) => return Switched::NoCanary,
                Err(error) => {
                    tracing::warn!(pool = &*switch.pool, %error, "cannot publish the end of a canary; retrying");
                    return Switched::Unavailable;
                }
            }
        }
        let (pool, side) = (&*switch.pool, next.side());
        match state {
            CanaryState::Promoted => tracing::info!(pool, active = &*side, "a canary was promoted"),
            _ => tracing::warn!(pool, active = &*side, why, "a canary went back"),
        }
        self.0.metrics.redis().canary_end(pool, state.as_str());
        if let Some(judged) =
            self.0.canaries.0.lock().get_mut(&switch.pool).filter(|judged| judged.is_of(switch))
        {
            judged.ending = Some((state, why));
        }
        self.follow(next, Instant::now() + FOLLOWING).await;
        self.note_ended();
        Switched::Cancelled
    }

    /// Takes note of canaries that have ended here, at another gateway, or by another switch, once the
    /// gate follows: who reads that one is over finds that it gets no more requests.
    fn note_ended(&self) {
        let switches = self.0.fleet_sync.switches.lock();
        for (pool, judged) in self.0.canaries.0.lock().iter_mut() {
            let Some(last) = switches.last(pool) else { continue };
            if judged.state == CanaryState::UnderWay
                && last.epoch > judged.switch.epoch
                && self.0.fleet_sync.applied_epoch(pool) >= last.epoch
            {
                let ended = |promoted| judged.switch.ended(promoted).as_ref() == Some(last);
                let (state, why) = if let Some(ending) = judged.ending.take() {
                    ending
                } else if ended(true) {
                    (CanaryState::Promoted, "its promotion was made, though Redis did not say so".to_owned())
                } else if ended(false) {
                    (CanaryState::Reverted, "it was ended at another gateway".to_owned())
                } else {
                    let why = format!("another switch was made: {} is active", last.side());
                    (CanaryState::Reverted, why)
                };
                (judged.state, judged.why) = (state, Some(why));
            }
        }
    }

    /// Ends the canary of `pool` for the operator.
    pub(super) async fn cancel_canary(&self, pool: &str) -> Switched {
        let under_way = self.canaries_under_way().into_iter().find(|switch| *switch.pool == *pool);
        let Some(switch) = under_way else { return Switched::NoCanary };
        let why = "it was cancelled".to_owned();
        self.end_canary(&switch, (CanaryState::Reverted, why)).await
    }

    /// Records that the client of the canary `epoch` is still there.
    pub(super) fn attend(&self, pool: &str, epoch: u64) -> Option<CanaryView> {
        {
            let mut canaries = self.0.canaries.0.lock();
            let judged = canaries.get_mut(pool).filter(|judged| judged.switch.epoch == epoch)?;
            judged.attended = judged.attended.map(|_| self.0.clock.now());
        }
        self.canary_view(pool)
    }

    /// Returns the canary of `pool`: the one under way, else the last one that this gateway judged.
    pub(super) fn canary_view(&self, pool: &str) -> Option<CanaryView> {
        let last = self.0.fleet_sync.switches.lock().last(pool).filter(|last| last.canary.is_some()).cloned();
        let judged = self.0.canaries.0.lock().get(pool).cloned();
        match (judged, last) {
            (Some(judged), Some(last)) if judged.switch.epoch != last.epoch => {
                self.elsewhere(last).view(false)
            }
            (Some(judged), _) => judged.view(true),
            (None, last) => self.elsewhere(last?).view(false),
        }
    }

    /// Returns a canary that another gateway judges, with what this one has counted.
    fn elsewhere(&self, switch: ColourSwitch) -> JudgedCanary {
        JudgedCanary {
            counts: self.own_counts(&switch),
            switch,
            judge: Duration::ZERO,
            attended: None,
            elapsed: Duration::ZERO,
            looked: Nanos::ZERO,
            beat: 0,
            gateways: 1,
            state: CanaryState::UnderWay,
            why: None,
            ending: None,
        }
    }
}

impl JudgedCanary {
    /// Returns `true` if it is the one under way that `switch` began.
    fn is_of(&self, switch: &ColourSwitch) -> bool {
        self.state == CanaryState::UnderWay && self.switch.epoch == switch.epoch
    }

    /// Returns how it ends, if it does now.
    fn end(&self, now: Nanos) -> Option<CanaryEnd> {
        if self.attended.is_some_and(|at| now.since(at) > ATTENDED) {
            return Some((CanaryState::Reverted, "its client is gone".to_owned()));
        }
        match judge(&self.counts, self.elapsed, self.judge) {
            Verdict::Wait => None,
            Verdict::Promote => Some((CanaryState::Promoted, "it is no worse than the old side".to_owned())),
            Verdict::Worse(why) => Some((CanaryState::Reverted, why)),
            Verdict::NoData(why) => Some((CanaryState::NoData, why)),
        }
    }

    fn view(self, judged_here: bool) -> Option<CanaryView> {
        let canary = self.switch.canary.as_ref()?;
        let millis = |length: Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        Some(CanaryView {
            epoch: self.switch.epoch,
            old: self.switch.side(),
            new: canary.side(),
            share: f64::from(canary.per_million) / f64::from(WHOLE),
            state: self.state,
            why: self.why.map(Into::into),
            judged_here,
            judge_ms: millis(self.judge),
            elapsed_ms: millis(self.elapsed),
            gateways: self.gateways,
            usual: side_view(&self.counts.usual),
            canary: side_view(&self.counts.canary),
        })
    }
}

fn side_view(side: &SideCounts) -> SideView {
    SideView {
        offered: side.offered(),
        answers: side.answers(),
        good: side.good,
        failed: side.failed,
        ttft_ms: side.ttft.total().mean().map(|(log, _)| log.exp() * 1000.0),
    }
}
