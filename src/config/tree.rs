//! A settings file as a tree of nodes with positions.

use super::error::Position;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Position of its first character.
    pub(crate) at: Position,
    pub(crate) kind: NodeKind,
}

impl Node {
    /// Returns the node of an empty file.
    pub(crate) fn nothing() -> Self {
        Self { at: Position::START, kind: NodeKind::Map(Vec::new()) }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum NodeKind {
    /// A value that is neither a list nor a map.
    Scalar(Scalar),
    /// `[a, b]`, or lines that start with a dash.
    List(Vec<Node>),
    /// `{a: 1}`, or lines of `key: value`; keys are unique.
    Map(Vec<MapEntry>),
    /// An error that is already reported: later steps say nothing more.
    Broken,
}

#[derive(Clone, Debug)]
pub(crate) struct MapEntry {
    pub(crate) key: String,
    pub(crate) at: Position,
    pub(crate) value: Node,
}

/// A value that is neither a list nor a map.
#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    /// Text, with variables replaced.
    pub(crate) text: String,
    /// Text as written in the file, with `${NAME}`: this is what errors show.
    pub(crate) written: String,
    /// Type and value of the text.
    pub(crate) plain: Plain,
    /// `true` if one variable is the whole text. Then it is valid as a string too.
    pub(crate) from_variable: bool,
}

/// An unquoted text's type and value, by the core schema of YAML 1.2.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Plain {
    /// Empty, `~` or `null`.
    Null,
    Bool(bool),
    Int(i128),
    /// Any other number; never infinite, never NaN.
    Float(f64),
    Text,
}

impl Plain {
    pub(crate) fn of(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Null,
            "true" | "True" | "TRUE" => return Self::Bool(true),
            "false" | "False" | "FALSE" => return Self::Bool(false),
            _ => {}
        }
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        // Only a text that starts like a number may be one: Rust also parses `inf` and `nan`.
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
