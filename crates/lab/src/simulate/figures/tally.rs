//! Counts the figures after a run.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::fair::{self, CallerShare};
use super::recovery::{recovery, usual};
use super::verdict::RequestVerdict;
use super::{ClassFigures, RunFigures, Second};
use crate::evidence::stats::quantile;
use crate::simulate::capacity::TokenPrice;
use crate::simulate::driver::{Call, CallFate, LoadPhase, SECOND, Simulation, Stage, at};
use traffic_dam_core::clock::Nanos;

/// Weight of an output token, in prompt tokens, as in the fair queue.
const OUTPUT_WEIGHT: f64 = 2.0;

/// Returns the figures and the seconds of a finished run.
pub(in crate::simulate) fn tally(world: &Simulation<'_>) -> (RunFigures, Vec<Second>) {
    let mut tally = RunTally::new(world);
    for call in &world.calls {
        let verdict = RequestVerdict::of(world.scenario, call);
        tally.count_work(call, verdict);
        tally.count_second(call, verdict);
        if call.extra {
            tally.extra.add(verdict.good);
        }
        if tally.window.contains(&call.arrived) {
            tally.count(call, verdict);
        }
    }
    tally.close_seconds();
    let figures = tally.figures();
    (figures, tally.seconds)
}

/// A count of cases, and how many of them were right.
#[derive(Clone, Copy, Debug, Default)]
struct CountedShare {
    right: u64,
    all: u64,
}

impl CountedShare {
    fn add(&mut self, right: bool) {
        self.right += u64::from(right);
        self.all += 1;
    }

    fn value(self) -> Option<f64> {
        ratio(self.right as f64, self.all as f64)
    }
}

struct RunTally<'a> {
    world: &'a Simulation<'a>,
    /// Time that counts: after the warm-up.
    window: Range<Nanos>,
    prices: Vec<TokenPrice>,
    seconds: Vec<Second>,
    /// TTFTs by the second in which their requests asked.
    ttfts: Vec<Vec<Duration>>,
    /// Good work of each second.
    work: Vec<f64>,
    portions: Vec<CallerShare>,
    classes: [ClassCounts; 3],
    returns: CountedShare,
    /// Sum of `Retry-After` of refused requests, in seconds, and their number.
    retry_waits: (f64, f64),
    extra: CountedShare,
    /// TTFTs of requests that begin a conversation.
    firsts: Vec<Duration>,
    /// Cached prompt tokens, and all, of workers with prefix caches.
    cached: (u64, u64),
    refused: BTreeMap<&'static str, u64>,
    failed: u64,
    failed_early: u64,
}

impl<'a> RunTally<'a> {
    fn new(world: &'a Simulation<'a>) -> Self {
        let scenario = world.scenario;
        let length = scenario.duration.0.as_secs_f64().ceil() as usize;
        let portion = |weight: u32| CallerShare { weight: f64::from(weight), ..CallerShare::default() };
        Self {
            world,
            window: at(scenario.warm_up)..at(scenario.duration),
            prices: scenario.workers.iter().map(|group| TokenPrice::of(&group.spec())).collect(),
            seconds: vec![Second::default(); length],
            ttfts: vec![Vec::new(); length],
            work: vec![0.0; length],
            portions: world.people.all.iter().map(|person| portion(person.weight)).collect(),
            classes: Default::default(),
            returns: CountedShare::default(),
            retry_waits: (0.0, 0.0),
            extra: CountedShare::default(),
            firsts: Vec::new(),
            cached: (0, 0),
            refused: BTreeMap::new(),
            failed: 0,
            failed_early: 0,
        }
    }

    /// Counts the tokens of an answer in the seconds of their arrival.
    fn count_work(&mut self, call: &Call, verdict: RequestVerdict) {
        if call.stage != Stage::Over(CallFate::Answered) {
            return;
        }
        let price = &self.prices[self.world.group_of(call.machine)];
        let first = call.first.map_or(0, |first| (first.0 / SECOND) as usize);
        for (place, tokens) in call.by_second.iter().enumerate() {
            let second = first + place;
            let Some(work) = self.work.get_mut(second) else { return };
            let prompt = if place == 0 { call.wish.prompt as f64 } else { 0.0 };
            let output = f64::from(*tokens);
            if self.window.contains(&middle(second)) {
                self.portions[call.wish.person].got += prompt + OUTPUT_WEIGHT * output;
            }
            if verdict.good {
                *work += price.prompt * prompt + price.output * output;
            }
        }
    }

    fn count_second(&mut self, call: &Call, verdict: RequestVerdict) {
        let place = (call.arrived.0 / SECOND) as usize;
        let Some(second) = self.seconds.get_mut(place) else { return };
        second.offered += 1;
        second.admitted += u64::from(call.granted.is_some());
        second.good += u64::from(verdict.good);
        second.refused += u64::from(matches!(call.stage, Stage::Over(CallFate::Refused(_))));
        self.ttfts[place].extend(verdict.ttft);
    }

