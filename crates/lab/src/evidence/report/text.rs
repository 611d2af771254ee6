//! Renders the report as Markdown. The page shows the same parts.

use std::collections::BTreeMap;

use super::{Expectation, ExperimentReport, GoodputChange};
use crate::evidence::figures::CellFigures;
use crate::evidence::markdown::write_table;
use crate::evidence::stats::Interval;

pub(super) struct TextTable {
    pub(super) title: &'static str,
    pub(super) head: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
}

pub(super) fn verdict(report: &ExperimentReport) -> Vec<String> {
    if report.faults.is_empty() {
        let missed = report.expectations.iter().filter(|expected| !expected.held).count();
        let all = report.expectations.len();
        return vec![
            format!(
                "The data are valid. {} of {all} expectations were met, {missed} were missed.",
                all - missed
            ),
            format!(
                "The capacity of one worker (1×) is {:.1} good answers per second. A good answer is complete and began \
                 within {:.0} ms. In brackets: 95 % intervals, bootstrapped over blocks of two seconds.",
                report.capacity, report.ttft_slo_ms
            ),
        ];
    }
    let mut lines = vec!["No conclusion: the data are not valid.".to_owned()];
    lines.extend(report.faults.iter().map(|fault| format!("{} – {}", fault.check, fault.what)));
    lines
}

/// Returns all tables; none if the data are not sound.
pub(super) fn tables(report: &ExperimentReport) -> Vec<TextTable> {
    if !report.faults.is_empty() {
        return Vec::new();
    }
    let ttft = |ttft: Option<Interval>| ttft.map_or_else(|| "–".to_owned(), |ttft| shown(ttft, 0));
    let figures = |cell: &CellFigures| {
        let [p50, p95, p99] = cell.ttft.map(ttft);
        vec![
            format!("{}×", cell.load),
            cell.workers.to_string(),
            cell.arm.to_string(),
            format!("{:.1}", cell.offered),
            shown(cell.goodput, 1),
            format!("{:.1} %", cell.of_capacity() * 100.0),
            p50,
            p95,
            p99,
        ]
    };
    let endings = |cell: &CellFigures| {
        let [generator, gateway, workers, machine] = cell.cores;
        vec![
            format!("{}×", cell.load),
            cell.workers.to_string(),
            cell.arm.to_string(),
            counted(&cell.refused),
            counted(&cell.errors),
            cell.gave_up.to_string(),
            format!("{generator:.2} / {gateway:.2} / {workers:.2} / {machine:.2}"),
            format!("{:.0}", cell.gateway_us),
            format!("{:.0}", cell.gateway_mib),
        ]
    };
    let changed = |change: &GoodputChange| vec![format!("{}×", change.load), shown(change.gained, 1)];
    let expected = |expected: &Expectation| {
        let Expectation { what, wanted, got, held } = expected;
        let verdict = if *held { "met" } else { "MISSED" };
        vec![what.clone(), wanted.clone(), got.clone(), verdict.to_owned()]
    };
    vec![
        TextTable {
            title: "Expectations",
            head: vec!["", "wanted", "measured", ""],
            rows: report.expectations.iter().map(expected).collect(),
        },
        TextTable {
            title: "Effect of the gateway",
            head: vec!["load", "good answers/s gained"],
            rows: report.changes.iter().map(changed).collect(),
        },
        TextTable {
            title: "Goodput and TTFT",
            head: vec![
                "load",
                "workers",
                "arm",
                "offered/s",
                "good/s",
                "of capacity",
                "TTFT p50 ms",
                "p95 ms",
                "p99 ms",
            ],
            rows: report.cells.iter().map(figures).collect(),
        },
        TextTable {
            title: "Outcomes and resources",
            head: vec![
                "load",
                "workers",
                "arm",
                "refused",
                "errors",
                "gave up",
                "cores: generator / gateway / workers / all",
                "gateway µs per request",
                "gateway MiB",
            ],
            rows: report.cells.iter().map(endings).collect(),
        },
    ]
}

fn shown(interval: Interval, digits: usize) -> String {
    let Interval { value, low, high } = interval;
    format!("{value:.digits$} ({low:.digits$}–{high:.digits$})")
}

fn counted(kinds: &BTreeMap<String, u64>) -> String {
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    if kinds.is_empty() { "0".to_owned() } else { kinds.join(", ") }
}

pub(super) fn write(report: &ExperimentReport) -> String {
    let mut out = String::from("# The worker alone and behind the gateway\n\n");
    for said in verdict(report) {
        out.push_str(&format!("{said}\n\n"));
    }
    for TextTable { title, head, rows } in tables(report) {
        out.push_str(&format!("## {title}\n\n"));
        write_table(&mut out, &head, &rows, head.len());
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}
