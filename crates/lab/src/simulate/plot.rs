//! Plots a scenario per second: good requests, good work, requests in flight, and TTFT. Each limit
//! algorithm has one line, the mean over its seeds.
//!
//! An SVG file only names its fonts, and the viewer renders the text. So no font is shipped.

use std::path::Path;

use super::{Policy, Scenario, Second, SimulatedRun};
use crate::evidence::chart::ChartError;
use plotters::prelude::*;

const WIDTH: u32 = 960;
/// Height of one panel.
const HEIGHT: u32 = 260;
/// Colours that colour-blind people can tell apart (Okabe and Ito 2008).
const COLOURS: [RGBColor; 6] = [
    RGBColor(153, 153, 153),
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
];

struct Panel {
    title: &'static str,
    value: fn(&Second) -> Option<f64>,
    /// Maximum shown: under policy `none` some values grow without end and would flatten the rest.
    most: fn(&Scenario) -> f64,
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "good requests per second",
        value: |second| Some(second.good as f64),
        most: |_| f64::INFINITY,
    },
    Panel {
        title: "good work, % of the peak",
        value: |second| Some(second.of_peak * 100.0),
        most: |_| f64::INFINITY,
    },
    Panel {
        title: "in flight",
        value: |second| Some(second.in_flight as f64),
        most: |scenario| {
            let slots = scenario.workers.iter().map(|group| f64::from(group.count) * f64::from(group.slots));
            2.0 * slots.sum::<f64>()
        },
    },
    Panel {
        title: "median time to the first token, ms",
        value: |second| second.ttft_p50.map(|ttft| ttft.as_secs_f64() * 1000.0),
        most: |scenario| 2000.0 * scenario.promise.ttft_slo.0.as_secs_f64(),
    },
];

/// Room for the legend, as a share of the width.
const LEGEND: f64 = 0.12;

/// Draws the panels of all scenarios, one below the other, into an SVG file at `path`.
///
/// # Errors
/// If the file cannot be written.
pub fn draw(path: &Path, runs: &[(&Scenario, &[SimulatedRun])]) -> Result<(), ChartError> {
    let panels = runs.len() * PANELS.len();
    let height = HEIGHT * u32::try_from(panels).unwrap_or(1);
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let areas = root.split_evenly((panels, 1));
    let wanted = runs.iter().flat_map(|run| PANELS.iter().map(move |panel| (run, panel)));
    for (area, ((scenario, outcomes), panel)) in areas.iter().zip(wanted) {
        let most = (panel.most)(scenario);
        let lines = lines(outcomes, |second| (panel.value)(second).map(|value| value.min(most)));
        let highest = lines.iter().flat_map(|(_, points)| points).map(|(_, y)| *y).fold(1.0, f64::max);
        let length = scenario.duration.0.as_secs_f64();
        let mut chart = ChartBuilder::on(area)
            .caption(format!("{}: {}", scenario.name, panel.title), ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..length * (1.0 + LEGEND), 0.0..highest * 1.05)?;
        chart.configure_mesh().light_line_style(TRANSPARENT).x_desc("s").draw()?;
        for (policy, points) in lines {
            let place = Policy::ALL.iter().position(|other| *other == policy).unwrap_or(1);
            let colour = COLOURS[place % COLOURS.len()];
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
                .label(policy.to_string())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .draw()?;
    }
    root.present()?;
    Ok(())
}

type PlotLine = (Policy, Vec<(f64, f64)>);

/// Returns one line per policy: the mean over its runs of `value` for each second.
fn lines(outcomes: &[SimulatedRun], value: impl Fn(&Second) -> Option<f64>) -> Vec<PlotLine> {
    let mut lines: Vec<PlotLine> = Vec::new();
    for outcome in outcomes {
        if lines.iter().any(|(policy, _)| *policy == outcome.policy) {
            continue;
        }
        let runs: Vec<&SimulatedRun> =
            outcomes.iter().filter(|other| other.policy == outcome.policy).collect();
        let mean = |place: usize| {
            let values: Vec<f64> =
                runs.iter().filter_map(|run| run.seconds.get(place).and_then(&value)).collect();
            (!values.is_empty())
                .then(|| (place as f64 + 0.5, values.iter().sum::<f64>() / values.len() as f64))
        };
        lines.push((outcome.policy, (0..outcome.seconds.len()).filter_map(mean).collect()));
    }
    lines
}
