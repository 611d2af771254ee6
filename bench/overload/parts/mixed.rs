//! Non-streamed answers, alone and among streams; they have no first token to measure.

use std::error::Error;

use crate::arrivals::Source;
use crate::figures::Times;
use crate::parts::{ours, say};
use crate::sample::{Outcome, Sample};
use crate::section::{Check, Section, Table, percent};
use crate::stage::Stage;

const LOAD: f64 = 2.0;
/// The share of requests that ask for a stream.
const MIXES: [(f64, &str); 2] = [(0.0, "no streams"), (0.5, "half streams")];

const TEXT: &str = "\
At 2×. A non-streamed answer is good if it comes within the TTFT SLO plus 100 ms for each of its tokens.";

pub(crate) async fn run(stage: &Stage<'_>) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new("Answers in one piece", TEXT);
    let mut table = Table::new([
        "",
        "goodput/s",
        "goodput of peak",
        "TTFT p50 / p99",
        "whole answer p50 / p99",
        "refused",
        "errors",
    ]);
    for arm in ours(stage.options) {
        for (streamed, mix) in MIXES {
            let setting = stage.arm(arm).await?;
            stage.settle(&setting, stage.peak.requests, stage.options.settling()).await;
            let length = stage.options.measured();
            let until = stage.options.warm_up() + length;
            let retry_spread = Source::retry_spread(20, LOAD * stage.peak.requests, until);
            let sources: Vec<Source> =
                retry_spread.into_iter().map(|source| Source { streamed, ..source }).collect();
            let run = stage.offer(&setting, &sources, length, None).await;
            let figures = run.figures(stage.peak);
            let whole = Times::of(run.samples.iter().filter_map(whole));
            let title = format!("{mix}, {}", arm.title());
            say(format_args!("{title}: {} of peak", percent(figures.of_peak)));
            section.fault(&title, &figures.faults);
            table.rows.push(vec![
                title,
                format!("{:.1}", figures.goodput),
                percent(figures.of_peak),
                figures.ttft.to_string(),
                whole.to_string(),
                figures.refused.to_string(),
                figures.errors.to_string(),
            ]);
            let what = format!("goodput of peak at 2×, {mix}, {}", arm.plain_title());
            section.checks.push(Check::at_least(what, 0.95, Some(figures.of_peak), percent));
        }
    }
    section.tables.push((String::new(), table));
    Ok(section)
}

fn whole(sample: &Sample) -> Option<std::time::Duration> {
    match sample.outcome {
        Outcome::Served { took, .. } if !sample.arrival.streamed => Some(took),
        _ => None,
    }
}
