//! Value types of scenario files: durations with units, and distributions of token counts.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

/// A duration as people write it: `250ms`, `1.5s`, `2m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("x-syntax" = "time"))]
pub struct ScenarioDuration(pub Duration);

impl ScenarioDuration {
    /// Creates a duration of `millis` milliseconds.
    #[must_use]
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// Creates a duration of `seconds` seconds.
    #[must_use]
    pub(crate) const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl std::str::FromStr for ScenarioDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("`{text}` is not a duration: write a number and a unit, as in 250us, 20ms, 1.5s or 2m")
        };
        let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, unit) = text.split_at(digits);
        let number: f64 = number.parse().map_err(|_error| wrong())?;
        let seconds = match unit.trim() {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        // Rounding to whole nanoseconds makes 0.1 s exact.
        let nanos = (number * seconds * 1e9).round();
        if nanos > 1e18 { Err(wrong()) } else { Ok(Self(Duration::from_nanos(nanos as u64))) }
    }
}

impl TryFrom<String> for ScenarioDuration {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Distribution of a token count over requests.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "WrittenSpread")]
pub struct Spread {
    /// Mean in tokens, before `max` cuts.
    pub mean: f64,
    /// Shape of the distribution.
    pub shape: SpreadShape,
    /// Upper bound, in tokens.
    pub max: u32,
}

/// Shape of a [`Spread`].
#[derive(Clone, Copy, Debug, PartialEq, JsonSchema)]
pub enum SpreadShape {
    /// Constant: always the mean.
    Fixed,
    /// Log-normal, with the standard deviation of the logarithm.
    LogNormal(f64),
    /// Pareto, for heavy tails, with its exponent, above 1.
    Pareto(f64),
}

/// Default bound of a spread, in tokens: longer than any context.
const LONGEST: u32 = 1_000_000;

impl Spread {
    /// Creates a constant distribution.
    #[must_use]
    pub fn fixed(tokens: u32) -> Self {
        Self { mean: f64::from(tokens), shape: SpreadShape::Fixed, max: LONGEST }
    }

    /// Creates a log-normal distribution with this mean.
    #[must_use]
    pub(crate) fn log_normal(mean: f64, sigma: f64) -> Self {
        Self { mean, shape: SpreadShape::LogNormal(sigma), max: LONGEST }
    }
}

/// A [`Spread`] as written.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum WrittenSpread {
    Tokens(#[schemars(range(min = 1, max = 1_000_000))] u32),
    Table(SpreadTable),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SpreadTable {
    #[schemars(range(min = 1, max = 1_000_000))]
    mean: f64,
    #[schemars(range(min = 0, max = 4))]
    sigma: Option<f64>,
    #[schemars(range(min = 1.01, max = 100))]
    pareto: Option<f64>,
    #[serde(default = "longest")]
    #[schemars(range(min = 1, max = 1_000_000))]
    max: u32,
}

const fn longest() -> u32 {
    LONGEST
}

impl TryFrom<WrittenSpread> for Spread {
    type Error = &'static str;

    fn try_from(written: WrittenSpread) -> Result<Self, Self::Error> {
        let SpreadTable { mean, sigma, pareto, max } = match written {
            WrittenSpread::Tokens(tokens) => return Ok(Self::fixed(tokens)),
            WrittenSpread::Table(table) => table,
        };
        let shape = match (sigma, pareto) {
            (Some(_), Some(_)) => return Err("give `sigma` or `pareto`, not both"),
            (Some(sigma), None) => SpreadShape::LogNormal(sigma),
            (None, Some(pareto)) => SpreadShape::Pareto(pareto),
            (None, None) => SpreadShape::Fixed,
        };
        Ok(Self { mean, shape, max })
    }
}
