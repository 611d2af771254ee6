//! Pictures: lines over loads, and goodput over time.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::figures::Figures;
use crate::parts::loads::Point;
use crate::plan::{Arm, TTFT_SLO};

const SIZE: (u32, u32) = (980, 440);
/// On the right, what each line is: within the picture it would hide lines.
const LEGEND: u32 = 240;
const LEGEND_LINE: i32 = 24;
/// Told apart by most eyes, in print too; ours come first and are thick.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 90, 181),
    RGBColor(220, 50, 32),
    RGBColor(0, 130, 90),
    RGBColor(230, 159, 0),
    RGBColor(148, 90, 200),
    RGBColor(110, 110, 110),
    RGBColor(0, 170, 200),
    RGBColor(160, 80, 20),
];

/// A line: what it is, whether it is ours, and its points.
type Line = (String, bool, Vec<(f64, f64)>);
/// A thin grey line, from one point to another.
type Mark = ((f64, f64), (f64, f64));

/// Goodput and TTFT over loads. Gives the files, relative to the document, and what they show.
pub(crate) fn loads(out: &Path, points: &[Point]) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let folder = folder(out)?;
    let mut made = Vec::new();
    let lines = |value: fn(&Figures) -> Option<f64>| -> Vec<Line> {
        let mut arms: Vec<Arm> = points.iter().map(|point| point.arm).collect();
        arms.dedup();
        let line = |arm: Arm| {
            let of_arm = points.iter().filter(|point| point.arm == arm);
            let values = of_arm.filter_map(|point| Some((point.load, value(&point.figures)?))).collect();
            (arm.plain_title(), arm.is_ours(), values)
        };
        arms.into_iter().map(line).collect()
    };
    let most = points.iter().map(|point| point.load).fold(1.0, f64::max);
    let x = (0.7..most * 1.1).log_scale();
    draw(
        &folder.join("goodput.svg"),
        ["Goodput", "offered load, × capacity", "% of peak"],
        (x, 0.0..115.0),
        &lines(|figures| Some(figures.of_peak * 100.0)),
        &[],
    )?;
    made.push(("overload/goodput.svg".to_owned(), "Goodput over load, each arm a line".to_owned()));
    let x = (0.7..most * 1.1).log_scale();
    draw(
        &folder.join("ttft.svg"),
        ["p99 TTFT of admitted streams", "offered load, × capacity", "ms"],
        (x, (20.0..20_000.0).log_scale()),
        &lines(|figures| figures.ttft.p99),
        &[((0.7, slo()), (most * 1.1, slo()))],
    )?;
    made.push(("overload/ttft.svg".to_owned(), "p99 TTFT of admitted streams over load".to_owned()));
    Ok(made)
}

/// Goodput over time, with the moment of the death.
pub(crate) fn killed(
    out: &Path,
    arms: &[(Arm, Vec<f64>)],
    step: Duration,
    death: Duration,
) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let folder = folder(out)?;
    let time = |index: usize| (index as f64 + 0.5) * step.as_secs_f64() - death.as_secs_f64();
    let lines: Vec<Line> = arms
        .iter()
        .map(|(arm, rates)| {
            let points = rates.iter().enumerate().map(|(index, rate)| (time(index), *rate)).collect();
            (arm.plain_title(), arm.is_ours(), points)
        })
        .collect();
    let most = arms.iter().flat_map(|(_, rates)| rates).copied().fold(1.0, f64::max) * 1.2;
    let end = arms.iter().map(|(_, rates)| time(rates.len())).fold(1.0, f64::max);
    draw(
        &folder.join("killed.svg"),
        ["Goodput when one of three workers dies", "seconds since its death", "good first tokens/s"],
        (time(0)..end, 0.0..most),
        &lines,
        &[((0.0, 0.0), (0.0, most))],
    )?;
    Ok(vec![("overload/killed.svg".to_owned(), "Goodput over time around the death of a worker".to_owned())])
}

fn slo() -> f64 {
    TTFT_SLO.as_secs_f64() * 1000.0
}

fn folder(out: &Path) -> Result<std::path::PathBuf, Box<dyn Error>> {
    let folder = out.join("overload");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Draws lines, and `marks` as thin grey ones.
fn draw<X, Y>(
    file: &Path,
    [title, x_title, y_title]: [&str; 3],
    (x, y): (X, Y),
    lines: &[Line],
    marks: &[Mark],
) -> Result<(), Box<dyn Error>>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (plot, legend) = area.split_horizontally(SIZE.0 - LEGEND);
    let mut chart = ChartBuilder::on(&plot)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(62)
        .build_cartesian_2d(x, y)?;
    let plain = |value: &f64| format!("{value:.0}");
    chart
        .configure_mesh()
        .max_light_lines(1)
        .light_line_style(TRANSPARENT)
        .x_desc(x_title)
        .y_desc(y_title)
        .y_label_formatter(&plain)
        .x_label_formatter(&|value| format!("{}", (value * 10.0).round() / 10.0))
        .draw()?;
    for (from, to) in marks {
        chart.draw_series(LineSeries::new([*from, *to], BLACK.mix(0.4).stroke_width(1)))?;
    }
    for (index, ((name, thick, points), colour)) in lines.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let style = colour.stroke_width(if *thick { 3 } else { 2 });
        chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
        let y = 60 + LEGEND_LINE * index as i32;
        legend.draw(&PathElement::new([(4, y), (26, y)], style))?;
        legend.draw(&Text::new(name.as_str(), (34, y - 6), ("sans-serif", 14)))?;
    }
    area.present()?;
    Ok(())
}
