//! Value types of scenario files: durations with units, and distributions of token counts.

use std::fmt;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// A duration as people write it: `250ms`, `1.5s`, `2m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScenarioDuration(pub Duration);

impl ScenarioDuration {
    /// Creates a duration of `millis` milliseconds.
    #[must_use]
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// Creates a duration of `seconds` seconds.
    #[must_use]
    pub const fn secs(seconds: u64) -> Self {
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

impl<'de> Deserialize<'de> for ScenarioDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Distribution of a token count over requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Mean in tokens, before `max` cuts.
    pub mean: f64,
    /// Shape of the distribution.
    pub shape: SpreadShape,
    /// Upper bound, in tokens.
    pub max: u32,
}

/// Shape of a [`Spread`].
#[derive(Clone, Copy, Debug, PartialEq)]
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
    pub fn log_normal(mean: f64, sigma: f64) -> Self {
        Self { mean, shape: SpreadShape::LogNormal(sigma), max: LONGEST }
    }
}

/// The table form of a [`Spread`].
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct SpreadTable {
    mean: f64,
    sigma: Option<f64>,
    pareto: Option<f64>,
    max: Option<u32>,
}

impl<'de> Deserialize<'de> for Spread {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AmountVisitor;

        impl<'de> Visitor<'de> for AmountVisitor {
            type Value = Spread;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a number of tokens, or { mean = 200, sigma = 0.8 }, or { mean = 200, pareto = 1.5 }",
                )
            }

            fn visit_i64<E: Error>(self, tokens: i64) -> Result<Spread, E> {
                u32::try_from(tokens)
                    .ok()
                    .filter(|tokens| (1..=LONGEST).contains(tokens))
                    .map(Spread::fixed)
                    .ok_or_else(|| E::custom(format_args!("{tokens} tokens: must be 1 to {LONGEST}")))
            }

            fn visit_u64<E: Error>(self, tokens: u64) -> Result<Spread, E> {
                self.visit_i64(i64::try_from(tokens).unwrap_or(i64::MAX))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Spread, A::Error> {
                let table = SpreadTable::deserialize(MapAccessDeserializer::new(map))?;
                let wrong = |text: String| Err(A::Error::custom(text));
                if !(1.0..=f64::from(LONGEST)).contains(&table.mean) {
                    return wrong(format!("mean = {}: must be 1 to {LONGEST}", table.mean));
                }
                let shape = match (table.sigma, table.pareto) {
                    (Some(_), Some(_)) => return wrong("give `sigma` or `pareto`, not both".to_owned()),
                    (Some(sigma), None) if !(0.0..=4.0).contains(&sigma) => {
                        return wrong(format!("sigma = {sigma}: must be 0 to 4"));
                    }
                    (None, Some(pareto)) if !(pareto > 1.0 && pareto <= 100.0) => {
                        return wrong(format!(
                            "pareto = {pareto}: must be above 1 (at 1 there is no mean), up to 100"
                        ));
                    }
                    (Some(sigma), None) => SpreadShape::LogNormal(sigma),
                    (None, Some(pareto)) => SpreadShape::Pareto(pareto),
                    (None, None) => SpreadShape::Fixed,
                };
                match table.max.unwrap_or(LONGEST) {
                    max @ 1..=LONGEST => Ok(Spread { mean: table.mean, shape, max }),
                    max => wrong(format!("max = {max}: must be 1 to {LONGEST}")),
                }
            }
        }

        deserializer.deserialize_any(AmountVisitor)
    }
}
