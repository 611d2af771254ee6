//! A real engine, compared with a limit set by hand.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use traffic_dam_lab::evidence::stats::{quantile, sorted};

use crate::arrivals::{Output, Source, draw};
use crate::client::Client;
use crate::drive::{drive, soon, watch};
use crate::figures::{Figures, Rate, Run};
use crate::gateways::DamFile;
use crate::limit::{Span, readings};
use crate::parts::{ours, say};
use crate::plan::{Arm, WORKER, WorkerSize};
use crate::section::{Check, Section, Table, bare, ratio};
use crate::stage::{MIXING, Setting, Stage, closed_loop};

/// Answer lengths: the client sets them, and the engine follows exactly.
const OUTPUT: Output = Output::Asked { median: 60.0, sigma: 0.3 };
/// Shortest measurement of the capacity, so that it does not depend on chance.
const LEAST_LOOK: Duration = Duration::from_secs(20);
/// Time between two readings of the limit.
const STEP: Duration = Duration::from_millis(500);
/// Pause between two runs, in which the engine notices that clients have gone.
const REST: Duration = Duration::from_secs(1);
const CROWD: u32 = 20;
/// Least goodput of an adaptive limit, relative to `limit: slots`.
const LEAST: f64 = 0.95;

struct Turn {
    good: Rate,
    figures: Figures,
    /// Times to first token in seconds, sorted.
    first: Vec<f64>,
    limit: Option<Span>,
}

pub(crate) async fn run(stage: &Stage<'_>) -> Result<Section, Box<dyn Error>> {
    let options = stage.options;
    let engine = options.engine.ok_or("--engine says where the engine listens")?;
    let client = Arc::new(Client::varied(engine));
    let look = options.measured().max(LEAST_LOOK);
    let samples = closed_loop(&client, u64::from(options.engine_slots), MIXING + look, OUTPUT).await;
    let peak = Rate::complete(&samples, MIXING, look);
    if peak.requests == 0.0 {
        let outcome = samples.first().map(|sample| &sample.outcome);
        return Err(format!("the engine alone completed no answer: {outcome:?}").into());
    }
    let (requests, tokens) = (peak.requests, peak.tokens);
    say(format_args!("{}: {requests:.2} answers, {tokens:.0} tokens per second", options.engine_title));
    let text = format!(
        "{title}, {slots} sequences at once, on the CPU of this machine. Kept full by {slots} clients that ask again as \
         soon as they are answered, it gives **{requests:.2} answers or {tokens:.0} tokens per second**: 1×. \
         Prompts have some 30 words, no two alike, and answers 60 tokens in the median. Arms take turns, {pairs} times, \
         {seconds} s each; every turn has the same arrivals for all. Goodput: the median of the turns, with least and \
         most. Ratio: tokens of good answers over those of `limit: slots` in the same turn, the same way. Limit: over \
         all turns. TTFT in ms, the median of the turns.",
        title = options.engine_title,
        slots = options.engine_slots,
        pairs = options.pairs,
        seconds = options.seconds,
    );
    let mut section = Section::new(&format!("A real engine: {}", options.engine_title), text);
    let arms: Vec<Arm> = std::iter::once(Arm::Slots).chain(ours(options)).collect();
    let mut table = Table::new([
        "",
        "offered/s",
        "goodput/s",
        "tokens/s",
        "ratio",
        "limit: least / mean / most",
        "TTFT p50 / p90 / p99",
        "refused",
        "gave up",
        "errors",
    ]);
    for &load in &options.loads {
        let mut turns: Vec<Vec<Turn>> = arms.iter().map(|_| Vec::new()).collect();
        for pair in 0..options.pairs {
            for place in 0..arms.len() {
                // Each round begins with another arm.
                let place = (place + pair as usize) % arms.len();
                let turn = one(stage, engine, arms[place], load * requests, u64::from(pair), peak).await?;
                let what = format!("{load}×, {}, turn {}", arms[place].plain_title(), pair + 1);
                section.fault(&what, &turn.figures.faults);
                said(&what, &turn);
                turns[place].push(turn);
            }
        }
        for (arm, of_arm) in arms.iter().zip(&turns) {
            let ratios: Vec<f64> = of_arm
                .iter()
                .zip(&turns[0])
                .map(|(turn, slots)| turn.good.tokens / slots.good.tokens.max(1e-9))
                .collect();
            table.rows.push(row(&format!("{load}×, {}", arm.title()), of_arm, &ratios));
            if *arm != Arm::Slots {
                let median = quantile(&sorted(ratios.into_iter()), 0.5);
                let what = format!("goodput of `limit: slots` at {load}×, {}", arm.plain_title());
                section.checks.push(Check::at_least(what, LEAST, median, ratio));
            }
        }
    }
    section.tables.push((String::new(), table));
    Ok(section)
}