    fn count(&mut self, call: &Call, verdict: RequestVerdict) {
        let begins = call.wish.conversation.as_ref().is_none_or(|conversation| conversation.turn == 0);
        self.firsts.extend(verdict.ttft.filter(|_| begins && call.granted.is_some()));
        if let Some(cached) = call.cached {
            self.cached = (self.cached.0 + cached, self.cached.1 + call.wish.prompt);
        }
        let person = call.wish.person;
        self.portions[person].asked += call.wish.prompt as f64 + OUTPUT_WEIGHT * call.wish.output() as f64;
        self.classes[self.world.people.all[person].class as usize].add(call, verdict);
        match call.stage {
            Stage::Over(CallFate::Refused(reason)) => *self.refused.entry(reason.as_str()).or_default() += 1,
            Stage::Over(CallFate::Failed(_)) => {
                self.failed += 1;
                self.failed_early += u64::from(call.first.is_none());
            }
            _ => {}
        }
        if let Some(wait) = call.retry_after {
            self.retry_waits = (self.retry_waits.0 + wait.as_secs_f64(), self.retry_waits.1 + 1.0);
        }
        if call.at_retry_after && self.phase_at(call.arrived).is_some_and(|phase| phase.times <= 1.0) {
            self.returns.add(call.granted.is_some());
        }
    }

    fn close_seconds(&mut self) {
        for place in 0..self.seconds.len() {
            let peak = self.peak(place);
            let second = &mut self.seconds[place];
            second.of_peak = ratio(self.work[place], peak).unwrap_or_default();
            if let Some(moment) = self.world.moments.get(place) {
                (second.limit, second.in_flight, second.waiting) =
                    (moment.limit, moment.in_flight, moment.waiting);
            }
            second.ttft_p50 = percentiles(&mut self.ttfts[place]).map(|[median, ..]| median);
        }
    }

    fn figures(&mut self) -> RunFigures {
        let mut all = ClassCounts::default();
        self.classes.iter().for_each(|class| all.include(class));
        let counted = || (0..self.seconds.len()).filter(|second| self.window.contains(&middle(*second)));
        let done = counted().map(|second| self.work[second]).sum();
        let possible = counted().map(|second| self.peak(second)).sum();
        RunFigures {
            offered: all.offered,
            admitted: all.admitted,
            good: all.good,
            failed: self.failed,
            failed_early: self.failed_early,
            refused: std::mem::take(&mut self.refused),
            goodput: all.good as f64 / self.window.end.since(self.window.start).as_secs_f64(),
            goodput_of_offered: ratio(all.good as f64, all.offered as f64),
            goodput_of_peak: ratio(done, possible),
            ttft: percentiles(&mut all.ttfts),
            ttft_first: percentiles(&mut self.firsts),
            hit_ratio: ratio(self.cached.0 as f64, self.cached.1 as f64),
            by_class: std::mem::take(&mut self.classes).map(ClassCounts::figures),
            jain: fair::jain(&self.portions),
            light_share: fair::light_share(&self.portions),
            preemptions: self.world.preempted(),
            retry_kept: self.returns.value(),
            retry_wait: ratio(self.retry_waits.0, self.retry_waits.1),
            recovery: self.recovery(),
            extra_good: self.extra.value(),
        }
    }

    fn recovery(&self) -> Option<f64> {
        let marked = self.world.scenario.events.iter().find(|event| event.recover);
        let disturbed = self.world.phases.iter().rfind(|phase| phase.disturbs);
        let when = marked.map(|event| at(event.at)).or(disturbed.map(|phase| phase.since))?;
        let second = |at: Nanos| at.0.div_ceil(SECOND) as usize;
        // A fleet that is offered too little does not show its usual level.
        let before = self.world.phases.iter().rfind(|phase| phase.since < when);
        let usual = match before.filter(|phase| phase.times >= 1.0) {
            Some(phase) => usual(&self.seconds, second(phase.since.max(self.window.start)), second(when)),
            None => 1.0,
        };
        Some(recovery(&self.seconds, second(when), usual))
    }

    fn phase_at(&self, when: Nanos) -> Option<&LoadPhase> {
        self.world.phases.iter().rfind(|phase| phase.since <= when)
    }

    /// Returns the maximum good work of a second.
    fn peak(&self, second: usize) -> f64 {
        self.phase_at(middle(second)).map_or(0.0, |phase| phase.peak)
    }
}

#[derive(Debug, Default)]
struct ClassCounts {
    offered: u64,
    admitted: u64,
    good: u64,
    ttfts: Vec<Duration>,
}

impl ClassCounts {
    fn add(&mut self, call: &Call, verdict: RequestVerdict) {
        self.offered += 1;
        self.admitted += u64::from(call.granted.is_some());
        self.good += u64::from(verdict.good);
        self.ttfts.extend(verdict.ttft.filter(|_| call.granted.is_some()));
    }

    fn include(&mut self, other: &Self) {
        self.offered += other.offered;
        self.admitted += other.admitted;
        self.good += other.good;
        self.ttfts.extend_from_slice(&other.ttfts);
    }

    fn figures(mut self) -> Option<ClassFigures> {
        let goodput_of_offered = ratio(self.good as f64, self.offered as f64)?;
        Some(ClassFigures {
            ttft_p99: percentiles(&mut self.ttfts).map(|[.., last]| last),
            goodput_of_offered,
        })
    }
}

/// Returns the middle of a second.
fn middle(second: usize) -> Nanos {
    Nanos(second as u64 * SECOND + SECOND / 2)
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// Returns the 50th, 95th and 99th percentile, by rank.
fn percentiles(values: &mut [Duration]) -> Option<[Duration; 3]> {
    values.sort_unstable();
    Some([quantile(values, 0.5)?, quantile(values, 0.95)?, quantile(values, 0.99)?])
}
