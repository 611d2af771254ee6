//! Errors in a settings file, all of them, each with its position.

use std::fmt;
use std::path::{Path, PathBuf};

/// A position in the file. Lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
}

impl Position {
    /// The first character of the file.
    pub(crate) const START: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Position; `None` for a whole-file error.
    pub position: Option<Position>,
    /// Setting, as a dotted path (`limits[2].rate`); empty for a whole-file error.
    pub field: String,
    /// What is wrong, and what would be valid.
    pub problem: String,
    /// Text in the file, as written; never a secret or the content of a variable.
    pub found: Option<String>,
}

/// All errors of one settings file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The settings file.
    pub file: PathBuf,
    /// Errors, in the order of the file. Never empty.
    pub list: Vec<ConfigError>,
}

/// Maximum number of printed errors: with more, the file is probably not a settings file.
const PRINTED: usize = 100;

impl ConfigErrors {
    /// Creates the errors of `file`, sorted by position.
    #[must_use]
    pub(crate) fn new(file: &Path, mut list: Vec<ConfigError>) -> Self {
        list.sort_by_key(|fault| fault.position);
        Self { file: file.to_owned(), list }
    }

    #[must_use]
    pub(crate) fn unreadable(file: &Path, problem: String) -> Self {
        Self::new(file, vec![ConfigError { position: None, field: String::new(), problem, found: None }])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.list.iter().take(PRINTED).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.file.display())?;
            if let Some(position) = fault.position {
                write!(f, "{position}:")?;
            }
            if !fault.field.is_empty() {
                write!(f, " {}:", fault.field)?;
            }
            write!(f, " {}", fault.problem)?;
            if let Some(found) = &fault.found {
                write!(f, "; found {found}")?;
            }
        }
        match self.list.len().saturating_sub(PRINTED) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more errors"),
        }
    }
}

impl std::error::Error for ConfigErrors {}

/// Returns the path of the field `key` in `parent`. A key with dots or spaces is quoted.
pub(crate) fn child_path(parent: &str, key: &str) -> String {
    let plain =
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let key = if plain { key.to_owned() } else { format!("{:?}", truncate(key)) };
    if parent.is_empty() { key } else { format!("{parent}.{key}") }
}

/// Cuts a text to one line of a terminal.
pub(crate) fn truncate(text: &str) -> String {
    const LENGTH: usize = 80;
    if text.chars().count() <= LENGTH {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(LENGTH).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: usize, field: &str, found: Option<&str>) -> ConfigError {
        let position = Some(Position { line, column: 3 });
        ConfigError {
            position,
            field: field.into(),
            problem: "must be right".into(),
            found: found.map(Into::into),
        }
    }

    #[test]
    fn faults_are_printed_in_the_order_of_the_file() {
        let faults = ConfigErrors::new(
            Path::new("dam.yaml"),
            vec![fault(9, "limits[2].rate", Some("\"ten\"")), fault(2, "listen", None)],
        );
        assert_eq!(
            faults.to_string(),
            "dam.yaml:2:3: listen: must be right\ndam.yaml:9:3: limits[2].rate: must be right; found \"ten\""
        );
    }

    #[test]
    fn thousands_of_faults_are_cut_short() {
        let faults = ConfigErrors::new(Path::new("f"), vec![fault(1, "x", None); 2000]);
        assert_eq!(faults.to_string().lines().count(), 101);
        assert!(faults.to_string().ends_with("and 1900 more errors"));
    }

    #[test]
    fn unusual_keys_are_quoted() {
        assert_eq!(
            child_path("workers.static[0].headers", "x-api-key"),
            "workers.static[0].headers.x-api-key"
        );
        assert_eq!(child_path("", "a.b c"), "\"a.b c\"");
    }
}
