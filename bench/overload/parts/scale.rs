//! One, two and four workers: how goodput scales.

use std::error::Error;

use crate::gateways::DamFile;
use crate::parts::{ours, say};
use crate::plan::{WORKER, WorkerSize};
use crate::section::{Section, Table};
use crate::stage::{FULL, Stage};

/// Size of each worker: two cores can run four of them together with gateway and generator.
const SMALL: WorkerSize = WorkerSize { slots: 16, kv_tokens: 65_536, ..WORKER };
/// High enough that the workers always have requests.
const LOAD: f64 = 2.0;
/// Expected goodput of several workers, relative to the sum of each alone: the gateway's default.
const FACTOR: f64 = 0.83;

const TEXT: &str = "\
Workers of 16 slots at 2× of what they take together. Efficiency: goodput in tokens over so many times that of one. The
rule is what the gateway supposes where sizes are told: so many times 0.83 of one, and never less than one.";

pub(crate) async fn run(stage: &Stage<'_>) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new("More workers", TEXT);
    let mut table = Table::new(["", "workers", "good tokens/s", "efficiency", "the rule"]);
    let alone = stage.best(SMALL, &FULL[1..2], stage.options.measured().div_f64(2.0)).await?;
    for arm in ours(stage.options) {
        let mut of_one = None;
        for workers in [1_u64, 2, 4] {
            let file = DamFile::of(arm, SMALL).ok_or("not an arm of the dam")?;
            let setting = stage.dam(&file, SMALL, workers).await?;
            let count = workers as f64;
            let rate = alone.requests * count * LOAD;
            stage.settle(&setting, rate / LOAD, stage.options.settling()).await;
            let run = stage.retry_spread(&setting, rate, stage.options.measured()).await;
            let what = format!("{}, {workers} workers", arm.plain_title());
            section.fault(&what, &run.figures(alone).faults);
            let good = run.good.tokens;
            let one = *of_one.get_or_insert(good);
            let (efficiency, rule) = (good / (one * count).max(1e-9), (FACTOR * count).max(1.0) / count);
            say(format_args!(
                "{what}: {good:.0} good tokens/s, efficiency {efficiency:.2}, the rule {rule:.2}"
            ));
            table.rows.push(vec![
                arm.title().to_owned(),
                workers.to_string(),
                format!("{good:.0}"),
                format!("{efficiency:.2}"),
                format!("{rule:.2}"),
            ]);
        }
    }
    section.tables.push((String::new(), table));
    Ok(section)
}
