//! A few critical requests beside an overload of batch requests.

use std::error::Error;

use crate::arrivals::{Class, Source};
use crate::figures::Run;
use crate::gateways::DamFile;
use crate::parts::{ours, say};
use crate::plan::{TTFT_SLO, WORKER};
use crate::section::{Check, Section, Table, bare, millis, percent};
use crate::stage::Stage;

/// Batch load, in multiples of the capacity.
const FLOOD: f64 = 10.0;
/// Critical load and the share reserved for it, in multiples of the capacity.
const TRICKLE: f64 = 0.1;
const RESERVE: f64 = 0.15;

const TEXT: &str = "\
Batch requests at 10×, and critical requests at a tenth of the capacity, for which 15 % of the limit are
reserved.";

pub(crate) async fn run(stage: &Stage<'_>) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new("Critical requests beside a flood", TEXT);
    let mut table =
        Table::new(["", "offered", "good", "refused", "TTFT p50 / p99", "goodput of peak, all classes"]);
    for arm in ours(stage.options) {
        let mut file = DamFile::of(arm, WORKER).ok_or("not an arm of the dam")?;
        file.reserve = Some(RESERVE);
        let setting = stage.dam(&file, WORKER, 1).await?;
        stage.settle(&setting, stage.peak.requests, stage.options.settling()).await;
        let length = stage.options.measured();
        let until = stage.options.warm_up() + length;
        let batch = Source::retry_spread(10, FLOOD * stage.peak.requests, until);
        let mut sources: Vec<Source> =
            batch.into_iter().map(|source| Source { class: Class::Batch, ..source }).collect();
        let critical = Source::new(100, TRICKLE * stage.peak.requests, until);
        sources.push(Source { class: Class::Critical, ..critical });
        let run = stage.offer(&setting, &sources, length, None).await;
        let all = run.figures(stage.peak);
        let of_class = |class| Run {
            samples: run.samples.iter().filter(|sample| sample.arrival.class == class).cloned().collect(),
            ..run.clone()
        };
        let critical = of_class(Class::Critical).figures(stage.peak);
        section.fault(&arm.plain_title(), &all.faults);
        say(format_args!("critical, {}: TTFT p99 {} ms", arm.plain_title(), bare(critical.ttft.p99)));
        for (name, figures) in
            [("critical", &critical), ("batch", &of_class(Class::Batch).figures(stage.peak))]
        {
            table.rows.push(vec![
                format!("{name}, {}", arm.title()),
                format!("{:.0}", figures.offered * length.as_secs_f64()),
                percent(figures.of_offered),
                figures.refused.to_string(),
                figures.ttft.to_string(),
                percent(all.of_peak),
            ]);
        }
        let title = arm.plain_title();
        let slo = TTFT_SLO.as_secs_f64() * 1000.0;
        let what = format!("TTFT p99 of critical beside 10× of batch, {title}");
        section.checks.push(Check::at_most(what, slo, critical.ttft.p99, millis));
        let what = format!("critical requests that were good beside 10× of batch, {title}");
        section.checks.push(Check::at_least(what, 0.98, Some(critical.of_offered), percent));
    }
    section.tables.push((String::new(), table));
    Ok(section)
}
