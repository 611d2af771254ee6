//! A change of a rule at run time, which overrides the configuration.

use serde::{Deserialize, Serialize};

use super::own_limits::{WrittenLimit, with_limit};
use super::rule::{Mode, Quota, Rule};
use crate::request::OwnLimit;

/// A change of a rule. Values that are not given stay as configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// New quota values.
    pub limit: OwnLimit,
    /// New mode.
    pub mode: Option<Mode>,
}

/// A [`Change`] in its JSON form, as operators write it and Redis stores it.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct WrittenChange {
    /// New quota values.
    #[serde(flatten)]
    pub limit: WrittenLimit,
    /// `enforce` or `observe`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

impl From<&Change> for WrittenChange {
    fn from(change: &Change) -> Self {
        let mode = change.mode.map(|mode| match mode {
            Mode::Enforce => "enforce".to_owned(),
            Mode::Observe => "observe".to_owned(),
        });
        Self { limit: (&change.limit).into(), mode }
    }
}

impl Change {
    /// Parses a change.
    ///
    /// # Errors
    /// Names the wrong field and the expected value.
    pub fn of(written: &WrittenChange) -> Result<Self, String> {
        let mode = match written.mode.as_deref() {
            None => None,
            Some("enforce") => Some(Mode::Enforce),
            Some("observe") => Some(Mode::Observe),
            Some(other) => return Err(format!("`mode` must be `enforce` or `observe`; found \"{other}\"")),
        };
        Ok(Self { limit: written.limit.read()?, mode })
    }

    /// Formats the change as JSON.
    #[must_use]
    pub fn write(&self) -> String {
        // Strings and numbers are written to memory: this cannot fail.
        serde_json::to_string(&WrittenChange::from(self)).unwrap_or_default()
    }

    /// Returns the changed rule.
    ///
    /// # Errors
    /// Reason why the change does not fit the rule.
    pub fn apply(&self, rule: &Rule) -> Result<Rule, &'static str> {
        let quota: Quota = with_limit(rule, &self.limit)?;
        Ok(Rule { mode: self.mode.unwrap_or(rule.mode), ..rule.with_quota(quota) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(text: &str) -> Result<Change, String> {
        Change::of(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_change_reads_back_as_it_was_written() {
        let rate = Some((5, Duration::from_secs(60)));
        for change in [
            Change::default(),
            Change { limit: OwnLimit { rate, burst: Some(7), limit: None }, mode: Some(Mode::Observe) },
            Change { limit: OwnLimit { limit: Some(3), ..OwnLimit::default() }, mode: Some(Mode::Enforce) },
        ] {
            assert_eq!(read(&change.write()), Ok(change));
        }
        assert!(read(r#"{"mode":"off"}"#).unwrap_err().contains("found \"off\""));
        assert!(read(r#"{"rate":"5"}"#).unwrap_err().contains("`rate` must be"));
    }
}
