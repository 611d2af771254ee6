//! Expected ranges of figures, such as `">= 0.95"` or `">= 100ms, <= 1s"`.

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;

use super::ScenarioDuration;

/// Names of the figures that may be expected; [`RunFigures::get`](crate::simulate::RunFigures::get) finds them.
pub(super) const FIGURES: [&str; 25] = [
    "goodput",
    "goodput_of_offered",
    "goodput_of_peak",
    "ttft_p50",
    "ttft_p95",
    "ttft_p99",
    "ttft_first_p50",
    "ttft_first_p99",
    "hit_ratio",
    "jain",
    "light_share",
    "preemptions",
    "retry_kept",
    "retry_wait",
    "recovery",
    "extra_good",
    "failed",
    "failed_early",
    "refused",
    "ttft_p99_batch",
    "ttft_p99_interactive",
    "ttft_p99_critical",
    "goodput_of_offered_batch",
    "goodput_of_offered_interactive",
    "goodput_of_offered_critical",
];

/// Expected range of a figure. Durations count in seconds.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("x-syntax" = "range"))]
pub struct Bound {
    text: String,
    least: f64,
    most: f64,
}

impl Bound {
    /// Returns `true` if `value` is in the range; `None` never is.
    #[must_use]
    pub fn holds(&self, value: Option<f64>) -> bool {
        value.is_some_and(|value| (self.least..=self.most).contains(&value))
    }

    /// Returns the distance of `value` from the range; infinite for `None`.
    pub(in crate::simulate) fn distance(&self, value: Option<f64>) -> f64 {
        value.map_or(f64::INFINITY, |value| (self.least - value).max(value - self.most).max(0.0))
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("`{text}` is not a range: write `>= 0.95`, `<= 1s`, `== 0`, or two of them with a comma")
        };
        let mut bound = Self { text: text.to_owned(), least: f64::NEG_INFINITY, most: f64::INFINITY };
        for part in text.split(',').map(str::trim) {
            let (sign, value) = part.split_at_checked(2).ok_or_else(wrong)?;
            let value = value.trim();
            let value: f64 = match value.parse() {
                Ok(value) => value,
                Err(_) => value.parse::<ScenarioDuration>().map_err(|_error| wrong())?.0.as_secs_f64(),
            };
            match sign {
                ">=" => bound.least = value,
                "<=" => bound.most = value,
                "==" => (bound.least, bound.most) = (value, value),
                _ => return Err(wrong()),
            }
        }
        Ok(bound)
    }
}

impl TryFrom<String> for Bound {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