/// Runs one arm before the engine, for one turn.
async fn one(
    stage: &Stage<'_>,
    engine: SocketAddr,
    arm: Arm,
    rate: f64,
    pair: u64,
    peak: Rate,
) -> Result<Turn, Box<dyn Error>> {
    let options = stage.options;
    sleep(REST).await;
    let size = WorkerSize { slots: options.engine_slots, kv_tokens: options.engine_kv_tokens, ..WORKER };
    let file = DamFile::of(arm, size).ok_or("not an arm of the dam")?;
    let gateway = file.start(options, &[engine], stage.folder).await?;
    let mut setting = Setting::new(gateway, Vec::new());
    setting.client = Arc::new(Client::varied(setting.gateway.address));
    let (warm_up, measured) = (options.warm_up(), options.measured());
    let retry_spread = Source::retry_spread(CROWD, rate, warm_up + measured);
    let retry_spread: Vec<Source> =
        retry_spread.into_iter().map(|source| Source { output: OUTPUT, ..source }).collect();
    let start = soon();
    let (begin, end) = (start + warm_up, start + warm_up + measured);
    let ((spent, (), ()), mut samples, points) = tokio::join!(
        watch(setting.gateway.pid(), begin, end, async || ()),
        drive(&setting.client, draw(&retry_spread, options.seed + pair), start, None),
        readings(&setting, begin, end, STEP),
    );
    let good = Rate::of(&samples, warm_up, measured);
    samples.retain(|sample| sample.arrival.due >= warm_up);
    let first = sorted(samples.iter().filter_map(|sample| Some(sample.first()?.as_secs_f64())));
    let run = Run { samples, good, measured, spent, readings: None };
    Ok(Turn { good, figures: run.figures(peak), first, limit: Span::of(&points) })
}

fn said(what: &str, turn: &Turn) {
    let first = |q| bare(quantile(&turn.first, q).map(|seconds| seconds * 1000.0));
    say(format_args!(
        "{what}: goodput {:.2}/s, {:.0} tokens/s, limit {}, TTFT {} / {} / {} ms, {} refused, {} gave up{}{}",
        turn.good.requests,
        turn.good.tokens,
        turn.limit.map_or_else(|| "–".to_owned(), |limit| limit.to_string()),
        first(0.5),
        first(0.9),
        first(0.99),
        turn.figures.refused,
        turn.figures.gave_up,
        if turn.figures.errors > 0 { ", errors: " } else { "" },
        turn.figures.errors_by_kind,
    ));
}

fn row(title: &str, turns: &[Turn], ratios: &[f64]) -> Vec<String> {
    let spread = |values: Vec<f64>, digits: usize| {
        let values = sorted(values.into_iter());
        let shown =
            |q| quantile(&values, q).map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"));
        format!("{} ({}–{})", shown(0.5), shown(0.0), shown(1.0))
    };
    let limits: Vec<Span> = turns.iter().filter_map(|turn| turn.limit).collect();
    let of = |value: fn(&Span) -> f64| limits.iter().map(value);
    let limit = of(|span| span.least).reduce(f64::min).zip(of(|span| span.most).reduce(f64::max));
    let mean = of(|span| span.mean).sum::<f64>() / limits.len().max(1) as f64;
    let limit = limit.map(|(least, most)| Span { least, mean, most }.to_string());
    let first = |q| {
        let of_turns = turns.iter().filter_map(|turn| quantile(&turn.first, q));
        bare(quantile(&sorted(of_turns), 0.5).map(|seconds| seconds * 1000.0))
    };
    let sum = |count: fn(&Figures) -> usize| {
        turns.iter().map(|turn| count(&turn.figures)).sum::<usize>().to_string()
    };
    vec![
        title.to_owned(),
        spread(turns.iter().map(|turn| turn.figures.offered).collect(), 1),
        spread(turns.iter().map(|turn| turn.good.requests).collect(), 2),
        spread(turns.iter().map(|turn| turn.good.tokens).collect(), 0),
        spread(ratios.to_vec(), 3),
        limit.unwrap_or_else(|| "–".to_owned()),
        format!("{} / {} / {}", first(0.5), first(0.9), first(0.99)),
        sum(|figures| figures.refused),
        sum(|figures| figures.gave_up),
        sum(|figures| figures.errors),
    ]
}
