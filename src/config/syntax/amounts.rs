//! Amounts with units: durations, rates, sizes.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Syntax, meant};
use crate::limit::own_limits::{RATE_EXPECTED, read_rate, write_rate};

/// Splits a text into a whole number and the unit after it.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const YEAR: u64 = 366 * 86_400_000;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a quarter of the duration, in whole milliseconds.
pub(crate) fn quarter(duration: Duration) -> Duration {
    Duration::from_millis(millis(duration) / 4)
}

/// A duration in whole milliseconds: `500ms`, `1s`, `10m`, `1h`, `7d`. At most a year.
impl Syntax for Duration {
    const NAME: &'static str = "duration";
    const EXPECTED: &'static str =
        "a whole number of ms, s, m, h or d, such as `500ms` or `10m`, at most a year";
    const PATTERN: &'static str = "^[0-9]+(ms|s|m|h|d)$";

    fn read(text: &str) -> Option<Self> {
        let (number, unit) = number_and_unit(text)?;
        let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
        number.checked_mul(*millis).filter(|millis| *millis <= YEAR).map(Self::from_millis)
    }

    fn meant(text: &str) -> Option<String> {
        meant::duration(text)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = millis(*self);
        if length == 0 {
            return f.write_str("0s");
        }
        let whole = UNITS.iter().find(|(_, millis)| length.is_multiple_of(*millis));
        whole.map_or(Ok(()), |(unit, millis)| write!(f, "{}{unit}", length / millis))
    }
}

/// A sustained rate: `10/s`, `600/m`, `1000/h`, `10000/d`. At least 1, at most one per nanosecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Units per period.
    pub limit: u64,
    /// The period: a second, a minute, an hour or a day.
    pub period: Duration,
}

impl Syntax for Rate {
    const NAME: &'static str = "rate";
    const EXPECTED: &'static str = RATE_EXPECTED;
    const PATTERN: &'static str = "^[0-9]+/[smhd]$";

    fn read(text: &str) -> Option<Self> {
        read_rate(text).map(|(limit, period)| Self { limit, period })
    }

    fn meant(text: &str) -> Option<String> {
        meant::rate(text)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&write_rate(self.limit, self.period))
    }
}

/// A size in bytes: `32KiB`, `8MiB`, `1GiB`, `500B`, or a plain number. At most 1 TiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(u64);

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TEBIBYTE: u64 = 1 << 40;

impl Size {
    /// Creates a size of `number` bytes, at most 1 TiB.
    #[must_use]
    pub(crate) const fn bytes(number: u64) -> Self {
        Self(if number > TEBIBYTE { TEBIBYTE } else { number })
    }

    /// Creates a size of `number` KiB, at most 1 TiB.
    #[must_use]
    pub(crate) const fn kib(number: u64) -> Self {
        Self::bytes(number.saturating_mul(1 << 10))
    }

    /// Creates a size of `number` MiB, at most 1 TiB.
    #[must_use]
    pub(crate) const fn mib(number: u64) -> Self {
        Self::kib(number.saturating_mul(1 << 10))
    }

    /// Returns the size in bytes.
    #[must_use]
    pub(crate) const fn get(self) -> u64 {
        self.0
    }
}

impl Syntax for Size {
    const NAME: &'static str = "size";
    const EXPECTED: &'static str = "a whole number of B, KiB, MiB or GiB, such as `8MiB`, at most 1 TiB";
    const PATTERN: &'static str = "^[0-9]+(B|KiB|MiB|GiB)$";

    fn read(text: &str) -> Option<Self> {
        let (number, unit) = number_and_unit(text)?;
        let (_, bytes) = SIZES.iter().find(|(name, _)| *name == unit)?;
        number.checked_mul(*bytes).filter(|bytes| *bytes <= TEBIBYTE).map(Self)
    }

    fn meant(text: &str) -> Option<String> {
        meant::size(text)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0B");
        }
        let whole = SIZES.iter().find(|(_, bytes)| self.0.is_multiple_of(*bytes));
        whole.map_or(Ok(()), |(unit, bytes)| write!(f, "{}{unit}", self.0 / bytes))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A size as written. It may be a plain number too, so [`super::Text`] does not fit.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenSize {
    Bytes(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let size = match WrittenSize::deserialize(deserializer)? {
            WrittenSize::Bytes(bytes) => Some(Self(bytes)).filter(|size| size.0 <= TEBIBYTE),
            WrittenSize::Text(text) => Self::read(&text),
        };
        size.ok_or_else(|| serde::de::Error::custom(format_args!("must be {}", Self::EXPECTED)))
    }
}

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Self::NAME.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string", "pattern": Self::PATTERN, "x-syntax": Self::NAME },
            { "type": "integer", "minimum": 0, "maximum": TEBIBYTE },
        ]})
    }
}

#[cfg(test)]
mod tests {
    use super::super::Text;
    use super::*;
    use proptest::prelude::*;

    use crate::limit::own_limits::PERIODS;

    #[test]
    fn wrong_amounts_are_refused() {
        for text in ["", "s", "1", "-1s", "1.5s", "1 s", "1S", "١s", "367d", "99999999999999999999s"] {
            assert_eq!(Duration::read(text), None, "{text}");
        }
        for text in ["10", "/s", "0/s", "10/", "10/w", "10/ms", "1000000001/s", "-1/s"] {
            assert_eq!(Rate::read(text), None, "{text}");
        }
        for text in ["8", "8MB", "8mib", "1.5MiB", "1025GiB", "18446744073709551615GiB"] {
            assert_eq!(Size::read(text), None, "{text}");
        }
    }

    #[test]
    fn amounts_are_printed_in_their_greatest_whole_unit() {
        let printed = |text| Text(Duration::read(text).unwrap()).to_string();
        assert_eq!(
            [printed("90000ms"), printed("60s"), printed("48h"), printed("0ms")],
            ["90s", "1m", "2d", "0s"]
        );
        assert_eq!(Size::read("65536KiB").unwrap().to_string(), "64MiB");
    }

    proptest! {
        #[test]
        fn amounts_read_back_as_printed(number in any::<u64>(), period in 0_usize..4) {
            let wait = Duration::from_millis(number % (YEAR + 1));
            prop_assert_eq!(Duration::read(&Text(wait).to_string()), Some(wait));
            let size = Size(number % (TEBIBYTE + 1));
            prop_assert_eq!(Size::read(&size.to_string()), Some(size));
            let (_, seconds) = PERIODS[period];
            let rate = Rate { limit: number % 1_000_000_000 + 1, period: Duration::from_secs(seconds) };
            prop_assert_eq!(Rate::read(&Text(rate).to_string()), Some(rate));
        }
    }
}
