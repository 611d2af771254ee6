//! Goodput relative to `limit: slots`, run at the same time before separate workers.

use std::error::Error;
use std::time::Duration;

use traffic_dam_lab::evidence::stats::{quantile, sorted};

use super::shape::{CACHED_8, CACHED_64, HALF_CACHED, JITTER, SPIKES, SPREAD, STEADY, Shape};
use super::stalls::{LOAD, NO_PEAK};
use super::trial::{Disturbance, Process, Trial, TrialRun, side_by_side};
use crate::limit::Span;
use crate::parts::say;
use crate::plan::Arm;
use crate::section::{Check, Section, Table, bare, percent, ratio};
use crate::stage::Stage;

/// Repeated stalls: their length, and the time from one start to the next.
const STALL: Duration = Duration::from_millis(300);
const APART: Duration = Duration::from_secs(10);
/// Loads, each with the least goodput relative to `limit: slots`.
const REPEATED: [(f64, f64); 3] = [(0.8, 0.97), (2.0, 0.95), (10.0, 0.93)];

/// Mixes, with what changes after settling, and the least goodput relative to `limit: slots`.
const MIXES: [(Shape, Option<&str>, f64); 3] =
    [(CACHED_8, Some(HALF_CACHED), 0.95), (CACHED_64, Some(HALF_CACHED), 0.95), (SPREAD, None, 0.90)];
const MIX_LOAD: f64 = 2.0;
/// Rounds of each mix.
const ROUNDS: u64 = 3;

/// Largest share of requests that may be refused because of jitter, below the capacity.
const MOST_REFUSED: f64 = 0.005;

/// Heads of a table of ratios, after its first column.
const HEAD: [&str; 5] =
    ["goodput/s", "of `limit: slots`", "limit: least / mean / most", "TTFT p50 / p99", "refused"];

fn table(first: &str) -> Table {
    let mut table = Table::new([""; 6]);
    table.head = std::iter::once(first).chain(HEAD).map(str::to_owned).collect();
    table
}

/// Measures a stall of 0.3 s every ten seconds, at several loads.
pub(super) async fn repeated(
    stage: &Stage<'_>,
    arms: &[Arm],
    section: &mut Section,
) -> Result<Table, Box<dyn Error>> {
    let mut table = table("0.3 s every 10 s");
    // One minute, unless the run is a short one.
    let stalls = (stage.options.seconds * 3 / 4).max(2) as u32;
    for (load, least) in REPEATED {
        let disturbance = |index| Disturbance::Stall {
            process: Process::Worker,
            at: APART * index + APART / 2,
            length: STALL,
        };
        let trial = Trial {
            shape: STEADY,
            rate: STEADY.capacity * load,
            length: APART * stalls,
            change_first: None,
            disturbances: (0..stalls).map(disturbance).collect(),
            seed: stage.options.seed,
        };
        let all = side_by_side(stage, &[trial], &with_slots(arms)).await?.concat();
        for (watched, of_slots) in all.iter().zip(ratios(&all)) {
            let what = format!("{load}×, {}", watched.arm.plain_title());
            section.fault(&what, &watched.run.figures(NO_PEAK).faults);
            push(&mut table, &what, watched, of_slots);
            if watched.arm != Arm::Slots {
                let what = format!("goodput under stalls of 0.3 s, of `limit: slots`: {what}");
                section.checks.push(Check::at_least(what, least, of_slots, ratio));
            }
        }
    }
    Ok(table)
}

