//! Counting, when everything has happened.

use std::time::Duration;

use super::fair::{self, Portion};
use super::recovery::{recovery, usual};
use super::{ClassFigures, Figures, Second};
use crate::clock::Nanos;
use crate::refusal::Reason;
use crate::request::Class;
use crate::sim::simulate::capacity::Price;
use crate::sim::simulate::scenario::Scenario;
use crate::sim::simulate::world::{Call, Fate, Phase, SECOND, Stage, World, at};

/// An output token counts as so many of the prompt, as in the fair queue.
const OUTPUT_WEIGHT: f64 = 2.0;

/// So long after an overload those that it had refused have come back.
const CALMS: Duration = Duration::from_secs(5);

/// How it came out for one request.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    good: bool,
    ttft: Option<Duration>,
}

impl Verdict {
    fn of(scenario: &Scenario, call: &Call) -> Self {
        let ttft = call.first.map(|first| first.since(call.arrived));
        let slo = scenario.slo(call.wish.prompt);
        let answered = call.stage == Stage::Over(Fate::Answered);
        let in_time = if call.wish.stream {
            ttft.is_some_and(|ttft| ttft <= slo)
        } else {
            // Nobody sees its first token: it must be whole by the time by which a stream would be.
            let longest = call.wish.outputs.iter().max().copied().unwrap_or(1);
            call.ended.since(call.arrived) <= slo + scenario.promise.itl_slo.0 * longest
        };
        Self { good: answered && in_time, ttft: ttft.filter(|_| call.wish.stream) }
    }
}

