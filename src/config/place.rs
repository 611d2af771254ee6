//! Where settings stand: what lets a check on typed values point at lines.

use std::collections::HashMap;

use super::fault::{Fault, Position, below};

/// A setting's place in the file, and the places below it.
#[derive(Debug)]
pub(super) struct Place {
    /// Its dotted path, counted in the file as written.
    pub(super) field: String,
    /// Where its value begins.
    pub(super) at: Position,
    /// What stands there, unless that is secret or not one value.
    pub(super) found: Option<String>,
    /// What is below it, by key, or by index among the elements that were sound.
    pub(super) children: HashMap<String, Place>,
}

/// A way to a setting that may or may not be in the file.
#[derive(Clone, Debug)]
pub(super) struct At<'a> {
    /// The setting, or the innermost one around it that is in the file.
    place: &'a Place,
    /// Its dotted path.
    field: String,
    /// Whether `place` is the setting itself.
    present: bool,
}

impl<'a> At<'a> {
    /// The whole file.
    pub(super) fn root(place: &'a Place) -> Self {
        Self { place, field: place.field.clone(), present: true }
    }

    /// A key of this setting.
    pub(super) fn key(&self, key: &str) -> Self {
        self.child(key, || below(&self.field, key))
    }

    /// An element of this list.
    pub(super) fn index(&self, index: usize) -> Self {
        self.child(&index.to_string(), || format!("{}[{index}]", self.field))
    }

    fn child(&self, key: &str, field: impl FnOnce() -> String) -> Self {
        match self.place.children.get(key).filter(|_| self.present) {
            Some(place) => Self { place, field: place.field.clone(), present: true },
            None => Self { place: self.place, field: field(), present: false },
        }
    }

    /// Whether the setting is in the file.
    pub(super) fn is_present(&self) -> bool {
        self.present
    }

    /// The dotted path.
    pub(super) fn field(&self) -> &str {
        &self.field
    }
}

/// The faults found so far.
#[derive(Debug)]
pub(super) struct Report {
    faults: Vec<Fault>,
    /// The settings whose value in the file is not known, because it was at fault: nothing can follow from them.
    unknown: Vec<String>,
}

impl Report {
    /// Begins with the faults of the structure. `meant` are the settings that were there under a mistyped name.
    pub(super) fn new(faults: Vec<Fault>, meant: Vec<String>) -> Self {
        let unknown = faults.iter().map(|fault| fault.field.clone()).chain(meant).collect();
        Self { faults, unknown }
    }

    /// Adds a fault, unless the setting, something in it or something around it is at fault already: the second
    /// would only follow from the first.
    pub(super) fn fault(&mut self, at: &At<'_>, problem: impl Into<String>) {
        if self.is_known(at) {
            let found = at.place.found.clone().filter(|_| at.present);
            let position = Some(at.place.at);
            self.faults.push(Fault { position, field: at.field.clone(), problem: problem.into(), found });
        }
    }

    /// Whether the setting has the value that the file meant it to have.
    pub(super) fn is_known(&self, at: &At<'_>) -> bool {
        !self.unknown.iter().any(|unknown| is_within(unknown, at.field()) || is_within(at.field(), unknown))
    }

    /// All faults.
    pub(super) fn into_faults(self) -> Vec<Fault> {
        self.faults
    }
}

/// Whether `field` is `outer` or something in it.
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