/// Measures first tokens of two kinds, and first tokens spread as widely as a real engine's.
pub(super) async fn mixes(
    stage: &Stage<'_>,
    arms: &[Arm],
    section: &mut Section,
) -> Result<Table, Box<dyn Error>> {
    let mut table = table("at 2×");
    for (shape, change_first, wanted) in MIXES {
        let mut of_arm: Vec<(Vec<f64>, Vec<f64>)> = vec![Default::default(); arms.len()];
        let trial = |round| Trial {
            shape,
            rate: shape.capacity * MIX_LOAD,
            length: stage.options.measured() * 2,
            change_first,
            disturbances: Vec::new(),
            seed: stage.options.seed + round,
        };
        let trials: Vec<Trial> = (0..ROUNDS).map(trial).collect();
        // Small workers give so few answers that all rounds can run at once.
        let at_once = if shape.size.slots > 8 { 1 } else { trials.len() };
        let mut rounds = Vec::new();
        for some in trials.chunks(at_once) {
            rounds.extend(side_by_side(stage, some, &with_slots(arms)).await?);
        }
        for (round, all) in rounds.iter().enumerate() {
            for (place, (watched, of_slots)) in all.iter().zip(ratios(all)).enumerate() {
                let what = format!("{}, {}, {}", shape.title, round + 1, watched.arm.plain_title());
                section.fault(&what, &watched.run.figures(NO_PEAK).faults);
                push(&mut table, &what, watched, of_slots);
                // The first arm is `limit: slots`.
                if let Some((ratios, limits)) = place.checked_sub(1).and_then(|place| of_arm.get_mut(place)) {
                    ratios.extend(of_slots);
                    limits.extend(Span::of(&watched.points).map(|span| span.least));
                }
            }
        }
        for (arm, (ratios, limits)) in arms.iter().zip(of_arm) {
            let what = format!("{}, {}", shape.title, arm.plain_title());
            let median = quantile(&sorted(ratios.into_iter()), 0.5);
            let goodput = format!("goodput, of `limit: slots`, median of {ROUNDS}: {what}");
            section.checks.push(Check::at_least(goodput, wanted, median, ratio));
            if change_first.is_some() {
                let (slots, least) = (f64::from(shape.size.slots), limits.into_iter().reduce(f64::min));
                let limit = format!("least limit: {what}");
                section.checks.push(Check::at_least(limit, slots, least, |limit| format!("{limit:.0}")));
            }
        }
    }
    Ok(table)
}

/// Measures jitter and spikes below the capacity.
pub(super) async fn jitter(
    stage: &Stage<'_>,
    arms: &[Arm],
    section: &mut Section,
) -> Result<Table, Box<dyn Error>> {
    let mut table = table("at 0.8×");
    let trials = [JITTER, SPIKES].map(|shape| Trial {
        shape,
        rate: shape.capacity * LOAD,
        length: stage.options.measured() * 3,
        change_first: None,
        disturbances: Vec::new(),
        seed: stage.options.seed,
    });
    for (trial, all) in trials.iter().zip(side_by_side(stage, &trials, arms).await?) {
        for watched in &all {
            let what = format!("{}, {}", trial.shape.title, watched.arm.plain_title());
            let figures = watched.run.figures(NO_PEAK);
            section.fault(&what, &figures.faults);
            push(&mut table, &what, watched, None);
            let refused = figures.refused as f64 / watched.run.samples.len().max(1) as f64;
            let what = format!("refused at 0.8×: {what}");
            section.checks.push(Check::at_most(what, MOST_REFUSED, Some(refused), percent));
        }
    }
    Ok(table)
}

fn with_slots(arms: &[Arm]) -> Vec<Arm> {
    std::iter::once(Arm::Slots).chain(arms.iter().copied()).collect()
}

/// Returns the goodput of each run, relative to the first.
fn ratios(all: &[TrialRun]) -> Vec<Option<f64>> {
    let of = |watched: &TrialRun| watched.run.good.requests;
    let first = all.first().map(of).filter(|first| *first > 0.0);
    all.iter().map(|watched| first.map(|first| of(watched) / first)).collect()
}

fn push(table: &mut Table, what: &str, watched: &TrialRun, of_slots: Option<f64>) {
    let figures = watched.run.figures(NO_PEAK);
    let limit = Span::of(&watched.points).map_or_else(|| "–".to_owned(), |span| span.to_string());
    let of_slots = of_slots.map_or_else(|| "–".to_owned(), ratio);
    say(format_args!(
        "{what}: goodput {:.1}/s, {of_slots} of `limit: slots`, limit {limit}, TTFT p99 {} ms, {} refused",
        figures.goodput,
        bare(figures.ttft.p99),
        figures.refused
    ));
    table.rows.push(vec![
        what.to_owned(),
        format!("{:.1}", figures.goodput),
        of_slots,
        limit,
        figures.ttft.to_string(),
        figures.refused.to_string(),
    ]);
}
