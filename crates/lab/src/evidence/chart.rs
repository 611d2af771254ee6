//! Draws SVG pictures: line charts, and heat maps over time.
//!
//! The viewer draws the text (SVG names a font family only), so this machine needs no font.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

pub use plotters::coord::combinators::IntoLogRange;

const SIZE: (u32, u32) = (980, 440);
/// Height of one of several charts.
const PANEL: u32 = 280;
/// Width of the legend on the right: inside the plot it would hide lines.
const LEGEND: u32 = 240;
const LEGEND_LINE: i32 = 24;
/// Distinct for most people, in print too. The first is for the gateway.
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
/// Size of a heat map.
const MAP_SIZE: (u32, u32) = (980, 240);
/// Rows of a heat map: each about 12 % above the one below, finer than an eye needs.
const ROWS: usize = 48;

/// Error while drawing a picture.
pub type ChartError = Box<dyn std::error::Error>;

/// A line of a chart.
#[derive(Clone, Debug)]
pub struct ChartLine {
    /// Text in the legend.
    pub name: String,
    /// `true` to draw it thick, as the line to look at.
    pub thick: bool,
    /// Its points, in order.
    pub points: Vec<(f64, f64)>,
    /// Intervals for some points: x, lower end, upper end.
    pub spread: Vec<(f64, f64, f64)>,
}

impl ChartLine {
    /// Creates a line without intervals.
    #[must_use]
    pub fn new(name: impl Into<String>, thick: bool, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), thick, points, spread: Vec::new() }
    }
}

/// A thin grey line from one point to another.
pub(crate) type ChartMark = ((f64, f64), (f64, f64));

/// Draws lines, and `marks` as thin grey ones. The titles are of the picture, x axis and y axis.
pub fn lines<X, Y>(
    [title, x_title, y_title]: [&str; 3],
    (x, y): (X, Y),
    lines: &[ChartLine],
    marks: &[ChartMark],
) -> Result<String, ChartError>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        draw_lines(&area, [title, x_title, y_title], (x, y), lines, marks)?;
        area.present()?;
    }
    Ok(svg)
}

/// One of several line charts in a picture.
#[derive(Clone, Debug)]
pub struct LinePanel {
    /// Title.
    pub title: String,
    /// Ends of the axes.
    pub ends: (f64, f64),
    /// The lines.
    pub lines: Vec<ChartLine>,
}

/// Draws line charts over seconds, one below the other.
pub fn panels(panels: &[LinePanel]) -> Result<String, ChartError> {
    let mut svg = String::new();
    {
        let size = (SIZE.0, PANEL * u32::try_from(panels.len()).unwrap_or(1));
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, panel) in root.split_evenly((panels.len(), 1)).iter().zip(panels) {
            let axes = (0.0..panel.ends.0, 0.0..panel.ends.1);
            draw_lines(area, [&panel.title, "s", ""], axes, &panel.lines, &[])?;
        }
        root.present()?;
    }
    Ok(svg)
}

fn draw_lines<X, Y>(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    [title, x_title, y_title]: [&str; 3],
    (x, y): (X, Y),
    lines: &[ChartLine],
    marks: &[ChartMark],
) -> Result<(), ChartError>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
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
    for (index, (line, colour)) in lines.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let style = colour.stroke_width(if line.thick { 3 } else { 2 });
        chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
        for &(x, low, high) in &line.spread {
            chart.draw_series(LineSeries::new([(x, low), (x, high)], colour.mix(0.5).stroke_width(6)))?;
        }
        // A single point makes no line, and an interval may have no height.
        if !line.spread.is_empty() {
            chart.draw_series(line.points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
        }
        let y = 60 + LEGEND_LINE * index as i32;
        legend.draw(&PathElement::new([(4, y), (26, y)], style))?;
        legend.draw(&Text::new(line.name.as_str(), (34, y - 6), ("sans-serif", 14)))?;
    }
    Ok(())
}

/// Draws a heat map of `points` (a time in seconds below `length`, a value): the darker, the more
/// points in that second. Values outside `range` appear at its edge. The grey line is at `mark`.
pub(crate) fn heat(
    [title, x_title, y_title]: [&str; 3],
    length: usize,
    range: (f64, f64),
    points: &[(f64, f64)],
    mark: f64,
) -> Result<String, ChartError> {
    let (low, high) = (range.0.ln(), range.1.ln());
    let row_of = |value: f64| {
        let place = (value.clamp(range.0, range.1).ln() - low) / (high - low) * ROWS as f64;
        (place as usize).min(ROWS - 1)
    };
    let edge = |row: usize| (low + (high - low) * row as f64 / ROWS as f64).exp();
    let mut counts = vec![[0_u32; ROWS]; length];
    for &(at, value) in points {
        if let Some(count) =
            counts.get_mut(at.max(0.0) as usize).and_then(|column| column.get_mut(row_of(value)))
        {
            *count += 1;
        }
    }
    let most = counts.iter().flatten().copied().max().unwrap_or(0).max(1);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, MAP_SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(34)
            .y_label_area_size(62)
            .build_cartesian_2d(0.0..length as f64, (range.0..range.1).log_scale())?;
        chart.configure_mesh().disable_mesh().x_desc(x_title).y_desc(y_title).draw()?;
        let cells = counts.iter().enumerate().flat_map(|(second, column)| {
            column.iter().enumerate().filter(|(_, count)| **count > 0).map(move |(row, count)| {
                // The square root keeps single values visible beside hundreds.
                let share = (f64::from(*count) / f64::from(most)).sqrt();
                let corners = [(second as f64, edge(row)), (second as f64 + 1.0, edge(row + 1))];
                Rectangle::new(corners, COLOURS[0].mix(0.12 + 0.88 * share).filled())
            })
        });
        chart.draw_series(cells)?;
        chart.draw_series(LineSeries::new(
            [(0.0, mark), (length as f64, mark)],
            BLACK.mix(0.6).stroke_width(1),
        ))?;
        area.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_shows_every_line_and_its_name() {
        let line = ChartLine {
            spread: vec![(1.0, 0.5, 1.5)],
            ..ChartLine::new("ours <b>", true, vec![(0.0, 0.0), (2.0, 2.0)])
        };
        let svg = lines(["T", "x", "y"], (0.0..2.0, 0.0..2.0), &[line], &[((0.0, 1.0), (2.0, 1.0))]).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert_eq!(svg.matches("<circle").count(), 2);
        // The line, its interval, the mark and the legend. A name is text, not markup.
        assert!(svg.matches("<polyline").count() >= 4, "{svg}");
        assert!(svg.contains("ours &lt;b&gt;") && !svg.contains("<b>"));
    }

    #[test]
    fn a_map_has_a_cell_for_each_place_that_was_met() {
        let cells = |points: &[(f64, f64)]| {
            let svg = heat(["T", "x", "y"], 10, (10.0, 1000.0), points, 100.0).unwrap();
            svg.matches("<rect").count()
        };
        let none = cells(&[]);
        assert_eq!(cells(&[(0.5, 100.0), (0.6, 100.0)]), none + 1);
        assert_eq!(cells(&[(0.5, 100.0), (1.5, 100.0), (1.5, 900.0)]), none + 3);
        // Values outside the range are at its edge; times beyond the end are nowhere.
        assert_eq!(cells(&[(0.5, 1e9), (0.5, 999.0), (11.0, 100.0)]), none + 1);
    }
}
