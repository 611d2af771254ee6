//! The runs around all stalls: on the terminal, in pictures and in a file.

use traffic_dam_lab::evidence::chart::ChartLine;

use super::course::{BEFORE, Step};
use crate::parts::say;

/// Steps averaged into one point of the goodput picture; 100 ms has too few first tokens.
const SMOOTHED: usize = 5;

/// The runs around all stalls, for the pictures and for `hiccups.csv`.
#[derive(Debug, Default)]
pub(super) struct Courses {
    pub(super) limits: Vec<ChartLine>,
    pub(super) goodput: Vec<ChartLine>,
    /// Lines of `hiccups.csv`, one per step.
    pub(super) rows: Vec<String>,
}

impl Courses {
    /// Prints a run and keeps it for the file, and with a name and thickness for the pictures.
    pub(super) fn add(&mut self, what: &str, pictured: Option<(String, bool)>, steps: &[Step]) {
        let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.0}"));
        let line = |name: &str, values: Vec<String>| say(format_args!("  {name}: {}", values.join(" ")));
        say(format_args!("{what}, by 100 ms from {BEFORE:.0} s before:"));
        line("limit", steps.iter().map(|step| shown(step.limit)).collect());
        line("in flight", steps.iter().map(|step| shown(step.in_flight)).collect());
        line("good", steps.iter().map(|step| step.good.to_string()).collect());
        line("refused", steps.iter().map(|step| step.refused.to_string()).collect());
        let bare = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.0}"));
        self.rows.extend(steps.iter().map(|step| {
            let (limit, in_flight) = (bare(step.limit), bare(step.in_flight));
            format!("\"{what}\",{:.1},{limit},{in_flight},{},{}", step.at, step.good, step.refused)
        }));
        if let Some((name, thick)) = pictured {
            let limits = steps.iter().filter_map(|step| Some((step.at, step.limit?))).collect();
            self.limits.push(ChartLine::new(name.as_str(), thick, limits));
            let rate = |window: &[Step]| {
                let good: u32 = window.iter().map(|step| step.good).sum();
                (window[SMOOTHED / 2].at, f64::from(good) * 10.0 / SMOOTHED as f64)
            };
            self.goodput.push(ChartLine::new(name, thick, steps.windows(SMOOTHED).map(rate).collect()));
        }
    }
}
