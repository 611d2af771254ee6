//! Pictures: values over loads, and goodput over time.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Duration;

use traffic_dam_lab::evidence::chart::{self, ChartLine, IntoLogRange};

use crate::figures::Figures;
use crate::parts::loads::Point;
use crate::plan::{Arm, TTFT_SLO};

/// Draws goodput and TTFT over loads. Returns the files, relative to the document, and captions.
pub(crate) fn loads(out: &Path, points: &[Point]) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let folder = folder(out)?;
    let mut made = Vec::new();
    let lines = |value: fn(&Figures) -> Option<f64>| -> Vec<ChartLine> {
        let mut arms: Vec<Arm> = points.iter().map(|point| point.arm).collect();
        arms.dedup();
        let line = |arm: Arm| {
            let of_arm = points.iter().filter(|point| point.arm == arm);
            let values = of_arm.filter_map(|point| Some((point.load, value(&point.figures)?))).collect();
            ChartLine::new(arm.plain_title(), arm.is_ours(), values)
        };
        arms.into_iter().map(line).collect()
    };
    let most = points.iter().map(|point| point.load).fold(1.0, f64::max);
    let x = (0.7..most * 1.1).log_scale();
    let svg = chart::lines(
        ["Goodput", "offered load, × capacity", "% of peak"],
        (x, 0.0..115.0),
        &lines(|figures| Some(figures.of_peak * 100.0)),
        &[],
    )?;
    fs::write(folder.join("goodput.svg"), svg)?;
    made.push(("overload/goodput.svg".to_owned(), "Goodput over load, each arm a line".to_owned()));
    let x = (0.7..most * 1.1).log_scale();
    let svg = chart::lines(
        ["p99 TTFT of admitted streams", "offered load, × capacity", "ms"],
        (x, (20.0..20_000.0).log_scale()),
        &lines(|figures| figures.ttft.p99),
        &[((0.7, slo()), (most * 1.1, slo()))],
    )?;
    fs::write(folder.join("ttft.svg"), svg)?;
    made.push(("overload/ttft.svg".to_owned(), "p99 TTFT of admitted streams over load".to_owned()));
    Ok(made)
}

/// Draws goodput over time, with the moment of the death.
pub(crate) fn killed(
    out: &Path,
    arms: &[(Arm, Vec<f64>)],
    step: Duration,
    death: Duration,
) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let folder = folder(out)?;
    let time = |index: usize| (index as f64 + 0.5) * step.as_secs_f64() - death.as_secs_f64();
    let lines: Vec<ChartLine> = arms
        .iter()
        .map(|(arm, rates)| {
            let points = rates.iter().enumerate().map(|(index, rate)| (time(index), *rate)).collect();
            ChartLine::new(arm.plain_title(), arm.is_ours(), points)
        })
        .collect();
    let most = arms.iter().flat_map(|(_, rates)| rates).copied().fold(1.0, f64::max) * 1.2;
    let end = arms.iter().map(|(_, rates)| time(rates.len())).fold(1.0, f64::max);
    let svg = chart::lines(
        ["Goodput when one of three workers dies", "seconds since its death", "good first tokens/s"],
        (time(0)..end, 0.0..most),
        &lines,
        &[((0.0, 0.0), (0.0, most))],
    )?;
    fs::write(folder.join("killed.svg"), svg)?;
    Ok(vec![("overload/killed.svg".to_owned(), "Goodput over time around the death of a worker".to_owned())])
}

/// Draws the limit and goodput over time around a stall of one second.
pub(crate) fn hiccups(
    out: &Path,
    limits: &[ChartLine],
    goodput: &[ChartLine],
) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let folder = folder(out)?;
    let mut made = Vec::new();
    for (lines, file, title, unit) in [
        (limits, "hiccup-limit.svg", "The limit around a stall of a second", "requests at once"),
        (goodput, "hiccup-goodput.svg", "Goodput around a stall of a second", "good first tokens/s"),
    ] {
        let points = || lines.iter().flat_map(|line| &line.points);
        let most = points().map(|(_, value)| *value).fold(1.0, f64::max) * 1.2;
        let ends =
            points().map(|(at, _)| *at).fold((0.0, 1.0), |(least, most), at| (at.min(least), at.max(most)));
        let marks = [0.0, 1.0].map(|at| ((at, 0.0), (at, most)));
        let x = ends.0..ends.1;
        let svg = chart::lines([title, "seconds since its start", unit], (x, 0.0..most), lines, &marks)?;
        fs::write(folder.join(file), svg)?;
        made.push((format!("overload/{file}"), title.to_owned()));
    }
    Ok(made)
}

/// Writes every step around every stall.
pub(crate) fn hiccups_csv(out: &Path, rows: &[String]) -> Result<(), Box<dyn Error>> {
    let text = format!("stall,seconds,limit,in_flight,good,refused\n{}\n", rows.join("\n"));
    Ok(fs::write(folder(out)?.join("hiccups.csv"), text)?)
}

fn slo() -> f64 {
    TTFT_SLO.as_secs_f64() * 1000.0
}

fn folder(out: &Path) -> Result<std::path::PathBuf, Box<dyn Error>> {
    let folder = out.join("overload");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
