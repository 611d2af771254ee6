//! Six workers at twice their capacity, of which one dies or hangs.

use std::error::Error;

use crate::parts::killed::{AFTER, BEFORE, LOAD, RETURNED, back_after, count, death, goodput, mean, steps};
use crate::parts::{ours, say};
use crate::plan::WorkerSize;
use crate::sample::Outcome;
use crate::section::{Check, Section, Table, seconds};
use crate::servers::Server;
use crate::stage::{FULL, Stage};

/// Six of these are carried by two cores, with gateway and generator.
const SMALL: WorkerSize = WorkerSize { slots: 16, kv_tokens: 65_536, mean_output: 40 };
const WORKERS: u64 = 6;

const TEXT: &str = "\
Six workers of 16 slots at 2×. *Killed* shows at once, by connections that are refused; *stopped* by silence on all
streams, after 2 s and what it takes to look. Back: to the first half second from which on a mean of 3 s reaches 95 % of
five sixths of the goodput of the 8 s before. Lost: streams that had begun there. Failed: requests without a token yet
that met an error.";

/// What a worker is dealt, and after how long goodput must be back: the time to find it, and 2 s.
type Blow = (&'static str, f64, fn(&mut Server) -> Result<(), Box<dyn Error>>);
const BLOWS: [Blow; 2] = [
    ("killed", 2.0, |worker| {
        worker.kill();
        Ok(())
    }),
    ("stopped", 4.5, |worker| worker.pause()),
];

pub(crate) async fn run(stage: &Stage<'_>) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new("One of six workers fails", TEXT);
    let mut table =
        Table::new(["", "goodput/s before", "remaining", "goodput/s after", "back after", "lost", "failed"]);
    let alone = stage.best(SMALL, &FULL[1..2], stage.options.measured().div_f64(2.0)).await?;
    let rate = alone.requests * WORKERS as f64 * LOAD;
    for arm in ours(stage.options) {
        for (name, allowed, blow) in BLOWS {
            let what = format!("{name}, {}", arm.plain_title());
            let run = death(stage, arm, (SMALL, WORKERS), rate, blow).await?;
            let (figures, samples) = (run.figures(alone), run.samples);
            section.fault(&what, &figures.faults);
            let rates = goodput(&samples, BEFORE + AFTER);
            let before = mean(&rates[..steps(BEFORE)]);
            let remaining = before * (WORKERS - 1) as f64 / WORKERS as f64;
            let back = back_after(&rates[steps(BEFORE)..], remaining * RETURNED);
            let after = mean(&rates[rates.len() - 6..]);
            let lost = count(&samples, |outcome| matches!(outcome, Outcome::Cut { first: Some(_) }));
            let failed = count(&samples, |outcome| {
                matches!(outcome, Outcome::Cut { first: None } | Outcome::Failed(_))
            });
            let shown = back.map_or_else(|| "never".to_owned(), seconds);
            say(format_args!("{what}: back after {shown}, {lost} lost, {failed} failed"));
            let number = |value: f64| format!("{value:.1}");
            table.rows.push(vec![
                what.clone(),
                number(before),
                number(remaining),
                number(after),
                shown,
                lost.to_string(),
                failed.to_string(),
            ]);
            section.checks.push(Check::at_most(format!("back, {what}"), allowed, back, seconds));
            section.checks.push(Check::at_most(
                format!("requests without a token that failed, {what}"),
                0.0,
                Some(failed as f64),
                |n| format!("{n:.0}"),
            ));
        }
    }
    section.tables.push((String::new(), table));
    Ok(section)
}
