//! Replaces `${NAME}` in values, after parsing: a variable's content is never read as YAML, so a
//! `#` or a line break in a secret can neither truncate it nor add settings.
//!
//! A value that consists of one variable is typed like unquoted text, so that numbers and booleans
//! can come from the environment. `$${` stands for a plain `${`. In the user info of a URL a
//! variable's content is percent-encoded, so that a password may contain any characters.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::error::{ConfigError, child_path};
use super::tree::{Node, NodeKind, Plain, Scalar};

/// Maximum number of bytes that variables add: far more than settings need, little for any machine.
const ADDED: usize = 1 << 20;

/// Replaces every variable in `node`. An unset variable is an error, and an empty one if the value
/// consists of it alone.
pub(crate) fn substitute(
    node: &mut Node,
    environment: &dyn Fn(&str) -> Option<String>,
    faults: &mut Vec<ConfigError>,
) {
    Substitution { environment, faults, left: ADDED }.walk(node, "");
}

struct Substitution<'a> {
    environment: &'a dyn Fn(&str) -> Option<String>,
    faults: &'a mut Vec<ConfigError>,
    left: usize,
}

impl Substitution<'_> {
    fn walk(&mut self, node: &mut Node, field: &str) {
        match &mut node.kind {
            NodeKind::Broken => {}
            NodeKind::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.walk(item, &format!("{field}[{index}]"));
                }
            }
            NodeKind::Map(entries) => {
                for entry in entries {
                    self.walk(&mut entry.value, &child_path(field, &entry.key));
                }
            }
            NodeKind::Scalar(scalar) => match self.expand(scalar) {
                Ok(()) => {}
                Err(problem) => {
                    self.faults.push(ConfigError {
                        position: Some(node.at),
                        field: field.to_owned(),
                        problem,
                        found: None,
                    });
                    node.kind = NodeKind::Broken;
                }
            },
        }
    }

    fn expand(&mut self, scalar: &mut Scalar) -> Result<(), String> {
        if !scalar.text.contains("${") {
            return Ok(());
        }
        let mut text = String::new();
        let (mut rest, mut whole) = (scalar.written.as_str(), false);
        while let Some(start) = rest.find("${") {
            let (before, from) = rest.split_at(start);
            let after = from.get(2..).unwrap_or_default();
            if let Some(before) = before.strip_suffix('$') {
                text.push_str(before);
                text.push_str("${");
                rest = after;
                continue;
            }
            let (name, tail) = after
                .split_once('}')
                .ok_or("a variable is written `${NAME}`; for a literal `${` write `$${`")?;
            if !is_name(name) {
                let problem = "a variable name has letters, digits and `_`, and no digit first: `${NAME}`; for a literal \
                     `${` write `$${`";
                return Err(problem.into());
            }
            let value =
                (self.environment)(name).ok_or_else(|| format!("the variable `{name}` is not set"))?;
            self.left = self
                .left
                .checked_sub(value.len())
                .ok_or_else(|| format!("the variables add more than {ADDED} bytes"))?;
            whole = rest.len() == scalar.written.len() && before.is_empty() && tail.is_empty();
            if whole && value.is_empty() {
                return Err(format!("the variable `{name}` is empty"));
            }
            text.push_str(before);
            if is_user_info(&text, tail) {
                text.extend(utf8_percent_encode(&value, NON_ALPHANUMERIC));
            } else {
                text.push_str(&value);
            }
            rest = tail;
        }
        text.push_str(rest);
        scalar.plain = if whole { Plain::of(&text) } else { Plain::Text };
        scalar.from_variable = whole;
        scalar.text = text;
        Ok(())
    }
}

/// Returns `true` if the text between `before` and `after` is in a URL's user info, as written in
/// the settings: after the scheme and before an `@`, with no end of the authority between. Contents
/// of earlier variables are encoded there, so they contain neither.
fn is_user_info(before: &str, after: &str) -> bool {
    let ends = |text: &str| text.contains(['/', '?', '#', ' ']);
    let begun = before.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty()
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte))
            && !ends(rest)
            && !rest.contains('@')
    });
    begun && after.rsplit_once('@').is_some_and(|(rest, _)| !ends(rest))
}