/// The figures of what happened in `world`, and its seconds.
pub(in crate::sim::simulate) fn tally(world: &World<'_>) -> (Figures, Vec<Second>) {
    let scenario = world.scenario;
    let window = at(scenario.warm_up)..at(scenario.duration);
    let prices: Vec<Price> = scenario.workers.iter().map(|group| Price::of(&group.spec())).collect();
    let mut seconds = vec![Second::default(); scenario.duration.0.as_secs_f64().ceil() as usize];
    let mut ttfts: Vec<Vec<Duration>> = vec![Vec::new(); seconds.len()];
    let mut work = vec![0.0; seconds.len()];
    let mut portions: Vec<Portion> = world
        .people
        .all
        .iter()
        .map(|person| Portion { weight: f64::from(person.weight), ..Portion::default() })
        .collect();
    let mut figures = Figures { preemptions: world.preempted(), ..Figures::default() };
    let mut all: [Counts; 3] = Default::default();
    let (mut came_back, mut kept) = (0_u64, 0_u64);
    let (mut extra, mut extra_good) = (0_u64, 0_u64);
    for call in &world.calls {
        let verdict = Verdict::of(scenario, call);
        let portion = &mut portions[call.wish.person];
        if call.stage == Stage::Over(Fate::Answered) {
            let first = call.first.map_or(0, |first| (first.0 / SECOND) as usize);
            for (place, tokens) in call.by_second.iter().enumerate() {
                let second = first + place;
                let Some(work) = work.get_mut(second).filter(|_| window.contains(&middle(second))) else {
                    continue;
                };
                let prompt = if place == 0 { call.wish.prompt as f64 } else { 0.0 };
                portion.got += prompt + OUTPUT_WEIGHT * f64::from(*tokens);
                if verdict.good {
                    let price = &prices[world.group_of(call.machine)];
                    *work += price.prompt * prompt + price.output * f64::from(*tokens);
                }
            }
        }
        if let Some(second) = seconds.get_mut((call.arrived.0 / SECOND) as usize) {
            second.offered += 1;
            second.admitted += u64::from(call.granted.is_some());
            second.good += u64::from(verdict.good);
            second.refused += u64::from(matches!(call.stage, Stage::Over(Fate::Refused(_))));
            ttfts[(call.arrived.0 / SECOND) as usize].extend(verdict.ttft);
        }
        if call.extra {
            extra += 1;
            extra_good += u64::from(verdict.good);
        }
        if !window.contains(&call.arrived) {
            continue;
        }
        portion.asked += call.wish.prompt as f64 + OUTPUT_WEIGHT * call.wish.output() as f64;
        let class = world.people.all[call.wish.person].class;
        all[class as usize].add(call, verdict);
        match call.stage {
            Stage::Over(Fate::Refused(reason)) => {
                *figures.refused.entry(Reason::as_str(reason)).or_default() += 1;
            }
            Stage::Over(Fate::Failed(_)) => figures.failed += 1,
            _ => {}
        }
        if call.as_told && phase_at(&world.phases, call.arrived).is_some_and(|phase| is_calm(phase, call)) {
            came_back += 1;
            kept += u64::from(call.granted.is_some());
        }
    }
    for (place, second) in seconds.iter_mut().enumerate() {
        let peak = phase_at(&world.phases, middle(place)).map_or(0.0, |phase| phase.peak);
        second.of_peak = ratio(work[place], peak).unwrap_or_default();
        if let Some(moment) = world.moments.get(place) {
            (second.limit, second.in_flight, second.waiting) =
                (moment.limit, moment.in_flight, moment.waiting);
        }
        second.ttft_p50 = percentiles(&mut ttfts[place]).map(|[median, ..]| median);
    }
    let length = (window.end.0 - window.start.0) as f64 / SECOND as f64;
    let mut together = Counts::default();
    for (class, counts) in Class::ALL.into_iter().zip(&mut all) {
        together.offered += counts.offered;
        together.admitted += counts.admitted;
        together.good += counts.good;
        together.ttfts.append(&mut counts.ttfts.clone());
        figures.by_class[class as usize] =
            ratio(counts.good as f64, counts.offered as f64).map(|goodput_of_offered| ClassFigures {
                ttft_p99: percentiles(&mut counts.ttfts).map(|[.., last]| last),
                goodput_of_offered,
            });
    }
    figures.offered = together.offered;
    figures.admitted = together.admitted;
    figures.good = together.good;
    figures.goodput = together.good as f64 / length;
    figures.goodput_of_offered = ratio(together.good as f64, together.offered as f64);
    let in_window = |second: &usize| window.contains(&middle(*second));
    let peak =
        (0..seconds.len()).filter(in_window).filter_map(|second| phase_at(&world.phases, middle(second)));
    figures.goodput_of_peak = ratio(work.iter().sum(), peak.map(|phase| phase.peak).sum());
    figures.ttft = percentiles(&mut together.ttfts);
    figures.jain = fair::jain(&portions);
    figures.light_share = fair::light_share(&portions);
    figures.retry_kept = ratio(kept as f64, came_back as f64);
    figures.extra_good = ratio(extra_good as f64, extra as f64);
    let marked = scenario.events.iter().find(|event| event.recover).map(|event| at(event.at));
    let disturbed = world.phases.iter().rfind(|phase| phase.disturbs).map(|phase| phase.since);
    figures.recovery = marked.or(disturbed).map(|when| {
        let second = |at: Nanos| at.0.div_ceil(SECOND) as usize;
        // What a fleet does that is not offered enough says nothing of what it could do.
        let before = world.phases.iter().rfind(|phase| phase.since < when);
        let usual = match before.filter(|phase| phase.times >= 1.0) {
            Some(phase) => usual(&seconds, second(phase.since.max(window.start)), second(when)),
            None => 1.0,
        };
        recovery(&seconds, second(when), usual)
    });
    (figures, seconds)
}

/// The counts of one class.
#[derive(Debug, Default)]
struct Counts {
    offered: u64,
    admitted: u64,
    good: u64,
    ttfts: Vec<Duration>,
}

impl Counts {
    fn add(&mut self, call: &Call, verdict: Verdict) {
        self.offered += 1;
        self.admitted += u64::from(call.granted.is_some());
        self.good += u64::from(verdict.good);
        self.ttfts.extend(verdict.ttft.filter(|_| call.granted.is_some()));
    }
}

/// Whether a request came when no more was offered than can be served, and had not been for a while.
fn is_calm(phase: &Phase, call: &Call) -> bool {
    phase.times <= 1.0 && call.arrived.since(phase.since) >= CALMS
}

/// The middle of a second.
fn middle(second: usize) -> Nanos {
    Nanos(second as u64 * SECOND + SECOND / 2)
}

fn phase_at(phases: &[Phase], when: Nanos) -> Option<&Phase> {
    phases.iter().rfind(|phase| phase.since <= when)
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// The 50th, 95th and 99th, by rank.
fn percentiles(values: &mut [Duration]) -> Option<[Duration; 3]> {
    values.sort_unstable();
    let rank = |share: f64| ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    let at = |share| values.get(rank(share)).copied();
    Some([at(0.5)?, at(0.95)?, at(0.99)?])
}
