//! Renders the report as one page: it contains its pictures and loads nothing.

use plotters::coord::combinators::IntoLogRange;

use super::ExperimentReport;
use super::text::{TextTable, tables, verdict};
use crate::evidence::chart::{self, ChartError, ChartLine};
use crate::evidence::figures::{CellFigures, wait};
use crate::evidence::record::{Arm, RecordedRun, cells};
use crate::evidence::stats::Interval;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;display:block;overflow-x:auto;font-size:.875rem}\
td,th{padding:.25rem .6rem;border-bottom:1px solid #8886;text-align:left;white-space:nowrap}\
.fault{color:#b00020;font-weight:600}\
@media(prefers-color-scheme:dark){.fault{color:#ff8a80}}\
svg{max-width:100%;height:auto;margin:.5rem 0}";

/// TTFT range of a heat map, as multiples of the SLO.
const MAP_RANGE: (f64, f64) = (0.02, 20.0);

/// Start of the TTFT axis: nobody notices differences below it.
const FASTEST_MS: f64 = 10.0;

pub(super) fn write(report: &ExperimentReport, runs: &[RecordedRun]) -> Result<String, ChartError> {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>The worker alone and behind the gateway</title>\n<style>{STYLE}</style>\n\
         <h1>The worker alone and behind the gateway</h1>\n"
    );
    let class = if report.faults.is_empty() { "" } else { " class=\"fault\"" };
    for said in verdict(report) {
        out += &format!("<p{class}>{}</p>\n", escaped(&said));
    }
    if report.faults.is_empty() {
        for picture in over_load(report)? {
            out += &picture;
        }
    }
    for table in tables(report) {
        write_table(&mut out, &table);
    }
    if report.faults.is_empty() {
        out += "<h2>TTFT over time</h2>\n\
                <p>The darker, the more requests of that second had this TTFT; the line is the TTFT SLO.</p>\n";
        for picture in maps(report, runs)? {
            out += &picture;
        }
    }
    Ok(out)
}

fn write_table(out: &mut String, table: &TextTable) {
    let row = |tag: &str, cells: &mut dyn Iterator<Item = String>| {
        let cells: String = cells.map(|cell| format!("<{tag}>{}</{tag}>", escaped(&cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    *out += &format!("<h2>{}</h2>\n<table>\n", escaped(table.title));
    *out += &row("th", &mut table.head.iter().map(|cell| (*cell).to_owned()));
    for cells in &table.rows {
        *out += &row("td", &mut cells.iter().cloned());
    }
    *out += "</table>\n";
}

fn over_load(report: &ExperimentReport) -> Result<[String; 2], ChartError> {
    let of_arm = |arm: Arm| report.cells.iter().filter(move |cell| cell.arm == arm && cell.workers == 1);
    let lines = |value: fn(&CellFigures) -> Option<Interval>| {
        [Arm::Gateway, Arm::Direct].map(|arm| {
            let values: Vec<_> = of_arm(arm).filter_map(|cell| Some((cell.load, value(cell)?))).collect();
            let points = values.iter().map(|(load, interval)| (*load, interval.value)).collect();
            let spread = values.iter().map(|(load, interval)| (*load, interval.low, interval.high)).collect();
            ChartLine { spread, ..ChartLine::new(arm.to_string(), arm == Arm::Gateway, points) }
        })
    };
    let goodput = lines(|cell| Some(cell.goodput));
    let ttft = lines(|cell| cell.ttft[2]);
    let loads = || report.cells.iter().map(|cell| cell.load);
    let (least, most) = (loads().fold(1.0, f64::min) * 0.9, loads().fold(1.0, f64::max) * 1.1);
    let highest = goodput.iter().flat_map(|line| &line.spread).map(|(_, _, high)| *high);
    let highest = highest.fold(report.capacity, f64::max) * 1.15;
    let slowest = ttft.iter().flat_map(|line| &line.spread).map(|(_, _, high)| *high);
    let slowest = slowest.fold(report.ttft_slo_ms, f64::max) * 1.5;
    let (best, slo) = (report.capacity, report.ttft_slo_ms);
    Ok([
        chart::lines(
            ["Goodput", "offered load, × capacity", "good answers/s"],
            ((least..most).log_scale(), 0.0..highest),
            &goodput,
            &[((least, best), (most, best))],
        )?,
        chart::lines(
            ["p99 TTFT", "offered load, × capacity", "ms"],
            ((least..most).log_scale(), (FASTEST_MS..slowest).log_scale()),
            &ttft,
            &[((least, slo), (most, slo))],
        )?,
    ])
}

fn maps(report: &ExperimentReport, runs: &[RecordedRun]) -> Result<Vec<String>, ChartError> {
    let slo = report.ttft_slo_ms;
    let one_worker = cells(runs).into_iter().filter(|(cell, _)| cell.workers == 1);
    one_worker
        .map(|(cell, runs)| {
            // Repetitions are overlaid.
            let points: Vec<(f64, f64)> = runs
                .iter()
                .flat_map(|run| run.requests.iter())
                .filter_map(|request| Some((request.at / 1000.0, wait(request)?)))
                .collect();
            let length = points.iter().map(|(at, _)| *at).fold(0.0, f64::max).ceil() as usize;
            let range = (slo * MAP_RANGE.0, slo * MAP_RANGE.1);
            chart::heat([&cell.to_string(), "s, warm-up included", "TTFT, ms"], length, range, &points, slo)
        })
        .collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