fn is_name(name: &str) -> bool {
    let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    starts && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;

    fn value(text: &str) -> Result<Scalar, String> {
        let mut faults = Vec::new();
        let mut node = yaml::read(text, &mut faults).unwrap();
        let environment = |name: &str| match name {
            "PORT" => Some("8080".to_owned()),
            "EMPTY" => Some(String::new()),
            "PASSWORD" => Some("p@s:s/#?%2F${PORT}".to_owned()),
            "URL" => Some("redis://:p%2Fs@h".to_owned()),
            "NESTED" => Some("${PORT} # not a comment".to_owned()),
            "HUGE" => Some("x".repeat(ADDED)),
            _ => None,
        };
        substitute(&mut node, &environment, &mut faults);
        match node.kind {
            NodeKind::Scalar(scalar) => Ok(scalar),
            _ => Err(faults.remove(0).problem),
        }
    }

    #[test]
    fn a_whole_variable_is_typed_and_a_part_is_text() {
        let whole = value("\"${PORT}\"").unwrap();
        assert_eq!((whole.text.as_str(), whole.plain, whole.from_variable), ("8080", Plain::Int(8080), true));
        let part = value("host:${PORT}").unwrap();
        assert_eq!((part.text.as_str(), part.plain, part.from_variable), ("host:8080", Plain::Text, false));
        assert_eq!(part.written, "host:${PORT}");
    }

    #[test]
    fn values_are_not_expanded_again_and_never_read_as_yaml() {
        assert_eq!(value("${NESTED}").unwrap().text, "${PORT} # not a comment");
        assert_eq!(value("$${PORT} ${PORT}").unwrap().text, "${PORT} 8080");
        assert_eq!(value("a${EMPTY}b").unwrap().text, "ab");
        for several in ["${PORT}${PORT}", "${EMPTY}${PORT}", "${PORT}${EMPTY}"] {
            let several = value(several).unwrap();
            assert_eq!((several.plain, several.from_variable), (Plain::Text, false), "{}", several.written);
        }
        assert_eq!(value("${EMPTY}${EMPTY}").unwrap().text, "");
    }

    #[test]
    fn in_the_user_info_of_a_url_a_value_is_taken_as_it_is() {
        let encoded = "p%40s%3As%2F%23%3F%252F%24%7BPORT%7D";
        for (written, text) in [
            ("redis://:${PASSWORD}@h:${PORT}/0", format!("redis://:{encoded}@h:8080/0")),
            ("rediss://${PASSWORD}:${PASSWORD}@h", format!("rediss://{encoded}:{encoded}@h")),
            ("redis://u${PASSWORD}@${PORT}@h", format!("redis://u{encoded}@8080@h")),
            ("${URL}", "redis://:p%2Fs@h".to_owned()),
            ("https://h/${PASSWORD}", "https://h/p@s:s/#?%2F${PORT}".to_owned()),
            ("https://h/a${PASSWORD}@b", "https://h/ap@s:s/#?%2F${PORT}@b".to_owned()),
            ("https://h?a=${PORT}", "https://h?a=8080".to_owned()),
            ("a ${PASSWORD}@b", "a p@s:s/#?%2F${PORT}@b".to_owned()),
        ] {
            assert_eq!(value(&format!("\"{written}\"")).unwrap().text, text, "{written}");
        }
    }

    #[test]
    fn what_cannot_be_replaced_is_a_fault() {
        for (text, words) in [
            ("${NONE}", "`NONE` is not set"),
            ("${EMPTY}", "`EMPTY` is empty"),
            ("${PORT", "written `${NAME}`"),
            ("\"${A B}\"", "letters, digits"),
            ("${HUGE}${HUGE}", "add more than"),
        ] {
            let problem = value(text).unwrap_err();
            assert!(problem.contains(words), "{text}: {problem}");
        }
    }
}
