//! A settings file as a tree whose nodes know where they stand.

use super::fault::Position;

/// A node of the file.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Where its first character stands.
    pub(crate) at: Position,
    /// What it is.
    pub(crate) kind: NodeKind,
}

impl Node {
    /// What a file without a document says.
    pub(crate) fn nothing() -> Self {
        Self { at: Position::START, kind: NodeKind::Map(Vec::new()) }
    }
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum NodeKind {
    /// A value.
    Scalar(Scalar),
    /// `[a, b]`, or lines that begin with a dash.
    List(Vec<Node>),
    /// `{a: 1}`, or lines of `key: value`; keys are unique.
    Map(Vec<MapEntry>),
    /// Already reported as a fault: whoever meets it says nothing more.
    Broken,
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(crate) struct MapEntry {
    /// The key.
    pub(crate) key: String,
    /// Where the key stands.
    pub(crate) at: Position,
    /// Its value.
    pub(crate) value: Node,
}

/// A value that is neither a list nor a map.
#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    /// The text, variables replaced.
    pub(crate) text: String,
    /// As it is written in the file, variables and all: this is what faults show.
    pub(crate) written: String,
    /// What the text says.
    pub(crate) plain: Plain,
    /// The whole text came from one variable: it is text as well when text is asked for.
    pub(crate) from_variable: bool,
}

/// What an unquoted text says, by the core schema of YAML 1.2.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Plain {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Another number; never infinite, never NaN.
    Float(f64),
    /// Anything else.
    Text,
}

impl Plain {
    /// Reads an unquoted text.
    pub(crate) fn of(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Null,
            "true" | "True" | "TRUE" => return Self::Bool(true),
            "false" | "False" | "FALSE" => return Self::Bool(false),
            _ => {}
        }
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        // Only what begins like a number may be one: Rust would also read `inf` and `nan`.
        if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
            return Self::Text;
        }
        let radix = |prefix: &str, radix| {
            text.strip_prefix(prefix)
                .filter(|rest| !rest.starts_with(['+', '-']))
                .and_then(|rest| i128::from_str_radix(rest, radix).ok())
        };
        if let Some(int) = radix("0x", 16).or_else(|| radix("0o", 8)).or_else(|| text.parse().ok()) {
            return Self::Int(int);
        }
        match text.parse::<f64>() {
            Ok(float) if float.is_finite() => Self::Float(float),
            _ => Self::Text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_texts_are_typed_by_the_core_schema() {
        for (text, plain) in [
            ("", Plain::Null),
            ("~", Plain::Null),
            ("true", Plain::Bool(true)),
            ("-12", Plain::Int(-12)),
            ("0x1f", Plain::Int(31)),
            ("0o17", Plain::Int(15)),
            ("0.5", Plain::Float(0.5)),
            ("1e3", Plain::Float(1000.0)),
            ("yes", Plain::Text),
            ("1m", Plain::Text),
            ("inf", Plain::Text),
            (".nan", Plain::Text),
            ("1e999", Plain::Text),
            ("0x-1", Plain::Text),
        ] {
            assert_eq!(Plain::of(text), plain, "{text}");
        }
    }
}
