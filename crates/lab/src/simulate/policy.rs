//! How the limit of concurrent requests is found.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Deserialize;

use traffic_dam_core::shed::settings::LimitAlgorithmKind;

/// How the limit of concurrent requests is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "WrittenPolicy")]
pub enum Policy {
    /// No limit: every request goes to a worker at once.
    None,
    /// The workers' slots, reported to the gateway even if the scenario says `told: false`.
    Slots,
    /// The same limit for each worker.
    Fixed(u32),
    /// A limit algorithm.
    Algorithm(LimitAlgorithmKind),
}

impl Default for Policy {
    fn default() -> Self {
        Self::Algorithm(LimitAlgorithmKind::default())
    }
}

impl Policy {
    /// The policies that are compared.
    pub const ALL: [Self; 6] = [
        Self::None,
        Self::Slots,
        Self::Algorithm(LimitAlgorithmKind::Stream),
        Self::Algorithm(LimitAlgorithmKind::Aimd),
        Self::Algorithm(LimitAlgorithmKind::Gradient2),
        Self::Algorithm(LimitAlgorithmKind::Vegas),
    ];
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(known) = Self::ALL.into_iter().find(|policy| policy.to_string() == text) {
            return Ok(known);
        }
        match text.parse() {
            Ok(limit @ 1..) => Ok(Self::Fixed(limit)),
            _ => {
                let known = Self::ALL.map(|policy| format!("`{policy}`")).join(", ");
                Err(format!("unknown limit algorithm `{text}`: must be one of {known}, or a number above 0"))
            }
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::Slots => f.pad("slots"),
            Self::Fixed(limit) => f.pad(&limit.to_string()),
            Self::Algorithm(kind) => {
                let named = LimitAlgorithmKind::ALL.into_iter().find(|(_, other)| other == kind);
                f.pad(named.map_or("", |(name, _)| name))
            }
        }
    }
}

/// A [`Policy`] as written in a scenario.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum WrittenPolicy {
    Limit(#[schemars(range(min = 1))] u32),
    Name(#[schemars(extend("x-syntax" = "limit policy"))] String),
}

impl TryFrom<WrittenPolicy> for Policy {
    type Error = String;

    fn try_from(written: WrittenPolicy) -> Result<Self, String> {
        match written {
            WrittenPolicy::Limit(limit) => Ok(Self::Fixed(limit)),
            WrittenPolicy::Name(name) => name.parse(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_read_by_the_name_it_shows() {
        for policy in Policy::ALL.into_iter().chain([Policy::Fixed(24)]) {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        for wrong in ["0", "-1", "2.5", "envoy", ""] {
            assert!(wrong.parse::<Policy>().is_err(), "{wrong:?} passed");
        }
    }
}
