//! A rule changed while the gateway runs, over what the settings say.

use serde::{Deserialize, Serialize};

use super::own::{WrittenLimit, changed};
use super::rule::{Mode, Quota, Rule};
use crate::request::OwnLimit;

/// What becomes of a rule. What is not given stays as the settings have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Its quota.
    pub limit: OwnLimit,
    /// Whether it refuses.
    pub mode: Option<Mode>,
}

/// The same as people write it, and as it stands in Redis.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct WrittenChange {
    /// Its quota.
    #[serde(flatten)]
    pub limit: WrittenLimit,
    /// `enforce` or `observe`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

impl Change {
    /// The change of those words.
    ///
    /// # Errors
    /// Which of them is wrong, and what would be right.
    pub fn of(written: &WrittenChange) -> Result<Self, String> {
        let mode = match written.mode.as_deref() {
            None => None,
            Some("enforce") => Some(Mode::Enforce),
            Some("observe") => Some(Mode::Observe),
            Some(other) => return Err(format!("`mode` must be `enforce` or `observe`; found \"{other}\"")),
        };
        Ok(Self { limit: written.limit.read()?, mode })
    }

    /// Reads what [`Change::write`] wrote.
    ///
    /// # Errors
    /// When it is something else.
    pub fn read(text: &str) -> Result<Self, String> {
        Self::of(&serde_json::from_str(text).map_err(|error| error.to_string())?)
    }

    /// As JSON.
    #[must_use]
    pub fn write(&self) -> String {
        let mode = self.mode.map(|mode| match mode {
            Mode::Enforce => "enforce".to_owned(),
            Mode::Observe => "observe".to_owned(),
        });
        // Strings and numbers into memory: there is nothing here that could fail.
        serde_json::to_string(&WrittenChange { limit: (&self.limit).into(), mode }).unwrap_or_default()
    }

    /// The rule with the change.
    ///
    /// # Errors
    /// Why it does not fit.
    pub fn apply(&self, rule: &Rule) -> Result<Rule, &'static str> {
        let quota: Quota = changed(rule, &self.limit)?;
        Ok(Rule { mode: self.mode.unwrap_or(rule.mode), ..rule.with_quota(quota) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_change_reads_back_as_it_was_written() {
        let rate = Some((5, Duration::from_secs(60)));
        for change in [
            Change::default(),
            Change { limit: OwnLimit { rate, burst: Some(7), limit: None }, mode: Some(Mode::Observe) },
            Change { limit: OwnLimit { limit: Some(3), ..OwnLimit::default() }, mode: Some(Mode::Enforce) },
        ] {
            assert_eq!(Change::read(&change.write()), Ok(change));
        }
        assert!(Change::read(r#"{"mode":"off"}"#).unwrap_err().contains("found \"off\""));
        assert!(Change::read(r#"{"rate":"5"}"#).unwrap_err().contains("`rate` must be"));
    }
}
