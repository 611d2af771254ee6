//! Every arm at every load.

use std::error::Error;
use std::time::Duration;

use crate::figures::Figures;
use crate::gateways::NginxLimits;
use crate::parts::say;
use crate::picture;
use crate::plan::{Arm, TTFT_SLO, WORKER};
use crate::section::{Check, Section, Table, bare, millis, percent};
use crate::stage::Stage;

/// The results of one arm at one load.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) arm: Arm,
    pub(crate) load: f64,
    pub(crate) figures: Figures,
}

/// The load at which nginx's setting is chosen.
const CHOSEN_AT: f64 = 2.0;

const TEXT: &str = "\
Offered: arrivals of a Poisson process, drawn before the run; no arrival waits for an answer. Good: the
first token came within 1 s of the time when the request was due, and the stream is complete; goodput is
counted when the first token comes. % of peak: tokens of good answers, compared with the worker's own
maximum; below 1× it only shows how long the answers were, and % of offered is the relevant figure. TTFT: of
admitted streams; a client that gave up after 10 s counts as 10 s. Refusal: time to the refusal as clients
saw it, and as in the gateway's own histogram (interpolated within its buckets). The clients' figure leaves
out refusals that had first waited in the queue, the gateway's figure leaves out that wait. Untold: refusals
without `Retry-After`. Errors: broken streams and other statuses. Limit: the value of the limit algorithm at
the end. CPU in % of one core; *all* is everything on the machine. Times in ms.";

/// Measures all points and returns the results.
pub(crate) async fn run(stage: &mut Stage<'_>) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new("Every arm at every load", TEXT);
    let options = stage.options;
    if options.arms.contains(&Arm::Nginx) && options.nginx.is_some() {
        section.tables.push(choose(stage).await?);
    }
    let mut points = Vec::new();
    for &arm in &options.arms {
        match measure(stage, arm).await {
            Ok(measured) => points.extend(measured),
            Err(error) => {
                say(format_args!("{}: {error}", arm.plain_title()));
                section.faults.push(format!("{}: not run: {error}", arm.plain_title()));
            }
        }
    }
    for &load in &options.loads {
        let mut table = Table::new([
            "",
            "offered/s",
            "goodput/s",
            "% of offered",
            "% of peak",
            "TTFT p50 / p99",
            "refused",
            "refusal p50 / p99",
            "the dam's own",
            "untold",
            "gave up",
            "errors",
            "limit",
            "CPU: generator / gateway / all",
        ]);
        for point in points.iter().filter(|point| point.load == load) {
            table.rows.push(row(point));
            let run = format!("{} at {load}×", point.arm.plain_title());
            section.fault(&run, &point.figures.faults);
        }
        section.tables.push((format!("### {load}× of the worker's capacity"), table));
    }
    for point in points.iter().filter(|point| point.figures.errors > 0) {
        let Point { arm, load, figures } = point;
        section.notes.push(format!("Errors, {} at {load}×: {}.", arm.plain_title(), figures.errors_by_kind));
    }
    for point in points.iter().filter(|point| point.arm.is_ours()) {
        section.checks.extend(checks(point));
    }
    section.pictures = picture::loads(&options.out, &points)?;
    Ok(section)
}

async fn measure(stage: &Stage<'_>, arm: Arm) -> Result<Vec<Point>, Box<dyn Error>> {
    let setting = stage.arm(arm).await?;
    if !matches!(arm, Arm::Direct | Arm::Nginx | Arm::Slots) {
        stage.settle(&setting, stage.peak.requests, stage.options.settling()).await;
    }
    let mut points = Vec::new();
    for &load in &stage.options.loads {
        let run = stage.retry_spread(&setting, load * stage.peak.requests, stage.options.measured()).await;
        let figures = run.figures(stage.peak);
        say(format_args!(
            "{} at {load}×: goodput {:.1}/s, {} of peak, TTFT p99 {} ms, refusal p99 {} ms{}",
            arm.plain_title(),
            figures.goodput,
            percent(figures.of_peak),
            bare(figures.ttft.p99),
            bare(figures.refusal.p99),
            if figures.faults.is_empty() {
                String::new()
            } else {
                format!("; {}", figures.faults.join("; "))
            },
        ));
        points.push(Point { arm, load, figures });
    }
    Ok(points)
}

