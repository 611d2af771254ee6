//! Positions of settings in the file, so that a check of typed values can report lines.

use std::collections::HashMap;

use super::error::{ConfigError, Position, child_path};

/// Position of a setting in the file, and of those below it.
#[derive(Debug)]
pub(super) struct SettingPlace {
    /// Dotted path; indexes count elements of the file as written.
    pub(super) field: String,
    /// Position of the value's first character.
    pub(super) at: Position,
    /// Text in the file; `None` if it is secret or not a single value.
    pub(super) found: Option<String>,
    /// Positions below, by key, or by index among the valid elements.
    pub(super) children: HashMap<String, SettingPlace>,
}

#[derive(Clone, Debug)]
pub(super) struct SettingPath<'a> {
    /// Position of the setting, or of its innermost ancestor in the file.
    place: &'a SettingPlace,
    field: String,
    /// `true` if `place` is the setting itself.
    present: bool,
}

impl<'a> SettingPath<'a> {
    pub(super) fn root(place: &'a SettingPlace) -> Self {
        Self { place, field: place.field.clone(), present: true }
    }

    pub(super) fn key(&self, key: &str) -> Self {
        self.child(key, || child_path(&self.field, key))
    }

    /// Returns the setting at `field` below this one, such as `workers[0].slots`.
    pub(super) fn below(&self, field: &str) -> Self {
        let parts = field.split(['.', '[']).map(|part| (part, part.strip_suffix(']')));
        parts.fold(self.clone(), |at, (key, index)| match index.and_then(|index| index.parse().ok()) {
            Some(index) => at.index(index),
            None => at.key(key),
        })
    }

    pub(super) fn index(&self, index: usize) -> Self {
        self.child(&index.to_string(), || format!("{}[{index}]", self.field))
    }

    fn child(&self, key: &str, field: impl FnOnce() -> String) -> Self {
        match self.place.children.get(key).filter(|_| self.present) {
            Some(place) => Self { place, field: place.field.clone(), present: true },
            None => Self { place: self.place, field: field(), present: false },
        }
    }

    pub(super) fn is_present(&self) -> bool {
        self.present
    }

    pub(super) fn field(&self) -> &str {
        &self.field
    }
}

/// Errors found so far.
#[derive(Debug)]
pub(super) struct ErrorCollector {
    faults: Vec<ConfigError>,
    /// Settings with an invalid value in the file. Nothing is concluded from them.
    unknown: Vec<String>,
}

impl ErrorCollector {
    /// Creates a report with the structure's errors. `meant` are settings under a mistyped name.
    pub(super) fn new(faults: Vec<ConfigError>, meant: Vec<String>) -> Self {
        let unknown = faults.iter().map(|fault| fault.field.clone()).chain(meant).collect();
        Self { faults, unknown }
    }

    /// Adds an error, unless the setting or one in or around it has one, which causes this one.
    pub(super) fn fault(&mut self, at: &SettingPath<'_>, problem: impl Into<String>) {
        if self.is_known(at) {
            let found = at.place.found.clone().filter(|_| at.present);
            let position = Some(at.place.at);
            self.faults.push(ConfigError {
                position,
                field: at.field.clone(),
                problem: problem.into(),
                found,
            });
        }
    }

    /// Returns `true` if the setting has the value intended in the file.
    pub(super) fn is_known(&self, at: &SettingPath<'_>) -> bool {
        !self.unknown.iter().any(|unknown| is_within(unknown, at.field()) || is_within(at.field(), unknown))
    }

    pub(super) fn into_faults(self) -> Vec<ConfigError> {
        self.faults
    }
}

/// Returns `true` if `field` is `outer` or inside it.
fn is_within(field: &str, outer: &str) -> bool {
    match field.strip_prefix(outer) {
        Some(rest) => outer.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_within_what_surrounds_it() {
        assert!(is_within("limits[2].rate", "limits[2]") && is_within("limits[2]", "limits"));
        assert!(is_within("limits", "limits") && is_within("limits", ""));
        assert!(!is_within("limits[21]", "limits[2]") && !is_within("limits2", "limits"));
    }
}