/// Tries nginx's limits at twice the capacity, keeps the best, and lists them all.
async fn choose(stage: &mut Stage<'_>) -> Result<(String, Table), Box<dyn Error>> {
    let capacity = stage.peak.requests;
    let conn = |share: f64| Some((f64::from(WORKER.slots) * share) as u32);
    let rate = |share: f64| Some(((capacity * share) as u32, WORKER.slots / 4));
    let none = NginxLimits::default();
    let candidates = [
        NginxLimits { under_way: conn(0.9), ..none.clone() },
        NginxLimits { under_way: conn(1.0), ..none.clone() },
        NginxLimits { under_way: conn(1.15), ..none.clone() },
        NginxLimits { rate: rate(0.9), ..none.clone() },
        NginxLimits { rate: rate(1.0), ..none.clone() },
        NginxLimits { under_way: conn(1.15), rate: rate(1.0), ..none },
    ];
    let mut table = Table::new(["nginx told", "goodput/s", "% of peak", "TTFT p99"]);
    let mut best = 0.0;
    for limits in candidates {
        let setting = stage.nginx(&limits).await?;
        let length = stage.options.measured().div_f64(2.0).max(Duration::from_secs(3));
        let figures = stage.retry_spread(&setting, CHOSEN_AT * capacity, length).await.figures(stage.peak);
        table.rows.push(vec![
            limits.describe(),
            format!("{:.1}", figures.goodput),
            percent(figures.of_peak),
            bare(figures.ttft.p99),
        ]);
        say(format_args!("nginx {}: {} of peak", limits.describe(), percent(figures.of_peak)));
        if figures.of_peak >= best {
            best = figures.of_peak;
            stage.nginx = Some(limits);
        }
    }
    let chosen = stage.nginx.as_ref().map(NginxLimits::describe).unwrap_or_default();
    let title = format!(
        "nginx is configured with the worker's batch size and its measured rate. Of these settings, tried at \
         {CHOSEN_AT}×, the best is used from here on: {chosen}."
    );
    Ok((title, table))
}

fn row(point: &Point) -> Vec<String> {
    let figures = &point.figures;
    let cpu = |cores: f64| format!("{:.0}", cores * 100.0);
    let spent = figures.spent;
    let invalid = if figures.faults.is_empty() { "" } else { " (**does not count**)" };
    vec![
        format!("{}{invalid}", point.arm.title()),
        format!("{:.1}", figures.offered),
        format!("{:.1}", figures.goodput),
        percent(figures.of_offered),
        percent(figures.of_peak),
        figures.ttft.to_string(),
        figures.refused.to_string(),
        figures.refusal.to_string(),
        figures.own_refusal.unwrap_or_default().to_string(),
        figures.untold.to_string(),
        figures.gave_up.to_string(),
        figures.errors.to_string(),
        figures.limit.map_or_else(|| "–".to_owned(), |limit| format!("{limit:.0}")),
        format!(
            "{} / {} / {}",
            cpu(spent.generator),
            spent.gateway.map_or_else(|| "–".to_owned(), cpu),
            cpu(spent.machine)
        ),
    ]
}

/// Returns the targets of our arms at a load.
fn checks(point: &Point) -> Vec<Check> {
    let Point { arm, load, figures } = point;
    let run = |what: &str| format!("{what} at {load}×, {}", arm.plain_title());
    let mut checks = Vec::new();
    if *load < 1.0 {
        checks.push(Check::at_least(run("goodput of offered"), 0.98, Some(figures.of_offered), percent));
    } else if *load >= 2.0 {
        let least = if *load > 5.0 { 0.90 } else { 0.95 };
        checks.push(Check::at_least(run("goodput of peak"), least, Some(figures.of_peak), percent));
    }
    let slo = TTFT_SLO.as_secs_f64() * 1000.0;
    checks.push(Check::at_most(run("TTFT p99 of admitted"), slo, figures.ttft.p99, millis));
    if *load > 5.0 {
        checks.push(Check::at_most(run("TTFT p50 of admitted"), slo / 2.0, figures.ttft.p50, millis));
        let own = figures.own_refusal.and_then(|own| own.p99);
        checks.push(Check::at_most(run("refusal p99, the dam's own"), 5.0, own, millis));
        checks.push(Check::at_most(
            run("refusals without `Retry-After`"),
            0.0,
            Some(figures.untold as f64),
            |n| format!("{n:.0}"),
        ));
    }
    checks
}
